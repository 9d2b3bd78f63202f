r"""Runs the teacher over masked records and stores its most probable words.

  python extract_teacher_labels_truncated.py \
    --bert_config_file teacher/bert_config.json \
    --init_checkpoint teacher/bert_model.ckpt \
    --input_file data/wiki_tfrecord_0.tfrecord \
    --output_file data/wiki_distill_0.tfrecord \
    --truncation_factor 10

The output holds the records of the input, in order, each with the teacher's
truncation_factor most probable words for every masked word and their
probabilities. A run that was stopped goes on where it was when the same
command is given again.

On many GPUs each process labels a share of the records on its own:

  mpirun -np 2 -H localhost:2 python extract_teacher_labels_truncated.py ...

gives data/wiki_distill_0-00000-of-00002.tfrecord and so on.
"""

import os

if __name__ == "__main__":  # TensorFlow reads this once, while it is imported.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from concurrent import futures
import time
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

from absl import flags
from absl import logging
import numpy as np
import tensorflow as tf
import tqdm

import command_line
import distillation
import modeling
import records

tf1 = tf.compat.v1
FLAGS = flags.FLAGS

_STAGE = "extract_teacher_labels_truncated"
_REQUIRED_FLAGS = ("bert_config_file", "input_file", "output_file",
                   "init_checkpoint")
# Flags that shape the labels.
_LABEL_FLAGS = ("max_seq_length", "max_predictions_per_seq",
                "truncation_factor", "temperature", "tail_samples",
                "precision", "random_seed")
# Batches among which sequences are sorted by length; progress is kept by
# windows of so many batches.
_WINDOW_BATCHES = 16
# On GPUs lengths are multiples of this: odd sizes are slow there, and XLA
# compiles every size anew.
_GPU_LENGTH_MULTIPLE = 16
# What a teacher should find of the masked words; BERT-Base finds over 50%.
_SUSPICIOUS_ACCURACY = 0.2
# Environment variables in which mpirun and horovodrun tell the world's size.
_LAUNCHER_SIZES = ("OMPI_COMM_WORLD_SIZE", "HOROVOD_SIZE")


def define_flags() -> None:
  """Defines the flags of this stage."""
  flags.DEFINE_string(
      "bert_config_file", None,
      "Config of the teacher, a JSON file like BERT's bert_config.json.")
  flags.DEFINE_string(
      "input_file", None,
      "Records of multifile_create_pretraining_data.py: paths and patterns, "
      "separated by commas.")
  flags.DEFINE_string("output_file", None, "Labelled records to write.")
  flags.DEFINE_string(
      "init_checkpoint", None,
      "Checkpoint of the teacher, without `.index`; must hold every variable.")
  flags.DEFINE_integer(
      "truncation_factor", 10,
      "K, how many words of the teacher to store for each masked word.",
      lower_bound=1)
  command_line.define_record_lengths()
  flags.DEFINE_integer(
      "batch_size", 32, "Sequences that the teacher reads at once.",
      lower_bound=1)
  flags.DEFINE_float(
      "temperature", 1.0,
      "T: the probabilities are those of softmax(z / T). The trainers want "
      "the same.", lower_bound=1e-3)
  flags.DEFINE_integer(
      "tail_samples", 0,
      "M: of the K stored words, K - M are the most probable ones and M are "
      "drawn from all others, so that the student's loss is unbiased.",
      lower_bound=0)
  flags.DEFINE_integer(
      "random_seed", 12345, "Seed of the draws.", lower_bound=0)
  flags.DEFINE_enum(
      "precision", "fp32", modeling.PRECISIONS,
      "Arithmetic of the teacher: bf16 is for CPUs that have it, fp16 for "
      "GPUs. The probabilities are computed in float32 in any case.")
  flags.DEFINE_bool("use_xla", False, "Whether to compile with XLA, on a GPU.")
  flags.DEFINE_bool(
      "overwrite", False,
      "Whether to replace an output that was made or begun in another way.")


# --- The teacher -------------------------------------------------------------


class LabelOptions(NamedTuple):
  """What is computed for each masked word, and how.

  Attributes:
    truncation_factor: K.
    temperature: T.
    tail_samples: M.
    random_seed: of the draws.
    precision: fp32, bf16 or fp16.
    use_xla: whether to compile.
    batch_size: sequences that are read at once.
  """
  truncation_factor: int
  temperature: float = 1.0
  tail_samples: int = 0
  random_seed: int = 0
  precision: str = "fp32"
  use_xla: bool = False
  batch_size: int = 32


class Teacher:
  """A frozen teacher in a session of its own.

  Attributes:
    seconds: spent in computing so far.
  """

  def __init__(self, config: modeling.BertConfig, checkpoint: str,
               options: LabelOptions, gpu: Optional[int] = None):
    """Builds and restores the teacher.

    Args:
      config: its size.
      checkpoint: its variables.
      options: what to compute.
      gpu: which GPU to use; None leaves the choice to TensorFlow.
    """
    self.seconds = 0.0
    self._options = options
    self._has_gpu = bool(tf.config.list_physical_devices("GPU"))
    modeling.warn_of_device(options.precision, options.use_xla)
    session_config = modeling.session_config(
        options.precision, options.use_xla, gpu)
    with tf.Graph().as_default() as graph:
      inputs, outputs = _teacher_graph(config, options)
      modeling.restore(checkpoint)
      # Constants are converted once, variables at every step.
      with tf1.Session() as session:
        session.run(tf1.global_variables_initializer())
        graph_def = tf1.graph_util.convert_variables_to_constants(
            session, graph.as_graph_def(), [output.op.name
                                            for output in outputs])
    with tf.Graph().as_default() as graph:
      names = [tensor.name for tensor in (*inputs.values(), *outputs)]
      tensors = tf.import_graph_def(graph_def, return_elements=names, name="")
      self._inputs = dict(zip(inputs, tensors))
      self._outputs = tensors[len(inputs):]
      self._session = tf1.Session(graph=graph, config=session_config)

  def label(self, features: Dict[str, np.ndarray], first_record: int
           ) -> Tuple[np.ndarray, np.ndarray]:
    """Labels the sequences of a window, in batches of similar length.

    Args:
      features: [N, S] and [N, P] arrays by feature name.
      first_record: index of the first sequence among all records.

    Returns:
      Probabilities float32 [N, P, K] and indices int32 [N, P, K].
    """
    options = self._options
    num_records, num_slots = features[records.MASKED_LM_IDS].shape
    is_real = features[records.MASKED_LM_WEIGHTS] > 0
    shape = (num_records, num_slots, options.truncation_factor)
    probabilities, indices = np.zeros(shape, "f"), np.zeros(shape, np.int32)
    draws = np.stack([_draws(options, first_record + i, num_slots)
                      for i in range(num_records)])
    lengths = features[records.INPUT_MASK].sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    for start in range(0, num_records, options.batch_size):
      rows = order[start:start + options.batch_size]
      slots = is_real[rows]
      if not slots.any():
        continue
      batch = self._trim(features, rows, int(lengths[rows].max()))
      # XLA compiles for each number of slots, so it gets all of them.
      wanted = np.ones_like(slots) if options.use_xla else slots
      batch["is_wanted"] = wanted
      if options.tail_samples:
        batch["draws"] = draws[rows][wanted]
      begin = time.perf_counter()
      found = self._session.run(self._outputs, {
          self._inputs[name]: values for name, values in batch.items()})
      self.seconds += time.perf_counter() - begin
      places = rows[np.nonzero(slots)[0]], np.nonzero(slots)[1]
      probabilities[places], indices[places] = (
          values[slots[wanted]] for values in found)
    return probabilities, indices

  def _trim(self, features: Dict[str, np.ndarray], rows: np.ndarray,
            length: int) -> Dict[str, np.ndarray]:
    """Returns the inputs of some sequences, without needless padding."""
    if self._has_gpu:
      length += -length % _GPU_LENGTH_MULTIPLE
    batch = {name: features[name][rows][:, :length] for name in (
        records.INPUT_IDS, records.INPUT_MASK, records.SEGMENT_IDS)}
    batch[records.MASKED_LM_POSITIONS] = (
        features[records.MASKED_LM_POSITIONS][rows])
    return batch


def _teacher_graph(config: modeling.BertConfig, options: LabelOptions):
  """Builds the teacher's graph.

  Returns:
    Placeholders by name, and the labels of the wanted slots.
  """
  inputs = {name: tf1.placeholder(tf.int32, [None, None], name=name)
            for name in (records.INPUT_IDS, records.INPUT_MASK,
                         records.SEGMENT_IDS, records.MASKED_LM_POSITIONS)}
  inputs["is_wanted"] = tf1.placeholder(tf.bool, [None, None])
  if options.tail_samples:
    inputs["draws"] = tf1.placeholder(tf.float32, [None, options.tail_samples])
  logits = modeling.real_masked_lm_logits(
      config, inputs[records.INPUT_IDS], inputs[records.INPUT_MASK],
      inputs[records.SEGMENT_IDS], inputs[records.MASKED_LM_POSITIONS],
      inputs["is_wanted"])
  labels = distillation.truncate(
      logits, options.truncation_factor, options.temperature,
      inputs["draws"] if options.tail_samples else None)
  return inputs, list(labels)


def _draws(options: LabelOptions, record: int, num_slots: int) -> np.ndarray:
  """Draws the uniform numbers of one record, float32 [P, M]."""
  if not options.tail_samples:
    return np.empty((num_slots, 0), "f")
  generator = np.random.default_rng([options.random_seed, record])
  # Of 23 bits, so that no product with a mass is rounded up to that mass.
  draws = generator.integers(0, 1 << 23, (num_slots, options.tail_samples))
  return (draws / (1 << 23)).astype("f")


# --- Records in, records out -------------------------------------------------


class Share(NamedTuple):
  """The records that one process labels: from `first` to before `last`."""
  first: int
  last: int


def windows(files: List[str], shape: records.RecordShape, share: Share,
            size: int) -> Iterator[Tuple[int, List[bytes],
                                         Dict[str, np.ndarray]]]:
  """Reads records in windows, ahead of their use.

  Args:
    files: record files.
    shape: lengths of the records, without labels.
    share: which records.
    size: records in a window.

  Yields:
    The index of the first record, the serialized records, and their features.

  Raises:
    ValueError: a file is damaged.
  """
  dataset = tf.data.TFRecordDataset(files).skip(share.first)
  dataset = dataset.take(share.last - share.first).batch(size)
  dataset = dataset.map(
      lambda serialized: (serialized, records.decode(serialized, shape)))
  first = share.first
  with records.errors_of_records("input_file"):
    for serialized, features in dataset.prefetch(2).as_numpy_iterator():
      yield first, serialized, features
      first += len(serialized)


class Report:
  """What is said of the labels at the end."""

  def __init__(self, num_head: int):
    """Counts nothing yet.

    Args:
      num_head: how many of the stored entries are the most probable words.
    """
    self._num_head = num_head
    self._masses = []
    self._hits = 0
    self._start = time.perf_counter()

  def add(self, features: Dict[str, np.ndarray], probabilities: np.ndarray,
          indices: np.ndarray) -> None:
    """Counts the labels of a window."""
    is_real = features[records.MASKED_LM_WEIGHTS] > 0
    self._masses.append(
        probabilities[is_real, :self._num_head].sum(axis=-1))
    self._hits += int((indices[is_real, 0]
                       == features[records.MASKED_LM_IDS][is_real]).sum())

  def log(self, teacher: Teacher, num_records: int, path: str) -> None:
    """Logs mass, accuracy, speed and size; warns of an unlikely teacher."""
    if not sum(map(len, self._masses)):
      return  # Nothing was left to label, or no word is masked.
    masses = np.concatenate(self._masses)
    accuracy = self._hits / len(masses)
    seconds = time.perf_counter() - self._start
    logging.info(
        "%d sequences at %.1f a second, %.0f%% of the time in the teacher. The "
        "%d most probable words hold %.1f%% of the mass, and over %.1f%% for "
        "95%% of the masked words. The teacher finds %.1f%% of them. A "
        "sequence takes %.0f bytes.", num_records, num_records / seconds,
        100 * teacher.seconds / seconds, self._num_head, 100 * masses.mean(),
        100 * np.quantile(masses, 0.05), 100 * accuracy,
        os.path.getsize(path) / records.count_records(path, "output_file"))
    if accuracy < _SUSPICIOUS_ACCURACY:
      logging.warning(
          "The teacher finds only %.1f%% of the masked words: are the records "
          "of its vocabulary and case, and is --init_checkpoint a pre-trained "
          "one?", 100 * accuracy)


def label_file(teacher: Teacher, options: LabelOptions, files: List[str],
               shape: records.RecordShape, share: Share, output_file: str,
               manifest: records.Manifest, overwrite: bool) -> None:
  """Labels a share of the records, from where an earlier run stopped.

  Args:
    teacher: labels them.
    options: of the teacher.
    files: record files.
    shape: lengths of the records, without labels.
    share: which records.
    output_file: labelled records to write.
    manifest: what makes them.
    overwrite: whether to start afresh.

  Raises:
    ValueError: the output was begun in another way, or a file is damaged.
  """
  progress = None
  if not overwrite:
    progress = records.read_progress(output_file, manifest)
  done = progress.num_records if progress else 0
  if done:
    logging.info("Going on behind record %d of %s.", done, output_file)
  report = Report(options.truncation_factor - options.tail_samples)
  size = options.batch_size * _WINDOW_BATCHES
  with records.RecordWriter(output_file, progress) as writer, \
      futures.ThreadPoolExecutor(1) as background, \
      tqdm.tqdm(total=share.last - share.first, initial=done, disable=None,
                unit=" sequences") as bar:

    def write(serialized, probabilities, indices):
      for record in records.add_labels(serialized, probabilities, indices):
        writer.write(record)
      writer.save_progress(manifest)

    written = None
    for first, serialized, features in windows(
        files, shape, share._replace(first=share.first + done), size):
      probabilities, indices = teacher.label(features, first)
      report.add(features, probabilities, indices)
      # One window is written while the next one is labelled.
      if written:
        written.result()
      written = background.submit(write, serialized, probabilities, indices)
      bar.update(len(serialized))
    if written:
      written.result()
    if writer.num_records != share.last - share.first:
      raise ValueError("--input_file holds other records than before; do not "
                       "change it during a run, and start again")
    writer.commit(manifest)
  report.log(teacher, writer.num_records - done, output_file)


def part_path(path: str, rank: int, size: int) -> str:
  """Returns the name of one process's part; names sort by their records."""
  stem, extension = os.path.splitext(path)
  return "{}-{:05d}-of-{:05d}{}".format(stem, rank, size, extension)


# --- The run -----------------------------------------------------------------


def main() -> None:
  rank, size, gpu = 0, 1, None
  if any(int(os.environ.get(name, 1)) > 1 for name in _LAUNCHER_SIZES):
    import horovod.tensorflow as hvd  # pylint: disable=import-outside-toplevel
    hvd.init()
    rank, size = hvd.rank(), hvd.size()
    gpu = modeling.choose_gpu(hvd.local_rank())
  options = LabelOptions(*(FLAGS[name].value for name in LabelOptions._fields))
  config = modeling.BertConfig.from_json_file(FLAGS.bert_config_file)
  config.check_length(FLAGS.max_seq_length)
  _check_options(options, config)
  shape = records.RecordShape(FLAGS.max_seq_length,
                              FLAGS.max_predictions_per_seq)
  files = records.find_files(FLAGS.input_file, "input_file")
  output_file = FLAGS.output_file
  if size > 1:
    output_file = part_path(output_file, rank, size)
  if any(os.path.realpath(path) == os.path.realpath(output_file)
         for path in files):
    raise ValueError("--output_file={} is one of the input files; choose "
                     "another name".format(output_file))
  records.check_records(files, "input_file", shape, config.vocab_size)
  match = modeling.match_checkpoint(config, FLAGS.init_checkpoint)
  if match.fresh:
    raise ValueError(
        "--init_checkpoint: {} lacks {} of the teacher's variables, such as "
        "{}; a teacher with random weights would write labels: use a "
        "pre-trained checkpoint with its masked-LM head".format(
            FLAGS.init_checkpoint, len(match.fresh), match.fresh[0]))
  manifest = records.Manifest(
      stage=_STAGE, flags={name: FLAGS[name].value for name in _LABEL_FLAGS},
      fingerprints={
          "bert_config_file": records.file_fingerprint(FLAGS.bert_config_file),
          "init_checkpoint": records.checkpoint_fingerprint(
              FLAGS.init_checkpoint)},
      sources=_sources(files),
      vocab_size=config.vocab_size)
  if records.is_finished(output_file, manifest, FLAGS.overwrite):
    return
  total = sum(records.count_records(path, "input_file") for path in files)
  share = Share(total * rank // size, total * (rank + 1) // size)
  try:
    label_file(Teacher(config, FLAGS.init_checkpoint, options, gpu), options,
               files, shape, share, output_file, manifest, FLAGS.overwrite)
  except tf.errors.ResourceExhaustedError as error:
    raise ValueError(
        "memory ran out ({}): lower --batch_size={}; what is labelled is kept"
        .format(records.first_line(error), options.batch_size))
  except KeyboardInterrupt:
    raise KeyboardInterrupt(
        "what is labelled is kept: the same command goes on from here")


def _sources(files: List[str]) -> Dict[str, str]:
  """Returns what the manifest says of the input files.

  Raises:
    ValueError: two of them have one name.
  """
  sources = {}
  for path in files:
    name = os.path.basename(path)
    if name in sources:
      raise ValueError(
          "--input_file names two files {}, {} is one of them; the manifest "
          "tells files by name: rename one, or label them one by one".format(
              name, path))
    sources[name] = records.records_fingerprint(path)
  return sources


def _check_options(options: LabelOptions, config: modeling.BertConfig) -> None:
  """Raises ValueError where flags do not fit each other or the teacher."""
  if options.truncation_factor > config.vocab_size:
    raise ValueError(
        "--truncation_factor={} is over the vocab_size {} of the teacher; "
        "there are not so many words".format(
            options.truncation_factor, config.vocab_size))
  if options.tail_samples >= options.truncation_factor:
    raise ValueError(
        "--tail_samples={} must be less than --truncation_factor={}: the most "
        "probable words are stored too".format(
            options.tail_samples, options.truncation_factor))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=_REQUIRED_FLAGS)

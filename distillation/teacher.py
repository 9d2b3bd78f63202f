"""The frozen teacher that labels records.

Dimensions:
  N: sequences in a window, or in one call of the teacher
  S: tokens in a sequence
  P: slots for masked tokens in a sequence
  K: truncation_factor, entries stored for each slot
  M: tail_samples, entries among these that are a sample
  H: hidden_size of the teacher
"""

from concurrent import futures
import dataclasses
import time
from typing import Dict, List, Mapping, NamedTuple, Optional, Tuple

from absl import logging
import numpy as np
import tensorflow as tf
import tensorflow.compat.v1 as tf1
import tqdm

from distillation import devices
from distillation import inference
from distillation import losses
import modeling
from records import compact
from records import input_pipeline
from records import order
from records import schema
from records import tfrecord
from records.manifest import (
    count_records, Manifest, RecordWriter, TeacherFigures)
from util import files
from util.command_line import InputError

# Batches among which sequences are sorted by length; progress is kept by
# windows of so many batches.
_WINDOW_BATCHES = 16
# On GPUs and with XLA lengths are multiples of this: odd sizes are slow there,
# and XLA compiles every size once more.
_LENGTH_MULTIPLE = 16
# What a teacher should predict of the masked tokens; BERT-Base is over 50%.
_SUSPICIOUS_ACCURACY = 0.2
# Bins of the histogram of the stored mass: it is reported in three digits.
_MASS_BINS = 10000
# What is stored: entries of the distribution, or what gives all of it.
LABEL_FORMATS = ("topk", "hidden")


@dataclasses.dataclass(frozen=True)
class LabelOptions:
  """What is computed for each masked token, and how.

  Attributes:
    label_format: one of `LABEL_FORMATS`; the four that follow are of topk.
    truncation_factor: K.
    temperature: T of softmax(z / T).
    tail_samples: M.
    random_seed: of the samples.
    batch_size: sequences that are read at once.
    device: where and in what precision.
  """
  label_format: str = "topk"
  truncation_factor: int = 10
  temperature: float = 1.0
  tail_samples: int = 0
  random_seed: int = 0
  batch_size: int = 32
  device: devices.DeviceOptions = devices.DeviceOptions()


class Labels(NamedTuple):
  """What the teacher says of the masked tokens of some sequences.

  Attributes:
    features: what is stored, by feature name: for topk float32 and int32
      [N, P, K], for hidden float16 [N, P, H].
    predictions: int32 [N, P], its most probable tokens.
    cross_entropies: float32 [N, P], minus the logarithms of the masked tokens'
      probabilities, at temperature 1.
  """
  features: Dict[str, np.ndarray]
  predictions: np.ndarray
  cross_entropies: np.ndarray


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
    self._config = config
    self._options = options
    self._has_gpu = devices.has_gpu()
    devices.report_device(options.device, gpu)
    with tf.Graph().as_default():
      self._inputs, self._outputs = _build_graph(config, options)
      self._session = inference.start_session(
          devices.session_config(options.device, gpu), checkpoint)

  def label(self, features: Mapping[str, np.ndarray], first_record: int
           ) -> Labels:
    """Labels the sequences of a window, in batches of similar length.

    Args:
      features: [N, S] and [N, P] arrays by feature name.
      first_record: index of the first sequence among all records.

    Returns:
      The labels; zeros in the padding.

    Raises:
      InputError: hidden states are beyond float16.
    """
    options = self._options
    num_records, num_slots = features[schema.MASKED_LM_IDS].shape
    is_real = features[schema.MASKED_LM_WEIGHTS] > 0
    labels = [
        np.zeros([num_records, num_slots, *output.shape[1:]],
                 output.dtype.as_numpy_dtype) for output in self._outputs]
    offsets = np.stack([_offsets(options, first_record + i, num_slots)
                        for i in range(num_records)])
    lengths = features[schema.INPUT_MASK].sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    for start in range(0, num_records, options.batch_size):
      rows = order[start:start + options.batch_size]
      slots = is_real[rows]
      if not slots.any():
        continue
      batch = self._trim(features, rows, int(lengths[rows].max()))
      # XLA compiles for each number of slots, so it gets all of them.
      wanted = np.ones_like(slots) if options.device.use_xla else slots
      batch["slots"] = np.flatnonzero(wanted)
      batch[schema.MASKED_LM_IDS] = features[schema.MASKED_LM_IDS][rows][wanted]
      if options.tail_samples:
        batch["offsets"] = offsets[rows][wanted]
      begin = time.perf_counter()
      found = self._session.run(self._outputs, {
          self._inputs[name]: values for name, values in batch.items()})
      self.seconds += time.perf_counter() - begin
      positions = rows[np.nonzero(slots)[0]], np.nonzero(slots)[1]
      for values, batch_values in zip(labels, found):
        values[positions] = batch_values[slots[wanted]]
    *stored, predictions, cross_entropies = labels
    if not np.isfinite(stored[0]).all():
      raise InputError(
          "--init_checkpoint: the teacher's {} are NaN or infinite for some "
          "masked tokens: its training diverged, or its file is damaged{}; use "
          "another checkpoint".format(
              "hidden states" if options.label_format == "hidden"
              else "probabilities", "" if options.device.precision != "fp16"
              else ", or fp16 overflows (try --precision=bf16 or fp32)"))
    if options.label_format == "topk":
      return Labels(dict(zip(
          (schema.TEACHER_PROBABILITIES, schema.TEACHER_INDICES), stored)),
                    predictions, cross_entropies)
    hidden_states = stored[0].astype(np.float16)
    if not np.isfinite(hidden_states).all():
      raise InputError(
          "--label_format=hidden stores float16, and the teacher has hidden "
          "states beyond it: use --label_format=topk")
    return Labels({schema.TEACHER_HIDDEN_STATES: hidden_states}, predictions,
                  cross_entropies)

  def limits(self, shape: schema.RecordShape) -> Dict[str, int]:
    """Returns what the integers of records must stay below."""
    return schema.limits(
        shape, self._config.vocab_size, self._config.type_vocab_size)

  def _trim(self, features: Mapping[str, np.ndarray], rows: np.ndarray,
            length: int) -> Dict[str, np.ndarray]:
    """Returns the inputs of some sequences, without needless padding."""
    if self._has_gpu or self._options.device.use_xla:
      length += -length % _LENGTH_MULTIPLE
    batch = {name: features[name][rows][:, :length] for name in (
        schema.INPUT_IDS, schema.INPUT_MASK, schema.SEGMENT_IDS)}
    batch[schema.MASKED_LM_POSITIONS] = (
        features[schema.MASKED_LM_POSITIONS][rows])
    return batch


def _build_graph(config: modeling.BertConfig, options: LabelOptions
                ) -> Tuple[Dict[str, tf.Tensor], List[tf.Tensor]]:
  """Builds the teacher's graph.

  Returns:
    Placeholders by name, and of the wanted slots what is stored, the most
    probable tokens, and the cross entropies of the masked tokens.
  """
  inputs = {name: tf1.placeholder(tf.int32, [None, None], name=name)
            for name in (schema.INPUT_IDS, schema.INPUT_MASK,
                         schema.SEGMENT_IDS, schema.MASKED_LM_POSITIONS)}
  inputs["slots"] = tf1.placeholder(tf.int32, [None])
  masked_tokens = inputs[schema.MASKED_LM_IDS] = tf1.placeholder(
      tf.int32, [None])  # Of the wanted slots.
  if options.tail_samples:
    inputs["offsets"] = tf1.placeholder(tf.float64, [None])
  compute_type = devices.compute_type(options.device.precision)
  for_cpu = not devices.has_gpu()
  with inference.variables_of(compute_type):
    outputs = modeling.pretraining_logits(
        config, False, inputs[schema.INPUT_IDS], inputs[schema.INPUT_MASK],
        inputs[schema.SEGMENT_IDS], inputs[schema.MASKED_LM_POSITIONS],
        inputs["slots"], has_next_sentence=False, compute_type=compute_type,
        for_cpu=for_cpu)
  if options.label_format == "hidden":
    return inputs, [
        outputs.hidden_states,
        tf.argmax(outputs.masked_lm, axis=-1, output_type=tf.int32),
        tf.nn.sparse_softmax_cross_entropy_with_logits(
            masked_tokens, outputs.masked_lm)]
  labels = losses.truncate(
      outputs.masked_lm, options.truncation_factor, options.temperature,
      options.tail_samples, inputs.get("offsets"), for_cpu)
  # GPUs leave slices of int32 to the host.
  best = tf.gather(labels.indices, 0, axis=1)
  if options.temperature == 1.0:
    # What is known of the best token spares a pass over the vocabulary.
    best_scores, masked_scores = (
        tf.gather(outputs.masked_lm, tokens, batch_dims=1)
        for tokens in (best, masked_tokens))
    cross_entropies = (
        best_scores - masked_scores - tf.math.log(labels.probabilities[:, 0]))
  else:
    cross_entropies = tf.nn.sparse_softmax_cross_entropy_with_logits(
        masked_tokens, outputs.masked_lm)
  return inputs, [*labels, best, cross_entropies]


def _offsets(options: LabelOptions, record: int, num_slots: int) -> np.ndarray:
  """Draws what the samples of one record depend on, float64 [P]."""
  if not options.tail_samples:
    return np.empty(num_slots)
  generator = np.random.default_rng([options.random_seed, record])
  # Of 32 bits, so that the number of a tooth can be added without rounding.
  return generator.integers(0, 1 << 32, num_slots) / (1 << 32)


# --- Records in, records out -------------------------------------------------


class Share(NamedTuple):
  """The records that one process labels: from `first` to before `last`."""
  first: int
  last: int


class LabelStatistics:
  """Counts what is reported of the labels at the end, in a fixed memory.

  Attributes:
    figures: the teacher's own, those of earlier runs included.
  """

  def __init__(self, num_top: int = 0,
               figures: TeacherFigures = TeacherFigures()):
    """Counts nothing yet.

    Args:
      num_top: how many of the stored entries are the most probable tokens; 0
        where none are stored.
      figures: of the records that earlier runs have labelled.
    """
    self.figures = figures
    self._num_top = num_top
    self._num_tokens = 0
    self._histogram = np.zeros(_MASS_BINS, np.int64)
    self._mass = 0.0
    self._num_correct = 0
    self._start = time.perf_counter()

  def add(self, features: Mapping[str, np.ndarray], labels: Labels) -> None:
    """Counts the labels of a window."""
    is_real = features[schema.MASKED_LM_WEIGHTS] > 0
    num_tokens = int(is_real.sum())
    num_correct = int((labels.predictions[is_real] == features[
        schema.MASKED_LM_IDS][is_real]).sum())
    self._num_tokens += num_tokens
    self._num_correct += num_correct
    self.figures += TeacherFigures(
        len(is_real), num_tokens, num_correct, float(
            labels.cross_entropies[is_real].sum(dtype=np.float64)))
    if not self._num_top:
      return
    masses = labels.features[schema.TEACHER_PROBABILITIES][
        is_real, :self._num_top].sum(axis=-1)
    self._mass += masses.sum(dtype=np.float64)
    bins = np.minimum((masses * _MASS_BINS).astype(np.int64), _MASS_BINS - 1)
    self._histogram += np.bincount(bins, minlength=_MASS_BINS)

  @property
  def mean_mass(self) -> float:
    """Mean probability of the most probable tokens together."""
    return self._mass / self._num_tokens

  def mass_quantile(self, share: float) -> float:
    """Returns the mass that a share of the masked tokens stays below."""
    cumulated = np.concatenate([[0], np.cumsum(self._histogram)])
    edges = np.arange(_MASS_BINS + 1) / _MASS_BINS
    return float(np.interp(share * cumulated[-1], cumulated, edges))

  def log(self, teacher: Teacher, num_records: int, path: str) -> None:
    """Logs mass, accuracy, speed and size; warns of an unlikely teacher."""
    if not self._num_tokens:
      return  # Nothing was left to label, or no token is masked.
    accuracy = self._num_correct / self._num_tokens
    seconds = time.perf_counter() - self._start
    mass = ""
    if self._num_top:
      mass = (" The {} {:.1%} of the mass, and over {:.1%} for 95% of the "
              "masked tokens.".format(
                  "most probable token holds" if self._num_top == 1 else
                  "{} most probable tokens hold".format(self._num_top),
                  self.mean_mass, self.mass_quantile(0.05)))
    logging.info(
        "%d sequences at %.1f a second, %.0f%% of the time in the teacher.%s "
        "The teacher predicts %.1f%% of the masked tokens. A sequence takes "
        "%.0f bytes.", num_records, num_records / seconds,
        100 * teacher.seconds / seconds, mass, 100 * accuracy,
        files.size(path) / count_records(path, "output_file"))
    if accuracy < _SUSPICIOUS_ACCURACY:
      logging.warning(
          "The teacher predicts only %.1f%% of the masked tokens: are the "
          "records of its vocabulary and case, and is --init_checkpoint a "
          "pre-trained one?", 100 * accuracy)


def _labelled(window: input_pipeline.Window, labels: Labels,
              shape: schema.RecordShape, layout: Optional[schema.Layout]
             ) -> List[bytes]:
  """Returns the records of a window with labels, as a layout stores them."""
  if layout is None and shape.layouts == (None,):
    return tfrecord.add_features(
        window.serialized, compact.pack(labels.features, None))
  return tfrecord.encode(
      compact.pack({**window.features, **labels.features}, layout))


def _first_that_does_not_fit(features: Mapping[str, np.ndarray],
                             layout: Optional[schema.Layout]) -> int:
  """Returns which record of a window is the first that a layout cannot hold.

  That is 0 where each of them fits on its own.
  """
  for i in range(len(features[schema.INPUT_IDS])):
    try:
      compact.pack({name: values[i:i + 1]
                    for name, values in features.items()}, layout)
    except InputError:
      return i
  return 0


def label_file(teacher: Teacher, options: LabelOptions, corpus: order.Corpus,
               shape: schema.RecordShape, share: Share, output_file: str,
               layout: Optional[schema.Layout], manifest: Manifest,
               overwrite: bool) -> None:
  """Labels a share of the records, from where an earlier run stopped.

  Args:
    teacher: labels them.
    options: of the teacher.
    corpus: the record files.
    shape: of the records that are read, without labels.
    share: which records.
    output_file: labelled records to write.
    layout: of these; None for a list for each feature.
    manifest: what makes them.
    overwrite: whether to start from scratch where an earlier run was begun in
      another way.

  Raises:
    InputError: the output was begun in another way, is being written by
      another process, an input file is damaged, or the layout cannot hold one
      of its records.
  """
  size = options.batch_size * _WINDOW_BATCHES
  with RecordWriter(output_file, manifest, overwrite) as writer, \
      futures.ThreadPoolExecutor(1) as background:
    done = writer.num_records
    if done:
      logging.info("Resuming %s after record %d.", output_file, done)
    statistics = LabelStatistics(
        options.truncation_factor - options.tail_samples
        if options.label_format == "topk" else 0,
        TeacherFigures.of_manifest(writer.resumed))

    def write(window, labels, figures):
      try:
        records = _labelled(window, labels, shape, layout)
      except InputError as error:
        i = _first_that_does_not_fit(
            {**window.features, **labels.features}, layout)
        raise InputError("--input_file: {}: {}".format(
            order.path_of(corpus, window.first + i), error)) from None
      for record in records:
        writer.write(record)
      writer.save_progress(
          dataclasses.replace(manifest, teacher=figures._asdict()))

    written = None
    windows = input_pipeline.read_windows(
        corpus, "input_file", shape, share.first + done, share.last, size,
        teacher.limits(shape))
    with tqdm.tqdm(total=share.last - share.first, initial=done, disable=None,
                   unit=" sequences") as bar:
      try:
        for window in windows:
          labels = teacher.label(window.features, window.first)
          statistics.add(window.features, labels)
          # One window is written while the next one is labelled.
          if written:
            written.result()
          written = background.submit(
              write, window, labels, statistics.figures)
          bar.update(len(window.serialized))
      except input_pipeline.OutOfRangeError:
        # Its records are made again, so the labels of this file are of no use.
        background.shutdown()
        writer.discard()
        raise
    if written:
      written.result()
    if writer.num_records != share.last - share.first:
      raise InputError(
          "--input_file holds other records than before; do not change it "
          "during a run, and start again")
    writer.commit(dataclasses.replace(
        manifest, teacher=statistics.figures._asdict()))
  statistics.log(teacher, writer.num_records - done, output_file)

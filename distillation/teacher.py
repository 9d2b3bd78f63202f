"""Labels records with a frozen teacher, for stage IV's script.

Dimensions:
  N: sequences in a window
  B: sequences in a batch, one call of the teacher
  T: real slots of a batch
  S: tokens in a sequence
  P: slots for masked tokens in a sequence
  K: truncation_factor, entries stored for each slot
  M: tail_samples, sampled entries among the K
  H: hidden_size of the teacher
"""

import contextlib
import dataclasses
import time
from typing import (Dict, Generator, Iterator, List, Mapping, NamedTuple,
                    Optional, Sequence, Tuple)

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
from records.block_index import count_records
from records.manifest import Manifest, TeacherFigures, with_arithmetic
from records.record_writer import RecordWriter
from util import files
from util import streams
from util import threads
from util.command_line import InputError

# Batches in a window. Sequences are sorted by length within a window, and
# progress is saved after each window.
_WINDOW_BATCHES = 16
# Lengths are multiples of this on GPUs, where other lengths are slow, and with
# XLA, which compiles each length separately.
_LENGTH_MULTIPLE = 16
# Batches prepared ahead of the teacher.
_BATCHES_AHEAD = 2
# Approximate bytes of answers that are queued while a window is written; at
# least one answer is.
_ANSWER_BYTES = 64 << 20
# Records per call of the encoder: few enough for a core's cache.
_ENCODED_RECORDS = 256
# Accuracy of the teacher below which a warning is logged; BERT-Base is at 50%.
_SUSPICIOUS_ACCURACY = 0.2
# Bins of the histogram of the stored mass, enough for three digits.
_MASS_BINS = 10000
# K entries of the distribution, or the hidden states that give all of it.
LABEL_FORMATS = ("topk", "hidden")


@dataclasses.dataclass(frozen=True)
class LabelOptions:
  """Options of the labels and of their computation.

  Attributes:
    label_format: one of `LABEL_FORMATS`; the next four options are for topk.
    truncation_factor: K.
    temperature: T of softmax(z / T).
    tail_samples: M.
    random_seed: seed of the samples.
    batch_size: sequences in a batch.
    device: device and precision.
  """
  label_format: str = "topk"
  truncation_factor: int = 10
  temperature: float = 1.0
  tail_samples: int = 0
  random_seed: int = 0
  batch_size: int = 32
  device: devices.DeviceOptions = devices.DeviceOptions()


class Labels(NamedTuple):
  """Outputs of the teacher for the masked tokens of some sequences.

  Attributes:
    features: arrays to store, by feature name: float32 and int32 [N, P, K] for
      topk, float16 [N, P, H] for hidden.
    predictions: int32 [N, P], the most probable tokens.
    cross_entropies: float32 [N, P], negative log probabilities of the masked
      tokens at temperature 1, in nats.
  """
  features: Dict[str, np.ndarray]
  predictions: np.ndarray
  cross_entropies: np.ndarray


class LabelledWindow(NamedTuple):
  """A window of records and its labels."""
  window: input_pipeline.Window
  labels: Labels


class _Batch(NamedTuple):
  """A batch of sequences from one window.

  Attributes:
    window: the window.
    is_last: whether the batch is the last one of its window.
    rows: rows of the window, int64 [B].
    slots: which slots of these rows are real, bool [B, P].
    inputs: inputs of the teacher's graph; empty if no slot is real.
  """
  window: input_pipeline.Window
  is_last: bool
  rows: np.ndarray
  slots: np.ndarray
  inputs: Dict[str, np.ndarray]


class Teacher:
  """A frozen teacher with its own session.

  Attributes:
    seconds: time spent in the session so far.
  """

  def __init__(self, config: modeling.BertConfig, checkpoint: str,
               options: LabelOptions, gpu: Optional[int] = None):
    """Builds and restores the teacher.

    Args:
      config: config of the teacher.
      checkpoint: path of the teacher's checkpoint, without `.index`.
      options: labels to compute.
      gpu: index of the GPU to use; None leaves the choice to TensorFlow.
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
    """Labels the sequences of one window.

    Args:
      features: [N, S] and [N, P] arrays by feature name.
      first_record: index of the first sequence among all records.

    Returns:
      The labels, which are 0 in the padding.

    Raises:
      InputError: as for `label_windows`.
    """
    window = input_pipeline.Window(first_record, (), dict(features))
    num_slots = features[schema.MASKED_LM_IDS].shape[1]
    *_, labelled = self.label_windows(iter([window]), num_slots)
    assert labelled
    return labelled.labels

  def label_windows(self, windows: Iterator[input_pipeline.Window],
                    num_slots: int
                   ) -> Generator[Optional[LabelledWindow], None, None]:
    """Labels windows, in batches of sequences of similar length.

    One thread prepares batches and another thread runs the teacher, so that the
    teacher waits neither for its input nor for the calling thread.

    Args:
      windows: windows of records.
      num_slots: P.

    Yields:
      The labelled window after its last batch; None after every other batch.

    Raises:
      InputError: if the teacher's outputs are NaN, infinite or, for hidden
        states, beyond float16.
    """
    answer_bytes = self._options.batch_size * num_slots * sum(
        int(np.prod(output.shape[1:])) * output.dtype.size
        for output in self._outputs)
    answers = threads.ahead(
        self._answers(threads.ahead(self._batches(windows), _BATCHES_AHEAD)),
        min(_WINDOW_BATCHES, max(1, _ANSWER_BYTES // answer_bytes)))
    labels = None
    with contextlib.closing(answers):
      for batch, answer in answers:
        labels = labels or self._blank_labels(batch.window)
        if answer:
          self._put(answer, batch, labels)
        if not batch.is_last:
          yield None
          continue
        yield LabelledWindow(batch.window, labels)
        labels = None

  def limits(self, shape: schema.RecordShape) -> Dict[str, int]:
    """Returns the exclusive upper limit of each integer feature, by name."""
    return schema.limits(
        shape, self._config.vocab_size, self._config.type_vocab_size)

  def _batches(self, windows: Iterator[input_pipeline.Window]
              ) -> Generator[_Batch, None, None]:
    """Yields the batches of windows; sorts each window by length."""
    size = self._options.batch_size
    for window in windows:
      is_real = window.features[schema.MASKED_LM_WEIGHTS] > 0
      lengths = window.features[schema.INPUT_MASK].sum(axis=1)
      offsets = None
      if self._options.tail_samples:
        offsets = _offsets(self._options, window.first, *is_real.shape)
      order = np.argsort(lengths, kind="stable")
      for start in range(0, len(order), size):
        rows = order[start:start + size]
        slots = is_real[rows]
        yield _Batch(
            window, start + size >= len(order), rows, slots,
            self._inputs_of(window.features, rows, int(lengths[rows[-1]]),
                            slots, offsets))

  def _inputs_of(self, features: Mapping[str, np.ndarray], rows: np.ndarray,
                 length: int, slots: np.ndarray,
                 offsets: Optional[np.ndarray]) -> Dict[str, np.ndarray]:
    """Returns the graph's inputs for some rows, without needless padding.

    Args:
      features: features of the window.
      rows: rows of the window, int64 [B].
      length: length of the longest of these sequences.
      slots: which slots of these rows are real, bool [B, P].
      offsets: offsets of the window's samples, float64 [N, P]; None if there
        are no samples.

    Returns:
      Arrays by name; empty if no slot is real.
    """
    if not slots.any():
      return {}
    if self._options.device.use_xla:
      # XLA compiles for each number of slots, so the graph gets all slots.
      slots = np.ones_like(slots)
    if self._has_gpu or self._options.device.use_xla:
      length += -length % _LENGTH_MULTIPLE
    inputs = {name: features[name][:, :length].take(rows, axis=0) for name in (
        schema.INPUT_IDS, schema.INPUT_MASK, schema.SEGMENT_IDS)}
    inputs[schema.MASKED_LM_POSITIONS] = (
        features[schema.MASKED_LM_POSITIONS][rows])
    inputs["slots"] = np.flatnonzero(slots)
    inputs[schema.MASKED_LM_IDS] = features[schema.MASKED_LM_IDS][rows][slots]
    if offsets is not None:
      inputs["offsets"] = offsets[rows][slots]
    return inputs

  def _answers(self, batches: Generator[_Batch, None, None]
              ) -> Generator[Tuple[_Batch, List[np.ndarray]], None, None]:
    """Yields batches and the outputs of the graph; none without real slots."""
    with contextlib.closing(batches):
      for batch in batches:
        answer = []
        if batch.inputs:
          begin = time.perf_counter()
          answer = self._session.run(self._outputs, {
              self._inputs[name]: values
              for name, values in batch.inputs.items()})
          self.seconds += time.perf_counter() - begin
        yield batch._replace(inputs={}), answer

  def _blank_labels(self, window: input_pipeline.Window) -> Labels:
    """Returns labels of zeros for a window."""
    shape = window.features[schema.MASKED_LM_IDS].shape
    *stored, predictions, cross_entropies = (
        np.zeros([*shape, *output.shape[1:]], output.dtype.as_numpy_dtype)
        for output in self._outputs)
    names = ([schema.TEACHER_HIDDEN_STATES]
             if self._options.label_format == "hidden" else
             [schema.TEACHER_PROBABILITIES, schema.TEACHER_INDICES])
    return Labels(dict(zip(names, stored)), predictions, cross_entropies)

  def _put(self, answer: Sequence[np.ndarray], batch: _Batch,
           labels: Labels) -> None:
    """Copies the outputs for a batch into the labels of its window."""
    is_hidden = self._options.label_format == "hidden"
    if not np.isfinite(answer[0]).all():
      if is_hidden and not np.isnan(answer[0]).any():
        raise InputError(
            "--label_format=hidden stores float16, and the teacher has hidden "
            "states beyond float16: use --label_format=topk")
      raise InputError(
          "--init_checkpoint: the teacher's {} are NaN or infinite for some "
          "masked tokens: the teacher's training diverged, or the checkpoint "
          "is damaged{}; use another checkpoint".format(
              "hidden states" if is_hidden else "probabilities",
              "" if self._options.device.precision != "fp16"
              else ", or fp16 overflows (try --precision=bf16 or fp32)"))
    if self._options.device.use_xla:  # The answer includes the padding.
      answer = [values[batch.slots.ravel()] for values in answer]
    row, column = batch.slots.nonzero()
    for whole, values in zip((*labels.features.values(), *labels[1:]), answer):
      whole[batch.rows[row], column] = values


def _build_graph(config: modeling.BertConfig, options: LabelOptions
                ) -> Tuple[Dict[str, tf.Tensor], List[tf.Tensor]]:
  """Builds the teacher's graph.

  Returns:
    The placeholders by name. The outputs for the real slots: tensors to store,
    then the most probable tokens, int32 [T], and the cross entropies of the
    masked tokens, float32 [T].
  """
  inputs = {name: tf1.placeholder(tf.int32, [None, None], name=name)
            for name in (schema.INPUT_IDS, schema.INPUT_MASK,
                         schema.SEGMENT_IDS, schema.MASKED_LM_POSITIONS)}
  inputs["slots"] = tf1.placeholder(tf.int32, [None])
  masked_tokens = inputs[schema.MASKED_LM_IDS] = tf1.placeholder(
      tf.int32, [None])  # [T]
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
        tf.cast(outputs.hidden_states, tf.float16),
        tf.argmax(outputs.masked_lm, axis=-1, output_type=tf.int32),
        tf.nn.sparse_softmax_cross_entropy_with_logits(
            masked_tokens, outputs.masked_lm)]
  labels = losses.truncate(
      outputs.masked_lm, options.truncation_factor, options.temperature,
      options.tail_samples, inputs.get("offsets"), for_cpu)
  # Not a slice: GPUs leave slices of int32 to the host.
  best = tf.gather(labels.indices, 0, axis=1)
  if options.temperature == 1.0:
    # log p(masked) = log p(best) + z(masked) - z(best), without another pass
    # over the vocabulary.
    best_scores, masked_scores = (
        tf.gather(outputs.masked_lm, tokens, batch_dims=1)
        for tokens in (best, masked_tokens))
    cross_entropies = (
        best_scores - masked_scores - tf.math.log(labels.probabilities[:, 0]))
  else:
    cross_entropies = tf.nn.sparse_softmax_cross_entropy_with_logits(
        masked_tokens, outputs.masked_lm)
  return inputs, [*labels, best, cross_entropies]


def _offsets(options: LabelOptions, first_record: int, num_records: int,
             num_slots: int) -> np.ndarray:
  """Draws the offsets in [0, 1) of the tail samples, float64 [N, P]."""
  # 32 bits, so that adding the index of a sample does not round the offset.
  return streams.draw(
      options.random_seed, first_record, num_records, num_slots) / 2.0 ** 32


# --- Records in, records out -------------------------------------------------


class Share(NamedTuple):
  """The range of records that a process labels: `first` to `last` - 1."""
  first: int
  last: int


class LabelStatistics:
  """Accumulates statistics of the labels, in constant memory.

  Attributes:
    figures: figures of the teacher, including those of earlier runs.
  """

  def __init__(self, num_top: int = 0,
               figures: TeacherFigures = TeacherFigures()):
    """Starts with no labels.

    Args:
      num_top: number of stored entries that are the most probable tokens; 0
        for hidden states.
      figures: figures of the records that earlier runs have labelled.
    """
    self.figures = figures
    self._num_top = num_top
    self._num_tokens = 0
    self._histogram = np.zeros(_MASS_BINS, np.int64)
    self._mass = 0.0
    self._num_correct = 0
    self._start = time.perf_counter()

  def add(self, features: Mapping[str, np.ndarray], labels: Labels) -> None:
    """Adds the labels of a window."""
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
    """Mean over masked tokens of the stored top probabilities' sum."""
    return self._mass / self._num_tokens

  def mass_quantile(self, share: float) -> float:
    """Returns a quantile of the mass, for a share from 0 to 1."""
    cumulated = np.concatenate([[0], np.cumsum(self._histogram)])
    edges = np.arange(_MASS_BINS + 1) / _MASS_BINS
    return float(np.interp(share * cumulated[-1], cumulated, edges))

  def log(self, teacher: Teacher, num_records: int, path: str) -> None:
    """Logs mass, accuracy, speed and size; warns of a low accuracy."""
    if not self._num_tokens:
      return  # All records were labelled before, or no token is masked.
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
          "The teacher predicts only %.1f%% of the masked tokens: check that "
          "the records have the teacher's vocabulary and case, and that "
          "--init_checkpoint is pre-trained.", 100 * accuracy)


def _first_unfit_record(features: Mapping[str, np.ndarray],
                        layout: Optional[schema.Layout]) -> int:
  """Returns the index of the first record that a layout cannot hold, else 0."""
  for i in range(len(features[schema.INPUT_IDS])):
    try:
      compact.pack({name: values[i:i + 1]
                    for name, values in features.items()}, layout)
    except InputError:
      return i
  return 0


def _write_window(writer: RecordWriter, labelled: LabelledWindow,
                  corpus: order.Corpus, shape: schema.RecordShape,
                  layout: Optional[schema.Layout]) -> None:
  """Writes a window's records; arguments and errors as for `label_file`."""
  window, labels = labelled
  for first in range(0, len(window.serialized), _ENCODED_RECORDS):
    some = slice(first, first + _ENCODED_RECORDS)
    features = {name: values[some] for name, values in (
        *window.features.items(), *labels.features.items())}
    try:
      if layout is None and shape.layouts == (None,):
        records = tfrecord.add_features(window.serialized[some], compact.pack(
            {name: features[name] for name in labels.features}, None))
      else:
        records = tfrecord.encode(compact.pack(features, layout))
    except InputError as error:
      first += _first_unfit_record(features, layout)
      raise InputError("--input_file: {}: {}".format(
          order.path_of(corpus, window.first + first), error)) from None
    for record in records:
      writer.write(record)


def _write(writer: RecordWriter,
           labelled: Generator[Optional[LabelledWindow], None, None],
           statistics: LabelStatistics, manifest: Manifest,
           corpus: order.Corpus, shape: schema.RecordShape,
           layout: Optional[schema.Layout]) -> Generator[int, None, None]:
  """Writes windows, counts their labels, and saves the progress after each.

  Arguments and errors as for `label_file`.

  Yields:
    After each batch, the number of records written: 0 or those of a window.
  """
  with contextlib.closing(labelled):
    for item in labelled:
      if item:
        statistics.add(item.window.features, item.labels)
        _write_window(writer, item, corpus, shape, layout)
        writer.save_progress(dataclasses.replace(
            manifest, teacher=statistics.figures._asdict()))
      yield len(item.window.serialized) if item else 0


def label_file(teacher: Teacher, options: LabelOptions, corpus: order.Corpus,
               shape: schema.RecordShape, share: Share, output_file: str,
               layout: Optional[schema.Layout], manifest: Manifest,
               overwrite: bool) -> None:
  """Labels a range of records, and resumes an earlier run.

  Args:
    teacher: the teacher.
    options: options of the teacher.
    corpus: the record files.
    shape: shape of the input records, without labels.
    share: range of the records to label.
    output_file: path of the labelled records.
    layout: layout of compact output; None for a list for each feature.
    manifest: manifest of the output, without counts and offsets.
    overwrite: whether to start from scratch if an earlier run had other inputs
      or flags.

  Raises:
    InputError: if an earlier run had other inputs or flags, another process is
      writing the output, an input file is damaged, or the layout cannot hold a
      record.
  """
  with RecordWriter(output_file, manifest, overwrite) as writer:
    manifest = with_arithmetic(
        manifest, devices.effective_precision(options.device.precision),
        writer.resumed)
    done = writer.num_records
    if done:
      logging.info("Resuming %s after record %d.", output_file, done)
    statistics = LabelStatistics(
        options.truncation_factor - options.tail_samples
        if options.label_format == "topk" else 0,
        TeacherFigures.of_manifest(writer.resumed))
    windows = input_pipeline.read_windows(
        corpus, "input_file", shape, share.first + done, share.last,
        options.batch_size * _WINDOW_BATCHES, teacher.limits(shape))
    written = threads.ahead(_write(
        writer, teacher.label_windows(windows, shape.max_predictions_per_seq),
        statistics, manifest, corpus, shape, layout))
    # Another thread writes, so an interrupt of this one cuts no record.
    with tqdm.tqdm(total=share.last - share.first, initial=done, disable=None,
                   unit=" sequences") as bar, contextlib.closing(written):
      try:
        for num_written in written:
          bar.update(num_written)
      except input_pipeline.OutOfRangeError:
        # The input must be made again, so these labels are useless.
        writer.discard()
        raise
    if writer.num_records != share.last - share.first:
      raise InputError(
          "--input_file has fewer records than when the run began; do not "
          "change the file during a run, and run the same command again")
    writer.commit(dataclasses.replace(
        manifest, teacher=statistics.figures._asdict()))
  statistics.log(teacher, writer.num_records - done, output_file)

"""Checks and reads record files for stages IV and V, as TensorFlow datasets.

Dimensions:
  B: sequences in a batch
  S: max_seq_length, tokens in a sequence
  P: max_predictions_per_seq, slots for masked tokens in a sequence
  K: truncation_factor, teacher entries stored for each slot
  H: hidden_size of the teacher
  N: sequences in a window
"""

import collections
import contextlib
import itertools
import math
import re
from typing import (Any, Callable, Deque, Dict, Iterable, Iterator, Mapping,
                    NamedTuple, Optional, Sequence)

from absl import flags
from absl import logging
import numpy as np
import tensorflow as tf

from records import compact
from records import decoding
from records import manifest
from records import order
from records import schema
from records import tfrecord
from util import files
from util import workers
from util.command_line import InputError

InputFn = Callable[[Mapping[str, Any]], tf.data.Dataset]
# Makes the inputs of a model from a batch.
Prepare = Callable[[Dict[str, tf.Tensor]], Any]

# Most tokens of padding in a model's vocabulary. Models pad it to multiples of
# 64 or 128 for the hardware, times the number of devices that share it.
_MAX_VOCABULARY_PADDING = 1023
# Bytes of tensors per call of the decoder, whatever the batch size: many
# records share the overhead of each operation.
_DECODED_BYTES = 2 << 20
# Most bytes per request to a file: a block of ordinary records.
_REQUEST_BYTES = 4 << 20
# Records to search for records without a masked token.
_SAMPLED_RECORDS = 256
# Enough for the fastest model; several processes may share the cores.
_MOST_DECODING_THREADS = 4
# Batches to prefetch for the model.
_BATCHES_AHEAD = 16
# Keeps AutoGraph from spending a second on functions that need no rewriting.
_as_is = tf.autograph.experimental.do_not_convert
# Part of TensorFlow's errors about a checkpoint that does not fit a model.
_RESTORING = re.compile("Restoring from checkpoint|not found in checkpoint")
# The Location of several pieces in a dataset.
_LOCATION_SPEC: Any = order.Location(
    *(tf.TensorSpec([None], dtype) for dtype in (
        tf.string, tf.int64, tf.int64, tf.int64, tf.int64)))


def define_flags() -> None:
  """Defines the flags for the lengths of the records to read."""
  flags.DEFINE_integer(
      "max_seq_length", 128, "Tokens in a sequence of the records.",
      lower_bound=1)
  flags.DEFINE_integer(
      "max_predictions_per_seq", 20,
      "Slots for masked tokens in a sequence of the records.",
      lower_bound=1)


class OutOfRangeError(InputError):
  """A record has an integer out of range, so it must be made again."""


@contextlib.contextmanager
def record_errors(flag: str, corpus: Optional[order.Corpus] = None,
                  shape: Optional[schema.RecordShape] = None,
                  limits: Optional[decoding.Limits] = None,
                  pieces: Optional[Callable[[], Iterable[order.Piece]]] = None
                 ) -> Iterator[None]:
  """Turns TensorFlow's errors about bad records into InputError.

  Args:
    flag: name of the flag that gave the records, for errors.
    corpus: the record files, to search for the bad record.
    shape: as for `decoding.decode`.
    limits: as for `decoding.decode`.
    pieces: returns the pieces in use, to search only these for the bad record;
      None searches all files.

  Raises:
    InputError: if a record is damaged or does not fit.
    OutOfRangeError: if a record has an integer out of range.
  """
  try:
    yield
  except (tf.errors.NotFoundError, tf.errors.PermissionDeniedError) as error:
    if _RESTORING.search(error.message):
      raise  # The error is about a checkpoint, not about records.
    raise InputError("--{}: {}; the file existed when the run began".format(
        flag, error.message.split("\n")[0])) from error
  except tf.errors.FailedPreconditionError as error:
    if "elements but contained" not in error.message:
      raise
    raise InputError(
        "--{}: a file has fewer records than when the run began; do not change "
        "input files during a run, and run the same command again".format(
            flag)) from error
  except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
    # TensorFlow wraps an InputError of `order.locate`.
    located = re.search(r"InputError: ([^\n]*)", error.message)
    if located:
      raise InputError(located.group(1)) from error
    if decoding.OUT_OF_RANGE in error.message:
      raise OutOfRangeError("--{}: {}; make the records again".format(
          flag, _find_out_of_range(
              _searched(corpus, pieces), flag, shape, limits))) from error
    # Other arguments may be invalid because of a bug.
    found = re.search(r"(truncated|corrupted) record at \d+|Key: [^\n]*",
                      error.message)
    if not found:
      raise
    if found.group(1):
      for block in _searched(corpus, pieces):
        for _ in block.read(flag):
          pass  # Raises an error with the file and the position.
    raise InputError("--{}: a record is damaged or has other lengths than the "
                     "first record ({}); make the records again".format(
                         flag, found.group())) from error


class _Block(NamedTuple):
  """Consecutive records of a file to search for a bad record.

  Attributes:
    path: path of the file.
    offset: offset of the first record, in bytes.
    first: index of the first record in the file.
    num_records: number of records.
  """
  path: str
  offset: int
  first: int
  num_records: int

  def read(self, flag: str) -> Iterator[bytes]:
    """Yields the serialized records; raises InputError for a damaged one."""
    return itertools.islice(
        tfrecord.read(self.path, flag, self.offset), self.num_records)


def _searched(corpus: Optional[order.Corpus],
              pieces: Optional[Callable[[], Iterable[order.Piece]]]
             ) -> Iterator[_Block]:
  """Yields each block of some pieces once, up to the last record in a piece.

  Args:
    corpus: the record files; None yields nothing.
    pieces: as for `record_errors`.
  """
  if corpus is None:
    return
  stops: Dict[int, int] = {}
  for block, _, stop in (pieces() if pieces else order.pieces_of(
      corpus, 0, corpus.size)):
    stops[block] = max(stop, stops.get(block, 0))
  for block in sorted(stops):
    number = int(corpus.files[block])
    first = tfrecord.BLOCK_RECORDS * (
        block - int(np.searchsorted(corpus.files, number)))
    yield _Block(corpus.paths[number], int(corpus.offsets[block]), first,
                 stops[block])


def _find_out_of_range(blocks: Iterable[_Block], flag: str,
                       shape: Optional[schema.RecordShape],
                       limits: Optional[decoding.Limits]) -> str:
  """Returns a description of the first record with an integer out of range."""
  for block in blocks:
    # Callers that give a corpus give both.
    assert shape is not None and limits is not None
    features = decoding.parse(tf.constant(list(block.read(flag))), shape)
    for name, limit in limits.items():
      outside = np.argwhere(
          ~decoding.are_within(features[name], limit).numpy())
      if outside.size:
        return "record {} in {} has {} {}, but the limit is {}".format(
            block.first + outside[0][0], block.path, name,
            features[name].numpy()[tuple(outside[0])], limit - 1)
  return "a record is out of range"


# --- Checks ------------------------------------------------------------------


def check_records(paths: Sequence[str], flag: str, shape: schema.RecordShape,
                  vocab_size: int) -> schema.RecordShape:
  """Checks that record files fit the flags and the model.

  Checks the first record of each file, and the manifest if there is one.

  Args:
    paths: paths of record files.
    flag: name of the flag that gave the paths, for errors.
    shape: lengths by the flags; with K > 0 the records must have labels.
    vocab_size: vocabulary size of the model's config.

  Returns:
    The shape with the layouts of the files.

  Raises:
    InputError: if a file is empty, damaged or does not fit.
  """
  layouts = []
  for path in paths:
    found = manifest.read_manifest(path)
    padding = vocab_size - found.vocab_size if found and found.vocab_size else 0
    if found and padding > _MAX_VOCABULARY_PADDING:
      raise InputError(
          "--bert_config_file has vocab_size {}, but the records in {} were "
          "made with a vocabulary of {}, and the difference is too large for "
          "padding: make the records with the vocab.txt that belongs to the "
          "config".format(vocab_size, path, found.vocab_size))
    if found and padding > 0 and path == paths[0]:
      logging.warning(
          "--bert_config_file has vocab_size %d, and the records in %s were "
          "made with a vocabulary of %d: check that the other tokens of the "
          "model are padding.", vocab_size, path, found.vocab_size)
    if found and padding < 0:
      raise InputError(
          "--bert_config_file has vocab_size {}, but the records in {} were "
          "made with a vocabulary of {}: use the config that belongs to this "
          "vocabulary".format(vocab_size, path, found.vocab_size))
    features = _first_features(path, flag)
    layouts.append(compact.layout_of(features))
    _check_record(compact.expand(features), path, shape, vocab_size)
  _warn_of_unmasked_records(paths[0], flag)
  return shape._replace(layouts=tuple(dict.fromkeys(layouts)))


def _warn_of_unmasked_records(path: str, flag: str) -> None:
  """Warns if records at the start of a file have no masked token."""
  def read():
    is_unmasked = []
    # Damage is reported later, when the records are read.
    with contextlib.suppress(InputError):
      for serialized in itertools.islice(
          tfrecord.read(path, flag), _SAMPLED_RECORDS):
        features = compact.expand(tfrecord.decode(serialized))
        is_unmasked.append(not np.any(features[schema.MASKED_LM_WEIGHTS]))
    return sum(is_unmasked), len(is_unmasked)

  num_unmasked, num_records = files.once("unmasked records", [path], read)
  if num_unmasked:
    logging.warning(
        "--%s: %.1f%% of the first %d records in %s have no masked token, so "
        "they do not train masked-LM: make the records again with "
        "--do_whole_word_mask False, or a larger --max_predictions_per_seq.",
        flag, 100 * num_unmasked / num_records, num_records, path)


def _first_features(path: str, flag: str) -> Dict[str, Any]:
  """Reads the features of a file's first record, as stored.

  Raises:
    InputError: if the file is empty, damaged, or has no records of this
      project.
  """
  return files.once(
      "first record", [path], lambda: _read_first_features(path, flag))


def _read_first_features(path: str, flag: str) -> Dict[str, Any]:
  """Reads a file's first record; as for `_first_features`."""
  serialized = next(tfrecord.read(path, flag), None)
  if serialized is None:
    raise InputError("--{}: {} holds no record; make the file again".format(
        flag, path))
  try:
    features = tfrecord.decode(serialized)
    compact.expand(features)
  except InputError as error:
    raise InputError("--{}: {} holds something other than records of this "
                     "project: {}".format(flag, path, error)) from None
  return features


def stored_lengths(path: str, flag: str) -> schema.RecordShape:
  """Returns S and P of a record file, from its first record.

  Raises:
    InputError: if the file is empty, damaged, or has no records of this
      project.
  """
  features = compact.expand(_first_features(path, flag))
  length, num_slots = (len(features.get(name, ())) for name in (
      schema.INPUT_IDS, schema.MASKED_LM_IDS))
  if not length or not num_slots:
    raise InputError("--{}: {} holds something other than records of this "
                     "project: no {} or no {}".format(
                         flag, path, schema.INPUT_IDS, schema.MASKED_LM_IDS))
  return schema.RecordShape(length, num_slots)


def with_stored_labels(shape: schema.RecordShape, path: str,
                       flag: str) -> schema.RecordShape:
  """Returns a shape with K and H of the labels of a record file.

  K is 0 without top-k labels, H is 0 without hidden states.

  Args:
    shape: the other lengths.
    path: path of the record file; only its first record is read.
    flag: name of the flag that gave the path, for errors.

  Raises:
    InputError: if the file is empty, damaged, or has no records of this
      project.
  """
  features = compact.expand(_first_features(path, flag))
  num_slots = shape.max_predictions_per_seq
  hidden_states = features.get(schema.TEACHER_HIDDEN_STATES)
  if isinstance(hidden_states, list) and hidden_states:
    return shape._replace(truncation_factor=0, teacher_hidden_size=len(
        hidden_states[0]) // (np.dtype(np.float16).itemsize * num_slots))
  return shape._replace(
      truncation_factor=len(features.get(schema.TEACHER_INDICES, ()))
      // num_slots, teacher_hidden_size=0)


def _check_record(features: Mapping[str, Any], path: str,
                  shape: schema.RecordShape, vocab_size: int) -> None:
  """Raises InputError if a record does not fit; as for `check_records`."""
  lengths: Dict[str, int] = {}
  for name, feature in schema.features(shape).items():
    if name not in features:
      if name in schema.LABELS and any(
          other in features for other in schema.LABELS):
        raise InputError(
            "{} has labels of another --label_format than the other records: "
            "use records of one --label_format".format(path))
      if name in schema.LABELS:
        raise InputError(
            "{} has no teacher labels (feature {}): run "
            "extract_teacher_labels_truncated.py on the file first, or train "
            "on the hard labels with --hard_label_weight=1".format(path, name))
      raise InputError(
          "{} has no feature {}: give records that "
          "multifile_create_pretraining_data.py wrote".format(path, name))
    values = features[name]
    if (decoding.is_bytes(feature) and isinstance(values, list)
        and len(values) == 1):
      size = np.dtype(feature.dtype).itemsize
      values = np.frombuffer(
          values[0][:len(values[0]) // size * size], feature.dtype)
    has_kind = (isinstance(values, np.ndarray)
                and values.dtype == feature.dtype)
    length = len(values) if has_kind else 0
    wanted = int(np.prod(feature.shape))
    if length != wanted:
      # K is the length divided by P, which was checked before.
      found = length // lengths.get(schema.MASKED_LM_IDS, 1) if (
          len(feature.shape) > 1) else length
      if not feature.flags:
        raise InputError("{}: {} has {} values instead of {}; make the records "
                         "again".format(path, name, length, wanted))
      raise InputError(
          "--{}={} does not fit {}: {} has {} values instead of {}; set "
          "--{}={} or make the records again".format(
              feature.flags[-1], feature.shape[-1], path, name, length, wanted,
              feature.flags[-1], found))
    lengths[name] = length
    if name in schema.TOKEN_IDS:
      token_id = values.max()
      if token_id >= vocab_size:
        raise InputError(
            "--bert_config_file has vocab_size {}, but the first record in {} "
            "has the token id {} ({}): use the config that belongs to the "
            "vocabulary of the records".format(
                vocab_size, path, token_id, name))


def training_input_fn(
    corpus: order.Corpus, shape: schema.RecordShape, flag: str, seed: int,
    position: int = 0, num_processes: int = 1, process: int = 0,
    limits: Optional[decoding.Limits] = None,
    in_flight: Optional[Deque[Sequence[order.Piece]]] = None,
    prepare: Optional[Prepare] = None) -> InputFn:
  """Builds an endless input_fn for TPUEstimator, in the order of `order`.

  Args:
    corpus: the record files.
    shape: lengths of the records.
    flag: name of the flag that gave the files, for errors.
    seed: as for `order.windows`.
    position: as for `order.windows`.
    num_processes: as for `order.windows`.
    process: as for `order.windows`.
    limits: as for `decoding.decode`.
    in_flight: queue from `in_flight_pieces`, to which the input_fn appends the
      pieces of each window before reading them.
    prepare: makes the inputs of the model from a batch of `decoding.decode`;
      None for the batch itself.

  Returns:
    A function of `params`, with `params["batch_size"]` = B, that returns a
    dataset of batches; B is static.
  """
  def locate_windows():
    for window in order.windows(corpus, seed, position, num_processes, process):
      if in_flight is not None:
        in_flight.append(window.pieces)
      yield _locate(corpus, window.pieces, flag), window.order

  def read_window(locations, window_order):
    return _read_pieces(locations).batch(
        tf.reduce_sum(locations.num_records)).get_single_element(), window_order

  def take_in_order(serialized, window_order):
    num_taken = _num_decoded(shape)
    # Gathering the whole window at once would double its memory.
    return tf.data.Dataset.range(
        0, tf.size(window_order, tf.int64), num_taken).map(
            _as_is(lambda first: tf.gather(
                serialized, window_order[first:first + num_taken])))

  def input_fn(params):
    dataset = tf.data.Dataset.from_generator(
        locate_windows, output_signature=(
            _LOCATION_SPEC, tf.TensorSpec([None], tf.int32)))
    # Reads a window while the previous window is in use.
    dataset = dataset.map(_as_is(read_window)).prefetch(1).flat_map(
        _as_is(take_in_order))
    return _batches(
        dataset, shape, params["batch_size"], True, limits, prepare)

  return input_fn


def in_flight_pieces() -> Deque[Sequence[order.Piece]]:
  """Returns an empty queue for the pieces of the windows in memory.

  These are four windows: in use, ready, being read, and requested.
  """
  return collections.deque(maxlen=4)


def evaluation_input_fn(
    corpus: order.Corpus, shape: schema.RecordShape, flag: str,
    drop_remainder: bool = False, limits: Optional[decoding.Limits] = None,
    first_record: int = 0, num_records: Optional[int] = None,
    prepare: Optional[Prepare] = None) -> InputFn:
  """Builds an input_fn that reads records once, in the order of the files.

  Args:
    corpus: the record files.
    shape: lengths of the records.
    flag: name of the flag that gave the files, for errors.
    drop_remainder: whether to drop a last batch that is not full, for devices
      that need a static B.
    limits: as for `decoding.decode`.
    first_record: index of the first record to read.
    num_records: number of records to read; None for all from first_record on.
    prepare: as for `training_input_fn`.

  Returns:
    A function of `params`, as for `training_input_fn`.
  """
  def input_fn(params):
    dataset = read_range(corpus, flag, first_record, num_records)
    return _batches(dataset.batch(_num_decoded(shape)), shape,
                    params["batch_size"], drop_remainder, limits, prepare)

  return input_fn


def read_range(corpus: order.Corpus, flag: str, first_record: int = 0,
               num_records: Optional[int] = None) -> tf.data.Dataset:
  """Reads serialized records in the order of the files.

  Args:
    corpus: the record files.
    flag: name of the flag that gave the files, for errors.
    first_record: index of the first record to read.
    num_records: most records to read; None for all from first_record on.
  """
  last = corpus.size
  if num_records is not None:
    last = min(last, first_record + num_records)
  return _read_pieces(order.Location(*map(tf.constant, _locate(
      corpus, order.pieces_of(corpus, first_record, last), flag))))


class Window(NamedTuple):
  """Consecutive records.

  Attributes:
    first: index of the first record.
    serialized: N serialized records.
    features: arrays by feature name, as `decoding.decode` returns them.
  """
  first: int
  serialized: Sequence[bytes]
  features: Dict[str, np.ndarray]


def read_windows(corpus: order.Corpus, flag: str, shape: schema.RecordShape,
                 first: int, last: int, size: int,
                 limits: Optional[decoding.Limits] = None) -> Iterator[Window]:
  """Reads records in order, in windows, ahead of their use.

  Args:
    corpus: the record files.
    flag: name of the flag that gave the files, for errors.
    shape: lengths of the records.
    first: index of the first record to read.
    last: index after the last record.
    size: N, records in a window; the last window may have fewer.
    limits: as for `decoding.decode`.

  Raises:
    InputError: if a file is damaged.
    OutOfRangeError: if a record has an integer out of range.
  """
  dataset = read_range(corpus, flag, first, last - first).batch(size)
  dataset = dataset.map(_as_is(lambda serialized: (
      serialized, decoding.decode(serialized, shape, limits))))
  # Errors come in the order of the records.
  with record_errors(flag, corpus, shape, limits, lambda: order.pieces_of(
      corpus, first, min(last, first + size))):
    for serialized, features in _without_autotuning(
        dataset.prefetch(2)).as_numpy_iterator():
      yield Window(first, serialized, features)
      first += len(serialized)


def _locate(corpus: order.Corpus, pieces: Sequence[order.Piece],
            flag: str) -> order.Location:
  """Returns the places of pieces in their files, as a Location of arrays."""
  locations = [order.locate(corpus, piece, flag) for piece in pieces]
  columns = zip(*locations) if locations else [()] * len(_LOCATION_SPEC)
  return order.Location._make(
      np.array(column, spec.dtype.as_numpy_dtype)
      for column, spec in zip(columns, _LOCATION_SPEC))


def _read_pieces(locations: order.Location) -> tf.data.Dataset:
  """Reads the serialized records of some pieces, a Location of tensors."""
  return tf.data.Dataset.from_tensor_slices(locations).flat_map(
      _as_is(_read_piece))


def _read_piece(location: order.Location) -> tf.data.Dataset:
  """Reads the serialized records of a piece, a Location of scalars."""
  # Requests of equal size, so that no byte after the piece is read.
  num_requests = -(-location.num_bytes // _REQUEST_BYTES)
  dataset = tf.data.experimental.from_variant(
      tf.raw_ops.TFRecordDatasetV2(
          filenames=[location.path], compression_type="",
          buffer_size=-(-location.num_bytes // num_requests),
          byte_offsets=[location.offset]), tf.TensorSpec([], tf.string))
  return dataset.skip(location.num_skipped).take(location.num_records).apply(
      tf.data.experimental.assert_cardinality(location.num_records))


def _num_decoded(shape: schema.RecordShape) -> int:
  """Returns the number of records per call of the decoder."""
  size = 4 * sum(math.prod(feature.shape)  # int32 and float32 take 4 bytes.
                 for feature in schema.features(shape).values())
  return max(1, _DECODED_BYTES // size)


def _batches(dataset: tf.data.Dataset, shape: schema.RecordShape,
             batch_size: int, drop_remainder: bool,
             limits: Optional[decoding.Limits],
             prepare: Optional[Prepare]) -> tf.data.Dataset:
  """Decodes batches of any sizes to batches of B records, and prefetches."""
  dataset = dataset.map(
      _as_is(lambda serialized: decoding.decode(serialized, shape, limits)),
      num_parallel_calls=min(_MOST_DECODING_THREADS, workers.available_cores()),
      deterministic=True)
  dataset = dataset.rebatch(batch_size, drop_remainder)
  if prepare:
    dataset = dataset.map(_as_is(prepare))
  return _without_autotuning(dataset.prefetch(_BATCHES_AHEAD))


def _without_autotuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Returns a dataset without the thread that tunes it.

  Ending an iterator waits for that thread, which can sleep for a minute.
  """
  options = tf.data.Options()
  options.autotune.enabled = False
  return dataset.with_options(options)

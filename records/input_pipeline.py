"""Record files as the stages read them: decoding, checks, input_fns.

Dimensions:
  B: sequences in a batch
  S: max_seq_length, tokens in a sequence
  P: max_predictions_per_seq, slots for masked tokens in a sequence
  K: truncation_factor, teacher entries stored for each slot
"""

import contextlib
import itertools
import re
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Sequence

from absl import flags
from absl import logging
import numpy as np
import tensorflow as tf

from records import manifest
from records import schema
from records import tfrecord
from util.command_line import InputError

InputFn = Callable[[Mapping[str, Any]], tf.data.Dataset]
Limits = Mapping[str, int]

# Records held back for shuffling: about 30 MB at S = 128, P = 20, K = 10.
_SHUFFLE_RECORDS = 10000
# Files read side by side while training.
_INTERLEAVED_FILES = 4
# Records that are looked through at once for one that is out of range.
_SEARCHED_RECORDS = 1024
# How the error is recognized.
_OUT_OF_RANGE = "an integer of a record is out of range"


def define_flags() -> None:
  """Defines the flags that say how long the records to read are."""
  flags.DEFINE_integer(
      "max_seq_length", 128, "Tokens in a sequence, as in the records.",
      lower_bound=1)
  flags.DEFINE_integer(
      "max_predictions_per_seq", 20,
      "Slots for masked tokens in a sequence, as in the records.",
      lower_bound=1)


class OutOfRangeError(InputError):
  """A record has an integer that no model can read: make it again."""


# --- Decoding ----------------------------------------------------------------


def decode(serialized: tf.Tensor, shape: schema.RecordShape,
           limits: Optional[Limits] = None) -> Dict[str, tf.Tensor]:
  """Parses a batch of serialized Examples.

  Args:
    serialized: string [B].
    shape: the lengths of the records.
    limits: what the integers must stay below, as `schema.limits` gives it.
      Where a GPU gathers by an index out of range, it gets zeros and tells
      nobody.

  Returns:
    Tensors by feature name, [B, S], [B, P], [B, 1] and, where K > 0,
    [B, P, K]; integers as int32, which TPUs need.
  """
  features = _parse(serialized, shape)
  are_within = [_are_within(features[name], limit)
                for name, limit in (limits or {}).items()]
  with tf.control_dependencies([
      tf.debugging.Assert(tf.reduce_all(is_within), [_OUT_OF_RANGE])
      for is_within in are_within]):
    return {
        name: tf.cast(value, tf.int32) if value.dtype == tf.int64
        else tf.identity(value)
        for name, value in features.items()
    }


def _parse(serialized: tf.Tensor,
           shape: schema.RecordShape) -> Dict[str, tf.Tensor]:
  """Parses a batch of serialized Examples; as `decode`, but for int64."""
  return tf.io.parse_example(serialized, {
      name: tf.io.FixedLenFeature(feature.shape, tf.as_dtype(feature.dtype))
      for name, feature in schema.features(shape).items()
  })


def _are_within(values: tf.Tensor, limit: int) -> tf.Tensor:
  """Returns whether integers are from 0 to under a limit, bool."""
  return tf.logical_and(values >= 0, values < limit)


@contextlib.contextmanager
def record_errors(flag: str, paths: Sequence[str] = (),
                  shape: Optional[schema.RecordShape] = None,
                  limits: Optional[Limits] = None) -> Iterator[None]:
  """Turns what TensorFlow raises for bad records into InputError.

  Args:
    flag: name of the flag that named the records, for errors.
    paths: the record files, in which the bad record is looked for.
    shape: as for `decode`.
    limits: as for `decode`.
  """
  try:
    yield
  except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
    if _OUT_OF_RANGE in error.message:
      raise OutOfRangeError("--{}: {}; make the records again".format(
          flag, _find_out_of_range(paths, shape, limits))) from error
    # Other arguments may be invalid because of a bug.
    found = re.search(r"(truncated|corrupted) record at \d+|Key: [^\n]*",
                      error.message)
    if not found:
      raise
    if found.group(1):
      for path in paths:
        for _ in tfrecord.read(path, flag):
          pass  # It says which file is damaged, and where.
    raise InputError("--{}: a record is damaged or has other lengths than the "
                     "first one ({}); make the records again".format(
                         flag, found.group())) from error


def _find_out_of_range(paths: Sequence[str], shape: schema.RecordShape,
                       limits: Limits) -> str:
  """Says which record has an integer out of range, and which one."""
  for path in paths:
    first = 0
    for serialized in tf.data.TFRecordDataset(path).batch(_SEARCHED_RECORDS):
      features = _parse(serialized, shape)
      for name, limit in limits.items():
        outside = np.argwhere(~_are_within(features[name], limit).numpy())
        if outside.size:
          return "record {} in {} has {} {}, where {} is the limit".format(
              first + outside[0][0], path, name,
              features[name].numpy()[tuple(outside[0])], limit - 1)
      first += len(serialized)
  return "a record is out of range"


# --- Checks ------------------------------------------------------------------


def check_records(paths: Sequence[str], flag: str, shape: schema.RecordShape,
                  vocab_size: int) -> None:
  """Checks that record files fit the flags and the model that reads them.

  A manifest is checked where there is one, the first record always.

  Args:
    paths: record files.
    flag: name of the flag that named them, for errors.
    shape: lengths that the flags ask for; with K > 0 the records must hold
      teacher labels.
    vocab_size: of the model's config.

  Raises:
    InputError: a file is empty, damaged or does not fit.
  """
  for path in paths:
    found = manifest.read_manifest(path)
    if found and found.vocab_size < vocab_size and path == paths[0]:
      logging.warning(
          "--bert_config_file has vocab_size %d, and the records in %s were made "
          "with a vocabulary of %d: the rest must be padding.", vocab_size,
          path, found.vocab_size)
    if found and found.vocab_size > vocab_size:
      raise InputError(
          "--bert_config_file has vocab_size {}, but the records in {} were "
          "made with a vocabulary of {}: use the config that belongs to it"
          .format(vocab_size, path, found.vocab_size))
    _check_record(first_record(path, flag), path, shape, vocab_size)


def first_record(path: str, flag: str) -> Dict[str, Any]:
  """Reads the features of a file's first record.

  Args:
    path: the record file.
    flag: name of the flag that named it, for errors.

  Returns:
    As for `tfrecord.decode`.

  Raises:
    InputError: the file is empty, damaged, or holds something else.
  """
  serialized = next(tfrecord.read(path, flag), None)
  if serialized is None:
    raise InputError("--{}: {} holds no record; make it again".format(
        flag, path))
  try:
    return tfrecord.decode(serialized)
  except InputError as error:
    raise InputError("--{}: {} holds something other than records of this "
                     "project: {}".format(flag, path, error)) from None


def stored_entries(path: str, flag: str, max_predictions_per_seq: int) -> int:
  """Returns K of the labels in a record file, 0 where it has none.

  Args:
    path: the record file; its first record is looked at.
    flag: name of the flag that named it, for errors.
    max_predictions_per_seq: P.

  Raises:
    InputError: as for `first_record`.
  """
  indices = first_record(path, flag).get(schema.TEACHER_INDICES, ())
  return len(indices) // max_predictions_per_seq


def _check_record(features: Mapping[str, Any], path: str,
                  shape: schema.RecordShape, vocab_size: int) -> None:
  """Raises InputError where a record does not fit; as for `check_records`."""
  lengths = {}
  for name, feature in schema.features(shape).items():
    if name not in features:
      if name in schema.LABELS:
        raise InputError(
            "{} has no teacher labels (feature {}): run "
            "extract_teacher_labels_truncated.py on it first, or train on the "
            "hard labels with --hard_label_weight=1".format(path, name))
      raise InputError(
          "{} has no feature {}: it was not written by "
          "multifile_create_pretraining_data.py".format(path, name))
    values = features[name]
    has_kind = (isinstance(values, np.ndarray)
                and values.dtype == feature.dtype)
    length = len(values) if has_kind else 0
    wanted = int(np.prod(feature.shape))
    if length != wanted:
      # K is what is left of the length once P, checked before it, is known.
      found = length // lengths.get(schema.MASKED_LM_IDS, 1) if (
          len(feature.shape) > 1) else length
      if not feature.flags:
        raise InputError("{}: its {} has {} values for {}; make the records "
                         "again".format(path, name, length, wanted))
      raise InputError(
          "--{}={} does not fit {}: its {} has {} values for {}; set --{}={} "
          "or make the records again".format(
              feature.flags[-1], feature.shape[-1], path, name, length, wanted,
              feature.flags[-1], found))
    lengths[name] = length
    if name in schema.TOKEN_IDS:
      token_id = values.max()
      if token_id >= vocab_size:
        raise InputError(
            "--bert_config_file has vocab_size {}, but the first record in {} "
            "holds the token id {} ({}): use the config of the vocabulary that "
            "the records were made with".format(
                vocab_size, path, token_id, name))


def count_records(paths: Sequence[str], flag: str, at_most: int) -> int:
  """Counts the records of files, no further than a limit.

  Args:
    paths: record files.
    flag: name of the flag that named them, for errors.
    at_most: where counting ends.

  Raises:
    InputError: a file is damaged.
  """
  count = 0
  for path in paths:
    if count >= at_most:
      break
    found = manifest.read_manifest(path)
    count += found.num_records if found else sum(1 for _ in itertools.islice(
        tfrecord.read(path, flag), at_most - count))
  return min(count, at_most)


# --- Datasets ----------------------------------------------------------------


def training_input_fn(
    paths: Sequence[str], shape: schema.RecordShape, seed: int,
    first_record_index: int = 0, num_shards: int = 1, shard_index: int = 0,
    limits: Optional[Limits] = None) -> InputFn:
  """Builds an endless, shuffled input_fn for TPUEstimator.

  The order of the records follows from the seed only, whatever seed the
  graph has. Each shard gets every num_shards-th record of an epoch.

  Args:
    paths: record files.
    shape: lengths of the records.
    seed: of the shuffling.
    first_record_index: how many records of this shard to skip.
    num_shards: processes that share the records.
    shard_index: this process.
    limits: as for `decode`.

  Returns:
    A function of `params`, with `params["batch_size"]` = B, that returns a
    dataset of batches as `decode` gives them; B is static.
  """
  def input_fn(params):
    # TensorFlow mixes the graph's seed into every other one, and processes
    # that share the records differ in theirs.
    graph = tf.compat.v1.get_default_graph()
    graph_seed, graph.seed = graph.seed, seed
    dataset = tf.data.Dataset.from_tensor_slices(list(paths))
    dataset = dataset.shuffle(len(paths), seed=seed)
    dataset = dataset.interleave(
        tf.data.TFRecordDataset,
        cycle_length=min(_INTERLEAVED_FILES, len(paths)))
    dataset = dataset.shard(num_shards, shard_index)
    dataset = dataset.shuffle(_SHUFFLE_RECORDS, seed=seed)
    graph.seed = graph_seed
    dataset = dataset.repeat().skip(first_record_index)
    return _batches(dataset, shape, params["batch_size"], True, limits)

  return input_fn


def evaluation_input_fn(paths: Sequence[str], shape: schema.RecordShape,
                        drop_remainder: bool = False,
                        limits: Optional[Limits] = None, first_record: int = 0,
                        num_records: Optional[int] = None) -> InputFn:
  """Builds an input_fn that reads each record once, in order.

  Args:
    paths: record files.
    shape: lengths of the records.
    drop_remainder: whether to leave out a last batch that is not full, for
      devices that need a static B.
    limits: as for `decode`.
    first_record: index of the first record to read.
    num_records: how many to read at most; None for all.

  Returns:
    A function of `params`, as `training_input_fn` does.
  """
  def input_fn(params):
    dataset = tf.data.TFRecordDataset(list(paths)).skip(first_record)
    if num_records is not None:
      dataset = dataset.take(num_records)
    return _batches(
        dataset, shape, params["batch_size"], drop_remainder, limits)

  return input_fn


def _batches(dataset: tf.data.Dataset, shape: schema.RecordShape,
             batch_size: int, drop_remainder: bool,
             limits: Optional[Limits]) -> tf.data.Dataset:
  """Decodes and batches serialized records, ahead of the model."""
  dataset = dataset.batch(batch_size, drop_remainder=drop_remainder)
  dataset = dataset.map(lambda serialized: decode(serialized, shape, limits),
                        num_parallel_calls=tf.data.AUTOTUNE,
                        deterministic=True)
  return dataset.prefetch(tf.data.AUTOTUNE)

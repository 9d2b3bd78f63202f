"""The records that the stages hand on: schema, files, datasets.

A record is one `tf.train.Example` for one sequence. This room owns the dtype
and shape of every feature and how record files are found and read. What works
without TensorFlow is in record_files.py, and is offered here too.

Dimensions:
  B: sequences in a batch
  S: max_seq_length, tokens in a sequence
  P: max_predictions_per_seq, slots for masked words in a sequence
  K: truncation_factor, teacher entries stored for each slot
"""

import collections
import hashlib
import os
from typing import (Any, Callable, Dict, Iterator, List, Mapping, NamedTuple,
                    Optional, Sequence, Tuple, Union)

from absl import logging
import numpy as np
import tensorflow as tf

# pylint: disable=unused-import
from record_files import (
    INPUT_IDS, INPUT_MASK, MANIFEST_SUFFIX, MASKED_LM_IDS, MASKED_LM_POSITIONS,
    FLOAT_FEATURES, MASKED_LM_WEIGHTS, Manifest, NEXT_SENTENCE_LABELS,
    RecordWriter, SEGMENT_IDS, TEACHER_INDICES, TEACHER_PROBABILITIES,
    is_finished, manifest_path, natural_key, parse_manifest, partial_path,
    read_progress, write_atomically)
# pylint: enable=unused-import

# Records held back for shuffling: about 30 MB at S = 128, P = 20, K = 10.
SHUFFLE_RECORDS = 10000
# Files read side by side while training.
_INTERLEAVED_FILES = 4


class RecordShape(NamedTuple):
  """Lengths that all records of a run share.

  Attributes:
    max_seq_length: S.
    max_predictions_per_seq: P.
    truncation_factor: K, or 0 for records read without teacher labels.
  """
  max_seq_length: int
  max_predictions_per_seq: int
  truncation_factor: int = 0


class _Feature(NamedTuple):
  """A feature's dtype in the file, its shape, and the flags that set it."""
  dtype: tf.DType
  shape: Tuple[int, ...]
  flags: Tuple[str, ...]


def _schema(shape: RecordShape) -> Dict[str, _Feature]:
  """Returns every feature of a record, by name, in the order of the stages."""
  seq_length, predictions, top_k = shape
  per_token = ((seq_length,), ("max_seq_length",))
  per_slot = ((predictions,), ("max_predictions_per_seq",))
  schema = {
      INPUT_IDS: _Feature(tf.int64, *per_token),
      INPUT_MASK: _Feature(tf.int64, *per_token),
      SEGMENT_IDS: _Feature(tf.int64, *per_token),
      MASKED_LM_POSITIONS: _Feature(tf.int64, *per_slot),
      MASKED_LM_IDS: _Feature(tf.int64, *per_slot),
      MASKED_LM_WEIGHTS: _Feature(tf.float32, *per_slot),
      NEXT_SENTENCE_LABELS: _Feature(tf.int64, (1,), ()),
  }
  if top_k:
    per_entry = ((predictions, top_k),
                 ("max_predictions_per_seq", "truncation_factor"))
    schema[TEACHER_PROBABILITIES] = _Feature(tf.float32, *per_entry)
    schema[TEACHER_INDICES] = _Feature(tf.int64, *per_entry)
  return schema


# --- Encoding and decoding ---------------------------------------------------


def encode(features: Mapping[str, Any], unlabelled: bytes = b"") -> bytes:
  """Serializes features to an Example; equal features give equal bytes.

  Args:
    features: arrays or lists by feature name, of the schema's shapes.
    unlabelled: a serialized Example that the features are added to; one that
      has labels already gets the new ones.

  Returns:
    The serialized tf.train.Example.
  """
  example = tf.train.Example.FromString(unlabelled)
  for name, values in features.items():
    values = np.asarray(values).ravel().tolist()
    feature = example.features.feature[name]
    if name in FLOAT_FEATURES:
      feature.float_list.value[:] = values
    else:
      feature.int64_list.value[:] = values
  return example.SerializeToString(deterministic=True)


def decode(serialized: tf.Tensor, shape: RecordShape) -> Dict[str, tf.Tensor]:
  """Parses a batch of serialized Examples.

  Args:
    serialized: string [B].
    shape: the lengths of the records.

  Returns:
    Tensors by feature name, [B, S], [B, P], [B, 1] and, where K > 0,
    [B, P, K]; integers as int32, which TPUs need.
  """
  features = tf.io.parse_example(serialized, {
      name: tf.io.FixedLenFeature(feature.shape, feature.dtype)
      for name, feature in _schema(shape).items()
  })
  return {
      name: tf.cast(value, tf.int32) if value.dtype == tf.int64 else value
      for name, value in features.items()
  }


# --- Finding files -----------------------------------------------------------


def find_files(patterns: str, flag: str) -> List[str]:
  """Lists the regular files that a flag's value names.

  Hidden files and manifests are left out of what a pattern matches.

  Args:
    patterns: paths and globs, separated by commas.
    flag: name of the flag, for errors.

  Returns:
    Paths, the matches of each pattern in natural order.

  Raises:
    ValueError: a path does not exist or is a folder; a pattern matches
      nothing; a file is named twice.
  """
  paths = []
  for pattern in filter(None, (word.strip() for word in patterns.split(","))):
    matches = sorted(tf.io.gfile.glob(pattern), key=natural_key)
    if matches != [pattern]:
      matches = [
          path for path in matches
          if not os.path.basename(path).startswith(".")
          and not path.endswith(MANIFEST_SUFFIX)
          and not tf.io.gfile.isdir(path)
      ]
    elif tf.io.gfile.isdir(pattern):
      raise ValueError(
          "--{}: {} is a folder; give files or a pattern such as {}".format(
              flag, pattern, os.path.join(pattern, "*.tfrecord")))
    if not matches:
      raise ValueError(
          "--{}: there is no file {}; check the path, and quote a pattern so "
          "that the shell leaves it alone".format(flag, pattern))
    paths.extend(matches)
  if not paths:
    raise ValueError("--{} is empty; give a path or a pattern".format(flag))
  if len(set(paths)) < len(paths):
    raise ValueError("--{} names {} twice".format(
        flag, collections.Counter(paths).most_common(1)[0][0]))
  return paths


# --- Manifests and fingerprints ----------------------------------------------


def read_manifest(path: str) -> Optional[Manifest]:
  """Reads the manifest beside a record file, local or remote.

  Args:
    path: the record file.

  Returns:
    The manifest, or None where there is none (files of 2019).

  Raises:
    ValueError: the manifest does not parse, or is of another file.
  """
  if not tf.io.gfile.exists(manifest_path(path)):
    return None
  with tf.io.gfile.GFile(manifest_path(path)) as file:
    text = file.read()
  return parse_manifest(path, text, tf.io.gfile.stat(path).length)


def file_fingerprint(path: str) -> str:
  """Returns the SHA-256 of a file's bytes, in hexadecimal."""
  digest = hashlib.sha256()
  with tf.io.gfile.GFile(path, "rb") as file:
    for block in iter(lambda: file.read(1 << 20), b""):
      digest.update(block)
  return digest.hexdigest()


def checkpoint_fingerprint(checkpoint: str) -> str:
  """Returns the SHA-256 of a checkpoint's index.

  The index holds a checksum of every tensor, so it stands for the data too.
  """
  return file_fingerprint(checkpoint + ".index")


# --- Reading -----------------------------------------------------------------


def read_records(path: str, flag: str) -> Iterator[bytes]:
  """Yields the serialized Examples of one file, in order.

  Raises:
    ValueError: the file is cut or is no TFRecord file.
  """
  try:
    yield from tf.data.TFRecordDataset(path).as_numpy_iterator()
  except tf.errors.OpError as error:
    raise ValueError("--{}: {} is damaged or no TFRecord file ({})".format(
        flag, path, error.message.split("\n")[0]))


def count_records(path: str, flag: str) -> int:
  """Counts the records of a file, by its manifest where there is one.

  Raises:
    ValueError: the file is damaged or no TFRecord file.
  """
  manifest = read_manifest(path)
  if manifest:
    return manifest.num_records
  return sum(1 for _ in read_records(path, flag))


def check_records(files: Sequence[str], flag: str, shape: RecordShape,
                  vocab_size: int) -> None:
  """Checks that record files fit the flags and the model that reads them.

  A manifest is checked where there is one, the first record always.

  Args:
    files: record files.
    flag: name of the flag that named them, for errors.
    shape: lengths that the flags ask for; with K > 0 the records must hold
      teacher labels.
    vocab_size: of the model's config.

  Raises:
    ValueError: a file is empty, damaged or does not fit.
  """
  for path in files:
    manifest = read_manifest(path)
    if manifest and manifest.vocab_size != vocab_size:
      raise ValueError(
          "--bert_config_file has vocab_size {}, but the records in {} were "
          "made with a vocabulary of {}: use the config that belongs to it"
          .format(vocab_size, path, manifest.vocab_size))
    serialized = next(read_records(path, flag), None)
    if serialized is None:
      raise ValueError("--{}: {} holds no record; make it again".format(
          flag, path))
    _check_record(serialized, path, shape)


def stored_entries(path: str, flag: str, max_predictions_per_seq: int) -> int:
  """Returns K of the labels in a record file, 0 where it has none.

  Args:
    path: the record file; its first record is looked at.
    flag: name of the flag that named it, for errors.
    max_predictions_per_seq: P.
  """
  serialized = next(read_records(path, flag), b"")
  features = tf.train.Example.FromString(serialized).features.feature
  if TEACHER_INDICES not in features:
    return 0
  return (len(features[TEACHER_INDICES].int64_list.value)
          // max_predictions_per_seq)


def _check_record(serialized: bytes, path: str, shape: RecordShape) -> None:
  """Raises ValueError where a record lacks a feature or has other lengths."""
  try:
    features = tf.train.Example.FromString(serialized).features.feature
  except Exception as error:  # protobuf's DecodeError has no stable home.
    raise ValueError("{} holds something else than tf.train.Example records "
                     "({})".format(path, error))
  lengths = {}
  for name, feature in _schema(shape).items():
    if name not in features:
      if name in (TEACHER_PROBABILITIES, TEACHER_INDICES):
        raise ValueError(
            "{} has no teacher labels (feature {}): run "
            "extract_teacher_labels_truncated.py on it first, or train on the "
            "masked words alone with --hard_label_weight=1".format(path, name))
      raise ValueError(
          "{} has no feature {}: it was not written by "
          "multifile_create_pretraining_data.py".format(path, name))
    kind = "float_list" if feature.dtype == tf.float32 else "int64_list"
    length = len(getattr(features[name], kind).value)
    wanted = int(np.prod(feature.shape))
    if length != wanted:
      # K is what is left of the length once P, checked before it, is known.
      found = length // lengths.get(MASKED_LM_IDS, 1) if (
          len(feature.shape) > 1) else length
      raise ValueError(
          "--{}={} does not fit {}: its {} has {} values for {}; set --{}={} "
          "or make the records again".format(
              feature.flags[-1], feature.shape[-1], path, name, length, wanted,
              feature.flags[-1], found))
    lengths[name] = length


# --- Datasets ----------------------------------------------------------------


def training_input_fn(
    files: Sequence[str], shape: RecordShape, seed: int, first_record: int = 0,
    num_shards: int = 1, shard_index: int = 0
) -> Callable[[Mapping[str, Any]], tf.data.Dataset]:
  """Builds an endless, shuffled input_fn for TPUEstimator.

  The order of the records follows from the seed alone. Each shard gets every
  num_shards-th record of an epoch.

  Args:
    files: record files.
    shape: lengths of the records.
    seed: of the shuffling.
    first_record: how many records of this shard to pass over.
    num_shards: processes that share the records.
    shard_index: this process.

  Returns:
    A function of `params`, with `params["batch_size"]` = B, that returns a
    dataset of batches as `decode` gives them; B is static.
  """
  def input_fn(params):
    dataset = tf.data.Dataset.from_tensor_slices(list(files))
    dataset = dataset.shuffle(len(files), seed=seed)
    dataset = dataset.interleave(
        tf.data.TFRecordDataset,
        cycle_length=min(_INTERLEAVED_FILES, len(files)))
    dataset = dataset.shard(num_shards, shard_index)
    dataset = dataset.shuffle(SHUFFLE_RECORDS, seed=seed)
    dataset = dataset.repeat().skip(first_record)
    return _batches(dataset, shape, params["batch_size"], drop_remainder=True)

  return input_fn


def evaluation_input_fn(
    files: Sequence[str], shape: RecordShape, drop_remainder: bool = False
) -> Callable[[Mapping[str, Any]], tf.data.Dataset]:
  """Builds an input_fn that reads each record once, in order.

  Args:
    files: record files.
    shape: lengths of the records.
    drop_remainder: whether to leave out a last batch that is not full, for
      devices that need a static B.

  Returns:
    A function of `params`, as `training_input_fn` does.
  """
  def input_fn(params):
    dataset = tf.data.TFRecordDataset(list(files))
    return _batches(dataset, shape, params["batch_size"], drop_remainder)

  return input_fn


def _batches(dataset: tf.data.Dataset, shape: RecordShape, batch_size: int,
             drop_remainder: bool) -> tf.data.Dataset:
  """Decodes and batches serialized records, ahead of the model."""
  dataset = dataset.batch(batch_size, drop_remainder=drop_remainder)
  dataset = dataset.map(lambda serialized: decode(serialized, shape),
                        num_parallel_calls=tf.data.AUTOTUNE,
                        deterministic=True)
  return dataset.prefetch(tf.data.AUTOTUNE)

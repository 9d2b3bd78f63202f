"""The records that the stages hand on: schema, files, manifests, datasets.

A record is one `tf.train.Example` for one sequence. This room owns the name,
dtype and shape of every feature, how record files are found, read and
written, and the manifest beside each file that says what made it.

Importing TensorFlow takes seconds and some 400 MB in each process, which the
many short-lived writers of stage III cannot spare. So this room imports it
where it is first used, and writes both formats by itself: Examples as protocol
buffers, the file's frames with their CRC-32C checksums.

Dimensions:
  B: sequences in a batch
  N: records encoded at once
  S: max_seq_length, tokens in a sequence
  P: max_predictions_per_seq, slots for masked words in a sequence
  K: truncation_factor, teacher entries stored for each slot
"""

from __future__ import annotations  # Those of TensorFlow would import it.

import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import re
import struct
from typing import (Any, Callable, Dict, Iterator, List, Mapping, NamedTuple,
                    Optional, Sequence, Tuple)

from absl import logging
import numpy as np


class _TensorFlow:
  """Stands for the module tensorflow until something of it is used."""

  def __getattr__(self, name: str):
    import tensorflow  # pylint: disable=import-outside-toplevel
    return getattr(tensorflow, name)


tf = _TensorFlow()

INPUT_IDS = "input_ids"
INPUT_MASK = "input_mask"
SEGMENT_IDS = "segment_ids"
MASKED_LM_POSITIONS = "masked_lm_positions"
MASKED_LM_IDS = "masked_lm_ids"
MASKED_LM_WEIGHTS = "masked_lm_weights"
NEXT_SENTENCE_LABELS = "next_sentence_labels"
TEACHER_PROBABILITIES = "truncated_masked_lm_probs"
TEACHER_INDICES = "top_k_indices"
# The others hold int64.
FLOAT_FEATURES = (MASKED_LM_WEIGHTS, TEACHER_PROBABILITIES)
_WORD_FEATURES = (INPUT_IDS, MASKED_LM_IDS, TEACHER_INDICES)

_MANIFEST_SUFFIX = ".json"
# Records that are framed and written at once: few enough for a core's cache.
_BUFFERED_RECORDS = 256
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
  dtype: type
  shape: Tuple[int, ...]
  flags: Tuple[str, ...]


def _schema(shape: RecordShape) -> Dict[str, _Feature]:
  """Returns every feature of a record, by name, in the order of the stages."""
  seq_length, predictions, top_k = shape
  per_token = ((seq_length,), ("max_seq_length",))
  per_slot = ((predictions,), ("max_predictions_per_seq",))
  schema = {
      INPUT_IDS: _Feature(np.int64, *per_token),
      INPUT_MASK: _Feature(np.int64, *per_token),
      SEGMENT_IDS: _Feature(np.int64, *per_token),
      MASKED_LM_POSITIONS: _Feature(np.int64, *per_slot),
      MASKED_LM_IDS: _Feature(np.int64, *per_slot),
      MASKED_LM_WEIGHTS: _Feature(np.float32, *per_slot),
      NEXT_SENTENCE_LABELS: _Feature(np.int64, (1,), ()),
  }
  if top_k:
    per_entry = ((predictions, top_k),
                 ("max_predictions_per_seq", "truncation_factor"))
    schema[TEACHER_PROBABILITIES] = _Feature(np.float32, *per_entry)
    schema[TEACHER_INDICES] = _Feature(np.int64, *per_entry)
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


def encode_batch(features: Mapping[str, np.ndarray]) -> List[bytes]:
  """Serializes many records at once, to the same bytes as `encode`.

  Args:
    features: arrays by feature name, [N, length]; floats make a float_list,
      integers, which must not be negative, an int64_list.

  Returns:
    N serialized tf.train.Examples.
  """
  columns = [_encode_feature(name, features[name]) for name in sorted(features)]
  return [_delimited(1, b"".join(record)) for record in zip(*columns)]


def add_labels(unlabelled: Sequence[bytes], probabilities: np.ndarray,
               indices: np.ndarray) -> List[bytes]:
  """Adds the teacher's labels to many records at once.

  A record that has labels already gets the new ones.

  Args:
    unlabelled: N serialized Examples.
    probabilities: float32 [N, P, K].
    indices: int32 [N, P, K].

  Returns:
    N serialized Examples.
  """
  labels = {TEACHER_PROBABILITIES: probabilities.reshape(len(unlabelled), -1),
            TEACHER_INDICES: indices.reshape(len(unlabelled), -1)}
  columns = [_encode_feature(name, labels[name]) for name in sorted(labels)]
  key = TEACHER_INDICES.encode()
  labelled = []
  for i, record in enumerate(unlabelled):
    # An Example is one message of features, to whose end more can be joined,
    # unless it has some of them.
    head = _delimited_head(record)
    if head is None or key in record:
      labelled.append(encode(
          {name: values[i] for name, values in labels.items()}, record))
    else:
      labelled.append(_delimited(
          1, record[head:] + columns[0][i] + columns[1][i]))
  return labelled


def _delimited_head(message: bytes) -> Optional[int]:
  """Returns where the data start if a message is field 1 alone, else None."""
  if message[:1] != b"\x0a":
    return None
  length = position = 0
  while True:
    byte = message[1 + position]
    length |= (byte & 127) << 7 * position
    position += 1
    if byte < 128:
      break
  return 1 + position if len(message) == 1 + position + length else None


def _encode_feature(name: str, values: np.ndarray) -> List[bytes]:
  """Encodes one feature of N records, as entries of the map in Features."""
  is_float = np.issubdtype(values.dtype, np.floating)
  if is_float:
    payload = values.astype("<f4").tobytes()
    ends = np.arange(1, len(values) + 1) * (4 * values.shape[1])
  else:
    payload, ends = _varints(values)
  ends = ends.tolist()
  key = _delimited(1, name.encode())

  @functools.lru_cache(maxsize=None)
  def head(length: int) -> bytes:
    # Each message holds the next: entry (1), value (2), list (2 or 3), data
    # (1). Only the length of the data differs from record to record.
    blank = bytes(length)
    message = _delimited(2 if is_float else 3, _delimited(1, blank))
    message = _delimited(1, key + _delimited(2, message))
    return message[:len(message) - length]

  return [head(end - start) + payload[start:end]
          for start, end in zip([0] + ends, ends)]


def _delimited(field: int, payload: bytes) -> bytes:
  """Encodes a length-delimited field of a protocol buffer."""
  head = [field << 3 | 2]
  length = len(payload)
  while length > 127:
    head.append(length & 127 | 128)
    length >>= 7
  head.append(length)
  return bytes(head) + payload


def _varints(values: np.ndarray) -> Tuple[bytes, np.ndarray]:
  """Encodes integers in the base-128 form of protocol buffers.

  Args:
    values: not negative, [N, length].

  Returns:
    The bytes of all rows, and where each row ends, [N].
  """
  assert values.min(initial=0) >= 0, "negative values are not supported"
  width = max(1, -(-int(values.max(initial=0)).bit_length() // 7))
  if width == 1:
    encoded = values.astype(np.uint8)
    return encoded.tobytes(), np.arange(1, len(values) + 1) * values.shape[1]
  encoded = np.empty(values.shape + (width,), np.uint8)
  is_used = np.empty(encoded.shape, bool)
  for i in range(width):
    rest = values >> 7 * i
    encoded[..., i] = (rest & 127) | (rest > 127) * np.uint8(128)
    is_used[..., i] = rest > 0 if i else True
  ends = np.cumsum(np.count_nonzero(is_used, axis=(1, 2)))
  return encoded[is_used].tobytes(), ends


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
      name: tf.io.FixedLenFeature(feature.shape, tf.as_dtype(feature.dtype))
      for name, feature in _schema(shape).items()
  })
  return {
      name: tf.cast(value, tf.int32) if value.dtype == tf.int64 else value
      for name, value in features.items()
  }


# --- TFRecord frames ---------------------------------------------------------

# Castagnoli's polynomial x^32 + x^28 + ..., lowest power in the highest bit.
_CRC_POLYNOMIAL = np.uint32(0x82F63B78)
_CRC_MASK_DELTA = np.uint32(0xA282EAD8)


def frame(serialized: Sequence[bytes]) -> bytes:
  """Frames records as a TFRecord file has them.

  Each is its length, the length's checksum, the data, the data's checksum.
  """
  checksums = _masked_crc32c(serialized).astype("<u4").tobytes()
  parts = []
  for i, record in enumerate(serialized):
    parts += (_frame_head(len(record)), record, checksums[4 * i:4 * i + 4])
  return b"".join(parts)


@functools.lru_cache(maxsize=4096)
def _frame_head(length: int) -> bytes:
  packed = struct.pack("<Q", length)
  return packed + _masked_crc32c([packed]).astype("<u4").tobytes()


def _masked_crc32c(messages: Sequence[bytes]) -> np.ndarray:
  """Returns the checksums that TFRecord files have, uint32 [N]."""
  checksum = crc32c(messages)
  return (checksum >> 15 | checksum << 17) + _CRC_MASK_DELTA


def crc32c(messages: Sequence[bytes]) -> np.ndarray:
  """Computes the CRC-32C of many messages at once (RFC 3720, B.4).

  A checksum is a linear map of the message, so it can be folded: of each pair
  of words the left one is moved over the right one by a table and added to
  it, until one word is left.

  Args:
    messages: of any lengths.

  Returns:
    uint32 [N].
  """
  # Zeros in front change nothing; the prefix sets the register to all ones.
  width = max(map(len, messages)) + 4
  width += -width % 4
  words = np.frombuffer(
      b"".join([(_CRC_PREFIX + message).rjust(width, b"\0")
                for message in messages]), "<u4")
  words = words.reshape(len(messages), -1)
  distance = 0
  while words.shape[1] > 1:
    if words.shape[1] % 2:
      words = np.pad(words, ((0, 0), (1, 0)))
    words = _move(words[:, 0::2], distance) ^ words[:, 1::2]
    distance += 1
  return ~_move(words[:, 0], 0)


def _move(words: np.ndarray, distance: int) -> np.ndarray:
  """Moves CRC words over 2^distance words of zeros."""
  low, high = _crc_tables(distance)
  return low[words & 0xFFFF] ^ high[words >> 16]


@functools.lru_cache(maxsize=None)
def _crc_tables(distance: int) -> Tuple[np.ndarray, np.ndarray]:
  """Returns what `_move` does to the low and to the high half of a word."""
  half = np.arange(1 << 16, dtype=np.uint32)
  tables = half, half << 16
  if distance:
    return tuple(_move(_move(table, distance - 1), distance - 1)
                 for table in tables)
  for _ in range(32):  # The 32 bits of one word.
    tables = tuple(table >> 1 ^ (table & 1) * _CRC_POLYNOMIAL
                   for table in tables)
  return tables


def _crc_prefix() -> bytes:
  """Returns the word that takes the register from 0 to all ones."""
  register = 0xFFFFFFFF
  for _ in range(32):  # Backwards, bit by bit.
    bit = register >> 31
    register = ((register ^ bit * int(_CRC_POLYNOMIAL)) << 1 | bit) & 0xFFFFFFFF
  return struct.pack("<I", register)


_CRC_PREFIX = _crc_prefix()


# --- Finding files -----------------------------------------------------------


def natural_key(path: str) -> Tuple[Any, ...]:
  """Returns a sort key that puts `wiki_2` before `wiki_10`."""
  words = re.split(r"([0-9]+)", path)
  return [int(word) if i % 2 else word for i, word in enumerate(words)], path


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
          and not path.endswith(_MANIFEST_SUFFIX)
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


def _open(path: str, mode: str):
  """Opens a local file, or one of a file system that TensorFlow knows.

  Raises:
    FileNotFoundError: there is no such file.
  """
  if "://" not in path:
    return open(path, mode, encoding=None if "b" in mode else "utf-8")
  if not tf.io.gfile.exists(path):
    raise FileNotFoundError(path)
  return tf.io.gfile.GFile(path, mode)


# --- Manifests and fingerprints ----------------------------------------------


@dataclasses.dataclass(frozen=True)
class Manifest:
  """What made a record file; kept beside it as NAME.json.

  Attributes:
    stage: name of the script.
    flags: value by name of the flags that shape the records.
    fingerprints: content hash by name of the flag that names the file.
    sources: content hash by name of the source file, in the order in which
      they were read.
    vocab_size: words in the vocabulary that the ids point into.
    num_records: records in the file.
    num_bytes: size of the file.
  """
  stage: str
  flags: Mapping[str, Any]
  fingerprints: Mapping[str, str]
  sources: Mapping[str, str]
  vocab_size: int
  num_records: int = 0
  num_bytes: int = 0

  def difference(self, other: "Manifest") -> Optional[str]:
    """Names the first way in which what made `other` is not what made this.

    Counts are no part of it.

    Returns:
      "FLAG is THIS, not OTHER", or None where both say the same.
    """
    if self.stage != other.stage:
      return "stage is {}, not {}".format(self.stage, other.stage)
    for mine, theirs, name_format in (
        (self.flags, other.flags, "--{}"),
        (self.fingerprints, other.fingerprints, "the content of --{}"),
        (self.sources, other.sources, "source file {}")):
      for name in sorted(set(mine) | set(theirs)):
        if mine.get(name) != theirs.get(name):
          return "{} is {}, not {}".format(
              name_format.format(name), mine.get(name), theirs.get(name))
    if list(self.sources) != list(other.sources):
      return "the order of the source files is {}, not {}".format(
          ", ".join(self.sources), ", ".join(other.sources))
    if self.vocab_size != other.vocab_size:
      return "vocabulary size is {}, not {}".format(
          self.vocab_size, other.vocab_size)
    return None


def manifest_path(path: str) -> str:
  """Returns the path of the manifest of the record file `path`."""
  return path + _MANIFEST_SUFFIX


def read_manifest(path: str) -> Optional[Manifest]:
  """Reads the manifest beside a record file.

  Args:
    path: the record file.

  Returns:
    The manifest, or None where there is none (files of 2019).

  Raises:
    ValueError: the manifest does not parse, or is of another file.
  """
  try:
    with _open(manifest_path(path), "r") as file:
      manifest = Manifest(**json.loads(file.read()))
    with _open(path, "rb") as file:
      file.seek(0, os.SEEK_END)
      num_bytes = file.tell()
  except FileNotFoundError:
    return None
  except (TypeError, ValueError) as error:
    raise ValueError("{} is not a manifest of this project ({}); remove it if "
                     "{} is sound".format(manifest_path(path), error, path))
  if manifest.num_bytes != num_bytes:
    raise ValueError(
        "{} has {} bytes, but its manifest {} says {}: the file was changed or "
        "cut; make it again".format(path, num_bytes, manifest_path(path),
                                    manifest.num_bytes))
  return manifest


def file_fingerprint(path: str) -> str:
  """Returns the SHA-256 of a file's bytes, in hexadecimal."""
  digest = hashlib.sha256()
  with _open(path, "rb") as file:
    for block in iter(lambda: file.read(1 << 20), b""):
      digest.update(block)
  return digest.hexdigest()


def records_fingerprint(path: str) -> str:
  """Returns the SHA-256 of what made a record file, or of the file itself."""
  has_manifest = read_manifest(path) is not None
  return file_fingerprint(manifest_path(path) if has_manifest else path)


def checkpoint_fingerprint(checkpoint: str) -> str:
  """Returns the SHA-256 of a checkpoint's index.

  The index holds a checksum of every tensor, so it stands for the data too.
  """
  return file_fingerprint(checkpoint + ".index")


# --- Writing -----------------------------------------------------------------


class RecordWriter:
  """Writes a record file that appears under its name only when it is whole.

  The records go to a hidden file beside it. `commit` gives that file its name
  and writes the manifest; without it, closing throws the hidden file away,
  unless `save_progress` has said how much of it is of use.
  """

  def __init__(self, path: str, progress: Optional[Manifest] = None):
    """Opens the hidden file.

    Args:
      path: the file to make.
      progress: of an earlier run, as `read_progress` gives it, to write on
        behind; None starts afresh.
    """
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    self._path = path
    self._partial = partial_path(path)
    self._buffer = []
    self._keeps_partial = progress is not None
    if progress:
      self._file = open(self._partial, "r+b")
      self._file.truncate(progress.num_bytes)
      self._file.seek(progress.num_bytes)
      self.num_records = progress.num_records
    else:
      _remove(manifest_path(self._partial))
      self._file = open(self._partial, "wb")
      self.num_records = 0

  def write(self, serialized: bytes) -> None:
    """Appends one serialized Example."""
    self._buffer.append(serialized)
    self.num_records += 1
    if len(self._buffer) == _BUFFERED_RECORDS:
      self._flush()

  def _flush(self) -> None:
    if self._buffer:
      self._file.write(frame(self._buffer))
      self._buffer.clear()

  def save_progress(self, manifest: Manifest) -> None:
    """Keeps what is written so far for a later run, whatever ends this one.

    Args:
      manifest: what makes the file; the counts are filled in here.
    """
    self._write_manifest(manifest, self._partial)
    self._keeps_partial = True

  def commit(self, manifest: Manifest) -> None:
    """Gives the finished file its name.

    Args:
      manifest: what made it; the counts are filled in here.
    """
    # A manifest never stands beside records that it does not describe: the
    # old records go first, and a manifest alone counts for nothing.
    _remove(self._path)
    self._write_manifest(manifest, self._path)
    self._file.close()
    os.replace(self._partial, self._path)
    _remove(manifest_path(self._partial))

  def _write_manifest(self, manifest: Manifest, path: str) -> None:
    """Makes the records last, then describes them beside `path`."""
    self._flush()
    self._file.flush()
    os.fsync(self._file.fileno())
    manifest = dataclasses.replace(
        manifest, num_records=self.num_records, num_bytes=self._file.tell())
    write_atomically(
        manifest_path(path),
        json.dumps(dataclasses.asdict(manifest), indent=1) + "\n")

  def __enter__(self) -> "RecordWriter":
    return self

  def __exit__(self, *unused_exception) -> None:
    self._file.close()
    if not self._keeps_partial:
      _remove(self._partial)


def _remove(path: str) -> None:
  """Removes a file that may not be there."""
  with contextlib.suppress(FileNotFoundError):
    os.remove(path)


def read_progress(path: str, wanted: Manifest) -> Optional[Manifest]:
  """Reads how far an earlier run came with a file.

  Args:
    path: the file to make.
    wanted: what would make it.

  Returns:
    What is in the hidden file, with its counts; None where nothing is of use.

  Raises:
    ValueError: the file was begun in another way.
  """
  partial = partial_path(path)
  try:
    with open(manifest_path(partial), encoding="utf-8") as file:
      found = Manifest(**json.load(file))
    if os.path.getsize(partial) < found.num_bytes:
      return None
  except (OSError, TypeError, ValueError):
    return None
  difference = wanted.difference(found)
  if difference:
    raise ValueError(
        "{} was begun differently: {}: finish it with the flags it was begun "
        "with, or start afresh with --overwrite".format(path, difference))
  return found


def sync(path: str) -> None:
  """Makes a file's bytes survive a power cut."""
  with open(path, "rb") as file:
    os.fsync(file.fileno())


def partial_path(path: str) -> str:
  """Returns the hidden name beside `path` that unfinished output has."""
  folder, name = os.path.split(path)
  return os.path.join(folder, ".{}.partial".format(name))


def write_atomically(path: str, text: str) -> None:
  """Writes a small text file that is never half there."""
  with open(partial_path(path), "w", encoding="utf-8") as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  os.replace(partial_path(path), path)


def is_finished(path: str, wanted: Manifest, overwrite: bool) -> bool:
  """Says whether an output is there already, made in just this way.

  Args:
    path: the record file to make.
    wanted: what would make it.
    overwrite: whether to make it again in any case.

  Returns:
    True where the finished file is kept, False where it is to be made.

  Raises:
    ValueError: there is a file that was made in another way.
  """
  if os.path.isdir(path):
    raise ValueError("{} is a folder, not a file to write; name a file in it"
                     .format(path))
  if overwrite or not os.path.exists(path):
    return False
  found = read_manifest(path)
  remedy = "keep it by choosing another name, or replace it with --overwrite"
  if found is None:
    raise ValueError("{} exists, and without a manifest nothing tells how it "
                     "was made: {}".format(path, remedy))
  difference = wanted.difference(found)
  if difference:
    raise ValueError("{} exists and was made differently: {}: {}".format(
        path, difference, remedy))
  logging.info("%s is finished: %d records kept.", path, found.num_records)
  return True


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
        flag, path, first_line(error)))


def first_line(error: Exception) -> str:
  """Returns what a TensorFlow error says first, behind its heading."""
  lines = filter(None, error.message.split("\n"))
  return next((line for line in lines if line != "Graph execution error:"), "")


@contextlib.contextmanager
def errors_of_records(flag: str) -> Iterator[None]:
  """Turns what TensorFlow raises for bad records into ValueError.

  Args:
    flag: name of the flag that named the records, for errors.
  """
  try:
    yield
  except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
    # Other arguments may be invalid for a bug.
    found = re.search(r"(truncated|corrupted) record at \d+|Key: [^\n]*",
                      error.message)
    if not found:
      raise
    raise ValueError("--{}: a record is damaged or has other lengths than the "
                     "first one ({}); make the records again".format(
                         flag, found.group()))


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
    _check_record(serialized, path, shape, vocab_size)


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


def _check_record(serialized: bytes, path: str, shape: RecordShape,
                  vocab_size: int) -> None:
  """Raises ValueError where a record does not fit; as for `check_records`."""
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
    kind = "float_list" if feature.dtype == np.float32 else "int64_list"
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
    if name in _WORD_FEATURES:
      word = max(features[name].int64_list.value)
      if word >= vocab_size:
        raise ValueError(
            "--bert_config_file has vocab_size {}, but the first record in {} "
            "holds word {} ({}): use the config of the vocabulary that the "
            "records were made with".format(vocab_size, path, word, name))


# --- Datasets ----------------------------------------------------------------


def training_input_fn(
    files: Sequence[str], shape: RecordShape, seed: int, first_record: int = 0,
    num_shards: int = 1, shard_index: int = 0
) -> Callable[[Mapping[str, Any]], tf.data.Dataset]:
  """Builds an endless, shuffled input_fn for TPUEstimator.

  The order of the records follows from the seed alone, whatever seed the
  graph has. Each shard gets every num_shards-th record of an epoch.

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
    # TensorFlow mixes the graph's seed into every other one, and processes
    # that share the records differ in theirs.
    graph = tf.compat.v1.get_default_graph()
    seed_of_graph, graph.seed = graph.seed, seed
    dataset = tf.data.Dataset.from_tensor_slices(list(files))
    dataset = dataset.shuffle(len(files), seed=seed)
    dataset = dataset.interleave(
        tf.data.TFRecordDataset,
        cycle_length=min(_INTERLEAVED_FILES, len(files)))
    dataset = dataset.shard(num_shards, shard_index)
    dataset = dataset.shuffle(SHUFFLE_RECORDS, seed=seed)
    graph.seed = seed_of_graph
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

"""Packs records into half the bytes: fixed-width numbers, no padding.

Protocol buffers take one to three bytes for each integer, including the mask,
the segments and the padding, and four bytes for each probability. A compact
record is an Example of one feature, a byte string, little-endian:

  prefix         the layout, the same for all records of a file: uint8, 16 times
                 the bytes of a token id and those of a probability; uint16 K;
                 uint16 S; uint16 P
  header         uint8 next_sentence_labels; the number of masked tokens; the
                 length of the first segment
  input_ids      without padding; their number follows from the string's length
  masked_lm_positions, masked_lm_ids, top_k_indices, truncated_masked_lm_probs
                 of the masked tokens

Token ids are uint16, or int32 if the vocabulary has over 65,536 tokens.
Positions and the two numbers in the header are uint8 if S < 256, else uint16.

A probability p is float32, or a code of 8 or 16 bits. Code 0 means 0. Code c,
from 1 to the largest code C, means 2^(-18 (C - c) / (C - 1)). So 16 bits round
p by up to 0.01%, 8 bits by up to 2.5%; a p below 2^-18 is rounded to 2^-18 or
0, whichever is nearer.

Hidden states of the teacher are a second feature of the Example.

Dimensions:
  N: records per call
  S, P, K: as in `schema`
"""

import struct
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

from absl import flags
import numpy as np

from records import schema
from util.command_line import InputError

# A list for each feature, or one string for all features.
FORMATS = ("example", "compact")
PROBABILITY_BITS = ("8", "16", "32")
DEFAULT_PROBABILITY_BITS = "16"
# Code 1 means 2 to the power of this.
LEAST_EXPONENT = -18
_PREFIX = struct.Struct("<BHHH")
PREFIX_BYTES = _PREFIX.size
_LONGEST = (1 << 16) - 1
# Limit of P * K, so that a damaged prefix cannot reserve much memory.
_MOST_ENTRIES = 1 << 22
_MOST_TOKEN_IDS = 1 << 16
_MOST_SMALL = 1 << 8
_PROBABILITY_DTYPES = {8: "<u1", 16: "<u2", 32: "<f4"}


def define_flags() -> None:
  """Defines the flag for the precision of stored probabilities."""
  flags.DEFINE_enum(
      "probability_bits", DEFAULT_PROBABILITY_BITS, PROBABILITY_BITS,
      "Bits of a probability in compact records: 32 bits are exact, 16 bits "
      "round by up to 0.01%, 8 bits by up to 2.5%.")


class Field(NamedTuple):
  """A feature in the string of a compact record.

  Attributes:
    name: name of the feature.
    dtype: dtype of the numbers in the string.
    shape: shape of the feature with padding; the string has its first rows.
  """
  name: str
  dtype: np.dtype
  shape: Tuple[int, ...]

  @property
  def row_bytes(self) -> int:
    """Bytes of a row: of one token or masked token."""
    return self.dtype.itemsize * int(np.prod(self.shape[1:]))


def make_layout(shape: schema.RecordShape, vocab_size: int,
                probability_bits: int = 0) -> schema.Layout:
  """Returns the layout of records to write.

  Args:
    shape: lengths of the records.
    vocab_size: tokens in the vocabulary.
    probability_bits: one of `PROBABILITY_BITS`, as a number; ignored if K = 0.

  Raises:
    InputError: if a length is too large.
  """
  for name, length, most in (
      *((name, length, _LONGEST) for name, length in zip(
          shape._fields, shape[:3])),
      ("truncation_factor", shape.truncation_factor,
       _MOST_ENTRIES // shape.max_predictions_per_seq)):
    if length > most:
      raise InputError("--{}={} is over {}, the limit of compact records: set "
                       "--record_format=example".format(name, length, most))
  has_probabilities = shape.truncation_factor > 0
  return schema.Layout(
      shape.max_seq_length, shape.max_predictions_per_seq,
      16 if vocab_size <= _MOST_TOKEN_IDS else 32, shape.truncation_factor,
      probability_bits if has_probabilities else 0)


def prefix(layout: schema.Layout) -> bytes:
  """Returns the prefix of all records of a layout."""
  return _PREFIX.pack(
      2 * layout.token_id_bits + layout.probability_bits // 8,
      layout.truncation_factor, layout.max_seq_length,
      layout.max_predictions_per_seq)


def header_dtype(layout: schema.Layout) -> np.dtype:
  """Returns the structured dtype of the header."""
  small = _small_dtype(layout)
  return np.dtype([(schema.NEXT_SENTENCE_LABELS, np.uint8),
                   ("num_slots", small), ("first_length", small)])


def fields(layout: schema.Layout) -> List[Field]:
  """Returns the fields after the header: of tokens, then of masked tokens."""
  length, num_slots = layout.max_seq_length, layout.max_predictions_per_seq
  token_ids = np.dtype("<u2" if layout.token_id_bits == 16 else "<i4")
  found = [
      Field(schema.INPUT_IDS, token_ids, (length,)),
      Field(schema.MASKED_LM_POSITIONS, _small_dtype(layout), (num_slots,)),
      Field(schema.MASKED_LM_IDS, token_ids, (num_slots,))]
  if layout.truncation_factor:
    per_entry = (num_slots, layout.truncation_factor)
    found += [
        Field(schema.TEACHER_INDICES, token_ids, per_entry),
        Field(schema.TEACHER_PROBABILITIES,
              np.dtype(_PROBABILITY_DTYPES[layout.probability_bits]),
              per_entry)]
  return found


def _small_dtype(layout: schema.Layout) -> np.dtype:
  """Returns the dtype of numbers up to S."""
  return np.dtype("<u1" if layout.max_seq_length < _MOST_SMALL else "<u2")


# --- Encoding ----------------------------------------------------------------


def encode(features: Mapping[str, np.ndarray],
           layout: schema.Layout) -> List[bytes]:
  """Packs the features of many records at once.

  Args:
    features: arrays [N, ...] by feature name; dimensions after N may be
      flattened.
    layout: layout of the records.

  Returns:
    N byte strings.

  Raises:
    InputError: if a record does not fit the format: the ones of a mask are not
      at its start, the padding is not 0, or a number is too large.
  """
  num_records = len(features[schema.INPUT_IDS])
  lengths, headers = _headers(features, layout)
  columns = []
  for i, field in enumerate(fields(layout)):
    values = features[field.name].reshape(num_records, *field.shape)
    counts = lengths if i == 0 else headers["num_slots"].astype(np.int64)
    _check_padding(field.name, values, counts)
    values = _to_dtype(field.name, values, field.dtype)
    columns.append((values.tobytes(), field.row_bytes * field.shape[0],
                    (field.row_bytes * counts).tolist()))
  start = prefix(layout)
  packed, size = headers.tobytes(), headers.itemsize
  return [b"".join([
      start, packed[i * size:(i + 1) * size],
      *(data[i * stride:i * stride + num_bytes[i]]
        for data, stride, num_bytes in columns)]) for i in range(num_records)]


def _headers(features: Mapping[str, np.ndarray], layout: schema.Layout
            ) -> Tuple[np.ndarray, np.ndarray]:
  """Returns lengths, int64 [N], and headers, `header_dtype` [N].

  Raises:
    InputError: as for `encode`.
  """
  mask, segments = (features[name] for name in (
      schema.INPUT_MASK, schema.SEGMENT_IDS))
  weights = features[schema.MASKED_LM_WEIGHTS]
  lengths, num_slots = mask.sum(axis=1), (weights != 0).sum(axis=1)
  first_lengths = lengths - segments.sum(axis=1)
  index = np.arange(layout.max_seq_length)
  is_token = index < lengths[:, np.newaxis]
  is_second = is_token & (index >= first_lengths[:, np.newaxis])
  is_slot = (np.arange(layout.max_predictions_per_seq)
             < num_slots[:, np.newaxis])
  for name, wanted in ((schema.INPUT_MASK, is_token),
                       (schema.SEGMENT_IDS, is_second),
                       (schema.MASKED_LM_WEIGHTS, is_slot)):
    _check_all(features[name] == wanted, "{} that a compact record cannot "
               "store".format(name))
  _check_all(num_slots <= lengths, "more masked tokens than tokens")
  headers = np.empty(len(lengths), header_dtype(layout))
  for name, values in ((schema.NEXT_SENTENCE_LABELS, features[
      schema.NEXT_SENTENCE_LABELS].reshape(-1)),
                       ("num_slots", num_slots),
                       ("first_length", first_lengths)):
    headers[name] = _to_dtype(name, values, headers.dtype[name])
  return lengths.astype(np.int64), headers


def _check_padding(name: str, values: np.ndarray, counts: np.ndarray) -> None:
  """Raises InputError if values, [N, rows, ...], are not 0 after the counts."""
  is_padding = np.arange(values.shape[1]) >= counts[:, np.newaxis]
  _check_all(values[is_padding] == 0, "{} in the padding".format(name))


def _check_all(is_right: np.ndarray, problem: str) -> None:
  if not np.all(is_right):
    raise InputError("a record has {}: use --record_format=example".format(
        problem))


def _to_dtype(name: str, values: np.ndarray, dtype: np.dtype) -> np.ndarray:
  """Casts values, or encodes probabilities; raises InputError for misfits."""
  if name == schema.TEACHER_PROBABILITIES and dtype.kind == "u":
    return encode_probabilities(values, dtype)
  if dtype.kind in "ui":
    limits = np.iinfo(dtype)
    _check_all((values >= limits.min) & (values <= limits.max),
               "{} out of {}".format(name, dtype.name))
  return values.astype(dtype)


def encode_probabilities(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
  """Rounds probabilities to codes.

  Args:
    values: floats from 0 to 1; larger values, from rounding, count as 1.
    dtype: unsigned dtype of the codes.

  Raises:
    InputError: if a value is negative or NaN.
  """
  _check_all(values >= 0, "negative or NaN probabilities")
  most = np.iinfo(dtype).max
  with np.errstate(divide="ignore"):
    exponents = np.log2(values.astype(np.float64))
  codes = np.round(most - exponents * (most - 1) / LEAST_EXPONENT)
  is_over_half = values > 2.0 ** (LEAST_EXPONENT - 1)
  return np.where(is_over_half, np.clip(codes, 1, most), 0).astype(dtype)


def decode_probabilities(codes: np.ndarray) -> np.ndarray:
  """Returns the probabilities of codes, float32."""
  most = np.iinfo(codes.dtype).max
  exponents = (most - codes.astype(np.float64)) * LEAST_EXPONENT / (most - 1)
  return np.where(codes > 0, np.exp2(exponents), 0).astype(np.float32)


# --- Decoding ----------------------------------------------------------------


def layout_of(features: Mapping[str, Any]) -> Optional[schema.Layout]:
  """Returns the layout of a record, or None if it is not compact.

  Args:
    features: features as `tfrecord.decode` returns them.

  Raises:
    InputError: if the record is damaged.
  """
  if schema.COMPACT not in features:
    return None
  payload = _payload(features)
  if len(payload) < PREFIX_BYTES:
    raise _damage("it ends in the prefix")
  kind, top_k, length, num_slots = _PREFIX.unpack_from(payload)
  layout = schema.Layout(length, num_slots, kind // 16 * 8, top_k,
                         kind % 16 * 8)
  if (layout.token_id_bits not in (16, 32)
      or layout.probability_bits not in ((*_PROBABILITY_DTYPES,) if top_k
                                         else (0,))
      or num_slots * top_k > _MOST_ENTRIES):
    raise _damage("it begins with {}".format(payload[:PREFIX_BYTES].hex()))
  return layout


def expand(features: Mapping[str, Any]) -> Dict[str, Any]:
  """Unpacks a compact record; returns other records unchanged.

  Args:
    features: features as `tfrecord.decode` returns them.

  Returns:
    Features as `tfrecord.decode` returns them for a record that is not compact.

  Raises:
    InputError: if the record is damaged.
  """
  layout = layout_of(features)
  if layout is None:
    return dict(features)
  payload = _payload(features)
  dtype = header_dtype(layout)
  start = PREFIX_BYTES + dtype.itemsize
  if len(payload) < start:
    raise _damage("it ends in the header")
  header = np.frombuffer(payload, dtype, 1, PREFIX_BYTES)[0]
  num_slots, first_length = int(header["num_slots"]), int(
      header["first_length"])
  tokens, *per_slot = fields(layout)
  left = len(payload) - start - num_slots * sum(
      field.row_bytes for field in per_slot)
  num_tokens = left // tokens.row_bytes
  if (left < 0 or left % tokens.row_bytes or num_tokens > layout.max_seq_length
      or num_slots > layout.max_predictions_per_seq
      or first_length > num_tokens):
    raise _damage("it has {} bytes for {} masked tokens".format(
        len(payload), num_slots))
  index = np.arange(layout.max_seq_length)
  unpacked: Dict[str, Any] = {
      name: value for name, value in features.items()
      if name != schema.COMPACT}
  for field in (tokens, *per_slot):
    rows = num_tokens if field is tokens else num_slots
    count = rows * field.row_bytes // field.dtype.itemsize
    values = np.frombuffer(payload, field.dtype, count, start)
    start += rows * field.row_bytes
    if field.name != schema.TEACHER_PROBABILITIES:
      values = values.astype(np.int64)
    elif field.dtype.kind == "u":
      values = decode_probabilities(values)
    unpacked[field.name] = np.pad(
        values, (0, int(np.prod(field.shape)) - count))
  unpacked[schema.INPUT_MASK] = (index < num_tokens).astype(np.int64)
  unpacked[schema.SEGMENT_IDS] = (
      (index >= first_length) & (index < num_tokens)).astype(np.int64)
  unpacked[schema.MASKED_LM_WEIGHTS] = (
      np.arange(layout.max_predictions_per_seq) < num_slots).astype(np.float32)
  unpacked[schema.NEXT_SENTENCE_LABELS] = np.array(
      [header[schema.NEXT_SENTENCE_LABELS]], np.int64)
  return unpacked


def _payload(features: Mapping[str, Any]) -> bytes:
  """Returns the string of a compact record; raises InputError."""
  payloads = features[schema.COMPACT]
  if not isinstance(payloads, list) or len(payloads) != 1:
    raise _damage("it is not one string")
  return payloads[0]


def _damage(problem: str) -> InputError:
  return InputError("feature {} is damaged: {}; make the records again".format(
      schema.COMPACT, problem))


def pack(features: Mapping[str, np.ndarray],
         layout: Optional[schema.Layout]) -> Dict[str, Any]:
  """Returns the features of many records in the form that a layout stores.

  Args:
    features: arrays [N, ...] by feature name; dimensions after N may be
      flattened.
    layout: layout of the records; None for a list for each feature.

  Returns:
    Features for `tfrecord.encode`.

  Raises:
    InputError: as for `encode`.
  """
  packed: Dict[str, Any] = {}
  if layout:
    packed[schema.COMPACT] = encode(features, layout)
    features = {name: values for name, values in features.items()
                if name == schema.TEACHER_HIDDEN_STATES}
  packed.update((name, values.reshape(len(values), -1))
                for name, values in features.items())
  return packed

"""Decodes serialized records into tensors.

Dimensions:
  B: sequences in a batch
  S: max_seq_length, tokens in a sequence
  P: max_predictions_per_seq, slots for masked tokens in a sequence
  K: truncation_factor, teacher entries stored for each slot
  H: hidden_size of the teacher
"""

from typing import Dict, Mapping, Optional, Sequence, Tuple

import numpy as np
import tensorflow as tf

from records import compact
from records import schema

Limits = Mapping[str, int]

# Part of the error's message by which callers recognize the error.
OUT_OF_RANGE = "an integer of a record is out of range"


def decode(serialized: tf.Tensor, shape: schema.RecordShape,
           limits: Optional[Limits] = None) -> Dict[str, tf.Tensor]:
  """Parses a batch of serialized Examples.

  Args:
    serialized: string [B].
    shape: the lengths and layouts of the records.
    limits: exclusive upper bounds of the integers, from `schema.limits`. They
      are checked here because a GPU gathers zeros, without an error, at an
      index out of range.

  Returns:
    Tensors by feature name, [B, S], [B, P], [B, 1] and, where K > 0,
    [B, P, K], or, where H > 0, [B, P, H]. Integers are int32, which TPUs need;
    all other features are float32.

  Raises:
    tf.errors.InvalidArgumentError: at run time, if a record has other features,
      lengths or layouts, or an integer out of range.
  """
  stored = parse(serialized, shape)
  features = {name: _cast(values) for name, values in stored.items()}
  are_within = [
      _are_all_within(stored[name], features[name], limit)
      for name, limit in (limits or {}).items()]
  with tf.control_dependencies(
      [_assert(are_within, OUT_OF_RANGE)] if are_within else []):
    return {name: tf.identity(values) for name, values in features.items()}


def parse(serialized: tf.Tensor,
          shape: schema.RecordShape) -> Dict[str, tf.Tensor]:
  """Parses a batch as `decode` does, but keeps the dtypes of the records."""
  parsed = (_parse_one_kind(serialized, shape, shape.layouts[0])
            if len(shape.layouts) == 1 else _parse_mixed(serialized, shape))
  for name, feature in schema.features(shape).items():
    parsed[name].set_shape([*serialized.shape, *feature.shape])
  return parsed


def _parse_one_kind(serialized: tf.Tensor, shape: schema.RecordShape,
                    layout: Optional[schema.Layout]) -> Dict[str, tf.Tensor]:
  if layout is None:
    return _parse_example(serialized, shape)
  return _parse_compact(serialized, shape, layout)


def _parse_mixed(serialized: tf.Tensor,
                 shape: schema.RecordShape) -> Dict[str, tf.Tensor]:
  """Parses records of several layouts, one layout at a time."""
  payloads = tf.io.parse_example(serialized, {
      schema.COMPACT: tf.io.FixedLenFeature([], tf.string, "")})[schema.COMPACT]
  prefixes = tf.strings.substr(payloads, 0, compact.PREFIX_BYTES)
  indices = [
      tf.where(tf.equal(prefixes, compact.prefix(layout) if layout else ""))
      [:, 0] for layout in shape.layouts]
  num_known = tf.add_n([tf.size(rows) for rows in indices])
  with tf.control_dependencies([_assert_lengths(
      [tf.equal(num_known, tf.size(serialized))], schema.COMPACT)]):
    parsed = [_parse_one_kind(tf.gather(serialized, rows), shape, layout)
              for layout, rows in zip(shape.layouts, indices)]
  # int64, because a cast to int32 may bring a number back into its range.
  return {name: tf.dynamic_stitch(
      [tf.cast(rows, tf.int32) for rows in indices],
      [_cast(features[name], tf.int64) for features in parsed])
          for name in parsed[0]}


def _cast(values: tf.Tensor, integers: tf.DType = tf.int32) -> tf.Tensor:
  """Casts integers to one dtype and floats to float32."""
  return tf.cast(values, integers if values.dtype.is_integer else tf.float32)


def _parse_example(serialized: tf.Tensor,
                   shape: schema.RecordShape) -> Dict[str, tf.Tensor]:
  """Parses Examples with a list for each feature."""
  features = schema.features(shape)
  parsed = tf.io.parse_example(serialized, {
      name: tf.io.FixedLenFeature([], tf.string) if is_bytes(feature)
      else tf.io.FixedLenFeature(feature.shape, tf.as_dtype(feature.dtype))
      for name, feature in features.items()
  })
  return {name: _from_bytes(parsed[name], name, feature)
          if is_bytes(feature) else parsed[name]
          for name, feature in features.items()}


def _parse_compact(serialized: tf.Tensor, shape: schema.RecordShape,
                   layout: schema.Layout) -> Dict[str, tf.Tensor]:
  """Parses compact records of one layout."""
  wanted = schema.features(shape)
  by_name = {name: feature for name, feature in wanted.items()
             if is_bytes(feature)}
  parsed = tf.io.parse_example(serialized, {
      name: tf.io.FixedLenFeature([], tf.string)
      for name in (schema.COMPACT, *by_name)})
  payloads = parsed[schema.COMPACT]
  features = {name: _from_bytes(parsed[name], name, feature)
              for name, feature in by_name.items()}
  header, num_tokens, start = _parse_header(payloads, layout)
  num_slots = header["num_slots"]
  for i, field in enumerate(compact.fields(layout)):
    num_bytes = field.row_bytes * (num_slots if i else num_tokens)
    if field.name in wanted:
      features[field.name] = _from_codes(tf.io.decode_raw(
          tf.strings.substr(payloads, start, num_bytes),
          tf.as_dtype(field.dtype),
          fixed_length=field.row_bytes * field.shape[0]), field)
    start += num_bytes
  length = layout.max_seq_length
  features[schema.INPUT_MASK] = _ones(num_tokens, length)
  features[schema.SEGMENT_IDS] = features[schema.INPUT_MASK] - _ones(
      header["first_length"], length)
  features[schema.MASKED_LM_WEIGHTS] = tf.cast(
      _ones(num_slots, layout.max_predictions_per_seq), tf.float32)
  features[schema.NEXT_SENTENCE_LABELS] = header[
      schema.NEXT_SENTENCE_LABELS][:, tf.newaxis]
  return {name: features[name] for name in wanted}


def _parse_header(payloads: tf.Tensor, layout: schema.Layout
                 ) -> Tuple[Dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
  """Parses the headers of compact records and checks the records' lengths.

  Returns:
    The header's numbers by name, the numbers of tokens, and the offsets of the
    tokens in bytes; each int32 [B].
  """
  dtype = compact.header_dtype(layout)
  start = compact.PREFIX_BYTES + dtype.itemsize
  lengths = tf.strings.length(payloads)
  is_known = tf.logical_and(lengths >= start, tf.equal(
      tf.strings.substr(payloads, 0, compact.PREFIX_BYTES),
      compact.prefix(layout)))
  first_bytes = tf.io.decode_raw(payloads, tf.uint8, fixed_length=start)
  header = {}
  assert dtype.names and dtype.fields
  for name in dtype.names:
    field_dtype, offset = dtype.fields[name][:2]
    offset += compact.PREFIX_BYTES
    field_bytes = first_bytes[:, offset:offset + field_dtype.itemsize]
    header[name] = tf.cast(tf.bitcast(
        field_bytes if field_dtype.itemsize > 1 else field_bytes[:, 0],
        tf.as_dtype(field_dtype)), tf.int32)
  tokens, *per_slot = compact.fields(layout)
  token_bytes = lengths - start - header["num_slots"] * sum(
      field.row_bytes for field in per_slot)
  num_tokens = token_bytes // tokens.row_bytes
  are_right = [
      is_known, token_bytes >= 0,
      tf.equal(token_bytes % tokens.row_bytes, 0),
      num_tokens <= layout.max_seq_length,
      header["first_length"] <= num_tokens,
      header["num_slots"] <= layout.max_predictions_per_seq]
  with tf.control_dependencies([_assert_lengths(are_right, schema.COMPACT)]):
    return header, tf.identity(num_tokens), start + tf.zeros_like(lengths)


def _ones(counts: tf.Tensor, length: int) -> tf.Tensor:
  """Returns rows of `counts` [B] ones, then zeros, uint8 [B, length]."""
  # A comparison with indices, as in tf.sequence_mask, takes ten times as long.
  return tf.io.decode_raw(
      tf.strings.substr(b"\1" * length, tf.zeros_like(counts), counts),
      tf.uint8, fixed_length=length)


def _from_codes(values: tf.Tensor, field: compact.Field) -> tf.Tensor:
  """Reshapes a field of compact records, [B, size], and decodes its codes."""
  values = tf.reshape(values, [-1, *field.shape])
  if (field.name == schema.TEACHER_PROBABILITIES
      and values.dtype.is_integer):
    most = values.dtype.max
    codes = tf.cast(values, tf.float32)
    scale = compact.LEAST_EXPONENT * np.log(2.0) / (most - 1)
    # The minimum maps the code 0 to the probability 0.
    return tf.minimum(codes, 1.0) * tf.exp((most - codes) * scale)
  return values


def is_bytes(feature: schema.Feature) -> bool:
  """Returns whether a feature is stored as a string of bytes."""
  return feature.dtype == np.float16


def _from_bytes(values: tf.Tensor, name: str,
                feature: schema.Feature) -> tf.Tensor:
  """Decodes strings [B] into arrays of the feature's dtype and shape."""
  num_bytes = np.prod(feature.shape) * np.dtype(feature.dtype).itemsize
  lengths = tf.strings.length(values)
  with tf.control_dependencies([_assert_lengths(
      [tf.equal(lengths, num_bytes)], name)]):
    # TensorFlow has no kernel that decodes float16.
    decoded = tf.io.decode_raw(values, tf.uint16, fixed_length=num_bytes)
  return tf.reshape(tf.bitcast(decoded, tf.float16), [-1, *feature.shape])


def _assert_lengths(are_right: Sequence[tf.Tensor], name: str) -> tf.Operation:
  """Asserts that the strings of a feature have the right lengths.

  The message begins like TensorFlow's for a list of the wrong length, so
  callers recognize both.
  """
  return _assert(
      are_right, "Key: {}. A string of unexpected length".format(name))


def are_within(values: tf.Tensor, limit: int) -> tf.Tensor:
  """Returns whether each integer is in [0, limit), as bool."""
  return tf.logical_and(values >= 0, values < limit)


def _are_all_within(stored: tf.Tensor, read: tf.Tensor,
                    limit: int) -> tf.Tensor:
  """Returns whether all integers are in [0, limit), as a bool scalar.

  Args:
    stored: integers in the dtype of the records.
    read: the same integers as int32.
    limit: exclusive upper bound.
  """
  if stored.dtype.is_unsigned:  # The maximum of int32 takes half the time.
    return tf.reduce_max(read) < limit
  return tf.logical_and(
      tf.reduce_max(stored) < limit, tf.reduce_min(stored) >= 0)


def _assert(conditions: Sequence[tf.Tensor], message: str) -> tf.Operation:
  """Asserts that all bools, each [] or [B], are true."""
  # tf.debugging.Assert adds a conditional per bool, at ten times the cost.
  return tf.raw_ops.Assert(
      condition=tf.reduce_all(tf.stack(conditions)), data=[message])

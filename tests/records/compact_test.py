"""Tests of compact records: their bytes, their limits and their decoding."""

import numpy as np
import pytest
import tensorflow as tf

from records import compact
from records import decoding
from records import input_pipeline
from records import schema
from records import tfrecord
import tiny
from util.command_line import InputError

_HIDDEN = tiny.SHAPE._replace(truncation_factor=0, teacher_hidden_size=8)
# Positions take one byte or two, token ids two bytes or four.
_CASES = [(shape, vocab_size, bits)
          for shape, vocab_size in (
              (tiny.SHAPE, 29), (schema.RecordShape(256, 5, 3), 65536),
              (schema.RecordShape(255, 1, 1), 65537))
          for bits in (8, 16, 32)]


def _layout(shape=tiny.SHAPE, vocab_size=29, bits=16):
  return compact.make_layout(shape, vocab_size, bits)


def _batch(examples):
  """Returns the features of many records, [N, ...]."""
  return {name: np.stack([features[name] for features in examples])
          for name in examples[0]}


def _examples(shape, vocab_size, count=9):
  config = tiny.CONFIG
  config = type(config)(**dict(config.to_dict(), vocab_size=vocab_size))
  generator = np.random.default_rng(1)
  return [tiny.random_features(generator, config, shape)
          for _ in range(count)]


def _decode(serialized, shape, *layouts, limits=None):
  with input_pipeline.record_errors("input_file"):
    return {name: values.numpy() for name, values in decoding.decode(
        tf.constant(serialized), shape._replace(layouts=layouts),
        limits).items()}


# --- Bytes -------------------------------------------------------------------


def test_the_bytes_are_as_documented():
  features = {
      schema.INPUT_IDS: [2, 258, 3, 0], schema.INPUT_MASK: [1, 1, 1, 0],
      schema.SEGMENT_IDS: [0, 1, 1, 0], schema.MASKED_LM_POSITIONS: [1, 0],
      schema.MASKED_LM_IDS: [9, 0], schema.MASKED_LM_WEIGHTS: [1.0, 0.0],
      schema.NEXT_SENTENCE_LABELS: [1],
      schema.TEACHER_INDICES: [[7, 8], [0, 0]],
      # 1 has the largest code; 2^-9 is half-way to 2^-18, which has the code 1.
      schema.TEACHER_PROBABILITIES: [[1.0, 2.0**-9], [0.0, 0.0]]}
  record, = compact.encode(
      {name: np.array([values]) for name, values in features.items()},
      _layout(schema.RecordShape(4, 2, 2)))
  assert record == bytes([
      16 * 2 + 2, 2, 0, 4, 0, 2, 0,  # 2 bytes an id, 2 a probability; K, S, P.
      1, 1, 1,  # Random next, one masked token, one token in the first segment.
      2, 0, 2, 1, 3, 0,
      1, 9, 0, 7, 0, 8, 0,
      255, 255, 0, 128])


@pytest.mark.parametrize("shape, vocab_size, bits", _CASES)
def test_expanding_is_the_inverse_of_packing(shape, vocab_size, bits):
  examples = _examples(shape, vocab_size)
  layout = _layout(shape, vocab_size, bits)
  serialized = tfrecord.encode(compact.pack(_batch(examples), layout))
  decoded = _decode(serialized, shape, layout)
  tolerance = {8: 0.025, 16: 1e-4, 32: 1e-7}[bits]
  for i, features in enumerate(examples):
    stored = tfrecord.decode(serialized[i])
    assert set(stored) == {"compact"}
    assert compact.layout_of(stored) == layout
    expanded = compact.expand(stored)
    plain = tfrecord.decode(tiny.serialize(features))
    assert set(expanded) == set(plain)
    for name, values in plain.items():
      assert expanded[name].dtype == values.dtype
      np.testing.assert_allclose(
          expanded[name], values, rtol=tolerance, atol=2**-19)
      np.testing.assert_allclose(
          decoded[name][i].ravel(), expanded[name], rtol=2e-6)


def test_hidden_states_stay_a_feature_of_their_own():
  examples = [tiny.with_hidden_states(features, seed) for seed, features in
              enumerate(tiny.random_examples(5, seed=2))]
  layout = _layout(_HIDDEN)
  assert (layout.truncation_factor, layout.probability_bits) == (0, 0)
  serialized = tfrecord.encode(compact.pack(_batch(examples), layout))
  assert set(compact.expand(tfrecord.decode(serialized[0]))) == set(examples[0])
  decoded = _decode(serialized, _HIDDEN, layout)
  for name, values in _batch(examples).items():
    np.testing.assert_array_equal(decoded[name], values.astype(float))


def test_labels_are_not_decoded_at_a_truncation_factor_of_0():
  layout = _layout()
  serialized = tfrecord.encode(
      compact.pack(_batch(tiny.random_examples(4, seed=1)), layout))
  decoded = _decode(
      serialized, tiny.SHAPE._replace(truncation_factor=0), layout)
  assert set(decoded) == set(schema.features(tiny.SHAPE)) - set(schema.LABELS)


def test_a_compact_record_takes_half_the_bytes():
  """The records are average film reviews: 113 tokens, 17 of them masked."""
  shape = schema.RecordShape(128, 20, 10)
  features = _batch(_examples(shape, 30522))
  num_tokens, num_slots = 113, 17
  is_slot = np.arange(20) < num_slots
  for name in (schema.INPUT_MASK, schema.SEGMENT_IDS, schema.INPUT_IDS):
    features[name][:] = np.arange(128) < num_tokens
  for name in (schema.MASKED_LM_WEIGHTS, schema.MASKED_LM_IDS,
               schema.MASKED_LM_POSITIONS):
    features[name][:] = is_slot
  for name in (schema.TEACHER_INDICES, schema.TEACHER_PROBABILITIES):
    features[name][:] = is_slot[:, np.newaxis]
  # Each of these ids takes two bytes in both formats.
  for name in (schema.INPUT_IDS, schema.MASKED_LM_IDS, schema.TEACHER_INDICES):
    features[name] *= 10000
  plain = tfrecord.encode(compact.pack(features, None))
  assert min(map(len, plain)) + tfrecord.FRAME_BYTES > 2 * 1020
  for bits, most in ((16, 1020), (8, 850)):
    serialized = tfrecord.encode(
        compact.pack(features, _layout(shape, 30522, bits)))
    assert max(map(len, serialized)) + tfrecord.FRAME_BYTES <= most


# --- Probabilities -----------------------------------------------------------


@pytest.mark.parametrize("dtype, error", [(np.uint8, 0.025), (np.uint16, 1e-4)])
def test_probabilities_are_rounded_to_the_nearest_logarithm(dtype, error):
  codes = np.arange(np.iinfo(dtype).max + 1).astype(dtype)
  values = compact.decode_probabilities(codes)
  assert values[0] == 0 and values[-1] == 1
  assert values[1] == np.float32(2.0**-18)
  assert (np.diff(values) > 0).all()
  np.testing.assert_array_equal(
      compact.encode_probabilities(values, np.dtype(dtype)), codes)
  probabilities = np.exp2(-np.random.default_rng(0).uniform(0, 18, 10000))
  rounded = compact.decode_probabilities(
      compact.encode_probabilities(probabilities, np.dtype(dtype)))
  found = np.abs(rounded / probabilities - 1).max()
  assert error / 2 < found < error


@pytest.mark.parametrize("value, code", [
    (0.0, 0), (1e-30, 0), (2.0**-19, 0), (2.0**-18.9, 1), (2.0**-18, 1),
    (1.0, 65535), (1.004, 65535)])
def test_codes_of_extreme_probabilities(value, code):
  assert compact.encode_probabilities(
      np.array([value]), np.dtype(np.uint16)) == [code]


# --- Records that do not fit -------------------------------------------------


@pytest.mark.parametrize("name, index, value, told", [
    (schema.INPUT_MASK, 1, 0, "input_mask that"),
    (schema.SEGMENT_IDS, 0, 1, "segment_ids that"),
    (schema.SEGMENT_IDS, 9, 1, "segment_ids that"),
    (schema.MASKED_LM_WEIGHTS, 0, 0.5, "masked_lm_weights that"),
    (schema.MASKED_LM_WEIGHTS, 0, 0.0, "masked_lm_weights that"),
    (schema.INPUT_IDS, 9, 4, "input_ids in the padding"),
    (schema.INPUT_IDS, 0, 65536, "input_ids out of uint16"),
    (schema.INPUT_IDS, 0, -1, "input_ids out of uint16"),
    (schema.MASKED_LM_IDS, 2, 4, "masked_lm_ids in the padding"),
    (schema.MASKED_LM_POSITIONS, 0, 256, "masked_lm_positions out of uint8"),
    (schema.NEXT_SENTENCE_LABELS, 0, -1, "next_sentence_labels out of uint8"),
    (schema.TEACHER_INDICES, (2, 0), 4, "top_k_indices in the padding"),
    (schema.TEACHER_PROBABILITIES, (2, 0), 0.5,
     "truncated_masked_lm_probs in the padding"),
    (schema.TEACHER_PROBABILITIES, (0, 0), -0.5,
     "negative or NaN probabilities"),
    (schema.TEACHER_PROBABILITIES, (0, 0), np.nan,
     "negative or NaN probabilities"),
])
def test_a_record_that_does_not_fit_is_refused(name, index, value, told):
  examples = [features for features in tiny.random_examples(50, seed=4)
              if features[schema.MASKED_LM_WEIGHTS].tolist() == [1, 1, 0]
              and not features[schema.INPUT_MASK][9]][:2]
  compact.encode(_batch(examples), _layout())
  examples[1][name][index] = value
  with pytest.raises(InputError, match="a record has {}.*example".format(told)):
    compact.encode(_batch(examples), _layout())


@pytest.mark.parametrize("shape, told", [
    ((65536, 3), "--max_seq_length=65536 is over 65535"),
    ((512, 65535, 65), "--truncation_factor=65 is over 64")])
def test_lengths_that_are_too_large_are_refused(shape, told):
  with pytest.raises(InputError, match=told + ".*example"):
    _layout(schema.RecordShape(*shape))


# --- Reading -----------------------------------------------------------------


def test_a_batch_may_hold_records_of_all_kinds():
  examples = tiny.random_examples(12, seed=3)
  layouts = (None, _layout(), _layout(bits=8), _layout(bits=32))
  serialized = [tiny.serialize(features, layouts[i % 4])
                for i, features in enumerate(examples)]
  limits = schema.limits(tiny.SHAPE, 29, 2)
  decoded = _decode(serialized, tiny.SHAPE, *layouts, limits=limits)
  for name, values in _batch(examples).items():
    assert decoded[name].dtype in (np.int32, np.float32)
    np.testing.assert_allclose(decoded[name], values, rtol=0.025, atol=2**-19)

  with pytest.raises(InputError, match="other lengths.*Key: compact"):
    _decode(serialized, tiny.SHAPE, *layouts[:2])


@pytest.mark.parametrize("shape, layouts", [
    (tiny.SHAPE, (None,)), (tiny.SHAPE, (_layout(),)),
    (tiny.SHAPE, (None, _layout())), (_HIDDEN, (_layout(_HIDDEN),))])
def test_the_shapes_of_a_batch_are_static(shape, layouts):
  decode = tf.function(lambda serialized: decoding.decode(
      serialized, shape._replace(layouts=layouts)))
  assert decode.get_concrete_function(
      tf.TensorSpec([12], tf.string)).output_shapes == {
          name: (12, *feature.shape)
          for name, feature in schema.features(shape).items()}


def test_integers_out_of_range_are_found():
  serialized = tfrecord.encode(
      compact.pack(_batch(tiny.random_examples(4, seed=1)), _layout()))
  limits = schema.limits(tiny.SHAPE, 29, 2)
  _decode(serialized, tiny.SHAPE, _layout(), limits=limits)
  for name in limits:
    with pytest.raises(tf.errors.InvalidArgumentError,
                       match=decoding.OUT_OF_RANGE):
      decoding.decode(
          tf.constant(serialized), tiny.SHAPE._replace(layouts=(_layout(),)),
          dict(limits, **{name: 1}))


def test_integers_of_over_32_bits_are_found_among_others():
  examples = tiny.random_examples(2, seed=1)
  examples[0][schema.INPUT_IDS][0] = (1 << 32) + 5
  serialized = [tiny.serialize(examples[0]),
                tiny.serialize(examples[1], _layout())]
  with pytest.raises(tf.errors.InvalidArgumentError,
                     match=decoding.OUT_OF_RANGE):
    decoding.decode(
        tf.constant(serialized), tiny.SHAPE._replace(layouts=(None, _layout())),
        schema.limits(tiny.SHAPE, 29, 2))


def _with_payload(payload):
  return tfrecord.encode({"compact": [payload]})[0]


def test_both_readers_agree_on_damaged_records():
  payload, = compact.encode(
      _batch(tiny.random_examples(1, seed=1)), _layout())
  variants = [payload[:i] for i in range(len(payload))]
  variants += [payload + b"x", payload + payload]
  for i in range(12):
    variants += [payload[:i] + bytes([value]) + payload[i + 1:]
                 for value in (0, 1, 3, 17, 34, 255)]
  outcomes = set()
  for variant in variants:
    serialized = _with_payload(variant)
    stored = tfrecord.decode(serialized)
    try:
      expanded = compact.expand(stored)
      is_right = compact.layout_of(stored) == _layout()
    except InputError as error:
      assert "again" in str(error)
      is_right = False
    try:
      decoded = _decode([serialized], tiny.SHAPE, _layout())
      assert is_right, variant
      for name, values in expanded.items():
        np.testing.assert_allclose(
            decoded[name].ravel(), values, rtol=2e-6)
    except InputError:
      assert not is_right, variant
    outcomes.add(is_right)
  assert outcomes == {False, True}


def test_a_compact_feature_of_another_type_is_refused():
  for values in (np.array([[1]]), np.array([[0.5]], np.float32)):
    features = tfrecord.decode(tfrecord.encode({"compact": values})[0])
    with pytest.raises(InputError, match="compact is damaged"):
      compact.expand(features)

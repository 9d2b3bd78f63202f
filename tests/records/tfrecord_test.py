"""Tests of reading and writing TFRecord files of Examples."""

import random
import struct

import numpy as np
import pytest
import tensorflow as tf

from records import schema
from records import tfrecord
import tiny
from util.command_line import InputError


def _serialize_by_tensorflow(features):
  """Serializes features as protocol buffers do, with sorted keys."""
  example = tf.train.Example()
  for name, values in features.items():
    values = np.asarray(values)
    feature = example.features.feature[name]
    if values.dtype == np.float16:
      feature.bytes_list.value.append(values.tobytes())
      continue
    kind = feature.float_list if values.dtype.kind == "f" else (
        feature.int64_list)
    kind.value.extend(values.ravel().tolist())
  return example.SerializeToString(deterministic=True)


def _labels(examples):
  """Removes the labels from features; returns them by name, [N, P * K]."""
  return {name: np.stack([features.pop(name).ravel() for features in examples])
          for name in (schema.TEACHER_PROBABILITIES, schema.TEACHER_INDICES)}


def _write(path, content):
  path.write_bytes(content)
  return str(path)


def _read_by_tensorflow(path):
  return list(tf.data.TFRecordDataset(path).as_numpy_iterator())


# --- Encoding ----------------------------------------------------------------


def test_features_have_the_types_of_the_2019_records():
  features = tiny.random_features(np.random.default_rng(0))
  serialized = tiny.serialize(features)
  assert serialized == _serialize_by_tensorflow(features)
  kinds = {name: feature.WhichOneof("kind") for name, feature in
           tf.train.Example.FromString(serialized).features.feature.items()}
  floats = {"masked_lm_weights", "truncated_masked_lm_probs"}
  assert kinds == {name: "float_list" if name in floats else "int64_list"
                   for name in features}


@pytest.mark.parametrize("limit", [1, 2, 127, 128, 129, 16384, 2**21, 2**31,
                                   2**62])
def test_batches_are_encoded_as_tensorflow_encodes_each_record(limit):
  generator = np.random.default_rng(limit)
  features = {
      schema.INPUT_IDS: generator.integers(0, limit, (9, 200)),
      schema.NEXT_SENTENCE_LABELS: generator.integers(0, 2, (9, 1)),
      schema.MASKED_LM_IDS: np.full((9, 3), limit - 1),
      schema.INPUT_MASK: np.zeros((9, 130), np.int32),
      schema.MASKED_LM_WEIGHTS: generator.random((9, 5), np.float32),
      schema.TEACHER_HIDDEN_STATES: generator.random((9, 99), np.float32
                                                    ).astype(np.float16),
  }
  features[schema.INPUT_IDS][3:] //= 3
  features[schema.INPUT_IDS][8] = 0
  assert tfrecord.encode(features) == [
      _serialize_by_tensorflow(
          {name: values[i] for name, values in features.items()})
      for i in range(9)]


def test_tensorflow_parses_encoded_records():
  ids = np.array([[0, 127, 128, 16383, 16384, 2**40]])
  weights = np.array([[0.0, 0.5, 1.0]])
  serialized, = tfrecord.encode(
      {"input_ids": ids, "masked_lm_weights": weights})
  features = tf.train.Example.FromString(serialized).features.feature
  assert features["input_ids"].int64_list.value == ids[0].tolist()
  assert features["masked_lm_weights"].float_list.value == [0.0, 0.5, 1.0]


def test_labels_are_added_and_replaced():
  features = tiny.random_features(np.random.default_rng(0))
  wanted = tiny.serialize(features)
  labels = _labels([features])
  labelled = tfrecord.add_features([tiny.serialize(features)], labels)
  assert labelled == [wanted]
  assert tfrecord.add_features(labelled, labels) == [wanted]


def test_labels_are_added_to_many_records_at_once():
  examples = tiny.random_examples(9, seed=1)
  wanted = [tiny.serialize(features) for features in examples]
  labels = _labels(examples)
  plain = [tiny.serialize(features) for features in examples]
  # Record 3 has other labels, which are replaced; record 4 an unknown field.
  plain[3], = tfrecord.add_features(
      plain[3:4], {name: values[:1] * 0 for name, values in labels.items()})
  plain[4] += b"\x78\x01"
  assert tfrecord.add_features(plain, labels) == wanted


def test_replaced_features_keep_the_keys_sorted():
  features = {"b": [1], "d": [2]}
  record = _serialize_by_tensorflow(features)
  changes = {"c": np.array([[0.5]]), "a": np.array([[3]]), "d": np.array([[4]])}
  assert tfrecord.add_features([record], changes) == [
      _serialize_by_tensorflow({"a": [3], "b": [1], "c": [0.5], "d": [4]})]


@pytest.mark.parametrize("record", [b"text", b"\x0a"])
def test_features_are_added_only_to_examples(record):
  labels = {"a": np.array([[1]])}
  assert tfrecord.add_features([b""], labels) == tfrecord.encode(labels)
  with pytest.raises(InputError, match="not a tf.train.Example"):
    tfrecord.add_features([record], labels)


# --- Decoding ----------------------------------------------------------------


def test_decoding_is_the_inverse_of_encoding():
  features = tiny.random_features(np.random.default_rng(0))
  decoded = tfrecord.decode(tiny.serialize(features))
  assert set(decoded) == set(features)
  for name, feature in schema.features(tiny.SHAPE).items():
    assert decoded[name].dtype == feature.dtype
    np.testing.assert_array_equal(
        decoded[name], features[name].astype(feature.dtype).ravel())


def test_all_kinds_of_features_are_decoded():
  numbers = [0, -1, 2**63 - 1, -2**63, 300]
  example = tf.train.Example()
  example.features.feature["bytes"].bytes_list.value.extend([b"", b"ab"])
  example.features.feature["ids"].int64_list.value.extend(numbers)
  example.features.feature["floats"].float_list.value.extend([0.5, -2])
  example.features.feature["none"].int64_list.value.extend([])
  example.features.feature["unset"].SetInParent()
  decoded = tfrecord.decode(example.SerializeToString())
  assert decoded.pop("bytes") == [b"", b"ab"]
  assert {name: values.tolist() for name, values in decoded.items()} == {
      "ids": numbers, "floats": [0.5, -2], "none": [], "unset": []}


@pytest.mark.parametrize("values, kind, wanted", [
    # Field 1 of the list: integers as varints, floats as four bytes.
    (b"\x08\x05\x08\xac\x02\x08" + b"\xff" * 9 + b"\x01", 3, [5, 300, -1]),
    (b"\x0d" + struct.pack("<f", 0.5) + b"\x0d" + struct.pack("<f", -2), 2,
     [0.5, -2]),
    # A list may have packed and unpacked values.
    (b"\x08\x05\x0a\x02\x06\x07", 3, [5, 6, 7]),
])
def test_lists_that_are_not_packed_are_decoded(values, kind, wanted):
  serialized = _example_of(bytes([kind << 3 | 2, len(values)]) + values)
  feature = tf.train.Example.FromString(serialized).features.feature["a"]
  assert getattr(feature, feature.WhichOneof("kind")).value == wanted
  assert tfrecord.decode(serialized)["a"].tolist() == wanted


def _example_of(feature):
  """Serializes an Example with a feature "a", given as a message."""
  entry = b"\x0a\x01a\x12" + bytes([len(feature)]) + feature
  features = b"\x0a" + bytes([len(entry)]) + entry
  return b"\x0a" + bytes([len(features)]) + features


@pytest.mark.parametrize("serialized", [
    b"text", b"\x0a\xff", b"\x0a\x05a", b"\x0b", b"\x08\x01",
    _example_of(b"\x1a\x01\x08"),  # A cut varint.
    _example_of(b"\x1a\x03\x0a\x01\x80"),  # A cut varint in a packed list.
    _example_of(b"\x12\x04\x0a\x02ab"),  # Half a float.
    _example_of(b"\x1a\x0c\x08" + b"\xff" * 10 + b"\x01"),  # 71 bits.
    _example_of(b"\x1a\x0d\x0a\x0b" + b"\xff" * 10 + b"\x01"),
    _example_of(b"\x18\x01"),  # A number in place of a list.
])
def test_data_that_is_no_example_is_an_error(serialized):
  with pytest.raises(InputError) as error:
    tfrecord.decode(serialized)
  assert str(error.value).count("not a tf.train.Example") == 1


def test_bits_beyond_int64_are_dropped():
  """Protocol buffers drop these bits, too."""
  values = b"\x08" + b"\xff" * 9 + b"\x7f"
  serialized = _example_of(bytes([3 << 3 | 2, len(values)]) + values)
  feature = tf.train.Example.FromString(serialized).features.feature["a"]
  assert feature.int64_list.value == [-1]
  assert tfrecord.decode(serialized)["a"].tolist() == [-1]


# --- Frames ------------------------------------------------------------------


def test_frames_of_all_lengths_are_read_by_tensorflow(tmp_path):
  rng = random.Random(0)
  messages = [bytes(rng.choices(range(256), k=length))
              for length in range(300)]
  messages += [bytes(rng.choices(range(256), k=70000)), b"\0" * 1000]
  rng.shuffle(messages)
  path = _write(tmp_path / "a.tfrecord",
                tfrecord.frame(messages[:7]) + tfrecord.frame(messages[7:]))
  assert _read_by_tensorflow(path) == messages
  assert list(tfrecord.read(path, "input_file")) == messages


@pytest.mark.parametrize("message, checksum", [
    # RFC 3720, B.4, and the usual check value.
    (b"\0" * 32, 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
    (b"123456789", 0xE3069283),
    (b"", 0),
])
def test_checksums_are_those_of_the_standard(tmp_path, message, checksum):
  framed = tfrecord.frame([message])
  # TFRecord rotates a checksum by 15 bits and adds a constant.
  rotated = (checksum >> 15 | checksum << 17) & 0xFFFFFFFF
  assert framed[-4:] == struct.pack(
      "<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)
  assert _read_by_tensorflow(_write(tmp_path / "a", framed)) == [message]


_FRAMES = tfrecord.frame([b"one", b"two"])
_SECOND = len(_FRAMES) // 2


def _huge_frame(length):
  """Returns the head of a frame of some length, with a valid checksum."""
  packed = struct.pack("<Q", length)
  return packed + tfrecord.frame([packed])[-4:]


@pytest.mark.parametrize("content, problem, position", [
    (b"text, but no records", "corrupt", 0),
    (b"text", "cut", 0),
    (_FRAMES[:-1], "cut", _SECOND),
    (_FRAMES[:_SECOND + 5], "cut", _SECOND),
    (_FRAMES[:-5] + b"O" + _FRAMES[-4:], "corrupt", _SECOND),
    (_FRAMES[:-1] + b"?", "corrupt", _SECOND),
    (_FRAMES + b"\0" * 12, "corrupt", 2 * _SECOND),
    (_FRAMES + _huge_frame(1 << 60) + b"data", "cut", 2 * _SECOND),
    (_FRAMES + _huge_frame((1 << 64) - 1) + b"data", "cut", 2 * _SECOND),
])
def test_a_damaged_file_is_an_error_that_names_the_byte(
    tmp_path, content, problem, position):
  """The error comes before the reader allocates memory for the record."""
  path = _write(tmp_path / "a.tfrecord", content)
  found = []
  with pytest.raises(InputError, match="--input_file: {} is damaged .*\\({} "
                     "record at byte {}\\)".format(path, problem, position)):
    for record in tfrecord.read(path, "input_file"):
      found.append(record)
  assert found == [b"one", b"two"][:position // _SECOND]


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="none.tfrecord"):
    next(tfrecord.read(str(tmp_path / "none.tfrecord"), "input_file"))

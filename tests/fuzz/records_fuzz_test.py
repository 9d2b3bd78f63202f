"""Fuzz tests of record files, manifests and vocabularies."""

import dataclasses
import json
import os
import struct

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
import tensorflow as tf

import fuzzing
from records import compact
from records import block_index
from records import manifest
from records import record_writer
from records import sampling
from records import schema
from records import tfrecord
import tiny
import tokenization
from util import files
from util.command_line import InputError

pytestmark = pytest.mark.slow
_INT64 = st.integers(0, 2**63 - 1) | st.integers(0, 300)
_FLOAT32 = st.floats(width=32, allow_nan=False)
_NAMES = st.sampled_from(
    ["input_ids", "a", "b", "top_k_indices", "ä", ""]) | st.text(max_size=4)


# --- Files of records --------------------------------------------------------

_RECORDS = st.lists(st.binary(max_size=40) | st.just(b"long " * 60),
                    max_size=5)


def _forged_head(length):
  """Returns the head of a frame: a length with a correct checksum."""
  packed = struct.pack("<Q", length)
  return packed + tfrecord.frame([packed])[-4:]


_HEADS = [_forged_head(length) for length in (
    0, 1, 7, 1000, 1 << 31, 1 << 40, 1 << 60, (1 << 63) - 1, (1 << 64) - 1)]


def _read_records(path, content):
  """Returns the records before any error, and whether the file is refused."""
  path.write_bytes(content)
  found = []

  def read():
    for record in tfrecord.read(str(path), "input_file"):
      found.append(record)

  return found, not fuzzing.accepts(read)


@given(st.binary(max_size=200))
def test_a_file_of_random_bytes_has_no_records(tmp_path, content):
  found, is_refused = _read_records(tmp_path / "a.tfrecord", content)
  assert not found and is_refused == bool(content)


@given(_RECORDS, st.data())
def test_a_damaged_file_gives_only_original_records(tmp_path, records, data):
  whole = tfrecord.frame(records)
  content = data.draw(fuzzing.damaged(whole, _HEADS))
  found, is_refused = _read_records(tmp_path / "a.tfrecord", content)
  # An inserted head of length 0 may give an empty record.
  assert all(record in records or record == b"" for record in found)
  if not is_refused:
    assert tfrecord.frame(found) == content
  if content == whole:
    assert found == records and not is_refused
  elif whole.startswith(content):
    assert found == records[:len(found)]


# --- Examples ----------------------------------------------------------------

_FEATURES = st.dictionaries(
    _NAMES, st.lists(_INT64, max_size=5) | st.lists(_FLOAT32, max_size=5),
    max_size=4)


def _arrays(features):
  """Makes an array of one row from each list; empty lists become int64."""
  return {name: np.array([values], np.float32 if values and isinstance(
      values[0], float) else np.int64) for name, values in features.items()}


def _assert_equal(decoded, features):
  assert set(decoded) == set(features)
  for name, values in features.items():
    assert decoded[name].dtype == values.dtype
    np.testing.assert_array_equal(decoded[name], values[0])


@given(_FEATURES, _FEATURES)
def test_any_features_are_decoded_unchanged(features, added):
  features, added = _arrays(features), _arrays(added)
  serialized = tfrecord.encode(features) if features else [b""]
  _assert_equal(tfrecord.decode(serialized[0]), features)
  extended, = tfrecord.add_features(serialized, added)
  _assert_equal(tfrecord.decode(extended), dict(features, **added))


_ADDED = {"a": np.array([[7]]), "z": np.array([[0.5]], np.float32)}
# Tags of the fields of an Example's nested messages, with all wire types.
_TAGS = [bytes([field << 3 | wire_type]) for field in (0, 1, 2, 3, 15)
         for wire_type in range(8)]


def _decode_and_extend(serialized):
  """Decodes a record, and the record with added features."""
  decoded = fuzzing.accepts(lambda: tfrecord.decode(serialized))
  extended = fuzzing.accepts(
      lambda: tfrecord.add_features([serialized], _ADDED))
  if decoded and extended:
    both = fuzzing.accepts(lambda: tfrecord.decode(extended[0][0]))
    assert both and set(both[0]) == set(decoded[0]) | set(_ADDED)
    _assert_equal({name: both[0][name] for name in _ADDED}, _ADDED)
  return decoded


@given(st.binary(max_size=60) | st.lists(
    st.sampled_from([*_TAGS, b"\x04", b"\x02", b"a"]), max_size=20).map(
        b"".join))
def test_random_bytes_are_refused_or_valid(serialized):
  _decode_and_extend(serialized)


@given(_FEATURES, st.data())
def test_a_damaged_example_is_refused_or_valid(features, data):
  features = _arrays(features)
  whole = tfrecord.encode(features)[0] if features else b""
  serialized = data.draw(fuzzing.damaged(whole, _TAGS))
  decoded = _decode_and_extend(serialized)
  if serialized == whole:
    _assert_equal(decoded[0], features)


@given(st.sampled_from([8, 16, 32]), st.data())
def test_a_damaged_compact_record_is_refused_or_valid(bits, data):
  features, = tiny.random_examples(1, seed=bits)
  whole, = tfrecord.decode(tiny.serialize(features, tiny.layout(bits=bits)))[
      schema.COMPACT]
  string = data.draw(fuzzing.damaged(whole, [b"\xff\xff", b"\x14", b"\x22"]))
  expanded = fuzzing.accepts(
      lambda: compact.expand({schema.COMPACT: [string]}))
  if expanded:
    layout = compact.layout_of({schema.COMPACT: [string]})
    shape = schema.RecordShape(
        layout.max_seq_length, layout.max_predictions_per_seq,
        layout.truncation_factor)
    assert {name: values.size for name, values in expanded[0].items()} == {
        name: np.prod(feature.shape)
        for name, feature in schema.features(shape).items()}
  assert expanded or string != whole


def test_a_length_of_over_64_bits_is_refused():
  with pytest.raises(InputError, match="not a tf.train.Example.*64 bits"):
    tfrecord.add_features([b"\x0a" + b"\xff" * 12], _ADDED)


def test_an_entry_without_a_value_is_an_empty_feature():
  """The later of two entries for a feature counts, as in protocol buffers."""
  feature, = tfrecord.encode({"a": np.array([[1]])})
  empty = b"\x0a\x05\x0a\x03\x0a\x01a"
  unknown = b"\x0a\x05\x12\x03\x0a\x01a"
  for serialized, values in ((feature, [1]), (empty, []), (feature + empty, []),
                             (empty + feature, [1]), (feature + unknown, [1])):
    example = tf.train.Example.FromString(serialized)
    assert example.features.feature["a"].int64_list.value == values
    decoded = tfrecord.decode(serialized)
    assert set(decoded) == {"a"} and decoded["a"].tolist() == values
    extended, = tfrecord.add_features(
        [serialized], {"b": np.array([[2]])})
    assert tfrecord.decode(extended)["a"].tolist() == values


# --- Manifests ---------------------------------------------------------------

_CONTENT = tfrecord.frame([b"one"])
_MANIFEST = manifest.Manifest(
    stage="a_stage",
    flags={"dupe_factor": 10, "temperature": 1.5, "do_lower_case": True,
           "text": None, "random_seed": 1, "tail_samples": 0},
    fingerprints={"vocab_file": "f"}, sources={"a.txt": "1", "b.txt": "2"},
    vocab_size=29, num_records=1, num_bytes=len(_CONTENT))
_VALUES = dataclasses.asdict(_MANIFEST)


def _assert_valid(found):
  """Checks the types that the readers of a manifest rely on."""
  for count in (found.vocab_size, found.num_records, found.num_bytes):
    assert type(count) is int and count >= 0
  assert isinstance(found.stage, str)
  for mapping in (found.flags, found.fingerprints, found.sources):
    assert not any(isinstance(value, (dict, list))
                   for value in mapping.values())
  difference = _MANIFEST.difference(found)
  assert difference is None or isinstance(difference, str)


@given(fuzzing.json_like(_VALUES))
def test_a_damaged_manifest_is_refused_or_valid(tmp_path, content):
  path = tmp_path / "a.tfrecord"
  path.write_bytes(_CONTENT)
  (tmp_path / "a.tfrecord.json").write_bytes(content)
  found = fuzzing.accepts(lambda: manifest.read_manifest(str(path)))
  if found:
    _assert_valid(found[0])
  if content == json.dumps(_VALUES).encode():
    assert found == (_MANIFEST,)
  fuzzing.accepts(
      lambda: record_writer.is_finished(str(path), _MANIFEST, False))
  counted = fuzzing.accepts(lambda: block_index.count_records(str(path), "a"))
  assert bool(counted) == bool(found)


@given(fuzzing.json_like(_VALUES), st.booleans(),
       st.sampled_from([b"", _CONTENT, _CONTENT * 2]))
def test_damaged_progress_is_refused_valid_or_ignored(
    tmp_path, content, overwrite, records):
  path = str(tmp_path / "a.tfrecord")
  with open(files.partial_path(path), "wb") as file:
    file.write(records)
  with open(manifest.manifest_path(files.partial_path(path)), "wb") as file:
    file.write(content)

  def resume():
    with record_writer.RecordWriter(path, _MANIFEST, overwrite) as writer:
      return writer.num_records, os.path.getsize(files.partial_path(path))

  found = fuzzing.accepts(resume)
  if found:
    num_records, num_bytes = found[0]
    assert type(num_records) is int and num_records >= 0
    assert num_bytes <= len(records)
  if content == json.dumps(_VALUES).encode():
    assert found == ((1, len(_CONTENT)) if records else (0, 0),)


_RUN = {"a": _MANIFEST.to_dict()}


@given(fuzzing.json_like({"run": _RUN, "replaced": ["a"]}))
def test_damaged_progress_of_overwriting_is_valid_or_ignored(
    tmp_path, monkeypatch, content):
  # This test reads files; waiting for the disk would take most of its time.
  monkeypatch.setattr(os, "fsync", lambda descriptor: None)
  path = tmp_path / ".run.overwrite.json"
  path.write_bytes(content)
  progress, = fuzzing.accepts(lambda: record_writer.OverwriteProgress(
      str(tmp_path), "run", {"a": _MANIFEST}))
  is_whole = content == json.dumps(
      {"run": _RUN, "replaced": ["a"]}).encode()
  assert progress.is_replaced("a") or not is_whole
  assert not progress.is_replaced("b")
  assert json.loads(path.read_text())["run"] == _RUN


@pytest.mark.parametrize("changes, message", [
    ({"flags": None}, "flags"), ({"sources": ["a.txt"]}, "sources"),
    ({"fingerprints": {"vocab_file": []}}, "fingerprints"),
    ({"num_records": "many"}, "num_records"), ({"num_records": -1}, ""),
    ({"vocab_size": 29.0}, "vocab_size"), ({"vocab_size": True}, "vocab_size"),
    ({"stage": 3}, "stage"), ({"num_bytes": float(len(_CONTENT))}, "num_bytes"),
])
def test_a_manifest_with_wrong_types_is_refused(tmp_path, changes, message):
  path = tmp_path / "a.tfrecord"
  path.write_bytes(_CONTENT)
  text = json.dumps(dict(_VALUES, **changes))
  (tmp_path / "a.tfrecord.json").write_text(text)
  with pytest.raises(InputError, match="is not a manifest.*" + message):
    manifest.read_manifest(str(path))
  (tmp_path / ".a.tfrecord.partial").write_bytes(_CONTENT)
  (tmp_path / ".a.tfrecord.partial.json").write_text(text)
  with record_writer.RecordWriter(str(path), _MANIFEST) as writer:
    assert writer.num_records == 0


def test_a_deeply_nested_manifest_is_refused(tmp_path):
  path = tmp_path / "a.tfrecord"
  path.write_bytes(_CONTENT)
  text = "[" * 100000
  (tmp_path / "a.tfrecord.json").write_text(text)
  with pytest.raises(InputError, match="is not a manifest.*nested"):
    manifest.read_manifest(str(path))
  (tmp_path / ".a.tfrecord.partial.json").write_text(text)
  (tmp_path / ".run.overwrite.json").write_text(text)
  with record_writer.RecordWriter(str(path), _MANIFEST) as writer:
    assert writer.num_records == 0
  progress = record_writer.OverwriteProgress(
      str(tmp_path), "run", {"a": _MANIFEST})
  assert not progress.is_replaced("a")


# --- Vocabularies ------------------------------------------------------------

_TOKENS = [*tokenization.SPECIAL_TOKENS, "the", "##s", "ä", "中", "[unused1]",
           "\U0001f600", "a b"]
_VOCABULARY = ("\n".join(_TOKENS) + "\n").encode()


def _read_vocabulary(path, content):
  path.write_bytes(content)
  return fuzzing.accepts(lambda: sampling.read_vocabulary(str(path)))


@given(fuzzing.damaged(_VOCABULARY, [
    token.encode() for token in tokenization.SPECIAL_TOKENS]))
def test_a_damaged_vocabulary_is_refused_or_valid(tmp_path, content):
  found = _read_vocabulary(tmp_path / "vocab.txt", content)
  if found:
    num_lines = content.count(b"\n") + 1
    assert set(tokenization.SPECIAL_TOKENS) <= set(found[0])
    assert all(0 <= index < num_lines for index in found[0].values())
  if content == _VOCABULARY:
    assert list(found[0]) == _TOKENS


@given(st.lists(st.text(
    st.characters(exclude_categories=["Cs", "Z", "Cc"]), min_size=1,
    max_size=4), unique=True, max_size=4))
def test_a_written_vocabulary_is_read_unchanged(tmp_path, tokens):
  tokens = list(dict.fromkeys([*tokens, *tokenization.SPECIAL_TOKENS]))
  for line_end in ("\n", "\r\n"):
    content = "".join(token + line_end for token in tokens).encode()
    found, = _read_vocabulary(tmp_path / "vocab.txt", content)
    assert found == {token: index for index, token in enumerate(tokens)}
    assert list(found) == tokens

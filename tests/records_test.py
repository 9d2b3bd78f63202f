"""Tests of the record schema, files, manifests and datasets."""

import dataclasses
import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import records
import tiny

_MANIFEST = records.Manifest(
    stage="a_stage", flags={"dupe_factor": 10},
    fingerprints={"vocab_file": "f"},
    sources={"a.txt": "1", "b.txt": "2"}, vocab_size=29)


@pytest.fixture(name="features")
def _features():
  return tiny.random_features(np.random.default_rng(0))


def test_decode_undoes_encode(features):
  decoded = records.decode(tf.constant([records.encode(features)]), tiny.SHAPE)
  assert set(decoded) == set(features)
  for name, values in features.items():
    np.testing.assert_allclose(decoded[name][0], values, rtol=1e-6)
  assert decoded[records.INPUT_IDS].dtype == tf.int32
  assert decoded[records.TEACHER_PROBABILITIES].shape == (1, 3, 4)


def test_encode_gives_the_types_of_the_2019_records(features):
  example = tf.train.Example.FromString(records.encode(features))
  kinds = {name: feature.WhichOneof("kind")
           for name, feature in example.features.feature.items()}
  floats = {"masked_lm_weights", "truncated_masked_lm_probs"}
  assert kinds == {name: "float_list" if name in floats else "int64_list"
                   for name in features}


def test_labels_are_added_and_replaced(features):
  labels = {name: features.pop(name) for name in (
      records.TEACHER_PROBABILITIES, records.TEACHER_INDICES)}
  plain = records.encode(features)
  labelled = records.encode(labels, unlabelled=plain)
  assert labelled == records.encode(dict(features, **labels))
  assert records.encode(labels, unlabelled=labelled) == labelled


def test_labels_are_added_to_many_records_at_once():
  generator = np.random.default_rng(1)
  examples = [tiny.random_features(generator) for _ in range(9)]
  wanted = [records.encode(features) for features in examples]
  labels = [np.stack([features.pop(name) for features in examples])
            for name in (records.TEACHER_PROBABILITIES,
                         records.TEACHER_INDICES)]
  plain = [records.encode(features) for features in examples]
  # Two of them have labels, which are replaced, or fields of their own.
  plain[3] = records.add_labels(plain[:1], *(values[:1] * 0
                                             for values in labels))[0]
  plain[3] = records.encode(examples[3], unlabelled=plain[3])
  plain[4] += b"\x78\x01"
  found = records.add_labels(plain, *labels)
  for i, record in enumerate(found):
    example = tf.train.Example.FromString(record)
    example.DiscardUnknownFields()
    assert example == tf.train.Example.FromString(wanted[i])


def test_2019_records_are_readable_by_name(shared):
  path = str(shared / "golden/teacher_labels/expected.tfrecord")
  shape = records.RecordShape(128, 20, 10)
  records.check_records([path], "input_file", shape, 30522)
  serialized = list(records.read_records(path, "input_file"))
  assert len(serialized) == records.count_records(path, "input_file") == 64
  decoded = records.decode(tf.constant(serialized), shape)
  assert int(decoded[records.INPUT_IDS][0, 0]) == 101  # [CLS]


def test_files_come_in_natural_order_without_hidden_ones(tmp_path):
  for name in ("a_10.tfrecord", "a_2.tfrecord", "a_1.tfrecord", ".a_3.tfrecord",
               "a_2.tfrecord.json", "b_0.tfrecord"):
    (tmp_path / name).write_text("x")
  (tmp_path / "a_4.tfrecord").mkdir()
  found = records.find_files(
      "{0}/b*,{0}/a_*".format(tmp_path), "input_file")
  assert [os.path.basename(path) for path in found] == [
      "b_0.tfrecord", "a_1.tfrecord", "a_2.tfrecord", "a_10.tfrecord"]


@pytest.mark.parametrize("patterns, told", [
    ("{}/none.tfrecord", "no file"), ("{}/none*", "no file"), ("{}", "folder"),
    (" , ", "empty"), ("{0}/a,{0}/*", "twice"),
])
def test_a_name_without_a_file_is_an_error(tmp_path, patterns, told):
  (tmp_path / "a").write_text("x")
  with pytest.raises(ValueError, match="--input_file.*" + told):
    records.find_files(patterns.format(tmp_path), "input_file")


def test_a_record_file_appears_whole_or_not_at_all(tmp_path):
  path = str(tmp_path / "new_folder" / "a.tfrecord")
  with pytest.raises(RuntimeError):
    with records.RecordWriter(path) as writer:
      writer.write(b"one")
      raise RuntimeError
  assert os.listdir(os.path.dirname(path)) == []
  with records.RecordWriter(path) as writer:
    writer.write(b"one")
    writer.write(b"two")
    assert not os.path.exists(path)
    writer.commit(_MANIFEST)
  assert list(records.read_records(path, "input_file")) == [b"one", b"two"]
  assert records.read_manifest(path) == dataclasses.replace(
      _MANIFEST, num_records=2, num_bytes=os.path.getsize(path))
  assert sorted(os.listdir(os.path.dirname(path))) == [
      "a.tfrecord", "a.tfrecord.json"]


@pytest.mark.parametrize("changes, told", [
    ({"stage": "other"}, "stage"),
    ({"flags": {"dupe_factor": 5}}, "--dupe_factor is 5, not 10"),
    ({"flags": {"dupe_factor": 10, "new": 1}}, "--new is 1, not None"),
    ({"fingerprints": {"vocab_file": "g"}}, "content of --vocab_file is g"),
    ({"sources": {"a.txt": "1"}}, "source file b.txt is None, not 2"),
    ({"sources": {"b.txt": "2", "a.txt": "1"}}, "order of the source files"),
    ({"vocab_size": 30}, "vocabulary size is 30, not 29"),
])
def test_a_finished_file_is_kept_only_if_made_the_same_way(
    tmp_path, changes, told):
  path = str(tmp_path / "a.tfrecord")
  assert not records.is_finished(path, _MANIFEST, overwrite=False)
  with records.RecordWriter(path) as writer:
    writer.commit(_MANIFEST)
  assert records.is_finished(path, _MANIFEST, overwrite=False)
  assert not records.is_finished(path, _MANIFEST, overwrite=True)
  other = dataclasses.replace(_MANIFEST, **changes)
  with pytest.raises(ValueError, match=told):
    records.is_finished(path, other, overwrite=False)
  assert not records.is_finished(path, other, overwrite=True)


def test_a_file_without_a_manifest_is_not_overwritten(tmp_path):
  path = tmp_path / "a.tfrecord"
  path.write_text("precious")
  with pytest.raises(ValueError, match="without a manifest"):
    records.is_finished(str(path), _MANIFEST, overwrite=False)
  assert path.read_text() == "precious"


def test_a_manifest_that_is_not_of_its_file_is_an_error(tmp_path):
  path = str(tmp_path / "a.tfrecord")
  with records.RecordWriter(path) as writer:
    writer.write(b"one")
    writer.commit(_MANIFEST)
  with open(path, "ab") as file:
    file.write(b"more")
  with pytest.raises(ValueError, match="was changed or cut"):
    records.read_manifest(path)
  with open(records.manifest_path(path), "w") as file:
    json.dump({"stage": "x"}, file)
  with pytest.raises(ValueError, match="not a manifest"):
    records.read_manifest(path)


@pytest.mark.parametrize("changes, told", [
    ({"max_seq_length": 12}, "--max_seq_length=12.*set --max_seq_length=10"),
    ({"max_predictions_per_seq": 2},
     "--max_predictions_per_seq=2.*set --max_predictions_per_seq=3"),
    ({"truncation_factor": 3}, "--truncation_factor=3.*set "
                               "--truncation_factor=4"),
])
def test_records_of_other_lengths_are_refused(
    tmp_path, features, changes, told):
  path = str(tiny.write_records(tmp_path / "a.tfrecord", [features]))
  records.check_records([path], "input_file", tiny.SHAPE, 29)
  with pytest.raises(ValueError, match=told):
    records.check_records([path], "input_file",
                          tiny.SHAPE._replace(**changes), 29)


def test_records_without_labels_serve_only_hard_labels(tmp_path, features):
  del features[records.TEACHER_PROBABILITIES]
  path = str(tiny.write_records(tmp_path / "a.tfrecord", [features]))
  records.check_records([path], "input_file",
                        tiny.SHAPE._replace(truncation_factor=0), 29)
  with pytest.raises(ValueError, match="no teacher labels"):
    records.check_records([path], "input_file", tiny.SHAPE, 29)


@pytest.mark.parametrize("content, told", [
    (b"", "holds no record"), (b"text, not records", "no TFRecord file"),
])
def test_files_that_are_no_records_are_refused(tmp_path, content, told):
  path = tmp_path / "a.tfrecord"
  path.write_bytes(content)
  with pytest.raises(ValueError, match="--input_file.*a.tfrecord.*" + told):
    records.check_records([str(path)], "input_file", tiny.SHAPE, 29)


@pytest.mark.parametrize("message, told", [
    ("OOM when allocating\n\t [[node]]", "OOM when allocating"),
    ("Graph execution error:\n\nOOM when allocating\n", "OOM when allocating"),
    ("", ""),
])
def test_errors_of_tensorflow_are_told_without_their_heading(message, told):
  error = tf.errors.ResourceExhaustedError(None, None, message)
  assert records.first_line(error) == told


def test_words_outside_the_vocabulary_are_refused(tmp_path, features):
  for name in (records.INPUT_IDS, records.MASKED_LM_IDS,
               records.TEACHER_INDICES):
    values = {word_feature: np.minimum(features[word_feature], 20)
              for word_feature in (records.INPUT_IDS, records.MASKED_LM_IDS,
                                   records.TEACHER_INDICES)}
    values[name].ravel()[0] = 28
    path = str(tiny.write_records(
        tmp_path / "out.tfrecord", [dict(features, **values)]))
    records.check_records([path], "input_file", tiny.SHAPE, 29)
    with pytest.raises(ValueError, match="vocab_size 28.*word 28.*" + name):
      records.check_records([path], "input_file", tiny.SHAPE, 28)


def test_records_of_another_vocabulary_are_refused(tmp_path, features):
  path = str(tmp_path / "a.tfrecord")
  with records.RecordWriter(path) as writer:
    writer.write(records.encode(features))
    writer.commit(_MANIFEST)
  records.check_records([path], "input_file", tiny.SHAPE, 29)
  with pytest.raises(ValueError, match="vocab_size 31.*vocabulary of 29"):
    records.check_records([path], "input_file", tiny.SHAPE, 31)


def _numbered_files(folder, counts):
  """Writes files whose records carry the numbers 0, 1, ... as first word."""
  generator = np.random.default_rng(0)
  number, paths = 0, []
  for i, count in enumerate(counts):
    examples = []
    for _ in range(count):
      features = tiny.random_features(generator)
      features[records.INPUT_IDS][0] = number
      number += 1
      examples.append(features)
    paths.append(str(tiny.write_records(
        folder / "n_{}.tfrecord".format(i), examples)))
  return paths


def _numbers(dataset, count):
  return [int(number) for batch in dataset.take(count)
          for number in batch[records.INPUT_IDS][:, 0]]


def test_evaluation_reads_each_record_once_in_order(tmp_path):
  paths = _numbered_files(tmp_path, (5, 6))
  dataset = records.evaluation_input_fn(paths, tiny.SHAPE)({"batch_size": 4})
  assert _numbers(dataset, -1) == list(range(11))


def test_an_epoch_of_all_shards_holds_each_record_once(tmp_path):
  paths = _numbered_files(tmp_path, (9, 3, 8))
  shards = [
      _numbers(records.training_input_fn(
          paths, tiny.SHAPE, seed=1, num_shards=2, shard_index=i)(
              {"batch_size": 5}), 4)
      for i in range(2)
  ]
  for epoch in (slice(0, 10), slice(10, 20)):
    assert sorted(shards[0][epoch] + shards[1][epoch]) == list(range(20))
  assert shards[0][:10] != shards[0][10:]


def test_shards_in_graphs_of_other_seeds_share_an_epoch(tmp_path):
  """The processes of a distributed run differ in their graphs' seeds."""
  paths = _numbered_files(tmp_path, (4, 4, 4, 4, 4))
  numbers = []
  for i in range(2):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
      tf.compat.v1.set_random_seed(100 + 2 * i)
      dataset = records.training_input_fn(
          paths, tiny.SHAPE, seed=1, num_shards=2, shard_index=i)(
              {"batch_size": 10})
      batch = tf.compat.v1.data.make_one_shot_iterator(dataset).get_next()
      assert tf.compat.v1.get_default_graph().seed == 100 + 2 * i
      numbers += session.run(batch)[records.INPUT_IDS][:, 0].tolist()
  assert sorted(numbers) == list(range(20))


def test_the_seed_alone_sets_the_order_of_training(tmp_path):
  paths = _numbered_files(tmp_path, (9, 3, 8))

  def numbers(**arguments):
    return _numbers(records.training_input_fn(
        paths, tiny.SHAPE, **arguments)({"batch_size": 1}), 30)

  whole = numbers(seed=1)
  assert whole == numbers(seed=1)
  assert whole != numbers(seed=2)
  assert whole[7:] == numbers(seed=1, first_record=7)[:23]


# --- Bytes -------------------------------------------------------------------


@pytest.mark.parametrize("message, checksum", [
    # RFC 3720, B.4, and the usual check value.
    (b"\0" * 32, 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
    (b"123456789", 0xE3069283),
    (b"", 0),
])
def test_checksums_are_those_of_the_standard(message, checksum):
  assert records.crc32c([message]).tolist() == [checksum]


def test_frames_of_all_lengths_are_read_by_tensorflow(tmp_path):
  rng = random.Random(0)
  messages = [bytes(rng.choices(range(256), k=length))
              for length in range(300)]
  messages += [bytes(rng.choices(range(256), k=70000)), b"\0" * 1000]
  rng.shuffle(messages)
  path = str(tmp_path / "a.tfrecord")
  with open(path, "wb") as file:
    file.write(records.frame(messages[:7]))
    file.write(records.frame(messages[7:]))
  assert list(records.read_records(path, "input_file")) == messages


@pytest.mark.parametrize("limit", [1, 2, 127, 128, 129, 16384, 2**21, 2**31,
                                   2**62])
def test_batches_are_encoded_as_single_records_are(limit):
  rng = np.random.default_rng(limit)
  features = {
      records.INPUT_IDS: rng.integers(0, limit, (9, 200)),
      records.NEXT_SENTENCE_LABELS: rng.integers(0, 2, (9, 1)),
      records.MASKED_LM_IDS: np.full((9, 3), limit - 1),
      records.INPUT_MASK: np.zeros((9, 130), np.int32),
      records.MASKED_LM_WEIGHTS: rng.random((9, 5), np.float32),
  }
  features[records.INPUT_IDS][3:] //= 3
  features[records.INPUT_IDS][8] = 0
  assert records.encode_batch(features) == [
      records.encode({name: values[i] for name, values in features.items()})
      for i in range(9)]


def test_batches_parse_to_what_went_in():
  ids = np.array([[0, 127, 128, 16383, 16384, 2**40]])
  weights = np.array([[0.0, 0.5, 1.0]])
  serialized, = records.encode_batch(
      {"input_ids": ids, "masked_lm_weights": weights})
  features = tf.train.Example.FromString(serialized).features.feature
  assert features["input_ids"].int64_list.value == ids[0].tolist()
  assert features["masked_lm_weights"].float_list.value == [0.0, 0.5, 1.0]


def test_the_writer_keeps_the_order_across_its_buffer(tmp_path, monkeypatch):
  monkeypatch.setattr(records, "_BUFFERED_RECORDS", 4)
  messages = [bytes([i]) for i in range(10)]
  path = str(tmp_path / "a.tfrecord")
  with records.RecordWriter(path) as writer:
    for message in messages:
      writer.write(message)
    writer.commit(records.Manifest("stage", {}, {}, {}, 1))
  assert list(records.read_records(path, "input_file")) == messages
  assert records.read_manifest(path).num_records == 10


def test_it_is_imported_without_tensorflow():
  subprocess.run(
      [sys.executable, "-c", "import sys, records; "
       "assert 'tensorflow' not in sys.modules"],
      cwd=tiny.ROOT, check=True)

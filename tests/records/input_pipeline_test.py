"""Tests of decoding, of the checks of record files, and of the datasets."""

import numpy as np
import pytest
import tensorflow as tf

from records import input_pipeline
from records import manifest
from records import schema
from records import tfrecord
import tiny
from util.command_line import InputError

tf1 = tf.compat.v1


@pytest.fixture(name="features")
def _features():
  return tiny.random_features(np.random.default_rng(0))


def _check(path, shape=tiny.SHAPE, vocab_size=29):
  input_pipeline.check_records([str(path)], "input_file", shape, vocab_size)


# --- Decoding ----------------------------------------------------------------


def test_decoding_is_the_inverse_of_encoding(features):
  decoded = input_pipeline.decode(
      tf.constant([tiny.serialize(features)]), tiny.SHAPE)
  assert set(decoded) == set(features)
  for name, values in features.items():
    np.testing.assert_allclose(decoded[name][0], values, rtol=1e-6)
  assert decoded[schema.INPUT_IDS].dtype == tf.int32
  assert decoded[schema.TEACHER_PROBABILITIES].shape == (1, 3, 4)


def test_2019_records_are_readable_by_name(shared):
  path = str(shared / "golden/teacher_labels/expected.tfrecord")
  shape = schema.RecordShape(128, 20, 10)
  _check(path, shape, 30522)
  assert input_pipeline.stored_entries(path, "input_file", 20) == 10
  serialized = list(tfrecord.read(path, "input_file"))
  assert len(serialized) == manifest.count_records(path, "input_file") == 64
  decoded = input_pipeline.decode(tf.constant(serialized), shape)
  assert int(decoded[schema.INPUT_IDS][0, 0]) == 101  # [CLS]


def _longer_frame():
  """Returns the frame of a record of other lengths."""
  features, = tiny.random_examples(
      1, seed=0, shape=tiny.SHAPE._replace(max_seq_length=12))
  return tfrecord.frame([tiny.serialize(features)])


@pytest.mark.parametrize("spoil, told", [
    (lambda content: content[:-20], "truncated record at"),
    (lambda content: content[:-20] + b"x" * 20, "corrupted record at"),
    (lambda content: content + _longer_frame(), "Key: .* size: 12"),
])
def test_errors_of_records_are_input_errors(tmp_path, features, spoil, told):
  path = tiny.write_records(tmp_path / "a.tfrecord", [features] * 3)
  path.write_bytes(spoil(path.read_bytes()))
  dataset = input_pipeline.evaluation_input_fn(
      [str(path)], tiny.SHAPE)({"batch_size": 2})
  with pytest.raises(InputError, match="--input_file: .*" + told):
    with input_pipeline.record_errors("input_file"):
      list(dataset)


def test_other_errors_keep_their_type():
  with pytest.raises(tf.errors.InvalidArgumentError, match="a bug"):
    with input_pipeline.record_errors("input_file"):
      tf.debugging.assert_equal(1, 2, "a bug")


# --- Checks ------------------------------------------------------------------


@pytest.mark.parametrize("changes, told", [
    ({"max_seq_length": 12}, "--max_seq_length=12.*set --max_seq_length=10"),
    ({"max_predictions_per_seq": 2},
     "--max_predictions_per_seq=2.*set --max_predictions_per_seq=3"),
    ({"truncation_factor": 3}, "--truncation_factor=3.*set "
                               "--truncation_factor=4"),
])
def test_records_of_other_lengths_are_refused(
    tmp_path, features, changes, told):
  path = tiny.write_records(tmp_path / "a.tfrecord", [features])
  _check(path)
  with pytest.raises(InputError, match=told):
    _check(path, tiny.SHAPE._replace(**changes))


def test_records_without_labels_serve_only_hard_labels(tmp_path, features):
  path = tiny.write_records(
      tmp_path / "a.tfrecord", [tiny.without_labels(features)])
  _check(path, tiny.SHAPE._replace(truncation_factor=0))
  assert not input_pipeline.stored_entries(str(path), "input_file", 3)
  with pytest.raises(InputError, match="no teacher labels"):
    _check(path)


@pytest.mark.parametrize("content, told", [
    (b"", "--input_file: .*a.tfrecord holds no record"),
    (b"text, not records", "--input_file: .*a.tfrecord .* no TFRecord file"),
    (tfrecord.frame([b"text"]), "--input_file: .*a.tfrecord holds something "
                                "other than records"),
    (tfrecord.frame([b""]), "a.tfrecord has no feature input_ids"),
])
def test_files_that_are_no_records_are_refused(tmp_path, content, told):
  path = tmp_path / "a.tfrecord"
  path.write_bytes(content)
  with pytest.raises(InputError, match=told):
    _check(path)


@pytest.mark.parametrize("name", schema.TOKEN_IDS)
def test_token_ids_outside_the_vocabulary_are_refused(
    tmp_path, features, name):
  for other in schema.TOKEN_IDS:
    features[other] = np.minimum(features[other], 20)
  features[name].ravel()[0] = 28
  path = tiny.write_records(tmp_path / "a.tfrecord", [features])
  _check(path)
  with pytest.raises(InputError, match="vocab_size 28.*token id 28.*" + name):
    _check(path, vocab_size=28)


def test_records_of_another_vocabulary_are_refused(tmp_path, features):
  path = str(tmp_path / "a.tfrecord")
  with manifest.RecordWriter(path) as writer:
    writer.write(tiny.serialize(features))
    writer.commit(manifest.Manifest("a_stage", {}, {}, {}, vocab_size=29))
  _check(path)
  with pytest.raises(InputError, match="vocab_size 28.*vocabulary of 29"):
    _check(path, vocab_size=28)


def test_a_padded_vocabulary_is_accepted_with_a_warning(
    tmp_path, features, caplog):
  """Usual for tensor cores: a vocab_size that is a multiple of 8 or 64."""
  path = str(tmp_path / "a.tfrecord")
  with manifest.RecordWriter(path) as writer:
    writer.write(tiny.serialize(features))
    writer.commit(manifest.Manifest("a_stage", {}, {}, {}, vocab_size=29))
  _check(path, vocab_size=32)
  assert "vocab_size 32" in caplog.text and "of 29" in caplog.text


# --- Datasets ----------------------------------------------------------------


def _numbered_files(folder, counts):
  """Writes files whose records have the numbers 0, 1, ... as first token id."""
  examples = tiny.random_examples(sum(counts), seed=0)
  for number, features in enumerate(examples):
    features[schema.INPUT_IDS][0] = number
  remaining = iter(examples)
  return [
      str(tiny.write_records(
          folder / "n_{}.tfrecord".format(i),
          [next(remaining) for _ in range(count)]))
      for i, count in enumerate(counts)]


def _numbers(dataset, count):
  return [int(number) for batch in dataset.take(count)
          for number in batch[schema.INPUT_IDS][:, 0]]


def _training_numbers(paths, batch_size, num_batches, **keywords):
  return _numbers(
      input_pipeline.training_input_fn(paths, tiny.SHAPE, **keywords)(
          {"batch_size": batch_size}), num_batches)


@pytest.mark.parametrize("drop_remainder, count", [(False, 11), (True, 8)])
def test_evaluation_reads_each_record_once_in_order(
    tmp_path, drop_remainder, count):
  paths = _numbered_files(tmp_path, (5, 6))
  dataset = input_pipeline.evaluation_input_fn(
      paths, tiny.SHAPE, drop_remainder)({"batch_size": 4})
  assert _numbers(dataset, -1) == list(range(count))


def test_an_epoch_of_all_shards_holds_each_record_once(tmp_path):
  paths = _numbered_files(tmp_path, (9, 3, 8))
  shards = [_training_numbers(
      paths, 5, 4, seed=1, num_shards=2, shard_index=i) for i in range(2)]
  for epoch in (slice(0, 10), slice(10, 20)):
    assert sorted(shards[0][epoch] + shards[1][epoch]) == list(range(20))
  assert shards[0][:10] != shards[0][10:]


def test_shards_in_graphs_of_other_seeds_share_an_epoch(tmp_path):
  """The processes of a distributed run differ in their graphs' seeds."""
  paths = _numbered_files(tmp_path, (4, 4, 4, 4, 4))
  numbers = []
  for i in range(2):
    with tf.Graph().as_default(), tf1.Session() as session:
      tf1.set_random_seed(100 + 2 * i)
      dataset = input_pipeline.training_input_fn(
          paths, tiny.SHAPE, seed=1, num_shards=2, shard_index=i)(
              {"batch_size": 10})
      batch = tf1.data.make_one_shot_iterator(dataset).get_next()
      assert tf1.get_default_graph().seed == 100 + 2 * i
      numbers += session.run(batch)[schema.INPUT_IDS][:, 0].tolist()
  assert sorted(numbers) == list(range(20))


def test_only_the_seed_sets_the_order_of_training(tmp_path):
  paths = _numbered_files(tmp_path, (9, 3, 8))
  whole = _training_numbers(paths, 1, 30, seed=1)
  assert whole == _training_numbers(paths, 1, 30, seed=1)
  assert whole != _training_numbers(paths, 1, 30, seed=2)
  assert whole[7:] == _training_numbers(
      paths, 1, 23, seed=1, first_record_index=7)


@pytest.mark.parametrize("name, value, limit", [
    (schema.INPUT_IDS, 29, 28), (schema.MASKED_LM_IDS, 1 << 33, 28),
    (schema.TEACHER_INDICES, -1, 28), (schema.MASKED_LM_POSITIONS, 10, 9),
    (schema.SEGMENT_IDS, 2, 1), (schema.NEXT_SENTENCE_LABELS, 2, 1)])
def test_an_integer_out_of_range_names_file_and_record(
    tmp_path, name, value, limit):
  """In any record, not only in the first one."""
  examples = tiny.random_examples(7, seed=0)
  good = tiny.write_records(tmp_path / "good.tfrecord", examples)
  serialized = [tiny.serialize(features) for features in examples]
  spoilt = np.array(examples[5][name], np.int64)
  spoilt.ravel()[0] = value
  example = tf.train.Example.FromString(serialized[5])
  example.features.feature[name].int64_list.value[:] = spoilt.ravel()
  serialized[5] = example.SerializeToString()
  bad = tiny.write_serialized(tmp_path / "bad.tfrecord", serialized)
  paths, limits = [str(good), str(bad)], schema.limits(tiny.SHAPE, 29, 2)
  dataset = input_pipeline.evaluation_input_fn(
      paths, tiny.SHAPE, limits=limits)({"batch_size": 4})
  with pytest.raises(InputError, match=(
      "--input_file: record 5 in .*bad.tfrecord has {} {}, where {} is the "
      "limit".format(name, value, limit))):
    with input_pipeline.record_errors("input_file", paths, tiny.SHAPE, limits):
      list(dataset)

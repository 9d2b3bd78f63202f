"""Tests of decoding, checking and reading record files."""

import functools
import itertools
import re

import numpy as np
import pytest
import tensorflow as tf

from records import decoding
from records import input_pipeline
from records import block_index
from records import manifest
from records import record_writer
from records import order
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
  decoded = decoding.decode(
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
  assert input_pipeline.with_stored_labels(
      shape._replace(truncation_factor=0), path, "input_file") == shape
  serialized = list(tfrecord.read(path, "input_file"))
  assert len(serialized) == block_index.count_records(path, "input_file") == 64
  decoded = decoding.decode(tf.constant(serialized), shape)
  assert int(decoded[schema.INPUT_IDS][0, 0]) == 101  # [CLS]


def test_records_without_a_masked_token_are_reported(
    tmp_path, features, caplog):
  """The check reads the start of the first file, up to a damaged record."""
  unmasked = dict(features, **{
      schema.MASKED_LM_WEIGHTS:
          np.zeros_like(features[schema.MASKED_LM_WEIGHTS])})
  path = tiny.write_records(tmp_path / "a.tfrecord", [features] * 4)
  _check(path)
  assert not caplog.messages
  path = tiny.write_records(
      tmp_path / "b.tfrecord", [features, unmasked, features, features])
  _check(path)
  assert re.search("--input_file: 25.0% of the first 4 records in .*b.tfrecord "
                   "have no masked token", caplog.text)
  assert "--do_whole_word_mask False" in caplog.text
  caplog.clear()
  path = tiny.write_records(tmp_path / "c.tfrecord", [features, unmasked])
  path.write_bytes(path.read_bytes()[:-9])
  _check(path)
  assert not caplog.messages


def _longer_frame():
  """Returns the frame of a record with a longer sequence."""
  features, = tiny.random_examples(
      1, seed=0, shape=tiny.SHAPE._replace(max_seq_length=12))
  return tfrecord.frame([tiny.serialize(features)])


@pytest.mark.parametrize("spoil, told", [
    (lambda content: content[:-20], "truncated record at"),
    (lambda content: content[:-20] + b"x" * 20, "corrupted record at"),
    (lambda content: content + _longer_frame(), "Key: .* size: 12"),
])
def test_errors_of_records_are_input_errors(tmp_path, features, spoil, told):
  """The file was intact when its index was read first."""
  path = tiny.write_records(tmp_path / "a.tfrecord", [features] * 3)
  corpus = order.read_corpus([str(path)], "input_file")
  content = spoil(path.read_bytes())
  path.write_bytes(content)
  if len(content) > corpus.num_bytes.sum():
    corpus = order.read_corpus([str(path)], "input_file")
  dataset = input_pipeline.evaluation_input_fn(
      corpus, tiny.SHAPE, "input_file")({"batch_size": 2})
  with pytest.raises(InputError, match="--input_file: .*" + told):
    with input_pipeline.record_errors("input_file"):
      list(dataset)


def test_a_file_that_is_gone_is_an_input_error(tmp_path, features):
  path = tiny.write_records(tmp_path / "a.tfrecord", [features] * 3)
  corpus = order.read_corpus([str(path)], "input_file")
  path.unlink()
  for num_processes in (1, 2):  # Two processes read parts of the block.
    dataset = input_pipeline.training_input_fn(
        corpus, tiny.SHAPE, "input_file", 1, num_processes=num_processes)(
            {"batch_size": 1})
    with pytest.raises(InputError, match="--input_file: .*a.tfrecord.*No such "
                                         "file.*when .* began"):
      with input_pipeline.record_errors("input_file"):
        list(dataset.take(1))


@pytest.mark.parametrize("num_left", [0, 2])
@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_file_of_fewer_records_is_an_input_error(
    tmp_path, features, num_left, num_processes):
  """The file is cut between two records after its index was read."""
  path = tiny.write_records(tmp_path / "a.tfrecord", [features] * 9)
  corpus = order.read_corpus([str(path)], "input_file")
  training = input_pipeline.training_input_fn(
      corpus, tiny.SHAPE, "input_file", 1, num_processes=num_processes)(
          {"batch_size": 1})
  evaluation = input_pipeline.evaluation_input_fn(
      corpus, tiny.SHAPE, "input_file")({"batch_size": 1})
  tiny.write_records(path, [features] * num_left)
  for dataset in (training.take(9), evaluation):
    with pytest.raises(InputError, match="--input_file: .*fewer records"):
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
  unlabelled = tiny.SHAPE._replace(truncation_factor=0)
  _check(path, unlabelled)
  assert input_pipeline.with_stored_labels(
      tiny.SHAPE, str(path), "input_file") == unlabelled
  with pytest.raises(InputError, match="no teacher labels"):
    _check(path)


@pytest.mark.parametrize("content, told", [
    (b"", "--input_file: .*a.tfrecord holds no record"),
    (b"text, not records", "--input_file: .*a.tfrecord .* not a TFRecord file"),
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
  with record_writer.RecordWriter(path) as writer:
    writer.write(tiny.serialize(features))
    writer.commit(manifest.Manifest("a_stage", {}, {}, {}, vocab_size=29))
  _check(path)
  with pytest.raises(InputError, match="vocab_size 28.*vocabulary of 29"):
    _check(path, vocab_size=28)


def test_a_padded_vocabulary_is_accepted_with_a_warning(
    tmp_path, features, caplog):
  """Tensor cores favour a vocab_size that is a multiple of 8 or 64."""
  path = str(tmp_path / "a.tfrecord")
  with record_writer.RecordWriter(path) as writer:
    writer.write(tiny.serialize(features))
    writer.commit(manifest.Manifest("a_stage", {}, {}, {}, vocab_size=29))
  _check(path, vocab_size=32)
  assert "vocab_size 32" in caplog.text and "of 29" in caplog.text
  with pytest.raises(InputError, match="vocab_size 1053.* of 29.* too large"):
    _check(path, vocab_size=29 + 1024)


# --- Datasets ----------------------------------------------------------------


def _numbered_files(folder, counts):
  """Writes files whose records have the numbers 0, 1, ... as first token id.

  Every other file is compact.
  """
  examples = tiny.random_examples(sum(counts), seed=0)
  for number, features in enumerate(examples):
    features[schema.INPUT_IDS][0] = number
  remaining = iter(examples)
  return [
      str(tiny.write_records(
          folder / "n_{}.tfrecord".format(i),
          [next(remaining) for _ in range(count)],
          tiny.layout() if i % 2 else None))
      for i, count in enumerate(counts)]


def _shape(paths):
  """Returns the shape of numbered files."""
  return input_pipeline.check_records(paths, "input_file", tiny.SHAPE, 1000)


def _numbers(dataset, count):
  return [int(number) for batch in dataset.take(count)
          for number in batch[schema.INPUT_IDS][:, 0]]


def _training_numbers(paths, batch_size, num_batches, **keywords):
  corpus = order.read_corpus(paths, "input_file")
  return _numbers(
      input_pipeline.training_input_fn(
          corpus, _shape(paths), "input_file", **keywords)(
              {"batch_size": batch_size}), num_batches)


@pytest.mark.parametrize("drop_remainder, count", [(False, 11), (True, 8)])
def test_evaluation_reads_each_record_once_in_order(
    tmp_path, drop_remainder, count):
  paths = _numbered_files(tmp_path, (5, 6))
  corpus = order.read_corpus(paths, "input_file")
  dataset = input_pipeline.evaluation_input_fn(
      corpus, _shape(paths), "input_file", drop_remainder)({"batch_size": 4})
  assert _numbers(dataset, -1) == list(range(count))


@pytest.mark.parametrize("first_record, num_records, wanted", [
    (0, None, range(11)), (4, 3, range(4, 7)), (3, 0, range(0)),
    (9, 9, range(9, 11)), (11, None, range(0))])
def test_evaluation_reads_a_range(
    tmp_path, monkeypatch, first_record, num_records, wanted):
  monkeypatch.setattr(tfrecord, "BLOCK_RECORDS", 2)
  paths = _numbered_files(tmp_path, (5, 6))
  corpus = order.read_corpus(paths, "input_file")
  dataset = input_pipeline.evaluation_input_fn(
      corpus, _shape(paths), "input_file", first_record=first_record,
      num_records=num_records)({"batch_size": 4})
  assert _numbers(dataset, -1) == list(wanted)


# The order itself is tested in order_test.py.


def _order(paths, count, **keywords):
  """Returns the numbers of records in the order of `records.order`."""
  corpus = order.read_corpus(paths, "input_file")
  first_records = np.cumsum(corpus.num_records) - corpus.num_records
  numbers = []
  for window in order.windows(corpus, **keywords):
    records = np.concatenate([
        first_records[piece.block] + np.arange(piece.start, piece.stop)
        for piece in window.pieces])
    numbers += records[window.order].tolist()
    if len(numbers) >= count:
      return numbers[:count]


@pytest.mark.parametrize("position", [0, 27])
@pytest.mark.parametrize("num_processes, process", [
    (1, 0), (2, 1), *(pytest.param(*case, marks=pytest.mark.slow)
                      for case in ((3, 0), (5, 4)))])
def test_training_reads_records_in_the_order(
    tmp_path, monkeypatch, position, num_processes, process):
  """Training reads several epochs, windows and blocks, and parts of blocks."""
  monkeypatch.setattr(tfrecord, "BLOCK_RECORDS", 4)
  monkeypatch.setattr(order, "WINDOW_RECORDS", 16)
  paths = _numbered_files(tmp_path, (19, 3, 28))
  share = dict(seed=1, position=position, num_processes=num_processes,
               process=process)
  numbers = _training_numbers(paths, 5, 22, **share)
  assert numbers == _order(paths, 110, **share)


@pytest.mark.slow
def test_processes_read_no_byte_of_others(tmp_path, monkeypatch):
  """The operating system counts the bytes."""
  monkeypatch.setattr(tfrecord, "BLOCK_RECORDS", 64)
  monkeypatch.setattr(order, "WINDOW_RECORDS", 32 * 64)
  shape = schema.RecordShape(400, 5, 20)  # 1.9 kB each.
  serialized = list(map(
      tiny.serialize, tiny.random_examples(300, seed=0, shape=shape)))
  counts = (9000, 70, 300, 7000, 4000, 1024, 1801)
  paths = [
      str(tiny.write_serialized(
          tmp_path / "n_{}.tfrecord".format(i),
          [serialized[j % 300] for j in range(count)]))
      for i, count in enumerate(counts)]
  corpus = order.read_corpus(paths, "input_file")
  size = int(corpus.num_bytes.sum())
  num_windows = round(corpus.size / order.WINDOW_RECORDS)
  for num_processes in (1, 2, 3, 8):
    for process in range(num_processes):
      all_windows = order.windows(corpus, 1, 0, num_processes, process)
      own_windows = [next(all_windows) for _ in range(num_windows)]
      with monkeypatch.context() as patch:
        patch.setattr(order, "windows",
                      lambda *unused_share, own=own_windows: iter(own))
        before = _bytes_read()
        dataset = input_pipeline.training_input_fn(
            corpus, shape, "input_file", 1)({"batch_size": 1})
        num_records = sum(len(batches["input_ids"])
                          for batches in dataset.batch(500))
      assert abs(num_records - corpus.size / num_processes) < 1
      share = (_bytes_read() - before) / size
      assert 0.95 / num_processes < share <= 1.05 / num_processes


def _bytes_read():
  """Returns how many bytes this process has read so far."""
  try:
    with open("/proc/self/io", encoding="ascii") as file:
      return int(file.readline().split()[1])
  except FileNotFoundError:
    pytest.skip("there is no /proc/self/io to count bytes")


def test_the_seed_of_the_graph_does_not_matter(tmp_path):
  """The processes of a distributed run have different seeds of the graph."""
  paths = _numbered_files(tmp_path, (4, 4, 4, 4, 4))
  corpus = order.read_corpus(paths, "input_file")
  numbers = []
  for i in range(2):
    with tf.Graph().as_default(), tf1.Session() as session:
      tf1.set_random_seed(100 + 2 * i)
      dataset = input_pipeline.training_input_fn(
          corpus, _shape(paths), "input_file", seed=1, num_processes=2,
          process=i)({"batch_size": 10})
      batch = tf1.data.make_one_shot_iterator(dataset).get_next()
      numbers += session.run(batch)[schema.INPUT_IDS][:, 0].tolist()
  assert sorted(numbers) == list(range(20))


@pytest.mark.parametrize("name, value, limit", [
    (schema.INPUT_IDS, 29, 28), (schema.MASKED_LM_IDS, 1 << 33, 28),
    (schema.TEACHER_INDICES, -1, 28), (schema.MASKED_LM_POSITIONS, 10, 9),
    (schema.SEGMENT_IDS, 2, 1), (schema.NEXT_SENTENCE_LABELS, 2, 1)])
def test_an_integer_out_of_range_is_reported_with_file_and_record(
    tmp_path, name, value, limit):
  """The integer is not in the first record of a file."""
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
  corpus = order.read_corpus(paths, "input_file")
  dataset = input_pipeline.evaluation_input_fn(
      corpus, tiny.SHAPE, "input_file", limits=limits)({"batch_size": 4})
  with pytest.raises(InputError, match=(
      "--input_file: record 5 in .*bad.tfrecord has {} {}, but the limit "
      "is {}".format(name, value, limit))):
    with input_pipeline.record_errors(
        "input_file", corpus, tiny.SHAPE, limits):
      list(dataset)


@pytest.mark.parametrize("num_processes", [
    1, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("token_id, told", [
    (None, "b.tfrecord is damaged.*corrupt record at byte {}"),
    (29, "record {} in .*b.tfrecord has input_ids 29")])
def test_the_search_for_a_bad_record_reads_only_windows_in_memory(
    tmp_path, monkeypatch, num_processes, token_id, told):
  # A window is one block, which is decoded in small parts.
  monkeypatch.setattr(order, "WINDOW_BYTES", 1)
  monkeypatch.setattr(input_pipeline, "_DECODED_BYTES", 30000)
  examples = tiny.random_examples(64, seed=3) * 32
  serialized = list(map(tiny.serialize, examples))
  paths = [tiny.write_serialized(tmp_path / (name + ".tfrecord"), serialized)
           for name in "abcdefghijkl"]
  # The bad record is in the second block of its file.
  number = tfrecord.BLOCK_RECORDS + 7
  offset = len(tfrecord.frame(serialized[:number]))
  if token_id is None:
    content = bytearray(paths[1].read_bytes())
    content[offset + 30] ^= 1
    paths[1].write_bytes(content)
  else:
    bad = dict(examples[number])
    bad[schema.INPUT_IDS] = np.append(bad[schema.INPUT_IDS][:-1], token_id)
    tiny.write_serialized(paths[1], [
        *serialized[:number], tiny.serialize(bad), *serialized[number + 1:]])
  limits = schema.limits(tiny.SHAPE, 29, 2)
  corpus = order.read_corpus(list(map(str, paths)), "input_file")
  in_flight = input_pipeline.in_flight_pieces()
  reads = []
  read = tfrecord.read
  monkeypatch.setattr(
      tfrecord, "read",
      lambda path, *more: reads.append(path) or read(path, *more))
  errors = []
  for process in range(num_processes):
    dataset = input_pipeline.training_input_fn(
        corpus, tiny.SHAPE, "input_file", 1, num_processes=num_processes,
        process=process, limits=limits, in_flight=in_flight)({"batch_size": 16})
    try:
      with input_pipeline.record_errors(
          "input_file", corpus, tiny.SHAPE, limits,
          lambda: itertools.chain.from_iterable(list(in_flight))):
        list(dataset.take(corpus.size // num_processes // 16))
    except InputError as error:
      errors.append(str(error))
  assert len(errors) == 1
  assert re.search(told.format(number if token_id else offset), errors[0])
  assert 1 <= len(reads) <= 4, reads


def test_no_thread_tunes_a_dataset(tmp_path, monkeypatch):
  """The end of an iterator would wait for the thread, up to a minute."""
  path = tiny.write_records(
      tmp_path / "a.tfrecord", tiny.random_examples(3, seed=1))
  corpus = order.read_corpus([str(path)], "input_file")
  datasets = [
      make(corpus, tiny.SHAPE, "input_file")({"batch_size": 2})
      for make in (functools.partial(input_pipeline.training_input_fn, seed=0),
                   input_pipeline.evaluation_input_fn)]
  monkeypatch.setattr(tf.data.Dataset, "as_numpy_iterator",
                      lambda dataset: datasets.append(dataset) or iter(()))
  list(input_pipeline.read_windows(corpus, "input_file", tiny.SHAPE, 0, 3, 2))
  assert len(datasets) == 3
  for dataset in datasets:
    assert dataset.options().autotune.enabled is False


def test_an_error_of_a_checkpoint_is_never_blamed_on_records():
  message = "Restoring from checkpoint failed. Key x not found in checkpoint"
  with pytest.raises(tf.errors.NotFoundError):
    with input_pipeline.record_errors("input_file"):
      raise tf.errors.NotFoundError(None, None, message)
  # A record file may lie in a folder of any name.
  with pytest.raises(InputError, match="--input_file: /checkpoint/a.tfrecord"):
    with input_pipeline.record_errors("input_file"):
      raise tf.errors.NotFoundError(
          None, None, "/checkpoint/a.tfrecord; No such file or directory")

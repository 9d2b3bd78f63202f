"""Tests of what writes record files without TensorFlow."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import record_files
import records


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
  assert record_files.crc32c([message]).tolist() == [checksum]


def test_frames_of_all_lengths_are_read_by_tensorflow(tmp_path):
  rng = random.Random(0)
  messages = [bytes(rng.choices(range(256), k=length))
              for length in range(300)]
  messages += [bytes(rng.choices(range(256), k=70000)), b"\0" * 1000]
  rng.shuffle(messages)
  path = str(tmp_path / "a.tfrecord")
  with open(path, "wb") as file:
    file.write(record_files.frame(messages[:7]))
    file.write(record_files.frame(messages[7:]))
  assert list(records.read_records(path, "input_file")) == messages


@pytest.mark.parametrize("limit", [1, 2, 127, 128, 129, 16384, 2**21, 2**31,
                                   2**62])
def test_batches_are_encoded_as_single_records_are(limit):
  rng = np.random.default_rng(limit)
  features = {
      record_files.INPUT_IDS: rng.integers(0, limit, (9, 200)),
      record_files.NEXT_SENTENCE_LABELS: rng.integers(0, 2, (9, 1)),
      record_files.MASKED_LM_IDS: np.full((9, 3), limit - 1),
      record_files.INPUT_MASK: np.zeros((9, 130), np.int32),
      record_files.MASKED_LM_WEIGHTS: rng.random((9, 5), np.float32),
  }
  features[record_files.INPUT_IDS][3:] //= 3
  features[record_files.INPUT_IDS][8] = 0
  assert record_files.encode_batch(features) == [
      records.encode({name: values[i] for name, values in features.items()})
      for i in range(9)]


def test_batches_parse_to_what_went_in():
  ids = np.array([[0, 127, 128, 16383, 16384, 2**40]])
  weights = np.array([[0.0, 0.5, 1.0]])
  serialized, = record_files.encode_batch(
      {"input_ids": ids, "masked_lm_weights": weights})
  features = tf.train.Example.FromString(serialized).features.feature
  assert features["input_ids"].int64_list.value == ids[0].tolist()
  assert features["masked_lm_weights"].float_list.value == [0.0, 0.5, 1.0]


def test_the_writer_keeps_the_order_across_its_buffer(tmp_path, monkeypatch):
  monkeypatch.setattr(record_files, "_BUFFERED_RECORDS", 4)
  messages = [bytes([i]) for i in range(10)]
  path = str(tmp_path / "a.tfrecord")
  with record_files.RecordWriter(path) as writer:
    for message in messages:
      writer.write(message)
    writer.commit(record_files.Manifest("stage", {}, {}, {}, 1))
  assert list(records.read_records(path, "input_file")) == messages
  assert records.read_manifest(path).num_records == 10


def test_it_does_without_tensorflow():
  subprocess.run(
      [sys.executable, "-c", "import sys, record_files; "
       "assert 'tensorflow' not in sys.modules"],
      cwd=os.path.dirname(os.path.abspath(record_files.__file__)), check=True)

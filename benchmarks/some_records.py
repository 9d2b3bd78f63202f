"""Writes record files of a given size, for benchmarks."""

import dataclasses
import itertools
from typing import Iterator

import numpy as np

from records import manifest
from records import record_writer
from records import schema
from records import tfrecord
from util.command_line import InputError

_FLAG = "input_file"
_SEED = 0
# Records that are labelled at a time.
_BLOCK_RECORDS = 1000


def take(source: str, path: str, num_records: int) -> None:
  """Copies the first records of a file, with its manifest.

  Args:
    source: the file to copy from.
    path: the copy.
    num_records: number of records to copy.

  Raises:
    InputError: if the file has fewer records.
  """
  with record_writer.RecordWriter(path) as writer:
    for record in itertools.islice(tfrecord.read(source, _FLAG), num_records):
      writer.write(record)
    if writer.num_records < num_records:
      raise InputError("--{}={} has {:,} records, {:,} are needed; give a file "
                       "with more records, or a longer text".format(
                           _FLAG, source, writer.num_records, num_records))
    writer.commit(manifest.read_manifest(source))


def label_randomly(source: str, path: str, truncation_factor: int) -> None:
  """Labels masked records with random entries instead of a teacher's.

  Args:
    source: records of stage III with their manifest.
    path: the labelled records.
    truncation_factor: K.
  """
  made_by = manifest.read_manifest(source)
  with record_writer.RecordWriter(path) as writer:
    for record in _labelled(source, made_by.vocab_size, truncation_factor):
      writer.write(record)
    writer.commit(dataclasses.replace(made_by, flags=dict(
        made_by.flags, truncation_factor=truncation_factor)))


def _labelled(source: str, vocab_size: int, truncation_factor: int
             ) -> Iterator[bytes]:
  """Yields the records of a file with random labels, 0 in padded slots."""
  generator = np.random.default_rng(_SEED)
  records = tfrecord.read(source, _FLAG)
  while block := list(itertools.islice(records, _BLOCK_RECORDS)):
    weights = np.stack([tfrecord.decode(record)[schema.MASKED_LM_WEIGHTS]
                        for record in block])[:, :, np.newaxis]  # [N, P, 1]
    shape = *weights.shape[:2], truncation_factor
    probabilities = generator.random(shape, np.float32) / truncation_factor
    indices = generator.integers(0, vocab_size, shape)
    yield from tfrecord.add_features(block, {
        schema.TEACHER_PROBABILITIES: (probabilities * weights).reshape(
            len(block), -1),
        schema.TEACHER_INDICES: (indices * (weights > 0)).reshape(
            len(block), -1)})

"""Gives masked records random labels: to training and reading all are alike."""

import pathlib
from typing import Sequence

import numpy as np

from records import schema
from records import tfrecord

_SEED = 0


def label(masked: Sequence[str], labelled: pathlib.Path, vocab_size: int,
          truncation_factor: int, num_records: int) -> None:
  """Writes records of stage III as stage IV would, but for what they say.

  Args:
    masked: record files of stage III.
    labelled: the file to write.
    vocab_size: of the teacher.
    truncation_factor: K.
    num_records: how many to take at most.
  """
  generator = np.random.default_rng(_SEED)
  records = []
  for path in masked:
    for record in tfrecord.read(path, "text_file"):
      if len(records) < num_records:
        records.append(record)
  weights = np.stack([tfrecord.decode(record)[schema.MASKED_LM_WEIGHTS]
                      for record in records])[:, :, np.newaxis]
  shape = *weights.shape[:2], truncation_factor
  # As with the real ones, padded slots hold zeros.
  probabilities = generator.random(shape, np.float32) / truncation_factor
  indices = generator.integers(0, vocab_size, shape)
  labels = {
      schema.TEACHER_PROBABILITIES: (probabilities * weights).reshape(
          len(records), -1),
      schema.TEACHER_INDICES: (indices * (weights > 0)).reshape(
          len(records), -1)}
  labelled.write_bytes(tfrecord.frame(tfrecord.add_features(records, labels)))

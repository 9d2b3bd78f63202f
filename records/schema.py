"""Defines the features of a record: names, dtypes and shapes.

A record is one `tf.train.Example` for one sequence. It has a list of numbers
for each feature, or all features in one string of bytes: see `compact`.

Dimensions:
  S: max_seq_length, tokens in a sequence
  P: max_predictions_per_seq, slots for masked tokens in a sequence
  K: truncation_factor, teacher entries stored for each slot
  H: hidden_size of the teacher
"""

from typing import Dict, NamedTuple, Optional, Tuple

import numpy as np

INPUT_IDS = "input_ids"
INPUT_MASK = "input_mask"
SEGMENT_IDS = "segment_ids"
MASKED_LM_POSITIONS = "masked_lm_positions"
MASKED_LM_IDS = "masked_lm_ids"
MASKED_LM_WEIGHTS = "masked_lm_weights"
NEXT_SENTENCE_LABELS = "next_sentence_labels"
TEACHER_PROBABILITIES = "truncated_masked_lm_probs"
TEACHER_INDICES = "top_k_indices"
TEACHER_HIDDEN_STATES = "teacher_hidden_states"
# In a compact record: all features above, except the hidden states.
COMPACT = "compact"
# Features with the teacher's labels, and features with token ids.
LABELS = (TEACHER_PROBABILITIES, TEACHER_INDICES, TEACHER_HIDDEN_STATES)
TOKEN_IDS = (INPUT_IDS, MASKED_LM_IDS, TEACHER_INDICES)


class Layout(NamedTuple):
  """The layout of a compact record's bytes.

  Attributes:
    max_seq_length: S.
    max_predictions_per_seq: P.
    token_id_bits: bits per token id, 16 or 32.
    truncation_factor: K, or 0 without teacher probabilities.
    probability_bits: bits per teacher probability, 8, 16 or 32; 0 without
      teacher probabilities.
  """
  max_seq_length: int
  max_predictions_per_seq: int
  token_id_bits: int
  truncation_factor: int = 0
  probability_bits: int = 0


class RecordShape(NamedTuple):
  """The lengths common to all records of a run, and their layouts.

  Attributes:
    max_seq_length: S.
    max_predictions_per_seq: P.
    truncation_factor: K, or 0 for records read without teacher probabilities.
    teacher_hidden_size: H, or 0 for records read without hidden states.
    layouts: every layout among the records; None stands for records with a
      list for each feature.
  """
  max_seq_length: int
  max_predictions_per_seq: int
  truncation_factor: int = 0
  teacher_hidden_size: int = 0
  layouts: Tuple[Optional[Layout], ...] = (None,)

  @property
  def has_labels(self) -> bool:
    """Whether the records are read with teacher labels of any kind."""
    return bool(self.truncation_factor or self.teacher_hidden_size)


class Feature(NamedTuple):
  """A feature's dtype in the file, its shape, and the flags that set its shape.

  A float16 feature is stored as a string of little-endian bytes, because an
  Example has no list of float16.
  """
  dtype: type
  shape: Tuple[int, ...]
  flags: Tuple[str, ...]


def features(shape: RecordShape) -> Dict[str, Feature]:
  """Returns every feature of a record by name, in the order of the stages."""
  predictions, top_k = shape.max_predictions_per_seq, shape.truncation_factor
  per_token = ((shape.max_seq_length,), ("max_seq_length",))
  per_slot = ((predictions,), ("max_predictions_per_seq",))
  schema = {
      INPUT_IDS: Feature(np.int64, *per_token),
      INPUT_MASK: Feature(np.int64, *per_token),
      SEGMENT_IDS: Feature(np.int64, *per_token),
      MASKED_LM_POSITIONS: Feature(np.int64, *per_slot),
      MASKED_LM_IDS: Feature(np.int64, *per_slot),
      MASKED_LM_WEIGHTS: Feature(np.float32, *per_slot),
      NEXT_SENTENCE_LABELS: Feature(np.int64, (1,), ()),
  }
  if top_k:
    per_entry = ((predictions, top_k),
                 ("max_predictions_per_seq", "truncation_factor"))
    schema[TEACHER_PROBABILITIES] = Feature(np.float32, *per_entry)
    schema[TEACHER_INDICES] = Feature(np.int64, *per_entry)
  if shape.teacher_hidden_size:
    schema[TEACHER_HIDDEN_STATES] = Feature(
        np.float16, (predictions, shape.teacher_hidden_size), ())
  return schema


def limits(shape: RecordShape, vocab_size: int,
           type_vocab_size: int) -> Dict[str, int]:
  """Returns the exclusive upper bound of each integer feature, by name.

  Args:
    shape: lengths of the records.
    vocab_size: vocabulary size of the model that reads the records.
    type_vocab_size: number of segment types of the model.
  """
  below = dict.fromkeys(TOKEN_IDS, vocab_size)
  below.update({INPUT_MASK: 2, SEGMENT_IDS: type_vocab_size,
                MASKED_LM_POSITIONS: shape.max_seq_length,
                NEXT_SENTENCE_LABELS: 2})
  return {name: below[name] for name, feature in features(shape).items()
          if feature.dtype == np.int64}

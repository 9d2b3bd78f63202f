"""Tests of the features of a record."""

import subprocess
import sys

import numpy as np
import pytest

from records import schema
import tiny

_WITHOUT_LABELS = {
    "input_ids": (np.int64, (10,)),
    "input_mask": (np.int64, (10,)),
    "segment_ids": (np.int64, (10,)),
    "masked_lm_positions": (np.int64, (3,)),
    "masked_lm_ids": (np.int64, (3,)),
    "masked_lm_weights": (np.float32, (3,)),
    "next_sentence_labels": (np.int64, (1,)),
}
_LABELS = {
    "truncated_masked_lm_probs": (np.float32, (3, 4)),
    "top_k_indices": (np.int64, (3, 4)),
}


@pytest.mark.parametrize("truncation_factor, wanted", [
    (4, {**_WITHOUT_LABELS, **_LABELS}), (0, _WITHOUT_LABELS)])
def test_features_have_the_names_and_shapes_of_2019(truncation_factor, wanted):
  features = schema.features(schema.RecordShape(10, 3, truncation_factor))
  assert list(features) == list(wanted)
  for name, feature in features.items():
    assert (feature.dtype, feature.shape) == wanted[name]
    # A flag sets each dimension, except that of the next-sentence label.
    assert len(feature.flags) == len(feature.shape) - (feature.shape == (1,))
  assert set(schema.LABELS) == {*_LABELS, "teacher_hidden_states"}


def test_hidden_states_need_no_other_labels():
  features = schema.features(schema.RecordShape(10, 3, teacher_hidden_size=8))
  assert list(features) == [*_WITHOUT_LABELS, "teacher_hidden_states"]
  assert features["teacher_hidden_states"][:2] == (np.float16, (3, 8))


def test_records_are_written_without_tensorflow():
  subprocess.run(
      [sys.executable, "-c",
       "import sys; from records import manifest, sampling, schema, tfrecord; "
       "assert 'tensorflow' not in sys.modules"],
      cwd=tiny.ROOT, check=True)

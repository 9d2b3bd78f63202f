"""Tests that Hugging Face's BERT reads the student; optional.

It runs where PyTorch and transformers 4 are installed beside this project's
packages: pip install torch 'transformers<5'.
"""

import numpy as np
import pytest
import tensorflow as tf

from distillation import checkpoints
import modeling
from records import decoding
from records import schema
from records import tfrecord
import reference_bert
import tiny

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", minversion="4.0")


def _compare(folder, config, variables_path, features):
  """Compares log-probabilities of both heads."""
  from transformers.models.bert import modeling_bert  # Gone in version 5.
  masked, following = map(tf.nn.log_softmax, tiny.scores(
      config, tiny.read_checkpoint(variables_path), features))
  their_config = transformers.BertConfig.from_json_file(
      str(folder / "bert_config.json"))
  their_config.hidden_act = "gelu_new"
  theirs = transformers.BertForPreTraining(their_config)
  modeling_bert.load_tf_weights_in_bert(
      theirs, their_config, str(variables_path))
  theirs.eval()
  with torch.no_grad():
    outputs = theirs(**{name: torch.tensor(np.int64(features[source]))
                        for name, source in (
                            ("input_ids", schema.INPUT_IDS),
                            ("attention_mask", schema.INPUT_MASK),
                            ("token_type_ids", schema.SEGMENT_IDS))})
  positions = np.int64(features[schema.MASKED_LM_POSITIONS])
  their_masked = np.take_along_axis(
      outputs.prediction_logits.log_softmax(-1).numpy(),
      positions[:, :, np.newaxis], axis=1)
  np.testing.assert_allclose(
      np.reshape(masked, their_masked.shape), their_masked, atol=1e-4)
  np.testing.assert_allclose(
      following, outputs.seq_relationship_logits.log_softmax(-1).numpy(),
      atol=1e-4)


def test_the_export_of_a_tiny_student(tmp_path):
  checkpoint = tiny.write_checkpoint(
      tmp_path / "model.ckpt-1", tiny.random_variables())
  tiny.write_config(tmp_path / "bert_config.json")
  exported = tmp_path / "bert_model.ckpt"
  checkpoints.export(tiny.CONFIG, str(checkpoint), str(exported))
  _compare(tmp_path, tiny.CONFIG, exported, reference_bert.batch(
      tiny.random_examples(5, seed=1)))


def test_the_export_of_the_real_teacher(tmp_path, shared):
  folder = shared / "data/teacher"
  config = modeling.BertConfig.from_json_file(str(folder / "bert_config.json"))
  exported = tmp_path / "bert_model.ckpt"
  checkpoints.export(config, str(folder / "bert_model.ckpt"), str(exported))
  serialized = list(tfrecord.read(
      str(shared / "golden/teacher_labels/expected.tfrecord"), "input_file"))
  features = decoding.decode(
      tf.constant(serialized[:8]), schema.RecordShape(128, 20))
  _compare(folder, config, exported, {
      name: value.numpy() for name, value in features.items()})

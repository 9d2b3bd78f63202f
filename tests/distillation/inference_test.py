"""Tests of graphs for inference."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from distillation import devices
from distillation import inference
import modeling
from records import schema
import tiny

tf1 = tf.compat.v1

# Wide enough for TensorFlow to rewrite it.
_CONFIG = dataclasses.replace(
    tiny.CONFIG, vocab_size=512, hidden_size=64, intermediate_size=256)


def _build():
  """Builds a model; returns its graph, placeholders and logits."""
  with tf.Graph().as_default() as graph:
    inputs = [tf1.placeholder(tf.int32, [None, None]) for _ in range(4)]
    outputs = [modeling.pretraining_logits(
        _CONFIG, False, *inputs, has_next_sentence=False).masked_lm]
  return graph, inputs, outputs


@pytest.fixture(name="feed", scope="module")
def _feed():
  generator = np.random.default_rng(2)
  examples = [tiny.random_features(generator, _CONFIG) for _ in range(16)]
  return [np.stack([features[name] for features in examples]) for name in (
      schema.INPUT_IDS, schema.INPUT_MASK, schema.SEGMENT_IDS,
      schema.MASKED_LM_POSITIONS)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_computes_what_a_session_with_its_own_rewrites_does(
    tmp_path, feed, precision):
  config = devices.session_config(devices.DeviceOptions(precision))
  variables = tiny.random_variables(_CONFIG)
  checkpoint = str(tiny.write_checkpoint(tmp_path / "bert.ckpt", variables))
  graph, inputs, outputs = _build()
  with graph.as_default(), tf1.Session(config=config) as session:
    for variable in tf1.trainable_variables():
      variable.load(variables[variable.op.name], session)
    wanted, = session.run(outputs, dict(zip(inputs, feed)))
  prepared = inference.prepare(*_build(), config)
  with inference.start_session(prepared, checkpoint) as session:
    found, = session.run(prepared.outputs, dict(zip(prepared.inputs, feed)))
  np.testing.assert_array_equal(found, wanted)


def test_no_weight_is_a_constant(feed):
  for precision in ("fp32", "bf16"):
    prepared = inference.prepare(*_build(), devices.session_config(
        devices.DeviceOptions(precision)))
    num_weights = sum(
        np.prod(shape) for shape in modeling.variable_shapes(_CONFIG).values())
    assert prepared.graph.as_graph_def().ByteSize() < num_weights


def test_bfloat16_weights_are_read_as_they_are():
  config = devices.session_config(devices.DeviceOptions("bf16"))
  rewrites = config.graph_options.rewrite_options
  if rewrites.auto_mixed_precision_onednn_bfloat16 != rewrites.ON:
    pytest.skip("this CPU has no bfloat16 arithmetic (avx512_bf16, amx_bf16)")
  prepared = inference.prepare(*_build(), config)
  kernels = [weight for weight in prepared.weights
             if weight.dtype == tf.bfloat16]
  assert len(kernels) >= 7  # Of one layer and the transform, and embeddings.
  casts = [operation for operation in prepared.graph.get_operations()
           if operation.type == "Cast"
           and operation.inputs[0].op.type == "ReadVariableOp"
           and operation.outputs[0].dtype == tf.bfloat16
           and operation.outputs[0].consumers()]
  assert not casts

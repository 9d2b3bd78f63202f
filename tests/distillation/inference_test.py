"""Tests of inference with the variables of a checkpoint."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from distillation import inference
import modeling
from records import schema
import tiny

tf1 = tf.compat.v1

# Wide enough for TensorFlow to fuse its operations.
_CONFIG = dataclasses.replace(
    tiny.CONFIG, vocab_size=512, hidden_size=64, intermediate_size=256)
# Relative to the largest score.
_TOLERANCES = {tf.float32: 1e-6, tf.bfloat16: 0.05, tf.float16: 0.01}


def _build(compute_type, for_cpu):
  """Builds a model; returns its placeholders and logits."""
  inputs = [tf1.placeholder(tf.int32, [None, None]) for _ in range(4)]
  with inference.variables_of(compute_type):
    logits = modeling.pretraining_logits(
        _CONFIG, False, *inputs, has_next_sentence=False,
        compute_type=compute_type, for_cpu=for_cpu).masked_lm
  return inputs, logits


@pytest.fixture(name="batch", scope="module")
def _batch():
  generator = np.random.default_rng(2)
  examples = [tiny.random_features(generator, _CONFIG) for _ in range(16)]
  return {name: np.stack([features[name] for features in examples])
          for name in examples[0]}


@pytest.mark.parametrize("compute_type, for_cpu", [
    (tf.float32, True), (tf.bfloat16, True), (tf.bfloat16, False),
    pytest.param(tf.float16, False, marks=pytest.mark.slow)])
def test_scores_are_those_of_the_checkpoint(
    tmp_path, batch, compute_type, for_cpu):
  variables = tiny.random_variables(_CONFIG)
  checkpoint = str(tiny.write_checkpoint(tmp_path / "bert.ckpt", variables))
  wanted, _ = tiny.scores(_CONFIG, variables, batch)
  with tf.Graph().as_default():
    inputs, logits = _build(compute_type, for_cpu)
    with inference.start_session(tf1.ConfigProto(), checkpoint) as session:
      found = session.run(logits, dict(zip(inputs, (batch[name] for name in (
          schema.INPUT_IDS, schema.INPUT_MASK, schema.SEGMENT_IDS,
          schema.MASKED_LM_POSITIONS)))))
  error = np.abs(found - wanted).max() / np.abs(wanted).max()
  assert error < _TOLERANCES[compute_type]
  assert (error > 1e-4) == (compute_type != tf.float32)


@pytest.mark.parametrize("compute_type, for_cpu, score_type", [
    (tf.float32, True, tf.float32), (tf.float16, True, tf.float32),
    (tf.bfloat16, False, tf.float32), (tf.bfloat16, True, tf.bfloat16)])
def test_matrix_products_read_variables_of_their_compute_type(
    compute_type, for_cpu, score_type):
  with tf.Graph().as_default() as graph:
    _build(compute_type, for_cpu)
    dtypes = {variable.op.name: variable.dtype.base_dtype
              for variable in tf1.trainable_variables()}
    operations = graph.get_operations()
  kernels = [name for name in dtypes if name.endswith("/kernel")]
  assert len(kernels) == 7  # Six in the layer, one in the transform.
  for name, dtype in dtypes.items():
    is_operand = name in (
        *kernels, *(kernel.replace("kernel", "bias") for kernel in kernels),
        "bert/embeddings/word_embeddings")
    assert dtype == (compute_type if is_operand else tf.float32), name
  casts = [operation.inputs[0].op.inputs[0].op.name for operation in operations
           if operation.type == "Cast"
           and operation.inputs[0].op.type == "ReadVariableOp"]
  assert casts == ["bert/embeddings/word_embeddings"] * (
      compute_type != score_type)
  products = [operation for operation in operations
              if operation.type == "MatMul"]
  assert len(products) == 8
  assert {product.outputs[0].dtype for product in products[:-1]} == {
      compute_type}
  assert products[-1].outputs[0].dtype == score_type


def test_the_graph_holds_no_weights_as_constants():
  with tf.Graph().as_default() as graph:
    _build(tf.bfloat16, True)
    num_weights = sum(
        np.prod(shape) for shape in modeling.variable_shapes(_CONFIG).values())
    assert graph.as_graph_def().ByteSize() < num_weights

"""Tests of --precision fp16 on a CPU: graph, results and resuming.

The graph is the same on a GPU.
"""

import re

import numpy as np
import pytest
import tensorflow as tf

from distillation import checkpoints
from distillation import student
from distillation import training
import modeling
import optimization
from records import schema
from records import tfrecord
import tiny

tf1 = tf.compat.v1

_PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2")


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  return tiny.trainer_inputs(tmp_path_factory.mktemp("float16"))


def _run(folder, output_dir, **changes):
  changes = {"num_warmup_steps": 0, "precision": "fp16", **changes}
  training.run(tiny.trainer_options(folder, output_dir, **changes))


# --- The graph ---------------------------------------------------------------


def test_matrix_products_are_in_float16_and_softmax_is_in_float32():
  """Covers the forward pass and the gradients; variables are float32."""
  with tf.Graph().as_default() as graph:
    student.create_train_step(
        student.StudentOptions(tiny.CONFIG, compute_type=tf.float16),
        student.prepare_batch(tiny.batch(tiny.random_examples(4, seed=1))))
    operations = graph.get_operations()
    variables = tf1.global_variables()
  products = [operation for operation in operations
              if operation.type in _PRODUCTS]
  in_float32 = [operation.name for operation in products
                if operation.outputs[0].dtype != tf.float16]
  assert len(products) > 3 * 8
  # Only the heads, whose scores float16 would round, and the sums over rows in
  # the gradient of layer normalization.
  assert in_float32 and all(
      re.search("seq_relationship|cls/predictions/MatMul|IdentityN.*_grad",
                name) for name in in_float32)
  for kind in ("Softmax", "Exp", "Sum", "Rsqrt",
               "SparseSoftmaxCrossEntropyWithLogits"):
    # Gradients of operands that were broadcast are summed in float16.
    types = {operation.inputs[0].dtype for operation in operations
             if operation.type == kind and not (
                 kind == "Sum" and operation.name.startswith("gradients/"))}
    assert types == {tf.float32}, kind
  assert {variable.dtype.base_dtype for variable in variables
          if variable.op.name not in (
              "global_step", *optimization.LOSS_SCALE_VARIABLES)} == {
                  tf.float32}


@pytest.mark.parametrize("is_training", [False, True])
def test_gelu_of_large_inputs_is_finite(is_training):
  """The square of 300 overflows in float16."""
  activation = modeling.gelu if is_training else modeling._fused_gelu
  inputs = np.float16([-60000, -300, -41, -3, -0.5, 0, 0.5, 3, 39, 300, 60000])
  with tf.Graph().as_default(), tf1.Session() as session:
    tensor = tf.constant(inputs)
    outputs = activation(tensor)
    found, slopes = session.run(
        (outputs, tf.gradients(outputs, tensor)[0] if is_training
         else tf.zeros_like(outputs)))
  x = inputs.astype(np.float64)
  inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x ** 3)
  np.testing.assert_allclose(
      found, 0.5 * x * (1 + np.tanh(inner)), rtol=5e-3, atol=2e-3)
  if is_training:
    wanted = 0.5 * (1 + np.tanh(inner)) + 0.5 * x / np.cosh(
        np.clip(inner, -300, 300)) ** 2 * np.sqrt(2 / np.pi) * (
            1 + 3 * 0.044715 * x ** 2)
    np.testing.assert_allclose(slopes, wanted, rtol=5e-3, atol=2e-3)


# --- Results -----------------------------------------------------------------


@pytest.mark.slow
def test_losses_after_20_steps_differ_by_at_most_1_percent(tmp_path, folder):
  found = {}
  for precision in ("fp32", "fp16"):
    _run(folder, tmp_path / precision, precision=precision,
         num_train_steps=20, learning_rate=0.01)
    found[precision] = tiny.read_results(tmp_path / precision)
  for name in ("masked_lm_training_loss", "masked_lm_cross_entropy",
               "next_sentence_loss"):
    wanted = found["fp32"][name]
    assert found["fp16"][name] == pytest.approx(wanted, rel=0.01)
    assert found["fp16"][name] != wanted
  # Training has lowered the loss.
  _run(folder, tmp_path / "start", do_train=False)
  assert (found["fp16"]["masked_lm_training_loss"]
          < 0.95 * tiny.read_results(tmp_path / "start")[
              "masked_lm_training_loss"])


@pytest.mark.slow
def test_micro_batches_equal_one_batch(tmp_path, folder):
  """All micro-batches of a step have the same loss scale."""
  found = {}
  for name, batch_size, num_micro_batches in (("one", 6, 1), ("three", 2, 3)):
    _run(folder, tmp_path / name, do_eval=False, num_train_steps=3,
         train_batch_size=batch_size, learning_rate=0.001,
         gradient_accumulation_steps=num_micro_batches)
    found[name] = tiny.read_checkpoint(tmp_path / name / "model.ckpt-3")
  for name in ("bert/pooler/dense/kernel", "cls/predictions/output_bias"):
    # The moment is a mean of gradients that float16 has rounded.
    moment = name + "/adam_m"
    np.testing.assert_allclose(
        found["three"][moment], found["one"][moment],
        atol=0.02 * np.abs(found["one"][moment]).max(), err_msg=name)


def test_labels_differ_by_at_most_two_percent(tmp_path, folder):
  examples = list(map(tiny.without_labels, tiny.random_examples(9, seed=3)))
  tiny.write_records(tmp_path / "masked.tfrecord", examples)
  labels = {}
  for precision in ("fp32", "fp16"):
    output = tmp_path / precision
    result = tiny.run_script(
        "extract_teacher_labels_truncated.py", *tiny.SHAPE_FLAGS,
        "--bert_config_file", folder / "bert_config.json",
        "--init_checkpoint", folder / "bert_model.ckpt", "--batch_size=8",
        "--input_file", tmp_path / "masked.tfrecord", "--output_file", output,
        "--truncation_factor={}".format(tiny.CONFIG.vocab_size),
        "--precision", precision)
    assert result.returncode == 0, result.stderr
    assert ("--precision=fp16: CPUs" in result.stderr) == (precision == "fp16")
    labels[precision] = np.array([
        _by_token(tfrecord.decode(record))
        for record in tfrecord.read(str(output), "input_file")])
  assert not np.array_equal(labels["fp16"], labels["fp32"])
  np.testing.assert_allclose(
      labels["fp16"], labels["fp32"], rtol=0.02, atol=1e-6)


def _by_token(features):
  """Returns the stored probabilities of each slot by token id."""
  indices, probabilities = (
      features[name].reshape(-1, tiny.CONFIG.vocab_size) for name in (
          schema.TEACHER_INDICES, schema.TEACHER_PROBABILITIES))
  return np.take_along_axis(
      probabilities, np.argsort(indices, axis=-1), axis=-1)


# --- The loss scale of resumed runs ------------------------------------------


@pytest.mark.slow
def test_a_resumed_run_restores_the_loss_scale(tmp_path, folder, monkeypatch):
  """The initial scale overflows; later the scale grows."""
  monkeypatch.setattr(optimization, "_FIRST_LOSS_SCALE", 2.0 ** 26)
  monkeypatch.setattr(optimization, "_FINITE_STEPS", 4)
  for name, steps in (("whole", [30]), ("parts", [2, 17, 30])):
    for num_steps in steps:
      # All parts have the learning rates of a run of 30 steps.
      _run(folder, tmp_path / name, do_eval=False, num_train_steps=30,
           learning_rate=0.01, save_checkpoints_steps=1, keep_checkpoint_max=40)
      if num_steps < 30:
        _cut(tmp_path / name, num_steps)
  wanted, found = (tiny.read_checkpoint(tmp_path / name / "model.ckpt-30")
                   for name in ("whole", "parts"))
  assert set(optimization.LOSS_SCALE_VARIABLES) < set(wanted)
  assert wanted["loss_scale_skipped_steps"] > 2
  assert set(found) == set(wanted)
  for name, value in wanted.items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)


def _cut(output_dir, step):
  """Lets the next run resume from the checkpoint of a step."""
  checkpoint = str(output_dir / "model.ckpt-{}".format(step))
  tf1.train.update_checkpoint_state(str(output_dir), checkpoint, [checkpoint])


@pytest.mark.slow
def test_training_may_change_to_float16_and_back(tmp_path, folder):
  """The loss scale then restarts; exported students have none."""
  run = dict(do_eval=False, save_checkpoints_steps=2, keep_checkpoint_max=2)
  for num_steps, precision in ((2, "fp32"), (4, "fp16"), (6, "fp32"),
                               (8, "fp16")):
    _run(folder, tmp_path, num_train_steps=num_steps, precision=precision,
         **run)
    variables = tiny.read_checkpoint(
        tmp_path / "model.ckpt-{}".format(num_steps))
    state = [variables.get(name) for name in optimization.LOSS_SCALE_VARIABLES]
    assert state == ([None] * 3 if precision == "fp32" else [2 ** 15, 2, 0])
  assert len(list(tmp_path.glob("*.index"))) == 2
  assert not set(optimization.LOSS_SCALE_VARIABLES) & set(
      checkpoints.variable_shapes(
          str(tmp_path / "student" / "bert_model.ckpt")))

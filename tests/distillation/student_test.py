"""Tests of the student's model_fn and metrics."""

import numpy as np
import pytest
import tensorflow as tf

from distillation import losses
from distillation import student
from records import schema
import reference_bert
import tiny

tf1 = tf.compat.v1
_LOGITS = np.log(np.float32([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.15, 0.05]]))


def test_metrics_are_averaged_over_slots_not_batches():
  batches = [([1.0, 1.0], [1.0, 0.0]), ([1.0, 0.0], [0.0, 7.0])]
  with tf.Graph().as_default(), tf1.Session() as session:
    weights, values = tf1.placeholder("float32"), tf1.placeholder("float32")
    metrics = student.evaluation_metrics(
        masked_lm_weights=weights, masked_lm_is_correct=values,
        masked_lm_cross_entropies=values, masked_lm_training_losses=values,
        masked_lm_confidences=values / 2,
        next_sentence_is_correct=values, next_sentence_losses=values)
    session.run(tf1.local_variables_initializer())
    for batch in batches:
      session.run([update for _, update in metrics.values()],
                  dict(zip((weights, values), batch)))
    results = session.run({name: value for name, (value, _) in metrics.items()})
  assert results["masked_lm_accuracy"] == pytest.approx(1 / 3)
  assert results["masked_lm_training_loss"] == pytest.approx(1 / 3)
  assert results["next_sentence_loss"] == pytest.approx(8 / 4)
  # One of three slots is correct at the confidence 0.5; the others have no gap.
  assert results["expected_calibration_error"] == pytest.approx(1 / 6)


def test_teacher_metrics_by_hand():
  # The student's tokens by decreasing probability: 3 2 1 0; 0 2 1 3.
  labels = losses.TeacherLabels(
      tf.constant([[0.2, 0.5, 0.1], [0.5, 0.2, 0.1]]),
      tf.constant([[0, 3, 1], [1, 2, 3]]))
  logits = tf.constant(_LOGITS)
  metrics = student.teacher_metrics(logits, labels, 1.0)
  np.testing.assert_array_equal(metrics["teacher_top1_agreement"], [1, 0])
  np.testing.assert_array_equal(metrics["teacher_topk_precision"], [0.75, 0.75])
  # The last entry is a sample, so the precision is over the top two.
  metrics = student.teacher_metrics(logits, labels, 1.0, tail_samples=1)
  np.testing.assert_array_equal(metrics["teacher_topk_precision"], [0.5, 0.5])
  np.testing.assert_allclose(
      metrics["teacher_cross_entropy"][0],
      -0.2 * np.log(0.1) - 0.5 * np.log(0.4) - 0.1 * np.log(0.2), rtol=1e-5)
  np.testing.assert_allclose(
      metrics["kl_from_teacher"][0],
      0.2 * np.log(0.2 / 0.1) + 0.5 * np.log(0.5 / 0.4)
      + 0.3 * np.log(0.3 / 0.5), rtol=1e-5)


def _run(mode, examples, batch=(), **options):
  """Runs the model_fn on a batch.

  Args:
    mode: "train" or "eval".
    examples: features of the records in the batch.
    batch: arguments of `prepare_batch`.
    **options: fields of `StudentOptions`.

  Returns:
    The loss and, in evaluation, the metrics; in training, the variables and
    the optimizer's slots after a step.
  """
  with tf.Graph().as_default(), tf1.Session() as session:
    features = {
        name: tf.cast(values, tf.float32 if values.dtype.is_floating
                      else tf.int32)
        for name, values in reference_bert.batch(examples).items()}
    spec = student.build_model_fn(student.StudentOptions(
        config=tiny.CONFIG, learning_rate=0.1, num_train_steps=10,
        num_warmup_steps=0, **options))(
            student.prepare_batch(features, **dict(batch)), None, mode, {})
    metrics = {}
    if mode == "eval":
      metric_fn, inputs = spec.eval_metrics
      metrics = metric_fn(**inputs)
    variables = tiny.random_variables()
    session.run([tf1.global_variables_initializer(),
                 tf1.local_variables_initializer()])
    for variable in tf1.trainable_variables():
      variable.load(variables[variable.op.name], session)
    loss = session.run(spec.loss)
    if mode == "train":
      session.run(spec.train_op)
      return loss, {variable.op.name: session.run(variable)
                    for variable in tf1.global_variables()}
    session.run([update for _, update in metrics.values()])
    return loss, session.run(
        {name: value for name, (value, _) in metrics.items()})


@pytest.mark.parametrize("mode, changes", [
    # Padded slots go through the head too.
    pytest.param("train", {"has_padding": True}, marks=pytest.mark.slow),
    ("eval", {"has_padding": True}),
    pytest.param("train", {"num_micro_batches": 3}, marks=pytest.mark.slow),
    pytest.param("train", {"num_micro_batches": 6}, marks=pytest.mark.slow),
])
def test_padding_and_micro_batches_do_not_change_the_results(mode, changes):
  examples = tiny.random_examples(6, seed=4)
  for features in examples:
    features[schema.MASKED_LM_WEIGHTS][1:] = 0
  examples[0][schema.MASKED_LM_WEIGHTS][:] = 0
  loss_options = losses.LossOptions(0.5, tail_mass="bucket")
  wanted_loss, wanted = _run(mode, examples, loss=loss_options)
  loss, found = _run(mode, examples, changes, loss=loss_options)
  assert loss == pytest.approx(wanted_loss, abs=1e-5)
  assert set(found) == set(wanted) and len(found) > 10
  for name, value in wanted.items():
    # Adam's first step is equally large for tiny and for large gradients, which
    # amplifies rounding errors. adam_m is a tenth of the gradient.
    atol = 1e-4 if name in tiny.random_variables() else 1e-6
    np.testing.assert_allclose(
        found[name], value, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("batch", [
    {}, pytest.param({"num_micro_batches": 3}, marks=pytest.mark.slow)])
def test_with_weight_0_the_next_sentence_head_is_not_trained(batch):
  """The head and its moments stay in the checkpoint for later runs."""
  examples = tiny.random_examples(6, seed=4)
  _, with_head = _run("train", examples, batch)
  loss, found = _run("train", examples, batch, loss=losses.LossOptions(
      next_sentence_weight=0.0))
  assert set(found) == set(with_head)
  start = tiny.random_variables()
  for name in start:
    is_of_head = name.startswith(("bert/pooler", "cls/seq_relationship"))
    assert np.array_equal(found[name], start[name]) == is_of_head, name
    assert np.any(found[name + "/adam_m"]) != is_of_head, name
  evaluated_loss, results = _run("eval", examples, loss=losses.LossOptions(
      next_sentence_weight=0.0))
  assert not [name for name in results if "next_sentence" in name]
  assert evaluated_loss == pytest.approx(loss, abs=1e-5)
  assert results[student.BATCH_LOSS] == pytest.approx(loss, abs=1e-5)


def test_the_next_sentence_loss_is_multiplied_by_its_weight():
  examples = tiny.random_examples(6, seed=4)
  (_, once), (_, thrice) = (
      _run("eval", examples, loss=losses.LossOptions(next_sentence_weight=w))
      for w in (1.0, 3.0))
  assert once["next_sentence_loss"] == thrice["next_sentence_loss"] > 0
  assert thrice[student.BATCH_LOSS] - once[student.BATCH_LOSS] == pytest.approx(
      2 * once["next_sentence_loss"], abs=1e-5)


def test_metrics_keep_their_old_names_too():
  _, results = _run("eval", tiny.random_examples(6, seed=4))
  for old_name, name in (("masked_lm_loss", "masked_lm_training_loss"),
                         ("teacher_topk_recall", "teacher_topk_precision")):
    assert results[old_name] == results[name] > 0


def test_records_without_labels_have_no_teacher_metrics():
  examples = list(map(tiny.without_labels, tiny.random_examples(6, seed=4)))
  loss, results = _run("eval", examples,
                       loss=losses.LossOptions(hard_label_weight=1))
  assert not [name for name in results if "teacher" in name]
  assert results["masked_lm_training_loss"] == (
      results["masked_lm_cross_entropy"])
  assert loss == pytest.approx(
      results["masked_lm_loss"] + results["next_sentence_loss"], abs=1e-5)

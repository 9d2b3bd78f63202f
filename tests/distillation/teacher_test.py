"""Tests of the teacher, of windows of records, and of the statistics."""

import logging
import threading
import types

import numpy as np
import pytest
import tensorflow as tf

from distillation import devices
from distillation import teacher
from records import input_pipeline
from records import manifest
from records import order
from records import schema
import tiny
from util.command_line import InputError

_SHAPE = tiny.SHAPE._replace(truncation_factor=0)


@pytest.fixture(name="checkpoint", scope="module")
def _checkpoint(tmp_path_factory):
  return str(tiny.write_checkpoint(
      tmp_path_factory.mktemp("teacher") / "bert_model.ckpt",
      tiny.random_variables()))


@pytest.fixture(name="features", scope="module")
def _features():
  """Features of a window of 11 records."""
  examples = tiny.random_examples(11, seed=3)
  return {name: np.stack([features[name] for features in examples])
          for name in examples[0]}


def _label(checkpoint, features, first_record=0, **changes):
  """Returns the arrays to store, in the order of `Labels.features`."""
  options = teacher.LabelOptions(**{"truncation_factor": 4, **changes})
  return tuple(teacher.Teacher(tiny.CONFIG, checkpoint, options).label(
      features, first_record).features.values())


@pytest.mark.parametrize("labels", [
    {}, {"tail_samples": 2}, {"label_format": "hidden"}])
@pytest.mark.parametrize("changes", [
    {"batch_size": 1}, {"batch_size": 3},
    # With XLA, the graph computes padded slots too.
    {"device": devices.DeviceOptions(use_xla=True)}])
def test_labels_do_not_depend_on_how_they_are_computed(
    checkpoint, features, labels, changes):
  is_hidden = "label_format" in labels
  wanted = _label(checkpoint, features, **labels)
  is_real = features[schema.MASKED_LM_WEIGHTS] > 0
  for values in wanted:
    assert values.shape == (11, 3, 8 if is_hidden else 4)
    assert values[is_real].any() and not values[~is_real].any()
  found = _label(checkpoint, features, **labels, **changes)
  np.testing.assert_allclose(
      found[0], wanted[0], atol=2e-3 if is_hidden else 1e-6)
  np.testing.assert_array_equal(found[1:], wanted[1:])


def test_samples_depend_on_the_record_and_the_seed(checkpoint, features):
  changes = {"tail_samples": 3, "random_seed": 7}
  _, wanted = _label(checkpoint, features, **changes)
  last = {name: values[5:] for name, values in features.items()}
  _, found = _label(checkpoint, last, first_record=5, **changes)
  np.testing.assert_array_equal(found, wanted[5:])
  for other in (_label(checkpoint, last, first_record=4, **changes)[1],
                _label(checkpoint, last, 5, tail_samples=3, random_seed=8)[1]):
    np.testing.assert_array_equal(other[..., 0], found[..., 0])
    assert (other[..., 1:] != found[..., 1:]).any()


def _windows(features, sizes):
  """Yields consecutive windows of features, with empty serialized records."""
  first = 0
  for size in sizes:
    yield input_pipeline.Window(first, [b""] * size, {
        name: values[first:first + size] for name, values in features.items()})
    first += size


@pytest.mark.parametrize("changes", [{"tail_samples": 2},
                                     {"label_format": "hidden"}])
def test_windows_get_the_same_labels_as_one_by_one(
    checkpoint, features, changes):
  """The second window has no masked tokens, but is yielded too."""
  weights = features[schema.MASKED_LM_WEIGHTS].copy()
  weights[5:8] = 0
  features = dict(features, **{schema.MASKED_LM_WEIGHTS: weights})
  model = teacher.Teacher(tiny.CONFIG, checkpoint, teacher.LabelOptions(
      **{"truncation_factor": 4, "batch_size": 2, **changes}))
  found = list(model.label_windows(_windows(features, (5, 3, 3)), 3))
  assert [item is None for item in found] == [
      True, True, False, True, False, True, False]
  for item, window in zip(filter(None, found), _windows(features, (5, 3, 3))):
    assert item.window.first == window.first
    wanted = model.label(window.features, window.first)
    for name, values in wanted.features.items():
      np.testing.assert_array_equal(item.labels.features[name], values)
    for values, wanted_values in zip(item.labels[1:], wanted[1:]):
      np.testing.assert_array_equal(values, wanted_values)


@pytest.mark.parametrize("answer_bytes, num_ahead", [(1 << 20, 16), (1, 1)])
def test_the_teacher_runs_ahead_within_a_limit_of_bytes(
    checkpoint, features, monkeypatch, answer_bytes, num_ahead):
  """1 MiB holds more than 16 batches, the other limit."""
  model = teacher.Teacher(tiny.CONFIG, checkpoint, teacher.LabelOptions(
      truncation_factor=4, batch_size=1))
  answered = threading.Semaphore(0)
  run, num_answers = model._session.run, []

  def count(*arguments):
    found = run(*arguments)
    num_answers.append(1)
    answered.release()
    return found

  monkeypatch.setattr(model._session, "run", count)
  monkeypatch.setattr(teacher, "_ANSWER_BYTES", answer_bytes)
  whole = {name: np.tile(values, [4, *[1] * (values.ndim - 1)])
           for name, values in features.items()}
  whole[schema.MASKED_LM_WEIGHTS][:, 0] = 1  # The teacher reads each batch.
  before = threading.active_count()
  labelled = model.label_windows(_windows(whole, [44]), 3)
  next(labelled)
  for _ in range(1 + num_ahead):
    assert answered.acquire(timeout=60)
  labelled.close()
  # One batch was taken, the others were computed ahead; all threads have ended.
  assert len(num_answers) == 1 + num_ahead
  assert threading.active_count() == before


def test_an_error_is_raised_after_the_preceding_windows(checkpoint, features):
  before = threading.active_count()

  def damaged():
    yield from _windows(features, (4, 4))
    raise InputError("record 8 is damaged")

  model = teacher.Teacher(
      tiny.CONFIG, checkpoint, teacher.LabelOptions(truncation_factor=4))
  labelled = model.label_windows(damaged(), 3)
  assert [next(labelled).window.first for _ in range(2)] == [0, 4]
  with pytest.raises(InputError, match="record 8 is damaged"):
    next(labelled)
  assert threading.active_count() == before


def test_without_masked_tokens_there_is_nothing_to_label(checkpoint, features):
  blank = dict(features, **{
      schema.MASKED_LM_WEIGHTS: features[schema.MASKED_LM_WEIGHTS] * 0})
  for labels in _label(checkpoint, blank):
    assert labels.shape == (11, 3, 4) and not labels.any()


@pytest.mark.parametrize("changes", [
    {}, {"batch_size": 3}, {"temperature": 3.0}, {"label_format": "hidden"},
    {"tail_samples": 3}, {"device": devices.DeviceOptions(use_xla=True)}])
def test_cross_entropies_are_those_of_the_whole_distribution(
    checkpoint, features, changes):
  """They are at temperature 1, for any options of the labels."""
  logits, _ = tiny.scores(tiny.CONFIG, tiny.random_variables(), features)
  wanted = -np.take_along_axis(
      tf.nn.log_softmax(logits).numpy().reshape(11, 3, -1),
      np.int64(features[schema.MASKED_LM_IDS])[:, :, np.newaxis],
      axis=2)[:, :, 0]
  is_real = features[schema.MASKED_LM_WEIGHTS] > 0
  labels = teacher.Teacher(
      tiny.CONFIG, checkpoint,
      teacher.LabelOptions(**{"truncation_factor": 4, **changes})).label(
          features, 0)
  np.testing.assert_allclose(
      labels.cross_entropies[is_real], wanted[is_real], atol=1e-5)


def test_figures_of_a_teacher_by_hand():
  """Adds two windows to the figures of an earlier run; ignores padding."""
  statistics = teacher.LabelStatistics(
      figures=manifest.TeacherFigures(5, 10, 4, 2.5))
  for weights, predictions, cross_entropies in (
      ([[1, 1, 0], [1, 0, 0]], [[7, 8, 9], [9, 9, 9]],
       [[0.5, 1.0, 99], [2.0, 99, 99]]),
      ([[0, 0, 0]], [[9, 9, 9]], [[99, 99, 99]])):
    weights, predictions, cross_entropies = map(
        np.array, (weights, predictions, cross_entropies))
    statistics.add(
        {schema.MASKED_LM_WEIGHTS: weights,
         schema.MASKED_LM_IDS: np.full(weights.shape, 9)},
        teacher.Labels({}, predictions, cross_entropies))
  assert statistics.figures == (8, 13, 5, 6.0)


@pytest.mark.parametrize("share, wanted", [
    ((0, 11), [(0, 4), (4, 4), (8, 3)]),
    ((3, 9), [(3, 4), (7, 2)]),
    ((5, 5), []),
])
def test_windows_hold_a_range_of_records_in_order(tmp_path, share, wanted):
  examples = tiny.random_examples(11, seed=3)
  paths = [str(tiny.write_records(tmp_path / name, part)) for name, part in (
      ("a", examples[:5]), ("b", examples[5:]))]
  windows = list(input_pipeline.read_windows(
      order.read_corpus(paths, "input_file"), "input_file", _SHAPE, *share, 4))
  assert [(window.first, len(window.serialized))
          for window in windows] == wanted
  for window in windows:
    for i, serialized in enumerate(window.serialized):
      features = examples[window.first + i]
      assert serialized == tiny.serialize(features)
      np.testing.assert_array_equal(
          window.features[schema.INPUT_IDS][i], features[schema.INPUT_IDS])


def test_a_damaged_file_is_an_error_of_the_windows(tmp_path):
  path = tiny.write_records(tmp_path / "a", tiny.random_examples(3, seed=3))
  corpus = order.read_corpus([str(path)], "input_file")
  path.write_bytes(path.read_bytes()[:-1] + b"x")
  with pytest.raises(InputError, match="--input_file: .*/a is damaged"):
    list(input_pipeline.read_windows(
        corpus, "input_file", _SHAPE, 0, 3, 2))


def test_mass_quantiles_are_exact_to_three_digits():
  generator = np.random.default_rng(0)
  statistics, all_masses = teacher.LabelStatistics(num_top=1), []
  for _ in range(20):
    masses = generator.beta(2, 3, (100, 3, 1)).astype("f")
    all_masses.append(masses.ravel())
    statistics.add({schema.MASKED_LM_WEIGHTS: np.ones((100, 3)),
                    schema.MASKED_LM_IDS: np.zeros((100, 3))},
                   teacher.Labels({schema.TEACHER_PROBABILITIES: masses},
                                  np.zeros((100, 3)), np.zeros((100, 3))))
  masses = np.concatenate(all_masses)
  assert statistics.mean_mass == pytest.approx(masses.mean(), rel=1e-5)
  for share in (0.05, 0.5):
    assert statistics.mass_quantile(share) == pytest.approx(
        np.quantile(masses, share), abs=5e-4)


@pytest.mark.parametrize("num_correct, warnings", [(0, 1), (3, 0)])
def test_an_unlikely_teacher_is_warned_of(
    tmp_path, caplog, num_correct, warnings):
  features, = tiny.random_examples(1, seed=1)
  features = {name: values[np.newaxis] for name, values in features.items()}
  features[schema.MASKED_LM_WEIGHTS][:] = 1
  predictions = features[schema.MASKED_LM_IDS].copy()
  predictions[:, num_correct:] += 1
  path = tiny.write_records(tmp_path / "a", tiny.random_examples(2, seed=3))
  statistics = teacher.LabelStatistics(num_top=2)
  statistics.add(features, teacher.Labels(
      {schema.TEACHER_PROBABILITIES: np.full((1, 3, 4), 0.25, "f")},
      predictions, np.ones((1, 3), "f")))
  with caplog.at_level(logging.INFO, "absl"):
    statistics.log(types.SimpleNamespace(seconds=0.0), 1, str(path))
  assert "The 2 most probable tokens hold 50.0% of the mass" in caplog.text
  assert "predicts {:.1f}% of the masked tokens".format(
      100 * num_correct / 3) in caplog.text
  assert "A sequence takes {:.0f} bytes".format(
      path.stat().st_size / 2) in caplog.text
  assert caplog.text.count("check that the records have") == warnings


@pytest.mark.parametrize("labels, what", [
    ({}, "probabilities"), ({"label_format": "hidden"}, "hidden states")])
def test_a_teacher_that_diverged_is_refused(tmp_path, features, labels, what):
  variables = tiny.random_variables()
  variables["cls/predictions/transform/dense/bias"][0] = np.nan
  checkpoint = str(tiny.write_checkpoint(
      tmp_path / "bert_model.ckpt", variables))
  with pytest.raises(InputError, match=(
      "--init_checkpoint: the teacher's {} are NaN.*diverged".format(what))):
    _label(checkpoint, features, **labels)


def test_hidden_states_beyond_float16_are_refused(tmp_path, features):
  variables = tiny.random_variables()
  variables["cls/predictions/transform/LayerNorm/gamma"][:] = 1e6
  checkpoint = str(tiny.write_checkpoint(
      tmp_path / "bert_model.ckpt", variables))
  with pytest.raises(InputError, match=(
      "--label_format=hidden stores float16, .*--label_format=topk")):
    _label(checkpoint, features, label_format="hidden")
  _label(checkpoint, features)

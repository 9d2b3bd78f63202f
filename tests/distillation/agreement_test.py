"""Tests of the check that all processes have equal inputs and versions."""

import pytest

from distillation import agreement
from distillation import inputs
import tiny

_SAME = {"--seed": "1", "a.tfrecord": "12 bytes", "tensorflow": "2.15.1"}


def _members(*changes, errors=()):
  return [agreement.Member("host{}".format(rank), dict(_SAME, **change), error)
          for rank, (change, error) in enumerate(
              zip(changes, errors or [None] * len(changes)))]


def test_equal_processes_have_no_problem():
  assert agreement.find_problem(_members({}, {}, {})) is None


@pytest.mark.parametrize("changes, told", [
    (({}, {"--seed": "2"}),
     "process 1 of 2 on host1 differs: --seed is 2 there, but 1 in process 0 "
     "of 2 on host0;"),
    # The majority counts as right, even against rank 0.
    (({"--seed": "2"}, {}, {}),
     "process 0 of 3 on host0 differs: --seed is 2 there, but 1 in process 1 "
     "of 3 on host1;"),
    # Only the first difference is named. A missing entry is a difference.
    (({}, {"tensorflow": "2.15.0", "b.tfrecord": "3 bytes"}),
     "process 1 of 2 on host1 differs: tensorflow is 2.15.0 there"),
    (({}, {"b.tfrecord": "3 bytes"}),
     "process 1 of 2 on host1 differs: b.tfrecord is 3 bytes there, but missing"
     " in process 0"),
])
def test_the_process_that_differs_is_named(changes, told):
  assert agreement.find_problem(_members(*changes)).startswith(told)


@pytest.mark.parametrize("errors, told", [
    ((None, None, "no file"), "process 2 of 3 on host2: no file"),
    (("no file", "no file", "no file"), "no file"),
])
def test_an_error_comes_before_differences(errors, told):
  members = _members({}, {"--seed": "2"}, {}, errors=errors)
  assert agreement.find_problem(members) == told


def test_flags_versions_and_files_are_described(tmp_path):
  folder = tiny.trainer_inputs(tmp_path)
  options = tiny.trainer_options(folder, tmp_path / "out")

  def describe(**changes):
    changed = tiny.trainer_options(folder, tmp_path / "out", **changes)
    return agreement.describe(
        changed, inputs.check(changed), {"allreduce_compression": "none"})

  description = describe()
  assert description["--learning_rate"] == "0.001"
  assert description["--allreduce_compression"] == "'none'"
  for word in ("Python", "tensorflow", "numpy", "horovod"):
    assert "the version of " + word in description
  path = options.records.input_file
  records = description[path + " (--input_file)"]
  assert str(len((folder / "labelled.tfrecord").read_bytes())) in records
  # A changed flag or file changes the description.
  tiny.write_config(folder / "bert_config.json", initializer_range=0.03)
  tiny.write_checkpoint(folder / "bert_model.ckpt",
                        tiny.random_variables(seed=7))
  changed = describe(learning_rate=0.5)
  assert {key for key, value in changed.items()
          if value != description[key]} == {
              "--learning_rate",
              "the content of --bert_config_file={}".format(
                  options.model.bert_config_file),
              "the content of --init_checkpoint={}".format(
                  options.model.init_checkpoint)}

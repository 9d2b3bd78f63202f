"""Tests of unusual inputs, names and surroundings, two writers, and signals.

With unusual but valid inputs, with unusual file names, and in surroundings that
lack something, each stage makes the files of a clean run. A second writer of an
output ends with a one-line error and changes no file. A signal ends a stage
with one line.
"""

import contextlib
import os
import pathlib
import signal
from typing import Any, Mapping, NamedTuple, Sequence

import pytest

import fault_world
import processes
import spoilers
from fault_world import STAGES
from spoilers import changed

# The last two take seconds.
_WRITERS = ("extract", "jsons", "split", "create",
            *(pytest.param(name, marks=pytest.mark.slow)
              for name in ("label", "train")))
_EXIT_INTERRUPTED = 130


class Case(NamedTuple):
  """An unusual but valid input.

  Attributes:
    name: name of the case.
    stage: name of the stage in `STAGES`.
    spoil: changes the world.
    warning: words of a warning in the log; empty for no warning.
    flags: changes of the command.
    is_equal: whether the records, or the model, equal those of a clean run.
  """
  name: str
  stage: str
  spoil: Any
  warning: Sequence[str] = ()
  flags: Mapping[str, Any] = {}
  is_equal: bool = True


def _linked_output(world):
  world.out.rename(world / "elsewhere")
  world.out.symlink_to("elsewhere")


def _cased_folder(world):
  (world / "model").rename(world / "cased_L-1_H-8_A-2")
  spoilers.manifest(
      "masked.tfrecord", stage="multifile_create_pretraining_data",
      flags={"do_lower_case": True})(world)


def _cased_vocabulary(world):
  (world / "cased_L-1_H-8_A-2").mkdir()
  (world / "vocab.txt").rename(world / "cased_L-1_H-8_A-2" / "vocab.txt")


def _pipe_in_the_folder(world):
  os.mkfifo(world / "split" / "pipe")


CASES = [
    Case("vocabulary_with_windows_line_ends", "create", changed(
        "vocab.txt", lambda data: data.replace(b"\n", b"\r\n"))),
    Case("vocabulary_with_byte_order_mark", "create", changed(
        "vocab.txt", lambda data: b"\xef\xbb\xbf" + data)),
    Case("vocabulary_with_byte_order_mark_at_unk", "create", changed(
        "vocab.txt", lambda data: b"\xef\xbb\xbf" + data.replace(
            b"[PAD]\n[UNK]", b"[UNK]\n[PAD]")), is_equal=False),
    Case("vocabulary_without_last_line_end", "create", changed(
        "vocab.txt", lambda data: data[:-1])),
    Case("vocabulary_with_a_duplicate", "create", changed(
        "vocab.txt", lambda data: data + b"wa\n"), is_equal=False),
    Case("cased_vocabulary", "create", _cased_vocabulary,
         ("do_lower_case", "cased"),
         {"vocab_file": "cased_L-1_H-8_A-2/vocab.txt"}),
    Case("cased_checkpoint", "label", _cased_folder, ("do_lower_case", "cased"),
         {"bert_config_file": "cased_L-1_H-8_A-2/bert_config.json",
          "init_checkpoint": "cased_L-1_H-8_A-2/bert_model.ckpt"}),
    Case("a_pipe_beside_the_texts", "create", _pipe_in_the_folder),
    Case("config_with_unknown_keys", "label",
         spoilers.config(directionality="bidi", pooler_fc_size=768)),
    Case("config_with_unknown_keys", "train",
         spoilers.config(directionality="bidi", pooler_fc_size=768)),
    Case("padded_vocabulary", "label", spoilers.manifest(
        "masked.tfrecord", vocab_size=24), ("vocab_size 29", "24", "padding")),
    Case("output_dir_is_a_link", "train", _linked_output),
    Case("output_dir_is_a_link", "split", _linked_output),
    Case("warm_up_longer_than_training", "train", spoilers.nothing(),
         ("--num_warmup_steps=9", "--num_train_steps=2", "only reaches"),
         {"num_warmup_steps": 9}, is_equal=False),
]


@pytest.mark.parametrize("case", [
    pytest.param(case, id="{}-{}".format(case.stage, case.name),
                 marks=[pytest.mark.slow] if case.stage == "train" else [])
    for case in CASES])
def test_unusual_inputs_are_accepted(new_world, clean, case):
  stage = STAGES[case.stage]
  wanted = clean(stage)
  world = new_world()
  case.spoil(world)
  outcome = world.run(stage, case.flags)
  assert outcome.returncode == 0, outcome.stderr
  assert not outcome.message
  if case.warning:
    assert [line for line in outcome.stderr.splitlines() if
            line.startswith("W") and all(
                word in line for word in case.warning)], outcome.stderr
  if case.is_equal and stage.outputs:
    # The manifests differ, as they describe the inputs.
    assert _records(fault_world.outputs(world, stage)) == _records(wanted)
  elif case.is_equal:
    fault_world.assert_same_training(fault_world.trained(world.out), wanted)


def _records(outputs):
  return {path: digest for path, digest in outputs.items()
          if not path.endswith(".json")}


# --- Names and surroundings --------------------------------------------------


def _assert_clean_run(world, stage, wanted, changes=(), **keywords):
  outcome = world.run(stage, dict(changes), **keywords)
  assert outcome.returncode == 0, outcome.stderr
  assert not outcome.message
  if stage.outputs:
    assert fault_world.outputs(world, stage) == wanted
  else:
    fault_world.assert_same_training(
        fault_world.trained(world.out), wanted, more_checkpoints=True)
  return outcome


_OUTPUT_FLAGS = {
    "extract": "output_file", "jsons": "write_file", "split": "folder",
    "create": "output_dir", "label": "output_file", "train": "output_dir"}


@pytest.mark.parametrize("name", ["with spaces", "\u00e4\u00f6\u4e2d", "-dash"])
@pytest.mark.parametrize("stage_name", _WRITERS)
def test_a_path_may_have_any_name(new_world, clean, stage_name, name):
  """Names both the world and its output folder."""
  stage = STAGES[stage_name]
  wanted = clean(stage)
  world = new_world(name)
  (world / name).symlink_to("out")
  flag = _OUTPUT_FLAGS[stage_name]
  changed_path = stage.flags[flag].replace("out", name, 1)
  _assert_clean_run(world, stage, wanted, {flag: changed_path})


def _closed(world):
  del world
  return {"prefix": ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh")}


def _no_home(world):
  del world
  return {"unset": ("HOME",)}


def _read_only_home(world):
  home = world / "home"
  home.mkdir(mode=0o555)
  return {"environment": {"HOME": str(home)},
          "prefix": spoilers.BOUND_BY_MODES}


def _no_shared_memory(world):
  del world
  if os.geteuid() != 0:
    pytest.skip("needs the right to unmount /dev/shm")
  return {"prefix": (
      "unshare", "-m", "sh", "-c",
      'mount -t tmpfs -o size=4k,mode=0 none /dev/shm && '
      'mount -o remount,ro /dev/shm && exec "$@"', "sh",
      *spoilers.BOUND_BY_MODES)}


def _locale_of_c(world):
  del world
  return {"environment": {"LC_ALL": "C", "PYTHONUTF8": "0",
                          "PYTHONCOERCECLOCALE": "0"}}


def _clock_set_back(world):
  del world
  return {"environment": {"FAULT_CLOCK": "back"}}


@pytest.mark.parametrize("surroundings", [
    _closed, _no_home, _read_only_home, _no_shared_memory, _locale_of_c,
    _clock_set_back], ids=lambda surroundings: surroundings.__name__[1:])
@pytest.mark.parametrize("stage_name", _WRITERS)
def test_surroundings_may_lack_something(
    new_world, clean, stage_name, surroundings):
  stage = STAGES[stage_name]
  world = new_world()
  outcome = _assert_clean_run(
      world, stage, clean(stage), **surroundings(world))
  # Only a run with a closed stdout and stderr prints nothing.
  assert bool(outcome.stdout + outcome.stderr) == (surroundings is not _closed)


# --- Two writers, and signals ------------------------------------------------


def _stopped(world, stage, point, **keywords):
  """Starts a run that stops at a point; returns it and the stopped id."""
  process = world.start(stage, environment={
      "FAULT_LOG": str(world.folder) + ".points", "FAULT_POINT": str(point),
      "FAULT_ACTION": "stop"}, **keywords)
  path = pathlib.Path(str(world.folder) + ".points.stopped")
  processes.wait_until(lambda: path.exists() and path.read_text().endswith(
      "\n") and processes.state(int(path.read_text())) == "T")
  return process, int(path.read_text())


# A point of each stage at which its outputs are locked and unfinished.
_POINTS = {"extract": 1, "jsons": 1, "split": 1, "create": 3, "label": 9,
           "train": 5}


@pytest.mark.parametrize("stage_name", _WRITERS)
def test_a_second_writer_is_refused(
    new_world, clean, stage_name, record_property):
  stage = STAGES[stage_name]
  wanted = clean(stage)
  world = new_world()
  first, stopped_id = _stopped(world, stage, _POINTS[stage_name])
  try:
    before = fault_world.hashes(world.out)
    second = world.run(stage)
    fault_world.assert_one_line(second, stage, (
        "out", "is being written by another process (process {})".format(
            stopped_id), "wait", "choose another name"))
    assert fault_world.hashes(world.out) == before
  finally:
    os.kill(stopped_id, signal.SIGCONT)
  outcome = first.wait()
  assert outcome.returncode == 0, outcome.stderr
  if stage.outputs:
    assert fault_world.outputs(world, stage) == wanted
  else:
    fault_world.assert_same_training(fault_world.trained(world.out), wanted)
  record_property("message", second.message)


@pytest.mark.parametrize("stage_name, number", [
    pytest.param(
        stage_name, number, id="{}-{}".format(stage_name, number.name),
        # Of the two slow stages, only one case is a quick test.
        marks=[pytest.mark.slow] if stage_name in ("label", "train")
        and (stage_name, number) != ("train", signal.SIGKILL) else [])
    for stage_name in _POINTS
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)])
def test_a_signal_ends_a_stage(
    new_world, clean, stage_name, number, record_property):
  stage = STAGES[stage_name]
  wanted = clean(stage)
  world = new_world()
  process, stopped_id = _stopped(world, stage, _POINTS[stage_name])
  process.send(number)
  if number != signal.SIGKILL or stopped_id != process.pid:
    # A worker may have been killed by its parent already.
    with contextlib.suppress(ProcessLookupError):
      os.kill(stopped_id, signal.SIGCONT)
  outcome = process.wait()
  if number == signal.SIGKILL:
    assert outcome.returncode == -signal.SIGKILL
    processes.wait_until(lambda: not processes.is_running(stopped_id))
  elif outcome.returncode:
    fault_world.assert_one_line(outcome, stage, (), _EXIT_INTERRUPTED)
  else:  # The stage finished before it handled the signal.
    assert stage_name == "create"
  fault_world.assert_nothing_is_half_written(world, stage, wanted)
  _assert_clean_run(world, stage, wanted)
  record_property("message", outcome.message)

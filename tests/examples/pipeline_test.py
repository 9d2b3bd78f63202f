"""Tests of the script that runs all stages."""

import dataclasses
import os
import signal
import subprocess

import pytest

import processes
import tiny

_SCRIPT = tiny.ROOT / "examples" / "pipeline.sh"
_WORDS = ("the quick brown fox jumps over a lazy dog while many small birds "
          "sing their old songs in tall green trees").split()
_STAGES = ("I, teacher", "II, text", "III, split text", "III, masked records",
           "IV, labels", "V, student")


@pytest.fixture(name="settings")
def _settings(tmp_path):
  """A tiny teacher, a text and the environment that names them."""
  teacher = tmp_path / "teacher"
  teacher.mkdir()
  vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *sorted(
      set(_WORDS))]
  config = dataclasses.replace(tiny.CONFIG, vocab_size=len(vocabulary))
  tiny.write_config(teacher / "bert_config.json", config)
  tiny.write_checkpoint(
      teacher / "bert_model.ckpt", tiny.random_variables(config))
  (teacher / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
  documents = [
      "\n".join(" ".join(_WORDS[(start + i) % 7:][:9]) + " ."
                for i in range(12)) for start in range(30)]
  (tmp_path / "text.txt").write_text("\n\n".join(documents) + "\n")
  return tiny.launch_environment(
      WORK=str(tmp_path / "work"), TEACHER=str(teacher),
      TEXT=str(tmp_path / "text.txt"), FILES="3", DUPE_FACTOR="2",
      MAX_SEQ_LENGTH=str(tiny.SHAPE.max_seq_length),
      MAX_PREDICTIONS_PER_SEQ=str(tiny.SHAPE.max_predictions_per_seq),
      LAYERS="0", STEPS="6", BATCH_SIZE="2")


def _run(settings, **changes):
  return subprocess.run(
      [_SCRIPT], env={**settings, **changes}, stdout=subprocess.PIPE,
      stderr=subprocess.PIPE, text=True, check=False, timeout=300)


def _files(folder):
  """Returns the content of each record file by path."""
  return {path.relative_to(folder): path.read_bytes()
          for path in sorted(folder.rglob("*.tfrecord"))}


@pytest.mark.slow
def test_a_killed_run_resumes(tmp_path, settings):
  work = tmp_path / "work"
  # The signal goes to all processes of the run, as Ctrl-C does.
  launcher = subprocess.Popen(
      [_SCRIPT], env=settings, stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL, start_new_session=True)
  processes.wait_until(
      (work / "masked" / "masked_0.tfrecord.json").exists, launcher,
      timeout=120)
  os.killpg(launcher.pid, signal.SIGKILL)
  launcher.wait()
  assert not (work / "student").exists()
  result = _run(settings)
  assert result.returncode == 0, result.stderr
  finished = _files(work)
  assert len(finished) == 5
  lines = result.stdout.splitlines()
  for stage in _STAGES:
    assert any(line.startswith(stage + " ") for line in lines), result.stdout
  assert "checkpoint = model.ckpt-6" in (
      work / "student" / "run" / "eval_results.txt").read_text()
  # Another run repeats no work.
  again = _run(settings)
  assert again.returncode == 0, again.stderr
  assert "step 6: training is finished" in again.stderr
  assert _files(work) == finished


@pytest.mark.slow
def test_processes_are_started_by_a_launcher(tmp_path, settings):
  """This launcher runs a single process and notes the name of its script."""
  launcher = tmp_path / "launcher"
  launcher.write_text('#!/bin/sh\necho "$2" >> {}\nexec "$@"\n'.format(
      tmp_path / "launched.txt"))
  launcher.chmod(0o755)
  settings.update(PROCESSES="2", LAUNCHER=str(launcher),
                  RECORD_FORMAT="compact")
  result = _run(settings)
  assert result.returncode == 0, result.stderr
  assert [os.path.basename(line) for line in (
      tmp_path / "launched.txt").read_text().splitlines()] == [
          *["extract_teacher_labels_truncated.py"] * 2,
          "network_distillation_distributed_truncated.py"]
  labelled = tmp_path / "work" / "labelled"
  finished = _files(labelled)
  assert len(finished) == 2
  # Any number of processes may train on finished labels.
  fewer = dict(settings, PROCESSES="1", LAUNCHER="")
  result = _run(fewer, STEPS="8")
  assert result.returncode == 0, result.stderr
  assert "The labels of PROCESSES=2 are kept" in result.stderr
  assert _files(labelled) == finished
  # PRECISION must be that of the finished labels.
  result = _run(fewer, PRECISION="bf16")
  assert result.returncode == 1
  assert "PRECISION=bf16 does not fit" in result.stderr.splitlines()[-1]
  assert "set PRECISION=fp32" in result.stderr.splitlines()[-1]
  # The error of a stage ends the run.
  (labelled / "training.tfrecord").write_bytes(b"no")
  failed = _run(settings, STEPS="10")
  assert failed.returncode == 1
  assert "error: " in failed.stderr.splitlines()[-1]


def test_another_number_of_processes_is_refused_for_unfinished_labels(
    tmp_path, settings):
  """These processes would write the same labels again, under other names."""
  labelled = tmp_path / "work" / "labelled"
  labelled.mkdir(parents=True)
  (labelled / "processes.txt").write_text("2\n")
  result = _run(settings)
  assert result.returncode == 1
  told = result.stderr.splitlines()[-1]
  assert "PROCESSES=1" in told and "set PROCESSES=2" in told
  assert not list(labelled.glob("*.tfrecord"))


def test_an_error_of_the_number_of_files_names_the_setting(settings):
  result = _run(settings, FILES="31")
  assert result.returncode == 1
  told = result.stderr.splitlines()
  assert "--split_number=31 is more than the 30 documents" in told[-2]
  assert told[-1] == "pipeline.sh: error: its --split_number is FILES=31"


@pytest.mark.parametrize("layers", ["0,7", "0 x"])
def test_layers_that_the_teacher_lacks_are_refused(tmp_path, settings, layers):
  result = _run(settings, LAYERS=layers)
  assert result.returncode == 1
  told = result.stderr.splitlines()[-1]
  assert told.startswith("pipeline.sh: error: LAYERS=" + layers)
  assert "has no layer {},".format(layers[-1]) in told
  assert not (tmp_path / "work" / "split").exists()


def test_a_damaged_teacher_is_an_error_of_one_line(settings):
  with open(os.path.join(settings["TEACHER"], "bert_config.json"), "w") as file:
    file.write("{")
  result = _run(settings)
  assert result.returncode == 1
  assert "no num_hidden_layers" in result.stderr.splitlines()[-1]
  assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name, told", [
    ("TEXT", "there is no text gone"), ("TEACHER", "TEACHER=gone has no")])
def test_missing_inputs_are_refused(settings, name, told):
  result = _run(settings, **{name: "gone"})
  assert result.returncode == 1
  assert told in result.stderr.splitlines()[-1]


def test_settings_are_checked_before_any_work(tmp_path, settings):
  for changes, told in (
      ({"WORK": str(tmp_path / "a,b")}, "a comma"),
      ({"FILES": "1"}, "FILES=1 must be a number from 2 on")):
    result = _run(settings, **changes)
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert told in result.stderr
  assert not (tmp_path / "a,b").exists()
  # The run ends in stage III, after the text is split.
  assert _run(settings, MASKED_LM_PROB="2").returncode == 1
  part = tmp_path / "work/split/text_2.txt"
  before = part.read_text()
  result = _run(settings, FILES="2")
  assert result.returncode == 1 and result.stderr.count("\n") == 1
  assert "FILES=2 does not fit" in result.stderr
  assert "set FILES=3" in result.stderr
  assert part.read_text() == before


@pytest.mark.parametrize("listed, code, changes, wanted", [
    ("GPU 0: NVIDIA H200 (UUID: GPU-1)", 0, {}, 256),
    ("GPU 0: NVIDIA H200 (UUID: GPU-1)", 0, {"LABEL_BATCH_SIZE": "64"}, 64),
    ("No devices were found", 6, {}, 32), ("", 127, {}, 32)])
def test_label_batches_are_larger_on_gpus(
    tmp_path, settings, listed, code, changes, wanted):
  """The trace of bash shows the size; the run ends before any work."""
  lister = tmp_path / "bin" / "nvidia-smi"
  lister.parent.mkdir()
  lister.write_text("#!/bin/sh\necho '{}'\nexit {}\n".format(listed, code))
  lister.chmod(0o755)
  path = os.pathsep.join([str(lister.parent), settings["PATH"]])
  result = subprocess.run(
      ["bash", "-x", _SCRIPT], stderr=subprocess.PIPE, text=True, check=False,
      env={**settings, "PATH": path, "FILES": "1", **changes}, timeout=300)
  assert result.returncode == 1
  assert "--setting LABEL_BATCH_SIZE={}\n".format(wanted) in result.stderr


def test_an_unfinished_split_is_made_again(tmp_path, settings):
  """Earlier versions wrote no manifest, and named the first file last."""
  split = tmp_path / "work" / "split"
  split.mkdir(parents=True)
  for number in (1, 2):
    (split / "text_{}.txt".format(number)).write_text("old .\n")
  # The next stage ends the run.
  result = _run(settings, MASKED_LM_PROB="2")
  assert (split / "text_0.txt").exists(), result.stderr
  assert (split / "text_2.txt").read_text() != "old .\n"

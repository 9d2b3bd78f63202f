"""Tests of distributed training when a process differs, fails, dies or stops.

Each test runs the script under mpirun. One process runs some code before the
script, or receives a signal.
"""

import os
import re
import signal
import subprocess
import time

import pytest

from distillation import checkpoints
import network_distillation_distributed_truncated as trainer
import processes
import tiny

_NAME = "network_distillation_distributed_truncated.py"
# Seconds within which all processes must end.
_LIMIT = 60
# Saves the process id, runs some code in one rank, then runs the script.
_WRAPPER = """
import os, runpy, sys, tempfile
rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
folder = {folder!r}
with open("%s/process_%d" % (folder, rank), "w") as file:
  file.write(str(os.getpid()))
tempfile.tempdir = folder + "/temporary"
os.makedirs(tempfile.tempdir, exist_ok=True)
sys.path.insert(0, {root!r})
sys.argv[0] = {script!r}
def change(name, value):
  sys.argv.append("--%s=%s" % (name, value))
if rank == {rank}:
{code}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# Blocks when the third checkpoint is to be saved, at step 4.
_BLOCKED_SAVE = """
import signal
import tensorflow as tf
saver = tf.compat.v1.train.Saver
save = saver.save
def blocked_save(self, session, path, global_step=None, **keywords):
  if int(session.run(tf.compat.v1.train.get_global_step())) == 4:
    open(folder + "/saves", "w").close()
    signal.pause()
  return save(self, session, path, global_step=global_step, **keywords)
saver.save = blocked_save
"""
# Blocks in Python code after step 3.
_HANGS = """
import signal
from distillation import hooks
after_run = hooks.ProgressHook.after_run
def hang(self, *arguments):
  after_run(self, *arguments)
  if self.step == 3:
    open(folder + "/hangs", "w").close()
    signal.pause()
hooks.ProgressHook.after_run = hang
"""
# Takes longer to save than a process may be silent.
_SLOW_SAVE = """
import time
import tensorflow as tf
saver = tf.compat.v1.train.Saver
save = saver.save
def slow_save(*arguments, **keywords):
  time.sleep(15)
  return save(*arguments, **keywords)
saver.save = slow_save
"""


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  """Configs, checkpoints and labelled records, two of each."""
  folder = tiny.trainer_inputs(tmp_path_factory.mktemp("inputs"))
  for copy in ("records", "others"):
    (folder / copy).mkdir()
  tiny.write_records(folder / "records" / "a.tfrecord",
                     tiny.random_examples(21, seed=5))
  tiny.write_records(folder / "others" / "a.tfrecord",
                     tiny.random_examples(20, seed=6))
  tiny.write_checkpoint(folder / "other_model.ckpt",
                        tiny.random_variables(seed=3))
  return folder


def _arguments(folder, output_dir, *more):
  return [
      *tiny.SHAPE_FLAGS, "--truncation_factor=4", "--do_train", "True",
      "--bert_config_file", folder / "bert_config.json",
      "--init_checkpoint", folder / "bert_model.ckpt",
      "--input_file", folder / "records" / "a.tfrecord",
      "--output_dir", output_dir, "--train_batch_size=2", "--eval_batch_size=3",
      "--learning_rate=0.001", "--num_warmup_steps=2",
      "--scale_learning_rate=False", "--save_checkpoints_steps=2", *more]


def _wrapper(folder, rank=-1, code="pass"):
  """Writes a script that runs the trainer, after some code in one rank."""
  path = folder / "wrapper.py"
  path.write_text(_WRAPPER.format(
      folder=str(folder), root=str(tiny.ROOT), script=str(tiny.ROOT / _NAME),
      rank=rank, code="\n".join("  " + line for line in code.split("\n"))))
  return path


def _errors(output):
  return [line for line in output.splitlines() if _NAME + ": " in line]


# Redirects a path in one process. This simulates another host with another file
# at the same path.
_ELSEWHERE = """
import builtins, os
from records import tfrecord
import util.files
import tensorflow as tf
def elsewhere(path):
  return str(path).replace({old!r}, {new!r})
stat = tf.io.gfile.stat
tf.io.gfile.stat = lambda path: stat(elsewhere(path))
open_file = util.files.open_file
util.files.open_file = lambda path: open_file(elsewhere(path))
"""


@pytest.mark.parametrize("code, told", [
    ("change('learning_rate', 0.5)",
     r"--learning_rate is 0.5 there, but 0.001 in process 0 of 2"),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        (_ELSEWHERE.format(old="bert_config.json", new="with_dropout.json"),
         r"the content of --bert_config_file=\S+ is \w{12} there, but \w{12} "
         r"in"),
        (_ELSEWHERE.format(old="records/a.tfrecord", new="others/a.tfrecord"),
         r"records/a.tfrecord \(--input_file\) is \d+ bytes, no manifest "
         r"there, but \d+ bytes, no manifest in process 0 of 2"),
        ("change('input_file', '/elsewhere/*.tfrecord')",
         r"^process 1 of 2 on \S+: --input_file: there is no file"),
        (_ELSEWHERE.format(old="bert_model.ckpt", new="other_model.ckpt"),
         r"the content of --init_checkpoint=\S+ is \w{12} there, but \w{12} "
         r"in"))),
], ids=["flag", "config", "records", "no records", "start"])
def test_a_process_that_differs_is_named(tmp_path, folder, code, told):
  result = tiny.launch(
      tiny.MPIRUN, _wrapper(tmp_path, 1, code),
      *_arguments(folder, tmp_path / "out", "--num_train_steps=4"))
  assert result.returncode == 1, result.stderr
  lines = _errors(result.stderr)
  assert len(lines) == 1, result.stderr
  message = lines[0].partition("error: ")[2]
  assert message.startswith("process 1 of 2 on "), message
  assert re.search(told, message), message
  assert "Traceback" not in result.stderr
  assert not (tmp_path / "out").exists()


_DIED = r"process {rank} \(pid {pid} on \S+, which has died\)"


@pytest.mark.slow
@pytest.mark.parametrize("size, rank, number, code, told", [
    (2, 0, signal.SIGKILL, "pass", _DIED),
    (3, 2, signal.SIGKILL, "pass", _DIED),
    (2, 0, signal.SIGKILL, _BLOCKED_SAVE, _DIED),
    (2, 1, signal.SIGSTOP, "pass",
     r"process 1 \(pid {pid} on \S+, stopped\)"),
    (2, 0, 0, _HANGS, r"the others \(the engine shut down; .*\)"),
], ids=["rank 0", "rank 2", "while rank 0 saves", "stopped", "hangs"])
def test_a_lost_process_ends_all_processes(
    tmp_path, folder, size, rank, number, code, told):
  output_dir = tmp_path / "out"
  started = {_BLOCKED_SAVE: tmp_path / "saves", _HANGS: tmp_path / "hangs"}.get(
      code, output_dir / "model.ckpt-4.index")
  with open(tmp_path / "log", "w+", encoding="utf-8") as log:
    launcher = processes.start(
        [*tiny.mpirun(size), "python", _wrapper(tmp_path, 0, code),
         *_arguments(folder, output_dir, "--num_train_steps=1000000")],
        cwd=tiny.ROOT, stdout=subprocess.DEVNULL, stderr=log,
        stdin=subprocess.DEVNULL, env=tiny.launch_environment(
            HOROVOD_STALL_CHECK_TIME_SECONDS="2",
            HOROVOD_STALL_SHUTDOWN_TIME_SECONDS="4"))
    processes.wait_until(started.exists, launcher, timeout=120)
    process_ids = [int((tmp_path / "process_{}".format(other)).read_text())
                   for other in range(size)]
    os.kill(process_ids[rank], number)
    start = time.monotonic()
    assert launcher.wait(timeout=_LIMIT) not in (0, 130)
    processes.wait_until(
        lambda: not any(map(processes.is_running, process_ids)))
    seconds = time.monotonic() - start
    assert seconds < _LIMIT
    log.seek(0)
    output = log.read()
  lines = _errors(output)
  print("{:.1f} seconds: {}".format(seconds, lines))
  assert len(lines) == 1, output
  assert re.search(
      r"process {} of {} on \S+ lost {} at step \d+: ".format(
          # The process that hung reports only that the engine shut down.
          int(rank == 0) if number else 0, size,
          told.format(rank=rank, pid=process_ids[rank])),
      lines[0]), lines
  assert "Traceback" not in output
  if rank == 0 and number:  # Other ranks, if killed, leave their folder.
    assert not list((tmp_path / "temporary").iterdir())
  end = checkpoints.newest_step(str(output_dir)) + 2
  resumed = tiny.launch(
      tiny.MPIRUN, tiny.ROOT / _NAME,
      *_arguments(folder, output_dir, "--num_train_steps={}".format(end)))
  assert resumed.returncode == 0, resumed.stderr
  assert "Resuming from step {} ".format(end - 2) in resumed.stderr
  assert checkpoints.newest_step(str(output_dir)) == end


@pytest.mark.slow
def test_a_slow_save_is_not_a_stall(tmp_path, folder):
  """Rank 0 saves for longer than a process may be silent."""
  result = tiny.launch(
      tiny.MPIRUN, _wrapper(tmp_path, 0, _SLOW_SAVE),
      *_arguments(folder, tmp_path / "out", "--num_train_steps=2"),
      HOROVOD_STALL_CHECK_TIME_SECONDS="3",
      HOROVOD_STALL_SHUTDOWN_TIME_SECONDS="9")
  assert result.returncode == 0, result.stderr
  assert "One or more tensors were submitted" not in result.stderr


@pytest.mark.slow
def test_an_error_of_one_process_is_reported_once(tmp_path, folder):
  """Only rank 1 finds a bad record."""
  code = ("from records import decoding, input_pipeline\n"
          "limits = decoding._are_all_within\n"
          "decoding._are_all_within = lambda stored, read, limit: "
          "limits(stored, read, 1)\n"
          "input_pipeline._find_out_of_range = lambda *unused: "
          "'a record is bad'")
  result = tiny.launch(
      tiny.MPIRUN, _wrapper(tmp_path, 1, code),
      *_arguments(folder, tmp_path / "out", "--num_train_steps=4"))
  assert result.returncode == 1
  lines = _errors(result.stderr)
  assert len(lines) == 1 and re.search(
      r"process 1 of 2 on \S+: --input_file: a record is bad", lines[0]), (
          result.stderr)
  assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_the_same_step(
    tmp_path, folder):
  output_dir = tmp_path / "out"
  with open(tmp_path / "log", "w+", encoding="utf-8") as log:
    launcher = processes.start(
        [*tiny.MPIRUN, "python", _wrapper(tmp_path),
         *_arguments(folder, output_dir, "--num_train_steps=1000000")],
        cwd=tiny.ROOT, stdout=subprocess.DEVNULL, stderr=log,
        stdin=subprocess.DEVNULL, env=tiny.launch_environment())
    processes.wait_until(
        (output_dir / "model.ckpt-2.index").exists, launcher, timeout=120)
    os.kill(int((tmp_path / "process_1").read_text()), signal.SIGTERM)
    assert launcher.wait(timeout=_LIMIT) == 130
    log.seek(0)
    output = log.read()
  lines = _errors(output)
  assert len(lines) == 1, output
  step = re.search(r"interrupted; step (\d+) is saved in", lines[0]).group(1)
  assert (output_dir / "model.ckpt-{}.index".format(step)).exists()
  assert "Traceback" not in output


def test_defaults_of_the_engine_keep_variables_of_the_user():
  environment = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_MCA_mpi_yield_when_idle":
                 "0", "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "0"}
  changed = dict(environment)
  trainer.set_engine_defaults(changed, has_gpu=False)
  assert changed == dict(environment, HOROVOD_STALL_CHECK_TIME_SECONDS="30")


@pytest.mark.parametrize("has_gpu", [False, True])
def test_the_engine_yields_on_cpus(has_gpu):
  environment = {}
  trainer.set_engine_defaults(environment, has_gpu)
  assert ("OMPI_MCA_mpi_yield_when_idle" in environment) != has_gpu
  assert environment["HOROVOD_CONTROLLER"] == "gloo"
  assert environment["HOROVOD_STALL_SHUTDOWN_TIME_SECONDS"] == "60"

"""A tiny world that every stage can run in, and what a clean run makes of it.

The folder of a world holds the inputs of all stages and `out` for outputs:
  dump.xml, articles/AA/wiki_00, text.txt, split/, vocab.txt, masked.tfrecord,
  labelled.tfrecord, compact.tfrecord (the same), model/ (bert_config.json and
  bert_model.ckpt), out/
Scripts run in it as their current folder.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

import processes
import tiny

INJECTION = pathlib.Path(__file__).resolve().parent / "injection"
TIMEOUT_SECONDS = 30
_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [
    "w{}".format(letter) for letter in "abcdefghijklmnopqrstuvwx"]
# A line of absl's log.
_LOG_LINE = re.compile(r"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d{6} ")

Flags = Mapping[str, object]


class Stage(NamedTuple):
  """A script, the flags of its clean run, and what it writes.

  Attributes:
    script: path below the top folder.
    flags: values by name.
    outputs: the files whose bytes are compared; none for the trainers, whose
      variables and results are.
    has_tensorflow: whether it takes seconds to start.
  """
  script: str
  flags: Flags
  outputs: Tuple[str, ...]
  has_tensorflow: bool = False

  @property
  def name(self) -> str:
    return os.path.basename(self.script)


_LENGTHS = {"max_seq_length": 10, "max_predictions_per_seq": 3}
_TRAINER = {
    **_LENGTHS, "bert_config_file": "model/bert_config.json",
    "init_checkpoint": "model/bert_model.ckpt",
    "input_file": "labelled.tfrecord", "output_dir": "out",
    "truncation_factor": 4, "do_train": True, "num_train_steps": 2,
    "num_warmup_steps": 0, "train_batch_size": 2, "learning_rate": 1e-3}
_LABELLER = {
    **_LENGTHS, "bert_config_file": "model/bert_config.json",
    "init_checkpoint": "model/bert_model.ckpt",
    "input_file": "masked.tfrecord", "output_file": "out/labelled.tfrecord",
    "batch_size": 2}
STAGES = {
    "extract": Stage(
        "extract_wikipedia_for_bert/extract_wikipedia.py",
        {"dump_file": "dump.xml", "output_file": "out/wikipedia.txt",
         "num_workers": 1},
        ("out/wikipedia.txt",)),
    "jsons": Stage(
        "extract_wikipedia_for_bert/extract_jsons.py",
        {"folder": "articles", "write_file": "out/articles.txt"},
        ("out/articles.txt",)),
    "split": Stage(
        "split_text.py",
        {"read_file": "text.txt", "split_number": 3, "folder": "out",
         "name_base": "part"},
        ("out/part_0.txt", "out/part_1.txt", "out/part_2.txt")),
    "create": Stage(
        "multifile_create_pretraining_data.py",
        {**_LENGTHS, "input_dir": "split", "output_dir": "out",
         "output_base_name": "masked", "vocab_file": "vocab.txt",
         "dupe_factor": 2, "num_workers": 1},
        ("out/masked_0.tfrecord", "out/masked_1.tfrecord",
         "out/masked_0.tfrecord.json", "out/masked_1.tfrecord.json")),
    "label": Stage(
        "extract_teacher_labels_truncated.py",
        {**_LABELLER, "truncation_factor": 4},
        ("out/labelled.tfrecord", "out/labelled.tfrecord.json"), True),
    "label_hidden": Stage(
        "extract_teacher_labels_truncated.py",
        {**_LABELLER, "label_format": "hidden", "record_format": "compact"},
        ("out/labelled.tfrecord", "out/labelled.tfrecord.json",
         "out/teacher_decoder.npz"), True),
    "train": Stage(
        "network_distillation_single_machine_truncated.py", _TRAINER, (),
        True),
    "distributed": Stage(
        "network_distillation_distributed_truncated.py", _TRAINER, (), True),
}


# --- The world ---------------------------------------------------------------


@dataclasses.dataclass
class World:
  """A folder with inputs and outputs of its own, and what runs in it.

  Attributes:
    folder: of this world.
    inputs: the folder of inputs that it is a copy of.
    server: runs the scripts that import TensorFlow; None starts each by itself.
  """
  folder: pathlib.Path
  inputs: pathlib.Path
  server: Optional["ForkServer"] = None

  def __truediv__(self, path: str) -> pathlib.Path:
    return self.folder / path

  @property
  def out(self) -> pathlib.Path:
    return self.folder / "out"

  def restore_inputs(self) -> None:
    """Makes the inputs what they were; outputs stay."""
    for path in self.folder.iterdir():
      if path.name != "out":
        remove(path)
    for path in self.inputs.iterdir():
      if path.name != "out":
        (shutil.copytree if path.is_dir() else shutil.copy2)(
            path, self.folder / path.name)

  def start(self, stage: Stage, changes: Flags = {}, **keywords) -> "Process":
    """Starts a script; as `run`."""
    words = [*arguments(stage.flags, changes), *keywords.pop("words", ())]
    script = str(tiny.ROOT / stage.script)
    environment = dict(os.environ, **keywords.pop("environment", {}))
    for name in keywords.pop("unset", ()):
      environment.pop(name, None)
    if (self.server and stage.has_tensorflow
        and not keywords.get("prefix") and keywords.pop("forked", True)):
      return self.server.start(
          script, words, str(self.folder), environment, **keywords)
    keywords.pop("forked", None)
    return Process.start(
        [*keywords.pop("prefix", ()), sys.executable, script, *words],
        str(self.folder), environment, **keywords)

  def run(self, stage: Stage, changes: Flags = {}, **keywords) -> "Outcome":
    """Runs a script to its end.

    Args:
      stage: the script and its flags.
      changes: of the flags; None leaves a flag out.
      **keywords: `words` end the command line; `environment` and `unset`
        change the environment; `prefix` is what starts the script;
        `file_bytes` is the most that a file may hold; `forked=False` starts a
        Python of its own in any case.
    """
    return self.start(stage, changes, **keywords).wait()


def arguments(flags: Flags, changes: Flags = {}) -> List[str]:
  """Returns flags as words of a command line."""
  return ["--{}={}".format(name, value)
          for name, value in dict(flags, **changes).items()
          if value is not None]


def remove(path: pathlib.Path) -> None:
  """Removes whatever is there."""
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path)
  else:
    path.unlink()


def make_inputs(folder: pathlib.Path) -> pathlib.Path:
  """Writes the inputs of all stages; returns the folder.

  The records are random, not those of the stage before, so that each stage can
  be tried by itself; `write_records` lacks manifests, as files of 2019 do.
  """
  draws = random.Random(3)
  (folder / "out").mkdir(parents=True)
  (folder / "vocab.txt").write_text("\n".join(_TOKENS) + "\n")
  pages = [_sentences(draws) for _ in range(6)]
  (folder / "dump.xml").write_text(
      '<mediawiki xml:lang="en">\n{}</mediawiki>\n'.format("".join(
          "<page><title>T{}</title><ns>0</ns><id>1</id><revision><id>2</id>"
          "<text>{}</text></revision></page>\n".format(i, " ".join(page))
          for i, page in enumerate(pages))))
  (folder / "articles" / "AA").mkdir(parents=True)
  (folder / "articles" / "AA" / "wiki_00").write_text("".join(
      json.dumps({"title": "T", "text": " ".join(page)}) + "\n"
      for page in pages))
  text = "\n\n".join("\n".join(_sentences(draws)) for _ in range(9)) + "\n"
  (folder / "text.txt").write_text(text)
  (folder / "split").mkdir()
  documents = text.split("\n\n")
  for i in range(2):
    (folder / "split" / "part_{}.txt".format(i)).write_text(
        "\n\n".join(documents[4 * i:4 * i + 4]) + "\n")
  (folder / "model").mkdir()
  tiny.write_config(folder / "model" / "bert_config.json")
  tiny.write_checkpoint(
      folder / "model" / "bert_model.ckpt", tiny.random_variables())
  examples = tiny.random_examples(40, seed=5)
  tiny.write_records(folder / "labelled.tfrecord", examples)
  tiny.write_records(folder / "compact.tfrecord", examples, tiny.layout())
  tiny.write_records(
      folder / "masked.tfrecord", map(tiny.without_labels, examples))
  return folder


def _sentences(draws: random.Random) -> List[str]:
  """Draws the sentences of a document."""
  return ["W{} {}.".format(
      draws.choice("abcd"), " ".join(draws.choices(_TOKENS[5:], k=7)))
          for _ in range(5)]


# --- What is there -----------------------------------------------------------


def hashes(folder: pathlib.Path) -> Dict[str, str]:
  """Returns the SHA-256 of every regular file that is not hidden, by path."""
  found = {}
  for parent, subfolders, names in os.walk(folder):
    subfolders[:] = [name for name in subfolders if not name.startswith(".")]
    for name in names:
      path = pathlib.Path(parent, name)
      if not name.startswith(".") and path.is_file():
        found[str(path.relative_to(folder))] = sha256(path)
  return found


def sha256(path: pathlib.Path) -> str:
  """Returns the SHA-256 of a file; "unreadable" where it cannot be read."""
  return hashlib.sha256(path.read_bytes()).hexdigest()


def outputs(world: World, stage: Stage) -> Dict[str, str]:
  """Returns the SHA-256 of a stage's outputs that are there, by path."""
  return {path: sha256(world / path) for path in stage.outputs
          if (world / path).exists()}


def trained(output_dir: pathlib.Path) -> Tuple[Dict[str, np.ndarray], Dict]:
  """Returns what a trainer made: variables by file and name, and results."""
  variables = {}
  checkpoints = {"student": output_dir / "student" / "bert_model.ckpt"}
  for folder in (output_dir, output_dir / "best"):
    for index in sorted(folder.glob("model.ckpt-*.index")):
      checkpoints[str(index.relative_to(output_dir))] = index.with_suffix("")
  for name, path in checkpoints.items():
    if pathlib.Path(str(path) + ".index").exists():
      for variable, value in tiny.read_checkpoint(path).items():
        variables[name + ":" + variable] = value
  for folder in (output_dir, output_dir / "best"):
    state = folder / "checkpoint"
    # Names of other folders in it would be wrong.
    assert not state.exists() or "/" not in re.sub(
        r'"{}/'.format(re.escape(str(folder))), '"', state.read_text())
  results = {
      str(path.relative_to(output_dir)): path.read_text()
      for path in sorted(output_dir.rglob("eval_results.txt"))}
  return variables, results


def assert_same_training(found, wanted, more_checkpoints=False) -> None:
  """Checks that two runs made the same, however often they were stopped.

  Args:
    found: what `trained` returns.
    wanted: the same of a clean run.
    more_checkpoints: whether there may be others, as a signal makes them.
  """
  assert set(wanted[0]) <= set(found[0])
  assert more_checkpoints or set(found[0]) == set(wanted[0])
  for name, value in wanted[0].items():
    np.testing.assert_array_equal(found[0][name], value, err_msg=name)
  assert found[1] == wanted[1]


def assert_nothing_is_half_written(world: World, stage: Stage,
                                   clean: Mapping[str, str]) -> None:
  """Checks that what has a final name is what a clean run writes there."""
  if stage.outputs:
    for path, digest in hashes(world.out).items():
      assert clean["out/" + path] == digest, path
    return
  # Every checkpoint that has an index can be read to its end.
  variables, results = trained(world.out)
  assert variables or not results
  student = world.out / "student"
  if student.exists():
    assert {path.name for path in student.iterdir()} >= {
        "bert_config.json", "bert_model.ckpt.index",
        "bert_model.ckpt.data-00000-of-00001", "exported_from.txt"}
    json.loads((student / "bert_config.json").read_text())
  for text in results.values():
    assert "checkpoint = " in text and "training_loss = " in text


# --- Processes ---------------------------------------------------------------


class Outcome(NamedTuple):
  """How a script ended."""
  returncode: int
  stdout: str
  stderr: str

  @property
  def message(self) -> str:
    """What is not log on stderr."""
    return "".join(line for line in self.stderr.splitlines(keepends=True)
                   if not _LOG_LINE.match(line))


def assert_one_line(outcome: Outcome, stage: Stage, words: Sequence[str],
                    returncode: int = 1) -> None:
  """Checks that a script ended with one line, which holds some words."""
  assert outcome.returncode == returncode, outcome
  assert "Traceback" not in outcome.stderr
  lines = outcome.stderr.splitlines()
  assert lines and not [line for line in lines[:-1]
                        if not _LOG_LINE.match(line)], outcome.stderr
  start = "error: " if returncode == 1 else "interrupted"
  assert lines[-1].startswith(stage.name + ": " + start), outcome.stderr
  for word in words:
    assert word in lines[-1], (word, lines[-1])


class Process:
  """A running script, whose output goes to files."""

  _counter = 0
  _lock = threading.Lock()

  def __init__(self, logs: Tuple[str, str], process_id: int, wait):
    self.pid = process_id
    self._logs = logs
    self._wait = wait

  @classmethod
  def logs(cls, folder: str) -> Tuple[str, str]:
    """Makes empty files beside a folder for stdout and stderr."""
    with cls._lock:
      cls._counter += 1
      number = cls._counter
    paths = tuple("{}.{}.{}".format(folder, number, name)
                  for name in ("stdout", "stderr"))
    for path in paths:
      pathlib.Path(path).touch()
    return paths

  @classmethod
  def start(cls, command: Sequence[str], cwd: str,
            environment: Mapping[str, str], file_bytes: int = 0) -> "Process":
    """Starts a subprocess, in a session of its own."""
    logs = cls.logs(cwd)
    if file_bytes:
      command = ["sh", "-c", "ulimit -f {}; exec \"$@\"".format(
          file_bytes // 512), "sh", *command]
    with open(logs[0], "wb") as stdout, open(logs[1], "wb") as stderr:
      process = processes.start(
          command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL,
          stdout=stdout, stderr=stderr, start_new_session=True)
    return cls(logs, process.pid,
               lambda: process.wait(timeout=TIMEOUT_SECONDS))

  def wait(self) -> Outcome:
    """Waits for the end."""
    returncode = self._wait()
    return Outcome(returncode, *(
        pathlib.Path(path).read_text(encoding="utf-8", errors="replace")
        for path in self._logs))

  def send(self, number: signal.Signals) -> None:
    """Sends a signal."""
    os.kill(self.pid, number)


class ForkServer:
  """A process that has imported TensorFlow and forks for each script."""

  def __init__(self, folder: pathlib.Path):
    """Starts the server; `start` waits until it is ready."""
    self._path = str(folder / "socket")
    self._process = subprocess.Popen(
        [sys.executable, str(INJECTION.parent / "fork_server.py"), self._path],
        env=dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3"))

  def close(self) -> None:
    """Ends the server."""
    self._process.kill()
    self._process.wait()

  def start(self, script: str, words: Sequence[str], cwd: str,
            environment: Mapping[str, str], file_bytes: int = 0) -> Process:
    """Starts a script."""
    processes.wait_until(lambda: os.path.exists(self._path), self._process)
    logs = Process.logs(cwd)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(TIMEOUT_SECONDS)
    _connect(connection, self._path)
    stream = connection.makefile("rw")
    stream.write(json.dumps({
        "script": script, "arguments": list(words), "cwd": cwd,
        "environment": dict(environment), "stdout": logs[0],
        "stderr": logs[1], "file_bytes": file_bytes}) + "\n")
    stream.flush()
    process_id = int(stream.readline())

    def wait():
      with connection, stream:
        return int(stream.readline())

    return Process(logs, process_id, wait)


def _connect(connection: socket.socket, path: str) -> None:
  """Connects to the server, which may have bound its socket just now."""

  def is_connected():
    try:
      connection.connect(path)
    except ConnectionRefusedError:
      return False
    return True

  processes.wait_until(is_connected)

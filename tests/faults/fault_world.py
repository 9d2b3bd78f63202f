"""Worlds, which are folders that every stage can run in, and their checks.

A world holds the inputs of all stages, and `out` for outputs:
  dump.xml, articles/AA/wiki_00, text.txt, split/, vocab.txt, masked.tfrecord,
  labelled.tfrecord, compact.tfrecord (the same records), model/
  (bert_config.json and bert_model.ckpt), out/
The world is the current folder of its scripts.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
from typing import Dict, List, Mapping, NamedTuple, Sequence, Tuple

import numpy as np

import processes
import tiny

TIMEOUT_SECONDS = 30
_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [
    "w{}".format(letter) for letter in "abcdefghijklmnopqrstuvwx"]
# A line of absl's log.
_LOG_LINE = re.compile(r"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d{6} ")

Flags = Mapping[str, object]


class Stage(NamedTuple):
  """A script, the flags of its clean run, and its outputs.

  Attributes:
    script: path below the top folder.
    flags: values by name.
    outputs: files whose bytes are compared; none for the trainers, whose
      variables and results are compared.
  """
  script: str
  flags: Flags
  outputs: Tuple[str, ...]

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
        ("out/labelled.tfrecord", "out/labelled.tfrecord.json")),
    "label_hidden": Stage(
        "extract_teacher_labels_truncated.py",
        {**_LABELLER, "label_format": "hidden", "record_format": "compact"},
        ("out/labelled.tfrecord", "out/labelled.tfrecord.json",
         "out/teacher_decoder.npz")),
    "train": Stage(
        "network_distillation_single_machine_truncated.py", _TRAINER, ()),
    "distributed": Stage(
        "network_distillation_distributed_truncated.py", _TRAINER, ()),
}


# --- The world ---------------------------------------------------------------


@dataclasses.dataclass
class World:
  """A folder with inputs and outputs, in which scripts run.

  Attributes:
    folder: path of the world.
    inputs: folder with the original inputs.
  """
  folder: pathlib.Path
  inputs: pathlib.Path

  def __truediv__(self, path: str) -> pathlib.Path:
    return self.folder / path

  @property
  def out(self) -> pathlib.Path:
    return self.folder / "out"

  def restore_inputs(self) -> None:
    """Restores the original inputs; keeps the outputs."""
    for path in self.folder.iterdir():
      if path.name != "out":
        remove(path)
    for path in self.inputs.iterdir():
      if path.name != "out":
        (shutil.copytree if path.is_dir() else shutil.copy2)(
            path, self.folder / path.name)

  def start(self, stage: Stage, changes: Flags = {}, *, words=(),
            environment: Mapping[str, str] = {}, unset=(), prefix=(),
            file_bytes: int = 0) -> "Process":
    """Starts a script, with the arguments of `run`."""
    variables = dict(os.environ, **environment)
    for name in unset:
      variables.pop(name, None)
    if file_bytes:
      prefix = ("sh", "-c", "ulimit -f {}; exec \"$@\"".format(
          file_bytes // 512), "sh", *prefix)
    return Process(
        str(self.folder), str(tiny.ROOT / stage.script),
        *arguments(stage.flags, changes), *words, env=variables, prefix=prefix)

  def run(self, stage: Stage, changes: Flags = {}, **keywords) -> "Outcome":
    """Runs a script to its end.

    Args:
      stage: the script and its flags.
      changes: new values of flags; None leaves a flag out.
      **keywords: `words` are added to the command line; `environment` adds
        variables and `unset` removes variables; `prefix` is the command that
        starts Python; `file_bytes` is the limit of the size of a file.
    """
    return self.start(stage, changes, **keywords).wait()


def arguments(flags: Flags, changes: Flags = {}) -> List[str]:
  """Returns the command-line arguments of flags."""
  return ["--{}={}".format(name, value)
          for name, value in dict(flags, **changes).items()
          if value is not None]


def remove(path: pathlib.Path) -> None:
  """Removes a file, a link or a whole folder."""
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path)
  else:
    path.unlink()


def make_inputs(folder: pathlib.Path) -> pathlib.Path:
  """Writes the inputs of all stages; returns the folder.

  The records are random, so that each stage can be tested without the stage
  before. They have no manifests, like records of the original scripts.
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


# --- Results -----------------------------------------------------------------


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
  return hashlib.sha256(path.read_bytes()).hexdigest()


def outputs(world: World, stage: Stage) -> Dict[str, str]:
  """Returns the SHA-256 of a stage's existing outputs, by path."""
  return {path: sha256(world / path) for path in stage.outputs
          if (world / path).exists()}


def trained(output_dir: pathlib.Path) -> Tuple[Dict[str, np.ndarray], Dict]:
  """Returns a trainer's variables, by file and name, and its results."""
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
    # The state must not name checkpoints in other folders.
    assert not state.exists() or "/" not in re.sub(
        r'"{}/'.format(re.escape(str(folder))), '"', state.read_text())
  results = {
      str(path.relative_to(output_dir)): path.read_text()
      for path in sorted(output_dir.rglob("eval_results.txt"))}
  return variables, results


def assert_same_training(found, wanted, more_checkpoints=False) -> None:
  """Checks that a run has the variables and results of a clean run.

  Args:
    found: value of `trained` for the run.
    wanted: value of `trained` for the clean run.
    more_checkpoints: whether the run may have more checkpoints, as after a
      signal.
  """
  assert set(wanted[0]) <= set(found[0])
  assert more_checkpoints or set(found[0]) == set(wanted[0])
  for name, value in wanted[0].items():
    np.testing.assert_array_equal(found[0][name], value, err_msg=name)
  assert found[1] == wanted[1]


def assert_nothing_is_half_written(world: World, stage: Stage,
                                   clean: Mapping[str, str]) -> None:
  """Checks that files with final names equal those of a clean run."""
  if stage.outputs:
    for path, digest in hashes(world.out).items():
      assert clean["out/" + path] == digest, path
    return
  # `trained` reads every checkpoint that has an index to its end.
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
  """Return code and output of a script."""
  returncode: int
  stdout: str
  stderr: str

  @property
  def message(self) -> str:
    """Lines on stderr that are not from the log."""
    return "".join(line for line in self.stderr.splitlines(keepends=True)
                   if not _LOG_LINE.match(line))


def assert_one_line(outcome: Outcome, stage: Stage, words: Sequence[str],
                    returncode: int = 1) -> None:
  """Checks that a script ended with one error line that has all words."""
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
  """A running script whose output goes to files."""

  _counter = itertools.count(1)

  def __init__(self, folder: str, script: str, *words: str, **keywords):
    """Starts a script in a folder, in a session of its own.

    Args:
      folder: the script's current folder; the output files are beside it.
      script: path of the script.
      *words: arguments of the script.
      **keywords: arguments of processes.Script.
    """
    number = next(self._counter)
    self._logs = [pathlib.Path("{}.{}.{}".format(folder, number, name))
                  for name in ("stdout", "stderr")]
    with open(self._logs[0], "wb") as stdout, open(
        self._logs[1], "wb") as stderr:
      self._script = processes.Script(
          script, *words, cwd=folder, stdin=subprocess.DEVNULL, stdout=stdout,
          stderr=stderr, start_new_session=True, **keywords)
    self.pid = self._script.script_pid

  def wait(self) -> Outcome:
    returncode = self._script.wait(timeout=TIMEOUT_SECONDS)
    return Outcome(returncode, *(
        path.read_text(encoding="utf-8", errors="replace")
        for path in self._logs))

  def send(self, number: signal.Signals) -> None:
    self._script.send_signal(number)

r"""Measures every speed figure of the project, and compares it with a peer.

  python -m venv .venv-peers
  .venv-peers/bin/pip install -r benchmarks/peers.txt
  python benchmarks/run.py \
    --text_file movie_reviews_train.txt --teacher teacher \
    --dump_file enwiki-….xml.bz2 --peers_python .venv-peers/bin/python \
    --output_dir benchmarks --page_file docs/speed.md

The text has one sentence per line and a blank line between documents. The
teacher is a folder with bert_config.json, vocab.txt and bert_model.ckpt.*. The
dump is a small dump of a Wikipedia.

Each part is a script of this folder, which times its contenders in turn and can
also be run alone. After each part, results.json and results.md are written. A
second run keeps the parts that were measured with the same settings. Peers that
are not installed are reported as absent. --size 0.02 gives a short trial. Use a
quiet machine: the report warns if other processes used the cores.
"""

import datetime
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

# pylint: disable=wrong-import-position
from absl import flags
from absl import logging

import measure
import projection
import report
from util import command_line
from util import files
from util.command_line import InputError

FLAGS = flags.FLAGS

_RESULTS_FILE = "results.json"
_PAGE_FILE = "results.md"
# Sizes at --size 1: bytes of text, and records.
_TOKENIZER_BYTES, _TEXT_BYTES = 8e6, 2e6
_READER_RECORDS, _LABELLED_RECORDS, _GROWTH_RECORDS = 20000, 256, 100
_SPLIT_MEGABYTES = 500
_DUMP_COPIES = 4
_STEPS, _LOG_INTERVALS = 3, 3
# Enough for stage IV at 16x.
_MASKED_RECORDS = max(_READER_RECORDS, 16 * _GROWTH_RECORDS)
_TOP_K = 10
_DUPE_FACTOR = 10
_MOST_LONG_TURNS = 3


class Inputs(NamedTuple):
  """Paths of the parts' inputs.

  Attributes:
    text: a long text.
    short_text: the beginning of the text.
    vocab: the vocabulary.
    teacher_config: config of the teacher.
    teacher_checkpoint: checkpoint of the teacher.
    student_config: config of a student with half of the teacher's layers.
    masked: records of stage III.
    labelled: the masked records with labels.
    dump: a Wikipedia dump.
    folder: folder for files of the parts.
  """
  text: pathlib.Path
  short_text: pathlib.Path
  vocab: pathlib.Path
  teacher_config: pathlib.Path
  teacher_checkpoint: pathlib.Path
  student_config: pathlib.Path
  masked: pathlib.Path
  labelled: pathlib.Path
  dump: pathlib.Path
  folder: pathlib.Path


class Part(NamedTuple):
  """A part of the benchmark.

  Attributes:
    script: name of a script in this folder.
    arguments: takes the inputs and a function that scales a size; returns the
      flags of the script.
    most_turns: largest number of turns, for a part that takes minutes.
  """
  script: str
  arguments: Callable[[Inputs, Callable[[float], int]], Dict[str, Any]]
  most_turns: Optional[int] = None


PARTS = {
    "tokenizer": Part("tokenizer.py", lambda inputs, scaled: {
        "text_file": inputs.text, "vocab_file": inputs.vocab}),
    "split_text": Part("split_text.py", lambda inputs, scaled: {
        "folder": inputs.folder / "split",
        "megabytes": scaled(_SPLIT_MEGABYTES)}),
    "records": Part("create_pretraining_data.py", lambda inputs, scaled: {
        "text_file": inputs.short_text, "vocab_file": inputs.vocab,
        "dupe_factor": _DUPE_FACTOR}),
    "wikipedia": Part("wikipedia_extraction.py", lambda inputs, scaled: {
        "dump_file": inputs.dump, "excerpts": inputs.dump,
        "copies": scaled(_DUMP_COPIES)}),
    "labels": Part("teacher_labels.py", lambda inputs, scaled: {
        "bert_config_file": inputs.teacher_config,
        "init_checkpoint": inputs.teacher_checkpoint,
        "input_file": inputs.masked,
        "num_records": scaled(_LABELLED_RECORDS)}),
    "training": Part("training_step.py", lambda inputs, scaled: {
        "bert_config_file": inputs.student_config,
        "init_checkpoint": inputs.teacher_checkpoint,
        "input_file": inputs.labelled, "truncation_factor": _TOP_K,
        "steps": _STEPS}),
    "reader": Part("reading.py", lambda inputs, scaled: {
        "input_file": inputs.labelled, "truncation_factor": _TOP_K}),
    "scaling": Part("scaling.py", lambda inputs, scaled: {
        "np": 2, "student": "3 x 192", "compression": "none",
        "num_log_intervals": _LOG_INTERVALS}, _MOST_LONG_TURNS),
    "growth": Part("growth.py", lambda inputs, scaled: {
        "text_file": inputs.short_text, "vocab_file": inputs.vocab,
        "bert_config_file": inputs.teacher_config,
        "init_checkpoint": inputs.teacher_checkpoint,
        "masked_file": inputs.masked, "labelled_file": inputs.labelled,
        "num_records": scaled(_GROWTH_RECORDS)}, _MOST_LONG_TURNS),
}


def define_flags() -> None:
  flags.DEFINE_string("text_file", None, "Text with one sentence per line.")
  flags.DEFINE_string(
      "teacher", None, "Folder of a BERT in Google's layout.")
  flags.DEFINE_string("dump_file", None, "A small Wikipedia dump.")
  flags.DEFINE_string(
      "output_dir", None, "Folder of {} and {}.".format(
          _RESULTS_FILE, _PAGE_FILE))
  flags.DEFINE_list("only", list(PARTS), "Parts to measure.")
  flags.DEFINE_string(
      "peers_python", None, "Python interpreter with the packages of "
      "benchmarks/peers.txt; without it, peers are reported as absent.")
  flags.DEFINE_integer("turns", 5, "Turns of each contender.", lower_bound=1)
  flags.DEFINE_float(
      "size", 1.0, "Factor on the sizes of texts and record files.",
      lower_bound=1e-3)
  flags.DEFINE_string(
      "page_file", None, "Markdown file whose table between the two comments "
      "is replaced.")
  flags.DEFINE_bool("overwrite", False, "Whether to measure existing parts "
                    "again.")


def scaled(size: float) -> int:
  """Returns a size multiplied by --size, at least 1."""
  return max(1, round(size * FLAGS.size))


def run_script(path: str, **options: Any) -> None:
  """Runs a script of the project.

  Raises:
    InputError: if the script fails.
  """
  result = subprocess.run(
      [sys.executable, str(ROOT / path),
       *("--{}={}".format(name, value) for name, value in options.items()
         if value is not None)],
      stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE, text=True, check=False)
  if result.returncode:
    raise InputError("{} failed: {}".format(
        path, result.stderr.strip()[-1000:] or "it printed nothing"))


def beginning(text: pathlib.Path, path: pathlib.Path, num_bytes: int) -> None:
  """Writes the whole documents at the beginning of a text."""
  content = text.read_bytes()[:num_bytes]
  end = content.rfind(b"\n\n")
  path.write_bytes((content[:end] if end > 0 else content) + b"\n")


def prepare(folder: pathlib.Path) -> Inputs:
  """Creates the inputs of the parts."""
  # Imported only if a part is measured: reading records imports much.
  import some_records
  teacher = pathlib.Path(FLAGS.teacher)
  inputs = Inputs(
      folder / "text.txt", folder / "texts" / "short.txt",
      teacher / "vocab.txt", teacher / "bert_config.json",
      teacher / "bert_model.ckpt", folder / "student.json",
      folder / "masked" / "text_0.tfrecord", folder / "labelled.tfrecord",
      pathlib.Path(FLAGS.dump_file), folder)
  inputs.short_text.parent.mkdir()
  for path, size in ((inputs.text, _TOKENIZER_BYTES),
                     (inputs.short_text, _TEXT_BYTES)):
    beginning(pathlib.Path(FLAGS.text_file), path, scaled(size))
  run_script("multifile_create_pretraining_data.py",
             input_dir=inputs.short_text.parent,
             output_dir=inputs.masked.parent, output_base_name="text",
             vocab_file=inputs.vocab, dupe_factor=_DUPE_FACTOR)
  taken = folder / "taken.tfrecord"
  some_records.take(str(inputs.masked), str(taken), scaled(_MASKED_RECORDS))
  some_records.label_randomly(str(taken), str(inputs.labelled), _TOP_K)
  num_layers = json.loads(
      inputs.teacher_config.read_text(encoding="utf-8"))["num_hidden_layers"]
  run_script("examples/make_student_config.py",
             bert_config_file=inputs.teacher_config,
             layers=max(1, num_layers // 2), output_file=inputs.student_config)
  return inputs


def describe(part: Part) -> Dict[str, Any]:
  """Returns the settings of a part's figures, without code and machine."""
  return {
      "turns": min(FLAGS.turns, part.most_turns or FLAGS.turns),
      "size": FLAGS.size,
      "has_peers": bool(FLAGS.peers_python),
      "files": {
          name: "{}, {:,} bytes".format(path.name, path.stat().st_size)
          for name, path in (
              ("text", pathlib.Path(FLAGS.text_file)),
              ("teacher", pathlib.Path(FLAGS.teacher, "bert_model.ckpt.index")),
              ("dump", pathlib.Path(FLAGS.dump_file)))}}


def measure_part(part: Part, inputs: Inputs) -> Dict[str, Any]:
  """Runs a part and returns its results."""
  arguments = describe(part)
  results_file = inputs.folder / "part.json"

  def processor_seconds():
    return sum(usage.ru_utime + usage.ru_stime for usage in (
        resource.getrusage(who) for who in (
            resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)))

  start, busy, own = time.time(), measure.busy_seconds(), processor_seconds()
  run_script(os.path.join("benchmarks", part.script),
             turns=arguments["turns"], peers_python=FLAGS.peers_python,
             results_file=results_file, **part.arguments(inputs, scaled))
  wall = time.time() - start
  others = measure.busy_seconds() - busy - (processor_seconds() - own)
  return {**json.loads(results_file.read_text(encoding="utf-8")),
          "arguments": arguments, "seconds": wall,
          "other_cores": max(0.0, others / wall),
          "date": datetime.date.today().isoformat()}


def write(output_dir: pathlib.Path, results: Dict[str, Any]) -> None:
  """Writes the results and the pages that quote them, each atomically."""
  # The table has the order of PARTS, in whatever order they were measured.
  results["parts"] = {name: results["parts"][name] for name in PARTS
                      if name in results["parts"]}
  texts = {
      output_dir / _RESULTS_FILE: json.dumps(results, indent=1) + "\n",
      output_dir / _PAGE_FILE: report.results_page(
          results, projection.lines(results))}
  if FLAGS.page_file:
    page = pathlib.Path(FLAGS.page_file)
    texts[page] = report.replace_table(
        page.read_text(encoding="utf-8"), results)
  for path, text in texts.items():
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def read(path: pathlib.Path) -> Dict[str, Any]:
  """Reads the results; returns empty results if the file does not exist.

  Raises:
    InputError: if the file holds no results of this script.
  """
  if not path.exists():
    return {"machine": {}, "parts": {}}
  try:
    results = json.loads(path.read_text(encoding="utf-8"))
    return {"machine": results["machine"], "parts": dict(results["parts"])}
  except (ValueError, KeyError, TypeError):
    raise InputError("--output_dir: {} holds no results of this script; remove "
                     "the file".format(path)) from None


def main() -> None:
  unknown: List[str] = sorted(set(FLAGS.only) - set(PARTS))
  if unknown:
    raise InputError("--only={}: unknown; the parts are {}".format(
        unknown[0], ",".join(PARTS)))
  for name in ("text_file", "dump_file"):
    files.check_file(FLAGS[name].value, name)
  output_dir = pathlib.Path(FLAGS.output_dir)
  output_dir.mkdir(parents=True, exist_ok=True)
  results = read(output_dir / _RESULTS_FILE)
  machine = measure.machine()
  if results["machine"] != machine:
    if results["parts"] and not FLAGS.overwrite:
      raise InputError(
          "--output_dir={} has results of another machine or other versions; "
          "choose another folder, or give --overwrite".format(output_dir))
    results = {"machine": machine, "parts": {}}
  wanted = [name for name in PARTS if name in FLAGS.only]
  with tempfile.TemporaryDirectory() as folder:
    inputs = None
    for name in wanted:
      found = results["parts"].get(name)
      if (found and not FLAGS.overwrite
          and found["arguments"] == describe(PARTS[name])):
        logging.info("%s: kept", name)
        continue
      inputs = inputs or prepare(pathlib.Path(folder))
      results["parts"][name] = measure_part(PARTS[name], inputs)
      write(output_dir, results)
      logging.info("%s: measured in %.0f s", name,
                   results["parts"][name]["seconds"])
  write(output_dir, results)


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=(
      "text_file", "teacher", "dump_file", "output_dir"))

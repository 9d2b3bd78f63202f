r"""Checks the settings of pipeline.sh against the files in WORK.

  python examples/pipeline_settings.py --work work \
    --setting FILES=100 --setting STEPS=100000 --setting BATCH_SIZE=32

pipeline.sh runs this script before any work. The manifests of finished stages
have the settings that made the files. If a setting differs, the script ends in
an error with the earlier value.

With --print_inputs True the script prints the masked records to label: the
number of files, the number of records and patterns of the paths. The teacher
labels the first files that together hold as many records as training reads,
STEPS x BATCH_SIZE.
"""

import os
import pathlib
import re
import sys
from typing import Any, Dict, Iterator, List, Optional, Tuple

from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
# pylint: disable=wrong-import-position
from records import block_index
from records import manifest
from records import splits
from util import command_line
from util import files
from util.command_line import InputError

FLAGS = flags.FLAGS

# Maps the settings of the masked records to their flags.
_MASKED = {
    "DO_LOWER_CASE": "do_lower_case", "DUPE_FACTOR": "dupe_factor",
    "MASKED_LM_PROB": "masked_lm_prob", "MAX_SEQ_LENGTH": "max_seq_length",
    "MAX_PREDICTIONS_PER_SEQ": "max_predictions_per_seq",
    "RECORD_FORMAT": "record_format"}
# Minimal values of numeric settings.
_MINIMUMS = {"FILES": 2, "STEPS": 1, "BATCH_SIZE": 1, "DUPE_FACTOR": 1,
           "LABEL_BATCH_SIZE": 1}
# Characters with a meaning in patterns and lists of paths.
_SPECIAL = re.compile(r"[][*?,]|^\s|\s$")
# File in a stage's folder with the settings that have no manifest.
_SETTINGS_FILE = "settings.txt"


def define_flags() -> None:
  """Defines the flags of the script."""
  flags.DEFINE_string("work", None, "WORK of pipeline.sh.")
  flags.DEFINE_multi_string(
      "setting", None, "A setting of pipeline.sh, NAME=VALUE.")
  flags.DEFINE_bool(
      "print_inputs", False, "Whether to print the masked records to label.")
  flags.DEFINE_integer(
      "num_files", None,
      "Number of files to label, as in an earlier run. Default: as many as "
      "training reads.", lower_bound=1)


def check(work: str, settings: Dict[str, str]) -> None:
  """Checks settings against the files in WORK.

  Args:
    work: the folder WORK.
    settings: maps names to values.

  Raises:
    InputError: if a setting is invalid or does not fit the files, or a manifest
      is damaged.
  """
  if _SPECIAL.search(work):
    raise InputError(
        "WORK={} has a character of patterns ([, ], *, ?), a comma, or white "
        "space at its start or end: choose another name".format(work))
  for name, lowest in _MINIMUMS.items():
    number = settings.get(name, str(lowest))
    if not number.isdecimal() or int(number) < lowest:
      raise InputError("{}={} must be a number from {} on{}".format(
          name, number, lowest,
          ": one of the files is held out" if name == "FILES" else ""))
  for name, old, folder in _old_values(work, settings):
    value = settings.get(name)
    if value is not None and old is not None and not _is_equal(value, old):
      raise InputError(
          "{0}={1} does not fit {2}, which was made with {0}={3}: set {0}={3}, "
          "or choose another WORK{4}".format(
              name, value, folder, old,
              ", which labels only what training reads"
              if name == "DUPE_FACTOR" else ""))


def _is_equal(value: str, old: Any) -> bool:
  """Returns whether a setting equals the value in a manifest."""
  if isinstance(old, bool):
    return (value.lower() in ("true", "t", "1", "yes", "y")) == old
  if isinstance(old, (int, float)):
    try:
      return float(value) == old
    except ValueError:
      return False
  return value == old


def _old_values(work: str, settings: Dict[str, str]
               ) -> Iterator[Tuple[str, Any, str]]:
  """Yields the settings of finished stages, with their values and folders."""
  split, masked, labelled, student = (
      os.path.join(work, name)
      for name in ("split", "masked", "labelled", "student"))
  if files.exists(settings.get("TEXT", "")):
    yield "DUMP", _read_settings(work).get("DUMP"), work
  yield from _split_values(split, settings)
  made_by = _read_manifest(masked, "masked_0.tfrecord")
  if made_by:
    for name, flag in _MASKED.items():
      yield name, made_by.flags.get(
          flag, "example" if flag == "record_format" else None), masked
    teacher = settings.get("TEACHER", "")
    _check_teacher(teacher, "vocab.txt", made_by.fingerprints["vocab_file"],
                   masked)
  made_by = next(filter(None, (
      _read_manifest(labelled, name)
      for name in _names(labelled, r"training.*\.tfrecord"))), None)
  if made_by:
    yield "PRECISION", made_by.flags.get("precision"), labelled
    for name, flag in (("bert_config.json", "bert_config_file"),
                       ("bert_model.ckpt.index", "init_checkpoint")):
      _check_teacher(settings.get("TEACHER", ""), name,
                     made_by.fingerprints[flag], labelled)
  if files.exists(os.path.join(student, "run", "checkpoint")):
    yield "LAYERS", _read_settings(student).get("LAYERS"), student


def _split_values(folder: str, settings: Dict[str, str]
                 ) -> Iterator[Tuple[str, Any, str]]:
  """Yields the settings of a split text, as `_old_values` does."""
  split = splits.read(folder, "text")
  names = _names(folder, r"text_[0-9]+\.txt")
  if split:
    sizes = split.sizes
  elif "text_0.txt" in names:  # Earlier versions name this file last.
    sizes = [files.size(os.path.join(folder, name)) for name in names]
  else:
    return
  if not sizes:
    return  # The stage splits the text again.
  yield "FILES", len(sizes), folder
  text = settings.get("TEXT", "")
  if not files.exists(text):
    return
  if sum(sizes) != files.size(text) or (
      split and split.source != files.fingerprint(text)):
    old = split.read_file if split else ""
    if old and old != text:
      yield "TEXT", old, folder
    raise InputError(
        "TEXT={} does not fit {}, which was made of another text: set TEXT to "
        "that text, or choose another WORK".format(text, folder))


def _check_teacher(teacher: str, name: str, wanted: str, folder: str) -> None:
  """Raises InputError if a teacher's file is not the one that made a folder."""
  path = os.path.join(teacher, name)
  if files.exists(path) and files.fingerprint(path) != wanted:
    raise InputError(
        "TEACHER={} does not fit {}, which was made with another {}: set "
        "TEACHER to that teacher, or choose another WORK".format(
            teacher, folder, name))


def _names(folder: str, pattern: str) -> List[str]:
  """Returns the names in a folder that match a pattern, in natural order."""
  if not files.is_folder(folder):
    return []
  return sorted(filter(re.compile(pattern).fullmatch, files.list_names(folder)),
                key=files.natural_key)


def _read_manifest(folder: str, name: str) -> Optional[manifest.Manifest]:
  """Reads the manifest of a file; returns None if the file is unfinished."""
  return manifest.read_manifest(os.path.join(folder, name))


def _read_settings(folder: str) -> Dict[str, str]:
  """Reads the settings file of a folder, if there is one."""
  path = os.path.join(folder, _SETTINGS_FILE)
  if not files.exists(path):
    return {}
  return dict(line.partition("=")[::2]
              for line in files.read_text(path).splitlines())


# --- The records to label ----------------------------------------------------


def records_of(work: str, num_files: int,
               num_sequences: Optional[int] = None) -> List[int]:
  """Counts the records of the first files of masked records.

  Args:
    work: the folder WORK.
    num_files: maximal number of files to count.
    num_sequences: number of records at which to stop; None counts all files.

  Returns:
    The number of records of each counted file.
  """
  counts: List[int] = []
  while len(counts) < num_files and (
      num_sequences is None or sum(counts) < num_sequences):
    counts.append(block_index.count_records(os.path.join(
        work, "masked", "masked_{}.tfrecord".format(len(counts))), "work"))
  return counts


def patterns(start: str, num_files: int, end: str) -> str:
  """Returns patterns of the paths START0END to START(N-1)END, in order.

  Args:
    start: start of the paths.
    num_files: N, at least 1.
    end: end of the paths.
  """
  found = []
  digits = str(num_files)
  for length in range(1, len(digits)):
    found.append("[0-9]" if length == 1 else
                 "[1-9]" + "[0-9]" * (length - 1))
  for i, digit in enumerate(digits):
    # Numbers with the same digits before digit i, and a lower digit i.
    lowest = 1 if i == 0 and len(digits) > 1 else 0
    if int(digit) > lowest:
      found.append("{}[{}-{}]{}".format(
          digits[:i], lowest, int(digit) - 1, "[0-9]" * (len(digits) - i - 1)))
  return ",".join(start + pattern + end for pattern in found)


def main() -> None:
  settings = dict(setting.partition("=")[::2] for setting in FLAGS.setting)
  if not FLAGS.print_inputs:
    check(FLAGS.work, settings)
    return
  if FLAGS.num_files:
    counts = records_of(FLAGS.work, FLAGS.num_files)
  else:
    counts = records_of(
        FLAGS.work, int(settings["FILES"]) - 1,
        int(settings["STEPS"]) * int(settings["BATCH_SIZE"]))
  print(len(counts), sum(counts), patterns(
      os.path.join(FLAGS.work, "masked", "masked_"), len(counts), ".tfrecord"))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("work", "setting"))

"""Compares flags, files and packages of the processes that train together.

Makes a description in each process, and compares the descriptions of all
processes, which the caller collects.
"""

import collections
import contextlib
import dataclasses
import importlib.metadata
import platform
from typing import (Any, Dict, Iterator, Mapping, NamedTuple, Optional,
                    Sequence, Tuple)

import numpy as np
import tensorflow as tf

from distillation import checkpoints
from distillation import devices
from distillation.inputs import Inputs
from distillation.options import TrainerOptions
from records import manifest
from util import files

# Values that must be equal in all processes, by name, as in messages.
Description = Dict[str, str]

# Digits of a fingerprint in a description.
_DIGITS = 12
_MISSING = "missing"


class Member(NamedTuple):
  """Result of the checks in one process.

  Attributes:
    host: name of the host.
    description: values that must be equal in all processes.
    error: message of a failed check; None if all checks passed.
  """
  host: str
  description: Description
  error: Optional[str]


def describe(options: TrainerOptions, inputs: Inputs,
             other_flags: Mapping[str, Any]) -> Description:
  """Describes the flags, input files and packages of a trainer.

  Args:
    options: options of the trainer.
    inputs: the checked inputs.
    other_flags: values of flags that the options lack, by name.
  """
  description = {
      "--" + name: repr(value)
      for name, value in (*_fields(options), *other_flags.items())}
  description["the content of --bert_config_file={}".format(
      options.model.bert_config_file)] = files.fingerprint(
          options.model.bert_config_file)[:_DIGITS]
  for records in (inputs.training, inputs.held_out):
    description["the number of files of --" + records.flag] = str(
        len(records.paths))
    for path in records.paths:
      description["{} (--{})".format(path, records.flag)] = _record_file(path)
  start = options.model.init_checkpoint
  if start and not inputs.is_resumed:
    description["the content of --init_checkpoint={}".format(start)] = (
        checkpoints.fingerprint(start)[:_DIGITS])
  description["the precision in use"] = devices.effective_precision(
      options.device.precision)
  description["the version of Python"] = platform.python_version()
  description["the version of tensorflow"] = tf.__version__
  description["the version of numpy"] = np.__version__
  with contextlib.suppress(importlib.metadata.PackageNotFoundError):
    description["the version of horovod"] = importlib.metadata.version(
        "horovod")
  return description


def _fields(options: Any) -> Iterator[Tuple[str, Any]]:
  """Yields names and values of the fields of nested dataclasses."""
  for field in dataclasses.fields(options):
    value = getattr(options, field.name)
    if dataclasses.is_dataclass(value):
      yield from _fields(value)
    else:
      yield field.name, value


def _record_file(path: str) -> str:
  """Describes a record file by its size and manifest."""
  has_manifest = manifest.read_manifest(path) is not None
  return "{} bytes, {}".format(
      tf.io.gfile.stat(path).length,
      "manifest " + files.fingerprint(manifest.manifest_path(path))[:_DIGITS]
      if has_manifest else "no manifest")


def process_name(rank: int, size: int, host: str) -> str:
  """Returns the name of a process in messages."""
  return "process {} of {} on {}".format(rank, size, host)


def find_problem(members: Sequence[Member]) -> Optional[str]:
  """Returns the error that keeps processes from training together.

  Args:
    members: results of all processes, by rank.

  Returns:
    The message; None if all checks passed and all descriptions are equal.
  """
  errors = [member.error for member in members]
  if any(errors):
    if len(set(errors)) == 1:
      return errors[0]
    rank = next(rank for rank, error in enumerate(errors) if error)
    return "{}: {}".format(
        process_name(rank, len(members), members[rank].host), errors[rank])
  keys = dict.fromkeys(key for member in members for key in member.description)
  for key in keys:
    values = [member.description.get(key, _MISSING) for member in members]
    counts = collections.Counter(values)
    if len(counts) > 1:
      # Of equally common values, the value of the lowest rank.
      usual = counts.most_common(1)[0][0]
      rank = next(rank for rank, value in enumerate(values) if value != usual)
      return (
          "{} differs: {} is {} there, but {} in {}; give every process the "
          "same command, the same files under the same paths and the same "
          "packages".format(
              process_name(rank, len(members), members[rank].host), key,
              values[rank], usual, process_name(
                  values.index(usual), len(members),
                  members[values.index(usual)].host)))
  return None

"""What processes that train together must have in common, and who has not.

A description says what one process was told and what it found; this module
makes and compares descriptions. How they get to each other is not its business.
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

# By what it is, what was found of it.
Description = Dict[str, str]

# Digits of a SHA-256 that tell two files apart.
_DIGITS = 12
_NOTHING = "missing"


class Member(NamedTuple):
  """One process, as it presents itself to the others.

  Attributes:
    host: where it runs.
    description: what must not differ.
    error: why it cannot go on; None where it can.
  """
  host: str
  description: Description
  error: Optional[str]


def describe(options: TrainerOptions, inputs: Inputs,
             other_flags: Mapping[str, Any]) -> Description:
  """Describes what a trainer was told, what it reads and what it runs on.

  Args:
    options: what it was told.
    inputs: what it found.
    other_flags: values of flags that are not in the options, by name.
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
      description["{} (--{})".format(path, records.flag)] = _records(path)
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
  """Yields the fields of nested dataclasses, which have the flags' names."""
  for field in dataclasses.fields(options):
    value = getattr(options, field.name)
    if dataclasses.is_dataclass(value):
      yield from _fields(value)
    else:
      yield field.name, value


def _records(path: str) -> str:
  """Describes a record file without reading it."""
  has_manifest = manifest.read_manifest(path) is not None
  return "{} bytes, {}".format(
      tf.io.gfile.stat(path).length,
      "manifest " + files.fingerprint(manifest.manifest_path(path))[:_DIGITS]
      if has_manifest else "no manifest")


def process_name(rank: int, size: int, host: str) -> str:
  """Returns what errors call a process."""
  return "process {} of {} on {}".format(rank, size, host)


def find_problem(members: Sequence[Member]) -> Optional[str]:
  """Says what keeps processes from training together.

  Args:
    members: the processes, by rank.

  Returns:
    An error, None where there is none.
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
    values = [member.description.get(key, _NOTHING) for member in members]
    counts = collections.Counter(values)
    if len(counts) > 1:
      # The first of the most common ones, so that of rank 0 where all differ.
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

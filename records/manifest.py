"""Manifests: what made each record file.

The manifest of a record file NAME is NAME.json, beside it.
"""

import dataclasses
import hashlib
import json
import math
import re
from typing import (
    Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple)


from records import tfrecord
from util import files
from util.command_line import InputError

_SUFFIX = ".json"
# What a process of several adds to a file's name.
_PART = re.compile(r"-\d{5}-of-(\d{5})")
# Among the flags, though it is none: what the device made of --precision.
_ARITHMETIC = "arithmetic"
# Flags that manifests only name where they have another value. Others follow
# from them, so they are compared first.
_DEFAULTS = {"label_format": "topk", "record_format": "example",
             "strip_accents": "as --do_lower_case"}


class TeacherFigures(NamedTuple):
  """How well a teacher predicts the masked tokens that it has labelled.

  Attributes:
    num_records: records that the figures cover.
    num_tokens: masked tokens in these records.
    num_correct: masked tokens that the teacher finds the most probable.
    cross_entropy: sum over the masked tokens, in nats.
  """
  num_records: int = 0
  num_tokens: int = 0
  num_correct: int = 0
  cross_entropy: float = 0.0

  @classmethod
  def of_manifest(cls, manifest: "Optional[Manifest]") -> "TeacherFigures":
    """Reads the figures of a manifest; zeros where there are none."""
    teacher = manifest.teacher if manifest else {}
    return cls(*(type(default)(teacher.get(name, default))
                 for name, default in cls._field_defaults.items()))

  def __add__(self, other: Any) -> "TeacherFigures":
    """Returns the figures of the records of both."""
    return TeacherFigures(*map(sum, zip(self, other)))


@dataclasses.dataclass(frozen=True)
class Manifest:
  """What made a record file; kept beside it as NAME.json.

  Attributes:
    stage: name of the script.
    flags: value by name of the flags that shape the records; and `arithmetic`,
      what labelled them, where a device lacks the precision of the flag.
    fingerprints: content hash by name of the flag that names the file.
    sources: content hash by name of the source file, in the order in which
      they were read.
    vocab_size: tokens in the vocabulary that the ids belong to; 0 where that is
      not known.
    num_records: records in the file.
    num_bytes: size of the file.
    block_offsets: where in the file each block of `tfrecord.BLOCK_RECORDS`
      begins; empty where the file is not finished, or was made before
      manifests held it.
    teacher: the `TeacherFigures` of labelled records by name; they tell nothing
      of what made the file. Empty for other records, and for those that were
      labelled before manifests held it.
  """
  stage: str
  flags: Mapping[str, Any]
  fingerprints: Mapping[str, str]
  sources: Mapping[str, str]
  vocab_size: int
  num_records: int = 0
  num_bytes: int = 0
  block_offsets: List[int] = dataclasses.field(default_factory=list)
  teacher: Mapping[str, float] = dataclasses.field(default_factory=dict)

  def to_dict(self) -> Dict[str, Any]:
    """Returns the values by attribute, as JSON files hold them.

    Those of no teacher are left out, as earlier versions wrote and read them.
    """
    values = dataclasses.asdict(self)
    if not self.teacher:
      values.pop("teacher")
    return values

  def difference(self, other: "Manifest") -> Optional[str]:
    """Names the first way in which what made `other` is not what made this.

    Counts do not matter, nor does a vocabulary's size where its content is the
    same: versions count blank lines at its end in different ways.

    Returns:
      "FLAG is THIS, not OTHER", or None where both say the same.
    """
    if self.stage != other.stage:
      return "stage is {}, not {}".format(self.stage, other.stage)
    for mine, theirs, name_format in (
        (_with_effect(self.flags), _with_effect(other.flags), "--{}"),
        (self.fingerprints, other.fingerprints, "the content of --{}"),
        (self.sources, other.sources, "source file {}")):
      for name in sorted(set(mine) | set(theirs),
                         key=lambda name: (name not in _DEFAULTS, name)):
        values = [some.get(name, _DEFAULTS.get(name))
                  for some in (mine, theirs)]
        if values[0] != values[1]:
          return "{} is {}, not {}".format(name_format.format(name), *values)
    if list(self.sources) != list(other.sources):
      return "the order of the source files is {}, not {}".format(
          ", ".join(self.sources), ", ".join(other.sources))
    if (self.vocab_size != other.vocab_size
        and "vocab_file" not in self.fingerprints):
      return "vocabulary size is {}, not {}".format(
          self.vocab_size, other.vocab_size)
    return None


def _with_effect(flags: Mapping[str, Any]) -> Mapping[str, Any]:
  """Leaves out the arithmetic, and a seed of draws where nothing is drawn."""
  without = {_ARITHMETIC}
  if flags.get("tail_samples") == 0:
    without.add("random_seed")
  return {name: value for name, value in flags.items() if name not in without}


def with_arithmetic(manifest: Manifest, arithmetic: str,
                    resumed: Optional[Manifest]) -> Manifest:
  """Notes what arithmetic labels records where it is not the --precision.

  Args:
    manifest: what makes the file.
    arithmetic: that of this run.
    resumed: what an earlier run has left of the file; None for nothing.

  Returns:
    The manifest; with the arithmetic of both runs, such as "bf16, fp32".
  """
  precision = manifest.flags["precision"]
  used = {arithmetic}
  if resumed:
    used.update(resumed.flags.get(_ARITHMETIC, precision).split(", "))
  if used == {precision}:
    return manifest
  return dataclasses.replace(manifest, flags={
      **manifest.flags, _ARITHMETIC: ", ".join(sorted(used))})


def manifest_path(path: str) -> str:
  """Returns the path of the manifest of the record file `path`."""
  return path + _SUFFIX


def read_manifest(path: str) -> Optional[Manifest]:
  """Reads the manifest beside a record file.

  Args:
    path: the record file.

  Returns:
    The manifest, or None where there is none (files of 2019).

  Raises:
    InputError: the manifest does not parse, or is of another file.
  """
  return files.once("manifest", [manifest_path(path), path],
                    lambda: _read_manifest(path))


def _read_manifest(path: str) -> Optional[Manifest]:
  """Reads a manifest; as for `read_manifest`."""
  try:
    with files.open_file(manifest_path(path)) as file:
      content = file.read()
    manifest = parse_manifest(content)
    num_bytes = files.size(path)
    # Most readers ask for it next.
    files.once("fingerprint", [manifest_path(path)],
               lambda: hashlib.sha256(content).hexdigest())
  except FileNotFoundError:
    return None
  except ValueError as error:
    raise InputError(
        "{} is not a manifest of this project ({}); remove it if {} is intact"
        .format(manifest_path(path), error, path)) from None
  if manifest.num_bytes != num_bytes:
    raise InputError(
        "{} has {} bytes, but its manifest {} says {}: the file was changed or "
        "cut; make it again".format(path, num_bytes, manifest_path(path),
                                    manifest.num_bytes))
  return manifest


def parse_manifest(content: bytes) -> Manifest:
  """Parses a manifest.

  Raises:
    ValueError: it is none.
  """
  return manifest_from_values(files.parse_json(content))


def manifest_from_values(values: Any) -> Manifest:
  """Makes a manifest of its values; raises ValueError where it is none."""
  try:
    manifest = Manifest(**values)
  except TypeError as error:
    raise ValueError(error) from None
  for field in dataclasses.fields(Manifest):
    value = getattr(manifest, field.name)
    if field.type is int:
      is_valid = type(value) is int and value >= 0  # A bool is an int, too.
    elif field.type is str:
      is_valid = isinstance(value, str)
    elif field.name == "block_offsets":
      is_valid = isinstance(value, list) and are_block_offsets(
          value, manifest.num_records, manifest.num_bytes)
    elif field.name == "teacher":
      is_valid = isinstance(value, dict) and all(
          type(item) in (int, float) and 0 <= item < math.inf
          for item in value.values())
    else:
      is_valid = isinstance(value, dict) and not any(
          isinstance(item, (dict, list)) for item in value.values())
    if not is_valid:
      raise ValueError("the value of {} is of another type".format(field.name))
  return manifest


def are_block_offsets(values: List[Any], num_records: int,
                       num_bytes: int) -> bool:
  """Says whether values can be where the blocks of a file begin."""
  if not values:
    return True
  return (all(type(value) is int for value in values)
          and values[0] == 0 and values[-1] < num_bytes
          and all(first < second for first, second in zip(values, values[1:]))
          and len(values) == -(-num_records // tfrecord.BLOCK_RECORDS))


def format_manifest(manifest: Manifest) -> str:
  """Formats a manifest as JSON, its many offsets on one line."""
  values = manifest.to_dict()
  offsets = values.pop("block_offsets")
  return '{},\n "block_offsets": {}\n}}\n'.format(
      json.dumps(values, indent=1)[:-len("\n}")], json.dumps(offsets))


def find_repeated(paths: Sequence[str]) -> Optional[Tuple[str, str]]:
  """Finds records that come twice, by what their manifests say made them.

  Args:
    paths: record files. Those of several processes, NAME-00000-of-00008 and so
      on, hold a part each; those without a manifest are taken to differ.

  Returns:
    Two files that were made of the same source with the same flags, whatever
    the format of their records and the rounding of their probabilities; None
    where there are none.
  """
  seen: Dict[str, Tuple[str, str]] = {}
  for path in paths:
    found = read_manifest(path)
    if found is None:
      continue
    parts = _PART.sub(r"-of-\1", path)
    flags = dict(_with_effect(found.flags), record_format=None,
                 probability_bits=None)
    for source in found.sources.items():
      made = json.dumps([found.stage, flags, found.fingerprints, source],
                        sort_keys=True)
      other_parts, other = seen.setdefault(made, (parts, path))
      if parts != other_parts:
        return other, path
  return None

"""Reads, compares and formats the manifests of record files.

The manifest of a record file NAME is NAME.json, beside the file: the stage,
flags and inputs that made the records.
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
# Rank and size in the names of files of several processes.
_SHARD = re.compile(r"-\d{5}-of-(\d{5})")
# Key among the flags for the precision that the device used for --precision.
_ARITHMETIC = "arithmetic"
# Flags that manifests leave out at these values. They are compared first, since
# other flags depend on them.
_DEFAULTS = {"label_format": "topk", "record_format": "example",
             "strip_accents": "as --do_lower_case"}


class TeacherFigures(NamedTuple):
  """Accuracy and cross entropy of a teacher over the records it has labelled.

  Attributes:
    num_records: number of labelled records.
    num_tokens: number of masked tokens in these records.
    num_correct: number of masked tokens to which the teacher gives the highest
      probability.
    cross_entropy: sum over the masked tokens, in nats.
  """
  num_records: int = 0
  num_tokens: int = 0
  num_correct: int = 0
  cross_entropy: float = 0.0

  @classmethod
  def of_manifest(cls, manifest: "Optional[Manifest]") -> "TeacherFigures":
    """Returns the figures of a manifest; zeros if there are none."""
    teacher = manifest.teacher if manifest else {}
    return cls(*(type(default)(teacher.get(name, default))
                 for name, default in cls._field_defaults.items()))

  def __add__(self, other: Any) -> "TeacherFigures":
    """Returns the figures over the records of both operands."""
    return TeacherFigures(*map(sum, zip(self, other)))


@dataclasses.dataclass(frozen=True)
class Manifest:
  """Stage, flags and inputs that made a record file, with its counts.

  Attributes:
    stage: name of the script.
    flags: values of the flags that determine the records, by name; also
      `arithmetic`, the precision used, if the device lacks --precision.
    fingerprints: content hash by name of the flag that gives the file.
    sources: content hash by name of the source file, in reading order.
    vocab_size: tokens in the vocabulary of the ids; 0 if unknown.
    num_records: number of records in the file.
    num_bytes: size of the file.
    block_offsets: offset in bytes of each block of `tfrecord.BLOCK_RECORDS`
      records; empty in manifests of unfinished files and of earlier versions.
    teacher: the `TeacherFigures` of labelled records, by name; empty for other
      records and in manifests of earlier versions. Not compared.
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
    """Returns the values by attribute, as in JSON files.

    Leaves out an empty `teacher`, which earlier versions did not write.
    """
    values = dataclasses.asdict(self)
    if not self.teacher:
      values.pop("teacher")
    return values

  def difference(self, other: "Manifest") -> Optional[str]:
    """Returns the first difference from another manifest.

    Ignores counts. Ignores the size of a vocabulary of equal content, since
    versions differ in counting blank lines at its end.

    Returns:
      "FLAG is THIS, not OTHER", or None if there is no difference.
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
  """Leaves out the arithmetic, and the random seed if there are no samples."""
  without = {_ARITHMETIC}
  if flags.get("tail_samples") == 0:
    without.add("random_seed")
  return {name: value for name, value in flags.items() if name not in without}


def with_arithmetic(manifest: Manifest, arithmetic: str,
                    resumed: Optional[Manifest]) -> Manifest:
  """Adds the precision that labels records, if it differs from --precision.

  Args:
    manifest: manifest of the file.
    arithmetic: effective precision of this run.
    resumed: manifest of the earlier run that this run resumes, or None.

  Returns:
    The manifest, with the precisions of both runs, such as "bf16, fp32".
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
    path: path of the record file.

  Returns:
    The manifest, or None if there is none, as for files of the 2019 scripts.

  Raises:
    InputError: if the manifest does not parse or belongs to another file.
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
    # Most callers need the fingerprint next.
    files.once("fingerprint", [manifest_path(path)],
               lambda: hashlib.sha256(content).hexdigest())
  except FileNotFoundError:
    return None
  except ValueError as error:
    raise InputError(
        "{0} is not a manifest of this project ({1}); if {2} is intact, remove "
        "{0}".format(manifest_path(path), error, path)) from None
  if manifest.num_bytes != num_bytes:
    raise InputError(
        "{} has {} bytes, but {} by its manifest {}: the file was changed or "
        "cut; make the file again".format(
            path, num_bytes, manifest.num_bytes, manifest_path(path)))
  return manifest


def parse_manifest(content: bytes) -> Manifest:
  """Parses a manifest.

  Raises:
    ValueError: if the content is not a manifest.
  """
  return manifest_from_values(files.parse_json(content))


def manifest_from_values(values: Any) -> Manifest:
  """Returns a manifest from its values.

  Raises:
    ValueError: if a value is missing, unknown or invalid.
  """
  try:
    manifest = Manifest(**values)
  except TypeError as error:
    raise ValueError(error) from None
  for field in dataclasses.fields(Manifest):
    value = getattr(manifest, field.name)
    if field.type is int:
      is_valid = type(value) is int and value >= 0  # Excludes bool.
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
  """Returns whether values are possible offsets of the blocks of a file."""
  if not values:
    return True
  return (all(type(value) is int for value in values)
          and values[0] == 0 and values[-1] < num_bytes
          and all(first < second for first, second in zip(values, values[1:]))
          and len(values) == -(-num_records // tfrecord.BLOCK_RECORDS))


def format_manifest(manifest: Manifest) -> str:
  """Formats a manifest as JSON, with all offsets on one line."""
  values = manifest.to_dict()
  offsets = values.pop("block_offsets")
  return '{},\n "block_offsets": {}\n}}\n'.format(
      json.dumps(values, indent=1)[:-len("\n}")], json.dumps(offsets))


def find_repeated(paths: Sequence[str]) -> Optional[Tuple[str, str]]:
  """Finds two files of the same records, by their manifests.

  Shards of several processes, NAME-00000-of-00008 and so on, have different
  records. Files without a manifest count as different.

  Args:
    paths: paths of record files.

  Returns:
    Two files of the same source and flags, even if their record formats or
    probability bits differ; None if there are none.
  """
  seen: Dict[str, Tuple[str, str]] = {}
  for path in paths:
    found = read_manifest(path)
    if found is None:
      continue
    shards = _SHARD.sub(r"-of-\1", path)
    flags = dict(_with_effect(found.flags), record_format=None,
                 probability_bits=None)
    for source in found.sources.items():
      made = json.dumps([found.stage, flags, found.fingerprints, source],
                        sort_keys=True)
      other_shards, other = seen.setdefault(made, (shards, path))
      if shards != other_shards:
        return other, path
  return None

"""The parts of a split text, and whether all of them are there.

Beside the parts NAME_0.txt, NAME_1.txt and so on lies a hidden manifest,
.NAME.split.json. It says so while the parts get their names, and tells at the
end what they are.
"""

import json
import os
import re
from typing import Any, List, NamedTuple, Optional

from util import files
from util.command_line import InputError

_MANIFEST = re.compile(r"\.(.*)\.split\.json")


class Split(NamedTuple):
  """What a split text has become.

  Attributes:
    source: SHA-256 of the text.
    sizes: bytes of each part; empty while the parts get their names.
    read_file: path of the text, as it was given.
  """
  source: str
  sizes: List[int]
  read_file: str = ""


def part_name(name: str, number: int) -> str:
  """Returns the name of a part of the split `name`."""
  return "{}_{}.txt".format(name, number)


def manifest_path(folder: str, name: str) -> str:
  """Returns the path of the manifest of the split `name`."""
  return os.path.join(folder, ".{}.split.json".format(name))


def write(folder: str, name: str, split: Split) -> None:
  """Writes the manifest of a split, or one that says that it is unfinished."""
  files.write_atomically(
      manifest_path(folder, name), json.dumps(split._asdict()) + "\n")


def is_kept(folder: str, name: str, read_file: str, num_parts: int) -> bool:
  """Returns whether a text has been split so already, and nothing changed."""
  try:
    split = read(folder, name)
  except InputError:
    return False
  return (split is not None and len(split.sizes) == num_parts
          and sum(split.sizes) == files.size(read_file)
          and _problem(folder, name, split, files.list_names(folder)) is None
          and split.source == files.fingerprint(read_file))


def check_folder(folder: str, flag: str) -> None:
  """Checks that all splits in a folder are complete and of one run each.

  Parts of earlier versions, without a manifest, are not checked.

  Args:
    folder: the folder.
    flag: name of the flag that named it, for errors.

  Raises:
    InputError: a part is missing, was changed, or is of another split.
  """
  names = files.list_names(folder)
  for match in filter(None, map(_MANIFEST.fullmatch, sorted(names))):
    path = os.path.join(folder, match.group())
    split = read(folder, match.group(1))
    problem = split and _problem(folder, match.group(1), split, names)
    if problem:
      raise InputError(
          "--{}: {}: {}; run split_text.py again, or remove {} to use the "
          "files as they are".format(flag, folder, problem, path))


def read(folder: str, name: str) -> Optional[Split]:
  """Reads the manifest of the split `name`; None where there is none.

  Raises:
    InputError: it is damaged.
  """
  path = manifest_path(folder, name)
  try:
    values: Any = json.loads(files.read_text(path))
    split = Split(**values)
    if not (isinstance(split.source, str) and isinstance(split.read_file, str)
            and isinstance(split.sizes, list)
            and all(type(size) is int for size in split.sizes)):
      raise ValueError("a value is of another type")
    return split
  except FileNotFoundError:
    return None
  except (RecursionError, TypeError, ValueError) as error:
    raise InputError("{} is damaged ({}); remove it, and run split_text.py "
                     "again".format(path, error)) from None


def _problem(folder: str, name: str, split: Split,
             names: List[str]) -> Optional[str]:
  """Returns what is wrong with the parts of a split; None for nothing.

  Args:
    folder: of the parts.
    name: of the split.
    split: what its manifest says.
    names: of all files in the folder.
  """
  if not split.sizes:
    return ("split_text.py was stopped while it replaced {}_N.txt, which are "
            "of two splits now".format(name))
  wanted = {part_name(name, i): size for i, size in enumerate(split.sizes)}
  missing = [part for part in wanted if part not in set(names)]
  if missing:
    return "{} of the {} parts {}_N.txt are missing, such as {}".format(
        len(missing), len(wanted), name, missing[0])
  is_part = re.compile(re.escape(name) + r"_[0-9]+\.txt")
  for other in sorted(names, key=files.natural_key):
    if is_part.fullmatch(other) and other not in wanted:
      return "{} is not one of the {} parts of the last split".format(
          other, len(wanted))
  for part, size in wanted.items():
    found = files.size(os.path.join(folder, part))
    if found != size:
      return "{} has {} bytes, but had {} when it was split off".format(
          part, found, size)
  return None

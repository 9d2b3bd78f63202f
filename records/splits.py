"""Finds where to split a text, and checks the parts of a split text.

A text is split at blank lines: lines that `str.strip` empties, as in BERT. The
functions search bytes and do not decode the text.

A hidden manifest, .NAME.split.json, is beside the parts NAME_0.txt, NAME_1.txt
and so on. It has no sizes while the parts are renamed, and the sizes of the
parts after that.
"""

import json
import os
import re
from typing import Any, BinaryIO, List, NamedTuple, Optional

from util import files
from util.command_line import InputError

_MANIFEST = re.compile(r"\.(.*)\.split\.json")
# Bytes per search of a text.
SEARCH_BYTES = 1 << 16
# Characters that `str.strip` removes, except the line end, in UTF-8; and the
# start of such a character that the end of a block cuts.
_SPACE = (rb"[\t\v\f\r\x1c-\x20]|\xc2[\x85\xa0]|\xe1\x9a\x80|"
          rb"\xe2\x80[\x80-\x8a\xa8\xa9\xaf]|\xe2\x81\x9f|\xe3\x80\x80")
_CUT_SPACE = rb"(?:\xc2|\xe1\x9a?|\xe2[\x80\x81]?|\xe3\x80?)\Z"
# Characters of Unicode's category Cf that occur in texts. BERT drops these
# characters, but a line of them is not blank.
_INVISIBLE = (rb"\xc2\xad|\xe1\xa0\x8e|\xe2\x80[\x8b-\x8f\xaa-\xae]|"
              rb"\xe2\x81[\xa0-\xa4\xa6-\xaf]|\xef\xbb\xbf")
_BLANK_LINE = re.compile(rb"\n(?:%b)*\n" % _SPACE)
_INVISIBLE_LINE = re.compile(
    rb"\n(?:%b)*(?:%b)(?:%b|%b)*\n" % (_SPACE, _INVISIBLE, _SPACE, _INVISIBLE))
# The first byte of a character that is not white space.
_TEXT = re.compile(rb"(?!%b|%b)[^\n\x80-\xbf]" % (_SPACE, _CUT_SPACE))


class Split(NamedTuple):
  """Contents of the manifest of a split text.

  Attributes:
    source: SHA-256 of the text.
    sizes: bytes of each part; empty while the parts are renamed.
    read_file: path of the text, as given in --read_file.
  """
  source: str
  sizes: List[int]
  read_file: str = ""


# --- Documents ---------------------------------------------------------------


def find_text(block: bytes, start: int = 0) -> int:
  """Returns the position of the first character that is not white space.

  Args:
    block: UTF-8 bytes, whose last character may be cut.
    start: byte position to start from; may be inside a character.

  Returns:
    The position in bytes; -1 if there is no such character.
  """
  text = _TEXT.search(block, start)
  return text.start() if text else -1


def find_invisible_line(block: bytes) -> int:
  """Returns the position of a line of zero-width characters alone; -1 for none.

  Such a line looks blank, but does not separate documents. Skips the first and
  the last line of the block, which may be cut.

  Args:
    block: UTF-8 bytes.
  """
  line = _INVISIBLE_LINE.search(block)
  return line.start() + 1 if line else -1


def next_document(file: BinaryIO, position: int) -> Optional[int]:
  """Finds the first document that starts after a position.

  Args:
    file: the text.
    position: byte position to start from, after the start of another document.

  Returns:
    The position of the document's first line; None if there is no document.
  """
  file.seek(position)
  is_after_blank_line = False
  rest = b""
  while True:
    block = file.read(SEARCH_BYTES)
    if not block:
      return None
    block = rest + block
    position -= len(rest)
    start = 0
    if not is_after_blank_line:
      blank_line = _BLANK_LINE.search(block)
      if blank_line:
        is_after_blank_line = True
        start = blank_line.end()
    if is_after_blank_line:
      text = find_text(block, start)
      if text >= 0:
        return position + block.rfind(b"\n", 0, text) + 1
    # A blank line may begin in this block and end in the next one.
    end_of_line = max(block.rfind(b"\n"), 0)
    rest = b"" if find_text(block, end_of_line) >= 0 else block[end_of_line:]
    position += len(block)


def first_text(file: BinaryIO) -> int:
  """Returns the position of a text's first character that is not white space.

  Returns -1 if there is no such character.
  """
  position = file.seek(0)
  while True:
    block = file.read(SEARCH_BYTES)
    if not block:
      return -1
    text = find_text(block)
    if text >= 0:
      return position + text
    position += len(block)


def is_one_document(path: str) -> bool:
  """Returns whether no blank line separates documents in a text."""
  with files.open_file(path) as file:
    return next_document(file, max(0, first_text(file))) is None


# --- Parts -------------------------------------------------------------------


def part_name(name: str, number: int) -> str:
  """Returns the name of a part of the split `name`."""
  return "{}_{}.txt".format(name, number)


def manifest_path(folder: str, name: str) -> str:
  """Returns the path of the manifest of the split `name`."""
  return os.path.join(folder, ".{}.split.json".format(name))


def write(folder: str, name: str, split: Split) -> None:
  """Writes the manifest of a split; without sizes, the split is unfinished."""
  files.write_atomically(
      manifest_path(folder, name), json.dumps(split._asdict()) + "\n")


def is_kept(folder: str, name: str, read_file: str, num_parts: int) -> bool:
  """Returns whether intact parts of the same split of a text exist."""
  try:
    split = read(folder, name)
  except InputError:
    return False
  return (split is not None and len(split.sizes) == num_parts
          and sum(split.sizes) == files.size(read_file)
          and _problem(folder, name, split, files.list_names(folder)) is None
          and split.source == files.fingerprint(read_file))


def check_folder(folder: str, flag: str) -> None:
  """Checks that each split in a folder is complete and from one run.

  Does not check parts without a manifest, from earlier versions.

  Args:
    folder: path of the folder.
    flag: name of the flag that gave the path, for errors.

  Raises:
    InputError: if a part is missing, was changed, or is from another split.
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
  """Reads the manifest of the split `name`; None if there is none.

  Raises:
    InputError: if the manifest is damaged.
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
    raise InputError("{} is damaged ({}); remove the file, and run "
                     "split_text.py again".format(path, error)) from None


def _problem(folder: str, name: str, split: Split,
             names: List[str]) -> Optional[str]:
  """Returns the first fault in the parts of a split; None if there is none.

  Args:
    folder: folder of the parts.
    name: name of the split.
    split: manifest of the split.
    names: names of all files in the folder.
  """
  if not split.sizes:
    return ("split_text.py was stopped while it replaced {}_N.txt, so these "
            "files are of two splits".format(name))
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
      return "{} has {} bytes, but {} by the manifest of the split".format(
          part, found, size)
  return None

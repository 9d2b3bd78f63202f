r"""Splits a text file into files of nearly equal size.

  python split_text.py \
    --read_file data/wikipedia.txt \
    --split_number 100 \
    --folder data/split \
    --name_base wiki

This writes data/split/wiki_0.txt to wiki_99.txt. Documents, which blank lines
set apart, are never cut. The cuts are found by seeking and the parts are
copied as bytes, so no part of the text is kept in memory.
"""

import collections
import contextlib
import os
import re
from typing import BinaryIO, Iterator, List, Optional, Sequence

from absl import flags
from absl import logging
import tqdm

import command_line

FLAGS = flags.FLAGS

_REQUIRED_FLAGS = ("read_file", "split_number", "folder", "name_base")
_SEARCH_BYTES = 1 << 16
_COPY_BYTES = 1 << 20
# A line of white space alone, between the ends of two lines.
_BLANK_LINE = re.compile(rb"\n[ \t\r\f\v]*\n")
_NOT_SPACE = re.compile(rb"\S")
# How many names an error lists.
_MAX_LISTED = 5


def define_flags() -> None:
  """Defines the flags of this stage."""
  flags.DEFINE_string(
      "read_file", None,
      "Text to split: one sentence a line, a blank line between documents.")
  flags.DEFINE_integer(
      "split_number", None, "How many files to write.", lower_bound=1)
  flags.DEFINE_string("folder", None, "Folder for the files.")
  flags.DEFINE_string(
      "name_base", None,
      "Start of the names: NAME_BASE_0.txt, NAME_BASE_1.txt and so on.")


# --- Cuts --------------------------------------------------------------------


def next_document(file: BinaryIO, position: int) -> Optional[int]:
  """Finds the first document that starts behind a position.

  Args:
    file: the text.
    position: where to look from; behind the start of another document.

  Returns:
    Where the document's first line starts, or None where there is no more.
  """
  file.seek(position)
  is_behind_blank_line = False
  rest = b""
  while True:
    block = file.read(_SEARCH_BYTES)
    if not block:
      return None
    block = rest + block
    position -= len(rest)
    start = 0
    if not is_behind_blank_line:
      blank_line = _BLANK_LINE.search(block)
      if blank_line:
        is_behind_blank_line = True
        start = blank_line.end()
    if is_behind_blank_line:
      text = _NOT_SPACE.search(block, start)
      if text:
        return position + block.rfind(b"\n", 0, text.start()) + 1
    # The last line's end matters if nothing but white space follows it.
    end_of_line = max(block.rfind(b"\n"), 0)
    rest = b"" if _NOT_SPACE.search(block, end_of_line) else block[end_of_line:]
    position += len(block)


def find_cuts(file: BinaryIO, num_parts: int) -> List[int]:
  """Finds where to cut a text into parts of nearly equal size.

  Args:
    file: the text.
    num_parts: N.

  Returns:
    N + 1 positions, rising, from 0 to the size of the file; the others are
    starts of documents.

  Raises:
    ValueError: there are fewer than N documents.
  """
  size = os.fstat(file.fileno()).st_size
  first = _first_text(file)
  cuts = _cuts_by_size(file, first, size, num_parts)
  if None in cuts:
    # Much of the text is in a few documents at its end. Each part leaves a
    # document for each part behind it.
    latest = collections.deque(_documents(file, first), maxlen=num_parts - 1)
    if len(latest) < num_parts - 1:
      raise ValueError(
          "--split_number={} is more than the {} documents in --read_file={}, "
          "which blank lines set apart: use {} or less".format(
              num_parts, len(latest) + 1, file.name, len(latest) + 1))
    cuts = _cuts_by_size(file, first, size, num_parts, latest)
  return [0] + cuts + [size]


def _first_text(file: BinaryIO) -> int:
  """Returns where the first character is that is not white space."""
  file.seek(0)
  position = 0
  while True:
    block = file.read(_SEARCH_BYTES)
    if not block:
      raise ValueError("--read_file: {} holds no text".format(file.name))
    text = _NOT_SPACE.search(block)
    if text:
      return position + text.start()
    position += len(block)


def _documents(file: BinaryIO, first: int) -> Iterator[int]:
  """Yields where each document but the first one starts."""
  start = next_document(file, first)
  while start is not None:
    yield start
    start = next_document(file, start)


def _cuts_by_size(file: BinaryIO, first: int, size: int, num_parts: int,
                  latest: Sequence[int] = ()) -> List[Optional[int]]:
  """Cuts at the first document behind each N-th part of the size.

  Args:
    file: the text.
    first: where it starts.
    size: of the file.
    num_parts: N.
    latest: the last position for each cut, where documents are few.

  Returns:
    N - 1 positions; None from where on documents do not suffice.
  """
  cuts = []
  cut = first
  for i in range(1, num_parts):
    cut = next_document(file, max(cut, size * i // num_parts))
    if latest:
      cut = latest[i - 1] if cut is None else min(cut, latest[i - 1])
    cuts.append(cut)
    if cut is None:
      break
  return cuts


# --- Files -------------------------------------------------------------------


def split(read_file: str, num_parts: int, folder: str, name_base: str) -> None:
  """Splits a text file.

  Args:
    read_file: path of the text.
    num_parts: N.
    folder: of the files; made where it is missing.
    name_base: start of their names.

  Raises:
    ValueError: the text cannot be split into so many parts, or files in the
      folder stand in the way.
    OSError: a file cannot be read or written.
  """
  if not os.path.isfile(read_file):
    raise ValueError("--read_file: there is no file {}; check the path".format(
        read_file))
  if os.path.basename(name_base) != name_base:
    raise ValueError("--name_base={} is a path; give a name, and the folder "
                     "with --folder".format(name_base))
  stem = name_base if name_base.endswith("_") else name_base + "_"
  names = ["{}{}.txt".format(stem, i) for i in range(num_parts)]
  _check_folder(folder, stem, names, read_file)
  with open(read_file, "rb") as file:
    cuts = find_cuts(file, num_parts)
    os.makedirs(folder, exist_ok=True)
    _copy_parts(file, cuts, folder, names)
  sizes = [end - start for start, end in zip(cuts, cuts[1:])]
  logging.info("%d files of %d to %d bytes in %s.", num_parts, min(sizes),
               max(sizes), folder)


def _check_folder(folder: str, stem: str, names: Sequence[str],
                  read_file: str) -> None:
  """Raises ValueError where files in the folder stand in the way."""
  if not os.path.isdir(folder):
    return
  pattern = re.compile(re.escape(stem) + r"[0-9]+\.txt")
  older = sorted(name for name in set(os.listdir(folder)) - set(names)
                 if pattern.fullmatch(name))
  if older:
    raise ValueError(
        "--folder: {} holds {} files of an earlier, larger split that would be "
        "read as part of this one: {}{}; remove them, or choose another "
        "--folder or --name_base".format(
            folder, len(older), ", ".join(older[:_MAX_LISTED]),
            ", ..." if len(older) > _MAX_LISTED else ""))
  for name in names:
    path = os.path.join(folder, name)
    if os.path.exists(path) and os.path.samefile(path, read_file):
      raise ValueError("--read_file={} would be overwritten by its own part; "
                       "choose another --folder or --name_base".format(
                           read_file))


def _copy_parts(file: BinaryIO, cuts: Sequence[int], folder: str,
                names: Sequence[str]) -> None:
  """Copies byte ranges into files, which get their names all at the end."""
  partial_paths = [os.path.join(folder, ".{}.partial".format(name))
                   for name in names]
  file.seek(0)
  try:
    with tqdm.tqdm(total=cuts[-1], unit="B", unit_scale=True,
                   disable=None) as bar:
      for path, start, end in zip(partial_paths, cuts, cuts[1:]):
        with open(path, "wb") as part:
          while start < end:
            block = file.read(min(_COPY_BYTES, end - start))
            if not block:
              raise OSError("--read_file: {} became shorter while it was read"
                            .format(file.name))
            part.write(block)
            start += len(block)
            bar.update(len(block))
    for path, name in zip(partial_paths, names):
      os.replace(path, os.path.join(folder, name))
  finally:
    for path in partial_paths:
      with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def main() -> None:
  split(FLAGS.read_file, FLAGS.split_number, FLAGS.folder, FLAGS.name_base)


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=_REQUIRED_FLAGS)

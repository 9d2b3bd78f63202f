r"""Splits a text into files of nearly equal size.

  python split_text.py \
    --read_file data/wikipedia.txt \
    --split_number 100 \
    --folder data/split \
    --name_base wiki

The script writes data/split/wiki_0.txt to wiki_99.txt. Documents, which empty
lines separate, stay whole. The script seeks the cuts and copies bytes, so
memory does not depend on the size of the text. Text and folder may be in remote
storage, such as gs://.

A hidden manifest, data/split/.wiki.split.json, names the text and the sizes of
the parts: the same command keeps parts that match, and the next stage refuses
parts that are incomplete or mixed.
"""

import collections
import hashlib
import os
import re
from typing import BinaryIO, Iterator, List, Optional, Sequence

from absl import flags
from absl import logging
import tqdm

from records import splits
from util import command_line
from util import files
from util.command_line import InputError

FLAGS = flags.FLAGS

_REQUIRED_FLAGS = ("read_file", "split_number", "folder", "name_base")
_COPY_BYTES = 1 << 20
# Bytes at the start of each copied block to search for lines that look blank.
_SAMPLE_BYTES = 1 << 14
_INVISIBLE_LINE = (
    "the line at byte {:,} has zero-width characters alone, such as U+200B or "
    "U+FEFF; this line is not blank and separates no documents: write an "
    "empty line there if it should")
# Most names in an error.
_MAX_LISTED = 5


def define_flags() -> None:
  """Defines the flags of this stage."""
  flags.DEFINE_string(
      "read_file", None,
      "Text to split: one sentence per line, a blank line between documents.")
  flags.DEFINE_integer(
      "split_number", None, "Number of files to write.", lower_bound=1)
  flags.DEFINE_string("folder", None, "Folder for the files.")
  flags.DEFINE_string(
      "name_base", None,
      "Prefix of the names: NAME_BASE_0.txt, NAME_BASE_1.txt and so on.")


# --- Cuts --------------------------------------------------------------------


def find_cuts(file: BinaryIO, num_parts: int) -> List[int]:
  """Finds where to cut a text into N parts of nearly equal size.

  Args:
    file: the text.
    num_parts: N.

  Returns:
    N + 1 increasing byte positions: 0, starts of documents, size of the file.

  Raises:
    InputError: if there are fewer than N documents.
  """
  size = file.seek(0, os.SEEK_END)
  first = _first_text(file)
  cuts = _cuts_by_size(file, first, size, num_parts)
  if cuts is None:
    # Much of the text is in a few documents at its end. Each part must leave a
    # document for each of the parts after it.
    latest = collections.deque(_documents(file, first), maxlen=num_parts - 1)
    if not latest and num_parts > 1:
      raise InputError(
          "--read_file={} has no blank line between documents, so it cannot be "
          "split: put an empty line after each document{}".format(
              file.name, _invisible_line(file)))
    if len(latest) < num_parts - 1:
      raise InputError(
          "--split_number={} is more than the {} documents in --read_file={}, "
          "which blank lines separate: use {} or less{}".format(
              num_parts, len(latest) + 1, file.name, len(latest) + 1,
              _invisible_line(file)))
    cuts = _cuts_by_size(file, first, size, num_parts, latest)
    assert cuts is not None  # The latest positions are always possible.
  return [0] + cuts + [size]


def _first_text(file: BinaryIO) -> int:
  """Returns the position of the first character that is not white space."""
  file.seek(0)
  block = file.read(splits.SEARCH_BYTES)
  if b"\0" in block:
    raise InputError("--read_file: {} has NULs: if the file is text, {}".format(
        file.name, files.encoding_advice(block)))
  first = splits.first_text(file)
  if first < 0:
    raise InputError("--read_file: {} contains no text; check the path"
                     .format(file.name))
  return first


def _invisible_line(file: BinaryIO) -> str:
  """Returns the end of an error about a line that looks blank; "" for none."""
  position = file.seek(0)
  while True:
    block = file.read(_COPY_BYTES)
    line = splits.find_invisible_line(block)
    if line >= 0:
      return "; " + _INVISIBLE_LINE.format(position + line)
    if not block:
      return ""
    position += len(block)


def _documents(file: BinaryIO, first: int) -> Iterator[int]:
  """Yields the positions of all documents except the first one."""
  start = splits.next_document(file, first)
  while start is not None:
    yield start
    start = splits.next_document(file, start)


def _cuts_by_size(file: BinaryIO, first: int, size: int, num_parts: int,
                  latest: Sequence[int] = ()) -> Optional[List[int]]:
  """Cuts at the first document after each N-th of the size.

  Args:
    file: the text.
    first: position of the first document.
    size: bytes of the file.
    num_parts: N.
    latest: last allowed position of each cut, if documents are few.

  Returns:
    N - 1 positions; None if there are too few documents.
  """
  cuts: List[int] = []
  for i in range(1, num_parts):
    cut = splits.next_document(file, max(cuts[-1] if cuts else first,
                                  size * i // num_parts))
    if latest:
      cut = latest[i - 1] if cut is None else min(cut, latest[i - 1])
    if cut is None:
      return None
    cuts.append(cut)
  return cuts


# --- Files -------------------------------------------------------------------


def split(read_file: str, num_parts: int, folder: str, name_base: str) -> None:
  """Splits a text file.

  Args:
    read_file: path of the text.
    num_parts: number of files to write.
    folder: folder for the files; created if it is missing.
    name_base: prefix of the names of the files.

  Raises:
    InputError: if the text cannot be split into so many parts, the folder has
      files of another split, or another process is writing the parts.
    OSError: if a file cannot be read or written.
  """
  files.check_file(read_file, "read_file")
  if os.path.basename(name_base) != name_base:
    raise InputError("--name_base={} is a path; give a name, and the folder "
                     "with --folder".format(name_base))
  name = name_base[:-1] if name_base.endswith("_") else name_base
  parts = [splits.part_name(name, i) for i in range(num_parts)]
  with files.open_file(read_file) as file:
    cuts = find_cuts(file, num_parts)
    files.make_output_folder(folder, "folder")
    files.warn_of_missing_locks(folder)
    # Every split has a first part, so the lock of the first part guards all.
    with files.partial_file(os.path.join(folder, parts[0])) as first:
      if splits.is_kept(folder, name, read_file, num_parts):
        logging.info("%s is already split into %d files in %s: the files are "
                     "kept.", read_file, num_parts, folder)
        return
      _check_folder(folder, name, parts, read_file)
      sizes = [end - start for start, end in zip(cuts, cuts[1:])]
      _write_parts(file, sizes, first, folder, name)
  logging.info("Wrote %d files of %d to %d bytes to %s.", num_parts, min(sizes),
               max(sizes), folder)


def _check_folder(folder: str, name: str, parts: Sequence[str],
                  read_file: str) -> None:
  """Raises InputError if the folder has parts of another split or the text."""
  pattern = re.compile(re.escape(name) + r"_[0-9]+\.txt")
  older = sorted((other for other in set(files.list_names(folder)) - set(parts)
                  if pattern.fullmatch(other)), key=files.natural_key)
  if older:
    raise InputError(
        "--folder: {} has {} files of an earlier, larger split that would be "
        "read as part of this one: {}{}; remove them, or choose another "
        "--folder or --name_base".format(
            folder, len(older), ", ".join(older[:_MAX_LISTED]),
            ", ..." if len(older) > _MAX_LISTED else ""))
  for part in parts:
    if files.is_same(os.path.join(folder, part), read_file):
      raise InputError("--read_file={} would be overwritten by one of its "
                       "parts; choose another --folder or --name_base".format(
                           read_file))


def _write_parts(file: BinaryIO, sizes: Sequence[int],
                 first: files.HiddenFile, folder: str, name: str) -> None:
  """Copies byte ranges into hidden files, then renames all of them.

  Opens one part at a time, since a process can open a limited number of files.

  Args:
    file: the text.
    sizes: bytes of each part.
    first: the first part, locked.
    folder: folder of the parts.
    name: name of the split.
  """
  file.seek(0)
  others = [os.path.join(folder, splits.part_name(name, i))
            for i in range(1, len(sizes))]
  seen = _Seen()
  try:
    with tqdm.tqdm(total=sum(sizes), unit="B", unit_scale=True,
                   disable=None) as bar:
      _copy(file, first.file, sizes[0], seen, bar)
      for path, size in zip(others, sizes[1:]):
        with files.partial_file(path) as part:
          part.keep = True
          _copy(file, part.file, size, seen, bar)
      first.sync()
    # While the parts are renamed, the folder may have parts of two splits.
    split_text = splits.Split(seen.digest.hexdigest(), [], file.name)
    splits.write(folder, name, split_text)
    for path in others:
      files.commit_kept(path)
    first.commit()
    splits.write(folder, name, split_text._replace(sizes=list(sizes)))
  finally:
    for path in others:
      files.remove_partial(path)
  if seen.invisible_line >= 0:
    logging.warning("--read_file: %s: %s.", file.name,
                    _INVISIBLE_LINE.format(seen.invisible_line))


class _Seen:
  """Hashes and searches a text while it is copied.

  Attributes:
    digest: SHA-256 of the bytes copied so far.
    invisible_line: position of a line of zero-width characters alone; -1 if
      none was found. Only the start of each block is searched: searching the
      whole text takes as long as copying, and a text that has such lines
      usually has them everywhere.
  """

  def __init__(self) -> None:
    self.digest = hashlib.sha256()
    self.invisible_line = -1
    self._num_bytes = 0

  def add(self, block: bytes) -> None:
    self.digest.update(block)
    if self.invisible_line < 0:
      line = splits.find_invisible_line(block[:_SAMPLE_BYTES])
      if line >= 0:
        self.invisible_line = self._num_bytes + line
    self._num_bytes += len(block)


def _copy(source: BinaryIO, destination: BinaryIO, num_bytes: int,
          seen: _Seen, bar: tqdm.tqdm) -> None:
  """Copies bytes from one file to another, and adds them to `seen`."""
  while num_bytes:
    block = source.read(min(_COPY_BYTES, num_bytes))
    if not block:
      raise InputError("--read_file: {} became shorter while it was read; run "
                       "the command again".format(source.name))
    destination.write(block)
    seen.add(block)
    num_bytes -= len(block)
    bar.update(len(block))


def main() -> None:
  split(FLAGS.read_file, FLAGS.split_number, FLAGS.folder, FLAGS.name_base)


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=_REQUIRED_FLAGS)

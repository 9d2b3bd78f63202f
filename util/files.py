"""Finds, reads, locks and atomically writes files, for every stage.

A final name never holds a half-written file: a writer locks a hidden file
beside the final name, writes to the hidden file, and renames it at the end.
Paths with a scheme, such as gs://, name files in remote storage, which has no
locks.
"""

import collections
import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import shutil
import time
from typing import (
    Any, BinaryIO, Callable, Dict, Iterator, List, NamedTuple, Optional,
    Sequence, Tuple, TypeVar, Union)

from absl import logging

from util import command_line
from util import locks
from util import remote
from util.command_line import InputError
from util.remote import is_remote

T = TypeVar("T")

_BLOCK_BYTES = 1 << 20
# A second change within this time may leave a file's modification time equal.
_CLOCK_NANOSECONDS = 2 * 10**9
_MANIFEST_SUFFIX = ".json"
_LOCK_FILE = ".lock"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


# --- Finding -----------------------------------------------------------------


def natural_key(path: str) -> Tuple[Any, ...]:
  """Returns a sort key for natural order: `wiki_2` before `wiki_10`.

  Files of the same folder stay together.
  """
  names = [re.split(r"([0-9]+)", name) for name in path.split(os.sep)]
  return [[int(part) if i % 2 else part for i, part in enumerate(parts)]
          for parts in names], path


def find_files(patterns: str, flag: str) -> List[str]:
  """Lists the regular files that a flag's value names.

  A pattern does not match hidden files and manifests.

  Args:
    patterns: paths and globs, separated by commas.
    flag: name of the flag, for errors.

  Returns:
    Paths, the matches of each pattern in natural order.

  Raises:
    InputError: if a path does not exist or is a folder, a pattern matches
      nothing, or a file is named twice.
  """
  paths = []
  for pattern in filter(None, (part.strip() for part in patterns.split(","))):
    matches = sorted(_glob(pattern), key=natural_key)
    if matches != [pattern]:
      matches = [
          path for path in matches
          if not os.path.basename(path).startswith(".")
          and not path.endswith(_MANIFEST_SUFFIX)
          and _is_regular(path)
      ]
    elif is_folder(pattern):
      raise InputError(
          "--{}: {} is a folder; give files or a pattern such as {}".format(
              flag, pattern, os.path.join(pattern, "*.tfrecord")))
    else:
      check_file(pattern, flag)
    if not matches:
      raise InputError(
          "--{}: there is no file {}; check the path, and quote a pattern so "
          "that the shell passes it on".format(flag, pattern))
    paths.extend(matches)
  if not paths:
    raise InputError("--{} is empty; give a path or a pattern".format(flag))
  if len(set(paths)) < len(paths):
    raise InputError("--{} names {} twice; name each file once".format(
        flag, collections.Counter(paths).most_common(1)[0][0]))
  return paths


def list_files(folder: str, flag: str, advice: str,
               recursive: bool = False) -> List[str]:
  """Lists the regular files in a folder, except hidden files.

  Args:
    folder: the folder.
    flag: name of the flag that named the folder, for errors.
    advice: the remedy, for errors.
    recursive: whether to list the files of subfolders too.

  Returns:
    Paths in natural order.

  Raises:
    InputError: if the folder does not exist or has no files.
  """
  if not is_folder(folder):
    raise InputError("--{}: there is no folder {}; {}".format(
        flag, folder, advice))
  paths: List[str] = []
  for parent, subfolders, names in (remote if is_remote(folder) else os).walk(
      folder):
    subfolders[:] = [name for name in subfolders
                     if recursive and not name.startswith(".")]
    paths.extend(os.path.join(parent, name) for name in names
                 if not name.startswith("."))
  paths = sorted(filter(_is_regular, paths), key=natural_key)
  if not paths:
    raise InputError("--{}: {} holds no file; {}".format(flag, folder, advice))
  return paths


def check_file(path: str, flag: str) -> None:
  """Checks that a flag names a regular file, which can be read twice.

  Raises:
    InputError: if the path does not exist, or is a folder, a pipe or a device.
  """
  problem = None
  if is_folder(path):
    problem = "{} is a folder; give a file"
  elif not exists(path):
    problem = "there is no file {}; check the path"
  elif not _is_regular(path):
    problem = ("{} is a pipe or a device, not a regular file; write its output "
               "to a file first")
  if problem:
    raise InputError("--{}: {}".format(flag, problem.format(path)))


def _glob(pattern: str) -> List[str]:
  # The name of an existing file may contain the characters of a pattern.
  if exists(pattern) or os.path.islink(pattern):
    return [pattern]
  return (remote if is_remote(pattern) else glob).glob(pattern)


def _is_regular(path: str) -> bool:
  """Returns whether an existing path is a regular file."""
  return not remote.is_folder(path) if is_remote(path) else os.path.isfile(path)


# --- Reading -----------------------------------------------------------------


def exists(path: str) -> bool:
  """Returns whether a file or folder exists."""
  return (remote if is_remote(path) else os.path).exists(path)


def is_folder(path: str) -> bool:
  """Returns whether a path is an existing folder."""
  return remote.is_folder(path) if is_remote(path) else os.path.isdir(path)


def size(path: str) -> int:
  """Returns the size of a file in bytes."""
  return remote.size(path) if is_remote(path) else os.path.getsize(path)


def list_names(folder: str) -> List[str]:
  """Lists the names of all files and folders in a folder."""
  return remote.list_names(folder) if is_remote(folder) else os.listdir(folder)


def is_same(path: str, other: str) -> bool:
  """Returns whether two paths name the same file, which need not exist."""
  if is_remote(path) or is_remote(other):
    return path == other
  return os.path.realpath(path) == os.path.realpath(other)


def read_text(path: str) -> str:
  """Reads a small text file in UTF-8."""
  with open_file(path) as file:
    return file.read().decode("utf-8")


def read_lines(path: str) -> List[bytes]:
  """Reads the lines of a small text file that `append_line` extends.

  A last line without a line end is incomplete and left out, unless it is the
  first line, which is written atomically.
  """
  with open_file(path) as file:
    lines = file.read().split(b"\n")
  return lines[:-1] or lines


def parse_json(content: bytes) -> Any:
  """Parses JSON, UTF-8.

  Raises:
    ValueError: `content` is not JSON, or is nested too deeply.
  """
  try:
    return json.loads(content.decode("utf-8"))
  except RecursionError:
    raise ValueError("it is nested too deeply") from None


def encoding_advice(content: bytes) -> str:
  """Returns advice on how to convert text that is not UTF-8, by its start.

  UTF-16 is recognized by a byte order mark, or by a NUL in each ASCII
  character.
  """
  encoding = "latin1"
  if content.startswith((b"\xff\xfe", b"\xfe\xff")):
    encoding = "utf-16"
  elif b"\0" in content:
    encoding = ("utf-16le" if content[1::2].count(0) > content[::2].count(0)
                else "utf-16be")
  return "convert it, for example with iconv -f {} -t utf-8".format(encoding)


def open_file(path: str, unbuffered: bool = False) -> BinaryIO:
  """Opens a file for reading bytes.

  Args:
    path: the file.
    unbuffered: whether to read a local file without read-ahead.

  Raises:
    FileNotFoundError: if the file does not exist.
  """
  if is_remote(path):
    return remote.open_file(path, "rb")
  return open(path, "rb", buffering=0 if unbuffered else -1)


def fingerprint(path: str) -> str:
  """Returns the SHA-256 of a file in hexadecimal."""
  def compute():
    digest = hashlib.sha256()
    with open_file(path) as file:
      for block in iter(lambda: file.read(_BLOCK_BYTES), b""):
        digest.update(block)
    return digest.hexdigest()

  return once("fingerprint", [path], compute)


# --- Caching -----------------------------------------------------------------


class Stamp(NamedTuple):
  """Size, times and inode of a file, to detect changes; all zero for no file.

  Attributes:
    size: size of the file in bytes.
    modified: time of the last change of the content, in nanoseconds.
    changed: time of the last change of content, name or permissions, in
      nanoseconds.
    inode: number of the file in its file system.
  """
  size: int = 0
  modified: int = 0
  changed: int = 0
  inode: int = 0


Cache = Dict[Tuple[str, ...], Tuple[List[Stamp], Any]]
_cache: Cache = {}


def stamp(path: str) -> Optional[Stamp]:
  """Returns a file's stamp, or None where a change may not alter the stamp.

  The stamp is None in remote storage, and for two seconds after each change,
  because clocks of file systems are coarse.
  """
  if is_remote(path):
    return None
  try:
    found = os.stat(path)
  except (FileNotFoundError, NotADirectoryError):
    return Stamp()
  if time.time_ns() - found.st_mtime_ns < _CLOCK_NANOSECONDS:
    return None
  return Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns,
               found.st_ino)


def once(kind: str, paths: Sequence[str], read: Callable[[], T]) -> T:
  """Returns the cached result of `read`; calls `read` if a file has changed.

  Args:
    kind: name of the result, part of the cache's key.
    paths: the files that `read` reads.
    read: function without arguments. An error that it raises is not cached.
  """
  stamps = [stamp(path) for path in paths]
  key = (kind, *paths)
  if key in _cache and _cache[key][0] == stamps:
    return _cache[key][1]
  value = read()
  if None not in stamps:
    _cache[key] = [each for each in stamps if each is not None], value
  return value


def export_cache() -> Cache:
  """Returns the cache of `once`, for `import_cache` in another process."""
  return dict(_cache)


def import_cache(other: Cache) -> None:
  """Adds the cache of another process to the cache of `once`.

  An entry is used only if the stamps of its files are equal here, so a host
  with its own copies of the files reads its copies.
  """
  _cache.update(other)


# --- Writing -----------------------------------------------------------------


class PartialFile:
  """A local file that appears under its final name only when it is complete.

  The content is written to the hidden file that `partial_path` names, under a
  lock that ends with the process. `commit` renames the hidden file to the final
  name. Leaving a `with` block without `commit` removes the hidden file, unless
  `keep` is set.

  Attributes:
    file: the hidden file, open for binary reading and writing.
    keep: whether `close` keeps the hidden file, for a later run.
  """

  def __init__(self, path: str, resume: bool = False, wait: bool = False):
    """Opens and locks the hidden file.

    Args:
      path: the final name.
      resume: whether to keep the content of an existing hidden file and
        continue at its end; `truncate` cuts off what is of no use.
      wait: whether to wait until no other process writes the file.

    Raises:
      InputError: if another process is writing the file and `wait` is False.
      OSError: if the hidden file cannot be opened.
    """
    self._path = path
    self._partial = partial_path(path)
    self.keep = resume
    self._locked = locks.LockedFile(self._partial, path, wait)
    self.file = self._locked.file
    if resume:
      self.file.seek(0, os.SEEK_END)
    else:
      self.file.truncate(0)

  def truncate(self, num_bytes: int) -> None:
    """Cuts the hidden file to its first `num_bytes` and continues there."""
    self.file.truncate(num_bytes)
    self.file.seek(num_bytes)

  def sync(self) -> None:
    """Flushes the content to the disk, so that it survives a power cut.

    Raises:
      InputError: if another process has taken over the lock.
    """
    self.file.flush()
    os.fsync(self.file.fileno())
    self._locked.check()

  def commit(self) -> None:
    """Flushes the file and gives it its final name; errors as for `sync`."""
    self.sync()
    os.replace(self._partial, self._path)
    self._locked.close()
    _sync_folder(self._path)

  def close(self) -> None:
    """Closes the hidden file, and removes it unless `keep` is set."""
    if self.file.closed:
      return
    if self.keep:
      self._locked.close()
      return
    with contextlib.suppress(InputError):  # Another process has taken over.
      self._locked.check()
      remove(self._partial)  # Under the lock, so no other process writes it.
    with contextlib.suppress(OSError):  # A full disk fails the final flush.
      self._locked.close()

  def __enter__(self) -> "PartialFile":
    return self

  def __exit__(self, unused_type: Any, exception: Optional[BaseException],
               unused_traceback: Any) -> None:
    try:
      self.close()
    except OSError as error:
      raise OSError(error.errno, error.strerror, self._path) from error
    # An error of a full disk does not name the file.
    if (isinstance(exception, OSError) and exception.errno in _NO_SPACE
        and exception.filename is None):
      raise OSError(
          exception.errno, exception.strerror, self._path) from exception


class RemoteFile:
  """A `PartialFile` in remote storage.

  Remote storage has no locks, and a half-written file cannot be resumed. Where
  a rename copies the file, another process may see the final name before the
  copy is complete; a second file, written afterwards, shows that it is.

  Attributes:
    file: the hidden file, open for binary writing.
    keep: whether `close` keeps the hidden file, for `commit_kept`.
  """

  def __init__(self, path: str):
    """Opens a new hidden file."""
    self._path = path
    self._partial = partial_path(path)
    self.keep = False
    self.file = remote.open_file(self._partial, "wb")

  def truncate(self, num_bytes: int) -> None:
    """Asserts that `num_bytes` is 0: a remote file starts empty."""
    assert num_bytes == 0, num_bytes

  def sync(self) -> None:
    """Does nothing: some storage uploads the whole file at each flush."""

  def commit(self) -> None:
    """Gives the file its final name."""
    self.file.close()
    remote.rename(self._partial, self._path)
    self.keep = True  # The hidden name no longer exists.

  def close(self) -> None:
    """Closes the hidden file, and removes it unless `keep` is set."""
    if self.keep:
      self.file.close()
      return
    with contextlib.suppress(OSError):  # The final flush may fail.
      self.file.close()
    remove(self._partial)

  def __enter__(self) -> "RemoteFile":
    return self

  def __exit__(self, *unused_exception: Any) -> None:
    self.close()


HiddenFile = Union[PartialFile, RemoteFile]


def partial_file(path: str, resume: bool = False, wait: bool = False
                ) -> HiddenFile:
  """Opens a `PartialFile`, or a `RemoteFile` for a path in remote storage.

  Args:
    path: the final name.
    resume: as for `PartialFile`; no effect in remote storage.
    wait: as for `PartialFile`; no effect in remote storage.
  """
  if is_remote(path):
    return RemoteFile(path)
  return PartialFile(path, resume, wait)


def commit_kept(path: str) -> None:
  """Gives a complete file that was kept hidden its final name."""
  if is_remote(path):
    remote.rename(partial_path(path), path)
    return
  with PartialFile(path, resume=True) as partial:
    partial.commit()


def make_folder(folder: str) -> None:
  """Makes a folder and its parents, unless they exist."""
  if is_remote(folder):
    remote.make_folder(folder)
  else:
    os.makedirs(folder or ".", exist_ok=True)


def make_output_folder(folder: str, flag: str) -> None:
  """Makes the folder that a flag names, as `make_folder` does.

  Raises:
    InputError: if the folder cannot be made.
  """
  try:
    make_folder(folder)
  except OSError as error:
    raise InputError("--{}: {}".format(
        flag, command_line.message(error))) from None


def write_atomically(path: str, text: str) -> None:
  """Writes a small text file in UTF-8, which is never half written."""
  with partial_file(path) as partial:
    partial.file.write(text.encode("utf-8"))
    partial.commit()


def append_line(path: str, line: str) -> None:
  """Appends a line to a small text file and flushes it to the disk.

  A power cut may leave an incomplete last line, which `read_lines` leaves out.
  Rewrite a file with an incomplete line before you append to it.
  """
  if is_remote(path):
    write_atomically(path, read_text(path) + line + "\n")
    return
  with open(path, "ab") as file:
    file.write((line + "\n").encode("utf-8"))
    file.flush()
    os.fsync(file.fileno())


def copy_atomically(source: str, path: str) -> None:
  """Copies a file to a name that never holds a half-written copy."""
  with open_file(source) as file, partial_file(path) as partial:
    shutil.copyfileobj(file, partial.file, _BLOCK_BYTES)
    partial.commit()


@contextlib.contextmanager
def replaced_folder(folder: str, last: str) -> Iterator[str]:
  """Replaces a folder when its new content is complete.

  Remote storage cannot rename folders: the files appear one by one, `last`
  after all others.

  Args:
    folder: the folder to make or replace.
    last: name of the file that only a complete folder has.

  Yields:
    The path of an empty hidden folder beside `folder`, for the new content.
  """
  if is_remote(folder):
    partial = partial_path(folder)
    remote.remove_folder(partial)
    remote.make_folder(partial)
    yield partial
    _replace_one_by_one(folder, partial, last)
    return
  partial, replaced = partial_path(folder), partial_path(folder + ".replaced")
  for leftover in (partial, replaced):
    shutil.rmtree(leftover, ignore_errors=True)
  os.makedirs(partial)
  yield partial
  for parent, _, names in os.walk(partial):
    for name in names:
      sync(os.path.join(parent, name))
  # No system call replaces a folder that is not empty.
  if os.path.exists(folder):
    os.replace(folder, replaced)
  os.replace(partial, folder)
  _sync_folder(folder)
  shutil.rmtree(replaced, ignore_errors=True)


def _replace_one_by_one(folder: str, partial: str, last: str) -> None:
  """Moves the files of a remote folder to another remote folder."""
  remote.make_folder(folder)
  # The file `last` is removed first and added last.
  for name in sorted(remote.list_names(folder), key=lambda name: name != last):
    remote.remove(os.path.join(folder, name))
  for name in sorted(remote.list_names(partial), key=lambda name: name == last):
    remote.rename(os.path.join(partial, name), os.path.join(folder, name))
  remote.remove_folder(partial)


def partial_path(path: str) -> str:
  """Returns the hidden name of the unfinished file or folder `path`."""
  folder, name = os.path.split(path)
  return os.path.join(folder, ".{}.partial".format(name))


def remove_partial(path: str) -> None:
  """Removes the hidden file that an earlier writer of `path` has left.

  Where there are locks, a hidden file that another process writes stays.
  """
  if is_remote(path):
    remote.remove(partial_path(path))
  elif os.path.lexists(partial_path(path)):
    with contextlib.suppress(InputError), PartialFile(path):
      pass


def remove(path: str) -> None:
  """Removes a file if it exists."""
  if is_remote(path):
    remote.remove(path)
    return
  with contextlib.suppress(FileNotFoundError):
    os.remove(path)


def sync(path: str) -> None:
  """Flushes a file's content to the disk."""
  with open(path, "rb") as file:
    os.fsync(file.fileno())


def _sync_folder(path: str) -> None:
  """Flushes the name of a file or folder to the disk."""
  descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


# --- Locking -----------------------------------------------------------------


def warn_of_missing_locks(path: str) -> None:
  """Warns if a path is remote, where no lock excludes a second writer."""
  if is_remote(path):
    logging.warning("%s: remote storage has no locks; make sure that no second "
                    "process writes to this path.", path)


@contextlib.contextmanager
def locked_folder(folder: str) -> Iterator[None]:
  """Makes the folder that --output_dir names, and holds a lock on it.

  Raises:
    InputError: if another process holds the lock, or the folder cannot be made.
  """
  if is_remote(folder):
    warn_of_missing_locks(folder)
    yield
    return
  make_output_folder(folder, "output_dir")
  path = os.path.join(folder, _LOCK_FILE)
  with locks.LockedFile(path, folder):
    try:
      yield
    finally:
      remove(path)  # Under the lock, so no other process holds the folder.

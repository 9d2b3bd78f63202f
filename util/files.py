"""Files: finding, locking, atomic writing, fingerprints.

A final name never holds a half-written file. What is written goes to a hidden
file beside it, which its writer locks and renames at the end. Paths with a
scheme, such as gs://, are files in remote storage, which has no locks.
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
_YOUNG_NANOSECONDS = 2 * 10**9
_MANIFEST_SUFFIX = ".json"
_LOCK_FILE = ".lock"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


# --- Finding -----------------------------------------------------------------


def natural_key(path: str) -> Tuple[Any, ...]:
  """Returns a sort key that puts `wiki_2` before `wiki_10`.

  Files of one folder stay together, whatever the folder's name begins with.
  """
  names = [re.split(r"([0-9]+)", name) for name in path.split(os.sep)]
  return [[int(part) if i % 2 else part for i, part in enumerate(parts)]
          for parts in names], path


def find_files(patterns: str, flag: str) -> List[str]:
  """Lists the regular files that a flag's value names.

  Hidden files and manifests are left out of what a pattern matches.

  Args:
    patterns: paths and globs, separated by commas.
    flag: name of the flag, for errors.

  Returns:
    Paths, the matches of each pattern in natural order.

  Raises:
    InputError: a path does not exist or is a folder; a pattern matches
      nothing; a file is named twice.
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
    raise InputError("--{} names {} twice".format(
        flag, collections.Counter(paths).most_common(1)[0][0]))
  return paths


def list_files(folder: str, flag: str, advice: str,
               recursive: bool = False) -> List[str]:
  """Lists the regular files in a folder, hidden ones left out.

  Args:
    folder: the folder.
    flag: name of the flag that named it, for errors.
    advice: what to give instead, for errors.
    recursive: whether to list the files of subfolders too.

  Returns:
    Paths in natural order.

  Raises:
    InputError: there is no such folder, or no file in it.
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
    InputError: there is no such file, or it is a folder, a pipe or a device.
  """
  problem = None
  if is_folder(path):
    problem = "{} is a folder; give a file"
  elif not exists(path):
    problem = "there is no file {}; check the path"
  elif not _is_regular(path):
    problem = ("{} is a pipe or a device, not a regular file; write what it "
               "gives to a file first")
  if problem:
    raise InputError("--{}: {}".format(flag, problem.format(path)))


def _glob(pattern: str) -> List[str]:
  # A name that has the characters of a pattern is taken as it is.
  if exists(pattern) or os.path.islink(pattern):
    return [pattern]
  return (remote if is_remote(pattern) else glob).glob(pattern)


def _is_regular(path: str) -> bool:
  """Returns whether a path that is there is that of a regular file."""
  return not remote.is_folder(path) if is_remote(path) else os.path.isfile(path)


# --- Reading -----------------------------------------------------------------


def exists(path: str) -> bool:
  """Returns whether there is a file or folder."""
  return (remote if is_remote(path) else os.path).exists(path)


def is_folder(path: str) -> bool:
  """Returns whether there is a folder."""
  return remote.is_folder(path) if is_remote(path) else os.path.isdir(path)


def size(path: str) -> int:
  """Returns the bytes of a file."""
  return remote.size(path) if is_remote(path) else os.path.getsize(path)


def list_names(folder: str) -> List[str]:
  """Lists the names of all files and folders in a folder."""
  return remote.list_names(folder) if is_remote(folder) else os.listdir(folder)


def is_same(path: str, other: str) -> bool:
  """Returns whether two paths name one file, which need not be there."""
  if is_remote(path) or is_remote(other):
    return path == other
  return os.path.realpath(path) == os.path.realpath(other)


def read_text(path: str) -> str:
  """Reads a small text file, UTF-8."""
  with open_file(path) as file:
    return file.read().decode("utf-8")


def read_lines(path: str) -> List[bytes]:
  """Reads the lines of a small text file, except a last one without an end.

  A first line counts in any case: files begin with it atomically.
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
  """Returns how to convert text that is not UTF-8, by its first bytes.

  Text in UTF-16 begins with a mark, or has a NUL beside each ASCII character.
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
    unbuffered: whether a local file is read in just the pieces that are asked
      for, and not ahead.

  Raises:
    FileNotFoundError: there is no such file.
  """
  if is_remote(path):
    return remote.open_file(path, "rb")
  return open(path, "rb", buffering=0 if unbuffered else -1)


def fingerprint(path: str) -> str:
  """Returns the SHA-256 of a file's bytes, in hexadecimal."""
  def compute():
    digest = hashlib.sha256()
    with open_file(path) as file:
      for block in iter(lambda: file.read(_BLOCK_BYTES), b""):
        digest.update(block)
    return digest.hexdigest()

  return once("fingerprint", [path], compute)


# --- What is known of files --------------------------------------------------


class Stamp(NamedTuple):
  """What changes with a file; all zero where there is no file.

  Attributes:
    size: bytes of the file.
    modified: time of the last change of its bytes, in nanoseconds.
    changed: likewise, of its name or its rights too.
    inode: its number in the file system.
  """
  size: int = 0
  modified: int = 0
  changed: int = 0
  inode: int = 0


Known = Dict[Tuple[str, ...], Tuple[List[Stamp], Any]]
_known: Known = {}


def stamp(path: str) -> Optional[Stamp]:
  """Returns a file's stamp.

  Returns:
    None where it may stay the same when the file changes: in remote storage,
    and for two seconds after a change, as clocks of file systems are coarse.
  """
  if is_remote(path):
    return None
  try:
    found = os.stat(path)
  except (FileNotFoundError, NotADirectoryError):
    return Stamp()
  if time.time_ns() - found.st_mtime_ns < _YOUNG_NANOSECONDS:
    return None
  return Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns,
               found.st_ino)


def once(kind: str, paths: Sequence[str], read: Callable[[], T]) -> T:
  """Returns what is read from files, and reads it again only if they change.

  Args:
    kind: what is read.
    paths: the files.
    read: reads it; not kept where it raises an error.
  """
  stamps = [stamp(path) for path in paths]
  key = (kind, *paths)
  if key in _known and _known[key][0] == stamps:
    return _known[key][1]
  value = read()
  if None not in stamps:
    _known[key] = [each for each in stamps if each is not None], value
  return value


def known() -> Known:
  """Returns what `once` has read, for another process to `learn`."""
  return dict(_known)


def learn(other: Known) -> None:
  """Takes over what another process has read.

  It counts for files with the same stamps only: where hosts have copies of
  their own, those are read.
  """
  _known.update(other)


# --- Writing -----------------------------------------------------------------


class PartialFile:
  """A file that appears under its name only when it is complete.

  It is written as the hidden file that `partial_path` names, under a lock
  that ends with its process, however that ends. `commit` gives it its name;
  without it, leaving a `with` block removes the hidden file, unless `keep` is
  set.

  Attributes:
    file: the hidden file, open for binary reading and writing.
    keep: whether the hidden file outlives this object, for a later run.
  """

  def __init__(self, path: str, resume: bool = False, wait: bool = False):
    """Opens and locks the hidden file.

    Args:
      path: the final name.
      wait: whether to wait for a process that is writing the file.
      resume: whether to keep what an earlier run has left in the hidden file,
        and to continue at its end; `truncate` says how much of it is of use.

    Raises:
      InputError: another process is writing the file, unless `wait`.
      OSError: the hidden file cannot be opened.
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
    """Cuts the hidden file to its first bytes, and continues there."""
    self.file.truncate(num_bytes)
    self.file.seek(num_bytes)

  def sync(self) -> None:
    """Makes what is written so far survive a power cut.

    Raises:
      InputError: another process has taken over meanwhile.
    """
    self.file.flush()
    os.fsync(self.file.fileno())
    self._locked.check()

  def commit(self) -> None:
    """Makes the file durable and gives it its name; raises what `sync` does."""
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
      remove(self._partial)  # Under the lock, so that it is ours.
    with contextlib.suppress(OSError):  # What a full disk has left in memory.
      self._locked.close()

  def __enter__(self) -> "PartialFile":
    return self

  def __exit__(self, unused_type: Any, exception: Optional[BaseException],
               unused_traceback: Any) -> None:
    try:
      self.close()
    except OSError as error:
      raise OSError(error.errno, error.strerror, self._path) from error
    # Nor does a full disk say which file it had no space for.
    if (isinstance(exception, OSError) and exception.errno in _NO_SPACE
        and exception.filename is None):
      raise OSError(
          exception.errno, exception.strerror, self._path) from exception


class RemoteFile:
  """What `PartialFile` is, in remote storage.

  There is no lock there, and nothing to resume from: what is half written is
  of no use. Where a rename copies, another process may see the name before all
  of the file; what is written after it says that it is complete.

  Attributes:
    file: the hidden file, open for binary writing.
    keep: whether the hidden file outlives this object, for `commit_kept`.
  """

  def __init__(self, path: str):
    """Opens the hidden file, a new one."""
    self._path = path
    self._partial = partial_path(path)
    self.keep = False
    self.file = remote.open_file(self._partial, "wb")

  def truncate(self, num_bytes: int) -> None:
    """Checks that nothing is to be kept."""
    assert num_bytes == 0, num_bytes

  def sync(self) -> None:
    """Does nothing: some storage sends all of a file each time."""

  def commit(self) -> None:
    """Gives the file its name."""
    self.file.close()
    remote.rename(self._partial, self._path)
    self.keep = True  # It is no longer hidden.

  def close(self) -> None:
    """Closes the hidden file, and removes it unless `keep` is set."""
    if self.keep:
      self.file.close()
      return
    with contextlib.suppress(OSError):  # What could not be written.
      self.file.close()
    remove(self._partial)

  def __enter__(self) -> "RemoteFile":
    return self

  def __exit__(self, *unused_exception: Any) -> None:
    self.close()


HiddenFile = Union[PartialFile, RemoteFile]


def partial_file(path: str, resume: bool = False, wait: bool = False
                ) -> HiddenFile:
  """Opens a file that appears when it is complete, wherever its path leads.

  Args:
    path: the final name.
    resume: as for `PartialFile`; of no effect in remote storage.
    wait: likewise.
  """
  if is_remote(path):
    return RemoteFile(path)
  return PartialFile(path, resume, wait)


def commit_kept(path: str) -> None:
  """Gives a file its name that was written to its end and kept hidden."""
  if is_remote(path):
    remote.rename(partial_path(path), path)
    return
  with PartialFile(path, resume=True) as partial:
    partial.commit()


def make_folder(folder: str) -> None:
  """Makes a folder that may be there, and those above it."""
  if is_remote(folder):
    remote.make_folder(folder)
  else:
    os.makedirs(folder or ".", exist_ok=True)


def make_output_folder(folder: str, flag: str) -> None:
  """Makes the folder that a flag names, as `make_folder` does.

  Raises:
    InputError: it cannot be made.
  """
  try:
    make_folder(folder)
  except OSError as error:
    raise InputError("--{}: {}".format(
        flag, command_line.message(error))) from None


def write_atomically(path: str, text: str) -> None:
  """Writes a small text file, UTF-8, that is never half there."""
  with partial_file(path) as partial:
    partial.file.write(text.encode("utf-8"))
    partial.commit()


def append_line(path: str, line: str) -> None:
  """Adds a line to a small text file, which survives a power cut.

  A power cut while it is added may leave a last line without an end, which
  `read_lines` leaves out; begin the file anew before more is added to that.
  """
  if is_remote(path):
    write_atomically(path, read_text(path) + line + "\n")
    return
  with open(path, "ab") as file:
    file.write((line + "\n").encode("utf-8"))
    file.flush()
    os.fsync(file.fileno())


def copy_atomically(source: str, path: str) -> None:
  """Copies a file to a name that never holds half of it."""
  with open_file(source) as file, partial_file(path) as partial:
    shutil.copyfileobj(file, partial.file, _BLOCK_BYTES)
    partial.commit()


@contextlib.contextmanager
def replaced_folder(folder: str, last: str) -> Iterator[str]:
  """Gives a folder new contents, which appear under its name when complete.

  In remote storage, where folders have no names of their own, they appear one
  by one: the file that is named last says that all are there.

  Args:
    folder: the folder to make or to replace.
    last: name of a file in it, which only a complete folder has.

  Yields:
    The path of an empty hidden folder beside it, to be filled.
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
  """Moves the files of one remote folder to another one."""
  remote.make_folder(folder)
  # It goes first and comes last.
  for name in sorted(remote.list_names(folder), key=lambda name: name != last):
    remote.remove(os.path.join(folder, name))
  for name in sorted(remote.list_names(partial), key=lambda name: name == last):
    remote.rename(os.path.join(partial, name), os.path.join(folder, name))
  remote.remove_folder(partial)


def partial_path(path: str) -> str:
  """Returns the hidden name beside `path` that unfinished output has."""
  folder, name = os.path.split(path)
  return os.path.join(folder, ".{}.partial".format(name))


def remove_partial(path: str) -> None:
  """Removes the hidden file that a writer of `path` has left.

  One that another process is writing stays, where there are locks.
  """
  if is_remote(path):
    remote.remove(partial_path(path))
  elif os.path.lexists(partial_path(path)):
    with contextlib.suppress(InputError), PartialFile(path):
      pass


def remove(path: str) -> None:
  """Removes a file that may not be there."""
  if is_remote(path):
    remote.remove(path)
    return
  with contextlib.suppress(FileNotFoundError):
    os.remove(path)


def sync(path: str) -> None:
  """Makes a file's bytes survive a power cut."""
  with open(path, "rb") as file:
    os.fsync(file.fileno())


def _sync_folder(path: str) -> None:
  """Makes the name of a file or folder survive a power cut."""
  descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


# --- Locking -----------------------------------------------------------------


def warn_of_missing_locks(path: str) -> None:
  """Warns where nothing keeps a second process from writing a file or folder.
  """
  if is_remote(path):
    logging.warning("%s: remote storage has no locks: take care that no second "
                    "process writes there.", path)


@contextlib.contextmanager
def locked_folder(folder: str) -> Iterator[None]:
  """Holds a lock on the folder that --output_dir names, and makes it.

  Raises:
    InputError: another process holds it, or it cannot be made.
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
      remove(path)  # Under the lock, so that it is ours.

"""Locks that let one process at a time write a file, on one host or several.

Where the file system has locks that hold across hosts, the lock is all. Where
it has none, or each host has its own, the writer also keeps a note beside the
file and renews the note every minute. A process of another host is refused
while the note is younger than five minutes; a process of the same host, while
the writer of the note lives.
"""

import contextlib
import errno
import fcntl
import functools
import json
import os
import socket
import struct
import tempfile
import threading
import time
from typing import Any, BinaryIO, Dict, NamedTuple, Optional

from absl import logging

from util.command_line import InputError

# Lustre without flock answers ENOSYS, NFS without a lock service ENOLCK.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
# Mount options of NFS and Lustre with which each host has locks of its own.
_LOCAL_LOCKS = {"nolock", "localflock", "local_lock=all", "local_lock=posix"}
_MOUNTS = "/proc/self/mountinfo"
# What Linux fills in for F_GETLK: type, whence, start, length, process.
_FLOCK = struct.Struct("hhqqi")
_RENEWAL_SECONDS = 60.0
_STALE_SECONDS = 300.0
# Seconds between two looks at a note that is waited for.
_WAIT_SECONDS = 0.5


class LockedFile:
  """A file that no other process writes until it is closed.

  Attributes:
    file: the file, open for binary reading and writing.
  """

  def __init__(self, path: str, output: str, wait: bool = False):
    """Opens and locks a file.

    Args:
      path: the file; made if it is missing. A symbolic link is not followed.
      output: what the lock protects, for errors.
      wait: whether to wait for a process that writes the file.

    Raises:
      InputError: another process writes the file, unless `wait`, or the file
        is a link.
      OSError: the file cannot be opened or locked.
    """
    self._note: Optional[_Note] = None
    while True:
      self.file = _open(path)
      try:
        if not _lock(self.file.fileno(), path, output, wait):
          self._note = _Note(path + ".note", output, wait)
        # Its last writer may have renamed or removed it since it was opened.
        with contextlib.suppress(FileNotFoundError):
          if os.path.samestat(os.fstat(self.file.fileno()), os.lstat(path)):
            return
      except BaseException:
        self.close()
        raise
      self.close()

  def check(self) -> None:
    """Checks that no other process has taken over.

    Raises:
      InputError: one has, while this process was stopped for minutes.
    """
    if self._note:
      self._note.check()

  def close(self) -> None:
    """Closes the file, which ends the lock."""
    try:
      self.file.close()
    finally:
      if self._note:
        self._note.close()
        self._note = None

  def __enter__(self) -> "LockedFile":
    return self

  def __exit__(self, *unused_exception: Any) -> None:
    self.close()


def _open(path: str) -> BinaryIO:
  """Opens a file for reading and writing; makes it if it is missing."""
  try:
    return os.fdopen(os.open(
        path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666),
                     "r+b")
  except OSError as error:
    if error.errno != errno.ELOOP:
      raise
    raise InputError("{} is a symbolic link, which is not followed; remove "
                     "it".format(path)) from None


def _lock(descriptor: int, path: str, output: str, wait: bool) -> bool:
  """Locks a file; returns whether the lock keeps other hosts away too."""
  try:
    fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
  except (BlockingIOError, PermissionError):
    raise _refusal(output, _lock_holder(descriptor)) from None
  except OSError as error:
    if error.errno not in _NO_LOCKS:
      raise OSError(error.errno, error.strerror, path) from None
    _tell_of_notes(os.path.dirname(path) or ".")
    return False
  return not _has_local_locks(os.fstat(descriptor).st_dev)


def _refusal(output: str, holder: str) -> InputError:
  return InputError(
      "{} is being written by another process{}: wait until it has finished, "
      "or choose another name".format(output, holder))


def _lock_holder(descriptor: int) -> str:
  """Returns " (process N)" where the system tells who holds a lock."""
  try:
    found = fcntl.fcntl(descriptor, fcntl.F_GETLK, _FLOCK.pack(
        fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    process_id = _FLOCK.unpack(found)[-1]
  except (OSError, struct.error):
    return ""
  # Holders on other hosts have none.
  return " (process {})".format(process_id) if process_id > 0 else ""


@functools.lru_cache(maxsize=None)
def _tell_of_notes(folder: str) -> None:
  """Warns once of a folder whose file system has no locks."""
  logging.warning(
      "The file system of %s has no locks: hidden notes, renewed every minute, "
      "keep a second process from writing the same file there.", folder)


@functools.lru_cache(maxsize=None)
def _has_local_locks(device: int, mounts: str = _MOUNTS) -> bool:
  """Returns whether a file system is mounted with locks of each host.

  Args:
    device: number of the file system, as `os.stat` gives it.
    mounts: the file in which Linux lists the mounts.
  """
  number = "{}:{}".format(os.major(device), os.minor(device))
  try:
    with open(mounts, encoding="utf-8", errors="replace") as file:
      for line in file:
        fields = line.split()
        if fields[2] == number:
          # Options of the mount, and those of the file system.
          options = ",".join([fields[5], fields[-1]])
          return bool(_LOCAL_LOCKS & set(options.split(",")))
  except (OSError, IndexError):
    pass
  return False


# --- Notes -------------------------------------------------------------------


class _Found(NamedTuple):
  """A note as it was found.

  Attributes:
    content: what it says.
    time: when it was renewed, by the clock of the file system.
  """
  content: str
  time: float

  @property
  def writer(self) -> Dict[str, Any]:
    """What the note says of its writer; empty for a note that is cut."""
    with contextlib.suppress(ValueError, RecursionError):
      writer = json.loads(self.content)
      if isinstance(writer, dict):
        return writer
    return {}


class _Note:
  """A note of the process that writes a file, renewed while it does."""

  def __init__(self, path: str, output: str, wait: bool):
    """Writes the note; arguments and errors as for `LockedFile`."""
    self._path = path
    self._output = output
    self._content = json.dumps(_this_process())
    while not self._is_written():
      found = _read(path)
      if found is None:
        continue
      holder = _living_writer(found, os.path.dirname(path))
      if holder is None:
        _remove_stale(path, found)
      elif not wait:
        raise _refusal(output, holder)
      else:
        time.sleep(_WAIT_SECONDS)
    self._ended = threading.Event()
    threading.Thread(target=self._renew, daemon=True).start()

  def _is_written(self) -> bool:
    """Writes the note unless there is one; returns whether it did."""
    try:
      with open(self._path, "x", encoding="utf-8") as file:
        file.write(self._content)
        return True
    except FileExistsError:
      return False

  def _is_own(self) -> bool:
    found = _read(self._path)
    return found is not None and found.content == self._content

  def _renew(self) -> None:
    while not self._ended.wait(_RENEWAL_SECONDS):
      with contextlib.suppress(OSError):
        if self._is_own():
          os.utime(self._path)

  def check(self) -> None:
    """Checks that the note is still this process's; as `LockedFile.check`."""
    if not self._is_own():
      raise InputError(
          "{}: another process has taken over, as this one was stopped for "
          "more than {:.0f} minutes; run the same command again when the other "
          "one has finished".format(self._output, _STALE_SECONDS / 60))

  def close(self) -> None:
    """Removes the note."""
    self._ended.set()
    with contextlib.suppress(OSError):
      if self._is_own():
        os.remove(self._path)


def _this_process() -> Dict[str, Any]:
  """Describes this process as notes do."""
  return {"host": socket.gethostname(), "boot": _boot(), "process": os.getpid(),
          "start": _start(os.getpid())}


def _boot() -> str:
  """Returns what is the same where process ids mean the same; "" if unknown."""
  try:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
      return "{} {}".format(
          file.read().strip(), os.readlink("/proc/self/ns/pid"))
  except OSError:
    return ""


def _start(process_id: int) -> str:
  """Returns when a process of this host began, "" for one that has ended."""
  try:
    with open("/proc/{}/stat".format(process_id), encoding="ascii",
              errors="replace") as file:
      fields = file.read().rpartition(")")[2].split()
      return "" if fields[0] in "ZX" else fields[19]
  except (OSError, IndexError):
    return ""


def _read(path: str) -> Optional[_Found]:
  """Reads a note; None where there is none."""
  try:
    with open(path, encoding="utf-8", errors="replace") as file:
      return _Found(file.read(), os.fstat(file.fileno()).st_mtime)
  except FileNotFoundError:
    return None


def _living_writer(found: _Found, folder: str) -> Optional[str]:
  """Returns " (process N on HOST)" of a note; None where its writer is gone.

  Args:
    found: the note.
    folder: of the note.
  """
  writer = found.writer
  name = "process {} on {}".format(
      writer.get("process", "?"), writer.get("host", "another host"))
  if writer.get("boot") and writer["boot"] == _boot():
    is_there = _start(writer.get("process", 0)) == writer.get("start")
    return " ({})".format(name) if is_there else None
  # By the clock of the file system, as those of two hosts may differ.
  with tempfile.NamedTemporaryFile(dir=folder or ".", prefix=".") as file:
    age = os.fstat(file.fileno()).st_mtime - found.time
  if age > _STALE_SECONDS:
    return None
  return (" ({}, which renewed its note {:.0f} seconds ago; after {:.0f} "
          "minutes without renewal the note has no effect)".format(
              name, max(0, age), _STALE_SECONDS / 60))


def _remove_stale(path: str, found: _Found) -> None:
  """Removes a note whose writer is gone, unless another process just did."""
  moved = "{}.{}.{}".format(path, socket.gethostname(), os.getpid())
  try:
    os.rename(path, moved)
  except FileNotFoundError:
    return
  if _read(moved) != found:
    # Another process has taken over in between: its note goes back.
    with contextlib.suppress(FileExistsError):
      os.link(moved, path)
  os.remove(moved)

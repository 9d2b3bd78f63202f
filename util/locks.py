"""Locks files against a second writer, on one host or several hosts.

If the locks of the file system hold across hosts, a lock suffices. If the file
system has no locks, or separate locks for each host, the writer also keeps a
note beside the file and renews the note every minute. The note excludes a
process of the same host while the note's writer runs, and a process of another
host until the note is five minutes old.
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
# Mount options of NFS and Lustre with which each host has separate locks.
_LOCAL_LOCKS = {"nolock", "localflock", "local_lock=all", "local_lock=posix"}
_MOUNTS = "/proc/self/mountinfo"
# struct flock of Linux, for F_GETLK: type, whence, start, length, process.
_FLOCK = struct.Struct("hhqqi")
_RENEWAL_SECONDS = 60.0
_STALE_SECONDS = 300.0
# Interval at which a waiting process reads the other writer's note.
_WAIT_SECONDS = 0.5


class LockedFile:
  """A file that no other process writes until this object is closed.

  Attributes:
    file: the file, open for binary reading and writing.
  """

  def __init__(self, path: str, output: str, wait: bool = False):
    """Opens and locks a file.

    Args:
      path: the file, which is made if it is missing. A symbolic link is not
        followed.
      output: the protected file or folder, for errors.
      wait: whether to wait until no other process writes the file.

    Raises:
      InputError: if another process writes the file and `wait` is False, or if
        the file is a symbolic link.
      OSError: if the file cannot be opened or locked.
    """
    self._note: Optional[_Note] = None
    while True:
      self.file = _open(path)
      try:
        if not _lock(self.file.fileno(), path, output, wait):
          self._note = _Note(path + ".note", output, wait)
        # The previous writer may have renamed or removed the file meanwhile.
        with contextlib.suppress(FileNotFoundError):
          if os.path.samestat(os.fstat(self.file.fileno()), os.lstat(path)):
            return
      except BaseException:
        self.close()
        raise
      self.close()

  def check(self) -> None:
    """Checks that no other process has taken over the lock.

    Raises:
      InputError: if this process was stopped for more than `_STALE_SECONDS`
        and another process has taken over.
    """
    if self._note:
      self._note.check()

  def close(self) -> None:
    """Closes the file and ends the lock."""
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
  """Opens a file for reading and writing, and makes a missing file."""
  try:
    return os.fdopen(os.open(
        path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666),
                     "r+b")
  except OSError as error:
    if error.errno != errno.ELOOP:
      raise
    raise InputError("{} is a symbolic link, which is not followed; remove "
                     "the link".format(path)) from None


def _lock(descriptor: int, path: str, output: str, wait: bool) -> bool:
  """Locks a file and returns whether the lock holds across hosts."""
  try:
    fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
  except (BlockingIOError, PermissionError):
    raise _refusal(output, _lock_holder(descriptor)) from None
  except OSError as error:
    if error.errno not in _NO_LOCKS:
      raise OSError(error.errno, error.strerror, path) from None
    _warn_of_notes(os.path.dirname(path) or ".")
    return False
  return not _has_local_locks(os.fstat(descriptor).st_dev)


def _refusal(output: str, holder: str) -> InputError:
  return InputError(
      "{} is being written by another process{}: wait until that process has "
      "finished, or choose another name".format(output, holder))


def _lock_holder(descriptor: int) -> str:
  """Returns " (process N)" for the holder of a lock; "" if unknown."""
  try:
    found = fcntl.fcntl(descriptor, fcntl.F_GETLK, _FLOCK.pack(
        fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    process_id = _FLOCK.unpack(found)[-1]
  except (OSError, struct.error):
    return ""
  # A holder on another host has no process id here.
  return " (process {})".format(process_id) if process_id > 0 else ""


@functools.lru_cache(maxsize=None)
def _warn_of_notes(folder: str) -> None:
  """Warns once about each folder whose file system has no locks."""
  logging.warning(
      "The file system of %s has no locks. Hidden notes, renewed every minute, "
      "keep a second process from writing the same file.", folder)


@functools.lru_cache(maxsize=None)
def _has_local_locks(device: int, mounts: str = _MOUNTS) -> bool:
  """Returns whether a file system is mounted with separate locks per host.

  Args:
    device: number of the file system, the st_dev of `os.stat`.
    mounts: path of the file in which Linux lists the mounts.
  """
  number = "{}:{}".format(os.major(device), os.minor(device))
  try:
    with open(mounts, encoding="utf-8", errors="replace") as file:
      for line in file:
        fields = line.split()
        if fields[2] == number:
          # Options of the mount and of the file system.
          options = ",".join([fields[5], fields[-1]])
          return bool(_LOCAL_LOCKS & set(options.split(",")))
  except (OSError, IndexError):
    pass
  return False


# --- Notes -------------------------------------------------------------------


class _StoredNote(NamedTuple):
  """A note that was read from its file.

  Attributes:
    content: text of the note.
    time: time of the last renewal in seconds, by the file system's clock.
  """
  content: str
  time: float

  @property
  def writer(self) -> Dict[str, Any]:
    """The fields of `_this_process`; empty if the note is incomplete."""
    with contextlib.suppress(ValueError, RecursionError):
      writer = json.loads(self.content)
      if isinstance(writer, dict):
        return writer
    return {}


class _Note:
  """The note of this process beside a file, renewed until `close`."""

  def __init__(self, path: str, output: str, wait: bool):
    """Writes the note. Arguments and errors are those of `LockedFile`."""
    self._path = path
    self._output = output
    self._content = json.dumps(_this_process())
    while not self._is_written():
      note = _read(path)
      if note is None:
        continue
      holder = _living_writer(note, os.path.dirname(path))
      if holder is None:
        _remove_stale(path, note)
      elif not wait:
        raise _refusal(output, holder)
      else:
        time.sleep(_WAIT_SECONDS)
    self._ended = threading.Event()
    threading.Thread(target=self._renew, daemon=True).start()

  def _is_written(self) -> bool:
    """Writes the note unless one exists, and returns whether it was written."""
    try:
      with open(self._path, "x", encoding="utf-8") as file:
        file.write(self._content)
        return True
    except FileExistsError:
      return False

  def _is_own(self) -> bool:
    note = _read(self._path)
    return note is not None and note.content == self._content

  def _renew(self) -> None:
    while not self._ended.wait(_RENEWAL_SECONDS):
      with contextlib.suppress(OSError):
        if self._is_own():
          os.utime(self._path)

  def check(self) -> None:
    """Checks that this process wrote the note; errors as `LockedFile.check`."""
    if not self._is_own():
      raise InputError(
          "{}: another process has taken over, because this process was "
          "stopped for more than {:.0f} minutes; run the same command again "
          "when the other process has finished".format(
              self._output, _STALE_SECONDS / 60))

  def close(self) -> None:
    """Removes the note."""
    self._ended.set()
    with contextlib.suppress(OSError):
      if self._is_own():
        os.remove(self._path)


def _this_process() -> Dict[str, Any]:
  """Returns the content of this process's notes."""
  return {"host": socket.gethostname(), "boot": _boot_id(),
          "process": os.getpid(), "start": _start_time(os.getpid())}


def _boot_id() -> str:
  """Identifies the boot and the namespace of process ids; "" if unknown."""
  try:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
      return "{} {}".format(
          file.read().strip(), os.readlink("/proc/self/ns/pid"))
  except OSError:
    return ""


def _start_time(process_id: int) -> str:
  """Returns the start time of a process; "" if the process has ended."""
  try:
    with open("/proc/{}/stat".format(process_id), encoding="ascii",
              errors="replace") as file:
      fields = file.read().rpartition(")")[2].split()
      return "" if fields[0] in "ZX" else fields[19]
  except (OSError, IndexError):
    return ""


def _read(path: str) -> Optional[_StoredNote]:
  """Reads a note; returns None if the file does not exist."""
  try:
    with open(path, encoding="utf-8", errors="replace") as file:
      return _StoredNote(file.read(), os.fstat(file.fileno()).st_mtime)
  except FileNotFoundError:
    return None


def _living_writer(note: _StoredNote, folder: str) -> Optional[str]:
  """Returns " (process N on HOST)" for a note; None if its writer has ended.

  Args:
    note: the note.
    folder: folder of the note.
  """
  writer = note.writer
  name = "process {} on {}".format(
      writer.get("process", "?"), writer.get("host", "another host"))
  if writer.get("boot") and writer["boot"] == _boot_id():
    is_running = _start_time(writer.get("process", 0)) == writer.get("start")
    return " ({})".format(name) if is_running else None
  # Both times are from the clock of the file system: clocks of hosts differ.
  with tempfile.NamedTemporaryFile(dir=folder or ".", prefix=".") as file:
    age = os.fstat(file.fileno()).st_mtime - note.time
  if age > _STALE_SECONDS:
    return None
  return (" ({}, which renewed its note {:.0f} seconds ago; after {:.0f} "
          "minutes without renewal the note has no effect)".format(
              name, max(0, age), _STALE_SECONDS / 60))


def _remove_stale(path: str, note: _StoredNote) -> None:
  """Removes a stale note, unless another process has just replaced it."""
  moved = "{}.{}.{}".format(path, socket.gethostname(), os.getpid())
  try:
    os.rename(path, moved)
  except FileNotFoundError:
    return
  if _read(moved) != note:
    # Another process has taken over since `note` was read: restore its note.
    with contextlib.suppress(FileExistsError):
      os.link(moved, path)
  os.remove(moved)

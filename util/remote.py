"""Accesses files in remote storage, such as gs://, through tf.io.gfile.

TensorFlow is imported for the first path with a scheme, so stages that do not
need it start without it on local files. TensorFlow's errors become an OSError
that names the path, or an InputError.
"""

import contextlib
import errno
import io
import os
from typing import Any, BinaryIO, Iterator, List, Tuple

from util.command_line import InputError

_BUFFER_BYTES = 1 << 20


def is_remote(path: str) -> bool:
  """Returns whether a path has a scheme, such as gs://."""
  return "://" in path


def exists(path: str) -> bool:
  """Returns whether a file or folder exists."""
  with _file_system(path) as file_system:
    return file_system.exists(path)


def is_folder(path: str) -> bool:
  """Returns whether a path is an existing folder."""
  with _file_system(path) as file_system:
    # If the storage is unreachable, `exists` raises and `isdir` returns False.
    return file_system.exists(path) and file_system.isdir(path)


def size(path: str) -> int:
  """Returns the size of a file in bytes."""
  with _file_system(path) as file_system:
    return file_system.stat(path).length


def glob(pattern: str) -> List[str]:
  """Lists the files and folders that a pattern matches."""
  with _file_system(pattern) as file_system:
    return file_system.glob(pattern)


def list_names(folder: str) -> List[str]:
  """Lists the names of all files and folders in a folder."""
  with _file_system(folder) as file_system:
    return [name.rstrip("/") for name in file_system.listdir(folder)]


def walk(folder: str) -> Iterator[Tuple[str, List[str], List[str]]]:
  """Lists a folder and its subfolders, as `os.walk` does."""
  with _file_system(folder) as file_system:
    yield from file_system.walk(folder)


def make_folder(folder: str) -> None:
  """Makes a folder and its parents, unless they exist."""
  with _file_system(folder) as file_system:
    file_system.makedirs(folder)


def rename(path: str, new_path: str) -> None:
  """Renames a file and replaces an existing file of the new name."""
  with _file_system(path) as file_system:
    file_system.rename(path, new_path, overwrite=True)


def remove(path: str) -> None:
  """Removes a file if it exists."""
  with _file_system(path) as file_system:
    if file_system.exists(path):
      file_system.remove(path)


def remove_folder(folder: str) -> None:
  """Removes a folder and its content if the folder exists."""
  with _file_system(folder) as file_system:
    if file_system.exists(folder):
      file_system.rmtree(folder)


def open_file(path: str, mode: str) -> BinaryIO:
  """Opens a file.

  Args:
    path: the file.
    mode: "rb" or "wb". A file opened with "wb" cannot seek or tell.

  Raises:
    FileNotFoundError: if the file to read does not exist.
  """
  if mode == "wb":
    return io.BufferedWriter(_File(path, mode), _BUFFER_BYTES)
  if not exists(path):  # TensorFlow raises only at the first read.
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
  return io.BufferedReader(_File(path, mode), _BUFFER_BYTES)


class _File(io.RawIOBase):
  """Adapts tf.io.gfile.GFile to an unbuffered stream of Python's io."""

  def __init__(self, path: str, mode: str):
    super().__init__()
    self.name = path
    self._is_written = mode == "wb"
    with _file_system(path) as file_system:
      self._file = file_system.GFile(path, mode)
      if self._is_written:
        self._file.write(b"")  # Creates the file even if it stays empty.

  def readable(self) -> bool:
    return not self._is_written

  def seekable(self) -> bool:
    return not self._is_written

  def writable(self) -> bool:
    return self._is_written

  def readinto(self, buffer: Any) -> int:
    with _errors(self.name):
      block = self._file.read(len(buffer))
    buffer[:len(block)] = block
    return len(block)

  def write(self, block: Any) -> int:
    with _errors(self.name):
      self._file.write(bytes(block))
    return len(block)

  def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
    with _errors(self.name):
      self._file.seek(offset, whence)
    return self.tell()

  def tell(self) -> int:
    with _errors(self.name):
      return self._file.tell()

  def close(self) -> None:
    if self.closed:
      return
    super().close()
    with _errors(self.name):
      self._file.close()


@contextlib.contextmanager
def _file_system(path: str) -> Iterator[Any]:
  """Yields tf.io.gfile and converts TensorFlow's errors.

  Raises:
    InputError: if TensorFlow is missing or has no file system for the path.
    OSError: if an operation in the `with` block fails.
  """
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  try:
    import tensorflow as tf  # pylint: disable=import-outside-toplevel
  except ImportError as error:
    raise InputError("{}: paths with a scheme need TensorFlow ({}); run "
                     "./setup.sh, or copy the file to a local folder".format(
                         path, error)) from None
  scheme = path.partition("://")[0]
  schemes = sorted(filter(None, tf.io.gfile.get_registered_schemes()))
  if scheme not in schemes:
    raise InputError(
        "{}: TensorFlow has no file system for {}://, only for {}; copy the "
        "file to a local folder, or mount the storage as a folder".format(
            path, scheme, ", ".join(schemes)))
  with _errors(path):
    yield tf.io.gfile


@contextlib.contextmanager
def _errors(path: str) -> Iterator[None]:
  """Converts TensorFlow's errors into an OSError that names the path."""
  from tensorflow import errors  # pylint: disable=import-outside-toplevel
  try:
    yield
    return
  except errors.NotFoundError:
    number, problem = errno.ENOENT, os.strerror(errno.ENOENT)
  except (errors.PermissionDeniedError, errors.UnauthenticatedError) as error:
    number, problem = errno.EACCES, error.message
  except errors.OpError as error:
    number, problem = errno.EIO, error.message
  raise OSError(number, problem.partition("\n")[0], path)

"""The teacher's decoder, kept beside records that hold its hidden states.

This module reads and writes it without TensorFlow.

Dimensions:
  V: tokens in the vocabulary
  H: hidden_size of the teacher
"""

import hashlib
import io
import os
from typing import NamedTuple
import zipfile
import zlib

import numpy as np

from util import files
from util.command_line import InputError

FILE = "teacher_decoder.npz"
# What NumPy and zipfile raise for bytes that are no such file.
_DAMAGES = (EOFError, LookupError, MemoryError, OverflowError, RuntimeError,
            SyntaxError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)


class Decoder(NamedTuple):
  """What makes logits of the teacher's hidden states.

  Attributes:
    word_embeddings: float32 [V, H].
    output_bias: float32 [V].
  """
  word_embeddings: np.ndarray
  output_bias: np.ndarray

  @property
  def hidden_size(self) -> int:
    """H."""
    return self.word_embeddings.shape[1]

  @property
  def vocab_size(self) -> int:
    """V."""
    return self.word_embeddings.shape[0]

  def fingerprint(self) -> str:
    """Returns the SHA-256 of the values, in hexadecimal."""
    digest = hashlib.sha256()
    for values in self:
      digest.update(np.ascontiguousarray(values, "<f4").data)
    return digest.hexdigest()


def path_beside(record_file: str) -> str:
  """Returns the path of the decoder for a record file."""
  return os.path.join(os.path.dirname(record_file), FILE)


def store(decoder: Decoder, record_file: str) -> None:
  """Writes the decoder beside a record file, unless it is there.

  Files of one folder, labelled at the same time, share it. A damaged one is
  replaced; that of another teacher never is, as other records may need it.

  Args:
    decoder: of the teacher.
    record_file: a file with its hidden states.

  Raises:
    InputError: the folder holds that of another teacher, or cannot be made.
  """
  path = path_beside(record_file)
  if files.exists(path) and _is_stored(decoder, path):
    return
  files.make_output_folder(os.path.dirname(path), "output_file")
  with files.partial_file(path, wait=True) as partial:
    if not _is_stored(decoder, path):  # By a process that held the lock.
      content = io.BytesIO()  # Remote files cannot be written out of order.
      np.savez(content, **decoder._asdict())
      partial.file.write(content.getvalue())
      partial.commit()


def _is_stored(decoder: Decoder, path: str) -> bool:
  """Says whether a path holds the decoder; as for `store`."""
  try:
    found = read(path)
  except InputError:
    return False
  if found.fingerprint() != decoder.fingerprint():
    raise InputError(
        "{} is of another teacher, whose records need it: write to another "
        "folder, or remove it with these records".format(path))
  return True


def read(path: str) -> Decoder:
  """Reads a decoder.

  Raises:
    InputError: it is missing or damaged.
  """
  advice = ("copy it from where the records were made, or make them again with "
            "extract_teacher_labels_truncated.py")
  try:
    with files.open_file(path) as file:
      content = io.BytesIO(file.read())
    with np.load(content, allow_pickle=False) as arrays:
      decoder = Decoder(*(arrays[name] for name in Decoder._fields))
  except FileNotFoundError:
    raise InputError("there is no {}, which records with hidden states need: {}"
                     .format(path, advice)) from None
  except _DAMAGES as error:
    raise InputError("{} is damaged ({}); {}".format(
        path, error, advice)) from None
  embeddings, bias = decoder
  if (embeddings.dtype != np.float32 or bias.dtype != np.float32
      or embeddings.ndim != 2 or bias.shape != embeddings.shape[:1]):
    raise InputError("{} holds no decoder; {}".format(path, advice))
  return decoder

"""The teacher's decoder, stored beside records with hidden states.

Reads and writes the file without TensorFlow.

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
# Raised by NumPy and zipfile for damaged files.
_DAMAGE_ERRORS = (
    EOFError, LookupError, MemoryError, OverflowError, RuntimeError,
    SyntaxError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)


class Decoder(NamedTuple):
  """The linear layer from the teacher's hidden states to logits.

  Attributes:
    word_embeddings: float32 [V, H].
    output_bias: float32 [V].
  """
  word_embeddings: np.ndarray
  output_bias: np.ndarray

  @property
  def hidden_size(self) -> int:
    """The teacher's hidden size, H."""
    return self.word_embeddings.shape[1]

  @property
  def vocab_size(self) -> int:
    """The size of the vocabulary, V."""
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
  """Writes the decoder beside a record file, unless the folder holds it.

  All record files of a folder share the decoder. A damaged file is replaced,
  but not the decoder of another teacher, which other records may need.

  Args:
    decoder: the teacher's decoder.
    record_file: path of a file with the teacher's hidden states.

  Raises:
    InputError: if the folder holds the decoder of another teacher, or cannot be
      made.
  """
  path = path_beside(record_file)
  if files.exists(path) and _is_stored(decoder, path):
    return
  files.make_output_folder(os.path.dirname(path), "output_file")
  with files.partial_file(path, wait=True) as partial:
    # Another process may have written the file before this one had the lock.
    if not _is_stored(decoder, path):
      content = io.BytesIO()  # Remote files cannot seek.
      np.savez(content, **decoder._asdict())
      partial.file.write(content.getvalue())
      partial.commit()


def _is_stored(decoder: Decoder, path: str) -> bool:
  """Returns whether a file holds the decoder; raises as `store` does."""
  try:
    found = read(path)
  except InputError:
    return False
  if found.fingerprint() != decoder.fingerprint():
    raise InputError(
        "{} belongs to another teacher, whose records need it: write to "
        "another folder, or remove the file and those records".format(path))
  return True


def read(path: str) -> Decoder:
  """Reads a decoder.

  Raises:
    InputError: if the file is missing or damaged.
  """
  remedy = ("copy the file from the folder where the records were made, or "
            "label the records again with extract_teacher_labels_truncated.py")
  try:
    with files.open_file(path) as file:
      content = io.BytesIO(file.read())
    with np.load(content, allow_pickle=False) as arrays:
      decoder = Decoder(*(arrays[name] for name in Decoder._fields))
  except FileNotFoundError:
    raise InputError("{} is missing, but records with hidden states need it: {}"
                     .format(path, remedy)) from None
  except _DAMAGE_ERRORS as error:
    raise InputError("{} is damaged ({}); {}".format(
        path, error, remedy)) from None
  embeddings, bias = decoder
  if (embeddings.dtype != np.float32 or bias.dtype != np.float32
      or embeddings.ndim != 2 or bias.shape != embeddings.shape[:1]):
    raise InputError(
        "{} must hold word embeddings [V, H] and an output bias [V] in "
        "float32; {}".format(path, remedy))
  return decoder

"""Writes the text of articles to a file that is there whole or not at all."""

import fcntl
import os
from typing import List, Optional, TextIO


class ArticleWriter:
  """Writes articles, one sentence per line, a blank line between articles.

  The text goes to a hidden file beside the output and gets its name when all
  of it is on the disk. After an error the hidden file is removed; what a kill
  leaves of it is overwritten by the next run.

  Attributes:
    articles: number of articles written.
    sentences: number of sentences written.
    words: number of words written, as spaces part them.
  """

  def __init__(self, path: str, flag: str, overwrite: bool = False):
    """Checks that the output may be written, before any work is done.

    Args:
      path: the output file.
      flag: the flag that gives it, for errors.
      overwrite: whether a file of this name may be replaced.

    Raises:
      ValueError: the file exists, its folder does not, or another run is
        writing it.
    """
    self.articles = 0
    self.sentences = 0
    self.words = 0
    self._path = path
    folder, name = os.path.split(path)
    if os.path.isdir(path) or not name:
      raise ValueError("--{} {}: this is a folder; give the name of a "
                       "file".format(flag, path))
    if os.path.exists(path) and not overwrite:
      raise ValueError("--{} {}: the file exists already; remove it, give "
                       "another name or --overwrite".format(flag, path))
    if not os.path.isdir(folder or "."):
      raise ValueError("--{} {}: there is no folder {}; make it first".format(
          flag, path, folder))
    self._folder = folder or "."
    self._hidden_path = os.path.join(folder, ".{}.partial".format(name))
    self._file: Optional[TextIO] = open(
        self._hidden_path, "a", encoding="utf-8", newline="\n")
    try:
      # The lock ends with this process, however it ends.
      fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      self._file.close()
      raise ValueError("--{} {}: another run is writing this file; wait for "
                       "it, or give another name".format(flag, path))
    self._file.truncate(0)

  def __enter__(self) -> "ArticleWriter":
    return self

  def __exit__(self, exception_type, *unused_exception) -> None:
    if self._file is None:
      return
    os.unlink(self._hidden_path)
    self._file.close()
    self._file = None

  def write(self, lines: List[str]) -> None:
    """Writes an article.

    Args:
      lines: its sentences; at least one.
    """
    assert lines and all(lines), lines
    text = "\n".join(lines)
    self._file.write(("\n" if self.articles else "") + text + "\n")
    self.articles += 1
    self.sentences += len(lines)
    self.words += len(text.split())

  def finish(self) -> None:
    """Gives the output its name, once it is on the disk."""
    self._file.flush()
    os.fsync(self._file.fileno())
    os.replace(self._hidden_path, self._path)
    self._file.close()
    self._file = None
    # The name is on the disk when the folder is.
    folder = os.open(self._folder, os.O_RDONLY)
    try:
      os.fsync(folder)
    finally:
      os.close(folder)

  def summary(self) -> str:
    """Returns a line on what was written."""
    return "{}: {:,} articles, {:,} sentences, {:,} words".format(
        self._path, self.articles, self.sentences, self.words)

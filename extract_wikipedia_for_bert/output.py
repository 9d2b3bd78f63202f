"""Writes the text of articles to a file that appears when it is complete."""

import os
from typing import Any, List

from util import files
from util.command_line import InputError


class ArticleWriter:
  """Writes articles, one sentence per line, a blank line between articles.

  The text goes to a hidden file beside the output, which gets its name in
  `finish`. Leaving the `with` block without that removes the hidden file.

  Attributes:
    articles: number of articles written.
    sentences: number of sentences written.
    words: number of words written, separated by spaces.
  """

  def __init__(self, path: str, flag: str, overwrite: bool = False):
    """Checks that the output may be written, before any work is done.

    Args:
      path: the output file.
      flag: name of the flag that gives it, for errors.
      overwrite: whether an existing file may be replaced.

    Raises:
      InputError: the file exists, its folder does not, or another process is
        writing it.
    """
    self.articles = 0
    self.sentences = 0
    self.words = 0
    self._path = path
    folder, name = os.path.split(path)
    if not name or files.is_folder(path):
      raise InputError("--{} {}: this is a folder; give the name of a "
                       "file".format(flag, path))
    if files.exists(path) and not overwrite:
      raise InputError("--{} {}: the file exists already; remove it, give "
                       "another name or --overwrite".format(flag, path))
    if not files.is_remote(path) and not os.path.isdir(folder or "."):
      raise InputError("--{} {}: there is no folder {}; make it first".format(
          flag, path, folder))
    files.warn_of_missing_locks(path)
    self._partial = files.partial_file(path)

  def __enter__(self) -> "ArticleWriter":
    return self

  def __exit__(self, *exception: Any) -> None:
    self._partial.__exit__(*exception)

  def write(self, lines: List[str]) -> None:
    """Writes an article.

    Args:
      lines: its sentences; at least one.
    """
    assert lines and all(lines), lines
    text = "\n".join(lines)
    separator = "\n" if self.articles else ""
    self._partial.file.write((separator + text + "\n").encode("utf-8"))
    self.articles += 1
    self.sentences += len(lines)
    self.words += len(text.split())

  def finish(self) -> None:
    """Gives the output its name, once it is on the disk."""
    self._partial.commit()

  def summary(self) -> str:
    """Returns a line that says how much was written."""
    return "{}: {:,} articles, {:,} sentences, {:,} words".format(
        self._path, self.articles, self.sentences, self.words)

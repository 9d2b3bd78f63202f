"""Writes the text of articles to a file that appears when it is complete.

The text goes to a hidden file beside the output. Beside that, `note` writes how
far the text is of use and what a later run must know to go on.
"""

import json
import os
from typing import Any, Dict, List, Mapping, NamedTuple, Optional

from util import files
from util.command_line import InputError

_PROGRESS_SUFFIX = ".json"


class Article(NamedTuple):
  """An article as it is written: UTF-8, one sentence per line.

  Attributes:
    text: its sentences.
    sentences: how many.
    words: separated by spaces, how many.
  """
  text: bytes
  sentences: int
  words: int

  @classmethod
  def of(cls, lines: List[str]) -> "Article":
    """Returns an article of one sentence or more."""
    assert lines and all(lines), lines
    text = "\n".join(lines) + "\n"
    return cls(text.encode("utf-8"), len(lines), len(text.split()))


class ArticleWriter:
  """Writes articles, one sentence per line, a blank line between articles.

  The output gets its name in `finish`. Leaving the `with` block without that
  removes the hidden file, unless `note` has been called: then a writer with the
  same `made_by` goes on from there.

  Attributes:
    articles: number of articles written.
    sentences: number of sentences written.
    words: number of words written, separated by spaces.
    state: what the last `note` of an earlier run was given, or None.
  """

  def __init__(self, path: str, flag: str, overwrite: bool = False,
               made_by: Optional[Mapping[str, Any]] = None):
    """Checks that the output may be written, before any work is done.

    Args:
      path: the output file.
      flag: name of the flag that gives it, for errors.
      overwrite: whether an existing file may be replaced.
      made_by: what the text depends on, in values that JSON has; None for an
        output that is not resumed.

    Raises:
      InputError: the file exists, its folder does not, another process is
        writing it, or an earlier run that wrote a part of it was another one.
    """
    self.articles = 0
    self.sentences = 0
    self.words = 0
    self.state: Optional[Dict[str, Any]] = None
    self._path = path
    self._overwrite = overwrite
    self._made_by = None if files.is_remote(path) or made_by is None else dict(
        made_by)
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
    self._progress_path = files.partial_path(path) + _PROGRESS_SUFFIX
    self._partial = files.partial_file(path, resume=self._made_by is not None)
    self._partial.keep = False
    if self._made_by is not None:
      try:
        self._resume()
      except InputError:
        self._partial.keep = True
        self._partial.close()
        raise

  def _resume(self) -> None:
    """Goes on from what an earlier run has noted, if that fits this one."""
    progress = self._read_progress()
    if progress is None:
      self._partial.truncate(0)
      return
    self._partial.truncate(progress["num_bytes"])
    self._partial.keep = True
    self.articles = progress["articles"]
    self.sentences = progress["sentences"]
    self.words = progress["words"]
    self.state = progress["state"]

  def _read_progress(self) -> Optional[Dict[str, Any]]:
    """Returns the note of an earlier run, or None if it is of no use."""
    try:
      progress = json.loads(files.read_text(self._progress_path))
      found = progress["made_by"]
      for name in ("num_bytes", "articles", "sentences", "words"):
        if not isinstance(progress[name], int):
          return None
      progress["state"]  # pylint: disable=pointless-statement
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
      return None
    assert self._made_by is not None
    for name, value in self._made_by.items():
      if found.get(name) != value:
        self.refuse("{} was {} and is {}".format(name, found.get(name), value))
        return None
    if progress["num_bytes"] > self._partial.file.seek(0, os.SEEK_END):
      return None
    return progress

  def refuse(self, difference: str) -> None:
    """Discards what an earlier run has left, if it may be replaced.

    Args:
      difference: between that run and this one.

    Raises:
      InputError: it may not.
    """
    if not self._overwrite:
      raise InputError(
          "{} was begun differently: {}: finish it with the command it was "
          "begun with, or start from scratch with --overwrite".format(
              self._path, difference))
    self._partial.truncate(0)
    self._partial.keep = False
    self.articles = self.sentences = self.words = 0
    self.state = None

  def __enter__(self) -> "ArticleWriter":
    return self

  def __exit__(self, *exception: Any) -> None:
    if self._made_by is not None and not self._partial.keep:
      files.remove(self._progress_path)
    self._partial.__exit__(*exception)

  def write(self, lines: List[str]) -> None:
    """Writes an article.

    Args:
      lines: its sentences; at least one.
    """
    self.write_article(Article.of(lines))

  def write_article(self, article: Article) -> None:
    """Writes an article that another process has made."""
    if self.articles:
      self._partial.file.write(b"\n")
    self._partial.file.write(article.text)
    self.articles += 1
    self.sentences += article.sentences
    self.words += article.words

  def note(self, state: Mapping[str, Any]) -> bool:
    """Keeps what is written so far for a later run.

    Args:
      state: what that run must know, in values that JSON has.

    Returns:
      Whether it is kept: not in remote storage, which has no part of a file.
    """
    if self._made_by is None:
      return False
    self._partial.sync()
    files.write_atomically(self._progress_path, json.dumps({
        "made_by": self._made_by, "num_bytes": self._partial.file.tell(),
        "articles": self.articles, "sentences": self.sentences,
        "words": self.words, "state": state}))
    self._partial.keep = True
    return True

  def finish(self) -> None:
    """Gives the output its name, once it is on the disk."""
    self._partial.commit()
    if self._made_by is not None:
      files.remove(self._progress_path)

  def summary(self) -> str:
    """Returns a line that says how much was written."""
    return "{}: {:,} articles, {:,} sentences, {:,} words".format(
        self._path, self.articles, self.sentences, self.words)

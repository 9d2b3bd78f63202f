"""Writes the text of articles to a file for the two extractors.

`ArticleWriter` writes to a hidden file beside the output and renames the file
when the text is complete. `ArticleWriter.note` writes a progress file, from
which a later run resumes.
"""

import json
import os
from typing import Any, Dict, List, Mapping, NamedTuple, Optional

from util import files
from util.command_line import InputError

_PROGRESS_SUFFIX = ".json"


class Article(NamedTuple):
  """An article as written to the output.

  Attributes:
    text: the sentences in UTF-8, one per line.
    sentences: number of sentences.
    words: number of words, separated by spaces.
  """
  text: bytes
  sentences: int
  words: int

  @classmethod
  def of(cls, lines: List[str]) -> "Article":
    """Returns the article of at least one sentence."""
    assert lines and all(lines), lines
    text = "\n".join(lines) + "\n"
    return cls(text.encode("utf-8"), len(lines), len(text.split()))


class ArticleWriter:
  """Writes articles, one sentence per line, a blank line between articles.

  `finish` gives the output its final name. Leaving the `with` block without
  `finish` removes the hidden file, unless `note` was called. After `note`, a
  later writer with the same `made_by` resumes from the last call.

  Attributes:
    articles: number of articles written.
    sentences: number of sentences written.
    words: number of words written, separated by spaces.
    state: argument of the last `note` of an earlier run, or None.
  """

  def __init__(self, path: str, flag: str, overwrite: bool = False,
               made_by: Optional[Mapping[str, Any]] = None):
    """Locks the output and resumes an earlier run, if there is one.

    Args:
      path: the output file.
      flag: name of the flag that gives the path, for errors.
      overwrite: whether to replace an existing file.
      made_by: the settings on which the text depends, as JSON values; None for
        an output that cannot be resumed.

    Raises:
      InputError: if the file exists, its folder does not exist, another process
        is writing the file, or an earlier run with other settings wrote a part
        of the file.
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
      raise InputError("--{} {}: expected a file, found a folder; give the "
                       "name of a file".format(flag, path))
    if files.exists(path) and not overwrite:
      raise InputError("--{} {}: the file exists already; remove the file, "
                       "give another name or --overwrite".format(flag, path))
    if not files.is_remote(path) and not os.path.isdir(folder or "."):
      raise InputError("--{} {}: there is no folder {}; make the folder "
                       "first".format(flag, path, folder))
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
    """Resumes an earlier run from its progress file, if there is one."""
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
    """Returns the progress of an earlier run, or None if it is not usable."""
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
    """Discards the text of an earlier run, with --overwrite only.

    Args:
      difference: how the earlier run differs from this run, for the error.

    Raises:
      InputError: if --overwrite is not given.
    """
    if not self._overwrite:
      raise InputError(
          "{} was begun differently: {}; run the command of the first run to "
          "resume, or start from scratch with --overwrite".format(
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
    """Writes the article of at least one sentence."""
    self.write_article(Article.of(lines))

  def write_article(self, article: Article) -> None:
    """Writes an article."""
    if self.articles:
      self._partial.file.write(b"\n")
    self._partial.file.write(article.text)
    self.articles += 1
    self.sentences += article.sentences
    self.words += article.words

  def note(self, state: Mapping[str, Any]) -> bool:
    """Writes the progress file, so that a later run keeps the text so far.

    Args:
      state: JSON values that the later run needs to resume.

    Returns:
      Whether the text is kept. Remote storage keeps no unfinished files.
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
    """Flushes the output to the disk and gives the file its final name."""
    self._partial.commit()
    if self._made_by is not None:
      files.remove(self._progress_path)

  def summary(self) -> str:
    """Returns a line with the numbers of articles, sentences and words."""
    return "{}: {:,} articles, {:,} sentences, {:,} words".format(
        self._path, self.articles, self.sentences, self.words)

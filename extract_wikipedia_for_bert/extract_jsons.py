r"""Turns the JSON folders of WikiExtractor into plain text.

The output has one sentence per line and a blank line between articles.

  python extract_wikipedia_for_bert/extract_jsons.py \
    --folder extracted --write_file wikipedia.txt

The script reads folders that any version of WikiExtractor wrote with --json. If
you have the dump, use extract_wikipedia.py, which writes a cleaner text.
"""

import bz2
import html
import json
import os
import re
import sys
from typing import Any, Dict, Iterator, Sequence

from absl import flags
import tqdm

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# pylint: disable=wrong-import-position
from extract_wikipedia_for_bert import output
from extract_wikipedia_for_bert import prose
from extract_wikipedia_for_bert import templates
from extract_wikipedia_for_bert import wikitext
from util import command_line
from util import files
from util.command_line import InputError

FLAGS = flags.FLAGS

# Links and images that some options of WikiExtractor keep as HTML.
_LINK_TAG = re.compile(r"</?(?:a|img)(?:\s[^<>]*)?>", re.IGNORECASE)
# Placeholders of formulas and code: formula_1, codice_2.
_PLACEHOLDER = re.compile(r"[^\W\d_]+_\d+")
# BULLET::::- item, BULLET::::1. item, and headings: Section::::History.
_LINE_MARK = re.compile(r"\w+::::(\s*(?:-|\d+\.)\s)?")


def define_flags() -> None:
  """Defines this script's flags."""
  flags.DEFINE_string(
      "folder", None,
      "The folder that WikiExtractor wrote, with files such as AA/wiki_00; "
      "bz2 files are decompressed.")
  flags.DEFINE_string(
      "write_file", None, "The text file to write. It must not exist.")
  flags.DEFINE_string(
      "language", "en",
      "The language code of the text, which selects the rules that split "
      "sentences.")
  prose.define_flags()
  flags.DEFINE_boolean(
      "overwrite", False, "Whether to replace an existing output file.")


def read_articles(path: str, progress: tqdm.tqdm) -> Iterator[Dict[str, str]]:
  """Yields the articles of a file, which has one JSON object per line.

  Args:
    path: the file, possibly compressed with bz2.
    progress: progress bar, in bytes of the file.

  Raises:
    InputError: if the file is truncated, is corrupt or has another format.
  """
  with files.open_file(path) as raw:
    is_compressed = raw.read(3) == b"BZh"
    raw.seek(0)
    stream = bz2.BZ2File(raw) if is_compressed else raw
    number = done = 0
    while True:
      try:
        line = stream.readline()
      except (EOFError, OSError) as failure:
        raise InputError(
            "--folder: {} cannot be decompressed after line {}, at byte {} "
            "({}); run WikiExtractor again".format(
                path, number, raw.tell(), failure)) from None
      progress.update(raw.tell() - done)
      done = raw.tell()
      if not line:
        return
      number += 1
      if line.strip():
        yield _article(line, path, number)


def _article(line: bytes, path: str, number: int) -> Dict[str, str]:
  """Parses a line of a file; raises InputError if it is not an article."""
  try:
    article = json.loads(line)
  except (RecursionError, ValueError):
    article = None
  if not isinstance(article, dict) or not _is_text(article.get("text")):
    raise InputError(
        "--folder: {} line {}: expected a JSON object with a \"text\", found "
        "{!r}; remove the file, or run WikiExtractor with --json".format(
            path, number, line[:40].decode("utf-8", "replace")))
  return article


def _is_text(value: Any) -> bool:
  """Returns whether a value in JSON is text, without lone surrogates."""
  try:
    value.encode("utf-8")
  except (AttributeError, UnicodeEncodeError):
    return False
  return True


def paragraphs(article: Dict[str, str],
               language: str) -> Iterator[wikitext.Paragraph]:
  """Yields the paragraphs of an article, without its title and headings.

  Versions of WikiExtractor before 3.1 write the title as the first line of the
  text. Some options and versions keep links, formulas and code: links become
  their labels, formulas and code become `templates.UNKNOWN_WORDS`.

  Args:
    article: maps "text" and optionally "title" to their values.
    language: the language code of the text.
  """
  # Some versions escape the tags that they do not remove.
  text = templates.PRIVATE_CHARACTERS.sub("", html.unescape(article["text"]))
  text = wikitext.resolve_tags(_LINK_TAG.sub("", text))
  text = _PLACEHOLDER.sub(templates.UNKNOWN_WORDS, text)
  text = wikitext.MAGIC_WORD.sub("", text)
  lines = [line.strip() for line in text.split("\n")]
  title = html.unescape(str(article.get("title") or "")).strip()
  first = next((number for number, line in enumerate(lines) if line), None)
  if title and first is not None and lines[first] == title:
    del lines[:first + 1]
  for line in lines:
    mark = _LINE_MARK.match(line)
    if mark and mark[1] is None:
      continue  # A heading.
    if mark:
      line = line[mark.end():]
    if line:
      yield wikitext.Paragraph(
          wikitext.plain_text(line, language), mark is not None)


def extract(paths: Sequence[str], writer: output.ArticleWriter,
            options: prose.Options) -> int:
  """Writes the articles of files that WikiExtractor wrote.

  Args:
    paths: the files.
    writer: writer of the output.
    options: selection of the sentences.

  Returns:
    The number of articles in the files.

  Raises:
    InputError: if a file is truncated, is corrupt or has another format.
  """
  num_articles = 0
  with tqdm.tqdm(total=sum(map(files.size, paths)), unit="B",
                 unit_scale=True, disable=None) as progress:
    for path in paths:
      for article in read_articles(path, progress):
        num_articles += 1
        lines = prose.lines(paragraphs(article, options.language), options)
        if lines:
          writer.write(lines)
  return num_articles


def main() -> None:
  options = prose.Options(FLAGS.language, FLAGS.min_words, FLAGS.min_sentences)
  paths = files.list_files(
      FLAGS.folder, "folder", "give the folder that WikiExtractor wrote, with "
      "files such as AA/wiki_00", recursive=True)
  with output.ArticleWriter(FLAGS.write_file, "write_file",
                            FLAGS.overwrite) as writer:
    num_articles = extract(paths, writer, options)
    if not writer.articles:
      raise InputError(
          "--folder {}: no article with {} sentences among the {} articles of "
          "{} files; check the output of WikiExtractor, or lower "
          "--min_sentences".format(FLAGS.folder, options.min_sentences,
                                   num_articles, len(paths)))
    writer.finish()
  print("{} from {:,} in {:,} files".format(
      writer.summary(), num_articles, len(paths)))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("folder", "write_file"))

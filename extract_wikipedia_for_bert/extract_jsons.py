r"""Turns the JSON folders that WikiExtractor writes into plain text: one
sentence per line, a blank line between articles.

  python extract_wikipedia_for_bert/extract_jsons.py \
    --folder extracted --write_file wikipedia.txt

For those who have such folders already, made by any version of WikiExtractor
with --json; extract_wikipedia.py reads the dump itself and cleans it better.
"""

import bz2
import html
import json
import os
import re
import sys
from typing import BinaryIO, Dict, Iterator, List, Tuple

from absl import flags
import tqdm

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# pylint: disable=wrong-import-position
import command_line
from extract_wikipedia_for_bert import output
from extract_wikipedia_for_bert import prose
from extract_wikipedia_for_bert import wikitext

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines this script's flags."""
  flags.DEFINE_string(
      "folder", None,
      "The folder that WikiExtractor wrote (AA/wiki_00 and so on); files may "
      "be packed with bz2.")
  flags.DEFINE_string(
      "write_file", None, "The text file to write. It must not exist.")
  flags.DEFINE_string(
      "language", "en", "The language code of the text, to split sentences.")
  prose.define_flags()
  flags.DEFINE_boolean(
      "overwrite", False, "Whether to replace an output file that exists.")


def find_files(folder: str) -> List[str]:
  """Returns the files under a folder in natural order, hidden ones left out.

  Args:
    folder: the folder to walk.

  Raises:
    ValueError: there is no such folder, or it holds no file.
  """
  if not os.path.isdir(folder):
    raise ValueError("--folder {}: no such folder; give the one that "
                     "WikiExtractor wrote".format(folder))
  paths = []
  for parent, folders, names in os.walk(folder):
    folders[:] = [name for name in folders if not name.startswith(".")]
    paths.extend(os.path.join(parent, name) for name in names
                 if not name.startswith("."))
  paths = sorted(filter(os.path.isfile, paths), key=_natural_key)
  if not paths:
    raise ValueError("--folder {}: no file in it; expected files such as "
                     "AA/wiki_00".format(folder))
  return paths


def _natural_key(path: str) -> List[List[Tuple[bool, int, str]]]:
  """Sorts wiki_2 before wiki_10, and a folder's files together."""
  return [[(not part.isdecimal(), int(part) if part.isdecimal() else 0, part)
           for part in re.split(r"(\d+)", name)] for name in path.split(os.sep)]


def read_articles(path: str, progress: tqdm.tqdm) -> Iterator[Dict[str, str]]:
  """Yields the articles of a file, each a line of JSON.

  Args:
    path: the file, possibly packed with bz2.
    progress: a bar to move on, in bytes of the file.

  Raises:
    ValueError: the file is cut short, corrupt, or something else.
  """
  with open(path, "rb") as raw:
    packed = raw.read(3) == b"BZh"
    raw.seek(0)
    stream: BinaryIO = bz2.BZ2File(raw) if packed else raw
    number = done = 0
    while True:
      try:
        line = stream.readline()
      except (EOFError, OSError) as failure:
        raise ValueError(
            "--folder: {} cannot be unpacked to its end, at byte {} after line "
            "{} ({}); make it again".format(path, raw.tell(), number, failure))
      progress.update(raw.tell() - done)
      done = raw.tell()
      if not line:
        return
      number += 1
      if line.strip():
        yield _article(line, path, number)


def _article(line: bytes, path: str, number: int) -> Dict[str, str]:
  try:
    article = json.loads(line)
  except ValueError:
    article = None
  if not isinstance(article, dict) or not isinstance(article.get("text"), str):
    raise ValueError(
        "--folder: {} line {}: expected a JSON object with a \"text\", found "
        "{!r}; remove the file, or run WikiExtractor with --json".format(
            path, number, line[:40].decode("utf-8", "replace")))
  return article


def paragraphs(article: Dict[str, str],
               language: str) -> Iterator[wikitext.Paragraph]:
  """Yields the paragraphs of an article, without its title.

  Versions of WikiExtractor before 3.1 put the title into the first line of the
  text, later ones do not.

  Args:
    article: an object with "text" and perhaps "title".
    language: the language code of the text.
  """
  # Some versions escape the tags that they leave behind.
  text = wikitext.resolve_tags(html.unescape(article["text"]))
  lines = [line.strip() for line in text.split("\n")]
  title = html.unescape(str(article.get("title") or "")).strip()
  first = next((number for number, line in enumerate(lines) if line), None)
  if title and first is not None and lines[first] == title:
    del lines[:first + 1]
  for line in lines:
    if line:
      yield wikitext.Paragraph(wikitext.plain_text(line, language), False)


def main() -> None:
  """Turns the flags into plain arguments and writes the articles."""
  options = prose.Options(FLAGS.language, FLAGS.min_words, FLAGS.min_sentences)
  paths = find_files(FLAGS.folder)
  read = 0
  with output.ArticleWriter(FLAGS.write_file, "write_file",
                            FLAGS.overwrite) as writer:
    with tqdm.tqdm(total=sum(map(os.path.getsize, paths)), unit="B",
                   unit_scale=True, disable=None) as progress:
      for path in paths:
        for article in read_articles(path, progress):
          read += 1
          lines = prose.lines(paragraphs(article, options.language), options)
          if lines:
            writer.write(lines)
    if not writer.articles:
      raise ValueError(
          "--folder {}: no article with {} sentences among the {} in its {} "
          "files; was the extraction empty?".format(
              FLAGS.folder, options.min_sentences, read, len(paths)))
    writer.finish()
  print("{} from {:,} in {:,} files".format(
      writer.summary(), read, len(paths)))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("folder", "write_file"))

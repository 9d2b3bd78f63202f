r"""Writes the English prose in installed Python packages as a text corpus.

  python examples/demo_corpus.py --output_file demo/text.txt \
    --heldout_file demo/heldout/text.txt

Docstrings hold real sentences on every machine that has Python, so the demo
needs no download. One module is one document: one sentence a line, a blank
line between documents, in the order of the modules' paths. Code, tables and
sentences that an earlier module has are left out. Every 20th document goes to
the held-out file.
"""

import os
import pathlib
import re
import sys
import sysconfig
from typing import Iterator, List, Set

from absl import flags
from absl import logging
import tqdm

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
# pylint: disable=wrong-import-position
from util import command_line
from util import files

# By pattern, not by parser: that takes seconds instead of minutes.
_DOCSTRING = re.compile(r'"""(.*?)"""', re.S)
# A sentence begins with a capital, ends with its mark, and between them has
# words and the marks of prose; text with other signs is code or a table.
_SENTENCE = re.compile(r"[A-Z][\w .,;:'\"%()/-]+[.!?]")
_CODE = re.compile(r"\w\(|--| - |/ |XXX|TODO|_\w+_|: \w+[,.]? \w+:")
_SENTENCE_END = re.compile(r"(?<=[a-z0-9)]{2}[.!?])\s+(?=[A-Z])")
# "Args: name: " and the like, in front of a sentence.
_LABELS = re.compile(r"^(?:\w+: )+")
_MIN_WORDS = 5
_MIN_SENTENCES = 5
_HELDOUT_EVERY = 20
# Modules that are data in all but name.
_MAX_MODULE_BYTES = 2000000


def define_flags() -> None:
  """Defines the flags of the script."""
  flags.DEFINE_string("output_file", None, "Text to write.")
  flags.DEFINE_string(
      "heldout_file", None, "Text to write that no model is trained on.")


def modules() -> List[str]:
  """Lists the source files of the standard library and the packages."""
  packages = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
  paths: Set[str] = set()
  for root in packages | {sysconfig.get_path("stdlib")}:
    for folder, subfolders, names in os.walk(root):
      if root not in packages and "site-packages" in subfolders:
        subfolders.remove("site-packages")  # Another environment's.
      paths.update(os.path.join(folder, name) for name in names
                   if name.endswith(".py"))
  return sorted(paths)


def sentences(docstring: str) -> Iterator[str]:
  """Yields the sentences of a docstring's prose."""
  for paragraph in re.split(r"\n\s*\n", docstring):
    for sentence in _SENTENCE_END.split(
        " ".join(paragraph.replace("`", "").split())):
      sentence = _LABELS.sub("", sentence)
      if (_SENTENCE.fullmatch(sentence) and not _CODE.search(sentence)
          and len(sentence.split()) >= _MIN_WORDS):
        yield sentence


def document(path: str, seen: Set[str]) -> List[str]:
  """Returns the sentences of a module that are not in `seen`; adds them."""
  if os.path.getsize(path) > _MAX_MODULE_BYTES:
    return []
  with open(path, encoding="utf-8", errors="replace") as file:
    found = [sentence for docstring in _DOCSTRING.findall(file.read())
             for sentence in sentences(docstring)]
  new = list(dict.fromkeys(s for s in found if s not in seen))
  if len(new) < _MIN_SENTENCES:
    return []
  seen.update(new)
  return new


def write(path: str, documents: List[List[str]]) -> None:
  """Writes documents and says how much that is."""
  os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
  text = "".join("\n".join(lines) + "\n\n" for lines in documents)
  files.write_atomically(path, text)
  logging.info("%s: %d documents, %d sentences, %.1f MB", path, len(documents),
               sum(map(len, documents)), len(text) / 1e6)


def main() -> None:
  seen: Set[str] = set()
  documents = [document(path, seen) for path in tqdm.tqdm(
      modules(), unit=" modules", disable=None)]
  documents = [lines for lines in documents if lines]
  heldout = documents[::_HELDOUT_EVERY]
  del documents[::_HELDOUT_EVERY]
  write(flags.FLAGS.output_file, documents)
  write(flags.FLAGS.heldout_file, heldout)


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("output_file", "heldout_file"))

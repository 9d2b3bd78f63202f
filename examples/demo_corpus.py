r"""Writes the English prose in installed Python packages as a text corpus.

  python examples/demo_corpus.py --output_file demo/text.txt \
    --heldout_file demo/heldout/text.txt --sentences_dir demo/sentences

Docstrings hold real sentences on every machine that has Python, so the demo
needs no download. One module is one document: one sentence a line, a blank
line between documents, in the order of the modules' paths. The script drops
code, tables and sentences of earlier modules. Every 10th document goes to the
held-out file.

sentences_dir gets sentences for a classifier of their package (NumPy, Python or
TensorFlow), as many of each package. labelled.tsv has 6,000 sentences with
their package. texts.txt has 6,000 other sentences without their package;
few.tsv has 300 of these with their package. heldout.tsv has up to 1,050
sentences of held-out documents.
"""

import os
import pathlib
import random
import re
import sys
import sysconfig
from typing import Iterable, Iterator, List, NamedTuple, Set, Tuple

from absl import flags
from absl import logging
import tqdm

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
# pylint: disable=wrong-import-position
from util import command_line
from util import files

# A pattern takes seconds; a parser would take minutes.
_DOCSTRING = re.compile(r'"""(.*?)"""', re.S)
# A capital, words and the punctuation of prose, and a final mark. Text with
# other characters is code or a table.
_SENTENCE = re.compile(r"[A-Z][\w .,;:'\"%()/-]+[.!?]")
_CODE = re.compile(r"\w\(|--| - |/ |XXX|TODO|_\w+_|: \w+[,.]? \w+:")
_SENTENCE_END = re.compile(r"(?<=[a-z0-9)]{2}[.!?])\s+(?=[A-Z])")
# "Args: name: " and the like, before a sentence.
_LABELS = re.compile(r"^(?:\w+: )+")
_MIN_WORDS = 5
_MIN_SENTENCES = 5
_HELDOUT_EVERY = 10
# Larger modules are data.
_MAX_MODULE_BYTES = 2000000
_STANDARD_LIBRARY = "python"
# Classes of the demo's classifiers.
_PACKAGES = ("numpy", _STANDARD_LIBRARY, "tensorflow")
_NUM_LABELLED, _NUM_FEW = 6000, 300
# Sentences of each package, at most.
_MAX_TRAINING, _MAX_HELDOUT = 4000, 350


class Document(NamedTuple):
  """Sentences of a module, and the package of the module."""
  package: str
  sentences: List[str]


def define_flags() -> None:
  """Defines the flags of the script."""
  flags.DEFINE_string("output_file", None, "Text to write.")
  flags.DEFINE_string(
      "heldout_file", None, "Text to write that no model is trained on.")
  flags.DEFINE_string(
      "sentences_dir", None,
      "Folder to write sentences and their packages to, for classifiers.")


def site_folders() -> Set[str]:
  """Returns the folders of installed packages."""
  return {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}


def modules() -> List[str]:
  """Lists the source files of the standard library and the packages."""
  packages = site_folders()
  paths: Set[str] = set()
  for root in packages | {sysconfig.get_path("stdlib")}:
    for folder, subfolders, names in os.walk(root):
      if root not in packages and "site-packages" in subfolders:
        subfolders.remove("site-packages")  # Another environment's.
      paths.update(os.path.join(folder, name) for name in names
                   if name.endswith(".py"))
  return sorted(paths)


def package(path: str) -> str:
  """Returns the package of a module; "python" for the standard library."""
  for root in site_folders():
    if path.startswith(root + os.sep):
      return path[len(root) + 1:].split(os.sep)[0]
  return _STANDARD_LIBRARY


def sentences(docstring: str) -> Iterator[str]:
  """Yields the sentences of a docstring's prose."""
  for paragraph in re.split(r"\n\s*\n", docstring):
    for sentence in _SENTENCE_END.split(
        " ".join(paragraph.replace("`", "").split())):
      sentence = _LABELS.sub("", sentence)
      if (_SENTENCE.fullmatch(sentence) and not _CODE.search(sentence)
          and len(sentence.split()) >= _MIN_WORDS):
        yield sentence


def document(path: str, seen: Set[str]) -> Document:
  """Returns the sentences of a module that are not in `seen`; adds them."""
  found: List[str] = []
  if os.path.getsize(path) <= _MAX_MODULE_BYTES:
    with open(path, encoding="utf-8", errors="replace") as file:
      found = [sentence for docstring in _DOCSTRING.findall(file.read())
               for sentence in sentences(docstring)]
  new = list(dict.fromkeys(s for s in found if s not in seen))
  if len(new) < _MIN_SENTENCES:
    new = []
  seen.update(new)
  return Document(package(path), new)


def write(path: str, documents: Iterable[Document]) -> None:
  """Writes documents and logs their size."""
  os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
  texts = ["\n".join(each.sentences) + "\n\n" for each in documents]
  files.write_atomically(path, "".join(texts))
  logging.info("%s: %d documents, %d sentences, %.1f MB", path, len(texts),
               sum(text.count("\n") - 1 for text in texts),
               sum(map(len, texts)) / 1e6)


def labelled(documents: Iterable[Document],
             limit: int) -> List[Tuple[str, str]]:
  """Returns pairs of package and sentence, as many of each package.

  Args:
    documents: documents of any packages.
    limit: number of sentences of a package, at most.

  Returns:
    The packages alternate; the sentences of a package are in random order.
  """
  generator = random.Random(1)
  columns = []
  for name in _PACKAGES:
    column = [(name, sentence) for each in documents if each.package == name
              for sentence in each.sentences]
    generator.shuffle(column)
    columns.append(column[:limit])
  return [pair for row in zip(*columns) for pair in row]


def write_sentences(folder: str, training: Iterable[Document],
                    heldout: Iterable[Document]) -> None:
  """Writes the sentences for the demo's classifiers."""
  os.makedirs(folder, exist_ok=True)
  pairs = labelled(training, _MAX_TRAINING)
  for name, some in (
      ("labelled.tsv", pairs[:_NUM_LABELLED]),
      ("few.tsv", pairs[_NUM_LABELLED:_NUM_LABELLED + _NUM_FEW]),
      ("heldout.tsv", labelled(heldout, _MAX_HELDOUT))):
    files.write_atomically(os.path.join(folder, name), "".join(
        "{}\t{}\n".format(*pair) for pair in some))
  files.write_atomically(os.path.join(folder, "texts.txt"), "".join(
      sentence + "\n" for _, sentence in pairs[_NUM_LABELLED:]))


def main() -> None:
  seen: Set[str] = set()
  documents = [document(path, seen) for path in tqdm.tqdm(
      modules(), unit=" modules", disable=None)]
  documents = [each for each in documents if each.sentences]
  heldout = documents[::_HELDOUT_EVERY]
  del documents[::_HELDOUT_EVERY]
  write(flags.FLAGS.heldout_file, heldout)
  write_sentences(flags.FLAGS.sentences_dir, documents, heldout)
  # The last file shows that all are complete.
  write(flags.FLAGS.output_file, documents)


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=(
      "output_file", "heldout_file", "sentences_dir"))

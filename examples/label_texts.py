"""Labels the texts of stdin or of a file with a classifier."""

import dataclasses
import json
import math
import os
import signal
import sys
from typing import Iterator, List, NamedTuple, Sequence

from absl import logging
import tqdm

from examples import soft_labels
from examples.classification import BAR_DELAY, Classifier, Encoding
from examples.text_files import BYTE_ORDER_MARK, parse_line, Text
import modeling
from records import manifest
from util import files
from util.command_line import InputError

_READ_BYTES = 1 << 16
# Number of texts in a block. A resumed run keeps whole blocks, so that its
# batches are the same as in an uninterrupted run.
_BLOCK_TEXTS = 1024


def check_pairs(config: modeling.BertConfig, texts: Sequence[Text],
                place: str) -> None:
  """Raises InputError if a model without segments would read pairs."""
  if config.type_vocab_size < 2 and any(text.second for text in texts):
    raise InputError(
        "{} has pairs of texts, but the model reads single texts only "
        "(type_vocab_size {}); give single texts, or choose another model"
        .format(place, config.type_vocab_size))


# --- Stdin -------------------------------------------------------------------


def label_stdin(classifier: Classifier, config: modeling.BertConfig,
                encoding: Encoding) -> None:
  """Labels each line of stdin on arrival, and prints the labelled line.

  Args:
    classifier: a trained classifier.
    config: config of the model.
    encoding: encodes texts as examples.

  Raises:
    InputError: if a line is malformed.
  """
  signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # For `... | head`.
  number = 0
  with tqdm.tqdm(
      unit=" lines", delay=BAR_DELAY, dynamic_ncols=True,
      disable=True if sys.stdout.isatty() else None) as bar:
    for lines in _blocks(sys.stdin.fileno()):
      texts = []
      for line in lines:
        number += 1
        place = "stdin, line {}".format(number)
        text = parse_line(line, place, is_labelled=False)
        if text is not None:
          check_pairs(config, [text], place)
          texts.append(text)
      if texts:
        sys.stdout.buffer.write(_label(classifier, encoding, texts))
        sys.stdout.buffer.flush()
        bar.update(len(texts))


def _blocks(descriptor: int) -> Iterator[List[bytes]]:
  """Yields lists of the lines that are available in a file or pipe."""
  rest = b""
  is_start = True
  while True:
    block = os.read(descriptor, _READ_BYTES)
    # A line may arrive in several blocks.
    *lines, last = block.split(b"\n")
    if lines:
      lines[0], rest = rest + lines[0], last
    else:
      rest += last
    if not block:
      lines = [rest] if rest else []
    if lines:
      if is_start and lines[0].startswith(BYTE_ORDER_MARK):
        lines[0] = lines[0][len(BYTE_ORDER_MARK):]
      is_start = False
      yield lines
    if not block:
      return


def _label(classifier: Classifier, encoding: Encoding,
           texts: Sequence[Text]) -> bytes:
  """Returns lines of label, probability and text, UTF-8."""
  log_probabilities = classifier.predict(encoding.encode(texts))
  lines = []
  for text, scores in zip(texts, log_probabilities):
    lines.append("\t".join(filter(None, (
        encoding.labels[scores.argmax()],
        "{:.4f}".format(math.exp(scores.max())), text.first, text.second))))
  return ("\n".join(lines) + "\n").encode("utf-8")


# --- A file ------------------------------------------------------------------


class LabelJob(NamedTuple):
  """Texts to label, and the output file.

  Attributes:
    texts: the texts.
    output_file: path of the soft labels.
    made_by: manifest of output_file, without the number of texts.
  """
  texts: Sequence[Text]
  output_file: str
  made_by: manifest.Manifest


def read_texts(path: str, labels: Sequence[str]) -> List[Text]:
  """Reads a file of texts without labels; skips blank lines.

  The file may have a byte-order mark and CRLF.

  Args:
    path: path of the file.
    labels: the classifier's labels.

  Raises:
    InputError: if a line is malformed, if the file has no texts, or if each
      line has a label.
  """
  files.check_file(path, "predict_file")
  texts: List[Text] = []
  with open(path, "rb") as file:
    for number, line in enumerate(file, 1):
      if number == 1 and line.startswith(BYTE_ORDER_MARK):
        line = line[len(BYTE_ORDER_MARK):]
      text = parse_line(line, "--predict_file: {}, line {}".format(
          path, number), is_labelled=False)
      if text is not None:
        texts.append(text)
  if not texts:
    raise InputError("--predict_file: {} holds no texts; write one text per "
                     "line".format(path))
  if all(text.second and text.first.strip() in labels for text in texts):
    raise InputError(
        "--predict_file: every line of {} begins with a label and a tab, "
        "expected only texts; remove the labels, for example with cut -f 2-"
        .format(path))
  return texts


def label_file(classifier: Classifier, encoding: Encoding,
               job: LabelJob) -> None:
  """Writes the probabilities of the labels for the texts of a job.

  The output file gets its name when the file is complete. An interrupted run
  leaves a hidden file, which the same command resumes.

  Args:
    classifier: a trained classifier.
    encoding: encodes texts as examples.
    job: the texts and the output file.

  Raises:
    InputError: if another process writes the output file.
  """
  path, texts = job.output_file, job.texts
  has_pairs = any(text.second for text in texts)
  with files.PartialFile(path, resume=True) as partial:
    start = _resume(partial, job)
    if not start:
      partial.file.write((soft_labels.header(
          encoding.labels, has_pairs) + "\n").encode("utf-8"))
    with tqdm.tqdm(total=len(texts), initial=start, desc="labelling",
                   unit=" texts", disable=None, dynamic_ncols=True) as bar:
      for first in range(start, len(texts), _BLOCK_TEXTS):
        block = texts[first:first + _BLOCK_TEXTS]
        log_probabilities = classifier.predict(encoding.encode(block))
        partial.file.write("".join(
            soft_labels.row(text, map(math.exp, scores), has_pairs) + "\n"
            for text, scores in zip(block, log_probabilities.tolist())
        ).encode("utf-8"))
        partial.sync()
        bar.update(len(block))
    num_bytes = partial.file.tell()
    files.write_atomically(manifest.manifest_path(path), json.dumps(
        dataclasses.replace(
            job.made_by, num_records=len(texts),
            num_bytes=num_bytes).to_dict(), indent=1) + "\n")
    partial.commit()
  files.remove(_journal(path))
  logging.info("%s: %d texts labelled", path, len(texts))


def _journal(path: str) -> str:
  """Returns the path of the manifest of an unfinished file."""
  return manifest.manifest_path(files.partial_path(path))


def _resume(partial: files.PartialFile, job: LabelJob) -> int:
  """Truncates an unfinished file to whole blocks; returns its text count."""
  journal = _journal(job.output_file)
  wanted = json.dumps(job.made_by.to_dict(), sort_keys=True) + "\n"
  if not (files.exists(journal) and files.read_text(journal) == wanted):
    partial.truncate(0)
    files.write_atomically(journal, wanted)
    return 0
  partial.file.seek(0)
  lines = partial.file.read().split(b"\n")[:-1]
  num_texts = max(0, len(lines) - 1) // _BLOCK_TEXTS * _BLOCK_TEXTS
  kept = lines[:num_texts + 1] if num_texts else []
  partial.truncate(sum(len(line) + 1 for line in kept))
  if num_texts:
    logging.info("%s: resuming after %d of %d texts", job.output_file,
                 num_texts, len(job.texts))
  return num_texts

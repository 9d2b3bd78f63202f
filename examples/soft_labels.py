"""Reads and formats soft labels, and mixes soft labels with true labels.

A file of soft labels is UTF-8 text, tab-separated:

  p(negative)<TAB>p(positive)<TAB>text
  0.0312<TAB>0.9688<TAB>a film to see again

The header has a column for each label, then text. Files with pairs of texts
also have a column text_2, which is empty in lines with one text. N is the
number of texts, L the number of labels.
"""

import math
from typing import Dict, Iterable, List, NamedTuple, Sequence, Tuple

import numpy as np

from examples.text_files import BYTE_ORDER_MARK, decode_line, listed, Text
from records import manifest
from util import files
from util.command_line import InputError

_TEXT_COLUMNS = (["text"], ["text", "text_2"])
# Maximum difference of a line's sum of probabilities from 1. It allows a few
# probabilities with two digits.
_MAX_SUM_ERROR = 0.02
# Number of characters of a line that an error quotes.
_MAX_QUOTED = 60


class SoftLabels(NamedTuple):
  """Contents of a file of soft labels.

  Attributes:
    labels: the L labels, in the order of the columns.
    texts: the N texts, without labels.
    probabilities: float32 [N, L]. The sum of each row is 1. Rows of equal texts
      are equal.
  """
  labels: Sequence[str]
  texts: Sequence[Text]
  probabilities: np.ndarray


class Mixture(NamedTuple):
  """Training texts with true labels, soft labels or both.

  Attributes:
    texts: N texts with labels. The label of a text without a true label is the
      teacher's most probable label.
    probabilities: float32 [N, L]; zeros for texts without a soft label.
    hard_weights: float32 [N], weight of the true label; 0 for texts without a
      true label, 1 for texts without a soft label, else hard_label_weight.
    num_labelled: number of texts with a true label. These texts come first.
    num_both: number of texts with a true label and a soft label.
  """
  texts: List[Text]
  probabilities: np.ndarray
  hard_weights: np.ndarray
  num_labelled: int
  num_both: int


def header(labels: Sequence[str], has_pairs: bool) -> str:
  """Returns the header of a file, without the line end."""
  return "\t".join([*map("p({})".format, labels), *_TEXT_COLUMNS[has_pairs]])


def row(text: Text, probabilities: Iterable[float], has_pairs: bool) -> str:
  """Returns the line of a text, without the line end.

  Args:
    text: the text. The line does not include the text's label.
    probabilities: L probabilities.
    has_pairs: whether the file has the column text_2.
  """
  return "\t".join([*map("{:.6g}".format, probabilities), text.first,
                    *([text.second] if has_pairs else [])])


def read(path: str, flag: str) -> SoftLabels:
  """Reads a file of soft labels, with or without a byte-order mark and CRLF.

  Equal texts get the mean of their probabilities.

  Args:
    path: path of the file.
    flag: name of the flag that has the path, for errors.

  Raises:
    InputError: if a line is malformed, if the file has no texts, or if the file
      is truncated.
  """
  files.check_file(path, flag)
  manifest.read_manifest(path)  # Raises InputError if the file is truncated.
  texts: List[Text] = []
  probabilities: List[List[float]] = []
  with open(path, "rb") as file:
    first = file.readline()
    labels, num_texts = _parse_header(
        first[len(BYTE_ORDER_MARK):] if first.startswith(BYTE_ORDER_MARK)
        else first, "--{}: {}".format(flag, path))
    for number, line in enumerate(file, 2):
      if line.strip():
        text, numbers = _parse_row(
            line, len(labels), num_texts,
            "--{}: {}, line {}".format(flag, path, number))
        texts.append(text)
        probabilities.append(numbers)
  if not texts:
    raise InputError(
        "--{}: {} has a header and no texts, expected at least one text; write "
        "the file again with --predict_file".format(flag, path))
  values = np.array(probabilities, np.float64)
  return SoftLabels(labels, texts, _means_of_equal_texts(
      texts, values / values.sum(axis=1, keepdims=True)).astype(np.float32))


def _means_of_equal_texts(texts: Sequence[Text],
                          probabilities: np.ndarray) -> np.ndarray:
  """Replaces the probabilities of equal texts by their mean; [N, L]."""
  first: Dict[Text, int] = {}
  groups = [first.setdefault(text, index) for index, text in enumerate(texts)]
  if len(first) == len(texts):
    return probabilities
  sums = np.zeros_like(probabilities)
  np.add.at(sums, groups, probabilities)
  counts = np.bincount(groups, minlength=len(texts))
  return sums[groups] / counts[groups][:, np.newaxis]


def _parse_header(line: bytes, place: str) -> Tuple[List[str], int]:
  """Returns the labels and the number of text columns of a header."""
  cells = decode_line(line, place + ", line 1").split("\t")
  labels = [cell[2:-1] for cell in cells
            if cell.startswith("p(") and cell.endswith(")")]
  if (len(labels) < 2 or len(set(labels)) < len(labels)
      or cells[len(labels):] not in _TEXT_COLUMNS):
    raise InputError(
        "{} begins with {!r}, which is no header of soft labels; expected "
        "p(LABEL) for each of two or more labels, then text, separated by "
        "tabs; write the file with --predict_file and --output_file".format(
            place, "\t".join(cells)[:_MAX_QUOTED]))
  return labels, len(cells) - len(labels)


def _parse_row(line: bytes, num_labels: int, num_texts: int,
               place: str) -> Tuple[Text, List[float]]:
  """Returns the text and the probabilities of a line."""
  cells = decode_line(line, place).split("\t")
  texts = cells[num_labels:]
  if len(texts) != num_texts or not texts[0].strip():
    raise InputError(
        "{} has {} columns, not {} probabilities and {}: {!r}; write the file "
        "again with --predict_file".format(
            place, len(cells), num_labels,
            "a text" if num_texts == 1 else "two texts",
            "\t".join(cells)[:_MAX_QUOTED]))
  try:
    numbers = [float(cell) for cell in cells[:num_labels]]
  except ValueError:
    numbers = [math.nan]
  if not (all(number >= 0 for number in numbers)
          and abs(sum(numbers) - 1) <= _MAX_SUM_ERROR):
    raise InputError(
        "{} begins with {}, expected probabilities with the sum 1; write the "
        "file again with --predict_file".format(
            place, ", ".join(cells[:num_labels])[:_MAX_QUOTED]))
  return Text(*texts), numbers


def mix(training: Sequence[Text], soft: SoftLabels,
        hard_label_weight: float) -> Mixture:
  """Merges texts with true labels and texts with soft labels.

  A text in both arguments gets both labels, if all characters are equal. The
  texts of `training` come first, followed by texts with soft labels only. A
  text that occurs several times in one argument stays several examples.

  Args:
    training: texts with true labels; may be empty.
    soft: the teacher's soft labels.
    hard_label_weight: weight of the true label of a text with both labels.
  """
  rows = {(text.first, text.second): index
          for index, text in enumerate(soft.texts)}
  found = [rows.get((text.first, text.second), -1) for text in training]
  seen = {(text.first, text.second) for text in training}
  others = [index for index, text in enumerate(soft.texts)
            if (text.first, text.second) not in seen]
  probabilities = np.zeros(
      [len(training) + len(others), len(soft.labels)], np.float32)
  hard_weights = np.zeros(len(probabilities), np.float32)
  for position, index in enumerate(found):
    hard_weights[position] = 1 if index < 0 else hard_label_weight
    if index >= 0:
      probabilities[position] = soft.probabilities[index]
  probabilities[len(training):] = soft.probabilities[others]
  guesses = soft.probabilities[others].argmax(axis=1)
  return Mixture(
      [*training, *(soft.texts[index]._replace(label=soft.labels[guess])
                    for index, guess in zip(others, guesses))],
      probabilities, hard_weights, len(training),
      sum(index >= 0 for index in found))


def soften(probabilities: np.ndarray, temperature: float) -> np.ndarray:
  """Applies a temperature to distributions.

  softmax(z / T) equals softmax(z) to the power of 1 / T, normalised (Hinton et
  al. 2015, arXiv 1503.02531).

  Args:
    probabilities: float32 [N, L]. Rows of zeros stay zero.
    temperature: T.

  Returns:
    float32 [N, L].
  """
  if temperature == 1:
    return probabilities
  powers = np.power(probabilities.astype(np.float64), 1 / temperature)
  return (powers / np.maximum(powers.sum(axis=1, keepdims=True), 1e-300)
         ).astype(np.float32)


def agreement(texts: Sequence[Text], label_ids: np.ndarray,
              labels: Sequence[str], soft: SoftLabels) -> float:
  """Returns the share of texts with equal labels by classifier and teacher.

  Args:
    texts: N texts.
    label_ids: int [N], ids of the classifier's labels.
    labels: the labels in the order of their ids.
    soft: the teacher's soft labels of all N texts; other texts are ignored.
  """
  guesses = {(text.first, text.second): soft.labels[index] for text, index in
             zip(soft.texts, soft.probabilities.argmax(axis=1))}
  return float(np.mean([guesses[text.first, text.second] == labels[label_id]
                        for text, label_id in zip(texts, label_ids)]))


def check_covers(texts: Sequence[Text], labels: Sequence[str],
                 soft: SoftLabels, place: str) -> None:
  """Checks that each held-out text has a soft label.

  Args:
    texts: the held-out texts.
    labels: the classifier's labels.
    soft: the teacher's soft labels.
    place: flag and path of the soft labels, for errors.

  Raises:
    InputError: if a text lacks a soft label, or if `soft` lacks a label.
  """
  check_labels(labels, soft, place)
  known = {(text.first, text.second) for text in soft.texts}
  missing = sum((text.first, text.second) not in known for text in texts)
  if missing:
    raise InputError(
        "{} lacks {} of the {} texts of --eval_file; label the texts of "
        "--eval_file with --predict_file".format(place, missing, len(texts)))


def check_labels(labels: Sequence[str], soft: SoftLabels, place: str) -> None:
  """Raises InputError if soft labels lack one of `labels`."""
  unknown = sorted(set(labels) - set(soft.labels))
  if unknown:
    raise InputError(
        "{} has the labels {}, but not {} of the labelled texts; train the "
        "teacher on the same labels".format(
            place, listed(soft.labels), listed(unknown)))

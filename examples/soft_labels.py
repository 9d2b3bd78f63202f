"""Files of soft labels, and the training examples that are made with them.

A file of soft labels is UTF-8 text, tab-separated:

  p(negative)<TAB>p(positive)<TAB>text
  0.0312<TAB>0.9688<TAB>a film to see again

The header names a column for each label, then the text. A second text column,
text_2, stands in files with pairs of texts; it is empty where a line has one
text. N is the number of texts, L the number of labels.
"""

import math
from typing import Iterable, List, NamedTuple, Sequence, Tuple

import numpy as np

from examples.text_files import BYTE_ORDER_MARK, listed, Text
from records import manifest
from util import files
from util.command_line import InputError

_TEXT_COLUMNS = (["text"], ["text", "text_2"])
# By how much the probabilities of a line may miss a sum of 1: rounding to two
# digits, of a few labels.
_MAX_SUM_ERROR = 0.02
# Characters of a line that an error quotes.
_MAX_QUOTED = 60


class SoftLabels(NamedTuple):
  """Content of a file of soft labels.

  Attributes:
    labels: the L labels, in the order of the columns.
    texts: the N texts, without labels.
    probabilities: float32 [N, L], each row has the sum 1.
  """
  labels: Sequence[str]
  texts: Sequence[Text]
  probabilities: np.ndarray


class Mixture(NamedTuple):
  """Texts to train on, with labels of both kinds.

  Attributes:
    texts: N of them, each with its true label, or without a true label the
      teacher's most probable one.
    probabilities: float32 [N, L]; zeros where there is no soft label.
    hard_weights: float32 [N], the weight of the true label: 0 where there is
      none, 1 where there is no soft label.
    num_labelled: how many texts, the first ones, have a true label.
    num_both: how many of these have a soft label too.
  """
  texts: List[Text]
  probabilities: np.ndarray
  hard_weights: np.ndarray
  num_labelled: int
  num_both: int


def header(labels: Sequence[str], has_pairs: bool) -> str:
  """Returns the first line of a file, without its end."""
  return "\t".join([*map("p({})".format, labels), *_TEXT_COLUMNS[has_pairs]])


def row(text: Text, probabilities: Iterable[float], has_pairs: bool) -> str:
  """Returns the line of a text, without its end.

  Args:
    text: its label is not written.
    probabilities: L of them.
    has_pairs: whether the file has a column of second texts.
  """
  return "\t".join([*map("{:.6g}".format, probabilities), text.first,
                    *([text.second] if has_pairs else [])])


def read(path: str, flag: str) -> SoftLabels:
  """Reads a file of soft labels.

  Args:
    path: of the file; a byte-order mark and CRLF are tolerated.
    flag: name of the flag that named it, for errors.

  Raises:
    InputError: a line has another form, there are none, or the file was cut.
  """
  files.check_file(path, flag)
  manifest.read_manifest(path)  # Raises an error where the file was cut.
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
        "--{}: {} has a header and no texts; label some with "
        "--predict_file".format(flag, path))
  values = np.array(probabilities, np.float64)
  return SoftLabels(
      labels, texts,
      (values / values.sum(axis=1, keepdims=True)).astype(np.float32))


def _parse_header(line: bytes, place: str) -> Tuple[List[str], int]:
  """Returns the labels that a header names, and its number of text columns."""
  cells = line.decode("utf-8", "replace").rstrip("\r\n").split("\t")
  labels = [cell[2:-1] for cell in cells
            if cell.startswith("p(") and cell.endswith(")")]
  if (len(labels) < 2 or len(set(labels)) < len(labels)
      or cells[len(labels):] not in _TEXT_COLUMNS):
    raise InputError(
        "{} begins with {!r}, which is no header of soft labels; expected is "
        "p(LABEL) for each of two or more labels, then text, separated by "
        "tabs; write the file with --predict_file and --output_file".format(
            place, "\t".join(cells)[:_MAX_QUOTED]))
  return labels, len(cells) - len(labels)


def _parse_row(line: bytes, num_labels: int, num_texts: int,
               place: str) -> Tuple[Text, List[float]]:
  """Returns the text of a line and its probabilities."""
  try:
    cells = line.decode("utf-8").rstrip("\r\n").split("\t")
  except UnicodeDecodeError as error:
    raise InputError("{} is not UTF-8 text ({}); {}".format(
        place, error, files.encoding_advice(line))) from None
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
        "{} begins with {}, which are not probabilities with the sum 1; write "
        "the file again with --predict_file".format(
            place, ", ".join(cells[:num_labels])[:_MAX_QUOTED]))
  return Text(*texts), numbers


def mix(training: Sequence[Text], soft: SoftLabels,
        hard_label_weight: float) -> Mixture:
  """Joins texts with true labels and texts with soft labels.

  A text of both gets both of its labels. Texts are equal where all of their
  characters are. The texts of `training` come first, those that have only
  soft labels follow.

  Args:
    training: texts with true labels; may be empty.
    soft: the teacher's labels.
    hard_label_weight: weight of the true label of a text that has both.
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
  """Raises the temperature of distributions.

  The softmax of z / T is the softmax of z to the power of 1 / T, normalised
  (Hinton et al. 2015, arXiv 1503.02531).

  Args:
    probabilities: float32 [N, L]; rows of zeros stay as they are.
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
  """Returns how often a classifier and its teacher choose the same label.

  Args:
    texts: N texts, which `soft` covers.
    label_ids: int [N], what the classifier chooses.
    labels: the labels in the order of their ids.
    soft: the teacher's labels, of these texts and perhaps of more.
  """
  guesses = {(text.first, text.second): soft.labels[index] for text, index in
             zip(soft.texts, soft.probabilities.argmax(axis=1))}
  return float(np.mean([guesses[text.first, text.second] == labels[label_id]
                        for text, label_id in zip(texts, label_ids)]))


def check_covers(texts: Sequence[Text], labels: Sequence[str],
                 soft: SoftLabels, place: str) -> None:
  """Checks that each text to evaluate on has a soft label.

  Args:
    texts: those to evaluate on.
    labels: those of the classifier.
    soft: the teacher's labels.
    place: flag and path of the soft labels, for errors.

  Raises:
    InputError: a text has none, or the labels are others.
  """
  check_labels(labels, soft, place)
  known = {(text.first, text.second) for text in soft.texts}
  missing = sum((text.first, text.second) not in known for text in texts)
  if missing:
    raise InputError(
        "{} lacks {} of the {} texts of --eval_file; label the texts of that "
        "file with --predict_file".format(place, missing, len(texts)))


def check_labels(labels: Sequence[str], soft: SoftLabels, place: str) -> None:
  """Raises InputError where soft labels are of other labels."""
  unknown = sorted(set(labels) - set(soft.labels))
  if unknown:
    raise InputError(
        "{} has the labels {}, but not {}, which is a label of the examples; "
        "the teacher must be trained on the same labels".format(
            place, listed(soft.labels), listed(unknown)))

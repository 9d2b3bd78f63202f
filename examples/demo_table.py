r"""Compares the classifiers of the demo on held-out sentences.

  python examples/demo_table.py --demo_dir demo/600_steps_seed_1

Prints the result in words, a row for each classifier, and the answers of all
classifiers to a sentence of each package. demo_dir holds the sentences of
examples/demo_corpus.py in sentences/, and in classifiers/ a folder of
examples/fine_tune_classifier.py for each classifier.
"""

import math
import os
import pathlib
import sys
import textwrap
import time
from typing import Dict, List, NamedTuple, Sequence, Tuple

if __name__ == "__main__":  # TensorFlow reads this once, while it is imported.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
# pylint: disable=wrong-import-position
from distillation import checkpoints
from distillation import devices
from examples import classifier_folder
from examples.classification import Classifier
from examples.text_files import read_texts, Text
import modeling
from util import command_line
from util import files

_COLUMNS = ("classifier", "true labels", "soft labels", "accuracy",
            "parameters", "sentences/s")
_WIDTH = 79


class Row(NamedTuple):
  """A classifier of the demo.

  Attributes:
    name: name for people.
    folder: subfolder of classifiers/.
    labelled: file of its training sentences with true labels.
    soft_labelled: file of the sentences that the teacher labelled, or "".
  """
  name: str
  folder: str
  labelled: str
  soft_labelled: str = ""


_TEACHER = Row("teacher", "teacher", "labelled.tsv")
_FEW = Row("student, few labels", "few_labels", "few.tsv")
_DISTILLED = Row("student, distilled", "distilled", "few.tsv", "texts.txt")
_SAME = Row("student, teacher's labels", "teachers_labels", "labelled.tsv")
_ROWS = (_TEACHER, _FEW, _DISTILLED, _SAME)


class Answers(NamedTuple):
  """Answers of a classifier to N sentences.

  Attributes:
    labels: the most probable label of each sentence.
    probabilities: float [N], the probabilities of these labels.
    accuracy: share of the sentences whose label is the true label.
    num_parameters: number of parameters of the encoder and its heads.
    speed: sentences per second.
  """
  labels: Sequence[str]
  probabilities: np.ndarray
  accuracy: float
  num_parameters: int
  speed: float


def define_flags() -> None:
  """Defines the flags of the script."""
  flags.DEFINE_string("demo_dir", None, "Folder of a run of demo.sh.")


def ask(folder: str, texts: Sequence[Text]) -> Answers:
  """Classifies sentences.

  Args:
    folder: folder of a classifier.
    texts: sentences with their true labels.

  Raises:
    InputError: if the folder holds no finished classifier.
  """
  model = classifier_folder.load(folder, "demo_dir")
  examples = model.encoding.encode(texts)
  with Classifier(
      model.config, len(model.encoding.labels), devices.DeviceOptions("fp32"),
      os.path.join(folder, checkpoints.CHECKPOINT_FILE)) as classifier:
    classifier.predict(examples)  # Warms up.
    start = time.perf_counter()
    log_probabilities = classifier.predict(examples)
    seconds = time.perf_counter() - start
  labels = [model.encoding.labels[index]
            for index in log_probabilities.argmax(axis=1)]
  return Answers(
      labels, np.exp(log_probabilities.max(axis=1)),
      float(np.mean([label == text.label
                     for label, text in zip(labels, texts)])),
      sum(math.prod(size)
          for size in modeling.variable_shapes(model.config).values()),
      len(texts) / seconds)


def count_lines(path: str) -> int:
  """Returns the number of lines of a file."""
  with open(path, "rb") as file:
    return sum(1 for _ in file)


def table(rows: Sequence[Sequence[str]]) -> str:
  """Returns rows with aligned columns, the first one to the left."""
  widths = [max(map(len, column)) for column in zip(*rows)]
  return "".join(
      "  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])])
      + "\n" for name, *cells in rows)


def differences(texts: Sequence[Text], few: Answers,
                distilled: Answers) -> Tuple[str, List[int]]:
  """Compares the two students with few labels.

  Args:
    texts: N sentences with their true labels.
    few: answers of the student without soft labels.
    distilled: answers of the distilled student.

  Returns:
    A sentence with the number of different answers, and for each true label
    the index of the first sentence with different answers.
  """
  differ = [i for i, (one, other) in enumerate(
      zip(few.labels, distilled.labels)) if one != other]
  num_right = [sum(each.labels[i] == texts[i].label for i in differ)
               for each in (distilled, few)]
  first: Dict[str, int] = {}
  for i in differ:
    first.setdefault(texts[i].label, i)
  return (
      "The two students with {} differ on {} sentences. The distilled student "
      "classifies {} of these correctly, the other student {}. The first "
      "sentence of each package:".format(
          _FEW.name.partition(", ")[2], len(differ), *num_right),
      sorted(first.values()))


def main() -> None:
  demo_dir = flags.FLAGS.demo_dir
  sentences = os.path.join(demo_dir, "sentences")
  names = {name for row in _ROWS for name in (row.labelled, row.soft_labelled)
           if name}
  for name in names:
    files.check_file(os.path.join(sentences, name), "demo_dir")
  counts = {"": "", **{name: "{:,}".format(count_lines(
      os.path.join(sentences, name))) for name in names}}
  texts = read_texts(os.path.join(sentences, "heldout.tsv"), "demo_dir")
  answers = [ask(os.path.join(demo_dir, "classifiers", row.folder), texts)
             for row in _ROWS]
  accuracies = {row: each.accuracy for row, each in zip(_ROWS, answers)}
  sys.stdout.write(textwrap.fill(
      "With {} labelled sentences, the student classifies {:.1%} of {:,} "
      "held-out sentences correctly. With the teacher's soft labels of {} "
      "sentences, the student classifies {:.1%}. The teacher was fine-tuned on "
      "{} labelled sentences and classifies {:.1%}.".format(
          counts[_FEW.labelled], accuracies[_FEW], len(texts),
          counts[_DISTILLED.soft_labelled], accuracies[_DISTILLED],
          counts[_TEACHER.labelled], accuracies[_TEACHER]), _WIDTH) + "\n\n")
  sys.stdout.write(table([_COLUMNS, *(
      (row.name, counts[row.labelled], counts[row.soft_labelled],
       "{:.1%}".format(each.accuracy), "{:,}".format(each.num_parameters),
       "{:.0f}".format(each.speed)) for row, each in zip(_ROWS, answers))]))
  words, indices = differences(
      texts, *(answers[_ROWS.index(row)] for row in (_FEW, _DISTILLED)))
  sys.stdout.write("\n" + textwrap.fill(words, _WIDTH) + "\n")
  for i in indices:
    sys.stdout.write("\n{}\n".format(textwrap.fill(texts[i].first, _WIDTH)))
    sys.stdout.write(table([("  truth", texts[i].label, ""), *(
        ("  " + row.name, each.labels[i],
         "{:.0%}".format(each.probabilities[i]))
        for row, each in zip(_ROWS[:-1], answers))]))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("demo_dir",))

"""Tests of labelling files of texts: whole, resumed and refused files."""

import numpy as np
import pytest

from examples import label_texts
from examples import soft_labels
from examples.text_files import Text
from records import manifest
from util.command_line import InputError


class _Encoding:
  """An encoding whose examples are the texts."""
  labels = ("no", "yes")

  def encode(self, texts):
    return list(texts)


class _Classifier:
  """Gives "yes" a probability of 0.01 * (number of the text % 97).

  Attributes:
    labelled: the texts labelled so far; `predict` fails after `stop_after`.
  """

  def __init__(self, stop_after=None):
    self.labelled = []
    self._stop_after = stop_after

  def predict(self, examples):
    if self._stop_after is not None and (
        len(self.labelled) >= self._stop_after):
      raise KeyboardInterrupt
    self.labelled += examples
    shares = np.array([int(text.first) % 97 / 100 for text in examples])
    with np.errstate(divide="ignore"):
      return np.log(np.stack([1 - shares, shares], axis=1))


def _job(path, texts, digest="a"):
  return label_texts.LabelJob(texts, str(path), manifest.Manifest(
      "fine_tune_classifier", {}, {"output_dir": digest}, {}, 0))


_TEXTS = [Text(str(number)) for number in range(2500)]


def test_a_stopped_run_resumes_with_the_same_bytes(tmp_path):
  whole, resumed = tmp_path / "a.tsv", tmp_path / "b.tsv"
  label_texts.label_file(_Classifier(), _Encoding(), _job(whole, _TEXTS))
  with pytest.raises(KeyboardInterrupt):
    label_texts.label_file(
        _Classifier(2048), _Encoding(), _job(resumed, _TEXTS))
  assert not resumed.exists()
  partial = tmp_path / ".b.tsv.partial"
  # A kill may cut the hidden file within a block and within a line.
  partial.write_bytes(partial.read_bytes()[:-30])
  classifier = _Classifier()
  label_texts.label_file(classifier, _Encoding(), _job(resumed, _TEXTS))
  assert classifier.labelled == _TEXTS[1024:]
  assert resumed.read_bytes() == whole.read_bytes()
  assert {path.name for path in tmp_path.iterdir()} == {
      "a.tsv", "a.tsv.json", "b.tsv", "b.tsv.json"}
  soft = soft_labels.read(str(whole), "soft_label_file")
  assert soft.texts == _TEXTS
  assert soft.probabilities[350].tolist() == pytest.approx([0.41, 0.59])
  assert manifest.read_manifest(str(whole)).num_records == 2500


def test_labels_of_another_model_are_not_resumed(tmp_path):
  path = tmp_path / "a.tsv"
  with pytest.raises(KeyboardInterrupt):
    label_texts.label_file(_Classifier(2048), _Encoding(), _job(path, _TEXTS))
  classifier = _Classifier()
  label_texts.label_file(classifier, _Encoding(), _job(path, _TEXTS, "b"))
  assert classifier.labelled == _TEXTS


def test_pairs_have_a_column_of_second_texts(tmp_path):
  path = tmp_path / "a.tsv"
  label_texts.label_file(_Classifier(), _Encoding(), _job(
      path, [Text("50", "x"), Text("0")]))
  assert path.read_bytes() == (
      b"p(no)\tp(yes)\ttext\ttext_2\n0.5\t0.5\t50\tx\n1\t0\t0\t\n")


def test_texts_and_pairs_are_read(tmp_path):
  path = tmp_path / "texts.txt"
  path.write_bytes(b"\xef\xbb\xbfa film\r\n\r\nno\tit was\n")
  assert label_texts.read_texts(str(path), ["no", "yes"]) == [
      Text("a film"), Text("no", "it was")]


@pytest.mark.parametrize("content, words", [
    (b"\n", ("holds no texts", "one text per line")),
    (b"a\n\xe4\n", ("line 2 is not UTF-8",)),
    (b"a\tb\tc\n", ("line 1 has 3 texts",)),
    (b"no\ta\n\nyes\tb\n", ("begins with a label", "cut -f 2-")),
])
def test_bad_files_of_texts_are_refused(tmp_path, content, words):
  path = tmp_path / "texts.txt"
  path.write_bytes(content)
  with pytest.raises(InputError) as error:
    label_texts.read_texts(str(path), ["no", "yes"])
  for word in ("--predict_file: ", str(path), *words):
    assert word in str(error.value)

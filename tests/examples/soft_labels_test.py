"""Tests of soft labels: their files, and their mixture with true labels."""

import numpy as np
import pytest
import tensorflow as tf

from examples import classification
from examples import soft_labels
from examples.classification import SoftTargets
from examples.text_files import Text
from util.command_line import InputError

_HEADER = b"p(no)\tp(yes)\ttext\n"


def _read(tmp_path, content):
  path = tmp_path / "soft.tsv"
  path.write_bytes(content)
  return soft_labels.read(str(path), "soft_label_file")


def _soft(texts, probabilities):
  return soft_labels.SoftLabels(
      ["no", "yes"], [Text(*text.split("|")) for text in texts],
      np.array(probabilities, np.float32))


@pytest.mark.parametrize("has_pairs", [False, True])
def test_reading_is_the_inverse_of_writing(tmp_path, has_pairs):
  texts = [Text("a film"), Text("b\u2028", "c" if has_pairs else "")]
  rows = [[0.25, 0.75], [1e-9, 1 - 1e-9]]
  soft = _read(tmp_path, "".join(line + "\n" for line in (
      soft_labels.header(["a b", "p(x)"], has_pairs),
      *(soft_labels.row(text, row, has_pairs)
        for text, row in zip(texts, rows)))).encode())
  assert soft.labels == ["a b", "p(x)"]
  assert soft.texts == texts
  np.testing.assert_allclose(soft.probabilities, rows, rtol=1e-6)


def test_lines_of_a_file():
  assert soft_labels.header(["no", "yes"], False) == "p(no)\tp(yes)\ttext"
  assert soft_labels.header(["no", "yes"], True) == (
      "p(no)\tp(yes)\ttext\ttext_2")
  assert soft_labels.row(Text("a", "", "no"), [1 / 3, 2 / 3], False) == (
      "0.333333\t0.666667\ta")
  assert soft_labels.row(Text("a"), [1e-7, 1.0], True) == "1e-07\t1\ta\t"


def test_a_file_of_another_editor(tmp_path):
  """The file has a byte-order mark, CRLF, a blank line and few digits."""
  soft = _read(tmp_path, b"\xef\xbb\xbf" + _HEADER.replace(b"\n", b"\r\n")
               + b"0.33\t0.66\ta\r\n\r\n1\t0\tb")
  assert soft.texts == [Text("a"), Text("b")]
  np.testing.assert_allclose(
      soft.probabilities, [[1 / 3, 2 / 3], [1, 0]], rtol=1e-6)


@pytest.mark.parametrize("content, words", [
    (b"", ("begins with ''", "no header of soft labels")),
    (b"no\ta film\n", ("begins with 'no\\ta film'",)),
    (b"p(no)\ttext\n", ("two or more labels",)),
    (b"p(no)\tp(no)\ttext\n", ("no header of soft labels",)),
    (b"p(no)\tp(yes)\ttext\tlabel\n", ("no header of soft labels",)),
    (_HEADER, ("a header and no texts",)),
    (_HEADER + b"0.5\t0.5\ta\tb\n",
     ("line 2 has 4 columns, not 2 probabilities and a text",)),
    (_HEADER + b"0.5\t0.5\n", ("line 2 has 2 columns",)),
    (_HEADER + b"1\t0\ta\n0.5\t0.5\t \n", ("line 3 has 3 columns",)),
    (_HEADER + b"0.5\tx\ta\n", ("begins with 0.5, x", "probabilities")),
    (_HEADER + b"nan\t1\ta\n", ("begins with nan, 1",)),
    (_HEADER + b"-0.5\t1.5\ta\n", ("begins with -0.5, 1.5",)),
    (_HEADER + b"0.6\t0.7\ta\n", ("with the sum 1",)),
    (_HEADER + b"0.5\t0.5\t\xe4\n", ("line 2 is not UTF-8", "-f latin1")),
    (_HEADER.decode().encode("utf-16"), ("line 1 is not", "-f utf-16 -t")),
    (_HEADER.decode().encode("utf-16-le"), ("1 has NULs", "-f utf-16le")),
])
def test_bad_files_of_soft_labels_are_refused(tmp_path, content, words):
  with pytest.raises(InputError) as error:
    _read(tmp_path, content)
  for word in ("--soft_label_file: ", "soft.tsv", *words):
    assert word in str(error.value)


def test_equal_texts_have_the_mean_of_their_probabilities(tmp_path):
  soft = _read(tmp_path, _HEADER.replace(b"text", b"text\ttext_2") + (
      b"0.75\t0.25\ta\t\n1\t0\tb\t\n0\t1\ta\t\n0.5\t0.5\ta\tb\n"))
  assert [text.first for text in soft.texts] == ["a", "b", "a", "a"]
  assert soft.probabilities.tolist() == [
      [.375, .625], [1, 0], [.375, .625], [.5, .5]]
  # The evaluation and the training read the same labels.
  assert soft_labels.agreement(
      [Text("a")], np.array([1]), ["no", "yes"], soft) == 1
  mixture = soft_labels.mix([], soft, 0.5)
  assert [text.label for text in mixture.texts] == ["yes", "no", "yes", "no"]
  mixture = soft_labels.mix([Text("a", "", "no")], soft, 0.5)
  assert [text.first for text in mixture.texts] == ["a", "b", "a"]
  assert mixture.probabilities.tolist() == [[.375, .625], [1, 0], [.5, .5]]


def test_a_cut_file_is_refused(tmp_path):
  (tmp_path / "soft.tsv.json").write_text(
      '{"stage": "a", "flags": {}, "fingerprints": {}, "sources": {}, '
      '"vocab_size": 0, "num_records": 2, "num_bytes": 99}')
  with pytest.raises(InputError, match="has 25 bytes, but 99 by its manifest"):
    _read(tmp_path, _HEADER + b"1\t0\tab\n")


# --- Mixing ------------------------------------------------------------------


def test_texts_of_both_files_get_both_labels():
  training = [Text("a", "", "no"), Text("b", "x", "yes"), Text("a", "", "yes")]
  mixture = soft_labels.mix(
      training, _soft(["a", "b", "c", "d"],
                      [[.75, .25], [.5, .5], [.25, .75], [1, 0]]), 0.25)
  # The text "b" differs from the pair "b" and "x".
  assert mixture.texts == [*training, Text("b", "", "no"), Text("c", "", "yes"),
                           Text("d", "", "no")]
  assert mixture.hard_weights.tolist() == [.25, 1, .25, 0, 0, 0]
  assert mixture.probabilities.tolist() == [
      [.75, .25], [0, 0], [.75, .25], [.5, .5], [.25, .75], [1, 0]]
  assert (mixture.num_labelled, mixture.num_both) == (3, 2)


def test_soft_labels_alone():
  mixture = soft_labels.mix(
      [], _soft(["a", "a"], [[.75, .25], [.25, .75]]), 0.5)
  assert [text.label for text in mixture.texts] == ["no", "yes"]
  assert mixture.hard_weights.tolist() == [0, 0]
  assert mixture.num_labelled == 0


def test_temperature():
  """At temperature 2, 0.64 and 0.04 become 0.8 and 0.2, their square roots."""
  probabilities = np.array(
      [[.64, .04, .32], [0, 0, 0], [0, 1, 0]], np.float32)
  softened = soft_labels.soften(probabilities[:, :2], 2)
  np.testing.assert_allclose(softened, [[.8, .2], [0, 0], [0, 1]], atol=1e-6)
  assert soft_labels.soften(probabilities, 1) is probabilities
  # Equals the softmax of logits divided by the temperature.
  logits = np.log(probabilities[:1])
  np.testing.assert_allclose(
      soft_labels.soften(probabilities[:1], 3),
      np.exp(logits / 3) / np.exp(logits / 3).sum(), rtol=1e-5)


def test_loss_by_hand():
  """Hard weights 1, 0 and 1/4; logits log 3 and 0 give 3/4 and 1/4."""
  soft = SoftTargets(
      np.array([[0, 0], [.5, .5], [1, 0]], np.float32),
      np.array([1, 0, .25], np.float32))
  logits = np.log([[3, 1], [3, 1], [9, 1]]).astype(np.float32)
  hard = np.array([.7, 99, .8], np.float32)

  def losses(temperature):
    return classification.mixed_losses(
        tf.constant(hard), tf.constant(logits), soft, temperature).numpy()

  np.testing.assert_allclose(losses(1.0), [
      .7, -(np.log(3 / 4) + np.log(1 / 4)) / 2,
      .25 * .8 - .75 * np.log(9 / 10)], rtol=1e-6)
  # At temperature 2, the last logits give 3/4 and 1/4; 4 is 2 squared.
  np.testing.assert_allclose(
      losses(2.0)[2], .25 * .8 - .75 * 4 * np.log(3 / 4), rtol=1e-6)


def test_batches_have_sequences_of_similar_length():
  generator = np.random.default_rng(1)
  order = np.concatenate([generator.permutation(4000) for _ in range(2)])[:6003]
  lengths = generator.integers(3, 48, 4000)
  grouped = classification.grouped_by_length(order, lengths, 8, seed=1)
  for start in range(0, 6003, 400):  # A window keeps its examples.
    assert sorted(grouped[start:start + 400]) == sorted(
        order[start:start + 400])

  def padded(indices):
    return sum(lengths[indices[i:i + 8]].max() * 8 for i in range(0, 6000, 8))

  assert padded(grouped) < 1.06 * lengths[order].sum() < 0.8 * padded(order)
  np.testing.assert_array_equal(
      grouped, classification.grouped_by_length(order, lengths, 8, seed=1))


def test_no_batch_has_an_example_twice():
  """With 96 examples, a longer window would have examples of two epochs."""
  schedule = classification.Schedule(1e-3, 96, 40.0, 16, seed=1)
  grouped = classification.grouped_by_length(
      schedule.order(), np.arange(96) % 5 + 3, 16, seed=1)
  for start in range(0, len(grouped), 16):
    assert len(set(grouped[start:start + 16])) == 16


def test_agreement_counts_equal_choices():
  soft = _soft(["a", "b", "c", "d"], [[.9, .1], [.2, .8], [.6, .4], [0, 1]])
  texts = [Text("c"), Text("b"), Text("a")]
  # The classifier has its labels in another order.
  assert soft_labels.agreement(
      texts, np.array([1, 1, 0]), ["yes", "no"], soft) == pytest.approx(1 / 3)
  soft_labels.check_covers(texts, ["yes", "no"], soft, "here")


@pytest.mark.parametrize("texts, labels, words", [
    (["a", "x", "y"], ["no"], ("here lacks 2 of the 3 texts",)),
    (["a"], ["no", "maybe"], ("has the labels 'no', 'yes'", "not 'maybe'")),
])
def test_soft_labels_of_other_texts_are_refused(texts, labels, words):
  with pytest.raises(InputError) as error:
    soft_labels.check_covers([Text(text) for text in texts], labels,
                             _soft(["a"], [[1, 0]]), "here")
  for word in words:
    assert word in str(error.value)

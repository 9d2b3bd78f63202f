"""Tests of fine_tune_classifier.py: its parts, and runs on a tiny BERT."""

import dataclasses
import json
import random
import re
import select
import signal
import subprocess
import sys

import hypothesis
from hypothesis import strategies
import numpy as np
import pytest

from distillation import devices
from examples import classification
from examples import classifier_options
from examples import fine_tune_classifier as script
from examples import text_files
from examples.classification import Classifier, Schedule
from examples.text_files import Text
import processes
import tiny
import tokenization
from util import files
from util.command_line import InputError

_PATH = "examples/fine_tune_classifier.py"
_VOCABULARY = """[PAD] [UNK] [CLS] [SEP] [MASK] good bad the a film play was is
not so very it we saw and of with actor scene ##s ##ly , . long""".split()
_NEUTRAL = ("the a film films play was is so very it we saw and of with actor "
            "scene scenes , .").split()
_OUTPUTS = {
    "bert_config.json", "bert_model.ckpt.data-00000-of-00001",
    "bert_model.ckpt.index", "confusion.txt", "eval_results.txt",
    "fine_tuning.json", "labels.txt", "vocab.txt"}
_RATES = ("--learning_rate", "1e-9,0.003")


# --- Examples ----------------------------------------------------------------


@pytest.mark.parametrize("line, text", [
    (b"good\ta film\n", Text("a film", "", "good")),
    (b"good\ta film\tit was\r\n", Text("a film", "it was", "good")),
    (b" very good \t a film\t", Text(" a film", "", "very good")),
    ("gut\tschön\u2028 so\n".encode(),
     Text("schön\u2028 so", "", "gut")),
    (b"\n", None), (b"  \r\n", None), (b"", None),
])
def test_parse_line(line, text):
  assert text_files.parse_line(line, "here", is_labelled=True) == text


@pytest.mark.parametrize("line, text", [
    (b"a film\n", Text("a film")),
    (b"a film\tit was", Text("a film", "it was")),
    (b"\r\n", None),
])
def test_parse_line_without_a_label(line, text):
  assert text_files.parse_line(line, "here", is_labelled=False) == text


@pytest.mark.parametrize("line, is_labelled, message", [
    (b"a film\n", True, "here has no tab: 'a film'; write the label"),
    (b"\ta film\n", True, "here has an empty label"),
    (b" \ta film\n", True, "here has an empty label"),
    (b"good\t \n", True, "here has an empty text"),
    (b"\tb\n", False, "here has an empty text"),
    (b"good\ta\tb\tc\n", True, "here has 3 texts, not one or two"),
    (b"a\tb\tc\n", False, "here has 3 texts, not one or two"),
    (b"good\t\xff\n", True, "here is not UTF-8 text .* -f latin1 -t utf-8"),
    ("good\ta\n".encode("utf-16"), True, "not UTF-8 text .* -f utf-16 -t"),
    ("good\ta\n".encode("utf-16-be"), True, "has NULs.* -f utf-16be -t"),
    ("a\n".encode("utf-16-le"), False, "has NULs.* -f utf-16le -t"),
])
def test_a_line_of_another_form_is_refused(line, is_labelled, message):
  with pytest.raises(InputError, match=message):
    text_files.parse_line(line, "here", is_labelled)


def test_a_file_with_a_byte_order_mark_crlf_and_blank_lines(tmp_path):
  path = tmp_path / "train.tsv"
  path.write_bytes(b"\xef\xbb\xbfgood\ta\r\n\r\nbad\tb\tc\r\ngood\td")
  assert text_files.read_texts(str(path), "train_file") == [
      Text("a", "", "good"), Text("b", "c", "bad"),
      Text("d", "", "good")]


def test_a_file_with_one_label(tmp_path):
  path = tmp_path / "train.tsv"
  path.write_text("good\ta\ngood\tb\n")
  texts = text_files.read_texts(str(path), "train_file", min_labels=1)
  assert [text.label for text in texts] == ["good", "good"]
  with pytest.raises(InputError, match="have the label 'good'.* two labels"):
    text_files.read_texts(str(path), "train_file")


@hypothesis.given(
    strategies.integers(0, 12), strategies.integers(0, 12),
    strategies.integers(2, 14))
def test_pairs_are_truncated_as_bert_does(first, second, limit):
  """Removes tokens of the longer text, else of the second, until both fit."""
  lengths = [first, second]
  while sum(lengths) > limit:
    lengths[0 if lengths[0] > lengths[1] else 1] -= 1
  assert classification.truncated_lengths(
      first, second, limit) == tuple(lengths)


def _encoding(labels=("bad", "good"), max_seq_length=8):
  vocab = {token: index for index, token in enumerate(_VOCABULARY)}
  return classification.Encoding(
      tokenization.FullTokenizer.from_vocab(vocab), labels, max_seq_length)


def test_sequences_of_texts_and_pairs():
  examples = _encoding().encode([
      Text("The films", "", "good"),
      Text("a film", "it was", "bad"),
      Text("a film was so very good", "", "bad"),
      Text("a film was so very good", "we saw it", "good"),
      Text("a", "  ", "good")])
  tokens = [" ".join(_VOCABULARY[i] for i in ids) for ids in examples.token_ids]
  assert tokens == [
      "[CLS] the film ##s [SEP]", "[CLS] a film [SEP] it was [SEP]",
      "[CLS] a film was so very good [SEP]",
      "[CLS] a film was [SEP] we saw [SEP]", "[CLS] a [SEP]"]
  assert examples.first_lengths.tolist() == [5, 4, 8, 5, 3]
  assert examples.label_ids.tolist() == [1, 0, 0, 1, 1]


def test_a_batch_is_padded_to_the_longest_sequence():
  examples = _encoding(max_seq_length=10).encode([
      Text("a film", "it was", "bad"),
      Text("a film was so very good and", "", "good")])
  inputs = classification.batch(examples, max_columns=16)
  assert inputs.input_ids.shape == (2, 16)  # 9 is padded to 16.
  assert inputs.input_mask.sum(axis=1).tolist() == [7, 9]
  assert inputs.segment_ids[0].tolist() == [0] * 4 + [1] * 3 + [0] * 9
  assert not inputs.segment_ids[1].any()
  assert not inputs.input_ids[0, 7:].any()
  batch = classification.batch(examples, max_columns=10)
  assert batch.input_ids.shape == (2, 10)
  assert classification.batch(examples.take([0]), 16).input_ids.shape == (1, 8)


def test_a_tenth_of_each_label_is_held_back():
  label_ids = np.array([0] * 34 + [1] * 35 + [2] * 4 + [3] * 5)
  is_held_out = classification.hold_out(label_ids, seed=1)
  # Rounded to the nearest: 3.4, 3.5, 0.4 and 0.5.
  assert np.bincount(label_ids[is_held_out], minlength=4).tolist() == [
      3, 4, 0, 1]
  np.testing.assert_array_equal(
      is_held_out, classification.hold_out(label_ids, seed=1))
  assert (is_held_out != classification.hold_out(label_ids, seed=2)).any()


@pytest.mark.parametrize("num_epochs, num_reads, num_steps", [
    (2.5, 25, 7), (1, 10, 3), (0.01, 1, 1)])
def test_each_epoch_reads_each_example_once(num_epochs, num_reads, num_steps):
  schedule = Schedule(1e-3, 10, num_epochs, 4, seed=1)
  order = schedule.order()
  assert schedule.num_steps == num_steps
  assert len(order) == num_reads
  for start in range(0, num_reads - 9, 10):
    assert sorted(order[start:start + 10]) == list(range(10))
  assert len(set(order[num_reads // 10 * 10:])) == num_reads % 10


# --- Figures -----------------------------------------------------------------


@pytest.mark.parametrize("num_correct, num_examples, low, high", [
    # (81 + z²/2) / (263 + z²) ± z sqrt(81 * 182 / 263 + z²/4) / (263 + z²), as
    # in Newcombe 1998, table I.
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
    (20, 20, 0.8389, 1.0),
])
def test_wilson_interval(num_correct, num_examples, low, high):
  interval = classification.wilson_interval(num_correct, num_examples)
  assert interval == pytest.approx((low, high), abs=5e-5)
  assert interval.low <= num_correct / num_examples <= interval.high


def test_evaluation():
  probabilities = np.array(
      [[.5, .25, .25], [.25, .5, .25], [.125, .125, .75], [.25, .5, .25],
       [.25, .25, .5]])
  figures = classification.evaluate(
      np.log(probabilities).astype(np.float32), np.array([0, 0, 2, 1, 1]))
  assert figures.confusion.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 1]]
  # The true labels have the probabilities 1/2, 1/4, 3/4, 1/2 and 1/4.
  assert figures.loss == pytest.approx(-np.log(3 / 256) / 5)
  assert figures.report("a.tsv", ["no", "maybe", "y"]) == """\
a.tsv: accuracy 0.6000 (95% interval 0.2307 to 0.8824), 3 of 5 correct, \
loss 0.8893

Rows: true label; columns: predicted label.
       no  maybe  y
no      1      1  0
maybe   0      1  1
y       0      0  1
"""
  results = figures.results()
  assert results["accuracy"] == 0.6
  assert results["num_examples"] == 5


@pytest.mark.parametrize("text, rates", [
    ("5e-5", [5e-5]), ("5e-5, 2e-05,3e-5", [2e-5, 3e-5, 5e-5])])
def test_learning_rates(text, rates):
  assert classifier_options.parse_rates(text) == rates


# --- The classifier ----------------------------------------------------------


def test_predictions_do_not_depend_on_the_batch():
  texts = [Text("a film", "it was"), Text("so very good"),
           Text("a"), Text("we saw the play", "scenes of it")]
  encoding = _encoding(max_seq_length=13)
  with Classifier(tiny.CONFIG, 3, devices.DeviceOptions(), None,
                  Schedule(1e-3, 4, 1.0, 4, 1)) as classifier:
    together = classifier.predict(encoding.encode(texts))
    one_by_one = [classifier.predict(encoding.encode([text])) for text in texts]
  assert together.shape == (4, 3)
  np.testing.assert_allclose(together, np.concatenate(one_by_one), atol=1e-6)
  np.testing.assert_allclose(np.exp(together).sum(axis=1), 1, atol=1e-6)


def test_a_classifier_starts_from_the_encoder_of_another(tmp_path):
  """Its dense layer, for other labels, is initialised from scratch."""
  variables = {
      name: value for name, value in tiny.random_variables().items()
      if name.startswith("bert/")}
  head = {"output_weights": np.ones([5, 8], np.float32),
          "output_bias": np.ones([5], np.float32)}
  start = tiny.write_checkpoint(tmp_path / "start.ckpt", {**variables, **head})
  schedule = Schedule(1e-3, 4, 1.0, 4, 1)
  with Classifier(tiny.CONFIG, 2, devices.DeviceOptions(), str(start),
                  schedule) as classifier:
    classifier.save(str(tmp_path / "saved.ckpt"))
  saved = tiny.read_checkpoint(tmp_path / "saved.ckpt")
  assert set(saved) == {*variables, *head}
  for name, value in variables.items():
    np.testing.assert_array_equal(saved[name], value)
  assert saved["output_weights"].shape == (2, 8)
  assert not saved["output_bias"].any()


# --- Whole runs --------------------------------------------------------------


def _write_examples(path, count, seed, is_pair=False):
  """Writes labelled texts; one word decides the label."""
  generator = random.Random(seed)
  lines = []
  for label in ["no", "so so\N{HORIZONTAL ELLIPSIS}"] * (count // 2):
    words = generator.choices(_NEUTRAL, k=generator.randint(2, 6))
    words.insert(generator.randint(0, len(words)),
                 "Bad" if label == "no" else "GOOD")
    if is_pair:
      words[len(words) // 2 - 1] += "\t"
    lines.append("{}\t{}\n".format(label, " ".join(words)))
  path.write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory):
  """A model and examples."""
  folder = tmp_path_factory.mktemp("inputs")
  tiny.write_config(folder / "bert_config.json", hidden_dropout_prob=0.1)
  (folder / "vocab.txt").write_text("\n".join(_VOCABULARY) + "\n")
  tiny.write_checkpoint(folder / "bert_model.ckpt", tiny.random_variables())
  _write_examples(folder / "train.tsv", 96, seed=1)
  _write_examples(folder / "heldout.tsv", 24, seed=2)
  _write_examples(folder / "pairs.tsv", 24, seed=3, is_pair=True)
  return folder


def _arguments(folder, output_dir, *more, start=True):
  """Returns the flags of a run; flags in `more` replace earlier flags."""
  arguments = [
      "--bert_config_file", folder / "bert_config.json",
      "--vocab_file", folder / "vocab.txt",
      "--train_file", folder / "train.tsv",
      "--eval_file", folder / "heldout.tsv", "--output_dir", output_dir,
      "--max_seq_length", 10, "--train_batch_size", 16,
      "--num_train_epochs", 40, "--learning_rate", 0.003]
  if start:
    arguments += ["--init_checkpoint", folder / "bert_model.ckpt"]
  return [*arguments, *more]


def _run(*arguments):
  result = tiny.run_script(_PATH, *arguments)
  assert result.returncode == 0, result.stderr
  return result


def _filter(output_dir, text, *arguments):
  """Runs the script with a text as stdin; returns the process."""
  return subprocess.run(
      [sys.executable, str(tiny.ROOT / _PATH), "--output_dir", str(output_dir),
       *arguments], input=text.encode(), capture_output=True, check=False)


def _digests(output_dir):
  return {path.name: files.fingerprint(str(path))
          for path in output_dir.iterdir() if path.is_file()}


@pytest.fixture(scope="module", name="trained")
def _trained(tmp_path_factory, folder):
  """The folder of a finished run with two learning rates, and the process."""
  output_dir = tmp_path_factory.mktemp("trained") / "out"
  return output_dir, _run(*_arguments(folder, output_dir, *_RATES))


def test_a_run_picks_the_best_rate_and_learns(trained):
  output_dir, result = trained
  results = tiny.read_results(output_dir)
  assert results["accuracy"] == results["accuracy_high"] == 1.0
  # The lower bound for 24 of 24 is 1 / (1 + z²/24).
  assert results["accuracy_low"] == pytest.approx(0.8620, abs=5e-5)
  assert results["loss"] < 0.1
  assert results["num_examples"] == 24
  assert results["learning_rate"] == 0.003
  assert results["dev_accuracy_1e-09"] < 0.9 <= results["dev_accuracy_0.003"]
  report = (output_dir / "confusion.txt").read_text(encoding="utf-8")
  assert result.stdout == report
  assert "accuracy 1.0000 (95% interval 0.8620 to 1.0000), 24 of 24" in report
  assert report.endswith("""
        no  so so…
no      12       0
so so…   0      12
""")
  assert result.stderr.count("epoch 1 of 40") == 3
  assert "\r" not in result.stderr  # No progress bar.


def test_the_folder_holds_the_model_without_slots(trained, folder):
  output_dir, _ = trained
  assert {path.name for path in output_dir.iterdir()} == _OUTPUTS
  assert (output_dir / "labels.txt").read_text(
      encoding="utf-8") == "no\nso so…\n"
  for name in ("bert_config.json", "vocab.txt"):
    assert (output_dir / name).read_bytes() == (folder / name).read_bytes()
  variables = tiny.read_checkpoint(output_dir / "bert_model.ckpt")
  assert set(variables) == {"output_weights", "output_bias"} | {
      name for name in tiny.random_variables() if name.startswith("bert/")}


def test_a_finished_run_changes_nothing(trained, folder):
  output_dir, _ = trained
  before = _digests(output_dir)
  result = _run(*_arguments(folder, output_dir, *_RATES))
  assert len(result.stderr.splitlines()) == 1
  assert "holds the finished classifier and its results" in result.stderr
  assert not result.stdout
  assert _digests(output_dir) == before


@pytest.mark.slow
def test_the_same_command_gives_the_same_bytes(tmp_path, trained, folder):
  output_dir, _ = trained
  _run(*_arguments(folder, tmp_path / "out", *_RATES))
  assert _digests(tmp_path / "out") == _digests(output_dir)


@pytest.mark.parametrize("flags, words", [
    (("--train_batch_size", 8), ("--train_batch_size=8", "16")),
    (("--num_train_epochs", 2), ("--num_train_epochs=2.0", "40.0")),
    (("--random_seed", 1), ("--random_seed=1", "12345")),
    (("--max_seq_length", 9), ("--max_seq_length=9", "10")),
    (("--init_checkpoint", ""), ("--init_checkpoint=", "another file")),
    (("--learning_rate", "0.003"), ("--learning_rate=0.003", "1e-09,0.003")),
])
def test_other_settings_are_refused(trained, folder, flags, words):
  output_dir, _ = trained
  before = _digests(output_dir)
  tiny.assert_one_line_error(
      tiny.run_script(_PATH, *_arguments(folder, output_dir, *_RATES, *flags)),
      output_dir, *words)
  assert _digests(output_dir) == before


def test_lines_of_stdin_are_labelled(trained):
  output_dir, _ = trained
  result = _filter(
      output_dir, "\ufeffthe film was Good\r\n\nit is bad\tso so\n"
      "a Good play\N{EM DASH}")
  assert result.returncode == 0, result.stderr
  assert not result.stderr
  rows = [line.split("\t") for line in result.stdout.decode().splitlines()]
  assert [[label, *texts] for label, _, *texts in rows] == [
      ["so so…", "the film was Good"], ["no", "it is bad", "so so"],
      ["so so…", "a Good play—"]]
  for _, probability, *_ in rows:
    assert re.fullmatch(r"0\.[5-9]\d{3}|1\.0000", probability)


def test_lines_of_a_pipe_are_labelled_as_they_come(trained):
  output_dir, _ = trained
  with processes.Script(
      tiny.ROOT / _PATH, "--output_dir", output_dir,
      stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
    for word, label in (("Good", "so so…"), ("Bad", "no")):
      process.stdin.write("so {} it was\n".format(word).encode())
      process.stdin.flush()
      assert select.select([process.stdout], [], [], 60)[0]
      assert process.stdout.readline().decode().split("\t")[0] == label
    process.stdin.close()
    assert not process.stdout.read()
  assert process.returncode == 0


@pytest.mark.slow
def test_many_lines_keep_their_order(trained):
  """The lines fill several batches and several reads."""
  output_dir, _ = trained
  words = random.Random(1).choices(["good", "bad"], k=9000)
  lines = ["the {} was {}".format("long " * (i % 4), word)
           for i, word in enumerate(words)]
  result = _filter(output_dir, "\n".join(lines))
  rows = [line.split("\t") for line in result.stdout.decode().splitlines()]
  assert [text for _, _, text in rows] == lines
  assert [label == "no" for label, *_ in rows] == [
      word == "bad" for word in words]


def test_a_bad_line_of_stdin_is_refused(trained):
  result = _filter(trained[0], "a\tb\nb\na\tb\tc\n")
  assert result.returncode == 1
  assert len(result.stderr.splitlines()) == 1
  assert b"stdin, line 3 has 3 texts" in result.stderr


@pytest.mark.slow
def test_evaluation_of_a_written_folder(tmp_path, trained, folder):
  """Evaluation replaces the results; the training's command restores them."""
  output_dir, _ = trained
  before = _digests(output_dir)
  other = tmp_path / "other.tsv"
  other.write_text("no\tso Good\nno\tso bad\n")
  result = _run("--output_dir", output_dir, "--eval_file", other)
  assert "accuracy 0.5000" in result.stdout
  results = tiny.read_results(output_dir)
  assert results["num_examples"] == 2
  assert results["dev_accuracy_1e-09"] < 0.9
  _run(*_arguments(folder, output_dir, *_RATES))
  assert _digests(output_dir) == before


@pytest.mark.slow
def test_pairs_are_learnt_from_scratch(tmp_path, folder):
  result = _run(*_arguments(
      folder, tmp_path / "out", "--train_file", folder / "pairs.tsv",
      "--eval_file", folder / "pairs.tsv", "--num_train_epochs", 150,
      "--learning_rate", "0.01", start=False))
  assert "24 of 24 texts are also training texts" in result.stderr
  results = tiny.read_results(tmp_path / "out")
  assert results["accuracy"] == 1.0
  assert not any(name.startswith("dev_") for name in results)


@pytest.mark.slow
def test_a_killed_run_keeps_the_finished_rates(tmp_path, folder):
  rates = ("--learning_rate", "1e-9,0.002,0.003", "--num_train_epochs", 150)
  notes = tmp_path / "out" / "fine_tuning.json"

  def candidates():
    return json.loads(notes.read_text())["candidates"] if notes.exists() else {}

  with processes.Script(
      tiny.ROOT / _PATH, *_arguments(folder, tmp_path / "out", *rates),
      stderr=subprocess.DEVNULL) as process:
    processes.wait_until(candidates, process)
    process.kill()
  finished = candidates()
  assert "1e-09" in finished and "0.003" not in finished
  assert not (tmp_path / "out" / "bert_model.ckpt.index").exists()
  tiny.assert_one_line_error(
      tiny.run_script(_PATH, "--output_dir", tmp_path / "out"),
      "holds no finished classifier")
  result = _run(*_arguments(folder, tmp_path / "out", *rates))
  assert "Learning rate 1e-09, epoch" not in result.stderr
  assert "Learning rate 0.003, epoch" in result.stderr
  assert candidates()["1e-09"] == finished["1e-09"]
  assert {path.name for path in (tmp_path / "out").iterdir()} == _OUTPUTS


@pytest.mark.slow
def test_an_interrupt_is_one_line(tmp_path, folder):
  notes = tmp_path / "out" / "fine_tuning.json"
  with processes.Script(
      tiny.ROOT / _PATH, "--verbosity=-1",
      *_arguments(folder, tmp_path / "out", "--num_train_epochs", 1000),
      stderr=subprocess.PIPE, text=True) as process:
    processes.wait_until(notes.exists, process)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate()
  assert process.returncode == 130
  assert error == ("fine_tune_classifier.py: interrupted; finished learning "
                   "rates are kept: run the same command again to resume\n")


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, folder):
  """A later run may leave the rate out."""
  result = tiny.run_script(_PATH, *_arguments(
      folder, tmp_path / "out", "--learning_rate", "0.003,1e38",
      "--verbosity=-1"))
  tiny.assert_one_line_error(
      result, "--learning_rate: the loss is NaN or infinite at step", "1e+38")
  notes = json.loads((tmp_path / "out" / "fine_tuning.json").read_text())
  assert list(notes["candidates"]) == ["0.003"]
  result = _run(*_arguments(folder, tmp_path / "out"))
  assert result.stderr.count("epoch 1 of 40") == 1


# --- Faults ------------------------------------------------------------------


def _options(folder, output_dir, **changes):
  """Returns the options of a training."""
  return dataclasses.replace(classifier_options.Options(
      output_dir=str(output_dir), train_file=str(folder / "train.tsv"),
      soft_label_file=None, temperature=1.0, hard_label_weight=0.5,
      eval_file=str(folder / "heldout.tsv"), eval_soft_label_file=None,
      predict_file=None, output_file=None, overwrite=False,
      bert_config_file=str(folder / "bert_config.json"),
      init_checkpoint=str(folder / "bert_model.ckpt"),
      vocab_file=str(folder / "vocab.txt"), do_lower_case=True,
      max_seq_length=10, train_batch_size=16, learning_rate="0.003",
      num_train_epochs=1.0, precision="fp32", random_seed=1), **changes)


def _assert_refused(folder, output_dir, changes, *words):
  """Checks that training is refused before anything is written.

  Args:
    folder: folder of the inputs.
    output_dir: output folder of the run.
    changes: values of options.
    *words: words of the error.
  """
  with pytest.raises(InputError) as error:
    script.fine_tune(_options(folder, output_dir, **changes))
  for word in words:
    assert word in str(error.value)
  assert not output_dir.exists()


@pytest.mark.parametrize("flag, lines, words", [
    ("train_file", b"no\ta\nyes b\n", ("line 2 has no tab",)),
    ("train_file", b"no\ta\n\n\tb\n", ("line 3 has an empty label",)),
    ("train_file", b"no\ta\nyes\tb\tc\td\n", ("line 2 has 3 texts",)),
    ("train_file", b"no\ta\nno\tb\n", ("all 2 lines", "'no'", "two labels")),
    ("train_file", b"\n \n", ("holds no examples",)),
    ("train_file", b"", ("holds no examples",)),
    ("train_file", b"no\ta\nyes\t\xe4\n", ("line 2 is not UTF-8",)),
    ("eval_file", b"no\ta\nyes\tb\n",
     ("line 2 has the label 'yes'", "'no', 'so so", "correct the label")),
    ("eval_file", b"\n", ("holds no examples",)),
])
def test_bad_files_are_refused(tmp_path, folder, flag, lines, words):
  path = tmp_path / "bad.tsv"
  path.write_bytes(lines)
  _assert_refused(folder, tmp_path / "out", {flag: str(path)},
                  "--{}: ".format(flag), str(path), *words)


@pytest.mark.parametrize("changes, words", [
    ({"train_file": "absent.tsv"}, ("--train_file: ", "absent.tsv")),
    ({"eval_file": "absent.tsv"}, ("--eval_file: ", "absent.tsv")),
    ({"bert_config_file": None}, ("--train_file needs --bert_config_file",)),
    ({"vocab_file": None}, ("--train_file needs --vocab_file",)),
    ({"max_seq_length": 17}, ("--max_seq_length=17", "16")),
    ({"learning_rate": "0.1,x"}, ("--learning_rate=0.1,x: 'x'",)),
    ({"learning_rate": "0"}, ("--learning_rate=0: '0'",)),
    ({"learning_rate": "inf"}, ("--learning_rate=inf: 'inf'",)),
    ({"learning_rate": "1e-3,0.001"}, ("has 0.001 twice",)),
    ({"num_train_epochs": 0.0}, ("--num_train_epochs=0.0",)),
    ({"init_checkpoint": "absent.ckpt"}, ("--init_checkpoint: absent.ckpt",)),
])
def test_bad_flags_are_refused(tmp_path, folder, changes, words):
  _assert_refused(folder, tmp_path / "out", changes, *words)


@pytest.mark.parametrize("flags, words", [
    (("--max_seq_length", 4), ("max_seq_length",)),
    (("--random_seed", -1), ("random_seed",)),
    (("--train_file", "absent.tsv"), ("--train_file", "absent.tsv")),
])
def test_a_fault_is_one_line(tmp_path, folder, flags, words):
  tiny.assert_one_line_error(
      tiny.run_script(_PATH, *_arguments(folder, tmp_path / "out", *flags)),
      *words)
  assert not (tmp_path / "out").exists()


def test_a_vocabulary_larger_than_the_model_is_refused(tmp_path, folder):
  vocab = tmp_path / "vocab.txt"
  vocab.write_text("\n".join([*_VOCABULARY, "more"]) + "\n")
  _assert_refused(folder, tmp_path / "out", {"vocab_file": str(vocab)},
                  "--vocab_file", "30 tokens", "vocab_size 29")


@pytest.mark.parametrize("size, words", [
    ({"intermediate_size": 16}, ("--init_checkpoint", "has shape")),
    ({"num_hidden_layers": 2},
     ("--init_checkpoint", "lacks 16 of", "bert/encoder/layer_1")),
])
def test_a_config_of_another_model_is_refused(tmp_path, folder, size, words):
  config = tiny.write_config(tmp_path / "bert_config.json", **size)
  _assert_refused(folder, tmp_path / "out", {"bert_config_file": str(config)},
                  *words)


def test_a_model_without_segments_reads_no_pairs(tmp_path, folder):
  config = tiny.write_config(tmp_path / "bert_config.json", type_vocab_size=1)
  _assert_refused(
      folder, tmp_path / "out",
      {"bert_config_file": str(config), "init_checkpoint": None,
       "eval_file": str(folder / "pairs.tsv")},
      "--eval_file", "pairs", "type_vocab_size 1")


def test_too_few_examples_to_choose_a_rate_are_refused(tmp_path, folder):
  path = tmp_path / "few.tsv"
  path.write_text("no\ta\n" * 4 + "so so…\tb\n" * 4, encoding="utf-8")
  _assert_refused(
      folder, tmp_path / "out",
      {"train_file": str(path), "learning_rate": "1e-9,0.003"},
      "--train_file", "at most 4 examples", "give one learning rate")


def test_soft_labels_allow_a_file_with_one_label(tmp_path, folder):
  train, soft = tmp_path / "one.tsv", tmp_path / "soft.tsv"
  train.write_text("no\ta film\n")
  soft.write_text("p(no)\tp(yes)\ttext\n0.25\t0.75\ta film\n0\t1\tb\n")
  inputs = script.check(
      _options(folder, tmp_path, train_file=str(train), eval_file=None,
               soft_label_file=str(soft)), ())
  assert inputs.encoding.labels == ["no", "yes"]
  assert [text.label for text in inputs.training] == ["no", "yes"]


def test_no_other_model_is_replaced(tmp_path, folder):
  """Here, the other model is the one that training starts from."""
  before = _digests(folder)
  tiny.assert_one_line_error(
      tiny.run_script(_PATH, *_arguments(folder, folder)),
      "--output_dir", "bert_config.json", "choose another folder")
  assert _digests(folder) == before


def test_a_folder_is_locked(tmp_path, folder):
  with files.locked_folder(str(tmp_path / "out")):
    tiny.assert_one_line_error(
        tiny.run_script(_PATH, *_arguments(folder, tmp_path / "out")),
        "is being written by another process")


@pytest.mark.slow
def test_a_folder_named_for_the_other_case_gives_a_warning(tmp_path, folder):
  model = tmp_path / "cased_L-1"
  model.mkdir()
  (model / "vocab.txt").write_bytes((folder / "vocab.txt").read_bytes())
  result = _run(*_arguments(
      folder, tmp_path / "out", "--vocab_file", model / "vocab.txt",
      "--num_train_epochs", 1, start=False))
  assert "--do_lower_case: the folder of" in result.stderr


@pytest.mark.parametrize("flags, words", [
    (("--max_seq_length", 9), ("--max_seq_length=9", "trained with 10")),
    (("--do_lower_case", "False"), ("--do_lower_case=False", "True")),
    (("--strip_accents", "False"), ("--strip_accents=False", "True")),
    (("--learning_rate", "1e-4"),
     ("--learning_rate=1e-4", "applies the classifier in --output_dir=")),
    (("--eval_file", "absent.tsv"), ("--eval_file", "absent.tsv")),
])
def test_bad_flags_for_a_finished_classifier_are_refused(trained, flags, words):
  tiny.assert_one_line_error(
      tiny.run_script(_PATH, "--output_dir", trained[0], *flags), *words)


def test_a_folder_without_a_classifier_is_refused(tmp_path):
  tiny.assert_one_line_error(
      tiny.run_script(_PATH, "--output_dir", tmp_path),
      "--output_dir", "holds no classifier", "--train_file")


@pytest.mark.parametrize("name, contents, words", [
    ("fine_tuning.json", b"{", ("fine_tuning.json is damaged",)),
    ("fine_tuning.json", b"{\"settings\": 1}", ("is damaged",)),
    ("labels.txt", b"a\nb\nc\n", ("does not fit the 3 labels",)),
    ("bert_model.ckpt.index", b"", ("not a readable checkpoint",)),
])
def test_a_damaged_folder_is_refused(tmp_path, trained, name, contents, words):
  for path in trained[0].iterdir():
    (tmp_path / path.name).write_bytes(path.read_bytes())
  (tmp_path / name).write_bytes(contents)
  tiny.assert_one_line_error(
      tiny.run_script(_PATH, "--output_dir", tmp_path), *words)

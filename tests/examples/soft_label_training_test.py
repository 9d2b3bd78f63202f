"""Tests of task distillation on a tiny BERT: label texts, then train."""

import random

import pytest

import tiny

_PATH = "examples/fine_tune_classifier.py"
_VOCABULARY = """[PAD] [UNK] [CLS] [SEP] [MASK] good bad the a film play was is
not so very it we saw and of with actor scene ##s ##ly , . long""".split()
_NEUTRAL = "the a film play was is so very it we saw and of with , .".split()


def _sentences(count, seed):
  """Returns labels and sentences; one word decides the label."""
  generator = random.Random(seed)
  pairs = []
  for index in range(count):
    words = generator.choices(_NEUTRAL, k=generator.randint(3, 6))
    words.insert(generator.randint(0, len(words)), ("bad", "good")[index % 2])
    pairs.append((("no", "yes")[index % 2], " ".join(words)))
  return pairs


def _write(path, pairs, is_labelled=True):
  path.write_text("".join("\t".join(pair if is_labelled else pair[1:]) + "\n"
                          for pair in pairs))
  return path


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory):
  """A teacher that knows the task, its soft labels of texts, and examples."""
  folder = tmp_path_factory.mktemp("distillation")
  tiny.write_config(folder / "bert_config.json", hidden_dropout_prob=0.0)
  (folder / "vocab.txt").write_text("\n".join(_VOCABULARY) + "\n")
  tiny.write_checkpoint(folder / "bert_model.ckpt", tiny.random_variables())
  training, heldout = _sentences(96, 1), _sentences(24, 2)
  _write(folder / "train.tsv", training)
  _write(folder / "few.tsv", training[:4])
  _write(folder / "heldout.tsv", heldout)
  _write(folder / "heldout.txt", heldout, is_labelled=False)
  _write(folder / "texts.txt", training, is_labelled=False)
  _run(*_arguments(folder, folder / "teacher", "--train_file",
                   folder / "train.tsv"))
  for name in ("texts", "heldout"):
    _run(*_label_arguments(folder, name))
  return folder


def _arguments(folder, output_dir, *more):
  return [
      "--bert_config_file", folder / "bert_config.json", "--init_checkpoint",
      folder / "bert_model.ckpt", "--vocab_file", folder / "vocab.txt",
      "--output_dir", output_dir, "--max_seq_length", 10,
      "--train_batch_size", 16, "--num_train_epochs", 40,
      "--learning_rate", 0.003, *more]


def _label_arguments(folder, name):
  return ["--output_dir", folder / "teacher", "--predict_file",
          folder / (name + ".txt"), "--output_file", folder / (name + ".tsv_")]


def _student_arguments(folder, output_dir, *more):
  return _arguments(
      folder, output_dir, "--soft_label_file", folder / "texts.tsv_",
      "--eval_file", folder / "heldout.tsv", "--eval_soft_label_file",
      folder / "heldout.tsv_", *more)


def _run(*arguments):
  result = tiny.run_script(_PATH, *arguments)
  assert result.returncode == 0, result.stderr
  return result


def test_a_file_is_labelled_once(tmp_path, folder):
  header, *rows = (folder / "heldout.tsv_").read_text().splitlines()
  assert header == "p(no)\tp(yes)\ttext"
  pairs = _sentences(24, 2)
  assert [row.split("\t")[2] for row in rows] == [text for _, text in pairs]
  for row, (label, _) in zip(rows, pairs):
    no, yes, _ = row.split("\t")
    assert float(no) + float(yes) == pytest.approx(1, abs=1e-5)
    assert (float(yes) > 0.5) == (label == "yes")
  before = (folder / "heldout.tsv_").stat().st_mtime_ns
  result = _run(*_label_arguments(folder, "heldout"))
  assert "is finished: 24 records kept" in result.stderr
  assert (folder / "heldout.tsv_").stat().st_mtime_ns == before
  # Another text under the same name is refused, then replaced on request.
  other = [*_label_arguments(folder, "texts")[:-1], tmp_path / "a" / "b.tsv"]
  _run(*other)
  changed = [*other[:3], folder / "heldout.txt", *other[4:]]
  tiny.assert_one_line_error(
      tiny.run_script(_PATH, *changed), "b.tsv exists and was made differently",
      "the content of --predict_file", "--overwrite")
  _run(*changed, "--overwrite")
  assert (tmp_path / "a" / "b.tsv").read_bytes() == (
      folder / "heldout.tsv_").read_bytes()


@pytest.mark.slow
def test_soft_labels_alone_teach_the_task(tmp_path, folder):
  result = _run(*_student_arguments(folder, tmp_path / "out"))
  results = tiny.read_results(tmp_path / "out")
  assert results["accuracy"] == results["teacher_agreement"] == 1.0
  assert "24 of 24 correct" in result.stdout
  assert "agreement with the teacher 1.0000" in result.stdout
  # The same command changes nothing; another setting is refused.
  result = _run(*_student_arguments(folder, tmp_path / "out"))
  assert "nothing to do" in result.stderr
  for flag, value, word in (("--temperature", 2, "begun with 1.0"),
                            ("--soft_label_file", folder / "heldout.tsv_",
                             "begun with another file")):
    tiny.assert_one_line_error(
        tiny.run_script(_PATH, *_student_arguments(
            folder, tmp_path / "out", flag, value)), flag, word)


@pytest.mark.slow
def test_soft_labels_beside_true_labels(tmp_path, folder):
  """The true labels choose the learning rate; the loss has a temperature."""
  some = _write(tmp_path / "some.tsv", _sentences(96, 1)[:24])
  result = _run(*_student_arguments(
      folder, tmp_path / "out", "--train_file", some,
      "--temperature", 2, "--hard_label_weight", 0.25, "--num_train_epochs", 20,
      "--learning_rate", "1e-9,0.003"))
  assert ("24 texts with a true label, of which 24 have a soft label too; 72 "
          "texts with a soft label alone") in result.stderr
  results = tiny.read_results(tmp_path / "out")
  assert results["accuracy"] > 0.8
  assert results["learning_rate"] == 0.003
  assert "on 2 held-back examples" in result.stderr
  # Evaluation alone, without and with the teacher's labels.
  result = _run("--output_dir", tmp_path / "out", "--eval_file",
                folder / "heldout.tsv")
  assert "agreement" not in result.stdout
  result = _run(
      "--output_dir", tmp_path / "out", "--eval_file", folder / "heldout.tsv",
      "--eval_soft_label_file", folder / "heldout.tsv_")
  assert "agreement with the teacher" in result.stdout


@pytest.mark.parametrize("flags, words", [
    (("--train_file", "train.tsv", "--temperature", 2),
     ("--temperature=2.0", "no --soft_label_file")),
    (("--train_file", "train.tsv", "--hard_label_weight", 1),
     ("--hard_label_weight=1.0", "no --soft_label_file")),
    (("--soft_label_file", "train.tsv"),
     ("--soft_label_file: ", "no header of soft labels")),
    (("--soft_label_file", "texts.tsv_", "--eval_soft_label_file",
      "heldout.tsv_"), ("--eval_soft_label_file", "needs --eval_file")),
    (("--soft_label_file", "texts.tsv_", "--eval_file", "heldout.tsv",
      "--eval_soft_label_file", "texts.tsv_"),
     ("--eval_soft_label_file: ", "lacks 24 of the 24 texts")),
    (("--train_file", "train.tsv", "--predict_file", "texts.txt"),
     ("--predict_file", "finished classifier", "without --train_file")),
    (("--soft_label_file", "texts.tsv_", "--hard_label_weight", 2),
     ("hard_label_weight",)),
    (("--soft_label_file", "texts.tsv_", "--learning_rate", "1e-4,1e-3",
      "--train_file", "few.tsv"), ("--train_file: ", "at most 2 examples")),
])
def test_bad_flags_of_training_are_refused(tmp_path, folder, flags, words):
  tiny.assert_one_line_error(tiny.run_script(_PATH, *_arguments(
      folder, tmp_path / "out", *(
          folder / flag if "." in str(flag) and "," not in str(flag)
          and not str(flag).startswith("-") else flag for flag in flags))),
                             *words)
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flags, words", [
    (("--predict_file", "texts.txt"), ("belong together", "give both")),
    (("--predict_file", "texts.txt", "--output_file", "texts.txt",
      "--overwrite"), ("is --predict_file", "name another file")),
    (("--predict_file", "texts.txt", "--output_file", "a.tsv", "--eval_file",
      "heldout.tsv"), ("give one of them",)),
    (("--predict_file", "train.tsv", "--output_file", "a.tsv"),
     ("begins with a label", "cut -f 2-")),
    (("--eval_soft_label_file", "heldout.tsv_"), ("needs --eval_file",)),
])
def test_bad_flags_of_labelling_are_refused(folder, flags, words):
  tiny.assert_one_line_error(tiny.run_script(
      _PATH, "--output_dir", folder / "teacher", *(
          flag if flag.startswith("-") else folder / flag for flag in flags)),
                             *words)
  assert not (folder / "a.tsv").exists()


def test_labels_that_the_teacher_does_not_know_are_refused(tmp_path, folder):
  train = tmp_path / "train.tsv"
  train.write_text("no\ta film\nperhaps\ta play\n")
  tiny.assert_one_line_error(
      tiny.run_script(_PATH, *_student_arguments(
          folder, tmp_path / "out", "--train_file", train)),
      "--soft_label_file: ", "'no', 'yes'", "not 'perhaps'")


def test_soft_labels_of_pairs_are_refused_without_segments(tmp_path, folder):
  soft = tmp_path / "soft.tsv"
  soft.write_text("p(no)\tp(yes)\ttext\ttext_2\n1\t0\ta\tfilm\n")
  config = tiny.write_config(tmp_path / "config.json", type_vocab_size=1)
  tiny.assert_one_line_error(
      tiny.run_script(_PATH, *_arguments(
          folder, tmp_path / "out", "--train_file", folder / "train.tsv",
          "--soft_label_file", soft, "--bert_config_file", config)),
      "--soft_label_file=", "pairs", "type_vocab_size 1")

"""Tests of the scripts of the demo."""

import collections
import re
import sysconfig

import numpy as np
import pytest

from examples import classifier_folder
from examples import demo_corpus
import modeling
import tiny
import tokenization


def test_corpus_holds_each_sentence_once(tmp_path):
  paths = tmp_path / "new" / "text.txt", tmp_path / "heldout.txt"
  result = tiny.run_script(
      "examples/demo_corpus.py", "--output_file", paths[0], "--heldout_file",
      paths[1], "--sentences_dir", tmp_path / "sentences")
  assert result.returncode == 0, result.stderr
  texts = [path.read_text(encoding="utf-8") for path in paths]
  documents = [text.strip().split("\n\n") for text in texts]
  sentences = "\n".join(sum(documents, [])).split("\n")
  assert len(documents[1]) == -(-(len(documents[0]) + len(documents[1])) // 10)
  assert len(set(sentences)) == len(sentences) > 10000
  assert all(re.fullmatch("[A-Z].*[.!?]", sentence) for sentence in sentences)

  labelled, few, heldout = (_read_pairs(tmp_path / "sentences" / name) for name
                            in ("labelled.tsv", "few.tsv", "heldout.tsv"))
  lines = (tmp_path / "sentences/texts.txt").read_text().splitlines()
  training = set(texts[0].split("\n"))
  assert {sentence for _, sentence in [*labelled, *few]} | {*lines} <= training
  assert {sentence for _, sentence in heldout} <= set(texts[1].split("\n"))
  assert [sentence for _, sentence in few] == lines[:300]
  assert not {sentence for _, sentence in labelled} & set(lines)
  for pairs in (labelled, few, heldout):
    assert set(collections.Counter(label for label, _ in pairs).values()) == {
        len(pairs) // 3}


def _read_pairs(path):
  """Returns the pairs of label and sentence in a file."""
  return [line.split("\t") for line in path.read_text().splitlines()]


def test_a_module_belongs_to_its_package():
  site = sysconfig.get_path("purelib")
  assert demo_corpus.package(site + "/numpy/core/fromnumeric.py") == "numpy"
  assert demo_corpus.package(
      sysconfig.get_path("stdlib") + "/json/decoder.py") == "python"


def test_each_package_has_as_many_sentences():
  documents = [demo_corpus.Document("numpy", ["N1.", "N2.", "N3."]),
               demo_corpus.Document("keras", ["K1."]),
               demo_corpus.Document("tensorflow", ["T1."]),
               demo_corpus.Document("python", ["P1.", "P2."]),
               demo_corpus.Document("tensorflow", ["T2.", "T3."])]
  pairs = demo_corpus.labelled(documents, 9)
  assert [package for package, _ in pairs] == [
      "numpy", "python", "tensorflow"] * 2
  assert all(sentence[0] == package[0].upper() for package, sentence in pairs)
  assert len(demo_corpus.labelled(documents, 1)) == 3


def test_vocabulary_is_the_same_in_every_run(tmp_path):
  pytest.importorskip("tokenizers")
  text = tmp_path / "text.txt"
  text.write_text("The cats sat on the mats.\nA dog ran to the cat.\n" * 9)
  vocabularies = []
  for name in ("a.txt", "b.txt"):
    result = tiny.run_script(
        "examples/demo_vocabulary.py", "--input_file", text, "--output_file",
        tmp_path / name, "--vocab_size", 100)
    assert result.returncode == 0, result.stderr
    vocabularies.append(tokenization.load_vocab(str(tmp_path / name)))
  assert vocabularies[0] == vocabularies[1]
  assert list(vocabularies[0])[:5] == [
      "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
  assert {"the", "cat", "##s"} <= set(vocabularies[0])


def _write_classifier(folder, bias):
  """Writes a classifier whose logits are `bias` for every sentence."""
  folder.mkdir(parents=True)
  tiny.write_config(folder / "bert_config.json")
  (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
  (folder / "labels.txt").write_text("numpy\npython\ntensorflow\n")
  tiny.write_checkpoint(folder / "bert_model.ckpt", {
      **{name: value for name, value in tiny.random_variables().items()
         if name.startswith("bert/")},
      "output_weights": np.zeros([3, tiny.CONFIG.hidden_size], np.float32),
      "output_bias": np.array(bias, np.float32)})
  classifier_folder.Notes(
      {"max_seq_length": 10, "do_lower_case": True},
      learning_rate="0.001").write(str(folder))


def test_table(tmp_path):
  sentences = tmp_path / "sentences"
  sentences.mkdir()
  (sentences / "labelled.tsv").write_text("numpy\tA.\n" * 1200)
  (sentences / "few.tsv").write_text("numpy\tA.\n" * 3)
  (sentences / "texts.txt").write_text("A.\n" * 7)
  (sentences / "heldout.tsv").write_text(
      "numpy\tOne.\npython\tTwo.\nnumpy\tThree.\nnumpy\tFour.\n"
      "tensorflow\tFive.\n")
  # A bias of 2 gives the probability e^2 / (e^2 + 2) = 0.787.
  for name, bias in (("teacher", [2, 0, 0]), ("few_labels", [0, 2, 0]),
                     ("distilled", [2, 0, 0]), ("teachers_labels", [0, 0, 2])):
    _write_classifier(tmp_path / "classifiers" / name, bias)
  result = tiny.run_script(
      "examples/demo_table.py", "--demo_dir", tmp_path)
  assert result.returncode == 0, result.stderr
  words, table, differ, *shown = result.stdout.split("\n\n")
  assert " ".join(words.split()) == (
      "With 3 labelled sentences, the student classifies 20.0% of 5 held-out "
      "sentences correctly. With the teacher's soft labels of 7 sentences, the "
      "student classifies 60.0%. The teacher was fine-tuned on 1,200 labelled "
      "sentences and classifies 60.0%.")
  header, *rows = table.splitlines()
  assert {len(row) for row in rows} == {len(header)}
  num_parameters = "{:,}".format(sum(
      np.prod(size) for size in modeling.variable_shapes(tiny.CONFIG).values()))
  assert [re.split("  +", row)[:-1] for row in rows] == [
      ["teacher", "1,200", "60.0%", num_parameters],
      ["student, few labels", "3", "20.0%", num_parameters],
      ["student, distilled", "3", "7", "60.0%", num_parameters],
      ["student, teacher's labels", "1,200", "20.0%", num_parameters]]
  # All answers differ: "numpy" is right on three, "python" on one.
  assert " ".join(differ.split()) == (
      "The two students with few labels differ on 5 sentences. The distilled "
      "student classifies 3 of these correctly, the other student 1. The first "
      "sentence of each package:")
  assert [each.splitlines()[0] for each in shown] == ["One.", "Two.", "Five."]
  assert [line.split()[-2:] for line in shown[1].splitlines()[1:]] == [
      ["truth", "python"], ["numpy", "79%"], ["python", "79%"],
      ["numpy", "79%"]]


def test_table_refuses_a_missing_classifier(tmp_path):
  (tmp_path / "sentences").mkdir()
  for name in ("labelled.tsv", "few.tsv", "texts.txt", "heldout.tsv"):
    (tmp_path / "sentences" / name).write_text("numpy\tA.\npython\tB.\n")
  tiny.assert_one_line_error(tiny.run_script(
      "examples/demo_table.py", "--demo_dir", tmp_path), "--demo_dir",
                             tmp_path / "classifiers/teacher")

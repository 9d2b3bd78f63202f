"""Tests of the scripts of the demo."""

import re

import numpy as np
import pytest

from distillation import evaluation
import modeling
import tiny
import tokenization


def test_corpus_holds_each_sentence_once(tmp_path):
  paths = tmp_path / "new" / "text.txt", tmp_path / "heldout.txt"
  result = tiny.run_script(
      "examples/demo_corpus.py", "--output_file", paths[0], "--heldout_file",
      paths[1])
  assert result.returncode == 0, result.stderr
  texts = [path.read_text(encoding="utf-8") for path in paths]
  documents = [text.strip().split("\n\n") for text in texts]
  sentences = "\n".join(sum(documents, [])).split("\n")
  assert len(documents[1]) == -(-(len(documents[0]) + len(documents[1])) // 20)
  assert len(set(sentences)) == len(sentences) > 10000
  assert all(re.fullmatch("[A-Z].*[.!?]", sentence) for sentence in sentences)


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


def test_table(tmp_path):
  generator = np.random.default_rng(0)
  records = tiny.write_records(tmp_path / "a.tfrecord", [
      tiny.without_labels(tiny.random_features(generator)) for _ in range(3)])
  tiny.write_config(tmp_path / "bert_config.json")
  tiny.write_checkpoint(tmp_path / "model.ckpt-0", tiny.random_variables())
  (tmp_path / "checkpoint").write_text(
      'model_checkpoint_path: "model.ckpt-0"\n')
  evaluation.write_results([str(tmp_path)], {
      "masked_lm_accuracy": 0.5, "masked_lm_cross_entropy": 2.0,
      "teacher_top1_agreement": 0.25}, "model.ckpt-0")
  result = tiny.run_script(
      "examples/demo_table.py", "--input_file", records, *tiny.SHAPE_FLAGS,
      "--models", "teacher={0},a student={0}".format(tmp_path))
  assert result.returncode == 0, result.stderr
  header, *rows = result.stdout.splitlines()
  assert header.split("  ")[0] == "model"
  num_parameters = "{:,}".format(sum(
      np.prod(size) for size in modeling.variable_shapes(tiny.CONFIG).values()))
  for name, row in zip(("teacher", "a student"), rows):
    assert len(row) == len(header)
    assert re.split("  +", row)[:5] == [
        name, "50.0%", "2.000", "25.0%", num_parameters]


def test_table_refuses_a_model_that_was_not_evaluated(tmp_path):
  generator = np.random.default_rng(0)
  records = tiny.write_records(
      tmp_path / "a.tfrecord", [tiny.random_features(generator)])
  tiny.write_config(tmp_path / "bert_config.json")
  tiny.assert_one_line_error(tiny.run_script(
      "examples/demo_table.py", "--input_file", records, *tiny.SHAPE_FLAGS,
      "--models", "teacher={}".format(tmp_path)), "--models", tmp_path)

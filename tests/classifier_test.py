"""Tests that fine-tuning scripts for BERT run on this project's modules."""

import os
import pathlib
import random
import subprocess
import sys

import numpy as np
import pytest

import tiny

_SCRIPT = pathlib.Path(__file__).with_name("classifier.py")
_VOCABULARY = """[PAD] [UNK] [CLS] [SEP] [MASK] good bad the a film play was is
not so very it we saw and of with actor scene ##s ##ly , . long""".split()
_NEUTRAL = ("the a film films play was is so very it we saw and of with actor "
            "scene scenes , .").split()


@pytest.fixture(scope="module", name="folder")
def fixture_folder(tmp_path_factory):
  """A student, and sentences whose label depends on one word."""
  folder = tmp_path_factory.mktemp("classifier")
  student = folder / "student"
  student.mkdir()
  assert len(_VOCABULARY) == tiny.CONFIG.vocab_size
  tiny.write_config(student / "bert_config.json", hidden_dropout_prob=0.1)
  (student / "vocab.txt").write_text("\n".join(_VOCABULARY) + "\n")
  tiny.write_checkpoint(student / "bert_model.ckpt", tiny.random_variables())
  generator = random.Random(1)
  lines = []
  for label in [0, 1] * 24:
    sentence = generator.choices(_NEUTRAL, k=generator.randint(2, 6))
    sentence.insert(generator.randint(0, len(sentence)),
                    ("Bad", "GOOD")[label])
    lines.append("{}\t{}\n".format(label, " ".join(sentence)))
  (folder / "train.tsv").write_text("".join(lines))
  return folder


@pytest.mark.slow
@pytest.mark.parametrize("flags", [
    (), ("--disable_v2_behavior=False", "--use_one_hot_embeddings=True")])
def test_a_script_for_bert_fine_tunes_a_student(tmp_path, folder, flags):
  student, output_dir = folder / "student", tmp_path / "out"
  result = subprocess.run(
      [sys.executable, str(_SCRIPT), "--bert_dir", str(student), "--train_file",
       str(folder / "train.tsv"), "--output_dir", str(output_dir), *flags],
      env=dict(os.environ, PYTHONPATH=str(tiny.ROOT)), stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT, text=True, check=False)
  assert result.returncode == 0, result.stdout
  results = dict(line.split(" = ") for line in (
      output_dir / "eval_results.txt").read_text().splitlines())
  assert float(results["eval_accuracy"]) == 1.0
  assert int(results["global_step"]) == 400
  # The first checkpoint precedes the first step.
  start = tiny.read_checkpoint(output_dir / "model.ckpt-0")
  end = tiny.read_checkpoint(output_dir / "model.ckpt-400")
  saved = {name: value for name, value in tiny.random_variables().items()
           if name.startswith("bert/")}
  assert set(start) == set(end) == {"global_step"} | {
      name + slot for name in [*saved, "output_weights", "output_bias"]
      for slot in ("", "/adam_m", "/adam_v")}
  for name, value in saved.items():
    np.testing.assert_array_equal(start[name], value, err_msg=name)
    assert np.any(end[name] != value), name

"""Tests of the script that distils a classifier."""

import os
import subprocess

import pytest

import tiny

_SCRIPT = tiny.ROOT / "examples" / "distill_classifier.sh"
_WORDS = "good bad the a film play was is not so very it we saw and of".split()


@pytest.fixture(name="settings")
def _settings(tmp_path):
  """An environment that names a tiny teacher, a student's config and texts."""
  for name in ("teacher", "student"):
    (tmp_path / name).mkdir()
    tiny.write_config(tmp_path / name / "bert_config.json")
  tiny.write_checkpoint(
      tmp_path / "teacher" / "bert_model.ckpt", tiny.random_variables())
  tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS]
  tokens += ["x{}".format(i) for i in range(
      tiny.CONFIG.vocab_size - len(tokens))]
  (tmp_path / "teacher" / "vocab.txt").write_text("\n".join(tokens) + "\n")
  lines = [("no\tbad ", "yes\tgood ")[i % 2] + " ".join(
      _WORDS[i % 9 + 2:][:4]) for i in range(24)]
  (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n")
  (tmp_path / "heldout.tsv").write_text("\n".join(lines[:6]))
  (tmp_path / "texts.txt").write_text("a bad film\n\nso good\n")
  return dict(
      os.environ, WORK=str(tmp_path / "work dir"),
      TEACHER=str(tmp_path / "teacher"), STUDENT=str(tmp_path / "student"),
      TRAIN=str(tmp_path / "train.tsv"), TEXT=str(tmp_path / "texts.txt"),
      HELDOUT=str(tmp_path / "heldout.tsv"), MAX_SEQ_LENGTH="12",
      TEACHER_EPOCHS="1", EPOCHS="1")


def _run(settings, **changes):
  return subprocess.run(
      [_SCRIPT], env={**settings, **changes}, stdout=subprocess.PIPE,
      stderr=subprocess.PIPE, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_each_step_runs_only_once(tmp_path, settings):
  result = _run(settings)
  assert result.returncode == 0, result.stderr
  work = tmp_path / "work dir"
  assert (work / "soft_labels.tsv").read_text().splitlines()[0] == (
      "p(no)\tp(yes)\ttext")
  # 24 texts without their labels, then the texts of the other file.
  texts = [line.split("\t")[2] for line in (
      work / "soft_labels.tsv").read_text().splitlines()[1:]]
  assert texts == [line.split("\t")[1] for line in (
      tmp_path / "train.tsv").read_text().splitlines()] + [
          "a bad film", "so good"]
  assert "student has no bert_model.ckpt: training from" in result.stderr
  assert "24 texts with a true label, of which 24" in result.stderr
  results = tiny.read_results(work / "student")
  assert results["num_examples"] == 6
  assert 0 <= results["teacher_agreement"] <= 1
  before = {path: path.stat().st_mtime_ns for path in work.rglob("*.*")}
  result = _run(settings)
  assert result.returncode == 0, result.stderr
  assert result.stderr.count("nothing to do") == 2
  assert result.stderr.count("is finished") == 2
  assert before == {
      path: path.stat().st_mtime_ns for path in work.rglob("*.*")}


@pytest.mark.parametrize("changes, words", [
    ({"TEACHER": ""}, ("TEACHER is not set",)),
    ({"TEXT": "absent.txt"}, ("there is no file absent.txt",)),
])
def test_missing_settings_are_refused(tmp_path, settings, changes, words):
  result = _run(settings, **changes)
  assert result.returncode == 1
  assert len(result.stderr.splitlines()) == 1
  for word in words:
    assert word in result.stderr
  assert not (tmp_path / "work dir").exists()

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


def _write_texts(folder, *inputs):
  """Runs the script's function that writes texts; returns the texts."""
  functions = [
      "".join(part.partition("\n}\n")[:2]) for part in (
          name + _SCRIPT.read_text().partition("\n" + name)[2]
          for name in ("print_lines() {", "write_texts() {"))]
  paths = []
  for index, content in enumerate(inputs):
    paths.append(folder / str(index))
    paths[-1].write_bytes(content)
  subprocess.run(
      ["bash", "-euo", "pipefail", "-c", "\n".join(
          [*functions, 'write_texts "$@"']), "bash", folder / "out", *paths],
      check=True)
  return (folder / "out").read_bytes()


@pytest.mark.parametrize("inputs, texts", [
    ([b"no\ta\nyes\tb\tc\n", b"d\n\ne\n"], b"a\nb\tc\nd\n\ne\n"),
    ([b"no\ta\nyes\tb"], b"a\nb\n"),
    # The last line of the first file has no line end.
    ([b"no\ta\nyes\tb", b"d"], b"a\nb\nd"),
    # Byte-order marks and CRLF.
    ([b"\xef\xbb\xbfno\ta\r\nyes\tb\r\n", b"\xef\xbb\xbfd\r\n\r\ne\r\n"],
     b"a\nb\nd\n\ne\n"),
    ([b"\xef\xbb\xbf\nno\ta\n"], b"\na\n"),
    # Other bytes stay, also those of a byte-order mark within a text.
    (["no\tä\u2028\ufeff\n".encode(), b"\xe4 \r b\n"],
     "ä\u2028\ufeff\n".encode() + b"\xe4 \r b\n"),
])
def test_texts_of_two_files_are_joined(tmp_path, inputs, texts):
  assert _write_texts(tmp_path, *inputs) == texts
  before = (tmp_path / "out").stat().st_mtime_ns
  assert _write_texts(tmp_path, *inputs) == texts
  assert (tmp_path / "out").stat().st_mtime_ns == before


def test_each_setting_reaches_both_trainings(tmp_path, settings):
  """A stand-in for Python prints its flags."""
  python = tmp_path / "code" / ".venv" / "bin" / "python"
  python.parent.mkdir(parents=True)
  python.write_text('#!/bin/sh\necho "$@"\n')
  python.chmod(0o755)
  script = tmp_path / "code" / "examples" / _SCRIPT.name
  script.parent.mkdir()
  script.write_bytes(_SCRIPT.read_bytes())

  def commands(**changes):
    output = subprocess.run(
        ["bash", script], env={**settings, **changes}, check=True,
        capture_output=True, text=True).stdout
    return [line for line in output.splitlines() if "--train_file" in line]

  for command in commands(STRIP_ACCENTS="False"):
    assert "--strip_accents False" in command
  for command in commands():
    assert "--do_lower_case True" in command
    assert "--strip_accents" not in command
  assert len(commands()) == 2


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

"""Tests of the output of show_records.py."""

import os
import pty
import re
import subprocess
import sys

import numpy as np
import pytest

from records import manifest
from records import record_writer
from records import schema
import tiny
from util import files

_SCRIPT = "examples/show_records.py"
_TOKENS = ("[PAD] [UNK] [CLS] [SEP] [MASK] the cat ##s sat on mat . a dog ran"
           ).split()
_LABELLED = """\
{}, record 0
9 tokens, 1 padding, 3 masked, next sentence: random

[CLS] the «[MASK]→cat»##s [SEP]
«sat» «dog→on» . [SEP]

position  input         token  teacher
       2  [MASK]        cat    dog 62.5%  «cat 25.0%»  rest 12.5%
       5  sat (kept)    sat    ran 50.0%  the 50.0%  rest 0.0%
       6  dog (random)  on     «on 75.0%»  a 12.5%  rest 12.5%

"""
_UNLABELLED = """\
{}, record 1
9 tokens, 1 padding, 3 masked, next sentence: follows

[CLS] the «[MASK]→cat»##s [SEP]
«sat» «dog→on» . [SEP]

position  input         token
       2  [MASK]        cat
       5  sat (kept)    sat
       6  dog (random)  on

"""


@pytest.fixture(name="vocab_file")
def _vocab_file(tmp_path):
  path = tmp_path / "vocab.txt"
  path.write_text("".join(token + "\n" for token in _TOKENS))
  return path


def _features(**changes):
  """Returns a labelled record, with labels in the padding as in 2019."""
  def ids(text):
    return np.array([_TOKENS.index(token) for token in text.split()])

  features = {
      schema.INPUT_IDS: ids(
          "[CLS] the [MASK] ##s [SEP] sat dog . [SEP] [PAD]"),
      schema.INPUT_MASK: np.array([1] * 9 + [0]),
      schema.SEGMENT_IDS: np.array([0] * 5 + [1] * 4 + [0]),
      schema.MASKED_LM_POSITIONS: np.array([2, 5, 6, 0]),
      schema.MASKED_LM_IDS: ids("cat sat on [PAD]"),
      schema.MASKED_LM_WEIGHTS: np.array([1.0, 1.0, 1.0, 0.0]),
      schema.NEXT_SENTENCE_LABELS: np.array([1]),
      schema.TEACHER_PROBABILITIES: np.array(
          [0.25, 0.625, 0.5, 0.5, 0.125, 0.75, 0.9, 0.9]),
      schema.TEACHER_INDICES: np.concatenate(
          [ids("cat dog ran the a on"), [1000, 2000]]),
  }
  return {**features, **changes}


def _show(path, vocab_file, *arguments, stdout=subprocess.PIPE, **variables):
  """Runs the script with further environment variables."""
  # readline adds variables to the environment but not to os.environ.
  environment = {name: value for name, value in os.environ.items()
                 if name not in ("COLUMNS", "NO_COLOR")}
  return subprocess.run(
      [sys.executable, str(tiny.ROOT / _SCRIPT), "--file", str(path),
       "--vocab_file", str(vocab_file), *arguments],
      stdout=stdout, stderr=subprocess.PIPE, text=True, check=False,
      env={**environment, **variables})


def _printed(*arguments, **keywords):
  result = _show(*arguments, **keywords)
  assert result.returncode == 0, result.stderr
  assert not result.stderr
  return result.stdout


def test_labelled_record(tmp_path, vocab_file):
  path = tiny.write_records(tmp_path / "a.tfrecord", [_features()])
  assert _printed(path, vocab_file) == _LABELLED.format(path)


def test_a_random_separator_does_not_end_the_line(tmp_path, vocab_file):
  features = _features()
  features[schema.INPUT_IDS][2] = _TOKENS.index("[SEP]")
  path = tiny.write_records(tmp_path / "a.tfrecord", [features])
  assert "\n[CLS] the «[SEP]→cat»##s [SEP]\n" in _printed(path, vocab_file)


def test_each_file_is_shown_up_to_its_last_record(tmp_path, vocab_file):
  follows = tiny.without_labels(
      _features(**{schema.NEXT_SENTENCE_LABELS: np.array([0])}))
  paths = [tiny.write_records(tmp_path / name, [_features(), follows])
           for name in ("a_2.tfrecord", "a_10.tfrecord")]
  assert _printed(
      tmp_path / "a_*", vocab_file, "--record=1", "--num_records=5") == "".join(
          map(_UNLABELLED.format, paths))


def test_a_long_list_is_cut(tmp_path, vocab_file):
  probabilities = np.tile(2.0 ** -np.arange(2, 14), [4, 1])
  indices = np.tile(np.arange(2, 14), [4, 1])
  path = tiny.write_records(tmp_path / "a.tfrecord", [_features(**{
      schema.TEACHER_PROBABILITIES: probabilities,
      schema.TEACHER_INDICES: indices})])
  lines = _printed(path, vocab_file).splitlines()
  assert lines[7] == (
      "       2  [MASK]        cat    [CLS] 25.0%  [SEP] 12.5%  [MASK] 6.2%  "
      "the 3.1%  «cat 1.6%»  ##s 0.8%")
  assert lines[8] == (
      31 * " " + "sat 0.4%  on 0.2%  mat 0.1%  . 0.0%  (2 more: 0.0%)  "
      "rest 50.0%")


def test_sampled_tokens_follow_the_most_probable_tokens(tmp_path, vocab_file):
  path = tmp_path / "a.tfrecord"
  made_by = manifest.Manifest(
      stage="extract_teacher_labels_truncated", flags={"tail_samples": 1},
      fingerprints={}, sources={}, vocab_size=len(_TOKENS))
  with record_writer.RecordWriter(str(path)) as writer:
    writer.write(tiny.serialize(_features(**{
        schema.TEACHER_PROBABILITIES: np.tile([0.25, 0.75], 4)})))
    writer.commit(made_by)
  assert "cat    «cat 25.0%»  ~dog 75.0%  rest 0.0%\n" in _printed(
      path, vocab_file)


def test_golden_labels(shared):
  path = shared / "golden/teacher_labels/expected.tfrecord"
  lines = _printed(path, shared / "data/teacher/vocab.txt").splitlines()
  assert max(map(len, lines)) <= 100
  assert lines[:5] == [
      "{}, record 0".format(path),
      "128 tokens, 0 padding, 19 masked, next sentence: follows",
      "",
      "[CLS] «[MASK]→(» so that he «[MASK]→can» enter «[MASK]→high» "
      "«[MASK]→security» «[MASK]→areas» ,",
      "flash a badge «[MASK]→and» claim to be «press» , maybe ? ) «[MASK]→,» "
      "as «[MASK]→does» mar##g"]
  assert ("       5  [MASK]        can       will 21.6%  «can 13.0%»  "
          "would 10.0%  must 6.1%  could 5.5%") in lines
  assert lines[-3].startswith('     126  [MASK]        "         «" 91.2%»  ')


def test_lines_fit_the_terminal(tmp_path, vocab_file):
  path = tiny.write_records(tmp_path / "a.tfrecord", [_features()])
  lines = _printed(path, vocab_file, COLUMNS="48").splitlines()
  assert max(map(len, lines[2:])) <= 48
  assert lines[7:9] == ["       2  [MASK]        cat    dog 62.5%",
                        "                               «cat 25.0%»"]


@pytest.mark.parametrize("no_color", ["", "1"])
def test_only_a_terminal_gets_colors(tmp_path, vocab_file, no_color):
  path = tiny.write_records(tmp_path / "a.tfrecord", [_features()])
  terminal, output = pty.openpty()
  _printed(path, vocab_file, stdout=output, NO_COLOR=no_color, COLUMNS="100")
  text = os.read(terminal, 1 << 16).decode().replace("\r\n", "\n")
  os.close(output)
  os.close(terminal)
  assert ("\033[33m«sat»\033[0m" in text) == (not no_color)
  assert re.sub("\033\\[[0-9;]*m", "", text) == _LABELLED.format(path)


def test_hidden_states_are_shown_as_probable_tokens(
    tmp_path, vocab_file):
  features = _features()
  hidden_states = np.zeros([len(features[schema.MASKED_LM_IDS]), 2], np.float16)
  hidden_states[0] = [1, 0]
  path = tiny.write_records(tmp_path / "a.tfrecord", [dict(
      tiny.without_labels(features),
      **{schema.TEACHER_HIDDEN_STATES: hidden_states})])
  # The token "cat" is e ** 2 / 1.5 times as probable as each other token.
  embeddings = np.zeros([len(_TOKENS), 2], np.float32)
  bias = np.full(len(_TOKENS), np.log(1.5), np.float32)
  embeddings[_TOKENS.index("cat"), 0], bias[_TOKENS.index("cat")] = 2, 0
  np.savez(tmp_path / "teacher_decoder.npz", word_embeddings=embeddings,
           output_bias=bias)
  lines = _printed(path, vocab_file).splitlines()
  share = np.exp(2) / (np.exp(2) + 1.5 * (len(_TOKENS) - 1))
  assert any("cat {:.1%}".format(share) in line for line in lines), lines
  np.savez(tmp_path / "teacher_decoder.npz", word_embeddings=embeddings[:, :1],
           output_bias=bias)
  tiny.assert_one_line_error(
      _show(path, vocab_file), "record 0", "hidden_size 1", "copy the one")
  (tmp_path / "teacher_decoder.npz").unlink()
  tiny.assert_one_line_error(
      _show(path, vocab_file), "teacher_decoder.npz is missing")


@pytest.mark.parametrize("contents, message", [
    ([_features(), _features()], "--record=2: {} has 2 records"),
    ([], "--record=2: {} has 0 records"),
])
def test_a_record_beyond_the_file_is_refused(
    tmp_path, vocab_file, contents, message):
  path = tiny.write_records(tmp_path / "a.tfrecord", contents)
  tiny.assert_one_line_error(
      _show(path, vocab_file, "--record=2"), message.format(path))


@pytest.mark.parametrize("changes, messages", [
    ({schema.INPUT_IDS: np.full(10, 15)}, ["token id 15", "15 tokens"]),
    ({schema.TEACHER_INDICES: np.full(8, 15)}, ["token id 15", "15 tokens"]),
    ({schema.INPUT_MASK: np.ones(9, int)}, ["input_mask is missing or does"]),
    ({schema.MASKED_LM_IDS: np.ones(4)}, ["masked_lm_ids is missing or does"]),
    ({schema.MASKED_LM_POSITIONS: np.full(4, 9)}, ["position 9", "9 tokens"]),
])
def test_a_record_with_bad_values_is_refused(
    tmp_path, vocab_file, changes, messages):
  path = tiny.write_records(tmp_path / "a.tfrecord", [_features(**changes)])
  tiny.assert_one_line_error(
      _show(path, vocab_file), "--file: {}, record 0: ".format(path), *messages)


@pytest.mark.parametrize("write, message", [
    (lambda path: tiny.write_records(path, [{"text": np.array([1])}]),
     "input_ids is missing"),
    (lambda path: tiny.write_serialized(path, [b"text"]),
     "not a tf.train.Example"),
    (lambda path: path.write_text("text"), "not a TFRecord file"),
])
def test_a_file_of_other_data_is_refused(tmp_path, vocab_file, write, message):
  path = tmp_path / "a.tfrecord"
  write(path)
  tiny.assert_one_line_error(_show(path, vocab_file), "--file", path, message)


def test_another_vocabulary_is_refused(tmp_path, vocab_file):
  path = tmp_path / "a.tfrecord"
  digest = files.fingerprint(str(vocab_file))
  with record_writer.RecordWriter(str(path)) as writer:
    writer.write(tiny.serialize(tiny.without_labels(_features())))
    writer.commit(manifest.Manifest(
        stage="multifile_create_pretraining_data", flags={},
        fingerprints={"vocab_file": digest}, sources={},
        vocab_size=len(_TOKENS)))
  assert _printed(path, vocab_file)
  vocab_file.write_text("".join(token + "\n" for token in _TOKENS[::-1]))
  tiny.assert_one_line_error(
      _show(path, vocab_file), "--vocab_file", path, digest[:12])


def test_tensorflow_is_not_imported():
  result = subprocess.run(
      [sys.executable, "-X", "importtime", tiny.ROOT / _SCRIPT, "--help"],
      capture_output=True, text=True, check=True)
  assert "records.tfrecord" in result.stderr
  assert "tensorflow" not in result.stderr

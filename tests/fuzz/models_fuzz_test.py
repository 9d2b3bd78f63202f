"""Fuzz tests of configs and checkpoints."""

import os
import pathlib
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from distillation import checkpoints
import fuzzing
import modeling
import tiny
from util.command_line import InputError

pytestmark = pytest.mark.slow
_FOLDER = pathlib.Path(__file__).resolve().parent


# --- Configs -----------------------------------------------------------------


def _load_config(path, content):
  path.write_bytes(content)
  return fuzzing.accepts(lambda: checkpoints.load_config(str(path), 16))


@given(fuzzing.json_like(tiny.CONFIG.to_dict()))
def test_a_damaged_config_is_refused_or_valid(tmp_path, content):
  found = _load_config(tmp_path / "bert_config.json", content)
  if found:
    config, = found
    for size in (config.vocab_size, config.hidden_size,
                 config.num_hidden_layers, config.num_attention_heads,
                 config.intermediate_size, config.type_vocab_size):
      assert type(size) is int and size > 0
    assert config.max_position_embeddings >= 16
    for rate in (config.hidden_dropout_prob,
                 config.attention_probs_dropout_prob):
      assert type(rate) in (int, float) and 0 <= rate < 1
    assert 0 <= config.initializer_range < 1e39
    assert config.hidden_act is None or isinstance(config.hidden_act, str)


_SIZES = st.integers(1, 10**6)


@given(st.builds(
    lambda heads, size, **values: modeling.BertConfig(
        num_attention_heads=heads, hidden_size=heads * size, **values),
    heads=_SIZES, size=_SIZES, vocab_size=_SIZES, num_hidden_layers=_SIZES,
    intermediate_size=_SIZES, type_vocab_size=_SIZES,
    max_position_embeddings=st.integers(16, 10**6),
    hidden_act=st.sampled_from(["gelu", "relu", "tanh", "linear", "", None]),
    hidden_dropout_prob=st.floats(0, 0.99),
    attention_probs_dropout_prob=st.floats(0, 0.99),
    initializer_range=st.floats(0, 1)))
def test_a_written_config_is_read_unchanged(tmp_path, config):
  found = _load_config(tmp_path / "bert_config.json",
                       config.to_json_string().encode())
  assert found == (config,)


@pytest.mark.parametrize("text, message", [
    ("[" * 100000, "nested"), ('{"vocab_size": ' + "[" * 100000, "nested"),
    ('{"vocab_size": true}', "vocab_size is True"),
    ('{"vocab_size": 9, "hidden_dropout_prob": false}', "hidden_dropout_prob"),
    ('{"vocab_size": 9, "hidden_dropout_prob": NaN}', "hidden_dropout_prob"),
    ('{"vocab_size": 9, "hidden_act": []}', "hidden_act is \\[\\]"),
    ('{"vocab_size": 9, "hidden_act": 0}', "hidden_act is 0"),
    ('{"vocab_size": 9, "initializer_range": "a"}', "initializer_range is 'a'"),
    ('{"vocab_size": 9, "initializer_range": NaN}', "initializer_range is nan"),
    ('{"vocab_size": 9, "initializer_range": -1}', "initializer_range is -1"),
])
def test_a_config_with_wrong_values_is_refused(tmp_path, text, message):
  path = tmp_path / "bert_config.json"
  path.write_text(text)
  with pytest.raises(InputError, match="--bert_config_file.*" + message):
    checkpoints.load_config(str(path))


# --- Checkpoints -------------------------------------------------------------


class _Reader:
  """A process that matches checkpoints, restarted after a crash."""

  def __init__(self, folder):
    self._config = str(tiny.write_config(folder / "bert_config.json"))
    path = str(tiny.write_checkpoint(
        folder / "whole.ckpt", tiny.random_variables()))
    self.checkpoint = folder / "bert_model.ckpt"
    self.suffixes = (".index", ".data-00000-of-00001")
    self.whole = [pathlib.Path(path + suffix).read_bytes()
                  for suffix in self.suffixes]
    self._log = folder / "stderr"
    self._process = None

  def match(self, *contents):
    """Returns the number of variables of a checkpoint with these files."""
    for suffix, content in zip(self.suffixes, contents):
      pathlib.Path(str(self.checkpoint) + suffix).write_bytes(content)
    if self._process is None or self._process.poll() is not None:
      self._start()
    self._process.stdin.write("{}\n".format(self.checkpoint))
    self._process.stdin.flush()
    answer = self._process.stdout.readline()
    assert answer, "the reader ended ({}): {}".format(
        self._process.wait(), self._log.read_text())
    return int(answer)

  def _start(self):
    with open(self._log, "w", encoding="utf-8") as log:
      self._process = subprocess.Popen(
          [sys.executable, str(_FOLDER / "checkpoint_reader.py"), self._config],
          stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
          env=dict(os.environ, PYTHONPATH=os.pathsep.join(
              [str(tiny.ROOT), str(_FOLDER)])))

  def close(self):
    if self._process:
      self._process.stdin.close()
      self._process.wait()
      self._process.stdout.close()


@pytest.fixture(scope="module", name="reader")
def _reader(tmp_path_factory):
  reader = _Reader(tmp_path_factory.mktemp("checkpoint"))
  yield reader
  reader.close()


_NUM_VARIABLES = len(modeling.variable_shapes(tiny.CONFIG))
# Varints of several lengths: offsets and sizes of the index's blocks.
_POSITIONS = [b"\x80" * (size - 1) + b"\x01" for size in (2, 4, 5, 6, 9, 10)]


@given(st.data())
def test_a_damaged_index_is_refused_or_matches(reader, data):
  index, values = reader.whole
  damaged = data.draw(fuzzing.damaged(index, _POSITIONS))
  # Edits of the last 48 bytes, which no checksum protects.
  if data.draw(st.booleans()):
    start = len(index) - data.draw(st.integers(1, 48))
    edit = data.draw(st.sampled_from(_POSITIONS) | st.binary(max_size=10))
    damaged = index[:start] + edit + index[start + len(edit):]
  found = reader.match(damaged, values)
  assert found == _NUM_VARIABLES or damaged != index
  assert found in (0, _NUM_VARIABLES)


@given(st.data())
def test_damaged_values_are_refused(reader, data):
  index, values = reader.whole
  damaged = data.draw(fuzzing.damaged(values))
  found = reader.match(index, damaged)
  # Bytes after the last variable are not read.
  assert found == (_NUM_VARIABLES if damaged.startswith(values) else 0)


@pytest.mark.parametrize("footer", [
    b"\0\0\0" + b"\x80" * 2 + b"\x40", b"\0\0\0" + b"\x80" * 5 + b"\x40",
    b"\0\0" + b"\x80" * 5 + b"\x40" + b"\x09"])
def test_an_index_with_a_huge_size_in_its_footer_is_refused(tmp_path, footer):
  path = tiny.write_checkpoint(tmp_path / "bert_model.ckpt",
                               tiny.random_variables())
  index = pathlib.Path(str(path) + ".index")
  whole = index.read_bytes()
  index.write_bytes(whole[:-48] + footer.ljust(40, b"\0") + whole[-8:])
  with fuzzing.limits(), pytest.raises(InputError, match="not a readable"):
    checkpoints.match_checkpoint(tiny.CONFIG, str(path))


def test_values_that_end_early_are_refused(tmp_path):
  path = tiny.write_checkpoint(tmp_path / "bert_model.ckpt",
                               tiny.random_variables())
  values = pathlib.Path(str(path) + ".data-00000-of-00001")
  whole = values.read_bytes()
  for size in (0, 1, len(whole) // 2, len(whole) - 1):
    values.write_bytes(whole[:size])
    with pytest.raises(InputError, match="--init_checkpoint.*is damaged"):
      checkpoints.match_checkpoint(tiny.CONFIG, str(path))


def test_variables_that_are_not_floats_are_refused(tmp_path):
  name = "cls/predictions/output_bias"
  for values in (np.array([b"text"] * 29), np.ones(29, np.int32)):
    path = tiny.write_checkpoint(
        tmp_path / "bert_model.ckpt", dict(tiny.random_variables(), **{
            name: values}))
    with pytest.raises(InputError, match="--init_checkpoint: " + name):
      checkpoints.match_checkpoint(tiny.CONFIG, str(path))

"""Tests of convert_records.py: both directions, resuming and errors."""

import json
import logging
import re
import sys

import numpy as np
import pytest

from distillation import teacher_decoder
from records import compact
from records import manifest
from records import record_writer
from records import schema
from records import tfrecord
import tiny
from util.command_line import InputError

sys.path.insert(0, str(tiny.ROOT / "examples"))
# pylint: disable=wrong-import-position
import convert_records

_SCRIPT = "examples/convert_records.py"
_MANIFEST = manifest.Manifest(
    stage="extract_teacher_labels_truncated",
    flags={"max_seq_length": 10, "temperature": 1.0, "tail_samples": 0},
    fingerprints={}, sources={"masked.tfrecord": "f"}, vocab_size=29)


@pytest.fixture(name="convert")
def _convert(caplog):
  """Returns a function that converts records and returns the log."""
  caplog.set_level(logging.INFO, "absl")

  def convert(input_file, output_dir, record_format="compact",
              probability_bits=16, overwrite=False):
    caplog.clear()
    convert_records.convert_all(convert_records.ConversionOptions(
        str(input_file), str(output_dir), record_format, str(probability_bits),
        overwrite))
    return caplog.text

  return convert


def _write(path, made_by=_MANIFEST, examples=None):
  """Writes records with a manifest; returns the path."""
  path.parent.mkdir(exist_ok=True)
  with record_writer.RecordWriter(str(path)) as writer:
    for features in examples or tiny.random_examples(21, seed=5):
      writer.write(tiny.serialize(features))
    writer.commit(made_by)
  return path


def _contents(path):
  """Returns the bytes of a record file and of its manifest."""
  return path.read_bytes(), (path.parent / (path.name + ".json")).read_text()


def _flags(path):
  return json.loads(_contents(path)[1])["flags"]


@pytest.mark.slow
def test_converting_back_gives_the_same_bytes(tmp_path):
  first = _write(tmp_path / "in" / "a.tfrecord")
  second = _write(tmp_path / "in" / "b.tfrecord",
                  examples=map(tiny.without_labels,
                               tiny.random_examples(5, seed=1)))

  def run(*words):
    result = tiny.run_script(_SCRIPT, *words)
    assert result.returncode == 0, result.stderr
    return result.stderr

  told = run("--input_file", tmp_path / "in" / "*.tfrecord", "--output_dir",
             tmp_path / "out", "--probability_bits=32")
  assert "a.tfrecord: 21 records, " in told
  assert "rounded" not in told and "dropped" not in told
  assert _flags(tmp_path / "out" / "a.tfrecord") == {
      **_MANIFEST.flags, "record_format": "compact", "probability_bits": 32}
  assert _flags(tmp_path / "out" / "b.tfrecord") == {
      **_MANIFEST.flags, "record_format": "compact"}
  run("--input_file", tmp_path / "out" / "*.tfrecord", "--output_dir",
      tmp_path / "back", "--record_format=example")
  for path in (first, second):
    assert _contents(tmp_path / "back" / path.name) == _contents(path)


def test_the_rounding_is_logged_and_recorded(tmp_path, convert):
  path = _write(tmp_path / "in" / "a.tfrecord")
  for folder, flags, told, bits in (
      ("8", {"probability_bits": 8}, ["0.01"], 8),
      ("back", {"record_format": "example"}, [], 8),
      ("16", {"probability_bits": 16}, ["1e-05"], 8)):
    text = convert(path, tmp_path / folder, **flags)
    assert "a.tfrecord: 21" in text
    assert re.findall("Probabilities were rounded by up to (.*)[.]",
                      text) == told
    path = tmp_path / folder / "a.tfrecord"
    assert _flags(path)["probability_bits"] == bits
    assert ("record_format" in _flags(path)) == (folder != "back")


def test_records_of_2019_become_compact(tmp_path, convert):
  """Records of 2019 have no manifest, and have numbers in padded labels."""
  examples = tiny.random_examples(9, seed=2)
  for features in examples:
    features[schema.TEACHER_INDICES] = features[schema.TEACHER_INDICES] + 1
  is_padding = [features[schema.MASKED_LM_WEIGHTS] == 0
                for features in examples]
  path = tiny.write_records(tmp_path / "a.tfrecord", examples)
  assert "{} numbers in the padding of labels were dropped".format(
      4 * np.sum(is_padding)) in convert(path, tmp_path / "out")
  output = tmp_path / "out" / "a.tfrecord"
  for features, empty, record in zip(
      examples, is_padding, tfrecord.read(str(output), "input_file")):
    expanded = compact.expand(tfrecord.decode(record))
    wanted = np.where(empty[:, np.newaxis], 0, features[schema.TEACHER_INDICES])
    np.testing.assert_array_equal(
        expanded[schema.TEACHER_INDICES], wanted.ravel())
  made_by = manifest.read_manifest(str(output))
  assert made_by.stage == "convert_records" and not made_by.vocab_size
  assert list(made_by.sources) == ["a.tfrecord"]


def test_token_ids_of_large_vocabularies_take_four_bytes(tmp_path, convert):
  """Without a manifest, the vocabulary size is one more than the largest id."""
  examples = tiny.random_examples(9, seed=2)
  examples[-1][schema.TEACHER_INDICES][0, 0] = 70000
  convert(tiny.write_records(tmp_path / "a.tfrecord", examples),
          tmp_path / "out")
  *_, last = tfrecord.read(str(tmp_path / "out" / "a.tfrecord"), "input_file")
  assert compact.expand(tfrecord.decode(last))[
      schema.TEACHER_INDICES][0] == 70000


def test_the_decoder_of_hidden_states_is_copied(tmp_path, convert):
  path = tiny.write_hidden_states(tmp_path / "in")
  convert(path, tmp_path / "out")
  convert(tmp_path / "out" / path.name, tmp_path / "back",
          record_format="example")
  decoders = [teacher_decoder.read(str(tmp_path / folder /
                                       teacher_decoder.FILE)).fingerprint()
              for folder in ("in", "out", "back")]
  assert len(set(decoders)) == 1
  assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes()


def test_a_conversion_resumes(tmp_path, convert):
  path = _write(tmp_path / "in" / "a.tfrecord")
  convert(path, tmp_path / "out")
  output = tmp_path / "out" / "a.tfrecord"
  records, made_by = _contents(output)
  # A killed run leaves a hidden file with its progress.
  serialized = list(tfrecord.read(str(output), "input_file"))
  output.unlink()
  with record_writer.RecordWriter(
      str(output), manifest.Manifest(**dict(
          json.loads(made_by), num_records=0, num_bytes=0, block_offsets=[]))
      ) as writer:
    for record in serialized[:8]:
      writer.write(b"x" * len(record))  # Differs, to show that it is kept.
    writer.save_progress(manifest.Manifest(**json.loads(made_by)))
  convert(path, tmp_path / "out")
  resumed, _ = _contents(output)
  assert len(resumed) == len(records) and resumed != records
  assert resumed.endswith(tfrecord.frame(serialized[8:]))
  assert "is finished" in convert(path, tmp_path / "out")


@pytest.mark.parametrize("output_dir, flags, told", [
    ("in", {}, "--output_dir.*holds the input file.*another folder"),
    ("out", {"record_format": "example", "probability_bits": 8},
     "--probability_bits=8.*--record_format=compact.*remove --probability_"),
    ("out", {"input_file": "none"}, "--input_file.*none.*check"),
    ("out", {"input_file": "{}/a.tfrecord,{}/more/a.tfrecord"},
     "--input_file.*two files a.tfrecord.*two folders"),
])
def test_bad_input_is_refused(tmp_path, convert, output_dir, flags, told):
  path = _write(tmp_path / "in" / "a.tfrecord")
  _write(tmp_path / "in" / "more" / "a.tfrecord")
  flags = dict({"input_file": str(path)}, **flags)
  flags["input_file"] = flags["input_file"].replace(
      "{}", str(tmp_path / "in"))
  with pytest.raises(InputError, match=told):
    convert(output_dir=tmp_path / output_dir, **flags)
  assert not (tmp_path / "out").exists()


def test_an_example_of_something_else_is_refused(tmp_path, convert):
  path = tiny.write_serialized(
      tmp_path / "a.tfrecord", tfrecord.encode({"image": np.array([[1]])}))
  with pytest.raises(InputError, match="--input_file: .*other than records"):
    convert(path, tmp_path / "out")


def test_a_record_that_does_not_fit_is_refused(tmp_path, convert):
  examples = tiny.random_examples(9, seed=2)
  examples[-1][schema.SEGMENT_IDS][0] = 1
  path = tiny.write_records(tmp_path / "a.tfrecord", examples)
  with pytest.raises(InputError, match="--input_file: {}: .*segment_ids.*"
                     "--record_format=example".format(path)):
    convert(path, tmp_path / "out")
  assert not list((tmp_path / "out").glob("*.tfrecord"))


def test_finished_records_stay_unless_overwritten(tmp_path, convert):
  path = _write(tmp_path / "in" / "a.tfrecord")
  convert(path, tmp_path / "out")
  before = _contents(tmp_path / "out" / "a.tfrecord")
  with pytest.raises(InputError,
                     match="--probability_bits is 8, not 16.*--overwrite"):
    convert(path, tmp_path / "out", probability_bits=8)
  assert _contents(tmp_path / "out" / "a.tfrecord") == before
  convert(path, tmp_path / "out", probability_bits=8, overwrite=True)
  assert _contents(tmp_path / "out" / "a.tfrecord") != before

"""Tests of the check of pipeline.sh's settings against its folder."""

import fnmatch
import os
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../examples"))
# pylint: disable=wrong-import-position
import pipeline_settings
import split_text
from records import manifest
from records import record_writer
from util import files
from util.command_line import InputError

_SETTINGS = {
    "TEXT": "text.txt", "DUMP": "dump.bz2", "TEACHER": "teacher", "FILES": "3",
    "DO_LOWER_CASE": "True", "DUPE_FACTOR": "2", "MASKED_LM_PROB": "0.15",
    "MAX_SEQ_LENGTH": "128", "MAX_PREDICTIONS_PER_SEQ": "20",
    "RECORD_FORMAT": "compact", "PRECISION": "fp32", "LAYERS": "0,2",
    "STEPS": "10", "BATCH_SIZE": "2"}
# Another value of each setting and words of the error, by the first stage after
# which the setting must not change.
_CHANGES = {
    "text": {"DUMP": ("other.bz2", "DUMP=dump.bz2")},
    "split": {"FILES": ("2", "FILES=3"), "TEXT": ("other.txt", "TEXT=text.txt")
             },
    "masked": {
        "DO_LOWER_CASE": ("False", "DO_LOWER_CASE=True"),
        "DUPE_FACTOR": ("1", "DUPE_FACTOR=2, or choose another WORK, which "
                             "labels only what training reads"),
        "MASKED_LM_PROB": ("0.3", "MASKED_LM_PROB=0.15"),
        "MAX_SEQ_LENGTH": ("64", "MAX_SEQ_LENGTH=128"),
        "MAX_PREDICTIONS_PER_SEQ": ("10", "MAX_PREDICTIONS_PER_SEQ=20"),
        "RECORD_FORMAT": ("example", "RECORD_FORMAT=compact"),
        "TEACHER": ("other", "another vocab.txt")},
    "labelled": {"PRECISION": ("bf16", "PRECISION=fp32"),
                 "TEACHER": ("finer", "another bert_model.ckpt.index")},
    "student": {"LAYERS": ("0,3", "LAYERS=0,2")},
}
_STAGES = list(_CHANGES)


@pytest.fixture(name="work")
def _work(tmp_path, monkeypatch):
  """The path of WORK, in a working directory with texts and teachers."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "text.txt").write_text("a\n\nb\n\nc\n")
  (tmp_path / "other.txt").write_text("a\n\nb\n\nd\n")
  for name, vocabulary, index in (
      ("teacher", "v", "i"), ("other", "w", "i"), ("finer", "v", "j")):
    (tmp_path / name).mkdir()
    for file, text in (("vocab.txt", vocabulary), ("bert_config.json", "{}"),
                       ("bert_model.ckpt.index", index)):
      (tmp_path / name / file).write_text(text)
  return tmp_path / "work"


def _write_records(path, made_with, num_records=1):
  made_by = manifest.Manifest(
      stage="a_stage", flags=made_with, sources={}, vocab_size=30,
      fingerprints={
          name: files.fingerprint(os.path.join("teacher", file))
          for name, file in (("vocab_file", "vocab.txt"),
                             ("bert_config_file", "bert_config.json"),
                             ("init_checkpoint", "bert_model.ckpt.index"))})
  with record_writer.RecordWriter(str(path)) as writer:
    for _ in range(num_records):
      writer.write(b"one")
    writer.commit(made_by)


def _finish(work, stage):
  """Writes the files of a finished stage that pipeline_settings.py reads."""
  work.mkdir(exist_ok=True)
  if stage == "text":
    (work / "settings.txt").write_text("DUMP=dump.bz2\n")
  elif stage == "split":
    split_text.split("text.txt", 3, str(work / "split"), "text")
  elif stage == "masked":
    for i, num_records in enumerate((7, 12, 5)):
      _write_records(
          work / "masked/masked_{}.tfrecord".format(i), {
              "do_lower_case": True, "dupe_factor": 2, "masked_lm_prob": 0.15,
              "max_seq_length": 128, "max_predictions_per_seq": 20,
              "record_format": "compact"}, num_records)
  elif stage == "labelled":
    _write_records(work / "labelled/training-00000-of-00002.tfrecord",
                   {"precision": "fp32"})
  else:
    (work / "student/run").mkdir(parents=True)
    (work / "student/run/checkpoint").write_text("")
    (work / "student/settings.txt").write_text("LAYERS=0,2\n")


@pytest.mark.parametrize("last", range(len(_STAGES)))
def test_a_changed_setting_is_refused_once_its_stage_is_finished(work, last):
  for stage in _STAGES[:last + 1]:
    _finish(work, stage)
  pipeline_settings.check(str(work), _SETTINGS)
  for i, stage in enumerate(_STAGES):
    for name, (value, told) in _CHANGES[stage].items():
      changed = dict(_SETTINGS, **{name: value})
      if i > last:
        pipeline_settings.check(str(work), changed)
        continue
      with pytest.raises(InputError) as error:
        pipeline_settings.check(str(work), changed)
      message = str(error.value)
      assert message.startswith("{}={} does not fit {}".format(
          name, value, work)), message
      assert told in message and "another WORK" in message
  # STEPS and BATCH_SIZE may change, and equal values may differ as text.
  pipeline_settings.check(str(work), dict(
      _SETTINGS, STEPS="5", BATCH_SIZE="9", DO_LOWER_CASE="true",
      MASKED_LM_PROB=".150"))


def test_a_changed_text_is_refused_and_a_missing_one_accepted(work):
  _finish(work, "split")
  os.remove("text.txt")
  pipeline_settings.check(str(work), _SETTINGS)
  with open("text.txt", "w", encoding="utf-8") as file:
    file.write("a\n\nb\n\ne\n")
  with pytest.raises(InputError, match="TEXT=text.txt .* of another text"):
    pipeline_settings.check(str(work), _SETTINGS)


def test_a_split_without_a_manifest_is_checked_by_its_files(work):
  _finish(work, "split")
  (work / "split/.text.split.json").unlink()
  pipeline_settings.check(str(work), _SETTINGS)
  with pytest.raises(InputError, match="FILES=4 .* with FILES=3: set FILES=3"):
    pipeline_settings.check(str(work), dict(_SETTINGS, FILES="4"))
  (work / "split/text_0.txt").unlink()  # An unfinished split is made again.
  pipeline_settings.check(str(work), dict(_SETTINGS, FILES="4"))


@pytest.mark.parametrize("name, value, told", [
    ("FILES", "1", "from 2 on: one of the files is held out"),
    ("FILES", "many", "FILES=many"), ("STEPS", "1e5", "STEPS=1e5"),
    ("BATCH_SIZE", "0", "from 1 on"),
    ("LABEL_BATCH_SIZE", "0", "LABEL_BATCH_SIZE=0 must be a number from 1 on"),
    ("DUPE_FACTOR", "-1", "DUPE_FACTOR=-1"),
])
def test_numbers_are_checked_before_any_work(work, name, value, told):
  with pytest.raises(InputError, match=told):
    pipeline_settings.check(str(work), dict(_SETTINGS, **{name: value}))


@pytest.mark.parametrize("name", ["a[1]", "a,b", "a*", "b?", " a", "a "])
def test_a_folder_named_like_a_pattern_is_refused(name):
  with pytest.raises(InputError, match="WORK=.*choose another name"):
    pipeline_settings.check(name, _SETTINGS)


def test_only_records_that_training_reads_are_labelled(work):
  _finish(work, "masked")
  for steps, wanted in ((3, [7]), (4, [7, 12]), (100, [7, 12])):
    assert pipeline_settings.records_of(str(work), 2, 2 * steps) == wanted
  command = [sys.executable, pipeline_settings.__file__, "--work", str(work),
             "--setting", "FILES=3", "--setting", "BATCH_SIZE=2",
             "--setting", "STEPS=2", "--print_inputs", "True"]
  for more, num_files, num_records in (([], 1, 7), (["--num_files=2"], 2, 19)):
    result = subprocess.run(
        [*command, *more], stdout=subprocess.PIPE, text=True, check=True)
    found = result.stdout.split()
    assert found[:2] == [str(num_files), str(num_records)]
    assert files.find_files(found[2], "input_file") == [
        str(work / "masked/masked_{}.tfrecord".format(i))
        for i in range(num_files)]


@pytest.mark.parametrize("num_files", [1, 2, 9, 10, 11, 99, 100, 347, 1999])
def test_patterns_match_the_first_files_in_order(num_files):
  patterns = pipeline_settings.patterns("a/b_", num_files, ".t").split(",")
  assert [i for pattern in patterns for i in range(3000)
          if fnmatch.fnmatchcase("a/b_{}.t".format(i), pattern)] == list(
              range(num_files))

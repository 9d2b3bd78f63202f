"""Tests of the script that creates pre-training records."""

import hashlib
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys

import pytest

import multifile_create_pretraining_data as stage
import processes
from records import compact
from records import manifest
from records import sampling
from records import splits
from records import tfrecord
import reference_pretraining_data as reference
import tokenization
from util import files
from util.command_line import InputError

_SCRIPT = str(pathlib.Path(stage.__file__).resolve())


@pytest.fixture(name="vocab_file")
def _vocab_file(tmp_path):
  return _write_vocabulary(tmp_path)


def _write_vocabulary(folder):
  path = folder / "vocab.txt"
  path.write_text("\n".join(reference.TOKENS) + "\n")
  return str(path)


def _options(settings):
  """Converts settings of the reference into options of the script."""
  return sampling.SamplingOptions(**settings._asdict())


def _read(path):
  """Returns the features of each record of a file, as lists by name."""
  return [
      {name: values.tolist()
       for name, values in tfrecord.decode(serialized).items()}
      for serialized in tfrecord.read(str(path), "input_file")]


def _command(**changes):
  """Returns a command line without the flags whose value is None."""
  flags = dict(input_dir="in", output_dir="out", output_base_name="a",
               vocab_file="vocab.txt")
  flags.update(changes)
  command = [sys.executable, _SCRIPT]
  for name, value in flags.items():
    if value is not None:
      command += ["--" + name, str(value)]
  return command


def _run(folder, **changes):
  return subprocess.run(_command(**changes), cwd=folder,
                        capture_output=True, text=True, check=False)


def _input(folder, *texts):
  (folder / "in").mkdir(exist_ok=True)
  for i, text in enumerate(texts):
    path = folder / "in" / "t_{}.txt".format(i)
    if isinstance(text, bytes):
      path.write_bytes(text)
    else:
      path.write_text(text, encoding="utf-8")


def _check(folder, name="t_0.txt"):
  return stage.check_file(str(folder / "in" / name), lambda progress: None)


def _in_process(folder, vocab_file, settings, seed=12345, source=None):
  """Writes records in this process; returns the path and the counts."""
  output = str(folder / "direct.tfrecord")
  counts = stage.create_file(
      stage.Task(
          source or _check(folder), output, vocab_file, seed,
          _options(settings), None, manifest.Manifest("stage", {}, {}, {}, 1)),
      lambda progress: None)
  return output, counts


# --- The records -------------------------------------------------------------


_GOLDEN = {
    "default": ("default", dict(dupe_factor=3)),
    "cased": ("cased", dict(
        do_lower_case=False, max_seq_length=64, max_predictions_per_seq=10,
        dupe_factor=2, random_seed=7)),
    "whole_word_mask": ("default", dict(
        dupe_factor=1, do_whole_word_mask=True)),
}


@pytest.mark.parametrize("case", sorted(_GOLDEN))
def test_records_equal_the_golden_records(shared, tmp_path, case):
  name, flags = _GOLDEN[case]
  golden = shared / "golden/pretraining"
  _input(tmp_path, (golden / (name + "_input.txt")).read_bytes())
  result = _run(tmp_path, vocab_file=shared / "data/teacher/vocab.txt", **flags)
  assert result.returncode == 0, result.stderr
  expected = _read(golden / (case + "_expected.tfrecord"))
  assert len(expected) > 60
  assert _read(tmp_path / "out/a_0.tfrecord") == expected


def test_an_incomplete_split_is_refused(tmp_path, vocab_file):
  del vocab_file
  _input(tmp_path, "one .\n", "two .\n")
  splits.write(str(tmp_path / "in"), "t", splits.Split("hash", [6, 6, 6]))
  result = _run(tmp_path)
  assert result.returncode == 1 and result.stderr.count("\n") == 1
  assert "--input_dir: in: 1 of the 3 parts t_N.txt are missing" in (
      result.stderr)
  assert not (tmp_path / "out").exists()
  splits.write(str(tmp_path / "in"), "t", splits.Split("hash", [6, 6]))
  assert _run(tmp_path, dupe_factor=1).returncode == 0


@pytest.mark.parametrize("temporary", [None, "spill"])
def test_ranks_share_the_files(tmp_path, vocab_file, temporary):
  """Several ranks write the same files as one process."""
  del vocab_file
  rng = random.Random(1)
  _input(tmp_path, *(reference.random_text(rng, 5) for _ in range(5)))
  assert _run(tmp_path, dupe_factor=2).returncode == 0
  environment = dict(os.environ, OMPI_COMM_WORLD_SIZE="3")
  if temporary:
    (tmp_path / temporary).mkdir()
    environment["TMPDIR"] = str(tmp_path / temporary)
  ranks = [subprocess.Popen(
      _command(dupe_factor=2, output_dir="ranks"), cwd=tmp_path,
      env=dict(environment, OMPI_COMM_WORLD_RANK=str(rank)),
      stderr=subprocess.PIPE, text=True) for rank in range(3)]
  for rank, process in enumerate(ranks):
    _, told = process.communicate()
    assert process.returncode == 0, told
    assert "{} files: ".format(2 if rank < 2 else 1) in told
  assert sorted(os.listdir(tmp_path / "ranks")) == sorted(
      os.listdir(tmp_path / "out"))
  for name in os.listdir(tmp_path / "out"):
    assert (tmp_path / "ranks" / name).read_bytes() == (
        tmp_path / "out" / name).read_bytes()


def test_instances_spill_to_the_output_folder_unless_tmpdir_is_set(
    monkeypatch, tmp_path):
  monkeypatch.setattr(stage.tempfile, "tempdir", None)
  monkeypatch.delenv("TMPDIR", raising=False)
  assert stage._spill_folder("out") == "out"
  monkeypatch.setenv("TMPDIR", str(tmp_path))
  assert stage._spill_folder("out") == str(tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_the_error_of_a_full_disk_names_the_spill_folder(
    tmp_path, vocab_file, monkeypatch):
  _input(tmp_path, reference.random_text(random.Random(0), 5))
  monkeypatch.setattr(stage.tempfile, "tempdir", str(tmp_path))
  monkeypatch.setattr(stage.tempfile, "TemporaryFile",
                      lambda **unused: open("/dev/full", "wb"))
  for temporary, wanted in (
      (None, str(tmp_path / "direct.tfrecord")), ("set", str(tmp_path))):
    if temporary:
      monkeypatch.setenv("TMPDIR", temporary)
    else:
      monkeypatch.delenv("TMPDIR", raising=False)
    with pytest.raises(OSError) as raised:
      _in_process(tmp_path, vocab_file, reference.Settings())
    assert raised.value.filename == wanted


def test_compact_records_expand_to_the_same_features(tmp_path, vocab_file):
  del vocab_file
  _input(tmp_path, reference.random_text(random.Random(0), 25))
  for name in ("example", "compact"):
    result = _run(tmp_path, output_dir=name, record_format=name)
    assert result.returncode == 0, result.stderr
  plain, packed = (
      list(tfrecord.read(str(tmp_path / name / "a_0.tfrecord"), "input_file"))
      for name in ("example", "compact"))
  assert len(plain) == len(packed) > 20
  for record, stored in zip(plain, packed):
    stored = tfrecord.decode(stored)
    assert set(stored) == {"compact"}
    features, expanded = tfrecord.decode(record), compact.expand(stored)
    assert set(features) == set(expanded)
    for name, values in features.items():
      assert expanded[name].tolist() == values.tolist()
  result = _run(tmp_path, output_dir="compact")
  assert result.returncode == 1
  assert "--record_format is example, not compact" in result.stderr


@pytest.mark.parametrize("changes", [
    {},
    {"do_whole_word_mask": True},
    {"do_lower_case": False, "dupe_factor": 1},
    {"max_seq_length": 5, "short_seq_prob": 1.0},
    {"max_seq_length": 16, "max_predictions_per_seq": 3, "short_seq_prob": 0.5},
    {"max_seq_length": 300, "max_predictions_per_seq": 60},
    {"masked_lm_prob": 1.0, "max_predictions_per_seq": 200},
    {"masked_lm_prob": 1.0, "max_predictions_per_seq": 200,
     "do_whole_word_mask": True},
    {"masked_lm_prob": 0.0, "do_whole_word_mask": True, "max_seq_length": 8},
])
@pytest.mark.parametrize("num_documents", [1, 2, 25])
def test_records_equal_the_reference(
    tmp_path, vocab_file, changes, num_documents):
  settings = reference.Settings(dupe_factor=3)._replace(**changes)
  rng = random.Random(num_documents)
  _input(tmp_path, reference.random_text(rng, num_documents))
  output, counts = _in_process(tmp_path, vocab_file, settings, seed=99)
  vocabulary = reference.read_vocabulary(vocab_file)
  expected = list(reference.create_records(
      str(tmp_path / "in/t_0.txt"), vocabulary, settings, 99))
  assert _read(output) == expected
  assert counts.sequences == len(expected)
  assert counts.sequence_tokens == sum(sum(r["input_mask"]) for r in expected)
  documents = reference.read_documents(
      str(tmp_path / "in/t_0.txt"), vocabulary, settings.do_lower_case)
  tokens = [t for document in documents for s in document for t in s]
  assert counts.documents == len(documents) == num_documents
  assert counts.tokens == len(tokens)
  assert counts.unknown_tokens == tokens.count("[UNK]")
  assert counts.short_documents == [
      len(document) for document in documents].count(1)
  assert counts.unmasked_sequences == sum(
      not any(record["masked_lm_weights"]) for record in expected)


# --- The run -----------------------------------------------------------------


def test_file_i_in_natural_order_uses_seed_plus_i(tmp_path, vocab_file):
  rng = random.Random(0)
  texts = [reference.random_text(rng, 4) for _ in range(11)]
  _input(tmp_path, *texts)
  (tmp_path / "in/.hidden").write_bytes(b"\xff")
  (tmp_path / "in/t_5.txt.d").mkdir()
  result = _run(tmp_path, num_workers=2, dupe_factor=2)
  assert result.returncode == 0, result.stderr
  assert "11 files: 44 documents" in result.stderr
  vocabulary = reference.read_vocabulary(vocab_file)
  for i in range(11):
    assert _read(tmp_path / "out/a_{}.tfrecord".format(i)) == list(
        reference.create_records(str(tmp_path / "in/t_{}.txt".format(i)),
                                 vocabulary, reference.Settings(dupe_factor=2),
                                 12345 + i))
  made_by = manifest.read_manifest(str(tmp_path / "out/a_10.tfrecord"))
  assert made_by.stage == "multifile_create_pretraining_data"
  assert made_by.flags == {
      "do_lower_case": True, "max_seq_length": 128,
      "max_predictions_per_seq": 20, "random_seed": 12355, "dupe_factor": 2,
      "masked_lm_prob": 0.15, "short_seq_prob": 0.1,
      "do_whole_word_mask": False}
  assert made_by.sources == {
      "t_10.txt": hashlib.sha256(texts[10].encode()).hexdigest()}
  assert made_by.vocab_size == len(reference.TOKENS)
  assert made_by.num_records == len(_read(tmp_path / "out/a_10.tfrecord"))


def _outputs(folder):
  """Returns visible files' bytes; checks that records have a manifest."""
  outputs = {}
  for path in folder.glob("[!.]*"):
    outputs[path.name] = path.read_bytes()
    if path.suffix == ".tfrecord":
      assert manifest.read_manifest(str(path)) is not None
  return outputs


@pytest.fixture(scope="module", name="whole_run")
def _whole_run(tmp_path_factory):
  """Returns a folder with four inputs and the outputs of a whole run."""
  folder = tmp_path_factory.mktemp("whole_run")
  _write_vocabulary(folder)
  rng = random.Random(0)
  small, large = reference.random_text(rng, 3), reference.random_text(rng, 700)
  _input(folder, small, large, large, small)
  result = _run(folder, num_workers=1, dupe_factor=20)
  assert result.returncode == 0, result.stderr
  return folder


@pytest.mark.parametrize("stop", [
    signal.SIGKILL, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (
        signal.SIGTERM, signal.SIGINT, "kill a worker"))])
def test_a_stopped_run_resumes(tmp_path, whole_run, stop):
  shutil.copytree(whole_run / "in", tmp_path / "in")
  shutil.copy(whole_run / "vocab.txt", tmp_path)
  flags = dict(num_workers=2, dupe_factor=20)
  process = processes.Script(
      *_command(**flags)[1:], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
      start_new_session=True)
  # By then, one worker has finished the first file and is writing the third.
  processes.wait_until((tmp_path / "out/.a_2.tfrecord.partial").exists, process)
  workers = processes.workers(process.script_pid)
  assert len(workers) == 2
  if stop == "kill a worker":
    os.kill(workers[0], signal.SIGKILL)
  elif stop == signal.SIGINT:
    os.killpg(process.script_pid, stop)  # As Ctrl-C does.
  else:
    process.send_signal(stop)
  stderr = process.communicate(timeout=60)[1]
  processes.wait_until(
      lambda: not any(map(processes.is_running, workers)), timeout=10)
  outputs = _outputs(tmp_path / "out")
  assert "a_0.tfrecord" in outputs and "a_2.tfrecord" not in outputs
  if stop != signal.SIGKILL:
    assert stderr.count("\n") == 1, stderr
    assert "run the same command again to resume" in stderr
    assert process.returncode == (1 if stop == "kill a worker" else 130)
    assert not list((tmp_path / "out").glob(".*"))
  first_made = os.stat(tmp_path / "out/a_0.tfrecord").st_mtime_ns
  again = _run(tmp_path, **flags)
  assert again.returncode == 0, again.stderr
  assert "a_0.tfrecord is finished" in again.stderr
  assert os.stat(tmp_path / "out/a_0.tfrecord").st_mtime_ns == first_made
  assert _outputs(tmp_path / "out") == _outputs(whole_run / "out")
  assert not list((tmp_path / "out").glob(".*"))


def test_a_file_that_another_process_writes_is_refused(tmp_path, vocab_file):
  del vocab_file
  _input(tmp_path, *(reference.random_text(random.Random(i), 3)
                     for i in range(3)))
  (tmp_path / "out").mkdir()
  first_writer = files.PartialFile(str(tmp_path / "out/a_1.tfrecord"))
  with first_writer:
    first_writer.file.write(b"half a file")
    first_writer.file.flush()
    result = _run(tmp_path, num_workers=1)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1, result.stderr
    assert "out/a_1.tfrecord is being written by another process" in (
        result.stderr)
    assert [path.read_bytes() for path in (tmp_path / "out").glob(".*")] == [
        b"half a file"]
  assert set(_outputs(tmp_path / "out")) == {
      "a_0.tfrecord", "a_0.tfrecord.json"}
  again = _run(tmp_path, num_workers=1)
  assert again.returncode == 0, again.stderr
  assert "a_0.tfrecord is finished" in again.stderr
  assert len(_outputs(tmp_path / "out")) == 6


def test_a_stopped_run_resumes_to_the_golden_records(shared, tmp_path):
  golden = shared / "golden/pretraining"
  text = (golden / "default_input.txt").read_bytes()
  _input(tmp_path, text, text)
  flags = dict(vocab_file=shared / "data/teacher/vocab.txt", dupe_factor=3,
               num_workers=2)
  assert _run(tmp_path, **flags).returncode == 0
  # Simulates a run that was killed while it wrote the first file.
  path = tmp_path / "out/a_0.tfrecord"
  pathlib.Path(files.partial_path(str(path))).write_bytes(
      path.read_bytes()[:1000])
  path.unlink()
  assert _run(tmp_path, **flags).returncode == 0
  assert _read(path) == _read(golden / "default_expected.tfrecord")
  assert not list((tmp_path / "out").glob(".*"))


def test_outputs_of_other_flags_or_inputs_stay_unless_overwritten(
    tmp_path, vocab_file):
  del vocab_file
  _input(tmp_path, reference.random_text(random.Random(0), 4))
  assert _run(tmp_path, dupe_factor=1).returncode == 0
  before = _outputs(tmp_path / "out")
  for changes, message in (
      ({"dupe_factor": 2}, "--dupe_factor is 1, not 2|is 2, not 1"),
      ({"dupe_factor": 1, "random_seed": 1}, "--random_seed"),
      ({"dupe_factor": 1, "do_whole_word_mask": "true"}, "whole_word_mask")):
    result = _run(tmp_path, **changes)
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert re.search(message, result.stderr) and "--overwrite" in result.stderr
    assert _outputs(tmp_path / "out") == before
  assert _run(tmp_path, dupe_factor=2, overwrite="True").returncode == 0
  assert _outputs(tmp_path / "out") != before
  _input(tmp_path, "the cat sat\non a mat\n\nthe dog\nand a cat\n")
  result = _run(tmp_path, dupe_factor=2)
  assert result.returncode == 1 and "t_0.txt" in result.stderr


@pytest.mark.parametrize("texts, flags, message", [
    ([b"the cat\n\nsat \xe9 on\n"], {}, "--input_dir.*t_0.txt.*byte 13.*iconv"),
    (["the cat\n", b"xx\n" * 1000000 + b"\n\xc3"], {},
     "t_1.txt.*byte 3000001"),
    # A text without line ends takes at most the memory of a line of 1 MiB.
    (["the cat\n", b"a\nb\n" + b"x" * 3000000], {},
     "t_1.txt.*over 1,048,576 bytes, line 3"),
    (["the cat\n", ""], {}, "--input_dir.*t_1.txt.*no text"),
    ([" \n\n\u3000\n"], {}, "t_0.txt.*no text"),
    (["\0\n"], {}, "t_0.txt has NULs.*iconv"),
    ([], {}, "--input_dir: in holds no file"),
    ([], {"input_dir": "none"}, "--input_dir.*no folder none"),
    (["a\n"], {"vocab_file": "none.txt"}, "none.txt"),
    (["a\n"], {"vocab_file": "bad.txt"}, r"--vocab_file.*\[MASK\]"),
    (["a\n"], {"output_dir": "in"}, "--output_dir=in is --input_dir"),
    (["a\n"], {"output_dir": "s3://a/b"}, r"s3://a/b: .* no file system"),
    (["a\n"], {"input_dir": "s3://a/b"}, r"s3://a/b: .* no file system"),
    (["a\n"], {"output_dir": "vocab.txt"}, "vocab.txt"),
    (["a\n"], {"output_base_name": "b/c"}, "--output_base_name=b/c"),
    (["a\n"], {"output_base_name": None}, "missing --output_base_name"),
    (["a\n"], {"max_seq_length": 4}, "max_seq_length"),
    (["a\n"], {"num_workers": 0}, "num_workers"),
    (["a\n"], {"masked_lm_prob": 1.5}, "masked_lm_prob"),
])
def test_bad_input_ends_in_one_line(
    tmp_path, vocab_file, texts, flags, message):
  del vocab_file
  _input(tmp_path, *texts)
  (tmp_path / "bad.txt").write_text("[UNK]\n[CLS]\n[SEP]\n")
  result = _run(tmp_path, **flags)
  assert result.returncode == 1, result.stderr
  assert result.stderr.count("\n") == 1, result.stderr
  assert re.search(message, result.stderr), result.stderr
  assert not list(tmp_path.glob("out/*.tfrecord"))


def test_a_full_disk_ends_in_one_line_with_the_file_name(tmp_path, vocab_file):
  del vocab_file
  _input(tmp_path, reference.random_text(random.Random(0), 100))
  limited = subprocess.run(
      ["sh", "-c", 'ulimit -f 200; exec "$@"', "sh",
       *_command(dupe_factor=20)],
      cwd=tmp_path, capture_output=True, text=True, check=False)
  assert limited.returncode == 1, limited.stderr
  assert limited.stderr.count("\n") == 1
  assert "a_0.tfrecord" in limited.stderr
  assert os.listdir(tmp_path / "out") == []


def test_an_input_that_changes_during_the_run_is_an_error(tmp_path, vocab_file):
  _input(tmp_path, "a cat\n\na dog\n")
  source = _check(tmp_path)
  _input(tmp_path, "a cat\n\na mat\n")
  with pytest.raises(InputError, match="t_0.txt was changed"):
    _in_process(tmp_path, vocab_file, reference.Settings(), source=source)
  assert not list(tmp_path.glob("*direct*"))


def test_a_file_of_only_one_document_is_reported(tmp_path, vocab_file):
  _input(tmp_path, reference.random_text(random.Random(0), 1, max_sentences=40))
  result = _run(tmp_path)
  assert result.returncode == 0
  assert "t_0.txt has only one document" in result.stderr
  assert _read(tmp_path / "out/a_0.tfrecord") == list(reference.create_records(
      str(tmp_path / "in/t_0.txt"), reference.read_vocabulary(vocab_file),
      reference.Settings(), 12345))


_UNKNOWN = r"\S+ of the tokens.* are \[UNK\]"


@pytest.mark.parametrize("text, told", [
    ("the cat \n\n" * 30 + "zebra\n", []),
    ("zebra cat\n\n" * 3, ["50% of the tokens are [UNK]"])])
def test_many_unknown_tokens_are_reported(tmp_path, vocab_file, text, told):
  del vocab_file
  _input(tmp_path, text)
  result = _run(tmp_path)
  assert result.returncode == 0
  assert re.findall(_UNKNOWN, result.stderr) == told


@pytest.mark.parametrize("text, told", [
    ("zebra cat\n\n" * 3, []), ("zebra zebra zebra cat\n\n" * 3, [
        "75% of the tokens at the start of in/t_0.txt are [UNK]"])])
def test_a_wrong_vocabulary_is_reported_before_records_are_created(
    tmp_path, vocab_file, text, told):
  del vocab_file
  _input(tmp_path, text)
  result = _run(tmp_path)
  assert result.returncode == 0
  early, made = result.stderr.partition(" documents")[::2]
  assert made
  assert re.findall(_UNKNOWN, early) == told
  assert "% of the tokens are [UNK]" in made


@pytest.mark.parametrize("folder, do_lower_case, is_reported", [
    ("cased_L-12_H-768_A-12", True, True),
    ("cased_L-12_H-768_A-12", False, False),
    ("uncased_L-12_H-768_A-12", False, True),
    ("bert", True, False)])
def test_a_vocabulary_of_another_case_is_reported(
    tmp_path, vocab_file, folder, do_lower_case, is_reported):
  (tmp_path / folder).mkdir()
  shutil.copy(vocab_file, tmp_path / folder)
  _input(tmp_path, "a cat\na dog\n\na dog\na cat\n")
  result = _run(tmp_path, vocab_file=folder + "/vocab.txt",
                do_lower_case=do_lower_case)
  assert result.returncode == 0
  # The other line summarizes the run.
  assert result.stderr.count("\n") == 1 + is_reported, result.stderr
  assert ("--vocab_file: the folder of {}/vocab.txt".format(folder)
          in result.stderr) == is_reported


def test_older_outputs_are_reported(tmp_path, vocab_file):
  del vocab_file
  _input(tmp_path, "a cat\n\na dog\n", "a cat\n\na dog\n")
  assert _run(tmp_path).returncode == 0
  (tmp_path / "in/t_1.txt").unlink()
  result = _run(tmp_path)
  assert result.returncode == 0
  assert "a_1.tfrecord is not an output of this run" in result.stderr


@pytest.mark.parametrize("text, early, late", [
    ("a cat\n\na dog\n\n" * 9, "100%", "100%"),
    # The check at the start ignores the last document, which may continue.
    ("a cat\n\na dog\n\n" + "a cat\nthe dog\n", "100%", "67%"),
    ("a cat\nthe dog\n\na dog\na cat\n\na cat\n", "", "")])
def test_documents_of_one_sentence_are_reported(
    tmp_path, vocab_file, text, early, late):
  del vocab_file
  _input(tmp_path, text)
  result = _run(tmp_path, dupe_factor=1)
  assert result.returncode == 0
  begins, made, ends = result.stderr.partition("1 files: ")
  assert made
  for told, share, where in (
      (begins, early, " at the start of in/t_0.txt"), (ends, late, "")):
    assert ("have one sentence" in told) == bool(share)
    if share:
      assert "{} of the documents{} have one sentence".format(
          share, where) in told
  if late == "100%":
    assert all(record["next_sentence_labels"] == [1]
               for record in _read(tmp_path / "out/a_0.tfrecord"))


@pytest.mark.parametrize("flags, told", [
    ({"max_seq_length": 512}, "=20 masks 3.9% of a sequence of "
     "--max_seq_length=512, less than --masked_lm_prob=0.15: set "
     "--max_predictions_per_seq=77."),
    ({"max_seq_length": 512, "max_predictions_per_seq": 76}, ""),
    ({"max_seq_length": 128}, ""),
    ({"max_seq_length": 128, "masked_lm_prob": 0.3},
     "=20 masks 15.6% .*=39[.]"),
    # In floating point, 0.07 * 100 is greater than 7.
    ({"max_seq_length": 100, "masked_lm_prob": 0.07,
      "max_predictions_per_seq": 7}, ""),
    ({"max_seq_length": 100, "masked_lm_prob": 0.07,
      "max_predictions_per_seq": 6}, ": set --max_predictions_per_seq=7[.]")])
def test_too_few_predictions_are_reported(caplog, flags, told):
  settings = reference.Settings()._replace(**flags)
  stage._warn_of_few_predictions(_options(settings))
  assert bool(caplog.messages) == bool(told)
  assert re.search(told, caplog.text)


def test_unmasked_and_invisible_text_is_reported(tmp_path, vocab_file):
  """A word has more pieces than may be masked, and a line is U+200B."""
  del vocab_file
  whole = "un" + "want" * 9
  _input(tmp_path, "\n".join([whole, whole, "\u200b", whole, "", "cat", whole])
         + "\n")
  flags = dict(dupe_factor=1, max_seq_length=32, max_predictions_per_seq=5,
               short_seq_prob=0, output_dir="whole")
  result = _run(tmp_path, do_whole_word_mask="True", **flags)
  assert result.returncode == 0, result.stderr
  records = _read(tmp_path / "whole/a_0.tfrecord")
  unmasked = sum(not any(record["masked_lm_weights"]) for record in records)
  assert 0 < unmasked < len(records)
  assert ("{:.1f}% of the sequences ({}) have no masked token: ".format(
      100 * unmasked / len(records), unmasked) in result.stderr)
  assert "use --do_whole_word_mask False, or" in result.stderr
  assert "1 lines have only zero-width or control characters" in result.stderr
  result = _run(tmp_path, **dict(flags, output_dir="pieces"))
  assert result.returncode == 0 and "no masked token" not in result.stderr


def test_strip_accents_is_independent_of_do_lower_case(tmp_path):
  words = ["[PAD]", *tokenization.SPECIAL_TOKENS, "\xe9t\xe9", "ete",
           "\xc9t\xe9", "Ete"]
  (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", "utf-8")
  _input(tmp_path, "\xc9t\xe9\n\xc9t\xe9\n\n\xc9t\xe9\n\xc9t\xe9\n")
  for do_lower_case, strip_accents, token in (
      (True, False, "\xe9t\xe9"), (False, True, "Ete")):
    folder = str(do_lower_case)
    result = _run(tmp_path, dupe_factor=1, output_dir=folder,
                  do_lower_case=do_lower_case, strip_accents=strip_accents)
    assert result.returncode == 0, result.stderr
    path = str(tmp_path / folder / "a_0.tfrecord")
    ids = {index for record in _read(path) for index, weight in zip(
        record["masked_lm_ids"], record["masked_lm_weights"]) if weight}
    assert {words[index] for index in ids} == {token}
  result = _run(tmp_path, dupe_factor=1, output_dir="True")
  assert result.returncode == 1 and result.stderr.count("\n") == 1
  assert "--strip_accents is as --do_lower_case, not False" in result.stderr


def test_the_number_of_workers_fits_into_memory(tmp_path):
  paths = []
  for i, megabytes in enumerate((100, 300, 200)):
    paths.append(str(tmp_path / str(i)))
    with open(paths[-1], "wb") as file:
      file.write(b"\n \na\n\na\n")
      file.truncate(megabytes << 20)
  gigabyte = 1 << 30
  assert stage.workers_that_fit(paths, 8, None) == 3
  assert stage.workers_that_fit(paths, 2, 8 * gigabyte) == 2
  # A worker needs 150 MB and twice its file's size: 350, 750 or 550 MB.
  assert stage.workers_that_fit(paths, 2, 1300 << 20) == 2
  with pytest.raises(InputError, match="--num_workers=2 needs about 1,300 MB"):
    stage.workers_that_fit(paths, 2, 1299 << 20)
  # Spilled instances take memory if the spill folder is on tmpfs.
  assert stage.workers_that_fit(paths, 1, 800 << 20, spill_bytes=0.1) == 1
  with pytest.raises(InputError):
    stage.workers_that_fit(paths, 1, 750 << 20, spill_bytes=0.1)
  assert stage.workers_that_fit(paths, 1, 750 << 20) == 1
  assert stage.workers_that_fit(paths, None, 750 << 20) == 1
  with pytest.raises(InputError, match="--split_number=3 or more$"):
    stage.workers_that_fit(paths, None, 749 << 20)
  # A file of one document cannot be split.
  with open(paths[1], "r+b") as file:
    file.write(b"\n \na\nb\na\n")
  with pytest.raises(InputError, match="{}, .* no blank line between documents"
                     .format(paths[1])):
    stage.workers_that_fit(paths, None, 749 << 20)


@pytest.mark.slow
def test_memory_does_not_grow_with_dupe_factor(tmp_path, vocab_file):
  del vocab_file
  _input(tmp_path, reference.random_text(random.Random(0), 1000))
  script = (
      "import resource, subprocess, sys; subprocess.run(sys.argv[1:], "
      "check=True, stderr=subprocess.DEVNULL); "
      "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
  peaks = []
  for dupe_factor in (1, 40):
    result = subprocess.run(
        [sys.executable, "-c", script, *_command(
            dupe_factor=dupe_factor, max_seq_length=32, overwrite=True)],
        cwd=tmp_path, stdout=subprocess.PIPE, check=True)
    peaks.append(int(result.stdout))
  num_records = manifest.read_manifest(
      str(tmp_path / "out/a_0.tfrecord")).num_records
  assert num_records > 50000
  # The order of the records takes 4 bytes a record. The limit is in KiB.
  assert peaks[1] - peaks[0] < 8192


@pytest.mark.parametrize("num_cores, local_size, num_workers", [
    (2, 1, 2), (64, 1, 3), (9, 4, 2), (2, 4, 1)])
def test_there_is_a_worker_for_each_core_or_file(
    tmp_path, monkeypatch, num_cores, local_size, num_workers):
  """The processes of a machine share its cores; there are 3 files."""
  paths = [str(tmp_path / str(i)) for i in range(3)]
  for path in paths:
    pathlib.Path(path).touch()
  monkeypatch.setattr(stage.workers, "available_cores", lambda: num_cores)
  assert stage.workers_that_fit(
      paths, None, None, local_size=local_size) == num_workers
  assert stage.workers_that_fit(paths, 1, None, local_size=local_size) == 1


def test_neither_script_nor_workers_import_tensorflow(tmp_path, vocab_file):
  del vocab_file
  _input(tmp_path, "a cat\n\na dog\n")
  blocked = tmp_path / "blocked"
  blocked.mkdir()
  (blocked / "tensorflow.py").write_text("raise SystemExit('imported')\n")
  result = subprocess.run(
      _command(num_workers=1), cwd=tmp_path, stderr=subprocess.PIPE, text=True,
      env=dict(os.environ, PYTHONPATH=str(blocked)), check=False)
  assert result.returncode == 0, result.stderr
  assert len(_outputs(tmp_path / "out")) == 2

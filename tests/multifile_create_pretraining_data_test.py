"""Tests of the creation of pre-training records."""

import hashlib
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import tensorflow as tf

import multifile_create_pretraining_data as stage
import records
import records
import reference_pretraining_data as reference
import tokenization

_SCRIPT = str(pathlib.Path(stage.__file__).resolve())
_WORDS = ("the cat sat on a mat and un ##want ##ed ##s run ##ning dog , ."
          .split())
_TOKENS = ["[PAD]", *tokenization.SPECIAL_TOKENS, *_WORDS]


@pytest.fixture(name="vocab_file")
def _vocab_file(tmp_path):
  path = tmp_path / "vocab.txt"
  path.write_text("\n".join(_TOKENS) + "\n")
  return str(path)


def _random_text(rng, num_documents, max_sentences=12, max_words=30):
  words = [word for word in _WORDS if not word.startswith("##")]
  words += ["unwanted", "runs", "running", "Cats", "caf\u00e9", "x-ray"]
  documents = [
      "\n".join(" ".join(rng.choices(words, k=rng.randint(1, max_words)))
                for _ in range(rng.randint(1, max_sentences)))
      for _ in range(num_documents)]
  return "\n\n".join(documents) + "\n"


def _read(path):
  """Returns the features of each record, as lists by name."""
  result = []
  for serialized in records.read_records(str(path), "input_file"):
    features = tf.train.Example.FromString(serialized).features.feature
    result.append({
        name: list(feature.float_list.value or feature.int64_list.value)
        for name, feature in features.items()})
  return result


def _command(**changes):
  """Returns a command line; a flag that is None is left out."""
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


def _in_process(folder, vocab_file, settings, seed=12345, name="t_0.txt"):
  """Makes the records of one file without a worker; returns the path."""
  output = str(folder / "direct.tfrecord")
  source = stage.check_file(str(folder / "in" / name), lambda progress: None)
  counts = stage.create_file(
      stage.Task(source, output, vocab_file, seed, settings,
                 records.Manifest("stage", {}, {}, {}, 1)),
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
def test_golden_records(shared, tmp_path, case):
  name, flags = _GOLDEN[case]
  golden = shared / "golden/pretraining"
  _input(tmp_path, (golden / (name + "_input.txt")).read_bytes())
  result = _run(tmp_path, vocab_file=shared / "data/teacher/vocab.txt", **flags)
  assert result.returncode == 0, result.stderr
  expected = _read(golden / (case + "_expected.tfrecord"))
  assert len(expected) > 60
  assert _read(tmp_path / "out/a_0.tfrecord") == expected


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
  _input(tmp_path, _random_text(rng, num_documents))
  output, counts = _in_process(
      tmp_path, vocab_file, stage.Settings(**settings._asdict()), seed=99)
  vocabulary = reference.read_vocabulary(vocab_file)
  expected = list(reference.create_records(
      str(tmp_path / "in/t_0.txt"), vocabulary, settings, 99))
  assert _read(output) == expected
  assert counts.sequences == len(expected)
  assert counts.tokens == sum(sum(r["input_mask"]) for r in expected)
  documents = reference.read_documents(
      str(tmp_path / "in/t_0.txt"), vocabulary, settings.do_lower_case)
  tokens = [t for document in documents for s in document for t in s]
  assert counts.documents == len(documents) == num_documents
  assert counts.words == len(tokens)
  assert counts.unknown_words == tokens.count("[UNK]")


def test_a_word_that_is_listed_twice_has_its_last_id(tmp_path, vocab_file):
  with open(vocab_file, "a", encoding="utf-8") as file:
    file.write("cat\n\nmat\n")
  _input(tmp_path, _random_text(random.Random(0), 9))
  settings = reference.Settings(dupe_factor=2)
  output, _ = _in_process(
      tmp_path, vocab_file, stage.Settings(**settings._asdict()))
  assert _read(output) == list(reference.create_records(
      str(tmp_path / "in/t_0.txt"), reference.read_vocabulary(vocab_file),
      settings, 12345))


def test_records_hold_what_bert_expects(tmp_path, vocab_file):
  _input(tmp_path, _random_text(random.Random(0), 30))
  settings = stage.Settings(True, 32, 6, 10, 0.15, 0.1, False)
  output, _ = _in_process(tmp_path, vocab_file, settings)
  ids = {token: i for i, token in enumerate(_TOKENS)}
  num_masked = num_kept = num_random_next = num_slots = 0
  made = _read(output)
  for record in made:
    length = sum(record["input_mask"])
    slots = int(sum(record["masked_lm_weights"]))
    tokens = record["input_ids"]
    positions = record["masked_lm_positions"][:slots]
    original = list(tokens)
    for position, label in zip(positions, record["masked_lm_ids"]):
      original[position] = label
    assert record["input_mask"] == [1] * length + [0] * (32 - length)
    assert tokens[length:] == [0] * (32 - length)
    assert original[0] == ids["[CLS]"] and original[length - 1] == ids["[SEP]"]
    separators = [i for i in range(32) if original[i] == ids["[SEP]"]]
    assert len(separators) == 2 and separators[0] > 1
    assert record["segment_ids"] == (
        [0] * (separators[0] + 1) + [1] * (length - 1 - separators[0])
        + [0] * (32 - length))
    assert positions == sorted(set(positions))
    assert not set(positions) & {0, *separators}
    assert slots == min(6, max(1, round(length * 0.15)))
    assert record["masked_lm_ids"][slots:] == [0] * (6 - slots)
    num_slots += slots
    num_masked += [tokens[p] for p in positions].count(ids["[MASK]"])
    num_kept += sum(tokens[p] == original[p] for p in positions)
    num_random_next += record["next_sentence_labels"][0]
  # Of thousands of draws: 80% [MASK]; 10% kept, and some drawn again.
  assert num_slots > 3000
  assert 0.77 < num_masked / num_slots < 0.83
  assert 0.08 < num_kept / num_slots < 0.13
  assert 0.4 < num_random_next / len(made) < 0.8


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 7, 8, 9, 64, 125, 700])
def test_shuffle_draws_as_the_standard_library_does(length):
  for num_needed in {None, 0, 1, 3, length // 6, length}:
    expected, items = list(range(length)), list(range(length))
    expected_rng, rng = random.Random(length), random.Random(length)
    expected_rng.shuffle(expected)
    stage.shuffle(items, rng.getrandbits, num_needed)
    assert items[:num_needed] == expected[:num_needed]
    assert rng.getstate() == expected_rng.getstate()


@pytest.mark.parametrize("block_bytes", [1, 3, 64])
def test_blocks_of_any_size_give_the_same_corpus(
    tmp_path, vocab_file, monkeypatch, block_bytes):
  text = ("\n \n" + _random_text(random.Random(0), 5) + "\u3000\n\x00\n\x0c\n"
          "the caf\u00e9\r\n\r\nmat\n\nlast line, \u4e00")
  _input(tmp_path, text)
  tokenizer = tokenization.FullTokenizer(tokenization.load_vocab(vocab_file))

  def read():
    digest = hashlib.sha256()
    corpus = stage.read_corpus(
        str(tmp_path / "in/t_0.txt"), tokenizer, digest, lambda length: None)
    assert digest.hexdigest() == hashlib.sha256(text.encode()).hexdigest()
    return corpus.ids.tolist(), corpus.sentences, corpus.documents

  expected = read()
  assert len(expected[2]) == 5 + 3 + 1
  monkeypatch.setattr(stage, "_BLOCK_BYTES", block_bytes)
  assert read() == expected


# --- The run -----------------------------------------------------------------


def test_file_i_in_natural_order_uses_seed_plus_i(tmp_path, vocab_file):
  rng = random.Random(0)
  texts = [_random_text(rng, 4) for _ in range(11)]
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
  manifest = records.read_manifest(str(tmp_path / "out/a_10.tfrecord"))
  assert manifest.stage == "multifile_create_pretraining_data"
  assert manifest.flags == {
      "do_lower_case": True, "max_seq_length": 128,
      "max_predictions_per_seq": 20, "random_seed": 12355, "dupe_factor": 2,
      "masked_lm_prob": 0.15, "short_seq_prob": 0.1,
      "do_whole_word_mask": False}
  assert manifest.sources == {
      "t_10.txt": hashlib.sha256(texts[10].encode()).hexdigest()}
  assert manifest.vocab_size == len(_TOKENS)
  assert manifest.num_records == len(_read(tmp_path / "out/a_10.tfrecord"))


def _outputs(folder):
  """Returns the bytes of the visible outputs; checks that each is whole."""
  outputs = {}
  for path in folder.glob("[!.]*"):
    outputs[path.name] = path.read_bytes()
    if path.suffix == ".tfrecord":
      assert records.read_manifest(str(path)) is not None
  return outputs


@pytest.fixture(scope="module", name="whole_run")
def _whole_run(tmp_path_factory):
  """A folder with four input files and what an undisturbed run makes."""
  folder = tmp_path_factory.mktemp("whole_run")
  (folder / "vocab.txt").write_text("\n".join(_TOKENS) + "\n")
  rng = random.Random(0)
  small, large = _random_text(rng, 3), _random_text(rng, 700)
  _input(folder, small, large, large, small)
  result = _run(folder, num_workers=1, dupe_factor=20)
  assert result.returncode == 0, result.stderr
  return folder


@pytest.mark.parametrize("stop", [
    signal.SIGTERM, signal.SIGINT, signal.SIGKILL, "kill a worker"])
def test_a_stopped_run_goes_on_where_it_was(tmp_path, whole_run, stop):
  shutil.copytree(whole_run / "in", tmp_path / "in")
  shutil.copy(whole_run / "vocab.txt", tmp_path)
  flags = dict(num_workers=2, dupe_factor=20)
  process = subprocess.Popen(
      _command(**flags), cwd=tmp_path, stderr=subprocess.PIPE,
      text=True, start_new_session=True)
  while not (tmp_path / "out/a_0.tfrecord").exists():
    assert process.poll() is None
    time.sleep(0.01)
  time.sleep(0.3)
  workers = _children(process.pid)
  assert len(workers) == 2
  if stop == "kill a worker":
    os.kill(workers[0], signal.SIGKILL)
  elif stop == signal.SIGINT:
    os.killpg(process.pid, stop)  # As Ctrl-C does.
  else:
    process.send_signal(stop)
  stderr = process.communicate(timeout=60)[1]
  deadline = time.monotonic() + 10
  while any(os.path.exists("/proc/{}".format(worker)) for worker in workers):
    assert time.monotonic() < deadline, "a worker is left behind"
    time.sleep(0.05)
  outputs = _outputs(tmp_path / "out")
  assert "a_0.tfrecord" in outputs and "a_2.tfrecord" not in outputs
  if stop != signal.SIGKILL:
    assert stderr.count("\n") == 1, stderr
    assert "goes on from here" in stderr
    assert process.returncode == (1 if stop == "kill a worker" else 130)
    assert not list((tmp_path / "out").glob(".*"))
  first_made = os.stat(tmp_path / "out/a_0.tfrecord").st_mtime_ns
  again = _run(tmp_path, **flags)
  assert again.returncode == 0, again.stderr
  assert "a_0.tfrecord is finished" in again.stderr
  assert os.stat(tmp_path / "out/a_0.tfrecord").st_mtime_ns == first_made
  assert _outputs(tmp_path / "out") == _outputs(whole_run / "out")
  assert not list((tmp_path / "out").glob(".*"))


def _children(process_id):
  """Returns the worker processes of a process, without its helpers."""
  children = []
  for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    try:
      parent = int(path.read_text().rsplit(")", 1)[1].split()[1])
      command = path.with_name("cmdline").read_bytes()
    except OSError:  # It has ended meanwhile.
      continue
    if parent == process_id and b"spawn_main" in command:
      children.append(int(path.parent.name))
  return children


def test_a_golden_run_stopped_and_taken_up_again(shared, tmp_path):
  golden = shared / "golden/pretraining"
  text = (golden / "default_input.txt").read_bytes()
  _input(tmp_path, text, text)
  flags = dict(vocab_file=shared / "data/teacher/vocab.txt", dupe_factor=3,
               num_workers=2)
  assert _run(tmp_path, **flags).returncode == 0
  # As if the run had been killed while it wrote the first file.
  path = tmp_path / "out/a_0.tfrecord"
  pathlib.Path(records.partial_path(str(path))).write_bytes(
      path.read_bytes()[:1000])
  path.unlink()
  assert _run(tmp_path, **flags).returncode == 0
  assert _read(path) == _read(golden / "default_expected.tfrecord")
  assert not list((tmp_path / "out").glob(".*"))


def test_outputs_made_in_another_way_stay_unless_overwritten(
    tmp_path, vocab_file):
  del vocab_file
  _input(tmp_path, _random_text(random.Random(0), 4))
  assert _run(tmp_path, dupe_factor=1).returncode == 0
  before = _outputs(tmp_path / "out")
  for changes, told in (
      ({"dupe_factor": 2}, "--dupe_factor is 1, not 2|is 2, not 1"),
      ({"dupe_factor": 1, "random_seed": 1}, "--random_seed"),
      ({"dupe_factor": 1, "do_whole_word_mask": "true"}, "whole_word_mask")):
    result = _run(tmp_path, **changes)
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert re.search(told, result.stderr) and "--overwrite" in result.stderr
    assert _outputs(tmp_path / "out") == before
  assert _run(tmp_path, dupe_factor=2, overwrite="True").returncode == 0
  assert _outputs(tmp_path / "out") != before
  _input(tmp_path, "the cat sat\non a mat\n\nthe dog\nand a cat\n")
  result = _run(tmp_path, dupe_factor=2)
  assert result.returncode == 1 and "t_0.txt" in result.stderr


@pytest.mark.parametrize("texts, flags, told", [
    ([b"the cat\n\nsat \xe9 on\n"], {}, "--input_dir.*t_0.txt.*byte 13.*iconv"),
    (["the cat\n", b"x" * 3000000 + b"\n\xc3"], {}, "t_1.txt.*byte 3000001"),
    (["the cat\n", ""], {}, "--input_dir.*t_1.txt.*no text"),
    ([" \n\n\u3000\n"], {}, "t_0.txt.*no text"),
    (["\0\n"], {}, "t_0.txt.*no text"),
    ([], {}, "--input_dir: in holds no file"),
    ([], {"input_dir": "none"}, "--input_dir.*no folder none"),
    (["a\n"], {"vocab_file": "none.txt"}, "none.txt"),
    (["a\n"], {"vocab_file": "bad.txt"}, r"--vocab_file.*\[MASK\]"),
    (["a\n"], {"output_dir": "in"}, "--output_dir=in is --input_dir"),
    (["a\n"], {"output_dir": "vocab.txt"}, "vocab.txt"),
    (["a\n"], {"output_base_name": "b/c"}, "--output_base_name=b/c"),
    (["a\n"], {"output_base_name": None}, "missing --output_base_name"),
    (["a\n"], {"max_seq_length": 4}, "max_seq_length"),
    (["a\n"], {"num_workers": 0}, "num_workers"),
    (["a\n"], {"masked_lm_prob": 1.5}, "masked_lm_prob"),
])
def test_bad_input_ends_in_one_line(tmp_path, vocab_file, texts, flags, told):
  del vocab_file
  _input(tmp_path, *texts)
  (tmp_path / "bad.txt").write_text("[UNK]\n[CLS]\n[SEP]\n")
  result = _run(tmp_path, **flags)
  assert result.returncode == 1, result.stderr
  assert result.stderr.count("\n") == 1, result.stderr
  assert re.search(told, result.stderr), result.stderr
  assert not list(tmp_path.glob("out/*.tfrecord"))


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path, vocab_file):
  del vocab_file
  _input(tmp_path, _random_text(random.Random(0), 100))
  limited = subprocess.run(
      ["sh", "-c", 'ulimit -f 200; exec "$@"', "sh",
       *_command(dupe_factor=20)],
      cwd=tmp_path, capture_output=True, text=True, check=False)
  assert limited.returncode == 1, limited.stderr
  assert limited.stderr.count("\n") == 1
  assert "a_0.tfrecord" in limited.stderr
  assert os.listdir(tmp_path / "out") == []


def test_a_file_that_changes_meanwhile_is_an_error(
    tmp_path, vocab_file, monkeypatch):
  _input(tmp_path, "a cat\n\na dog\n")
  source = stage.check_file(str(tmp_path / "in/t_0.txt"), lambda report: None)
  _input(tmp_path, "a cat\n\na mat\n")
  monkeypatch.setattr(stage, "check_file", lambda *arguments: source)
  with pytest.raises(ValueError, match="t_0.txt was changed"):
    _in_process(tmp_path, vocab_file, stage.Settings(
        **reference.Settings()._asdict()))
  assert not list(tmp_path.glob("*direct*"))


def test_one_document_is_told_but_made(tmp_path, vocab_file):
  _input(tmp_path, _random_text(random.Random(0), 1, max_sentences=40))
  result = _run(tmp_path)
  assert result.returncode == 0
  assert "t_0.txt has one document only" in result.stderr
  assert _read(tmp_path / "out/a_0.tfrecord") == list(reference.create_records(
      str(tmp_path / "in/t_0.txt"), reference.read_vocabulary(vocab_file),
      reference.Settings(), 12345))


@pytest.mark.parametrize("text, is_told", [
    ("the cat \n\n" * 30 + "zebra\n", False), ("zebra cat\n\n" * 3, True)])
def test_many_unknown_words_are_told(tmp_path, vocab_file, text, is_told):
  del vocab_file
  _input(tmp_path, text)
  result = _run(tmp_path)
  assert result.returncode == 0
  assert ("50% of the tokens are [UNK]" in result.stderr) == is_told


def test_older_outputs_are_told(tmp_path, vocab_file):
  del vocab_file
  _input(tmp_path, "a cat\n\na dog\n", "a cat\n\na dog\n")
  assert _run(tmp_path).returncode == 0
  (tmp_path / "in/t_1.txt").unlink()
  result = _run(tmp_path)
  assert result.returncode == 0
  assert "a_1.tfrecord is not of this run" in result.stderr


def test_workers_fit_into_memory(tmp_path):
  paths = []
  for i, megabytes in enumerate((100, 300, 200)):
    paths.append(str(tmp_path / str(i)))
    with open(paths[-1], "wb") as file:
      file.truncate(megabytes << 20)
  gigabyte = 1 << 30
  assert stage.workers_that_fit(paths, 8, None) == 3
  assert stage.workers_that_fit(paths, 2, 8 * gigabyte) == 2
  # 150 MB for a worker and twice its file: 750, 550 and 350 MB.
  assert stage.workers_that_fit(paths, 2, 1300 << 20) == 2
  with pytest.raises(ValueError, match="--num_workers=2 needs about 1,300 MB"):
    stage.workers_that_fit(paths, 2, 1299 << 20)
  assert stage.workers_that_fit(paths, 1, 750 << 20) == 1
  assert stage.workers_that_fit(paths, None, 750 << 20) == 1
  with pytest.raises(ValueError, match="--split_number=3 or more$"):
    stage.workers_that_fit(paths, None, 749 << 20)


def test_memory_does_not_grow_with_dupe_factor(tmp_path, vocab_file):
  del vocab_file
  _input(tmp_path, _random_text(random.Random(0), 1000))
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
  num_records = records.read_manifest(
      str(tmp_path / "out/a_0.tfrecord")).num_records
  assert num_records > 50000
  # The order of the records alone takes 4 bytes each.
  assert peaks[1] - peaks[0] < 8192


def test_it_does_without_tensorflow():
  subprocess.run(
      [sys.executable, "-c", "import sys, multifile_create_pretraining_data; "
       "assert 'tensorflow' not in sys.modules"],
      cwd=os.path.dirname(_SCRIPT), check=True)

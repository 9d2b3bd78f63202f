"""Tests of manifests, block indexes and the writer of record files."""

import dataclasses
import errno
import hashlib
import json
import os
import subprocess
import sys

import pytest

import processes
from records import block_index
from records import manifest
from records import record_writer
from records import tfrecord
import tiny
from util import files
from util.command_line import InputError

_MANIFEST = manifest.Manifest(
    stage="a_stage", flags={"dupe_factor": 10},
    fingerprints={"vocab_file": "f"},
    sources={"a.txt": "1", "b.txt": "2"}, vocab_size=29)
# The manifest that an earlier version wrote for a file of one record.
_OLD_MANIFEST = """{
 "stage": "a_stage",
 "flags": {
  "dupe_factor": 10
 },
 "fingerprints": {
  "vocab_file": "f"
 },
 "sources": {
  "a.txt": "1",
  "b.txt": "2"
 },
 "vocab_size": 29,
 "num_records": 1,
 "num_bytes": 19
}
"""
# Begins a file, prints "ready", and finishes the file when stdin ends.
_WRITER = """
import sys
from records.manifest import Manifest
from records.record_writer import RecordWriter
manifest = {!r}
with RecordWriter(sys.argv[1], manifest) as writer:
  writer.write(b"one")
  writer.save_progress(manifest)
  print("ready", flush=True)
  sys.stdin.read()
  writer.commit(manifest)
""".format(_MANIFEST)


@pytest.fixture(name="path")
def _path(tmp_path):
  return str(tmp_path / "a.tfrecord")


def _write(path, *records, **changes):
  """Writes a finished file."""
  with record_writer.RecordWriter(path) as writer:
    for record in records:
      writer.write(record)
    writer.commit(dataclasses.replace(_MANIFEST, **changes))


def _records(path):
  return list(tfrecord.read(path, "input_file"))


# --- Manifests ---------------------------------------------------------------


def test_a_manifest_of_an_earlier_version_is_read(tmp_path, path):
  _write(path, b"one")
  with open(manifest.manifest_path(path), encoding="utf-8") as file:
    assert file.read() == _OLD_MANIFEST.replace(
        "\n}", ',\n "block_offsets": [0]\n}')
  (tmp_path / "a.tfrecord.json").write_text(_OLD_MANIFEST)
  found = manifest.read_manifest(path)
  assert found == dataclasses.replace(_MANIFEST, num_records=1, num_bytes=19)
  assert record_writer.is_finished(path, _MANIFEST, overwrite=False)


def test_figures_of_a_teacher_are_kept_and_not_compared(path):
  figures = manifest.TeacherFigures(1, 7, 3, 12.25)
  with record_writer.RecordWriter(path, _MANIFEST) as writer:
    assert writer.resumed is None
    writer.write(b"one")
    writer.save_progress(
        dataclasses.replace(_MANIFEST, teacher=figures._asdict()))
  with record_writer.RecordWriter(path, _MANIFEST) as writer:
    assert manifest.TeacherFigures.of_manifest(writer.resumed) == figures
    writer.commit(writer.resumed)
  found = manifest.read_manifest(path)
  assert manifest.TeacherFigures.of_manifest(found) == figures
  assert record_writer.is_finished(path, _MANIFEST, overwrite=False)
  for without in (None, _MANIFEST):
    assert manifest.TeacherFigures.of_manifest(without) == (0, 0, 0, 0.0)
  assert figures + figures == (2, 14, 6, 24.5)


@pytest.mark.parametrize("figures", [
    "[]", '{"num_tokens": "7"}', '{"num_tokens": -1}', '{"num_tokens": NaN}',
    '{"num_tokens": true}', '{"num_tokens": 1e999}'])
def test_invalid_figures_are_refused(tmp_path, path, figures):
  _write(path, b"one")
  (tmp_path / "a.tfrecord.json").write_text(
      _OLD_MANIFEST.replace("\n}", ',\n "teacher": {}\n}}'.format(figures)))
  with pytest.raises(InputError, match="a.tfrecord.json is not a manifest"):
    manifest.read_manifest(path)


def test_a_manifest_that_does_not_fit_its_file_is_an_error(path):
  _write(path, b"one")
  with open(path, "ab") as file:
    file.write(b"more")
  with pytest.raises(InputError, match="was changed or cut"):
    manifest.read_manifest(path)


@pytest.mark.parametrize("text", [
    '{"stage": "x"}', "{", "[]", "", _OLD_MANIFEST.replace("stage", "step"),
    "\udcff"])
def test_a_text_that_is_no_manifest_is_an_error(tmp_path, path, text):
  _write(path, b"one")
  (tmp_path / "a.tfrecord.json").write_bytes(
      text.encode("utf-8", "surrogateescape"))
  with pytest.raises(InputError, match="a.tfrecord.json is not a manifest"):
    manifest.read_manifest(path)


def test_a_file_is_counted_and_fingerprinted_by_its_manifest(tmp_path, path):
  _write(path, b"one", b"two")
  assert block_index.count_records(path, "input_file") == 2
  fingerprints = {block_index.records_fingerprint(path)}
  # The same records, made in another way.
  _write(path, b"one", b"two", vocab_size=30)
  fingerprints.add(block_index.records_fingerprint(path))
  # Without a manifest, the fingerprint is the hash of the records.
  os.remove(manifest.manifest_path(path))
  assert manifest.read_manifest(path) is None
  assert block_index.count_records(path, "input_file") == 2
  content = (tmp_path / "a.tfrecord").read_bytes()
  assert block_index.records_fingerprint(path) == hashlib.sha256(
      content).hexdigest()
  assert len(fingerprints | {block_index.records_fingerprint(path)}) == 3
  (tmp_path / "a.tfrecord").write_bytes(content[:-1])
  with pytest.raises(InputError, match="--input_file.*cut record"):
    block_index.count_records(path, "input_file")


def test_files_of_the_same_records_are_found(tmp_path):
  def write(name, **changes):
    path = str(tmp_path / name)
    _write(path, b"one", **changes)
    return path

  first = write("first.tfrecord", sources={"a.txt": "1"})
  others = [write("other.tfrecord", sources={"b.txt": "2"}),
            write("another_seed.tfrecord", flags={"dupe_factor": 5}),
            write("another_vocabulary.tfrecord", fingerprints={})]
  # Shards of one run hold different records of the same sources.
  parts = [write("p-0000{}-of-00002.tfrecord".format(i)) for i in range(2)]
  plain = str(tmp_path / "plain.tfrecord")
  (tmp_path / "plain.tfrecord").write_bytes(b"")
  assert manifest.find_repeated([first, *others, plain]) is None
  assert manifest.find_repeated([*parts, *others[1:]]) is None
  assert manifest.find_repeated([first, *parts]) == (first, parts[0])
  compact = write("compact.tfrecord", flags={
      "dupe_factor": 10, "record_format": "compact"}, sources={"b.txt": "2"})
  assert manifest.find_repeated([*others, compact]) == (others[0], compact)
  rounded = write("rounded.tfrecord", flags={
      "dupe_factor": 10, "record_format": "compact", "probability_bits": 16},
                  sources={"b.txt": "2"})
  assert manifest.find_repeated([*others, rounded]) == (others[0], rounded)
  elsewhere = write("elsewhere.tfrecord", flags={
      "dupe_factor": 10, "arithmetic": "fp32"}, sources={"b.txt": "2"})
  assert manifest.find_repeated([*others, elsewhere]) == (others[0], elsewhere)


def test_vocabulary_sizes_are_compared_only_without_a_vocabulary_file():
  """Versions count blank lines at the end of a vocabulary differently."""
  larger = dataclasses.replace(_MANIFEST, vocab_size=30)
  assert _MANIFEST.difference(larger) is None
  labels = [dataclasses.replace(some, fingerprints={"init_checkpoint": "c"})
            for some in (_MANIFEST, larger)]
  assert labels[0].difference(labels[1]) == "vocabulary size is 29, not 30"


def test_arithmetic_is_recorded_and_not_compared():
  """Manifests name the precision used if it differs from --precision."""
  wanted = dataclasses.replace(_MANIFEST, flags={"precision": "bf16"})
  assert manifest.with_arithmetic(wanted, "bf16", None) == wanted
  assert manifest.with_arithmetic(wanted, "bf16", wanted) == wanted
  fell_back = manifest.with_arithmetic(wanted, "fp32", None)
  assert fell_back.flags == {"precision": "bf16", "arithmetic": "fp32"}
  assert manifest.with_arithmetic(wanted, "fp32", fell_back) == fell_back
  for arithmetic, resumed in (("bf16", fell_back), ("fp32", wanted)):
    both = manifest.with_arithmetic(wanted, arithmetic, resumed)
    assert both.flags == {"precision": "bf16", "arithmetic": "bf16, fp32"}
    assert manifest.with_arithmetic(wanted, "fp32", both) == both
    assert wanted.difference(both) is both.difference(fell_back) is None
  other = dataclasses.replace(_MANIFEST, flags={"precision": "fp16"})
  assert fell_back.difference(other) == "--precision is bf16, not fp16"


# --- Finished files ----------------------------------------------------------


@pytest.mark.parametrize("changes, told", [
    ({"stage": "other"}, "stage is other, not a_stage"),
    ({"flags": {"dupe_factor": 5}}, "--dupe_factor is 5, not 10"),
    ({"flags": {"dupe_factor": 10, "new": 1}}, "--new is 1, not None"),
    ({"fingerprints": {"vocab_file": "g"}}, "content of --vocab_file is g"),
    ({"sources": {"a.txt": "1"}}, "source file b.txt is None, not 2"),
    ({"sources": {"b.txt": "2", "a.txt": "1"}}, "order of the source files"),
])
def test_a_finished_file_is_kept_only_if_made_the_same_way(
    path, changes, told):
  assert not record_writer.is_finished(path, _MANIFEST, overwrite=False)
  _write(path)
  assert record_writer.is_finished(path, _MANIFEST, overwrite=False)
  assert not record_writer.is_finished(path, _MANIFEST, overwrite=True)
  other = dataclasses.replace(_MANIFEST, **changes)
  with pytest.raises(InputError, match=told + ".*--overwrite"):
    record_writer.is_finished(path, other, overwrite=False)
  assert not record_writer.is_finished(path, other, overwrite=True)


def test_a_file_without_a_manifest_is_not_overwritten(tmp_path, path):
  (tmp_path / "a.tfrecord").write_text("precious")
  with pytest.raises(InputError, match="without a manifest"):
    record_writer.is_finished(path, _MANIFEST, overwrite=False)
  assert (tmp_path / "a.tfrecord").read_text() == "precious"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_in_place_of_the_output_is_refused(tmp_path, overwrite):
  with pytest.raises(InputError, match="is a folder"):
    record_writer.is_finished(str(tmp_path), _MANIFEST, overwrite)


# --- Writing -----------------------------------------------------------------


def test_a_record_file_appears_complete_or_not_at_all(tmp_path):
  path = str(tmp_path / "new_folder" / "a.tfrecord")
  with pytest.raises(RuntimeError):
    with record_writer.RecordWriter(path) as writer:
      writer.write(b"one")
      raise RuntimeError
  assert os.listdir(os.path.dirname(path)) == []
  with record_writer.RecordWriter(path) as writer:
    writer.write(b"one")
    writer.write(b"two")
    assert not os.path.exists(path)
    writer.commit(_MANIFEST)
  assert _records(path) == [b"one", b"two"]
  assert manifest.read_manifest(path) == dataclasses.replace(
      _MANIFEST, num_records=2, num_bytes=os.path.getsize(path),
      block_offsets=[0])
  assert sorted(os.listdir(os.path.dirname(path))) == [
      "a.tfrecord", "a.tfrecord.json"]


def test_the_writer_keeps_the_order_across_its_buffer(path):
  messages = [str(i).encode() for i in range(1000)]
  _write(path, *messages)
  assert _records(path) == messages
  assert manifest.read_manifest(path).num_records == 1000


def _blocks_of(*lengths):
  """Returns a record for each length, and the offsets of blocks of 2."""
  frames = [length + tfrecord.FRAME_BYTES for length in lengths]
  return ([b"x" * length for length in lengths],
          [sum(frames[:i]) for i in range(0, len(frames), 2)])


@pytest.mark.parametrize("lengths", [(), (3,), (3, 5), (3, 5, 0, 7, 1)])
def test_the_manifest_has_the_offsets_of_blocks(path, monkeypatch, lengths):
  monkeypatch.setattr(tfrecord, "BLOCK_RECORDS", 2)
  records, wanted = _blocks_of(*lengths)
  _write(path, *records)
  assert manifest.read_manifest(path).block_offsets == wanted
  index = block_index.BlockIndex(len(lengths), os.path.getsize(path), wanted)
  assert block_index.read_block_index(path, "input_file") == index
  # Files of 2019 have no manifest; earlier manifests have no offsets.
  (_without_offsets if lengths else os.remove)(manifest.manifest_path(path))
  assert block_index.read_block_index(path, "input_file") == index


def _without_offsets(manifest_path):
  with open(manifest_path, encoding="utf-8") as file:
    values = json.load(file)
  del values["block_offsets"]
  with open(manifest_path, "w", encoding="utf-8") as file:
    json.dump(values, file)


def _as_earlier_version(progress, **changes):
  """Rewrites a journal as a manifest, the earlier form of progress."""
  head, *saves = map(json.loads, files.read_lines(progress))
  values = {**head, **saves[-1], "block_offsets": sum(
      (save["block_offsets"] for save in saves), []), **changes}
  with open(progress, "w", encoding="utf-8") as file:
    json.dump({name: value for name, value in values.items()
               if value is not None}, file, indent=1)
    file.write("\n")


@pytest.mark.parametrize("spoil, wanted", [
    (lambda progress: None, [0, 40, 72]),
    (_as_earlier_version, [0, 40, 72]),
    # A still earlier version saved no offsets: readers search the file.
    (lambda progress: _as_earlier_version(progress, block_offsets=None), []),
])
def test_the_manifest_of_a_resumed_file_has_the_offsets_of_blocks(
    path, monkeypatch, spoil, wanted):
  monkeypatch.setattr(tfrecord, "BLOCK_RECORDS", 2)
  records, offsets = _blocks_of(3, 5, 0, 0, 1)
  assert offsets == [0, 40, 72]
  with record_writer.RecordWriter(path, _MANIFEST) as writer:
    for record in records[:3]:
      writer.write(record)
    writer.save_progress(_MANIFEST)
  spoil(manifest.manifest_path(files.partial_path(path)))
  for start, stop in ((3, 4), (4, 5)):
    with record_writer.RecordWriter(path, _MANIFEST) as writer:
      assert writer.num_records == start
      for record in records[start:stop]:
        writer.write(record)
      writer.save_progress(_MANIFEST)
      if stop == 5:
        writer.commit(_MANIFEST)
  assert manifest.read_manifest(path).block_offsets == wanted
  assert block_index.read_block_index(path, "input_file").offsets == offsets


# --- Cached manifests and indexes --------------------------------------------


def _make_old(path):
  """Sets a file's modification time to ten seconds ago."""
  modified = os.stat(path).st_mtime_ns - 10**10
  os.utime(path, ns=(modified, modified))


@pytest.fixture(name="opened")
def _opened(monkeypatch):
  """The files opened from now on, with an empty cache as in a new process."""
  monkeypatch.setattr(files, "_cache", {})
  paths = []
  open_file = files.open_file

  def open_and_note(path, *arguments, **keywords):
    paths.append(os.path.basename(path))
    return open_file(path, *arguments, **keywords)

  monkeypatch.setattr(files, "open_file", open_and_note)
  return paths


def _start_again(monkeypatch, opened):
  monkeypatch.setattr(files, "_cache", {})
  opened.clear()


def _read_all(path, folder=None):
  """Reads an input file as stage IV does before it labels."""
  for _ in range(2):
    fingerprint = block_index.records_fingerprint(path, "input_file", folder)
    block_index.check_intact(path, "input_file", folder)
    index = block_index.read_block_index(path, "input_file", folder)
    assert manifest.find_repeated([path]) is None
  return fingerprint, index[:3]


def test_a_process_reads_each_manifest_once(path, opened):
  _write(path, b"one")
  for name in (path, manifest.manifest_path(path)):
    _make_old(name)
  opened.clear()
  _read_all(path)
  assert opened == ["a.tfrecord.json"]
  _write(path, b"two", vocab_size=30)
  assert manifest.read_manifest(path).vocab_size == 30


def test_a_file_without_a_manifest_is_read_once_by_all_runs(
    tmp_path, path, monkeypatch, opened):
  monkeypatch.setattr(tfrecord, "BLOCK_RECORDS", 2)
  records, offsets = _blocks_of(3, 5, 0, 7, 1)
  content = tfrecord.frame(records)
  (tmp_path / "a.tfrecord").write_bytes(content)
  wanted = (hashlib.sha256(content).hexdigest(), (5, len(content), offsets))
  # A file that may still change gets no index file.
  assert _read_all(path) == wanted
  assert os.listdir(tmp_path) == ["a.tfrecord"]
  _make_old(path)
  _start_again(monkeypatch, opened)
  # A trainer reads the heads, stage IV all bytes.
  assert block_index.read_block_index(path, "input_file")[:3] == wanted[1]
  assert _read_all(path) == wanted
  assert opened.count("a.tfrecord") == 2
  _start_again(monkeypatch, opened)
  assert _read_all(path) == wanted
  assert set(opened) == {"a.tfrecord.json", ".a.tfrecord.index.json"}
  # A damaged index or a changed file is read again.
  index = tmp_path / ".a.tfrecord.index.json"
  for text in ("", "{", "[1, 2, 3]",
               index.read_text().replace("[0, 40", "[1, 40")):
    index.write_text(text)
    _start_again(monkeypatch, opened)
    assert _read_all(path) == wanted
  (tmp_path / "a.tfrecord").write_bytes(tfrecord.frame([b"two"]))
  _make_old(path)
  _start_again(monkeypatch, opened)
  assert _read_all(path)[1] == (1, 19, [0])
  (tmp_path / "a.tfrecord").write_bytes(content[:-1])
  with pytest.raises(InputError, match="--input_file.*cut record"):
    block_index.check_intact(path, "input_file")


def test_the_index_of_a_read_only_file_lies_in_the_output_folder(
    tmp_path, monkeypatch, opened):
  folders = [tmp_path / name for name in ("in", "in2", "out")]
  for folder in folders:
    folder.mkdir()
  write = files.write_atomically

  def write_or_fail(path, text):
    if not path.startswith(str(folders[2])):
      raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
    write(path, text)

  monkeypatch.setattr(files, "write_atomically", write_or_fail)
  for folder, record in zip(folders, (b"one", b"three")):
    (folder / "a.tfrecord").write_bytes(tfrecord.frame([record]))
    _make_old(folder / "a.tfrecord")
    _read_all(str(folder / "a.tfrecord"), str(folders[2]))
  assert len(os.listdir(folders[2])) == 2
  for folder, num_bytes in zip(folders, (19, 21)):
    _start_again(monkeypatch, opened)
    _, index = _read_all(str(folder / "a.tfrecord"), str(folders[2]))
    assert index == (1, num_bytes, [0])
    assert "a.tfrecord" not in opened


@pytest.mark.parametrize("offsets", [
    [1], [0, 17], [0, 0], [0, "17"], [True], 0, {"0": 0}])
def test_invalid_offsets_are_refused(tmp_path, path, offsets):
  _write(path, b"one")
  manifest_file = tmp_path / "a.tfrecord.json"
  manifest_file.write_text(json.dumps(dict(
      json.loads(manifest_file.read_text()), block_offsets=offsets)))
  with pytest.raises(InputError, match="block_offsets"):
    manifest.read_manifest(path)


def _write_half(path, *more):
  """Saves the progress of two records, writes `more`, and fails."""
  with pytest.raises(RuntimeError):
    with record_writer.RecordWriter(path, _MANIFEST) as writer:
      writer.write(b"one")
      writer.write(b"two")
      writer.save_progress(_MANIFEST)
      for record in more:
        writer.write(record)
      raise RuntimeError


@pytest.mark.parametrize("more", [[], [b"three"], [b"x" * 1000] * 300])
def test_a_file_resumes_from_its_saved_progress(
    tmp_path, path, more):
  _write_half(path, *more)
  assert sorted(os.listdir(tmp_path)) == [
      ".a.tfrecord.partial", ".a.tfrecord.partial.json"]
  with record_writer.RecordWriter(path, _MANIFEST) as writer:
    assert writer.num_records == 2
    writer.write(b"three")
    writer.commit(_MANIFEST)
  assert _records(path) == [b"one", b"two", b"three"]
  assert sorted(os.listdir(tmp_path)) == ["a.tfrecord", "a.tfrecord.json"]
  assert record_writer.is_finished(path, _MANIFEST, overwrite=False)


@pytest.fixture(name="clock")
def _clock(monkeypatch):
  """Seconds that pass for the writer, in a list to which tests append."""
  seconds = [0.0]
  monkeypatch.setattr(
      record_writer.time, "monotonic", lambda: 1e6 + sum(seconds))
  return seconds


def _saves(path):
  """Returns the lines of a journal after the first line."""
  return list(map(json.loads, files.read_lines(
      manifest.manifest_path(files.partial_path(path)))[1:]))


def test_progress_is_saved_by_time_and_costs_the_same_each_time(
    path, monkeypatch, clock):
  monkeypatch.setattr(tfrecord, "BLOCK_RECORDS", 2)
  num_syncs = []
  fsync = os.fsync
  monkeypatch.setattr(
      os, "fsync", lambda file: num_syncs.append(file) or fsync(file))
  with record_writer.RecordWriter(path, _MANIFEST) as writer:
    for i in range(100):
      for _ in range(4):
        writer.write(b"1234")
      writer.save_progress(_MANIFEST)
      # Saves follow the first window, then 30, 60 and 90 seconds.
      assert len(_saves(path)) == 1 + i // 30
      clock.append(1)
      num_syncs.clear()
    saves = _saves(path)
    assert [save["num_records"] for save in saves] == [4, 124, 244, 364]
    assert [save["num_bytes"] for save in saves] == [80, 2480, 4880, 7280]
    assert [len(save["block_offsets"]) for save in saves] == [2, 60, 60, 60]
    clock.append(30)
    num_syncs.clear()
    writer.save_progress(_MANIFEST)
    assert len(num_syncs) == 2  # The records, and the journal.
    writer.commit(_MANIFEST)
  assert manifest.read_manifest(path).block_offsets == list(
      range(0, 8000, 40))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, InputError])
def test_an_error_saves_the_latest_progress(path, clock, error):
  with pytest.raises(error):
    with record_writer.RecordWriter(path, _MANIFEST) as writer:
      for i in range(300):
        writer.write(b"record %d" % i)
        if i in (1, 290):
          writer.save_progress(_MANIFEST)
          clock.append(1)
      # An interrupt may leave a part of the buffer in the file.
      writer._partial.file.write(b"some")
      raise error
  assert [save["num_records"] for save in _saves(path)] == [2, 291]
  with record_writer.RecordWriter(path, _MANIFEST) as writer:
    assert writer.num_records == 291
    for i in range(291, 300):
      writer.write(b"record %d" % i)
    writer.commit(_MANIFEST)
  assert _records(path) == [b"record %d" % i for i in range(300)]


def test_a_journal_line_cut_by_a_power_failure_is_ignored(path, clock):
  with pytest.raises(RuntimeError):
    with record_writer.RecordWriter(path, _MANIFEST) as writer:
      for record in (b"one", b"two"):
        writer.write(record)
        writer.save_progress(_MANIFEST)
        clock.append(40)
      raise RuntimeError
  journal = manifest.manifest_path(files.partial_path(path))
  os.truncate(journal, os.path.getsize(journal) - 2)
  for record in (b"2", b"3"):
    with record_writer.RecordWriter(path, _MANIFEST) as writer:
      assert writer.num_records == int(record) - 1
      writer.write(record)
      writer.save_progress(_MANIFEST)
  with record_writer.RecordWriter(path, _MANIFEST) as writer:
    writer.commit(_MANIFEST)
  assert _records(path) == [b"one", b"2", b"3"]


@pytest.mark.parametrize("spoil", [
    lambda progress, partial: progress.unlink(),
    lambda progress, partial: progress.write_text("{"),
    lambda progress, partial: progress.write_text(json.dumps({"stage": 1})),
    # The file is shorter than its progress says, as after a power failure.
    lambda progress, partial: os.truncate(partial, 10),
    lambda progress, partial: partial.unlink(),
])
def test_damaged_progress_is_dropped(tmp_path, path, spoil):
  _write_half(path)
  spoil(tmp_path / ".a.tfrecord.partial.json", tmp_path / ".a.tfrecord.partial")
  with record_writer.RecordWriter(path, _MANIFEST) as writer:
    assert writer.num_records == 0
    writer.write(b"three")
  assert os.listdir(tmp_path) == []


def test_a_file_that_was_begun_differently_is_not_resumed(tmp_path, path):
  _write_half(path)
  before = (tmp_path / ".a.tfrecord.partial").read_bytes()
  other = dataclasses.replace(_MANIFEST, flags={"dupe_factor": 5})
  with pytest.raises(
      InputError, match="begun differently: --dupe_factor is 5, not 10.*"
                        "--overwrite"):
    record_writer.RecordWriter(path, other)
  assert (tmp_path / ".a.tfrecord.partial").read_bytes() == before
  with record_writer.RecordWriter(path) as writer:  # From scratch.
    assert writer.num_records == 0
    writer.commit(other)
  assert sorted(os.listdir(tmp_path)) == ["a.tfrecord", "a.tfrecord.json"]


def test_an_overwriting_run_resumes_only_with_the_same_flags(path):
  _write_half(path)
  with record_writer.RecordWriter(path, _MANIFEST, overwrite=True) as writer:
    assert writer.num_records == 2
  other = dataclasses.replace(_MANIFEST, flags={"dupe_factor": 5})
  with record_writer.RecordWriter(path, other, overwrite=True) as writer:
    assert writer.num_records == 0


def test_an_overwriting_run_of_many_files_resumes(tmp_path):
  wanted = {"a": _MANIFEST, "b": _MANIFEST}
  run = record_writer.OverwriteProgress(str(tmp_path), "run", wanted)
  run.add("a")
  again = record_writer.OverwriteProgress(str(tmp_path), "run", wanted)
  assert again.is_replaced("a") and not again.is_replaced("b")
  other = {"a": dataclasses.replace(_MANIFEST, vocab_size=30), "b": _MANIFEST}
  assert not record_writer.OverwriteProgress(
      str(tmp_path), "run", other).is_replaced("a")
  again.finish()
  assert os.listdir(tmp_path) == []


def test_seeds_are_compared_only_if_there_are_tail_samples(path):
  """Earlier versions stored a seed with all labels."""
  def labels(tail_samples, **flags):
    return dataclasses.replace(
        _MANIFEST, flags={"tail_samples": tail_samples, **flags})

  _write(path, b"one", flags=labels(0, random_seed=1).flags)
  for wanted in (labels(0, random_seed=2), labels(0)):
    assert record_writer.is_finished(path, wanted, overwrite=False)
  _write(path, b"one", flags=labels(1, random_seed=1).flags)
  with pytest.raises(InputError, match="--random_seed is 2, not 1"):
    record_writer.is_finished(path, labels(1, random_seed=2), overwrite=False)


def test_a_second_process_does_not_resume_a_file(tmp_path, path):
  """The second process does not harm the progress of the first."""
  with processes.start(
      [sys.executable, "-c", _WRITER, path], cwd=tiny.ROOT, text=True,
      stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
    assert holder.stdout.readline() == "ready\n"
    for resume in (_MANIFEST, None):
      with pytest.raises(InputError, match="{} .*process {}".format(
          path, holder.pid)):
        record_writer.RecordWriter(path, resume)
    holder.communicate()
    assert holder.returncode == 0
  assert _records(path) == [b"one"]
  assert sorted(os.listdir(tmp_path)) == ["a.tfrecord", "a.tfrecord.json"]


def test_a_crash_leaves_no_wrong_manifest(tmp_path, path, monkeypatch):
  """The crash comes after each step of `commit` in turn."""
  _write(path, b"one")
  done = []

  def crash_after(count, function):
    def step(*arguments, **keywords):
      if len(done) == count:
        raise KeyboardInterrupt
      done.append(function)
      return function(*arguments, **keywords)
    return step

  other = dataclasses.replace(_MANIFEST, stage="another")
  for count in range(20):
    with monkeypatch.context() as patch:
      for name in ("remove", "replace", "fsync"):
        patch.setattr(os, name, crash_after(count, getattr(os, name)))
      done.clear()
      try:
        _write(path, b"two", stage="another")
      except KeyboardInterrupt:
        pass
      else:
        break
    if os.path.exists(path):
      found = manifest.read_manifest(path)
      assert _records(path) == (
          [b"two"] if other.difference(found) is None else [b"one"])
    else:
      assert manifest.read_manifest(path) is None
  assert 4 < count < 19
  assert _records(path) == [b"two"]

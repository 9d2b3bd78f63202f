"""Tests of finding, reading, locking and atomically writing files."""

import contextlib
import hashlib
import os
import pathlib
import pickle
import subprocess
import sys
import time

import pytest

import processes
from util import files
from util.command_line import InputError

_ROOT = pathlib.Path(files.__file__).parents[1]
# Writes a hidden file, prints "ready", and holds the lock until stdin ends.
_HOLDER = """
import sys
from util import files
with files.PartialFile(sys.argv[1]) as partial:
  partial.file.write(b"theirs")
  partial.file.flush()
  print("ready", flush=True)
  sys.stdin.read()
"""
# Locks a folder until stdin ends.
_FOLDER_HOLDER = """
import sys
from util import files
with files.locked_folder(sys.argv[1]):
  print("ready", flush=True)
  sys.stdin.read()
"""
# Opens a hidden file, prints "ready", and locks the file when stdin ends. Then
# prints the finished file, and replaces it.
_LATE_WRITER = """
import fcntl, os, sys
from util import files
lockf = fcntl.lockf
def lock_later(*arguments):
  fcntl.lockf = lockf
  print("ready", flush=True)
  sys.stdin.read()
  return lockf(*arguments)
fcntl.lockf = lock_later
with files.PartialFile(sys.argv[1]) as partial:
  partial.file.write(b"second")
  partial.file.flush()
  print(open(sys.argv[1]).read() if os.path.exists(sys.argv[1]) else "none")
  partial.commit()
"""


# --- Finding -----------------------------------------------------------------


@pytest.mark.parametrize("paths", [
    ["wiki_2", "wiki_10", "wiki_10_1"],
    ["a/10", "a_1/3", "a_1/20", "a_10/1"],
    ["2/a_1", "2/a_2", "10/a_1", "b/1"],
    ["a_01", "a_1"],
])
def test_natural_order_sorts_numbers_and_keeps_folders_together(paths):
  assert sorted(reversed(paths), key=files.natural_key) == paths


def test_patterns_match_regular_files_in_natural_order(tmp_path):
  for name in ("a_10.tfrecord", "a_2.tfrecord", "a_1.tfrecord", ".a_3.tfrecord",
               "a_2.tfrecord.json", "b_0.tfrecord"):
    (tmp_path / name).write_text("x")
  (tmp_path / "a_4.tfrecord").mkdir()
  found = files.find_files("{0}/b*,{0}/a_*".format(tmp_path), "input_file")
  assert [os.path.basename(path) for path in found] == [
      "b_0.tfrecord", "a_1.tfrecord", "a_2.tfrecord", "a_10.tfrecord"]


@pytest.mark.parametrize("patterns, told", [
    ("{}/none.tfrecord", "no file"), ("{}/none*", "no file"), ("{}", "folder"),
    (" , ", "empty"), ("{0}/a,{0}/*", "twice"),
])
def test_a_name_without_a_file_is_an_error(tmp_path, patterns, told):
  (tmp_path / "a").write_text("x")
  with pytest.raises(InputError, match="--input_file.*" + told):
    files.find_files(patterns.format(tmp_path), "input_file")


def test_a_file_named_like_a_pattern_is_found(tmp_path):
  path = tmp_path / "wiki[1].tfrecord"
  path.write_text("x")
  assert files.find_files(str(path), "input_file") == [str(path)]


def test_a_folder_lists_its_regular_files(tmp_path):
  for name in ("b_10", "b_9", ".hidden", "c/d", ".e/f"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("x")

  def listed(**keywords):
    return [os.path.relpath(path, tmp_path) for path in files.list_files(
        str(tmp_path), "folder", "run stage I", **keywords)]

  assert listed() == ["b_9", "b_10"]
  assert listed(recursive=True) == ["b_9", "b_10", "c/d"]


@pytest.mark.parametrize("name, told", [
    ("none", "there is no folder {}"), ("file", "there is no folder {}"),
    ("empty", "{} holds no file"),
])
def test_a_folder_without_files_is_an_error(tmp_path, name, told):
  (tmp_path / "file").write_text("x")
  (tmp_path / "empty").mkdir()
  path = str(tmp_path / name)
  with pytest.raises(InputError, match="--folder: {}; run stage I".format(
      told.format(path))):
    files.list_files(path, "folder", "run stage I")


# --- Reading -----------------------------------------------------------------


def test_a_fingerprint_is_the_hash_of_all_bytes(tmp_path):
  path = tmp_path / "a"
  path.write_bytes(bytes(range(256)) * 10000)
  assert files.fingerprint(str(path)) == hashlib.sha256(
      path.read_bytes()).hexdigest()


def test_a_cached_file_is_read_again_only_if_it_changes(
    tmp_path, monkeypatch):
  monkeypatch.setattr(files, "_cache", {})
  path, gone = tmp_path / "a", tmp_path / "gone"
  reads = []

  def read():
    def compute():
      reads.append(path.read_text())
      return reads[-1]
    return files.once("text", [str(path), str(gone)], compute)

  def age(seconds):
    modified = time.time() - seconds
    os.utime(path, (modified, modified))

  path.write_text("one")
  assert [read(), read()] == ["one", "one"] and len(reads) == 2  # Too young.
  age(10)
  assert [read(), read()] == ["one", "one"] and len(reads) == 3
  # Another process uses the cache only for the same file.
  cache = files.export_cache()
  monkeypatch.setattr(files, "_cache", {})
  files.import_cache(pickle.loads(pickle.dumps(cache)))
  assert read() == "one" and len(reads) == 3
  path.write_text("two")
  age(10)
  assert read() == "two" and len(reads) == 4
  gone.write_text("back")
  os.utime(gone, (1, 1))
  assert read() == "two" and len(reads) == 5
  path.unlink()
  with pytest.raises(FileNotFoundError):
    read()


# --- Writing -----------------------------------------------------------------


def test_a_file_appears_when_it_is_complete(tmp_path):
  path = tmp_path / "a"
  with files.PartialFile(str(path)) as partial:
    partial.file.write(b"one")
    partial.file.flush()
    assert os.listdir(tmp_path) == [".a.partial"]
    partial.commit()
  assert os.listdir(tmp_path) == ["a"] and path.read_bytes() == b"one"


def test_an_error_leaves_the_finished_file_as_it_was(tmp_path):
  (tmp_path / "a").write_text("old")
  with pytest.raises(RuntimeError):
    with files.PartialFile(str(tmp_path / "a")) as partial:
      partial.file.write(b"new")
      raise RuntimeError
  assert os.listdir(tmp_path) == ["a"]
  assert (tmp_path / "a").read_text() == "old"


def test_a_kept_hidden_file_is_resumed(tmp_path):
  path = str(tmp_path / "a")
  with files.PartialFile(path) as partial:
    partial.file.write(b"0123456789")
    partial.keep = True
  with files.PartialFile(path, resume=True) as partial:
    partial.file.write(b"abc")
  with files.PartialFile(path, resume=True) as partial:
    partial.truncate(12)
    partial.file.write(b"X")
    partial.commit()
  assert (tmp_path / "a").read_bytes() == b"0123456789abX"
  with files.PartialFile(path, resume=True):
    pass
  with files.PartialFile(path) as partial:  # From scratch.
    assert partial.file.read() == b""


def test_text_and_copies_are_written_atomically(tmp_path):
  path = tmp_path / "a"
  path.write_text("a longer old text")
  files.write_atomically(str(path), "Zürich\n")
  assert path.read_bytes() == "Zürich\n".encode("utf-8")
  files.copy_atomically(str(path), str(tmp_path / "b"))
  assert (tmp_path / "b").read_bytes() == path.read_bytes()
  with pytest.raises(FileNotFoundError):
    files.copy_atomically(str(tmp_path / "none"), str(tmp_path / "b"))
  assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_folder_is_replaced_when_the_new_one_is_complete(tmp_path):
  folder = tmp_path / "student"
  for content in ("old", "new"):
    # Folders that a crash has left are removed.
    for name in (".student.partial", ".student.replaced.partial"):
      (tmp_path / name).mkdir()
      (tmp_path / name / "leftover").write_text("x")
    with files.replaced_folder(str(folder), "a") as partial:
      (pathlib.Path(partial) / content).write_text(content)
      assert folder.exists() == (content == "new")
    assert os.listdir(folder) == [content]
    assert os.listdir(tmp_path) == ["student"]
  with pytest.raises(RuntimeError):
    with files.replaced_folder(str(folder), "a"):
      raise RuntimeError
  assert os.listdir(folder) == ["new"]


def test_removing_missing_files_is_no_error(tmp_path):
  files.remove(str(tmp_path / "a"))
  files.remove_partial(str(tmp_path / "a"))
  assert not os.listdir(tmp_path)


# --- Locking -----------------------------------------------------------------


@contextlib.contextmanager
def _other_process(script, path):
  """Starts a script as another process; yields it when it is ready."""
  process = processes.start(
      [sys.executable, "-c", script, path], cwd=_ROOT, stdin=subprocess.PIPE,
      stdout=subprocess.PIPE, text=True)
  with process:
    try:
      assert process.stdout.readline() == "ready\n"
      yield process
    finally:
      process.kill()


@pytest.mark.parametrize("write", [
    files.PartialFile, lambda path: files.PartialFile(path, resume=True),
    lambda path: files.write_atomically(path, "mine"),
    lambda path: files.copy_atomically(__file__, path)])
def test_a_second_writer_is_refused_and_harms_nothing(tmp_path, write):
  path = tmp_path / "a"
  path.write_text("finished")
  with _other_process(_HOLDER, path) as holder:
    with pytest.raises(InputError) as error:
      write(str(path))
    assert str(error.value).startswith(
        "{} is being written by another process (process {}): ".format(
            path, holder.pid))
    assert "\n" not in str(error.value)
    files.remove_partial(str(path))
    assert (tmp_path / ".a.partial").read_text() == "theirs"
    assert path.read_text() == "finished"
    # The holder finishes without an error.
    holder.communicate()
    assert holder.returncode == 0
  assert os.listdir(tmp_path) == ["a"]


def test_the_lock_ends_with_its_process(tmp_path):
  path = tmp_path / "a"
  with _other_process(_HOLDER, path) as holder:
    holder.kill()
    holder.wait()
    with files.PartialFile(str(path), resume=True) as partial:
      partial.commit()
  assert path.read_text() == "theirs"
  with _other_process(_HOLDER, path) as holder:
    holder.kill()
  files.remove_partial(str(path))
  assert os.listdir(tmp_path) == ["a"]


def test_a_folder_is_locked_by_one_process(tmp_path):
  folder = tmp_path / "new" / "folder"
  with _other_process(_FOLDER_HOLDER, folder) as holder:
    with pytest.raises(InputError, match=r"{} is being written .*\(process {}\)"
                       .format(folder, holder.pid)):
      with files.locked_folder(str(folder)):
        raise RuntimeError
    holder.kill()
    holder.wait()
    with files.locked_folder(str(folder)):
      pass
  assert os.listdir(folder) == []
  with files.locked_folder("gs://bucket/run"):  # Has no locks.
    pass


@pytest.mark.parametrize("is_committed", [True, False])
def test_a_writer_leaves_a_hidden_file_that_another_process_finished(
    tmp_path, is_committed):
  """The hidden file may become the finished file between opening and lock."""
  path = tmp_path / "a"
  with files.PartialFile(str(path)) as partial:
    partial.file.write(b"first")
    with _other_process(_LATE_WRITER, path) as second:
      if is_committed:
        partial.commit()
      partial.close()
      shown, _ = second.communicate()
      assert second.returncode == 0
  assert shown == ("first\n" if is_committed else "none\n")
  assert path.read_bytes() == b"second"
  assert os.listdir(tmp_path) == ["a"]


def test_a_symbolic_link_is_not_followed(tmp_path):
  (tmp_path / "precious").write_text("precious")
  (tmp_path / ".a.partial").symlink_to(tmp_path / "precious")
  with pytest.raises(InputError, match=".a.partial is a symbolic link"):
    files.PartialFile(str(tmp_path / "a"))
  assert (tmp_path / "precious").read_text() == "precious"

"""Tests of locks, and of notes for file systems without shared locks."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
import time

import pytest

import processes
import tiny
from util import files
from util import locks
from util.command_line import InputError

# Writes a hidden file on a system without locks, until stdin ends.
_HOLDER = """
import errno, fcntl, sys
from util import files
def lockf(*unused_arguments):
  raise OSError(errno.ENOSYS, "Function not implemented")
fcntl.lockf = lockf
with files.PartialFile(sys.argv[1]) as partial:
  partial.file.write(b"theirs")
  print("ready", flush=True)
  sys.stdin.read()
  partial.commit()
"""
_MOUNTS = (
    "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
    "40 22 0:50 / /scratch rw - lustre mgs:/fs rw,{}\n")


@pytest.fixture(name="path")
def _path(tmp_path):
  return str(tmp_path / "a")


@pytest.fixture(name="note")
def _note(tmp_path):
  return tmp_path / ".a.partial.note"


@pytest.fixture(name="no_locks", params=[
    errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def _no_locks(monkeypatch, request):
  def lockf(*unused_arguments):
    raise OSError(request.param, os.strerror(request.param))
  monkeypatch.setattr(fcntl, "lockf", lockf)


@pytest.fixture(name="local_locks")
def _local_locks(monkeypatch):
  """Gives each host separate locks, as the mount option `localflock` does."""
  monkeypatch.setattr(locks, "_has_local_locks", lambda unused_device: True)


def _write_note(note, age, **changes):
  """Writes the note of a process of another host."""
  note.write_text(json.dumps(dict({
      "host": "node7", "boot": "another boot", "process": 12, "start": "34"},
                                  **changes)))
  renewed = time.time() - age
  os.utime(note, (renewed, renewed))


def test_without_locks_a_note_is_kept_while_a_file_is_written(
    tmp_path, path, note, no_locks, caplog):
  with files.PartialFile(path) as partial:
    partial.file.write(b"text")
    writer = json.loads(note.read_text())
    assert writer["process"] == os.getpid() and writer["host"]
    with pytest.raises(InputError, match="a is being written .*process {} on "
                       .format(os.getpid())):
      files.PartialFile(path)
    partial.commit()
  assert (tmp_path / "a").read_text() == "text"
  assert os.listdir(tmp_path) == ["a"]
  assert "{} has no locks".format(tmp_path) in caplog.text
  with files.locked_folder(str(tmp_path)):
    assert (tmp_path / ".lock.note").exists()
  assert os.listdir(tmp_path) == ["a"]


def test_another_error_of_a_lock_names_the_file(path, monkeypatch):
  def lockf(*unused_arguments):
    raise OSError(errno.EIO, os.strerror(errno.EIO))
  monkeypatch.setattr(fcntl, "lockf", lockf)
  with pytest.raises(OSError, match="Errno 5.*a.partial'"):
    files.PartialFile(path)


def test_shared_locks_need_no_note(tmp_path, path):
  with files.PartialFile(path):
    assert os.listdir(tmp_path) == [".a.partial"]


def test_a_note_of_another_host_holds_for_five_minutes(
    tmp_path, path, note, no_locks):
  _write_note(note, 280)
  with pytest.raises(InputError, match=(
      r"a is being written by another process \(process 12 on node7, which "
      r"renewed its note 2[78]\d seconds ago; after 5 minutes .*: wait until")):
    files.PartialFile(path)
  assert "node7" in note.read_text()
  _write_note(note, 320)
  files.write_atomically(path, "mine")
  assert os.listdir(tmp_path) == ["a"]


def test_a_note_holds_beside_locks_of_one_host(path, note, local_locks):
  _write_note(note, 10)
  with pytest.raises(InputError, match="process 12 on node7"):
    files.PartialFile(path)
  # A writer with a lock of this host writes a note, too.
  note.unlink()
  with files.PartialFile(path):
    assert json.loads(note.read_text())["process"] == os.getpid()


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_cut_note_holds_for_five_minutes(
    path, note, local_locks, text):
  note.write_text(text)
  with pytest.raises(InputError, match=r"process \? on another host"):
    files.PartialFile(path)
  os.utime(note, (0, 0))
  files.write_atomically(path, "mine")


def test_a_dead_writer_of_this_host_is_replaced_at_once(path, note, no_locks):
  with processes.start(
      [sys.executable, "-c", _HOLDER, path], cwd=tiny.ROOT, text=True,
      stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
    assert holder.stdout.readline() == "ready\n"
    with pytest.raises(InputError, match="process {}".format(holder.pid)):
      files.PartialFile(path)
    # Another writer may wait for the holder.
    waiting = threading.Thread(target=lambda: files.PartialFile(
        path, wait=True).close(), daemon=True)
    waiting.start()
    holder.kill()
    waiting.join(30)
    assert not waiting.is_alive()
  assert not note.exists()


def test_a_writer_renews_its_note(path, note, local_locks, monkeypatch):
  monkeypatch.setattr(locks, "_RENEWAL_SECONDS", 0.01)
  with files.PartialFile(path):
    os.utime(note, (0, 0))
    processes.wait_until(lambda: note.stat().st_mtime)


def test_a_writer_whose_note_was_replaced_finishes_nothing(
    tmp_path, path, note, local_locks):
  with pytest.raises(InputError, match="a: another process has taken over"):
    with files.PartialFile(path) as partial:
      _write_note(note, 0)
      partial.commit()
  # The files of the other process stay.
  assert sorted(os.listdir(tmp_path)) == [".a.partial", ".a.partial.note"]
  assert "node7" in note.read_text()


def test_removing_a_stale_note_keeps_a_renewed_note(note):
  _write_note(note, 400)
  found = locks._read(str(note))
  _write_note(note, 0)
  locks._remove_stale(str(note), found)
  assert json.loads(note.read_text())["host"] == "node7"
  locks._remove_stale(str(note), locks._read(str(note)))
  assert os.listdir(note.parent) == []


@pytest.mark.parametrize("options, device, wanted", [
    ("localflock,lazystatfs", (0, 50), True), ("nolock", (0, 50), True),
    ("vers=3,local_lock=all", (0, 50), True),
    ("vers=3,local_lock=none", (0, 50), False), ("flock", (0, 50), False),
    ("nolock", (8, 1), False), ("nolock", (9, 9), False)])
def test_mount_options_show_whether_hosts_share_locks(
    tmp_path, options, device, wanted):
  (tmp_path / "mountinfo").write_text(_MOUNTS.format(options))
  assert locks._has_local_locks(
      os.makedev(*device), str(tmp_path / "mountinfo")) is wanted

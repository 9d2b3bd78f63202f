"""Tests of files in remote storage, here TensorFlow's storage in memory."""

import errno
import io
import os
import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf

from util import files
from util import remote
from util.command_line import InputError

_ROOT = pathlib.Path(files.__file__).parents[1]


@pytest.fixture(name="folder")
def _folder(request):
  folder = "ram://files/" + request.node.name
  remote.make_folder(folder)
  yield folder
  remote.remove_folder(folder)


def _write(path, content=b"x"):
  with remote.open_file(path, "wb") as file:
    file.write(content)
  return path


def test_remote_files_are_found_and_read(folder):
  remote.make_folder(folder + "/b")
  for name in ("a_10", "a_9", ".a_1", "a_9.json", "b/a_5"):
    _write(folder + "/" + name, name.encode())
  remote.make_folder(folder + "/a_7")
  found = [folder + "/a_9", folder + "/a_10"]
  assert files.find_files(folder + "/a_*", "input_file") == found
  assert files.list_files(folder, "folder", "") == [
      found[0], folder + "/a_9.json", found[1]]
  assert files.list_files(folder, "folder", "", recursive=True)[-1] == (
      folder + "/b/a_5")
  assert files.read_text(found[1]) == "a_10"
  assert files.size(found[1]) == 4
  with pytest.raises(FileNotFoundError, match="a_8"):
    files.open_file(folder + "/a_8")
  with pytest.raises(InputError, match="a_7 is a folder"):
    files.find_files(folder + "/a_7", "input_file")
  with pytest.raises(InputError, match="there is no folder"):
    files.list_files(folder + "/none", "folder", "")


def test_a_remote_file_is_a_stream(folder):
  content = bytes(range(256)) * 20000  # More than the buffer.
  path = _write(folder + "/a", content)
  with files.open_file(path) as file:
    assert file.read(3) == content[:3]
    assert file.seek(-5, os.SEEK_END) == len(content) - 5
    assert file.read() == content[-5:]
    file.seek(1000)
    assert (file.read(7), file.tell()) == (content[1000:1007], 1007)
    with pytest.raises(io.UnsupportedOperation):
      file.write(b"x")
  assert files.read_text(_write(folder + "/empty", b"")) == ""


def test_a_kept_hidden_file_gets_its_name_later(folder):
  path = folder + "/a"
  with files.partial_file(path) as partial:
    partial.file.write(b"x")
    partial.keep = True
  assert not files.exists(path)
  files.commit_kept(path)
  assert files.list_names(folder) == ["a"]
  with files.partial_file(path) as partial:
    partial.file.write(b"y")
    partial.keep = True
  files.remove_partial(path)
  assert files.list_names(folder) == ["a"]
  assert files.read_text(path) == "x"


@pytest.mark.parametrize("error, expected, number, told", [
    (tf.errors.NotFoundError, FileNotFoundError, errno.ENOENT, "No such file"),
    (tf.errors.PermissionDeniedError, PermissionError, errno.EACCES, "told"),
    (tf.errors.UnauthenticatedError, PermissionError, errno.EACCES, "told"),
    (tf.errors.FailedPreconditionError, OSError, errno.EIO, "told"),
    (tf.errors.UnavailableError, OSError, errno.EIO, "told"),
])
def test_tensorflow_errors_become_system_errors(
    monkeypatch, folder, error, expected, number, told):
  path = _write(folder + "/a")

  def fail(*unused_arguments):
    raise error(None, None, "told\n\t and more")

  monkeypatch.setattr(tf.io.gfile, "stat", fail)
  with pytest.raises(expected) as raised:
    files.size(path)
  assert (raised.value.errno, raised.value.filename) == (number, path)
  assert raised.value.strerror.startswith(told)
  assert "\n" not in raised.value.strerror


def test_a_scheme_without_a_file_system_is_refused():
  with pytest.raises(InputError, match="s3://a/b: TensorFlow has no file "
                     "system for s3://, only for .*gs"):
    files.exists("s3://a/b")


def test_without_tensorflow_only_remote_files_are_refused(tmp_path):
  (tmp_path / "tensorflow.py").write_text("raise ImportError('none here')\n")
  (tmp_path / "a").write_text("x")
  code = ("import sys; from util import files\n"
          "for path in sys.argv[1:]: print(files.read_text(path))")
  result = subprocess.run(
      [sys.executable, "-c", code, str(tmp_path / "a"), "gs://a/b"],
      env=dict(os.environ, PYTHONPATH="{}:{}".format(tmp_path, _ROOT)),
      capture_output=True, text=True, check=False)
  assert result.stdout == "x\n"
  assert "gs://a/b: paths with a scheme need TensorFlow" in result.stderr

"""Tests of the check that all parts of a split text exist."""

import pytest

from records import splits
from util.command_line import InputError


@pytest.fixture(name="folder")
def _folder(tmp_path):
  """A folder of two splits: b of three parts, c_d of one."""
  for name, sizes in (("b", [4, 5, 6]), ("c_d", [7])):
    for i, size in enumerate(sizes):
      (tmp_path / "{}_{}.txt".format(name, i)).write_text("x" * size)
    splits.write(str(tmp_path), name, splits.Split("hash", sizes))
  return tmp_path


@pytest.mark.parametrize("spoil, told", [
    (lambda folder: (folder / "b_1.txt").unlink(),
     "1 of the 3 parts b_N.txt are missing, such as b_1.txt"),
    (lambda folder: (folder / "b_3.txt").write_text("x"),
     "b_3.txt is not one of the 3 parts"),
    (lambda folder: (folder / "c_d_0.txt").write_text("x" * 6),
     "c_d_0.txt has 6 bytes, but 7 by"),
    (lambda folder: splits.write(str(folder), "b", splits.Split("hash", [])),
     "split_text.py was stopped while it replaced b_N.txt"),
])
def test_a_split_that_is_incomplete_or_mixed_is_refused(folder, spoil, told):
  splits.check_folder(str(folder), "input_dir")
  spoil(folder)
  with pytest.raises(InputError) as error:
    splits.check_folder(str(folder), "input_dir")
  message = str(error.value)
  assert message.startswith("--input_dir: {}: {}".format(folder, told))
  assert message.endswith(".split.json to use the files as they are")


def test_other_files_and_folders_without_a_manifest_are_not_checked(folder):
  for name in ("notes.txt", "bb_3.txt", "b_x.txt"):
    (folder / name).write_text("x")
  splits.check_folder(str(folder), "input_dir")
  (folder / "b_1.txt").unlink()
  (folder / ".b.split.json").unlink()
  splits.check_folder(str(folder), "input_dir")


@pytest.mark.parametrize("text", [
    "", "{", "[]", "null", '{"source": "a"}', '{"source": 1, "sizes": []}',
    '{"source": "a", "sizes": ["1"]}', "[" * 100000])
def test_a_damaged_manifest_is_refused(folder, text):
  (folder / ".b.split.json").write_text(text)
  with pytest.raises(InputError, match=r"b.split.json is damaged .*remove the"):
    splits.check_folder(str(folder), "input_dir")

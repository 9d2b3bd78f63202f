"""Tests of the script that splits a text."""

import contextlib
import hashlib
import json
import os
import pathlib
import random
import re
import resource
import subprocess
import sys

import pytest

import split_text
from records import splits
from util import files
from util.command_line import InputError

_SCRIPT = str(pathlib.Path(split_text.__file__).resolve())


def _documents(text):
  """Returns the documents of a text, each as a list of lines."""
  documents = [[]]
  for line in text.decode().split("\n"):
    if line.strip():
      documents[-1].append(line)
    else:
      documents.append([])
  return [document for document in documents if document]


def _random_text(rng, num_documents):
  blanks = ("\n", "\n\n\n", " \n", "\r\n", "\t \n\n", "\xa0\n",
            "\u3000 \u2003\x85\n", "\x1c\u2028\u1680\u205f\u202f\n")
  text = rng.choice(("", "\n\n", " \n"))
  for _ in range(num_documents):
    for _ in range(rng.choice((1, 1, 3, 20))):
      text += rng.choice(("", "  ", "\u3000", "\u201c", "\u200b"))
      text += "x\u00e9" * rng.randrange(1, 30)
      text += rng.choice(("\n", "\r\n"))
    text += rng.choice(blanks)
  return (text + rng.choice(("", "\n", "no line end"))).encode()


def _parts(folder, name="a"):
  return [folder.joinpath("{}_{}.txt".format(name, i)).read_bytes()
          for i in range(len(list(folder.glob(name + "_*.txt"))))]


@pytest.mark.parametrize("search_bytes", [1, 7, 1 << 16])
def test_parts_are_whole_documents_of_nearly_equal_size(
    tmp_path, monkeypatch, search_bytes):
  monkeypatch.setattr(splits, "SEARCH_BYTES", search_bytes)
  rng = random.Random(search_bytes)
  for case in range(60):
    text = _random_text(rng, rng.randrange(1, 30))
    source = tmp_path / "text.txt"
    source.write_bytes(text)
    documents = _documents(text)
    num_parts = rng.randint(1, len(documents))
    folder = tmp_path / str(case)
    split_text.split(str(source), num_parts, str(folder), "a")
    parts = _parts(folder)
    assert len(parts) == num_parts
    assert b"".join(parts) == text
    assert [d for part in parts for d in _documents(part)] == documents
    assert all(_documents(part) for part in parts)


def test_parts_of_many_documents_differ_by_one_document_at_most(tmp_path):
  source = tmp_path / "text.txt"
  rng = random.Random(0)
  source.write_text("".join(
      "s\n" * rng.randrange(1, 500) + "\n" for _ in range(2000)))
  split_text.split(str(source), 7, str(tmp_path / "out"), "a")
  sizes = [len(part) for part in _parts(tmp_path / "out")]
  assert max(sizes) - min(sizes) <= 1000


@pytest.mark.parametrize("sizes", [(9000, 3, 3, 3), (3, 3, 3, 9000),
                                   (3, 9000, 3, 3)])
def test_one_large_document_leaves_no_part_empty(tmp_path, sizes):
  source = tmp_path / "text.txt"
  source.write_text("\n\n".join("x" * size for size in sizes))
  split_text.split(str(source), 4, str(tmp_path / "out"), "a")
  assert [len(part.strip()) for part in _parts(tmp_path / "out")] == list(sizes)


def test_lines_that_strip_empties_are_blank():
  """Runs both searches on each character; white space is below U+10000."""
  for code_point in range(0x10000):
    character = chr(code_point)
    if character == "\n" or 0xd800 <= code_point < 0xe000:
      continue
    line = character.encode()
    is_blank = not character.strip()
    assert (splits.find_text(line) < 0) == is_blank, hex(code_point)
    assert bool(splits._BLANK_LINE.fullmatch(b"\n" + line + b"\n")) == is_blank
    # A block may end within a character, which may still be white space.
    if is_blank:
      assert all(splits.find_text(line[:end]) < 0 for end in range(len(line)))


@pytest.mark.parametrize("text, found", [
    ("one\n\u200b\ntwo\n", 4), ("one\n \ufeff\u200c\t\r\ntwo\n", 4),
    ("\u201cone\u201d\n\u2060\u00ad\n", 10), ("one\n\u200bx\ntwo\n", -1),
    ("one\n\n\xa0\ntwo\n", -1), ("one\n\u200b", -1)])
def test_lines_of_zero_width_characters_are_found(text, found):
  assert splits.find_invisible_line(text.encode()) == found


def test_lines_of_zero_width_characters_are_reported(tmp_path):
  """Both the warning and the error name the position of the line."""
  (tmp_path / "text.txt").write_text(
      "one\n\u200b\ntwo\n\nthree\n", encoding="utf-8")
  result = _run(tmp_path)
  assert result.returncode == 0
  assert ("--read_file: text.txt: the line at byte 4 has zero-width characters "
          "alone" in result.stderr)
  assert _parts(tmp_path / "out") == [
      "one\n\u200b\ntwo\n\n".encode(), b"three\n"]
  for split_number in ("3", "4"):
    result = _run(tmp_path, split_number=split_number)
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert "2 documents" in result.stderr and "at byte 4 " in result.stderr
  (tmp_path / "text.txt").write_text("one\n\ufeff\ntwo\n", encoding="utf-8")
  result = _run(tmp_path)
  assert result.returncode == 1 and result.stderr.count("\n") == 1
  assert "no blank line" in result.stderr and "at byte 4 " in result.stderr


def test_a_final_underscore_of_the_name_is_not_doubled(tmp_path):
  (tmp_path / "text.txt").write_text("one\n\ntwo\n")
  split_text.split(str(tmp_path / "text.txt"), 2, str(tmp_path / "out"), "a_")
  assert sorted(os.listdir(tmp_path / "out")) == [
      ".a.split.json", "a_0.txt", "a_1.txt"]


@pytest.mark.parametrize("text, flags, told", [
    ("one\n\ntwo\n", {"split_number": "3"}, "--split_number=3 .*2 documents"),
    ("one\ntwo\n", {"split_number": "2"}, "--read_file.*no blank line"),
    ("o\0n\0e\0\n\0", {}, "--read_file.*NULs.*iconv -f utf-16le"),
    ("", {}, "--read_file.*no text"),
    (" \n\n", {}, "--read_file.*no text"),
    ("one\n", {"split_number": "0"}, "split_number"),
    ("one\n", {"read_file": "none.txt"}, "--read_file.*none.txt"),
    ("one\n", {"name_base": "a/b"}, "--name_base=a/b"),
    ("one\n\ntwo\n", {"folder": "s3://a/b"}, "s3://a/b: .* no file system"),
    ("one\n\ntwo\n", {"folder": "text.txt/out"},
     "--folder: text.txt/out: Not a directory; .* where a folder should"),
    ("one\n", {"folder": None}, "missing --folder"),
])
def test_bad_input_ends_in_one_line(tmp_path, text, flags, told):
  (tmp_path / "text.txt").write_text(text)
  result = _run(tmp_path, **flags)
  assert result.returncode == 1
  assert result.stderr.count("\n") == 1
  assert re.search(told, result.stderr), result.stderr
  assert not (tmp_path / "out").exists()


def test_files_of_an_earlier_larger_split_are_an_error(tmp_path):
  (tmp_path / "text.txt").write_text("one\n\ntwo\n\nthree\n")
  assert _run(tmp_path, split_number="3").returncode == 0
  assert _run(tmp_path, split_number="3").returncode == 0
  result = _run(tmp_path, split_number="2")
  assert result.returncode == 1
  assert "a_2.txt" in result.stderr and "a_1.txt" not in result.stderr
  assert (tmp_path / "out/a_1.txt").read_text() == "two\n\n"


def test_a_matching_split_is_kept_and_others_are_replaced(tmp_path):
  (tmp_path / "text.txt").write_text("one\n\ntwo\n")
  assert _run(tmp_path).returncode == 0
  folder = tmp_path / "out"
  assert json.loads((folder / ".a.split.json").read_text()) == {
      "source": hashlib.sha256(b"one\n\ntwo\n").hexdigest(), "sizes": [5, 4],
      "read_file": "text.txt"}
  part = folder / "a_1.txt"

  def is_kept(**flags):
    before = part.stat().st_ino
    result = _run(tmp_path, **flags)
    assert result.returncode == 0, result.stderr
    assert ("the files are kept" in result.stderr) == (
        part.stat().st_ino == before)
    return part.stat().st_ino == before

  assert is_kept()
  assert is_kept(name_base="a_")
  (tmp_path / "text.txt").write_text("one\n\n2wo\n")
  assert not is_kept()
  assert part.read_text() == "2wo\n" and is_kept()
  part.write_text("2w\n")
  assert not is_kept() and is_kept()
  (folder / ".a.split.json").write_text("{")
  assert not is_kept() and is_kept()
  # Earlier versions wrote no manifest.
  (folder / ".a.split.json").unlink()
  assert not is_kept() and is_kept()
  (tmp_path / "text.txt").write_text("one\n\n2\n\n3\n")
  assert not is_kept(split_number="3")


@pytest.mark.parametrize("stop", range(6))
def test_a_mixture_of_two_splits_is_detected(
    tmp_path, monkeypatch, stop):
  """Stops the second split before each of 5 renames, and not at all."""
  text, folder = tmp_path / "text.txt", tmp_path / "out"
  text.write_text("one\n\ntwo\n\nsix\n")
  split_text.split(str(text), 3, str(folder), "a")
  old = _parts(folder)
  text.write_text("1ne\n\n2wo\n\n3ix\n")
  replace, steps = os.replace, []

  def replace_or_stop(*paths):
    if len(steps) == stop:
      raise KeyboardInterrupt
    steps.append(paths)
    replace(*paths)

  with monkeypatch.context() as patch:
    patch.setattr(split_text.os, "replace", replace_or_stop)
    with contextlib.suppress(KeyboardInterrupt):
      split_text.split(str(text), 3, str(folder), "a")
  # A whole run renames two manifests and three parts.
  assert len(steps) == stop
  if 0 < stop < 5:
    with pytest.raises(InputError, match="--input_dir: .*was stopped while it "
                                         "replaced a_N.txt.*split_text.py"):
      splits.check_folder(str(folder), "input_dir")
    split_text.split(str(text), 3, str(folder), "a")
  splits.check_folder(str(folder), "input_dir")
  assert _parts(folder) == (
      old if stop == 0 else [b"1ne\n\n", b"2wo\n\n", b"3ix\n"])


def test_a_part_does_not_overwrite_the_text(tmp_path):
  (tmp_path / "out").mkdir()
  text = tmp_path / "out/a_1.txt"
  text.write_text("one\n\ntwo\n")
  result = _run(tmp_path, read_file=str(text))
  assert result.returncode == 1 and "overwritten" in result.stderr
  assert text.read_text() == "one\n\ntwo\n"


def test_an_error_leaves_no_file(tmp_path, monkeypatch):
  (tmp_path / "text.txt").write_text("one\n\ntwo\n")

  def fail(*unused_paths):
    raise OSError("disk full")

  monkeypatch.setattr(split_text.os, "replace", fail)
  with pytest.raises(OSError, match="disk full"):
    split_text.split(str(tmp_path / "text.txt"), 2, str(tmp_path / "out"), "a")
  assert os.listdir(tmp_path / "out") == []


def test_a_text_that_becomes_shorter_is_an_error(tmp_path, monkeypatch):
  text = tmp_path / "text.txt"
  text.write_text("one\n\ntwo\n\nthree\n")
  find_cuts = split_text.find_cuts

  def cut_and_truncate(file, num_parts):
    cuts = find_cuts(file, num_parts)
    os.truncate(text, 7)
    return cuts

  monkeypatch.setattr(split_text, "find_cuts", cut_and_truncate)
  with pytest.raises(InputError, match="became shorter"):
    split_text.split(str(text), 3, str(tmp_path / "out"), "a")
  assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("locked", [0, 1])
def test_a_part_that_another_process_writes_is_refused(tmp_path, locked):
  (tmp_path / "text.txt").write_text("one\n\ntwo\n")
  (tmp_path / "out").mkdir()
  path = tmp_path / "out" / "a_{}.txt".format(locked)
  with files.PartialFile(str(path)) as part:
    part.file.write(b"ours")
    result = _run(tmp_path)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "being written by another process" in result.stderr
    part.commit()
  assert path.read_bytes() == b"ours"
  assert os.listdir(tmp_path / "out") == [path.name]


def test_partial_files_of_a_killed_run_are_replaced(tmp_path):
  (tmp_path / "text.txt").write_text("one\n\ntwo\n")
  (tmp_path / "out").mkdir()
  for name in ("a_0.txt", "a_1.txt"):
    pathlib.Path(files.partial_path(str(tmp_path / "out" / name))).write_text(
        "a part of a longer text")
  assert _run(tmp_path).returncode == 0
  assert _parts(tmp_path / "out") == [b"one\n\n", b"two\n"]


def test_there_may_be_more_parts_than_a_process_can_open(tmp_path):
  (tmp_path / "text.txt").write_text("one\n\n" * 100)
  _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
  result = _run(tmp_path, split_number="100", preexec_fn=lambda: (
      resource.setrlimit(resource.RLIMIT_NOFILE, (30, most))))
  assert result.returncode == 0, result.stderr
  assert _parts(tmp_path / "out") == [b"one\n\n"] * 100


def test_the_script_imports_neither_tensorflow_nor_numpy():
  subprocess.run(
      [sys.executable, "-c", "import sys, split_text; assert not "
       "{'tensorflow', 'numpy'} & set(sys.modules)"],
      cwd=os.path.dirname(_SCRIPT), check=True)


def _run(where, preexec_fn=None, **changes):
  """Runs the script in a folder, without the flags whose value is None."""
  flags = dict(read_file="text.txt", split_number="2", folder="out",
               name_base="a")
  flags.update(changes)
  command = [sys.executable, _SCRIPT]
  for name, value in flags.items():
    if value is not None:
      command += ["--" + name, value]
  return subprocess.run(command, cwd=where, capture_output=True, text=True,
                        check=False, preexec_fn=preexec_fn)

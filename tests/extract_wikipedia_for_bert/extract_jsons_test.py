"""Tests of the extraction from WikiExtractor's JSON folders."""

import bz2
import json
import os
from pathlib import Path
import subprocess
import sys

import pytest

from extract_wikipedia_for_bert import extract_jsons

SCRIPT = Path(extract_jsons.__file__).resolve()


def article(title, text):
  return json.dumps({"id": "1", "url": "u", "title": title,
                     "text": text}) + "\n"


# WikiExtractor begins a text with the title only before version 3.1.
ADA = article("Ada", "Ada\n\nAda is a name. \"It is old. It is short.\"\n\n"
              "History.\nNobody knows &lt;ref&gt;x&lt;/ref&gt;it\u00a0well.\n")
ZOE = article("Zoë", "Zoë is a name too.\nIt is a short one.\n")
EMPTY = article("Adam", "")
ONLY_TITLE = article("Eve", "Eve\n\n")
# A first line that only begins with the title is text.
BEE = article("Bee", "Bee is a name.\nBee\nIt is the shortest one.")

ADA_TEXT = 'Ada is a name.\n"It is old.\nIt is short."\nNobody knows it well.\n'
ZOE_TEXT = "Zoë is a name too.\nIt is a short one.\n"
BEE_TEXT = "Bee is a name.\nIt is the shortest one.\n"


def write(folder, files):
  for name, content in files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes)
                     else content.encode("utf-8"))


def run(folder, written, *flags):
  return subprocess.run(
      [sys.executable, str(SCRIPT), "--folder", str(folder), "--write_file",
       str(written), *map(str, flags)], stdout=subprocess.PIPE,
      stderr=subprocess.PIPE, encoding="utf-8", timeout=60)


def assert_one_line(result, *words):
  assert result.returncode == 1
  assert result.stdout == ""
  assert result.stderr.count("\n") == 1, result.stderr
  assert result.stderr.startswith("extract_jsons.py: error: ")
  for word in words:
    assert word in result.stderr


def test_walks_in_natural_order_and_reads_bz2(tmp_path):
  folder, written = tmp_path / "in", tmp_path / "out.txt"
  write(folder, {
      "AB/wiki_00": EMPTY + BEE,
      "AA/wiki_10": ONLY_TITLE + "\n" + ZOE,
      "AA/wiki_2.bz2": bz2.compress(ADA.encode()[:50]) + bz2.compress(
          ADA.encode()[50:]),
      "AA/.wiki_3": "hidden", ".git/wiki_4": "hidden"})
  result = run(folder, written)
  assert result.returncode == 0, result.stderr
  assert result.stderr == ""
  assert written.read_text("utf-8") == "\n".join([ADA_TEXT, ZOE_TEXT, BEE_TEXT])
  assert result.stdout == (
      "{}: 3 articles, 8 sentences, 33 words from 5 in 3 files\n".format(
          written))
  assert sorted(os.listdir(tmp_path)) == ["in", "out.txt"]


@pytest.mark.parametrize("flags, expected", [
    (["--min_words", "4"], "\n".join([
        "Ada is a name.\nNobody knows it well.\n", ZOE_TEXT, BEE_TEXT])),
    (["--min_sentences", "3"], ADA_TEXT),
    (["--min_sentences", "1"], "\n".join([ADA_TEXT, ZOE_TEXT, BEE_TEXT])),
])
def test_flags(tmp_path, flags, expected):
  write(tmp_path / "in", {"wiki_00": ADA + ZOE + BEE})
  run(tmp_path / "in", tmp_path / "out.txt", *flags)
  assert (tmp_path / "out.txt").read_text("utf-8") == expected


def test_removes_only_the_title():
  def texts(title, text):
    return [paragraph.text for paragraph in extract_jsons.paragraphs(
        {"title": title, "text": text}, "en")]
  assert texts("A & B", "A &amp; B\n\nIt is.") == ["It is."]
  assert texts("A &amp; B", "A &amp; B\n\nIt is.") == ["It is."]
  assert texts("Ada", "Ada is.\nAda") == ["Ada is.", "Ada"]
  assert texts("Ada", "\n \nAda\nAda\nIt is.") == ["Ada", "It is."]
  assert texts("", "It is.") == ["It is."]
  assert texts("Ada", "") == []


@pytest.mark.parametrize("text, expected", [
    # Links, as options of WikiExtractor keep them.
    ('It is <a href="Old%20town">old</a> and <A HREF="x">so</A> is Ada.',
     ["It is old and so is Ada."]),
    ("It is &lt;a href=&quot;Old%20town&quot;&gt;old &amp;amp; grey&lt;/a&gt;.",
     ["It is old & grey."]),
    ('It is <img src="a.png" alt="An old map">old <a href="x"><b>now</b></a>.',
     ["It is old now."]),
    # Placeholders of missing words, in any language.
    ("Here formula_1 is large. It is quite old.", ["It is quite old."]),
    ("The formula_12-norm of codice_2 is large.\nIt is quite old.",
     ["It is quite old."]),
    ("Ici, formule_3 est grand. Тук код_4 е малък.", []),
    ("Section::::The long history of this old town.\n"
     "BULLET::::- It is an old one as they say.\n"
     "BULLET::::2.  It is a new one as they say.\nBULLET::::- Short one.\n"
     "Section::::History.:Early life.\nIt is quite old.",
     ["It is an old one as they say.", "It is a new one as they say.",
      "It is quite old."]),
    ("__NOTOC__It is quite old.\nIt is __БЕЗ_ОГЛ__ grey. Not in its __init__.",
     ["It is quite old.", "It is grey.", "Not in its __init__."]),
    # A text cannot contain the project's own mark of missing words.
    ("It is \ue000quite old.", ["It is quite old."])])
def test_removes_leftovers_of_other_versions_and_options(text, expected):
  lines = extract_jsons.prose.lines(
      extract_jsons.paragraphs({"title": "Ada", "text": text}, "en"),
      extract_jsons.prose.Options(min_sentences=1))
  assert lines == expected


@pytest.mark.parametrize("name, content, words", [
    ("wiki_00", "<doc id='1'>\nAda\n</doc>\n", ["wiki_00 line 1", "--json"]),
    ("wiki_00", ADA + '{"title": "Zoë"}\n', ["wiki_00 line 2"]),
    ("wiki_00", ADA + ZOE[:-9], ["wiki_00 line 2"]),
    ("wiki_00", ADA + "[1]\n", ["wiki_00 line 2"]),
    ("wiki_00", b"\xff\xfe\xff\n", ["wiki_00 line 1"]),
    ("wiki_00", ADA + '{"text": null}\n', ["wiki_00 line 2"]),
    # Half of a surrogate pair, which no text can have.
    ("wiki_00", ADA + '{"text": "It is \\ud83d."}\n', ["wiki_00 line 2"]),
    ("wiki_00", ADA + '{"text": ' + "[" * 100000 + "\n", ["wiki_00 line 2"]),
    ("wiki_00.bz2", bz2.compress(ADA.encode() * 9)[:-9],
     ["wiki_00.bz2", "byte"]),
    ("wiki_00", EMPTY, ["no article", "among the 1"]),
    ("wiki_00", "", ["no article", "among the 0"]),
    (".hidden", ADA, ["holds no file", "AA/wiki_00"]),
])
def test_damaged_folders(tmp_path, name, content, words):
  write(tmp_path / "in", {name: content})
  result = run(tmp_path / "in", tmp_path / "out.txt")
  assert_one_line(result, "--folder", *words)
  assert os.listdir(tmp_path) == ["in"]


def test_wrong_flags(tmp_path):
  write(tmp_path / "in", {"wiki_00": ADA})
  written = tmp_path / "out.txt"
  assert_one_line(run(tmp_path / "no", written),
                  "--folder", "there is no folder")
  assert_one_line(run(tmp_path / "in", tmp_path / "no" / "out"),
                  "--write_file", "no folder")
  assert_one_line(run(tmp_path / "in", written, "--min_words", "0"),
                  "--min_words=0")
  written.write_text("mine")
  assert_one_line(run(tmp_path / "in", written), "exists already")
  assert written.read_text() == "mine"
  assert run(tmp_path / "in", written, "--overwrite", "True").returncode == 0
  assert written.read_text("utf-8") == ADA_TEXT


def test_help_lists_the_flags():
  result = subprocess.run([sys.executable, str(SCRIPT), "--help"],
                          stdout=subprocess.PIPE, encoding="utf-8")
  assert result.returncode == 0
  for flag in ("folder", "write_file", "language", "min_words",
               "min_sentences", "overwrite"):
    assert "--" + flag + " " in result.stdout

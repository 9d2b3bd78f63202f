"""Tests of the extraction from a dump: reading, writing and errors."""

import bz2
import gzip
import io
import json
import os
from pathlib import Path
import random
import re
import signal
import subprocess
import sys
from xml.sax.saxutils import escape

import pytest

from extract_wikipedia_for_bert import bzip2
from extract_wikipedia_for_bert import dump
from extract_wikipedia_for_bert import extract_wikipedia
from extract_wikipedia_for_bert import output
from extract_wikipedia_for_bert import prose
from extract_wikipedia_for_bert import wikitext
import processes
from util import files
from util.command_line import InputError

SCRIPT = Path(extract_wikipedia.__file__).resolve()
SITEINFO = """<siteinfo><sitename>Wikipedia</sitename><namespaces>
<namespace key="0" /><namespace key="4">Wikipedia</namespace>
<namespace key="6">File</namespace></namespaces></siteinfo>"""


@pytest.fixture(name="english_excerpt")
def _english_excerpt(shared):
  return next((shared / "data" / "wikipedia").glob("enwiki-latest-*.bz2"))


def page(title, text, namespace=0, extra=""):
  number = "" if namespace is None else "<ns>{}</ns>".format(namespace)
  return ("<page><title>{}</title>{}<id>1</id>{}<revision><id>2</id><text "
          'xml:space="preserve">{}</text></revision></page>\n').format(
              escape(title), number, extra, escape(text))


def dump_of(*pages, siteinfo=SITEINFO, language=' xml:lang="en"'):
  return ('<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/"{}>\n'
          "{}\n{}</mediawiki>\n").format(language, siteinfo, "".join(pages))


SMALL_DUMP = dump_of(
    page("Ada", "'''Ada''' is a [[name]]. It is a short one.\n\n"
         "[[File:Ada.jpg|thumb|Here she is. It is her.]]\n"
         "She said \"I am here. I stay.\"\n\n"
         "== Notes ==\nNothing here is kept."),
    page("Adah", "#REDIRECT [[Ada]]\n\nIt is a name. It is not kept."),
    page("Adam", "Adam is a name. It is old.",
         extra='<redirect title="Ada" />'),
    page("Ada (disambiguation)", "Ada is a town here. Ada is a river too."),
    page("Code", "", extra="<ns>none</ns>"),
    page("Wikipedia:Ada", "This is the project. It is not an article.", 4),
    page("Stub", "This is all there is."),
    page("Zoë", "Zoë is a name too.\n* Its first bearer was a saint there.\n"
         "* short item."))
ADA = ["Ada is a name.", "It is a short one.", 'She said "I am here.',
       'I stay."']
ZOE = ["Zoë is a name too.", "Its first bearer was a saint there."]


def text_of(*articles):
  return "\n".join("".join(line + "\n" for line in lines) for lines in articles)


# "I stay." has two words.
SMALL_TEXT = text_of(ADA[:3], ZOE)


def run(*flags, **settings):
  return subprocess.run(
      [sys.executable, str(SCRIPT), *map(str, flags)], timeout=100,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
      **settings)


def extract(folder, content, *flags, name="dump.xml", kept=False):
  """Runs the script on a dump; returns the process and the output's text.

  Args:
    folder: folder without other files.
    content: content of the dump.
    *flags: flags of the script.
    name: file name of the dump.
    kept: whether the run keeps a part of the text for a later run.
  """
  path = folder / name
  path.write_bytes(content if isinstance(content, bytes)
                   else content.encode("utf-8"))
  written = folder / "out.txt"
  result = run("--dump_file", path, "--output_file", written, *flags)
  assert sorted(os.listdir(folder)) == sorted(
      [name] + (["out.txt"] if written.exists() else [])
      + ([".out.txt.partial", ".out.txt.partial.json"] if kept else []))
  return result, (written.read_text("utf-8") if written.exists() else None)


def assert_one_line(result, *words):
  """Checks that a run failed with one line on stderr that has the words."""
  assert result.returncode == 1
  assert result.stdout == ""
  assert result.stderr.count("\n") == 1, result.stderr
  assert result.stderr.startswith("extract_wikipedia.py: error: ")
  for word in words:
    assert word in result.stderr


@pytest.fixture(name="large_dump", scope="module")
def _large_dump(tmp_path_factory):
  """A dump of many articles, of one paragraph each."""
  path = tmp_path_factory.mktemp("large") / "large.xml"
  with path.open("w", encoding="utf-8") as file:
    file.write(dump_of().replace("</mediawiki>\n", ""))
    for number in range(1500):
      file.write(page("Page {}".format(number),
                      "Article {0} is [[number|{0}]] of {{{{nowrap|them}}}}. "
                      .format(number)
                      + "It tells of ''this'' and of [[that]] at length. "
                      * (10 + number % 40)))
    file.write("</mediawiki>\n")
  return path


def test_small_dump(tmp_path):
  result, text = extract(tmp_path, SMALL_DUMP)
  assert text == SMALL_TEXT
  assert result.returncode == 0
  assert result.stderr == ""
  assert result.stdout == (
      "{}: 2 articles, 5 sentences, 26 words from 8 pages\n".format(
          tmp_path / "out.txt"))


@pytest.mark.parametrize("name, content", [
    ("a.bz2", bz2.compress(SMALL_DUMP.encode())),
    ("multistream.bz2", b"".join(
        bz2.compress(line) for line in SMALL_DUMP.encode().splitlines(True))),
    ("padded.bz2", bz2.compress(SMALL_DUMP.encode()) + bytes(1000)),
    ("a.gz", gzip.compress(SMALL_DUMP.encode())),
    ("misnamed.xml", bz2.compress(SMALL_DUMP.encode())),
    ("utf16.bz2", bz2.compress(
        ('<?xml version="1.0" encoding="UTF-16"?>' + SMALL_DUMP).encode(
            "utf-16"))),
])
def test_compressed_and_encoded_dumps_are_read(tmp_path, name, content):
  _, text = extract(tmp_path, content, name=name)
  assert text == SMALL_TEXT


def test_without_siteinfo_namespaces_and_language(tmp_path):
  content = dump_of(
      page("Ada", "Ada is a name. It is old.", None),
      page("Talk:Ada", "This is a talk. It is long.", None),
      page("Ada: a life", "This is a film. It is long.", None),
      siteinfo="", language="")
  _, text = extract(tmp_path, content)
  assert text == text_of(["Ada is a name.", "It is old."],
                         ["This is a film.", "It is long."])


@pytest.mark.parametrize("flags, articles", [
    (["--min_words", "2"], [ADA, ZOE]),
    (["--min_words=5"], [ADA[1:3], ZOE]),
    (["--min_sentences", "3"], [ADA[:3]]),
    (["--min_sentences", "1"], [ADA[:3], ["This is all there is."], ZOE]),
    (["--max_articles", "1"], [ADA[:3]]),
    (["--keep_disambiguation", "True"],
     [ADA[:3], ["Ada is a town here.", "Ada is a river too."], ZOE]),
    (["--keep_disambiguation", "False"], [ADA[:3], ZOE]),
    (["--namespaces", "4"],
     [["This is the project.", "It is not an article."]]),
    (["--namespaces", "0,4"],
     [ADA[:3], ["This is the project.", "It is not an article."], ZOE]),
    (["--num_workers", "2"], [ADA[:3], ZOE]),
])
def test_flags(tmp_path, flags, articles):
  _, text = extract(tmp_path, SMALL_DUMP, *flags)
  assert text == text_of(*articles)


def test_the_newest_revision_is_extracted(tmp_path):
  content = SMALL_DUMP.replace(
      "<revision>", "<revision><text>It is old. It is gone.</text></revision>"
      "<revision>")
  _, text = extract(tmp_path, content)
  assert text == SMALL_TEXT


def test_pages_of_other_content_models_are_dropped(tmp_path):
  code = page("Code", "This is code. It is not text.").replace(
      "<text", "<model>javascript</model><text")
  _, text = extract(tmp_path, SMALL_DUMP.replace("<page>", code + "<page>", 1))
  assert text == SMALL_TEXT


@pytest.mark.slow
def test_output_is_the_same_for_any_number_of_workers(tmp_path, large_dump):
  texts = set()
  for workers in (1, 2, 4):
    path = tmp_path / str(workers)
    result = run("--dump_file", large_dump, "--output_file", path,
                 "--num_workers", workers)
    assert result.returncode == 0, result.stderr
    texts.add(path.read_bytes())
  text, = texts
  articles = text.decode().split("\n\n")
  assert len(articles) == 1500
  assert [article.split(" ", 2)[1] for article in articles] == [
      str(number) for number in range(1500)]
  assert articles[7] == "\n".join(
      ["Article 7 is 7 of them."]
      + ["It tells of this and of that at length."] * 17)


def test_help_lists_the_flags():
  result = run("--help")
  assert result.returncode == 0
  for flag in ("dump_file", "output_file", "num_workers", "namespaces",
               "keep_disambiguation", "min_words", "min_sentences",
               "max_articles", "overwrite"):
    assert "--" + flag + " " in result.stdout


@pytest.mark.parametrize("flags, words", [
    ([], ["--dump_file", "--output_file"]),
    (["--num_workers", "-1"], ["--num_workers=-1"]),
    (["--num_workers", "two"], ["num_workers"]),
    (["--min_words", "0"], ["--min_words=0"]),
    (["--min_sentences", "0"], ["--min_sentences=0"]),
    (["--max_articles", "-1"], ["--max_articles=-1"]),
    (["--namespaces", "Talk"], ["--namespaces Talk"]),
    (["--namespaces", ""], ["--namespaces"]),
    (["stray"], ["'stray'"]),
])
def test_wrong_flags(tmp_path, flags, words):
  if flags:
    flags = ["--dump_file", tmp_path / "a", "--output_file", tmp_path / "b",
             *flags]
  assert_one_line(run(*flags), *words)


BZ2_DUMP = bz2.compress(SMALL_DUMP.encode())
GZIP_DUMP = gzip.compress(SMALL_DUMP.encode())
XML_DUMP = SMALL_DUMP.encode()
LOGS = "<logitem><id>1</id><type>move</type></logitem>\n"


def stub(attributes):
  """Returns a page without text, as in a dump of stubs."""
  return page("Ada", "").replace(
      '<text xml:space="preserve"></text>', "<text {} />".format(attributes))


BROKEN_IN_ZOE = XML_DUMP.replace(b"name too.", b"name <too.")


@pytest.mark.parametrize("content, words", [
    (b"", ["the file is empty"]),
    (b"BZ", ["not a MediaWiki dump"]),
    (bz2.compress(b""), ["not a MediaWiki dump"]),
    (b"hello", ["not a MediaWiki dump"]),
    (b"<html><body>404</body></html>", ["<html>", "expected <mediawiki>"]),
    (b"7z\xbc\xaf\x27\x1c" + bytes(50), ["decompress the file first"]),
    (BZ2_DUMP[:-9], ["truncated", "byte {0} of {0}".format(len(BZ2_DUMP) - 9)]),
    (BZ2_DUMP[:40], ["truncated", "byte 40 of 40",
                     "no complete page was read"]),
    (BZ2_DUMP[:99] + b"?????" + BZ2_DUMP[104:], ["corrupt"]),
    (GZIP_DUMP[:-9], ["truncated"]),
    (XML_DUMP[:-5], ["truncated", "'Zoë'", "byte {0} of {0}".format(
        len(XML_DUMP) - 5)]),
    (XML_DUMP[:XML_DUMP.index(b"Zo")], ["truncated", "'Stub'"]),
    (BROKEN_IN_ZOE, ["broken", "'Stub'"]),
    (bz2.compress(XML_DUMP[:-13]) + b"junk", ["truncated", "'Zoë'"]),
    (dump_of().encode(), ["no article", "0 pages"]),
    (gzip.compress(dump_of(LOGS * 9).encode()),
     ["without pages: it has <logitem> where <page> was expected",
      "pages-articles"]),
    (dump_of("<board>1</board>", siteinfo="").encode(), ["it has <board>"]),
    (dump_of(stub('bytes="9" sha1="x" location="tt:1" id="1"')).encode(),
     ["a dump of stubs", "pages-articles"]),
    (bz2.compress(dump_of(stub('id="123" bytes="9"')).encode()),
     ["a dump of stubs", "no complete page"]),
    # A deleted, an empty and a missing text: not a dump of stubs.
    (dump_of(*map(stub, (
        'deleted="deleted"', 'bytes="0" id="1"', 'bytes="9"'))).encode(),
     ["no article", "3 pages"]),
    (dump_of(page("Stub", "One.")).encode(), ["no article", "'Stub'"]),
])
def test_damaged_dumps(tmp_path, content, words):
  # The articles are Ada and Zoë; Stub comes between them.
  num_kept = 0
  if "'Zoë'" in words or words == ["truncated"]:  # In gzip's trailer.
    num_kept = 2
  elif "'Stub'" in words and "no article" not in words:
    num_kept = 1
  result, text = extract(tmp_path, content, "--num_workers", "1",
                         kept=bool(num_kept))
  assert_one_line(result, "--dump_file " + str(tmp_path), *words)
  assert text is None
  if num_kept:
    assert "same command again: {} articles are kept".format(
        num_kept) in result.stderr
  else:
    assert "kept" not in result.stderr


def test_every_truncation_is_an_error(tmp_path):
  path = tmp_path / "dump"
  for whole in (BZ2_DUMP, GZIP_DUMP, XML_DUMP.rstrip()):
    for size in range(0, len(whole), 7):
      path.write_bytes(whole[:size])
      with pytest.raises(InputError):
        with dump.DumpReader(str(path)) as reader:
          for _ in reader:
            pass


def test_no_corruption_ends_in_a_traceback(tmp_path):
  path = tmp_path / "dump"
  for whole in (BZ2_DUMP, GZIP_DUMP):
    for index in range(0, len(whole), 7):
      path.write_bytes(whole[:index] + bytes([whole[index] ^ 0xff])
                       + whole[index + 1:])
      try:
        with dump.DumpReader(str(path)) as reader:
          for _ in reader:
            pass
      except InputError:
        pass


def test_missing_files(tmp_path):
  written = tmp_path / "out.txt"
  assert_one_line(run("--dump_file", tmp_path / "no", "--output_file", written),
                  "--dump_file", "there is no file")
  assert_one_line(run("--dump_file", tmp_path, "--output_file", written),
                  "--dump_file", "is a folder")
  assert_one_line(
      run("--dump_file", tmp_path, "--output_file", tmp_path / "no" / "out"),
      "--output_file", "no folder")
  assert_one_line(run("--dump_file", tmp_path, "--output_file", tmp_path),
                  "--output_file", "a folder")
  assert os.listdir(tmp_path) == []


def test_existing_output_is_kept_without_overwrite(tmp_path):
  (tmp_path / "out.txt").write_text("mine")
  result, text = extract(tmp_path, SMALL_DUMP)
  assert_one_line(result, "--output_file", "exists already", "--overwrite")
  assert text == "mine"
  # A run that fails does not replace the file.
  result, text = extract(tmp_path, BROKEN_IN_ZOE, "--overwrite", kept=True)
  assert_one_line(result, "broken")
  assert text == "mine"
  result, text = extract(tmp_path, SMALL_DUMP, "--overwrite")
  assert result.returncode == 0
  assert text == SMALL_TEXT


def test_two_runs_do_not_write_the_same_file(tmp_path):
  written = tmp_path / "out.txt"
  with output.ArticleWriter(str(written), "output_file"):
    (tmp_path / "dump.xml").write_text(SMALL_DUMP, "utf-8")
    assert_one_line(
        run("--dump_file", tmp_path / "dump.xml", "--output_file", written),
        "being written by another process")
  assert not written.exists()


def start(large_dump, written):
  """Starts a run; returns its process and workers when it has written text."""
  process = processes.Script(
      SCRIPT, "--dump_file", large_dump, "--output_file", written,
      "--num_workers", "2", stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      encoding="utf-8")
  hidden = Path(files.partial_path(str(written)))
  processes.wait_until(
      lambda: hidden.exists() and hidden.stat().st_size, process)
  workers = processes.workers(process.script_pid)
  assert len(workers) == 2
  return process, workers


def assert_no_output(folder):
  """Checks that a run has left nothing but progress for a later run."""
  assert set(os.listdir(folder)) in (
      set(), {".out.txt.partial", ".out.txt.partial.json"})


def wait_for_end(pids):
  processes.wait_until(lambda: not any(map(processes.is_running, pids)))


def test_killed_run_leaves_no_output_and_runs_again(tmp_path, large_dump):
  written = tmp_path / "out.txt"
  process, workers = start(large_dump, written)
  process.kill()
  process.wait()
  process.stdout.close()
  process.stderr.close()
  assert not written.exists()
  wait_for_end(workers)
  result = run("--dump_file", large_dump, "--output_file", written)
  assert result.returncode == 0, result.stderr
  assert written.read_text("utf-8").count("\n\n") == 1499
  assert os.listdir(tmp_path) == ["out.txt"]


def test_killed_worker_is_an_error(tmp_path, large_dump):
  process, workers = start(large_dump, tmp_path / "out.txt")
  os.kill(workers[0], signal.SIGKILL)
  try:
    _, stderr = process.communicate(timeout=30)
  finally:
    process.kill()
  assert process.returncode == 1
  assert stderr.count("\n") == 1, stderr
  assert "a worker was killed by signal 9 (SIGKILL)" in stderr
  assert "--num_workers (now 2)" in stderr
  assert_no_output(tmp_path)
  wait_for_end(workers)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_no_output(tmp_path, large_dump, number):
  process, workers = start(large_dump, tmp_path / "out.txt")
  process.send_signal(number)
  if number == signal.SIGINT:  # A terminal sends SIGINT to workers, too.
    for pid in workers:
      os.kill(pid, number)
  _, stderr = process.communicate(timeout=60)
  assert process.returncode == 130
  assert stderr == "extract_wikipedia.py: interrupted\n"
  assert_no_output(tmp_path)
  wait_for_end(workers)


@pytest.fixture(name="bug_in_ada")
def _bug_in_ada(monkeypatch):
  """Makes the cleaning of pages that mention Ada fail."""
  paragraphs = wikitext.paragraphs

  def fail_on_ada(text, wiki, holes):
    if "Ada" in text:
      raise KeyError("a bug")
    return paragraphs(text, wiki, holes)
  monkeypatch.setattr(wikitext, "paragraphs", fail_on_ada)


@pytest.mark.usefixtures("bug_in_ada")
def test_page_that_fails_is_skipped(tmp_path):
  (tmp_path / "dump.xml").write_text(SMALL_DUMP, "utf-8")
  skipped = []
  with dump.DumpReader(str(tmp_path / "dump.xml")) as reader:
    part, = reader.slices(0, 1 << 20)
    cleaned = extract_wikipedia.clean(extract_wikipedia.Task(
        reader.source, part, 0, reader.site, extract_wikipedia.Selection(),
        prose.Options()), skipped.append)
  assert cleaned.articles == [output.Article.of(ZOE)]
  assert cleaned.num_pages == 8
  (title, error, traceback), = skipped
  assert (title, error) == ("Ada", "KeyError('a bug')")
  assert "in fail_on_ada" in traceback


@pytest.mark.usefixtures("bug_in_ada")
def test_page_that_fails_is_logged(tmp_path, monkeypatch):
  logged = []
  monkeypatch.setattr(extract_wikipedia.logging, "error",
                      lambda *message: logged.append(message[0] % message[1:]))
  (tmp_path / "dump.xml").write_text(SMALL_DUMP, "utf-8")
  with output.ArticleWriter(str(tmp_path / "out"), "output_file") as writer:
    extract_wikipedia.extract(
        str(tmp_path / "dump.xml"), writer, extract_wikipedia.Selection(),
        prose.Options(), num_workers=1)
    assert writer.articles == 1
  assert logged == ["skipped the page 'Ada', which failed: KeyError('a bug')"]


def test_templates_of_dropped_sentences_are_reported(tmp_path):
  text = "It is so. It has {{foo}} rooms. It has {{foo}} doors, {{bar}} here."
  result, written = extract(
      tmp_path, dump_of(page("Ada", text + " It is a town.")))
  assert written == text_of(["It is so.", "It is a town."])
  assert "{{foo}} 2, {{bar}} 1" in result.stderr


# --- Slices ------------------------------------------------------------------

LONG_DUMP = dump_of(*(
    page("Page {}".format(number), "Article {} is here. It is ä, ж and 中. "
         .format(number) * (number % 7 + 1), number % 3 % 2)
    for number in range(40)))


@pytest.mark.parametrize("packed", [
    LONG_DUMP.encode(), bz2.compress(LONG_DUMP.encode()),
    gzip.compress(LONG_DUMP.encode()),
    # Blocks that end anywhere: in tags, in characters and in the last tag.
    b"".join(bz2.compress(LONG_DUMP.encode()[start:start + 177])
             for start in range(0, len(LONG_DUMP.encode()), 177)) + bytes(9),
    bz2.compress(("\ufeff" + LONG_DUMP).encode("utf-16-be")),
    ("\ufeff" + LONG_DUMP).encode("utf-16-le"),
    ('<?xml version="1.0" encoding="utf-8"?>' + LONG_DUMP).encode("utf-8-sig"),
    b"<?xml version='1.0' encoding='koi8-r'?>" + LONG_DUMP.replace(
        "中", "b").replace("ä", "c").encode("koi8-r"),
])
def test_slices_of_any_length_have_the_same_pages(tmp_path, packed):
  path = tmp_path / "dump"
  path.write_bytes(packed)
  with dump.DumpReader(str(path)) as reader:
    expected = list(reader)
    assert [found.title for found in expected] == [
        "Page {}".format(number) for number in range(40)]
    for num_bytes in (1, 7, 100, 999, 5000, 10**6):
      found = []
      for part in reader.slices(0, num_bytes):
        found.extend(reader.source.pages(part, reader.site))
      assert found == expected, num_bytes
    # The slices from a later start have the same pages.
    for part in list(reader.slices(0, 300))[::5]:
      rest = [found for later in reader.slices(part.start, 300)
              for found in reader.source.pages(later, reader.site)]
      assert rest == expected[len(expected) - len(rest):]


def test_blocks_match_the_library():
  text = bytes(random.Random(0).choices(b"abcd ", k=300000))
  packed = b"".join(bz2.compress(text[start:start + 100000], 1)
                    for start in range(0, 300000, 100000))
  blocks = list(bzip2.blocks(io.BytesIO(packed), 0))
  assert len(blocks) >= 3 and b"".join(
      block.text for block in blocks) == text
  for number, block in enumerate(blocks):
    # A block begins in the byte of its position, at any bit.
    for start in range(2):
      rest = list(bzip2.blocks(io.BytesIO(packed), block.position + start))
      assert rest == blocks[number + start:]
  for size in range(0, len(packed), 997):
    with pytest.raises(bzip2.DamagedError) as error:
      list(bzip2.blocks(io.BytesIO(packed[:size]), 0))
    assert error.value.is_truncated and error.value.position == size
  wrong = packed[:9999] + bytes([packed[9999] ^ 1]) + packed[10000:]
  with pytest.raises(bzip2.DamagedError) as error:
    list(bzip2.blocks(io.BytesIO(wrong), 0))
  assert not error.value.is_truncated and error.value.position == 4


def test_a_marker_within_a_block_is_not_its_end(monkeypatch):
  packed = bz2.compress(bytes(random.Random(0).choices(b"abcd ", k=3000)))
  markers = bzip2._markers
  false_markers = [bzip2._Marker(1234, False)]

  def with_false_marker(buffer, start):
    found = sorted(markers(buffer, start) + false_markers)
    false_markers.clear()
    return found
  monkeypatch.setattr(bzip2, "_markers", with_false_marker)
  block, = bzip2.blocks(io.BytesIO(packed), 0)
  assert block.text == bz2.decompress(packed)


# --- Resuming ----------------------------------------------------------------


def resume(dump_file, written, max_articles=0, overwrite=False, **options):
  """Extracts in this process; returns the number of resumed articles."""
  selection = extract_wikipedia.Selection(max_articles=max_articles)
  options = prose.Options(**options)
  with output.ArticleWriter(
      str(written), "output_file", overwrite,
      extract_wikipedia.made_by(str(dump_file), selection, options)) as writer:
    already = writer.articles
    extract_wikipedia.extract(str(dump_file), writer, selection, options, 1)
    writer.finish()
  return already


@pytest.fixture(name="many_notes")
def _many_notes(monkeypatch):
  """Makes slices small, and writes the progress file after each slice."""
  monkeypatch.setattr(extract_wikipedia, "_NOTE_SECONDS", 0)
  monkeypatch.setattr(extract_wikipedia, "_MIN_SLICE_BYTES", 300)
  monkeypatch.setattr(extract_wikipedia, "_MAX_SLICE_BYTES", 300)


COMPRESSIONS = [bytes, gzip.compress, lambda content: b"".join(
    bz2.compress(content[start:start + 500])
    for start in range(0, len(content), 500))]


@pytest.mark.usefixtures("many_notes")
@pytest.mark.parametrize("compress", COMPRESSIONS)
def test_interrupted_runs_resume_to_the_same_bytes(
    tmp_path, monkeypatch, compress):
  path, written = tmp_path / "dump", tmp_path / "out.txt"
  monkeypatch.setattr(dump, "_CARRIED_BYTES", 900)
  path.write_bytes(compress(LONG_DUMP.encode()))
  assert resume(path, tmp_path / "whole.txt") == 0
  clean = extract_wikipedia.clean
  resumed = []

  def clean_three(task, report):
    if len(resumed) and cleaned.append(task) is None and len(cleaned) > 3:
      raise KeyboardInterrupt
    return clean(task, report)
  monkeypatch.setattr(extract_wikipedia, "clean", clean_three)
  for _ in range(100):
    cleaned = []
    resumed.append(0)
    try:
      resumed[-1] = resume(path, written)
      break
    except KeyboardInterrupt:
      assert not written.exists()
      assert Path(files.partial_path(str(written))).exists()
  assert len(resumed) >= 3
  assert resumed[-1] > 5
  assert written.read_bytes() == (tmp_path / "whole.txt").read_bytes()
  assert sorted(os.listdir(tmp_path)) == ["dump", "out.txt", "whole.txt"]


@pytest.mark.usefixtures("many_notes")
@pytest.mark.parametrize("compress", COMPRESSIONS)
def test_a_cut_dump_resumes_when_it_is_complete(tmp_path, compress):
  path, written = tmp_path / "dump", tmp_path / "out.txt"
  whole = compress(LONG_DUMP.encode())
  path.write_bytes(whole)
  resume(path, tmp_path / "whole.txt")
  expected = (tmp_path / "whole.txt").read_text("utf-8").split("\n\n")
  for share in (.6, .8, .8, .9):
    path.write_bytes(whole[:int(share * len(whole))])
    with pytest.raises(InputError, match="articles are kept") as error:
      resume(path, written)
  kept = int(re.search(r"--max_articles (\d+)", str(error.value))[1])
  assert 5 < kept < len(expected)
  path.write_bytes(whole)
  assert resume(path, written) == kept
  assert written.read_text("utf-8").split("\n\n") == expected
  # Without the rest of the dump, --max_articles finishes the text.
  path.write_bytes(whole[:int(.9 * len(whole))])
  with pytest.raises(InputError):
    resume(path, written, overwrite=True)
  assert resume(path, written, max_articles=kept, overwrite=True) == kept
  assert written.read_text("utf-8").rstrip("\n").split("\n\n") == expected[
      :kept]


@pytest.mark.usefixtures("many_notes")
@pytest.mark.parametrize("content, options, difference, num_articles", [
    (LONG_DUMP, {"min_sentences": 1}, "--min_sentences was 2 and is 1", 27),
    (LONG_DUMP.replace("Page 9", "Page X"), {}, "was another dump", 27),
    (LONG_DUMP, {"max_articles": 2}, "more than --max_articles 2", 2),
])
def test_an_output_that_was_begun_differently_is_refused(
    tmp_path, content, options, difference, num_articles):
  path, written = tmp_path / "dump", tmp_path / "out.txt"
  path.write_bytes(LONG_DUMP.encode()[:-2000])
  with pytest.raises(InputError, match="are kept"):
    resume(path, written)
  left = {name: (tmp_path / name).read_bytes()
          for name in (".out.txt.partial", ".out.txt.partial.json")}
  path.write_text(content, "utf-8")
  with pytest.raises(InputError, match="was begun differently") as error:
    resume(path, written, **options)
  assert difference in str(error.value) and "--overwrite" in str(error.value)
  for name, content in left.items():
    assert (tmp_path / name).read_bytes() == content
  resume(path, written, overwrite=True, **options)
  assert written.read_text("utf-8").count("\n\n") == num_articles - 1


@pytest.mark.usefixtures("many_notes")
@pytest.mark.parametrize("name, content", [
    (".out.txt.partial.json", "{"), (".out.txt.partial.json", "[]"),
    (".out.txt.partial", "short")])
def test_damaged_progress_is_ignored(tmp_path, name, content):
  path, written = tmp_path / "dump", tmp_path / "out.txt"
  path.write_bytes(LONG_DUMP.encode()[:-2000])
  with pytest.raises(InputError, match="are kept"):
    resume(path, written)
  (tmp_path / name).write_text(content)
  path.write_text(LONG_DUMP, "utf-8")
  assert resume(path, written) == 0
  assert written.read_text("utf-8").count("\n\n") == 26


@pytest.mark.usefixtures("many_notes")
def test_progress_is_logged_where_there_is_no_terminal(
    tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(extract_wikipedia, "_LOG_SECONDS", 0)
  (tmp_path / "dump.xml").write_text(LONG_DUMP, "utf-8")
  caplog.set_level("INFO", "absl")
  resume(tmp_path / "dump.xml", tmp_path / "out.txt")
  lines = [record.getMessage() for record in caplog.records]
  assert len(lines) > 3
  assert re.fullmatch(r"\d+\.\d% of the dump, \d+ articles", lines[0])
  assert lines[-1] == "100.0% of the dump, 27 articles"


# The script, changed to write the progress file after each result.
NOTING_SCRIPT = """import sys
sys.path.insert(0, {!r})
from extract_wikipedia_for_bert import extract_wikipedia
from util import command_line
if __name__ == "__main__":
  extract_wikipedia._NOTE_SECONDS = 0
  extract_wikipedia.define_flags()
  command_line.run(extract_wikipedia.main)
""".format(str(SCRIPT.parents[1]))


@pytest.mark.slow
def test_a_killed_run_resumes(tmp_path, large_dump):
  script, written = tmp_path / "noting.py", tmp_path / "out.txt"
  script.write_text(NOTING_SCRIPT)
  flags = ("--dump_file", large_dump, "--output_file", written,
           "--num_workers", 2)
  process = processes.Script(script, *map(str, flags), stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, encoding="utf-8")
  note = Path(files.partial_path(str(written)) + ".json")
  processes.wait_until(note.exists, process)
  process.kill()
  process.wait()
  process.stdout.close()
  process.stderr.close()
  assert not written.exists()
  result = run(*flags)
  assert result.returncode == 0, result.stderr
  assert "resuming after" in result.stderr
  articles = written.read_text("utf-8").split("\n\n")
  assert [article.split(" ", 2)[1] for article in articles] == [
      str(number) for number in range(1500)]
  assert sorted(os.listdir(tmp_path)) == ["noting.py", "out.txt"]


def test_importing_defines_no_flag():
  code = ("from absl import flags\n"
          "from extract_wikipedia_for_bert import extract_wikipedia\n"
          "from extract_wikipedia_for_bert import extract_jsons\n"
          "for name in ('dump_file', 'folder', 'min_words', 'overwrite'):\n"
          "  assert name not in flags.FLAGS")
  subprocess.run([sys.executable, "-c", code], check=True,
                 cwd=SCRIPT.parents[1])


def test_quality_of_english_excerpt(tmp_path, shared, english_excerpt):
  written = tmp_path / "out.txt"
  result = run("--dump_file", english_excerpt, "--output_file", written,
               "--num_workers", "2")
  assert result.returncode == 0, result.stderr
  figures = json.loads(subprocess.run(
      [sys.executable, str(shared / "wiki_metrics.py"), "--reference",
       str(shared / "golden" / "wikipedia" / "prose_reference.txt.gz"),
       str(written)], stdout=subprocess.PIPE, check=True).stdout)
  assert figures["markup"] <= 10
  assert figures["broken"] <= 5
  assert figures["short"] <= 100
  assert figures["open"] <= 120
  assert figures["recall"] >= .97
  assert figures["words"] >= 420000
  # 106 articles, less 8 disambiguation pages and a list without a sentence.
  assert figures["articles"] == 97
  with dump.DumpReader(str(english_excerpt)) as reader:
    pages = list(reader)
  assert len(pages) == 206
  assert sum(page.is_redirect for page in pages) == 100
  assert [page.namespace for page in pages if page.namespace] == [4]
  assert reader.site.language == "en"


def test_truncated_english_excerpt(tmp_path, english_excerpt):
  start_of_dump = english_excerpt.read_bytes()[:900000]
  result, text = extract(tmp_path, start_of_dump, "--num_workers", 2,
                         name="start.xml.bz2", kept=True)
  assert_one_line(result, "start.xml.bz2", "byte 900000 of 900000",
                  "the last complete page is", "articles are kept")
  assert text is None


def test_dump_without_siteinfo(tmp_path, shared):
  path = shared / "data" / "wikipedia" / "enwiki-table-markup.xml.bz2"
  result, text = extract(tmp_path, path.read_bytes())
  assert result.returncode == 0
  articles = text.split("\n\n")
  assert len(articles) == 5
  assert articles[0].startswith(
      "The constructive vote of no confidence (in German: konstruktives "
      "Misstrauensvotum, in Spanish: moción de censura constructiva) is a "
      "variation on the motion of no confidence which allows a parliament")
  assert not any(mark in text for mark in ("{|", "|}", "||", "[[", "{{"))


def test_bulgarian_dump_in_utf_16(tmp_path, shared):
  path = (shared / "data" / "wikipedia"
          / "bgwiki-latest-pages-articles-shortened.xml.bz2")
  result, text = extract(tmp_path, path.read_bytes())
  assert result.returncode == 0
  assert text.split("\n\n")[1:] == []  # Two other pages are of namespace 4.
  assert text.startswith("Григорианският календар (понякога наричан и ")
  assert "thumb" not in text and "Файл:" not in text

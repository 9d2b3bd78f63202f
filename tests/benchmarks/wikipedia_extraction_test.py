"""Tests of the Wikipedia extraction benchmark's judgement of a text."""

import sys

import pytest

import tiny

# Last, because some benchmarks have the names of the scripts that they time.
sys.path.append(str(tiny.ROOT / "benchmarks"))
# pylint: disable=wrong-import-position
import wikipedia_extraction

_DUMP = """<mediawiki xml:lang="fr"><page><title>Ada</title><ns>0</ns><revision>
<text>Elle est la. Elle a {{foo|3}} ans ici. Elle reste longtemps.</text>
</revision></page><page><title>Aide:A</title><ns>12</ns><revision>
<text>Elle aide.</text></revision></page></mediawiki>"""


@pytest.fixture(name="excerpt")
def _excerpt(tmp_path):
  path = tmp_path / "dump.xml"
  path.write_text(_DUMP, "utf-8")
  return wikipedia_extraction.Excerpt(str(path))


def test_a_text_is_judged_line_by_line(excerpt):
  judgement = excerpt.judge([
      "Elle est la.", "", "Elle a ans ici.", "Elle  a ans,  ici.",
      "Elle a [[trois]] ans.", "Elle reste -{là}- longtemps.\n"])
  assert judgement == (5, 4000, 4000, 2000)
  assert str(judgement) == (
      "5.0 sentences a page; of 10,000 lines 4000.0 with markup, 4000.0 with "
      "holes, 2000.0 short")
  assert excerpt.judge([]) == (0, 0, 0, 0)


@pytest.mark.slow
def test_each_excerpt_has_a_line(tmp_path):
  path = tmp_path / "dump.xml"
  path.write_text(_DUMP, "utf-8")
  line, = wikipedia_extraction.judge_excerpts([str(path)], None, tmp_path)
  assert line == (
      "dump.xml: 2.0 sentences a page; of 10,000 lines 0.0 with markup, 0.0 "
      "with holes, 10000.0 short.")

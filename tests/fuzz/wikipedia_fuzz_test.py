"""Fuzz tests of the extraction from Wikipedia dumps: XML and wiki markup."""

import bz2
import gzip
import re
from xml.sax.saxutils import escape

from hypothesis import given
from hypothesis import strategies as st
import pytest

from extract_wikipedia_for_bert import dump
from extract_wikipedia_for_bert import prose
from extract_wikipedia_for_bert import wikitext
import fuzzing

pytestmark = pytest.mark.slow
_WIKI = wikitext.Wiki.of(dump.Site())


# --- Dumps -------------------------------------------------------------------

_HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" \
xml:lang="en">
<siteinfo><namespaces><namespace key="0" />
<namespace key="6">File</namespace></namespaces></siteinfo>
"""
_PAGE = ("<page><title>{}</title><ns>{}</ns>{}<revision><model>wikitext</model>"
         '<text xml:space="preserve">{}</text></revision></page>\n')
_TAIL = "</mediawiki>\n"
# Characters that XML allows, without line ends, which XML normalizes.
_CHARACTERS = st.characters(
    codec="utf-8", exclude_categories=["Cs", "Cc"],
    exclude_characters="\ufffe\uffff")
_PAGES = st.lists(
    st.builds(dump.Page, st.text(_CHARACTERS, min_size=1, max_size=10),
              st.sampled_from([0, 4, -2, 828]), st.booleans(),
              st.text(_CHARACTERS, max_size=40)),
    max_size=4)
_COMPRESSIONS = [bytes, bz2.compress, gzip.compress]


def _xml(pages):
  """Returns the XML of a dump."""
  return (_HEAD + "".join(
      _PAGE.format(escape(page.title), page.namespace,
                   "<redirect />" if page.is_redirect else "",
                   escape(page.text)) for page in pages) + _TAIL).encode()


def _read_pages(path, content):
  """Returns the pages before any error, and whether the dump is refused."""
  path.write_bytes(content)
  found = []

  def read():
    with dump.DumpReader(str(path)) as reader:
      for page in reader:
        found.append(page)

  return found, not fuzzing.accepts(read)


@given(_PAGES, st.sampled_from(_COMPRESSIONS))
def test_any_pages_are_read_unchanged(tmp_path, pages, compress):
  found, is_refused = _read_pages(tmp_path / "dump", compress(_xml(pages)))
  assert not is_refused and found == pages


_DUMP = _xml([dump.Page("Ada", 0, False, "'''Ada''' is a [[name]]. It is old."),
              dump.Page("Adah", 0, True, "#REDIRECT [[Ada]]"),
              dump.Page("File:Ada", 6, False, "{{PD}} & more")])
_XML_TOKENS = [
    b"<page>", b"</page>", b"<revision>", b"</revision>", b"<text>", b"<ns>",
    b"</text>", b"<title>", b"<siteinfo>", b"</siteinfo>", b"</mediawiki>",
    b"<mediawiki>", b"<!--", b"-->", b"<![CDATA[", b"]]>", b"<?xml?>", b"&a;",
    b'<?xml version="1.0" encoding="utf-16"?>', b"&#0;", b"&#x10ffff;", b"&lt;",
    b'<?xml version="1.0" encoding="latin-1"?>', b"<a>" * 3000, b" a='1'",
    b"<ns>" + b"9" * 5000 + b"</ns>", b"<x:y>", b' xmlns="b"', b"xmlns:a=''",
    b'<!DOCTYPE a [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]>', b"<redirect/>",
    b'<!DOCTYPE a SYSTEM "file:///etc/hostname">']
_DOCTYPE = ("<!DOCTYPE mediawiki [" + '<!ENTITY a "' + "a" * 10 + '">'
            + "".join('<!ENTITY {} "{}">'.format(
                name, "&{};".format(before) * 10)
                      for before, name in zip("abcdefgh", "bcdefghi"))
            + "]>").encode()


@given(fuzzing.damaged(
    st.sampled_from([_DUMP] * 3 + [_DOCTYPE + _DUMP]),
    [*_XML_TOKENS, b"&i;"]), st.sampled_from([bytes] * 3 + _COMPRESSIONS))
def test_a_damaged_dump_is_refused_or_read(tmp_path, content, compress):
  found, is_refused = _read_pages(tmp_path / "dump", compress(content))
  if content == _DUMP:
    assert not is_refused and [page.title for page in found] == [
        "Ada", "Adah", "File:Ada"]


@pytest.mark.parametrize("entity", [b"<title>&i;</title>", b"<ns a='&i;'/>"])
def test_entities_that_expand_exponentially_are_refused(tmp_path, entity):
  content = _DOCTYPE + _DUMP.replace(b"<page>", b"<page>" + entity)
  found, is_refused = _read_pages(tmp_path / "dump", content)
  assert is_refused and not found


_COMPRESSED = [bz2.compress(_DUMP) * 2, gzip.compress(_DUMP, mtime=0),
               bz2.compress(_DUMP[:300]) + bz2.compress(_DUMP[300:])]


@given(fuzzing.damaged(st.sampled_from(_COMPRESSED), [b"BZh9", b"\x1f\x8b"]))
def test_a_damaged_compressed_dump_is_refused_or_read(tmp_path, content):
  _read_pages(tmp_path / "dump", content)


# --- Markup ------------------------------------------------------------------

_ARTICLE = """{{Infobox|name=Ada|born={{birth date|1815|12|10}}}}
'''Ada''' (born ''Augusta''; [[1815]]<ref name="a">So [[b|c]].</ref>) was here.
[[File:Ada.jpg|thumb|200px|Her [[portrait]].]] She ran {{convert|5|km}} a day.

{| class="wikitable"
|-
! a || b
|}
<math>n = 3</math> is 10<sup>6</sup> &nbsp;&ndash; &#228; [http://a.org b].
* An item of a list, which is long enough.
== See also ==
<!-- a comment --> __NOTOC__ <nowiki>[[a]]</nowiki>
""".encode()
_MARKUP_TOKENS = [
    b"[[", b"]]", b"{{", b"}}", b"{{{", b"|", b"{|", b"|}", b"<ref>", b"</ref>",
    b"<math>", b"</math>", b"<nowiki>", b"</nowiki>", b"''", b"'''", b"<!--",
    b"-->", b"==", b"\n\n", b"[[" * 500, b"{{a|" * 500, b"[http://" * 300,
    b"&#" + b"9" * 5000 + b";", b"&#x" + b"f" * 5000 + b";", b"&#-1;", b"&#0;",
    b"&#xd800;", b"{{lang-", b"{{convert|", b"{{ordinal|", b"{{frac", b"\n=",
    b"<div " * 300, b"\xef\xbf\xbf", "\ue000".encode(), b"__", b"://", b"<sup>",
    "²".encode(), "\u0661".encode(), "\u2028".encode()]


@given(fuzzing.damaged(_ARTICLE, _MARKUP_TOKENS))
def test_damaged_markup_gives_lines_without_markup(content):
  text = content.decode("utf-8", "replace")
  lines, = fuzzing.accepts(lambda: prose.lines(
      wikitext.paragraphs(text, _WIKI), prose.Options()))
  for line in lines:
    assert line and line == line.strip() and "\n" not in line
    assert not re.search(r"\[\[|\]\]|\{\{|\}\}|<ref\b|\||\ue000", line)


_WORDS = st.text(st.characters(categories=["Ll", "Lu", "Lo", "Nd"]), min_size=1,
                 max_size=6)


@given(st.lists(st.lists(_WORDS, min_size=1, max_size=6), max_size=4))
def test_plain_paragraphs_are_read_unchanged(paragraphs):
  paragraphs = [" ".join(words) for words in paragraphs]
  found, = fuzzing.accepts(lambda: list(wikitext.paragraphs(
      "\n\n".join(paragraphs), _WIKI)))
  assert found == [wikitext.Paragraph(text, False) for text in paragraphs]


def test_a_character_reference_of_many_digits_is_replaced():
  reference = "&#" + "9" * 5000 + ";"
  assert wikitext.plain_text("a" + reference + "b", "en") == "a\ufffdb"
  found = list(wikitext.paragraphs("<math>" + reference + "</math>", _WIKI))
  assert len(found) == 1

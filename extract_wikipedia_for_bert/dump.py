"""Reads the pages of a MediaWiki XML dump, one at a time.

This module handles the XML, its compression and what can be wrong with either.
It keeps one page in memory, whatever the size of the dump. Of wikitext it reads
only `#REDIRECT`, for older dumps that do not mark redirects in the XML.
"""

import bz2
import dataclasses
import gzip
import re
from typing import (Any, BinaryIO, FrozenSet, Iterator, Mapping, Optional,
                    Union)
import zlib

from lxml import etree

from util import files
from util.command_line import InputError

_CHUNK_BYTES = 1 << 18
_XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_ARTICLE_NAMESPACE = 0
# MediaWiki's English names work on every wiki, in addition to the local ones.
_FILE_NAMESPACE = 6
_CATEGORY_NAMESPACE = 14
_CANONICAL_NAMESPACES = {
    "media": -2, "special": -1, "talk": 1, "user": 2, "user talk": 3,
    "project": 4, "wikipedia": 4, "project talk": 5, "wikipedia talk": 5,
    "file": _FILE_NAMESPACE, "image": _FILE_NAMESPACE, "file talk": 7,
    "image talk": 7, "mediawiki": 8, "mediawiki talk": 9, "template": 10,
    "template talk": 11, "help": 12, "help talk": 13,
    "category": _CATEGORY_NAMESPACE, "category talk": 15, "portal": 100,
    "portal talk": 101, "draft": 118, "draft talk": 119, "module": 828,
    "module talk": 829,
}
_INTEGER = re.compile(r"\s*-?\d{1,9}\s*$")
_REDIRECT = re.compile(r"\s*#\s*redirect\b", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Site:
  """What a dump says about its wiki.

  Attributes:
    language: the language code, such as "en".
    namespaces: number of each namespace, by its name in lower case.
  """
  language: str = "en"
  namespaces: Mapping[str, int] = dataclasses.field(
      default_factory=lambda: dict(_CANONICAL_NAMESPACES))

  def prefixes(self, *numbers: int) -> FrozenSet[str]:
    """Returns the names of the namespaces with these numbers."""
    return frozenset(
        name for name, number in self.namespaces.items() if number in numbers)

  @property
  def media_prefixes(self) -> FrozenSet[str]:
    """Prefixes of links that show a file, with a caption."""
    return self.prefixes(-2, _FILE_NAMESPACE)

  @property
  def category_prefixes(self) -> FrozenSet[str]:
    """Prefixes of links that put the page into a category."""
    return self.prefixes(_CATEGORY_NAMESPACE)


@dataclasses.dataclass(frozen=True)
class Page:
  """One page of a dump: its title, namespace and newest wikitext."""
  title: str
  namespace: int
  is_redirect: bool
  text: str


class DumpReader:
  """An iterator over the pages of a dump.

  A dump is `.xml`, `.xml.bz2` (one stream or many) or `.xml.gz`, which is
  recognised by its content, not by its name.

  Attributes:
    site: the wiki's language and namespaces, known from the first page on.
    pages_read: number of complete pages read.
    size: of the file, in bytes.
  """

  def __init__(self, path: str):
    """Opens a dump.

    Args:
      path: the file.

    Raises:
      InputError: there is no such file, or it is empty or compressed in a
        format that is not supported.
      OSError: the file cannot be read.
    """
    self.site = Site()
    self.pages_read = 0
    self._path = path
    self._last_title: Optional[str] = None
    files.check_file(path, "dump_file")
    self._raw = files.open_file(path, unbuffered=True)
    try:
      self.size = files.size(path)
      self._stream = self._decompressed()
    except Exception:
      self._raw.close()
      raise

  def __enter__(self) -> "DumpReader":
    return self

  def __exit__(self, *unused_exception: Any) -> None:
    self._raw.close()

  def position(self) -> int:
    """Returns how many bytes of the (compressed) file have been read."""
    return self._raw.tell()

  def error(self, problem: str, remedy: str) -> InputError:
    """Returns an error that says where reading ended.

    Args:
      problem: what is wrong with the dump.
      remedy: what to do.
    """
    last = ("no complete page was read" if self._last_title is None else
            "the last complete page is {!r}".format(self._last_title))
    return InputError("--dump_file {}: {}, at byte {} of {}; {}; {}".format(
        self._path, problem, self.position(), self.size, last, remedy))

  def __iter__(self) -> Iterator[Page]:
    """Yields the dump's pages in order.

    Raises:
      InputError: the file is truncated, corrupt or not a dump.
    """
    chunk = self._read()
    self._check_root(chunk)
    parser = etree.XMLPullParser(
        events=("end",), tag=("{*}siteinfo", "{*}revision", "{*}page"),
        huge_tree=True, resolve_entities=False)
    text = None
    while chunk:
      # On an error, lxml still returns the elements that ended before it.
      failure = _feed(parser, chunk)
      for _, element in parser.read_events():
        name = _local_name(element)
        if name == "revision":
          # The last revision of a page is the newest. Clearing each one keeps
          # a dump with full histories from filling the memory.
          text = _wikitext(element)
          element.clear()
        elif name == "page":
          page = self._page(element, text or "")
          text = None
          element.clear()
          while element.getprevious() is not None:
            del element.getparent()[0]
          self.pages_read += 1
          self._last_title = page.title
          yield page
        else:
          self.site = _site(element)
      if failure is not None:
        raise self._xml_error(failure)
      chunk = self._read()
    try:
      parser.close()
    except etree.XMLSyntaxError as failure:
      raise self._xml_error(failure) from None

  def _decompressed(self) -> Union[BinaryIO, bz2.BZ2File, gzip.GzipFile]:
    """Returns the stream of the XML."""
    head = self._raw.read(6)
    self._raw.seek(0)
    if not head:
      raise self.error("the file is empty", "download it again")
    if head.startswith(b"BZh"):
      return bz2.BZ2File(self._raw)
    if head.startswith(b"\x1f\x8b"):
      return gzip.GzipFile(fileobj=self._raw)
    if head.startswith((b"7z\xbc\xaf\x27\x1c", b"\xfd7zXZ\x00", b"PK\x03\x04",
                        b"\x28\xb5\x2f\xfd")):
      raise self.error("compressed as 7z, xz, zip or zstd", "decompress it "
                       "first: .xml, .xml.bz2 and .xml.gz are read")
    return self._raw

  def _read(self) -> bytes:
    try:
      return self._stream.read(_CHUNK_BYTES)
    except EOFError:
      raise self.error("the compressed file is truncated",
                       "download it again completely") from None
    except (OSError, zlib.error) as failure:
      raise self.error("the compressed file is corrupt ({})".format(failure),
                       "download it again and compare its checksum") from None

  def _xml_error(self, failure: etree.XMLSyntaxError) -> InputError:
    return self.error("the XML is truncated or broken ({})".format(failure.msg),
                      "download the dump again completely")

  def _check_root(self, chunk: bytes) -> None:
    """Raises InputError if the XML is not that of a dump.

    Without this check, other XML would be read into memory completely.
    """
    parser = etree.XMLPullParser(events=("start",), huge_tree=True)
    failure = _feed(parser, chunk)
    for _, element in parser.read_events():
      name = _local_name(element)
      if name != "mediawiki":
        raise self.error("not a MediaWiki dump: the XML begins with <{}>, "
                         "expected <mediawiki>".format(name), _WHICH_DUMP)
      self.site = dataclasses.replace(
          self.site, language=element.get(_XML_LANG) or self.site.language)
      return
    raise self.error("not a MediaWiki dump{}".format(
        ": " + failure.msg if failure is not None else ""), _WHICH_DUMP)

  def _page(self, element: etree._Element, text: str) -> Page:
    title = element.findtext("{*}title") or ""
    namespace = element.findtext("{*}ns")
    if namespace is None or not _INTEGER.match(namespace):
      prefix = title.partition(":")[0].strip().lower().replace("_", " ")
      number = self.site.namespaces.get(prefix, _ARTICLE_NAMESPACE)
    else:
      number = int(namespace)
    is_redirect = (element.find("{*}redirect") is not None
                   or _REDIRECT.match(text) is not None)
    return Page(title, number, is_redirect, text)


_WHICH_DUMP = "give a file such as enwiki-20240101-pages-articles.xml.bz2"


def _feed(parser: etree.XMLPullParser,
          chunk: bytes) -> Optional[etree.XMLSyntaxError]:
  """Feeds a chunk to a parser; returns its error, if any."""
  try:
    parser.feed(chunk)
  except etree.XMLSyntaxError as failure:
    return failure
  return None


def _local_name(element: etree._Element) -> str:
  """Returns a tag's name, which etree.QName refuses where XML has `<:a>`."""
  return element.tag.rpartition("}")[2]


def _wikitext(revision: etree._Element) -> str:
  """Returns a revision's text, or "" if it is not wikitext."""
  if (revision.findtext("{*}model") or "wikitext") != "wikitext":
    return ""
  return revision.findtext("{*}text") or ""


def _site(siteinfo: etree._Element) -> Site:
  """Returns what the header of a dump says about its wiki."""
  names = dict(_CANONICAL_NAMESPACES)
  for namespace in siteinfo.iterfind("{*}namespaces/{*}namespace"):
    key = namespace.get("key") or ""
    if namespace.text and _INTEGER.match(key):
      names[namespace.text.lower()] = int(key)
  root = siteinfo.getparent()
  return Site(root.get(_XML_LANG) or Site().language, names)

"""Reads the pages of a MediaWiki XML dump, in independent slices.

A slice is a range of the bytes of the file and has the pages that begin in the
range. Therefore several processes can each decompress, parse and clean their
own slices, and a run can resume at any slice. A gzip file can only be read from
its start, so its slices carry their text.

This module handles the XML, the compression and the errors of both, with one
slice in memory. Older dumps do not mark redirects in the XML; therefore the
module also recognises `#REDIRECT` in the wikitext.
"""

import codecs
import dataclasses
import enum
import gzip
import hashlib
import re
from typing import (Any, BinaryIO, FrozenSet, Iterator, List, Mapping,
                    NamedTuple, Optional, Tuple)
from xml.sax import saxutils
import zlib

from lxml import etree

from extract_wikipedia_for_bert import bzip2
from util import files
from util.command_line import InputError

_CHUNK_BYTES = 1 << 18
# Bytes of text in a slice of a gzip file.
_CARRIED_BYTES = 1 << 20
# Upper bound of the length of a dump's header, in bytes.
_MAX_HEADER_BYTES = 1 << 24
# Bytes at the start and at a position that identify a dump.
_FINGERPRINT_BYTES = 1 << 16
_PAGE = "<page>"
_END_OF_PAGE = "</page>"
_END_OF_DUMP = "</mediawiki>"
_PADDING = b" \t\r\n\0"
_DECLARATION = re.compile(rb"\s*<\?xml[^>]*\bencoding\s*=\s*[\"']([\w.-]+)")
# First bytes of files whose declaration need not name the encoding.
_ENCODING_MARKS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"), (b"<\0", "utf-16-le"),
    (b"\0<", "utf-16-be"))
_XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_ARTICLE_NAMESPACE = 0
# Every wiki accepts MediaWiki's English names in addition to its local names.
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
  """The language and namespaces of a wiki, from the header of its dump.

  Attributes:
    language: the language code, such as "en".
    namespaces: maps the name of each namespace, in lower case, to its number.
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
    """Prefixes of links that show a file with a caption."""
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


class Compression(enum.Enum):
  """Compression formats of dumps."""
  NONE = "none"
  BZIP2 = "bzip2"
  GZIP = "gzip"


class DamagedError(Exception):
  """A dump is damaged; `DumpReader.error` returns the message for the user.

  Attributes:
    problem: description of the damage.
    remedy: instruction for the user.
    position: byte of the file at which the damage was found.
  """

  def __init__(self, problem: str, remedy: str, position: int):
    """Sets the attributes of the same names."""
    super().__init__(problem, remedy, position)
    self.problem = problem
    self.remedy = remedy
    self.position = position


class Slice(NamedTuple):
  """A part of a dump.

  Attributes:
    start: first byte of the slice in the file; of a gzip file, in its text.
    end: byte after the last byte of the slice, counted as for `start`.
    position: number of bytes of the file that precede the next slice.
    text: text of the slice's whole pages; empty if the file is not gzip.
    is_last: whether no slice follows.
    damage: damage that ends a gzip file early, or None.
  """
  start: int
  end: int
  position: int
  text: bytes = b""
  is_last: bool = False
  damage: Optional[DamagedError] = None


class _Chunk(NamedTuple):
  """Text of a dump, and the byte of the file at which the text begins."""
  position: int
  text: bytes


@dataclasses.dataclass(frozen=True)
class Source:
  """The properties of a dump that a process needs to read a slice.

  Attributes:
    path: the file.
    size: size of the file in bytes.
    compression: compression format of the file.
    encoding: Python's name of the text's encoding.
    root: start tag of the XML's root, in UTF-8.
  """
  path: str
  size: int
  compression: Compression
  encoding: str
  root: bytes

  def pages(self, part: Slice, site: Site) -> Iterator[Page]:
    """Yields the pages that begin in a slice, in order.

    Args:
      part: the slice.
      site: the wiki.

    Raises:
      DamagedError: if the slice is truncated or corrupt, after yielding all
        complete pages before the damage.
    """
    if self.compression is Compression.GZIP:
      yield from self._parse(part.text, part.is_last, site, part.position)
      if part.damage is not None:
        raise part.damage
      return
    with files.open_file(self.path, unbuffered=True) as file:
      text, is_whole, damage = self._read(file, part)
    yield from self._parse(text, is_whole, site, part.start)
    if damage is not None:
      raise damage

  def _read(self, file: BinaryIO, part: Slice
           ) -> Tuple[bytes, bool, Optional[DamagedError]]:
    """Reads a slice as far as the end of its last page.

    Returns:
      The text from the slice's first page on; whether the text must contain the
      end of the dump; the damage that ended the slice early, or None.
    """
    tag, end_of_page = self._encoded(_PAGE), self._encoded(_END_OF_PAGE)
    own: List[bytes] = []
    is_at_end, damage = True, None
    text, num_own, last = b"", -1, -1
    try:
      for chunk in self._chunks(file, part):
        if chunk.position < part.end:
          own.append(chunk.text)
          continue
        if num_own < 0:
          text = b"".join(own)
          num_own = len(text)
        text += chunk.text
        # The tag may continue in the next slice.
        last = text.rfind(tag, 0, num_own + len(tag) - 1)
        if last < 0 or text.find(end_of_page, last) >= 0:
          is_at_end = False
          break
    except DamagedError as error:
      damage = error
    if num_own < 0:
      text = b"".join(own)
      num_own = len(text)
    first = text.find(tag, 0, num_own + len(tag) - 1)
    if is_at_end and damage is None:
      return text[max(0, first):], bool(own), None
    if first < 0:
      return b"", False, damage
    end = text.rfind(end_of_page, first) if damage is not None else text.find(
        end_of_page, last)
    return text[first:end + len(end_of_page) if end >= 0 else first], False, (
        damage)

  def _chunks(self, file: BinaryIO, part: Slice) -> Iterator[_Chunk]:
    """Yields the text from the start of a slice to the end of the file."""
    if self.compression is Compression.BZIP2:
      try:
        yield from map(_Chunk._make, bzip2.blocks(file, part.start))
      except bzip2.DamagedError as error:
        raise _compression_error(error.is_truncated, error.position) from None
      return
    file.seek(part.start)
    position = part.start
    while True:
      ahead = part.end - position
      text = file.read(min(_CHUNK_BYTES, ahead) if ahead > 0 else _CHUNK_BYTES)
      if not text:
        return
      yield _Chunk(position, text)
      position += len(text)

  def _parse(self, text: bytes, is_whole: bool, site: Site,
             position: int) -> Iterator[Page]:
    """Yields the pages of a slice's XML.

    Args:
      text: the XML from the slice's first page on.
      is_whole: whether the end of the dump follows the last page.
      site: the wiki.
      position: byte of the file at which the slice begins, for errors.

    Raises:
      DamagedError: if the XML is truncated or broken.
    """
    if not text and not is_whole:
      return
    at_end = self.size if is_whole else position
    if is_whole and not text.startswith(self._encoded(_PAGE)):
      self._check_end(text, at_end)
      return
    if self.encoding != "utf-8":
      try:
        text = text.decode(self.encoding).encode("utf-8")
      except UnicodeError as error:
        raise _xml_error(str(error), position) from None
    parser = etree.XMLPullParser(
        events=("end",), tag=("{*}revision", "{*}page"), huge_tree=True,
        resolve_entities=False)
    _feed(parser, self.root)
    wikitext = None
    chunks = [text[start:start + _CHUNK_BYTES]
              for start in range(0, len(text), _CHUNK_BYTES)]
    if not is_whole:
      chunks.append(_END_OF_DUMP.encode())
    for chunk in chunks:
      # On an error, lxml still returns the elements that ended before it.
      failure = _feed(parser, chunk)
      for _, element in parser.read_events():
        if _local_name(element) == "revision":
          if _is_stub(element):
            raise DamagedError(
                "a dump of stubs, without the texts of the pages",
                _WHICH_DUMP, position)
          # The last revision of a page is the newest. Clearing each revision
          # bounds the memory for a dump with full histories.
          wikitext = _wikitext(element)
          element.clear()
          continue
        page = _page(element, wikitext or "", site)
        wikitext = None
        element.clear()
        while element.getprevious() is not None:
          del element.getparent()[0]
        yield page
      if failure is not None:
        raise _xml_error(failure.msg, position)
    try:
      parser.close()
    except etree.XMLSyntaxError as failure:
      raise _xml_error(failure.msg, at_end) from None

  def _check_end(self, text: bytes, position: int) -> None:
    """Raises DamagedError if the text, without a page, lacks the end tag.

    The slice before may have the start of the end tag.
    """
    end_of_dump = self._encoded(_END_OF_DUMP).rstrip(_PADDING)
    text = text.rstrip(_PADDING)
    if not (text.endswith(end_of_dump) or end_of_dump.endswith(text)):
      raise _xml_error("the end of the dump is missing", position)

  def _encoded(self, text: str) -> bytes:
    return text.encode(self.encoding)

  def fingerprint(self, position: int) -> str:
    """Returns a SHA-256 that identifies the dump.

    The fingerprint stays the same when the download of a truncated dump
    continues.

    Args:
      position: number of bytes at the start of the file to take into account.
    """
    digest = hashlib.sha256()
    with files.open_file(self.path) as file:
      digest.update(file.read(min(position, _FINGERPRINT_BYTES)))
      file.seek(max(0, position - _FINGERPRINT_BYTES))
      digest.update(file.read(min(position, _FINGERPRINT_BYTES)))
    return digest.hexdigest()


class DumpReader:
  """Iterates over the pages or the slices of a dump.

  A dump is `.xml`, `.xml.bz2` (one stream or many) or `.xml.gz`. The reader
  recognises the format by the content of the file, not by its name.

  Attributes:
    source: properties of the dump, for the processes that read slices.
    site: the wiki's language and namespaces.
    pages_read: number of complete pages read.
    last_title: title of the last complete page, or None.
    size: size of the file in bytes.
  """

  def __init__(self, path: str):
    """Reads the header of a dump.

    Args:
      path: the file.

    Raises:
      InputError: if the file does not exist, is empty, is damaged, is not a
        dump or has an unsupported compression.
      OSError: if the file cannot be read.
    """
    self.site = Site()
    self.pages_read = 0
    self.last_title: Optional[str] = None
    self._path = path
    files.check_file(path, "dump_file")
    self.size = files.size(path)
    self._raw = files.open_file(path, unbuffered=True)
    try:
      self.source = self._read_header()
    except Exception:
      self._raw.close()
      raise

  def __enter__(self) -> "DumpReader":
    return self

  def __exit__(self, *unused_exception: Any) -> None:
    self._raw.close()

  def error(self, problem: str, remedy: str,
            position: Optional[int] = None) -> InputError:
    """Returns an error with the position and the last complete page.

    Args:
      problem: description of the problem.
      remedy: instruction for the user.
      position: byte of the file at which reading ended; None is the end.
    """
    last = ("no complete page was read" if self.last_title is None else
            "the last complete page is {!r}".format(self.last_title))
    return InputError("--dump_file {}: {}, at byte {} of {}; {}; {}".format(
        self._path, problem, self.size if position is None else position,
        self.size, last, remedy))

  def __iter__(self) -> Iterator[Page]:
    """Yields the dump's pages in order.

    Raises:
      InputError: if the file is truncated or corrupt.
    """
    try:
      for part in self.slices(0, _CARRIED_BYTES):
        for page in self.source.pages(part, self.site):
          self.pages_read += 1
          self.last_title = page.title
          yield page
    except DamagedError as error:
      raise self.error(error.problem, error.remedy, error.position) from None

  def slices(self, start: int, num_bytes: int,
             end: int = 0) -> Iterator[Slice]:
    """Yields the slices of the dump in order.

    Args:
      start: start of the first slice: 0, or the end of another slice.
      num_bytes: approximate length of a slice.
      end: end of the first slice; 0 derives the end from `num_bytes`.
    """
    if self.source.compression is Compression.GZIP:
      yield from self._slices_of_stream(start)
      return
    while True:
      stop = min(end or start + num_bytes, self.size)
      yield Slice(start, stop, stop, is_last=stop == self.size)
      if stop == self.size:
        return
      start, end = stop, 0

  def _slices_of_stream(self, start: int) -> Iterator[Slice]:
    """Yields the slices of a gzip file, which is read from its start."""
    # pylint: disable=protected-access
    end_of_page = self.source._encoded(_END_OF_PAGE)
    page = self.source._encoded(_PAGE)
    self._raw.seek(0)
    stream = gzip.GzipFile(fileobj=self._raw)
    text = b""
    try:
      stream.seek(start)
      while True:
        more = stream.read1(_CARRIED_BYTES)
        text += more
        if not more:
          break
        if len(text) < _CARRIED_BYTES:
          continue
        cut = text.rfind(end_of_page) + len(end_of_page)
        if cut >= len(end_of_page):
          first = text.find(page, 0, cut)
          yield Slice(start, start + cut, self._raw.tell(),
                      text[first:cut] if first >= 0 else b"")
          start += cut
          text = text[cut:]
    except (EOFError, OSError, zlib.error) as failure:
      damage = self._gzip_error(failure)
    else:
      first = max(0, text.find(page))
      yield Slice(start, start + len(text), self.size, text[first:], True)
      return
    # The pages before the damage are complete.
    cut = text.rfind(end_of_page) + len(end_of_page)
    if cut >= len(end_of_page):
      first = text.find(page, 0, cut)
      yield Slice(start, start + cut, damage.position,
                  text[first:cut] if first >= 0 else b"")
      start += cut
    yield Slice(start, start, self.size, damage=damage)

  def _gzip_error(self, failure: Exception) -> DamagedError:
    return _compression_error(isinstance(failure, EOFError), self._raw.tell(),
                              failure)

  def _read_header(self) -> Source:
    """Reads the XML as far as the first page, and sets `site`."""
    head = self._raw.read(6)
    if not head:
      raise self.error("the file is empty", "download it again")
    if head.startswith((b"7z\xbc\xaf\x27\x1c", b"\xfd7zXZ\x00", b"PK\x03\x04",
                        b"\x28\xb5\x2f\xfd")):
      raise self.error(
          "compressed as 7z, xz, zip or zstd, expected .xml, .xml.bz2 or "
          ".xml.gz", "decompress the file first", 0)
    compression = (
        Compression.BZIP2 if head.startswith(b"BZh") else
        Compression.GZIP if head.startswith(b"\x1f\x8b") else Compression.NONE)
    header = b""
    encoding = "utf-8"
    parser = etree.XMLPullParser(events=("start", "end"), huge_tree=True,
                                 resolve_entities=False)
    source = None
    for text in self._start_of_text(compression):
      if not header:
        encoding = self._encoding(text)
      header += text
      failure = _feed(parser, text)
      for event, element in parser.read_events():
        name = _local_name(element)
        if source is None:
          if name != "mediawiki":
            raise self.error(
                "not a MediaWiki dump: the XML begins with <{}>, "
                "expected <mediawiki>".format(name), _WHICH_DUMP, 0)
          source = Source(self._path, self.size, compression, encoding,
                          _start_tag(element))
          self.site = dataclasses.replace(
              self.site,
              language=element.get(_XML_LANG) or self.site.language)
        elif event == "end" and name == "siteinfo":
          self.site = _site(element)
        elif event == "start" and element.getparent().getparent() is None:
          if name == "page":
            return source
          if name != "siteinfo":
            raise self.error(
                "a dump without pages: it has <{}> where <page> was expected"
                .format(name), _WHICH_DUMP, 0)
      if source is None and failure is not None:
        raise self.error("not a MediaWiki dump: " + failure.msg, _WHICH_DUMP, 0)
      if failure is not None or len(header) > _MAX_HEADER_BYTES:
        break
    if source is None:
      raise self.error("not a MediaWiki dump", _WHICH_DUMP, 0)
    return source

  def _start_of_text(self, compression: Compression) -> Iterator[bytes]:
    """Yields the text of the dump from its start."""
    try:
      if compression is Compression.BZIP2:
        yield from (block.text for block in bzip2.blocks(self._raw, 0))
        return
      self._raw.seek(0)
      read = gzip.GzipFile(fileobj=self._raw).read1 if (
          compression is Compression.GZIP) else self._raw.read
      yield from iter(lambda: read(_CHUNK_BYTES), b"")
    except bzip2.DamagedError as error:
      damage = _compression_error(error.is_truncated, error.position)
    except (EOFError, OSError, zlib.error) as failure:
      if compression is not Compression.GZIP:
        raise
      damage = self._gzip_error(failure)
    else:
      return
    raise self.error(damage.problem, damage.remedy, damage.position)

  def _encoding(self, text: bytes) -> str:
    """Returns the encoding of XML, given its first bytes."""
    for mark, encoding in _ENCODING_MARKS:
      if text.startswith(mark):
        return encoding
    declaration = _DECLARATION.match(text)
    name = declaration[1].decode("ascii") if declaration else "utf-8"
    try:
      encoding = codecs.lookup(name).name
      _PAGE.encode(encoding)
    except (LookupError, UnicodeError, ValueError):
      raise self.error("the encoding {!r} is unknown".format(name),
                       "convert the dump to UTF-8", 0) from None
    # In UTF-16 or UTF-32 the declaration would not have matched.
    return "utf-8" if encoding.startswith(("utf-16", "utf-32", "ascii")) else (
        encoding)


def _compression_error(is_truncated: bool, position: int,
                       failure: object = None) -> DamagedError:
  if is_truncated:
    return DamagedError("the compressed file is truncated",
                        "download it again completely", position)
  return DamagedError(
      "the compressed file is corrupt" + (
          "" if failure is None else " ({})".format(failure)),
      "download it again and compare its checksum", position)


def _xml_error(message: str, position: int) -> DamagedError:
  return DamagedError("the XML is truncated or broken ({})".format(message),
                      "download the dump again completely", position)


def _start_tag(root: etree._Element) -> bytes:
  """Returns the start tag of the XML's root, with its namespaces."""
  return "<mediawiki{}>".format("".join(
      " xmlns{}={}".format(":" + prefix if prefix else "",
                           saxutils.quoteattr(name))
      for prefix, name in root.nsmap.items() if prefix != "xml")).encode()


def _page(element: etree._Element, text: str, site: Site) -> Page:
  """Returns the page of a <page> element with a text."""
  title = element.findtext("{*}title") or ""
  namespace = element.findtext("{*}ns")
  if namespace is None or not _INTEGER.match(namespace):
    prefix = title.partition(":")[0].strip().lower().replace("_", " ")
    number = site.namespaces.get(prefix, _ARTICLE_NAMESPACE)
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
  """Returns an element's name. etree.QName fails for a tag such as `<:a>`."""
  return element.tag.rpartition("}")[2]


def _is_stub(revision: etree._Element) -> bool:
  """Returns whether a revision is from a dump of stubs, without its text.

  A dump of stubs has the length of each text in bytes, and the id or location
  at which to find the text. A full dump has no ids or locations.
  """
  text = revision.find("{*}text")
  return (text is not None and not text.text
          and (text.get("bytes") or "0") != "0"
          and (text.get("id") or text.get("location")) is not None)


def _wikitext(revision: etree._Element) -> str:
  """Returns a revision's text, or "" if it is not wikitext."""
  if (revision.findtext("{*}model") or "wikitext") != "wikitext":
    return ""
  return revision.findtext("{*}text") or ""


def _site(siteinfo: etree._Element) -> Site:
  """Returns the wiki that a <siteinfo> element describes."""
  names = dict(_CANONICAL_NAMESPACES)
  for namespace in siteinfo.iterfind("{*}namespaces/{*}namespace"):
    key = namespace.get("key") or ""
    if namespace.text and _INTEGER.match(key):
      names[namespace.text.lower()] = int(key)
  root = siteinfo.getparent()
  return Site(root.get(_XML_LANG) or Site().language, names)

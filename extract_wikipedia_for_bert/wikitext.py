"""Turns the wikitext of a page into paragraphs of plain text.

The first steps take linear time: they resolve tags, drop sections, tables and
links to files, resolve templates that span lines, and join lines to blocks.
Then mwparserfromhell parses the links and templates of each block separately,
so that broken markup affects its own block only.
"""

import bisect
import collections
import dataclasses
import html
import re
from typing import Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Tuple

from mwparserfromhell import nodes
from mwparserfromhell import parser as wikicode_parser
from mwparserfromhell.wikicode import Wikicode

from extract_wikipedia_for_bert import languages
from extract_wikipedia_for_bert import templates
from extract_wikipedia_for_bert.dump import Site

# Maximal length of a block in characters: the parser takes quadratic time on
# broken markup such as unclosed links. Prose has shorter blocks. A longer block
# is parsed line by line, and a longer line is dropped.
_MAX_BLOCK = 20000

_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)\b([^<>]*)>")
# Tags that are dropped with their contents.
_DROPPED_TAGS = frozenset("""
    ref references gallery timeline score hiero table
    imagemap inputbox categorytree graph mapframe maplink includeonly pre
    templatestyles indicator section chess style script
    """.split())
# Tags of code, which is kept within a line of text and dropped elsewhere.
_CODE_TAGS = frozenset(["syntaxhighlight", "source"])
_INLINE_ATTRIBUTE = re.compile(r"\binline\b")
# Tags of readings above words, inside <ruby>.
_READING_TAGS = frozenset(["rt", "rp", "rtc"])
_RUBY_TAGS = _READING_TAGS | {"rb", "ruby"}
_MAX_TAGS_IN_READING = 8
_FORMULA_TAGS = frozenset(["math", "chem", "ce"])
_BLOCK_TAGS = frozenset("""
    p div center blockquote ul ol li dl dt dd hr h1 h2 h3 h4 h5 h6 poem td th tr
    caption tbody thead tfoot
    """.split())
# Tags that are dropped without their contents.
_INLINE_TAGS = frozenset("""
    abbr b bdi bdo big cite code data del dfn em font i ins kbd mark noinclude
    nowiki onlyinclude q rb ruby s samp small span strike strong sub sup time tt
    u var wbr langconvert noindex nobr
    """.split())
_INTEGER = re.compile(r"[-−+]?\d+")
# A character reference with more digits than Python converts to a number.
_HUGE_CHARACTER = re.compile(r"&#[0-9]{4000,};?")
_REPLACEMENT_CHARACTER = "\ufffd"

_HEADING = re.compile(r"^(={1,6})[ \t]*(.+?)[ \t]*={1,6}[ \t]*$", re.MULTILINE)
_MARKED_LINE = re.compile(r"^[*#:;]+\s*")
# The first characters of a table's rows. A template may start the table.
_TABLE_LINE = ("|", "!", "{|")
_BRACES = re.compile(r"\{\{|\}\}")
_LINK_BRACKETS = re.compile(r"\[\[|\]\]")
_LINK_PREFIX = re.compile(r"\[\[\s*([^\[\]|:{}\n]*?)\s*:")
# [[de:Titel]] and [[zh-min-nan:Titel]] link to the page in another language.
_LANGUAGE_PREFIX = re.compile(
    r"(?:[a-z]{2,3}(?:-[a-z]{1,12}){0,2}|simple|tokipona)$")
_DIRECTION_MARKS = re.compile("[\u200e\u200f]")
# [[a]] and [[a|b]] without other markup inside: most links.
_SIMPLE_LINK = re.compile(
    r"(?<!\[)\[\[([^\[\]{}|<>\n=]+)(?:\|([^\[\]{}|<>\n=]*))?\]\](?!\])")
_QUOTES = re.compile(r"'{2,}")
_POSSESSIVE = re.compile(r"(?<=[^'\s])'''(?=s\b)")
# The part of the title that [[Ada (name)|]] and [[Ada, Ohio|]] do not show.
_PIPE_TRICK = re.compile(r"\s*\([^()]*\)$|,.*$")
# __NOTOC__ and __KEIN_INHALTSVERZEICHNIS__, but not __init__.
MAGIC_WORD = re.compile(
    r"__(?=[^_]{2})(?:[A-Z]|[^\x00-\x7f\s])+(?:_(?:[A-Z]|[^\x00-\x7f\s])+)*__")
# Variants: -{...}-, possibly with templates inside.
_VARIANTS = re.compile(r"-\{(?!\{)((?:[^{}]|\{\{[^{}]*\}\})*)\}-")
_VARIANT_FLAGS = re.compile(r"(?:\s*(?:[A-Z+-]|[a-z-]+)\s*(?:;|$))+$")
_VARIANT_RULE = re.compile(
    r"\s*(?:[^;:]*=>)?\s*([a-z]{2,3}(?:-[a-z]{2,7})*)\s*:(.*)$", re.DOTALL)
_VARIANT_SEPARATOR = re.compile(
    r";(?=\s*(?:[^;:]*=>)?\s*[a-z]{2,3}(?:-[a-z]{2,7})*\s*:|\s*$)")
_SINGLE_BRACKET = re.compile(r"(?<!\[)\[(?!\[)")
_URL = re.compile(r"(?:https?|ftp)://[^\s<>\[\]{}|\"]*[^\s<>\[\]{}|\".,;:!?)']")
_PARAGRAPH_BREAK = re.compile(r"\n\s*\n")


def _any_of(names: FrozenSet[str]) -> str:
  """Returns a pattern of names; underscores match spaces."""
  return "|".join(re.escape(name).replace("\\ ", "[ _]+")
                  for name in sorted(names))


_DISAMBIGUATION = re.compile(
    r"__DISAMBIG__|\{\{\s*(?:disambig(?:uation)?(?:[ _-](?!needed)[^|{}]*)?"
    r"|hndis[^|{}]*|" + _any_of(languages.DISAMBIGUATION_TEMPLATES)
    + r")\s*(?:\||\}\})", re.IGNORECASE)
_DISAMBIGUATION_TITLE = re.compile(
    r"[(（](?:" + _any_of(languages.DISAMBIGUATION_TITLES) + r")[)）]$",
    re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Wiki:
  """The properties of a wiki that affect its wikitext.

  Attributes:
    language: the language code.
    dropped_links: prefixes of links to files and categories, in lower case.
  """
  language: str = "en"
  dropped_links: FrozenSet[str] = frozenset()

  @classmethod
  def of(cls, site: Site) -> "Wiki":
    """Returns the wiki that the header of a dump describes."""
    return cls(site.language, site.media_prefixes | site.category_prefixes
               | languages.FILE_NAMES | languages.CATEGORY_NAMES)


class Paragraph(NamedTuple):
  """A block of plain text, possibly an item of a list."""
  text: str
  is_list_item: bool


def is_disambiguation(title: str, text: str) -> bool:
  """Returns whether a page is a disambiguation page.

  Args:
    title: the page's title, which identifies about half of these pages.
    text: the page's wikitext.
  """
  return (_DISAMBIGUATION_TITLE.search(title) is not None
          or _DISAMBIGUATION.search(text) is not None)


def paragraphs(text: str, wiki: Wiki, holes: Optional[templates.Holes] = None
              ) -> Iterator[Paragraph]:
  """Yields the paragraphs of a page in order.

  Args:
    text: the page's wikitext.
    wiki: the wiki of the page.
    holes: collects the names of the templates whose words are missing. If None,
      `templates.UNKNOWN_WORDS` marks all missing words.

  Yields:
    Paragraphs as plain text. Unclosed markup may remain. The marks of
    `templates.MISSING_WORDS` stand for words that are not in the dump.
  """
  text = templates.PRIVATE_CHARACTERS.sub("", text).replace("\r", "")
  text = _COMMENT.sub("", text)
  text = resolve_tags(text)
  if wiki.language in languages.WITH_VARIANTS:
    text = resolve_variants(text)
  text = drop_sections(text)
  text = drop_tables(text)
  text = drop_links(text, wiki.dropped_links)
  text = resolve_block_templates(text, wiki.language, holes)
  for block in blocks(MAGIC_WORD.sub("", text)):
    plain = plain_text(block.text, wiki.language, holes)
    for part in _PARAGRAPH_BREAK.split(plain):
      part = " ".join(part.split())
      if part:
        yield Paragraph(part, block.is_list_item)


def resolve_tags(text: str) -> str:
  r"""Returns wikitext without tags, except for unknown ones.

  `a<ref>b</ref> c<br>d` becomes `a c\nd`. Short plain formulas are kept, other
  formulas become `templates.UNKNOWN_WORDS`.

  Args:
    text: wikitext without comments.
  """
  tags = list(_TAG.finditer(text))
  closings: Dict[str, List[int]] = collections.defaultdict(list)
  for tag in tags:
    if tag[1]:
      closings[tag[2].lower()].append(tag.start())
  ends = {tag.start(): tag.end() for tag in tags}
  pieces = []
  position = 0
  for number, tag in enumerate(tags):
    if tag.start() < position:  # Inside a dropped part.
      continue
    pieces.append(text[position:tag.start()])
    position = tag.end()
    name = tag[2].lower()
    closing = None
    if not tag[1] and not tag[3].rstrip().endswith("/"):
      closing = _first_after(closings[name], position)
    if name in _BLOCK_TAGS:
      pieces.append("\n\n")
    elif name == "br":
      pieces.append("\n")
    elif name in _DROPPED_TAGS:
      if closing is not None:
        position = ends[closing]
      if name == "ref" and text.endswith("}}", 0, tag.start()):
        pieces.append(templates.NOTE_MARK)
    elif name in _CODE_TAGS:
      if closing is not None:
        if _is_inline(text, tag, closing):
          pieces.append(_escaped(text[position:closing].strip()))
        position = ends[closing]
    elif name in _READING_TAGS:
      if not tag[1]:
        position = _end_of_reading(tags, number)
    elif name in _FORMULA_TAGS:
      if closing is not None:
        pieces.append(_formula(text[position:closing]))
        position = ends[closing]
    elif name == "nowiki":
      if closing is not None:
        pieces.append(_escaped(text[position:closing]))
        position = ends[closing]
    elif name == "sup":
      # 10<sup>6</sup> is not 106, but km<sup>2</sup> may be km2.
      if (closing is not None and text[max(0, tag.start() - 1)].isdigit()
          and _INTEGER.fullmatch(text[position:closing].strip())):
        pieces.append("^")
    elif name not in _INLINE_TAGS:
      pieces.append(tag[0])
  pieces.append(text[position:])
  return "".join(pieces)


def _is_inline(text: str, tag: "re.Match[str]", closing: int) -> bool:
  """Returns whether the code in a tag is part of a line of text."""
  if "\n" in text[tag.end():closing]:
    return False
  line = text[text.rfind("\n", 0, tag.start()) + 1:tag.start()]
  return bool(line.strip()) or _INLINE_ATTRIBUTE.search(tag[3]) is not None


def _end_of_reading(tags: List["re.Match[str]"], number: int) -> int:
  """Returns the end of an <rt>, <rp> or <rtc>, which may lack its end tag."""
  for tag in tags[number + 1:number + 1 + _MAX_TAGS_IN_READING]:
    name = tag[2].lower()
    if name in _RUBY_TAGS:
      return tag.end() if tag[1] and name in _READING_TAGS else tag.start()
  return tags[number].end()


def _first_after(positions: List[int], start: int) -> Optional[int]:
  """Returns the first position at or after a start; None if there is none."""
  index = bisect.bisect_left(positions, start)
  return positions[index] if index < len(positions) else None


def _formula(text: str) -> str:
  """Renders the contents of a formula's tag."""
  return templates.plain_formula(_unescaped(text).strip())


def _unescaped(text: str) -> str:
  """Replaces entities by their characters."""
  return html.unescape(_HUGE_CHARACTER.sub(_REPLACEMENT_CHARACTER, text))


def _escaped(text: str) -> str:
  """Escapes literal text, so that later steps find no markup."""
  return "".join(
      character if character.isalnum() or character.isspace()
      or character == "&" else "&#{};".format(ord(character))
      for character in text)


def resolve_variants(text: str) -> str:
  """Keeps one variant of text that a wiki gives in several scripts.

  `-{zh-hans:软件; zh-hant:軟體}-` becomes `软件`, `-{text}-` becomes `text`.

  Args:
    text: wikitext without tags.
  """
  return _VARIANTS.sub(_one_variant, text) if "-{" in text else text


def _one_variant(marks: "re.Match[str]") -> str:
  text = marks[1]
  if _SINGLE_BRACKET.search(text):  # A chemical name: 4-{2-[…]…}-.
    return marks[0]
  head, bar, rest = text.partition("|")
  if bar and _VARIANT_FLAGS.match(head):
    flags = {flag.strip() for flag in head.split(";")}
    if flags & {"H", "T", "-", "N"}:  # For the title, or for later text.
      return ""
    text = rest
  rules: Dict[str, str] = {}
  for part in _VARIANT_SEPARATOR.split(text):
    rule = _VARIANT_RULE.match(part)
    if rule is not None:
      rules.setdefault(rule[1], rule[2].strip())
    elif part.strip():
      return text
  for name in languages.KEPT_VARIANTS:
    if name in rules:
      return rules[name]
  return next(iter(rules.values()), text)


def drop_sections(text: str) -> str:
  """Returns wikitext without `languages.DROPPED_SECTIONS` and subsections."""
  kept = []
  position = 0
  dropped_level = 0  # The heading's level while a section is being dropped.
  for heading in _HEADING.finditer(text):
    level = len(heading[1])
    if dropped_level and level > dropped_level:
      continue
    if not dropped_level:
      kept.append(text[position:heading.start()])
    position = heading.start()
    title = heading[2].strip(" \t'=:").lower()
    dropped_level = level if title in languages.DROPPED_SECTIONS else 0
  if not dropped_level:
    kept.append(text[position:])
  return "".join(kept)


def drop_tables(text: str) -> str:
  """Returns wikitext without tables (`{|` ... `|}`), nested ones included.

  An unclosed table stays; `blocks` drops the lines that look like rows.
  """
  if "{|" not in text:
    return text
  lines = text.split("\n")
  opened: List[int] = []
  spans: List[Tuple[int, int]] = []
  for number, line in enumerate(lines):
    line = line.lstrip(" \t:*#")
    if line.startswith("{|"):
      opened.append(number)
    elif line.startswith("|}") and not line.startswith("|}}") and opened:
      spans.append((opened.pop(), number))
  for first, last in _outermost(spans):
    # The text after the end of a table in the same line is kept.
    lines[last] = lines[last].partition("|}")[2]
    lines[first:last] = [""] * (last - first)
  return "\n".join(lines)


def _outermost(spans: List[Tuple[int, int]]) -> List[Tuple[int, int]]:
  """Returns the spans that are not inside other spans, in order."""
  outermost: List[Tuple[int, int]] = []
  for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
    if not outermost or start > outermost[-1][1]:
      outermost.append((start, end))
  return outermost


def _balanced(text: str, brackets: "re.Pattern[str]") -> List[Tuple[int, int]]:
  """Returns the spans of closed pairs of double brackets."""
  opened: List[int] = []
  spans = []
  for bracket in brackets.finditer(text):
    if bracket[0] in ("{{", "[["):
      opened.append(bracket.start())
    elif opened:
      spans.append((opened.pop(), bracket.end()))
  return spans


def drop_links(text: str, prefixes: FrozenSet[str]) -> str:
  """Returns wikitext without links to files, categories and other languages.

  Args:
    text: wikitext.
    prefixes: prefixes of links to files and categories, in lower case.
  """
  dropped = []
  for start, end in _balanced(text, _LINK_BRACKETS):
    prefix = _LINK_PREFIX.match(text, start, end)
    if prefix is None:
      continue
    name = _DIRECTION_MARKS.sub("", prefix[1]).replace("_", " ").strip()
    if name.lower() in prefixes or _LANGUAGE_PREFIX.match(name):
      dropped.append((start, end))
  return _without(text, dropped)


def _without(text: str, spans: List[Tuple[int, int]]) -> str:
  """Returns a text without spans, and without the lines that become empty."""
  pieces = []
  position = 0
  for start, end in _outermost(spans):
    pieces.append(text[position:start])
    position = end
    # An empty line would break a paragraph.
    if text[start - 1:start] in ("", "\n") and text[end:end + 1] == "\n":
      position += 1
  pieces.append(text[position:])
  return "".join(pieces)


def resolve_block_templates(text: str, language: str,
                            holes: Optional[templates.Holes] = None) -> str:
  """Resolves the templates that span lines or start a line.

  `plain_text` renders the templates within a line later.

  Args:
    text: wikitext.
    language: the wiki's language code.
    holes: as for `paragraphs`.

  Returns:
    Wikitext with templates within lines only.
  """
  pieces = []
  position = 0
  for start, end in _outermost(_balanced(text, _BRACES)):
    call = text[start:end]
    before = text[text.rfind("\n", 0, start) + 1:start].strip(" *:#;")
    after = text[end:end + 2].lstrip(" ")[:1]
    if "\n" not in call and (before or after.islower()):
      continue  # Within a line, or the beginning of a sentence.
    pieces.append(text[position:start])
    position = end
    name, _ = _split_function(call[2:-2].partition("|")[0], language)
    if templates.find(name, language) is not None:
      pieces.append(plain_text(call, language, holes))
    elif before and holes is not None and not templates.is_note(name):
      pieces.append(holes.candidate(name))
  pieces.append(text[position:])
  return "".join(pieces)


def blocks(text: str) -> Iterator[Paragraph]:
  """Joins the lines of a page to blocks: paragraphs and list items.

  Headings, blank lines and list marks separate blocks; single line breaks do
  not.

  Args:
    text: wikitext without tables and boxes.

  Yields:
    The blocks in order, as wikitext.
  """
  lines: List[str] = []
  for line in text.split("\n"):
    line = line.strip()
    marks = _MARKED_LINE.match(line)
    is_text = bool(line) and not (
        marks or line.startswith(_TABLE_LINE) or line.startswith("----")
        or (line[0] == "=" and _HEADING.match(line)))
    if is_text:
      lines.append(line)
      continue
    if lines:
      yield Paragraph("\n".join(lines), False)
      lines = []
    if marks:
      yield Paragraph(line[marks.end():], True)
  if lines:
    yield Paragraph("\n".join(lines), False)


def plain_text(block: str, language: str,
               holes: Optional[templates.Holes] = None) -> str:
  """Renders a block: links as their labels, templates and entities as text.

  Args:
    block: wikitext without markup that spans blocks.
    language: the wiki's language code.
    holes: as for `paragraphs`.
  """
  block = _without_quotes(block)
  if "[[" in block:
    block = _SIMPLE_LINK.sub(_simple_label, block)
  if "[" in block or "{{" in block:
    rendering = _Rendering(language, templates.Holes() if holes is None
                           else holes)
    if len(block) > _MAX_BLOCK:
      block = "\n".join(rendering.parsed(line) for line in block.split("\n")
                        if len(line) <= _MAX_BLOCK)
    else:
      block = rendering.parsed(block)
  if not block.isascii():
    block = templates.resolve_candidates(block)
    if holes is None:
      block = templates.HOLE.sub(templates.UNKNOWN_WORDS, block)
  if "://" in block:
    block = _URL.sub(templates.UNKNOWN_WORDS, block)
  return _unescaped(block) if "&" in block else block


def _simple_label(link: "re.Match[str]") -> str:
  """[[a|b]] -> b, [[a]] -> a, [[:de:a]] -> de:a, [[a (b)|]] -> a."""
  title, label = link.groups()
  if "://" in title:
    return link[0]
  if label is None:
    return title.lstrip(":")
  return label if label.strip() else _PIPE_TRICK.sub("", title)


def _without_quotes(block: str) -> str:
  """Removes the quotes of bold and italic type and keeps apostrophes."""
  if "''" not in block:
    return block
  block = _POSSESSIVE.sub("'", block)
  # Four quotes are an apostrophe and bold type. Quotes beyond five are
  # apostrophes.
  return _QUOTES.sub(
      lambda run: "'" * {4: 1}.get(len(run[0]), max(0, len(run[0]) - 5)), block)


class _Rendering:
  """Renders the links and templates of a wiki's wikitext."""

  def __init__(self, language: str, holes: templates.Holes):
    self._language = language
    self._holes = holes

  def parsed(self, block: str) -> str:
    """Parses and renders a block."""
    try:
      code = wikicode_parser.Parser().parse(block, skip_style_tags=True)
    except wikicode_parser.ParserError:
      # The parser fails on some broken markup.
      return ""
    return self._text(code)

  def _text(self, code: Wikicode) -> str:
    pieces = []
    for node in code.nodes:
      if isinstance(node, nodes.Text):
        pieces.append(node.value)
      elif isinstance(node, nodes.Wikilink):
        pieces.append(self._label(node))
      elif isinstance(node, nodes.Template):
        pieces.append(self._template(node))
      elif isinstance(node, nodes.ExternalLink):
        if node.title is not None:
          pieces.append(self._text(node.title))
        elif not node.brackets:
          pieces.append(templates.UNKNOWN_WORDS)
      elif isinstance(node, nodes.Tag):
        if node.contents is not None:
          pieces.append(self._text(node.contents))
      elif isinstance(node, nodes.HTMLEntity):
        pieces.append(str(node))
      elif isinstance(node, nodes.Heading):
        pieces.append(self._text(node.title))
    return "".join(pieces)

  def _label(self, link: nodes.Wikilink) -> str:
    """Renders a link as `_simple_label` does."""
    if link.text is not None:
      label = self._text(link.text)
      if label.strip():
        return label
      return _PIPE_TRICK.sub("", self._text(link.title))
    return self._text(link.title).lstrip(":")

  def _template(self, template: nodes.Template) -> str:
    name, first = _split_function(str(template.name), self._language)
    render = templates.find(name, self._language)
    if render is None:
      return "" if templates.is_note(name) else self._holes.candidate(name)
    arguments = {}
    if first is not None:
      arguments["1"] = first
    for parameter in template.params:
      arguments[str(parameter.name).strip()] = self._text(
          parameter.value).strip()
    text = render(arguments)
    if templates.UNKNOWN_WORDS in text:
      text = text.replace(templates.UNKNOWN_WORDS, self._holes.hole(name))
    return text


def _split_function(name: str, language: str) -> Tuple[str, Optional[str]]:
  """Splits the name of a template or parser function: {{formatnum:1234}}.

  Returns:
    The normalized name; the first argument of a parser function, or None.
  """
  whole = templates.normalize_name(name)
  function, colon, argument = name.partition(":")
  if not colon or templates.find(whole, language) is not None:
    return whole, None
  return templates.normalize_name(function), argument.strip()

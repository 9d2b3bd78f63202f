"""Turns the paragraphs of an article into tidy sentences of prose.

The rules are rows of tables, each under a comment with an example.
"""

import dataclasses
import re
from typing import Iterable, List, NamedTuple, Optional, Tuple

from absl import flags

from extract_wikipedia_for_bert import sentences
from extract_wikipedia_for_bert import templates
from extract_wikipedia_for_bert.wikitext import Paragraph

_MIN_PARAGRAPH_WORDS = 4
_MIN_LIST_ITEM_WORDS = 6
# Minimal number of characters in scripts without sentence-final punctuation.
_MIN_UNMARKED_PARAGRAPH = 40
_MIN_UNMARKED_LIST_ITEM = 80


@dataclasses.dataclass(frozen=True)
class Options:
  """The selection of sentences.

  Attributes:
    language: the language code for the sentence splitter.
    min_words: minimal number of words of a sentence; shorter ones are dropped.
    min_sentences: minimal number of sentences of an article.
  """
  language: str = "en"
  min_words: int = 3
  min_sentences: int = 2


def define_flags() -> None:
  """Defines the flags of both extractors."""
  flags.DEFINE_integer(
      "min_words", Options.min_words,
      "Drop sentences with fewer words than this.", lower_bound=1)
  flags.DEFINE_integer(
      "min_sentences", Options.min_sentences,
      "Drop articles with fewer sentences than this. Next-sentence prediction "
      "needs two.", lower_bound=1)


class TidyRule(NamedTuple):
  """A replacement that tidies the text after the removal of markup.

  Attributes:
    name: name of the rule.
    pattern: the text to replace.
    replacement: the replacement, as for `re.sub`.
    signs: strings of which every match contains at least one, after the earlier
      rules. `tidy` searches only texts with a sign, which is faster. The first
      two rules have no signs: `tidy` applies them to every text.
  """
  name: str
  pattern: "re.Pattern[str]"
  replacement: str
  signs: Tuple[str, ...] = ()


def _pairs(left: str, right: str) -> Tuple[str, ...]:
  """Returns all pairs of characters, with and without a space between."""
  return tuple(first + space + second for first in left for second in right
               for space in ("", " "))


# Not the joiners U+200C and U+200D, which Persian and Hindi need.
_INVISIBLE = "\u00ad\u200b\u200e\u200f\u2060\ufeff\u202a-\u202e"
# Latin, Armenian, Indic, Arabic and Chinese punctuation without a space before.
_MARKS = ",.;:!?։।॥،؛؟۔。、，；：！？"
TIDY_RULES = (
    # "soft\u00adhyphen" -> "softhyphen"
    TidyRule("invisible", re.compile("[" + _INVISIBLE + "]"), ""),
    # "five\u00a0 miles" -> "five miles"
    TidyRule("spaces", re.compile(r"\s+"), " "),
    # "and . . . so" -> "and ... so"
    TidyRule("spaced ellipsis", re.compile(r"\.(?:\s\.){2,}"), "...",
             (". .",)),
    # "''Albedo''" -> "Albedo"
    TidyRule("leftover quotes", re.compile(r"'{2,}"), "", ("''",)),
    # "Achilles (; , a hero)" -> "Achilles (a hero)"
    TidyRule("separator after parenthesis",
             re.compile(
                 r"(?<=[(\[])(?:\s*(?:[,;:]|(?:/|or\b|and\b)"
                 r"\s*(?=[,;)/]|or\b|and\b)))+\s*"), "",
             _pairs("([", ",;:/oa")),
    # "Achilles (a hero, ; )" -> "Achilles (a hero)"
    TidyRule("separator before parenthesis",
             re.compile(r"(?<![\s,;:])[\s,;:]*[,;:]\s*(?=[)\]])"), "",
             _pairs(",;:", ")]")),
    # "Albedo () or" -> "Albedo or"
    TidyRule("empty parentheses", re.compile(r"\s*(?:\(\s*\)|\[\s*\])"), "",
             ("()", "( )", "[]", "[ ]")),
    # "( a hero )" -> "(a hero)"
    TidyRule("space inside parentheses",
             re.compile(r"(?<=[(\[])\s+|\s+(?=[)\]])"), "",
             ("( ", "[ ", " )", " ]")),
    # "one , two ." -> "one, two."
    TidyRule("space before punctuation",
             re.compile(r"\s+(?=[" + _MARKS + r"](?:\s|$|[)\]\"”]))"), "",
             tuple(" " + mark for mark in _MARKS)),
    # "one, , two" -> "one, two"
    TidyRule("repeated separator", re.compile(r"([,;])(?:\s*[,;])+"), r"\1",
             _pairs(",;", ",;")),
    # "one, . Two" -> "one. Two"
    TidyRule("separator before stop",
             re.compile(r"[,;:]\s*(?=\.(?:\s|$))"), "", _pairs(",;:", ".")),
    # "  one  two " -> "one two"
    TidyRule("spaces left", re.compile(r"\s{2,}"), " ", ("  ",)),
)

# A sentence that matches one of these patterns is dropped.
LEFTOVER_MARKUP = {
    "brackets": r"\[\[|\]\]|\{\{|\}\}|\{\||\|\}",
    "pipe": r"\|",
    "image size": r"\b\d+px\b",
    "tag": r"</?[A-Za-z][A-Za-z0-9]*(?:\s[^<>]*)?/?>|<ref\b",
    "entity": r"&(?:[a-zA-Z]{2,8}|#\d+|#x[0-9a-fA-F]+);",
    "heading": r"==",
    "list mark": r"^[*#:;]",
    "magic word": r"__[A-Z_]+__",
    "latex": r"\\[a-zA-Z]{2,}|\\displaystyle",
    "address": r"(?:https?|ftp)://|\bwww\.",
    "unknown words": "[" + templates.MISSING_WORDS + "]",
    # A bibliographic note, not a sentence.
    "identifier": r"\bISBN[ :-]*[\dX-]{9}|\bdoi:|\bISSN \d{4}"
                  r"|\bRetrieved (?:on )?\d|\s//\s",
}
# Separators within the citations of list items: "// Час", "— К., 2010.",
# "— Львів: Світ, 1999.", "— С. 8", "— № 2", "— 96 с.".
_CITATION = re.compile(
    r"\s//\s|[.\])] [—–] (?:"
    r"[^\s,:]{1,12}(?:: [^,.]{1,40})?, (?:1[5-9]|20)\d\d[.—–]"
    r"|[СCТT]\. ?\d|№ ?\d|\d+ ?[сc]\.)")
_LEFTOVER_MARKUP = re.compile("|".join(LEFTOVER_MARKUP.values()))
# Every match of `_LEFTOVER_MARKUP` in ASCII text contains one of these strings
# or starts with one of `_LIST_MARKS`.
_SIGNS_OF_MARKUP = ("[[", "]]", "{", "}", "|", "px", "<", "&", "==", "__", "\\",
                    "//", "www.", "ISBN", "doi:", "ISSN", "Retrieved")
_LIST_MARKS = "*#:;"
# Scripts without spaces between words: each character counts as a word, as in
# BERT's tokenizer.
_UNSPACED = re.compile("[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff"
                       "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


def tidy(text: str) -> str:
  """Applies `TIDY_RULES` to a paragraph."""
  invisible, _, *rules = TIDY_RULES
  if not text.isascii():
    text = invisible.pattern.sub(invisible.replacement, text)
  text = " ".join(text.split())  # The rule "spaces".
  for rule in rules:
    if any(sign in text for sign in rule.signs):
      text = rule.pattern.sub(rule.replacement, text)
  return text.strip()


def count_words(text: str) -> int:
  """Counts the words of a text, or its characters in unspaced scripts."""
  words = len(text.split())
  if text.isascii():
    return words
  return max(words, len(_UNSPACED.findall(text)))


def lines(paragraphs: Iterable[Paragraph], options: Options,
          incomplete: Optional[List[str]] = None) -> List[str]:
  """Returns the sentences of an article, or none if there are too few.

  Args:
    paragraphs: the article's paragraphs as plain text.
    options: selection of the sentences.
    incomplete: list to which sentences with missing words are appended.
  """
  kept: List[str] = []
  for paragraph in paragraphs:
    for sentence in prose_sentences(paragraph, options.language):
      if is_kept(sentence, options.min_words):
        kept.append(sentence)
      elif incomplete is not None and templates.HOLE.search(sentence):
        incomplete.append(sentence)
  return kept if len(kept) >= options.min_sentences else []


def prose_sentences(paragraph: Paragraph, language: str) -> List[str]:
  """Returns the sentences of a paragraph, or none if it is not prose.

  Prose has a minimal length and ends in a terminal mark; a paragraph may also
  end in a colon. A last sentence without such an end is dropped. In scripts
  without terminal marks only the length counts. Citations in lists that are not
  ASCII are not prose.

  Args:
    paragraph: plain text.
    language: the language code for the sentence splitter.
  """
  text = tidy(paragraph.text)
  min_words = (_MIN_LIST_ITEM_WORDS if paragraph.is_list_item
               else _MIN_PARAGRAPH_WORDS)
  if count_words(text) < min_words or (
      paragraph.is_list_item and not text.isascii()
      and _CITATION.search(text)):
    return []
  if sentences.is_unmarked(text):
    min_characters = (_MIN_UNMARKED_LIST_ITEM if paragraph.is_list_item
                      else _MIN_UNMARKED_PARAGRAPH)
    return (sentences.split_at_spaces(text) if len(text) >= min_characters
            else [])
  split = sentences.split(text, language)
  if split and not sentences.is_ended(split[-1], language) and (
      paragraph.is_list_item or not split[-1].endswith((":", "："))):
    split.pop()
  if sum(map(count_words, split)) < min_words:
    return []
  return split


def is_kept(sentence: str, min_words: int) -> bool:
  """Returns whether a sentence is long enough and shows no markup."""
  return count_words(sentence) >= min_words and not _shows_markup(sentence)


def _shows_markup(sentence: str) -> bool:
  """Returns whether a pattern of `LEFTOVER_MARKUP` matches a sentence."""
  if sentence.isascii() and sentence[:1] not in _LIST_MARKS and not any(
      sign in sentence for sign in _SIGNS_OF_MARKUP):
    return False
  return _LEFTOVER_MARKUP.search(sentence) is not None

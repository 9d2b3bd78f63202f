"""Splits paragraphs into sentences.

The library sentencex finds the boundaries. The rules of this module add the
boundaries that sentencex misses (inside quotation marks, after a complete
sentence in parentheses, at marks of scripts that sentencex does not know) and
remove wrong ones (after abbreviations and list numbers). Text of scripts
without terminal marks is split at spaces.
"""

import functools
import re
from typing import Iterator, List, Optional, Tuple

import regex
import sentencex

from extract_wikipedia_for_bert import languages

# sentencex never splits inside quotation marks, so its input lacks these marks.
# ’ is also the apostrophe; the boundaries are the same without apostrophes.
_QUOTATION_MARKS = "\"“”„‟«»‹›‘’‚‛「」『』《》"
# Marks that may close a quotation: all but „‚「『《. “ closes a quotation in
# German, » and « in other languages.
_MAY_CLOSE = "".join(sorted(set(_QUOTATION_MARKS) - set("„‚「『《")))
_QUOTATION_MARK = re.compile("[" + _QUOTATION_MARKS + "]")
_CLOSING_MARKS = _QUOTATION_MARKS + ")]）】"
# Unicode has no terminal marks beyond the second plane.
_CHARACTERS = "".join(map(chr, [*range(0xd800), *range(0xe000, 0x20000)]))
# The marks that end a sentence: Unicode's Sentence_Terminal without the Burmese
# ၊, usually a comma; the ellipsis; the Tibetan shads, which end clauses too.
TERMINAL_MARKS = "".join(
    regex.findall(r"[\p{Sentence_Terminal}--၊]", _CHARACTERS, regex.VERSION1)
    ) + "…།༎༏༐༑༔"
del _CHARACTERS
# Terminal marks that always end a sentence. sentencex handles the other ones.
_CLEAR_MARKS = "".join(sorted(set(TERMINAL_MARKS) - set(".!?…․")))
_CLEAR_MARK = re.compile("[" + _CLEAR_MARKS + "]")
# The marks stand in character classes, in which these have a special meaning.
assert not set(TERMINAL_MARKS) & set("-]^\\")
_BEFORE_NEXT = "(?=[^\\s" + re.escape(_CLOSING_MARKS) + "])"
# Spaces may stand between marks, as in the Tibetan double shad.
_CLEAR_END = re.compile(
    "[" + _CLEAR_MARKS + "](?:\\s*[" + TERMINAL_MARKS + "])*["
    + re.escape(_CLOSING_MARKS) + "]*(?P<space>\\s*)" + _BEFORE_NEXT)
# The full stops of Armenian and Indic scripts. In a paragraph with such a stop,
# a point after a letter of these scripts abbreviates: "մ․թ․ա․", "डॉ.".
_OWN_STOP = re.compile("[։।॥]")
_OWN_POINT = re.compile("[\u0531-\u0587\u0900-\u0dff][.․]\\s*$")
# Hiragana after a closed quotation continue the sentence: 「…。」と言った。
_CLOSED_QUOTATION = re.compile(
    "[" + _CLEAR_MARKS + "][" + re.escape(_CLOSING_MARKS) + "]+$")
_HIRAGANA = re.compile("[\u3041-\u309f]")
_UNMARKED = re.compile("[" + languages.SCRIPTS_WITHOUT_MARKS + "]")
_UNMARKED_SHARE = .5
# Minimal number of characters of a line in scripts without terminal marks.
_MIN_UNMARKED_LINE = 40
# A space between letters of scripts without terminal marks. Within a clause,
# numbers, words of other scripts and ๆ, which repeats a word, have spaces too.
_UNMARKED_SPACE = re.compile(
    "(?<=[" + languages.SCRIPTS_WITHOUT_MARKS + re.escape(_CLOSING_MARKS)
    + "])\\s+(?=[" + _QUOTATION_MARKS + "(]?(?!ๆ)["
    + languages.SCRIPTS_WITHOUT_MARKS + "])")
# Characters of a window. Older versions of sentencex take quadratic time, so a
# long paragraph is split window by window.
_WINDOW = 5000
# Characters at the end of a piece that show whether a sentence is complete.
_TAIL = 80
_WORD_START = r"(?:^|[\s(\[" + _QUOTATION_MARKS + r"])"
# Abbreviations that never end a sentence: "Vol. One", "spp. Homo", "т.е. 365".
_ABBREVIATION = re.compile(
    _WORD_START +
    r"(?:[Vv]ols?|v|c|ca|p|pp|Bvt|Sgt|Cpl|Pvt|Capt|Maj|Col|Lt|Gen|Adm|Comdr"
    r"|Brig|Rev|Hon|Msgr|Ste|spp|subsp|ssp|sp|var|cf|eds?|viz|approx|fl|e\.g"
    r"|i\.e|т\. ?(?:[ен]|зв))\.$")
# Initials: "J. S. Bach", "М. Грушевський". sentencex handles English ones.
_INITIAL = re.compile(_WORD_START + r"(?:[^\W\d_]\.-?)+$")
# Ordinals of `languages.ORDINALS_WITH_POINT`: "im 19. Jahrhundert".
_ORDINAL = re.compile(_WORD_START + r"(?:\d{1,2}|[IVXLC]+)\.$")
# Abbreviations that do not end a sentence before a number: "No. 5", "Dec. 3".
_ABBREVIATION_BEFORE_NUMBER = re.compile(
    _WORD_START +
    r"(?:[Nn]os?|[Nn]r|[Ff]igs?|[Cc]h|[Ss]ec|[Aa]rt|[Oo]p|lbs?|sq|est|Cir|[Vv]z"
    r"|[ivxl]+|[Jj]an|[Ff]eb|[Mm]ar|[Aa]pr|[Jj]un|[Jj]ul|[Aa]ug|[Ss]ept?"
    r"|[Oo]ct|[Nn]ov|[Dd]ec)\.$")
# The number of a list item, alone or at the end of a piece: "2.", "one; 2.",
# "one, and 2."
_LIST_NUMBER = re.compile(
    r"(?:^\(?(?:\d{1,3}|[a-zA-Z]|[ivxIVX]{1,4})[.)]"
    r"|[;:,](?: and| or)? \(?\d{1,2}\.)$")
# Characters that never start a sentence: "= 'feminine'", "; then", "сл. Хр.".
_CONTINUES = re.compile(r"[=<>+×%/&,;:)\]]|Хр\.")
# Words that sentencex treats as abbreviations. Before a capital letter these
# words usually end an English sentence: "a work of art. Hirst said".
_ENGLISH_LAST_WORD = re.compile(
    r"\b(?:art|etc|man|may|May)\.[" + re.escape(_CLOSING_MARKS) + r"]*"
    r"(?P<space>\s+)(?=[" + _QUOTATION_MARKS + r"(]*[A-Z])")
_WHOLE_PARENTHESIS = re.compile(
    r"^\([^()]*[" + TERMINAL_MARKS + r"][" + _QUOTATION_MARKS
    + r"]*\)\s+(?=\S)")


def split(paragraph: str, language: str = "en") -> List[str]:
  """Splits a paragraph into sentences.

  Args:
    paragraph: text without line breaks.
    language: a language code; for an unknown one sentencex uses a related
      language or English.

  Returns:
    The stripped sentences. Together with the spaces between, the sentences are
    the whole paragraph.
  """
  pieces: List[str] = []
  has_own_stop = _OWN_STOP.search(paragraph) is not None
  for piece in _pieces(paragraph, language):
    if pieces and (
        has_own_stop and _OWN_POINT.search(pieces[-1][-_TAIL:])
        or _belongs_together(pieces[-1][-_TAIL:], piece, language)):
      pieces[-1] += piece
    else:
      pieces.append(piece)
  sentences = []
  for piece in pieces:
    for part in _split_after_parenthesis(piece.strip()):
      sentences.extend(_split_after_last_word(part)
                       if language in languages.ENGLISH
                       else _split_after_clear_marks(part, language))
  return [sentence for sentence in sentences if sentence]


def is_ended(sentence: str, language: str = "en") -> bool:
  """Returns whether a sentence ends in a terminal mark (and closing marks).

  Args:
    sentence: text.
    language: a language code, which may add terminal marks.
  """
  return _ending(language).search(sentence[-_TAIL:]) is not None


@functools.lru_cache(maxsize=None)
def _ending(language: str) -> "re.Pattern[str]":
  """Returns the pattern of the end of a sentence."""
  marks = "[" + TERMINAL_MARKS + "]"
  if language in languages.OWN_TERMINAL_MARKS:
    marks = "(?:" + marks + "|" + languages.OWN_TERMINAL_MARKS[language] + ")"
  return re.compile(marks + "[" + re.escape(_CLOSING_MARKS)
                    + r"\s]*(?:\[\d+\])*$")


def is_unmarked(text: str) -> bool:
  """Returns whether most of a text is in scripts without terminal marks."""
  return not text.isascii() and (
      len(_UNMARKED.findall(text)) > _UNMARKED_SHARE * len(text))


def split_at_spaces(paragraph: str) -> List[str]:
  """Splits text of a script without terminal marks into lines.

  In these scripts, spaces separate clauses as well as sentences. Each line has
  as many clauses as reach the length of a short sentence.

  Args:
    paragraph: text without line breaks.
  """
  lines: List[str] = []
  start = 0
  for space in _UNMARKED_SPACE.finditer(paragraph):
    if (space.start() - start >= _MIN_UNMARKED_LINE
        and len(paragraph) - space.end() >= _MIN_UNMARKED_LINE):
      lines.append(paragraph[start:space.start()])
      start = space.end()
  return lines + [paragraph[start:]]


def _split_after_clear_marks(sentence: str, language: str) -> List[str]:
  """Splits at terminal marks that sentencex does not know."""
  own = languages.OWN_TERMINAL_MARKS.get(language)
  pattern = _clear_end(own) if own else _CLEAR_END
  if sentence.isascii() or (not own and not _CLEAR_MARK.search(sentence)):
    return [sentence]
  parts = []
  start = 0
  for end in pattern.finditer(sentence):
    # "12։30" and "2፡5" are numbers.
    if (not end["space"] and sentence[end.end()].isdigit()
        and sentence[end.start() - 1].isdigit()):
      continue
    if _continues_after_quotation(end[0], sentence[end.end()]):
      continue
    parts.append(sentence[start:end.start("space")])
    start = end.end()
  return parts + [sentence[start:]]


def _continues_after_quotation(left: str, right: str) -> bool:
  """Returns whether a Japanese sentence continues after a quotation."""
  return (_HIRAGANA.match(right) is not None
          and _CLOSED_QUOTATION.search(left) is not None)


@functools.lru_cache(maxsize=None)
def _clear_end(own: str) -> "re.Pattern[str]":
  """Returns `_CLEAR_END` with a language's own marks before spaces."""
  return re.compile("(?:" + _CLEAR_END.pattern.partition("(?P<space>")[0]
                    + "|(?:" + own + ")(?=\\s))(?P<space>\\s*)" + _BEFORE_NEXT)


def _pieces(paragraph: str, language: str) -> Iterator[str]:
  """Yields the pieces between sentencex's boundaries, with their spaces."""
  start = 0
  while start < len(paragraph):
    window = paragraph[start:start + _WINDOW]
    start += len(window)
    pieces = _pieces_of_window(window, language)
    if start < len(paragraph) and len(pieces) > 1:
      start -= len(pieces.pop())  # It may continue after the window.
    yield from pieces


def _pieces_of_window(paragraph: str, language: str) -> List[str]:
  bare, kept = _without_quotation_marks(paragraph)
  pieces = []
  start = 0
  position = 0
  for segment in sentencex.segment(language, bare):
    segment = segment.strip()
    if not segment:
      continue
    # Older versions of sentencex return stripped segments: find each position.
    position = bare.index(segment, position) + len(segment)
    end = (kept[position - 1] if kept is not None else position - 1) + 1
    # Closing quotation marks, not in `bare`, belong to the sentence before.
    while end < len(paragraph) and paragraph[end] in _MAY_CLOSE:
      end += 1
    while end < len(paragraph) and paragraph[end].isspace():
      end += 1
    if end > start:
      pieces.append(paragraph[start:end])
      start = end
  if start < len(paragraph):
    pieces.append(paragraph[start:])
  return pieces


def _without_quotation_marks(
    paragraph: str) -> Tuple[str, Optional[List[int]]]:
  """Removes the quotation marks from a paragraph.

  Returns:
    The text; the position of each of its characters in the paragraph, or None
    if the paragraph has no quotation mark.
  """
  if _QUOTATION_MARK.search(paragraph) is None:
    return paragraph, None
  kept = [position for position, character in enumerate(paragraph)
          if character not in _QUOTATION_MARKS]
  return _QUOTATION_MARK.sub("", paragraph), kept


def _belongs_together(left: str, right: str, language: str) -> bool:
  """Returns whether two pieces that sentencex splits are one sentence."""
  if right[0] == "-" and not left[-1].isspace():  # "reflection-vs.-angle curve"
    return True
  if _continues_after_quotation(left, right):
    return True
  left = left.rstrip()
  head = right.lstrip(_QUOTATION_MARKS + "([ ")[:1]
  return (head.islower()
          or _CONTINUES.match(right) is not None
          or not is_ended(left, language)
          or _ABBREVIATION.search(left) is not None
          or (language not in languages.ENGLISH and left[-2:-1].isupper()
              and _INITIAL.search(left) is not None)
          or (language in languages.ORDINALS_WITH_POINT
              and _ORDINAL.search(left) is not None)
          or (head.isdigit()
              and _ABBREVIATION_BEFORE_NUMBER.search(left) is not None)
          or _LIST_NUMBER.search(left) is not None)


def _split_after_parenthesis(sentence: str) -> List[str]:
  """Splits "(It was so.) It is." after the parenthesis."""
  match = _WHOLE_PARENTHESIS.match(sentence)
  if match is None or sentence[match.end()].islower():
    return [sentence]
  return [sentence[:match.end()].rstrip(), sentence[match.end():]]


def _split_after_last_word(sentence: str) -> List[str]:
  """Splits "It is art. He is an artist." after "art."."""
  parts = []
  start = 0
  for match in _ENGLISH_LAST_WORD.finditer(sentence):
    parts.append(sentence[start:match.start("space")])
    start = match.end()
  return parts + [sentence[start:]]

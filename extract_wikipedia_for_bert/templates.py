"""Renders the templates that stand for words of a sentence.

A dump contains the calls of templates, not the expanded text. Most templates
are dropped: boxes, notes, coordinates, pronunciations. Dropping a template that
stands for words leaves a hole in the sentence ("an average of of rainfall").
`languages.TEMPLATES` names the templates that this module renders.

A renderer takes the arguments of a call as plain text, in a dict from "1", "2",
... and the names of named arguments to stripped strings; then the language code
of the wiki; then the words of the row of `languages.TEMPLATES`.
"""

import functools
import re
from typing import Callable, Dict, List, Mapping, Optional

from extract_wikipedia_for_bert import languages

Arguments = Mapping[str, str]
Renderer = Callable[[Arguments], str]

# Stands for words that are not in the dump (a formula, a current price).
# `prose.lines` drops the sentence. The character is of private use: at a NUL,
# mwparserfromhell stops parsing without an error.
UNKNOWN_WORDS = "\ue000"
# Stands for a note in tags after a template.
NOTE_MARK = "\ue001"
# The marks of `Holes`: two planes of private use.
_FIRST_CANDIDATE = 0xF0000
_FIRST_HOLE = 0x100000
_MAX_MARK = 0xFFFD
_CANDIDATE = re.compile("[\U000f0000-\U000ffffd]")
_CANDIDATES = re.compile(
    r"[\U000f0000-\U000ffffd](?:\s*[\U000f0000-\U000ffffd])*")
HOLE = re.compile("[\U00100000-\U0010fffd]")
# The marks in sentences with missing words. `PRIVATE_CHARACTERS` are removed
# from pages first.
MISSING_WORDS = UNKNOWN_WORDS + "\U00100000-\U0010fffd"
PRIVATE_CHARACTERS = re.compile(
    "[" + UNKNOWN_WORDS + NOTE_MARK + "\U000f0000-\U0010fffd]")
# Characters on each side of a template that decide whether it stands for words.
_SURROUNDINGS = 8
_APOSTROPHES = "'’"
_CLOSING_MARKS = ".,;:!?…)]}»”\"›’،؛؟。，、；：！？）】」』।॥։"
_UNSPACED = re.compile(
    "[\u0e01-\u0eff\u1000-\u109f\u1780-\u17d3\u3041-\u30ff\u3400-\u4dbf"
    "\u4e00-\u9fff]")
# Separates a block quotation from the paragraphs around it.
_PARAGRAPH_BREAK = "\n\n"

_NUMBER = re.compile(r"^[-−+]?[\d.,]+(?:[/+]+\d+)*$")
_DECIMAL = re.compile(r"^([-−+]?)([0-9]{1,15})(?:\.([0-9]+))?$")
_SMALL_INTEGER = re.compile(r"^[0-9]{1,15}$")
_RAIL_GAUGE = re.compile(r"^([\d.]+)\s*(mm|m|in|ft)$")
_DATE_SEPARATOR = re.compile(r"\s*[/.-]\s*")
# A formula that is readable as text: "x", "n = 3", "2.5 < x".
_PLAIN_FORMULA = re.compile(r"[A-Za-z0-9 .,=+\-−<>/()!%]{1,20}")


def normalize_name(name: str) -> str:
  """Returns a template's name as written in the tables of `languages`."""
  name = " ".join(name.replace("_", " ").split()).lower()
  for prefix in ("template:", "subst:", "safesubst:"):
    if name.startswith(prefix):
      name = name[len(prefix):].lstrip()
  return name


def positional(arguments: Arguments) -> List[str]:
  """Returns the arguments "1", "2", ... before the first missing number."""
  values: List[str] = []
  while str(len(values) + 1) in arguments:
    values.append(arguments[str(len(values) + 1)])
  return values


def plain_formula(text: str) -> str:
  """Returns a simple formula as text, for others `UNKNOWN_WORDS`."""
  return text if _PLAIN_FORMULA.fullmatch(text) else UNKNOWN_WORDS


class Holes:
  """Marks the templates of a page whose words are not in the dump.

  A mark is a character. A candidate marks a template that may stand for words;
  `resolve_candidates` decides. A hole marks a template that stands for words.
  The marks of different templates differ.
  """

  def __init__(self) -> None:
    """Begins without templates."""
    self._names: List[str] = []
    self._numbers: Dict[str, int] = {}

  def candidate(self, name: str) -> str:
    """Returns the mark of a template that may stand for words."""
    number = self._numbers.get(name)
    if number is None:
      number = self._numbers[name] = min(len(self._numbers), _MAX_MARK)
      self._names[number:] = [name]
    return chr(_FIRST_CANDIDATE + number)

  def hole(self, name: str) -> str:
    """Returns the mark of a template that stands for words."""
    return chr(ord(self.candidate(name)) + _FIRST_HOLE - _FIRST_CANDIDATE)

  def names(self, sentence: str) -> List[str]:
    """Returns the names of the templates that leave holes in a sentence."""
    return [self._names[ord(mark) - _FIRST_HOLE]
            for mark in set(HOLE.findall(sentence))]


def resolve_candidates(text: str) -> str:
  """Turns each run of candidates into a hole or removes the run.

  A template stands for words if a space or an apostrophe precedes the template
  and a word or a closing mark follows. A template after the end of a sentence
  or before a note does not stand for words.

  Args:
    text: a rendered block with the marks of `Holes` and `NOTE_MARK`.
  """
  if _CANDIDATE.search(text) is None:
    return text.replace(NOTE_MARK, "") if NOTE_MARK in text else text
  pieces = []
  position = 0
  for run in _CANDIDATES.finditer(text):
    pieces.append(text[position:run.start()])
    position = run.end()
    before = text[max(0, run.start() - _SURROUNDINGS):run.start()]
    after = text[run.end():run.end() + _SURROUNDINGS].lstrip()[:1]
    if _stands_for_words(before, after):
      pieces.append(chr(ord(run[0][0]) + _FIRST_HOLE - _FIRST_CANDIDATE))
  pieces.append(text[position:])
  return "".join(pieces).replace(NOTE_MARK, "")


def _stands_for_words(before: str, after: str) -> bool:
  """Returns whether a template stands for words, by the text around it."""
  is_word = after.isalnum()
  if not is_word and after not in _CLOSING_MARKS or not after:
    return False
  last = before[-1:]
  if last in _APOSTROPHES:
    return before[-2:-1].isalnum() if last else after.islower()
  if not last.isspace():
    # In unspaced scripts a template within a clause has no spaces around.
    return bool(_UNSPACED.match(last) and _UNSPACED.match(after))
  last = before.rstrip()[-1:]
  if not last:
    return after.islower()
  if last in ",:،、，：":  # The template may be a note as an item of a list.
    return is_word
  return last.isalnum() or last not in _CLOSING_MARKS


# --- Numbers and dates -------------------------------------------------------


def number(text: str, language: str) -> str:
  """Formats a number as a wiki does: 12000 -> 12,000 or 12.000 or 12 000."""
  match = _DECIMAL.match(text)
  form = languages.NUMBERS.get(language)
  if match is None or form is None:
    return text
  sign, digits, decimals = match.groups()
  if len(digits) >= form.grouped_from:
    head, tail = digits[:-3], digits[-3:]
    size = 2 if form.lakhs else 3
    groups = [tail]
    while head:
      groups.insert(0, head[-size:])
      head = head[:-size]
    digits = form.group.join(groups)
  if decimals is not None:
    digits += form.decimal + decimals
  return sign + digits.translate(
      {ord("0") + value: digit for value, digit in enumerate(form.digits)})


def _argument_number(text: str, language: str) -> str:
  """Formats a number; in English wikis, the number may have commas already."""
  if language in languages.ENGLISH:
    text = text.replace(",", "")
  return number(text, language)


def _dates_of(language: str) -> Optional[languages.Dates]:
  return languages.DATES.get("en" if language in languages.ENGLISH
                             else language)


def _month(text: str, dates: languages.Dates) -> str:
  if _SMALL_INTEGER.match(text) and 1 <= int(text) <= 12:
    return dates.months[int(text) - 1]
  return text


def _day_month_year(day: str, month: str, year: str, language: str,
                    month_first: bool = False) -> str:
  """Formats a date; missing parts are empty strings."""
  dates = _dates_of(language)
  if dates is None:
    is_number = bool(_SMALL_INTEGER.match(month))
    return UNKNOWN_WORDS if is_number else " ".join(
        part for part in (day, month, year) if part)
  day, month = day.lstrip("0"), _month(month, dates)
  if day == "1":
    day = dates.first
  if day and month_first:
    return "{} {}, {}".format(month, day, year)
  if not day or not month:
    return " ".join(part for part in (month, year) if part)
  return (dates.full if year else dates.without_year).format(
      day=day, month=month, year=year)


def _date(arguments: Arguments, language: str) -> str:
  """{{birth date|1815|12|10}} -> December 10, 1815, in French 10 décembre 1815.

  English templates begin with the year, other ones with the day.
  """
  values = positional(arguments)
  if len(values) == 1:
    values = _DATE_SEPARATOR.split(values[0])
  if not any(values):
    return UNKNOWN_WORDS
  if language in languages.ENGLISH:
    year, month, day = (values + ["", "", ""])[:3]
    day_first = arguments.get("df", "").lower() in ("y", "yes")
    return _day_month_year(day, month, year, language, not day_first)
  if len(values) == 1:
    return values[0]
  if len(values[0]) > 2 and values[0].isdigit():
    values[:3] = values[2::-1]
  day, month, year = (values + ["", "", ""])[:3]
  return _day_month_year(day, month, year, language)


def _as_of(arguments: Arguments, language: str) -> str:
  """{{as of|2010|7|4}} -> As of 4 July 2010."""
  if arguments.get("alt"):
    return arguments["alt"]
  words = "Since" if arguments.get("since") else "As of"
  if arguments.get("lc"):
    words = words.lower()
  year, month, day = (positional(arguments) + ["", "", ""])[:3]
  month_first = arguments.get("df", "").lower() in ("us", "mdy")
  return "{} {}".format(words, _day_month_year(day, month, year, language,
                                               month_first))


def _old_style_date(arguments: Arguments, unused_language: str) -> str:
  """{{OldStyleDate|29 March|1749|18 March}} -> 29 March 1749."""
  return " ".join(positional(arguments)[:2])


def _century(arguments: Arguments, unused_language: str, one: str,
             two: str = "") -> str:
  """{{s|XIX|e}} -> XIXe siècle; {{s2|XIX|e|XX|e}} -> XIXe et XXe siècles."""
  names: List[str] = []
  for value in positional(arguments):
    if names and value in ("e", "er"):
      names[-1] += value
    elif value:
      names.append(value)
  if not names or (len(names) > 1 and not two):
    return UNKNOWN_WORDS
  return (one if len(names) == 1 else two).format(names[0], names[-1])


def _spanish_century(arguments: Arguments, unused_language: str) -> str:
  """{{siglo|V|a|s}} -> siglo V a. C."""
  name, era, word = (positional(arguments) + ["", "", ""])[:3]
  prefix = {"s": "siglo ", "S": "Siglo "}.get(word, "")
  return prefix + name + {"a": " a. C.", "d": " d. C."}.get(era, "")


def _number_with_unit(arguments: Arguments, language: str,
                      unit: str = "") -> str:
  """{{unité|1200|km|2}} -> 1 200 km2."""
  values = positional(arguments)
  if not values or not values[0]:
    return UNKNOWN_WORDS
  if unit:
    values[1:] = [unit]
  rest = "".join(values[1:]) or arguments.get("ul") or arguments.get("u", "")
  return (number(values[0].replace(" ", ""), language) + " " + rest).strip()


def _format_number(arguments: Arguments, language: str) -> str:
  """{{formatnum:12000}} -> 12,000."""
  return number(_first(arguments, language), language)


def _value(arguments: Arguments, language: str) -> str:
  """{{val|6.02|e=23|u=mol}} -> 6.02×10^23 mol."""
  values = positional(arguments)
  text = _argument_number(values[0], language) if values else ""
  if len(values) > 1:
    text += "±" + values[1]
  if arguments.get("e"):
    text += ("×" if text else "") + "10^" + arguments["e"]
  unit = arguments.get("u") or arguments.get("ul") or ""
  return arguments.get("p", "") + text + (" " + unit if unit else "")


def _fraction(arguments: Arguments, unused_language: str) -> str:
  """{{frac|3|1|2}} -> 3 1/2."""
  values = positional(arguments)
  if len(values) == 1:
    return "1/" + values[0]
  whole = values[0] + " " if len(values) == 3 else ""
  return whole + "/".join(values[-2:])


def _ordinal(arguments: Arguments, language: str) -> str:
  """{{ordinal|22}} -> 22nd."""
  text = _first(arguments, language)
  if not _SMALL_INTEGER.match(text):
    return text
  value = int(text)
  suffix = {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")
  return text + ("th" if 10 <= value % 100 <= 20 else suffix)


# --- Units -------------------------------------------------------------------


def _convert(arguments: Arguments, language: str, form: str = "") -> str:
  """{{convert|1300|mi|km}} -> 1,300 miles, without the conversion."""
  values = positional(arguments)
  if not values:
    return UNKNOWN_WORDS
  abbreviate = bool(form)
  text = _argument_number(values[0], language).replace("+", " ")
  last, rest = values[0], values[1:]
  while len(rest) > 1 and rest[0] in languages.RANGE_WORDS:
    last = rest[1]
    between = languages.RANGE_WORDS[rest[0]]
    if language not in languages.ENGLISH and between.strip().isalpha():
      between = "–"
    text += between + _argument_number(last, language)
    rest = rest[2:]
  text = re.sub(r"(?<=\d)-(?=\d)", "–", text)
  if not rest:
    return text
  text = _with_unit(text, last, rest[0], arguments, abbreviate)
  # {{convert|5|ft|10|in|m}}: feet and inches.
  if len(rest) > 2 and _NUMBER.match(rest[1]) and rest[2] in languages.UNITS:
    text += " " + _with_unit(
        rest[1], rest[1], rest[2], arguments, abbreviate)
  return text


def _with_unit(text: str, value: str, code: str, arguments: Arguments,
               abbreviate: bool) -> str:
  """Appends a unit to numbers; the last number, `value`, selects the plural."""
  symbol, singular, plural = languages.UNITS.get(code, (code, code, code))
  adjective = arguments.get("adj", "")
  if arguments.get("abbr") in ("on", "in", "comma"):
    abbreviate = True
  is_adjective = adjective in ("on", "mid", "1", "y")
  if abbreviate or symbol == singular:
    unit, joint = symbol, " "
  elif is_adjective:
    unit, joint = singular.replace(" ", "-"), "-"
  else:
    unit, joint = (singular if value == "1" else plural), " "
  if arguments.get("sp") == "us":
    unit = unit.replace("metre", "meter").replace("litre", "liter")
  if adjective == "mid":
    last = _last(arguments, "")
    unit += last if last.startswith("-") else ""
  return text + ("" if unit.startswith("/") else joint) + unit


def _rail_gauge(arguments: Arguments, language: str) -> str:
  """{{RailGauge|1435mm}} -> 1,435 mm."""
  match = _RAIL_GAUGE.match(_first(arguments, language))
  if match is None:
    return UNKNOWN_WORDS
  return "{} {}".format(number(match[1], language), match[2])


def _height(arguments: Arguments, unused_language: str) -> str:
  """{{height|ft=6|in=2}} -> 6 ft 2 in."""
  parts = [arguments[unit] + " " + unit
           for unit in ("m", "cm", "ft", "in") if arguments.get(unit)]
  return " ".join(parts) or UNKNOWN_WORDS


def _currency(arguments: Arguments, language: str) -> str:
  """{{currency|12|USD}} -> US$12."""
  values = positional(arguments) + ["", ""]
  sign = languages.CURRENCIES.get(values[1].upper(), values[1] + " ")
  return (sign + _argument_number(values[0], language)).strip()


# --- The text of an argument -------------------------------------------------


def _first(arguments: Arguments, unused_language: str) -> str:
  """{{nowrap|of the year}} -> of the year."""
  return arguments.get("1", "")


def _second(arguments: Arguments, unused_language: str) -> str:
  """{{lang|de|Wort}} -> Wort."""
  return (arguments.get("2", "") or arguments.get("text", "")
          or arguments.get("texte", ""))


def _second_or_first(arguments: Arguments, language: str) -> str:
  """{{нп5|Титул|текст|en}} -> текст."""
  return _second(arguments, language) or _first(arguments, language)


def _third_or_first(arguments: Arguments, language: str) -> str:
  """{{link-en|標題|title|文字}} -> 文字."""
  return arguments.get("3", "") or _first(arguments, language)


def _last(arguments: Arguments, unused_language: str) -> str:
  """{{transl|ar|ALA|al-jabr}} -> al-jabr."""
  values = [value for value in positional(arguments) if value]
  return values[-1] if values else ""


def _joined(arguments: Arguments, language: str) -> str:
  """{{chem|H|2|O}} -> H2O."""
  return _join(arguments, language, "")


def _join(arguments: Arguments, unused_language: str, separator: str) -> str:
  """{{heure|12|30}} -> 12 h 30."""
  values = positional(arguments)
  if values and values[0] in ("hide", "nolink"):  # Of {{sic}}.
    return ""
  return separator.join(value for value in values if value)


def _case(arguments: Arguments, language: str, form: str) -> str:
  """{{uc:text}} -> TEXT; {{lc:Text}} -> text; {{ucfirst:text}} -> Text."""
  text = _first(arguments, language)
  if form == "upper":
    return text.upper()
  return text.lower() if form == "lower" else text[:1].upper() + text[1:]


def _prefixed(arguments: Arguments, unused_language: str, prefix: str,
              between: str) -> str:
  """{{circa|1900|1910}} -> c. 1900 – c. 1910."""
  values = [value for value in positional(arguments) if value]
  return (prefix + between.join(values)).strip()


def _around(arguments: Arguments, language: str, left: str, right: str) -> str:
  """{{angbr|a}} -> ⟨a⟩; {{US$|5}} -> US$5."""
  inside = _first(arguments, language) or arguments.get("text", "")
  return left + inside + right if inside else UNKNOWN_WORDS


def _around_second(arguments: Arguments, language: str, left: str,
                   right: str) -> str:
  """{{読み仮名|漢字|かんじ}} -> 漢字（かんじ）."""
  inside = _second(arguments, language)
  return _first(arguments, language) + (left + inside + right if inside else "")


def _constant(unused_arguments: Arguments, unused_language: str,
              text: str) -> str:
  """{{snd}} -> an en dash between spaces."""
  return text


def _unknown(unused_arguments: Arguments, unused_language: str) -> str:
  """{{CURRENTYEAR}} -> words that are not in the dump."""
  return UNKNOWN_WORDS


def _formula(arguments: Arguments, language: str) -> str:
  """{{tmath|x}} -> x."""
  return plain_formula(_first(arguments, language))


def _superscript(arguments: Arguments, language: str) -> str:
  """{{sup|th}} -> th, {{sup|6}} -> ^6."""
  text = _first(arguments, language)
  return "^" + text if text.lstrip("-−+").isdigit() else text


def _music(arguments: Arguments, language: str) -> str:
  """{{music|flat}} -> ♭."""
  signs = {"flat": "♭", "b": "♭", "sharp": "♯", "#": "♯", "natural": "♮"}
  return signs.get(_first(arguments, language), UNKNOWN_WORDS)


def _nuclide(arguments: Arguments, unused_language: str) -> str:
  """{{nuclide|uranium|235}} -> uranium-235."""
  return "-".join(positional(arguments)[:2])


# --- Languages, quotations and links -----------------------------------------


def _language(arguments: Arguments, unused_language: str,
              code: str = "") -> str:
  """{{langx|de|Wort}} and {{lang-de|Wort}} -> German: Wort."""
  values = positional(arguments)
  if not code:
    code, values = (values or [""])[0], values[1:]
  text = values[0] if values else arguments.get("text", "")
  name = (languages.LANGUAGE_NAMES.get(code)
          or languages.LANGUAGE_NAMES.get(code.split("-")[0]))
  if not text or name is None or arguments.get("label") == "none":
    return text
  return "{}: {}".format(name, text)


def _chinese(arguments: Arguments, unused_language: str) -> str:
  """{{zh|t=臺灣|p=Táiwān}} -> Chinese: 臺灣; pinyin: Táiwān."""
  labels = (("c", "Chinese"), ("t", "Chinese"), ("s", "Chinese"),
            ("p", "pinyin"), ("l", "lit."))
  parts: Dict[str, str] = {}
  for key, label in labels:
    if arguments.get(key) and label not in parts:
      parts[label] = arguments[key]
  return "; ".join("{}: {}".format(*part) for part in parts.items())


def _nihongo(arguments: Arguments, unused_language: str, form: str = "") -> str:
  """{{nihongo|Asahi|朝日|asa-hi}} -> Asahi (朝日, asa-hi)."""
  english, japanese, romanized, *more = (
      positional(arguments) + ["", "", ""])[:4]
  if form:
    english, romanized = romanized, english
  inside = ", ".join(filter(None, [japanese, romanized, *more]))
  if not english:
    return inside
  return "{} ({})".format(english, inside) if inside else english


def _quotation(arguments: Arguments, language: str) -> str:
  """{{quote|So it is.|Someone}} -> a paragraph: So it is."""
  text = (arguments.get("text") or arguments.get("quote")
          or _first(arguments, language))
  return _PARAGRAPH_BREAK + text + _PARAGRAPH_BREAK


def _interlanguage_link(arguments: Arguments, language: str) -> str:
  """{{ill|Ada Berg|de|lt=Berg}} -> Berg."""
  for name in ("lt", "display", "texte", "label", "текст", language, "en"):
    if arguments.get(name):
      return arguments[name]
  return _first(arguments, language)


def _section_link(arguments: Arguments, unused_language: str) -> str:
  """{{section link|Ada|History}} -> Ada § History."""
  return " § ".join(value for value in positional(arguments)[:2] if value)


def _bible_verse(arguments: Arguments, unused_language: str) -> str:
  """{{bibleverse|1|John|4:8|KJV}} -> 1 John 4:8."""
  values = positional(arguments)
  verse = next((index for index, value in enumerate(values) if ":" in value),
               len(values) - 1)
  return " ".join(value for value in values[:verse + 1] if value)


def _ship(arguments: Arguments, unused_language: str, prefix: str = "") -> str:
  """{{USS|Enterprise|CV-6}} -> USS Enterprise (CV-6).

  The last argument selects whether the prefix and the number are shown.
  """
  values = positional(arguments) + ["", "", "", ""]
  if not prefix:
    prefix = values.pop(0)
  name, hull, form = values[:3]
  if form in ("3", "5", "6"):
    prefix = ""
  text = (prefix + " " + name).strip()
  if hull and form in ("", "1", "3"):
    text += " ({})".format(hull)
  return text


def _ship_class(arguments: Arguments, unused_language: str) -> str:
  """{{sclass|Nimitz|aircraft carrier}} -> Nimitz-class aircraft carrier."""
  values = positional(arguments) + ["", ""]
  return "{}-class {}".format(values[0], values[1]).strip()


# --- Renderers of templates --------------------------------------------------

# Renderers by their names in `languages.TEMPLATES`.
KINDS: Mapping[str, Callable[..., str]] = {
    render.__name__.lstrip("_"): render for render in (
        _date, _old_style_date, _as_of, _century, _spanish_century,
        _number_with_unit, _format_number, _value, _fraction, _ordinal,
        _convert, _rail_gauge, _height, _currency, _first, _second,
        _second_or_first, _third_or_first, _last, _joined, _join, _case,
        _prefixed, _around, _around_second, _constant, _unknown, _formula,
        _superscript, _music, _nuclide, _language, _chinese, _nihongo,
        _quotation, _interlanguage_link, _section_link, _bible_verse, _ship,
        _ship_class)}


@functools.lru_cache(maxsize=None)
def renderers(language: str) -> Mapping[str, Renderer]:
  """Returns the renderers of a wiki's templates, by name.

  Args:
    language: the wiki's language code.
  """
  own = "en" if language in languages.ENGLISH else language
  found: Dict[str, Renderer] = {}
  for table in (languages.ANY, own):
    for kind, words, names in languages.TEMPLATES.get(table, ()):
      render = _bound(kind, language, *words)
      found.update((name, render) for name in names.split(", "))
  return found


def _bound(kind: str, language: str, *words: str) -> Renderer:
  function = KINDS[kind]
  return lambda arguments: function(arguments, language, *words)


def find(name: str, language: str) -> Optional[Renderer]:
  """Returns the renderer of a template, or None if the template is dropped.

  Args:
    name: the template's name, as `normalize_name` returns it.
    language: the wiki's language code.
  """
  render = renderers(language).get(name)
  if render is not None:
    return render
  if name.startswith(languages.LANGUAGE_PREFIX):
    if language in languages.ENGLISH:
      return _bound("language", language, name[len(languages.LANGUAGE_PREFIX):])
    return _bound("first", language)
  foreign = languages.FOREIGN_TEXT_TEMPLATES.get(language)
  if foreign is not None and re.fullmatch(foreign, name):
    return _bound("first", language)
  century = languages.CENTURY_TEMPLATES.get(language)
  match = re.fullmatch(century, name) if century is not None else None
  if match is not None:
    return _bound("constant", language, match[1].upper() + name[match.end(1):])
  return None


def is_note(name: str) -> bool:
  """Returns whether a template annotates words, so that none are missing.

  Args:
    name: the template's name, as `normalize_name` returns it.
  """
  return name in languages.NOTES or name.startswith(languages.NOTE_PREFIXES)

"""Renders the templates that stand for words of a sentence.

A dump contains the calls of templates, not what they expand to. Most can be
dropped: boxes, notes, coordinates, pronunciations. Those that stand for words
cannot, or the sentence gets a hole ("an average of of rainfall"). `RENDERERS`
has a renderer for these; all other templates are dropped.

A renderer takes the arguments of the call, already plain text: a dict from "1",
"2", ... and the named ones to stripped strings. Its docstring is an example.
"""

import re
from typing import Callable, Dict, List, Mapping, Optional, Tuple

Arguments = Mapping[str, str]

# Stands for words that are not in the dump (a formula, a price of today). The
# sentence around it is dropped in the end. It is a private-use character: at a
# NUL, mwparserfromhell would stop parsing without an error.
UNKNOWN_WORDS = "\ue000"
# Separates a block quotation from the paragraphs around it.
_PARAGRAPH_BREAK = "\n\n"

_MONTHS = ("January", "February", "March", "April", "May", "June", "July",
           "August", "September", "October", "November", "December")

# The units of {{convert}}: codes, symbol, singular, plural. It writes British
# spellings unless sp=us is given.
_UNIT_TABLE = """
m|m|metre|metres
km|km|kilometre|kilometres
cm|cm|centimetre|centimetres
mm|mm|millimetre|millimetres
um μm µm|μm|micrometre|micrometres
nm|nm|nanometre|nanometres
ft foot feet|ft|foot|feet
in inch|in|inch|inches
yd yard|yd|yard|yards
mi mile miles|mi|mile|miles
nmi|nmi|nautical mile|nautical miles
fathom|fathom|fathom|fathoms
furlong|furlong|furlong|furlongs
chain|chain|chain|chains
league|league|league|leagues
hand|h|hand|hands
ly|ly|light-year|light-years
pc|pc|parsec|parsecs
AU|AU|astronomical unit|astronomical units
km2 km² sqkm|km2|square kilometre|square kilometres
m2 m² sqm|m2|square metre|square metres
cm2 sqcm|cm2|square centimetre|square centimetres
mm2 sqmm|mm2|square millimetre|square millimetres
mi2 sqmi|sq mi|square mile|square miles
ft2 sqft|sq ft|square foot|square feet
in2 sqin|sq in|square inch|square inches
yd2 sqyd|sq yd|square yard|square yards
acre acres|acre|acre|acres
ha|ha|hectare|hectares
km3|km3|cubic kilometre|cubic kilometres
m3|m3|cubic metre|cubic metres
cm3 cc|cm3|cubic centimetre|cubic centimetres
mi3 cumi|cu mi|cubic mile|cubic miles
ft3 cuft|cu ft|cubic foot|cubic feet
in3 cuin|cu in|cubic inch|cubic inches
yd3 cuyd|cu yd|cubic yard|cubic yards
acre.ft|acre.ft|acre-foot|acre-feet
L l litre liter|L|litre|litres
ml mL|ml|millilitre|millilitres
hl hL|hl|hectolitre|hectolitres
USgal|US gal|US gallon|US gallons
impgal|imp gal|imperial gallon|imperial gallons
gal|gal|gallon|gallons
USqt|US qt|US quart|US quarts
pint|pint|pint|pints
floz USfloz|US fl oz|US fluid ounce|US fluid ounces
bbl oilbbl|bbl|barrel|barrels
usbu|US bsh|US bushel|US bushels
kg|kg|kilogram|kilograms
g|g|gram|grams
mg|mg|milligram|milligrams
lb lbs pound|lb|pound|pounds
oz|oz|ounce|ounces
ozt|ozt|troy ounce|troy ounces
st stone|st|stone|stone
t tonne MT|t|tonne|tonnes
ST|short tons|short ton|short tons
LT|long tons|long ton|long tons
cwt|cwt|hundredweight|hundredweight
C °C degC|°C|°C|°C
F °F degF|°F|°F|°F
K|K|kelvin|kelvins
km/h kmh kmph kph|km/h|kilometre per hour|kilometres per hour
mph mi/h|mph|mile per hour|miles per hour
kn knot knots|kn|knot|knots
m/s|m/s|metre per second|metres per second
km/s|km/s|kilometre per second|kilometres per second
ft/s|ft/s|foot per second|feet per second
ft/min|ft/min|foot per minute|feet per minute
m3/s|m3/s|cubic metre per second|cubic metres per second
cuft/s ft3/s|cu ft/s|cubic foot per second|cubic feet per second
/km2 PD/km2|/km2|person per square kilometre|people per square kilometre
/sqmi PD/sqmi /mi2|/sq mi|person per square mile|people per square mile
g/cm3|g/cm3|gram per cubic centimetre|grams per cubic centimetre
kg/m3|kg/m3|kilogram per cubic metre|kilograms per cubic metre
mpgus mpg|mpg|mile per gallon|miles per gallon
W|W|watt|watts
kW|kW|kilowatt|kilowatts
MW|MW|megawatt|megawatts
hp bhp|hp|horsepower|horsepower
shp|shp|shaft horsepower|shaft horsepower
PS|PS|metric horsepower|metric horsepower
V|V|volt|volts
J|J|joule|joules
kJ|kJ|kilojoule|kilojoules
MJ|MJ|megajoule|megajoules
cal|cal|calorie|calories
kcal|kcal|kilocalorie|kilocalories
kWh|kWh|kilowatt-hour|kilowatt-hours
N|N|newton|newtons
kN|kN|kilonewton|kilonewtons
lbf|lbf|pound-force|pounds-force
Nm|Nm|newton-metre|newton-metres
lbft lb.ft ftlb|lb-ft|pound-foot|pound-feet
Pa|Pa|pascal|pascals
hPa|hPa|hectopascal|hectopascals
kPa|kPa|kilopascal|kilopascals
MPa|MPa|megapascal|megapascals
GPa|GPa|gigapascal|gigapascals
bar|bar|bar|bars
mbar|mbar|millibar|millibars
atm|atm|standard atmosphere|standard atmospheres
psi|psi|pound per square inch|pounds per square inch
inHg|inHg|inch of mercury|inches of mercury
mmHg|mmHg|millimetre of mercury|millimetres of mercury
Hz|Hz|hertz|hertz
kHz|kHz|kilohertz|kilohertz
MHz|MHz|megahertz|megahertz
"""
_UNITS: Dict[str, Tuple[str, str, str]] = {
    code: (symbol, singular, plural)
    for codes, symbol, singular, plural in (
        row.split("|") for row in _UNIT_TABLE.strip().split("\n"))
    for code in codes.split()
}
# Between two values of {{convert}}: "10|to|20|km".
_RANGE_WORDS = {
    "-": "–", "–": "–", "to": " to ", "to(-)": " to ", "and": " and ",
    "and(-)": " and ", "or": " or ", "by": " by ", "x": " by ", "×": " × ",
    "xx": " × ", "*": " × ", "+": " + ", "±": " ± ", "+/-": " ± ", ",": ", ",
    "by(x)": " by ", "–to": " to ", "to about": " to about ",
}
# How {{lang-xx|text}} names the language.
_LANGUAGE_TABLE = """
af Afrikaans, als Alemannic German, am Amharic, an Aragonese, ang Old English,
ar Arabic, arc Aramaic, ast Asturian, az Azerbaijani, be Belarusian, ber Berber,
bg Bulgarian, bn Bengali, bo Tibetan, br Breton, bs Bosnian, ca Catalan,
co Corsican, cs Czech, cy Welsh, da Danish, de German, el Greek, en English,
eo Esperanto, es Spanish, et Estonian, eu Basque, fa Persian, fi Finnish,
fo Faroese, fr French, fro Old French, fy West Frisian, ga Irish,
gd Scottish Gaelic, gl Galician, grc Ancient Greek, gu Gujarati, gv Manx,
haw Hawaiian, he Hebrew, hi Hindi, hr Croatian, hu Hungarian, hy Armenian,
id Indonesian, is Icelandic, it Italian, ja Japanese, jv Javanese, ka Georgian,
kk Kazakh, km Khmer, kn Kannada, ko Korean, ku Kurdish, kw Cornish, ky Kyrgyz,
la Latin, lb Luxembourgish, lo Lao, lt Lithuanian, lv Latvian, mi Māori,
mk Macedonian, ml Malayalam, mn Mongolian, mr Marathi, ms Malay, mt Maltese,
my Burmese, nah Nahuatl, nds Low German, ne Nepali, nl Dutch, no Norwegian,
nb Norwegian Bokmål, nn Norwegian Nynorsk, non Old Norse, oc Occitan,
os Ossetian, pa Punjabi, pl Polish, ps Pashto, pt Portuguese, qu Quechua,
ro Romanian, rm Romansh, ru Russian, rus Russian, sa Sanskrit, sc Sardinian,
sco Scots, sh Serbo-Croatian, si Sinhala, sk Slovak, sl Slovene, so Somali,
sq Albanian, sr Serbian, sv Swedish, sw Swahili, syr Syriac, ta Tamil,
te Telugu, tg Tajik, th Thai, tk Turkmen, tl Tagalog, tr Turkish, tt Tatar,
uk Ukrainian, ur Urdu, uz Uzbek, vi Vietnamese, vls West Flemish, yi Yiddish,
zh Chinese, zu Zulu
"""
_LANGUAGES = dict(
    entry.split(None, 1)
    for entry in _LANGUAGE_TABLE.replace("\n", " ").strip().split(", "))

_NUMBER = re.compile(r"^[-−+]?[\d.,]+(?:[/+]+\d+)*$")
_LONG_INTEGER = re.compile(r"^([-−+]?)(\d{4,15})(\.\d+)?$")
_SMALL_INTEGER = re.compile(r"^\d{1,15}$")
_RAIL_GAUGE = re.compile(r"^([\d.]+)\s*(mm|m|in|ft)$")


def normalize_name(name: str) -> str:
  """Returns a template's name in the form that the tables use."""
  name = " ".join(name.replace("_", " ").split()).lower()
  for prefix in ("template:", "subst:", "safesubst:"):
    if name.startswith(prefix):
      name = name[len(prefix):].lstrip()
  return name


def positional(arguments: Arguments) -> List[str]:
  """Returns the arguments "1", "2", ... up to the first that is missing."""
  values: List[str] = []
  while str(len(values) + 1) in arguments:
    values.append(arguments[str(len(values) + 1)])
  return values


def _number(text: str) -> str:
  """Groups the digits of a long number: 12000 -> 12,000."""
  match = _LONG_INTEGER.match(text)
  if match is None:
    return text
  return "{}{:,}{}".format(match[1], int(match[2]), match[3] or "")


def _first(arguments: Arguments) -> str:
  """{{nowrap|of the year}} -> of the year."""
  return arguments.get("1", "")


def _second(arguments: Arguments) -> str:
  """{{lang|de|Wort}} -> Wort."""
  return arguments.get("2", "") or arguments.get("text", "")


def _last(arguments: Arguments) -> str:
  """{{transl|ar|ALA|al-jabr}} -> al-jabr."""
  values = [value for value in positional(arguments) if value]
  return values[-1] if values else ""


def _joined(arguments: Arguments) -> str:
  """{{chem|H|2|O}} -> H2O."""
  return "".join(positional(arguments))


def _convert(arguments: Arguments, abbreviate: bool = False) -> str:
  """{{convert|1300|mi|km}} -> 1,300 miles: the number in the source's unit."""
  values = positional(arguments)
  if not values:
    return UNKNOWN_WORDS
  text = _number(values[0].replace(",", "")).replace("+", " ")
  last, rest = values[0], values[1:]
  while len(rest) > 1 and rest[0] in _RANGE_WORDS:
    last = rest[1]
    text += _RANGE_WORDS[rest[0]] + _number(last.replace(",", ""))
    rest = rest[2:]
  text = re.sub(r"(?<=\d)-(?=\d)", "–", text)
  if not rest:
    return text
  text = _with_unit(text, last, rest[0], arguments, abbreviate)
  # {{convert|5|ft|10|in|m}}: feet and inches.
  if len(rest) > 2 and _NUMBER.match(rest[1]) and rest[2] in _UNITS:
    text += " " + _with_unit(
        rest[1], rest[1], rest[2], arguments, abbreviate)
  return text


def _with_unit(text: str, value: str, code: str, arguments: Arguments,
               abbreviate: bool) -> str:
  """Adds a unit's name in the number and form that the arguments give."""
  symbol, singular, plural = _UNITS.get(code, (code, code, code))
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
    unit += _last(arguments) if _last(arguments).startswith("-") else ""
  return text + ("" if unit.startswith("/") else joint) + unit


def _convert_abbreviated(arguments: Arguments) -> str:
  """{{cvt|5|km}} -> 5 km."""
  return _convert(arguments, abbreviate=True)


def _named_language(code: str) -> Callable[[Arguments], str]:
  """{{lang-de|Wort}} -> German: Wort."""
  language = _LANGUAGES.get(code) or _LANGUAGES.get(code.split("-")[0])

  def render(arguments: Arguments) -> str:
    text = _first(arguments)
    if not text or language is None or arguments.get("label") == "none":
      return text
    return "{}: {}".format(language, text)
  return render


def _nihongo(arguments: Arguments) -> str:
  """{{nihongo|Asahi|朝日|asa-hi}} -> Asahi (朝日, asa-hi)."""
  english, *rest = (positional(arguments) + [""])[:4]
  inside = ", ".join(value for value in rest if value)
  if not english:
    return inside
  return "{} ({})".format(english, inside) if inside else english


def _as_of(arguments: Arguments) -> str:
  """{{as of|2010|7|4}} -> As of 4 July 2010."""
  if arguments.get("alt"):
    return arguments["alt"]
  since = arguments.get("since")
  words = "Since" if since else "As of"
  if arguments.get("lc"):
    words = words.lower()
  return "{} {}".format(words, _day_month_year(positional(arguments),
                                               arguments.get("df", "")))


def _day_month_year(values: List[str], order: str) -> str:
  """Writes a date from [year, month, day], of which the last may be missing."""
  year, month, day = (values + ["", "", ""])[:3]
  if _SMALL_INTEGER.match(month) and 1 <= int(month) <= 12:
    month = _MONTHS[int(month) - 1]
  day = day.lstrip("0")
  if day and order.lower() in ("us", "mdy"):
    return "{} {}, {}".format(month, day, year)
  return " ".join(part for part in (day, month, year) if part)


def _date(arguments: Arguments) -> str:
  """{{birth date|1815|12|10}} -> December 10, 1815."""
  order = "dmy" if arguments.get("df", "").lower() in ("y", "yes") else "us"
  return _day_month_year(positional(arguments)[:3], order)


def _old_style_date(arguments: Arguments) -> str:
  """{{OldStyleDate|29 March|1749|18 March}} -> 29 March 1749."""
  return " ".join(positional(arguments)[:2])


def _value(arguments: Arguments) -> str:
  """{{val|6.02|e=23|u=mol}} -> 6.02×10^23 mol."""
  values = positional(arguments)
  text = _number(values[0].replace(",", "")) if values else ""
  if len(values) > 1:
    text += "±" + values[1]
  if arguments.get("e"):
    text += ("×" if text else "") + "10^" + arguments["e"]
  unit = arguments.get("u") or arguments.get("ul") or ""
  return arguments.get("p", "") + text + (" " + unit if unit else "")


def _fraction(arguments: Arguments) -> str:
  """{{frac|3|1|2}} -> 3 1/2."""
  values = positional(arguments)
  if len(values) == 1:
    return "1/" + values[0]
  whole = values[0] + " " if len(values) == 3 else ""
  return whole + "/".join(values[-2:])


def _circa(arguments: Arguments) -> str:
  """{{circa|1900|1910}} -> c. 1900 – c. 1910."""
  values = [value for value in positional(arguments) if value]
  return " – ".join("c. " + value for value in values) or "c."


def _floruit(arguments: Arguments) -> str:
  """{{fl.|1200|1210}} -> fl. 1200–1210."""
  return ("fl. " + "–".join(positional(arguments))).strip()


def _reign(arguments: Arguments) -> str:
  """{{reign|1200|1210}} -> r. 1200–1210."""
  return ("r. " + "–".join(positional(arguments)[:2])).strip()


def _quotation(arguments: Arguments) -> str:
  """{{quote|So it is.|Someone}} -> a paragraph: So it is."""
  text = (arguments.get("text") or arguments.get("quote")
          or arguments.get("1", ""))
  return _PARAGRAPH_BREAK + text + _PARAGRAPH_BREAK


def _interlanguage_link(arguments: Arguments) -> str:
  """{{ill|Ada Berg|de|lt=Berg}} -> Berg."""
  return (arguments.get("lt") or arguments.get("display")
          or arguments.get("en") or _first(arguments))


def _ship(prefix: str) -> Callable[[Arguments], str]:
  """{{USS|Enterprise|CV-6}} -> USS Enterprise (CV-6)."""

  def render(arguments: Arguments) -> str:
    values = positional(arguments) + ["", "", ""]
    return _ship_name(prefix, values[0], values[1], values[2])
  return render


def _any_ship(arguments: Arguments) -> str:
  """{{ship|HMS|Ark Royal|91|2}} -> HMS Ark Royal."""
  values = positional(arguments) + ["", "", "", ""]
  return _ship_name(values[0], values[1], values[2], values[3])


def _ship_name(prefix: str, name: str, number: str, form: str) -> str:
  """Writes a ship's name; the form says whether with prefix and number."""
  if form in ("3", "5", "6"):
    prefix = ""
  text = (prefix + " " + name).strip()
  if number and form in ("", "1", "3"):
    text += " ({})".format(number)
  return text


def _ship_class(arguments: Arguments) -> str:
  """{{sclass|Nimitz|aircraft carrier}} -> Nimitz-class aircraft carrier."""
  values = positional(arguments) + ["", ""]
  return "{}-class {}".format(values[0], values[1]).strip()


def _format_number(arguments: Arguments) -> str:
  """{{formatnum:12000}} -> 12,000."""
  return _number(_first(arguments))


def _upper(arguments: Arguments) -> str:
  """{{uc:text}} -> TEXT."""
  return _first(arguments).upper()


def _lower(arguments: Arguments) -> str:
  """{{lc:Text}} -> text."""
  return _first(arguments).lower()


def _capitalized(arguments: Arguments) -> str:
  """{{ucfirst:text}} -> Text."""
  text = _first(arguments)
  return text[:1].upper() + text[1:]


def _see(arguments: Arguments) -> str:
  """{{see below|Table 1}} -> (see Table 1)."""
  return "(see {})".format(_first(arguments))


def _around(left: str, right: str) -> Callable[[Arguments], str]:
  """{{angbr|a}} -> ⟨a⟩; {{US$|5}} -> US$5."""

  def render(arguments: Arguments) -> str:
    inside = _first(arguments)
    return left + inside + right if inside else UNKNOWN_WORDS
  return render


def _constant(text: str) -> Callable[[Arguments], str]:
  """{{snd}} -> an en dash between spaces."""

  def render(unused_arguments: Arguments) -> str:
    return text
  return render


def _music(arguments: Arguments) -> str:
  """{{music|flat}} -> ♭."""
  signs = {"flat": "♭", "b": "♭", "sharp": "♯", "#": "♯", "natural": "♮"}
  return signs.get(_first(arguments), UNKNOWN_WORDS)


def _section_link(arguments: Arguments) -> str:
  """{{section link|Ada|History}} -> Ada § History."""
  return " § ".join(value for value in positional(arguments)[:2] if value)


def _bible_verse(arguments: Arguments) -> str:
  """{{bibleverse|1|John|4:8|KJV}} -> 1 John 4:8."""
  values = positional(arguments)
  verse = next((index for index, value in enumerate(values) if ":" in value),
               len(values) - 1)
  return " ".join(value for value in values[:verse + 1] if value)


def _flag(arguments: Arguments) -> str:
  """{{flag|France}} -> France."""
  return arguments.get("name") or _first(arguments)


def _sic(arguments: Arguments) -> str:
  """{{sic|teh}} -> teh."""
  return "" if arguments.get("1") in ("hide", "nolink") else _joined(arguments)


def _rail_gauge(arguments: Arguments) -> str:
  """{{RailGauge|1435mm}} -> 1,435 mm."""
  match = _RAIL_GAUGE.match(_first(arguments))
  if match is None:
    return UNKNOWN_WORDS
  return "{} {}".format(_number(match[1]), match[2])


def _ordinal(arguments: Arguments) -> str:
  """{{ordinal|22}} -> 22nd."""
  text = _first(arguments)
  if not _SMALL_INTEGER.match(text):
    return text
  number = int(text)
  suffix = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
  return text + ("th" if 10 <= number % 100 <= 20 else suffix)


def _exponent(arguments: Arguments) -> str:
  """{{e|6}} -> ×10^6."""
  return "×10^" + _first(arguments)


def _superscript(arguments: Arguments) -> str:
  """{{sup|th}} -> th, {{sup|6}} -> ^6."""
  text = _first(arguments)
  return "^" + text if text.lstrip("-−+").isdigit() else text


def _height(arguments: Arguments) -> str:
  """{{height|ft=6|in=2}} -> 6 ft 2 in."""
  parts = [arguments[unit] + " " + unit
           for unit in ("m", "cm", "ft", "in") if arguments.get(unit)]
  return " ".join(parts) or UNKNOWN_WORDS


def _nuclide(arguments: Arguments) -> str:
  """{{nuclide|uranium|235}} -> uranium-235."""
  return "-".join(positional(arguments)[:2])


def _japanese_first(arguments: Arguments) -> str:
  """{{nihongo3|rising sun|朝日|Asahi}} -> Asahi (朝日, rising sun)."""
  english, japanese, romanized = (positional(arguments) + ["", "", ""])[:3]
  return _nihongo({"1": romanized, "2": japanese, "3": english})


# The templates of each renderer; names in lower case.
_TABLE = (
    (_first,
     "nowrap, nobr, nobreak, nobold, noitalic, small, smaller, big, larger, "
     "large, center, em, strong, smallcaps, sc, sub, unicode, math, mvar, var, "
     "abbr, tooltip, abbrlink, abbrv, not a typo, as written, typo, "
     "proper name, visible anchor, vanchor, clarify span, "
     "citation needed span, iast, arabdin, polytonic, hebrew, nastaliq, "
     "script/arabic, script/hebrew, script/nastaliq, keypress, key press, key, "
     "code, tt, mono, kbd, samp, xt, underline, strikethrough, nq, longitem, "
     "font, serif, sans-serif, highlight, annotated link, nihongo2, marriage"),
    (_second,
     "lang, wikt-lang, rtl-lang, native name, font color, color, script"),
    (_last, "transl, transliteration, translit, tlit, resize"),
    (_joined, "chem, chem2, gaps, linktext"),
    (_convert, "convert, conv"),
    (_convert_abbreviated, "cvt"),
    (_nihongo, "nihongo, nihongo krt"),
    (_japanese_first, "nihongo3"),
    (_as_of, "as of, asof"),
    (_date,
     "birth date, birth date and age, death date, death date and age, "
     "start date, start date and age, end date, date, film date"),
    (_old_style_date, "oldstyledate, old style date"),
    (_value, "val"),
    (_fraction, "frac, sfrac, fraction, tfrac, fract"),
    (_circa, "circa, c., ca."),
    (_floruit, "floruit, fl."),
    (_reign, "reign, r."),
    (_quotation,
     "quote, quotation, blockquote, block quote, cquote, bquote, rquote, "
     "verse translation, poemquote, poem quote, pull quote"),
    (_interlanguage_link,
     "ill, interlanguage link, interlanguage link multi, link-interwiki, "
     "red link"),
    (_any_ship, "ship"),
    (_ship_class, "sclass, sclass-, sclass2, sclass2-"),
    (_format_number, "formatnum, number, nts"),
    (_upper, "uc, upper, uppercase"),
    (_lower, "lc, lower, lowercase"),
    (_capitalized, "ucfirst"),
    (_see, "see below, see above"),
    (_around("⟨", "⟩"), "angbr, angbr ipa, angle bracket, grapheme"),
    (_around("[", "]"), "bracket"),
    (_around("US$", ""), "us$, usd"),
    (_around("A$", ""), "a$, aud"),
    (_around("C$", ""), "c$, cad"),
    (_around("£", ""), "£, gbp"),
    (_around("€", ""), "€, euro, eur"),
    (_around("¥", ""), "¥, jpy, cny"),
    (_around("₹", ""), "inr, indian rupee"),
    (_around("√", ""), "radic, sqrt"),
    (_around("'", "'"), "gloss, single quotes"),
    (_around("lit. '", "'"), "lit, literal translation, literally"),
    (_music, "music"),
    (_section_link, "section link, slink"),
    (_bible_verse,
     "bibleverse, bibleverse-nb, bibleref, bibleref2, bibleref2-nb"),
    (_flag, "flag, flagcountry, flagu"),
    (_sic, "sic"),
    (_rail_gauge, "railgauge, rail gauge, track gauge"),
    (_around("U.S. Patent ", ""), "us patent"),
    (_ordinal, "ordinal"),
    (_exponent, "e, esp"),
    (_superscript, "sup"),
    (_height, "height"),
    (_nuclide, "nuclide, simplenuclide, simplenuclide2"),
    (_constant(" – "), "snd, snds, spnd, spaced ndash, spaced en dash, dash"),
    (_constant("–"), "ndash, en dash, endash, nbnd"),
    (_constant("—"), "mdash, em dash, emdash, mdashb"),
    (_constant(" "),
     "nbsp, spaces, space, thin space, thinsp, hair space, hairsp, pad, br, "
     "break"),
    (_constant("'s"), "'s"),
    (_constant("'"), "', apostrophe"),
    (_constant("'\""), "'\""),
    (_constant("' \""), "' \""),
    (_constant("\"'"), "\"'"),
    (_constant("\" '"), "\" '"),
    (_constant("-\""), "-\""),
    (_constant("="), "="),
    (_constant("·"), "·, dot, middot"),
    (_constant("•"), "•, bullet"),
    (_constant("ʻ"), "okina"),
    (_constant("π"), "pi"),
    (_constant("−"), "minus"),
    (_constant("×"), "times"),
    (_constant("°"), "degree, deg"),
    (_constant("H"), "hydrogen"),
    # Words that are not in the dump.
    (_constant(UNKNOWN_WORDS),
     "age, age in years, age in years and days, inflation, format price, "
     "formatprice, currentyear, currentmonthname, currentday, "
     "numberofarticles, #expr, #time, #invoke, #property, wikidata, carbon, "
     "su, physics particle, subatomic particle, dentalformula, eqm, "
     "un population, population, pop density, pagename, overline"),
) + tuple((_ship(prefix), prefix.lower()) for prefix in (
    "USS", "HMS", "HMAS", "HMCS", "HMNZS", "SS", "RMS", "MV", "MS", "SMS",
    "USCGC", "USNS", "INS", "HNoMS", "ORP", "USAT", "PS", "HMHS", "GTS", "TSS"))

RENDERERS: Dict[str, Callable[[Arguments], str]] = {
    name: renderer for renderer, names in _TABLE for name in names.split(", ")}
# Wikis in the language in which units, months and languages are named here.
_OWN_LANGUAGES = ("en", "simple")
_LANGUAGE_PREFIX = "lang-"


def find(name: str, language: str) -> Optional[Callable[[Arguments], str]]:
  """Returns the renderer of a template, or None if the template is dropped.

  Args:
    name: the template's name, as `normalize_name` returns it.
    language: the wiki's language code.
  """
  is_own_language = language in _OWN_LANGUAGES
  if name.startswith(_LANGUAGE_PREFIX):
    code = name[len(_LANGUAGE_PREFIX):]
    return _named_language(code) if is_own_language else _first
  render = RENDERERS.get(name)
  return _convert_abbreviated if (
      render is _convert and not is_own_language) else render

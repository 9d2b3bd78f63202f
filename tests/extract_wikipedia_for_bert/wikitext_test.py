"""Tests of the cleaning rules: each with an example written by hand."""

import random
import re
import time

import pytest

from extract_wikipedia_for_bert import dump
from extract_wikipedia_for_bert import languages
from extract_wikipedia_for_bert import prose
from extract_wikipedia_for_bert import templates
from extract_wikipedia_for_bert import wikitext

UNKNOWN = templates.UNKNOWN_WORDS
WIKI = wikitext.Wiki.of(dump.Site())


def clean(text, language="en"):
  """Returns the text of each paragraph."""
  wiki = wikitext.Wiki(language, WIKI.dropped_links)
  return [paragraph.text for paragraph in wikitext.paragraphs(text, wiki)]


# Wikitext and its paragraphs.
MARKUP = {
    "bold and italic": ("'''Ada''' is a ''name'' of '''''many'''''.",
                        ["Ada is a name of many."]),
    "apostrophe and bold": ("L''''amour''' is.", ["L'amour is."]),
    "possessive of italics": ("The ''Titanic'''s end.", ["The Titanic's end."]),
    "link": ("A [[dog]] and [[cat]]s.", ["A dog and cats."]),
    "link with label": ("A [[dog (animal)|dog]] ran.", ["A dog ran."]),
    "link with empty label": ("A [[dog (animal)|]] ran.", ["A dog ran."]),
    "link to a section": ("See [[#Size|its size]].", ["See its size."]),
    "link to another wiki": ("A [[:de:Hund|Hund]] or [[:de:Katze]].",
                             ["A Hund or de:Katze."]),
    "link into a project": ("A [[wikt:dog|dog]].", ["A dog."]),
    "language link": ("Text.\n[[de:Hund]]\n[[zh-min-nan:Káu]]", ["Text."]),
    "category": ("Text. [[Category:Dogs|Dog]]", ["Text."]),
    "file": ("[[File:a.jpg|thumb|200px|A [[dog]] and a [[cat|cat]].]] Text.",
             ["Text."]),
    "file over lines": ("Some\n[[Image:a.jpg|thumb|A\n[[dog]]\nruns.]]\ntext.",
                        ["Some text."]),
    "file link shown as text": ("See [[:File:a.jpg|the file]].",
                                ["See the file."]),
    "external link": ("See [http://a.org/b the site] and [http://c.org].",
                      ["See the site and ."]),
    "bare address": ("See http://a.org/b. Read on.",
                     ["See " + UNKNOWN + ". Read on."]),
    "comment": ("A<!-- [[b]]\n\nc --> d.", ["A d."]),
    "comment that is not closed": ("A.<!-- b\n\nc", ["A."]),
    "reference": ('A<ref>b [[c]]</ref> d<ref name="e" /> f.', ["A d f."]),
    "reference with an angle": ("A<ref>1 < 2</ref> b.", ["A b."]),
    "reference that is not closed": ("A<ref> b.", ["A b."]),
    "references in capitals": ("A<REF>b</Ref> c.", ["A c."]),
    "gallery": ("A.\n<gallery>\nFile:b.jpg|c.\n</gallery>\nD.", ["A.", "D."]),
    "source code": ("A.\n<source lang='c'>\nint b;\n</source>\nC.",
                    ["A.", "C."]),
    "table of tags": ("A.\n<table><tr><td>b.</td></tr></table>\nC.",
                      ["A.", "C."]),
    "plain formula": ("Let <math>n = 3</math> be.", ["Let n = 3 be."]),
    "formula": (r"Let <math>\frac{1}{2}</math> be.",
                ["Let " + UNKNOWN + " be."]),
    "nowiki": ("Write <nowiki>[[a]] {{b}} ''c''</nowiki> so.",
               ["Write [[a]] {{b}} ''c'' so."]),
    "empty nowiki": ("A<nowiki/>b.", ["Ab."]),
    "line break": ("A<br>b<br />c.", ["A b c."]),
    "block tags": ("<div style='x'>A.</div><p>B.<blockquote>C.</blockquote>",
                   ["A.", "B.", "C."]),
    "inline tags": ("<small>A</small> <span class='b'>c</span><sub>2</sub>.",
                    ["A c2."]),
    "exponent": ("10<sup>6</sup> km<sup>2</sup>, the 5<sup>th</sup>.",
                 ["10^6 km2, the 5th."]),
    "unknown tag": ("A <stdio.h> b.", ["A <stdio.h> b."]),
    "entities": ("A&nbsp;&ndash; b &amp; c &#228; &lt;.", ["A – b & c ä <."]),
    "magic word": ("__NOTOC__\nA. __FORCETOC__", ["A."]),
    "name with underscores": ("The __init__ method.", ["The __init__ method."]),
    "heading": ("A.\n== B ==\nC.\n=== D ===\nE.", ["A.", "C.", "E."]),
    "section without prose": (
        "A.\n== See also ==\nB.\n=== C ===\nD.\n== E ==\nF.", ["A.", "F."]),
    "section in between": ("A.\n=== Notes ===\nB.\n== C ==\nD.", ["A.", "D."]),
    "section named by habit": ("A.\n==References:==\nB.", ["A."]),
    "literature has prose": ("A.\n== Literature ==\nB.", ["A.", "B."]),
    "table": ("A.\n{| class='b'\n|-\n| c || d\n|}\nE.", ["A.", "E."]),
    "table in a table": ("A.\n{|\n|\n{|\n| b\n|}\n| c\n|}\nD.", ["A.", "D."]),
    "table that is not closed": ("A.\n{|\n| b\n! c\n|-\nD.", ["A.", "D."]),
    "text after a table": ("{|\n| a\n|} B.", ["B."]),
    "rows without a table": ("A.\n| b || c\n! d\nE.", ["A.", "E."]),
    "box": ("{{Infobox\n| a = {{b|c}}\n| d = [[e]]\n}}\nF.", ["F."]),
    "box that is not closed": ("{{Infobox\n| a = b\nC.", ["{{Infobox", "C."]),
    "note": ("It is so.{{citation needed|date=May 2010}} Yes.",
             ["It is so. Yes."]),
    "quotation over lines": ("A:\n{{quote|B.\n\nC.|D}}\nE.",
                             ["A:", "B.", "C.", "E."]),
    "quotation in a line": ("A: {{quote|B.}} C.", ["A:", "B.", "C."]),
    "lines join": ("A\nb\nc.\n\nD.", ["A b c.", "D."]),
    "list": ("A:\n* b\n** c\n# d\n: e\n; f", ["A:", "b", "c", "d", "e", "f"]),
    "rule": ("A.\n----\nB.", ["A.", "B."]),
    "private-use character in the source": ("A\ue000b.", ["Ab."]),
    "ruby": ("A <ruby>漢字<rp>(</rp><rt>kanji</rt><rp>)</rp></ruby> b.",
             ["A 漢字 b."]),
    "ruby in pieces": ("<ruby><rb>漢<rt>かん<rb>字</rb><rt>じ</ruby>が.",
                       ["漢字が."]),
    "reading that is not closed": ("A <rt>b c.", ["A b c."]),
    "code in a line": ("Type <code>print</code> or <syntaxhighlight lang=c "
                       "inline>int a;</syntaxhighlight> here.",
                       ["Type print or int a; here."]),
    "highlighted code in a line": (
        "Type <syntaxhighlight lang=c>int [[a]];</syntaxhighlight> here.",
        ["Type int [[a]]; here."]),
    "highlighted code of its own": (
        "A:\n<syntaxhighlight lang=c>int a;</syntaxhighlight>\nB.\n"
        "<syntaxhighlight lang=c>\nint a;\n</syntaxhighlight>",
        ["A:", "B."]),
    "localised magic word": (
        "__KEIN_INHALTSVERZEICHNIS__\nA. __БЕЗ_ОГЛ__ __目次非表示__ "
        "__विषय_सूची__ __İÇİNDEKİLERYOK__", ["A."]),
    "language links with hyphens": (
        "A.[[be-x-old:B]] [[zh-classical:C]] [[roa-tara:D]] [[nds-nl:E]]",
        ["A."]),
    "name of a file in another language": (
        "A. [[Bild:a.jpg|B.]] [[Imagem:a.jpg|B.]] [[Resim:a.jpg|B.]] "
        "[[文件:a.jpg|B.]] [[Kép:a.jpg|B.]] [[\u200eתמונה:a.jpg|B.]] "
        "[[Kategorie:D]] [[CSI: Miami]]", ["A. CSI: Miami"]),
    "chemical name": ("The 4-(2-{4-[a]-b}-c)-d is.",
                      ["The 4-(2-{4-[a]-b}-c)-d is."]),
}


@pytest.mark.parametrize("name", MARKUP)
def test_markup(name):
  text, expected = MARKUP[name]
  assert clean(text) == expected


# Wikitext of a wiki with language variants, and its text.
VARIANTS = {
    "-{text}- stays.": "text stays.",
    "-{zh-hans:计算机; zh-hant:電腦;}-好。": "计算机好。",
    "-{zh-tw:軟體;zh-cn:软件}-好。": "软件好。",
    "-{zh-hk:的士;zh-tw:計程車}-好。": "的士好。",
    "-{A|zh-cn:巴士; zh-tw:公車}-好。": "巴士好。",
    "-{H|zh-cn:巴士;zh-tw:公車}-好。": "好。",
    "-{T|zh-cn:巴士;zh-tw:公車}-好。": "好。",
    "-{zh;zh-hans;zh-hant|北京}-好。": "北京好。",
    "-{R|北京}-好。": "北京好。",
    "-{[[北京|京]]}-好。": "京好。",
    "-{zh-hans:{{lang|en|a}}; zh-hant:b}-好。": "a好。",
    "-{巨集=>zh-cn:宏;}-好。": "宏好。",
    "4-(2-{4-[2-(a)]b}-c)好。": "4-(2-{4-[2-(a)]b}-c)好。",
    "4-(2-{4-[…]}…)好。": "4-(2-{4-[…]}…)好。",
    "a -{ b } c": "a -{ b } c",
}


@pytest.mark.parametrize("text", VARIANTS)
def test_variants(text):
  assert clean(text, "zh") == [VARIANTS[text]]


def test_other_wikis_have_no_variants():
  assert clean("A-{b}- c", "en") == ["A-{b}- c"]


# Wikitext and its text, with "?" for each template that leaves a hole.
HOLES = {
    "an average of {{foo|3}} rainfall.": "an average of ? rainfall.",
    "born in {{foo}}.": "born in ?.",
    "born in {{foo}}, a town.": "born in ?, a town.",
    "an (old {{foo}}) town.": "an (old ?) town.",
    "l'{{foo}} est grand.": "l'? est grand.",
    "it has {{foo}}{{foo}} rooms.": "it has ? rooms.",
    "it has {{foo}} {{bar}} rooms.": "it has ? rooms.",
    "it has\n{{foo}} rooms.": "it has ? rooms.",
    "{{foo}} is a town.": "? is a town.",
    "it has {{foo\n|a}} rooms.": "it has ? rooms.",
    "它位于{{foo}}的北部。": "它位于?的北部。",
    "'''a {{foo}}''' b.": "a ? b.",
    # These templates leave no hole.
    "It is so. {{foo}} Then it was.": "It is so. Then it was.",
    "It is so.{{foo}} Then.": "It is so. Then.",
    "a town{{foo}} of old.": "a town of old.",
    "a town {{foo}}<ref>b</ref> of old.": "a town of old.",
    "a town {{foo}}<ref name=b /> of old.": "a town of old.",
    "a town {{sfn|A|2000}} of old.": "a town of old.",
    "a town {{citation needed}}.": "a town .",
    "a town {{нет АИ|1}} of old.": "a town of old.",
    "a town {{Ref-en}} of old.": "a town of old.",
    "Ada ({{foo}}; 1900) is.": "Ada (; 1900) is.",
    "Ada (a, {{foo}}) is.": "Ada (a, ) is.",
    "Ada {{foo}}": "Ada",
    "{{foo}} Ada is.": "Ada is.",
    "{{foo}}\nada is.": "ada is.",
    "他生于北京{{foo}}，后来。": "他生于北京，后来。",
}


@pytest.mark.parametrize("text", HOLES)
def test_holes(text):
  holes = templates.Holes()
  plain = [paragraph.text for paragraph in wikitext.paragraphs(
      text, WIKI, holes)]
  assert [templates.HOLE.sub("?", part) for part in plain] == [HOLES[text]]
  assert holes.names(plain[0]) == (["foo"] if "?" in HOLES[text] else [])


def test_sentences_with_holes_are_dropped_and_reported():
  holes, incomplete = templates.Holes(), []
  text = ("It is a long one. It has {{foo}} rooms now. It is {{age|1}} old."
          "\n\nIt has {{bar}} rooms and {{foo}} doors. It is a town here.")
  assert prose.lines(
      wikitext.paragraphs(text, WIKI, holes), prose.Options(), incomplete) == [
          "It is a long one.", "It is a town here."]
  assert [sorted(holes.names(sentence)) for sentence in incomplete] == [
      ["foo"], ["age"], ["bar", "foo"]]
  # Without `holes`, these sentences are dropped, too.
  assert len(prose.lines(wikitext.paragraphs(text, WIKI),
                         prose.Options())) == 2


def test_many_templates_have_marks():
  holes = templates.Holes()
  marks = {holes.hole(str(number)) for number in range(70000)}
  assert len(marks) == 65534
  assert holes.names(holes.hole("5")) == ["5"]


def test_marks_list_items():
  paragraphs = list(wikitext.paragraphs("A.\n* B.\nC.", WIKI))
  assert [(p.text, p.is_list_item) for p in paragraphs] == [
      ("A.", False), ("B.", True), ("C.", False)]


def test_local_names_of_files():
  site = dump.Site("bg", {"файл": 6, "категория": 14, "file": 6})
  wiki = wikitext.Wiki.of(site)
  text = "[[Файл:a.jpg|А.]] Б. [[Категория:В]] [[File:c.jpg]] [[Category:d]]"
  paragraphs = [p.text for p in wikitext.paragraphs(text, wiki)]
  assert paragraphs == ["Б."]


# Templates and what they render as; every renderer has an example here.
TEMPLATES = """
{{nowrap|of the year}} => of the year
{{Convert|1300|mi|km}} => 1,300 miles
{{convert|1|mi|km}} => 1 mile
{{convert|2,100.5|km|mi|abbr=on}} => 2,100.5 km
{{convert|10|to|20|m|ft}} => 10 to 20 metres
{{convert|10|-|20|m|ft}} => 10–20 metres
{{convert|10-20|m|ft}} => 10–20 metres
{{convert|13|km|mi|adj=on}} => 13-kilometre
{{convert|13|ft|m|adj=mid|-tall}} => 13-foot-tall
{{convert|13|km|mi|sp=us}} => 13 kilometers
{{convert|5|ft|10|in|m}} => 5 feet 10 inches
{{convert|20|C|F}} => 20 °C
{{convert|55|/km2|/sqmi}} => 55 people per square kilometre
{{convert|5|parrots}} => 5 parrots
{{convert|-40|F}} => -40 °F
{{convert|5}} => 5
{{convert|1/2|in|mm}} => 1/2 inches
{{cvt|5|km|mi}} => 5 km
{{lang|de|Wort}} => Wort
{{Lang-de|Wort}} => German: Wort
{{lang-grc-gre|λόγος}} => Ancient Greek: λόγος
{{lang-xyz|Wort}} => Wort
{{lang-de|}} =>
{{transl|ar|ALA|al-jabr}} => al-jabr
{{chem|H|2|O}} => H2O
{{nihongo|Asahi|朝日|asa-hi|sun}} => Asahi (朝日, asa-hi, sun)
{{nihongo|Asahi}} => Asahi
{{nihongo3|sun|朝日|Asahi}} => Asahi (朝日, sun)
{{as of|2010|7|4}} => As of 4 July 2010
{{As of|2010|07|lc=y}} => as of July 2010
{{as of|2010|7|4|df=US|since=y}} => Since July 4, 2010
{{as of|2010|alt=in 2010}} => in 2010
{{birth date|1815|12|10}} => December 10, 1815
{{birth date|1815|12|10|df=y}} => 10 December 1815
{{OldStyleDate|29 March|1749|18 March}} => 29 March 1749
{{val|6.02|e=23|u=mol}} => 6.02×10^23 mol
{{val|12000|5}} => 12,000±5
{{frac|3|1|2}} => 3 1/2
{{sfrac|1|2}} => 1/2
{{frac|3}} => 1/3
{{circa|1900|1910}} => c. 1900 – c. 1910
{{circa}} => c.
{{fl.|1200|1210}} => fl. 1200–1210
{{reign|1200|1210}} => r. 1200–1210
{{cquote|So it is.}} => So it is.
{{ill|Ada Berg|de|lt=Berg}} => Berg
{{ill|Ada Berg|de|Ada Berg (Malerin)}} => Ada Berg
{{USS|Enterprise|CV-6}} => USS Enterprise (CV-6)
{{HMS|Ark Royal|91|2}} => HMS Ark Royal
{{HMS|Ark Royal|91|6}} => Ark Royal
{{ship|HMS|Ark Royal|91|2}} => HMS Ark Royal
{{sclass|Nimitz|aircraft carrier}} => Nimitz-class aircraft carrier
{{formatnum:12000}} => 12,000
{{uc:text}} => TEXT
{{lc:TEXT}} => text
{{ucfirst:text}} => Text
{{see below|Table 1}} => (see Table 1)
{{angbr|a}} => ⟨a⟩
{{bracket|a}} => [a]
{{US$|5}} => US$5
{{A$|5}} => A$5
{{C$|5}} => C$5
{{£|5}} => £5
{{€|5}} => €5
{{¥|5}} => ¥5
{{INR|5}} => ₹5
{{radic|2}} => √2
{{gloss|dog}} => 'dog'
{{lit|dog}} => lit. 'dog'
{{music|flat}} => ♭
{{section link|Ada|History}} => Ada § History
{{bibleverse|1|John|4:8|KJV}} => 1 John 4:8
{{bibleref2|Mark|1:2–3}} => Mark 1:2–3
{{flag|France}} => France
{{sic|teh}} => teh
{{RailGauge|1435mm}} => 1,435 mm
{{US patent|123}} => U.S. Patent 123
{{ordinal|22}} => 22nd
{{ordinal|11}} => 11th
{{e|6}} => ×10^6
{{sup|th}} => th
{{sup|6}} => ^6
{{height|ft=6|in=2}} => 6 ft 2 in
{{nuclide|uranium|235}} => uranium-235
a{{snd}}b => a – b
a{{ndash}}b => a–b
a{{mdash}}b => a—b
a{{nbsp}}b => a b
a{{'s}} => a's
a{{'}} => a'
a{{'"}} => a'"
a{{' "}} => a' "
a{{"'}} => a"'
a{{" '}} => a" '
a{{-"}} => a-"
a {{=}} b => a = b
a{{·}}b => a·b
a{{bullet}}b => a•b
{{okina}}a => ʻa
{{pi}} => π
{{minus}}1 => −1
2{{times}}3 => 2×3
5{{deg}} => 5°
{{hydrogen}} => H
{{langx|de|Wort}} => German: Wort
{{langx|de|Wort|label=none}} => Wort
{{tmath|x}} => x
{{tmath|\\alpha_2}} => ?
{{currency|12000|USD}} => US$12,000
{{w|Ada (name)|Ada}} => Ada
{{zh|t=臺灣|s=台湾|p=Táiwān}} => Chinese: 臺灣; pinyin: Táiwān
{{b.|1900}} => b. 1900
{{inflation|US|5|1950}} => ?
{{angbr|}} => ?
{{template:nowrap|a}} => a
{{lang|de|{{nowrap|ein [[Hund|Wort]]}}}} => ein Wort
{{IPA|dɒɡ}} =>
{{sfn|Smith|2000|p=5}} =>
{{cn}} =>
""".strip().split("\n")


@pytest.mark.parametrize("line", TEMPLATES)
def test_templates(line):
  call, _, expected = line.partition(" =>")
  text = wikitext.plain_text(call, "en")
  assert text.strip().replace(UNKNOWN, "?") == expected.strip()


# Language codes, templates and what they render as.
OTHER_WIKIS = """
fr XIX{{e}} siècle => XIXe siècle
fr {{Ier}} => Ier
fr {{date|14|juillet|1789}} => 14 juillet 1789
fr {{date|01|7|1789}} => 1er juillet 1789
fr {{formatnum:120000}} => 120\u00a0000
fr {{unité|1200|km|2}} => 1\u00a0200 km2
fr {{s-|XIX|e}} => XIXe siècle
fr {{s2|XIX|e|XX|e}} => XIXe et XXe siècles
fr {{XVIe siècle}} => XVIe siècle
fr {{heure|12|30}} => 12 h 30
fr {{citation|Oui}} => « Oui »
fr {{n°|5}} => no 5
fr {{langue|en|word}} => word
fr {{convert|5|km}} => 5 km
fr {{convert|1500|to|2000|ft}} => 1\u00a0500–2\u00a0000 ft
fr {{lang-de|Wort}} => Wort
fr {{circa|1900}} a => ? a
de {{formatnum:120000.5}} => 120.000,5
de {{enS|word}} => word
de {{"|Wort}} => „Wort“
de {{§|5}} => § 5
de {{Höhe|1200|DE}} => 1.200 m
de {{Datum|14|7|1789}} => 14. Juli 1789
es {{formatnum:1200}} {{formatnum:12000}} => 1200 12\u00a0000
es {{siglo|V|a|s}} => siglo V a. C.
es {{fecha|14|7|1789}} => 14 de julio de 1789
pt {{séc|XIX}} => século XIX
pt {{lknb|Luís|XIV}} => Luís XIV
hi {{formatnum:1200000}} => 12,00,000
bn {{formatnum:1200}} => ১,২০০
fa {{formatnum:1200.5}} => ۱٬۲۰۰٫۵
xx {{formatnum:1200}} => 1200
xx {{date|1|2|3}} =>
ru {{нп5|Титул|текст|en}} => текст
ru {{num|5000|человек}} => 5\u00a0000 человек
uk {{нп|Титул||en}} => Титул
zh {{link-en|標題|title|文字}} => 文字
zh {{tsl|en|title|標題}} => 標題
ja {{読み仮名|漢字|かんじ}} => 漢字（かんじ）
ja {{仮リンク|表示|en|text}} => 表示
vi {{val|1200|u=m}} => 1.200 m
simple {{convert|5|km}} => 5 kilometres
""".strip("\n").split("\n")


@pytest.mark.parametrize("line", OTHER_WIKIS)
def test_templates_of_other_wikis(line):
  language, _, line = line.partition(" ")
  call, _, expected = line.partition(" =>")
  text = wikitext.plain_text(call, language)
  assert text.strip().replace(UNKNOWN, "?") == expected.strip()


def test_every_kind_has_an_example():
  called = {("en", line) for line in TEMPLATES} | {
      tuple(line.split(" ", 1)) for line in OTHER_WIKIS}
  covered = set()
  for language, line in called:
    for part in line.split("{{")[1:]:
      name = templates.normalize_name(re.match(r"[^|}:]*", part)[0])
      for table in (languages.ANY, language):
        covered.update(kind for kind, _, names in languages.TEMPLATES[table]
                       if name in names.split(", ")) if (
                           table in languages.TEMPLATES) else None
  assert set(templates.KINDS) - covered == set()
  assert {kind for rows in languages.TEMPLATES.values()
          for kind, _, _ in rows} == set(templates.KINDS)


def test_no_renderer_fails_on_odd_arguments():
  for language in [*languages.TEMPLATES, "xx"]:
    for name in sorted(templates.renderers(language)):
      for arguments in ("", "|", "||", "|a", "|a|b|c|d|e", "|1=|2=", "|x=y",
                        "|0|0|0", "|-|-|-", "|²|²|²", "|9|" + "9" * 5000,
                        "|" + "9" * 5000, "|13|13|13"):
        templates.find(name, language)(dict(
            (value.split("=", 1) if "=" in value else (str(index), value))
            for index, value in enumerate(arguments.split("|")[1:], 1)))


# Text before and after each rule.
TIDY = {
    "invisible": ("soft\u00adhyphen\u200b", "softhyphen"),
    "spaces": ("five\u00a0\u2009 miles", "five miles"),
    "spaced ellipsis": ("and . . . so", "and ... so"),
    "leftover quotes": ("''Albedo''", "Albedo"),
    "separator after parenthesis": ("Achilles (; , a hero)",
                                    "Achilles (a hero)"),
    "separator before parenthesis": ("Achilles (a hero, ; )",
                                     "Achilles (a hero)"),
    "empty parentheses": ("Albedo ( ) or [] it", "Albedo or it"),
    "space inside parentheses": ("it ( a hero ) is", "it (a hero) is"),
    "space before punctuation": ("one , two . ա ։ क ।", "one, two. ա։ क।"),
    "repeated separator": ("one, , two;; three", "one, two; three"),
    "separator before stop": ("one,. Two", "one. Two"),
    "spaces left": ("one  two", "one two"),
}


@pytest.mark.parametrize("rule", prose.TIDY_RULES, ids=lambda rule: rule.name)
def test_tidy_rule(rule):
  before, after = TIDY[rule.name]
  assert rule.pattern.sub(rule.replacement, before) == after


@pytest.mark.parametrize("before, after", [
    ("Albedo () or", "Albedo or"),
    ("Achilles (; , ) was", "Achilles was"),
    ("Achilles (; also Ada) was", "Achilles (also Ada) was"),
    ("Achilles (/ or / ; 5 BC) was", "Achilles (5 BC) was"),
    ("Achilles (or ) was", "Achilles was"),
    ("Achilles (or Ada) was", "Achilles (or Ada) was"),
    ("a ,b", "a ,b"),
    ("It was .NET, ...and so.", "It was .NET, ...and so."),
    ("Is it ? Yes !", "Is it? Yes!"),
    ("  It  is  ", "It is"),
    ("می\u200cروم", "می\u200cروم"),
    ("It is (a, b; c: d).", "It is (a, b; c: d)."),
])
def test_tidy(before, after):
  assert prose.tidy(before) == after


@pytest.mark.parametrize("name, sentence", [
    ("brackets", "It is [[a dog."), ("brackets", "It is }} a dog."),
    ("pipe", "It is | a dog."), ("image size", "It is 200px wide."),
    ("tag", "It is <b>a dog."), ("entity", "It is &nbsp; a dog."),
    ("heading", "It is == a dog."), ("list mark", "# It is a dog."),
    ("magic word", "It is __TOC__ a dog."), ("latex", r"It is \frac a dog."),
    ("address", "It is www.a.org of a dog."),
    ("unknown words", "It is " + UNKNOWN + " a dog."),
    ("identifier", "It is ISBN 0-12-345678-9 of a dog."),
    ("identifier", "It is a dog // Of dogs."),
])
def test_drops_sentences_that_show_markup(name, sentence):
  assert re.search(prose.LEFTOVER_MARKUP[name], sentence)
  assert not prose.is_kept(sentence, 3)
  assert prose.is_kept("It is a dog.", 3)


def test_every_leftover_has_an_example():
  parameters = test_drops_sentences_that_show_markup.pytestmark[0].args[1]
  assert {name for name, _ in parameters} == set(prose.LEFTOVER_MARKUP)


@pytest.mark.parametrize("sentence", [
    "It is [sic] a dog.", "It is 5 < 6 and 7 > 6.", "AT&T is a firm.",
    "It is {so} a dog.", "The 200 px are wide."])
def test_keeps_sentences_that_only_look_like_markup(sentence):
  assert prose.is_kept(sentence, 3)


@pytest.mark.parametrize("text, is_list_item, expected", [
    ("This is a paragraph.", False, ["This is a paragraph."]),
    ("This is short.", False, []),
    ("This has no mark at all", False, []),
    ("This is whole. This is cut", False, []),
    ("This one is whole. This is cut", False, ["This one is whole."]),
    ("These are the three:", False, ["These are the three:"]),
    ("This item has six words, yes.", True, ["This item has six words, yes."]),
    ("This item has just five.", True, []),
    ("This item has six words, no mark", True, []),
    ("These items are among the three:", True, []),
    # Citations.
    ("Книга про все на світі. — К., 2010.", True, []),
    ("Книга про все світове. — Вінніпег: УВАН, 1971. — 48 с.", True, []),
    ("Галюк М. Творець гімну // Культура і життя. — № 7.", True, []),
    ("Ми йшли додому. — Так, 2010 року. Це було давно.", True,
     ["Ми йшли додому.", "— Так, 2010 року.", "Це було давно."]),
    ("Це є в книзі (Книга. — К., 2010.). Так.", False,
     ["Це є в книзі (Книга. — К., 2010.).", "Так."]),
])
def test_keeps_only_prose(text, is_list_item, expected):
  paragraph = wikitext.Paragraph(text, is_list_item)
  assert prose.prose_sentences(paragraph, "en") == expected


def test_drops_short_sentences_and_articles():
  paragraphs = [
      wikitext.Paragraph("It is a long one. No it. Yes it is.", False)]
  assert prose.lines(paragraphs, prose.Options()) == [
      "It is a long one.", "Yes it is."]
  assert prose.lines(paragraphs, prose.Options(min_words=2)) == [
      "It is a long one.", "No it.", "Yes it is."]
  assert prose.lines(paragraphs, prose.Options(min_sentences=3)) == []


def test_counts_words_without_spaces():
  assert prose.count_words("It is so.") == 3
  assert prose.count_words("这是一个句子。") == 6
  assert prose.count_words("Я тут был.") == 3


@pytest.mark.parametrize("title, text, expected", [
    ("Ada (disambiguation)", "", True),
    ("Ada", "{{disambiguation}}", True),
    ("Ada", "{{Disambig|geo}}", True),
    ("Ada", "{{hndis|Ada}}", True),
    ("Ada", "{{Geodis}}", True),
    ("Ada", "__DISAMBIG__", True),
    ("Ada", "{{Disambiguation needed|date=May 2010}}", False),
    ("Ada", "{{Infobox}} See the disambiguation.", False),
    ("Ada (name)", "", False),
])
def test_finds_disambiguation_pages(title, text, expected):
  assert wikitext.is_disambiguation(title, text) == expected


JUNK = ["[http://a b ", "{{", "{{a|", "[[a|", "<ref>", "<ref name=", "''", "(",
        ", ", " ;", "&nbsp;", "a. ", '"A. ', "\n{|", "<!--", "<nowiki>",
        "\n== a ", "=\n", "<math>", "(A. ", "a.) ", "() ", "]]", "}}", "&",
        "[[File:a|thumb|", "* ", "{{{", "! ", "<br>", "1<sup>", "中",
        "http://a ", "c. 5 ", "; 2. ", " .", "__A", "a'''s ", "(or ",
        "-{", "-{a", "-{{{", "}-", "-{zh:a;", "<rt>", "<ruby><rt>a<b>", "__A_",
        "{{foo}} ", "{{foo\n}} ", "a {{foo}}<ref/>", "<source>", "。", "ก "]


@pytest.mark.parametrize("junk", JUNK)
def test_junk_takes_linear_time(junk):
  text = "It starts here. " + junk * (100000 // len(junk)) + " It ends here."
  start = time.process_time()
  prose.lines(wikitext.paragraphs(
      text, wikitext.Wiki("zh", WIKI.dropped_links), templates.Holes()),
              prose.Options())
  # Quadratic time would take minutes.
  assert time.process_time() - start < 5


def test_random_markup_neither_fails_nor_leaks():
  pieces = JUNK + ["It is so. ", "\n\n", "|}", "</ref>", "-->", "|", "|-\n",
                   "{{convert|5|km}}", "[[dog]]", "</math>", "text ", "\n"]
  for seed in range(300):
    generator = random.Random(seed)
    text = "".join(generator.choice(pieces) for _ in range(60))
    for line in prose.lines(wikitext.paragraphs(text, WIKI), prose.Options()):
      assert "\n" not in line and line == line.strip() and line
      assert not re.search(r"\[\[|\]\]|\{\{|\}\}|<ref|\||\ue000", line), seed

"""Tests of the sentence splitter, with boundaries written by hand."""

import pytest

from extract_wikipedia_for_bert import sentences

# "|" marks the end of a sentence.
ENGLISH = """
He went home.|She stayed.
Is it true?|It is!|Well, yes.
What?!|Nobody knew.
Dr. Smith met Mr. Jones and Mrs. Brown.|They talked.
He lived in the U.S. Army barracks.
It was built in St. Louis, Mo., in 1900.|It fell.
Washington, D.C. is a city.
The price is 3.5 dollars.|It rose by 4.25 percent.
The version 2.0 of it works.|So does 3.1.4.
See Vol. 3 and p. 4 for it.|The rest is lost.
The case of Smith v. Jones was decided.|He lost.
He was born c. 1900 in Rome.|He died ca. 1950.
Homo spp. are many.|Others are few.
The mass is 20 lbs. 4 oz. in all.
See No. 5 in the list.|It is new.
J. R. R. Tolkien wrote it.|C. S. Lewis read it.
George W. Bush won.|Al Gore lost.
Bvt. Brig. Gen. Atkinson led.|Sgt. York followed.
Lt. Col. Smith and Capt. Howe came.|Gen. Lee did not.
The firm Foo Inc. was sold.|It is gone.
He has a Ph.D. in physics.|She has none.
At 5 p.m. on Monday it rained.|At 6 a.m. it stopped.
They use tools, e.g. Hammers and saws.|And so on.
It is large, i.e. London is.|Others are small.
Smith et al. found it.|Nobody else did.
Species of Rosa var. alba grow there.|They are white.
The list (a, b, etc.) is long.|It ends.
He said "This is it.|He went." and left.
"This is the man.|He fights."|It was so.
He wrote "I came.|I saw.|I won."|Then he slept.
He said: "I saw this man.|He fights."|Others did not.
“We know.|We always knew.”|She agreed.
«Es ist so.|Wir wissen es.»|Das war alles.
She asked "Why?"|Nobody answered.
"Stop!" he cried.|They stopped.
"Is it?" she asked.|It was.
He called it 'art'.|They laughed.
It ended (see below).|Then it began.
(It was so.)|It is not.
This (and only this.) was kept.
It was so.|(It is not.)|Nobody cared.
1. This is the first.|2. This is the second.
a) the first; b) the second.
There are three: 1. Lincoln; 2. Washington; and 3. Roosevelt.
II. The second war began.|It ended.
Yahoo! is a company.|It is old.
E. coli is a bacterium.|It lives.
It is long.[1]|It is old.[2][3]|It ends.
The file is named a.out by default.|It runs.
Visit example.com today.|It is free.
He waited ... and left.|Nobody came.
It was... strange.|We left.
And then ...|Nothing happened.
The 7th Cir. 2007 decision stands.|It binds.
On Dec. 3 he left.|On Jan. 5 he came.
Fig. 3 shows it.|Table 4 does not.
A work of art.|Hirst made it.
They grow beans, peas, etc.|Observe the rest.
It rained in May.|Lafayette came.
Here masc. = 'masculine' is used.|It is short.
The steepness of the so-vs.-so curve grows.|It falls.
It costs $5.50 now.|It was $4.
He is 1.80 m tall.|She is 1.75 m.
The ratio is 1:2.|The sum is 3.
He left; she stayed.|They met again.
Mount St. Helens erupted.|Mt. Everest did not.
Jr. stands for junior.|John Smith Jr. was one.
The guns are the vz. 61 and others.|They fire.
Sammy Davis Jr. sang.|He danced.
The No. 1 song was his.|No. 2 was not.
It was the end of World War II.|Peace came.
"""
OTHER_LANGUAGES = [
    ("bg", "Това е изречение.|Това е друго.|А това?"),
    ("de", "Das ist z. B. gut.|Er kam am 3. Oktober.|Dann ging er."),
    ("fr", "C'est « ainsi ».|Il est parti.|Elle reste !"),
    ("zh", "这是一个句子。|这是另一个！|对吗？"),
    ("hi", "यह एक वाक्य है।|यह दूसरा है।"),
    ("my", "က၊ ခ။|ဂ။"),  # The first mark is a comma.
    ("xx", "No language has this code.|It works."),
    ("hy", "Սա առաջինն է։|Սա երկրորդն է:|Քանի՞սն են։|Ժամը 12։30 է։"),
    ("bo", "བོད་ནི་ཡུལ་ཞིག་ཡིན།|འདི་ནི་ཚིག་གྲུབ་རེད། །|བཀྲ་ཤིས།"),
    ("am", "ይህ አንድ ነው።|ያ ሁለት ነው፡፡|ሦስት ነው::|አራት ነው።"),
    ("km", "នេះជាមួយ។|នោះជាពីរ។"),
    ("el", "Τι είναι;|Είναι αυτό.|Ναι."),
    ("ur", "یہ ایک ہے۔|وہ دو ہے؟|ہاں۔"),
    # Marks that no language of sentencex has: Javanese, Santali.
    ("xx", "ꦲꦤꦕꦫꦏ꧉|ꦢꦠꦱꦮꦭ꧉"), ("xx", "ᱱᱚᱣᱟ ᱢᱤᱫ᱾|ᱚᱱᱟ ᱵᱟᱨ᱾"),
    ("de", "Im 19. Jahrhundert war der 2. Weltkrieg fern.|Er kam 1900.|So."),
    ("tr", "19. Yüzyılda II. Abdülhamid tahta çıktı.|Prof. Dr. Ali geldi."),
    ("hu", "A II. Világháború után IV. Béla király volt.|Ez volt."),
    ("fr", "Il est né en 12.|Elle est née en 1900.|Le roi."),
    ("uk", "Це писали Франко та І. Нечуй, і М. С. Грушевський.|Так було."),
    ("fr", "C'est M. Dupont.|Il aime J.-S. Bach."),
    ("ja", "江戸とも。|「そうだ。|いいか？」と言った。|「はい。」|東京だ。"),
    # If the script has its own full stop, a point ends an abbreviation.
    ("hi", "डॉ. राजेन्द्र प्रसाद राष्ट्रपति थे।|वे बिहार के थे।"),
    ("bg", "Годините са „сл. Хр.“ или н.е.|Те са дълги, т.е. 365 дни.|Край."),
    ("vi", "Sách có \"主之。\"|Ông về nước.|Ông đọc \"क।\"|Ông đi.|Ông về."),
    ("mr", "हे पहिले आहे.|ते दुसरे आहे."),
    ("hy", "Եղել է մ․թ․ա․ 782 թ. Արգիշտիի օրոք։|Սա երկրորդն է։"),
    ("zh", "他说：“你好。”|4人走了！"),
]


@pytest.mark.parametrize("line", ENGLISH.strip().split("\n"))
def test_splits_english(line):
  expected = line.split("|")
  assert sentences.split(" ".join(expected), "en") == expected


@pytest.mark.parametrize("language, line", OTHER_LANGUAGES)
def test_splits_other_languages(language, line):
  expected = line.split("|")
  space = "" if language in ("zh", "ja") else " "
  assert sentences.split(space.join(expected), language) == expected


def test_knows_the_marks_of_unicode():
  marks = set(sentences.TERMINAL_MARKS)
  assert set(".!?…‼‽⁇⁈⁉。！？．｡؟۔।॥።៕։᙮᠃꓿꘎꛷꫰꯫᭚།༎") <= marks
  assert not marks & set(",;:၊،、՝·")


THAI = ["กรุงเทพมหานครเป็นเมืองหลวงและนครที่มีประชากรมากที่สุดของประเทศ",
        "เป็นศูนย์กลางการปกครองการศึกษา การคมนาคมขนส่ง",
        "เมื่อ พ.ศ. 2325 เป็นต้น ๆ พระองค์ทรงย้ายเมืองหลวงมาที่นี่ แล้ว"]


def test_splits_scripts_without_marks_at_spaces():
  assert sentences.is_unmarked(" ".join(THAI))
  assert sentences.split_at_spaces(" ".join(THAI)) == THAI
  assert sentences.split_at_spaces("ก" * 90) == ["ก" * 90]
  # Neither a number nor a word of another script begins a line.
  line = "ก" * 50 + " 2325 " + "ก" * 50 + " BERT " + "ก" * 50
  assert sentences.split_at_spaces(line) == [line]
  assert sentences.is_unmarked("ວຽງຈັນເປັນນະຄອນຫຼວງຂອງປະເທດລາວ")
  assert not sentences.is_unmarked("Thai: " + THAI[1][:6])
  assert not sentences.is_unmarked("这是一个句子")


def test_loses_no_character():
  text = ('"A. B." (C d. E) «F. G» ... h? I! 1. J; 2. K, e.g. L. etc. M "n." '
          "O.P. Qr.[1] S' t’s. ‘U. V.’ W ")
  for start in range(len(text)):
    part = text[start:]
    assert "".join(sentences.split(part)).replace(" ", "") == part.replace(
        " ", "")


def test_splits_long_paragraphs():
  expected = ["This is sentence {} of them.".format(n) for n in range(2000)]
  assert sentences.split(" ".join(expected)) == expected
  assert sentences.split("a" * 20000) == ["a" * 20000]
  # Long paragraphs are searched in windows, whose ends may not split 3.5.
  for padding in range(2, 32):
    expected = (["It is " + "a" * padding + "."]
                + ["It was 3.5 of 9.75 in all."] * 300)
    assert sentences.split(" ".join(expected)) == expected


def test_splits_an_empty_text_into_no_sentences():
  assert sentences.split("") == []
  assert sentences.split(" ") == []


@pytest.mark.parametrize("sentence, is_ended", [
    ("It is.", True), ('He said "It is."', True), ("(It is!)", True),
    ("It is ...", True), ("Is it?»", True), ("是。", True), ("है।", True),
    ("Է։", True), ("ཡིན།", True), ("ነው።", True),
    ("It is", False), ("It is:", False), ("It is,", False), ("", False)])
def test_knows_terminal_marks(sentence, is_ended):
  assert sentences.is_ended(sentence) == is_ended


def test_knows_the_marks_of_a_language():
  assert sentences.is_ended("Τι είναι;", "el")
  assert not sentences.is_ended("It is;", "en")
  assert sentences.is_ended("Սա է:", "hy")
  assert sentences.is_ended("ነው፡፡", "am")
  assert not sentences.is_ended("ነው፡", "am")

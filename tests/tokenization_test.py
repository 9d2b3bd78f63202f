"""Tests of BERT's tokenizers."""

import inspect
import pathlib
import random
import subprocess
import sys

import pytest

import reference_pretraining_data as reference
import tokenization

_FUZZ_STRINGS = 100_000
# Characters on which BERT and Python disagree, or with special rules in BERT.
_TRICKY = (
    " \t\n\r\0\ufffd\x0b\x0c\x1c\x1d\x1e\x1f\x7f\x85\xa0\xad\u1680\u2000\u200b"
    "\u200d\u2028\u2029\u202f\u3000\ufeff'-_.,!?$+<=>^`|~#@[]\u00bf\u2019\u2014"
    "\u3001AaZz09\u00c9\u00e9e\u0301\u0130\u0131\u00df\u1e9e\u03a3\u03c3\u03c2"
    "\u0416\u4e00\u9fff\uf900\U00020000\u3042\uac00\u00b2\u0660\u212b\u2126"
    "\ufb01\U0001f600\U000e0001\ud800")


# The vocabulary of BERT's own tests, and a text with an accent.
_BERT_TOKENS = ("[UNK] [CLS] [SEP] want ##want ##ed wa un runn ##ing ,"
                .split())
_BERT_TEXT = "UNwant\u00e9d,running"
# The public names of BERT's tokenization.py, with parameters and defaults.
_BERT_INTERFACE = {
    "validate_case_matches_checkpoint": ("do_lower_case", "init_checkpoint"),
    "convert_to_unicode": ("text",),
    "printable_text": ("text",),
    "load_vocab": ("vocab_file",),
    "convert_by_vocab": ("vocab", "items"),
    "convert_tokens_to_ids": ("vocab", "tokens"),
    "convert_ids_to_tokens": ("inv_vocab", "ids"),
    "whitespace_tokenize": ("text",),
    # This project adds strip_accents, here and in BasicTokenizer.
    "FullTokenizer": ("vocab_file", ("do_lower_case", True),
                      ("strip_accents", None)),
    "FullTokenizer.tokenize": ("self", "text"),
    "FullTokenizer.convert_tokens_to_ids": ("self", "tokens"),
    "FullTokenizer.convert_ids_to_tokens": ("self", "ids"),
    "BasicTokenizer": (("do_lower_case", True), ("strip_accents", None)),
    "BasicTokenizer.tokenize": ("self", "text"),
    "WordpieceTokenizer": ("vocab", ("unk_token", "[UNK]"),
                           ("max_input_chars_per_word", 200)),
    "WordpieceTokenizer.tokenize": ("self", "text"),
}


@pytest.fixture(scope="module", name="vocab")
def _vocab():
  """Returns a vocabulary of some words and most Latin characters."""
  words = ["un", "##aff", "##able", "want", "##want", "##ed", "wa", "run",
           "runn", "##ning", "hello", "world", "Hello", "\u4e00", "\u9fff"]
  letters = [chr(i) for i in range(33, 0x250)]
  letters += "\u03c3\u03c2\u0436\u3042"
  tokens = list(tokenization.SPECIAL_TOKENS) + words
  tokens += letters + ["##" + letter for letter in letters[::2]]
  return {token: i for i, token in enumerate(dict.fromkeys(tokens))}


@pytest.fixture(name="bert_vocab_file")
def _bert_vocab_file(tmp_path):
  path = tmp_path / "vocab.txt"
  path.write_text("".join(token + "\n" for token in _BERT_TOKENS))
  return str(path)


# --- BERT's interface --------------------------------------------------------


@pytest.mark.parametrize("name", sorted(_BERT_INTERFACE))
def test_names_and_signatures_equal_those_of_bert(name):
  found = tokenization
  for part in name.split("."):
    found = getattr(found, part)
  parameters = inspect.signature(found).parameters.values()
  assert tuple(
      parameter.name if parameter.default is parameter.empty
      else (parameter.name, parameter.default)
      for parameter in parameters) == _BERT_INTERFACE[name]


@pytest.mark.parametrize("text, expected", [
    ("caf\u00e9", "caf\u00e9"),
    ("caf\u00e9".encode("utf-8"), "caf\u00e9"),
    (b"ca\xfff\xc3", "caf"),
    ("", ""),
])
def test_text_may_be_str_or_bytes(text, expected):
  assert tokenization.convert_to_unicode(text) == expected
  assert tokenization.printable_text(text) == expected


@pytest.mark.parametrize("text", [None, 5, ["text"], bytearray(b"text")])
def test_text_of_another_type_is_an_error(text):
  for function in (tokenization.convert_to_unicode,
                   tokenization.printable_text):
    with pytest.raises(ValueError, match="not " + type(text).__name__):
      function(text)


def test_full_tokenizer_reads_its_vocabulary(bert_vocab_file):
  tokenizer = tokenization.FullTokenizer(
      vocab_file=bert_vocab_file, do_lower_case=True)
  tokens = tokenizer.tokenize(_BERT_TEXT)
  assert tokens == ["un", "##want", "##ed", ",", "runn", "##ing"]
  assert tokenizer.tokenize(_BERT_TEXT.encode("utf-8")) == tokens
  ids = [7, 4, 5, 10, 8, 9]
  assert tokenizer.convert_tokens_to_ids(tokens) == ids
  assert tokenizer.convert_ids_to_tokens(ids) == tokens
  assert tokenizer.encode(_BERT_TEXT) == ids
  assert tokenizer.encode(_BERT_TEXT.encode("utf-8")) == ids
  assert tokenizer.vocab == {token: i for i, token in enumerate(_BERT_TOKENS)}
  assert tokenizer.inv_vocab == dict(enumerate(_BERT_TOKENS))


def test_full_tokenizer_chains_basic_and_wordpiece_tokenizers(bert_vocab_file):
  for do_lower_case in (True, False):
    tokenizer = tokenization.FullTokenizer(bert_vocab_file, do_lower_case)
    words = tokenizer.basic_tokenizer.tokenize(_BERT_TEXT)
    assert words == (["unwanted", ",", "running"] if do_lower_case
                     else ["UNwant\u00e9d", ",", "running"])
    assert tokenizer.tokenize(_BERT_TEXT) == [
        piece for word in words
        for piece in tokenizer.wordpiece_tokenizer.tokenize(word)]


def test_a_vocabulary_in_memory_gives_the_same_tokenizer(bert_vocab_file):
  from_file = tokenization.FullTokenizer(bert_vocab_file, do_lower_case=False)
  from_memory = tokenization.FullTokenizer.from_vocab(
      tokenization.load_vocab(bert_vocab_file), do_lower_case=False)
  assert isinstance(from_memory, tokenization.FullTokenizer)
  assert from_memory.vocab == from_file.vocab
  assert from_memory.inv_vocab == from_file.inv_vocab
  assert from_memory.encode("unwanted UN,") == [7, 4, 5, 0, 10]


@pytest.mark.parametrize("text, tokens", [
    ("", []),
    (" \t\n", []),
    ("unwanted running", ["un", "##want", "##ed", "runn", "##ing"]),
    (b" unwanted\n", ["un", "##want", "##ed"]),
    ("unwantedX running", ["[UNK]", "runn", "##ing"]),
    # The basic tokenizer handles case and punctuation.
    ("want, Want", ["[UNK]", "[UNK]"]),
])
def test_wordpiece_tokenizes_text(text, tokens):
  vocab = {token: i for i, token in enumerate(_BERT_TOKENS)}
  assert tokenization.WordpieceTokenizer(vocab).tokenize(text) == tokens


def test_wordpiece_takes_an_unknown_token_and_a_maximum_word_length():
  tokenizer = tokenization.WordpieceTokenizer(
      vocab={"a": 0, "##a": 1}, unk_token="<unk>", max_input_chars_per_word=3)
  assert tokenizer.tokenize("aaa aaaa b") == [
      "a", "##a", "##a", "<unk>", "<unk>"]
  assert tokenizer.unk_token == "<unk>"
  assert tokenizer.max_input_chars_per_word == 3


@pytest.mark.parametrize("tokens", [
    [], [""], ["##"], ["", "##", "a"], ["##a"], ["[UNK]"]])
def test_wordpiece_accepts_small_vocabularies(tokens):
  vocab = {token: i for i, token in enumerate(tokens)}
  tokenizer = tokenization.WordpieceTokenizer(vocab)
  assert tokenizer.tokenize("a b") == ["a" if "a" in vocab else "[UNK]",
                                       "[UNK]"]
  assert tokenizer.tokenize("ab") == ["[UNK]"]


def test_a_vocabulary_may_lack_an_unknown_token():
  tokenizer = tokenization.FullTokenizer.from_vocab({"a": 0, "##b": 1})
  assert tokenizer.tokenize("a AB") == ["a", "a", "##b"]
  assert tokenizer.encode("a AB") == [0, 0, 1]
  assert tokenizer.tokenize("ab c") == ["a", "##b", "[UNK]"]
  with pytest.raises(KeyError, match="'c' is unknown"):
    tokenizer.encode("ab c")
  with pytest.raises(KeyError, match="UNK"):
    tokenizer.convert_tokens_to_ids(["[UNK]"])


def test_items_are_converted_by_a_vocabulary():
  vocab = {"a": 3, "b": 5}
  assert tokenization.convert_by_vocab(vocab, ("b", "a", "b")) == [5, 3, 5]
  assert tokenization.convert_tokens_to_ids(vocab, ["a"]) == [3]
  assert tokenization.convert_ids_to_tokens({3: "a", 5: "b"}, [5]) == ["b"]
  with pytest.raises(KeyError):
    tokenization.convert_tokens_to_ids(vocab, ["c"])


@pytest.mark.parametrize("text", ["", " \t", "a", "  a \n b\tc ", "a\u3000b"])
def test_whitespace_tokenize_splits_at_white_space(text):
  assert tokenization.whitespace_tokenize(text) == [
      character for character in text if not character.isspace()]


@pytest.mark.parametrize("path, is_lower", [
    ("uncased_L-12_H-768_A-12/bert_model.ckpt", True),
    ("/models/wwm_uncased_L-24_H-1024_A-16/bert_model.ckpt", True),
    ("gs://bert/BERT-Uncased/vocab.txt", True),
    ("multilingual_L-12_H-768_A-12/bert_model.ckpt", True),
    ("x/chinese_L-12_H-768_A-12/vocab.txt", True),
    ("cased_L-12_H-768_A-12/bert_model.ckpt", False),
    ("/uncased/multi_cased_L-12_H-768_A-12/vocab.txt", False),
])
def test_the_case_must_be_that_of_the_checkpoint(path, is_lower):
  tokenization.validate_case_matches_checkpoint(is_lower, path)
  with pytest.raises(ValueError) as error:
    tokenization.validate_case_matches_checkpoint(not is_lower, path)
  assert path in str(error.value)
  assert "do_lower_case={}".format(is_lower) in str(error.value)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", [
    "", None, "bert_model.ckpt", "my_model/cased.ckpt", "uncased/tuned/model",
    "encased_L-12/bert_model.ckpt", "cased_and_uncased/vocab.txt",
    "chinese_L-12_H-768_A-12_tuned/model.ckpt"])
def test_a_checkpoint_name_without_a_case_passes(path):
  for do_lower_case in (True, False):
    tokenization.validate_case_matches_checkpoint(do_lower_case, path)


def test_tokenization_needs_only_the_standard_library():
  # -S: without the installed packages.
  subprocess.run(
      [sys.executable, "-S", "-c", "import tokenization"], check=True,
      cwd=pathlib.Path(tokenization.__file__).parent)


# --- The rules ---------------------------------------------------------------


@pytest.mark.parametrize("text, lower, cased", [
    ("Hello, World!", "hello , world !", "Hello , World !"),
    ("don't  e-mail\tme", "don ' t e - mail me", "don ' t e - mail me"),
    # Lower-casing drops accents, combining ones too, and keeps the sharp s.
    ("Caf\u00e9 cafe\u0301 \u00df", "cafe cafe \u00df",
     "Caf\u00e9 cafe\u0301 \u00df"),
    # Each Chinese character is a word; kana and Hangul form longer words.
    ("\u4e00\u9fffa\u3042\u3044", "\u4e00 \u9fff a\u3042\u3044",
     "\u4e00 \u9fff a\u3042\u3044"),
    # ASCII symbols are punctuation, others are not.
    ("a+b=$5 \u20ac5", "a + b = $ 5 \u20ac5", "a + b = $ 5 \u20ac5"),
    # Control characters are removed, even where Python would split.
    ("a\x0bb\x1cc\x85d\u200be\0f\ufffdg\xadh", "abcdefgh", "abcdefgh"),
    # Every space splits, even U+2028, which is a space only in Python.
    ("a\xa0b\u3000c\u2028d\re", "a b c d e", "a b c d e"),
    ("", "", ""),
    (" \t\xa0\0 ", "", ""),
])
def test_basic_tokenizer_splits_words_and_marks(text, lower, cased):
  assert tokenization.BasicTokenizer(True).tokenize(text) == lower.split()
  assert tokenization.BasicTokenizer(False).tokenize(text) == cased.split()


@pytest.mark.parametrize("do_lower_case, strip_accents, words", [
    (True, None, "eleve e 中 .  e"), (True, True, "eleve e 中 .  e"),
    (True, False, "\xe9l\xe8ve e\u0301 中 . \xe9"),
    (False, None, "\xc9l\xe8ve E\u0301 中 . \xc9"),
    (False, False, "\xc9l\xe8ve E\u0301 中 . \xc9"),
    (False, True, "Eleve E 中 . E")])
def test_strip_accents_is_independent_of_do_lower_case(
    do_lower_case, strip_accents, words):
  basic = tokenization.BasicTokenizer(do_lower_case, strip_accents)
  text = "\xc9l\xe8ve E\u0301中. \xc9"
  assert basic.tokenize(text) == words.split()
  vocab = {token: i for i, token in enumerate(["[UNK]", *words.split()])}
  full = tokenization.FullTokenizer.from_vocab(
      vocab, do_lower_case, strip_accents)
  assert full.tokenize(text) == words.split()


@pytest.mark.parametrize("word, pieces", [
    ("unaffable", "un ##aff ##able"),
    ("unwanted", "un ##want ##ed"),
    ("running", None),
    ("runnning", "runn ##ning"),
    ("unx", None),
    ("hello", "hello"),
    ("h" * 200, "h" + " ##h" * 199),
    ("h" * 201, None),
])
def test_wordpiece_takes_the_longest_pieces(word, pieces):
  vocab = {token: i for i, token in enumerate(
      "[UNK] [CLS] [SEP] [MASK] un ##aff ##able ##want ##ed run runn ##ning "
      "hello h ##h".split())}
  tokens = tokenization.FullTokenizer.from_vocab(vocab).tokenize(word)
  assert tokens == (pieces.split() if pieces else ["[UNK]"])


def test_tokens_and_ids_are_converted_both_ways(vocab):
  tokenizer = tokenization.FullTokenizer.from_vocab(vocab)
  tokens = tokenizer.tokenize("Hello unaffable world \U0001f600")
  assert tokens == ["hello", "un", "##aff", "##able", "world", "[UNK]"]
  ids = tokenizer.convert_tokens_to_ids(tokens)
  assert ids == [vocab[token] for token in tokens]
  assert tokenizer.convert_ids_to_tokens(ids) == tokens
  assert tokenizer.encode("Hello unaffable world \U0001f600") == ids


@pytest.mark.parametrize("do_lower_case, strip_accents, num_strings", [
    (True, None, _FUZZ_STRINGS // 2), (False, None, _FUZZ_STRINGS // 2),
    (True, False, _FUZZ_STRINGS // 20), (False, True, _FUZZ_STRINGS // 20)])
def test_ids_equal_the_reference_on_random_unicode(
    vocab, do_lower_case, strip_accents, num_strings):
  rng = random.Random(do_lower_case)
  ascii_text = [chr(i) for i in range(128)]
  latin = [chr(i) for i in range(0x370)]
  lines = []
  for i in range(num_strings):
    if i % 4:
      letters = (ascii_text, latin, _TRICKY)[i % 3]
      line = "".join(rng.choices(letters, k=rng.randrange(12)))
    else:
      line = "".join(chr(rng.randrange(0x110000)) for _ in range(6))
    lines.append(line + rng.choice(("", " ", "\n")) + rng.choice(_TRICKY))
  tokenizer = tokenization.FullTokenizer.from_vocab(
      vocab, do_lower_case, strip_accents)
  ids, lengths = tokenizer.encode_lines(lines)
  end = 0
  for line, length in zip(lines, lengths):
    expected = reference.tokenize(line, vocab, do_lower_case, strip_accents)
    assert ids[end:end + length].tolist() == [
        vocab[token] for token in expected], repr(line)
    end += length
  assert end == len(ids)


@pytest.mark.slow
def test_ids_equal_the_reference_on_real_text(shared):
  vocab_file = str(shared / "data/teacher/vocab.txt")
  vocab = tokenization.load_vocab(vocab_file)
  assert vocab == reference.read_vocabulary(vocab_file)
  for name, do_lower_case in (("movie_reviews_heldout.txt", True),
                              ("state_of_the_union.txt", True),
                              ("state_of_the_union.txt", False)):
    text = (shared / "data/text" / name).read_text(encoding="utf-8")
    lines = text.split("\n")[:6000]
    tokenizer = tokenization.FullTokenizer(vocab_file, do_lower_case)
    for line in lines:
      assert tokenizer.tokenize(line) == reference.tokenize(
          line, vocab, do_lower_case)


def test_a_full_cache_changes_nothing(vocab):
  rng = random.Random(0)
  lines = [" ".join("".join(rng.choices("abc,.", k=rng.randrange(1, 4)))
                    for _ in range(20)) for _ in range(50)]
  tokenizer = tokenization.FullTokenizer.from_vocab(vocab)
  expected = tokenizer.encode_lines(lines)
  assert len(tokenizer.word_cache) > 5
  tokenizer.word_cache = tokenization.WordCache(
      tokenizer.basic_tokenizer, tokenizer.wordpiece_tokenizer, max_words=5,
      max_length=2)
  assert tokenizer.encode_lines(lines) == expected
  assert len(tokenizer.word_cache) <= 5
  assert max(map(len, tokenizer.word_cache)) <= 2


# Chinese characters and possible neighbours: kana, Hangul, Latin and Greek
# letters, marks that do and do not split words, accents, marks that change the
# lower case of Σ, control characters, and spaces of all kinds.
_BESIDE_CHINESE = ("中文字國㐀豈𠀀𪜀、。，！？；（）《》「」『』【】“”：．·’'"
                   "かなカナー한글abΑΣβé"
                   "\u0301\u3000\u00a0\u200b\ufeff\t\0 .,-½ǅß丽")


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_ids_of_chinese_equal_the_reference(do_lower_case):
  vocab = {token: index for index, token in enumerate(
      ["[UNK]", *_BESIDE_CHINESE, *("##" + char for char in _BESIDE_CHINESE),
       "##ς", "ς", "α", "σ", "e", "##e"])}
  tokenizer = tokenization.FullTokenizer.from_vocab(vocab, do_lower_case)
  rng = random.Random(1)
  for _ in range(3000):
    line = "".join(rng.choices(_BESIDE_CHINESE, k=rng.randrange(30)))
    assert tokenizer.tokenize(line) == reference.tokenize(
        line, vocab, do_lower_case), repr(line)


def test_chinese_text_is_not_cached(vocab):
  tokenizer = tokenization.FullTokenizer.from_vocab(vocab)
  tokenizer.encode_lines(["这是一个句子，很长。", "abcかな中文한글，x"])
  assert set(tokenizer.word_cache) - {"\n"} == {"abcかな", "한글", "x"}


def test_chinese_characters_may_have_any_id():
  # 0xD800 and 0xDFFF are no characters in UTF-32.
  vocab = {"[UNK]": 0, "中": 0xD800, "文": 0xDFFF, "。": 0x10FFFF, "a": 7}
  tokenizer = tokenization.FullTokenizer.from_vocab(vocab)
  assert tokenizer.encode("中文。國a") == [0xD800, 0xDFFF, 0x10FFFF, 0, 7]


@pytest.mark.parametrize("word", [
    "{}かなの" + "あ" * 50, "a" * 8 + "{}",
    "a" * 50 + "{}", "ж" * 20 + "{}", "\U00010400" * 50 + "{}"])
def test_the_memory_of_a_cache_is_bounded(vocab, word):
  most_words = 2000
  tokenizer = tokenization.FullTokenizer.from_vocab(
      {**vocab, **{"##" + char: 1 for char in "aあж0123456789"},
       "a": 2, "あ": 3})
  tokenizer.word_cache = tokenization.WordCache(
      tokenizer.basic_tokenizer, tokenizer.wordpiece_tokenizer,
      max_words=most_words)
  most = 0
  for start in range(0, 2400, 200):
    tokenizer.encode(" ".join(map(word.format, range(start, start + 200))))
    cache = tokenizer.word_cache
    assert cache
    most = max(most, sys.getsizeof(cache) + sum(
        sys.getsizeof(word) + sys.getsizeof(ids)
        for word, ids in cache.items()))
  # A cache of _MAX_CACHED_WORDS words may take 50 MB; allow 20% more.
  assert most < 50e6 * most_words / tokenization._MAX_CACHED_WORDS * 1.2


def test_large_vocabularies_keep_their_ids():
  vocab = {"[UNK]": 0}
  vocab.update(("w{}".format(i), i) for i in range(1, 0x12000))
  tokenizer = tokenization.FullTokenizer.from_vocab(vocab)
  ids, lengths = tokenizer.encode_lines(["w55296 w57343", "w65536 w73727"])
  assert ids.tolist() == [55296, 57343, 65536, 73727]
  assert lengths.tolist() == [2, 2]


@pytest.mark.parametrize("content, tokens", [
    (b"", []),
    (b"the\ncat\n", ["the", "cat"]),
    # White space around tokens is removed; the last line needs no line end.
    (b" the\r\n\n##s", ["the", "", "##s"]),
    ("\u2028\u4e00\n".encode(), ["\u4e00"]),
])
def test_any_utf_8_text_is_a_vocabulary(tmp_path, content, tokens):
  path = tmp_path / "vocab.txt"
  path.write_bytes(content)
  vocab = tokenization.load_vocab(str(path))
  assert list(vocab.items()) == [(token, i) for i, token in enumerate(tokens)]


def test_a_vocabulary_of_another_encoding_is_an_error(tmp_path):
  path = tmp_path / "vocab.txt"
  path.write_bytes(b"[UNK]\n\xff\n")
  with pytest.raises(ValueError, match="vocab.txt is not UTF-8"):
    tokenization.load_vocab(str(path))
  with pytest.raises(ValueError, match="vocab.txt is not UTF-8"):
    tokenization.FullTokenizer(str(path))

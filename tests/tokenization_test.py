"""Tests of BERT's tokenizers."""

import random

import pytest

import reference_pretraining_data as reference
import tokenization

_FUZZ_STRINGS = 100_000
# Where the rules of BERT and of Python differ, or those of BERT bite.
_TRICKY = (
    " \t\n\r\0\ufffd\x0b\x0c\x1c\x1d\x1e\x1f\x7f\x85\xa0\xad\u1680\u2000\u200b"
    "\u200d\u2028\u2029\u202f\u3000\ufeff'-_.,!?$+<=>^`|~#@[]\u00bf\u2019\u2014"
    "\u3001AaZz09\u00c9\u00e9e\u0301\u0130\u0131\u00df\u1e9e\u03a3\u03c3\u03c2"
    "\u0416\u4e00\u9fff\uf900\U00020000\u3042\uac00\u00b2\u0660\u212b\u2126"
    "\ufb01\U0001f600\U000e0001\ud800")


@pytest.fixture(scope="module", name="vocab")
def _vocab():
  """A vocabulary in which most characters and some words have a token."""
  words = ["un", "##aff", "##able", "want", "##want", "##ed", "wa", "run",
           "runn", "##ning", "hello", "world", "Hello", "\u4e00", "\u9fff"]
  letters = [chr(i) for i in range(33, 0x250)]
  letters += "\u03c3\u03c2\u0436\u3042"
  tokens = list(tokenization.SPECIAL_TOKENS) + words
  tokens += letters + ["##" + letter for letter in letters[::2]]
  return {token: i for i, token in enumerate(dict.fromkeys(tokens))}


@pytest.mark.parametrize("text, lower, cased", [
    ("Hello, World!", "hello , world !", "Hello , World !"),
    ("don't  e-mail\tme", "don ' t e - mail me", "don ' t e - mail me"),
    # Accents go, and so do combining ones; the sharp s stays.
    ("Caf\u00e9 cafe\u0301 \u00df", "cafe cafe \u00df",
     "Caf\u00e9 cafe\u0301 \u00df"),
    # Chinese stands alone, kana and Hangul do not.
    ("\u4e00\u9fffa\u3042\u3044", "\u4e00 \u9fff a\u3042\u3044",
     "\u4e00 \u9fff a\u3042\u3044"),
    # ASCII symbols are punctuation, others are not.
    ("a+b=$5 \u20ac5", "a + b = $ 5 \u20ac5", "a + b = $ 5 \u20ac5"),
    # Control characters vanish, also where Python would split.
    ("a\x0bb\x1cc\x85d\u200be\0f\ufffdg\xadh", "abcdefgh", "abcdefgh"),
    # Every kind of space splits; U+2028 is one to Python alone.
    ("a\xa0b\u3000c\u2028d\re", "a b c d e", "a b c d e"),
    ("", "", ""),
    (" \t\xa0\0 ", "", ""),
])
def test_basic_tokenizer_splits_words_and_marks(text, lower, cased):
  assert tokenization.BasicTokenizer(True).tokenize(text) == lower.split()
  assert tokenization.BasicTokenizer(False).tokenize(text) == cased.split()


@pytest.mark.parametrize("word, pieces", [
    ("unaffable", "un ##aff ##able"),
    ("unwanted", "un ##want ##ed"),
    ("running", "runn [no] ##ing"),
    ("runnning", "runn ##ning"),
    ("unx", "un [no]"),
    ("hello", "hello"),
    ("h" * 200, None),
])
def test_wordpiece_takes_the_longest_pieces(word, pieces):
  vocab = {token: i for i, token in enumerate(
      "[UNK] [CLS] [SEP] [MASK] un ##aff ##able ##want ##ed run runn ##ning "
      "hello h ##h".split())}
  tokens = tokenization.FullTokenizer(vocab).tokenize(word)
  if pieces is None:
    assert tokens == ["h"] + ["##h"] * 199
    # One letter more is too long.
    assert tokenization.FullTokenizer(vocab).tokenize(word + "h") == ["[UNK]"]
  else:
    assert tokens == (["[UNK]"] if "[no]" in pieces else pieces.split())


def test_tokens_and_ids_are_converted_both_ways(vocab):
  tokenizer = tokenization.FullTokenizer(vocab)
  tokens = tokenizer.tokenize("Hello unaffable world \U0001f600")
  assert tokens == ["hello", "un", "##aff", "##able", "world", "[UNK]"]
  ids = tokenizer.convert_tokens_to_ids(tokens)
  assert ids == [vocab[token] for token in tokens]
  assert tokenizer.convert_ids_to_tokens(ids) == tokens
  assert tokenizer.encode("Hello unaffable world \U0001f600") == ids


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_ids_equal_the_reference_on_random_unicode(vocab, do_lower_case):
  rng = random.Random(do_lower_case)
  ascii_text = [chr(i) for i in range(128)]
  latin = [chr(i) for i in range(0x370)]
  lines = []
  for i in range(_FUZZ_STRINGS // 2):
    if i % 4:
      letters = (ascii_text, latin, _TRICKY)[i % 3]
      line = "".join(rng.choices(letters, k=rng.randrange(12)))
    else:
      line = "".join(chr(rng.randrange(0x110000)) for _ in range(6))
    lines.append(line + rng.choice(("", " ", "\n")) + rng.choice(_TRICKY))
  tokenizer = tokenization.FullTokenizer(vocab, do_lower_case)
  ids, lengths = tokenizer.encode_lines(lines)
  end = 0
  for line, length in zip(lines, lengths):
    expected = reference.tokenize(line, vocab, do_lower_case)
    assert ids[end:end + length].tolist() == [
        vocab[token] for token in expected], repr(line)
    end += length
  assert end == len(ids)


def test_ids_equal_the_reference_on_real_text(shared):
  vocab_file = str(shared / "data/teacher/vocab.txt")
  vocab = tokenization.load_vocab(vocab_file)
  assert vocab == reference.read_vocabulary(vocab_file)
  for name, do_lower_case in (("movie_reviews_heldout.txt", True),
                              ("state_of_the_union.txt", True),
                              ("state_of_the_union.txt", False)):
    text = (shared / "data/text" / name).read_text(encoding="utf-8")
    lines = text.split("\n")[:6000]
    tokenizer = tokenization.FullTokenizer(vocab, do_lower_case)
    for line in lines:
      assert tokenizer.tokenize(line) == reference.tokenize(
          line, vocab, do_lower_case)


def test_a_full_cache_changes_nothing(vocab, monkeypatch):
  rng = random.Random(0)
  lines = [" ".join("".join(rng.choices("abc,.", k=rng.randrange(1, 4)))
                    for _ in range(20)) for _ in range(50)]
  expected = tokenization.FullTokenizer(vocab).encode_lines(lines)
  monkeypatch.setattr(tokenization, "_MAX_CACHED_WORDS", 5)
  monkeypatch.setattr(tokenization, "_MAX_CACHED_LENGTH", 2)
  tokenizer = tokenization.FullTokenizer(vocab)
  assert tokenizer.encode_lines(lines) == expected
  assert len(tokenizer._cache) <= 5
  assert max(map(len, tokenizer._cache)) <= 2


def test_large_vocabularies_keep_their_ids():
  vocab = {"[UNK]": 0}
  vocab.update(("w{}".format(i), i) for i in range(1, 0x12000))
  tokenizer = tokenization.FullTokenizer(vocab)
  ids, lengths = tokenizer.encode_lines(["w55296 w57343", "w65536 w73727"])
  assert ids.tolist() == [55296, 57343, 65536, 73727]
  assert lengths.tolist() == [2, 2]


@pytest.mark.parametrize("content, told", [
    (b"[UNK]\n[CLS]\n[SEP]\nword\n", r"no \[MASK\]"),
    (b"", "0 lines"),
    (b"[UNK]\n\xff\n", "not UTF-8"),
])
def test_a_vocabulary_that_is_none_is_an_error(tmp_path, content, told):
  path = tmp_path / "vocab.txt"
  path.write_bytes(content)
  with pytest.raises(ValueError, match="--vocab_file.*vocab.txt.*" + told):
    tokenization.load_vocab(str(path))

"""BERT's tokenizers: text in, WordPiece ids out.

The rules are those of BERT's uncased and cased models (Devlin et al. 2019):
the basic tokenizer splits a line into words and punctuation marks, WordPiece
splits each word into the longest pieces that the vocabulary has.

Neither step looks beyond the space around a word, so what a word gives is
kept: where words repeat, text costs one dictionary look-up a word.

Inside this room a sequence of ids is a bytes object of int32: nothing in the
standard library joins many short sequences of integers as fast as `bytes.join`,
and few things keep them as small.

This room needs the standard library alone.
"""

import array
import re
import struct
import unicodedata
from typing import Dict, Iterable, List, Mapping, Tuple

UNKNOWN_TOKEN = "[UNK]"
CLASS_TOKEN = "[CLS]"
SEPARATOR_TOKEN = "[SEP]"
MASK_TOKEN = "[MASK]"
# What pretraining puts into records.
SPECIAL_TOKENS = (UNKNOWN_TOKEN, CLASS_TOKEN, SEPARATOR_TOKEN, MASK_TOKEN)
CONTINUATION_PREFIX = "##"

# Longer words become [UNK] as a whole.
_MAX_WORD_LENGTH = 200
# Words whose ids are kept, and how long they may be: at most about 50 MB.
_MAX_CACHED_WORDS = 1 << 18
_MAX_CACHED_LENGTH = 64
_INT32 = struct.Struct("=i")
# Stands for a line end among packed ids. No vocabulary has 2^24 tokens, so of
# an id one byte is 0, and four bytes of 255 are this mark alone.
_LINE_END_MARK = b"\xff" * _INT32.size
# Lines that are encoded at once: few enough for their words to stay in cache.
_BLOCK_LINES = 128
# The words and marks of ASCII text without control characters.
_ASCII_TOKENS = re.compile("[0-9A-Za-z]+|[^0-9A-Za-z ]")
# Code points that BERT sets apart one by one, as Chinese and Japanese have no
# spaces. Hangul and kana are left alone.
_CJK_BLOCKS = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
               (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
               (0x2B820, 0x2CEAF), (0x2F800, 0x2FA1F))


def load_vocab(vocab_file: str) -> Dict[str, int]:
  """Reads a vocabulary: one token a line, its id is the line's number from 0.

  Args:
    vocab_file: path, UTF-8.

  Returns:
    Ids by token, in the order of the file.

  Raises:
    ValueError: the file is not UTF-8, is empty or lacks a special token.
    OSError: the file cannot be read.
  """
  vocab = {}
  with open(vocab_file, encoding="utf-8", newline="\n") as file:
    try:
      for index, line in enumerate(file):
        vocab[line.strip()] = index
    except UnicodeDecodeError as error:
      raise ValueError(
          "--vocab_file: {} is not UTF-8 text ({}); give a BERT vocab.txt with "
          "one token a line".format(vocab_file, error))
  missing = [token for token in SPECIAL_TOKENS if token not in vocab]
  if missing:
    raise ValueError(
        "--vocab_file: {} has {} lines but no {}; give a BERT vocab.txt, which "
        "has each of {} on a line of its own".format(
            vocab_file, len(vocab), ", ".join(missing),
            ", ".join(SPECIAL_TOKENS)))
  return vocab


class _CharacterTable(dict):
  """A `str.translate` table that fills itself; every character has a default.

  Subclasses say with `replacement` what one character becomes.
  """

  def __missing__(self, code_point: int) -> str:
    self[code_point] = replacement = self.replacement(chr(code_point))
    return replacement


class _CleaningTable(_CharacterTable):
  """Drops control characters, makes white space plain, sets CJK apart."""

  def replacement(self, char: str) -> str:
    category = unicodedata.category(char)
    if char in "\t\n\r" or category == "Zs":
      return " "
    if char in "\0\ufffd" or category in ("Cc", "Cf"):
      return ""
    code_point = ord(char)
    if any(first <= code_point <= last for first, last in _CJK_BLOCKS):
      return " {} ".format(char)
    return char


class _PunctuationTable(_CharacterTable):
  """Sets punctuation apart, and drops accents where `strip_accents` says so."""

  def __init__(self, strip_accents: bool):
    super().__init__()
    self._strip_accents = strip_accents

  def replacement(self, char: str) -> str:
    category = unicodedata.category(char)
    if self._strip_accents and category == "Mn":
      return ""
    # Every ASCII symbol counts, also those that Unicode files elsewhere: $+<=>.
    is_ascii_symbol = "!" <= char <= "~" and not char.isalnum()
    if is_ascii_symbol or category.startswith("P"):
      return " {} ".format(char)
    return char


class BasicTokenizer:
  """Splits text into words and punctuation marks."""

  def __init__(self, do_lower_case: bool = True):
    """Prepares the character tables.

    Args:
      do_lower_case: whether to lower the case and drop accents.
    """
    self._do_lower_case = do_lower_case
    self._cleaning = _CleaningTable()
    self._punctuation = _PunctuationTable(strip_accents=do_lower_case)

  def tokenize(self, text: str) -> List[str]:
    """Returns the words and punctuation marks of `text`, in order."""
    tokens = []
    for word in text.translate(self._cleaning).split():
      if self._do_lower_case:
        word = word.lower()
        if not word.isascii():
          word = unicodedata.normalize("NFD", word)
      tokens.extend(word.translate(self._punctuation).split())
    return tokens


class WordpieceTokenizer:
  """Splits a word into the longest pieces that the vocabulary has."""

  def __init__(self, vocab: Mapping[str, int]):
    """Sorts the vocabulary into pieces that start and that continue a word.

    Args:
      vocab: ids by token.
    """
    self._first = {token: _INT32.pack(index) for token, index in vocab.items()}
    self._next = {
        token[len(CONTINUATION_PREFIX):]: ids
        for token, ids in self._first.items()
        if token.startswith(CONTINUATION_PREFIX)
    }
    self._unknown = self._first[UNKNOWN_TOKEN]
    self._max_first = max(map(len, self._first))
    self._max_next = max(map(len, self._next), default=0)

  def encode(self, word: str) -> bytes:
    """Returns the ids of a word's pieces, or the one of [UNK]."""
    if len(word) > _MAX_WORD_LENGTH:
      return self._unknown
    piece = word[:self._max_first]
    while piece not in self._first:
      piece = piece[:-1]
      if not piece:
        return self._unknown
    ids = self._first[piece]
    rest = word[len(piece):]
    while rest:
      piece = rest[:self._max_next]
      while piece not in self._next:
        piece = piece[:-1]
        if not piece:
          return self._unknown
      ids += self._next[piece]
      rest = rest[len(piece):]
    return ids


class FullTokenizer:
  """Turns text into WordPiece ids."""

  def __init__(self, vocab: Mapping[str, int], do_lower_case: bool = True):
    """Builds both tokenizers.

    Args:
      vocab: ids by token, as `load_vocab` gives them.
      do_lower_case: whether the vocabulary is an uncased one.
    """
    self._vocab = vocab
    self._tokens = {index: token for token, index in vocab.items()}
    self._cache = _WordCache(vocab, do_lower_case)

  def encode(self, text: str) -> List[int]:
    """Returns the ids of the tokens of `text`."""
    ids, _ = self.encode_lines([text])
    return ids.tolist()

  def encode_lines(self, lines: Iterable[str]
                  ) -> Tuple["array.array[int]", "array.array[int]"]:
    """Encodes many lines at once, which is faster than one by one.

    Args:
      lines: text; a line end within it counts as space.

    Returns:
      The ids of all lines, int32, and the number of ids of each line, int32.
    """
    lines = list(lines)
    ids_of_word = self._cache.__getitem__
    ids, lengths = array.array("i"), array.array("i")
    for start in range(0, len(lines), _BLOCK_LINES):
      block = lines[start:start + _BLOCK_LINES]
      # The line end is a word of its own, with a mark for its id.
      text = " \n ".join(block)
      if text.count("\n") >= len(block):  # Within a line it is mere space.
        text = " \n ".join(line.replace("\n", " ") for line in block)
      encoded = b"".join(map(ids_of_word, text.split(" ")))
      encoded = encoded.split(_LINE_END_MARK)
      ids.frombytes(b"".join(encoded))
      lengths.extend([len(line) // ids.itemsize for line in encoded])
    return ids, lengths

  def tokenize(self, text: str) -> List[str]:
    """Returns the tokens of `text`."""
    return self.convert_ids_to_tokens(self.encode(text))

  def convert_ids_to_tokens(self, ids: Iterable[int]) -> List[str]:
    """Returns the token of each id."""
    return [self._tokens[index] for index in ids]

  def convert_tokens_to_ids(self, tokens: Iterable[str]) -> List[int]:
    """Returns the id of each token."""
    return [self._vocab[token] for token in tokens]


class _WordCache(dict):
  """Ids by word, as spaces cut words out; computed once for each.

  When it is full it starts afresh: the common words are back at once.
  """

  def __init__(self, vocab: Mapping[str, int], do_lower_case: bool):
    super().__init__()
    self._do_lower_case = do_lower_case
    self._basic = BasicTokenizer(do_lower_case)
    self._encode = WordpieceTokenizer(vocab).encode

  def __missing__(self, word: str) -> bytes:
    encode = self._encode
    if word.isalnum() and word.isascii():
      ids = encode(word.lower() if self._do_lower_case else word)
    elif word.isascii() and word.isprintable():
      tokens = _ASCII_TOKENS.findall(
          word.lower() if self._do_lower_case else word)
      # The parts of "don't" are words that come again.
      ids = b"".join(map(
          self.__getitem__ if len(tokens) > 1 else encode, tokens))
    elif word == "\n":
      ids = _LINE_END_MARK
    else:
      ids = b"".join(map(encode, self._basic.tokenize(word)))
    if len(self) >= _MAX_CACHED_WORDS:
      self.clear()
    if len(word) <= _MAX_CACHED_LENGTH:
      self[word] = ids
    return ids

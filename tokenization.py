"""Tokenizes text into BERT's WordPiece tokens and their ids.

  tokenizer = FullTokenizer(vocab_file="bert/vocab.txt", do_lower_case=True)
  tokens = tokenizer.tokenize("Unaffable, he said.")
  ids = tokenizer.convert_tokens_to_ids(tokens)

The rules are those of BERT's uncased and cased models (Devlin et al. 2019):
the basic tokenizer splits a line into words and punctuation marks, and
WordPiece splits each word into the longest pieces in the vocabulary. Names and
signatures are BERT's own, so scripts written for BERT can import this module;
`strip_accents`, `FullTokenizer.encode`, `encode_lines` and `from_vocab` are
extensions.

The ids of a word do not depend on its context, so a cache holds the ids of each
word: a repeated word costs one dictionary look-up.

Internally, a sequence of token ids is a bytes object of int32: `bytes.join` is
the fastest way in the standard library to join many short sequences of
integers, and bytes objects are small.
"""

import abc
import array
import functools
import re
import struct
import sys
import unicodedata
from typing import (Any, Callable, Collection, Dict, Generic, Iterable, List,
                    Mapping, Optional, Tuple, TypeVar, Union)

UNKNOWN_TOKEN = "[UNK]"
CLASS_TOKEN = "[CLS]"
SEPARATOR_TOKEN = "[SEP]"
MASK_TOKEN = "[MASK]"
# The tokens that pre-training data needs.
SPECIAL_TOKENS = (UNKNOWN_TOKEN, CLASS_TOKEN, SEPARATOR_TOKEN, MASK_TOKEN)
CONTINUATION_PREFIX = "##"
# A word with more characters becomes UNKNOWN_TOKEN.
MAX_WORD_LENGTH = 200

# Limits that keep a WordCache below 50 MB. This number of short ASCII words
# takes about 45 MB; every other word counts as several short words, by its
# bytes, with a generous estimate of bytes per character.
_MAX_CACHED_WORDS = 1 << 18
_SHORT_WORD = 16
_SHORT_WORD_BYTES = 180
_CHARACTER_BYTES = 4
_MAX_CACHED_LENGTH = 64
_INT32 = struct.Struct("=i")
_UTF_32 = "utf-32-le" if sys.byteorder == "little" else "utf-32-be"
# Marks a line end among packed ids. No vocabulary has 2^24 tokens, so one byte
# of each id is 0, and four bytes of 255 can only be this mark.
_LINE_END_MARK = b"\xff" * _INT32.size
# Lines to encode per step: few enough for their words to stay in cache.
_BLOCK_LINES = 128
# The words and marks of ASCII text without control characters.
_ASCII_TOKENS = re.compile("[0-9A-Za-z]+|[^0-9A-Za-z ]")
# Code points that BERT makes separate words, since Chinese and Japanese have no
# spaces. Hangul and kana are not included.
CJK_BLOCKS = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
              (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
               (0x2B820, 0x2CEAF), (0x2F800, 0x2FA1F))
_CJK = "".join("{}-{}".format(chr(first), chr(last))
               for first, last in CJK_BLOCKS)
_CJK_CHARACTER = re.compile("[" + _CJK + "]")
# Characters that are tokens by themselves in every context: CJK and the marks
# of Chinese text. The full-width colon and stop are not included, since they
# change the lower case of Σ.
_ALONE = _CJK + "、。，！？；（）《》「」『』【】“”"
_ALL_ALONE = re.compile("[" + _ALONE + "]+")
_RUNS = re.compile("([" + _ALONE + "]+)")
# The case in the folder names of BERT's published models.
_CASE_IN_NAME = re.compile("(?<![a-z])(un)?cased(?![a-z])", re.IGNORECASE)
# Two of the first models lower the case, but their names have no "uncased".
_LOWER_CASE_MODELS = ("multilingual_L-12_H-768_A-12", "chinese_L-12_H-768_A-12")
# The tokens of a word: packed ids, or the token strings.
_Joined = TypeVar("_Joined", bytes, Tuple[str, ...])


# --- Text and vocabulary -----------------------------------------------------


def convert_to_unicode(text: Union[str, bytes]) -> str:
  """Returns text as str.

  Args:
    text: str, or UTF-8 bytes, whose invalid bytes are dropped.

  Raises:
    ValueError: if `text` is neither str nor bytes.
  """
  if isinstance(text, str):
    return text
  if isinstance(text, bytes):
    return text.decode("utf-8", "ignore")
  raise ValueError("text must be str or bytes, not {}".format(
      type(text).__name__))


def printable_text(text: Union[str, bytes]) -> str:
  """Returns text as str, for `print`; as for `convert_to_unicode`."""
  return convert_to_unicode(text)


def load_vocab(vocab_file: str) -> Dict[str, int]:
  """Reads a vocabulary: one token per line; its id is the line number from 0.

  Args:
    vocab_file: path of a UTF-8 file; a byte-order mark is dropped.

  Returns:
    Ids by token, in the order of the file.

  Raises:
    ValueError: if the file is not UTF-8.
    OSError: if the file cannot be read.
  """
  with open(vocab_file, "rb") as file:
    return parse_vocab(file.read(), vocab_file)


def parse_vocab(content: bytes, name: str) -> Dict[str, int]:
  """Parses a vocabulary; as for `load_vocab`.

  Args:
    content: bytes of the file.
    name: name of the file, for errors.

  Raises:
    ValueError: if the content is not UTF-8.
  """
  try:
    lines = content.decode("utf-8-sig").split("\n")
  except UnicodeDecodeError as error:
    raise ValueError("{} is not UTF-8 text ({})".format(name, error)) from None
  if not lines[-1]:
    lines.pop()  # A final line end does not start another line.
  return {line.strip(): index for index, line in enumerate(lines)}


def convert_by_vocab(vocab: Mapping[Any, Any],
                     items: Iterable[Any]) -> List[Any]:
  """Returns the value in `vocab` of each item.

  Raises:
    KeyError: if `vocab` lacks an item.
  """
  return [vocab[item] for item in items]


def convert_tokens_to_ids(vocab: Mapping[str, int],
                          tokens: Iterable[str]) -> List[int]:
  """Returns the id of each token; `vocab` has ids by token."""
  return convert_by_vocab(vocab, tokens)


def convert_ids_to_tokens(inv_vocab: Mapping[int, str],
                          ids: Iterable[int]) -> List[str]:
  """Returns the token of each id; `inv_vocab` has tokens by id."""
  return convert_by_vocab(inv_vocab, ids)


def whitespace_tokenize(text: str) -> List[str]:
  """Splits text at white space, and drops the white space."""
  return text.split()


def validate_case_matches_checkpoint(do_lower_case: bool,
                                     init_checkpoint: str) -> None:
  """Checks that the tokenizer lowers the case if and only if the model does.

  Args:
    do_lower_case: as for the tokenizer.
    init_checkpoint: path of a file in the model's folder, or "". The names of
      BERT's published folders include "cased" or "uncased".

  Raises:
    ValueError: if the name of the folder includes another case.
  """
  folders = (init_checkpoint or "").replace("\\", "/").split("/")[:-1]
  model = folders[-1] if folders else ""
  is_uncased = {bool(match.group(1)) for match in _CASE_IN_NAME.finditer(model)}
  if model in _LOWER_CASE_MODELS:
    is_uncased = {True}
  if is_uncased == {not do_lower_case}:
    raise ValueError(
        "the folder of {} is named for {} model, but do_lower_case is {}: use "
        "do_lower_case={}, or rename the folder if its name is wrong".format(
            init_checkpoint, "a cased" if do_lower_case else "an uncased",
            bool(do_lower_case), not do_lower_case))


# --- The basic tokenizer -----------------------------------------------------


class _CharacterTable(dict, abc.ABC):
  """A `str.translate` table that computes each replacement once, on demand."""

  def __missing__(self, code_point: int) -> str:
    self[code_point] = replacement = self.replacement(chr(code_point))
    return replacement

  @abc.abstractmethod
  def replacement(self, char: str) -> str:
    """Returns the replacement of a character."""


class _CleaningTable(_CharacterTable):
  """Drops control characters; puts spaces for white space and around CJK."""

  def replacement(self, char: str) -> str:
    category = unicodedata.category(char)
    if char in "\t\n\r" or category == "Zs":
      return " "
    if char in "\0\ufffd" or category in ("Cc", "Cf"):
      return ""
    code_point = ord(char)
    if any(first <= code_point <= last for first, last in CJK_BLOCKS):
      return " {} ".format(char)
    return char


class _PunctuationTable(_CharacterTable):
  """Puts spaces around punctuation; drops accents if `strip_accents` is set."""

  def __init__(self, strip_accents: bool):
    super().__init__()
    self._strip_accents = strip_accents

  def replacement(self, char: str) -> str:
    category = unicodedata.category(char)
    if self._strip_accents and category == "Mn":
      return ""
    # All ASCII symbols count as punctuation, also those of other Unicode
    # categories, such as $+<=>.
    is_ascii_symbol = "!" <= char <= "~" and not char.isalnum()
    if is_ascii_symbol or category.startswith("P"):
      return " {} ".format(char)
    return char


class BasicTokenizer:
  """Splits text into words and punctuation marks."""

  def __init__(self, do_lower_case: bool = True,
               strip_accents: Optional[bool] = None):
    """Prepares the character tables.

    Args:
      do_lower_case: whether to lower the case.
      strip_accents: whether to drop accents. None means the value of
        do_lower_case, as in BERT. Hugging Face's BertTokenizer has this option.
    """
    self.do_lower_case = do_lower_case
    self.strip_accents = (
        do_lower_case if strip_accents is None else strip_accents)
    self._cleaning = _CleaningTable()
    self._punctuation = _PunctuationTable(self.strip_accents)

  def tokenize(self, text: Union[str, bytes]) -> List[str]:
    """Returns the words and punctuation marks of `text`, in order.

    Args:
      text: as for `convert_to_unicode`.
    """
    tokens = []
    for word in convert_to_unicode(text).translate(self._cleaning).split():
      if self.do_lower_case:
        word = word.lower()
      if self.strip_accents and not word.isascii():
        word = unicodedata.normalize("NFD", word)
      tokens.extend(word.translate(self._punctuation).split())
    return tokens


# --- WordPiece ---------------------------------------------------------------


class _LongestPieces(Generic[_Joined]):
  """Splits words into the longest pieces, and joins the values of the pieces.

  The value of a piece is a tuple of its token, or its packed id.
  """

  def __init__(self, values: Mapping[str, _Joined],
               unknown: Optional[_Joined], max_length: int):
    """Separates the pieces that start a word from those that continue one.

    Args:
      values: value of each token.
      unknown: value of a word without pieces; None if there is none.
      max_length: most characters of a word; longer words are unknown.
    """
    self._first: Mapping[str, _Joined] = values
    self._next: Dict[str, _Joined] = {
        token[len(CONTINUATION_PREFIX):]: value
        for token, value in values.items()
        if token.startswith(CONTINUATION_PREFIX)
    }
    self._unknown: Optional[_Joined] = unknown
    self._max_length = max_length
    # At least 1, so that no look-up has an empty piece.
    self._max_first = max(map(len, self._first), default=0) or 1
    self._max_next = max(map(len, self._next), default=0) or 1

  def join(self, word: str) -> _Joined:
    """Returns the joined values of the pieces of a word.

    Raises:
      KeyError: if the word is unknown and unknown words have no value.
    """
    if len(word) > self._max_length:
      return self._join_unknown(word)
    piece = word[:self._max_first]
    while piece not in self._first:
      piece = piece[:-1]
      if not piece:
        return self._join_unknown(word)
    joined = self._first[piece]
    rest = word[len(piece):]
    while rest:
      piece = rest[:self._max_next]
      while piece not in self._next:
        piece = piece[:-1]
        if not piece:
          return self._join_unknown(word)
      joined += self._next[piece]
      rest = rest[len(piece):]
    return joined

  def _join_unknown(self, word: str) -> _Joined:
    if self._unknown is None:
      raise KeyError("{!r} is unknown, and the vocabulary has no token for "
                     "unknown words".format(word))
    return self._unknown


class WordpieceTokenizer:
  """Splits words into the longest pieces that the vocabulary has."""

  def __init__(self, vocab: Collection[str], unk_token: str = UNKNOWN_TOKEN,
               max_input_chars_per_word: int = MAX_WORD_LENGTH):
    """Stores the arguments as attributes of the same names.

    Args:
      vocab: ids by token, or any other collection of tokens.
      unk_token: token for a word without pieces; `vocab` may lack it.
      max_input_chars_per_word: most characters of a word; a longer word becomes
        unk_token.
    """
    self.vocab = vocab
    self.unk_token = unk_token
    self.max_input_chars_per_word = max_input_chars_per_word

  def tokenize(self, text: Union[str, bytes]) -> List[str]:
    """Returns the pieces of all words of `text`, in order.

    Args:
      text: words of BasicTokenizer, separated by white space; str or UTF-8
        bytes.
    """
    return [piece for word in whitespace_tokenize(convert_to_unicode(text))
            for piece in self._pieces.join(word)]

  @functools.cached_property
  def _pieces(self) -> _LongestPieces[Tuple[str, ...]]:
    return _LongestPieces({token: (token,) for token in self.vocab},
                          (self.unk_token,), self.max_input_chars_per_word)


# --- Both together -----------------------------------------------------------


class WordCache(dict):
  """Cache of the packed ids of words, which are text between spaces.

  A Chinese clause has no spaces and rarely recurs, so the cache looks up its
  characters and does not keep the clause. A full cache is cleared; the common
  words soon return.
  """

  def __init__(self, basic: BasicTokenizer, wordpiece: WordpieceTokenizer,
               max_words: int = _MAX_CACHED_WORDS,
               max_length: int = _MAX_CACHED_LENGTH):
    """Starts empty.

    Args:
      basic: tokenizer for text that is not one ASCII word.
      wordpiece: tokenizer of words; its vocabulary has ids by token.
      max_words: most words to keep.
      max_length: most characters of a word to keep.
    """
    super().__init__()
    assert isinstance(wordpiece.vocab, Mapping)
    packed_ids = {
        token: _INT32.pack(index) for token, index in wordpiece.vocab.items()}
    self._basic = basic
    self._encode = _LongestPieces(
        packed_ids, packed_ids.get(wordpiece.unk_token),
        wordpiece.max_input_chars_per_word).join
    self._do_lower_case = basic.do_lower_case
    self._max_words = max_words
    self._max_length = max_length
    self._num_extra = 0  # Count of longer words beyond one each.
    self._characters = _CharacterIds(self._encode_alone)

  def __missing__(self, word: str) -> bytes:
    encode = self._encode
    if word.isalnum() and word.isascii():
      ids = encode(word.lower() if self._do_lower_case else word)
    elif word.isascii() and word.isprintable():
      tokens = _ASCII_TOKENS.findall(
          word.lower() if self._do_lower_case else word)
      # The parts of a word such as "don't" recur, so cache them too.
      ids = b"".join(map(
          self.__getitem__ if len(tokens) > 1 else encode, tokens))
    elif word == "\n":
      ids = _LINE_END_MARK
    elif len(word) > 1 and _CJK_CHARACTER.search(word) is not None:
      return self._encode_characters(word)
    else:
      ids = b"".join(map(encode, self._basic.tokenize(word)))
    if len(self) + self._num_extra >= self._max_words:
      self.clear()
      self._num_extra = 0
    if len(word) <= self._max_length:
      if len(word) > _SHORT_WORD or not word.isascii():
        self._num_extra += (
            len(word) * _CHARACTER_BYTES + len(ids)) // _SHORT_WORD_BYTES
      self[word] = ids
    return ids

  def _encode_characters(self, clause: str) -> bytes:
    """Returns the packed ids of text with one-character tokens."""
    characters = self._characters
    if _ALL_ALONE.fullmatch(clause) is not None:
      return clause.translate(characters).encode(_UTF_32, "surrogatepass")
    runs = _RUNS.split(clause)  # Odd indices are runs of one-character tokens.
    return b"".join(
        run.translate(characters).encode(_UTF_32, "surrogatepass")
        if index % 2 else self[run] for index, run in enumerate(runs) if run)

  def _encode_alone(self, char: str) -> int:
    """Returns the id of a one-character token."""
    word, = self._basic.tokenize(char)
    index, = _INT32.unpack(self._encode(word))
    return index


class _CharacterIds(dict):
  """A `str.translate` table from characters to ids, as code points.

  Encoding the translated text as UTF-32 gives packed ids, without a Python step
  for each character. UTF-32 has over a million code points, more than any
  vocabulary.
  """

  def __init__(self, id_of: Callable[[str], int]):
    """Starts empty.

    Args:
      id_of: returns the id of a character.
    """
    super().__init__()
    self._id_of = id_of

  def __missing__(self, code_point: int) -> int:
    self[code_point] = index = self._id_of(chr(code_point))
    return index


class FullTokenizer:
  """Turns text into WordPiece tokens and their ids.

  Attributes:
    vocab: ids by token; later changes do not affect the tokens.
    inv_vocab: tokens by id.
    basic_tokenizer: splits text into words and punctuation marks.
    wordpiece_tokenizer: splits words and punctuation marks into tokens.
    word_cache: packed ids of the words so far.
  """

  def __init__(self, vocab_file: str, do_lower_case: bool = True,
               strip_accents: Optional[bool] = None):
    """Reads the vocabulary and builds both tokenizers.

    Args:
      vocab_file: path, as for `load_vocab`.
      do_lower_case: whether the vocabulary is an uncased one.
      strip_accents: as for `BasicTokenizer`.

    Raises:
      ValueError, OSError: as for `load_vocab`.
    """
    self._build(load_vocab(vocab_file), do_lower_case, strip_accents)

  @classmethod
  def from_vocab(cls, vocab: Mapping[str, int], do_lower_case: bool = True,
                 strip_accents: Optional[bool] = None) -> "FullTokenizer":
    """Builds a tokenizer from a vocabulary in memory.

    Args:
      vocab: ids by token, as `load_vocab` returns them.
      do_lower_case: whether the vocabulary is an uncased one.
      strip_accents: as for `BasicTokenizer`.
    """
    tokenizer = cls.__new__(cls)
    # pylint: disable-next=protected-access
    tokenizer._build(vocab, do_lower_case, strip_accents)
    return tokenizer

  def _build(self, vocab: Mapping[str, int], do_lower_case: bool,
             strip_accents: Optional[bool]) -> None:
    self.vocab = vocab
    self.inv_vocab = {index: token for token, index in vocab.items()}
    self.basic_tokenizer = BasicTokenizer(do_lower_case, strip_accents)
    self.wordpiece_tokenizer = WordpieceTokenizer(vocab)
    self.word_cache = WordCache(self.basic_tokenizer, self.wordpiece_tokenizer)

  def tokenize(self, text: Union[str, bytes]) -> List[str]:
    """Returns the tokens of `text`.

    Args:
      text: as for `convert_to_unicode`.
    """
    if self.wordpiece_tokenizer.unk_token in self.vocab:
      return self.convert_ids_to_tokens(self.encode(text))
    # Without an id for unknown words, the cache cannot be used.
    return [piece for word in self.basic_tokenizer.tokenize(text)
            for piece in self.wordpiece_tokenizer.tokenize(word)]

  def convert_tokens_to_ids(self, tokens: Iterable[str]) -> List[int]:
    """Returns the id of each token.

    Raises:
      KeyError: if the vocabulary lacks a token.
    """
    return convert_tokens_to_ids(self.vocab, tokens)

  def convert_ids_to_tokens(self, ids: Iterable[int]) -> List[str]:
    """Returns the token of each id.

    Raises:
      KeyError: if the vocabulary lacks an id.
    """
    return convert_ids_to_tokens(self.inv_vocab, ids)

  def encode(self, text: Union[str, bytes]) -> List[int]:
    """Returns the ids of the tokens of `text`.

    Args:
      text: as for `convert_to_unicode`.

    Raises:
      KeyError: if a word is unknown and the vocabulary lacks [UNK].
    """
    ids, _ = self.encode_lines([convert_to_unicode(text)])
    return ids.tolist()

  def encode_lines(self, lines: Iterable[str]
                  ) -> Tuple["array.array[int]", "array.array[int]"]:
    """Encodes many lines at once, which is faster than separate calls.

    Args:
      lines: lines of text; a line end within a line counts as space.

    Returns:
      The ids of all lines, int32, and the number of ids in each line, int32.

    Raises:
      KeyError: as for `encode`.
    """
    lines = list(lines)
    ids_of_word = self.word_cache.__getitem__
    ids, lengths = array.array("i"), array.array("i")
    for start in range(0, len(lines), _BLOCK_LINES):
      block = lines[start:start + _BLOCK_LINES]
      # The line end is a separate word, and its id is the mark.
      text = " \n ".join(block)
      if text.count("\n") >= len(block):  # A line has a line end within it.
        text = " \n ".join(line.replace("\n", " ") for line in block)
      encoded = b"".join(map(ids_of_word, text.split(" "))).split(
          _LINE_END_MARK)
      ids.frombytes(b"".join(encoded))
      lengths.extend([len(line) // ids.itemsize for line in encoded])
    return ids, lengths

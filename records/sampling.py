"""Samples BERT's pre-training instances from text, as BERT's reference does.

`read_corpus` tokenizes a text, a Sampler draws masked sequences of sentence
pairs from the corpus, and `features_of` builds the records. The procedure
follows Devlin et al. (2019), section A.1, draw by draw: equal seeds give the
records of the reference implementation.

Dimensions:
  N: instances
  S: max_seq_length, tokens in a sequence
  P: max_predictions_per_seq, slots for masked tokens in a sequence
"""

import array
import bisect
import dataclasses
import random
from typing import (Any, Callable, Dict, Iterator, List, Mapping,
                    MutableSequence, NamedTuple, Optional, Tuple)

from absl import logging
import numpy as np

from records import schema
import tokenization
from util import files
from util.command_line import InputError

# Bytes of text per read.
BLOCK_BYTES = 1 << 20
# Longest line: far longer than any sentence, and small in memory.
MAX_LINE_BYTES = 1 << 20
# [CLS], [SEP] and [SEP].
_NUM_SPECIAL = 3
# What to do about a file that is too large and cannot be split.
MISSING_BLANK_LINES = (
    "its text has no blank line between documents, and a text is split only "
    "there: put an empty line after each document, and split it again")
# Positions in a file's tokens are int32.
_MAX_TOKENS = 2**31 - 1
# A masked token becomes [MASK] 8 times in 10; of the rest, half stay.
_MASK_RATE = 0.8
_KEEP_RATE = 0.5
# New id of a masked token that stays as it is.
_KEPT = -1
# Draws of another document before the current document is accepted.
_MAX_DRAWS_OF_DOCUMENT = 10


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
  """Options that determine the records, with text, vocabulary and seed.

  Attributes:
    do_lower_case: whether to convert to lower case.
    max_seq_length: S.
    max_predictions_per_seq: P.
    dupe_factor: number of passes over the text.
    masked_lm_prob: fraction of the tokens to mask.
    short_seq_prob: fraction of the documents cut into shorter sequences.
    do_whole_word_mask: whether to mask all pieces of a word or none.
    strip_accents: whether to drop accents; None means as do_lower_case.
  """
  do_lower_case: bool
  max_seq_length: int
  max_predictions_per_seq: int
  dupe_factor: int
  masked_lm_prob: float
  short_seq_prob: float
  do_whole_word_mask: bool
  strip_accents: Optional[bool] = None

  def manifest_flags(self) -> Dict[str, Any]:
    """Returns the value of each flag, as manifests hold them.

    `strip_accents` is left out where it does what do_lower_case does without
    it, as in the manifests of earlier versions.
    """
    values = dataclasses.asdict(self)
    if self.strip_accents in (None, self.do_lower_case):
      values.pop("strip_accents")
    return values

  @property
  def row_dtype(self) -> np.dtype:
    """The layout of an instance: int32 fields.

    The fields are the start and length of both spans of the corpus, whether
    the second span is a random next sentence, the number of masked tokens, and
    the positions and new ids of the masked tokens in the order of the draws.
    """
    per_slot = (self.max_predictions_per_seq,)
    return np.dtype([
        ("first_start", np.int32),
        ("first_length", np.int32),
        ("second_start", np.int32),
        ("second_length", np.int32),
        ("is_random_next", np.int32),
        ("num_masked", np.int32),
        ("positions", np.int32, per_slot),
        ("new_ids", np.int32, per_slot),
    ])


# --- Reading -----------------------------------------------------------------


class Corpus(NamedTuple):
  """The token ids of a text file, with the bounds of sentences and documents.

  Attributes:
    ids: token ids of all sentences, int32 [tokens].
    sentences: index in `ids` where each sentence starts, then len(ids).
    documents: index of each document's first sentence, then the number of
      sentences.
    num_invisible_lines: lines without a token that are not blank, as those of
      zero-width characters alone.
  """
  ids: np.ndarray
  sentences: "array.array[int]"
  documents: "array.array[int]"
  num_invisible_lines: int = 0

  @property
  def num_short_documents(self) -> int:
    """Number of documents with one sentence."""
    return int(np.count_nonzero(np.diff(self.documents) == 1))


def read_vocabulary(vocab_file: str, flag: str = "vocab_file"
                   ) -> Dict[str, int]:
  """Reads a vocabulary and checks that it has all special tokens.

  Args:
    vocab_file: path of the vocabulary.
    flag: name of the flag that gave the path or its folder, for errors.

  Returns:
    Ids by token, in the order of the file.

  Raises:
    InputError: if the file is not UTF-8, is empty, has a blank line between
      tokens or lacks a special token.
    OSError: if the file cannot be read.
  """
  files.check_file(vocab_file, flag)
  with files.open_file(vocab_file) as file:
    content = _without_blank_lines(file.read(), vocab_file, flag)
  try:
    vocab = tokenization.parse_vocab(content, vocab_file)
  except ValueError as error:
    raise InputError("--{}: {}; give a BERT vocab.txt with one token per "
                     "line".format(flag, error)) from None
  missing = [token for token in tokenization.SPECIAL_TOKENS
             if token not in vocab]
  if missing:
    raise InputError(
        "--{}: {} has {} lines but no {}; give a BERT vocab.txt, which has "
        "each of {} on a separate line".format(
            flag, vocab_file, len(vocab), ", ".join(missing),
            ", ".join(tokenization.SPECIAL_TOKENS)))
  return vocab


def _without_blank_lines(content: bytes, vocab_file: str,
                         flag: str) -> bytes:
  """Removes blank lines from the end of a vocabulary.

  A line of non-ASCII white space is not blank: it may be a token.

  Raises:
    InputError: if a blank line is followed by tokens, whose ids it would shift.
  """
  lines = content.rstrip(b" \t\r\n").split(b"\n")
  for number, line in enumerate(lines, start=1):
    if len(lines) > 1 and not line.strip(b" \t\r"):
      raise InputError(
          "--{}: line {} of {} is blank; give the vocab.txt of the model, "
          "with one token per line".format(flag, number, vocab_file))
  num_blank = content.count(b"\n") - len(lines)
  if num_blank > 0:
    logging.warning("--%s: %s ends with %d blank lines, which are ignored.",
                    flag, vocab_file, num_blank)
  return b"\n".join(lines) + b"\n" if lines != [b""] else b""


def text_blocks(path: str, digest: Any) -> Iterator[str]:
  """Reads a text file in blocks of whole lines.

  Args:
    path: the file.
    digest: hashlib hash, updated with the bytes that are read.

  Yields:
    Text that ends with a line end, except perhaps the last block.

  Raises:
    InputError: if the file is not UTF-8, has NULs, or has a line longer than
      `MAX_LINE_BYTES`.
  """
  offset = line_number = 0
  rest: List[bytes] = []
  with files.open_file(path) as file:
    while True:
      block = file.read(BLOCK_BYTES)
      digest.update(block)
      cut = block.rfind(b"\n") + 1
      if block and not cut:
        rest.append(block)
        if sum(map(len, rest)) > MAX_LINE_BYTES:
          raise InputError(
              "--input_dir: {} has a line of over {:,} bytes, line {}; give "
              "text with one sentence per line".format(
                  path, MAX_LINE_BYTES, line_number + 1))
        continue
      whole = b"".join(rest + [block[:cut]])
      try:
        text = whole.decode("utf-8")
      except UnicodeDecodeError as error:
        raise InputError(
            "--input_dir: {} is not UTF-8 at byte {} ({}): if the file is "
            "text, {}; otherwise, move the file out of the folder".format(
                path, offset + error.start, error.reason,
                files.encoding_advice(whole))) from None
      if "\0" in text:
        raise InputError(
            "--input_dir: {} has NULs, the first at byte {}: if the file is "
            "text, {}; otherwise, move the file out of the folder".format(
                path, offset + whole.index(0), files.encoding_advice(whole)))
      yield text
      if not block:
        return
      offset += len(whole)
      line_number += whole.count(b"\n")
      rest = [block[cut:]]


def read_corpus(path: str, tokenizer: tokenization.FullTokenizer, digest: Any,
                report: Callable[[int], None]) -> Corpus:
  """Reads and tokenizes a text file.

  Args:
    path: the file, with one sentence per line and a blank line between
      documents.
    tokenizer: tokenizer of the lines.
    digest: hashlib hash, updated with the bytes that are read.
    report: called after each block with its number of characters.

  Raises:
    InputError: if `text_blocks` raises it, or the file has no tokens or more
      than 2**31 - 1.
  """
  ids = array.array("i")
  sentences = array.array("q", [0])
  documents = array.array("q", [0])
  num_invisible_lines = 0
  for text in text_blocks(path, digest):
    lines = text.split("\n")
    if not lines[-1]:
      lines.pop()  # The empty string after the last line end.
    block_ids, lengths = tokenizer.encode_lines(lines)
    end = len(ids)
    ids.extend(block_ids)
    for line, length in zip(lines, lengths):
      if length:
        end += length
        sentences.append(end)
      elif line.strip():
        num_invisible_lines += 1
      elif documents[-1] != len(sentences) - 1:
        documents.append(len(sentences) - 1)
    report(len(text))
  if documents[-1] != len(sentences) - 1:
    documents.append(len(sentences) - 1)
  if not ids:
    raise InputError("--input_dir: {} holds no text; remove the file"
                     .format(path))
  if len(ids) > _MAX_TOKENS:
    raise InputError(
        "--input_dir: {} has {} tokens, over the limit of {}: {}".format(
            path, len(ids), _MAX_TOKENS,
            MISSING_BLANK_LINES if len(documents) == 2 else
            "split the text with a larger --split_number"))
  return Corpus(np.frombuffer(ids, np.int32), sentences, documents,
                num_invisible_lines)


# --- Sampling ----------------------------------------------------------------


class Sampler:
  """Draws the instances of a corpus as BERT's reference does.

  The draws are those of the methods of `random.Random`. The class implements
  them itself because they take most of the time.
  """

  def __init__(self, corpus: Corpus, vocab: Mapping[str, int],
               options: SamplingOptions, rng: random.Random):
    """Makes the first draws, which shuffle the documents.

    Args:
      corpus: corpus to draw from.
      vocab: ids by token.
      options: sampling options.
      rng: random number generator of all draws.
    """
    self._sentences = corpus.sentences
    self._options = options
    self._row_dtype = options.row_dtype
    self._random = rng.random
    self._getrandbits = rng.getrandbits
    self._mask_id = vocab[tokenization.MASK_TOKEN]
    self._replacements = list(vocab.values())
    self._positions = list(range(options.max_seq_length))
    self._continues_word: Optional[bytes] = None
    if options.do_whole_word_mask:
      is_continuation = np.zeros(max(vocab.values()) + 1, bool)
      is_continuation[[
          index for token, index in vocab.items()
          if token.startswith(tokenization.CONTINUATION_PREFIX)]] = True
      self._continues_word = is_continuation[corpus.ids].tobytes()
    self._documents = corpus.documents
    self._order = array.array("I", range(len(corpus.documents) - 1))
    shuffle(self._order, self._getrandbits)

  @property
  def num_documents(self) -> int:
    """Number of documents in the corpus."""
    return len(self._order)

  def rows(self) -> Iterator[np.ndarray]:
    """Yields the instances of each document, in `dupe_factor` passes.

    Yields:
      The instances of one document, `options.row_dtype` [N].
    """
    for _ in range(self._options.dupe_factor):
      for index in range(len(self._order)):
        yield np.frombuffer(self._sample_document(index), self._row_dtype)

  def _below(self, limit: int) -> int:
    """Draws an integer from 0 to limit - 1."""
    bits = limit.bit_length()
    draw = self._getrandbits(bits)
    while draw >= limit:
      draw = self._getrandbits(bits)
    return draw

  def _sample_document(self, index: int) -> "array.array[int]":
    """Draws a document's instances; returns the fields of their row_dtype."""
    options = self._options
    rand = self._random
    below = self._below
    sentences = self._sentences
    rows = array.array("i")
    max_tokens = options.max_seq_length - _NUM_SPECIAL
    target = max_tokens
    if rand() < options.short_seq_prob:
      target = 2 + below(max_tokens - 1)
    document = self._order[index]
    start, document_end = self._documents[document:document + 2]
    while start < document_end:
      # A chunk of whole sentences, which ends when it reaches the target.
      end = bisect.bisect_left(
          sentences, sentences[start] + target, start + 1, document_end)
      middle = start + 1
      if end - start > 1:
        middle += below(end - start - 1)
      first = sentences[start]
      first_end = sentences[middle]
      is_random_next = end - start == 1 or rand() < 0.5
      if is_random_next:
        second, second_end = self._random_second(
            index, target - (first_end - first))
        start = middle  # The next chunk begins with the rest of this chunk.
      else:
        second, second_end = first_end, sentences[end]
        start = end
      # Truncates one token at a time, from either end of the longer span.
      first_length = first_end - first
      second_length = second_end - second
      for _ in range(first_length + second_length - max_tokens):
        if first_length > second_length:
          first_length -= 1
          if rand() < 0.5:
            first += 1
        else:
          second_length -= 1
          if rand() < 0.5:
            second += 1
      positions, new_ids = self._mask(
          first, first_length, second, second_length)
      padding = [0] * (options.max_predictions_per_seq - len(positions))
      rows.extend([first, first_length, second, second_length, is_random_next,
                   len(positions), *positions, *padding, *new_ids, *padding])
    return rows

  def _random_second(self, index: int, target: int) -> Tuple[int, int]:
    """Draws a span of another document, if any; returns its start and end."""
    for _ in range(_MAX_DRAWS_OF_DOCUMENT):
      other = self._below(len(self._order))
      if other != index:
        break
    document = self._order[other]
    first, last = self._documents[document:document + 2]
    start = first + self._below(last - first)
    end = bisect.bisect_left(
        self._sentences, self._sentences[start] + target, start + 1, last)
    return self._sentences[start], self._sentences[end]

  def _mask(self, first: int, first_length: int, second: int,
            second_length: int) -> Tuple[List[int], List[int]]:
    """Draws the positions to mask and their new ids."""
    options = self._options
    rand = self._random
    num_tokens = first_length + second_length
    num_masked = min(
        options.max_predictions_per_seq,
        max(1, round((num_tokens + _NUM_SPECIAL) * options.masked_lm_prob)))
    positions = (self._positions[1:first_length + 1]
                 + self._positions[first_length + 2:num_tokens + 2])
    if self._continues_word is None:
      shuffle(positions, self._getrandbits, num_masked)
      del positions[num_masked:]
    else:
      continues_word = (
          self._continues_word[first:first + first_length]
          + self._continues_word[second:second + second_length])
      positions = self._whole_words(positions, continues_word, num_masked)
    mask_id = self._mask_id
    new_ids = []
    for _ in positions:
      if rand() < _MASK_RATE:
        new_ids.append(mask_id)
      elif rand() < _KEEP_RATE:
        new_ids.append(_KEPT)
      else:
        new_ids.append(
            self._replacements[self._below(len(self._replacements))])
    return positions, new_ids

  def _whole_words(self, positions: List[int], continues_word: bytes,
                   num_masked: int) -> List[int]:
    """Draws the positions of whole words, at most `num_masked` in total."""
    words: List[List[int]] = []
    for position, continues in zip(positions, continues_word):
      if continues and words:
        words[-1].append(position)
      else:
        words.append([position])
    shuffle(words, self._getrandbits)
    chosen: List[int] = []
    for word in words:
      if len(chosen) + len(word) <= num_masked:
        chosen += word
    return chosen


def shuffle(items: MutableSequence, getrandbits: Callable[[int], int],
            num_needed: Optional[int] = None) -> None:
  """Shuffles in place, with the draws and the result of `Random.shuffle`.

  Args:
    items: sequence to shuffle.
    getrandbits: method of the random number generator.
    num_needed: number of items at the front to shuffle correctly; the items
      behind them are arbitrary, and some are lost. None for all items.
  """
  if num_needed is None:
    num_needed = len(items)
  last = len(items) - 1
  while last > 0:
    bits = (last + 1).bit_length()
    first = (1 << bits - 1) - 1  # Draws below this need fewer bits.
    # Beyond the front, the item for index i is not needed: no swap.
    for i in range(last, max(first, num_needed) - 1, -1):
      draw = getrandbits(bits)
      while draw > i:
        draw = getrandbits(bits)
      items[draw] = items[i]
    for i in range(min(last, num_needed - 1), max(first, 1) - 1, -1):
      draw = getrandbits(bits)
      while draw > i:
        draw = getrandbits(bits)
      items[draw], items[i] = items[i], items[draw]
    last = first - 1


# --- Records -----------------------------------------------------------------


def features_of(rows: np.ndarray, ids: np.ndarray, vocab: Mapping[str, int],
                options: SamplingOptions) -> Dict[str, np.ndarray]:
  """Builds the features of instances.

  Args:
    rows: instances of a Sampler, `options.row_dtype` [N].
    ids: token ids of the corpus, int32 [tokens].
    vocab: ids by token.
    options: sampling options of the Sampler.

  Returns:
    Arrays by feature name, [N, S], [N, P] and [N, 1].
  """
  first_length = rows["first_length"][:, np.newaxis]
  second_length = rows["second_length"][:, np.newaxis]
  position = np.arange(options.max_seq_length)
  is_first = position < first_length + 2  # [CLS], first, [SEP]; [N, S]
  is_token = position < first_length + second_length + _NUM_SPECIAL
  start = np.where(is_first, rows["first_start"][:, np.newaxis] - 1,
                   rows["second_start"][:, np.newaxis] - 2 - first_length)
  # Positions without a token of the corpus are overwritten below.
  input_ids = ids.take(start + position, mode="clip")  # [N, S]
  input_ids[:, 0] = vocab[tokenization.CLASS_TOKEN]
  row = np.arange(len(rows))[:, np.newaxis]
  for separator in (first_length + 1, first_length + second_length + 2):
    input_ids[row, separator] = vocab[tokenization.SEPARATOR_TOKEN]
  input_ids[~is_token] = 0

  # Slots are sorted by position; empty slots come last.
  is_slot = (np.arange(options.max_predictions_per_seq)
             < rows["num_masked"][:, np.newaxis])  # [N, P]
  order = np.argsort(
      np.where(is_slot, rows["positions"], options.max_seq_length))
  positions = np.take_along_axis(rows["positions"], order, axis=1)
  new_ids = np.take_along_axis(rows["new_ids"], order, axis=1)
  labels = input_ids[row, positions]  # [N, P]
  new_ids = np.where(is_slot & (new_ids != _KEPT), new_ids, labels)
  # Empty slots point at [CLS] and write its own id.
  input_ids[row, positions] = new_ids
  return {
      schema.INPUT_IDS: input_ids,
      schema.INPUT_MASK: is_token.astype(np.int32),
      schema.SEGMENT_IDS: (is_token & ~is_first).astype(np.int32),
      schema.MASKED_LM_POSITIONS: positions,
      schema.MASKED_LM_IDS: labels * is_slot,
      schema.MASKED_LM_WEIGHTS: is_slot.astype(np.float32),
      schema.NEXT_SENTENCE_LABELS: rows["is_random_next"][:, np.newaxis],
  }

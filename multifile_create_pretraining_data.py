r"""Makes BERT pre-training records from text files.

  python multifile_create_pretraining_data.py \
    --input_dir data/split \
    --output_dir data/records \
    --output_base_name wiki_tfrecord \
    --vocab_file bert/vocab.txt

Input is UTF-8 text with one sentence a line and a blank line between
documents. The i-th file of input_dir, in natural order (_2 before _10), gives
OUTPUT_BASE_NAME_i.tfrecord. A run that was stopped goes on where it was when
the same command is given again.

The procedure is that of BERT (Devlin et al. 2019, section A.1), draw by draw:
a file's records depend on its text and on random_seed + i alone.
"""

import array
import bisect
import contextlib
import functools
import hashlib
import os
import random
import re
import tempfile
import time
from typing import (Callable, Dict, Iterator, List, Mapping, MutableSequence,
                    NamedTuple, Optional, Sequence, Tuple)

from absl import flags
from absl import logging
import numpy as np
import tqdm

import command_line
import records
import tokenization
import workers

FLAGS = flags.FLAGS

_STAGE = "multifile_create_pretraining_data"
_REQUIRED_FLAGS = ("input_dir", "output_dir", "output_base_name", "vocab_file")
# [CLS], [SEP] and [SEP].
_NUM_SPECIAL = 3
_BLOCK_BYTES = 1 << 20
# Places in a file's text are int32.
_MAX_TOKENS = 2**31 - 1
# Instances that are put on disk, or encoded, at once.
_BLOCK_INSTANCES = 1000
# A masked word becomes [MASK] 8 times in 10; of the rest, half stay.
_MASK_RATE = 0.8
_KEEP_RATE = 0.5
# Stands for a masked word that stays.
_KEPT = -1
# Memory of a worker, by measurement on English text with some room: 75 MB and
# 1.2 bytes for each byte of its file.
_WORKER_BYTES = 150 << 20
_BYTES_PER_INPUT_BYTE = 2
# What share of [UNK] makes one doubt the vocabulary.
_SUSPICIOUS_UNKNOWN = 0.05
_ONE_DOCUMENT = (
    "%s has one document only, so its random next sentences come from that "
    "same document: use a smaller --split_number, or put blank lines between "
    "documents.")


class Settings(NamedTuple):
  """What shapes the records, apart from text and vocabulary."""
  do_lower_case: bool
  max_seq_length: int
  max_predictions_per_seq: int
  dupe_factor: int
  masked_lm_prob: float
  short_seq_prob: float
  do_whole_word_mask: bool

  @property
  def row_length(self) -> int:
    """How many numbers a Sampler gives for one instance."""
    return _ROW_HEAD + 2 * self.max_predictions_per_seq


class Source(NamedTuple):
  """A checked input file."""
  path: str
  fingerprint: str
  num_bytes: int


class Task(NamedTuple):
  """One file of the run."""
  source: Source
  output_path: str
  vocab_file: str
  seed: int
  settings: Settings
  manifest: records.Manifest


class Progress(NamedTuple):
  """What a worker has done since its last report.

  Attributes:
    work: in bytes of input, as if reading them were all there is to do.
    sequences: written.
  """
  work: float
  sequences: int


class Counts(NamedTuple):
  """What a file held and gave.

  Attributes:
    documents: in the text.
    sequences: in the records.
    words: WordPiece tokens of the text, each counted once.
    unknown_words: how many of these are [UNK].
    tokens: of the sequences, without padding.
  """
  documents: int
  sequences: int
  words: int
  unknown_words: int
  tokens: int


def define_flags() -> None:
  """Defines the flags of this stage."""
  flags.DEFINE_string(
      "input_dir", None, "Folder of text files; hidden ones are left out.")
  flags.DEFINE_string("output_dir", None, "Folder for the records.")
  flags.DEFINE_string(
      "output_base_name", None, "Start of the names of the record files.")
  flags.DEFINE_string("vocab_file", None, "BERT's vocab.txt.")
  flags.DEFINE_bool(
      "do_lower_case", True,
      "Whether to lower the case and drop accents; True for uncased models.")
  flags.DEFINE_integer(
      "max_seq_length", 128, "Tokens in a sequence.", lower_bound=5)
  flags.DEFINE_integer(
      "max_predictions_per_seq", 20, "Most masked words in a sequence.",
      lower_bound=1)
  flags.DEFINE_integer(
      "random_seed", 12345, "Seed; file i uses random_seed + i.")
  flags.DEFINE_integer(
      "dupe_factor", 10,
      "How many times to go through the text, each time with other masks.",
      lower_bound=1)
  flags.DEFINE_float(
      "masked_lm_prob", 0.15, "Share of the tokens to mask.",
      lower_bound=0.0, upper_bound=1.0)
  flags.DEFINE_float(
      "short_seq_prob", 0.1,
      "Share of the documents that are cut into shorter sequences.",
      lower_bound=0.0, upper_bound=1.0)
  flags.DEFINE_bool(
      "do_whole_word_mask", False,
      "Whether to mask all pieces of a word or none.")
  flags.DEFINE_integer(
      "num_workers", None,
      "Processes, each with one file at a time; by default one for each core, "
      "as far as there are files.", lower_bound=1)
  flags.DEFINE_bool(
      "overwrite", False,
      "Whether to replace outputs that were made in another way.")


# --- Text --------------------------------------------------------------------


class Corpus(NamedTuple):
  """The ids of a text file: documents of sentences, one behind the other.

  Attributes:
    ids: int32 [tokens].
    sentences: where each sentence starts in ids, and where the last one ends.
    documents: which sentence each document starts with, and the number of
      sentences.
  """
  ids: np.ndarray
  sentences: "array.array[int]"
  documents: "array.array[int]"


def text_blocks(path: str, digest) -> Iterator[str]:
  """Reads a text file in blocks of whole lines.

  Args:
    path: the file.
    digest: hash that is updated with the bytes.

  Raises:
    ValueError: the file is not UTF-8.
  """
  offset = 0
  rest = []
  with open(path, "rb") as file:
    while True:
      block = file.read(_BLOCK_BYTES)
      digest.update(block)
      cut = block.rfind(b"\n") + 1
      if block and not cut:
        rest.append(block)
        continue
      whole = b"".join(rest + [block[:cut]])
      try:
        yield whole.decode("utf-8")
      except UnicodeDecodeError as error:
        raise ValueError(
            "--input_dir: {} is not UTF-8 at byte {} ({}): convert it, for "
            "example with iconv -f latin1 -t utf-8".format(
                path, offset + error.start, error.reason)) from None
      if not block:
        return
      offset += len(whole)
      rest = [block[cut:]]


def read_corpus(path: str, tokenizer: tokenization.FullTokenizer, digest,
                report: Callable[[int], None]) -> Corpus:
  """Reads and tokenizes a text file.

  Args:
    path: the file.
    tokenizer: for its lines.
    digest: hash that is updated with the bytes.
    report: called now and then with the number of characters just read.

  Raises:
    ValueError: the file is not UTF-8, holds no text or too much.
  """
  ids = array.array("i")
  sentences = array.array("q", [0])
  documents = array.array("q", [0])
  for text in text_blocks(path, digest):
    lines = text.split("\n")
    if not lines[-1]:
      lines.pop()  # What follows the last line end is no line.
    block_ids, lengths = tokenizer.encode_lines(lines)
    end = len(ids)
    ids.extend(block_ids)
    for line, length in zip(lines, lengths):
      if length:
        end += length
        sentences.append(end)
      elif not line.strip() and documents[-1] != len(sentences) - 1:
        documents.append(len(sentences) - 1)
    report(len(text))
  if documents[-1] != len(sentences) - 1:
    documents.append(len(sentences) - 1)
  if not ids:
    raise ValueError("--input_dir: {} holds no text; remove it".format(path))
  if len(ids) > _MAX_TOKENS:
    raise ValueError("--input_dir: {} has {} tokens, over the limit of {}; "
                     "split the text with a larger --split_number".format(
                         path, len(ids), _MAX_TOKENS))
  return Corpus(np.frombuffer(ids, np.int32), sentences, documents)


# --- Sampling ----------------------------------------------------------------

# An instance is kept as a row of int32: these, then the positions and the new
# ids of its masked words (P each), in the order in which they were drawn.
_FIRST_START = 0
_FIRST_LENGTH = 1
_SECOND_START = 2
_SECOND_LENGTH = 3
_IS_RANDOM_NEXT = 4
_NUM_MASKED = 5
_ROW_HEAD = 6


class Sampler:
  """Draws the instances of a corpus as BERT's reference does.

  Every draw is the one that `random.Random` would make there; its methods are
  spelt out, for most of the time goes into them.
  """

  def __init__(self, corpus: Corpus, vocab: Mapping[str, int],
               settings: Settings, rng: random.Random):
    """Shuffles the documents, which is the first thing that is drawn."""
    self._sentences = corpus.sentences
    self._settings = settings
    self._random = rng.random
    self._getrandbits = rng.getrandbits
    self._mask_id = vocab[tokenization.MASK_TOKEN]
    self._replacements = list(vocab.values())
    self._positions = list(range(settings.max_seq_length))
    self._continues_word = None
    if settings.do_whole_word_mask:
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
    return len(self._order)

  def rows(self) -> Iterator["array.array[int]"]:
    """Yields the rows of each document in turn, dupe_factor times over."""
    for _ in range(self._settings.dupe_factor):
      for index in range(len(self._order)):
        yield self._sample_document(index)

  def _below(self, limit: int) -> int:
    """Draws an integer from 0 to limit - 1."""
    bits = limit.bit_length()
    draw = self._getrandbits(bits)
    while draw >= limit:
      draw = self._getrandbits(bits)
    return draw

  def _sample_document(self, index: int) -> "array.array[int]":
    """Draws the instances of one document."""
    settings = self._settings
    rand = self._random
    below = self._below
    sentences = self._sentences
    rows = array.array("i")
    max_tokens = settings.max_seq_length - _NUM_SPECIAL
    target = max_tokens
    if rand() < settings.short_seq_prob:
      target = 2 + below(max_tokens - 1)
    document = self._order[index]
    start, document_end = self._documents[document:document + 2]
    while start < document_end:
      # Whole sentences, until the target is reached.
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
        start = middle  # The rest of the chunk is used again.
      else:
        second, second_end = first_end, sentences[end]
        start = end
      # Truncate: one token at a time, from either end of the longer side.
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
      padding = [0] * (settings.max_predictions_per_seq - len(positions))
      rows.extend([first, first_length, second, second_length, is_random_next,
                   len(positions), *positions, *padding, *new_ids, *padding])
    return rows

  def _random_second(self, index: int, target: int) -> Tuple[int, int]:
    """Draws a place in another document, if there is one, to go on from."""
    for _ in range(10):
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
    """Draws which positions to mask, and with what."""
    settings = self._settings
    rand = self._random
    num_tokens = first_length + second_length
    num_masked = min(
        settings.max_predictions_per_seq,
        max(1, round((num_tokens + _NUM_SPECIAL) * settings.masked_lm_prob)))
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
    """Draws whole words that have at most num_masked pieces together."""
    words = []
    for position, continues in zip(positions, continues_word):
      if continues and words:
        words[-1].append(position)
      else:
        words.append([position])
    shuffle(words, self._getrandbits)
    chosen = []
    for word in words:
      if len(chosen) + len(word) <= num_masked:
        chosen += word
    return chosen


def shuffle(items: MutableSequence, getrandbits: Callable[[int], int],
            num_needed: Optional[int] = None) -> None:
  """Shuffles in place, with the draws and the outcome of `Random.shuffle`.

  Args:
    items: to be shuffled.
    getrandbits: of the generator.
    num_needed: how many items at the front are wanted; those behind them are
      left in disorder. None for all.
  """
  if num_needed is None:
    num_needed = len(items)
  last = len(items) - 1
  while last > 0:
    bits = (last + 1).bit_length()
    first = (1 << bits - 1) - 1  # Draws below this need fewer bits.
    # Behind the front, what would be swapped there is not missed.
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
                settings: Settings) -> Dict[str, np.ndarray]:
  """Builds the features of instances.

  Args:
    rows: int32 [N, row], as a Sampler gives them.
    ids: int32, of the corpus.
    vocab: ids by token.
    settings: S, P.

  Returns:
    Arrays by feature name, [N, S], [N, P] and [N, 1].
  """
  num_slots = settings.max_predictions_per_seq
  first_length = rows[:, _FIRST_LENGTH, np.newaxis]
  second_length = rows[:, _SECOND_LENGTH, np.newaxis]
  position = np.arange(settings.max_seq_length)
  is_first = position < first_length + 2  # [CLS], first, [SEP]
  is_token = position < first_length + second_length + _NUM_SPECIAL
  place = np.where(
      is_first, rows[:, _FIRST_START, np.newaxis] - 1,
      rows[:, _SECOND_START, np.newaxis] - 2 - first_length) + position
  input_ids = ids.take(place, mode="clip")
  input_ids[:, 0] = vocab[tokenization.CLASS_TOKEN]
  row = np.arange(len(rows))[:, np.newaxis]
  for separator in (first_length + 1, first_length + second_length + 2):
    input_ids[row, separator] = vocab[tokenization.SEPARATOR_TOKEN]
  input_ids[~is_token] = 0

  # Slots in the order of their positions; the empty ones go last.
  is_slot = np.arange(num_slots) < rows[:, _NUM_MASKED, np.newaxis]
  positions = rows[:, _ROW_HEAD:_ROW_HEAD + num_slots]
  slots = np.argsort(np.where(is_slot, positions, settings.max_seq_length))
  positions = np.take_along_axis(positions, slots, axis=1)
  new_ids = np.take_along_axis(rows[:, _ROW_HEAD + num_slots:], slots, axis=1)
  labels = input_ids[row, positions]
  new_ids = np.where(is_slot & (new_ids != _KEPT), new_ids, labels)
  # Empty slots point at [CLS], which they leave as it is.
  input_ids[row, positions] = new_ids
  return {
      records.INPUT_IDS: input_ids,
      records.INPUT_MASK: is_token.astype(np.int32),
      records.SEGMENT_IDS: (is_token & ~is_first).astype(np.int32),
      records.MASKED_LM_POSITIONS: positions,
      records.MASKED_LM_IDS: labels * is_slot,
      records.MASKED_LM_WEIGHTS: is_slot.astype(np.float32),
      records.NEXT_SENTENCE_LABELS: rows[:, _IS_RANDOM_NEXT, np.newaxis],
  }


# --- One file: work for a worker ---------------------------------------------

# Where a worker's time goes, for the bar: reading, once; then drawing and
# writing, each dupe_factor times.
_READING_SHARE = 1.5
_DRAWING_SHARE = 1.0
_WRITING_SHARE = 0.9
_REPORT_SECONDS = 0.2


class _Reporter:
  """Turns what was done for a file into Progress, not too often."""

  def __init__(self, num_bytes: int, dupe_factor: int, report: workers.Report):
    shares = (_READING_SHARE, _DRAWING_SHARE * dupe_factor,
              _WRITING_SHARE * dupe_factor)
    self._reading, self._drawing, self._writing = (
        num_bytes * share / sum(shares) for share in shares)
    self._num_bytes = num_bytes or 1
    self._report = report
    self._last_time = time.monotonic()
    self._done = 0.0
    self._work = 0.0
    self._sequences = 0

  def read(self, num_characters: int) -> None:
    self._add(self._reading * num_characters / self._num_bytes)

  def drawn(self, share: float) -> None:
    self._add(self._drawing * share)

  def written(self, sequences: int, share: float) -> None:
    self._sequences += sequences
    self._add(self._writing * share)

  def finish(self) -> None:
    """Reports what is left, bytes that make no character included."""
    self._work += self._num_bytes - self._done
    self._flush()

  def _add(self, work: float) -> None:
    self._done += work
    self._work += work
    if time.monotonic() - self._last_time > _REPORT_SECONDS:
      self._flush()

  def _flush(self) -> None:
    self._report(Progress(self._work, self._sequences))
    self._last_time = time.monotonic()
    self._work = 0.0
    self._sequences = 0


@functools.lru_cache(maxsize=1)
def _vocabulary(path: str) -> Dict[str, int]:
  """Reads the vocabulary once for all files of a worker."""
  return tokenization.load_vocab(path)


@functools.lru_cache(maxsize=1)
def _tokenizer(vocab_file: str, do_lower_case: bool
              ) -> tokenization.FullTokenizer:
  """Keeps the tokenizer, which knows the common words after one file."""
  return tokenization.FullTokenizer(_vocabulary(vocab_file), do_lower_case)


def check_file(path: str, report: workers.Report) -> Source:
  """Reads an input file through before any work goes into one.

  Raises:
    ValueError: the file is not UTF-8 or holds no text.
  """
  digest = hashlib.sha256()
  num_bytes = os.path.getsize(path)
  reporter = _Reporter(num_bytes, 0, report)
  has_text = False
  for text in text_blocks(path, digest):
    has_text = has_text or not text.isspace() and bool(text)
    reporter.read(len(text))
  reporter.finish()
  if not has_text:
    raise ValueError(
        "--input_dir: {} holds no text; remove it, or split the text again"
        .format(path))
  return Source(path, digest.hexdigest(), num_bytes)


def create_file(task: Task, report: workers.Report) -> Counts:
  """Makes the records of one input file.

  Args:
    task: what to make.
    report: called now and then with a Progress.

  Raises:
    ValueError: the input holds nothing to learn from, or has changed since it
      was checked.
  """
  settings = task.settings
  path = task.source.path
  vocab = _vocabulary(task.vocab_file)
  digest = hashlib.sha256()
  reporter = _Reporter(task.source.num_bytes, settings.dupe_factor, report)
  corpus = read_corpus(
      path, _tokenizer(task.vocab_file, settings.do_lower_case), digest,
      reporter.read)
  if digest.hexdigest() != task.source.fingerprint:
    raise ValueError("--input_dir: {} was changed while this ran; start again"
                     .format(path))
  try:
    return _write_records(task, corpus, vocab, reporter)
  except OSError as error:  # A full disk names no file.
    raise OSError(error.errno, error.strerror, task.output_path) from error


def _write_records(task: Task, corpus: Corpus, vocab: Mapping[str, int],
                   reporter: _Reporter) -> Counts:
  """Draws and writes the records of a corpus."""
  settings = task.settings
  rng = random.Random(task.seed)
  sampler = Sampler(corpus, vocab, settings, rng)
  num_sequences = num_tokens = 0
  with contextlib.ExitStack() as stack:
    writer = stack.enter_context(records.RecordWriter(task.output_path))
    # The instances wait on disk, for memory must not grow with dupe_factor.
    # The file has no name, so nothing of it can stay behind.
    spill = stack.enter_context(
        tempfile.TemporaryFile(dir=os.path.dirname(task.output_path)))
    num_passes = sampler.num_documents * settings.dupe_factor
    for rows in sampler.rows():
      spill.write(rows)
      num_sequences += len(rows) // settings.row_length
      reporter.drawn(1 / num_passes)
    spill.flush()
    order = array.array("I", range(num_sequences))
    shuffle(order, rng.getrandbits)
    for start in range(0, num_sequences, _BLOCK_INSTANCES):
      block = order[start:start + _BLOCK_INSTANCES]
      features = features_of(
          _read_rows(spill.fileno(), block, settings.row_length), corpus.ids,
          vocab, settings)
      num_tokens += int(features[records.INPUT_MASK].sum())
      for serialized in records.encode_batch(features):
        writer.write(serialized)
      reporter.written(len(block), len(block) / num_sequences)
    writer.commit(task.manifest)
  reporter.finish()
  return Counts(
      documents=sampler.num_documents, sequences=num_sequences,
      words=len(corpus.ids),
      unknown_words=int(np.count_nonzero(
          corpus.ids == vocab[tokenization.UNKNOWN_TOKEN])),
      tokens=num_tokens)


def _read_rows(file: int, indices: Sequence[int], row_length: int
              ) -> np.ndarray:
  """Reads rows from a file descriptor, int32 [N, row_length]."""
  num_bytes = 4 * row_length
  rows = [os.pread(file, num_bytes, num_bytes * i) for i in indices]
  return np.frombuffer(b"".join(rows), np.int32).reshape(-1, row_length)


# --- The run -----------------------------------------------------------------


def input_files(folder: str) -> List[str]:
  """Lists the files of input_dir, hidden ones left out, in natural order.

  Raises:
    ValueError: there is no such folder, or no file in it.
  """
  if not os.path.isdir(folder):
    raise ValueError("--input_dir: there is no folder {}; give the folder that "
                     "split_text.py wrote".format(folder))
  names = [entry.name for entry in os.scandir(folder)
           if entry.is_file() and not entry.name.startswith(".")]
  if not names:
    raise ValueError("--input_dir: {} holds no file; give the folder that "
                     "split_text.py wrote".format(folder))
  names.sort(key=records.natural_key)
  return [os.path.join(folder, name) for name in names]


def create(input_dir: str, output_dir: str, output_base_name: str,
           vocab_file: str, settings: Settings, random_seed: int,
           num_workers: Optional[int], overwrite: bool) -> None:
  """Makes the records of a folder of text files.

  Args:
    input_dir: folder of text files.
    output_dir: folder for the records; made where it is missing.
    output_base_name: start of the names of the record files.
    vocab_file: path of the vocabulary.
    settings: what shapes the records.
    random_seed: of the first file; the next has one more.
    num_workers: processes, or None for as many as are of use.
    overwrite: whether to replace files that were made in another way.

  Raises:
    ValueError: the input is no use, or an output stands in the way.
  """
  vocab = tokenization.load_vocab(vocab_file)
  with open(vocab_file, "rb") as file:
    vocab_fingerprint = hashlib.sha256(file.read()).hexdigest()
  if os.path.basename(output_base_name) != output_base_name:
    raise ValueError("--output_base_name={} is a path; give a name, and the "
                     "folder with --output_dir".format(output_base_name))
  paths = input_files(input_dir)
  if os.path.realpath(input_dir) == os.path.realpath(output_dir):
    raise ValueError("--output_dir={} is --input_dir too; records there would "
                     "be input next time: choose another folder".format(
                         output_dir))
  num_workers = workers_that_fit(paths, num_workers, workers.available_memory())
  sources = _check(paths, num_workers)
  tasks = []
  for i, source in enumerate(sources):
    manifest = records.Manifest(
        stage=_STAGE,
        flags=dict(settings._asdict(), random_seed=random_seed + i),
        fingerprints={"vocab_file": vocab_fingerprint},
        sources={os.path.basename(source.path): source.fingerprint},
        vocab_size=max(vocab.values()) + 1)
    task = Task(
        source, os.path.join(
            output_dir, "{}_{}.tfrecord".format(output_base_name, i)),
        vocab_file, random_seed + i, settings, manifest)
    if not records.is_finished(task.output_path, manifest, overwrite):
      tasks.append(task)
  os.makedirs(output_dir, exist_ok=True)
  _warn_of_older_outputs(output_dir, output_base_name, len(paths))
  counts = _create_files(tasks, num_workers)
  _log_counts(counts, settings)


def workers_that_fit(paths: Sequence[str], num_workers: Optional[int],
                     available: Optional[int]) -> int:
  """Says how many workers to start.

  Args:
    paths: input files.
    num_workers: what the user asks for, or None.
    available: bytes of memory, or None where that is not known.

  Returns:
    num_workers; by default as many as there are cores and as fit into memory;
    never more than files.

  Raises:
    ValueError: the files are too large for the memory.
  """
  sizes = sorted(map(os.path.getsize, paths), reverse=True)

  def need(count: int) -> int:
    return sum(_WORKER_BYTES + _BYTES_PER_INPUT_BYTE * size
               for size in sizes[:count])

  count = min(num_workers or os.cpu_count() or 1, len(paths))
  if available is None:
    return count
  while num_workers is None and count > 1 and need(count) > available:
    count -= 1
  if need(count) > available:
    room = max(available // count - _WORKER_BYTES, _WORKER_BYTES)
    raise ValueError(
        "--input_dir: the largest file has {:,} MB, and --num_workers={} needs "
        "about {:,} MB of memory for such files where {:,} MB are available: "
        "split the text again with --split_number={} or more{}".format(
            sizes[0] >> 20, count, need(count) >> 20, available >> 20,
            -(-sum(sizes) * _BYTES_PER_INPUT_BYTE // room),
            ", or lower --num_workers" if count > 1 else ""))
  return count


def _check(paths: Sequence[str], num_workers: int) -> List[Source]:
  """Checks all input files, in parallel."""
  sources = {}
  with _bar("Checking", sum(map(os.path.getsize, paths))) as bar:
    checked = workers.run(check_file, paths, num_workers,
                          lambda progress: bar.update(progress.work))
    with contextlib.closing(checked):
      sources.update(checked)
  return [sources[i] for i in range(len(paths))]


def _create_files(tasks: Sequence[Task], num_workers: int) -> List[Counts]:
  """Makes all files that are missing, in parallel."""
  counts = []
  num_sequences = 0
  with _bar("Writing", sum(task.source.num_bytes for task in tasks)) as bar:

    def show(progress: Progress) -> None:
      nonlocal num_sequences
      num_sequences += progress.sequences
      bar.set_postfix_str("{}/{} files, {:,} sequences".format(
          len(counts), len(tasks), num_sequences))
      bar.update(progress.work)

    try:
      created = workers.run(create_file, tasks, num_workers, show)
      with contextlib.closing(created):
        for index, file_counts in created:
          counts.append(file_counts)
          show(Progress(0.0, 0))
          if file_counts.documents == 1:
            logging.warning(_ONE_DOCUMENT, tasks[index].source.path)
    finally:
      # What stopped workers have left.
      for task in tasks:
        with contextlib.suppress(FileNotFoundError):
          os.remove(records.partial_path(task.output_path))
  return counts


def _warn_of_older_outputs(output_dir: str, output_base_name: str,
                           num_files: int) -> None:
  """Warns of outputs that belong to more input files than there are."""
  pattern = re.compile(re.escape(output_base_name) + r"_([0-9]+)\.tfrecord")
  for name in sorted(os.listdir(output_dir), key=records.natural_key):
    match = pattern.fullmatch(name)
    if match and int(match.group(1)) >= num_files:
      logging.warning(
          "%s is not of this run, which has %d input files: remove it unless "
          "it belongs to the training data.", os.path.join(output_dir, name),
          num_files)


def _bar(title: str, num_bytes: int) -> tqdm.tqdm:
  """Returns a progress bar over input bytes; none without a terminal."""
  return tqdm.tqdm(desc=title, total=num_bytes, unit="B", unit_scale=True,
                   disable=None)


def _log_counts(counts: Sequence[Counts], settings: Settings) -> None:
  """Logs what was made, and warns where the vocabulary seems not to fit."""
  if not counts:
    return
  total = Counts(*map(sum, zip(*counts)))
  unknown_share = total.unknown_words / total.words
  logging.info(
      "%d files: %d documents, %d tokens, %.2f%% of them [UNK]; %d sequences, "
      "%.1f%% padding.", len(counts), total.documents, total.words,
      100 * unknown_share, total.sequences,
      100 - 100 * total.tokens / (total.sequences * settings.max_seq_length))
  if unknown_share > _SUSPICIOUS_UNKNOWN:
    logging.warning(
        "%.0f%% of the tokens are [UNK]: is --vocab_file of another language, "
        "or --do_lower_case=%s wrong for it?", 100 * unknown_share,
        settings.do_lower_case)


def main() -> None:
  settings = Settings(*(FLAGS[name].value for name in Settings._fields))
  try:
    create(FLAGS.input_dir, FLAGS.output_dir, FLAGS.output_base_name,
           FLAGS.vocab_file, settings, FLAGS.random_seed, FLAGS.num_workers,
           FLAGS.overwrite)
  except KeyboardInterrupt:
    raise KeyboardInterrupt("finished files are kept: the same command goes on "
                            "from here") from None


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=_REQUIRED_FLAGS)

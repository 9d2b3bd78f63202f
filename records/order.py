"""Orders the records in training: epochs, windows, processes and resuming.

The records of all epochs form one sequence, which depends on the files and the
seed alone. At each step, all processes together take the next records of the
sequence. Therefore the number of processes does not change the training data,
and a run resumes from the number of records read, with any number of processes.

An epoch is a random permutation of the blocks of all files. Consecutive blocks
form a window, which is held in memory. A window is cut into 192 shards of
consecutive records. Each shard is shuffled, and the sequence takes one record
from each shard in turn. If the number of processes divides 192, no two
processes read the same shard. If the number is a power of two, up to 64, the
shards of a process are adjacent in the window.

Dimensions:
  F: files
  A: blocks of all files
  M: records in a window
"""

import dataclasses
import hashlib
import itertools
import json
import math
import os
from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple

from absl import logging
import numpy as np

from records import block_index
from records import tfrecord
from util import files
from util.command_line import InputError

# Approximate number of records in a window: 67 MB at S = 128, P = 20, K = 10.
WINDOW_RECORDS = 32 * tfrecord.BLOCK_RECORDS
# Approximate upper bound of the bytes in a window, for longer records.
WINDOW_BYTES = 128 << 20
# Divisible by 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96 and 192, the most
# common numbers of processes. With another number, processes share shards.
_SHARD_BITS, _SHARD_FACTOR = 6, 3
_NUM_SHARDS = _SHARD_FACTOR << _SHARD_BITS
# File in output_dir with the list of the run's `Reading`s.
ORDER_FILE = "record_order.json"


# --- Blocks ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Corpus:
  """The blocks of record files, in the order of the files.

  Attributes:
    paths: paths of the files, [F].
    files: index in `paths` of each block's file, int64 [A].
    offsets: offset of each block in its file, in bytes, int64 [A].
    num_bytes: size of each block in bytes, int64 [A].
    num_records: number of records in each block, int64 [A].
  """
  paths: Sequence[str]
  files: np.ndarray
  offsets: np.ndarray
  num_bytes: np.ndarray
  num_records: np.ndarray

  @property
  def size(self) -> int:
    """Number of records in all files."""
    return int(self.num_records.sum())

  @property
  def window_records(self) -> int:
    """Approximate number of records in a window, within `WINDOW_BYTES`."""
    blocks = WINDOW_BYTES * self.size // int(
        self.num_bytes.sum() * tfrecord.BLOCK_RECORDS)
    return min(WINDOW_RECORDS, max(1, blocks) * tfrecord.BLOCK_RECORDS)

  def fingerprint(self) -> str:
    """Returns the SHA-256 of the file names and blocks, which fix the order."""
    digest = hashlib.sha256()
    for path in self.paths:
      digest.update(os.path.basename(path).encode() + b"\n")
    for column in (self.files, self.offsets, self.num_bytes, self.num_records):
      digest.update(column.astype("<i8").tobytes())
    return digest.hexdigest()


def read_corpus(paths: Sequence[str], flag: str,
                index_folder: Optional[str] = None) -> Corpus:
  """Reads the block index of record files.

  Args:
    paths: paths of the record files.
    flag: name of the flag that named the files, for errors.
    index_folder: as for `block_index.read_block_index`.

  Raises:
    InputError: if a file is damaged or not a TFRecord file.
  """
  columns: List[np.ndarray] = []
  for number, path in enumerate(paths):
    index = block_index.read_block_index(path, flag, index_folder)
    offsets = np.array(index.offsets, np.int64)
    counts = np.full(len(offsets), tfrecord.BLOCK_RECORDS)
    counts[-1:] = index.num_records - tfrecord.BLOCK_RECORDS * (
        len(offsets) - 1)
    columns.append(np.stack([
        np.full(len(offsets), number), offsets,
        np.diff(offsets, append=index.num_bytes), counts]))
  return Corpus(list(paths), *np.concatenate(columns, axis=1).astype(np.int64))


class Piece(NamedTuple):
  """Consecutive records of one block.

  Attributes:
    block: index of the block in the corpus.
    start: first record of the piece, counted from the start of the block.
    stop: record after the last record of the piece.
  """
  block: int
  start: int
  stop: int


def pieces_of(corpus: Corpus, first: int, last: int) -> List[Piece]:
  """Returns the pieces of a range of records, numbered in file order.

  Args:
    corpus: the blocks.
    first: first record of the range.
    last: record after the last record of the range.
  """
  return _pieces(np.arange(len(corpus.num_records)), corpus.num_records,
                 np.array([first]), np.array([last]))


def path_of(corpus: Corpus, record: int) -> str:
  """Returns the file of a record, which is numbered in file order."""
  piece, = pieces_of(corpus, record, record + 1)
  return corpus.paths[corpus.files[piece.block]]


def _pieces(blocks: np.ndarray, num_records: np.ndarray, starts: np.ndarray,
            stops: np.ndarray) -> List[Piece]:
  """Cuts ranges of records at the ends of blocks.

  Args:
    blocks: indices of the blocks.
    num_records: number of records in each of the blocks.
    starts: first record of each range, counted over all of the blocks.
    stops: record after the last record of each range.
  """
  ends = np.cumsum(num_records)
  pieces = []
  for start, stop in zip(starts.tolist(), stops.tolist()):
    i = int(np.searchsorted(ends, start, side="right"))
    while start < stop:
      first_of_block = int(ends[i] - num_records[i])
      end = min(stop, int(ends[i]))
      pieces.append(Piece(int(blocks[i]), start - first_of_block,
                          end - first_of_block))
      start = end
      i += 1
  return pieces


class Location(NamedTuple):
  """The location of a piece in its file.

  Attributes:
    path: the file.
    offset: offset of the first byte to read.
    num_bytes: number of bytes to read.
    num_skipped: number of records to skip.
    num_records: number of records to take after the skipped ones.
  """
  path: str
  offset: int
  num_bytes: int
  num_skipped: int
  num_records: int


def locate(corpus: Corpus, piece: Piece, flag: str) -> Location:
  """Finds the location of a piece in its file.

  For a part of a block, the lengths of the block's records are read to find the
  bytes of the part. In a remote file each length would be a request, so the
  location covers the whole block.

  Args:
    corpus: the blocks.
    piece: a piece of one of the blocks.
    flag: name of the flag that named the files, for errors.

  Raises:
    InputError: if the file is damaged, has changed or cannot be read.
  """
  block, start, stop = piece
  path = corpus.paths[corpus.files[block]]
  offset = int(corpus.offsets[block])
  num_bytes = int(corpus.num_bytes[block])
  is_whole = stop - start == corpus.num_records[block]
  if is_whole or files.is_remote(path):
    return Location(path, offset, num_bytes, start, stop - start)
  try:
    bounds = list(itertools.islice(
        tfrecord.offsets(path, flag, offset), start, stop + 1))
  except OSError as error:
    raise InputError("--{}: {}: {}; the file was readable when training began: "
                     "restore the file and run the same command again".format(
                         flag, path, error.strerror)) from None
  if len(bounds) <= stop - start:
    raise InputError("--{}: {} has fewer records than when training began; do "
                     "not change the file during a run".format(flag, path))
  return Location(path, bounds[0], bounds[-1] - bounds[0], 0, stop - start)


# --- The sequence ------------------------------------------------------------


class Window(NamedTuple):
  """The pieces that a process reads at once, and the order of their records.

  Attributes:
    epoch: number of the epoch, from 0.
    pieces: the pieces to read.
    order: records to take, in order, each counted over all pieces; int32.
      Records of the pieces that are not in `order` belong to other processes or
      were taken before the run resumed.
  """
  epoch: int
  pieces: List[Piece]
  order: np.ndarray


def windows(corpus: Corpus, seed: int, position: int = 0,
            num_processes: int = 1, process: int = 0) -> Iterator[Window]:
  """Yields the windows of one process, without end.

  The process takes the records `position + process`, then every
  `num_processes`-th record of the sequence.

  Args:
    corpus: the blocks, with at least one record.
    seed: seed of the order.
    position: number of records to skip at the start of the sequence.
    num_processes: number of processes.
    process: rank of this process.
  """
  assert corpus.size
  next_position = position + process
  epoch = position // corpus.size
  epoch_start = epoch * corpus.size
  while True:
    blocks = _generator(seed, epoch).permutation(len(corpus.num_records))
    counts = corpus.num_records[blocks]
    window_start = epoch_start
    for number, window_blocks in enumerate(
        _window_blocks(counts, corpus.window_records)):
      window_size = int(counts[window_blocks].sum())
      if next_position < window_start + window_size:
        window = _window(
            blocks[window_blocks], counts[window_blocks],
            _generator(seed, epoch, number), next_position - window_start,
            num_processes)
        yield Window(epoch, *window)
        next_position += len(window[1]) * num_processes
      window_start += window_size
    epoch, epoch_start = epoch + 1, window_start


def _generator(seed: int, *numbers: int) -> np.random.Generator:
  """Returns the random generator of an epoch, or of a window of an epoch."""
  return np.random.default_rng([seed % (1 << 64), *numbers])


def _window_blocks(counts: np.ndarray, window_records: int) -> List[slice]:
  """Divides the blocks of an epoch into windows of about the same size.

  Args:
    counts: number of records in each block, in the order of the epoch.
    window_records: approximate number of records in a window.

  Returns:
    The range of blocks of each window.
  """
  first_records = np.cumsum(counts) - counts
  num_windows = max(1, int(counts.sum() / window_records + 0.5))
  starts = np.unique(np.searchsorted(
      first_records, window_records * np.arange(num_windows))).tolist()
  return [slice(start, stop) for start, stop in
          zip(starts, starts[1:] + [len(counts)])]


def _window(blocks: np.ndarray, counts: np.ndarray,
            generator: np.random.Generator, first: int, stride: int
           ) -> Tuple[List[Piece], np.ndarray]:
  """Returns the pieces and the order of one process in a window.

  Args:
    blocks: indices of the window's blocks.
    counts: number of records in each of the blocks.
    generator: random generator of the window.
    first: position in the window of the first record to take.
    stride: distance between the positions of records to take.
  """
  size = int(counts.sum())
  shards = _shards_in_order()
  # Position q of the window takes a record of shard q % _NUM_SHARDS.
  lengths = (size - shards + _NUM_SHARDS - 1) // _NUM_SHARDS
  ends = np.cumsum(lengths)
  # The integer part of a key orders by shard, the fraction shuffles the shard.
  shuffled = np.argsort(
      np.repeat(np.arange(_NUM_SHARDS), lengths) + generator.random(size),
      kind="stable")
  index_of_shard = np.argsort(shards)
  positions = np.arange(first, size, stride)
  indices = index_of_shard[positions % _NUM_SHARDS]
  records = shuffled[(ends - lengths)[indices] + positions // _NUM_SHARDS]
  # Whole shards are read even from the middle of a window, so that a resumed
  # process reads the same pieces as an uninterrupted one.
  step = math.gcd(stride, _NUM_SHARDS)
  is_read = (shards % step == first % step) & (lengths > 0)
  starts, stops = _merge_ranges(is_read, ends - lengths, ends)
  range_offsets = np.cumsum(stops - starts) - (stops - starts)
  ranges = np.searchsorted(stops, records, side="right")
  order = records - starts[ranges] + range_offsets[ranges]
  return _pieces(blocks, counts, starts, stops), order.astype(np.int32)


def _shards_in_order() -> np.ndarray:
  """Returns the shards in the order of their records, int64 [_NUM_SHARDS].

  The bits of a shard are the bits of its index in reverse, so that shards equal
  modulo a power of two are adjacent.
  """
  indices = np.arange(_NUM_SHARDS)
  high, low = indices // _SHARD_FACTOR, indices % _SHARD_FACTOR
  reverse = np.zeros_like(high)
  for bit in range(_SHARD_BITS):
    reverse |= (high >> bit & 1) << (_SHARD_BITS - 1 - bit)
  return reverse + (low << _SHARD_BITS)


def _merge_ranges(is_taken: np.ndarray, starts: np.ndarray, stops: np.ndarray
                 ) -> Tuple[np.ndarray, np.ndarray]:
  """Merges adjacent ranges among the ranges that are taken."""
  starts, stops = starts[is_taken], stops[is_taken]
  is_new = np.append(True, starts[1:] != stops[:-1])
  return starts[is_new], stops[np.append(is_new[1:], True)]


# --- Resuming ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Reading:
  """A run's record order from a step on, until the next `Reading`.

  Attributes:
    first_step: first step of the reading.
    position: position in the sequence at `first_step`.
    sequences_per_step: records that all processes together read per step.
    seed: seed of the order.
    corpus: fingerprint of the corpus.
    corpus_size: number of records in the corpus.
    skipped_steps: number of steps before `first_step` that changed no variable
      because their gradients overflowed.
    window_records: approximate number of records in a window.
  """
  first_step: int
  position: int
  sequences_per_step: int
  seed: int
  corpus: str
  corpus_size: int
  skipped_steps: int = 0
  window_records: int = WINDOW_RECORDS

  def position_at(self, step: int) -> int:
    """Returns the position in the sequence at a step."""
    return self.position + (step - self.first_step) * self.sequences_per_step


class Progress(NamedTuple):
  """The progress of a run at a step.

  Attributes:
    num_sequences: number of sequences read in all earlier steps.
    num_skipped: how many of them were read in steps that changed no variable.
  """
  num_sequences: int
  num_skipped: int


def progress(output_dir: str, step: int, sequences_per_step: int,
             skipped_steps: int = 0) -> Progress:
  """Counts the sequences that a run has read, also if its batch size changed.

  Steps before the first `Reading`, which an earlier version trained, count with
  the current `sequences_per_step`.

  Args:
    output_dir: folder of the run.
    step: step of the run's checkpoint.
    sequences_per_step: records that all processes together now read per step.
    skipped_steps: number of steps before `step` that changed no variable.

  Raises:
    InputError: if the run's `ORDER_FILE` is damaged.
  """
  earlier = _readings_before(output_dir, step)
  starts = [0, *(reading.first_step for reading in earlier), step]
  skipped = [0, *(min(reading.skipped_steps, skipped_steps)
                  for reading in earlier), skipped_steps]
  sizes = [sequences_per_step, *(
      reading.sequences_per_step for reading in earlier)]
  return Progress(*(
      sum((stop - start) * size
          for start, stop, size in zip(counts, counts[1:], sizes))
      for counts in (starts, skipped)))


def resume(output_dir: str, first_step: int, sequences_per_step: int,
           seed: int, corpus: Corpus, skipped_steps: int = 0) -> Reading:
  """Finds the position in the sequence where a run resumes, and records it.

  Args:
    output_dir: folder of the run.
    first_step: step of the checkpoint to resume from, 0 for none.
    sequences_per_step: records that all processes together read per step.
    seed: seed of the order.
    corpus: the blocks.
    skipped_steps: as for `progress`.

  Returns:
    The reading from `first_step` on. If the files, the seed or the windows have
    changed, the reading begins a new epoch. If an earlier version trained
    without an `ORDER_FILE`, the reading begins the first epoch.

  Raises:
    InputError: if the run's `ORDER_FILE` is damaged.
  """
  earlier = _readings_before(output_dir, first_step)
  reading = Reading(first_step, 0, sequences_per_step, seed,
                    corpus.fingerprint(), corpus.size, skipped_steps,
                    corpus.window_records)
  readings = [*earlier, reading]
  if earlier:
    last = earlier[-1]
    position = last.position_at(first_step)
    changes = [change for change, old, new in (
        ("the records", last.corpus, reading.corpus),
        ("--random_seed", last.seed, seed),
        ("the size of windows, which now follows from the bytes of a record",
         last.window_records, reading.window_records)) if old != new]
    if changes:
      epoch = -(-position // last.corpus_size)
      position = epoch * corpus.size
      logging.info("Changed since step %d: %s. Training begins epoch %d.",
                   first_step, " and ".join(changes), epoch)
    if dataclasses.replace(
        reading, first_step=last.first_step, position=last.position,
        skipped_steps=last.skipped_steps) == last:
      readings = earlier
    else:
      readings[-1] = dataclasses.replace(reading, position=position)
  elif first_step:
    logging.info("An earlier version trained %s in another record order. "
                 "Training starts a new epoch at step %d.", output_dir,
                 first_step)
  files.make_folder(output_dir)
  files.write_atomically(os.path.join(output_dir, ORDER_FILE), json.dumps(
      [dataclasses.asdict(each) for each in readings], indent=1) + "\n")
  return readings[-1]


def _readings_before(output_dir: str, step: int) -> List[Reading]:
  """Returns the readings of a run that began before a step.

  Later readings belong to runs that ended before their first checkpoint.
  """
  return [reading for reading in _read_readings(
      os.path.join(output_dir, ORDER_FILE)) if reading.first_step < step]


def _read_readings(path: str) -> List[Reading]:
  """Reads an `ORDER_FILE`; returns no readings if the file does not exist."""
  try:
    with files.open_file(path) as file:
      readings = [Reading(**values) for values in json.loads(file.read())]
    for reading in readings:
      for field in dataclasses.fields(Reading):
        if type(getattr(reading, field.name)) is not field.type:
          raise ValueError("{} has the wrong type".format(field.name))
      if reading.corpus_size < 1:
        raise ValueError("corpus_size is {}".format(reading.corpus_size))
  except FileNotFoundError:
    return []
  except (RecursionError, TypeError, ValueError) as error:
    raise InputError(
        "{} is damaged ({}); remove the file, and training resumes at the "
        "start of an epoch".format(path, error)) from None
  return readings

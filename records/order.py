"""Which record comes when in training: epochs, windows, processes, resume.

All records of all epochs form one sequence, which follows from the files and a
seed alone. Step s of any number of processes takes the next records of it, so
many processes train on what one process would train on, and a run resumes from
the number of records that were read, with as many processes as it likes.

An epoch is a random permutation of all blocks of all files, so each record
comes once in it. Consecutive blocks form a window, as many as are held in
memory at once. A window is cut into `LANES` runs of records, the lanes, each of
them is shuffled, and the sequence takes one record from each lane in turn.
Processes whose number divides `LANES` so have lanes of their own, which no
other process reads. Lanes are numbered such that those of one process follow
each other in the file, wherever the number of processes is a power of two.

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

# Records in a window, about: 67 MB at S = 128, P = 20, K = 10.
WINDOW_RECORDS = 32 * tfrecord.BLOCK_RECORDS
# Bytes in a window at most, about, where records are longer.
WINDOW_BYTES = 128 << 20
# A multiple of most numbers of processes: 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48,
# 64, 96 and 192. Processes of another number read lanes of others too.
_LANE_BITS, _LANE_FACTOR = 6, 3
LANES = _LANE_FACTOR << _LANE_BITS
# File in output_dir that says how many records were read before which step.
ORDER_FILE = "record_order.json"


# --- Blocks ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Corpus:
  """The blocks of record files, in the order of the files.

  Attributes:
    paths: the files.
    files: number of the file of each block, int64 [A].
    offsets: where it begins in its file, int64 [A].
    num_bytes: its size, int64 [A].
    num_records: likewise, int64 [A].
  """
  paths: Sequence[str]
  files: np.ndarray
  offsets: np.ndarray
  num_bytes: np.ndarray
  num_records: np.ndarray

  @property
  def size(self) -> int:
    """Records of all files."""
    return int(self.num_records.sum())

  @property
  def window_records(self) -> int:
    """Records in a window, about; fewer blocks where the records are long."""
    blocks = WINDOW_BYTES * self.size // int(
        self.num_bytes.sum() * tfrecord.BLOCK_RECORDS)
    return min(WINDOW_RECORDS, max(1, blocks) * tfrecord.BLOCK_RECORDS)

  def fingerprint(self) -> str:
    """Returns the SHA-256 of what the order of records depends on."""
    digest = hashlib.sha256()
    for path in self.paths:
      digest.update(os.path.basename(path).encode() + b"\n")
    for column in (self.files, self.offsets, self.num_bytes, self.num_records):
      digest.update(column.astype("<i8").tobytes())
    return digest.hexdigest()


def read_corpus(paths: Sequence[str], flag: str,
                index_folder: Optional[str] = None) -> Corpus:
  """Reads where the blocks of record files begin.

  Args:
    paths: record files.
    flag: name of the flag that named them, for errors.
    index_folder: as for `block_index.read_block_index`.

  Raises:
    InputError: a file is damaged or no TFRecord file.
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
    block: number of the block.
    start: the first record, counted in the block.
    stop: the record after the last one.
  """
  block: int
  start: int
  stop: int


def pieces_of(corpus: Corpus, first: int, last: int) -> List[Piece]:
  """Returns where a range of records in the order of the files lies.

  Args:
    corpus: the blocks.
    first: the first record.
    last: the record after the last one.
  """
  return _pieces(np.arange(len(corpus.num_records)), corpus.num_records,
                 np.array([first]), np.array([last]))


def path_of(corpus: Corpus, record: int) -> str:
  """Returns the file of a record, given by its place in their order."""
  piece, = pieces_of(corpus, record, record + 1)
  return corpus.paths[corpus.files[piece.block]]


def _pieces(blocks: np.ndarray, num_records: np.ndarray, starts: np.ndarray,
            stops: np.ndarray) -> List[Piece]:
  """Cuts ranges of the records of some blocks at the ends of the blocks.

  Args:
    blocks: numbers of the blocks.
    num_records: of each of these blocks.
    starts: first record of each range, counted over all these blocks.
    stops: the record after the last one of each range.
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
  """Where to read a piece.

  Attributes:
    path: the file.
    offset: where to begin, in bytes.
    num_bytes: how much to read.
    num_skipped: records to pass over.
    num_records: records to take after them.
  """
  path: str
  offset: int
  num_bytes: int
  num_skipped: int
  num_records: int


def locate(corpus: Corpus, piece: Piece, flag: str) -> Location:
  """Finds where a piece lies in its file.

  Where it is only part of a block, the heads of the block's records are read:
  not of a remote file, in which each of them would be a request.

  Args:
    corpus: the blocks.
    piece: of one of them.
    flag: name of the flag that named the files, for errors.

  Raises:
    InputError: the file is damaged, or cannot be read.
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
    raise InputError("--{}: {}: {}; the file was there when training began"
                     .format(flag, path, error.strerror)) from None
  if len(bounds) <= stop - start:
    raise InputError("--{}: {} has fewer records than when training began; do "
                     "not change it during a run".format(flag, path))
  return Location(path, bounds[0], bounds[-1] - bounds[0], 0, stop - start)


# --- The sequence ------------------------------------------------------------


class Window(NamedTuple):
  """What a process reads at once, and in which order it takes it.

  Attributes:
    epoch: number of the epoch.
    pieces: where the records lie.
    order: the records of the pieces, counted over all of them, in the order in
      which they are taken; int32. Others of them come in no order of this
      process, or have come before.
  """
  epoch: int
  pieces: List[Piece]
  order: np.ndarray


def windows(corpus: Corpus, seed: int, position: int = 0,
            num_processes: int = 1, process: int = 0) -> Iterator[Window]:
  """Yields what one process reads, without end.

  Of the sequence from `position` on it takes every num_processes-th record.

  Args:
    corpus: the blocks.
    seed: of the order.
    position: how many records of the sequence to leave out.
    num_processes: processes that share the sequence.
    process: this one.
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
  """Returns the source of what is drawn for an epoch or a window."""
  return np.random.default_rng([seed % (1 << 64), *numbers])


def _window_blocks(counts: np.ndarray, window_records: int) -> List[slice]:
  """Deals the blocks of an epoch to windows; a short last one joins another.

  Args:
    counts: records of each block, in the order of the epoch.
    window_records: records in a window, about.

  Returns:
    The blocks of each window.
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
  """Returns pieces and order of one process's part of a window.

  Args:
    blocks: numbers of the window's blocks.
    counts: records of each of them.
    generator: of the window.
    first: position in the window of the first record to take.
    stride: of the positions of all records to take.
  """
  size = int(counts.sum())
  lanes = _lanes_by_place()
  # Position q of the window is in lane q % LANES.
  lengths = (size - lanes + LANES - 1) // LANES
  ends = np.cumsum(lengths)
  # A stable sort within each lane: its number is the whole part of the key.
  shuffled = np.argsort(
      np.repeat(np.arange(LANES), lengths) + generator.random(size),
      kind="stable")
  place_of_lane = np.argsort(lanes)
  positions = np.arange(first, size, stride)
  places = place_of_lane[positions % LANES]
  records = shuffled[(ends - lengths)[places] + positions // LANES]
  # Whole lanes are read, from the start of the window, so that a process which
  # resumes reads what it would have read without.
  step = math.gcd(stride, LANES)
  is_read = (lanes % step == first % step) & (lengths > 0)
  starts, stops = _runs(is_read, ends - lengths, ends)
  run_offsets = np.cumsum(stops - starts) - (stops - starts)
  runs = np.searchsorted(stops, records, side="right")
  order = records - starts[runs] + run_offsets[runs]
  return _pieces(blocks, counts, starts, stops), order.astype(np.int32)


def _lanes_by_place() -> np.ndarray:
  """Returns which lane lies where in a window, int64 [LANES].

  The bits of a place are those of its lane in reverse, so that lanes which are
  equal modulo a power of two lie side by side.
  """
  places = np.arange(LANES)
  high, low = places // _LANE_FACTOR, places % _LANE_FACTOR
  reverse = np.zeros_like(high)
  for bit in range(_LANE_BITS):
    reverse |= (high >> bit & 1) << (_LANE_BITS - 1 - bit)
  return reverse + (low << _LANE_BITS)


def _runs(is_taken: np.ndarray, starts: np.ndarray, stops: np.ndarray
         ) -> Tuple[np.ndarray, np.ndarray]:
  """Joins ranges that follow each other and are taken."""
  starts, stops = starts[is_taken], stops[is_taken]
  is_new = np.append(True, starts[1:] != stops[:-1])
  return starts[is_new], stops[np.append(is_new[1:], True)]


# --- Resuming ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Reading:
  """How a run reads records from some step on.

  Attributes:
    first_step: the step.
    position: records of the sequence that were read before it.
    sequences_per_step: records that all processes together read in a step.
    seed: of the order.
    corpus: fingerprint of the files.
    corpus_size: records in them.
    skipped_steps: steps before `first_step` that changed no variable, because
      their gradients overflowed.
    window_records: records in a window, about.
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
    """Returns how many records were read before a step."""
    return self.position + (step - self.first_step) * self.sequences_per_step


class Progress(NamedTuple):
  """How far a run is at some step.

  Attributes:
    num_sequences: sequences that all steps before it have read.
    num_skipped: of these, the sequences of steps that changed no variable.
  """
  num_sequences: int
  num_skipped: int


def progress(output_dir: str, step: int, sequences_per_step: int,
             skipped_steps: int = 0) -> Progress:
  """Counts the sequences that a run has read, whatever the size of its steps.

  Steps before the first note, which earlier versions have trained, count as
  steps of the present size.

  Args:
    output_dir: folder of the run.
    step: the step of its checkpoint.
    sequences_per_step: records that all processes together now read in a step.
    skipped_steps: steps before `step` that changed no variable.

  Raises:
    InputError: the note of earlier runs is damaged.
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
  """Finds where in the sequence of records a run resumes, and notes it.

  Args:
    output_dir: folder of the run.
    first_step: the step of the checkpoint that it resumes from, 0 for none.
    sequences_per_step: records that all processes together read in a step.
    seed: of the order.
    corpus: the files.
    skipped_steps: as for `progress`.

  Returns:
    How it reads from there. Where the files, the seed or the windows have
    changed, it begins a new epoch; where an earlier version has trained, the
    first one.

  Raises:
    InputError: the note of earlier runs is damaged.
  """
  earlier = _readings_before(output_dir, first_step)
  reading = Reading(first_step, 0, sequences_per_step, seed,
                    corpus.fingerprint(), corpus.size, skipped_steps,
                    corpus.window_records)
  readings = [*earlier, reading]
  if earlier:
    last = earlier[-1]
    position = last.position_at(first_step)
    changes = [words for words, old, new in (
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
    logging.info("%s was trained in the record order of an earlier version: "
                 "from step %d on records come in a new order, from the start "
                 "of an epoch.", output_dir, first_step)
  files.make_folder(output_dir)
  files.write_atomically(os.path.join(output_dir, ORDER_FILE), json.dumps(
      [dataclasses.asdict(each) for each in readings], indent=1) + "\n")
  return readings[-1]


def _readings_before(output_dir: str, step: int) -> List[Reading]:
  """Returns how a run has read the records before a step.

  Later readings were lost with the runs that ended before their checkpoint.
  """
  return [reading for reading in _read_readings(
      os.path.join(output_dir, ORDER_FILE)) if reading.first_step < step]


def _read_readings(path: str) -> List[Reading]:
  """Reads what earlier runs have noted; nothing where there is no file."""
  try:
    with files.open_file(path) as file:
      readings = [Reading(**values) for values in json.loads(file.read())]
    for reading in readings:
      for field in dataclasses.fields(Reading):
        if type(getattr(reading, field.name)) is not field.type:
          raise ValueError("{} is of another type".format(field.name))
      if reading.corpus_size < 1:
        raise ValueError("corpus_size is {}".format(reading.corpus_size))
  except FileNotFoundError:
    return []
  except (RecursionError, TypeError, ValueError) as error:
    raise InputError(
        "{} is damaged ({}); remove it, and training resumes at the start of "
        "an epoch".format(path, error)) from None
  return readings

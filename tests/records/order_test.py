"""Tests of the record order in training."""

import collections
import json

import numpy as np
import pytest

from records import order
from records import tfrecord
from util.command_line import InputError

# Files of unequal length; 21 blocks, 19,179 records.
_COUNTS = (5000, 7, 100, 9000, 2000, 1024, 2048)
_RECORD_BYTES = 100


def _corpus(counts=_COUNTS, record_bytes=_RECORD_BYTES):
  """Builds a corpus of files with these numbers of records."""
  columns = collections.defaultdict(list)
  for number, count in enumerate(counts):
    for first in range(0, count, tfrecord.BLOCK_RECORDS):
      num_records = min(tfrecord.BLOCK_RECORDS, count - first)
      for name, value in (("files", number), ("offsets", first * record_bytes),
                          ("num_bytes", num_records * record_bytes),
                          ("num_records", num_records)):
        columns[name].append(value)
  return order.Corpus(
      ["labelled_{}.tfrecord".format(i) for i in range(len(counts))],
      **{name: np.array(values) for name, values in columns.items()})


def _records_of(corpus, pieces):
  """Returns the indices of the records of some pieces."""
  first_records = np.cumsum(corpus.num_records) - corpus.num_records
  return np.concatenate([
      first_records[piece.block] + np.arange(piece.start, piece.stop)
      for piece in pieces])


def _sequence(corpus, count, **keywords):
  """Returns the indices of the first `count` records that a process reads."""
  records, num_records = [], 0
  for window in order.windows(corpus, **{"seed": 1, **keywords}):
    records.append(_records_of(corpus, window.pieces)[window.order])
    num_records += len(window.order)
    if num_records >= count:
      return np.concatenate(records)[:count]


# --- The sequence ------------------------------------------------------------


@pytest.mark.parametrize("counts", [
    _COUNTS, (1,), (5, 3, 9), (1,) * 50, (100000, 3, 70001)])
def test_every_epoch_holds_each_record_once(counts):
  corpus = _corpus(counts)
  epochs = _sequence(corpus, 3 * corpus.size).reshape(3, -1)
  for epoch in epochs:
    np.testing.assert_array_equal(np.sort(epoch), np.arange(corpus.size))
  if corpus.size > 10:
    assert (epochs[0] != epochs[1]).any() and (epochs[1] != epochs[2]).any()


@pytest.mark.parametrize("num_processes", [2, 3, 8])
def test_processes_share_an_epoch(num_processes):
  """The shares of the processes are disjoint and together form the corpus."""
  corpus = _corpus()
  shares = [
      _sequence(corpus, -(-(corpus.size - process) // num_processes),
                num_processes=num_processes, process=process)
      for process in range(num_processes)]
  np.testing.assert_array_equal(
      np.sort(np.concatenate(shares)), np.arange(corpus.size))


@pytest.mark.parametrize("counts", [_COUNTS, (5, 3, 9), (100000, 3, 70001)])
@pytest.mark.parametrize("num_processes", [2, 3, 5, 8, 64, 192])
def test_processes_together_keep_the_order_of_one(counts, num_processes):
  """The records are equal at each step, from several positions on."""
  corpus = _corpus(counts)
  epochs = _sequence(corpus, 3 * corpus.size)
  for position in (0, 1, corpus.size // 2 + 3, corpus.size + 1):
    for process in {0, 1, num_processes - 1}:
      wanted = epochs[position + process::num_processes][
          :corpus.size // num_processes + 1]
      np.testing.assert_array_equal(wanted, _sequence(
          corpus, len(wanted), position=position, num_processes=num_processes,
          process=process))


@pytest.mark.parametrize("num_processes", [2, 3, 8, 16, 64])
def test_processes_read_no_records_of_others(num_processes):
  corpus = _corpus((100000, 3, 70001))
  for process in range(num_processes):
    windows = order.windows(corpus, 1, 0, num_processes, process)
    for window in (next(windows) for _ in range(12)):
      np.testing.assert_array_equal(
          np.sort(window.order),
          np.arange(sum(piece.stop - piece.start for piece in window.pieces)))


def test_powers_of_two_processes_read_adjacent_shards():
  corpus = _corpus((64 * tfrecord.BLOCK_RECORDS,))
  for num_processes in (2, 4, 8, 16, 32):
    window = next(order.windows(corpus, 1, 0, num_processes, 1))
    assert all(piece.stop - piece.start == tfrecord.BLOCK_RECORDS
               for piece in window.pieces)
    assert len(window.pieces) == 32 // num_processes


def test_the_seed_sets_the_order():
  corpus = _corpus()
  first = _sequence(corpus, 1000)
  np.testing.assert_array_equal(first, _sequence(corpus, 1000))
  for seed in (2, -1):
    assert (first != _sequence(corpus, 1000, seed=seed)).any()


def test_a_window_is_of_bounded_size():
  for counts in ((100000, 3, 70001), (1,) * 5000, (300,) * 1000):
    corpus = _corpus(counts)
    windows = order.windows(corpus, 1)
    num_records = 0
    while num_records < corpus.size:
      size = len(next(windows).order)
      num_records += size
      assert size < 1.6 * order.WINDOW_RECORDS
      assert size > 0.4 * order.WINDOW_RECORDS or size == corpus.size


@pytest.mark.parametrize("record_bytes, num_blocks", [
    (100, 32), (4000, 32), (4097, 31), (31600, 4), (1 << 20, 1)])
def test_a_window_is_of_bounded_bytes(record_bytes, num_blocks):
  corpus = _corpus((100 * tfrecord.BLOCK_RECORDS,), record_bytes)
  assert corpus.window_records == num_blocks * tfrecord.BLOCK_RECORDS
  window = next(order.windows(corpus, 1))
  assert len(window.order) == num_blocks * tfrecord.BLOCK_RECORDS
  records = _sequence(corpus, corpus.size)
  np.testing.assert_array_equal(np.sort(records), np.arange(corpus.size))


# In a full shuffle of R records, the mean distance between two records that
# were neighbours is R / 3.
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_processes", [1, 2, 3, 8])
def test_the_order_of_a_window_is_as_good_as_a_full_shuffle(
    seed, num_processes):
  corpus = _corpus()
  shares = [
      _sequence(corpus, corpus.size // num_processes, seed=seed,
                num_processes=num_processes, process=process)
      for process in range(num_processes)]
  sequence = np.stack(shares, axis=1).ravel()
  positions = np.full(corpus.size, -1)
  positions[sequence] = np.arange(len(sequence))
  is_read = positions >= 0
  assert np.count_nonzero(~is_read) < num_processes
  # The correlation of ranks, which is Spearman's coefficient.
  correlation = np.corrcoef(np.arange(corpus.size)[is_read],
                            positions[is_read])[0, 1]
  assert abs(correlation) < 0.02
  distances = np.abs(np.diff(positions[is_read]))
  assert abs(distances.mean() / (corpus.size / 3) - 1) < 0.05


def test_any_record_can_come_anywhere_in_the_epoch():
  corpus = _corpus((100000, 3, 70001))
  positions = []
  for seed in range(60):
    sequence = _sequence(corpus, corpus.size, seed=seed)
    positions.append(np.flatnonzero(sequence == 1234)[0])
  # Positions are uniform: the mean of 60 is within four standard errors.
  mean, error = np.mean(positions) / corpus.size, 1 / np.sqrt(12 * 60)
  assert abs(mean - 0.5) < 4 * error
  assert min(positions) < 0.15 * corpus.size
  assert max(positions) > 0.85 * corpus.size


# --- Pieces ------------------------------------------------------------------


@pytest.mark.parametrize("first, last", [
    (0, 0), (0, 19179), (4999, 5001), (5007, 5107), (6000, 9000)])
def test_a_range_is_cut_into_pieces(first, last):
  corpus = _corpus()
  pieces = order.pieces_of(corpus, first, last)
  records = _records_of(corpus, pieces) if pieces else []
  assert list(records) == list(range(first, last))


def test_a_piece_is_located_by_the_heads_of_its_records(tmp_path):
  records = [b"x" * (i % 7) for i in range(1500)]
  path = tmp_path / "a.tfrecord"
  path.write_bytes(tfrecord.frame(records))
  corpus = order.read_corpus([str(path)], "input_file")
  ends = np.cumsum([len(record) + tfrecord.FRAME_BYTES for record in records])
  assert corpus.num_records.tolist() == [1024, 476]
  assert corpus.offsets.tolist() == [0, ends[1023]]
  assert corpus.num_bytes.tolist() == [ends[1023], ends[-1] - ends[1023]]
  for piece, first, last in (
      (order.Piece(0, 0, 1024), 0, 1024), (order.Piece(1, 0, 476), 1024, 1500),
      (order.Piece(0, 3, 5), 3, 5), (order.Piece(1, 475, 476), 1499, 1500)):
    start = ends[first - 1] if first else 0
    assert order.locate(corpus, piece, "input_file") == order.Location(
        str(path), start, ends[last - 1] - start, 0, last - first)


def test_a_file_cut_after_its_index_was_read_is_an_input_error(tmp_path):
  path = tmp_path / "a.tfrecord"
  path.write_bytes(tfrecord.frame([b"x"] * 9))
  corpus = order.read_corpus([str(path)], "input_file")
  path.write_bytes(tfrecord.frame([b"x"] * 3))
  for start in (2, 5):
    with pytest.raises(InputError, match="--input_file: .*fewer records"):
      order.locate(corpus, order.Piece(0, start, 7), "input_file")


def test_a_damaged_file_is_an_input_error(tmp_path):
  path = tmp_path / "a.tfrecord"
  path.write_bytes(tfrecord.frame([b"one", b"two"])[:-1])
  with pytest.raises(
      InputError, match=r"--input_file: .*\(cut record at byte 19\)"):
    order.read_corpus([str(path)], "input_file")


# --- Resuming ----------------------------------------------------------------


def _position(folder, step, corpus, sequences_per_step=32, seed=1):
  """Resumes from a step; returns the number of records read before the step."""
  return order.resume(str(folder), step, sequences_per_step, seed,
                      corpus).position_at(step)


def test_a_position_follows_from_steps_and_batches(tmp_path):
  corpus = _corpus()
  assert _position(tmp_path, 0, corpus) == 0
  assert _position(tmp_path, 10, corpus) == 320
  # Twice as many processes, which are killed before they save.
  assert _position(tmp_path, 10, corpus, 64) == 320
  assert _position(tmp_path, 10, corpus, 96) == 320
  assert _position(tmp_path, 30, corpus, 96) == 320 + 20 * 96
  assert _position(tmp_path, 40, corpus, 16) == 320 + 30 * 96
  # From an older checkpoint: later steps do not count.
  assert _position(tmp_path, 9, corpus, 16) == 288
  assert _position(tmp_path, 20, corpus, 16) == 288 + 11 * 16
  # From scratch.
  assert _position(tmp_path, 0, corpus) == 0
  assert _position(tmp_path, 5, corpus) == 160


def test_a_killed_run_with_more_processes_has_no_effect(tmp_path):
  corpus = _corpus()
  _position(tmp_path, 0, corpus)
  _position(tmp_path, 10, corpus, 64)
  assert _position(tmp_path, 10, corpus) == 320
  assert _position(tmp_path, 20, corpus) == 640


@pytest.mark.parametrize("changes", [
    {"seed": 2}, {"corpus": _corpus((5000, 7))}])
def test_other_records_or_another_seed_begin_an_epoch(
    tmp_path, changes, caplog):
  caplog.set_level("INFO")
  corpus = _corpus((100,))
  _position(tmp_path, 0, corpus)
  changed = {"corpus": corpus, **changes}
  # 10 steps of 32 are 3 epochs and a part of the next.
  assert _position(tmp_path, 10, **changed) == 4 * changed["corpus"].size
  assert "begins epoch 4" in caplog.text
  assert _position(tmp_path, 12, **changed) == 4 * changed["corpus"].size + 64


def test_windows_of_another_size_begin_an_epoch(tmp_path, caplog):
  """An earlier version has read the long records in larger windows."""
  caplog.set_level("INFO")
  corpus = _corpus((3000,), 100000)
  _position(tmp_path, 0, corpus)
  path = tmp_path / order.ORDER_FILE
  note, = json.loads(path.read_text())
  assert note.pop("window_records") == tfrecord.BLOCK_RECORDS
  note.pop("skipped_steps")
  path.write_text(json.dumps([note]))
  assert _position(tmp_path, 10, corpus) == 3000
  assert "the size of windows" in caplog.text
  assert "begins epoch 1" in caplog.text
  caplog.clear()
  assert _position(tmp_path, 12, corpus) == 3064
  assert not caplog.text


@pytest.mark.parametrize("sizes, step, size, wanted", [
    # First step and sequences per step of each command; step and sequences per
    # step of the next command.
    ([], 10, 32, 320), ([(0, 32)], 10, 32, 320), ([(0, 32)], 10, 64, 320),
    ([(0, 32), (10, 64)], 15, 128, 640), ([(0, 32), (10, 64)], 10, 16, 320),
    # Steps before the first reading count with the next command's size.
    ([(7, 32)], 10, 64, 7 * 64 + 3 * 32),
])
def test_progress_is_counted_in_sequences(tmp_path, sizes, step, size, wanted):
  corpus = _corpus()
  for first_step, sequences_per_step in sizes:
    _position(tmp_path, first_step, corpus, sequences_per_step)
  assert order.progress(str(tmp_path), step, size) == (wanted, 0)


def test_progress_counts_the_steps_that_were_skipped(tmp_path):
  corpus = _corpus()
  for first_step, size, skipped_steps in ((0, 32, 0), (10, 64, 3)):
    order.resume(str(tmp_path), first_step, size, 1, corpus, skipped_steps)
  # 3 of 10 steps of 32 and 1 of 5 steps of 64.
  assert order.progress(str(tmp_path), 15, 8, 4) == (640, 3 * 32 + 64)
  # A run without a loss scale skips none.
  assert order.progress(str(tmp_path), 15, 8) == (640, 0)


def test_a_run_of_an_earlier_version_logs_the_new_order(tmp_path, caplog):
  caplog.set_level("INFO")
  corpus = _corpus()
  assert _position(tmp_path, 7, corpus) == 0
  assert "An earlier version trained {}".format(tmp_path) in caplog.text
  assert "a new epoch at step 7" in caplog.text
  caplog.clear()
  assert _position(tmp_path, 9, corpus) == 64
  assert not caplog.text


def test_runs_with_other_numbers_of_processes_continue_an_epoch(tmp_path):
  """Two processes, then one, then three."""
  corpus = _corpus((900, 100, 2000))
  taken, step, position = [], 0, 0
  for num_processes, last_step in ((2, 30), (1, 100), (3, 1000)):
    batch = 8
    position = _position(
        tmp_path, step, corpus, sequences_per_step=batch * num_processes)
    assert position == len(taken)
    num_steps = min(last_step - step,
                    -(-(corpus.size - position) // (batch * num_processes)))
    shares = [
        _sequence(corpus, num_steps * batch, position=position,
                  num_processes=num_processes, process=process)
        for process in range(num_processes)]
    taken += np.stack(shares, axis=1).ravel().tolist()
    step += num_steps
  assert sorted(taken[:corpus.size]) == list(range(corpus.size))


@pytest.mark.parametrize("content", [
    "", "{", "[1]", "[{}]", "[" * 100000,
    json.dumps([dict(first_step=0, position=0, sequences_per_step=1, seed=1,
                     corpus="", corpus_size=0)]),
    json.dumps([dict(first_step=0, position="0", sequences_per_step=1, seed=1,
                     corpus="", corpus_size=1)])])
def test_a_damaged_order_file_is_an_input_error(tmp_path, content):
  (tmp_path / order.ORDER_FILE).write_text(content)
  with pytest.raises(
      InputError, match=order.ORDER_FILE + " is damaged.*remove"):
    _position(tmp_path, 3, _corpus())

r"""Times the reading of records in training.

  python benchmarks/reading.py \
    --input_file 'data/labelled/wiki_distill_*.tfrecord'

The benchmark measures:

  - sequences per second of the input pipeline, in turn with a plain tf.data
    pipeline as in TensorFlow's guides (four files interleaved, a shuffle buffer
    of 10,000 records);
  - the same for one of 8 processes that share the corpus;
  - the seconds until the first batch, for several steps to resume from, with
    the corpus repeated to 100 million records;
  - the seconds to check 2,000 files, which are links to the given files.
"""

import dataclasses
import os
import pathlib
import sys
import tempfile

if __name__ == "__main__":  # TensorFlow reads this variable at its import.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

# pylint: disable=wrong-import-position
from absl import flags
import numpy as np
import tensorflow as tf

import arithmetic
import measure
from records import decoding
from records import input_pipeline
from records import order
from records import schema
from util import command_line
from util import files

FLAGS = flags.FLAGS

_SEED = 12345
_FLAG = "input_file"
_STEPS = (0, 10000, 1000000)
_LARGE_CORPUS = 100 * 1000 * 1000
_NUM_FILES = 2000
_NUM_PROCESSES = 8
# Settings of the plain pipeline.
_INTERLEAVED_FILES, _SHUFFLE_RECORDS = 4, 10000


def define_flags() -> None:
  measure.define_flags()
  flags.DEFINE_string("input_file", None, "Labelled records.")
  input_pipeline.define_flags()
  flags.DEFINE_integer(
      "truncation_factor", 10, "K, the teacher entries stored for each slot.")
  flags.DEFINE_integer("vocab_size", 30522, "Vocabulary size of the records.")
  flags.DEFINE_integer("train_batch_size", 32, "Sequences per batch.")


def plain_dataset(paths, shape, limits, batch_size) -> tf.data.Dataset:
  """Builds a plain pipeline as in TensorFlow's guides."""
  dataset = tf.data.Dataset.from_tensor_slices(list(paths))
  dataset = dataset.shuffle(len(paths), seed=_SEED).interleave(
      tf.data.TFRecordDataset,
      cycle_length=min(_INTERLEAVED_FILES, len(paths)))
  dataset = dataset.shuffle(_SHUFFLE_RECORDS, seed=_SEED).repeat()
  dataset = dataset.batch(batch_size, drop_remainder=True)
  return dataset.map(
      lambda serialized: decoding.decode(serialized, shape, limits),
      num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def speed(dataset: tf.data.Dataset, num_batches: int, batch_size: int) -> float:
  """Returns the sequences per second after the first batch."""
  iterator = iter(dataset)
  next(iterator)

  def read():
    for _ in range(num_batches):
      next(iterator)

  return num_batches * batch_size / measure.seconds_of(read)


def repeat(corpus: order.Corpus, size: int) -> order.Corpus:
  """Repeats the blocks of a corpus until it has at least `size` records."""
  times = -(-size // corpus.size)
  return dataclasses.replace(corpus, **{
      name: np.tile(getattr(corpus, name), times)
      for name in ("files", "offsets", "num_bytes", "num_records")})


def time_of_check(paths, shape, vocab_size: int) -> float:
  """Returns the seconds to check `_NUM_FILES` files with their manifests."""
  with tempfile.TemporaryDirectory(dir=os.path.dirname(paths[0])) as folder:
    links = []
    for i in range(_NUM_FILES):
      links.append(os.path.join(folder, "{}.tfrecord".format(i)))
      for ending in ("", ".json"):
        if os.path.exists(paths[i % len(paths)] + ending):
          os.link(paths[i % len(paths)] + ending, links[-1] + ending)

    def check():
      input_pipeline.check_records(links, _FLAG, shape, vocab_size)
      order.read_corpus(links, _FLAG)

    return measure.seconds_of(check)


def main() -> None:
  shape = schema.RecordShape(FLAGS.max_seq_length,
                             FLAGS.max_predictions_per_seq,
                             FLAGS.truncation_factor)
  limits = schema.limits(shape, FLAGS.vocab_size, 2)
  paths = files.find_files(FLAGS.input_file, _FLAG)
  corpus = order.read_corpus(paths, _FLAG)
  batch_size = FLAGS.train_batch_size
  num_batches = corpus.size // batch_size

  def dataset(**share):
    return input_pipeline.training_input_fn(
        share.pop("corpus", corpus), shape, _FLAG, _SEED, limits=limits,
        **share)({"batch_size": batch_size})

  bytes_per_record = sum(map(os.path.getsize, paths)) / corpus.size
  limit = measure.copy_rate(
      pathlib.Path(paths[0]), measure.COPIED_BYTES) / bytes_per_record
  rates = measure.alternate({
      name: lambda make=make: speed(make(), num_batches, batch_size)
      for name, make in {
          "ours": dataset,
          "plain": lambda: plain_dataset(paths, shape, limits, batch_size),
          "one of 8": lambda: dataset(num_processes=_NUM_PROCESSES, process=0),
      }.items()}, FLAGS.turns)
  rest = arithmetic.profile(lambda: speed(dataset(), num_batches, batch_size))
  rows = [
      measure.row(
          "reader", "sequences/s", rates["ours"],
          {"name": "tf.data", "version": tf.__version__,
           "settings": "as TensorFlow's guides have it: {} files interleaved, "
           "a shuffle buffer of {:,} records, parallel decoding, prefetch"
           .format(_INTERLEAVED_FILES, _SHUFFLE_RECORDS)},
          rates["plain"], ("bytes copied", limit), rest),
      measure.row(
          "reader, one of 8 processes", "sequences/s", rates["one of 8"],
          limit=("bytes copied", limit), rest=rest)]
  large = repeat(corpus, _LARGE_CORPUS)
  next(iter(dataset()))  # Warm-up: a process's first dataset takes longer.
  settings = ["{:,} records of {:.0f} bytes in {} files, batches of {}.".format(
      corpus.size, bytes_per_record, len(paths), batch_size)]
  for step in _STEPS:
    seconds = measure.seconds_of(lambda step=step: next(iter(dataset(
        corpus=large, position=step * batch_size))))
    settings.append(
        "From step {:,} of {:,} records the first batch comes after {:.2f} s."
        .format(step, large.size, seconds))
  settings.append("Checking {:,} files takes {:.2f} s.".format(
      _NUM_FILES, time_of_check(paths, shape, FLAGS.vocab_size)))
  measure.finish(rows, settings, bytes_per_sequence=bytes_per_record)


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("input_file",))

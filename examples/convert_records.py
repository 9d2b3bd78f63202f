r"""Converts records to the compact format, of half the size, or back.

  python examples/convert_records.py \
    --input_file 'data/labelled/wiki_distill_*.tfrecord' \
    --output_dir data/compact --record_format compact

The output files have the names of the input files, and the contents that the
input's stage writes with this --record_format. With --probability_bits=32 the
conversion is lossless, and converting back gives the same bytes. Otherwise a
log line reports the largest rounding error of the probabilities. The script
reads records of any stage, those of 2019 included. Run the same command again
to resume.
"""

import dataclasses
import os
import pathlib
import sys
from typing import Dict, Iterable, Iterator, NamedTuple, Optional

if __name__ == "__main__":  # TensorFlow reads this once, at import.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags
from absl import logging
import numpy as np
import tqdm

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
# pylint: disable=wrong-import-position
from distillation import teacher_decoder
from records import compact
from records import input_pipeline
from records import block_index
from records import manifest
from records import record_writer
from records import order
from records import schema
from records import tfrecord
from util import command_line
from util import files
from util.command_line import InputError

_STAGE = "convert_records"
# Number of records converted at once.
_WINDOW_RECORDS = 4096
# Bound of token ids for records without a manifest. Compact ids are int32.
_MOST_TOKENS = (1 << 31) - 1
_EXACT_BITS = 32


@dataclasses.dataclass(frozen=True)
class ConversionOptions:
  """The values of the flags of the same names."""
  input_file: str
  output_dir: str
  record_format: str
  probability_bits: str
  overwrite: bool


class Source(NamedTuple):
  """A checked input file.

  Attributes:
    path: path of the file.
    corpus: blocks of the file.
    shape: shape of the records.
    made_by: manifest of the file, or None.
    vocab_size: upper bound of the token ids, exclusive.
  """
  path: str
  corpus: order.Corpus
  shape: schema.RecordShape
  made_by: Optional[manifest.Manifest]
  vocab_size: int


def define_flags() -> None:
  """Defines the flags of the script."""
  flags.DEFINE_string(
      "input_file", None,
      "Records: paths and patterns, separated by commas.")
  flags.DEFINE_string(
      "output_dir", None,
      "Folder for the converted records; not the folder of the input.")
  flags.DEFINE_enum(
      "record_format", "compact", compact.FORMATS,
      "compact: all features in one string. example: a list for each feature, "
      "as in 2019.")
  compact.define_flags()
  flags.DEFINE_bool(
      "overwrite", False,
      "Whether to replace an output made or begun with other settings.")


class Losses:
  """Counts the values that a conversion changes."""

  def __init__(self):
    self._largest_error = 0.0
    self._num_dropped = 0

  def clear_padding(self, features: Dict[str, np.ndarray]) -> None:
    """Clears labels in padding slots, as in records of 2019, in place."""
    is_padding = features[schema.MASKED_LM_WEIGHTS] == 0
    for name in schema.LABELS:
      if name in features:
        # Decoded arrays are read-only.
        values = features[name] = features[name].copy()
        self._num_dropped += np.count_nonzero(values[is_padding])
        values[is_padding] = 0

  def add_rounding(self, probabilities: np.ndarray, bits: int) -> None:
    """Updates the largest rounding error of probabilities of 8 or 16 bits."""
    codes = compact.encode_probabilities(
        probabilities, np.dtype("<u{}".format(bits // 8)))
    self._largest_error = max(self._largest_error, float(np.max(np.abs(
        compact.decode_probabilities(codes) - probabilities), initial=0.0)))

  def log(self, name: str, num_records: int, sizes: Iterable[int]) -> None:
    """Logs the changes; `sizes` are the bytes of the input and the output."""
    message = "{}: {:,} records, {:.0f} bytes each became {:.0f}.".format(
        name, num_records, *(size / max(num_records, 1) for size in sizes))
    if self._largest_error:
      message += " Probabilities were rounded by up to {:.1g}.".format(
          self._largest_error)
    if self._num_dropped:
      message += " {:,} numbers in the padding of labels were dropped.".format(
          self._num_dropped)
    logging.info(message)


def read_source(path: str, output_dir: str) -> Source:
  """Checks an input file.

  Args:
    path: path of the file.
    output_dir: folder for the block index of a file without a manifest.

  Raises:
    InputError: if the file is damaged or holds other data than records.
  """
  made_by = manifest.read_manifest(path)
  vocab_size = made_by.vocab_size if made_by else 0
  shape = input_pipeline.with_stored_labels(
      input_pipeline.stored_lengths(path, "input_file"), path, "input_file")
  shape = input_pipeline.check_records(
      [path], "input_file", shape, vocab_size or _MOST_TOKENS)
  block_index.check_intact(path, "input_file", output_dir)
  corpus = order.read_corpus([path], "input_file", output_dir)
  source = Source(path, corpus, shape, made_by, vocab_size or _MOST_TOKENS)
  if vocab_size:
    return source
  return source._replace(vocab_size=1 + max(
      int(window.features[name].max()) for window in windows(source)
      for name in schema.TOKEN_IDS if name in window.features))


def windows(source: Source,
            first: int = 0) -> Iterator[input_pipeline.Window]:
  """Yields the records of a source from record `first` on, in windows."""
  return input_pipeline.read_windows(
      source.corpus, "input_file", source.shape, first, source.corpus.size,
      _WINDOW_RECORDS, schema.limits(source.shape, source.vocab_size, 2))


def output_manifest(source: Source, options: ConversionOptions
                   ) -> manifest.Manifest:
  """Returns the manifest that the input's stage would write for the output.

  The manifest for an input without a manifest names the input as its source.
  """
  made_by = source.made_by or manifest.Manifest(
      stage=_STAGE, flags={}, fingerprints={}, vocab_size=0,
      sources={os.path.basename(source.path):
               block_index.records_fingerprint(source.path)})
  made_with = dict(made_by.flags)
  # A conversion does not restore rounded probabilities.
  bits = made_with.pop("probability_bits", _EXACT_BITS)
  made_with.pop("record_format", None)
  if options.record_format == "compact":
    made_with["record_format"] = options.record_format
    bits = min(bits, int(options.probability_bits))
  if source.shape.truncation_factor and (
      options.record_format == "compact" or bits < _EXACT_BITS):
    made_with["probability_bits"] = bits
  return dataclasses.replace(made_by, flags=made_with, num_records=0,
                             num_bytes=0, block_offsets=[])


def convert(options: ConversionOptions, source: Source, output_file: str,
            bar: tqdm.tqdm) -> None:
  """Converts a file, or resumes an earlier run.

  Raises:
    InputError: if the output was made with other settings, or the format cannot
      store a record.
  """
  wanted = output_manifest(source, options)
  if record_writer.is_finished(output_file, wanted, options.overwrite):
    bar.update(source.corpus.size)
    return
  bits = int(options.probability_bits)
  layout, losses = None, Losses()
  if options.record_format == "compact":
    layout = compact.make_layout(source.shape, source.vocab_size, bits)
  if source.shape.teacher_hidden_size:
    teacher_decoder.store(teacher_decoder.read(
        teacher_decoder.path_beside(source.path)), output_file)
  with record_writer.RecordWriter(
      output_file, wanted, options.overwrite) as writer:
    bar.update(writer.num_records)
    for window in windows(source, writer.num_records):
      features = dict(window.features)
      losses.clear_padding(features)
      if layout and layout.probability_bits in (8, 16):
        losses.add_rounding(features[schema.TEACHER_PROBABILITIES], bits)
      if schema.TEACHER_HIDDEN_STATES in features:
        features[schema.TEACHER_HIDDEN_STATES] = features[
            schema.TEACHER_HIDDEN_STATES].astype(np.float16)
      try:
        serialized = tfrecord.encode(compact.pack(features, layout))
      except InputError as error:
        raise InputError("--input_file: {}: {}".format(
            source.path, error)) from None
      for record in serialized:
        writer.write(record)
      writer.save_progress(wanted)
      bar.update(len(serialized))
    writer.commit(wanted)
  losses.log(output_file, source.corpus.size, (
      files.size(source.path), files.size(output_file)))


def convert_all(options: ConversionOptions) -> None:
  """Converts all input files.

  Raises:
    InputError: as for `read_source` and `convert`, or if an output file would
      replace an input file or another output file.
  """
  if (options.record_format == "example" and options.probability_bits
      != compact.DEFAULT_PROBABILITY_BITS):
    raise InputError(
        "--probability_bits={} has no effect without --record_format=compact; "
        "remove --probability_bits".format(options.probability_bits))
  paths = files.find_files(options.input_file, "input_file")
  outputs = [os.path.join(options.output_dir, os.path.basename(path))
             for path in paths]
  for path, output in zip(paths, outputs):
    if files.is_same(path, output):
      raise InputError("--output_dir={} holds the input file {}: choose "
                       "another folder".format(options.output_dir, path))
    if outputs.count(output) > 1:
      raise InputError("--input_file names two files {}: convert them to two "
                       "folders".format(os.path.basename(path)))
  sources = [read_source(path, options.output_dir) for path in paths]
  with tqdm.tqdm(total=sum(source.corpus.size for source in sources),
                 unit=" records", disable=None) as bar:
    for source, output in zip(sources, outputs):
      convert(options, source, output, bar)


def main() -> None:
  try:
    convert_all(command_line.options(ConversionOptions))
  except KeyboardInterrupt:
    raise KeyboardInterrupt("converted records are kept: run the same command "
                            "again to resume") from None


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("input_file", "output_dir"))

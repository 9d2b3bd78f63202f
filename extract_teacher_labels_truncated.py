r"""Labels masked records with the teacher's predictions.

  python extract_teacher_labels_truncated.py \
    --bert_config_file teacher/bert_config.json \
    --init_checkpoint teacher/bert_model.ckpt \
    --input_file data/masked/wiki_masked_0.tfrecord \
    --output_file data/labelled/wiki_distill_0.tfrecord \
    --truncation_factor 10 --tail_samples 9

The output holds the records of the input, in order. Each masked token gets
--truncation_factor tokens of the teacher and their probabilities: with
--tail_samples 9 the most probable token and an unbiased sample of all others,
the best labels to train on. The default --tail_samples 0 stores the most
probable tokens; use it for held-out records.

The same command resumes a stopped run. With several GPUs, a launcher shares the
records among processes:

  mpirun -np 2 -H localhost:2 python extract_teacher_labels_truncated.py ...

writes data/labelled/wiki_distill_0-00000-of-00002.tfrecord and so on.
"""

import os

if __name__ == "__main__":  # TensorFlow reads these once, the first early.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("TF_XLA_FLAGS", "--tf_xla_cpu_global_jit")

import dataclasses
from typing import Any, Dict, NamedTuple, Optional, Sequence

from absl import flags
from absl import logging

from distillation import checkpoints
from distillation import devices
from distillation import teacher
from distillation import teacher_decoder
from records import compact
from records import input_pipeline
from records import block_index
from records import manifest
from records import record_writer
from records import order
from records import schema
import tokenization
from util import command_line
from util import files
from util import launchers
from util.command_line import InputError

_STAGE = "extract_teacher_labels_truncated"
# They choose entries of the distribution.
_TOPK_OPTIONS = ("truncation_factor", "temperature", "tail_samples")
_REQUIRED_FLAGS = ("bert_config_file", "input_file", "output_file",
                   "init_checkpoint")


@dataclasses.dataclass(frozen=True)
class FileOptions:
  """What is read and written.

  Attributes:
    bert_config_file: path of the teacher's config.
    init_checkpoint: path of its checkpoint.
    input_file: paths and patterns of the records.
    output_file: path of the labelled records.
    max_seq_length: S of the records.
    max_predictions_per_seq: P of the records.
    record_format: one of `compact.FORMATS`, of the output.
    probability_bits: one of `compact.PROBABILITY_BITS`.
    overwrite: whether to replace an output that was made in another way.
  """
  bert_config_file: str
  init_checkpoint: str
  input_file: str
  output_file: str
  max_seq_length: int
  max_predictions_per_seq: int
  record_format: str
  probability_bits: str
  overwrite: bool


class Process(NamedTuple):
  """This process among those that label together.

  Attributes:
    rank: from 0 to size - 1.
    size: how many there are.
    gpu: which GPU it uses; None leaves the choice to TensorFlow.
  """
  rank: int = 0
  size: int = 1
  gpu: Optional[int] = None


def define_flags() -> None:
  """Defines the flags of this stage."""
  flags.DEFINE_string(
      "bert_config_file", None,
      "Config of the teacher, a JSON file like BERT's bert_config.json.")
  flags.DEFINE_string(
      "input_file", None,
      "Records of multifile_create_pretraining_data.py: paths and patterns, "
      "separated by commas.")
  flags.DEFINE_string("output_file", None, "Labelled records to write.")
  flags.DEFINE_string(
      "init_checkpoint", None,
      "Checkpoint of the teacher, without `.index`; must hold every variable "
      "but those of the pooler and the next-sentence head.")
  flags.DEFINE_enum(
      "label_format", "topk", teacher.LABEL_FORMATS,
      "topk stores K tokens with their probabilities. hidden stores what the "
      "teacher's masked-LM head scores, hidden_size float16 numbers a masked "
      "token, and beside the records its decoder, teacher_decoder.npz: the "
      "trainers compute the whole distribution from them, at any temperature.")
  flags.DEFINE_integer(
      "truncation_factor", 10,
      "K, how many of the teacher's tokens to store for each masked token.",
      lower_bound=1)
  input_pipeline.define_flags()
  flags.DEFINE_integer(
      "batch_size", 32, "Sequences that the teacher reads at once. Set 256 on "
      "GPUs: they are fast from there on.", lower_bound=1)
  flags.DEFINE_float(
      "temperature", 1.0,
      "T: the probabilities are those of softmax(z / T). The trainers want "
      "the same.", lower_bound=1e-3)
  flags.DEFINE_integer(
      "tail_samples", 0,
      "M: of the K stored tokens, K - M are the most probable ones, and M are "
      "a random sample that stands for all others, so that the student's "
      "loss is unbiased. K - 1 gives it the least variance; recommended for "
      "training with --tail_mass=drop, the default.",
      lower_bound=0)
  flags.DEFINE_integer(
      "random_seed", 12345, "Seed of the samples.", lower_bound=0)
  flags.DEFINE_enum(
      "precision", "fp32", devices.PRECISIONS,
      "Arithmetic of the teacher: bf16 is for CPUs and GPUs that have it, fp16 "
      "for GPUs. The probabilities are computed in float32 in any case.")
  flags.DEFINE_bool("use_xla", False, "Whether to compile with XLA.")
  flags.DEFINE_enum(
      "record_format", "example", compact.FORMATS,
      "example is a list for each feature, as in 2019; compact is all of them "
      "in one string, half as long. The input may be either.")
  compact.define_flags()
  flags.DEFINE_bool(
      "overwrite", False,
      "Whether to replace an output that was made or begun in another way.")


def label(file_options: FileOptions, options: teacher.LabelOptions,
          process: Process) -> None:
  """Checks files and options, and labels this process's share.

  Args:
    file_options: what is read and written.
    options: what is computed.
    process: which share of the records.

  Raises:
    InputError: files or options do not fit each other.
  """
  config = checkpoints.load_config(
      file_options.bert_config_file, file_options.max_seq_length)
  _check_options(file_options, options, config.vocab_size)
  shape = schema.RecordShape(
      file_options.max_seq_length, file_options.max_predictions_per_seq)
  paths = files.find_files(file_options.input_file, "input_file")
  output_file = file_options.output_file
  if process.size > 1:
    output_file = part_path(output_file, process)
  if any(files.is_same(path, output_file) for path in paths):
    raise InputError("--output_file={} is one of the input files; choose "
                     "another name".format(output_file))
  shape = input_pipeline.check_records(
      paths, "input_file", shape, config.vocab_size)
  checkpoints.check_complete(config, file_options.init_checkpoint)
  _warn_of_case(paths, file_options.init_checkpoint)
  decoder = None
  if options.label_format == "hidden":
    decoder = checkpoints.read_decoder(file_options.init_checkpoint)
  wanted = _manifest(
      file_options, options, paths, config.vocab_size, decoder)
  layout = _layout(file_options, options, shape, config.vocab_size)
  is_finished = record_writer.is_finished(
      output_file, wanted, file_options.overwrite)
  if decoder:
    teacher_decoder.store(decoder, output_file)
  if is_finished:
    return
  corpus = order.read_corpus(
      paths, "input_file", os.path.dirname(output_file))
  total = corpus.size
  if total < process.size:
    raise InputError(
        "--input_file holds {} records for {} processes: start no more "
        "processes than records (-np {})".format(total, process.size, total))
  share = teacher.Share(total * process.rank // process.size,
                        total * (process.rank + 1) // process.size)
  files.make_output_folder(os.path.dirname(output_file), "output_file")
  with devices.exhaustion_errors(
      "lower --batch_size={}; what is labelled is kept".format(
          options.batch_size)):
    teacher.label_file(
        teacher.Teacher(config, file_options.init_checkpoint, options,
                        process.gpu),
        options, corpus, shape, share, output_file, layout, wanted,
        file_options.overwrite)


def part_path(path: str, process: Process) -> str:
  """Returns the name of one process's part; names sort by their records."""
  stem, extension = os.path.splitext(path)
  return "{}-{:05d}-of-{:05d}{}".format(
      stem, process.rank, process.size, extension)


def _layout(file_options: FileOptions, options: teacher.LabelOptions,
            shape: schema.RecordShape, vocab_size: int
           ) -> Optional[schema.Layout]:
  """Returns the layout of the output, None without one."""
  if file_options.record_format == "example":
    return None
  if options.label_format == "topk":
    shape = shape._replace(truncation_factor=options.truncation_factor)
  return compact.make_layout(
      shape, vocab_size, int(file_options.probability_bits))


def _stores_codes(file_options: FileOptions, options: teacher.LabelOptions
                 ) -> bool:
  """Says whether probabilities are stored in a number of bits."""
  return (file_options.record_format == "compact"
          and options.label_format == "topk")


def _check_options(file_options: FileOptions, options: teacher.LabelOptions,
                   vocab_size: int) -> None:
  """Raises InputError where flags do not fit each other or the teacher."""
  if options.truncation_factor > vocab_size:
    raise InputError(
        "--truncation_factor={} is over the vocab_size {} of the teacher; "
        "there are not so many tokens".format(
            options.truncation_factor, vocab_size))
  if options.tail_samples >= options.truncation_factor:
    raise InputError(
        "--tail_samples={} must be less than --truncation_factor={}: the most "
        "probable tokens are stored too".format(
            options.tail_samples, options.truncation_factor))
  if (file_options.probability_bits != compact.DEFAULT_PROBABILITY_BITS
      and not _stores_codes(file_options, options)):
    raise InputError(
        "--probability_bits={} has no effect without --record_format=compact "
        "and --label_format=topk: leave it out".format(
            file_options.probability_bits))
  if options.label_format == "hidden":
    for name in _TOPK_OPTIONS:
      value, default = (getattr(some, name)
                        for some in (options, teacher.LabelOptions))
      if value != default:
        raise InputError(
            "--{}={} has no effect with --label_format=hidden, which stores "
            "what gives the whole distribution: leave it out".format(
                name, value))


def _warn_of_case(paths: Sequence[str], checkpoint: str) -> None:
  """Warns where the teacher's path tells another case than the records'."""
  for path in paths:
    made_by = manifest.read_manifest(path)
    if made_by and "do_lower_case" in made_by.flags:
      try:
        tokenization.validate_case_matches_checkpoint(
            made_by.flags["do_lower_case"], checkpoint)
      except ValueError as error:
        logging.warning("%s: %s", path, error)
        return


def _manifest(file_options: FileOptions, options: teacher.LabelOptions,
              paths: Sequence[str], vocab_size: int,
              decoder: Optional[teacher_decoder.Decoder]
             ) -> manifest.Manifest:
  """Describes what makes the labels."""
  label_flags: Dict[str, Any] = {
      "truncation_factor": options.truncation_factor,
      "temperature": options.temperature,
      "tail_samples": options.tail_samples,
      "random_seed": options.random_seed}
  fingerprints = {
      "bert_config_file": files.fingerprint(file_options.bert_config_file),
      "init_checkpoint": checkpoints.fingerprint(file_options.init_checkpoint)}
  if decoder:
    label_flags = {"label_format": options.label_format,
                   "hidden_size": decoder.hidden_size}
    fingerprints["teacher_decoder"] = decoder.fingerprint()
  if file_options.record_format != "example":
    label_flags["record_format"] = file_options.record_format
  if _stores_codes(file_options, options):
    label_flags["probability_bits"] = int(file_options.probability_bits)
  return manifest.Manifest(
      stage=_STAGE,
      flags={
          "max_seq_length": file_options.max_seq_length,
          "max_predictions_per_seq": file_options.max_predictions_per_seq,
          "precision": options.device.precision, **label_flags},
      fingerprints=fingerprints,
      sources=_sources(paths, os.path.dirname(file_options.output_file)),
      vocab_size=vocab_size)


def _sources(paths: Sequence[str], index_folder: str) -> Dict[str, str]:
  """Returns what the manifest says of the input files.

  Args:
    paths: the files; those without a manifest are read to their end.
    index_folder: as for `block_index.read_block_index`.

  Raises:
    InputError: two of them have one name, or one is damaged.
  """
  sources: Dict[str, str] = {}
  for path in paths:
    name = os.path.basename(path)
    if name in sources:
      raise InputError(
          "--input_file names two files {}, {} is one of them; the manifest "
          "tells files by name: rename one, or label them one by one".format(
              name, path))
    sources[name] = block_index.records_fingerprint(
        path, "input_file", index_folder)
  return sources


def _this_process() -> Process:
  """Finds this process among those that a launcher has started."""
  launch = launchers.find(os.environ)
  return Process(launch.rank, launch.size, devices.choose_gpu(
      launch.local_rank if launch.size > 1 else None))


def main() -> None:
  try:
    label(command_line.options(FileOptions),
          command_line.options(teacher.LabelOptions), _this_process())
  except KeyboardInterrupt:
    raise KeyboardInterrupt("what is labelled is kept: the same command "
                            "resumes from here") from None


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=_REQUIRED_FLAGS)

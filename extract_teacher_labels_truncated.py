r"""Labels masked records with the teacher's predictions.

  python extract_teacher_labels_truncated.py \
    --bert_config_file teacher/bert_config.json \
    --init_checkpoint teacher/bert_model.ckpt \
    --input_file data/masked/wiki_masked_0.tfrecord \
    --output_file data/labelled/wiki_distill_0.tfrecord \
    --truncation_factor 10 --tail_samples 9

The output holds the records of the input, in order. For each masked token, it
stores --truncation_factor tokens and their probabilities. With --tail_samples
9, these are the most probable token and an unbiased sample of all others: the
best labels for training. The default, --tail_samples 0, stores the most
probable tokens: use the default for held-out records.

The same command resumes a stopped run. With several GPUs, a launcher shares the
records among processes:

  mpirun -np 2 -H localhost:2 python extract_teacher_labels_truncated.py ...

writes data/labelled/wiki_distill_0-00000-of-00002.tfrecord and so on.
"""

import os

if __name__ == "__main__":  # TensorFlow reads the first when it is imported.
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
# Options of --label_format=topk only.
_TOPK_OPTIONS = ("truncation_factor", "temperature", "tail_samples")
_REQUIRED_FLAGS = ("bert_config_file", "input_file", "output_file",
                   "init_checkpoint")


@dataclasses.dataclass(frozen=True)
class FileOptions:
  """Inputs and output of this stage, and their formats.

  Attributes:
    bert_config_file: path of the teacher's config.
    init_checkpoint: path of the teacher's checkpoint, without `.index`.
    input_file: paths and patterns of the records, separated by commas.
    output_file: path of the labelled records.
    max_seq_length: S of the records.
    max_predictions_per_seq: P of the records.
    record_format: format of the output, one of `compact.FORMATS`.
    probability_bits: bits of a compact probability, one of
      `compact.PROBABILITY_BITS`.
    overwrite: whether to replace an output of other inputs or flags.
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
  """The rank and GPU of this process, among processes that share the records.

  Attributes:
    rank: rank of this process, from 0 to size - 1.
    size: number of processes.
    gpu: index of the GPU to use; None leaves the choice to TensorFlow.
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
      "Checkpoint of the teacher, without `.index`. Only the variables of the "
      "pooler and the next-sentence head may be missing.")
  flags.DEFINE_enum(
      "label_format", "topk", teacher.LABEL_FORMATS,
      "topk stores K tokens with their probabilities. hidden stores the last "
      "hidden state of each masked token, before the decoder, as hidden_size "
      "float16 numbers, and the teacher's decoder in teacher_decoder.npz "
      "beside the records: the trainers compute the whole distribution from "
      "both, at any temperature.")
  flags.DEFINE_integer(
      "truncation_factor", 10,
      "K, the number of tokens to store for each masked token.",
      lower_bound=1)
  input_pipeline.define_flags()
  flags.DEFINE_integer(
      "batch_size", 32, "Sequences in a batch of the teacher. Set 256 on GPUs: "
      "smaller batches are slower there.", lower_bound=1)
  flags.DEFINE_float(
      "temperature", 1.0,
      "T: the probabilities are softmax(z / T) of the logits z. Give the "
      "trainers the same temperature.", lower_bound=1e-3)
  flags.DEFINE_integer(
      "tail_samples", 0,
      "M: the K stored tokens are the K - M most probable tokens and a random "
      "sample of M others, which makes the student's loss unbiased. M = K - 1 "
      "gives the loss the least variance, and is recommended for training with "
      "--tail_mass=drop, the default.",
      lower_bound=0)
  flags.DEFINE_integer(
      "random_seed", 12345, "Seed of --tail_samples.", lower_bound=0)
  flags.DEFINE_enum(
      "precision", "fp32", devices.PRECISIONS,
      "Arithmetic of the teacher: bf16 for CPUs and GPUs that support it, fp16 "
      "for GPUs. Probabilities are always computed in float32.")
  flags.DEFINE_bool("use_xla", False, "Whether to compile with XLA.")
  flags.DEFINE_enum(
      "record_format", "example", compact.FORMATS,
      "example stores a list for each feature, as the 2019 scripts do; compact "
      "stores all features in one string, in half the bytes. The input can "
      "have either format.")
  compact.define_flags()
  flags.DEFINE_bool(
      "overwrite", False,
      "Whether to replace a finished or unfinished output of other inputs or "
      "flags.")


def label(file_options: FileOptions, options: teacher.LabelOptions,
          process: Process) -> None:
  """Checks files and options, and labels the records of this process.

  Args:
    file_options: inputs and output.
    options: labels to compute.
    process: rank and GPU of this process.

  Raises:
    InputError: if files or options do not fit each other.
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
      "lower --batch_size={}; records labelled so far are kept".format(
          options.batch_size)):
    teacher.label_file(
        teacher.Teacher(config, file_options.init_checkpoint, options,
                        process.gpu),
        options, corpus, shape, share, output_file, layout, wanted,
        file_options.overwrite)


def part_path(path: str, process: Process) -> str:
  """Returns the output path of a process; paths sort in record order."""
  stem, extension = os.path.splitext(path)
  return "{}-{:05d}-of-{:05d}{}".format(
      stem, process.rank, process.size, extension)


def _layout(file_options: FileOptions, options: teacher.LabelOptions,
            shape: schema.RecordShape, vocab_size: int
           ) -> Optional[schema.Layout]:
  """Returns the layout of compact records; None for --record_format=example."""
  if file_options.record_format == "example":
    return None
  if options.label_format == "topk":
    shape = shape._replace(truncation_factor=options.truncation_factor)
  return compact.make_layout(
      shape, vocab_size, int(file_options.probability_bits))


def _stores_codes(file_options: FileOptions, options: teacher.LabelOptions
                 ) -> bool:
  """Returns whether --probability_bits has an effect."""
  return (file_options.record_format == "compact"
          and options.label_format == "topk")


def _check_options(file_options: FileOptions, options: teacher.LabelOptions,
                   vocab_size: int) -> None:
  """Raises InputError if flags do not fit each other or the teacher."""
  if options.truncation_factor > vocab_size:
    raise InputError(
        "--truncation_factor={} is over the vocab_size {} of the teacher; "
        "lower --truncation_factor".format(
            options.truncation_factor, vocab_size))
  if options.tail_samples >= options.truncation_factor:
    raise InputError(
        "--tail_samples={} must be less than --truncation_factor={}, which "
        "counts the most probable token too; lower --tail_samples".format(
            options.tail_samples, options.truncation_factor))
  if (file_options.probability_bits != compact.DEFAULT_PROBABILITY_BITS
      and not _stores_codes(file_options, options)):
    raise InputError(
        "--probability_bits={} has no effect without --record_format=compact "
        "and --label_format=topk: leave out --probability_bits".format(
            file_options.probability_bits))
  if options.label_format == "hidden":
    for name in _TOPK_OPTIONS:
      value, default = (getattr(some, name)
                        for some in (options, teacher.LabelOptions))
      if value != default:
        raise InputError(
            "--{0}={1} has no effect with --label_format=hidden, which stores "
            "the whole distribution: leave out --{0}".format(name, value))


def _warn_of_case(paths: Sequence[str], checkpoint: str) -> None:
  """Warns if the teacher's path names another case than the records'."""
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
  """Returns the manifest of the output, without counts and offsets."""
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
  """Returns the fingerprints of the input files, by name.

  Args:
    paths: input files; files without a manifest are read whole.
    index_folder: as for `block_index.read_block_index`.

  Raises:
    InputError: if two files have the same name, or a file is damaged.
  """
  sources: Dict[str, str] = {}
  for path in paths:
    name = os.path.basename(path)
    if name in sources:
      raise InputError(
          "--input_file has two files named {}, one of them {}; the "
          "manifest identifies files by name: rename one file, or label the "
          "files in separate runs".format(name, path))
    sources[name] = block_index.records_fingerprint(
        path, "input_file", index_folder)
  return sources


def _this_process() -> Process:
  """Returns the rank of this process, from its launcher, and its GPU."""
  launch = launchers.find(os.environ)
  return Process(launch.rank, launch.size, devices.choose_gpu(
      launch.local_rank if launch.size > 1 else None))


def main() -> None:
  try:
    label(command_line.options(FileOptions),
          command_line.options(teacher.LabelOptions), _this_process())
  except KeyboardInterrupt:
    raise KeyboardInterrupt("records labelled so far are kept: run the same "
                            "command again to resume") from None


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=_REQUIRED_FLAGS)

"""Finds and checks a trainer's inputs before anything is written."""

import re
from typing import (Callable, ContextManager, Dict, Iterable, List,
                    NamedTuple, Optional, Tuple)

from absl import logging
import tensorflow as tf

from distillation import checkpoints
from distillation import devices
from distillation import losses
from distillation import teacher_decoder
from distillation.options import ModelOptions, TrainerOptions
import modeling
from records import input_pipeline
from records import order
from records import schema
from records.manifest import find_repeated, read_manifest
from util import files
from util.command_line import InputError

# Names of files in output_dir that training expects: its own files, logs, and
# the student's config and vocabulary.
_EXPECTED_NAMES = re.compile(
    r"\..*|events\..*|graph\.pbtxt|checkpoint|model\.ckpt.*|eval|best|"
    r"student|eval_results\.txt|record_order\.json|(.*\.)?log(\..*)?|"
    r"bert_config\.json|vocab\.txt")
_CHECKPOINT_INDEX = re.compile(r"model\.ckpt-([0-9]+)\.index")


class Records(NamedTuple):
  """Checked record files, and their properties.

  Attributes:
    paths: paths of the files.
    shape: lengths of the features.
    flag: name of the flag with the files, for errors.
    limits: exclusive upper bounds of the integer features, by name.
    tail_samples: number of sampled entries, the last of the K.
    decoder: path of the teacher's decoder if the labels are hidden states, else
      None.
  """
  paths: List[str]
  shape: schema.RecordShape
  flag: str
  limits: Dict[str, int]
  tail_samples: int = 0
  decoder: Optional[str] = None

  def errors(self, corpus: order.Corpus,
             pieces: Callable[[], Iterable[order.Piece]]
            ) -> ContextManager[None]:
    """Returns a context that turns errors of reading into InputError.

    Args:
      corpus: the blocks of the files.
      pieces: as for `input_pipeline.record_errors`.
    """
    return input_pipeline.record_errors(
        self.flag, corpus, self.shape, self.limits, pieces)


class Corpora(NamedTuple):
  """The block offsets of the records.

  Attributes:
    training: records to train on.
    held_out: records to evaluate on.
  """
  training: order.Corpus
  held_out: order.Corpus


class Decoders(NamedTuple):
  """The teacher's decoders; None for records without hidden states.

  Attributes:
    training: decoder for the records to train on.
    held_out: decoder for the records to evaluate on.
  """
  training: Optional[teacher_decoder.Decoder]
  held_out: Optional[teacher_decoder.Decoder]


class Inputs(NamedTuple):
  """Checked inputs of a trainer.

  Attributes:
    config: the student's size.
    training: records to train on.
    held_out: records to evaluate on.
    init_layers: as for `checkpoints.restore`.
    is_resumed: whether output_dir holds a checkpoint.
  """
  config: modeling.BertConfig
  training: Records
  held_out: Records
  init_layers: Optional[Tuple[int, ...]]
  is_resumed: bool


def check(options: TrainerOptions, is_writer: bool = True,
          is_resumed: bool = False) -> Inputs:
  """Checks the options against each other and the files; changes nothing.

  Args:
    options: options of the trainer.
    is_writer: whether this process has access to output_dir.
    is_resumed: whether output_dir holds a checkpoint, for a process without
      access.

  Raises:
    InputError: if options or files are wrong, or do not fit together.
  """
  if not options.do_train and not options.do_eval:
    raise InputError("--do_train and --do_eval are both False: nothing to do; "
                     "set at least one of them to True")
  _check_tpu(options)
  _check_loss(options.loss)
  config = checkpoints.load_config(
      options.model.bert_config_file, options.records.max_seq_length)
  training = _training_records(options, config)
  held_out = _held_out_records(options, config, training)
  evaluation = options.evaluation
  if (evaluation.best_checkpoint_by != "kl_from_teacher"
      and not evaluation.eval_every_checkpoint):
    raise InputError(
        "--best_checkpoint_by={} has no effect without "
        "--eval_every_checkpoint=True: set --eval_every_checkpoint=True, or "
        "leave out --best_checkpoint_by".format(evaluation.best_checkpoint_by))
  if (evaluation.eval_every_checkpoint
      and evaluation.best_checkpoint_by == "kl_from_teacher"
      and not held_out.shape.has_labels):
    raise InputError(
        "--eval_every_checkpoint keeps the checkpoint that is closest to the "
        "teacher, but {} has no teacher labels; name labelled records with "
        "--eval_input_file, or set "
        "--best_checkpoint_by=masked_lm_cross_entropy".format(
            held_out.paths[0]))
  _check_hidden_states(options, config, training, held_out)
  init_layers = _init_layers(options.model)
  is_resumed = _check_start(
      options, config, init_layers, is_writer, is_resumed)
  if (is_resumed and is_writer and options.do_train
      and options.loss.hidden_projection):
    _check_projection(options.output_dir, [
        config.hidden_size, training.shape.teacher_hidden_size])
  if options.tpu.use_tpu:  # The last check, as the TPU may answer slowly.
    devices.find_tpu(options.tpu.tpu_name, options.tpu.tpu_zone,
                     options.tpu.gcp_project, options.tpu.master)
  return Inputs(config, training, held_out, init_layers, is_resumed)


def read_corpora(inputs: Inputs, output_dir: str) -> Corpora:
  """Reads the block offsets of the records.

  Files without a manifest are indexed, which is slow the first time.

  Args:
    inputs: the checked inputs.
    output_dir: folder for the index if the folder of the records is read-only.

  Raises:
    InputError: if a file is damaged.
  """
  training, held_out = inputs.training, inputs.held_out
  corpus = order.read_corpus(training.paths, training.flag, output_dir)
  return Corpora(
      corpus, corpus if held_out.paths == training.paths
      else order.read_corpus(held_out.paths, held_out.flag, output_dir))


def read_decoders(inputs: Inputs) -> Decoders:
  """Reads the teacher's decoders."""
  training, held_out = inputs.training.decoder, inputs.held_out.decoder
  decoder = teacher_decoder.read(training) if training else None
  if held_out == training:
    return Decoders(decoder, decoder)
  return Decoders(
      decoder, teacher_decoder.read(held_out) if held_out else None)


def _check_loss(loss: losses.LossOptions) -> None:
  """Raises InputError for options of the loss that exclude each other."""
  if not loss.temperature > 0:
    raise InputError("--temperature={} must be over 0".format(loss.temperature))
  if (loss.hard_label_schedule == "constant"
      and loss.final_hard_label_weight is not None):
    raise InputError(
        "--final_hard_label_weight={} does not go with "
        "--hard_label_schedule=constant: set --hard_label_schedule=linear, or "
        "leave out the weight".format(loss.final_hard_label_weight))


def _check_tpu(options: TrainerOptions) -> None:
  """Raises InputError for options that TPUs do not support."""
  for name, value, default in (
      ("precision", options.device.precision, "fp32"),
      ("use_xla", options.device.use_xla, False),
      ("eval_every_checkpoint", options.evaluation.eval_every_checkpoint,
       False),
      ("gradient_accumulation_steps",
       options.schedule.gradient_accumulation_steps, 1)):
    if options.tpu.use_tpu and value != default:
      raise InputError("--{0}={1} does not go with --use_tpu=True; set {2}"
                       .format(name, value, default))


def _training_records(options: TrainerOptions,
                      config: modeling.BertConfig) -> Records:
  """Finds and checks the records to train on.

  Training on hard labels alone does not read the teacher's labels.
  """
  shape = schema.RecordShape(
      options.records.max_seq_length, options.records.max_predictions_per_seq)
  paths = files.find_files(options.records.input_file, "input_file")
  if options.loss.reads_teacher:
    shape = input_pipeline.with_stored_labels(shape, paths[0], "input_file")
    if not shape.teacher_hidden_size:
      shape = shape._replace(
          truncation_factor=options.records.truncation_factor)
  records = _records(paths, "input_file", shape, options.loss, config)
  repeated = find_repeated(paths)
  if repeated:
    logging.warning(
        "--input_file: %s and %s hold the same records, made from the same "
        "files with the same flags; name only one of the two, unless training "
        "should read these records twice.", *repeated)
  return records


def _held_out_records(options: TrainerOptions, config: modeling.BertConfig,
                      training: Records) -> Records:
  """Finds and checks the records to evaluate on.

  Evaluation reads the teacher's labels wherever the records hold them.
  """
  if training.shape.has_labels and not options.records.eval_input_file:
    return training
  paths, flag, shape = training.paths, training.flag, training.shape
  if options.records.eval_input_file:
    flag = "eval_input_file"
    paths = files.find_files(options.records.eval_input_file, flag)
  stored = input_pipeline.with_stored_labels(shape, paths[0], flag)
  if not shape.truncation_factor or stored.teacher_hidden_size:
    shape = stored
  return _records(paths, flag, shape, options.loss, config)


def _records(paths: List[str], flag: str, shape: schema.RecordShape,
             loss: losses.LossOptions, config: modeling.BertConfig) -> Records:
  """Checks record files and the flags that their labels depend on."""
  shape = input_pipeline.check_records(paths, flag, shape, config.vocab_size)
  records = Records(paths, shape, flag, schema.limits(
      shape, config.vocab_size, config.type_vocab_size))
  if shape.teacher_hidden_size:
    return records._replace(decoder=_check_decoder(records, config))
  return records._replace(tail_samples=_check_labels(records, loss))


def _check_decoder(records: Records, config: modeling.BertConfig) -> str:
  """Checks the teacher's decoder beside records with its hidden states.

  Returns:
    The path of the decoder.

  Raises:
    InputError: if the decoder is missing or damaged, or does not fit the
      records or the student's vocabulary.
  """
  path = teacher_decoder.path_beside(records.paths[0])
  decoder = teacher_decoder.read(path)
  if decoder.vocab_size != config.vocab_size:
    raise InputError(
        "--bert_config_file has vocab_size {}, but the teacher's {} has {}: "
        "student and teacher must share one vocabulary".format(
            config.vocab_size, path, decoder.vocab_size))
  if decoder.hidden_size != records.shape.teacher_hidden_size:
    raise InputError(
        "{} belongs to a teacher with hidden_size {}, but {} holds hidden "
        "states of size {}: copy the decoder from the folder where the records "
        "were made".format(
            path, decoder.hidden_size, records.paths[0],
            records.shape.teacher_hidden_size))
  fingerprint = decoder.fingerprint()
  for record_file in records.paths:
    manifest = read_manifest(record_file)
    wanted = manifest and manifest.fingerprints.get("teacher_decoder")
    if wanted and wanted != fingerprint:
      raise InputError(
          "{} is not the decoder of the teacher that labelled {}: copy the "
          "decoder from the folder where the records were made, and name "
          "records of only one teacher".format(path, record_file))
  return path


def _check_hidden_states(options: TrainerOptions, config: modeling.BertConfig,
                         training: Records, held_out: Records) -> None:
  """Raises InputError if options and hidden states do not fit together."""
  loss = options.loss
  hidden_size = training.shape.teacher_hidden_size
  remedy = ("label the records with extract_teacher_labels_truncated.py "
            "--label_format=hidden")
  if loss.hidden_cosine_weight and not hidden_size:
    raise InputError(
        "--hidden_cosine_weight={} needs the teacher's hidden states, which {} "
        "does not hold: {}".format(
            loss.hidden_cosine_weight, training.paths[0], remedy))
  if loss.hidden_projection and not loss.hidden_cosine_weight:
    raise InputError(
        "--hidden_projection=True has no effect without "
        "--hidden_cosine_weight: set --hidden_cosine_weight, or leave out "
        "--hidden_projection")
  if (loss.hidden_cosine_weight and not loss.hidden_projection
      and hidden_size != config.hidden_size):
    raise InputError(
        "--hidden_cosine_weight={} compares hidden states of equal size, but "
        "--bert_config_file has hidden_size {} and the teacher {}: set "
        "--hidden_projection=True".format(
            loss.hidden_cosine_weight, config.hidden_size, hidden_size))
  if hidden_size and loss.tail_mass != "drop":
    raise InputError(
        "--tail_mass={} has no meaning for the hidden states of {}, which give "
        "the whole distribution: leave out --tail_mass".format(
            loss.tail_mass, training.paths[0]))
  for records in (training, held_out):
    if records.decoder and options.tpu.use_tpu:
      raise InputError(
          "--use_tpu=True does not read the hidden states of {}: label the "
          "records with --label_format=topk".format(records.paths[0]))


def _check_labels(records: Records, loss: losses.LossOptions) -> int:
  """Checks that the labels in the manifests fit the loss.

  Args:
    records: the record files.
    loss: terms of the loss, and their weights.

  Returns:
    The number of sampled entries in a slot.

  Raises:
    InputError: if a manifest does not fit the loss, or two manifests differ.
  """
  top_k = records.shape.truncation_factor
  if not top_k:
    return 0
  wanted = {"temperature": loss.temperature}
  if loss.reads_teacher:
    wanted["truncation_factor"] = top_k
  # Flags that older manifests lack, with the values of 2019.
  default_flags = {"temperature": 1.0, "tail_samples": 0}
  all_tail_samples: Dict[int, str] = {}
  for path in records.paths:
    manifest = read_manifest(path)
    if manifest is None:
      continue
    found = dict(default_flags, **manifest.flags)
    for name, value in wanted.items():
      if found.get(name, value) != value:
        raise InputError(
            "--{0}={1} does not fit {2}, whose labels were made with "
            "--{0}={3}: set --{0}={3}, or label the records again".format(
                name, value, path, found[name]))
    tail_samples = found["tail_samples"]
    if tail_samples and loss.tail_mass == "bucket":
      raise InputError(
          "--tail_mass=bucket does not fit {}, whose labels were made with "
          "--tail_samples={}: the samples represent the tail and leave no "
          "rest; use --tail_mass=drop".format(path, tail_samples))
    all_tail_samples[tail_samples] = path
  if len(all_tail_samples) > 1:
    (first, path), (second, other) = list(all_tail_samples.items())[:2]
    raise InputError(
        "--{}: {} was made with --tail_samples={}, {} with --tail_samples={}; "
        "name only files with equal --tail_samples".format(
            records.flag, path, first, other, second))
  return next(iter(all_tail_samples), 0)


def _init_layers(model: ModelOptions) -> Optional[Tuple[int, ...]]:
  """Returns the numbers of --init_layers; None without the flag."""
  if not model.init_layers:
    return None
  text = ",".join(model.init_layers)
  if not model.init_checkpoint:
    raise InputError("--init_layers={} needs --init_checkpoint, the checkpoint "
                     "with these layers".format(text))
  if not all(layer.strip().isdigit() for layer in model.init_layers):
    raise InputError("--init_layers={} must be numbers of layers, such as "
                     "0,2,4".format(text))
  return tuple(int(layer) for layer in model.init_layers)


def _check_start(options: TrainerOptions, config: modeling.BertConfig,
                 init_layers: Optional[Tuple[int, ...]], is_writer: bool,
                 is_resumed: bool) -> bool:
  """Checks the checkpoint that training or evaluation starts from.

  Returns:
    Whether this checkpoint is in output_dir.
  """
  newest = (tf.train.latest_checkpoint(options.output_dir) if is_writer
            else None)
  if not is_writer and is_resumed:
    return True
  if newest:
    match = checkpoints.match_checkpoint(config, newest, "output_dir")
    if match.missing or match.unused:
      raise InputError(
          "--output_dir: {} {}: this folder belongs to another model; choose "
          "another folder".format(
              newest, "has no " + match.missing[0] if match.missing else
              "also has " + match.unused[0]))
    if options.do_train:
      _check_resumable(newest)
    return True
  if is_writer and options.do_train:
    _check_state(options.output_dir)
    _warn_of_other_files(options.output_dir)
  init_checkpoint = options.model.init_checkpoint
  if init_checkpoint:
    match = checkpoints.match_checkpoint(
        config, init_checkpoint, layers=init_layers)
    logging.info(
        "%d variables start from %s: %s", len(match.restored), init_checkpoint,
        checkpoints.summarize(match.restored))
    logging.info("%d newly initialised%s", len(match.missing),
                 ": " + ", ".join(match.missing) if match.missing else "")
  elif not options.do_train:
    raise InputError(
        "--do_eval has nothing to evaluate: there is no checkpoint in "
        "--output_dir={} and no --init_checkpoint; train first, or set "
        "--init_checkpoint".format(options.output_dir))
  return False


def _check_resumable(checkpoint: str) -> None:
  """Checks that training can resume from a checkpoint in output_dir.

  Raises:
    InputError: if the checkpoint lacks the optimizer's variables.
  """
  missing = checkpoints.missing_of_training(checkpoint)
  if missing:
    raise InputError(
        "--output_dir: {} has no {}: training cannot resume from this "
        "checkpoint; name the checkpoint with --init_checkpoint, and choose "
        "another --output_dir".format(checkpoint, missing))


def _check_state(output_dir: str) -> None:
  """Checks that TensorFlow knows the checkpoints in output_dir.

  Raises:
    InputError: if the file that names the newest checkpoint is lost.
  """
  steps = [int(match.group(1)) for match in map(
      _CHECKPOINT_INDEX.fullmatch, files.list_names(output_dir)
      if files.is_folder(output_dir) else ()) if match]
  # A run that was killed in its first save leaves step 0: nothing is lost.
  if max(steps, default=0):
    name = "model.ckpt-{}".format(max(steps))
    raise InputError(
        "--output_dir={} holds {}, but its file `checkpoint`, which names the "
        "newest checkpoint, is lost or wrong: training would start at step 0. "
        "Write the file again (echo 'model_checkpoint_path: \"{}\"' > "
        "{}/checkpoint), or choose another folder".format(
            output_dir, name, name, output_dir))


def _warn_of_other_files(output_dir: str) -> None:
  """Warns if output_dir, at the start of training, holds unexpected files."""
  if not files.is_folder(output_dir):
    return
  others = sorted((name for name in files.list_names(output_dir)
                   if not _EXPECTED_NAMES.fullmatch(name)),
                  key=files.natural_key)
  if others:
    logging.warning(
        "--output_dir=%s holds %d files that training does not write, such as "
        "%s: another stage that reads this folder would also find the files of "
        "this training; choose an empty folder.", output_dir, len(others),
        others[0])


def _check_projection(output_dir: str, wanted: List[int]) -> None:
  """Checks that the newest checkpoint holds a projection of the wanted shape.

  Raises:
    InputError: if the projection is missing or has another shape.
  """
  checkpoint = tf.train.latest_checkpoint(output_dir)
  found = checkpoints.variable_shapes(checkpoint).get(
      checkpoints.HIDDEN_PROJECTION)
  if found is None:
    raise InputError(
        "--hidden_projection=True does not fit {}, which was trained without a "
        "projection: leave out --hidden_projection, or choose another "
        "--output_dir".format(checkpoint))
  if found != wanted:
    raise InputError(
        "--input_file holds hidden states of a teacher with hidden_size {}, "
        "but {} was trained with a teacher with hidden_size {}: name records "
        "of that teacher, or choose another --output_dir".format(
            wanted[1], checkpoint, found[1]))

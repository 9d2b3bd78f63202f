"""What a trainer reads: found and checked before anything is written."""

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

# What may lie in a folder where training starts: what a training writes before
# its first checkpoint, logs, and what belongs to its student.
_OWN_NAMES = re.compile(
    r"\..*|events\..*|graph\.pbtxt|checkpoint|model\.ckpt.*|eval|best|"
    r"student|eval_results\.txt|record_order\.json|(.*\.)?log(\..*)?|"
    r"bert_config\.json|vocab\.txt")
_CHECKPOINT_INDEX = re.compile(r"model\.ckpt-([0-9]+)\.index")


class Records(NamedTuple):
  """Checked record files, and how they are read.

  Attributes:
    paths: the files.
    shape: lengths of the records.
    flag: name of the flag that named them, for errors.
    limits: what their integers stay below.
    tail_samples: how many of the K entries, the last ones, are a sample.
    decoder: path of the teacher's decoder, for hidden states; else None.
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
    """Turns what reading them raises into InputError.

    Args:
      corpus: their blocks.
      pieces: as for `input_pipeline.record_errors`.
    """
    return input_pipeline.record_errors(
        self.flag, corpus, self.shape, self.limits, pieces)


class Corpora(NamedTuple):
  """Where the blocks of the records begin.

  Attributes:
    training: records to train on.
    held_out: records to evaluate on.
  """
  training: order.Corpus
  held_out: order.Corpus


class Decoders(NamedTuple):
  """The teacher's decoders, where the labels are hidden states.

  Attributes:
    training: of the records to train on.
    held_out: of the records to evaluate on.
  """
  training: Optional[teacher_decoder.Decoder]
  held_out: Optional[teacher_decoder.Decoder]


class Inputs(NamedTuple):
  """What was read and checked before anything is written.

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
    options: what to do.
    is_writer: False for a process that may not see output_dir.
    is_resumed: what such a process is told of a checkpoint there.

  Raises:
    InputError: an option, a file or the fit between them is wrong.
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
        "--eval_every_checkpoint=True: set that too, or leave it out".format(
            evaluation.best_checkpoint_by))
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
  if options.tpu.use_tpu:  # The last check, as it may wait for an answer.
    devices.find_tpu(options.tpu.tpu_name, options.tpu.tpu_zone,
                     options.tpu.gcp_project, options.tpu.master)
  return Inputs(config, training, held_out, init_layers, is_resumed)


def read_corpora(inputs: Inputs, output_dir: str) -> Corpora:
  """Finds where the blocks of the records begin.

  That takes long the first time where no manifest tells; all processes find
  the same.

  Args:
    inputs: what was checked.
    output_dir: folder for what is found, where that of the records is
      read-only.

  Raises:
    InputError: a file is damaged.
  """
  training, held_out = inputs.training, inputs.held_out
  corpus = order.read_corpus(training.paths, training.flag, output_dir)
  return Corpora(
      corpus, corpus if held_out.paths == training.paths
      else order.read_corpus(held_out.paths, held_out.flag, output_dir))


def read_decoders(inputs: Inputs) -> Decoders:
  """Reads what makes the teacher's distributions of its hidden states."""
  training, held_out = inputs.training.decoder, inputs.held_out.decoder
  decoder = teacher_decoder.read(training) if training else None
  if held_out == training:
    return Decoders(decoder, decoder)
  return Decoders(
      decoder, teacher_decoder.read(held_out) if held_out else None)


def _check_loss(loss: losses.LossOptions) -> None:
  """Raises InputError for options that do not go together."""
  if not loss.temperature > 0:
    raise InputError("--temperature={} must be over 0".format(loss.temperature))
  if (loss.hard_label_schedule == "constant"
      and loss.final_hard_label_weight is not None):
    raise InputError(
        "--final_hard_label_weight={} does not go with "
        "--hard_label_schedule=constant: set --hard_label_schedule=linear, or "
        "leave the weight out".format(loss.final_hard_label_weight))


def _check_tpu(options: TrainerOptions) -> None:
  """Raises InputError for what a TPU does not do."""
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

  Training on the hard labels reads no labels of the teacher.
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
        "--input_file: %s and %s hold the same records, made of the same files "
        "with the same flags; unless they are to count twice, name only one of "
        "them.", *repeated)
  return records


def _held_out_records(options: TrainerOptions, config: modeling.BertConfig,
                      training: Records) -> Records:
  """Finds and checks the records to evaluate on.

  Evaluation compares with the teacher wherever it can.
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
  """Checks record files."""
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
    InputError: it is missing, damaged, or does not belong to the records or to
      the student's vocabulary.
  """
  path = teacher_decoder.path_beside(records.paths[0])
  decoder = teacher_decoder.read(path)
  if decoder.vocab_size != config.vocab_size:
    raise InputError(
        "--bert_config_file has vocab_size {}, but the teacher's {} has {}: "
        "student and teacher need one vocabulary".format(
            config.vocab_size, path, decoder.vocab_size))
  if decoder.hidden_size != records.shape.teacher_hidden_size:
    raise InputError(
        "{} is of a teacher with hidden_size {}, but {} has hidden states of "
        "{}: copy it from where the records were made".format(
            path, decoder.hidden_size, records.paths[0],
            records.shape.teacher_hidden_size))
  fingerprint = decoder.fingerprint()
  for record_file in records.paths:
    manifest = read_manifest(record_file)
    wanted = manifest and manifest.fingerprints.get("teacher_decoder")
    if wanted and wanted != fingerprint:
      raise InputError(
          "{} is not of the teacher that {} was made with: copy it from where "
          "the records were made, and read records of one teacher at once"
          .format(path, record_file))
  return path


def _check_hidden_states(options: TrainerOptions, config: modeling.BertConfig,
                         training: Records, held_out: Records) -> None:
  """Raises InputError where options do not fit hidden states as labels."""
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
        "--hidden_cosine_weight: set that too, or leave it out")
  if (loss.hidden_cosine_weight and not loss.hidden_projection
      and hidden_size != config.hidden_size):
    raise InputError(
        "--hidden_cosine_weight={} compares hidden states of one size, but "
        "--bert_config_file has hidden_size {} and the teacher {}: set "
        "--hidden_projection=True".format(
            loss.hidden_cosine_weight, config.hidden_size, hidden_size))
  if hidden_size and loss.tail_mass != "drop":
    raise InputError(
        "--tail_mass={} has no meaning for {}, which holds hidden states: they "
        "give the whole distribution; leave it out".format(
            loss.tail_mass, training.paths[0]))
  for records in (training, held_out):
    if records.decoder and options.tpu.use_tpu:
      raise InputError(
          "--use_tpu=True does not read the hidden states of {}: label the "
          "records with --label_format=topk".format(records.paths[0]))


def _check_labels(records: Records, loss: losses.LossOptions) -> int:
  """Checks that the labels were made for the loss that is asked for.

  Args:
    records: the files.
    loss: what the student learns from.

  Returns:
    How many of the entries of a slot are a sample.

  Raises:
    InputError: the manifest of a file says otherwise, or two differ.
  """
  top_k = records.shape.truncation_factor
  if not top_k:
    return 0
  wanted = {"temperature": loss.temperature}
  if loss.reads_teacher:
    wanted["truncation_factor"] = top_k
  # What files without a manifest, of 2019, were made with.
  made_with = {"temperature": 1.0, "tail_samples": 0}
  all_tail_samples: Dict[int, str] = {}
  for path in records.paths:
    manifest = read_manifest(path)
    if manifest is None:
      continue
    found = dict(made_with, **manifest.flags)
    for name, value in wanted.items():
      if found.get(name, value) != value:
        raise InputError(
            "--{0}={1} does not fit {2}, whose labels were made with "
            "--{0}={3}: set --{0}={3}, or make the labels again".format(
                name, value, path, found[name]))
    tail_samples = found["tail_samples"]
    if tail_samples and loss.tail_mass == "bucket":
      raise InputError(
          "--tail_mass=bucket does not fit {}, whose labels were made with "
          "--tail_samples={}: they stand for the whole distribution and leave "
          "no rest; use --tail_mass=drop".format(path, tail_samples))
    all_tail_samples[tail_samples] = path
  if len(all_tail_samples) > 1:
    (first, path), (second, other) = list(all_tail_samples.items())[:2]
    raise InputError(
        "--{}: {} was made with --tail_samples={}, {} with --tail_samples={}; "
        "read only one kind at once".format(
            records.flag, path, first, other, second))
  return next(iter(all_tail_samples), 0)


def _init_layers(model: ModelOptions) -> Optional[Tuple[int, ...]]:
  """Returns --init_layers as numbers, None where it is not given."""
  if not model.init_layers:
    return None
  text = ",".join(model.init_layers)
  if not model.init_checkpoint:
    raise InputError("--init_layers={} needs --init_checkpoint, which has the "
                     "layers".format(text))
  if not all(layer.strip().isdigit() for layer in model.init_layers):
    raise InputError("--init_layers={} must be numbers of layers, such as "
                     "0,2,4".format(text))
  return tuple(int(layer) for layer in model.init_layers)


def _check_start(options: TrainerOptions, config: modeling.BertConfig,
                 init_layers: Optional[Tuple[int, ...]], is_writer: bool,
                 is_resumed: bool) -> bool:
  """Checks the checkpoint that the variables start from.

  Returns:
    Whether that is one in output_dir.
  """
  newest = (tf.train.latest_checkpoint(options.output_dir) if is_writer
            else None)
  if not is_writer and is_resumed:
    return True
  if newest:
    match = checkpoints.match_checkpoint(config, newest, "output_dir")
    if match.missing or match.unused:
      raise InputError(
          "--output_dir: {} {}: another model was trained there; choose "
          "another folder".format(
              newest, "has no " + match.missing[0] if match.missing else
              "has {} too".format(match.unused[0])))
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
        "--output_dir={} and no --init_checkpoint".format(options.output_dir))
  return False


def _check_resumable(checkpoint: str) -> None:
  """Checks that a checkpoint in output_dir is one of a training.

  Raises:
    InputError: it is a published model.
  """
  missing = checkpoints.missing_of_training(checkpoint)
  if missing:
    raise InputError(
        "--output_dir: {} has no {}: it is a model and no training that can "
        "resume; name it with --init_checkpoint, and choose another "
        "--output_dir".format(checkpoint, missing))


def _check_state(output_dir: str) -> None:
  """Checks that no checkpoint is there of which TensorFlow does not know.

  Raises:
    InputError: the file that names the newest one is lost.
  """
  steps = [int(match.group(1)) for match in map(
      _CHECKPOINT_INDEX.fullmatch, files.list_names(output_dir)
      if files.is_folder(output_dir) else ()) if match]
  # At step 0 nothing is lost: a run was stopped in its first save.
  if max(steps, default=0):
    name = "model.ckpt-{}".format(max(steps))
    raise InputError(
        "--output_dir={} holds {}, but its file `checkpoint`, which names the "
        "newest one, is lost or names another: training would start at step 0. "
        "Write the file again (echo 'model_checkpoint_path: \"{}\"' > "
        "{}/checkpoint), or choose another folder".format(
            output_dir, name, name, output_dir))


def _warn_of_other_files(output_dir: str) -> None:
  """Warns where a folder without a training holds what no training writes."""
  if not files.is_folder(output_dir):
    return
  others = sorted((name for name in files.list_names(output_dir)
                   if not _OWN_NAMES.fullmatch(name)), key=files.natural_key)
  if others:
    logging.warning(
        "--output_dir=%s holds %d files that are not of a training, such as "
        "%s: those of this training will lie among them, for other stages to "
        "read; an empty folder is better.", output_dir, len(others), others[0])


def _check_projection(output_dir: str, wanted: List[int]) -> None:
  """Checks that training with a projection was begun with one of its shape.

  Raises:
    InputError: it was not.
  """
  checkpoint = tf.train.latest_checkpoint(output_dir)
  found = checkpoints.variable_shapes(checkpoint).get(
      checkpoints.HIDDEN_PROJECTION)
  if found is None:
    raise InputError(
        "--hidden_projection=True does not fit {}, which was trained without: "
        "leave it out, or choose another --output_dir".format(checkpoint))
  if found != wanted:
    raise InputError(
        "--input_file holds hidden states of a teacher with hidden_size {}, "
        "but {} was trained on those of one with {}: read these, or choose "
        "another --output_dir".format(wanted[1], checkpoint, found[1]))

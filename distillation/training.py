"""What both trainers share: their flags, and the loop of train and evaluate.

How many processes there are comes in as data (`Processes`); this module does
not know Horovod.
"""

import contextlib
import dataclasses
import os
import tempfile
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from absl import flags
from absl import logging
import tensorflow as tf

from distillation import checkpoints
from distillation import devices
from distillation import evaluation
from distillation import hooks
from distillation import losses
from distillation import student
import modeling
from records import input_pipeline
from records import schema
from records.manifest import read_manifest
from util import files
from util.command_line import InputError

tf1 = tf.compat.v1

REQUIRED_FLAGS = ("bert_config_file", "input_file", "output_dir")


# --- Flags and options -------------------------------------------------------


def define_flags() -> None:
  """Defines the flags of the trainers."""
  flags.DEFINE_string(
      "bert_config_file", None,
      "Config of the student, a JSON file like BERT's bert_config.json.")
  flags.DEFINE_string(
      "input_file", None,
      "Labelled records to train on and evaluate on: paths and patterns, "
      "separated by commas.")
  flags.DEFINE_string(
      "eval_input_file", None,
      "Records to evaluate on, best ones that training does not see; default: "
      "input_file.")
  flags.DEFINE_string(
      "output_dir", None,
      "Folder for checkpoints and eval_results.txt; made if need be. Training "
      "resumes from a checkpoint that is there, and at its end exports the "
      "student to student/ in the layout of Google's BERT: bert_config.json "
      "and bert_model.ckpt.*, without the optimizer's slots.")
  flags.DEFINE_string(
      "init_checkpoint", None,
      "Checkpoint to start from: variables that it has are taken by name, the "
      "others are newly initialised. Often the teacher's.")
  flags.DEFINE_list(
      "init_layers", None,
      "Layers of init_checkpoint that become the student's layers 0, 1 and so "
      "on, such as 0,2,4; default: those of the same numbers.")
  flags.DEFINE_integer(
      "truncation_factor", 10,
      "K, how many of the teacher's tokens each slot of the records stores.",
      lower_bound=1)
  flags.DEFINE_float(
      "hard_label_weight", 0.0,
      "w: the masked-LM loss is (1 - w) times the loss against the teacher "
      "plus w times the cross entropy of the masked tokens, the hard labels. "
      "At 1 the records need no teacher labels.",
      lower_bound=0.0, upper_bound=1.0)
  flags.DEFINE_float(
      "temperature", 1.0,
      "T: the student's logits are divided by it and the loss against the "
      "teacher is multiplied by its square. Must be that of the records.")
  flags.DEFINE_enum(
      "tail_mass", "drop", losses.TAIL_MASSES,
      "What to do with the teacher's probability outside the K stored tokens: "
      "drop leaves it out, renormalize scales the K to a sum of 1, bucket "
      "compares it with the student's own rest, as one more token.")
  flags.DEFINE_bool("do_train", False, "Whether to train.")
  flags.DEFINE_bool(
      "do_eval", False,
      "Whether to evaluate: the newest checkpoint of output_dir, else "
      "init_checkpoint.")
  input_pipeline.define_flags()
  flags.DEFINE_integer(
      "train_batch_size", 32,
      "Sequences in a micro-batch, per process; a training step takes "
      "gradient_accumulation_steps of them.", lower_bound=1)
  flags.DEFINE_integer(
      "eval_batch_size", 8, "Sequences in an evaluation step.", lower_bound=1)
  flags.DEFINE_float(
      "learning_rate", 5e-5,
      "Highest learning rate of AdamW; times the number of processes.",
      lower_bound=0.0)
  flags.DEFINE_integer(
      "num_train_steps", 100000,
      "Steps of training; divided by the number of processes.", lower_bound=1)
  flags.DEFINE_integer(
      "num_warmup_steps", 10000,
      "Steps over which the learning rate rises; divided by the number of "
      "processes.", lower_bound=0)
  flags.DEFINE_integer(
      "save_checkpoints_steps", 1000, "Steps between two checkpoints.",
      lower_bound=1)
  flags.DEFINE_integer(
      "keep_checkpoint_max", 5,
      "How many of the newest checkpoints to keep; 0 keeps all.",
      lower_bound=0)
  flags.DEFINE_integer(
      "random_seed", 12345,
      "Seed of new weights, of dropout and of the order in which records are "
      "read.")
  flags.DEFINE_integer(
      "iterations_per_loop", 1000, "Steps in one call of a TPU.",
      lower_bound=1)
  flags.DEFINE_integer(
      "max_eval_steps", 100, "Batches to evaluate on at most.", lower_bound=1)
  flags.DEFINE_bool(
      "eval_every_checkpoint", False,
      "Whether to evaluate each checkpoint in training and keep the one with "
      "the lowest kl_from_teacher in output_dir/best; student/ is then made "
      "of that one.")
  flags.DEFINE_enum(
      "precision", "fp32", devices.PRECISIONS,
      "Arithmetic of the matrix products: bf16 on CPUs that have it, fp16 with "
      "dynamic loss scaling on GPUs. Variables stay float32.")
  flags.DEFINE_bool(
      "use_xla", False, "Whether to compile the graph with XLA, on GPUs.")
  flags.DEFINE_integer(
      "gradient_accumulation_steps", 1,
      "Micro-batches of train_batch_size whose gradients are accumulated for "
      "one step, for batches that do not fit into memory at once.",
      lower_bound=1)
  flags.DEFINE_bool("use_tpu", False, "Whether to run on a TPU.")
  flags.DEFINE_string("tpu_name", None, "Name or grpc:// address of the TPU.")
  flags.DEFINE_string("tpu_zone", None, "Zone of the TPU.")
  flags.DEFINE_string("gcp_project", None, "Project of the TPU.")
  flags.DEFINE_string("master", None, "Address of a TensorFlow master.")
  flags.DEFINE_integer("num_tpu_cores", 8, "Cores of the TPU.", lower_bound=1)


# The fields of these have the names of the flags, whose help describes them.


@dataclasses.dataclass(frozen=True)
class ModelOptions:
  """The student and where it starts."""
  bert_config_file: str
  init_checkpoint: Optional[str] = None
  init_layers: Optional[List[str]] = None


@dataclasses.dataclass(frozen=True)
class RecordOptions:
  """What is read."""
  input_file: str
  eval_input_file: Optional[str] = None
  max_seq_length: int = 128
  max_predictions_per_seq: int = 20
  truncation_factor: int = 10


@dataclasses.dataclass(frozen=True)
class ScheduleOptions:
  """How long training is, and what a step takes."""
  train_batch_size: int = 32
  gradient_accumulation_steps: int = 1
  learning_rate: float = 5e-5
  num_train_steps: int = 100000
  num_warmup_steps: int = 10000
  random_seed: int = 12345
  save_checkpoints_steps: int = 1000
  keep_checkpoint_max: int = 5


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
  """How checkpoints are evaluated."""
  eval_batch_size: int = 8
  max_eval_steps: int = 100
  eval_every_checkpoint: bool = False


@dataclasses.dataclass(frozen=True)
class TpuOptions:
  """Which TPU to run on."""
  use_tpu: bool = False
  tpu_name: Optional[str] = None
  tpu_zone: Optional[str] = None
  gcp_project: Optional[str] = None
  master: Optional[str] = None
  num_tpu_cores: int = 8
  iterations_per_loop: int = 1000


@dataclasses.dataclass(frozen=True)
class TrainerOptions:
  """Everything that a trainer is told.

  Attributes:
    output_dir: folder for checkpoints, results and the exported student.
    do_train: whether to train.
    do_eval: whether to evaluate.
    model: the student and where it starts.
    records: what is read.
    loss: what the student learns from.
    schedule: how long training is.
    evaluation: how checkpoints are evaluated.
    device: precision and compiler.
    tpu: which TPU to run on.
  """
  output_dir: str
  do_train: bool
  do_eval: bool
  model: ModelOptions
  records: RecordOptions
  loss: losses.LossOptions = losses.LossOptions()
  schedule: ScheduleOptions = ScheduleOptions()
  evaluation: EvaluationOptions = EvaluationOptions()
  device: devices.DeviceOptions = devices.DeviceOptions()
  tpu: TpuOptions = TpuOptions()


@dataclasses.dataclass(frozen=True)
class Processes:
  """The processes that train together, as one of them sees them.

  Attributes:
    rank: this process; 0 writes checkpoints, evaluates and reports.
    size: how many there are.
    local_rank: this process among those of its machine, which says what GPU
      it uses; None leaves the choice to TensorFlow.
    wrap_optimizer: as for `optimization.create_train_step`.
    hooks: session hooks for training.
    broadcast: takes a number and returns the one that rank 0 gave.
  """
  rank: int = 0
  size: int = 1
  local_rank: Optional[int] = None
  wrap_optimizer: Optional[Callable[[tf1.train.Optimizer],
                                    tf1.train.Optimizer]] = None
  hooks: Tuple[tf1.train.SessionRunHook, ...] = ()
  broadcast: Callable[[int], int] = lambda number: number


# --- Checks ------------------------------------------------------------------


class _Records(NamedTuple):
  """Checked record files, and how they are read.

  Attributes:
    paths: the files.
    shape: lengths of the records.
    flag: name of the flag that named them, for errors.
    tail_samples: how many of the K entries were drawn.
  """
  paths: List[str]
  shape: schema.RecordShape
  flag: str
  tail_samples: int = 0


class _Inputs(NamedTuple):
  """What was read and checked before anything is written.

  Attributes:
    config: the student's size.
    training: records to train on.
    held_out: records to evaluate on.
    init_layers: as for `checkpoints.restore`.
    is_resumed: whether output_dir holds a checkpoint.
  """
  config: modeling.BertConfig
  training: _Records
  held_out: _Records
  init_layers: Optional[Tuple[int, ...]]
  is_resumed: bool


def _check(options: TrainerOptions) -> _Inputs:
  """Checks the options against each other and the files; changes nothing."""
  if not options.do_train and not options.do_eval:
    raise InputError("--do_train and --do_eval are both False: nothing to do; "
                     "set at least one of them to True")
  _check_tpu(options)
  if not options.loss.temperature > 0:
    raise InputError("--temperature={} must be over 0".format(
        options.loss.temperature))
  config = checkpoints.load_config(
      options.model.bert_config_file, options.records.max_seq_length)
  training = _training_records(options, config)
  held_out = _held_out_records(options, config, training)
  if (options.evaluation.eval_every_checkpoint
      and not held_out.shape.truncation_factor):
    raise InputError(
        "--eval_every_checkpoint keeps the checkpoint that is closest to the "
        "teacher, but {} has no teacher labels; name labelled records with "
        "--eval_input_file".format(held_out.paths[0]))
  init_layers = _init_layers(options.model)
  return _Inputs(config, training, held_out, init_layers,
                 _check_start(options, config, init_layers))


def _check_tpu(options: TrainerOptions) -> None:
  """Raises InputError for what a TPU does not do."""
  for name, value, default in (
      ("precision", options.device.precision, "fp32"),
      ("use_xla", options.device.use_xla, False),
      ("gradient_accumulation_steps",
       options.schedule.gradient_accumulation_steps, 1)):
    if options.tpu.use_tpu and value != default:
      raise InputError("--{0}={1} does not go with --use_tpu=True; set {2}"
                       .format(name, value, default))


def _training_records(options: TrainerOptions,
                      config: modeling.BertConfig) -> _Records:
  """Finds and checks the records to train on.

  Training on the hard labels reads no labels of the teacher.
  """
  flag = "input_file"
  shape = schema.RecordShape(
      options.records.max_seq_length, options.records.max_predictions_per_seq,
      options.records.truncation_factor
      if options.loss.hard_label_weight < 1 else 0)
  paths = files.find_files(options.records.input_file, flag)
  input_pipeline.check_records(paths, flag, shape, config.vocab_size)
  records = _Records(paths, shape, flag)
  return records._replace(tail_samples=_check_labels(records, options.loss))


def _held_out_records(options: TrainerOptions, config: modeling.BertConfig,
                      training: _Records) -> _Records:
  """Finds and checks the records to evaluate on.

  Evaluation compares with the teacher wherever it can.
  """
  if training.shape.truncation_factor and not options.records.eval_input_file:
    return training
  flag, shape = training.flag, training.shape
  paths = training.paths
  if options.records.eval_input_file:
    flag = "eval_input_file"
    paths = files.find_files(options.records.eval_input_file, flag)
  if not shape.truncation_factor:
    shape = shape._replace(truncation_factor=input_pipeline.stored_entries(
        paths[0], flag, shape.max_predictions_per_seq))
  input_pipeline.check_records(paths, flag, shape, config.vocab_size)
  records = _Records(paths, shape, flag)
  return records._replace(tail_samples=_check_labels(records, options.loss))


def _check_labels(records: _Records, loss: losses.LossOptions) -> int:
  """Checks that the labels were made for the loss that is asked for.

  Args:
    records: the files.
    loss: what the student learns from.

  Returns:
    How many of the entries of a slot were drawn.

  Raises:
    InputError: the manifest of a file says otherwise, or two differ.
  """
  top_k = records.shape.truncation_factor
  if not top_k:
    return 0
  wanted = {"temperature": loss.temperature}
  if loss.hard_label_weight < 1:
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
                 init_layers: Optional[Tuple[int, ...]]) -> bool:
  """Checks the checkpoint that the variables start from.

  Returns:
    Whether that is one in output_dir.
  """
  newest = tf.train.latest_checkpoint(options.output_dir)
  if newest:
    match = checkpoints.match_checkpoint(config, newest, "output_dir")
    if match.missing or match.unused:
      raise InputError(
          "--output_dir: {} {}: another model was trained there; choose "
          "another folder".format(
              newest, "has no " + match.missing[0] if match.missing else
              "has {} too".format(match.unused[0])))
    return True
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


# --- The run -----------------------------------------------------------------


def run(options: TrainerOptions, processes: Processes = Processes()) -> None:
  """Trains and evaluates.

  Args:
    options: what to do.
    processes: those that train together.

  Raises:
    InputError: an option, a file or the fit between them is wrong.
  """
  if processes.rank > 0:
    logging.set_verbosity(logging.WARNING)
  gpu = devices.choose_gpu(processes.local_rank)
  files.set_remote_files(tf.io.gfile)
  trainer = _Trainer(options, processes, _check(options), gpu)
  with devices.exhaustion_errors(
      "free some memory, or space in --output_dir={}, or lower "
      "--train_batch_size and --eval_batch_size; the same command resumes from "
      "what is saved".format(options.output_dir)):
    if options.do_train:
      trainer.train()
      if processes.rank == 0:
        trainer.export()
    if options.do_eval and processes.rank == 0:
      evaluation.write_results(options.output_dir, trainer.evaluate())


class _Trainer:
  """Trains, exports and evaluates one student."""

  def __init__(self, options: TrainerOptions, processes: Processes,
               inputs: _Inputs, gpu: Optional[int]):
    self._options = options
    self._processes = processes
    self._inputs = inputs
    self._gpu = gpu
    schedule = options.schedule
    self._student_options = student.StudentOptions(
        config=inputs.config, loss=options.loss,
        # What is in output_dir already needs no start.
        init_checkpoint=(None if inputs.is_resumed
                         else options.model.init_checkpoint),
        init_layers=None if inputs.is_resumed else inputs.init_layers,
        learning_rate=schedule.learning_rate * processes.size,
        num_train_steps=max(1, schedule.num_train_steps // processes.size),
        num_warmup_steps=schedule.num_warmup_steps // processes.size,
        wrap_optimizer=(tf1.tpu.CrossShardOptimizer if options.tpu.use_tpu
                        else processes.wrap_optimizer),
        use_tpu=options.tpu.use_tpu,
        tail_samples=inputs.held_out.tail_samples,
        num_micro_batches=schedule.gradient_accumulation_steps,
        static_shapes=options.device.use_xla,
        scale_loss=options.device.precision == "fp16")

  def train(self) -> None:
    """Trains up to the last step, from the newest checkpoint on."""
    output_dir = self._options.output_dir
    num_steps = self._student_options.num_train_steps
    is_writer = self._processes.rank == 0
    # The other processes may not see the folder of rank 0.
    first_step = self._processes.broadcast(checkpoints.newest_step(output_dir))
    held_out = None
    if self._options.evaluation.eval_every_checkpoint and is_writer:
      held_out = evaluation.HeldOutListener(self.evaluate, output_dir)
      if first_step:
        held_out.catch_up()
    if first_step >= num_steps:
      logging.info("%s holds step %d: training is finished.", output_dir,
                   first_step)
      return
    if first_step:
      logging.info("Resuming from step %d of %s.", first_step, output_dir)
    devices.warn_of_device(self._options.device)
    progress = hooks.ProgressHook(
        num_steps, self._sequences_per_step * self._processes.size,
        output_dir if is_writer else None)
    stop = hooks.StopAtSignalHook(stops=is_writer)
    training_hooks = [*self._processes.hooks, progress, stop]
    with contextlib.ExitStack() as stack:
      if is_writer:
        model_dir = output_dir
        os.makedirs(model_dir, exist_ok=True)
        training_hooks.append(hooks.SaverHook(
            model_dir, self._options.schedule.save_checkpoints_steps,
            first_step))
      else:
        model_dir = stack.enter_context(tempfile.TemporaryDirectory())
      stack.enter_context(stop)
      try:
        with input_pipeline.record_errors(self._inputs.training.flag):
          self._build_estimator(model_dir).train(
              self._training_input_fn(first_step), max_steps=num_steps,
              hooks=training_hooks,
              saving_listeners=[held_out] if held_out else None)
      except tf1.train.NanLossDuringTrainingError:
        raise InputError(
            "the loss is NaN or infinite at step {}; what is saved in {} is "
            "from before: run the same command again with a lower "
            "--learning_rate or more --num_warmup_steps".format(
                progress.step, output_dir)) from None
      except Exception:
        if stop.signal is None or is_writer:
          raise
        # Rank 0 has stopped for the same signal; this process lost it.
        raise KeyboardInterrupt from None
    if (stop.signal is not None
        and checkpoints.newest_step(output_dir) < num_steps):
      raise KeyboardInterrupt(
          "step {} is saved in {}; the same command resumes from there".format(
              progress.step, output_dir))

  def export(self) -> None:
    """Exports the best checkpoint, if one was kept, else the newest."""
    output_dir = self._options.output_dir
    checkpoint = tf.train.latest_checkpoint(output_dir)
    if self._options.evaluation.eval_every_checkpoint:
      checkpoint = checkpoints.best_checkpoint(output_dir) or checkpoint
    folder = checkpoints.export_model(
        self._inputs.config, self._options.model.bert_config_file, checkpoint,
        output_dir)
    logging.info("%s holds the student of %s.", folder,
                 os.path.basename(checkpoint))

  def evaluate(self, checkpoint: Optional[str] = None) -> Dict[str, Any]:
    """Evaluates on the held-out records in order.

    Args:
      checkpoint: which one; None takes the newest.

    Returns:
      The results by key.
    """
    held_out = self._inputs.held_out
    input_fn = input_pipeline.evaluation_input_fn(
        held_out.paths, held_out.shape,
        drop_remainder=self._options.tpu.use_tpu)
    with input_pipeline.record_errors(held_out.flag):
      return self._build_estimator(self._options.output_dir).evaluate(
          input_fn, steps=self._options.evaluation.max_eval_steps,
          checkpoint_path=checkpoint)

  @property
  def _sequences_per_step(self) -> int:
    """Sequences that this process takes in a step."""
    schedule = self._options.schedule
    return schedule.train_batch_size * schedule.gradient_accumulation_steps

  def _training_input_fn(self, first_step: int) -> input_pipeline.InputFn:
    """Reads this process's share of the records, those after a step."""
    return input_pipeline.training_input_fn(
        self._inputs.training.paths, self._inputs.training.shape,
        seed=self._options.schedule.random_seed,
        first_record_index=first_step * self._sequences_per_step,
        num_shards=self._processes.size, shard_index=self._processes.rank)

  def _build_estimator(self, model_dir: str) -> tf1.estimator.Estimator:
    """Builds the estimator; only that of rank 0 saves checkpoints."""
    options, schedule, tpu = (
        self._options, self._options.schedule, self._options.tpu)
    is_writer = self._processes.rank == 0
    cluster = None
    if tpu.use_tpu and tpu.tpu_name:
      cluster = tf.distribute.cluster_resolver.TPUClusterResolver(
          tpu.tpu_name, zone=tpu.tpu_zone, project=tpu.gcp_project)
    config = tf1.estimator.tpu.RunConfig(
        cluster=cluster, master=tpu.master, model_dir=model_dir,
        session_config=devices.session_config(options.device, self._gpu),
        save_checkpoints_steps=(
            schedule.save_checkpoints_steps if is_writer else None),
        save_checkpoints_secs=None,
        keep_checkpoint_max=schedule.keep_checkpoint_max,
        # Processes start alike in any case; their dropout should not be.
        tf_random_seed=schedule.random_seed + self._processes.rank,
        save_summary_steps=hooks.LOG_STEPS if is_writer else None,
        log_step_count_steps=None,
        tpu_config=tf1.estimator.tpu.TPUConfig(
            iterations_per_loop=tpu.iterations_per_loop,
            num_shards=tpu.num_tpu_cores,
            per_host_input_for_training=(
                tf1.estimator.tpu.InputPipelineConfig.PER_HOST_V2)))
    return tf1.estimator.tpu.TPUEstimator(
        model_fn=student.build_model_fn(self._student_options),
        use_tpu=tpu.use_tpu, config=config,
        train_batch_size=self._sequences_per_step,
        eval_batch_size=options.evaluation.eval_batch_size)

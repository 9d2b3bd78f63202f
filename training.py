"""What both trainers share: their flags, the estimator, train and evaluate.

How many processes there are comes in as data (`Processes`); this room does
not know Horovod, and does no tensor maths.
"""

import contextlib
import dataclasses
import os
import shutil
import signal
import tempfile
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from absl import flags
from absl import logging
import tensorflow as tf
import tqdm

import command_line
import distillation
import modeling
import records

tf1 = tf.compat.v1

REQUIRED_FLAGS = ("bert_config_file", "input_file", "output_dir")
EVALUATION_RESULTS = "eval_results.txt"
# Folder in output_dir of the finished student, and its checkpoint.
RELEASE_FOLDER = "student"
_RELEASE_CHECKPOINT = "bert_model.ckpt"
_RELEASE_CONFIG = "bert_config.json"
# Folder in output_dir of the best checkpoint, and the metric that it leads.
BEST_FOLDER = "best"
_BEST_BY = "kl_from_teacher"
# File in it with the name of the checkpoint that was evaluated last.
_EVALUATED = "evaluated.txt"
# Steps between two lines of the log, where no terminal shows the bar.
_LOG_STEPS = 100


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
      "goes on from a checkpoint that is there, and at its end puts the "
      "student into student/ as Google's releases hold it: bert_config.json "
      "and bert_model.ckpt.*, without the optimizer's slots.")
  flags.DEFINE_string(
      "init_checkpoint", None,
      "Checkpoint to start from: variables that it has are taken by name, the "
      "others start afresh. Often the teacher's.")
  flags.DEFINE_list(
      "init_layers", None,
      "Layers of init_checkpoint that become the student's layers 0, 1 and so "
      "on, such as 0,2,4; default: those of the same numbers.")
  flags.DEFINE_integer(
      "truncation_factor", 10,
      "K, how many words of the teacher each slot of the records stores.",
      lower_bound=1)
  flags.DEFINE_float(
      "hard_label_weight", 0.0,
      "w: the masked-word loss is (1 - w) times the loss against the teacher "
      "plus w times the cross entropy against the masked words. At 1 the "
      "records need no teacher labels.", lower_bound=0.0, upper_bound=1.0)
  flags.DEFINE_float(
      "temperature", 1.0,
      "T: the student's scores are divided by it and the loss against the "
      "teacher is multiplied by its square. Must be that of the records.")
  flags.DEFINE_enum(
      "tail_mass", "drop", distillation.TAIL_MASSES,
      "What to do with the teacher's probability outside the K stored words: "
      "drop leaves it out, renormalize scales the K to a sum of 1, bucket "
      "compares it with the student's own rest, as one more word.")
  flags.DEFINE_bool("do_train", False, "Whether to train.")
  flags.DEFINE_bool(
      "do_eval", False,
      "Whether to evaluate: the newest checkpoint of output_dir, else "
      "init_checkpoint.")
  command_line.define_record_lengths()
  flags.DEFINE_integer(
      "train_batch_size", 32, "Sequences in a training step, per process.",
      lower_bound=1)
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
      "Seed of fresh weights, of dropout and of the order in which records are "
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
      "precision", "fp32", modeling.PRECISIONS,
      "Arithmetic of the matrix products: bf16 on CPUs that have it, fp16 with "
      "dynamic loss scaling on GPUs. Variables stay float32.")
  flags.DEFINE_bool(
      "use_xla", False, "Whether to compile the graph with XLA, on GPUs.")
  flags.DEFINE_integer(
      "gradient_accumulation_steps", 1,
      "Batches of train_batch_size that make one step together, for batches "
      "that do not fit into memory at once.", lower_bound=1)
  flags.DEFINE_bool("use_tpu", False, "Whether to run on a TPU.")
  flags.DEFINE_string("tpu_name", None, "Name or grpc:// address of the TPU.")
  flags.DEFINE_string("tpu_zone", None, "Zone of the TPU.")
  flags.DEFINE_string("gcp_project", None, "Project of the TPU.")
  flags.DEFINE_string("master", None, "Address of a TensorFlow master.")
  flags.DEFINE_integer("num_tpu_cores", 8, "Cores of the TPU.", lower_bound=1)


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
    from_rank_0: takes a number and returns the one that rank 0 gave.
  """
  rank: int = 0
  size: int = 1
  local_rank: Optional[int] = None
  wrap_optimizer: Optional[Callable[[tf1.train.Optimizer],
                                    tf1.train.Optimizer]] = None
  hooks: Tuple[tf1.train.SessionRunHook, ...] = ()
  from_rank_0: Callable[[int], int] = lambda number: number


@dataclasses.dataclass(frozen=True)
class _Run:
  """One call of a trainer: its flags and what was read on their account."""
  flags: Any
  processes: Processes
  options: distillation.StudentOptions
  files: List[str]
  shape: records.RecordShape
  eval_files: List[str]
  eval_shape: records.RecordShape
  gpu: Optional[int]


def run(values: Any, processes: Processes = Processes()) -> None:
  """Trains and evaluates as the flags say.

  Args:
    values: the flags of `define_flags`, as attributes.
    processes: those that train together.

  Raises:
    ValueError: a flag, a file or the fit between them is wrong.
  """
  if processes.rank > 0:
    logging.set_verbosity(logging.WARNING)
  gpu = (None if processes.local_rank is None
         else modeling.choose_gpu(processes.local_rank))
  plan = _plan(values, processes, gpu)
  try:
    if values.do_train:
      _train(plan)
      if processes.rank == 0:
        _release(plan)
    if values.do_eval and processes.rank == 0:
      _evaluate(plan)
  except tf.errors.ResourceExhaustedError as error:
    raise ValueError(
        "memory, or the disk of --output_dir={}, ran out ({}): free some, or "
        "lower --train_batch_size and --eval_batch_size; the same command goes "
        "on from what is saved".format(
            values.output_dir, records.first_line(error)))


def _plan(values: Any, processes: Processes, gpu: Optional[int]) -> _Run:
  """Checks the flags against each other and the files; changes nothing."""
  if not values.do_train and not values.do_eval:
    raise ValueError("--do_train and --do_eval are both False: nothing to do; "
                     "set at least one of them to True")
  for name, default in (("precision", "fp32"), ("use_xla", False),
                        ("gradient_accumulation_steps", 1)):
    if values.use_tpu and getattr(values, name) != default:
      raise ValueError(
          "--{0}={1} does not go with --use_tpu=True; leave it at {2}".format(
              name, getattr(values, name), default))
  config = modeling.BertConfig.from_json_file(values.bert_config_file)
  config.check_length(values.max_seq_length)
  shape = records.RecordShape(
      values.max_seq_length, values.max_predictions_per_seq,
      values.truncation_factor if values.hard_label_weight < 1 else 0)
  files = records.find_files(values.input_file, "input_file")
  records.check_records(files, "input_file", shape, config.vocab_size)
  if shape.truncation_factor:
    _check_labels(files, "input_file", values)
  eval_files, eval_shape = files, shape
  if not shape.truncation_factor or values.eval_input_file:
    eval_files, eval_shape = _evaluation_records(values, config, shape)
  tail_samples = (_check_labels(eval_files, "eval_input_file", values)
                  if eval_shape.truncation_factor else 0)
  if values.eval_every_checkpoint and not eval_shape.truncation_factor:
    raise ValueError(
        "--eval_every_checkpoint keeps the checkpoint that is closest to the "
        "teacher, but {} has no teacher labels; name labelled records with "
        "--eval_input_file".format(eval_files[0]))
  init_layers = _layers(values)
  newest = tf.train.latest_checkpoint(values.output_dir)
  if newest:
    match = modeling.match_checkpoint(config, newest, "output_dir")
    if match.fresh or match.unused:
      raise ValueError(
          "--output_dir: {} {}: another model was trained there; choose "
          "another folder".format(
              newest, "has no " + match.fresh[0] if match.fresh else
              "has {} too".format(match.unused[0])))
  elif values.init_checkpoint:
    match = modeling.match_checkpoint(
        config, values.init_checkpoint, layers=init_layers)
    logging.info(
        "%d variables start from %s: %s", len(match.restored),
        values.init_checkpoint, modeling.summarize(match.restored))
    logging.info("%d afresh%s", len(match.fresh),
                 ": " + ", ".join(match.fresh) if match.fresh else "")
  elif not values.do_train:
    raise ValueError(
        "--do_eval has nothing to evaluate: there is no checkpoint in "
        "--output_dir={} and no --init_checkpoint".format(values.output_dir))
  num_train_steps = max(1, values.num_train_steps // processes.size)
  return _Run(
      values, processes,
      distillation.StudentOptions(
          config=config, hard_label_weight=values.hard_label_weight,
          temperature=values.temperature, tail_mass=values.tail_mass,
          # What is in output_dir already needs no start.
          init_checkpoint=None if newest else values.init_checkpoint,
          init_layers=None if newest else init_layers,
          learning_rate=values.learning_rate * processes.size,
          num_train_steps=num_train_steps,
          num_warmup_steps=values.num_warmup_steps // processes.size,
          wrap_optimizer=(tf1.tpu.CrossShardOptimizer if values.use_tpu
                          else processes.wrap_optimizer),
          use_tpu=values.use_tpu, tail_samples=tail_samples,
          num_parts=values.gradient_accumulation_steps,
          static_shapes=values.use_xla,
          scale_loss=values.precision == "fp16"),
      files, shape, eval_files, eval_shape, gpu)


def _evaluation_records(values: Any, config: modeling.BertConfig,
                        shape: records.RecordShape
                       ) -> Tuple[List[str], records.RecordShape]:
  """Finds and checks the records to evaluate on, and says what they hold.

  Training without a teacher reads no labels, but evaluation compares with the
  teacher wherever it can.
  """
  flag = "eval_input_file" if values.eval_input_file else "input_file"
  files = records.find_files(getattr(values, flag), flag)
  if not shape.truncation_factor:
    shape = shape._replace(truncation_factor=records.stored_entries(
        files[0], flag, shape.max_predictions_per_seq))
  records.check_records(files, flag, shape, config.vocab_size)
  return files, shape


def _layers(values: Any) -> Optional[Tuple[int, ...]]:
  """Returns --init_layers as numbers, None where it is not given."""
  if not values.init_layers:
    return None
  if not values.init_checkpoint:
    raise ValueError("--init_layers={} needs --init_checkpoint, which has the "
                     "layers".format(",".join(values.init_layers)))
  if not all(layer.strip().isdigit() for layer in values.init_layers):
    raise ValueError("--init_layers={} must be numbers of layers, such as "
                     "0,2,4".format(",".join(values.init_layers)))
  return tuple(int(layer) for layer in values.init_layers)


def _check_labels(files: Sequence[str], flag: str, values: Any) -> int:
  """Checks that the labels were made for the loss that the flags ask for.

  Args:
    files: labelled records.
    flag: name of the flag that named them, for errors.
    values: the flags.

  Returns:
    How many of the entries of a slot were drawn.

  Raises:
    ValueError: the manifest beside a file says otherwise, or two differ.
  """
  if not values.temperature > 0:
    raise ValueError("--temperature={} must be over 0".format(
        values.temperature))
  # What files without a manifest, of 2019, were made with.
  made_with = {"temperature": 1.0, "tail_samples": 0}
  all_tail_samples = {}
  for path in files:
    manifest = records.read_manifest(path)
    if manifest is None:
      continue
    found = dict(made_with, **manifest.flags)
    wanted_flags = ["temperature"]
    if values.hard_label_weight < 1:
      wanted_flags.append("truncation_factor")
    for name in wanted_flags:
      wanted = getattr(values, name)
      if found.get(name, wanted) != wanted:
        raise ValueError(
            "--{0}={1} does not fit {2}, whose labels were made with "
            "--{0}={3}: set --{0}={3}, or make the labels again".format(
                name, wanted, path, found[name]))
    tail_samples = found["tail_samples"]
    if tail_samples and values.tail_mass == "bucket":
      raise ValueError(
          "--tail_mass=bucket does not fit {}, whose labels were made with "
          "--tail_samples={}: they stand for the whole distribution and leave "
          "no rest; use --tail_mass=drop".format(path, tail_samples))
    all_tail_samples[tail_samples] = path
  if len(all_tail_samples) > 1:
    (first, path), (second, other) = list(all_tail_samples.items())[:2]
    raise ValueError(
        "--{}: {} was made with --tail_samples={}, {} with --tail_samples={}; "
        "read only one kind at once".format(flag, path, first, other, second))
  return next(iter(all_tail_samples), 0)


def _train(plan: _Run) -> None:
  """Trains up to the last step, from the newest checkpoint on."""
  values, processes = plan.flags, plan.processes
  num_steps = plan.options.num_train_steps
  # The other processes may not see the folder of rank 0.
  first_step = processes.from_rank_0(_newest_step(values.output_dir))
  held_out = (_HeldOutListener(plan) if values.eval_every_checkpoint
              and processes.rank == 0 else None)
  if held_out and first_step:
    held_out.catch_up()
  if first_step >= num_steps:
    logging.info("%s holds step %d: training is finished.", values.output_dir,
                 first_step)
    return
  if first_step:
    logging.info("Training goes on behind step %d of %s.", first_step,
                 values.output_dir)
  modeling.warn_of_device(values.precision, values.use_xla)
  sequences_per_step = (
      values.train_batch_size * values.gradient_accumulation_steps)
  input_fn = records.training_input_fn(
      plan.files, plan.shape, seed=values.random_seed,
      first_record=first_step * sequences_per_step,
      num_shards=processes.size, shard_index=processes.rank)
  progress = _ProgressHook(
      num_steps, sequences_per_step * processes.size,
      values.output_dir if processes.rank == 0 else None)
  stop = _StopAtSignalHook(stops=processes.rank == 0)
  hooks = [*processes.hooks, progress, stop]
  with contextlib.ExitStack() as stack:
    if processes.rank == 0:
      model_dir = values.output_dir
      os.makedirs(model_dir, exist_ok=True)
      hooks.append(_SaverHook(
          model_dir, values.save_checkpoints_steps, first_step))
    else:
      model_dir = stack.enter_context(tempfile.TemporaryDirectory())
    stack.enter_context(stop)
    try:
      with records.errors_of_records("input_file"):
        _build_estimator(plan, model_dir).train(
            input_fn, max_steps=num_steps, hooks=hooks,
            saving_listeners=[held_out] if held_out else None)
    except tf1.train.NanLossDuringTrainingError:
      raise ValueError(
          "the loss is no number any more at step {}; what is saved in {} is "
          "from before: run the same command again with a lower "
          "--learning_rate or more --num_warmup_steps".format(
              progress.step, values.output_dir))
    except Exception:
      if stop.signal is None or processes.rank == 0:
        raise
      # Rank 0 has stopped for the same signal; this process lost it.
      raise KeyboardInterrupt
  if stop.signal is not None and _newest_step(values.output_dir) < num_steps:
    raise KeyboardInterrupt(
        "step {} is saved in {}; run the same command again to go on".format(
            progress.step, values.output_dir))


def _release(plan: _Run) -> None:
  """Writes the student's folder, under its name only when it is whole."""
  values = plan.flags
  checkpoint = tf.train.latest_checkpoint(values.output_dir)
  if values.eval_every_checkpoint:
    checkpoint = best_checkpoint(values.output_dir) or checkpoint
  folder = os.path.join(values.output_dir, RELEASE_FOLDER)
  partial = records.partial_path(folder)
  for leftover in (partial, _replaced_path(folder)):
    shutil.rmtree(leftover, ignore_errors=True)
  os.makedirs(partial)
  modeling.write_release(plan.options.config, checkpoint,
                         os.path.join(partial, _RELEASE_CHECKPOINT))
  shutil.copyfile(values.bert_config_file,
                  os.path.join(partial, _RELEASE_CONFIG))
  for name in os.listdir(partial):
    records.sync(os.path.join(partial, name))
  # No call replaces a folder that is not empty.
  if os.path.exists(folder):
    os.replace(folder, _replaced_path(folder))
  os.replace(partial, folder)
  shutil.rmtree(_replaced_path(folder), ignore_errors=True)
  logging.info("%s holds the student of %s.", folder,
               os.path.basename(checkpoint))


def _replaced_path(folder: str) -> str:
  """Returns the hidden name that a folder has while another takes its place."""
  return records.partial_path(folder + ".replaced")


def _evaluate(plan: _Run) -> None:
  """Evaluates on the records in order and writes the results."""
  results = _results(plan)
  os.makedirs(plan.flags.output_dir, exist_ok=True)
  path = os.path.join(plan.flags.output_dir, EVALUATION_RESULTS)
  text = format_results(results)
  records.write_atomically(path, text)
  logging.info("%s:\n%s", path, text.rstrip())


def _results(plan: _Run, checkpoint: Optional[str] = None) -> Dict[str, Any]:
  """Evaluates a checkpoint, by default the newest one."""
  values = plan.flags
  estimator = _build_estimator(plan, values.output_dir)
  input_fn = records.evaluation_input_fn(
      plan.eval_files, plan.eval_shape, drop_remainder=values.use_tpu)
  with records.errors_of_records(
      "eval_input_file" if values.eval_input_file else "input_file"):
    return estimator.evaluate(input_fn, steps=values.max_eval_steps,
                              checkpoint_path=checkpoint)


def format_results(results: Dict[str, Any]) -> str:
  """Returns one line `key = value` for each result, by key."""
  return "".join("{} = {}\n".format(key, results[key])
                 for key in sorted(results))


def read_results(path: str) -> Dict[str, float]:
  """Reads what `format_results` wrote; nothing where there is no file."""
  if not os.path.exists(path):
    return {}
  with open(path) as file:
    return {key: float(value)
            for key, value in (line.split(" = ") for line in file)}


def best_checkpoint(output_dir: str) -> Optional[str]:
  """Returns the checkpoint that --eval_every_checkpoint has kept, or None."""
  folder = os.path.join(output_dir, BEST_FOLDER)
  results = read_results(os.path.join(folder, EVALUATION_RESULTS))
  if not results:
    return None
  return os.path.join(
      folder, "model.ckpt-{}".format(int(results["global_step"])))


class _HeldOutListener(tf1.train.CheckpointSaverListener):
  """Evaluates each checkpoint as it is saved and keeps the best one."""

  def __init__(self, plan: _Run):
    self._plan = plan
    self._folder = os.path.join(plan.flags.output_dir, BEST_FOLDER)
    self._results_path = os.path.join(self._folder, EVALUATION_RESULTS)
    self._seen_path = os.path.join(self._folder, _EVALUATED)

  def after_save(self, session, global_step_value):
    self._evaluate_newest()

  def catch_up(self) -> None:
    """Evaluates the newest checkpoint if a kill has kept it from that."""
    newest = tf.train.latest_checkpoint(self._plan.flags.output_dir)
    evaluated = ""
    if os.path.exists(self._seen_path):
      with open(self._seen_path, encoding="utf-8") as file:
        evaluated = file.read().strip()
    if evaluated != os.path.basename(newest):
      self._evaluate_newest()

  def _evaluate_newest(self) -> None:
    checkpoint = tf.train.latest_checkpoint(self._plan.flags.output_dir)
    results = _results(self._plan, checkpoint)
    best = read_results(self._results_path).get(_BEST_BY, float("inf"))
    is_best = results[_BEST_BY] < best
    logging.info(
        "Step %d, held out: %s %.4f%s, masked_lm_accuracy %.4f, "
        "teacher_top1_agreement %.4f", results["global_step"], _BEST_BY,
        results[_BEST_BY], " (the best)" if is_best else "",
        results["masked_lm_accuracy"], results["teacher_top1_agreement"])
    os.makedirs(self._folder, exist_ok=True)
    if is_best:
      self._keep(checkpoint, results)
    records.write_atomically(
        self._seen_path, os.path.basename(checkpoint) + "\n")

  def _keep(self, checkpoint: str, results: Dict[str, Any]) -> None:
    """Copies a checkpoint; the results say which one counts, so they follow."""
    name = os.path.basename(checkpoint)
    for path in tf.io.gfile.glob(checkpoint + ".*"):
      copy = os.path.join(self._folder, os.path.basename(path))
      shutil.copyfile(path, records.partial_path(copy))
      records.sync(records.partial_path(copy))
      os.replace(records.partial_path(copy), copy)
    records.write_atomically(self._results_path, format_results(results))
    tf1.train.update_checkpoint_state(
        self._folder, name, all_model_checkpoint_paths=[name])
    for path in tf.io.gfile.glob(os.path.join(self._folder, "model.ckpt-*")):
      if not os.path.basename(path).startswith(name + "."):
        os.remove(path)


def _build_estimator(plan: _Run, model_dir: str) -> tf1.estimator.Estimator:
  """Builds the estimator; only that of rank 0 saves checkpoints."""
  values, processes = plan.flags, plan.processes
  tpu = tf1.estimator.tpu
  cluster = None
  if values.use_tpu and values.tpu_name:
    cluster = tf.distribute.cluster_resolver.TPUClusterResolver(
        values.tpu_name, zone=values.tpu_zone, project=values.gcp_project)
  saves = processes.rank == 0
  run_config = tpu.RunConfig(
      cluster=cluster, master=values.master, model_dir=model_dir,
      session_config=modeling.session_config(
          values.precision, values.use_xla, plan.gpu),
      save_checkpoints_steps=values.save_checkpoints_steps if saves else None,
      save_checkpoints_secs=None,
      keep_checkpoint_max=values.keep_checkpoint_max,
      # Processes start alike in any case; their dropout should not be.
      tf_random_seed=values.random_seed + processes.rank,
      save_summary_steps=_LOG_STEPS if saves else None,
      log_step_count_steps=None,
      tpu_config=tpu.TPUConfig(
          iterations_per_loop=values.iterations_per_loop,
          num_shards=values.num_tpu_cores,
          per_host_input_for_training=tpu.InputPipelineConfig.PER_HOST_V2))
  return tpu.TPUEstimator(
      model_fn=distillation.build_model_fn(plan.options),
      use_tpu=values.use_tpu, config=run_config,
      train_batch_size=(
          values.train_batch_size * values.gradient_accumulation_steps),
      eval_batch_size=values.eval_batch_size)


def _newest_step(output_dir: str) -> int:
  """Returns the global step of the newest checkpoint; 0 without any."""
  newest = tf.train.latest_checkpoint(output_dir)
  if not newest:
    return 0
  return int(tf.train.load_variable(newest, tf1.GraphKeys.GLOBAL_STEP))


class _SaverHook(tf1.train.CheckpointSaverHook):
  """Saves as the estimator does, but never over what the run goes on from.

  The estimator's hook saves at once when a run starts, in place: a kill at
  that moment would cost the newest checkpoint.
  """

  def __init__(self, folder: str, save_steps: int, first_step: int):
    super().__init__(folder, save_steps=save_steps)
    self._first_step = first_step

  def _save(self, session, step):
    if self._first_step and step == self._first_step:
      return False  # As the base: whether a listener asks for a stop.
    return super()._save(session, step)


class _StopAtSignalHook(tf1.train.SessionRunHook):
  """Ends training behind the step in which SIGTERM or Ctrl-C comes.

  The estimator then saves. A second signal ends the process at once.
  """

  def __init__(self, stops: bool):
    """Takes over the signals within a `with` block.

    Args:
      stops: False lets a process go on that saves nothing, until it is ended
        by the one that does.
    """
    self._stops = stops
    self._previous = {}
    self.signal = None

  def __enter__(self):
    # Python has signals in its main thread alone.
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGTERM, signal.SIGINT):
        self._previous[number] = signal.signal(number, self._receive)

  def __exit__(self, *unused_exception):
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _receive(self, number, unused_frame):
    self.signal = number
    self.__exit__()

  def after_run(self, run_context, run_values):
    if self.signal is not None and self._stops:
      run_context.request_stop()


class _ProgressHook(tf1.train.SessionRunHook):
  """Shows step, loss, speed and the time left.

  That is a bar on a terminal, else lines in the log; and a curve of the speed.

  Attributes:
    step: the steps done.
  """

  def __init__(self, num_steps: int, sequences_per_step: int,
               summary_folder: Optional[str]):
    self._num_steps = num_steps
    self._sequences_per_step = sequences_per_step
    self._summary_folder = summary_folder
    self.step = 0

  def begin(self):
    self._step = tf1.train.get_global_step()
    self._loss = tf1.get_collection(tf1.GraphKeys.LOSSES)[-1]

  def after_create_session(self, session, coord):
    self.step = session.run(self._step)
    self._bar = tqdm.tqdm(
        total=self._num_steps, initial=self.step, unit=" steps",
        disable=None if self._summary_folder else True, dynamic_ncols=True)
    self._logged_step, self._logged_time = self.step, time.monotonic()

  def before_run(self, run_context):
    return tf1.train.SessionRunArgs(self._loss)

  def after_run(self, run_context, run_values):
    loss = run_values.results
    self.step = run_context.session.run(self._step)
    self._bar.set_postfix_str("loss {:.4f}, {:.1f} sequences/s".format(
        loss, (self._bar.format_dict["rate"] or 0) * self._sequences_per_step),
                              refresh=False)
    self._bar.update(self.step - self._bar.n)
    num_steps = self.step - self._logged_step
    if num_steps >= _LOG_STEPS or self.step >= self._num_steps:
      now = time.monotonic()
      speed = num_steps / max(now - self._logged_time, 1e-9)
      self._report(loss, speed)
      self._logged_step, self._logged_time = self.step, now

  def _report(self, loss: float, steps_per_second: float) -> None:
    """Writes a line of the log and a point of the curve."""
    sequences_per_second = steps_per_second * self._sequences_per_step
    if self._bar.disable:
      logging.info(
          "Step %d of %d: loss %.4f, %.1f sequences/s, %s left", self.step,
          self._num_steps, loss, sequences_per_second,
          tqdm.tqdm.format_interval(
              (self._num_steps - self.step) / max(steps_per_second, 1e-9)))
    if self._summary_folder:
      tf1.summary.FileWriterCache.get(self._summary_folder).add_summary(
          tf1.Summary(value=[tf1.Summary.Value(
              tag="sequences_per_second", simple_value=sequences_per_second)]),
          self.step)

  def end(self, session):
    self._bar.close()

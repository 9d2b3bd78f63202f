"""The loop that both trainers share: train, export, evaluate.

How many processes there are comes in as data (`Processes`); this module does
not know Horovod.
"""

import contextlib
import dataclasses
import os
import tempfile
from typing import Any, Callable, Dict, Optional, Tuple

from absl import logging
import tensorflow as tf

from distillation import checkpoints
from distillation import devices
from distillation import evaluation
from distillation import hooks
from distillation import student
from distillation.inputs import check, Inputs
from distillation.options import ScheduleOptions, TrainerOptions
from records import input_pipeline
from records import order
from util import files
from util.command_line import InputError

tf1 = tf.compat.v1

# BERT's schedule warms up for a hundredth of the steps; a tenth is common.
_STEPS_PER_WARMUP = 10


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
  trainer = _Trainer(options, processes, check(options), gpu)
  with contextlib.ExitStack() as stack:
    if processes.rank == 0:
      stack.enter_context(files.locked_folder(options.output_dir))
    stack.enter_context(devices.exhaustion_errors(
        "free some memory, or space in --output_dir={}, or lower "
        "--train_batch_size and --eval_batch_size; the same command resumes "
        "from what is saved".format(options.output_dir)))
    if options.do_train:
      trainer.train()
      if processes.rank == 0:
        trainer.export()
    if options.do_eval and processes.rank == 0:
      trainer.report()


class _Trainer:
  """Trains, exports and evaluates one student."""

  def __init__(self, options: TrainerOptions, processes: Processes,
               inputs: Inputs, gpu: Optional[int]):
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
    _warn_of_warmup(self._options.schedule)
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
        with self._inputs.training.errors():
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
    """Exports the best checkpoint, if each one was evaluated, else the newest."""
    output_dir = self._options.output_dir
    checkpoint = tf.train.latest_checkpoint(output_dir)
    if self._options.evaluation.eval_every_checkpoint:
      checkpoint = checkpoints.best_checkpoint(output_dir) or checkpoint
    folder = checkpoints.export_model(
        self._inputs.config, self._options.model.bert_config_file, checkpoint,
        output_dir)
    logging.info("%s holds the student of %s.", folder,
                 os.path.basename(checkpoint))

  def report(self) -> None:
    """Evaluates what is exported, else the newest checkpoint or the start."""
    output_dir = self._options.output_dir
    folders = [output_dir]
    newest = tf.train.latest_checkpoint(output_dir)
    checkpoint = checkpoints.exported_checkpoint(output_dir)
    if checkpoint:
      folders.append(os.path.join(output_dir, checkpoints.EXPORT_FOLDER))
    else:
      checkpoint = newest
    name = (os.path.relpath(checkpoint, output_dir) if checkpoint
            else self._options.model.init_checkpoint)
    evaluation.write_results(folders, self.evaluate(checkpoint), name)
    is_best = name.startswith(evaluation.BEST_FOLDER + os.sep)
    if newest and not is_best and name != os.path.basename(newest):
      logging.warning(
          "%s is newer than %s, of which student/ was made and the results are: "
          "finish the training to export it.", newest, name)

  def evaluate(self, checkpoint: Optional[str]) -> Dict[str, Any]:
    """Evaluates on the held-out records in order.

    Args:
      checkpoint: which one; None takes the initial variables.

    Returns:
      The results by key. Those of each masked token and sequence are means
      over all of them; `loss` is a mean over batches, weighted by their
      sequences, as 2019's; `training_loss` is the sum of its two terms.
    """
    held_out = self._inputs.held_out
    input_fn = input_pipeline.evaluation_input_fn(
        held_out.corpus, held_out.shape, held_out.flag,
        drop_remainder=self._options.tpu.use_tpu, limits=held_out.limits)
    with held_out.errors():
      results = self._build_estimator(self._options.output_dir).evaluate(
          input_fn, steps=self._options.evaluation.max_eval_steps,
          checkpoint_path=checkpoint)
    results["loss"] = results.pop(student.BATCH_LOSS)
    results["training_loss"] = (
        results["masked_lm_training_loss"] + results["next_sentence_loss"])
    return results

  @property
  def _sequences_per_step(self) -> int:
    """Sequences that this process takes in a step."""
    schedule = self._options.schedule
    return schedule.train_batch_size * schedule.gradient_accumulation_steps

  def _training_input_fn(self, first_step: int) -> input_pipeline.InputFn:
    """Reads this process's share of the records, those after a step."""
    training, processes = self._inputs.training, self._processes
    seed = self._options.schedule.random_seed
    position = 0
    if processes.rank == 0:
      position = order.resume(
          self._options.output_dir, first_step,
          self._sequences_per_step * processes.size, seed,
          training.corpus).position_at(first_step)
    return input_pipeline.training_input_fn(
        training.corpus, training.shape, training.flag, seed,
        processes.broadcast(position), processes.size, processes.rank,
        training.limits)

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


def _warn_of_warmup(schedule: ScheduleOptions) -> None:
  """Warns where warm-up takes so long that the rate stays low."""
  steps, warmup = schedule.num_train_steps, schedule.num_warmup_steps
  remedy = "--num_warmup_steps={} would do".format(steps // _STEPS_PER_WARMUP)
  if warmup >= steps:
    logging.warning(
        "--num_warmup_steps=%d is not less than --num_train_steps=%d: the "
        "learning rate only reaches %.3g of %.3g; %s.", warmup, steps,
        schedule.learning_rate * (steps - 1) / warmup, schedule.learning_rate,
        remedy)
  elif (warmup == ScheduleOptions.num_warmup_steps
        and steps < _STEPS_PER_WARMUP * warmup):
    logging.warning(
        "--num_warmup_steps=%d, the default, is %.0f%% of --num_train_steps=%d:"
        " %s.", warmup, 100 * warmup / steps, steps, remedy)

"""The loop that both trainers share: train, export, evaluate.

How many processes there are comes in as data (`Processes`); this module does
not know Horovod.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import os
import shutil
import tempfile
from typing import Any, Callable, Deque, Dict, NamedTuple, Optional, Sequence

from absl import logging
import tensorflow as tf
import tensorflow.compat.v1 as tf1

from distillation import agreement
from distillation import checkpoints
from distillation import devices
from distillation import evaluation
from distillation import hooks
from distillation import student
from distillation import teacher_decoder
from distillation.inputs import (
    check, Corpora, Decoders, Inputs, read_corpora, read_decoders)
from distillation.options import ScheduleOptions, TrainerOptions
from distillation.processes import Group, Processes
import optimization
from records import input_pipeline
from records import order
from util import files
from util.command_line import InputError

# BERT's schedule warms up for a hundredth of the steps; a tenth is common.
_STEPS_PER_WARMUP = 10


def run(options: TrainerOptions, processes: Processes = Processes()) -> None:
  """Trains and evaluates.

  Args:
    options: what to do.
    processes: those that train together.

  Raises:
    InputError: an option, a file or the fit between them is wrong.
  """
  if not processes.is_writer:
    logging.set_verbosity(logging.ERROR)  # Rank 0 warns for all.
  output_dir = options.output_dir
  with contextlib.ExitStack() as stack:
    group = stack.enter_context(Group(processes, devices.session_config(
        options.device, local_size=processes.local_size)))
    stack.enter_context(group.errors())
    # The other processes may not see the folder of rank 0.
    is_resumed = group.broadcast(
        processes.is_writer and bool(tf.train.latest_checkpoint(output_dir)))
    # What rank 0 has read, the others only compare by time and size.
    check_inputs: Callable[[], Inputs] = functools.partial(
        check, options, processes.is_writer, is_resumed)
    if processes.size > 1:
      if processes.is_writer:
        check_inputs = _attempt(check_inputs)
      files.learn(group.broadcast(
          files.known() if processes.is_writer else None))
    gpu, inputs = group.check(
        lambda: (devices.choose_gpu(processes.local_rank), check_inputs()),
        lambda checked: agreement.describe(
            options, checked[1], processes.flags))
    group.check(
        lambda: stack.enter_context(
            files.locked_folder(output_dir) if processes.is_writer
            else contextlib.nullcontext()),
        lambda unused_lock: {})
    devices.warn_of_shared_gpus(group.gather(devices.gpu_uuid(gpu)))
    # What takes long is read once, not by every process.
    corpora, decoders = group.broadcast(
        (read_corpora(inputs, output_dir), read_decoders(inputs))
        if processes.is_writer else None)
    stack.enter_context(devices.exhaustion_errors(
        "free some memory, or space in --output_dir={}, or lower "
        "--train_batch_size and --eval_batch_size; the same command resumes "
        "from what is saved".format(output_dir)))
    model_dir = output_dir
    if not processes.is_writer:
      model_dir = stack.enter_context(tempfile.TemporaryDirectory())
      group.liveness.before_exit = lambda: shutil.rmtree(
          model_dir, ignore_errors=True)
    if not options.tpu.use_tpu:
      stack.enter_context(hooks.without_recovery(output_dir))
    trainer = _Trainer(
        options, group, processes, inputs, corpora, decoders, gpu, model_dir)
    if options.do_train:
      trainer.train()
      if processes.is_writer:
        trainer.export()
      group.barrier()
    if options.do_eval:
      trainer.report()


def _attempt(function: Callable[[], Inputs]) -> Callable[[], Inputs]:
  """Calls a function; returns one that ends as the call did."""
  try:
    result = function()
  except (InputError, OSError) as caught:
    error = caught

    def fail() -> Inputs:
      raise error

    return fail
  return lambda: result


class _Position(NamedTuple):
  """The place of a checkpoint in the schedule of the present command.

  Attributes:
    step: its global step.
    last_step: the global step at which training ends.
    schedule_offset: as for `optimization.create_train_step`.
    skipped_steps: steps before it that changed no variable.
  """
  step: int
  last_step: int
  schedule_offset: float
  skipped_steps: int


class _Trainer:
  """Trains, exports and evaluates one student."""

  def __init__(self, options: TrainerOptions, group: Group,
               processes: Processes, inputs: Inputs, corpora: Corpora,
               decoders: Decoders, gpu: Optional[int], model_dir: str):
    self._options = options
    self._group = group
    self._processes = processes
    self._inputs = inputs
    self._corpora = corpora
    self._decoders = decoders
    self._gpu = gpu
    self._model_dir = model_dir
    schedule, divisor = options.schedule, processes.schedule_divisor
    self._student_options = student.StudentOptions(
        config=inputs.config, loss=options.loss,
        # What is in output_dir already needs no start.
        init_checkpoint=(None if inputs.is_resumed
                         else options.model.init_checkpoint),
        init_layers=None if inputs.is_resumed else inputs.init_layers,
        learning_rate=schedule.learning_rate * divisor,
        num_train_steps=max(1, schedule.num_train_steps // divisor),
        num_warmup_steps=schedule.num_warmup_steps // divisor,
        wrap_optimizer=(
            optimization.CrossReplicaOptimizer if options.tpu.use_tpu
            else processes.wrap_optimizer),
        num_processes=processes.size, reduce_sum=processes.reduce_sum,
        use_tpu=options.tpu.use_tpu,
        top_k=options.records.truncation_factor,
        tail_samples=inputs.held_out.tail_samples,
        compute_type=devices.compute_type(options.device.precision),
        for_cpu=not (devices.has_gpu() or options.tpu.use_tpu))

  def train(self) -> None:
    """Trains up to the last step, from the newest checkpoint on."""
    output_dir, group = self._options.output_dir, self._group
    is_writer = self._processes.is_writer
    position = group.broadcast(
        self._position_of(tf.train.latest_checkpoint(output_dir))
        if is_writer else None)
    first_step, num_steps = position.step, position.last_step
    held_out = None
    if self._options.evaluation.eval_every_checkpoint:
      held_out = evaluation.HeldOutListener(
          self.evaluate, output_dir, self._measured_on(), is_writer,
          self._options.evaluation.best_checkpoint_by)
      if group.broadcast(is_writer and held_out.is_best_of_others()):
        held_out.measure_best()
      if group.broadcast(
          is_writer and first_step > 0 and held_out.is_behind()):
        held_out.evaluate_newest()
    if first_step >= num_steps:
      logging.info("%s holds step %d: training is finished.", output_dir,
                   first_step)
      return
    if first_step:
      logging.info("Resuming from step %d of %s.", first_step, output_dir)
    if position.schedule_offset:
      logging.info(
          "Some of these steps read another number of sequences than the %d of "
          "each step now: %d steps are left.",
          self._sequences_per_step * self._processes.size,
          num_steps - first_step)
    logging.info(describe_reading(
        (num_steps - first_step) * self._sequences_per_step
        * self._processes.size, self._corpora.training.size))
    _warn_of_warmup(self._options.schedule)
    devices.report_device(
        self._options.device, self._gpu, self._processes.transport)
    progress = hooks.ProgressHook(
        num_steps, self._sequences_per_step * self._processes.size,
        output_dir if is_writer else None)
    group.liveness.activity = lambda: "at step {}".format(progress.step)
    stop = hooks.StopAtSignalHook(
        self._processes.reduce_sum if self._processes.size > 1 else None)
    saver = hooks.SaverHook(
        self._model_dir, self._options.schedule.save_checkpoints_steps,
        first_step, is_writer, group.barrier)
    files.make_folder(self._model_dir)
    in_flight = input_pipeline.in_flight_pieces()
    with stop:
      try:
        with self._inputs.training.errors(
            self._corpora.training,
            lambda: itertools.chain.from_iterable(list(in_flight))):
          self._build_estimator(
              self._decoders.training, position.schedule_offset).train(
              self._training_input_fn(position, in_flight),
              max_steps=num_steps,
              hooks=[hooks.GroupHook(group), *self._processes.broadcast_hooks,
                     progress, stop, saver],
              saving_listeners=[held_out] if held_out else None)
      except tf1.train.NanLossDuringTrainingError:
        group.fail(InputError(
            "the loss is NaN or infinite at step {}; what is saved in {} is "
            "from before: run the same command again with a lower "
            "--learning_rate or more --num_warmup_steps".format(
                progress.step, output_dir)))
    if stop.is_stopped and progress.step < num_steps:
      group.interrupt(
          "step {} is saved in {}; the same command resumes from there".format(
              progress.step, output_dir))

  def export(self) -> None:
    """Exports the best checkpoint, if each is evaluated, else the newest."""
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
    if not self._processes.is_writer:
      self.evaluate(None)
      return
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
    assert name  # Without any of these the check of the options has failed.
    results = self.evaluate(checkpoint)
    results.update(evaluation.teacher_results(
        self._corpora.held_out.paths, self._num_evaluated))
    evaluation.write_results(folders, results, name)
    evaluation.warn_of_teacher(results)
    is_best = name.startswith(evaluation.BEST_FOLDER + os.sep)
    if newest and not is_best and name != os.path.basename(newest):
      logging.warning(
          "%s is newer than %s, of which student/ was made and the results "
          "are: finish the training to export it.", newest, name)

  def evaluate(self, checkpoint: Optional[str]) -> Dict[str, Any]:
    """Evaluates on the held-out records in order, in all processes together.

    Args:
      checkpoint: which one; None takes the initial variables. That of rank 0
        counts.

    Returns:
      The results by key. Those of each masked token and sequence are means
      over all of them; `loss` is a mean over batches, weighted by their
      sequences, as 2019's; `training_loss` is the weighted sum of its two
      terms.
    """
    held_out, share = self._inputs.held_out, self._held_out_share
    schedule_offset = self._group.broadcast(
        self._position_of(checkpoint).schedule_offset
        if self._processes.is_writer else None)
    input_fn = input_pipeline.evaluation_input_fn(
        self._corpora.held_out, held_out.shape, held_out.flag,
        drop_remainder=self._options.tpu.use_tpu, limits=held_out.limits,
        first_record=share.first_record, num_records=share.num_records,
        prepare=self._prepare(1))
    with held_out.errors(self._corpora.held_out, lambda: order.pieces_of(
        self._corpora.held_out, share.first_record,
        min(share.first_record + share.num_records,
            self._corpora.held_out.size))):
      results = self._build_estimator(
          self._decoders.held_out, schedule_offset).evaluate(
          # Without a batch the first step finds the end of the records.
          input_fn, steps=max(1, share.num_batches),
          hooks=[hooks.GroupHook(self._group),
                 *self._processes.broadcast_hooks],
          checkpoint_path=checkpoint)
    results["loss"] = results.pop(student.BATCH_LOSS)
    results["training_loss"] = results["masked_lm_training_loss"] + (
        self._options.loss.next_sentence_weight
        * results.get("next_sentence_loss", 0.0))
    return results

  def _measured_on(self) -> str:
    """Returns what the figures of a checkpoint depend on beside it."""
    corpus = self._corpora.held_out
    return "{} of {} records, {}".format(
        self._num_evaluated, corpus.size, corpus.fingerprint())

  @property
  def _num_evaluated(self) -> int:
    """Held-out records that an evaluation reads, in all processes together."""
    options = self._options.evaluation
    return min(self._corpora.held_out.size,
               options.max_eval_steps * options.eval_batch_size)

  def _prepare(self, num_micro_batches: int) -> input_pipeline.Prepare:
    """Returns what makes the student's features of a batch."""
    return functools.partial(
        student.prepare_batch, num_micro_batches=num_micro_batches,
        # Compilers ask for shapes that do not change.
        has_padding=self._options.device.use_xla or self._options.tpu.use_tpu)

  @property
  def _held_out_share(self) -> evaluation.Share:
    """What this process evaluates of the batches that one would form."""
    options = self._options.evaluation
    num_batches = min(
        options.max_eval_steps,
        math.ceil(self._corpora.held_out.size / options.eval_batch_size))
    return evaluation.share(num_batches, options.eval_batch_size,
                            self._processes.rank, self._processes.size)

  @property
  def _sequences_per_step(self) -> int:
    """Sequences that this process takes in a step."""
    schedule = self._options.schedule
    return schedule.train_batch_size * schedule.gradient_accumulation_steps

  def _position_of(self, checkpoint: Optional[str]) -> _Position:
    """Finds where a checkpoint of output_dir is in the schedule.

    Where the numbers of steps follow the number of processes, the schedule
    counts sequences: steps of another size, of earlier commands, count as
    many steps as would have read the same sequences now.

    Args:
      checkpoint: None is before the first step.
    """
    step = checkpoints.step_of(checkpoint) if checkpoint else 0
    num_train_steps = self._student_options.num_train_steps
    if not self._processes.scale_learning_rate:
      return _Position(step, num_train_steps, 0.0, 0)
    skipped_steps = (
        checkpoints.skipped_steps(checkpoint) if checkpoint
        and self._student_options.compute_type == tf.float16 else 0)
    size = self._sequences_per_step * self._processes.size
    progress = order.progress(
        self._options.output_dir, step, size, skipped_steps)
    num_left = num_train_steps * size - progress.num_sequences
    return _Position(
        step, step + max(0, num_left // size),
        (progress.num_sequences - progress.num_skipped) / size
        - (step - skipped_steps), skipped_steps)

  def _training_input_fn(
      self, start: _Position, in_flight: Deque[Sequence[order.Piece]]
  ) -> input_pipeline.InputFn:
    """Reads this process's share of the records, those after a checkpoint."""
    training, processes = self._inputs.training, self._processes
    corpus, seed = self._corpora.training, self._options.schedule.random_seed
    position = self._group.broadcast(order.resume(
        self._options.output_dir, start.step,
        self._sequences_per_step * processes.size, seed, corpus,
        start.skipped_steps).position_at(start.step)
                                    if processes.is_writer else None)
    return input_pipeline.training_input_fn(
        corpus, training.shape, training.flag, seed, position, processes.size,
        processes.rank, training.limits, in_flight,
        self._prepare(self._options.schedule.gradient_accumulation_steps))

  def _build_estimator(self, decoder: Optional[teacher_decoder.Decoder],
                       schedule_offset: float) -> tf1.estimator.Estimator:
    """Builds the estimator; only that of rank 0 saves checkpoints."""
    options, schedule, tpu = (
        self._options, self._options.schedule, self._options.tpu)
    is_writer = self._processes.is_writer
    cluster = None
    if tpu.use_tpu:
      cluster = devices.find_tpu(
          tpu.tpu_name, tpu.tpu_zone, tpu.gcp_project, tpu.master)
    config = tf1.estimator.tpu.RunConfig(
        cluster=cluster, master=tpu.master, model_dir=self._model_dir,
        session_config=devices.session_config(
            options.device, self._gpu, self._processes.local_size),
        save_checkpoints_steps=(
            schedule.save_checkpoints_steps if is_writer else None),
        save_checkpoints_secs=None,
        keep_checkpoint_max=schedule.keep_checkpoint_max,
        # Processes start alike in any case; their dropout should not be.
        tf_random_seed=schedule.random_seed + self._processes.rank,
        save_summary_steps=None,  # `ProgressHook` does.
        log_step_count_steps=None,
        tpu_config=tf1.estimator.tpu.TPUConfig(
            iterations_per_loop=tpu.iterations_per_loop,
            num_shards=tpu.num_tpu_cores,
            per_host_input_for_training=(
                tf1.estimator.tpu.InputPipelineConfig.PER_HOST_V2)))
    return tf1.estimator.tpu.TPUEstimator(
        model_fn=student.build_model_fn(dataclasses.replace(
            self._student_options, decoder=decoder,
            schedule_offset=schedule_offset)),
        use_tpu=tpu.use_tpu, config=config,
        train_batch_size=self._sequences_per_step,
        eval_batch_size=options.evaluation.eval_batch_size)


def describe_reading(num_sequences: int, num_records: int) -> str:
  """Returns which share of the records, or how many epochs, training reads.

  Args:
    num_sequences: sequences of all steps that are left, of all processes.
    num_records: records of --input_file.
  """
  if num_sequences < num_records:
    what = "{:.3g}% of the {:,} records of --input_file".format(
        100 * num_sequences / num_records, num_records)
  else:
    what = "{:.3g} epochs of the {:,} records of --input_file".format(
        num_sequences / num_records, num_records)
  return "Training reads {:,} sequences: {}.".format(num_sequences, what)


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

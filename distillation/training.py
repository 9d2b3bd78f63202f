"""The loop that both trainers share: train, export, evaluate.

`Processes` describes the processes; this module does not import Horovod.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import os
import shutil
import tempfile
from typing import (Any, Callable, Deque, Dict, List, NamedTuple, Optional,
                    Sequence, Tuple)

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
  """Trains, exports and evaluates, as the options say.

  Args:
    options: options of the trainer.
    processes: the processes that train together.

  Raises:
    InputError: if options or files are wrong, or do not fit together.
  """
  if not processes.is_writer:
    logging.set_verbosity(logging.ERROR)  # Rank 0 warns for all.
  output_dir = options.output_dir
  with contextlib.ExitStack() as stack:
    group = stack.enter_context(Group(processes, devices.session_config(
        options.device, local_size=processes.local_size)))
    stack.enter_context(group.errors())
    gpu, inputs = _check_processes(options, processes, group)
    group.check(
        lambda: stack.enter_context(
            files.locked_folder(output_dir) if processes.is_writer
            else contextlib.nullcontext()),
        lambda unused_lock: {})
    devices.warn_of_shared_gpus(group.gather(devices.gpu_uuid(gpu)))
    # Slow reads happen once, in rank 0.
    corpora, decoders = group.broadcast(
        (read_corpora(inputs, output_dir), read_decoders(inputs))
        if processes.is_writer else None)
    stack.enter_context(devices.exhaustion_errors(
        "free some memory, or space in --output_dir={}, or lower "
        "--train_batch_size and --eval_batch_size; the same command resumes "
        "from the newest checkpoint".format(output_dir)))
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


def _check_processes(options: TrainerOptions, processes: Processes, group: Group
                    ) -> Tuple[Optional[int], Inputs]:
  """Chooses the GPU, checks the inputs, and compares them in all processes.

  Rank 0 reads the files first; other processes then compare only time and size
  of these files.

  Returns:
    The GPU's number, as returned by `devices.choose_gpu`, and the inputs.
  """
  # Only rank 0 needs access to output_dir.
  is_resumed = group.broadcast(processes.is_writer and bool(
      tf.train.latest_checkpoint(options.output_dir)))
  check_inputs: Callable[[], Inputs] = functools.partial(
      check, options, processes.is_writer, is_resumed)
  if processes.size > 1:
    if processes.is_writer:
      check_inputs = _call_now(check_inputs)
    files.import_cache(group.broadcast(
        files.export_cache() if processes.is_writer else None))
  return group.check(
      lambda: (devices.choose_gpu(processes.local_rank), check_inputs()),
      lambda checked: agreement.describe(options, checked[1], processes.flags))


def _call_now(function: Callable[[], Inputs]) -> Callable[[], Inputs]:
  """Calls a function; returns a function that repeats its result or error."""
  try:
    result = function()
  except (InputError, OSError) as caught:
    error = caught

    def fail() -> Inputs:
      raise error

    return fail
  return lambda: result


class _Position(NamedTuple):
  """The position of a checkpoint in the schedule of the current command.

  Attributes:
    step: global step of the checkpoint.
    last_step: global step at which training ends.
    schedule_offset: as for `optimization.create_train_step`.
    skipped_steps: number of earlier steps that overflowed.
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
        # A resumed run starts from its own checkpoint.
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
    """Trains from the newest checkpoint to the last step."""
    output_dir, group = self._options.output_dir, self._group
    is_writer = self._processes.is_writer
    position = group.broadcast(
        self._position_of(tf.train.latest_checkpoint(output_dir))
        if is_writer else None)
    first_step, num_steps = position.step, position.last_step
    listeners = self._listeners(first_step)
    if first_step >= num_steps:
      logging.info("%s holds step %d: training is finished.", output_dir,
                   first_step)
      return
    if first_step:
      logging.info("Resuming from step %d of %s.", first_step, output_dir)
    if position.schedule_offset:
      logging.info(
          "Some earlier steps read another number of sequences than the %d per "
          "step of this command: %d steps are left.",
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
              saving_listeners=listeners)
      except tf1.train.NanLossDuringTrainingError:
        group.fail(InputError(
            "the loss is NaN or infinite at step {}; the checkpoints in {} are "
            "of earlier steps: run the same command again with a lower "
            "--learning_rate or more --num_warmup_steps".format(
                progress.step, output_dir)))
    if stop.is_stopped and progress.step < num_steps:
      group.interrupt(
          "step {} is saved in {}; the same command resumes from there".format(
              progress.step, output_dir))

  def _listeners(self, first_step: int) -> List[evaluation.HeldOutListener]:
    """Returns the listener of --eval_every_checkpoint, if set.

    First makes up for evaluations that an earlier command has left out.

    Args:
      first_step: step of the newest checkpoint; 0 without a checkpoint.
    """
    if not self._options.evaluation.eval_every_checkpoint:
      return []
    group, is_writer = self._group, self._processes.is_writer
    listener = evaluation.HeldOutListener(
        self.evaluate, self._options.output_dir, self._evaluation_set(),
        is_writer, self._options.evaluation.best_checkpoint_by)
    if group.broadcast(is_writer and listener.is_best_outdated()):
      listener.evaluate_best()
    if group.broadcast(
        is_writer and first_step > 0 and listener.is_newest_unevaluated()):
      listener.evaluate_newest()
    return [listener]

  def export(self) -> None:
    """Exports the best checkpoint if each is evaluated, else the newest."""
    output_dir = self._options.output_dir
    checkpoint = tf.train.latest_checkpoint(output_dir)
    if self._options.evaluation.eval_every_checkpoint:
      checkpoint = checkpoints.best_checkpoint(output_dir) or checkpoint
    folder = checkpoints.export_model(
        self._inputs.config, self._options.model.bert_config_file, checkpoint,
        output_dir)
    logging.info("Exported %s to %s.", os.path.basename(checkpoint), folder)

  def report(self) -> None:
    """Evaluates the exported, else the newest, else the initial checkpoint."""
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
    assert name  # Otherwise the check of the inputs has failed.
    results = self.evaluate(checkpoint)
    results.update(evaluation.teacher_results(
        self._corpora.held_out.paths, self._num_evaluated))
    evaluation.write_results(folders, results, name)
    evaluation.warn_of_teacher(results)
    is_best = name.startswith(evaluation.BEST_FOLDER + os.sep)
    if newest and not is_best and name != os.path.basename(newest):
      logging.warning(
          "%s is newer than %s, the checkpoint that was exported to student/ "
          "and evaluated: finish the training to export the newest one.",
          newest, name)

  def evaluate(self, checkpoint: Optional[str]) -> Dict[str, Any]:
    """Evaluates on the held-out records in order, in all processes together.

    Args:
      checkpoint: path of the checkpoint, used in rank 0; None for the initial
        variables.

    Returns:
      The results by key: means over masked tokens or sequences; `loss`, the
      mean over batches, weighted by their number of sequences; and
      `training_loss`, the weighted sum of the masked-LM and next-sentence
      terms.
    """
    held_out, batches = self._inputs.held_out, self._held_out_range
    schedule_offset = self._group.broadcast(
        self._position_of(checkpoint).schedule_offset
        if self._processes.is_writer else None)
    input_fn = input_pipeline.evaluation_input_fn(
        self._corpora.held_out, held_out.shape, held_out.flag,
        drop_remainder=self._options.tpu.use_tpu, limits=held_out.limits,
        first_record=batches.first_record, num_records=batches.num_records,
        prepare=self._prepare(1))
    with held_out.errors(self._corpora.held_out, lambda: order.pieces_of(
        self._corpora.held_out, batches.first_record,
        min(batches.first_record + batches.num_records,
            self._corpora.held_out.size))):
      results = self._build_estimator(
          self._decoders.held_out, schedule_offset).evaluate(
          # A process without batches ends at once: its records are empty.
          input_fn, steps=max(1, batches.num_batches),
          hooks=[hooks.GroupHook(self._group),
                 *self._processes.broadcast_hooks],
          checkpoint_path=checkpoint)
    results["loss"] = results.pop(student.BATCH_LOSS)
    results["training_loss"] = results["masked_lm_training_loss"] + (
        self._options.loss.next_sentence_weight
        * results.get("next_sentence_loss", 0.0))
    return results

  def _evaluation_set(self) -> str:
    """Describes the records that evaluation reads."""
    corpus = self._corpora.held_out
    return "{} of {} records, {}".format(
        self._num_evaluated, corpus.size, corpus.fingerprint())

  @property
  def _num_evaluated(self) -> int:
    """Number of held-out records that all processes together evaluate."""
    options = self._options.evaluation
    return min(self._corpora.held_out.size,
               options.max_eval_steps * options.eval_batch_size)

  def _prepare(self, num_micro_batches: int) -> input_pipeline.Prepare:
    """Returns the function that turns a batch into the student's features."""
    return functools.partial(
        student.prepare_batch, num_micro_batches=num_micro_batches,
        # Compilers need static shapes.
        has_padding=self._options.device.use_xla or self._options.tpu.use_tpu)

  @property
  def _held_out_range(self) -> evaluation.BatchRange:
    """The range of held-out batches that this process evaluates."""
    options = self._options.evaluation
    num_batches = min(
        options.max_eval_steps,
        math.ceil(self._corpora.held_out.size / options.eval_batch_size))
    return evaluation.batch_range(
        num_batches, options.eval_batch_size, self._processes.rank,
        self._processes.size)

  @property
  def _sequences_per_step(self) -> int:
    """Number of sequences that this process reads per step."""
    schedule = self._options.schedule
    return schedule.train_batch_size * schedule.gradient_accumulation_steps

  def _position_of(self, checkpoint: Optional[str]) -> _Position:
    """Returns the position of a checkpoint of output_dir in the schedule.

    With --scale_learning_rate the schedule counts sequences: steps of earlier
    commands count as the number of current steps that read as many sequences.

    Args:
      checkpoint: path of the checkpoint; None for the start of training.
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
    """Returns the input_fn of this process, which reads on from a checkpoint.

    Args:
      start: position of the checkpoint.
      in_flight: as for `input_pipeline.training_input_fn`.
    """
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
    """Builds the estimator, which saves checkpoints only in rank 0.

    Args:
      decoder: the teacher's decoder, if the records hold hidden states.
      schedule_offset: as for `optimization.create_train_step`.
    """
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
        # Processes start from equal variables, but differ in dropout.
        tf_random_seed=schedule.random_seed + self._processes.rank,
        save_summary_steps=None,  # `ProgressHook` writes summaries.
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
  """Returns the log line with the number of epochs, or percentage, to read.

  Args:
    num_sequences: number of sequences left to read, over all processes.
    num_records: number of records in --input_file.
  """
  if num_sequences < num_records:
    what = "{:.3g}% of the {:,} records of --input_file".format(
        100 * num_sequences / num_records, num_records)
  else:
    what = "{:.3g} epochs of the {:,} records of --input_file".format(
        num_sequences / num_records, num_records)
  return "Training reads {:,} sequences: {}.".format(num_sequences, what)


def _warn_of_warmup(schedule: ScheduleOptions) -> None:
  """Warns if warm-up takes so long that the learning rate stays low."""
  steps, warmup = schedule.num_train_steps, schedule.num_warmup_steps
  remedy = "try --num_warmup_steps={}".format(steps // _STEPS_PER_WARMUP)
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

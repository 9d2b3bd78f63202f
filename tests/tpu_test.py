"""Tests of the graph for TPUs, without a TPU.

Some tests inspect the replicated graph. Another trains in two threads, which
simulate two cores and the sum over them.
"""

import collections
from concurrent import futures
import dataclasses
import itertools
import threading

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.tpu import tpu_function
from tensorflow.python.util import pywrap_xla_ops

from distillation import student
from distillation import training
import optimization
import tiny
from util.command_line import InputError

tf1 = tf.compat.v1

_NUM_CORES = 2
_WITH_DROPOUT = dataclasses.replace(
    tiny.CONFIG, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
_OPTIONS = student.StudentOptions(
    _WITH_DROPOUT, learning_rate=0.1, num_train_steps=10, num_warmup_steps=0,
    use_tpu=True, wrap_optimizer=optimization.CrossReplicaOptimizer)


@pytest.mark.parametrize("flags, told", [
    ({}, "--use_tpu=True needs .*--tpu_name"),
    ({"tpu_name": "no-such-tpu"}, "--tpu_name=no-such-tpu: there is no such"),
    ({"tpu_name": "grpc://127.0.0.1:1"}, "--tpu_name: .* does not answer"),
    ({"master": "grpc://127.0.0.1:1"}, "--master: .* does not answer"),
    ({"tpu_name": "local", "eval_every_checkpoint": True},
     "--eval_every_checkpoint=True does not go with --use_tpu=True"),
])
def test_a_missing_tpu_or_a_conflicting_flag_is_an_error(tmp_path, flags, told):
  folder = tiny.trainer_inputs(tmp_path)
  with pytest.raises(InputError, match=told):
    training.run(tiny.trainer_options(
        folder, tmp_path / "out", use_tpu=True, **flags))
  assert not (tmp_path / "out").exists()


@pytest.fixture(name="graph", scope="module")
def _graph():
  """The graph of a training step on two cores."""
  examples = tiny.random_examples(4, seed=1)

  def computation(*unused_batch):
    outputs, step = student.create_train_step(
        _OPTIONS, student.prepare_batch(tiny.batch(examples), has_padding=True))
    with tf.control_dependencies([step.operation]):
      return tf.identity(outputs["loss"])

  with tf.Graph().as_default() as graph:
    tf1.set_random_seed(1)
    tf1.train.get_or_create_global_step()
    tf1.tpu.replicate(computation, [[tf.ones([])]] * _NUM_CORES)
  return graph


def _origins(tensor, stop):
  """Returns the operations that a tensor depends on, up to the stop types."""
  found, ahead = {}, [tensor.op]
  while ahead:
    operation = ahead.pop()
    if operation.name not in found:
      found[operation.name] = operation
      if operation.type not in stop:
        ahead.extend(tensor.op for tensor in operation.inputs)
  return list(found.values())


def test_gradients_are_summed_over_the_cores_before_they_are_clipped(graph):
  adams = [operation for operation in graph.get_operations()
           if operation.type == "ResourceApplyAdam"]
  assert len(adams) == len(tiny.random_variables())
  for adam in adams:
    gradient, = (tensor for tensor in adam.inputs
                 if tensor.op.type == "MulNoNan")
    scaled, factor = gradient.op.inputs
    if scaled.shape == ():
      scaled, factor = factor, scaled
    # The clipped gradient and the operands of the norm are sums over cores.
    kinds = {operation.type for operation in _origins(
        scaled, {"CrossReplicaSum"})}
    assert "CrossReplicaSum" in kinds
    assert not kinds & {"MatMul", "Softmax", "L2Loss"}
    norms = [operation for operation in _origins(factor, {"L2Loss"})
             if operation.type == "L2Loss"]
    assert len(norms) == len(adams)
    for norm in norms:
      kinds = {operation.type for operation in _origins(
          norm.inputs[0], {"CrossReplicaSum"})}
      assert "CrossReplicaSum" in kinds and "MatMul" not in kinds


def test_cores_have_different_dropout_masks(graph):
  """Masks depend on the replica id, which alone differs between cores."""
  draws = [operation for operation in graph.get_operations()
           if operation.type == "StatelessRandomUniform"]
  assert len(draws) == 1 + 3 * tiny.CONFIG.num_hidden_layers
  for draw in draws:
    assert "XlaReplicaId" in {
        operation.type for tensor in draw.inputs
        for operation in _origins(tensor, set())}


def test_shapes_are_static_in_the_replicated_part(graph):
  """XLA compiles static shapes only."""
  replicated = [operation for operation in graph.get_operations()
                if "_tpu_replicate" in operation.node_def.attr]
  assert len(replicated) > 100
  for operation in replicated:
    assert operation.type not in ("Where", "Unique", "NonZero", "PyFunc")
    for tensor in operation.outputs:
      assert tensor.shape.is_fully_defined() or tensor.dtype in (
          tf.resource, tf.variant), operation


class _Cores:
  """Threads that simulate the cores of a TPU, and sums over them.

  A sum has the same name in the graphs of all cores. Each core adds its value
  under this name and waits for the values of the others.
  """

  def __init__(self):
    self._core = threading.local()
    self._values = collections.defaultdict(dict)
    self._meetings = {}

  def run(self, function, *arguments_of_cores):
    """Runs a function in all cores, each with its own arguments."""

    def run(core, arguments):
      self._core.number = core
      return function(*arguments)

    with futures.ThreadPoolExecutor(_NUM_CORES) as pool:
      return list(pool.map(run, range(_NUM_CORES), arguments_of_cores))

  def sum(self, values, *unused_groups):
    """Replaces tf.tpu.cross_replica_sum."""
    values = tf.convert_to_tensor(values)
    core, steps = self._core.number, itertools.count()
    name = values.graph.unique_name("sum", mark_as_used=True)

    def exchange(value):
      step = next(steps)
      self._values[name, step][core] = value
      self._meetings.setdefault(
          (name, step), threading.Barrier(_NUM_CORES, timeout=60)).wait()
      return np.sum([self._values[name, step][core]
                     for core in range(_NUM_CORES)], axis=0, dtype=value.dtype)

    total = tf.numpy_function(exchange, [values], values.dtype)
    total.set_shape(values.shape)
    return total


def _train(options, batches):
  """Trains a step on each batch; returns the variables and the losses."""
  # Each waiting sum blocks a thread.
  config = tf1.ConfigProto(inter_op_parallelism_threads=200,
                           use_per_session_threads=True)
  with tf.Graph().as_default(), tf1.Session(config=config) as session, \
      tpu_function.tpu_shard_context(_NUM_CORES if options.use_tpu else None):
    tf1.train.get_or_create_global_step()
    feed = {name: tf1.placeholder(values.dtype, values.shape)
            for name, values in tiny.batch(batches[0]).items()}
    outputs, step = student.create_train_step(
        options, student.prepare_batch(feed, has_padding=options.use_tpu))
    session.run((tf1.global_variables_initializer(),
                 tf1.local_variables_initializer()))
    for variable in tf1.trainable_variables():
      variable.load(tiny.random_variables()[variable.op.name], session)
    losses = []
    for batch in batches:
      loss, _ = session.run((outputs["loss"], step.operation), {
          feed[name]: session.run(values)
          for name, values in tiny.batch(batch).items()})
      losses.append(loss)
    return {variable.op.name: session.run(variable)
            for variable in tf1.global_variables()}, losses


@pytest.mark.slow
def test_two_cores_train_as_one_process(monkeypatch):
  """The initial gradients are large enough to be clipped."""
  examples = tiny.random_examples(8, seed=2)
  wanted = _train(dataclasses.replace(
      _OPTIONS, config=tiny.CONFIG, use_tpu=False, wrap_optimizer=None),
                  [examples[:4], examples[4:]])
  cores = _Cores()
  monkeypatch.setattr(tf1.tpu, "cross_replica_sum", cores.sum)
  monkeypatch.setattr(student.xla, "replica_id", lambda: tf.constant(0))
  options = dataclasses.replace(_OPTIONS, config=tiny.CONFIG)
  for variables, losses in cores.run(
      _train, (options, [examples[:2], examples[4:6]]),
      (options, [examples[2:4], examples[6:]])):
    np.testing.assert_allclose(losses, wanted[1], rtol=1e-5)
    for name, value in wanted[0].items():
      np.testing.assert_allclose(variables[name], value, atol=1e-5,
                                 err_msg=name)


def test_xla_can_compile_all_replicated_operations(graph):
  """Uses TensorFlow's list of XLA kernels, which is for GPUs."""
  known = set(pywrap_xla_ops.get_gpu_kernel_names())
  kinds = {operation.type for operation in graph.get_operations()
           if "_tpu_replicate" in operation.node_def.attr}
  assert {kind for kind in kinds - known
          if not kind.startswith("TPU")} == {"CrossReplicaSum"}
  assert "StringJoin" not in known  # The list lacks some operations.

"""Tests of copies between host and GPU, by TensorFlow's kernel registry.

No GPU is needed: TensorFlow's package contains the GPU kernels. An operation
without one runs on the CPU, and each step copies its tensors to the host and
back. Each step also copies what GPU kernels read from host memory, such as
shapes and seeds.
"""

import dataclasses
import functools
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import kernels

from distillation import devices
from distillation import losses
from distillation import student
from distillation import teacher
from distillation import teacher_decoder
from records import schema
import tiny

tf1 = tf.compat.v1

_CONFIG = dataclasses.replace(
    tiny.CONFIG, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
_HIDDEN_SIZE = 12
_DECODER = teacher_decoder.Decoder(
    np.ones([tiny.CONFIG.vocab_size, _HIDDEN_SIZE], "f"),
    np.zeros(tiny.CONFIG.vocab_size, "f"))
_TRAININGS = {
    "top-k": {},
    "hard labels": {"loss": losses.LossOptions(hard_label_weight=1.0)},
    "both": {"loss": losses.LossOptions(hard_label_weight=0.1)},
    "schedule": {"loss": losses.LossOptions(hard_label_schedule="linear")},
    "bucket": {"loss": losses.LossOptions(tail_mass="bucket")},
    "hidden states": {"decoder": _DECODER, "loss": losses.LossOptions(
        hidden_cosine_weight=1.0, hidden_projection=True)}}
_LABELS = {
    "top-k": {}, "sample": {"tail_samples": 3},
    "hidden states": {"label_format": "hidden"}}
# Operations that may run on the host, with the reason.
_ON_THE_HOST = {
    ("VarHandleOp", "int32"): "the count of finite steps, as checkpoints have "
                              "it",
    ("PyFunc", "float32"): "the decoder's first value, once at the start",
}
# Operations that compute nothing.
_NO_KERNEL = {"NoOp", "Placeholder", "Const"}


@functools.lru_cache(maxsize=None)
def _gpu_kernels(kind):
  return [kernel for kernel in
          kernels.get_registered_kernels_for_op(kind).kernel
          if kernel.device_type in ("GPU", "DEFAULT")]


def _gpu_kernel(operation):
  """Returns the GPU kernel for the operation's dtypes, or None."""
  return next((
      kernel for kernel in _gpu_kernels(operation.type)
      if all(operation.get_attr(constraint.name).as_datatype_enum
             in constraint.allowed_values.list.type
             for constraint in kernel.constraint
             if constraint.allowed_values.list.type)), None)


def _without_gpu_kernel(graph):
  """Returns type and dtypes of the operations that a GPU cannot run."""
  return {(operation.type, *_dtypes(operation))
          for operation in graph.get_operations()
          if operation.type not in _NO_KERNEL
          and not _gpu_kernel(operation)}


def _memories(operation, arguments, tensors):
  """Returns for each tensor whether it is in host memory.

  Args:
    operation: the operation.
    arguments: input or output arguments of the operation's definition.
    tensors: the operation's input or output tensors.
  """
  kernel = _gpu_kernel(operation)
  # Operations on a variable run on the device of the variable.
  variables = [tensor.op for tensor in operation.inputs
               if tensor.dtype == tf.resource]
  if (not kernel or "CPU" in operation.device
      or not all(map(_gpu_kernel, variables))):
    return [True] * len(tensors)
  on_host = []
  for argument in arguments:
    count = 1
    if argument.number_attr:
      count = operation.get_attr(argument.number_attr)
    elif argument.type_list_attr:
      count = len(operation.get_attr(argument.type_list_attr))
    on_host += [argument.name in kernel.host_memory_arg] * count
  assert len(on_host) == len(tensors), operation
  return on_host


def _crossings(fetches):
  """Returns the tensors that each step copies between host and GPU.

  Args:
    fetches: the operations that a step runs.

  Returns:
    The names of tensors copied to the GPU, and of tensors copied to the host;
    without constants, which are copied once, and resources, which never are.
  """
  needed, ahead = set(), list(fetches)
  while ahead:
    operation = ahead.pop()
    if operation not in needed:
      needed.add(operation)
      ahead += [tensor.op for tensor in operation.inputs]
      ahead += operation.control_inputs
  source = {}
  for operation in needed:
    is_fed = operation.type == "Placeholder"
    source.update(zip((tensor.name for tensor in operation.outputs), _memories(
        operation, operation.op_def.output_arg, operation.outputs)))
    source.update({tensor.name: True for tensor in operation.outputs if is_fed})
  crossings = {True: set(), False: set()}
  for operation in needed:
    for tensor, on_host in zip(operation.inputs, _memories(
        operation, operation.op_def.input_arg, operation.inputs)):
      if (source[tensor.name] != on_host and tensor.dtype != tf.resource
          and tensor.op.type != "Const"):
        crossings[source[tensor.name]].add(tensor.name)
  return crossings[True], crossings[False]


def _dtypes(operation):
  """Returns the dtypes of an operation's tensors, or of its variable."""
  if operation.type == "VarHandleOp":
    return [operation.get_attr("dtype").name]
  return sorted({tensor.dtype.base_dtype.name
                 for tensor in (*operation.inputs, *operation.outputs)})


def _features(kind, num_micro_batches=1):
  """Returns placeholders of a batch, as the input pipeline prepares it."""
  shape = tiny.SHAPE
  if kind == "hidden states":
    shape = shape._replace(
        truncation_factor=0, teacher_hidden_size=_HIDDEN_SIZE)
  with tf.Graph().as_default():
    prepared = student.prepare_batch({
        name: tf1.placeholder(
            tf.int32 if feature.dtype == np.int64 else tf.float32,
            [4, *feature.shape])
        for name, feature in schema.features(shape).items()},
                                     num_micro_batches)
  return {name: tuple(tf1.placeholder(tensor.dtype, tensor.shape)
                      for tensor in tensors)
          for name, tensors in prepared.items()}


def _options(compute_type, kind):
  return student.StudentOptions(
      _CONFIG, compute_type=compute_type, top_k=3, **_TRAININGS[kind])


def _train(compute_type, kind, num_micro_batches=1):
  tf1.train.get_or_create_global_step()
  outputs, step = student.create_train_step(
      _options(compute_type, kind), _features(kind, num_micro_batches))
  return [step.operation, outputs["loss"].op, step.is_finite.op]


def _evaluate(compute_type, kind):
  spec = student.build_model_fn(_options(compute_type, kind))(
      _features(kind), None, tf.estimator.ModeKeys.EVAL, {})
  function, tensors = spec.eval_metrics
  return [update for _, update in function(**tensors).values()]


def _label(precision, kind):
  _, outputs = teacher._build_graph(_CONFIG, teacher.LabelOptions(  # pylint: disable=protected-access
      truncation_factor=4, device=devices.DeviceOptions(precision),
      **_LABELS[kind]))
  return [tensor.op for tensor in outputs]


# The builder of each graph, and how many tensors a step may copy to the GPU and
# to the host. Lower these limits only. Training copies two to the host: the
# global step, which seeds dropout, and whether the gradients are finite.
_GRAPHS = {
    "training, fp32": ((_train, tf.float32, "top-k"), (10, 1)),
    "training, bf16": ((_train, tf.bfloat16, "top-k"), (10, 1)),
    "training, micro-batches": ((_train, tf.float16, "top-k", 2), (21, 2)),
    "training, top-k": ((_train, tf.float16, "top-k"), (11, 2)),
    "training, hard labels": ((_train, tf.float16, "hard labels"), (9, 2)),
    "training, both": ((_train, tf.float16, "both"), (11, 2)),
    "training, schedule": ((_train, tf.float16, "schedule"), (11, 2)),
    "training, bucket": ((_train, tf.float16, "bucket"), (12, 3)),
    "training, hidden states": (
        (_train, tf.float16, "hidden states"), (11, 3)),
    **{"evaluation, {}, {}".format(kind, dtype.name): (
        (_evaluate, dtype, kind), limits)
       for kind, limits in (("top-k", (15, 1)), ("hidden states", (14, 2)))
       for dtype in (tf.float16, tf.bfloat16)},
    **{"labels, {}, {}".format(kind, precision): (
        (_label, precision, kind), limits)
       for kind, limits in (("top-k", (6, 0)), ("sample", (8, 1)),
                            ("hidden states", (6, 0)))
       for precision in devices.PRECISIONS}}


@pytest.mark.parametrize("name", [
    "training, top-k", "labels, sample, fp32", *(
        pytest.param(name, marks=pytest.mark.slow) for name in _GRAPHS
        if name not in ("training, top-k", "labels, sample, fp32"))])
def test_a_gpu_runs_the_graph_with_few_copies(monkeypatch, name):
  monkeypatch.setattr(devices, "has_gpu", lambda: True)
  monkeypatch.setattr(devices, "_is_supported", lambda precision: True)
  (build, *arguments), limits = _GRAPHS[name]
  with tf.Graph().as_default() as graph:
    tf1.set_random_seed(1)  # As in training: dropout then depends on the step.
    fetches = build(*arguments)
  found = _without_gpu_kernel(graph)
  assert found <= set(_ON_THE_HOST), found - set(_ON_THE_HOST)
  crossings = _crossings(fetches)
  for tensors, limit in zip(crossings, limits):
    assert len(tensors) <= limit, sorted(tensors)


def test_the_number_of_layers_does_not_change_the_copies(monkeypatch):
  monkeypatch.setattr(devices, "has_gpu", lambda: True)
  counts = set()
  for num_layers in (1, 2):
    monkeypatch.setattr(sys.modules[__name__], "_CONFIG", dataclasses.replace(
        _CONFIG, num_hidden_layers=num_layers))
    with tf.Graph().as_default():
      tf1.set_random_seed(1)
      counts.add(tuple(map(len, _crossings(_train(tf.float32, "top-k")))))
  assert len(counts) == 1


def test_inputs_and_outputs_in_host_memory_are_copied():
  with tf.Graph().as_default():
    values = tf1.placeholder(tf.float32, [2])
    sizes = tf.cast(values * 2.0, tf.int32)  # On the GPU.
    up, down = _crossings([tf.reshape(values, sizes).op])
    assert (up, down) == ({values.name}, {sizes.name})


def test_an_operation_without_gpu_kernel_is_found():
  with tf.Graph().as_default() as graph:
    tf.strings.length(tf1.placeholder(tf.string, [None]))
    tf1.placeholder(tf.float32, [2]) * 2.0
  assert _without_gpu_kernel(graph) == {("StringLength", "int32", "string")}

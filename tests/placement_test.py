"""Tests that GPUs can run the graphs, by TensorFlow's registry of kernels.

No GPU is needed: the wheel holds its kernels. An operation without one runs on
the CPU, and its tensors cross to the host and back in each step.
"""

import dataclasses
import functools

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
# What runs on the host, and why that may be.
_ON_THE_HOST = {
    ("Split", "int32"): "the integers of a batch, by micro-batch",
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


def _has_gpu_kernel(operation):
  """Returns whether there is a kernel for the operation's dtypes."""
  return any(
      all(operation.get_attr(constraint.name).as_datatype_enum
          in constraint.allowed_values.list.type
          for constraint in kernel.constraint
          if constraint.allowed_values.list.type)
      for kernel in _gpu_kernels(operation.type))


def _without_gpu_kernel(graph):
  """Returns kind and dtypes of the operations that a GPU cannot run."""
  return {(operation.type, *_dtypes(operation))
          for operation in graph.get_operations()
          if operation.type not in _NO_KERNEL
          and not _has_gpu_kernel(operation)}


def _dtypes(operation):
  """Returns the dtypes of an operation's tensors, or of its variable."""
  if operation.type == "VarHandleOp":
    return [operation.get_attr("dtype").name]
  return sorted({tensor.dtype.base_dtype.name
                 for tensor in (*operation.inputs, *operation.outputs)})


def _features(has_hidden_states):
  """Returns placeholders of a batch, as `decoding.decode` gives it."""
  shape = tiny.SHAPE
  if has_hidden_states:
    shape = shape._replace(
        truncation_factor=0, teacher_hidden_size=_HIDDEN_SIZE)
  return {
      name: tf1.placeholder(
          tf.int32 if feature.dtype == np.int64 else tf.float32,
          [None, *feature.shape], name=name)
      for name, feature in schema.features(shape).items()}


def _options(precision, **changes):
  return student.StudentOptions(
      _CONFIG, compute_type=devices.compute_type(precision), top_k=3,
      **changes)


def _train(precision, kind, num_micro_batches=1):
  tf1.train.get_or_create_global_step()
  student.create_train_step(
      _options(precision, num_micro_batches=num_micro_batches,
               **_TRAININGS[kind]), _features(kind == "hidden states"))


def _evaluate(precision, kind):
  spec = student.build_model_fn(_options(precision, **_TRAININGS[kind]))(
      _features(kind == "hidden states"), None, tf.estimator.ModeKeys.EVAL, {})
  function, tensors = spec.eval_metrics
  function(**tensors)


def _label(precision, kind):
  teacher._build_graph(_CONFIG, teacher.LabelOptions(  # pylint: disable=protected-access
      truncation_factor=4, device=devices.DeviceOptions(precision),
      **_LABELS[kind]))


_GRAPHS = {
    "training, fp32": (_train, "fp32", "top-k"),
    "training, micro-batches": (_train, "fp16", "top-k", 2),
    **{"training, " + kind: (_train, "fp16", kind) for kind in _TRAININGS},
    **{"evaluation, " + kind: (_evaluate, "fp16", kind)
       for kind in ("top-k", "hidden states")},
    **{"labels, {}, {}".format(kind, precision): (_label, precision, kind)
       for kind in _LABELS for precision in ("fp32", "fp16")}}


@pytest.mark.parametrize("name", [
    "training, top-k", *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in _GRAPHS if name != "training, top-k")])
def test_a_gpu_has_a_kernel_for_each_operation(name):
  build, *arguments = _GRAPHS[name]
  with tf.Graph().as_default() as graph:
    tf1.set_random_seed(1)  # With a seed dropout draws by step, as in training.
    build(*arguments)
  found = _without_gpu_kernel(graph)
  assert found <= set(_ON_THE_HOST), found - set(_ON_THE_HOST)


def test_the_registry_tells_what_has_no_kernel():
  with tf.Graph().as_default() as graph:
    tf.strings.length(tf1.placeholder(tf.string, [None]))
    tf1.placeholder(tf.float32, [2]) * 2.0
  assert _without_gpu_kernel(graph) == {("StringLength", "int32", "string")}

"""A model's graph for inference, with weights loaded once, as they are used.

Weights are variables, not constants: TensorFlow copies constants again and
again on their way into a session, up to 14 times what they take.

In bfloat16 the rewritten graph casts every weight at every step, and oneDNN
then reorders it. So here the graph is rewritten before there is a session: the
variables have the precision that is read, and the matrix products are told that
their weights do not change, as they would be told of constants, so that oneDNN
keeps them in its own order.
"""

from typing import List, NamedTuple, Sequence

import tensorflow as tf
import tensorflow.compat.v1 as tf1
from tensorflow.python.framework import op_def_registry
from tensorflow.python.grappler import tf_optimizer

# What a graph must be placed on for TensorFlow to fuse its operations.
_CPU = "/job:localhost/replica:0/task:0/device:CPU:0"
_FUSED_PRODUCT = "_FusedMatMul"
# oneDNN's kernel of it, and the label that such kernels are registered under.
_ONEDNN_PRODUCT = "_MklNativeFusedMatMul"
_ONEDNN_LABEL = b"MklNameChangeOp"
_PRODUCT_ATTRIBUTES = ("T", "epsilon", "fused_ops", "leakyrelu_alpha",
                       "num_args", "transpose_a", "transpose_b")


class Weight(NamedTuple):
  """A variable, its name in checkpoints, and the dtype that it is read in."""
  handle: tf.Tensor
  name: str
  dtype: tf.DType


class InferenceGraph(NamedTuple):
  """A graph without values.

  Attributes:
    graph: the graph.
    inputs: its placeholders.
    outputs: what is computed from them.
    weights: its variables.
    config: of its session.
  """
  graph: tf.Graph
  inputs: List[tf.Tensor]
  outputs: List[tf.Tensor]
  weights: List[Weight]
  config: tf1.ConfigProto


def prepare(graph: tf.Graph, inputs: Sequence[tf.Tensor],
            outputs: Sequence[tf.Tensor], config: tf1.ConfigProto
           ) -> InferenceGraph:
  """Prepares a graph for inference.

  Args:
    graph: the graph, with float32 variables under their names in checkpoints.
    inputs: its placeholders.
    outputs: what is computed.
    config: of the session.
  """
  rewrites = config.graph_options.rewrite_options
  if rewrites.auto_mixed_precision_onednn_bfloat16 == rewrites.ON:
    return _rewrite_to_bfloat16(graph, inputs, outputs, config)
  with graph.as_default():
    weights = [Weight(variable.handle, variable.op.name, tf.float32)
               for variable in tf1.trainable_variables()]
  return InferenceGraph(graph, list(inputs), list(outputs), weights, config)


def start_session(prepared: InferenceGraph, checkpoint: str) -> tf1.Session:
  """Starts a session whose variables hold the values of a checkpoint."""
  reader = tf1.train.NewCheckpointReader(checkpoint)
  with prepared.graph.as_default():
    assignments = []
    for weight in prepared.weights:
      value = tf1.placeholder(weight.dtype)
      assignments.append((value, tf.raw_ops.AssignVariableOp(
          resource=weight.handle, value=value)))
    session = tf1.Session(config=prepared.config)
  # One by one, so that no more than one value is in memory twice.
  for weight, (value, assignment) in zip(prepared.weights, assignments):
    session.run(assignment, {value: reader.get_tensor(weight.name).astype(
        weight.dtype.as_numpy_dtype)})
  return session


def _rewrite_to_bfloat16(graph: tf.Graph, inputs: Sequence[tf.Tensor],
                         outputs: Sequence[tf.Tensor],
                         config: tf1.ConfigProto) -> InferenceGraph:
  """Rewrites a graph as TensorFlow would, but for weights in bfloat16."""
  nodes = _optimize(graph, outputs, config)
  by_name = {node.name: node for node in nodes.node}
  reads = {node.name for node in nodes.node if node.op == "ReadVariableOp"}
  casts = {node.name: node.input[0] for node in nodes.node
           if node.op == "Cast" and node.input[0] in reads
           and node.attr["DstT"].type == tf.bfloat16.as_datatype_enum}
  for node in nodes.node:
    if node.op == _FUSED_PRODUCT and node.input[1] in casts:
      _keep_weights(node)
  read_as_they_are = reads.intersection(
      name for node in nodes.node if node.name not in casts
      for name in node.input)
  with tf.Graph().as_default() as rewritten:
    weights, values = [], {}
    for name, read, dtype in (
        *((name, read, tf.bfloat16) for name, read in casts.items()),
        *((read, read, tf.float32) for read in sorted(read_as_they_are))):
      variable = by_name[by_name[read].input[0]]
      handle = tf.raw_ops.VarHandleOp(
          dtype=dtype, shape=tf.TensorShape(variable.attr["shape"].shape),
          shared_name=name)
      weights.append(Weight(handle, variable.name, dtype))
      values[name + ":0"] = tf.raw_ops.ReadVariableOp(
          resource=handle, dtype=dtype)
    tensors = tf.import_graph_def(
        nodes, input_map=values, name="",
        return_elements=[tensor.name for tensor in (*inputs, *outputs)])
  session_config = tf1.ConfigProto()
  session_config.CopyFrom(config)
  session_config.graph_options.rewrite_options.disable_meta_optimizer = True
  return InferenceGraph(rewritten, tensors[:len(inputs)],
                        tensors[len(inputs):], weights, session_config)


def _optimize(graph: tf.Graph, outputs: Sequence[tf.Tensor],
              config: tf1.ConfigProto) -> tf1.GraphDef:
  """Runs TensorFlow's own rewrites of a graph, without a session."""
  names = [output.op.name for output in outputs]
  with graph.as_default():
    meta_graph = tf1.train.export_meta_graph()
  meta_graph.collection_def["train_op"].node_list.value.extend(names)
  for node in meta_graph.graph_def.node:
    node.device = _CPU
  return tf1.graph_util.extract_sub_graph(
      tf_optimizer.OptimizeGraph(config, meta_graph), names)


def _keep_weights(product: tf1.NodeDef) -> None:
  """Tells oneDNN's kernel of a matrix product that its weights are constant."""
  if op_def_registry.get(_ONEDNN_PRODUCT) is None:
    return
  for name in set(product.attr) - set(_PRODUCT_ATTRIBUTES):
    del product.attr[name]
  product.op = _ONEDNN_PRODUCT
  product.attr["is_filter_const"].b = True
  product.attr["_kernel"].s = _ONEDNN_LABEL

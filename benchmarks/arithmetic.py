"""Counts operations and measures the machine's peak rate, for benchmarks."""

import collections
import functools
import pathlib
import re
import statistics
import tempfile
import time
from typing import Any, Callable, Dict, Mapping, Sequence, Tuple

import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

import measure
import modeling

tf1 = tf.compat.v1

_MATRIX_SIZE = 3072
_TYPES = {"fp32": tf.float32, "bf16": tf.bfloat16, "fp16": tf.float16}
_PRODUCT_NAME = "matrix product in {}"
# One forward pass, and a backward pass with twice its operations.
TRAINING_PASSES = 3
# A graph's operation in a trace: name of the node, then its kind.
_OPERATION = re.compile(r"[^:]+:(\w+)")
# Part of the kinds that multiply matrices.
_PRODUCT = "MatMul"


def matrix_product_rate(dtype: tf.DType, size: int = _MATRIX_SIZE) -> float:
  """Measures the rate of a large matrix product in GFLOP/s."""
  with tf.Graph().as_default(), tf1.Session() as session:
    matrix = tf.Variable(
        tf.cast(tf.random.normal([size] * 2), dtype))
    product = tf.matmul(matrix, matrix)[0, 0]
    session.run(tf1.global_variables_initializer())
    seconds = []
    for _ in range(6):
      start = time.perf_counter()
      session.run(product)
      seconds.append(time.perf_counter() - start)
  return 2 * size ** 3 / statistics.median(seconds[1:]) / 1e9


def product_contenders(precisions: Sequence[str]
                      ) -> Dict[str, Callable[[], float]]:
  """Returns contenders for `measure.alternate` that time the matrix product.

  Args:
    precisions: precisions of the product, a contender for each.

  Returns:
    Functions by name that return GFLOP/s. `limit` reads their figures.
  """
  return {_PRODUCT_NAME.format(precision): functools.partial(
      matrix_product_rate, _TYPES[precision]) for precision in precisions}


def limit(figures: Mapping[str, Sequence[float]], precision: str,
          num_operations: float) -> Tuple[str, float]:
  """Returns the name and value of a stage's limit, for `measure.row`.

  Args:
    figures: figures of `measure.alternate`, including `product_contenders`.
    precision: precision of the stage.
    num_operations: floating-point operations per sequence.

  Returns:
    The name of the limit and its value in sequences per second.
  """
  name = _PRODUCT_NAME.format(precision)
  return name, 1e9 * statistics.median(figures[name]) / num_operations


def operations(config: modeling.BertConfig, tokens: float, slots: float,
               length: float, is_narrow: bool) -> float:
  """Counts the operations of the matrix products in a forward pass.

  Args:
    config: config of the model.
    tokens: number of tokens, including padding that the model computes.
    slots: number of masked tokens.
    length: mean length of the sequences in tokens.
    is_narrow: whether the last layer is computed for the slots only.
  """
  hidden_size = config.hidden_size
  projections = 2 * 4 * hidden_size * hidden_size
  attention = 4 * length * hidden_size
  feed_forward = 4 * hidden_size * config.intermediate_size
  layer = projections + attention + feed_forward
  total = tokens * layer * (config.num_hidden_layers - is_narrow)
  if is_narrow:
    total += tokens * projections / 2
    total += slots * (projections / 2 + attention + feed_forward)
  return total + slots * 2 * hidden_size * (hidden_size + config.vocab_size)


def profile(run: Callable[[], Any]) -> measure.Shares:
  """Profiles the operations that TensorFlow runs.

  Args:
    run: function that runs graphs or datasets.

  Returns:
    The share of the matrix products, if any, then the largest shares among the
    other kinds of operations.
  """
  with tempfile.TemporaryDirectory() as folder:
    tf.profiler.experimental.start(folder)
    try:
      run()
    finally:
      tf.profiler.experimental.stop()
    space = xplane_pb2.XSpace()
    for path in pathlib.Path(folder).rglob("*.xplane.pb"):
      space.MergeFromString(path.read_bytes())
  seconds: Dict[str, float] = collections.Counter()
  for plane in space.planes:
    for line in plane.lines:
      seconds.update(_own_times(plane, line))
  total = sum(seconds.values())
  products = sum(spent for kind, spent in seconds.items() if _PRODUCT in kind)
  others = [(kind, share) for kind, share in measure.largest(seconds, None)
            if _PRODUCT not in kind][:measure.PROFILE_ENTRIES]
  return [("matrix products", products / total)] * bool(products) + others


def _own_times(plane: Any, line: Any) -> Dict[str, float]:
  """Returns the time of each kind of operation in a thread, in ps.

  The time of an operation excludes the operations nested in it.
  """
  spent: Dict[str, float] = collections.Counter()
  running = []  # Kind and end of each operation, the innermost last.
  for event in sorted(line.events, key=lambda event: (
      event.offset_ps, -event.duration_ps)):
    match = _OPERATION.fullmatch(
        plane.event_metadata[event.metadata_id].name.partition("#")[0])
    if not match:
      continue
    while running and running[-1][1] <= event.offset_ps:
      running.pop()
    if running:
      spent[running[-1][0]] -= event.duration_ps
    spent[match.group(1)] += event.duration_ps
    running.append((match.group(1), event.offset_ps + event.duration_ps))
  return spent

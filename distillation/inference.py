"""Sessions that compute with the variables of a checkpoint.

Weights are variables, because a session copies constants: up to 14 times their
size in memory.
"""

import contextlib
from typing import Any, Iterator

import tensorflow as tf
import tensorflow.compat.v1 as tf1

# Endings of the names of variables that dense layers and the decoder read.
_OPERANDS = ("/kernel", "/bias", "/word_embeddings")


@contextlib.contextmanager
def variables_of(compute_type: tf.DType) -> Iterator[None]:
  """Converts operands of matrix products to the compute type.

  Otherwise each step casts the float32 variables.

  Args:
    compute_type: dtype of the model that is built in the context.
  """
  def get(getter: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    if name.endswith(_OPERANDS):
      kwargs["dtype"] = compute_type
    return getter(name, *args, **kwargs)

  with tf1.variable_scope(tf1.get_variable_scope(), custom_getter=get):
    yield


def start_session(config: tf1.ConfigProto, checkpoint: str) -> tf1.Session:
  """Starts a session whose variables hold the values of a checkpoint.

  Args:
    config: settings of the session.
    checkpoint: path of a checkpoint that holds all trainable variables of the
      default graph.
  """
  reader = tf1.train.NewCheckpointReader(checkpoint)
  session = tf1.Session(config=config)
  # Assigned one by one, so that only one value is in memory twice.
  for variable in tf1.trainable_variables():
    value = reader.get_tensor(variable.op.name)
    session.run(variable.initializer, {
        variable.initializer.inputs[1]:
            value.astype(variable.dtype.as_numpy_dtype)})
  return session

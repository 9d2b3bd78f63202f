"""Tests of the error messages of processes that train together.

`tests/distributed_faults_test.py` kills and stops real processes.
"""

import pytest
import tensorflow as tf

from distillation import processes
from util import command_line
from util.command_line import InputError

tf1 = tf.compat.v1


@pytest.fixture(name="group")
def _group():
  """A group whose exchange thread is not started."""
  group = processes.Group(
      processes.Processes(
          rank=1, size=2, gather=lambda tensor, name: tensor),
      tf1.ConfigProto())
  group.liveness.activity = lambda: "at step 7"
  return group


def test_an_error_of_the_engine_keeps_its_first_line(group):
  message = (
      "Graph execution error:\n\nDetected at node HorovodAllreduce_1 defined\n"
      "Node: 'HorovodAllreduce_1'\n"
      "ncclCommInitRank failed: unhandled system error (run with NCCL_DEBUG)\n"
      "\t [[{{node HorovodAllreduce_1}}]]")
  with pytest.raises(InputError, match=(
      "^process 1 of 2 on .*: Horovod failed at step 7: ncclCommInitRank "
      r"failed: unhandled system error \(run with NCCL_DEBUG\); .* resumes")):
    with group.errors():
      raise tf.errors.UnknownError(None, None, message)


@pytest.mark.parametrize("message", [
    "Horovod has been shut down. This was caused by an exception on one of the "
    "ranks", "[gloo/pair.cc:598] Connection closed by peer (HorovodAllreduce)"])
def test_an_end_of_the_engine_or_a_connection_means_lost_processes(
    monkeypatch, group, message):
  lost = []

  def raise_lost():
    lost.append(True)
    raise command_line.ReportedError

  monkeypatch.setattr(group.liveness, "raise_lost", raise_lost)
  with pytest.raises(command_line.ReportedError):
    with group.errors():
      raise tf.errors.UnknownError(None, None, message)
  assert lost


def test_an_unrelated_error_is_not_replaced(group):
  with pytest.raises(tf.errors.InvalidArgumentError):
    with group.errors():
      raise tf.errors.InvalidArgumentError(None, None, "shapes differ")

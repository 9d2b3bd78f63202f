"""Matches damaged checkpoints in a process of its own, which may crash.

  python checkpoint_reader.py bert_config.json

Each line on stdin is the path of a checkpoint. For each, the script prints the
number of variables of the model in the checkpoint, or 0 if it is refused.
"""

import functools
import sys

from distillation import checkpoints
import fuzzing
import modeling


def main():
  # The shapes do not depend on the checkpoint, and take long to compute.
  shapes = modeling.variable_shapes(checkpoints.load_config(sys.argv[1]))
  modeling.variable_shapes = lambda config: shapes
  config = checkpoints.load_config(sys.argv[1])
  for line in sys.stdin:
    match = fuzzing.accepts(functools.partial(
        checkpoints.match_checkpoint, config, line.rstrip("\n")))
    print(len(match[0].restored) if match else 0, flush=True)


if __name__ == "__main__":
  main()

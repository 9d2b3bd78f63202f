"""Matches checkpoints that may be damaged, in a process that may die of them.

  python checkpoint_reader.py bert_config.json

Each line of stdin is the path of a checkpoint. Each gets one line on stdout:
how many variables of the model it has, or 0 where it is refused.
"""

import functools
import sys

from distillation import checkpoints
import fuzzing
import modeling


def main():
  # What the model needs does not depend on the input, and takes long to build.
  shapes = modeling.variable_shapes(checkpoints.load_config(sys.argv[1]))
  modeling.variable_shapes = lambda config: shapes
  config = checkpoints.load_config(sys.argv[1])
  for line in sys.stdin:
    match = fuzzing.accepts(functools.partial(
        checkpoints.match_checkpoint, config, line.rstrip("\n")))
    print(len(match[0].restored) if match else 0, flush=True)


if __name__ == "__main__":
  main()

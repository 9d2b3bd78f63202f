r"""Writes the config of a student: its teacher's, with fewer layers.

  python examples/make_student_config.py \
    --bert_config_file teacher/bert_config.json --layers 6 \
    --output_file student/bert_config.json
"""

import dataclasses
import os
import pathlib
import sys

if __name__ == "__main__":  # TensorFlow reads this once, while it is imported.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
# pylint: disable=wrong-import-position
from distillation import checkpoints
from util import command_line
from util import files


def define_flags() -> None:
  """Defines the flags of the script."""
  flags.DEFINE_string("bert_config_file", None, "Config of the teacher.")
  flags.DEFINE_integer("layers", None, "Layers of the student.", lower_bound=1)
  flags.DEFINE_string("output_file", None, "Config to write.")


def main() -> None:
  output_file = flags.FLAGS.output_file
  config = dataclasses.replace(
      checkpoints.load_config(flags.FLAGS.bert_config_file),
      num_hidden_layers=flags.FLAGS.layers)
  os.makedirs(os.path.dirname(output_file) or ".", exist_ok=True)
  files.write_atomically(output_file, config.to_json_string())


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("bert_config_file", "layers", "output_file"))

r"""Trains a small BERT on a teacher's labels, on one machine.

  python network_distillation_single_machine_truncated.py \
    --bert_config_file student/bert_config.json \
    --input_file 'data/wiki_distill_*.tfrecord' \
    --output_dir student/run \
    --init_checkpoint teacher/bert_model.ckpt \
    --do_train True --do_eval True

It reads records that extract_teacher_labels_truncated.py has labelled, and
writes checkpoints and eval_results.txt to the output folder. Run again, it
resumes from the newest checkpoint there.
"""

import os

if __name__ == "__main__":  # TensorFlow reads these once, the first early.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("TF_XLA_FLAGS", "--tf_xla_cpu_global_jit")

from distillation import options
from distillation import training
from util import command_line


def main() -> None:
  training.run(command_line.options(options.TrainerOptions))


if __name__ == "__main__":
  options.define_flags()
  command_line.run(main, required=options.REQUIRED_FLAGS)

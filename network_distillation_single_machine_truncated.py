r"""Trains a small BERT on a teacher's labels, on one machine.

  python network_distillation_single_machine_truncated.py \
    --bert_config_file student/bert_config.json \
    --input_file 'data/labelled/wiki_distill_*.tfrecord' \
    --eval_input_file data/labelled/heldout.tfrecord \
    --output_dir student/run \
    --init_checkpoint teacher/bert_model.ckpt \
    --hard_label_weight 0.1 --do_train True --do_eval True

The trainer reads records that extract_teacher_labels_truncated.py has labelled.
It writes checkpoints, TensorBoard curves and eval_results.txt to --output_dir,
and exports the student to student/ in that folder. The same command resumes
from the newest checkpoint.

Evaluation reads --max_eval_steps x --eval_batch_size = 800 records by default,
from the start of --eval_input_file. Without --eval_input_file it reads training
data.
"""

import os

if __name__ == "__main__":  # To be set before TensorFlow is imported.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("TF_XLA_FLAGS", "--tf_xla_cpu_global_jit")

from distillation import options
from distillation import training
from util import command_line


def main() -> None:
  """Runs the trainer in one process."""
  training.run(command_line.options(options.TrainerOptions))


if __name__ == "__main__":
  options.define_flags()
  command_line.run(main, required=options.REQUIRED_FLAGS)

r"""Trains a small BERT on a teacher's labels, on many GPUs, under Horovod.

  mpirun -np 8 -H localhost:8 -bind-to none -map-by slot \
    -x NCCL_DEBUG=INFO -x LD_LIBRARY_PATH -x PATH \
    -mca pml ob1 -mca btl ^openib \
    python network_distillation_distributed_truncated.py \
    --bert_config_file student/bert_config.json \
    --input_file 'data/wiki_distill_*.tfrecord' \
    --output_dir student/run \
    --init_checkpoint teacher/bert_model.ckpt \
    --do_train True --do_eval True

Each process trains on its own share of the records with train_batch_size
sequences a step; the learning rate is multiplied by the number of processes,
the numbers of steps are divided by it. Only process 0 writes to the output
folder and evaluates. Run again, it resumes from the newest checkpoint there.
"""

import os

if __name__ == "__main__":  # TensorFlow reads this once, while it is imported.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import horovod.tensorflow as hvd

from distillation import options
from distillation import training
from util import command_line


def main() -> None:
  hvd.init()
  training.run(command_line.options(options.TrainerOptions),
               training.Processes(
                   rank=hvd.rank(), size=hvd.size(),
                   local_rank=hvd.local_rank(),
                   wrap_optimizer=hvd.DistributedOptimizer,
                   hooks=(hvd.BroadcastGlobalVariablesHook(0),),
                   broadcast=hvd.broadcast_object))


if __name__ == "__main__":
  options.define_flags()
  command_line.run(main, required=options.REQUIRED_FLAGS)

"""The flags of both trainers, and the options that they become.

`util.command_line.options(TrainerOptions)` reads all of them at once.
"""

import dataclasses
from typing import List, Optional

from absl import flags

from distillation import devices
from distillation import evaluation
from distillation import losses
from records import input_pipeline

REQUIRED_FLAGS = ("bert_config_file", "input_file", "output_dir")


def define_flags() -> None:
  """Defines the flags of the trainers."""
  flags.DEFINE_string(
      "bert_config_file", None,
      "Config of the student, a JSON file like BERT's bert_config.json.")
  flags.DEFINE_string(
      "input_file", None,
      "Labelled records to train on: paths and patterns, separated by commas.")
  flags.DEFINE_string(
      "eval_input_file", None,
      "Held-out records to evaluate on. Without them evaluation reads the "
      "training data of input_file.")
  flags.DEFINE_string(
      "output_dir", None,
      "Folder for checkpoints and eval_results.txt; made if need be. Training "
      "resumes from a checkpoint that is there, and at its end exports the "
      "student to student/ in the layout of Google's BERT: bert_config.json "
      "and bert_model.ckpt.*, without the optimizer's slots.")
  flags.DEFINE_string(
      "init_checkpoint", None,
      "Checkpoint to start from: variables that it has are taken by name, the "
      "others are newly initialised. Often the teacher's.")
  flags.DEFINE_list(
      "init_layers", None,
      "Layers of init_checkpoint that become the student's layers 0, 1 and so "
      "on, such as 0,2,4; default: those of the same numbers.")
  flags.DEFINE_integer(
      "truncation_factor", 10,
      "K, how many of the teacher's tokens each slot of the records stores; of "
      "hidden states, how many are compared in evaluation.",
      lower_bound=1)
  flags.DEFINE_float(
      "hard_label_weight", 0.0,
      "w: the masked-LM loss is (1 - w) times the loss against the teacher "
      "plus w times the cross entropy of the masked tokens, the hard labels. "
      "0.1 is recommended; at 1 the records need no teacher labels.",
      lower_bound=0.0, upper_bound=1.0)
  flags.DEFINE_enum(
      "hard_label_schedule", "constant", losses.HARD_LABEL_SCHEDULES,
      "linear moves w from hard_label_weight at the first step to "
      "final_hard_label_weight at the last.")
  flags.DEFINE_float(
      "final_hard_label_weight", None,
      "w at the end of --hard_label_schedule=linear; 1 if not given.",
      lower_bound=0.0, upper_bound=1.0)
  flags.DEFINE_float(
      "temperature", 1.0,
      "T divides the student's logits; its square multiplies the loss against "
      "the teacher. Must be the temperature of the records; any value with "
      "hidden-state labels.")
  flags.DEFINE_enum(
      "tail_mass", "drop", losses.TAIL_MASSES,
      "How to treat the teacher's probability outside the K stored tokens: "
      "drop ignores it, renormalize scales the K to a sum of 1, bucket matches "
      "it with the student's own rest as one more token.")
  flags.DEFINE_float(
      "hidden_cosine_weight", 0.0,
      "Weight of 1 - cos(student, teacher) in the loss, of the hidden states "
      "that the masked-LM heads score; needs hidden-state labels.",
      lower_bound=0.0)
  flags.DEFINE_bool(
      "hidden_projection", False,
      "Whether a learned matrix projects the student's hidden states to the "
      "teacher's hidden_size first. The exported student has no such matrix.")
  flags.DEFINE_float(
      "next_sentence_weight", 1.0,
      "Weight of the next-sentence loss. At 0 the head that predicts next "
      "sentences stays as it starts, and evaluation leaves out its metrics.",
      lower_bound=0.0)
  flags.DEFINE_bool("do_train", False, "Whether to train.")
  flags.DEFINE_bool(
      "do_eval", False,
      "Whether to evaluate: the newest checkpoint of output_dir, else "
      "init_checkpoint.")
  input_pipeline.define_flags()
  flags.DEFINE_integer(
      "train_batch_size", 32,
      "Sequences in a micro-batch, per process; a training step takes "
      "gradient_accumulation_steps of them.", lower_bound=1)
  flags.DEFINE_integer(
      "eval_batch_size", 8, "Sequences in an evaluation step.", lower_bound=1)
  flags.DEFINE_float(
      "learning_rate", 5e-5,
      "Highest learning rate of AdamW, multiplied by the number of processes.",
      lower_bound=0.0)
  flags.DEFINE_integer(
      "num_train_steps", 100000,
      "Steps of training; divided by the number of processes. A run that "
      "resumes with another number of sequences in a step ends where the "
      "sequences of the present command end.", lower_bound=1)
  flags.DEFINE_integer(
      "num_warmup_steps", 10000,
      "Steps over which the learning rate rises; divided by the number of "
      "processes.", lower_bound=0)
  flags.DEFINE_integer(
      "save_checkpoints_steps", 1000, "Steps between two checkpoints.",
      lower_bound=1)
  flags.DEFINE_integer(
      "keep_checkpoint_max", 5,
      "How many of the newest checkpoints to keep; 0 keeps all.",
      lower_bound=0)
  flags.DEFINE_integer(
      "random_seed", 12345,
      "Seed of new weights, of dropout and of the order in which records are "
      "read.")
  flags.DEFINE_integer(
      "iterations_per_loop", 1000, "Steps in one call of a TPU.",
      lower_bound=1)
  flags.DEFINE_integer(
      "max_eval_steps", 100,
      "Most batches to evaluate on. The default is 100 x 8 = 800 records.",
      lower_bound=1)
  flags.DEFINE_bool(
      "eval_every_checkpoint", False,
      "Whether to evaluate each checkpoint in training and keep the best one "
      "in output_dir/best; student/ is then made of that one.")
  flags.DEFINE_enum(
      "best_checkpoint_by", evaluation.BEST_BY[0], evaluation.BEST_BY,
      "The metric that is lowest at the best checkpoint: the distance from the "
      "teacher, or the cross entropy of the masked tokens, which needs no "
      "teacher labels.")
  flags.DEFINE_enum(
      "precision", "fp32", devices.PRECISIONS,
      "Arithmetic of the matrix products: bf16 on CPUs and GPUs that have "
      "it, fp16 with dynamic loss scaling on GPUs. Variables stay float32.")
  flags.DEFINE_bool(
      "use_xla", False, "Whether to compile the graph with XLA.")
  flags.DEFINE_integer(
      "gradient_accumulation_steps", 1,
      "Micro-batches of train_batch_size whose gradients are accumulated for "
      "one step, for batches that do not fit into memory at once.",
      lower_bound=1)
  flags.DEFINE_bool("use_tpu", False, "Whether to run on a TPU.")
  flags.DEFINE_string("tpu_name", None, "Name or grpc:// address of the TPU.")
  flags.DEFINE_string("tpu_zone", None, "Zone of the TPU.")
  flags.DEFINE_string("gcp_project", None, "Project of the TPU.")
  flags.DEFINE_string("master", None, "Address of a TensorFlow master.")
  flags.DEFINE_integer("num_tpu_cores", 8, "Cores of the TPU.", lower_bound=1)


# The fields have the names of the flags, whose help describes them.


@dataclasses.dataclass(frozen=True)
class ModelOptions:
  """The student and where it starts."""
  bert_config_file: str
  init_checkpoint: Optional[str] = None
  init_layers: Optional[List[str]] = None


@dataclasses.dataclass(frozen=True)
class RecordOptions:
  """What is read."""
  input_file: str
  eval_input_file: Optional[str] = None
  max_seq_length: int = 128
  max_predictions_per_seq: int = 20
  truncation_factor: int = 10


@dataclasses.dataclass(frozen=True)
class ScheduleOptions:
  """How long training is, and what a step takes."""
  train_batch_size: int = 32
  gradient_accumulation_steps: int = 1
  learning_rate: float = 5e-5
  num_train_steps: int = 100000
  num_warmup_steps: int = 10000
  random_seed: int = 12345
  save_checkpoints_steps: int = 1000
  keep_checkpoint_max: int = 5


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
  """How checkpoints are evaluated."""
  eval_batch_size: int = 8
  max_eval_steps: int = 100
  eval_every_checkpoint: bool = False
  best_checkpoint_by: str = evaluation.BEST_BY[0]


@dataclasses.dataclass(frozen=True)
class TpuOptions:
  """Which TPU to run on."""
  use_tpu: bool = False
  tpu_name: Optional[str] = None
  tpu_zone: Optional[str] = None
  gcp_project: Optional[str] = None
  master: Optional[str] = None
  num_tpu_cores: int = 8
  iterations_per_loop: int = 1000


@dataclasses.dataclass(frozen=True)
class TrainerOptions:
  """Everything that a trainer is told.

  Attributes:
    output_dir: folder for checkpoints, results and the exported student.
    do_train: whether to train.
    do_eval: whether to evaluate.
    model: the student and where it starts.
    records: what is read.
    loss: what the student learns from.
    schedule: how long training is.
    evaluation: how checkpoints are evaluated.
    device: precision and compiler.
    tpu: which TPU to run on.
  """
  output_dir: str
  do_train: bool
  do_eval: bool
  model: ModelOptions
  records: RecordOptions
  loss: losses.LossOptions = losses.LossOptions()
  schedule: ScheduleOptions = ScheduleOptions()
  evaluation: EvaluationOptions = EvaluationOptions()
  device: devices.DeviceOptions = devices.DeviceOptions()
  tpu: TpuOptions = TpuOptions()

"""Flags of both trainers, and the dataclasses that hold their values.

`util.command_line.options(TrainerOptions)` fills the dataclasses from flags.
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
  _define_model_flags()
  _define_loss_flags()
  _define_training_flags()
  _define_evaluation_and_device_flags()


def _define_model_flags() -> None:
  flags.DEFINE_string(
      "bert_config_file", None,
      "Config of the student, a JSON file like BERT's bert_config.json.")
  flags.DEFINE_string(
      "input_file", None,
      "Labelled records to train on: paths and patterns, separated by commas.")
  flags.DEFINE_string(
      "eval_input_file", None,
      "Held-out records to evaluate on. Without this flag evaluation reads the "
      "training data of input_file.")
  flags.DEFINE_string(
      "output_dir", None,
      "Folder for checkpoints and eval_results.txt; created if missing. "
      "Training resumes from the newest checkpoint in the folder and finally "
      "exports the student to student/ in the layout of Google's BERT: "
      "bert_config.json and bert_model.ckpt.*, without the optimizer's slots.")
  flags.DEFINE_string(
      "init_checkpoint", None,
      "Checkpoint to start from, often the teacher's. Variables are matched by "
      "name; variables that the checkpoint lacks are newly initialised.")
  flags.DEFINE_list(
      "init_layers", None,
      "Layers of init_checkpoint that become the student's layers 0, 1 and so "
      "on, such as 0,2,4; default: layers with the same numbers.")


def _define_loss_flags() -> None:
  flags.DEFINE_integer(
      "truncation_factor", 10,
      "K, the number of teacher tokens that the records store for each slot; "
      "with hidden states, the number that evaluation compares.",
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
      "w at the last step with --hard_label_schedule=linear; 1 if not given.",
      lower_bound=0.0, upper_bound=1.0)
  flags.DEFINE_float(
      "temperature", 1.0,
      "T divides the student's logits, and T^2 multiplies the loss against the "
      "teacher. Must be the temperature of the records; hidden states allow "
      "any value.")
  flags.DEFINE_enum(
      "tail_mass", "drop", losses.TAIL_MASSES,
      "How to treat the teacher's probability outside the K stored tokens: "
      "drop ignores this rest, renormalize scales the K probabilities to a sum "
      "of 1, bucket compares the rests of teacher and student as one token.")
  flags.DEFINE_float(
      "hidden_cosine_weight", 0.0,
      "Weight in the loss of 1 - cos(student, teacher) of the hidden states "
      "before the decoders; needs records with hidden states.",
      lower_bound=0.0)
  flags.DEFINE_bool(
      "hidden_projection", False,
      "Whether a learned matrix projects the student's hidden states to the "
      "teacher's hidden_size first. The exported student has no such matrix.")
  flags.DEFINE_float(
      "next_sentence_weight", 1.0,
      "Weight of the next-sentence loss. At 0 the next-sentence head is not "
      "trained, and evaluation leaves out its metrics.",
      lower_bound=0.0)


def _define_training_flags() -> None:
  flags.DEFINE_bool("do_train", False, "Whether to train.")
  flags.DEFINE_bool(
      "do_eval", False,
      "Whether to evaluate: the newest checkpoint of output_dir, else "
      "init_checkpoint.")
  input_pipeline.define_flags()
  flags.DEFINE_integer(
      "train_batch_size", 32,
      "Sequences in a micro-batch, per process; a training step reads "
      "gradient_accumulation_steps micro-batches.", lower_bound=1)
  flags.DEFINE_integer(
      "eval_batch_size", 8, "Sequences in an evaluation step.", lower_bound=1)
  flags.DEFINE_float(
      "learning_rate", 5e-5,
      "Highest learning rate of AdamW, multiplied by the number of processes.",
      lower_bound=0.0)
  flags.DEFINE_integer(
      "num_train_steps", 100000,
      "Steps of training; divided by the number of processes. A run that "
      "resumes with another number of sequences per step ends when training "
      "has read all sequences of the current command.", lower_bound=1)
  flags.DEFINE_integer(
      "num_warmup_steps", 10000,
      "Steps over which the learning rate rises; divided by the number of "
      "processes.", lower_bound=0)
  flags.DEFINE_integer(
      "save_checkpoints_steps", 1000, "Steps between two checkpoints.",
      lower_bound=1)
  flags.DEFINE_integer(
      "keep_checkpoint_max", 5,
      "Number of newest checkpoints to keep; 0 keeps all.",
      lower_bound=0)
  flags.DEFINE_integer(
      "random_seed", 12345,
      "Seed of new weights, of dropout and of the order of records.")


def _define_evaluation_and_device_flags() -> None:
  flags.DEFINE_integer(
      "iterations_per_loop", 1000, "Training steps per call of a TPU.",
      lower_bound=1)
  flags.DEFINE_integer(
      "max_eval_steps", 100,
      "Maximum number of batches to evaluate on. The default is 100 x 8 = 800 "
      "records.",
      lower_bound=1)
  flags.DEFINE_bool(
      "eval_every_checkpoint", False,
      "Whether to evaluate each checkpoint during training and keep the best "
      "one in output_dir/best, which is then exported to student/.")
  flags.DEFINE_enum(
      "best_checkpoint_by", evaluation.BEST_BY[0], evaluation.BEST_BY,
      "The metric that is lowest at the best checkpoint: the divergence from "
      "the teacher, or the cross entropy of the masked tokens, which needs no "
      "teacher labels.")
  flags.DEFINE_enum(
      "precision", "fp32", devices.PRECISIONS,
      "Precision of matrix products: bf16 on CPUs and GPUs that support "
      "bfloat16, fp16 with dynamic loss scaling on GPUs. Variables stay "
      "float32.")
  flags.DEFINE_bool(
      "use_xla", False, "Whether to compile the graph with XLA.")
  flags.DEFINE_integer(
      "gradient_accumulation_steps", 1,
      "Micro-batches of train_batch_size whose gradients one step accumulates, "
      "for batches that do not fit into memory.",
      lower_bound=1)
  flags.DEFINE_bool("use_tpu", False, "Whether to run on a TPU.")
  flags.DEFINE_string("tpu_name", None, "Name or grpc:// address of the TPU.")
  flags.DEFINE_string("tpu_zone", None, "Zone of the TPU.")
  flags.DEFINE_string("gcp_project", None, "Project of the TPU.")
  flags.DEFINE_string("master", None, "Address of a TensorFlow master.")
  flags.DEFINE_integer("num_tpu_cores", 8, "Cores of the TPU.", lower_bound=1)


# Fields have the names of the flags, whose help texts describe them.


@dataclasses.dataclass(frozen=True)
class ModelOptions:
  """The student and its initial checkpoint."""
  bert_config_file: str
  init_checkpoint: Optional[str] = None
  init_layers: Optional[List[str]] = None


@dataclasses.dataclass(frozen=True)
class RecordOptions:
  """The records to read, and their shape."""
  input_file: str
  eval_input_file: Optional[str] = None
  max_seq_length: int = 128
  max_predictions_per_seq: int = 20
  truncation_factor: int = 10


@dataclasses.dataclass(frozen=True)
class ScheduleOptions:
  """Batches, learning rate, steps and checkpoints of training."""
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
  """Evaluation of checkpoints."""
  eval_batch_size: int = 8
  max_eval_steps: int = 100
  eval_every_checkpoint: bool = False
  best_checkpoint_by: str = evaluation.BEST_BY[0]


@dataclasses.dataclass(frozen=True)
class TpuOptions:
  """The TPU to run on."""
  use_tpu: bool = False
  tpu_name: Optional[str] = None
  tpu_zone: Optional[str] = None
  gcp_project: Optional[str] = None
  master: Optional[str] = None
  num_tpu_cores: int = 8
  iterations_per_loop: int = 1000


@dataclasses.dataclass(frozen=True)
class TrainerOptions:
  """All options of a trainer.

  Attributes:
    output_dir: folder for checkpoints, results and the exported student.
    do_train: whether to train.
    do_eval: whether to evaluate.
    model: the student and its initial checkpoint.
    records: the records to read, and their shape.
    loss: terms of the loss, and their weights.
    schedule: batches, learning rate, steps and checkpoints.
    evaluation: evaluation of checkpoints.
    device: precision and compiler.
    tpu: the TPU to run on.
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

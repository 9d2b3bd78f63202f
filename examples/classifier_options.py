"""Flags of fine_tune_classifier.py, their values and their checks."""

import collections
import dataclasses
import math
from typing import Collection, List, Optional

from absl import flags

from distillation import devices
from examples.classification import format_rate
from util import files
from util.command_line import InputError

# BERT's recipe (Devlin et al. 2018, arXiv 1810.04805, appendix A.3).
_LEARNING_RATES = "2e-5,3e-5,5e-5"
# [CLS] a [SEP] b [SEP], with a token in each text.
_MIN_SEQ_LENGTH = 5
# Flags that have no effect on a finished classifier.
_TRAINING_FLAGS = (
    "bert_config_file", "init_checkpoint", "vocab_file", "train_batch_size",
    "learning_rate", "num_train_epochs", "random_seed", "temperature",
    "hard_label_weight")


@dataclasses.dataclass(frozen=True)
class Options:
  """The values of the flags of the same names."""
  output_dir: str
  train_file: Optional[str]
  soft_label_file: Optional[str]
  temperature: float
  hard_label_weight: float
  eval_file: Optional[str]
  eval_soft_label_file: Optional[str]
  predict_file: Optional[str]
  output_file: Optional[str]
  overwrite: bool
  bert_config_file: Optional[str]
  init_checkpoint: Optional[str]
  vocab_file: Optional[str]
  do_lower_case: bool
  max_seq_length: int
  train_batch_size: int
  learning_rate: str
  num_train_epochs: float
  precision: str
  random_seed: int
  strip_accents: Optional[bool] = None


def define_flags() -> None:
  """Defines the flags."""
  flags.DEFINE_string(
      "output_dir", None,
      "Folder of the classifier and its results; created if missing.")
  flags.DEFINE_string(
      "train_file", None,
      "Training texts, UTF-8. Each line has a label, a tab and a text, or a "
      "label and two texts with tabs between them. Without train_file and "
      "soft_label_file, the script applies the classifier in output_dir.")
  _define_teacher_flags()
  flags.DEFINE_string(
      "eval_file", None,
      "Held-out texts to evaluate on, in the format of train_file. Without "
      "any files the script labels the lines of stdin.")
  flags.DEFINE_string(
      "bert_config_file", None,
      "Config of the model to fine-tune. Required for training, as is "
      "vocab_file.")
  flags.DEFINE_string(
      "init_checkpoint", None,
      "Checkpoint to start from, such as folder/bert_model.ckpt. Without this "
      "flag the model trains from scratch, as a baseline.")
  flags.DEFINE_string("vocab_file", None, "Vocabulary of the model.")
  flags.DEFINE_bool(
      "do_lower_case", True,
      "Whether to lower the case and drop accents; True for uncased models.")
  flags.DEFINE_bool(
      "strip_accents", None,
      "Whether to drop accents. Default: the value of do_lower_case.")
  flags.DEFINE_integer(
      "max_seq_length", 128,
      "Maximum number of tokens in a sequence, with [CLS] and [SEP]. Longer "
      "texts are truncated.", lower_bound=_MIN_SEQ_LENGTH)
  flags.DEFINE_integer(
      "train_batch_size", 32, "Number of sequences in a training step.",
      lower_bound=1)
  flags.DEFINE_string(
      "learning_rate", _LEARNING_RATES,
      "Peak learning rates of AdamW, separated by commas. A held-back tenth of "
      "train_file selects the best of several rates; without train_file, a "
      "held-back tenth of soft_label_file does. Small students need higher "
      "rates than BERT, 1e-4 to 3e-4.")
  flags.DEFINE_float(
      "num_train_epochs", 3.0, "Number of passes over the training texts.",
      lower_bound=0.0, upper_bound=1000.0)
  flags.DEFINE_enum(
      "precision", "fp32", devices.PRECISIONS,
      "Arithmetic of the matrix products: bf16 on CPUs and GPUs that support "
      "bf16, fp16 with dynamic loss scaling on GPUs. Variables stay float32.")
  flags.DEFINE_integer(
      "random_seed", 12345,
      "Seed of new weights, dropout, the order of the training texts and the "
      "choice of held-back texts.", lower_bound=0, upper_bound=2**31 - 1)


def _define_teacher_flags() -> None:
  """Defines the flags for writing soft labels and for training on them."""
  flags.DEFINE_string(
      "soft_label_file", None,
      "Soft labels to train on, a teacher's output_file, with or without "
      "train_file. The two files may share texts.")
  flags.DEFINE_float(
      "temperature", 1.0,
      "Softens the soft labels and the student's probabilities in the loss.",
      lower_bound=0.01, upper_bound=1000.0)
  flags.DEFINE_float(
      "hard_label_weight", 0.5,
      "w: for texts in both train_file and soft_label_file, the true label has "
      "the weight w in the loss, and the soft label has 1 - w.",
      lower_bound=0.0, upper_bound=1.0)
  flags.DEFINE_string(
      "eval_soft_label_file", None,
      "The teacher's soft labels of the texts of eval_file. The results then "
      "include the agreement with the teacher.")
  flags.DEFINE_string(
      "predict_file", None,
      "Texts without labels, one text or two texts per line. The classifier in "
      "output_dir writes the probability of each label to output_file.")
  flags.DEFINE_string(
      "output_file", None, "File for the soft labels, tab-separated.")
  flags.DEFINE_bool(
      "overwrite", False,
      "Whether to replace an output_file made with other settings.")


def parse_rates(text: str) -> List[float]:
  """Returns the learning rates of the flag's value, in ascending order.

  Raises:
    InputError: if a learning rate is invalid or occurs twice.
  """
  rates = []
  for part in text.split(","):
    try:
      rates.append(float(part))
    except ValueError:
      rates.append(math.nan)
    if not 0 < rates[-1] < math.inf:
      raise InputError(
          "--learning_rate={}: {!r} is not a learning rate; give positive "
          "numbers, separated by commas, such as {}".format(
              text, part, _LEARNING_RATES))
  name, count = collections.Counter(
      map(format_rate, rates)).most_common(1)[0]
  if count > 1:
    raise InputError("--learning_rate={} has {} twice; give each learning rate "
                     "once".format(text, name))
  return sorted(rates)


def check_training(options: Options, given: Collection[str]) -> None:
  """Checks the flags of a training.

  Args:
    options: options with train_file, soft_label_file or both.
    given: names of the flags on the command line.

  Raises:
    InputError: if the flags do not fit together.
  """
  file_flag = "train_file" if options.train_file else "soft_label_file"
  for name, content in (("bert_config_file", "config"),
                        ("vocab_file", "vocabulary")):
    if not getattr(options, name):
      raise InputError("--{} needs --{}, the {} of the model to fine-tune; see "
                       "--help".format(file_flag, name, content))
  if not options.num_train_epochs > 0:
    raise InputError("--num_train_epochs={} must be over 0; give for example "
                     "3".format(options.num_train_epochs))
  if options.predict_file or options.output_file:
    name = "predict_file" if options.predict_file else "output_file"
    raise InputError(
        "--{0} labels texts with a finished classifier; remove --{0}, and "
        "label texts after training, with --output_dir={1} and without "
        "--{2}".format(name, options.output_dir, file_flag))
  if not options.soft_label_file and options.temperature != 1:
    raise InputError(
        "--temperature={} softens soft labels, but there is no "
        "--soft_label_file; give --soft_label_file, or remove --temperature"
        .format(options.temperature))
  for name in ("train_file", "soft_label_file"):
    if "hard_label_weight" in given and not getattr(options, name):
      raise InputError(
          "--hard_label_weight={} weighs true labels against soft labels, but "
          "there is no --{}; give --{}, or remove --hard_label_weight".format(
              options.hard_label_weight, name, name))
  _check_eval_files(options)


def check_applying(options: Options, given: Collection[str]) -> None:
  """Checks the flags of labelling or evaluation.

  Args:
    options: options without train_file and soft_label_file.
    given: names of the flags on the command line.

  Raises:
    InputError: if a flag has no effect, or if the flags do not fit together.
  """
  for name in _TRAINING_FLAGS:
    if name in given and getattr(options, name) not in (None, ""):
      raise InputError(
          "--{0}={1} has no effect: without --train_file or --soft_label_file, "
          "the script applies the classifier in --output_dir={2}; remove "
          "--{0}, or give --train_file".format(
              name, getattr(options, name), options.output_dir))
  if bool(options.predict_file) != bool(options.output_file):
    raise InputError(
        "--predict_file (texts to label) and --output_file (soft labels to "
        "write) belong together; give both")
  if options.predict_file and files.is_same(
      options.predict_file, options.output_file or ""):
    raise InputError(
        "--output_file={} is --predict_file, and would replace the texts; name "
        "another file".format(options.output_file))
  if options.predict_file and options.eval_file:
    raise InputError(
        "--predict_file (texts without labels) and --eval_file (texts with "
        "labels) exclude each other; give one of them")
  _check_eval_files(options)


def _check_eval_files(options: Options) -> None:
  """Raises InputError if soft labels to evaluate on lack their texts."""
  if options.eval_soft_label_file and not options.eval_file:
    raise InputError(
        "--eval_soft_label_file={} needs --eval_file; give the same texts with "
        "their true labels as --eval_file".format(options.eval_soft_label_file))

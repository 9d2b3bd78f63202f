"""The folder of a classifier: what is in it, and how it was made."""

import dataclasses
import json
import os
from typing import Any, Dict, NamedTuple, Optional, Sequence

from absl import logging
import tensorflow as tf

from distillation import checkpoints
from examples.classification import ENCODER_SCOPE, Encoding, HEAD_VARIABLES
import modeling
from records import sampling
import tokenization
from util import files
from util.command_line import InputError

# Files beside the config, the checkpoint and the results.
VOCAB_FILE = "vocab.txt"
LABELS_FILE = "labels.txt"
_NOTES_FILE = "fine_tuning.json"


@dataclasses.dataclass(frozen=True)
class Notes:
  """Progress and settings of output_dir.

  Attributes:
    settings: values of flags, fingerprints for files; by flag.
    candidates: by learning rate, accuracy and loss on what was held back.
    learning_rates: those that the classifier's one was chosen from.
    learning_rate: that of the classifier; None before it is finished.
    evaluated: fingerprints of the files that the results are of, or None.
  """
  settings: Dict[str, Any]
  candidates: Dict[str, Dict[str, float]] = dataclasses.field(
      default_factory=dict)
  learning_rates: Sequence[str] = ()
  learning_rate: Optional[str] = None
  evaluated: Optional[str] = None

  def write(self, output_dir: str) -> None:
    files.write_atomically(
        os.path.join(output_dir, _NOTES_FILE),
        json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n")

  @classmethod
  def read(cls, output_dir: str,
           flag: str = "output_dir") -> Optional["Notes"]:
    """Reads the notes of a folder; None where there are none.

    Args:
      output_dir: the folder.
      flag: name of the flag that named it, for errors.

    Raises:
      InputError: they are damaged.
    """
    path = os.path.join(output_dir, _NOTES_FILE)
    if not os.path.exists(path):
      return None
    try:
      with open(path, encoding="utf-8") as file:
        notes = cls(**json.load(file))
      if not (isinstance(notes.settings, dict) and all(
          {"accuracy", "loss"} == set(candidate)
          for candidate in notes.candidates.values())):
        raise ValueError("unexpected values")
      return notes
    except (ValueError, TypeError, AttributeError) as error:
      raise InputError("--{}: {} is damaged ({}); remove the folder, or give "
                       "another one".format(flag, path, error)) from None

  def results(self) -> Dict[str, float]:
    """Returns the learning rates' figures of eval_results.txt, by key."""
    assert self.learning_rate is not None
    results = {"learning_rate": float(self.learning_rate)}
    if len(self.learning_rates) > 1:
      for rate in self.learning_rates:
        results["dev_accuracy_" + rate] = self.candidates[rate]["accuracy"]
    return results


class Model(NamedTuple):
  """Content of a folder, without the values of the variables.

  Attributes:
    config: size of the model.
    encoding: how texts become examples.
    notes: how it was made.
  """
  config: modeling.BertConfig
  encoding: Encoding
  notes: Notes


def load(output_dir: str, flag: str = "output_dir") -> Model:
  """Reads and checks what `fine_tune` has written.

  Args:
    output_dir: the folder of the classifier.
    flag: name of the flag that named it, for errors.

  Raises:
    InputError: there is no classifier, or it is not finished or damaged.
  """
  notes = Notes.read(output_dir, flag)
  if notes is None or not notes.learning_rate:
    raise InputError(
        "--{}={} holds no {}classifier; examples/fine_tune_classifier.py "
        "trains one with --train_file, --bert_config_file and "
        "--vocab_file".format(
            flag, output_dir, "finished " if notes else ""))
  config = checkpoints.load_config(
      os.path.join(output_dir, checkpoints.CONFIG_FILE),
      notes.settings["max_seq_length"])
  vocab = read_vocabulary(os.path.join(output_dir, VOCAB_FILE), config)
  path = os.path.join(output_dir, LABELS_FILE)
  files.check_file(path, flag)
  with open(path, encoding="utf-8", newline="\n") as file:
    labels = file.read().split("\n")[:-1]
  checkpoint = os.path.join(output_dir, checkpoints.CHECKPOINT_FILE)
  check_encoder(config, checkpoint, flag)
  shapes = dict(tf.train.list_variables(checkpoint))
  if [shapes.get(name) for name in HEAD_VARIABLES] != [
      [len(labels), config.hidden_size], [len(labels)]]:
    raise InputError(
        "--{}: {} does not fit the {} labels of {}; train again in another "
        "folder".format(flag, checkpoint, len(labels), path))
  return Model(config, Encoding(
      tokenization.FullTokenizer.from_vocab(
          vocab, notes.settings["do_lower_case"],
          notes.settings.get("strip_accents")),
      labels, notes.settings["max_seq_length"]), notes)


def read_vocabulary(path: str, config: modeling.BertConfig) -> Dict[str, int]:
  """Reads a vocabulary that fits a config; returns ids by token.

  Raises:
    InputError: it is no vocabulary, or larger than the model's.
  """
  vocab = sampling.read_vocabulary(path)
  size = max(vocab.values()) + 1
  if size > config.vocab_size:
    raise InputError(
        "--vocab_file: {} has {} tokens, but --bert_config_file has vocab_size "
        "{}; give the vocabulary that belongs to the model".format(
            path, size, config.vocab_size))
  if size < config.vocab_size:
    logging.warning(
        "--vocab_file: %s has %d tokens, --bert_config_file has vocab_size %d; "
        "they may not belong together.", path, size, config.vocab_size)
  return vocab


def check_encoder(config: modeling.BertConfig, checkpoint: str,
                  flag: str) -> None:
  """Checks that a checkpoint holds the whole encoder and pooler.

  Args:
    config: size of the model.
    checkpoint: path, without `.index`.
    flag: name of the flag that named it, for errors.

  Raises:
    InputError: it does not.
  """
  match = checkpoints.match_checkpoint(config, checkpoint, flag)
  missing, unused = (
      [name for name in names if name.startswith(ENCODER_SCOPE)]
      for names in (match.missing, match.unused))
  if missing:
    raise InputError(
        "--{}: {} lacks {} of the model's variables, such as {}; give the "
        "config and the checkpoint of one model".format(
            flag, checkpoint, len(missing), missing[0]))
  if unused:
    logging.warning(
        "--%s: %s has %d variables that the config does not have, such as %s; "
        "they are not used.", flag, checkpoint, len(unused), unused[0])

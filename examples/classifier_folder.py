"""Reads and checks the folder of a classifier."""

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

# Files in addition to the config, the checkpoint and the results.
VOCAB_FILE = "vocab.txt"
LABELS_FILE = "labels.txt"
_NOTES_FILE = "fine_tuning.json"


@dataclasses.dataclass(frozen=True)
class Notes:
  """Settings and progress of a classifier's training.

  Attributes:
    settings: by flag, the value, or the fingerprint of a file.
    candidates: by learning rate, accuracy and loss on the held-back examples.
    learning_rates: the learning rates that were compared.
    learning_rate: the classifier's learning rate; None before training ends.
    evaluated: fingerprints of the evaluation files, or None.
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
    """Reads the notes of a folder; returns None for a folder without notes.

    Args:
      output_dir: path of the folder.
      flag: name of the flag that has the path, for errors.

    Raises:
      InputError: if the notes are damaged.
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
                       "another folder".format(flag, path, error)) from None

  def results(self) -> Dict[str, float]:
    """Returns the learning rates' values for eval_results.txt, by key."""
    assert self.learning_rate is not None
    results = {"learning_rate": float(self.learning_rate)}
    if len(self.learning_rates) > 1:
      for rate in self.learning_rates:
        results["dev_accuracy_" + rate] = self.candidates[rate]["accuracy"]
    return results


class Model(NamedTuple):
  """Contents of a folder, without the values of the variables.

  Attributes:
    config: config of the model.
    encoding: encodes texts as examples.
    notes: settings and progress of the training.
  """
  config: modeling.BertConfig
  encoding: Encoding
  notes: Notes


def load(output_dir: str, flag: str = "output_dir") -> Model:
  """Reads and checks a classifier of fine_tune_classifier.py.

  Args:
    output_dir: path of the classifier's folder.
    flag: name of the flag that has the path, for errors.

  Raises:
    InputError: if the folder holds no classifier, or if the classifier is
      unfinished or damaged.
  """
  notes = Notes.read(output_dir, flag)
  if notes is None or not notes.learning_rate:
    raise InputError(
        "--{}={} holds no {}classifier; train a classifier with "
        "examples/fine_tune_classifier.py and --train_file, "
        "--bert_config_file and --vocab_file".format(
            flag, output_dir, "finished " if notes else ""))
  config_file = os.path.join(output_dir, checkpoints.CONFIG_FILE)
  config = checkpoints.load_config(config_file, flag=flag)
  max_seq_length = notes.settings["max_seq_length"]
  if max_seq_length > config.max_position_embeddings:
    raise InputError(
        "--{}: {} has max_position_embeddings {}, but the classifier was "
        "trained with --max_seq_length={}; copy the classifier's folder again"
        .format(flag, config_file, config.max_position_embeddings,
                max_seq_length))
  vocab = read_vocabulary(
      os.path.join(output_dir, VOCAB_FILE), config, flag, config_file)
  path = os.path.join(output_dir, LABELS_FILE)
  files.check_file(path, flag)
  with open(path, encoding="utf-8", newline="\n") as file:
    labels = file.read().split("\n")[:-1]
  checkpoint = os.path.join(output_dir, checkpoints.CHECKPOINT_FILE)
  check_encoder(config, checkpoint, flag, config_file)
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
      labels, max_seq_length), notes)


def read_vocabulary(
    path: str, config: modeling.BertConfig, flag: str = "vocab_file",
    config_source: str = "--bert_config_file") -> Dict[str, int]:
  """Reads a vocabulary that fits a config; returns ids by token.

  Args:
    path: path of the vocabulary.
    config: config of the model.
    flag: name of the flag that gave the path or its folder, for errors.
    config_source: the flag or the path that gave the config, for errors.

  Raises:
    InputError: if the vocabulary is invalid, or larger than the model's.
  """
  vocab = sampling.read_vocabulary(path, flag)
  size = max(vocab.values()) + 1
  if size > config.vocab_size:
    raise InputError(
        "--{}: {} has {} tokens, but {} has vocab_size {}; use the vocabulary "
        "of the model".format(
            flag, path, size, config_source, config.vocab_size))
  if size < config.vocab_size:
    logging.warning(
        "--%s: %s has %d tokens, %s has vocab_size %d; the two may be of "
        "different models.", flag, path, size, config_source,
        config.vocab_size)
  return vocab


def check_encoder(config: modeling.BertConfig, checkpoint: str, flag: str,
                  config_source: str = "--bert_config_file") -> None:
  """Checks that a checkpoint holds the whole encoder and pooler.

  Args:
    config: config of the model.
    checkpoint: path of the checkpoint, without `.index`.
    flag: name of the flag that gave the path or its folder, for errors.
    config_source: the flag or the path that gave the config, for errors.

  Raises:
    InputError: if the checkpoint lacks a variable.
  """
  match = checkpoints.match_checkpoint(
      config, checkpoint, flag, config_source=config_source)
  missing, unused = (
      [name for name in names if name.startswith(ENCODER_SCOPE)]
      for names in (match.missing, match.unused))
  if missing:
    raise InputError(
        "--{}: {} lacks {} of the model's variables, such as {}; give the "
        "config and the checkpoint of the same model".format(
            flag, checkpoint, len(missing), missing[0]))
  if unused:
    logging.warning(
        "--%s: %s has %d variables that the model of the config lacks, such as "
        "%s; these are not used.", flag, checkpoint, len(unused), unused[0])

"""Tests of the checks of fine_tune_classifier.py's flags."""

import pytest

from examples import classifier_options
from util.command_line import InputError

_MODEL = {"bert_config_file": "config.json", "vocab_file": "vocab.txt"}


def _options(**changes):
  return classifier_options.Options(**{**dict(
      output_dir="out", train_file=None, soft_label_file=None,
      temperature=1.0, hard_label_weight=0.5, eval_file=None,
      eval_soft_label_file=None, predict_file=None, output_file=None,
      overwrite=False, bert_config_file=None, init_checkpoint=None,
      vocab_file=None, do_lower_case=True, max_seq_length=10,
      train_batch_size=16, learning_rate="0.003", num_train_epochs=1.0,
      precision="fp32", random_seed=1), **changes})


@pytest.mark.parametrize("given_file, missing", [
    ("train_file", "soft_label_file"), ("soft_label_file", "train_file")])
def test_a_weight_without_two_kinds_of_labels_is_refused(given_file, missing):
  """The default weight is no error."""
  options = _options(**{given_file: "a.tsv"}, **_MODEL)
  classifier_options.check_training(options, _MODEL)
  with pytest.raises(InputError) as error:
    classifier_options.check_training(options, {"hard_label_weight"})
  assert str(error.value).startswith("--hard_label_weight=0.5 ")
  assert "no --{0}; give --{0}, or remove".format(missing) in str(error.value)
  classifier_options.check_training(
      _options(train_file="a.tsv", soft_label_file="b.tsv", **_MODEL),
      {"hard_label_weight"})


@pytest.mark.parametrize("name", [
    "bert_config_file", "init_checkpoint", "vocab_file", "train_batch_size",
    "learning_rate", "num_train_epochs", "random_seed", "temperature",
    "hard_label_weight"])
def test_a_training_flag_for_a_finished_classifier_is_refused(name):
  options = _options(init_checkpoint="a.ckpt", **_MODEL)
  classifier_options.check_applying(options, {"max_seq_length", "precision"})
  with pytest.raises(InputError) as error:
    classifier_options.check_applying(options, {name})
  for words in ("--{}={} has".format(name, getattr(options, name)),
                "--output_dir=out",
                "remove --{}, or give --train_file".format(name)):
    assert words in str(error.value)


def test_an_empty_path_counts_as_no_flag():
  classifier_options.check_applying(
      _options(init_checkpoint=""), {"init_checkpoint"})

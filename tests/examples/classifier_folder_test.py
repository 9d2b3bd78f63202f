"""Tests of reading a classifier's folder."""

import json

import pytest

from examples import classifier_folder
import tiny
from util.command_line import InputError

_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(
    "w{}".format(i) for i in range(tiny.CONFIG.vocab_size - 5))]


@pytest.fixture(name="folder")
def _folder(tmp_path):
  """A finished classifier for two labels."""
  tiny.write_config(tmp_path / "bert_config.json")
  (tmp_path / "vocab.txt").write_text("\n".join(_TOKENS) + "\n")
  (tmp_path / "labels.txt").write_text("no\nyes\n")
  variables = tiny.random_variables()
  tiny.write_checkpoint(tmp_path / "bert_model.ckpt", {
      **{name: value for name, value in variables.items()
         if name.startswith("bert/")},
      "output_weights": variables["cls/seq_relationship/output_weights"],
      "output_bias": variables["cls/seq_relationship/output_bias"]})
  _write_notes(tmp_path, max_seq_length=16)
  return tmp_path


def _write_notes(folder, max_seq_length):
  (folder / "fine_tuning.json").write_text(json.dumps({
      "settings": {"max_seq_length": max_seq_length, "do_lower_case": True},
      "learning_rate": "0.001"}))


def test_a_folder_is_read(folder):
  model = classifier_folder.load(str(folder))
  assert model.config == tiny.CONFIG
  assert model.encoding.labels == ["no", "yes"]
  assert model.encoding.max_seq_length == 16


@pytest.mark.parametrize("name, content, words", [
    ("vocab.txt", "\n".join([*_TOKENS, "more"]),
     "{folder}/vocab.txt has 30 tokens, but {folder}/bert_config.json has "
     "vocab_size 29; use the vocabulary of the model"),
    ("vocab.txt", "[UNK]\n", "{folder}/vocab.txt has 1 lines but no [CLS]"),
    ("vocab.txt", "\n".join([_TOKENS[0], "", *_TOKENS[1:]]),
     "line 2 of {folder}/vocab.txt is blank"),
    ("vocab.txt", "a\na\n", "{folder}/vocab.txt"),
    ("vocab.txt", None, "there is no file {folder}/vocab.txt"),
    ("bert_config.json", "{}", "{folder}/bert_config.json: there is no voc"),
    ("bert_config.json", None, "there is no file {folder}/bert_config.json"),
    ("bert_config.json", json.dumps(dict(
        tiny.CONFIG.to_dict(), intermediate_size=5)),
     "has shape [8, 12], but shape [8, 5] by {folder}/bert_config.json"),
    ("bert_config.json", json.dumps(dict(
        tiny.CONFIG.to_dict(), max_position_embeddings=15)),
     "{folder}/bert_config.json has max_position_embeddings 15, but the "
     "classifier was trained with --max_seq_length=16"),
])
def test_an_error_names_the_file_and_the_flag_of_the_folder(
    folder, name, content, words):
  if content is None:
    (folder / name).unlink()
  else:
    (folder / name).write_text(content)
  with pytest.raises(InputError) as error:
    classifier_folder.load(str(folder), "classifier_dir")
  assert str(error.value).startswith("--classifier_dir: ")
  assert words.format(folder=folder) in str(error.value)
  for other in ("--vocab_file", "--bert_config_file"):
    assert other not in str(error.value)

"""Tests of export_student.py: each format compared with the checkpoint."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import tensorflow as tf
import tokenizers

from distillation import devices
from examples import classification
from examples import export_student as script
from examples import classifier_folder
from records import schema
import tiny
from util import files
from util.command_line import InputError

_PATH = "examples/export_student.py"
# Matrices of fewer than 1,024 weights stay as they are with 8 bits.
_CONFIG = dataclasses.replace(tiny.CONFIG, vocab_size=48, hidden_size=32,
                              intermediate_size=400)
_VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
               *"abcdefghijklmnopqrstuvwxyz0123456789.,!?':;"]
_LABELS = ("bad", "good", "so so…")
_SHAPE = schema.RecordShape(10, 3, 4)
_FEATURES = (schema.INPUT_IDS, schema.INPUT_MASK, schema.SEGMENT_IDS)


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory):
  """A student, a checkpoint without next-sentence head, and a classifier."""
  folder = tmp_path_factory.mktemp("models")
  variables = tiny.random_variables(_CONFIG)
  tiny.write_config(folder / "bert_config.json", _CONFIG)
  tiny.write_checkpoint(folder / "bert_model.ckpt", variables)
  tiny.write_checkpoint(folder / "masked_lm.ckpt", {
      name: value for name, value in variables.items()
      if not name.startswith(("bert/pooler", "cls/seq_relationship"))})
  (folder / "vocab.txt").write_text("\n".join(_VOCABULARY) + "\n")
  classifier = folder / "classifier"
  classifier.mkdir()
  for name in ("bert_config.json", "vocab.txt"):
    shutil.copy(folder / name, classifier / name)
  generator = np.random.default_rng(3)
  tiny.write_checkpoint(classifier / "bert_model.ckpt", {
      **{name: value for name, value in variables.items()
         if name.startswith("bert/")},
      "output_weights": generator.normal(
          scale=0.2, size=[3, 32]).astype(np.float32),
      "output_bias": generator.normal(size=[3]).astype(np.float32)})
  (classifier / "labels.txt").write_text("".join(
      label + "\n" for label in _LABELS), encoding="utf-8")
  classifier_folder.Notes(
      {"max_seq_length": 10, "do_lower_case": False},
      learning_rate="0.001").write(str(classifier))
  return folder


def _options(folder, output_dir, format_, **changes):
  return script.Options(**{
      "format": format_, "output_dir": str(output_dir),
      "bert_config_file": str(folder / "bert_config.json"),
      "init_checkpoint": str(folder / "bert_model.ckpt"),
      "vocab_file": str(folder / "vocab.txt"), "classifier_dir": None,
      "do_lower_case": True, "max_seq_length": None,
      "max_predictions_per_seq": 3, "weight_bits": "32", "overwrite": False,
      **changes})


def _export(folder, output_dir, format_, **changes):
  options = _options(folder, output_dir, format_, **changes)
  script.export(options, script.read_model(options))
  return output_dir


def _features(seed=1, shape=_SHAPE):
  """Returns a batch of sequences with padding, int32 arrays by name."""
  generator = np.random.default_rng(seed)
  examples = [tiny.random_features(generator, _CONFIG, shape)
              for _ in range(4)]
  return {name: np.stack([features[name] for features in examples]).astype(
      np.int32) for name in (*_FEATURES, schema.MASKED_LM_POSITIONS)}


def _masked_lm_probabilities(folder, features):
  """Returns the probabilities of the project's model, [B, P, V]."""
  logits, _ = tiny.scores(
      _CONFIG, tiny.read_checkpoint(folder / "bert_model.ckpt"), features)
  return tf.nn.softmax(logits).numpy().reshape(
      *features[schema.MASKED_LM_POSITIONS].shape, _CONFIG.vocab_size)


def _label_probabilities(folder, features):
  """Returns the probabilities of the project's classifier, [B, L]."""
  lengths = features[schema.INPUT_MASK].sum(axis=1)
  first_lengths = lengths - features[schema.SEGMENT_IDS].sum(axis=1)
  with classification.Classifier(
      _CONFIG, len(_LABELS), devices.DeviceOptions(),
      str(folder / "classifier/bert_model.ckpt")) as classifier:
    return np.exp(classifier.predict(classification.Examples(
        [ids[:length] for ids, length in zip(
            features[schema.INPUT_IDS], lengths)],
        first_lengths, np.zeros(len(lengths), np.int32))))


# --- Hugging Face ------------------------------------------------------------


def _assert_weights(output_dir, checkpoint):
  """Compares the sorted weights with a checkpoint: axes may be transposed."""
  weights = safetensors.numpy.load_file(output_dir / "model.safetensors")
  variables = tiny.read_checkpoint(checkpoint)
  assert len(weights) == len(variables)
  assert sorted(np.sort(value, axis=None).tolist()
                for value in weights.values()) == sorted(
                    np.sort(value, axis=None).tolist()
                    for value in variables.values())


def test_a_student_is_exported_for_transformers(tmp_path, folder):
  """A second run changes nothing."""
  output_dir = tmp_path / "new" / "huggingface"
  arguments = (
      "--format=huggingface", "--bert_config_file", folder / "bert_config.json",
      "--init_checkpoint", folder / "bert_model.ckpt", "--vocab_file",
      folder / "vocab.txt", "--output_dir", "{}/".format(output_dir))
  result = tiny.run_script(_PATH, *arguments)
  assert result.returncode == 0, result.stderr
  found = {path.name: path for path in output_dir.iterdir()}
  assert set(found) == {
      "config.json", "model.safetensors", "tokenizer.json",
      "tokenizer_config.json", "special_tokens_map.json", "vocab.txt",
      "exported.json"}
  assert len({path.stat().st_mode for path in found.values()}) == 1
  _assert_weights(output_dir, folder / "bert_model.ckpt")
  with safetensors.safe_open(found["model.safetensors"], "np") as file:
    assert file.metadata() == {"format": "pt"}
  config = json.loads(found["config.json"].read_text())
  assert config["architectures"] == ["BertForPreTraining"]
  assert config["pad_token_id"] == 0 and "id2label" not in config
  assert json.loads(found["tokenizer_config.json"].read_text())[
      "model_max_length"] == 16
  tokenizer = tokenizers.Tokenizer.from_file(str(found["tokenizer.json"]))
  assert tokenizer.encode("A,\tB").tokens == ["[CLS]", "a", ",", "b", "[SEP]"]

  times = {path: path.stat().st_mtime_ns for path in output_dir.iterdir()}
  result = tiny.run_script(_PATH, *arguments)
  assert result.returncode == 0 and "nothing to do" in result.stderr
  assert times == {path: path.stat().st_mtime_ns
                   for path in output_dir.iterdir()}


def test_a_classifier_is_exported_for_transformers(tmp_path, folder):
  output_dir = _export(folder, tmp_path / "out", "huggingface",
                       classifier_dir=str(folder / "classifier"))
  _assert_weights(output_dir, folder / "classifier/bert_model.ckpt")
  config = json.loads((output_dir / "config.json").read_text())
  assert config["architectures"] == ["BertForSequenceClassification"]
  assert list(config["id2label"].values()) == list(_LABELS)
  assert json.loads((output_dir / "tokenizer_config.json").read_text())[
      "model_max_length"] == 10
  assert (output_dir / "labels.txt").read_bytes() == (
      folder / "classifier/labels.txt").read_bytes()
  # The classifier was trained with case.
  tokenizer = tokenizers.Tokenizer.from_file(
      str(output_dir / "tokenizer.json"))
  assert tokenizer.encode("A a").tokens == ["[CLS]", "[UNK]", "a", "[SEP]"]


def test_a_model_without_next_sentence_head_is_exported(tmp_path, folder):
  checkpoint = folder / "masked_lm.ckpt"
  output_dir = _export(folder, tmp_path / "out", "huggingface",
                       init_checkpoint=str(checkpoint))
  _assert_weights(output_dir, checkpoint)
  assert json.loads((output_dir / "config.json").read_text())[
      "architectures"] == ["BertForMaskedLM"]


# --- TensorFlow --------------------------------------------------------------


def _apply_saved_model(output_dir, features):
  model = tf.saved_model.load(str(output_dir))
  return model.signatures["serving_default"](**{
      name: tf.constant(value) for name, value in features.items()})[
          "probabilities"].numpy()


def test_a_student_is_exported_for_serving(tmp_path, folder):
  output_dir = _export(folder, tmp_path / "1", "saved_model",
                       init_checkpoint=str(folder / "masked_lm.ckpt"))
  for features in (_features(), _features(2, schema.RecordShape(7, 2, 4))):
    np.testing.assert_allclose(
        _apply_saved_model(output_dir, features),
        _masked_lm_probabilities(folder, features), atol=1e-5)


def test_a_classifier_is_exported_for_serving(tmp_path, folder):
  output_dir = _export(folder, tmp_path / "1", "saved_model",
                       classifier_dir=str(folder / "classifier"))
  features = _features()
  expected = _label_probabilities(folder, features)
  features.pop(schema.MASKED_LM_POSITIONS)
  np.testing.assert_allclose(
      _apply_saved_model(output_dir, features), expected, atol=1e-5)
  assert expected.std(axis=0).min() > 1e-3  # The sequences differ.
  assert (output_dir / "labels.txt").exists()


def _apply_tflite(output_dir, features):
  """Applies a TensorFlow Lite model to each sequence in turn."""
  runner = tf.lite.Interpreter(
      str(output_dir / "model.tflite")).get_signature_runner()
  return np.concatenate([
      runner(**{name: values[row:row + 1]
                for name, values in features.items()})["probabilities"]
      for row in range(len(features[schema.INPUT_IDS]))])


@pytest.mark.slow
@pytest.mark.parametrize("is_classifier", [False, True])
def test_models_are_exported_for_tflite(tmp_path, folder, is_classifier):
  """Weights of 8 bits give similar probabilities in a smaller file."""
  features, size = _features(), {}
  expected = (_label_probabilities if is_classifier
              else _masked_lm_probabilities)(folder, features)
  if is_classifier:
    features.pop(schema.MASKED_LM_POSITIONS)
  for bits, tolerance in (("32", 1e-5), ("8", 0.1)):
    output_dir = _export(
        folder, tmp_path / bits, "tflite", weight_bits=bits,
        **({"classifier_dir": str(folder / "classifier")} if is_classifier
           else {"max_seq_length": 10}))
    found = _apply_tflite(output_dir, features)
    np.testing.assert_allclose(found, expected, atol=tolerance)
    size[bits] = (output_dir / "model.tflite").stat().st_size
    assert np.abs(found - expected).max() > 0 or bits == "32"
  num_bytes = 4 * sum(value.size for value in tiny.read_checkpoint(
      folder / "bert_model.ckpt").values())
  # Each matrix is stored once; the rest is the graph.
  assert size["32"] < num_bytes + 40000
  assert size["8"] < size["32"] - num_bytes / 2


# --- Errors ------------------------------------------------------------------


@pytest.mark.parametrize("changes, given, words", [
    ({"vocab_file": None}, (), "missing --vocab_file: .*--classifier_dir"),
    ({"classifier_dir": "c"}, ("vocab_file",),
     "--vocab_file has no effect with --classifier_dir=c"),
    ({"classifier_dir": "c"}, ("do_lower_case",), "--do_lower_case has no"),
    ({"classifier_dir": "c"}, ("strip_accents",), "--strip_accents has no"),
    ({"classifier_dir": "c"}, ("max_predictions_per_seq",),
     "--max_predictions_per_seq has no effect"),
    ({"format": "saved_model"}, ("weight_bits",),
     "--weight_bits has no effect with --format=saved_model"),
    ({"output_dir": "gs://bucket/out"}, (), "--output_dir=gs://bucket/out"),
])
def test_unsuitable_flags_are_refused(tmp_path, folder, changes, given, words):
  options = dataclasses.replace(
      _options(folder, tmp_path / "out", "tflite"), **changes)
  with pytest.raises(InputError, match=words):
    script.check_flags(options, given)


@pytest.mark.parametrize("changes, words", [
    ({"init_checkpoint": "{}/classifier/bert_model.ckpt"},
     "lacks 5 of the model's .*cls/predictions.*--classifier_dir"),
    ({"max_seq_length": 17}, "--max_seq_length=17 is over"),
    ({"max_seq_length": 17, "classifier_dir": "{}/classifier"},
     "--max_seq_length=17 is over"),
    ({"classifier_dir": "{}"}, "--classifier_dir=.* holds no classifier"),
    ({"vocab_file": "{}/labels.txt"}, "--vocab_file"),
    ({"output_dir": "{}/classifier"},
     "holds bert_config.json, which this script did not write"),
])
def test_unsuitable_models_are_refused(tmp_path, folder, changes, words):
  changes = {name: value.format(folder) if isinstance(value, str) else value
             for name, value in changes.items()}
  output_dir = pathlib.Path(changes.pop("output_dir", tmp_path / "out"))
  before = _contents(output_dir)
  with pytest.raises(InputError, match=words):
    _export(folder, output_dir, "tflite", **changes)
  assert output_dir.exists() == bool(before)
  assert _contents(output_dir) == before


def _contents(folder):
  """Returns the bytes of the files below a folder, by path."""
  return {path: path.read_bytes() for path in folder.rglob("*")
          if path.is_file()}


def test_another_export_is_replaced_only_if_asked_for(tmp_path, folder):
  output_dir = _export(folder, tmp_path / "out", "huggingface")
  before = (output_dir / "tokenizer.json").read_bytes()
  with pytest.raises(InputError, match="another --do_lower_case: .*overwrite"):
    _export(folder, output_dir, "huggingface", do_lower_case=False)
  with pytest.raises(InputError, match="another --strip_accents: .*overwrite"):
    _export(folder, output_dir, "huggingface", strip_accents=False)
  # --strip_accents defaults to --do_lower_case.
  _export(folder, output_dir, "huggingface", strip_accents=True)
  assert (output_dir / "tokenizer.json").read_bytes() == before
  _export(folder, output_dir, "huggingface", do_lower_case=False,
          overwrite=True)
  assert (output_dir / "tokenizer.json").read_bytes() != before
  # The hidden folder of a killed run is replaced.
  shutil.copytree(output_dir, files.partial_path(str(output_dir)))
  (output_dir / "exported.json").write_text("{")
  _export(folder, output_dir, "huggingface", overwrite=True)
  assert not list(tmp_path.glob(".*"))


def test_an_error_is_one_line(tmp_path, folder):
  tiny.assert_one_line_error(tiny.run_script(
      _PATH, "--format=tflite", "--classifier_dir", folder, "--output_dir",
      tmp_path / "out"), "--classifier_dir", "holds no classifier")

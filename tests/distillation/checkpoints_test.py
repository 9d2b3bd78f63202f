"""Tests of configs and checkpoints: matching, restoring, exporting."""

import dataclasses
import os
import re

import numpy as np
import pytest
import tensorflow as tf

from distillation import checkpoints
import modeling
import tiny
from util.command_line import InputError

tf1 = tf.compat.v1


# --- Configs -----------------------------------------------------------------


def test_a_config_is_read_from_its_file(tmp_path):
  path = tiny.write_config(tmp_path / "bert_config.json", directionality="bidi")
  assert checkpoints.load_config(str(path)) == tiny.CONFIG


@pytest.mark.parametrize("text, message", [
    ("{", "not JSON"), ("\xff", "not JSON"), ("[1]", "no vocab_size"),
    ("{}", "no vocab_size"),
    ('{"vocab_size": "many"}', "vocab_size is 'many'"),
    ('{"vocab_size": 9, "hidden_size": 10, "num_attention_heads": 3}',
     "hidden_size 10.*num_attention_heads 3"),
    ('{"vocab_size": 9, "hidden_act": "mish"}', "hidden_act is 'mish'"),
    ('{"vocab_size": 9, "position_embedding_type": "relative_key"}',
     "position_embedding_type is 'relative_key'.*only 'absolute'"),
    ('{"vocab_size": 9, "embedding_size": 128}', "embedding_size is 128.*768"),
    ('{"vocab_size": 9, "model_type": "albert"}', "model_type is 'albert'"),
    ('{"vocab_size": 9, "tie_word_embeddings": false}', "tie_word_embeddings"),
    ('{"vocab_size": 9, "layer_norm_eps": 1e-05}', "layer_norm_eps is 1e-05"),
    ('{"vocab_size": 9, "is_decoder": true}', "is_decoder is True"),
    ('{"vocab_size": 9, "hidden_dropout_prob": 1.5}', "hidden_dropout_prob"),
])
def test_an_invalid_config_is_an_error(tmp_path, text, message):
  path = tmp_path / "bert_config.json"
  path.write_bytes(text.encode("latin-1"))
  with pytest.raises(
      InputError, match="--bert_config_file.*" + message) as error:
    checkpoints.load_config(str(path))
  assert str(error.value).count(str(path)) == 1


def test_keys_of_other_programs_with_bert_values_are_accepted(tmp_path):
  path = tiny.write_config(
      tmp_path / "bert_config.json", model_type="bert", embedding_size=8,
      position_embedding_type="absolute", layer_norm_eps=1e-12,
      tie_word_embeddings=True, use_cache=True, hidden_act="gelu_new")
  config = checkpoints.load_config(str(path))
  assert modeling.get_activation(config.hidden_act) is modeling.gelu


def test_a_config_that_is_missing_is_an_error(tmp_path):
  for path in (tmp_path / "none.json", tmp_path):
    with pytest.raises(
        InputError, match="--bert_config_file.*(no file|a folder)"):
      checkpoints.load_config(str(path))


def test_sequences_longer_than_the_position_embeddings_are_refused(tmp_path):
  path = str(tiny.write_config(tmp_path / "bert_config.json"))
  assert checkpoints.load_config(path, 16) == tiny.CONFIG
  with pytest.raises(InputError, match="--max_seq_length=17.*16"):
    checkpoints.load_config(path, 17)


# --- Matching and restoring --------------------------------------------------


def _restored_values(config, path, layers=None):
  """Builds a model and restores it; returns its variables by name."""
  with tf.Graph().as_default(), tf1.Session() as session:
    tokens = tf.zeros([1, 4], tf.int32)
    modeling.pretraining_logits(config, False, tokens, tokens, tokens, tokens)
    checkpoints.restore(path, layers)
    session.run(tf1.global_variables_initializer())
    return {variable.op.name: session.run(variable)
            for variable in tf1.trainable_variables()}


@pytest.mark.parametrize("layers", [None, (0, 0)])
def test_a_model_starts_from_a_checkpoint_of_16_bit_variables(tmp_path, layers):
  """Restores float16, bfloat16 and float32 variables of one checkpoint.

  Programs that save in their compute type write these checkpoints. With
  `layers`, layer 0 of the checkpoint becomes both layers of the model.
  """
  saved_config = dataclasses.replace(
      tiny.CONFIG, num_hidden_layers=1 if layers else 2)
  saved = tiny.random_variables(saved_config)
  stored = {name: value.astype(
      np.float32 if "LayerNorm" in name else
      tf.bfloat16.as_numpy_dtype if "kernel" in name else np.float16)
            for name, value in saved.items()}
  path = str(tiny.write_checkpoint(tmp_path / "bert_model.ckpt", stored))
  config = dataclasses.replace(tiny.CONFIG, num_hidden_layers=2)
  values = _restored_values(config, path, layers)
  for name, value in values.items():
    source = name.replace("layer_1", "layer_0") if layers else name
    np.testing.assert_array_equal(value, stored[source].astype("f"), name)


@pytest.mark.parametrize("num_hidden_layers, num_missing", [(1, 0), (3, 16)])
def test_a_model_starts_from_a_checkpoint_of_other_depth(
    tmp_path, num_hidden_layers, num_missing):
  saved_config = dataclasses.replace(tiny.CONFIG, num_hidden_layers=2)
  saved = tiny.random_variables(saved_config)
  path = str(tiny.write_checkpoint(tmp_path / "bert_model.ckpt", dict(
      saved, **{"global_step": np.int64(7),
                "cls/predictions/output_bias/adam_m": np.ones(29, "f")})))
  config = dataclasses.replace(
      tiny.CONFIG, num_hidden_layers=num_hidden_layers)
  match = checkpoints.match_checkpoint(config, path)
  assert len(match.missing) == num_missing
  assert all("layer_2" in name for name in match.missing)
  assert len(match.unused) == (16 if num_hidden_layers == 1 else 0)
  assert all("layer_1" in name for name in match.unused)
  for name, value in _restored_values(config, path).items():
    if name in saved:
      np.testing.assert_array_equal(value, saved[name])
    else:
      assert "layer_2" in name


@pytest.mark.parametrize("layers", [(0, 2), (3, 1), (1, 1)])
def test_a_model_starts_from_chosen_layers(tmp_path, layers):
  saved = tiny.random_variables(
      dataclasses.replace(tiny.CONFIG, num_hidden_layers=4))
  path = str(tiny.write_checkpoint(tmp_path / "bert_model.ckpt", saved))
  config = dataclasses.replace(tiny.CONFIG, num_hidden_layers=2)
  match = checkpoints.match_checkpoint(config, path, layers=layers)
  assert not match.missing
  assert checkpoints.summarize(match.restored) == (
      "bert/embeddings (5), bert/encoder/layer_0 (16), "
      "bert/encoder/layer_1 (16), bert/pooler (2), cls/predictions (5), "
      "cls/seq_relationship (2)")
  found = _restored_values(config, path, layers)
  assert len(found) == 46
  for name, value in found.items():
    source = name
    for layer in range(2):
      if "/layer_{}/".format(layer) in name:
        source = name.replace("layer_{}".format(layer),
                              "layer_{}".format(layers[layer]))
    np.testing.assert_array_equal(value, saved[source])


@pytest.mark.parametrize("layers, message", [
    ((0,), "--init_layers=0 names 1 layers.*num_hidden_layers 2"),
    ((0, 4), "--init_layers.*no layer 4, its layers are 0, 1"),
])
def test_layers_that_do_not_fit_are_refused(tmp_path, layers, message):
  config = dataclasses.replace(tiny.CONFIG, num_hidden_layers=2)
  path = str(tiny.write_checkpoint(
      tmp_path / "bert_model.ckpt", tiny.random_variables(config)))
  with pytest.raises(InputError, match=message):
    checkpoints.match_checkpoint(config, path, layers=layers)


def test_a_checkpoint_of_another_hidden_size_is_refused(tmp_path):
  path = str(tiny.write_checkpoint(
      tmp_path / "bert_model.ckpt", tiny.random_variables()))
  config = dataclasses.replace(tiny.CONFIG, hidden_size=4)
  with pytest.raises(
      InputError, match=r"--init_checkpoint.*\[29, 8\].*\[29, 4\]"):
    checkpoints.match_checkpoint(config, path)


def test_a_checkpoint_without_bert_variables_is_refused(tmp_path):
  path = str(tiny.write_checkpoint(
      tmp_path / "other.ckpt", {"weights": np.zeros(3, "f")}))
  with pytest.raises(InputError, match="none of the model's 30 variables"):
    checkpoints.match_checkpoint(tiny.CONFIG, path)
  with pytest.raises(InputError, match="--init_checkpoint.*not a readable"):
    checkpoints.match_checkpoint(tiny.CONFIG, str(tmp_path / "none.ckpt"))


@pytest.mark.parametrize("name, found", [
    ("bert/{}", "bert/bert/embeddings/word_embeddings"),
    ("module/{}", "module/bert/embeddings/word_embeddings"),
    ("embeddings/word_embeddings", "embeddings/word_embeddings"),
    ("tf_bert/{}/weight", "tf_bert/bert/embeddings/word_embeddings/weight")])
@pytest.mark.parametrize("layers", [None, (0,)])
def test_variables_under_other_names_are_refused(tmp_path, name, found, layers):
  path = str(tiny.write_checkpoint(tmp_path / "bert_model.ckpt", {
      name.format("bert/embeddings/word_embeddings"): np.zeros([29, 8], "f"),
      "cls/predictions/output_bias": np.zeros(29, "f")}))
  with pytest.raises(InputError, match=re.escape(
      "--init_checkpoint: {} has the variable {} where BERT's checkpoints have "
      "bert/embeddings/word_embeddings: ".format(path, found))
                     + ".*docs/teacher.md"):
    checkpoints.match_checkpoint(tiny.CONFIG, path, layers=layers)


def _write_objects(path, prefix):
  """Writes an object-based checkpoint; returns its arrays by BERT's names."""
  saved = tiny.random_variables()
  with tf.init_scope():
    tf.train.Checkpoint(weights=[
        tf.Variable(value, name=prefix + name)
        for name, value in saved.items()]).write(str(path))
  return saved


def test_an_object_based_checkpoint_is_refused(tmp_path):
  path = tmp_path / "ckpt-1"
  _write_objects(path, "")
  with pytest.raises(InputError, match="--init_checkpoint: {} is an object-"
                     "based checkpoint of TensorFlow 2.*docs/teacher.md".format(
                         path)):
    checkpoints.match_checkpoint(tiny.CONFIG, str(path))


@pytest.mark.parametrize("is_object_based", [False, True])
def test_the_code_in_the_docs_renames_variables(
    tmp_path, monkeypatch, is_object_based):
  old = tmp_path / "published/model.ckpt"
  if is_object_based:
    saved = _write_objects(old, "module/")
  else:
    saved = tiny.random_variables()
    tiny.write_checkpoint(old, {
        "module/" + name: value for name, value in saved.items()})
  (tmp_path / "models/my_bert").mkdir(parents=True)
  text = (tiny.ROOT / "docs/teacher.md").read_text(encoding="utf-8")
  code, = re.findall("^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
  monkeypatch.chdir(tmp_path)
  exec(code, {})  # pylint: disable=exec-used
  path = str(tmp_path / "models/my_bert/bert_model.ckpt")
  assert not checkpoints.match_checkpoint(tiny.CONFIG, path).missing
  found = tiny.read_checkpoint(path)
  assert found.keys() == saved.keys()
  for name, value in found.items():
    np.testing.assert_array_equal(value, saved[name], name)


@pytest.mark.parametrize("place", ["", "student"])
@pytest.mark.parametrize("changes, told", [
    ({"num_attention_heads": 4}, "num_attention_heads 2, not 4"),
    ({"hidden_act": "relu", "num_attention_heads": 1},
     "num_attention_heads 2, not 1 and hidden_act gelu, not relu"),
    ({"hidden_act": "gelu_fast"}, "hidden_act gelu, not gelu_fast"),
    ({"layer_norm_eps": 1e-5}, "layer_norm_eps 1e-12, not 1e-05"),
    ({"position_embedding_type": "relative_key"},
     "position_embedding_type absolute, not relative_key"),
    ({"hidden_act": "gelu_new", "hidden_dropout_prob": 0.3,
      "layer_norm_eps": 1e-12, "num_hidden_layers": 4}, None)])
def test_a_different_config_beside_the_checkpoint_is_warned_of(
    tmp_path, caplog, place, changes, told):
  path = tiny.write_checkpoint(
      tmp_path / "bert_model.ckpt", tiny.random_variables())
  (tmp_path / place).mkdir(exist_ok=True)
  beside = tiny.write_config(tmp_path / place / "bert_config.json", **changes)
  checkpoints.match_checkpoint(tiny.CONFIG, str(path))
  assert caplog.messages == (told is not None) * [
      "--bert_config_file has {} as in {} beside --init_checkpoint={}: the "
      "model computes another function of the same variables. Give the config "
      "that belongs to the checkpoint.".format(told, beside, path)]


def test_an_invalid_config_beside_the_checkpoint_is_ignored(tmp_path, caplog):
  path = tiny.write_checkpoint(
      tmp_path / "bert_model.ckpt", tiny.random_variables())
  for text in (None, "{", "[]"):
    if text:
      (tmp_path / "bert_config.json").write_text(text)
    checkpoints.match_checkpoint(tiny.CONFIG, str(path))
  assert not caplog.messages


def test_unused_layers_of_a_teacher_are_warned_of(tmp_path, caplog):
  path = tiny.write_checkpoint(
      tmp_path / "bert_model.ckpt", tiny.random_variables(
          dataclasses.replace(tiny.CONFIG, num_hidden_layers=2)))
  checkpoints.check_complete(tiny.CONFIG, str(path))
  assert caplog.messages == [
      "--init_checkpoint: {} has 16 variables that the config does not have, "
      "such as bert/encoder/layer_1/attention/output/LayerNorm/beta; the "
      "teacher does not use them.".format(path)]


@pytest.mark.parametrize("ending", (".index", ".data-00000-of-00001"))
def test_the_path_of_one_file_of_a_checkpoint_is_refused(tmp_path, ending):
  path = str(tiny.write_checkpoint(
      tmp_path / "bert_model.ckpt", tiny.random_variables()))
  with pytest.raises(InputError, match="--init_checkpoint: .*{} is one file "
                     "of .* of its files, {}$".format(ending, path)):
    checkpoints.match_checkpoint(tiny.CONFIG, path + ending)


def test_the_folder_of_a_checkpoint_is_refused(tmp_path):
  tiny.write_checkpoint(tmp_path / "bert_model.ckpt", tiny.random_variables())
  with pytest.raises(InputError, match="--init_checkpoint: {0} is a folder;.*"
                     "such as {0}/bert_model.ckpt$".format(tmp_path)):
    checkpoints.match_checkpoint(tiny.CONFIG, str(tmp_path))


def test_nan_and_truncated_values_are_refused(tmp_path):
  """The index of these checkpoints is intact."""
  path = tmp_path / "bert_model.ckpt"
  name = "bert/pooler/dense/bias"
  variables = tiny.random_variables()
  tiny.write_checkpoint(path, dict(variables, **{
      name: np.full_like(variables[name], np.nan)}))
  with pytest.raises(InputError, match=name + " .*has NaN or infinite"):
    checkpoints.match_checkpoint(tiny.CONFIG, str(path))
  tiny.write_checkpoint(path, variables)
  data = tmp_path / "bert_model.ckpt.data-00000-of-00001"
  os.truncate(data, data.stat().st_size // 2)
  with pytest.raises(InputError, match="--init_checkpoint.*is damaged"):
    checkpoints.match_checkpoint(tiny.CONFIG, str(path))


def test_the_real_teacher_matches_its_config(shared):
  folder = shared / "data/teacher"
  config = checkpoints.load_config(str(folder / "bert_config.json"))
  match = checkpoints.match_checkpoint(config, str(folder / "bert_model.ckpt"))
  assert len(match.restored) == 110 and not match.missing


# --- Exporting ---------------------------------------------------------------


def test_an_export_holds_only_the_model(tmp_path):
  saved = tiny.random_variables()
  source = tiny.write_checkpoint(tmp_path / "model.ckpt-1", dict(
      saved, **{"global_step": np.int64(7),
                "cls/predictions/output_bias/adam_m": np.ones(29, "f")}))
  path = tmp_path / "bert_model.ckpt"
  checkpoints.export(tiny.CONFIG, str(source), str(path))
  exported = tiny.read_checkpoint(path)
  assert set(exported) == set(saved)
  for name, value in exported.items():
    np.testing.assert_array_equal(value, saved[name], err_msg=name)


def test_an_exported_model_replaces_an_earlier_one(tmp_path):
  config_file = tiny.write_config(tmp_path / "config.json")
  for seed in (0, 1):
    saved = tiny.random_variables(seed=seed)
    source = tiny.write_checkpoint(
        tmp_path / "model.ckpt-{}".format(seed), saved)
    folder = checkpoints.export_model(
        tiny.CONFIG, str(config_file), str(source), str(tmp_path))
    assert folder == str(tmp_path / "student")
    assert sorted(path.name for path in (tmp_path / "student").iterdir()) == [
        "bert_config.json", "bert_model.ckpt.data-00000-of-00001",
        "bert_model.ckpt.index", "exported_from.txt"]
    assert checkpoints.load_config(folder + "/bert_config.json") == tiny.CONFIG
    exported = tiny.read_checkpoint(folder + "/bert_model.ckpt")
    for name, value in exported.items():
      np.testing.assert_array_equal(value, saved[name], err_msg=name)


def test_newest_step_reads_the_newest_checkpoint(tmp_path):
  assert checkpoints.newest_step(str(tmp_path)) == 0
  assert checkpoints.best_checkpoint(str(tmp_path)) is None
  tiny.write_checkpoint(tmp_path / "model.ckpt-7", {"global_step": np.int64(7)})
  tf1.train.update_checkpoint_state(str(tmp_path), "model.ckpt-7")
  assert checkpoints.newest_step(str(tmp_path)) == 7

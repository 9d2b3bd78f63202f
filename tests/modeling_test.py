"""Tests of the model and its checkpoints."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf

import modeling
import records
import reference_bert
import tiny

tf1 = tf.compat.v1


@pytest.mark.parametrize("num_hidden_layers, heads", [(1, 2), (3, 4), (2, 1)])
def test_scores_equal_the_formulas(num_hidden_layers, heads):
  config = dataclasses.replace(
      tiny.CONFIG, num_hidden_layers=num_hidden_layers,
      num_attention_heads=heads)
  variables = tiny.random_variables(config)
  generator = np.random.default_rng(1)
  features = reference_bert.batch(
      [tiny.random_features(generator) for _ in range(5)])
  masked, following = tiny.scores(config, variables, features)
  wanted_masked, wanted_following = reference_bert.forward(
      {name: np.float64(value) for name, value in variables.items()},
      features, config)
  np.testing.assert_allclose(
      masked, np.reshape(wanted_masked, masked.shape), atol=1e-5)
  np.testing.assert_allclose(following, wanted_following, atol=1e-5)


@pytest.mark.parametrize("num_hidden_layers", [1, 2])
@pytest.mark.parametrize("leaves_out", [False, True])
def test_both_heads_need_no_more_of_the_last_layer(
    num_hidden_layers, leaves_out):
  """Scores, and gradients of their sum, are those of the whole model."""
  config = dataclasses.replace(
      tiny.CONFIG, num_hidden_layers=num_hidden_layers)
  variables = tiny.random_variables(config)
  generator = np.random.default_rng(2)
  examples = [tiny.random_features(generator) for _ in range(5)]
  is_real = np.stack([features[records.MASKED_LM_WEIGHTS] > 0
                      for features in examples])
  wanted = is_real if leaves_out else np.ones_like(is_real)
  with tf.Graph().as_default(), tf1.Session() as session:
    ids, mask, segments, positions = (
        tf.constant(np.stack([features[name] for features in examples]),
                    tf.int32) for name in (
                        records.INPUT_IDS, records.INPUT_MASK,
                        records.SEGMENT_IDS, records.MASKED_LM_POSITIONS))
    model = modeling.BertModel(config, False, ids, mask, segments)
    whole = (
        tf.gather(modeling.masked_lm_logits(config, model, positions),
                  np.flatnonzero(wanted)),
        modeling.next_sentence_logits(config, model))
    with tf1.variable_scope("", reuse=True):
      needed = modeling.pretraining_logits(
          config, False, ids, mask, segments, positions,
          tf.constant(is_real) if leaves_out else None)
    if not leaves_out:
      assert needed.masked_lm.shape == [15, 29]
      assert needed.next_sentence.shape == [5, 2]
    for variable in tf1.trainable_variables():
      variable.load(variables[variable.op.name], session)
    slopes = [tf.gradients([tf.reduce_sum(tf.square(scores))
                            for scores in outputs], tf1.trainable_variables())
              for outputs in (whole, needed)]
    (masked, following), (their_masked, their_following) = session.run(
        (whole, tuple(needed)))
    slopes = session.run(slopes)
  np.testing.assert_allclose(masked, their_masked, atol=1e-5)
  np.testing.assert_allclose(following, their_following, atol=1e-5)
  for mine, theirs in zip(*slopes):
    np.testing.assert_allclose(mine, theirs, atol=1e-3, rtol=1e-4)


def test_padding_changes_nothing():
  variables = tiny.random_variables()
  features = reference_bert.batch(
      [tiny.random_features(np.random.default_rng(3))])
  padding = 1 - features[records.INPUT_MASK]
  assert int(tf.reduce_sum(padding)) > 0
  before = tiny.scores(tiny.CONFIG, variables, features)
  features[records.INPUT_IDS] += 7 * padding
  after = tiny.scores(tiny.CONFIG, variables, features)
  np.testing.assert_allclose(before[0], after[0], atol=1e-6)


@pytest.mark.parametrize("num_hidden_layers", [1, 2])
def test_the_narrow_last_layer_gives_the_same_scores(num_hidden_layers):
  config = dataclasses.replace(
      tiny.CONFIG, num_hidden_layers=num_hidden_layers)
  variables = tiny.random_variables(config)
  generator = np.random.default_rng(2)
  features = reference_bert.batch(
      [tiny.random_features(generator) for _ in range(6)])
  is_real = features[records.MASKED_LM_WEIGHTS].numpy() > 0
  assert 0 < is_real.mean() < 1
  wanted, _ = tiny.scores(config, variables, features)
  with tf.Graph().as_default(), tf1.Session() as session:
    inputs = [tf.constant(features[name].numpy(), tf.int32) for name in (
        records.INPUT_IDS, records.INPUT_MASK, records.SEGMENT_IDS,
        records.MASKED_LM_POSITIONS)]
    logits = modeling.real_masked_lm_logits(config, *inputs,
                                            tf.constant(is_real))
    for variable in tf1.trainable_variables():
      variable.load(variables[variable.op.name], session)
    found = session.run(logits)
  np.testing.assert_allclose(found, wanted[is_real.ravel()], atol=1e-5)


def test_gelu_is_the_tanh_form():
  # 0.5 x (1 + tanh(0.7978845608 (x + 0.044715 x^3))), by hand. The form with
  # the error function gives 0.8413447 at 1.
  np.testing.assert_allclose(
      modeling.gelu(tf.constant([-1.0, 0.0, 1.0, 3.0])),
      [-0.1588080, 0.0, 0.8411920, 2.9963627], atol=1e-6)


def test_the_gradient_of_gelu_is_that_of_the_formula():
  x = tf.constant(np.linspace(-6, 6, 41))
  with tf.GradientTape(persistent=True) as tape:
    tape.watch(x)
    mine = modeling.gelu(x)
    plain = 0.5 * x * (1 + tf.tanh(
        math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))
  np.testing.assert_allclose(mine, plain, atol=1e-12)
  np.testing.assert_allclose(
      tape.gradient(mine, x, 3 * x), tape.gradient(plain, x, 3 * x),
      atol=1e-10)


def test_gather_positions_picks_from_each_sequence():
  sequences = tf.reshape(tf.range(24.0), [2, 4, 3])
  picked = modeling.gather_positions(sequences, tf.constant([[0, 3], [2, 2]]))
  np.testing.assert_array_equal(
      picked, [[0, 1, 2], [9, 10, 11], [18, 19, 20], [18, 19, 20]])


def test_variables_have_the_names_and_shapes_of_google():
  wanted = {
      "bert/embeddings/word_embeddings": [29, 8],
      "bert/embeddings/token_type_embeddings": [2, 8],
      "bert/embeddings/position_embeddings": [16, 8],
      "bert/embeddings/LayerNorm/beta": [8],
      "bert/embeddings/LayerNorm/gamma": [8],
      "bert/pooler/dense/kernel": [8, 8],
      "bert/pooler/dense/bias": [8],
      "cls/predictions/transform/dense/kernel": [8, 8],
      "cls/predictions/transform/dense/bias": [8],
      "cls/predictions/transform/LayerNorm/beta": [8],
      "cls/predictions/transform/LayerNorm/gamma": [8],
      "cls/predictions/output_bias": [29],
      "cls/seq_relationship/output_weights": [2, 8],
      "cls/seq_relationship/output_bias": [2],
  }
  for layer in range(2):
    scope = "bert/encoder/layer_{}/".format(layer)
    for name in ("query", "key", "value"):
      wanted[scope + "attention/self/" + name + "/kernel"] = [8, 8]
      wanted[scope + "attention/self/" + name + "/bias"] = [8]
    for output, width in (("attention/output", 8), ("output", 12)):
      wanted[scope + output + "/dense/kernel"] = [width, 8]
      wanted[scope + output + "/dense/bias"] = [8]
      wanted[scope + output + "/LayerNorm/beta"] = [8]
      wanted[scope + output + "/LayerNorm/gamma"] = [8]
    wanted[scope + "intermediate/dense/kernel"] = [8, 12]
    wanted[scope + "intermediate/dense/bias"] = [12]
  config = dataclasses.replace(tiny.CONFIG, num_hidden_layers=2)
  assert modeling.variable_shapes(config) == wanted


def test_fresh_weights_are_truncated_normal():
  config = dataclasses.replace(
      tiny.CONFIG, vocab_size=5000, initializer_range=0.02)
  with tf.Graph().as_default(), tf1.Session() as session:
    tokens = tf.zeros([1, 4], tf.int32)
    table = modeling.BertModel(
        config, False, tokens, tokens, tokens).embedding_table
    session.run(tf1.global_variables_initializer())
    values = session.run(table)
  assert np.abs(values).max() <= 0.04
  # A normal distribution cut at two deviations keeps 0.88 of the deviation.
  assert values.std() == pytest.approx(0.88 * 0.02, rel=0.02)


def test_dropout_is_for_training():
  config = dataclasses.replace(tiny.CONFIG, hidden_dropout_prob=0.5,
                               attention_probs_dropout_prob=0.5)
  with tf.Graph().as_default(), tf1.Session() as session:
    tokens = tf.ones([1, 4], tf.int32)
    outputs = []
    for is_training in (True, False):
      with tf1.variable_scope("", reuse=tf1.AUTO_REUSE):
        outputs.append(modeling.BertModel(
            config, is_training, tokens, tokens, tokens).sequence_output)
    session.run(tf1.global_variables_initializer())
    training, evaluation = zip(*(session.run(outputs) for _ in range(2)))
  assert not np.allclose(training[0], training[1])
  np.testing.assert_array_equal(evaluation[0], evaluation[1])


def test_dropout_follows_from_seed_place_and_step():
  """What else is in the graph does not matter, nor how often it has run."""
  variables = tiny.random_variables()
  config = dataclasses.replace(tiny.CONFIG, hidden_dropout_prob=0.5,
                               attention_probs_dropout_prob=0.5)

  def outputs(seed, step, num_runs=1):
    with tf.Graph().as_default(), tf1.Session() as session:
      tf1.set_random_seed(seed)
      for _ in range(num_runs):
        tf.random.uniform([])
      global_step = tf1.train.get_or_create_global_step()
      tokens = tf.ones([1, 4], tf.int32)
      models = []
      for reuse in (False, True):
        with tf1.variable_scope(tf1.get_variable_scope(), reuse=reuse):
          models.append(modeling.BertModel(
              config, True, tokens, tokens, tokens).sequence_output)
      session.run(tf1.global_variables_initializer())
      for variable in tf1.trainable_variables():
        variable.load(variables[variable.op.name], session)
      global_step.load(step, session)
      for _ in range(num_runs):
        values = session.run(models)
      return values

  first, second = outputs(seed=3, step=5)
  np.testing.assert_array_equal(outputs(3, 5, num_runs=3), [first, second])
  assert not np.allclose(first, second), "two places, one mask"
  assert not np.allclose(first, outputs(3, 6)[0]), "two steps, one mask"
  assert not np.allclose(first, outputs(4, 5)[0]), "two seeds, one mask"


def test_the_gradient_of_the_word_embeddings_is_dense():
  variables = tiny.random_variables()
  with tf.Graph().as_default():
    tokens = tf.constant([[3, 3, 5]])
    model = modeling.BertModel(tiny.CONFIG, False, tokens, tokens * 0 + 1,
                               tokens * 0)
    gradients = tf.gradients(
        tf.reduce_sum(model.sequence_output[..., 0]), tf1.trainable_variables())
    assert not any(isinstance(gradient, tf.IndexedSlices)
                   for gradient in gradients[:1])
    with tf1.Session() as session:
      for variable in tf1.trainable_variables():
        variable.load(variables[variable.op.name], session)
      of_words = session.run(gradients[0])
  assert np.flatnonzero(np.abs(of_words).sum(axis=1)).tolist() == [3, 5]


@pytest.mark.parametrize("has_gpu, precision, wanted", [
    (False, "fp32", (0, 0)), (False, "fp16", (0, 0)), (True, "fp32", (0, 0)),
    (True, "fp16", (1, 0)), (True, "bf16", (0, 0)),
])
def test_a_session_is_set_up_for_precision_and_device(
    monkeypatch, has_gpu, precision, wanted):
  monkeypatch.setattr(modeling, "_has_gpu", lambda: has_gpu)
  options = modeling.session_config(precision, use_xla=True).graph_options
  rewrites = options.rewrite_options
  assert (rewrites.auto_mixed_precision,
          rewrites.auto_mixed_precision_onednn_bfloat16) == wanted
  assert options.optimizer_options.global_jit_level == has_gpu


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
  visible = []
  monkeypatch.setattr(tf.config, "set_visible_devices",
                      lambda gpu, kind: visible.append((gpu, kind)))
  for gpus, wanted in (([], None), (["a", "b"], 1)):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: gpus)
    assert modeling.choose_gpu(1) == wanted
  assert visible == [("b", "GPU")]
  with pytest.raises(ValueError, match="process 2 .* there are 2: .*HOST:2"):
    modeling.choose_gpu(2)


def test_bf16_is_for_cpus_that_have_it(monkeypatch):
  for has_it in (False, True):
    monkeypatch.setattr(modeling, "_has_arithmetic", lambda _: has_it)
    rewrites = modeling.session_config("bf16").graph_options.rewrite_options
    assert rewrites.auto_mixed_precision_onednn_bfloat16 == has_it


# --- Configuration -----------------------------------------------------------


def test_a_config_survives_its_file(tmp_path):
  path = tiny.write_config(tmp_path / "bert_config.json", directionality="bidi")
  assert modeling.BertConfig.from_json_file(str(path)) == tiny.CONFIG


@pytest.mark.parametrize("text, told", [
    ("{", "not JSON"), ("[1]", "no vocab_size"), ("{}", "no vocab_size"),
    ('{"vocab_size": "many"}', "vocab_size is 'many'"),
    ('{"vocab_size": 9, "hidden_size": 10, "num_attention_heads": 3}',
     "hidden_size 10.*num_attention_heads 3"),
    ('{"vocab_size": 9, "hidden_act": "swish"}', "hidden_act is 'swish'"),
    ('{"vocab_size": 9, "hidden_dropout_prob": 1.5}', "hidden_dropout_prob"),
])
def test_a_config_that_is_none_is_an_error(tmp_path, text, told):
  path = tmp_path / "bert_config.json"
  path.write_text(text)
  with pytest.raises(ValueError, match="--bert_config_file.*" + told):
    modeling.BertConfig.from_json_file(str(path))


def test_a_config_that_is_missing_is_an_error(tmp_path):
  for path in (tmp_path / "none.json", tmp_path):
    with pytest.raises(ValueError, match="--bert_config_file.*no file"):
      modeling.BertConfig.from_json_file(str(path))


def test_sequences_are_no_longer_than_the_positions():
  tiny.CONFIG.check_length(16)
  with pytest.raises(ValueError, match="--max_seq_length=17.*16"):
    tiny.CONFIG.check_length(17)


# --- Checkpoints -------------------------------------------------------------


@pytest.mark.parametrize("num_hidden_layers, num_fresh", [(1, 0), (3, 16)])
def test_a_model_starts_from_a_checkpoint_of_other_depth(
    tmp_path, num_hidden_layers, num_fresh):
  saved_config = dataclasses.replace(tiny.CONFIG, num_hidden_layers=2)
  saved = tiny.random_variables(saved_config)
  path = str(tiny.write_checkpoint(tmp_path / "bert_model.ckpt", dict(
      saved, **{"global_step": np.int64(7),
                "cls/predictions/output_bias/adam_m": np.ones(29, "f")})))
  config = dataclasses.replace(
      tiny.CONFIG, num_hidden_layers=num_hidden_layers)
  match = modeling.match_checkpoint(config, path)
  assert len(match.fresh) == num_fresh
  assert all("layer_2" in name for name in match.fresh)
  with tf.Graph().as_default(), tf1.Session() as session:
    tokens = tf.zeros([1, 4], tf.int32)
    modeling.BertModel(config, False, tokens, tokens, tokens)
    modeling.restore(path)
    session.run(tf1.global_variables_initializer())
    for variable in tf1.trainable_variables():
      if variable.op.name in saved:
        np.testing.assert_array_equal(
            session.run(variable), saved[variable.op.name])
      else:
        assert "layer_2" in variable.op.name


@pytest.mark.parametrize("layers", [(0, 2), (3, 1), (1, 1)])
def test_a_model_starts_from_chosen_layers(tmp_path, layers):
  saved = tiny.random_variables(
      dataclasses.replace(tiny.CONFIG, num_hidden_layers=4))
  path = str(tiny.write_checkpoint(tmp_path / "bert_model.ckpt", saved))
  config = dataclasses.replace(tiny.CONFIG, num_hidden_layers=2)
  match = modeling.match_checkpoint(config, path, layers=layers)
  assert not match.fresh
  assert modeling.summarize(match.restored) == (
      "bert/embeddings (5), bert/encoder/layer_0 (16), "
      "bert/encoder/layer_1 (16), bert/pooler (2), cls/predictions (5), "
      "cls/seq_relationship (2)")
  with tf.Graph().as_default(), tf1.Session() as session:
    tokens = tf.zeros([1, 4], tf.int32)
    model = modeling.BertModel(config, False, tokens, tokens, tokens)
    modeling.masked_lm_logits(config, model, tokens)
    modeling.next_sentence_logits(config, model)
    modeling.restore(path, layers)
    session.run(tf1.global_variables_initializer())
    for variable in tf1.trainable_variables():
      source = variable.op.name
      for layer in range(2):
        if "/layer_{}/".format(layer) in variable.op.name:
          source = variable.op.name.replace(
              "layer_{}".format(layer), "layer_{}".format(layers[layer]))
      np.testing.assert_array_equal(session.run(variable), saved[source])


def test_a_checkpoint_of_another_width_is_refused(tmp_path):
  path = str(tiny.write_checkpoint(
      tmp_path / "bert_model.ckpt", tiny.random_variables()))
  config = dataclasses.replace(tiny.CONFIG, hidden_size=4)
  with pytest.raises(
      ValueError, match=r"--init_checkpoint.*\[29, 8\].*\[29, 4\]"):
    modeling.match_checkpoint(config, path)


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
  path = str(tiny.write_checkpoint(
      tmp_path / "other.ckpt", {"weights": np.zeros(3, "f")}))
  with pytest.raises(ValueError, match="none of the model's 30 variables"):
    modeling.match_checkpoint(tiny.CONFIG, path)
  with pytest.raises(ValueError, match="--init_checkpoint.*not a readable"):
    modeling.match_checkpoint(tiny.CONFIG, str(tmp_path / "none.ckpt"))


def test_the_real_teacher_matches_its_config(shared):
  folder = shared / "data/teacher"
  config = modeling.BertConfig.from_json_file(str(folder / "bert_config.json"))
  match = modeling.match_checkpoint(config, str(folder / "bert_model.ckpt"))
  assert len(match.restored) == 110 and not match.fresh
  assert math.prod(modeling.variable_shapes(config)[
      "bert/embeddings/word_embeddings"]) == 30522 * 384

"""Tests of the model and of the interface of Google's BERT."""

import dataclasses
import inspect
import math

import numpy as np
import pytest
import tensorflow as tf

import modeling
from records import schema
import reference_bert
import tiny

tf1 = tf.compat.v1

_INPUTS = (schema.INPUT_IDS, schema.INPUT_MASK, schema.SEGMENT_IDS,
           schema.MASKED_LM_POSITIONS)


def _batch(num_sequences, seed):
  """Returns random features, float64 and int64."""
  generator = np.random.default_rng(seed)
  return reference_bert.batch(
      [tiny.random_features(generator) for _ in range(num_sequences)])


def _inputs(features):
  """Returns the model's input features as int32 constants."""
  return [tf.constant(features[name].numpy(), tf.int32) for name in _INPUTS]


def _load(session, variables):
  """Loads values by name into the variables of the session's graph."""
  for variable in tf1.trainable_variables():
    variable.load(variables[variable.op.name], session)


def _run(build, variables=None, config=tiny.CONFIG, seed=1):
  """Returns the values of the tensors that `build` makes of random inputs."""
  features = _batch(4, seed)
  with tf.Graph().as_default(), tf1.Session() as session:
    outputs = build(*_inputs(features))
    _load(session, variables or tiny.random_variables(config))
    return session.run(outputs)


# --- Scores ------------------------------------------------------------------


@pytest.mark.parametrize("num_hidden_layers, heads", [(1, 2), (3, 4), (2, 1)])
def test_scores_equal_the_formulas(num_hidden_layers, heads):
  config = dataclasses.replace(
      tiny.CONFIG, num_hidden_layers=num_hidden_layers,
      num_attention_heads=heads)
  variables = tiny.random_variables(config)
  features = _batch(5, seed=1)
  masked, next_sentence = tiny.scores(config, variables, features)
  wanted_masked, wanted_next_sentence = reference_bert.forward(
      {name: np.float64(value) for name, value in variables.items()},
      features, config)
  np.testing.assert_allclose(
      masked, np.reshape(wanted_masked, masked.shape), atol=1e-5)
  np.testing.assert_allclose(next_sentence, wanted_next_sentence, atol=1e-5)


@pytest.mark.parametrize("num_hidden_layers", [
    1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("leaves_out", [False, True])
@pytest.mark.parametrize("is_training", [False, True])
def test_skipping_unused_positions_changes_no_score_or_gradient(
    num_hidden_layers, leaves_out, is_training):
  """Compares with the reference, which computes every position."""
  config = dataclasses.replace(
      tiny.CONFIG, num_hidden_layers=num_hidden_layers)
  variables = tiny.random_variables(config)
  features = _batch(5, seed=2)
  is_real = features[schema.MASKED_LM_WEIGHTS].numpy() > 0
  assert 0 < is_real.mean() < 1
  wanted = is_real if leaves_out else np.ones_like(is_real)
  with tf.Graph().as_default(), tf1.Session() as session:
    inputs = _inputs(features)
    needed = modeling.pretraining_logits(
        config, is_training, *inputs,
        tf.constant(np.flatnonzero(is_real), tf.int32) if leaves_out else None)
    masked, next_sentence = reference_bert.forward(
        {variable.op.name: variable for variable in tf1.trainable_variables()},
        dict(zip(_INPUTS, inputs)), config)
    whole = (tf.gather(tf.reshape(masked, [-1, config.vocab_size]),
                       np.flatnonzero(wanted)), next_sentence)
    if not leaves_out:
      assert needed.masked_lm.shape == [15, 29]
      assert needed.next_sentence.shape == [5, 2]
    _load(session, variables)
    slopes = [[tf.convert_to_tensor(gradient) for gradient in tf.gradients(
        [tf.reduce_sum(tf.square(scores)) for scores in outputs],
        tf1.trainable_variables())] for outputs in (whole, needed[:2])]
    (masked, next_sentence), (their_masked, their_next_sentence) = session.run(
        (whole, needed[:2]))
    slopes = session.run(slopes)
  np.testing.assert_allclose(masked, their_masked, atol=1e-5)
  np.testing.assert_allclose(next_sentence, their_next_sentence, atol=1e-5)
  for mine, theirs in zip(*slopes):
    np.testing.assert_allclose(mine, theirs, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("num_hidden_layers", [1, 2])
def test_masked_lm_scores_need_no_next_sentence_head(num_hidden_layers):
  config = dataclasses.replace(
      tiny.CONFIG, num_hidden_layers=num_hidden_layers)
  variables = tiny.random_variables(config)
  features = _batch(6, seed=2)
  is_real = features[schema.MASKED_LM_WEIGHTS].numpy() > 0
  assert 0 < is_real.mean() < 1
  wanted, _ = tiny.scores(config, variables, features)
  with tf.Graph().as_default(), tf1.Session() as session:
    logits = modeling.pretraining_logits(
        config, False, *_inputs(features),
        tf.constant(np.flatnonzero(is_real), tf.int32),
        has_next_sentence=False)
    names = {variable.op.name for variable in tf1.trainable_variables()}
    _load(session, variables)
    found = session.run(logits.masked_lm)
  assert logits.next_sentence is None
  assert not [name for name in names if "pooler" in name or "seq_rel" in name]
  np.testing.assert_allclose(found, wanted[is_real.ravel()], atol=1e-5)


def test_the_ids_of_padding_change_no_score():
  variables = tiny.random_variables()
  features = _batch(1, seed=3)
  padding = 1 - features[schema.INPUT_MASK]
  assert int(tf.reduce_sum(padding)) > 0
  before = tiny.scores(tiny.CONFIG, variables, features)
  features[schema.INPUT_IDS] += 7 * padding
  after = tiny.scores(tiny.CONFIG, variables, features)
  for wanted, found in zip(before, after):
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_static_input_shapes_give_static_output_shapes():
  features = _batch(4, seed=1)
  with tf.Graph().as_default():
    inputs = _inputs(features)
    logits = modeling.pretraining_logits(tiny.CONFIG, True, *inputs)
    model = modeling.BertModel(tiny.CONFIG, True, *inputs[:3], scope="other")
    unpooled = modeling.BertModel(
        tiny.CONFIG, True, *inputs[:3], scope="third",
        output_positions=inputs[3], has_pooler=False)
  assert logits.masked_lm.shape == [12, 29]
  assert logits.next_sentence.shape == [4, 2]
  assert model.get_sequence_output().shape == [4, 10, 8]
  assert model.get_pooled_output().shape == [4, 8]
  assert model.get_embedding_table().shape == [29, 8]
  assert [layer.shape for layer in model.get_all_encoder_layers()] == [
      [4, 10, 8]]
  assert unpooled.get_sequence_output().shape == [12, 8]


# --- Layers ------------------------------------------------------------------


def test_gelu_is_the_tanh_form():
  # 0.5 x (1 + tanh(0.7978845608 (x + 0.044715 x^3))), by hand. The form with
  # the error function gives 0.8413447 at 1.
  np.testing.assert_allclose(
      modeling.gelu(tf.constant([-1.0, 0.0, 1.0, 3.0])),
      [-0.1588080, 0.0, 0.8411920, 2.9963627], atol=1e-6)


def test_the_gradient_of_gelu_equals_the_formula():
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


def test_variables_have_the_names_and_shapes_of_googles_bert():
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
    for output, input_size in (("attention/output", 8), ("output", 12)):
      wanted[scope + output + "/dense/kernel"] = [input_size, 8]
      wanted[scope + output + "/dense/bias"] = [8]
      wanted[scope + output + "/LayerNorm/beta"] = [8]
      wanted[scope + output + "/LayerNorm/gamma"] = [8]
    wanted[scope + "intermediate/dense/kernel"] = [8, 12]
    wanted[scope + "intermediate/dense/bias"] = [12]
  config = dataclasses.replace(tiny.CONFIG, num_hidden_layers=2)
  assert modeling.variable_shapes(config) == wanted


def test_new_weights_are_truncated_normal():
  config = dataclasses.replace(
      tiny.CONFIG, vocab_size=5000, initializer_range=0.02)
  with tf.Graph().as_default(), tf1.Session() as session:
    tokens = tf.zeros([1, 4], tf.int32)
    table = modeling.BertModel(
        config, False, tokens, tokens, tokens).get_embedding_table()
    session.run(tf1.global_variables_initializer())
    values = session.run(table)
  assert np.abs(values).max() <= 0.04
  # Truncating a normal distribution at two standard deviations multiplies its
  # standard deviation by 0.88.
  assert values.std() == pytest.approx(0.88 * 0.02, rel=0.02)


def test_the_gradient_of_the_word_embeddings_is_dense():
  variables = tiny.random_variables()
  with tf.Graph().as_default():
    tokens = tf.constant([[3, 3, 5]])
    model = modeling.BertModel(tiny.CONFIG, False, tokens, tokens * 0 + 1,
                               tokens * 0)
    gradients = tf.gradients(
        tf.reduce_sum(model.get_sequence_output()[..., 0]),
        tf1.trainable_variables())
    assert not any(isinstance(gradient, tf.IndexedSlices)
                   for gradient in gradients[:1])
    with tf1.Session() as session:
      _load(session, variables)
      of_tokens = session.run(gradients[0])
  assert np.flatnonzero(np.abs(of_tokens).sum(axis=1)).tolist() == [3, 5]


# --- Dropout -----------------------------------------------------------------


def test_dropout_is_active_in_training_only():
  config = dataclasses.replace(tiny.CONFIG, hidden_dropout_prob=0.5,
                               attention_probs_dropout_prob=0.5)
  with tf.Graph().as_default(), tf1.Session() as session:
    tokens = tf.ones([1, 4], tf.int32)
    outputs = []
    for is_training in (True, False):
      with tf1.variable_scope("", reuse=tf1.AUTO_REUSE):
        outputs.append(modeling.BertModel(
            config, is_training, tokens, tokens, tokens,
            scope="bert").get_sequence_output())
    session.run(tf1.global_variables_initializer())
    training, evaluation = zip(*(session.run(outputs) for _ in range(2)))
  assert not np.allclose(training[0], training[1])
  np.testing.assert_array_equal(evaluation[0], evaluation[1])


def test_dropout_depends_on_seed_scope_and_step_only():
  """Neither other random operations nor earlier runs change the masks."""
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
              config, True, tokens, tokens, tokens,
              scope="bert").get_sequence_output())
      session.run(tf1.global_variables_initializer())
      _load(session, variables)
      global_step.load(step, session)
      for _ in range(num_runs):
        values = session.run(models)
      return values

  first, second = outputs(seed=3, step=5)
  np.testing.assert_array_equal(outputs(3, 5, num_runs=3), [first, second])
  assert not np.allclose(first, second), "two scopes, one mask"
  assert not np.allclose(first, outputs(3, 6)[0]), "two steps, one mask"
  assert not np.allclose(first, outputs(4, 5)[0]), "two seeds, one mask"


def test_dropout_masks_and_scopes_are_the_same_in_all_versions(monkeypatch):
  """A run may start in one version and resume in a later one."""
  with tf.Graph().as_default(), tf1.Session() as session:
    tf1.set_random_seed(3)
    step = tf1.train.get_or_create_global_step()
    with tf1.name_scope("bert/embeddings"):
      dropped = modeling.dropout(tf.ones([12]), 0.5)
    session.run(tf1.global_variables_initializer())
    step.load(5, session)
    assert session.run(dropped).tolist() == [2, 2, 0, 2, 2, 2, 2, 2, 2, 0, 0, 0]
  scopes = []

  def record(inputs, unused_rate):
    scopes.append(tf1.get_default_graph().get_name_scope())
    return inputs

  monkeypatch.setattr(modeling, "dropout", record)
  with tf.Graph().as_default():
    tokens = tf.ones([1, 4], tf.int32)
    for reuse in (False, True):
      with tf1.variable_scope(tf1.get_variable_scope(), reuse=reuse):
        modeling.pretraining_logits(
            tiny.CONFIG, True, tokens, tokens, tokens, tokens)
  assert scopes == [
      model + scope for model in ("bert", "bert_1") for scope in (
          "/embeddings", "/encoder/layer_0/attention/self",
          "/encoder/layer_0/attention/output", "/encoder/layer_0/output")]


# --- BERT's interface --------------------------------------------------------


_EMPTY = inspect.Parameter.empty


@pytest.mark.parametrize("function, wanted", [
    (modeling.BertConfig, {
        "vocab_size": _EMPTY, "hidden_size": 768, "num_hidden_layers": 12,
        "num_attention_heads": 12, "intermediate_size": 3072,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1, "max_position_embeddings": 512,
        "type_vocab_size": 16, "initializer_range": 0.02}),
    (modeling.BertConfig.from_dict, {"json_object": _EMPTY}),
    (modeling.BertConfig.from_json_file, {"json_file": _EMPTY}),
    (modeling.BertConfig.to_dict, {"self": _EMPTY}),
    (modeling.BertConfig.to_json_string, {"self": _EMPTY}),
    (modeling.BertModel, {
        "config": _EMPTY, "is_training": _EMPTY, "input_ids": _EMPTY,
        "input_mask": None, "token_type_ids": None,
        "use_one_hot_embeddings": False, "scope": None,
        # Extensions of this project.
        "output_positions": None, "output_slots": None, "has_pooler": True,
        "compute_type": tf.float32, "for_cpu": False}),
    (modeling.gelu, {"x": _EMPTY}),
    (modeling.get_activation, {"activation_string": _EMPTY}),
    (modeling.get_assignment_map_from_checkpoint, {
        "tvars": _EMPTY, "init_checkpoint": _EMPTY}),
    (modeling.create_initializer, {"initializer_range": 0.02}),
    (modeling.dropout, {"input_tensor": _EMPTY, "dropout_prob": _EMPTY}),
    (modeling.layer_norm, {"input_tensor": _EMPTY, "name": None}),
    (modeling.get_shape_list, {
        "tensor": _EMPTY, "expected_rank": None, "name": None}),
    (modeling.assert_rank, {
        "tensor": _EMPTY, "expected_rank": _EMPTY, "name": None}),
    (modeling.reshape_to_matrix, {"input_tensor": _EMPTY}),
    (modeling.reshape_from_matrix, {
        "output_tensor": _EMPTY, "orig_shape_list": _EMPTY}),
    (modeling.layer_norm_and_dropout, {
        "input_tensor": _EMPTY, "dropout_prob": _EMPTY, "name": None}),
    (modeling.create_attention_mask_from_input_mask, {
        "from_tensor": _EMPTY, "to_mask": _EMPTY}),
    (modeling.embedding_lookup, {
        "input_ids": _EMPTY, "vocab_size": _EMPTY, "embedding_size": 128,
        "initializer_range": 0.02, "word_embedding_name": "word_embeddings",
        "use_one_hot_embeddings": False}),
    (modeling.embedding_postprocessor, {
        "input_tensor": _EMPTY, "use_token_type": False,
        "token_type_ids": None, "token_type_vocab_size": 16,
        "token_type_embedding_name": "token_type_embeddings",
        "use_position_embeddings": True,
        "position_embedding_name": "position_embeddings",
        "initializer_range": 0.02, "max_position_embeddings": 512,
        "dropout_prob": 0.1}),
    (modeling.attention_layer, {
        "from_tensor": _EMPTY, "to_tensor": _EMPTY, "attention_mask": None,
        "num_attention_heads": 1, "size_per_head": 512, "query_act": None,
        "key_act": None, "value_act": None,
        "attention_probs_dropout_prob": 0.0, "initializer_range": 0.02,
        "do_return_2d_tensor": False, "batch_size": None,
        "from_seq_length": None, "to_seq_length": None}),
    (modeling.transformer_model, {
        "input_tensor": _EMPTY, "attention_mask": None, "hidden_size": 768,
        "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "intermediate_act_fn": modeling.gelu,
        "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02, "do_return_all_layers": False}),
])
def test_signatures_equal_those_of_bert(function, wanted):
  parameters = inspect.signature(function).parameters
  assert {name: parameter.default
          for name, parameter in parameters.items()} == wanted
  assert list(parameters) == list(wanted)


def test_functions_of_the_encoder_compose_the_same_model():
  """Assembles the encoder as scripts written for Google's BERT do."""
  config = dataclasses.replace(tiny.CONFIG, num_hidden_layers=2)
  variables = tiny.random_variables(config)

  def build_of_parts(ids, mask, segments, _):
    with tf1.variable_scope("bert"):
      with tf1.variable_scope("embeddings"):
        embeddings, table = modeling.embedding_lookup(
            ids, config.vocab_size, config.hidden_size)
        embeddings = modeling.embedding_postprocessor(
            embeddings, use_token_type=True, token_type_ids=segments,
            token_type_vocab_size=config.type_vocab_size,
            max_position_embeddings=config.max_position_embeddings,
            dropout_prob=0.0)
      with tf1.variable_scope("encoder"):
        layers = modeling.transformer_model(
            embeddings,
            modeling.create_attention_mask_from_input_mask(ids, mask),
            config.hidden_size, config.num_hidden_layers,
            config.num_attention_heads, config.intermediate_size,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            do_return_all_layers=True)
    return (embeddings, *layers, table)

  def build(ids, mask, segments, _):
    model = modeling.BertModel(config, True, ids, mask, segments)
    return (model.get_embedding_output(), *model.get_all_encoder_layers(),
            model.get_embedding_table())

  parts, whole = _run(build_of_parts, variables), _run(build, variables)
  assert len(parts) == len(whole) == 4
  for found, wanted in zip(parts, whole):
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def _attend(shape, other_shape, *, mask=None, **keywords):
  """Runs an attention layer; returns inputs, random weights and output."""
  generator = np.random.default_rng(3)
  inputs, others = (generator.normal(size=size).astype("f")
                    for size in (shape, other_shape))
  with tf.Graph().as_default(), tf1.Session() as session:
    tf1.set_random_seed(1)
    output = modeling.attention_layer(
        tf.constant(inputs), tf.constant(others),
        None if mask is None else tf.constant(mask), num_attention_heads=2,
        size_per_head=3, initializer_range=0.5, **keywords)
    session.run(tf1.global_variables_initializer())
    weights = {variable.op.name: session.run(variable)
               for variable in tf1.global_variables()}
    return inputs, others, weights, session.run(output)


def test_attention_equals_the_formula():
  """Attends to another sequence, with activations and a mask."""
  mask = np.int32([[[1, 1, 0, 0, 1]] * 4, [[1, 0, 1, 1, 1]] * 4])
  inputs, others, weights, found = _attend(
      (2, 4, 7), (2, 5, 6), mask=mask, query_act=tf.nn.relu, key_act=tf.tanh,
      value_act=tf.sigmoid)
  assert found.shape == (2, 4, 6)
  for sequence in range(2):
    for head in range(2):
      queries, keys, values = (
          (matrix[sequence] @ weights[name + "/kernel"])[
              :, 3 * head:3 * head + 3]
          for name, matrix in (
              ("query", inputs), ("key", others), ("value", others)))
      scores = np.maximum(queries, 0) @ np.tanh(keys).T / np.sqrt(3)
      scores = np.where(mask[sequence] > 0, scores, -np.inf)
      shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
      np.testing.assert_allclose(
          found[sequence, :, 3 * head:3 * head + 3],
          shares @ (1 / (1 + np.exp(-values))), atol=1e-5)


def test_attention_takes_matrices_if_their_sizes_are_given():
  sizes = {"batch_size": 2, "from_seq_length": 4, "to_seq_length": 5}
  wanted = _attend((2, 4, 7), (2, 5, 7))[-1]
  inputs, _, _, found = _attend((8, 7), (10, 7), **sizes)
  np.testing.assert_allclose(found, wanted, atol=1e-6)
  _, _, _, matrix = _attend((8, 7), (10, 7), do_return_2d_tensor=True, **sizes)
  np.testing.assert_array_equal(matrix, found.reshape(8, 6))
  with pytest.raises(ValueError, match="matrices need batch_size"):
    _attend((8, 7), (10, 7))
  with pytest.raises(ValueError, match="its rank must be 3"):
    _attend((2, 4, 7), (10, 7))


def test_functions_of_the_encoder_refuse_invalid_arguments():
  with tf.Graph().as_default():
    ids = tf1.placeholder(tf.int32, [None, 10])
    vectors = tf1.placeholder(tf.float32, [None, 10, 8])
    with pytest.raises(ValueError, match="use_token_type needs token_type_ids"):
      modeling.embedding_postprocessor(vectors, use_token_type=True)
    with pytest.raises(ValueError, match="width of the input is 8"):
      modeling.transformer_model(vectors)
    with pytest.raises(ValueError, match="multiple of num_attention_heads 3"):
      modeling.transformer_model(
          vectors, hidden_size=8, num_attention_heads=3)
    with pytest.raises(ValueError, match="its rank must be 2 or 3"):
      modeling.assert_rank(ids[0], [2, 3])
    with pytest.raises(ValueError, match="its rank must be at least 2"):
      modeling.reshape_to_matrix(ids[0])


def test_embeddings_of_three_dimensional_ids_are_concatenated():
  with tf.Graph().as_default(), tf1.Session() as session:
    found, table = modeling.embedding_lookup(
        tf.constant([[[0, 2], [1, 1]]]), vocab_size=3, embedding_size=4)
    session.run(tf1.global_variables_initializer())
    found, table = session.run((found, table))
  np.testing.assert_array_equal(found, [[
      np.concatenate([table[0], table[2]]),
      np.concatenate([table[1], table[1]])]])


def test_reshape_from_matrix_restores_the_shape():
  with tf.Graph().as_default(), tf1.Session() as session:
    values = tf.reshape(tf.range(24.0), [2, 3, 4])
    shape = modeling.get_shape_list(values)
    matrix = modeling.reshape_to_matrix(values)
    assert matrix.shape == (6, 4)
    again = modeling.reshape_from_matrix(matrix[:, :2], shape)
    np.testing.assert_array_equal(*session.run((again, values[:, :, :2])))
    assert modeling.reshape_to_matrix(matrix) is matrix
    assert modeling.reshape_from_matrix(matrix, [6, 4]) is matrix


def test_outputs_of_all_layers_equal_the_formulas():
  config = dataclasses.replace(tiny.CONFIG, num_hidden_layers=3)
  variables = tiny.random_variables(config)
  features = _batch(4, seed=1)

  def build(ids, mask, segments, _):
    model = modeling.BertModel(config, True, ids, mask, segments)
    return (model.get_embedding_output(), *model.get_all_encoder_layers(),
            model.get_sequence_output(), model.get_pooled_output(),
            model.get_embedding_table())

  *layers, last, pooled, table = _run(build, variables)
  variables = {name: np.float64(value) for name, value in variables.items()}
  wanted = reference_bert.encoder_layers(variables, features, config)
  assert len(layers) == len(wanted) == 4
  for found, layer in zip(layers, wanted):
    np.testing.assert_allclose(found, layer, atol=1e-5)
  np.testing.assert_array_equal(last, layers[-1])
  np.testing.assert_allclose(
      pooled, reference_bert.pool(variables, wanted[-1]), atol=1e-5)
  np.testing.assert_array_equal(
      table, np.float32(variables["bert/embeddings/word_embeddings"]))


@pytest.mark.parametrize("num_hidden_layers", [1, 2])
@pytest.mark.parametrize("has_pooler", [False, True])
@pytest.mark.parametrize("leaves_out", [False, True])
def test_output_at_positions_equals_the_whole_output_there(
    num_hidden_layers, has_pooler, leaves_out):
  config = dataclasses.replace(
      tiny.CONFIG, num_hidden_layers=num_hidden_layers)
  # Position 0, repeated positions, and a sequence without wanted positions.
  positions = np.int32([[0, 4, 4], [3, 0, 2], [4, 3, 1], [2, 1, 0]])
  is_wanted = np.ones_like(positions, bool)
  if leaves_out:
    is_wanted = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0], [1, 1, 0]], bool)

  def build(ids, mask, segments, _):
    whole = modeling.BertModel(config, False, ids, mask, segments, scope="bert")
    with tf1.variable_scope(tf1.get_variable_scope(), reuse=True):
      model = modeling.BertModel(
          config, False, ids, mask, segments, scope="bert",
          output_positions=tf.constant(positions),
          output_slots=tf.constant(np.flatnonzero(is_wanted), tf.int32)
          if leaves_out else None, has_pooler=has_pooler)
    assert (model.get_pooled_output() is None) is not has_pooler
    pooled = (model if has_pooler else whole).get_pooled_output()
    return (whole.get_all_encoder_layers(), whole.get_pooled_output(),
            model.get_all_encoder_layers(), pooled, model.get_sequence_output())

  layers, pooled, found_layers, found_pooled, found = _run(
      build, tiny.random_variables(config))
  np.testing.assert_allclose(
      found, layers[-1][np.nonzero(is_wanted)[0], positions[is_wanted]],
      atol=1e-6)
  np.testing.assert_allclose(found_pooled, pooled, atol=1e-6)
  np.testing.assert_array_equal(found_layers[-1], found)
  np.testing.assert_allclose(found_layers[:-1], layers[:-1], atol=1e-6)


def test_the_mask_defaults_to_ones_and_segments_to_zeros():
  def build(ids, *_):
    models = [modeling.BertModel(tiny.CONFIG, False, ids, scope="bert")]
    with tf1.variable_scope("", reuse=True):
      models.append(modeling.BertModel(
          tiny.CONFIG, False, ids, tf.ones_like(ids), tf.zeros_like(ids),
          scope="bert"))
    return [model.get_sequence_output() for model in models]

  np.testing.assert_array_equal(*_run(build))


def test_one_hot_products_and_lookups_give_the_same_embeddings():
  def build(ids, mask, segments, _):
    outputs = []
    for reuse, is_one_hot in ((False, False), (True, True)):
      with tf1.variable_scope(tf1.get_variable_scope(), reuse=reuse):
        model = modeling.BertModel(
            tiny.CONFIG, False, ids, mask, segments, is_one_hot, "bert")
      output = model.get_sequence_output()
      outputs.append([model.get_embedding_output(), output, *tf.gradients(
          tf.reduce_sum(tf.sin(output)), tf1.trainable_variables()[:1])])
    return outputs

  for found, wanted in zip(*_run(build)):
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_models_without_a_scope_are_named_bert_and_numbered():
  with tf.Graph().as_default():
    tokens = tf.zeros([1, 4], tf.int32)
    for scope in (None, None, "encoder", "bert_2"):
      modeling.BertModel(tiny.CONFIG, False, tokens, scope=scope)
    names = {variable.op.name.split("/")[0]
             for variable in tf1.trainable_variables()}
  assert names == {"bert", "bert_1", "encoder", "bert_2"}


def test_reused_scopes_share_their_variables():
  with tf.Graph().as_default():
    tokens = tf.zeros([1, 4], tf.int32)
    for reuse in (False, True, True):
      with tf1.variable_scope(tf1.get_variable_scope(), reuse=reuse):
        modeling.pretraining_logits(
            tiny.CONFIG, True, tokens, tokens, tokens, tokens)
    names = {variable.op.name for variable in tf1.global_variables()}
  assert names == set(modeling.variable_shapes(tiny.CONFIG))


def test_training_and_inference_agree_without_dropout():
  def build(*inputs):
    logits = [modeling.pretraining_logits(tiny.CONFIG, True, *inputs)]
    with tf1.variable_scope("", reuse=True):
      for for_cpu in (False, True):
        logits.append(modeling.pretraining_logits(
            tiny.CONFIG, False, *inputs, for_cpu=for_cpu))
    return logits

  training, *inferences = _run(build)
  for inference in inferences:
    for found, wanted in zip(training, inference):
      np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_activations_are_found_by_name():
  assert modeling.get_activation("gelu") is modeling.gelu
  assert modeling.get_activation("GELU") is modeling.gelu
  assert modeling.get_activation("relu") is tf.nn.relu
  assert modeling.get_activation("tanh") is tf.tanh
  assert modeling.get_activation(tf.nn.swish) is tf.nn.swish
  for linear in ("linear", "", None):
    assert modeling.get_activation(linear) is None
  assert modeling.get_activation("gelu_pytorch_tanh") is modeling.gelu
  assert modeling.get_activation("silu") is tf.nn.silu
  with pytest.raises(ValueError, match="'mish'.*gelu.*linear, relu.*tanh"):
    modeling.get_activation("mish")


def test_the_model_uses_the_activation_of_the_config():
  def build(ids, *_):
    outputs = {}
    for activation in ("gelu", modeling.gelu, "linear", None, "relu",
                       tf.nn.relu):
      config = dataclasses.replace(tiny.CONFIG, hidden_act=activation)
      with tf1.variable_scope("", reuse=tf1.AUTO_REUSE):
        outputs[activation] = modeling.BertModel(
            config, False, ids, scope="bert").get_sequence_output()
    return outputs

  found = _run(build)
  np.testing.assert_array_equal(found["gelu"], found[modeling.gelu])
  np.testing.assert_array_equal(found["linear"], found[None])
  np.testing.assert_array_equal(found["relu"], found[tf.nn.relu])
  assert not np.allclose(found["gelu"], found["linear"], atol=1e-2)
  assert not np.allclose(found["gelu"], found["relu"], atol=1e-3)


def test_assignment_maps_hold_variables_of_both_model_and_checkpoint(tmp_path):
  variables = tiny.random_variables(
      dataclasses.replace(tiny.CONFIG, num_hidden_layers=2))
  path = str(tiny.write_checkpoint(tmp_path / "bert_model.ckpt", variables))
  with tf.Graph().as_default(), tf1.Session() as session:
    tokens = tf.zeros([1, 4], tf.int32)
    modeling.BertModel(tiny.CONFIG, False, tokens)
    tf1.get_variable("output_weights", [2, 8], use_resource=False)
    tvars = tf1.trainable_variables()
    assignment_map, initialized = modeling.get_assignment_map_from_checkpoint(
        tvars, path)
    tf1.train.init_from_checkpoint(path, assignment_map)
    session.run(tf1.global_variables_initializer())
    values = {variable.op.name: value
              for variable, value in zip(tvars, session.run(tvars))}
  assert dict(assignment_map) == {
      name: name for name in values if name != "output_weights"}
  assert set(initialized) == {
      name + end for name in assignment_map for end in ("", ":0")}
  assert all(variable.name in initialized for variable in tvars[:-1])
  for name in assignment_map:
    np.testing.assert_array_equal(values[name], variables[name])


def test_layer_norm_by_hand():
  with tf.Graph().as_default(), tf1.Session() as session:
    outputs = [modeling.layer_norm(tf.constant([[1.0, 3.0], [5.0, 5.0]]), name)
               for name in (None, None, "norm")]
    names = [variable.op.name for variable in tf1.trainable_variables()]
    session.run(tf1.global_variables_initializer())
    found = session.run(outputs)
  np.testing.assert_allclose(found, [[[-1, 1], [0, 0]]] * 3, atol=1e-6)
  assert names == [scope + name for scope in (
      "LayerNorm", "LayerNorm_1", "norm") for name in ("/beta", "/gamma")]


def test_dropout_at_rate_zero_or_none_is_the_identity():
  inputs = tf.ones([3])
  assert modeling.dropout(inputs, 0.0) is modeling.dropout(inputs, None) is (
      inputs)


def test_shape_lists_hold_numbers_for_static_sizes():
  with tf.Graph().as_default(), tf1.Session() as session:
    tensor = tf1.placeholder(tf.float32, [None, 3], name="rows")
    first, second = modeling.get_shape_list(tensor, expected_rank=[1, 2])
    assert second == 3
    assert session.run(first, {tensor: np.zeros([5, 3])}) == 5
    with pytest.raises(ValueError, match=r"rows:0 .*\(None, 3\).* must be 3"):
      modeling.get_shape_list(tensor, expected_rank=3)
    with pytest.raises(ValueError, match="must be 2"):
      modeling.BertModel(tiny.CONFIG, False, tf.zeros([4], tf.int32))


# --- Configuration -----------------------------------------------------------


def test_a_config_file_reads_back_as_the_same_config(tmp_path):
  path = tiny.write_config(tmp_path / "bert_config.json", directionality="bidi")
  assert modeling.BertConfig.from_json_file(str(path)) == tiny.CONFIG


def test_json_text_and_dict_read_back_as_the_same_config(tmp_path):
  path = tmp_path / "bert_config.json"
  path.write_text(tiny.CONFIG.to_json_string())
  assert modeling.BertConfig.from_json_file(str(path)) == tiny.CONFIG
  assert modeling.BertConfig.from_dict(tiny.CONFIG.to_dict()) == tiny.CONFIG


def test_a_config_keeps_extra_values_and_accepts_any_size():
  """Scripts for BERT add values to a config and may set sizes later."""
  config = modeling.BertConfig.from_dict(
      {"hidden_size": 37, "pooler_type": "x"})
  assert config.hidden_size == 37 and config.num_attention_heads == 12
  assert config.vocab_size is None and config.pooler_type == "x"
  assert config.to_dict()["pooler_type"] == "x"
  assert modeling.BertConfig.from_dict(config.to_dict()) == config
  config = modeling.BertConfig(9, hidden_size=37)
  with pytest.raises(ValueError, match="37 is not a multiple.*_heads 12"):
    _run(lambda ids, *_: modeling.BertModel(
        config, False, ids).get_pooled_output(), {})


def test_models_leave_the_config_unchanged_and_users_may_change_it():
  config = modeling.BertConfig.from_dict(dict(
      tiny.CONFIG.to_dict(), hidden_dropout_prob=0.5,
      attention_probs_dropout_prob=0.5))
  before = config.to_dict()

  def build(ids, *_):
    model = modeling.BertModel(config, False, ids, scope="bert")
    assert config.to_dict() == before
    config.hidden_dropout_prob = 0
    config.attention_probs_dropout_prob = 0.0
    with tf1.variable_scope("", reuse=True):
      trained = modeling.BertModel(config, True, ids, scope="bert")
    return model.get_pooled_output(), trained.get_pooled_output()

  np.testing.assert_allclose(*_run(build), atol=1e-6)
  config.num_attention_heads = 3
  with pytest.raises(ValueError, match="hidden_size 8.*num_attention_heads 3"):
    _run(build)

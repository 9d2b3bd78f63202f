"""Checkpoints: matching with a model, restoring, exporting; newest and best."""

import collections
import contextlib
import dataclasses
import json
import os
import re
from typing import (Any, Dict, Iterable, List, NamedTuple, Optional, Sequence,
                    Tuple, Union)

from absl import logging
import numpy as np
import tensorflow as tf
import tensorflow.compat.v1 as tf1

from distillation import evaluation
from distillation import teacher_decoder
import modeling
import optimization
from util import files
from util.command_line import InputError

# Folder in output_dir of the exported student, and what it holds.
EXPORT_FOLDER = "student"
CONFIG_FILE = "bert_config.json"
CHECKPOINT_FILE = "bert_model.ckpt"
# File in it with the name of the checkpoint that it was made of, as seen from
# output_dir.
_SOURCE_FILE = "exported_from.txt"
# What the name of a variable begins with: a layer, or another part.
_LAYER = re.compile("bert/encoder/layer_([0-9]+)")
_PART = re.compile("[^/]*/?[^/]*")
# What the files of a checkpoint add to its path.
_CHECKPOINT_PART = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
_OPTIMIZER_SLOTS = ("adam_m", "adam_v")
# What every BERT checkpoint has, and how other programs name that variable.
_WORD_EMBEDDINGS = "bert/embeddings/word_embeddings"
_RENAMED_EMBEDDINGS = re.compile(r"(.*/)?embeddings/word_embeddings(/.*)?")
# The variables of a decoder, in the order of its fields.
_DECODER_VARIABLES = (_WORD_EMBEDDINGS, "cls/predictions/output_bias")
_MODEL_SCOPES = ("bert/", "cls/")
# What predicts next sentences; a masked-LM model can do without.
NEXT_SENTENCE_SCOPES = ("bert/pooler/", "cls/seq_relationship/")
# Keys of configs of other programs that would make another model, and the value
# with which the model is BERT's.
_ONLY_VALUES = {
    "add_cross_attention": False, "is_decoder": False, "layer_norm_eps": 1e-12,
    "model_type": "bert", "position_embedding_type": "absolute",
    "tie_word_embeddings": True}
# Keys of configs that change what the variables of a model compute, and none of
# their shapes.
_FUNCTION_KEYS = ("num_attention_heads", "hidden_act", *_ONLY_VALUES)
# The entry that tells object-based checkpoints of TensorFlow 2.
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
# Variable of training only, which no exported model has.
HIDDEN_PROJECTION = "hidden_projection/kernel"


# --- Configs -----------------------------------------------------------------


def load_config(path: str, max_seq_length: int = 0) -> modeling.BertConfig:
  """Reads a model's config.

  Args:
    path: of the JSON file that --bert_config_file names.
    max_seq_length: the longest sequence that the model is to read.

  Raises:
    InputError: there is no such file, it describes no model, or the model
      cannot read such sequences.
  """
  files.check_file(path, "bert_config_file")
  try:
    config = modeling.BertConfig.from_dict(_read_json(path))
    check_config(config)
    _check_kind(config)
  except ValueError as error:
    raise InputError("--bert_config_file: {}: {}".format(
        path, error)) from None
  if max_seq_length > config.max_position_embeddings:
    raise InputError(
        "--max_seq_length={} is over max_position_embeddings={} of the "
        "config; use shorter sequences or another model".format(
            max_seq_length, config.max_position_embeddings))
  return config


def _read_json(path: str) -> Dict[str, Any]:
  """Reads a JSON object.

  Raises:
    OSError: the file cannot be read.
    ValueError: it holds something else.
  """
  try:
    with files.open_file(path) as file:
      values = json.load(file)
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise ValueError(
        "the file is not JSON ({}); a config is a file like BERT's "
        "bert_config.json".format(error)) from None
  except RecursionError:
    raise ValueError("the file is nested too deeply") from None
  if not isinstance(values, dict):
    raise ValueError("there is no vocab_size; a config is a JSON object like "
                     "BERT's bert_config.json")
  return values


def check_config(config: modeling.BertConfig) -> None:
  """Checks that a model of a config can be built.

  Raises:
    ValueError: a field has a value that no model has.
  """
  if config.vocab_size is None:
    raise ValueError("there is no vocab_size; a config is a JSON object like "
                     "BERT's bert_config.json")
  for field in dataclasses.fields(config):
    name, value = field.name, getattr(config, field.name)
    if field.type is int and not (_is_number(value, int) and value > 0):
      raise ValueError("{} is {!r}; it must be a whole number over 0".format(
          name, value))
    if name.endswith("_prob") and not (
        _is_number(value, (int, float)) and 0 <= value < 1):
      raise ValueError("{} is {!r}; it must be from 0 to under 1".format(
          name, value))
  if config.hidden_size % config.num_attention_heads:
    raise ValueError(
        "hidden_size {} is not a multiple of num_attention_heads {}".format(
            config.hidden_size, config.num_attention_heads))
  if not (_is_number(config.initializer_range, (int, float))
          and 0 <= config.initializer_range <= tf.float32.max):
    raise ValueError(
        "initializer_range is {!r}; it must be a finite number, 0 or more"
        .format(config.initializer_range))
  if not (config.hidden_act is None or isinstance(config.hidden_act, str)):
    raise ValueError("hidden_act is {!r}; it must be a name".format(
        config.hidden_act))
  modeling.get_activation(config.hidden_act)


def _check_kind(config: modeling.BertConfig) -> None:
  """Checks that a config asks for no model but BERT.

  Raises:
    ValueError: a key that is no field of `BertConfig` asks for another model.
  """
  wanted = dict(_ONLY_VALUES, embedding_size=config.hidden_size)
  for name, value in wanted.items():
    found = getattr(config, name, value)
    if found != value:
      raise ValueError(
          "{} is {!r}, which makes another model than BERT; only {!r} can be "
          "built here".format(name, found, value))


def _is_number(value: Any, types: Union[type, Tuple[type, ...]]) -> bool:
  """Returns whether a value is of some types; True and False are no numbers."""
  return isinstance(value, types) and not isinstance(value, bool)


# --- Matching ----------------------------------------------------------------


class CheckpointMatch(NamedTuple):
  """Which variables of a model a checkpoint holds.

  Attributes:
    restored: those that it has.
    missing: those that it has not.
    unused: what it has of a larger model.
  """
  restored: Tuple[str, ...]
  missing: Tuple[str, ...]
  unused: Tuple[str, ...]


def match_checkpoint(config: modeling.BertConfig, checkpoint: str,
                     flag: str = "init_checkpoint",
                     layers: Optional[Sequence[int]] = None
                    ) -> CheckpointMatch:
  """Compares a checkpoint with the model of a config, by name and shape.

  Warns where a config beside the checkpoint makes another function of the same
  variables.

  Args:
    config: size of the model.
    checkpoint: path of a checkpoint, without `.index`.
    flag: name of the flag that named it, for errors.
    layers: layers of the checkpoint that become the model's layers 0, 1 and
      so on; None takes each layer as it is numbered.

  Returns:
    The names of the variables that both have, and that one of them has.

  Raises:
    InputError: there is no such checkpoint, a variable has another name or
      shape in it, it has nothing of the model, or it lacks one of the layers.
  """
  found = _checkpoint_shapes(checkpoint, flag)
  _check_names(found, checkpoint, flag)
  wanted = modeling.variable_shapes(config)
  if layers is not None:
    if len(layers) != config.num_hidden_layers:
      raise InputError(
          "--init_layers={} names {} layers, but --bert_config_file has "
          "num_hidden_layers {}: name as many".format(
              ",".join(map(str, layers)), len(layers),
              config.num_hidden_layers))
    present = {int(match.group(1)) for match in map(_LAYER.match, found)
               if match}
    for layer in layers:
      if layer not in present:
        raise InputError(
            "--init_layers: {} has no layer {}, its layers are {}".format(
                checkpoint, layer, ", ".join(map(str, sorted(present)))
                or "none"))
    found = {name: found[source] for name, source in
             _sources(wanted, layers).items() if source in found}
  for name, shape in wanted.items():
    if name in found and found[name] != shape:
      raise InputError(
          "--{}: {} in {} has shape {}, but --bert_config_file makes it {}; "
          "use the config that belongs to the checkpoint, or one of the same "
          "sizes".format(flag, name, checkpoint, found[name], shape))
  restored = tuple(name for name in wanted if name in found)
  if not restored:
    raise InputError(
        "--{}: {} has none of the model's {} variables ({}, ...); it is no "
        "BERT checkpoint".format(flag, checkpoint, len(wanted),
                                 next(iter(wanted))))
  _check_values(checkpoint, flag, {
      name if layers is None else _sources([name], layers)[name]
      for name in restored})
  _warn_of_other_function(config, checkpoint, flag)
  return CheckpointMatch(
      restored, tuple(name for name in wanted if name not in found),
      tuple(name for name in found if name not in wanted
            and name.startswith(_MODEL_SCOPES)))


def _check_names(names: Iterable[str], checkpoint: str, flag: str) -> None:
  """Raises InputError where a checkpoint has a model under other names."""
  if _WORD_EMBEDDINGS in names:
    return
  if _OBJECT_GRAPH in names:
    raise InputError(
        "--{}: {} is an object-based checkpoint of TensorFlow 2, as "
        "tf.train.Checkpoint and Keras write: its variables have no names of "
        "BERT's; docs/teacher.md says how to convert it".format(
            flag, checkpoint))
  renamed = next(filter(_RENAMED_EMBEDDINGS.fullmatch, names), None)
  if renamed:
    raise InputError(
        "--{}: {} has the variable {} where BERT's checkpoints have {}: "
        "another program named its variables; docs/teacher.md says how to "
        "rename them".format(flag, checkpoint, renamed, _WORD_EMBEDDINGS))


def _warn_of_other_function(config: modeling.BertConfig, checkpoint: str,
                            flag: str) -> None:
  """Warns where a config beside a checkpoint makes another function of it."""
  folder = os.path.dirname(checkpoint)
  # A training keeps its student's config in the folder of the export.
  for path in (os.path.join(folder, CONFIG_FILE),
               os.path.join(folder, EXPORT_FOLDER, CONFIG_FILE)):
    try:
      beside = modeling.BertConfig.from_dict(_read_json(path))
    except (OSError, ValueError):
      continue
    differences = []
    for name in _FUNCTION_KEYS:
      ours, theirs = (getattr(some, name, _ONLY_VALUES.get(name))
                      for some in (config, beside))
      if _meaning(name, ours) != _meaning(name, theirs):
        differences.append("{} {}, not {}".format(name, ours, theirs))
    if differences:
      logging.warning(
          "--bert_config_file has %s as in %s beside --%s=%s: the same "
          "variables compute something else. Give the config that belongs to "
          "the checkpoint.", " and ".join(differences), path, flag, checkpoint)
    return


def _meaning(name: str, value: Any) -> Any:
  """Returns a config's value; the function where it names an activation."""
  if name == "hidden_act":
    with contextlib.suppress(ValueError):
      return modeling.get_activation(value)
  return value


def _check_values(checkpoint: str, flag: str, names: Iterable[str]) -> None:
  """Raises InputError where variables cannot be read or are not finite."""
  reader = tf1.train.NewCheckpointReader(checkpoint)
  for name in sorted(names):
    try:
      value = reader.get_tensor(name)
    except (tf.errors.OpError, IndexError, ValueError) as error:
      raise InputError(
          "--{}: {} is damaged: {} cannot be read ({}); copy or download it "
          "again".format(flag, checkpoint, name,
                         str(error).split("\n")[0])) from None
    dtype = tf.as_dtype(value.dtype)
    if not dtype.is_floating:
      raise InputError(
          "--{}: {} in {} is {}, not float32; it is no BERT checkpoint".format(
              flag, name, checkpoint, dtype.name))
    if not np.isfinite(value).all():
      raise InputError(
          "--{}: {} in {} holds NaN or infinite values: the training that made "
          "it has failed; use an earlier checkpoint".format(
              flag, name, checkpoint))


def check_complete(config: modeling.BertConfig, checkpoint: str) -> None:
  """Checks that a teacher's checkpoint holds all that predicts masked tokens.

  Raises:
    InputError: it does not, or as for `match_checkpoint`.
  """
  match = match_checkpoint(config, checkpoint)
  missing = [name for name in match.missing
             if not name.startswith(NEXT_SENTENCE_SCOPES)]
  if missing:
    raise InputError(
        "--init_checkpoint: {} lacks {} of the teacher's variables, such as "
        "{}; a teacher with random weights would write labels: use a "
        "pre-trained checkpoint with its masked-LM head".format(
            checkpoint, len(missing), missing[0]))
  if match.unused:
    logging.warning(
        "--init_checkpoint: %s has %d variables that the config does not have, "
        "such as %s; the teacher computes without them.", checkpoint,
        len(match.unused), match.unused[0])


def variable_shapes(checkpoint: str) -> Dict[str, List[int]]:
  """Returns the shape of each variable in a checkpoint, by name."""
  # tf.train.list_variables takes the prefix of remote files for a folder.
  reader = tf1.train.NewCheckpointReader(checkpoint)
  return dict(sorted(reader.get_variable_to_shape_map().items()))


def _checkpoint_shapes(checkpoint: str, flag: str) -> Dict[str, List[int]]:
  """Returns the shape of each variable in a checkpoint, without slots."""
  # One of its files is a readable table, too, but has no variables.
  prefix = _CHECKPOINT_PART.sub("", checkpoint)
  if prefix != checkpoint and files.exists(prefix + ".index"):
    raise InputError(
        "--{}: {} is one of the files of a checkpoint; give the path that they "
        "share, {}".format(flag, checkpoint, prefix))
  if files.is_folder(checkpoint) and not files.exists(checkpoint + ".index"):
    raise InputError(
        "--{}: {} is a folder; give the path that the files of a checkpoint in "
        "it share, such as {}".format(
            flag, checkpoint, os.path.join(checkpoint, CHECKPOINT_FILE)))
  try:
    shapes = variable_shapes(checkpoint)
  except (tf.errors.OpError, IndexError, MemoryError, ValueError) as error:
    # Where a damaged index says that it is larger than the file, or huge.
    raise InputError(
        "--{}: {} is not a readable checkpoint ({}); give the path without "
        "`.index` or `.data-...`, such as folder/bert_model.ckpt".format(
            flag, checkpoint, str(error).split("\n")[0])) from None
  return {name: shape for name, shape in shapes.items()
          if name.split("/")[-1] not in _OPTIMIZER_SLOTS}


def missing_of_training(checkpoint: str) -> Optional[str]:
  """Returns what a checkpoint lacks of a training; None where it is one."""
  found = variable_shapes(checkpoint)
  if tf1.GraphKeys.GLOBAL_STEP not in found:
    return tf1.GraphKeys.GLOBAL_STEP
  if not any(name.endswith(_OPTIMIZER_SLOTS) for name in found):
    return "moments of the optimizer"
  return None


def fingerprint(checkpoint: str) -> str:
  """Returns the SHA-256 of a checkpoint's index.

  The index holds a checksum of every tensor, so it stands for the data too.
  """
  return files.fingerprint(checkpoint + ".index")


def summarize(names: Sequence[str]) -> str:
  """Returns the parts of the model that variables belong to, with counts."""
  return ", ".join("{} ({})".format(part, count) for part, count in
                   collections.Counter(map(_part, names)).items())


def _part(name: str) -> str:
  match = _LAYER.match(name) or _PART.match(name)
  assert match  # Every name has a part.
  return match.group(0)


def _sources(names: Iterable[str], layers: Sequence[int]) -> Dict[str, str]:
  """Returns for each variable the name that it has in a checkpoint."""
  return {
      name: _LAYER.sub(
          lambda match: "{}{}".format(
              match.group(0)[:-len(match.group(1))],
              layers[int(match.group(1))]), name)
      for name in names}


# --- Restoring and exporting -------------------------------------------------


def restore(checkpoint: str, layers: Optional[Sequence[int]] = None) -> None:
  """Makes the graph's variables start as in a checkpoint, where it has them.

  Args:
    checkpoint: one that `match_checkpoint` has compared.
    layers: as for `match_checkpoint`.
  """
  variables = {variable.op.name: variable
               for variable in tf1.trainable_variables()
               if variable.op.name.startswith(_MODEL_SCOPES)}
  sources = (dict(zip(variables, variables)) if layers is None
             else _sources(variables, layers))
  found = tf1.train.NewCheckpointReader(checkpoint).get_variable_to_dtype_map()
  # A layer may be taken twice, which one map from names to names cannot say.
  assignment_maps: List[Dict[str, str]] = []
  for name, source in sources.items():
    if found.get(source) == variables[name].dtype.base_dtype:
      if all(source in earlier for earlier in assignment_maps):
        assignment_maps.append({})
      next(earlier for earlier in assignment_maps
           if source not in earlier)[source] = name
    elif source in found:
      _start_from(variables[name], checkpoint, source, found[source])
  for assignment_map in assignment_maps:
    tf1.train.init_from_checkpoint(checkpoint, assignment_map)


def _start_from(variable: tf.Variable, checkpoint: str, source: str,
                dtype: tf.DType) -> None:
  """Makes a variable start as in a checkpoint that has it in another dtype."""
  with tf.init_scope(), tf.device("/device:CPU:0"):
    value = tf.ensure_shape(tf.cast(tf.raw_ops.RestoreV2(
        prefix=checkpoint, tensor_names=[source], shape_and_slices=[""],
        dtypes=[dtype])[0], variable.dtype.base_dtype), variable.shape)
  # TensorFlow has no public way, and does the same to values of one dtype.
  variable._initial_value = value
  variable._initializer_op = variable.assign(value, read_value=False)


class LossScaleSaver(tf1.train.Saver):
  """Saves and restores all variables, among them those of a loss scale.

  Training without one, or with an earlier version, leaves checkpoints that lack
  them: restored from there, the loss scale starts anew.
  """

  def __init__(self, max_to_keep: int):
    """Builds the graph's operations, those for older checkpoints too."""
    # As the estimator's own.
    super().__init__(sharded=True, max_to_keep=max_to_keep,
                     save_relative_paths=True)
    variables = {variable.op.name: variable
                 for variable in tf1.global_variables()}
    self._initializers = [variables.pop(name).initializer
                          for name in optimization.LOSS_SCALE_VARIABLES]
    self._without_loss_scale = tf1.train.Saver(variables)

  def restore(self, sess, save_path):
    if set(optimization.LOSS_SCALE_VARIABLES) <= set(
        variable_shapes(save_path)):
      super().restore(sess, save_path)
      return
    self._without_loss_scale.restore(sess, save_path)
    sess.run(self._initializers)


def read_decoder(checkpoint: str) -> teacher_decoder.Decoder:
  """Reads the decoder of a teacher's checkpoint, which holds it."""
  reader = tf1.train.NewCheckpointReader(checkpoint)
  return teacher_decoder.Decoder(*(
      reader.get_tensor(name).astype(np.float32)
      for name in _DECODER_VARIABLES))


def export(config: modeling.BertConfig, checkpoint: str, path: str) -> None:
  """Writes only the model's variables, as Google's checkpoints hold them.

  Args:
    config: size of the model.
    checkpoint: one that holds every variable, and perhaps slots.
    path: the checkpoint to write, without `.index`.
  """
  reader = tf1.train.NewCheckpointReader(checkpoint)
  names = sorted(modeling.variable_shapes(config))
  with tf.Graph().as_default(), tf1.Session(
      config=tf1.ConfigProto(device_count={"GPU": 0})) as session:
    values = [tf1.placeholder(reader.get_tensor(name).dtype) for name in names]
    session.run(
        tf.raw_ops.SaveV2(
            prefix=path, tensor_names=names,
            shape_and_slices=[""] * len(names), tensors=values),
        {value: reader.get_tensor(name)
         for name, value in zip(names, values)})


def export_model(config: modeling.BertConfig, config_file: str,
                 checkpoint: str, output_dir: str) -> str:
  """Exports a model to a folder that appears when it is complete.

  Args:
    config: size of the model.
    config_file: path of its config, which is copied.
    checkpoint: as for `export`.
    output_dir: folder of the run.

  Returns:
    The path of the exported folder.
  """
  folder = os.path.join(output_dir, EXPORT_FOLDER)
  with files.replaced_folder(folder, _SOURCE_FILE) as partial:
    export(config, checkpoint, os.path.join(partial, CHECKPOINT_FILE))
    files.copy_atomically(config_file, os.path.join(partial, CONFIG_FILE))
    files.write_atomically(
        os.path.join(partial, _SOURCE_FILE),
        os.path.relpath(checkpoint, output_dir) + "\n")
  return folder


def exported_checkpoint(output_dir: str) -> Optional[str]:
  """Returns the checkpoint that the exported model was made of.

  None where nothing is exported, or that checkpoint is gone.
  """
  path = os.path.join(output_dir, EXPORT_FOLDER, _SOURCE_FILE)
  if not files.exists(path):
    return None
  checkpoint = os.path.join(output_dir, files.read_text(path).strip())
  return checkpoint if files.exists(checkpoint + ".index") else None


# --- Newest and best ---------------------------------------------------------


def newest_step(output_dir: str) -> int:
  """Returns the global step of the newest checkpoint; 0 without any."""
  newest = tf.train.latest_checkpoint(output_dir)
  return step_of(newest) if newest else 0


def step_of(checkpoint: str) -> int:
  """Returns the global step of a checkpoint of a training."""
  return int(tf1.train.NewCheckpointReader(checkpoint).get_tensor(
      tf1.GraphKeys.GLOBAL_STEP))


def skipped_steps(checkpoint: str) -> int:
  """Returns how many steps before a checkpoint skipped an overflow."""
  reader = tf1.train.NewCheckpointReader(checkpoint)
  name = optimization.LOSS_SCALE_VARIABLES[-1]
  return int(reader.get_tensor(name)) if reader.has_tensor(name) else 0


def best_checkpoint(output_dir: str) -> Optional[str]:
  """Returns the checkpoint that --eval_every_checkpoint has kept, or None."""
  folder = os.path.join(output_dir, evaluation.BEST_FOLDER)
  results = evaluation.read_results(
      os.path.join(folder, evaluation.RESULTS_FILE))
  if not results:
    return None
  return os.path.join(
      folder, "model.ckpt-{}".format(int(results["global_step"])))

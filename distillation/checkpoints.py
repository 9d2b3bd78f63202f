"""Matches, restores and exports checkpoints; finds the newest and the best."""

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

# Folder of the exported student in output_dir, and its files.
EXPORT_FOLDER = "student"
CONFIG_FILE = "bert_config.json"
CHECKPOINT_FILE = "bert_model.ckpt"
# File in the export with the path of the exported checkpoint, relative to
# output_dir.
_SOURCE_FILE = "exported_from.txt"
# Prefix of a variable's name: its layer, or another part of the model.
_LAYER = re.compile("bert/encoder/layer_([0-9]+)")
_PART = re.compile("[^/]*/?[^/]*")
# Suffixes of the files of a checkpoint.
_CHECKPOINT_SUFFIX = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
_OPTIMIZER_SLOTS = ("adam_m", "adam_v")
# A variable of every BERT checkpoint, and its names in other programs.
_WORD_EMBEDDINGS = "bert/embeddings/word_embeddings"
_RENAMED_EMBEDDINGS = re.compile(r"(.*/)?embeddings/word_embeddings(/.*)?")
# The variables of a decoder, in the order of its fields.
_DECODER_VARIABLES = (_WORD_EMBEDDINGS, "cls/predictions/output_bias")
_MODEL_SCOPES = ("bert/", "cls/")
# Scopes of the variables for next sentences; a masked-LM model needs none.
NEXT_SENTENCE_SCOPES = ("bert/pooler/", "cls/seq_relationship/")
# Keys in configs of other programs that can describe another model than BERT,
# with the value that describes BERT.
_ONLY_VALUES = {
    "add_cross_attention": False, "is_decoder": False, "layer_norm_eps": 1e-12,
    "model_type": "bert", "position_embedding_type": "absolute",
    "tie_word_embeddings": True}
# Keys in configs that change the function of a model, but no shape of its
# variables.
_FUNCTION_KEYS = ("num_attention_heads", "hidden_act", *_ONLY_VALUES)
# Entry of every object-based checkpoint of TensorFlow 2.
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
# Variable of training that is not exported.
HIDDEN_PROJECTION = "hidden_projection/kernel"


# --- Configs -----------------------------------------------------------------


def load_config(path: str, max_seq_length: int = 0,
                flag: str = "bert_config_file") -> modeling.BertConfig:
  """Reads a model's config.

  Args:
    path: path of the JSON file.
    max_seq_length: length of the longest sequence to read, in tokens.
    flag: name of the flag that gave the path or its folder, for errors.

  Raises:
    InputError: if the file is missing or describes no BERT model, or the model
      cannot read sequences of this length.
  """
  files.check_file(path, flag)
  try:
    config = modeling.BertConfig.from_dict(_read_json(path))
    check_config(config)
    _check_kind(config)
  except ValueError as error:
    raise InputError("--{}: {}: {}".format(flag, path, error)) from None
  if max_seq_length > config.max_position_embeddings:
    raise InputError(
        "--max_seq_length={} is over max_position_embeddings={} of the "
        "config; use shorter sequences or another model".format(
            max_seq_length, config.max_position_embeddings))
  return config


def _read_json(path: str) -> Dict[str, Any]:
  """Reads a JSON object.

  Raises:
    OSError: if the file cannot be read.
    ValueError: if the file is not a JSON object.
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
  """Checks that the model of a config can be built.

  Raises:
    ValueError: if a field has an impossible value.
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
  """Checks that a config describes a BERT model.

  Raises:
    ValueError: if a key that `BertConfig` lacks describes another model.
  """
  wanted = dict(_ONLY_VALUES, embedding_size=config.hidden_size)
  for name, value in wanted.items():
    found = getattr(config, name, value)
    if found != value:
      raise ValueError(
          "{} is {!r}, which makes another model than BERT; only {!r} is "
          "supported".format(name, found, value))


def _is_number(value: Any, types: Union[type, Tuple[type, ...]]) -> bool:
  """Returns whether a value is of some types, and not a bool."""
  return isinstance(value, types) and not isinstance(value, bool)


# --- Matching ----------------------------------------------------------------


class CheckpointMatch(NamedTuple):
  """Names of variables, by whether the model and a checkpoint have them.

  Attributes:
    restored: variables of the model that the checkpoint has.
    missing: variables of the model that the checkpoint lacks.
    unused: BERT variables of the checkpoint that the model lacks.
  """
  restored: Tuple[str, ...]
  missing: Tuple[str, ...]
  unused: Tuple[str, ...]


def match_checkpoint(config: modeling.BertConfig, checkpoint: str,
                     flag: str = "init_checkpoint",
                     layers: Optional[Sequence[int]] = None,
                     config_source: str = "--bert_config_file"
                    ) -> CheckpointMatch:
  """Compares a checkpoint with the model of a config, by name and shape.

  Warns if a config beside the checkpoint describes another function of the same
  variables.

  Args:
    config: config of the model.
    checkpoint: path of a checkpoint, without `.index`.
    flag: name of the flag that gave the path, for errors.
    layers: layers of the checkpoint that become the model's layers 0, 1 and
      so on; None keeps the number of each layer.
    config_source: the flags or the path that gave the config, for errors.

  Returns:
    The names of the variables of both, and of only one of them.

  Raises:
    InputError: if there is no such checkpoint, a variable has another name or
      shape in it, it has no variable of the model, or it lacks a layer.
  """
  found = _checkpoint_shapes(checkpoint, flag)
  _check_names(found, checkpoint, flag)
  wanted = modeling.variable_shapes(config)
  if layers is not None:
    if len(layers) != config.num_hidden_layers:
      raise InputError(
          "--init_layers={} names {} layers, but --bert_config_file has "
          "num_hidden_layers {}: name {} layers".format(
              ",".join(map(str, layers)), len(layers),
              config.num_hidden_layers, config.num_hidden_layers))
    present = {int(match.group(1)) for match in map(_LAYER.match, found)
               if match}
    for layer in layers:
      if layer not in present:
        raise InputError(
            "--init_layers: {} has no layer {}, its layers are {}: name some "
            "of these".format(
                checkpoint, layer, ", ".join(map(str, sorted(present)))
                or "none"))
    found = {name: found[source] for name, source in
             _sources(wanted, layers).items() if source in found}
  for name, shape in wanted.items():
    if name in found and found[name] != shape:
      raise InputError(
          "--{}: {} in {} has shape {}, but shape {} by {}; use the config "
          "that belongs to the checkpoint, or a config of the same sizes"
          .format(flag, name, checkpoint, found[name], shape, config_source))
  restored = tuple(name for name in wanted if name in found)
  if not restored:
    raise InputError(
        "--{}: {} has none of the model's {} variables ({}, ...); give a BERT "
        "checkpoint".format(flag, checkpoint, len(wanted), next(iter(wanted))))
  _check_values(checkpoint, flag, {
      name if layers is None else _sources([name], layers)[name]
      for name in restored})
  _warn_of_other_function(config, checkpoint, flag)
  return CheckpointMatch(
      restored, tuple(name for name in wanted if name not in found),
      tuple(name for name in found if name not in wanted
            and name.startswith(_MODEL_SCOPES)))


def _check_names(names: Iterable[str], checkpoint: str, flag: str) -> None:
  """Raises InputError if the variables of a checkpoint have other names."""
  if _WORD_EMBEDDINGS in names:
    return
  if _OBJECT_GRAPH in names:
    raise InputError(
        "--{}: {} is an object-based checkpoint of TensorFlow 2, as "
        "tf.train.Checkpoint and Keras write: its variables do not have BERT's "
        "names; docs/teacher.md explains how to convert the checkpoint".format(
            flag, checkpoint))
  renamed = next(filter(_RENAMED_EMBEDDINGS.fullmatch, names), None)
  if renamed:
    raise InputError(
        "--{}: {} has the variable {} where BERT's checkpoints have {}: "
        "another program named the variables; docs/teacher.md explains how to "
        "rename them".format(flag, checkpoint, renamed, _WORD_EMBEDDINGS))


def _warn_of_other_function(config: modeling.BertConfig, checkpoint: str,
                            flag: str) -> None:
  """Warns if the config beside a checkpoint describes another function."""
  folder = os.path.dirname(checkpoint)
  # A trainer writes the student's config to the folder of the export.
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
          "--bert_config_file has %s as in %s beside --%s=%s: the model "
          "computes another function of the same variables. Give the config "
          "that belongs to the checkpoint.", " and ".join(differences), path,
          flag, checkpoint)
    return


def _meaning(name: str, value: Any) -> Any:
  """Returns the value of a config's key; for an activation, its function."""
  if name == "hidden_act":
    with contextlib.suppress(ValueError):
      return modeling.get_activation(value)
  return value


def _check_values(checkpoint: str, flag: str, names: Iterable[str]) -> None:
  """Raises InputError if variables cannot be read or are not finite."""
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
          "--{}: {} in {} is {}, not float32; give a BERT checkpoint".format(
              flag, name, checkpoint, dtype.name))
    if not np.isfinite(value).all():
      raise InputError(
          "--{}: {} in {} has NaN or infinite values: the training diverged; "
          "use an earlier checkpoint".format(flag, name, checkpoint))


def check_complete(config: modeling.BertConfig, checkpoint: str) -> None:
  """Checks that a teacher's checkpoint has an encoder and a masked-LM head.

  Raises:
    InputError: if a variable is missing, or as for `match_checkpoint`.
  """
  match = match_checkpoint(config, checkpoint)
  missing = [name for name in match.missing
             if not name.startswith(NEXT_SENTENCE_SCOPES)]
  if missing:
    raise InputError(
        "--init_checkpoint: {} lacks {} of the teacher's variables, such as "
        "{}, which would be random; use a pre-trained checkpoint with its "
        "masked-LM head".format(checkpoint, len(missing), missing[0]))
  if match.unused:
    logging.warning(
        "--init_checkpoint: %s has %d variables that the config does not have, "
        "such as %s; the teacher does not use them.", checkpoint,
        len(match.unused), match.unused[0])


def variable_shapes(checkpoint: str) -> Dict[str, List[int]]:
  """Returns the shape of each variable in a checkpoint, by name."""
  # tf.train.list_variables treats the prefix of remote files as a folder.
  reader = tf1.train.NewCheckpointReader(checkpoint)
  return dict(sorted(reader.get_variable_to_shape_map().items()))


def _checkpoint_shapes(checkpoint: str, flag: str) -> Dict[str, List[int]]:
  """Returns the shape of each variable in a checkpoint, without slots."""
  # TensorFlow could read the index file itself, as a table without variables.
  prefix = _CHECKPOINT_SUFFIX.sub("", checkpoint)
  if prefix != checkpoint and files.exists(prefix + ".index"):
    raise InputError(
        "--{}: {} is one file of a checkpoint; give the common prefix of its "
        "files, {}".format(flag, checkpoint, prefix))
  if files.is_folder(checkpoint) and not files.exists(checkpoint + ".index"):
    raise InputError(
        "--{}: {} is a folder; give the common prefix of the files of a "
        "checkpoint in the folder, such as {}".format(
            flag, checkpoint, os.path.join(checkpoint, CHECKPOINT_FILE)))
  try:
    shapes = variable_shapes(checkpoint)
  except (tf.errors.OpError, IndexError, MemoryError, ValueError) as error:
    # A damaged index can claim sizes beyond its file or beyond the memory.
    raise InputError(
        "--{}: {} is not a readable checkpoint ({}); give the path without "
        "`.index` or `.data-...`, such as folder/bert_model.ckpt".format(
            flag, checkpoint, str(error).split("\n")[0])) from None
  return {name: shape for name, shape in shapes.items()
          if name.split("/")[-1] not in _OPTIMIZER_SLOTS}


def missing_of_training(checkpoint: str) -> Optional[str]:
  """Returns what a checkpoint lacks to resume training; None for nothing."""
  found = variable_shapes(checkpoint)
  if tf1.GraphKeys.GLOBAL_STEP not in found:
    return tf1.GraphKeys.GLOBAL_STEP
  if not any(name.endswith(_OPTIMIZER_SLOTS) for name in found):
    return "moments of the optimizer"
  return None


def fingerprint(checkpoint: str) -> str:
  """Returns the SHA-256 of a checkpoint's index.

  The index has a checksum of every tensor, so the hash covers the data too.
  """
  return files.fingerprint(checkpoint + ".index")


def summarize(names: Sequence[str]) -> str:
  """Returns the number of variables in each part of the model, as text."""
  return ", ".join("{} ({})".format(part, count) for part, count in
                   collections.Counter(map(_part, names)).items())


def _part(name: str) -> str:
  match = _LAYER.match(name) or _PART.match(name)
  assert match  # Every name has a part.
  return match.group(0)


def _sources(names: Iterable[str], layers: Sequence[int]) -> Dict[str, str]:
  """Returns the name in the checkpoint of each variable, by its own name."""
  return {
      name: _LAYER.sub(
          lambda match: "{}{}".format(
              match.group(0)[:-len(match.group(1))],
              layers[int(match.group(1))]), name)
      for name in names}


# --- Restoring and exporting -------------------------------------------------


def restore(checkpoint: str, layers: Optional[Sequence[int]] = None) -> None:
  """Initializes the graph's variables from a checkpoint, as far as it has them.

  Args:
    checkpoint: path of a checkpoint that `match_checkpoint` has checked.
    layers: as for `match_checkpoint`.
  """
  variables = {variable.op.name: variable
               for variable in tf1.trainable_variables()
               if variable.op.name.startswith(_MODEL_SCOPES)}
  sources = (dict(zip(variables, variables)) if layers is None
             else _sources(variables, layers))
  found = tf1.train.NewCheckpointReader(checkpoint).get_variable_to_dtype_map()
  # A map has each source once, so a layer that is used twice needs two maps.
  assignment_maps: List[Dict[str, str]] = []
  for name, source in sources.items():
    if found.get(source) == variables[name].dtype.base_dtype:
      if all(source in earlier for earlier in assignment_maps):
        assignment_maps.append({})
      next(earlier for earlier in assignment_maps
           if source not in earlier)[source] = name
    elif source in found:
      _initialize_from(variables[name], checkpoint, source, found[source])
  for assignment_map in assignment_maps:
    tf1.train.init_from_checkpoint(checkpoint, assignment_map)


def _initialize_from(variable: tf.Variable, checkpoint: str, source: str,
                     dtype: tf.DType) -> None:
  """Initializes a variable from a checkpoint that has it in another dtype."""
  with tf.init_scope(), tf.device("/device:CPU:0"):
    value = tf.ensure_shape(tf.cast(tf.raw_ops.RestoreV2(
        prefix=checkpoint, tensor_names=[source], shape_and_slices=[""],
        dtypes=[dtype])[0], variable.dtype.base_dtype), variable.shape)
  # init_from_checkpoint sets the same private attributes, but cannot cast.
  variable._initial_value = value
  variable._initializer_op = variable.assign(value, read_value=False)


class LossScaleSaver(tf1.train.Saver):
  """Saves and restores all variables, including those of a loss scale."""

  def __init__(self, max_to_keep: int):
    """Builds the graph's operations, also for checkpoints without a scale."""
    # The arguments of the Estimator's own saver.
    super().__init__(sharded=True, max_to_keep=max_to_keep,
                     save_relative_paths=True)
    variables = {variable.op.name: variable
                 for variable in tf1.global_variables()}
    self._initializers = [variables.pop(name).initializer
                          for name in optimization.LOSS_SCALE_VARIABLES]
    self._without_loss_scale = tf1.train.Saver(variables)

  def restore(self, sess, save_path):
    """Restores all variables; initializes a loss scale that is not saved.

    Training without a loss scale saves none, nor did earlier versions.
    """
    if set(optimization.LOSS_SCALE_VARIABLES) <= set(
        variable_shapes(save_path)):
      super().restore(sess, save_path)
      return
    self._without_loss_scale.restore(sess, save_path)
    sess.run(self._initializers)


def read_decoder(checkpoint: str) -> teacher_decoder.Decoder:
  """Reads the decoder of a checkpoint that passed `check_complete`."""
  reader = tf1.train.NewCheckpointReader(checkpoint)
  return teacher_decoder.Decoder(*(
      reader.get_tensor(name).astype(np.float32)
      for name in _DECODER_VARIABLES))


def export(config: modeling.BertConfig, checkpoint: str, path: str) -> None:
  """Writes a checkpoint of only the model's variables, as Google's are.

  Args:
    config: config of the model.
    checkpoint: path of a checkpoint with every variable of the model.
    path: path of the checkpoint to write, without `.index`.
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
  """Exports a model to a folder that appears when the export is complete.

  Args:
    config: config of the model.
    config_file: path of the config to copy.
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
  """Returns the path of the exported checkpoint.

  Returns None if there is no export, or the checkpoint has been deleted.
  """
  path = os.path.join(output_dir, EXPORT_FOLDER, _SOURCE_FILE)
  if not files.exists(path):
    return None
  checkpoint = os.path.join(output_dir, files.read_text(path).strip())
  return checkpoint if files.exists(checkpoint + ".index") else None


# --- Newest and best ---------------------------------------------------------


def newest_step(output_dir: str) -> int:
  """Returns the global step of the newest checkpoint; 0 if there is none."""
  newest = tf.train.latest_checkpoint(output_dir)
  return step_of(newest) if newest else 0


def step_of(checkpoint: str) -> int:
  """Returns the global step of a trainer's checkpoint."""
  return int(tf1.train.NewCheckpointReader(checkpoint).get_tensor(
      tf1.GraphKeys.GLOBAL_STEP))


def skipped_steps(checkpoint: str) -> int:
  """Returns the number of steps skipped for overflows before a checkpoint."""
  reader = tf1.train.NewCheckpointReader(checkpoint)
  name = optimization.LOSS_SCALE_VARIABLES[-1]
  return int(reader.get_tensor(name)) if reader.has_tensor(name) else 0


def best_checkpoint(output_dir: str) -> Optional[str]:
  """Returns the best checkpoint of --eval_every_checkpoint; None without it."""
  folder = os.path.join(output_dir, evaluation.BEST_FOLDER)
  results = evaluation.read_results(
      os.path.join(folder, evaluation.RESULTS_FILE))
  if not results:
    return None
  return os.path.join(
      folder, "model.ckpt-{}".format(int(results["global_step"])))

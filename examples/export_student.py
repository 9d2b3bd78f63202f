r"""Exports a BERT or a classifier to formats of other libraries.

  python examples/export_student.py --format huggingface \
    --bert_config_file student/run/student/bert_config.json \
    --init_checkpoint student/run/student/bert_model.ckpt \
    --vocab_file teacher/vocab.txt --output_dir student/huggingface

  python examples/export_student.py --format tflite --weight_bits 8 \
    --classifier_dir classifier --output_dir student/tflite

--classifier_dir is a folder that fine_tune_classifier.py wrote. The formats are

  huggingface   config.json, model.safetensors and tokenizer.json, for the
                AutoModel classes and AutoTokenizer of transformers 4 and 5
  saved_model   a SavedModel for TensorFlow Serving and tf.saved_model.load
  tflite        model.tflite for the TensorFlow Lite interpreter, one sequence
                of max_seq_length tokens at a time

The TensorFlow formats read int32 input_ids, input_mask and segment_ids, [B, S].
A classifier returns float32 probabilities, [B, labels]. A masked-LM model also
reads masked_lm_positions, [B, P], and returns probabilities
[B, P, vocab_size]. Each export has vocab.txt; a classifier's also has
labels.txt. The same command, run again, keeps a finished export.
"""

import os
import pathlib
import sys

if __name__ == "__main__":  # TensorFlow reads this once, at import.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import contextlib
import dataclasses
import json
import tempfile
from typing import (Any, Collection, Dict, Iterator, Mapping, NamedTuple,
                    Optional, Sequence)

from absl import flags
from absl import logging
import numpy as np
import safetensors.numpy
import tensorflow as tf
import tensorflow.compat.v1 as tf1

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
# pylint: disable=wrong-import-position
from distillation import checkpoints
from examples import classification
from examples import classifier_folder
from examples import hugging_face
import modeling
from records import schema
import tokenization
from util import command_line
from util import files
from util.command_line import InputError

FORMATS = ("huggingface", "saved_model", "tflite")
TFLITE_FILE = "model.tflite"
# File of output_dir with the settings and inputs of the export.
NOTES_FILE = "exported.json"
PROBABILITIES = "probabilities"
_INPUTS = (schema.INPUT_IDS, schema.INPUT_MASK, schema.SEGMENT_IDS)
_MODEL_FLAGS = ("bert_config_file", "init_checkpoint", "vocab_file")
_TFLITE_FLAGS = ("max_seq_length", "max_predictions_per_seq", "weight_bits")
_MAX_SEQ_LENGTH = 128


@dataclasses.dataclass(frozen=True)
class Options:
  """The values of the flags of the same names."""
  format: str
  output_dir: str
  bert_config_file: Optional[str]
  init_checkpoint: Optional[str]
  vocab_file: Optional[str]
  classifier_dir: Optional[str]
  do_lower_case: bool
  max_seq_length: Optional[int]
  max_predictions_per_seq: int
  weight_bits: str
  overwrite: bool
  strip_accents: Optional[bool] = None


def define_flags() -> None:
  """Defines the flags of the script."""
  flags.DEFINE_enum("format", None, FORMATS, "Format to export to; see above.")
  flags.DEFINE_string("output_dir", None, "Folder to write.")
  flags.DEFINE_string(
      "bert_config_file", None,
      "Config of the model, such as student/run/student/bert_config.json. "
      "Required without --classifier_dir, as are --init_checkpoint and "
      "--vocab_file.")
  flags.DEFINE_string(
      "init_checkpoint", None,
      "Checkpoint of the model, such as folder/bert_model.ckpt.")
  flags.DEFINE_string("vocab_file", None, "Vocabulary of the model.")
  flags.DEFINE_string(
      "classifier_dir", None,
      "Folder of a classifier to export: --output_dir of "
      "fine_tune_classifier.py.")
  flags.DEFINE_bool(
      "do_lower_case", True,
      "Whether to lower the case and drop accents; True for uncased models.")
  flags.DEFINE_bool(
      "strip_accents", None,
      "Whether to drop accents. Default: the value of --do_lower_case.")
  flags.DEFINE_integer(
      "max_seq_length", None,
      "Length of a tflite model's sequence in tokens. Default: the length in "
      "the classifier's training, or {}.".format(_MAX_SEQ_LENGTH),
      lower_bound=1)
  flags.DEFINE_integer(
      "max_predictions_per_seq", 1,
      "Number of masked tokens that a tflite masked-LM model predicts.",
      lower_bound=1)
  flags.DEFINE_enum(
      "weight_bits", "32", ["32", "8"],
      "Bits of a weight in a tflite model. The model with 8 bits has a quarter "
      "of the size.")
  flags.DEFINE_bool(
      "overwrite", False,
      "Whether to replace another export in --output_dir.")


# --- The model ---------------------------------------------------------------


class Model(NamedTuple):
  """A checked model.

  Attributes:
    config: size of the model.
    checkpoint: path of the checkpoint, without `.index`.
    variables: names of the variables to export.
    vocab_file: path of the vocabulary.
    vocab: maps tokens to ids.
    do_lower_case: as for `tokenization.FullTokenizer`.
    strip_accents: as for `tokenization.FullTokenizer`.
    labels: labels of a classifier, in the order of their ids; empty for a
      masked-LM model.
    max_seq_length: length of the longest sequence in a classifier's training;
      None for a masked-LM model.
    fingerprints: fingerprints of the model's files, by flag.
  """
  config: modeling.BertConfig
  checkpoint: str
  variables: Sequence[str]
  vocab_file: str
  vocab: Mapping[str, int]
  do_lower_case: bool
  strip_accents: Optional[bool]
  labels: Sequence[str]
  max_seq_length: Optional[int]
  fingerprints: Mapping[str, Any]

  def values(self) -> Dict[str, np.ndarray]:
    """Returns the variables by name, float32."""
    reader = tf1.train.NewCheckpointReader(self.checkpoint)
    return {name: reader.get_tensor(name).astype(np.float32)
            for name in self.variables}


def check_flags(options: Options, given: Collection[str]) -> None:
  """Checks the combination of flags.

  Args:
    options: the options.
    given: names of the flags on the command line.

  Raises:
    InputError: if flags contradict each other or a flag is missing.
  """
  for name in _MODEL_FLAGS:
    if not options.classifier_dir and not getattr(options, name):
      raise InputError(
          "missing --{}: give {}, or the --classifier_dir of a classifier"
          .format(name, ", ".join("--" + flag for flag in _MODEL_FLAGS)))
  for name in (*_MODEL_FLAGS, "do_lower_case", "strip_accents"):
    if options.classifier_dir and name in given:
      raise InputError(
          "--{} has no effect with --classifier_dir={}, whose files have the "
          "value; remove the flag".format(name, options.classifier_dir))
  for name in _TFLITE_FLAGS:
    if options.format != "tflite" and name in given:
      raise InputError("--{} has no effect with --format={}; remove the "
                       "flag".format(name, options.format))
  if options.classifier_dir and "max_predictions_per_seq" in given:
    raise InputError("--max_predictions_per_seq has no effect with "
                     "--classifier_dir; remove the flag")
  if files.is_remote(options.output_dir):
    raise InputError("--output_dir={} is not on this machine; export to a "
                     "local folder and copy it".format(options.output_dir))


def read_model(options: Options) -> Model:
  """Reads and checks the model that the flags name.

  Raises:
    InputError: if a file is missing or damaged, or files are of different
      models.
  """
  if options.classifier_dir:
    return _read_classifier(options.classifier_dir)
  assert options.bert_config_file and options.init_checkpoint
  assert options.vocab_file
  config = checkpoints.load_config(
      options.bert_config_file, options.max_seq_length or 0)
  vocab = classifier_folder.read_vocabulary(options.vocab_file, config)
  match = checkpoints.match_checkpoint(config, options.init_checkpoint)
  missing = [name for name in match.missing
             if not name.startswith(checkpoints.NEXT_SENTENCE_SCOPES)]
  if missing:
    raise InputError(
        "--init_checkpoint: {} lacks {} of the model's variables, such as {}; "
        "give the config and the checkpoint of the same model, or give a "
        "classifier as --classifier_dir".format(
            options.init_checkpoint, len(missing), missing[0]))
  if match.unused:
    logging.warning(
        "--init_checkpoint: %s has %d variables that the model of the config "
        "lacks, such as %s; these are not exported.", options.init_checkpoint,
        len(match.unused), match.unused[0])
  try:
    tokenization.validate_case_matches_checkpoint(
        options.do_lower_case, options.vocab_file)
  except ValueError as error:
    logging.warning("--do_lower_case: %s.", error)
  return Model(
      config, options.init_checkpoint, match.restored, options.vocab_file,
      vocab, options.do_lower_case, options.strip_accents, labels=(),
      max_seq_length=None, fingerprints={
          "bert_config_file": files.fingerprint(options.bert_config_file),
          "init_checkpoint": checkpoints.fingerprint(options.init_checkpoint),
          "vocab_file": files.fingerprint(options.vocab_file)})


def _read_classifier(folder: str) -> Model:
  """Reads a classifier of fine_tune_classifier.py."""
  config, encoding, notes = classifier_folder.load(folder, "classifier_dir")
  checkpoint = os.path.join(folder, checkpoints.CHECKPOINT_FILE)
  paths = [os.path.join(folder, name) for name in (
      checkpoints.CONFIG_FILE, checkpoints.CHECKPOINT_FILE + ".index",
      classifier_folder.VOCAB_FILE, classifier_folder.LABELS_FILE)]
  encoder = [name for name in modeling.variable_shapes(config)
             if name.startswith(classification.ENCODER_SCOPE)]
  return Model(
      config, checkpoint, [*encoder, *classification.HEAD_VARIABLES], paths[2],
      encoding.tokenizer.vocab, notes.settings["do_lower_case"],
      notes.settings.get("strip_accents"), encoding.labels,
      encoding.max_seq_length,
      {"classifier_dir": [files.fingerprint(path) for path in paths]})


# --- Hugging Face ------------------------------------------------------------


def write_huggingface(model: Model, folder: str) -> None:
  """Writes the files of Hugging Face's transformers.

  Args:
    model: the model.
    folder: an empty folder.
  """
  if model.labels:
    architecture = "BertForSequenceClassification"
  elif set(modeling.variable_shapes(model.config)) == set(model.variables):
    architecture = "BertForPreTraining"
  else:
    architecture = "BertForMaskedLM"
  vocab = model.vocab
  # In some versions, only the owner may read a file of `save_file`.
  pathlib.Path(folder, hugging_face.WEIGHTS_FILE).write_bytes(
      safetensors.numpy.save(hugging_face.weights(model.values()),
                             hugging_face.WEIGHTS_METADATA))
  for name, values in (
      (hugging_face.CONFIG_FILE, hugging_face.config(
          model.config, architecture, vocab.get(hugging_face.PADDING_TOKEN),
          model.labels)),
      (hugging_face.TOKENIZER_FILE, hugging_face.tokenizer(
          vocab, model.do_lower_case, model.config.type_vocab_size,
          model.strip_accents)),
      (hugging_face.TOKENIZER_CONFIG_FILE, hugging_face.tokenizer_config(
          vocab, model.max_seq_length or model.config.max_position_embeddings,
          model.do_lower_case, model.strip_accents)),
      (hugging_face.SPECIAL_TOKENS_FILE, hugging_face.special_tokens(vocab))):
    _write_json(os.path.join(folder, name), values)


def _write_json(path: str, values: Mapping[str, Any]) -> None:
  files.write_atomically(
      path, json.dumps(values, ensure_ascii=False, indent=2) + "\n")


# --- TensorFlow --------------------------------------------------------------


class Lengths(NamedTuple):
  """Static lengths of a graph's axes; None is a dynamic length.

  Attributes:
    batch_size: B.
    max_seq_length: S.
    max_predictions_per_seq: P.
  """
  batch_size: Optional[int] = None
  max_seq_length: Optional[int] = None
  max_predictions_per_seq: Optional[int] = None


def write_saved_model(model: Model, folder: str,
                      lengths: Lengths = Lengths()) -> None:
  """Writes a SavedModel with the signature that `--help` describes.

  Args:
    model: the model.
    folder: an empty folder.
    lengths: lengths of the inputs' axes.
  """
  batch_size, length, num_slots = lengths
  values = model.values()
  with tf.Graph().as_default(), tf1.Session(
      config=tf1.ConfigProto(device_count={"GPU": 0})) as session:
    shapes = {name: [batch_size, length] for name in _INPUTS}
    if not model.labels:
      shapes[schema.MASKED_LM_POSITIONS] = [batch_size, num_slots]
    inputs = {name: tf1.placeholder(tf.int32, shape, name)
              for name, shape in shapes.items()}
    probabilities = tf.identity(_probabilities(model, inputs), PROBABILITIES)
    for variable in tf1.trainable_variables():
      variable.load(values[variable.op.name], session)
    builder = tf1.saved_model.Builder(folder)
    builder.add_meta_graph_and_variables(
        session, [tf1.saved_model.tag_constants.SERVING],
        {tf1.saved_model.signature_constants.DEFAULT_SERVING_SIGNATURE_DEF_KEY:
         tf1.saved_model.predict_signature_def(
             inputs, {PROBABILITIES: probabilities})},
        strip_default_attrs=True, clear_devices=True)
    builder.save()


def _probabilities(model: Model, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
  """Returns float32 probabilities, [B, L] of a classifier, else [B, P, V]."""
  input_ids, input_mask, segment_ids = (inputs[name] for name in _INPUTS)
  if model.labels:
    return tf.nn.softmax(classification.label_logits(
        model.config, False, classification.Inputs(
            input_ids, input_mask, segment_ids, label_ids=None),
        len(model.labels)))
  positions = inputs[schema.MASKED_LM_POSITIONS]
  logits = modeling.pretraining_logits(
      model.config, False, input_ids, input_mask, segment_ids, positions,
      has_next_sentence=False).masked_lm  # [B * P, V]
  shape = modeling.get_shape_list(positions)
  return tf.reshape(tf.nn.softmax(logits), [*shape, model.config.vocab_size])


@contextlib.contextmanager
def _silenced_converter() -> Iterator[None]:
  """Hides the statistics that TensorFlow Lite's converter prints."""
  verbosity = logging.get_verbosity()
  if verbosity >= logging.DEBUG:
    yield
    return
  stderr = os.dup(2)
  logging.set_verbosity(logging.WARNING)
  with open(os.devnull, "wb") as sink:
    os.dup2(sink.fileno(), 2)
  try:
    yield
  finally:
    os.dup2(stderr, 2)
    os.close(stderr)
    logging.set_verbosity(verbosity)


def _gelu(inputs: tf.Tensor) -> tf.Tensor:
  """Applies the training form of GELU, which TensorFlow Lite runs faster.

  The other form of `modeling`, for inference, suits TensorFlow's CPU kernels.
  From that form, Lite's converter stores the matrix before GELU twice, once
  multiplied by 0.5, and computes both products.
  """
  return modeling.gelu(inputs)


def write_tflite(model: Model, folder: str, lengths: Lengths,
                 weight_bits: int) -> None:
  """Writes a model for the interpreter of TensorFlow Lite.

  Args:
    model: the model.
    folder: folder of the output.
    lengths: static lengths of the inputs' axes, none of them None.
    weight_bits: 32, or 8 for integers with a scale for each row or matrix.
  """
  if modeling.get_activation(model.config.hidden_act) is modeling.gelu:
    model = model._replace(config=dataclasses.replace(
        model.config, hidden_act=_gelu))
  with tempfile.TemporaryDirectory() as source, _silenced_converter():
    write_saved_model(model, source, lengths)
    converter = tf.lite.TFLiteConverter.from_saved_model(source)
    if weight_bits == 8:
      converter.optimizations = [tf.lite.Optimize.DEFAULT]
    pathlib.Path(folder, TFLITE_FILE).write_bytes(converter.convert())


# --- The output folder -------------------------------------------------------


def _settings(options: Options, model: Model) -> Dict[str, Any]:
  """Returns the settings and fingerprints of the export, by flag."""
  settings = dict(model.fingerprints, format=options.format)
  if not options.classifier_dir:
    settings["do_lower_case"] = options.do_lower_case
    if options.strip_accents not in (None, options.do_lower_case):
      settings["strip_accents"] = options.strip_accents
  if options.format == "tflite":
    settings.update(
        {name: getattr(options, name) for name in _TFLITE_FLAGS})
    settings["max_seq_length"] = _lengths(options, model).max_seq_length
  return settings


def _lengths(options: Options, model: Model) -> Lengths:
  """Returns the lengths of a tflite model's axes.

  Raises:
    InputError: if the model does not read sequences of the length.
  """
  most = model.config.max_position_embeddings
  length = options.max_seq_length or min(
      most, model.max_seq_length or _MAX_SEQ_LENGTH)
  if length > most:
    raise InputError(
        "--max_seq_length={0} is over max_position_embeddings={1} of the "
        "classifier; give at most {1}".format(length, most))
  return Lengths(1, length, options.max_predictions_per_seq)


def _is_finished(options: Options, settings: Mapping[str, Any]) -> bool:
  """Returns whether output_dir holds this export, finished.

  Raises:
    InputError: if output_dir holds other files and --overwrite is not given.
  """
  folder = options.output_dir
  path = os.path.join(folder, NOTES_FILE)
  if not os.path.exists(path):
    found = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    if found:
      raise InputError(
          "--output_dir={} holds {}, which this script did not write and does "
          "not replace; choose another folder".format(folder, found[0]))
    return False
  try:
    notes = dict(json.loads(files.read_text(path)))
  except (ValueError, TypeError):
    notes = {}
  if notes == settings:
    return True
  if not options.overwrite:
    name = next(name for name in sorted({*notes, *settings})
                if notes.get(name) != settings.get(name))
    raise InputError(
        "--output_dir={} holds an export with another --{}: choose another "
        "folder, or give --overwrite=True".format(folder, name))
  return False


def export(options: Options, model: Model) -> None:
  """Exports a model; output_dir gets its name when the export is complete.

  Raises:
    InputError: if output_dir holds other files, or the model does not read
      sequences of --max_seq_length.
  """
  settings, folder = _settings(options, model), options.output_dir
  if _is_finished(options, settings):
    logging.info("%s holds this export: nothing to do.", folder)
    return
  with files.locked_folder(folder), files.replaced_folder(
      folder, NOTES_FILE) as partial:
    if options.format == "huggingface":
      write_huggingface(model, partial)
    elif options.format == "saved_model":
      write_saved_model(model, partial)
    else:
      write_tflite(model, partial, _lengths(options, model),
                   int(options.weight_bits))
    files.copy_atomically(model.vocab_file, os.path.join(
        partial, classifier_folder.VOCAB_FILE))
    if model.labels:
      files.write_atomically(
          os.path.join(partial, classifier_folder.LABELS_FILE),
          "".join(label + "\n" for label in model.labels))
    _write_json(os.path.join(partial, NOTES_FILE), settings)
  num_bytes = sum(path.stat().st_size
                  for path in pathlib.Path(folder).rglob("*") if path.is_file())
  logging.info("%s: %s, %.1f MB.", folder, options.format, num_bytes / 1e6)


def main() -> None:
  options = command_line.options(Options)
  # The hidden name of the unfinished folder needs a name without a final slash.
  options = dataclasses.replace(
      options, output_dir=options.output_dir.rstrip("/") or "/")
  check_flags(options, {field.name for field in dataclasses.fields(Options)
                        if flags.FLAGS[field.name].present})
  export(options, read_model(options))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("format", "output_dir"))

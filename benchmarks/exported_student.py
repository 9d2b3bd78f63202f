r"""Compares exported models with transformers, and measures size and latency.

  for peers in peers peers_5; do
    python -m venv .venv-$peers
    .venv-$peers/bin/pip install -r benchmarks/$peers.txt
  done
  python benchmarks/exported_student.py \
    --student_dir student/run/student --vocab_file teacher/vocab.txt \
    --student_classifier classifier --teacher_classifier teacher_classifier \
    --text_file heldout.txt --eval_file heldout.tsv \
    --peers_pythons .venv-peers/bin/python,.venv-peers_5/bin/python

The benchmark exports, with examples/export_student.py, the student and two
classifiers, which examples/fine_tune_classifier.py has made of the student and
of its teacher. Each part prints a table:

  agreement   for each version of transformers: the number of texts whose token
              ids differ from those of tokenization.py, and the largest
              difference of a logit; the texts are lines of text_file, random
              strings of unusual characters, and every character of Unicode
  accuracy    the accuracy of the student's classifier on eval_file, with
              weights of 32 and of 8 bits
  latency     the size of each format, and the milliseconds per sequence of 128
              tokens on one core, a median over turns
"""

import contextlib
import json
import os
import pathlib
import random
import statistics
import sys
import tempfile
import unicodedata
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

# pylint: disable=wrong-import-position
from absl import flags
from absl import logging
import numpy as np
import tensorflow as tf
import tqdm

import measure
import report
from examples import classification
from examples import export_student
from examples import classifier_folder
from examples import text_files
import modeling
from records import schema
import tokenization
from util import command_line
from util.command_line import InputError

tf1 = tf.compat.v1
FLAGS = flags.FLAGS

_PARTS = ("agreement", "accuracy", "latency")
_NUM_LINES, _NUM_RANDOM = 1000, 2000
_MAX_RANDOM_LENGTH = 40
# Number and length of the texts whose logits are compared, as a padded batch.
_NUM_SCORED, _MAX_SCORED_LENGTH = 24, 64
_NUM_TOKENS = 128
# Sequences per turn.
_NUM_CALLS = 5
# Letters, marks and signs that tokenizers treat differently.
_UNUSUAL_CHARACTERS = (
    "aAbBzZ 019 éÉñÑe\u0301o\u0308 İIıißẞ ΑΣασςΩ. ѝйЙїЇ đĐệỆ \t\n\r\0\x01"
    "\x7f\x85\xa0\xad\u200b\u200d\u2028\u2029\u3000\ufeff\ufffd\ue000"
    "\U000f0000 中文\u3400\uf900\U00020000\U0002b820\U0002f800 カナ한글가 ½²"
    "ﬁ™ !$+<=>^`|~¡«»—…’\u2e43\u2e5d 🥰🇧🇬👩\u200d🦰 ا\u064e\u061d กำ हि")
# Names of the outputs in transformers.
_MASKED_LM, _NEXT_SENTENCE, _LABELS = (
    "prediction_logits", "seq_relationship_logits", "logits")


def define_flags() -> None:
  flags.DEFINE_string("student_dir", None, "Folder of an exported student.")
  flags.DEFINE_string("vocab_file", None, "Vocabulary of the student.")
  for model in ("student", "teacher"):
    flags.DEFINE_string(
        model + "_classifier", None,
        "Folder of a classifier fine-tuned from the {}.".format(model))
  flags.DEFINE_string("text_file", None, "Text with one sentence per line.")
  flags.DEFINE_string("eval_file", None, "Labelled texts to classify.")
  flags.DEFINE_list(
      "peers_pythons", [], "Python interpreters with transformers installed.")
  flags.DEFINE_list("parts", list(_PARTS), "Parts to run.")
  flags.DEFINE_integer("turns", 5, "Turns of each format.", lower_bound=1)


def export(model: export_student.Model, format_: str, folder: pathlib.Path,
           weight_bits: int = 32) -> pathlib.Path:
  """Exports a model to a new folder and returns the folder."""
  folder.mkdir(parents=True)
  if format_ == "huggingface":
    export_student.write_huggingface(model, str(folder))
  elif format_ == "saved_model":
    export_student.write_saved_model(model, str(folder))
  else:
    export_student.write_tflite(
        model, str(folder), export_student.Lengths(1, _NUM_TOKENS, 1),
        weight_bits)
  return folder


def read_models() -> Dict[str, export_student.Model]:
  """Reads the models that the flags name."""

  def read(**values: Any) -> export_student.Model:
    return export_student.read_model(export_student.Options(**{
        "format": "huggingface", "output_dir": "", "bert_config_file": None,
        "init_checkpoint": None, "vocab_file": None, "classifier_dir": None,
        "do_lower_case": True, "max_seq_length": None,
        "max_predictions_per_seq": 1, "weight_bits": "32", "overwrite": False,
        **values}))

  folder = FLAGS.student_dir
  return {
      "student": read(
          bert_config_file=os.path.join(folder, "bert_config.json"),
          init_checkpoint=os.path.join(folder, "bert_model.ckpt"),
          vocab_file=FLAGS.vocab_file),
      "student's classifier": read(classifier_dir=FLAGS.student_classifier),
      "teacher's classifier": read(classifier_dir=FLAGS.teacher_classifier)}


# --- Agreement ---------------------------------------------------------------


def make_texts() -> List[str]:
  """Returns the texts to tokenize: lines, random strings and all characters."""
  with open(FLAGS.text_file, encoding="utf-8") as file:
    lines = [line for line in file.read().split("\n") if line][:_NUM_LINES]
  generator = random.Random(0)
  unusual = ["".join(generator.choices(_UNUSUAL_CHARACTERS, k=generator.randint(
      1, _MAX_RANDOM_LENGTH))) for _ in range(_NUM_RANDOM)]
  long_words = ["a" * 100, "a" * 101, "a" * 200, "a" * 201]
  characters = ["a{}b".format(char) for char in map(chr, range(sys.maxunicode))
                if unicodedata.category(char) not in ("Cn", "Cs")]
  return [*lines, *unusual, *long_words, *characters]


def our_logits(model: export_student.Model, features: Mapping[str, np.ndarray]
              ) -> Dict[str, np.ndarray]:
  """Returns the logits of the project's graph by transformers' names."""
  inputs = [features[name].astype(np.int32) for name in (
      "input_ids", "attention_mask", "token_type_ids")]
  values = model.values()
  with tf.Graph().as_default(), tf1.Session() as session:
    if model.labels:
      outputs = {_LABELS: classification.label_logits(
          model.config, False,
          classification.Inputs(*map(tf.constant, inputs), label_ids=None),
          len(model.labels))}
    else:
      batch_size, length = inputs[0].shape
      logits = modeling.pretraining_logits(
          model.config, False, *map(tf.constant, inputs), tf.constant(
              np.tile(np.arange(length, dtype=np.int32), [batch_size, 1])))
      outputs = {_MASKED_LM: tf.reshape(
          logits.masked_lm, [batch_size, length, model.config.vocab_size]),
                 _NEXT_SENTENCE: logits.next_sentence}
    for variable in tf1.trainable_variables():
      variable.load(values[variable.op.name], session)
    return session.run(outputs)


def compare(models: Mapping[str, export_student.Model],
            folder: pathlib.Path) -> None:
  """Prints how token ids and logits of transformers differ from ours."""
  texts = make_texts()
  path = folder / "texts.json"
  path.write_text(json.dumps(texts), encoding="utf-8")
  rows = []
  for name, model in models.items():
    exported = export(model, "huggingface", folder / "compared" / name)
    ids, lengths = tokenization.FullTokenizer.from_vocab(
        model.vocab, model.do_lower_case, model.strip_accents).encode_lines(
            texts)
    ends = [model.vocab[token] for token in (
        tokenization.CLASS_TOKEN, tokenization.SEPARATOR_TOKEN)]
    ours = [(ends[0], *text_ids, ends[1])
            for text_ids in _split(ids, lengths)]
    for python in FLAGS.peers_pythons:
      output = folder / "output.npz"
      peer = measure.Peer(
          python, "transformers", "exported", "--model_dir", str(exported),
          "--texts", str(path), "--output", str(output), "--batch_size",
          _NUM_SCORED, "--max_seq_length", _MAX_SCORED_LENGTH)
      peer.close()
      if peer.is_absent:
        raise InputError("--peers_pythons={}: {}".format(
            python, peer.description["absent"]))
      found = np.load(output)
      different = [text for text, ours_of_text, theirs in zip(
          texts, ours, _split(found["ids"], found["lengths"]))
                   if ours_of_text != tuple(theirs)]
      for text in different[:10]:
        logging.info("%s: token ids differ for %s", name, ascii(text))
      is_token = found["attention_mask"] > 0
      differences = {}
      for output_name, logits in our_logits(model, found).items():
        theirs = found[output_name]
        if output_name == _MASKED_LM:
          logits, theirs = logits[is_token], theirs[is_token]
        differences[output_name] = float(np.abs(logits - theirs).max())
      rows.append((
          "{} {}".format(peer.description["name"], peer.description["version"]),
          name, "{:,}".format(len(texts)), "{:,}".format(len(different)),
          "{:.1e}".format(max(differences.values()))))
  _print_table("version | model | texts | of these with other token ids | "
               "largest difference of a logit", rows)


def _split(ids: Sequence[int], lengths: Sequence[int]) -> List[Tuple[int, ...]]:
  return [tuple(part.tolist()) for part in np.split(
      np.asarray(ids), np.cumsum(lengths, dtype=np.int64)[:-1])]


# --- Size, latency and accuracy ----------------------------------------------


def size(folder: pathlib.Path) -> int:
  """Returns the size of a model's weights and graph in bytes."""
  return sum(path.stat().st_size for path in folder.rglob("*")
             if path.suffix in (".safetensors", ".pb", ".tflite")
             or path.parent.name == "variables")


def _runner(folder: pathlib.Path) -> Any:
  """Returns the signature runner of a TensorFlow Lite model, on one core."""
  return tf.lite.Interpreter(
      str(folder / export_student.TFLITE_FILE),
      num_threads=1).get_signature_runner()


def measure_accuracy(models: Mapping[str, export_student.Model],
                     folder: pathlib.Path) -> None:
  """Prints the accuracy of the student's classifier in 32 and 8 bits."""
  model = models["student's classifier"]
  encoding = classifier_folder.load(
      FLAGS.student_classifier, "student_classifier").encoding
  examples = encoding.encode(text_files.read_texts(
      FLAGS.eval_file, "eval_file", model.labels))
  rows = []
  for bits in (32, 8):
    runner = _runner(export(
        model, "tflite", folder / "accurate" / str(bits), bits))
    num_correct = 0
    for row in tqdm.trange(examples.size, desc=str(bits), disable=None):
      batch = classification.batch(examples.take(np.array([row])), _NUM_TOKENS)
      padding = [(0, 0), (0, _NUM_TOKENS - batch.input_ids.shape[1])]
      probabilities = runner(**{feature: np.pad(values, padding)
                                for feature, values in zip((
                                    schema.INPUT_IDS, schema.INPUT_MASK,
                                    schema.SEGMENT_IDS), batch)})
      num_correct += int(
          probabilities[export_student.PROBABILITIES].argmax()
          == examples.label_ids[row])
    rows.append((str(bits), "{:,}".format(examples.size),
                 "{:.3f}".format(num_correct / examples.size)))
  _print_table("bits per weight | texts | accuracy", rows)


def measure_latency(models: Mapping[str, export_student.Model],
                    folder: pathlib.Path) -> None:
  """Prints sizes, and the latency of one sequence on one core."""
  core = min(os.sched_getaffinity(0))
  os.sched_setaffinity(0, {core})  # Peers start later and inherit it.
  tf.config.threading.set_intra_op_parallelism_threads(1)
  tf.config.threading.set_inter_op_parallelism_threads(1)
  texts = folder / "text.json"
  texts.write_text(json.dumps(["a"]), encoding="utf-8")
  sizes: Dict[Tuple[str, str], int] = {}
  contenders: Dict[Tuple[str, str], Callable[[], float]] = {}
  loaded = []  # Keeps the models alive, whose signatures are called.
  with contextlib.ExitStack() as stack:
    for name, model in models.items():
      if not model.labels:
        continue
      ids = np.random.default_rng(0).integers(
          model.config.vocab_size, size=[1, _NUM_TOKENS], dtype=np.int32)
      features = {schema.INPUT_IDS: ids, schema.INPUT_MASK: np.ones_like(ids),
                  schema.SEGMENT_IDS: np.zeros_like(ids)}
      exported = export(model, "saved_model", folder / "served" / name)
      saved = tf.saved_model.load(str(exported))
      loaded.append(saved)
      tensors = {feature: tf.constant(values)
                 for feature, values in features.items()}
      key = name, "SavedModel"
      sizes[key] = size(exported)
      contenders[key] = _repeated(saved.signatures["serving_default"], tensors)
      for bits in (32, 8):
        exported = export(model, "tflite", folder / "lite" / name / str(bits),
                          bits)
        key = name, "TensorFlow Lite, {} bits".format(bits)
        sizes[key] = size(exported)
        contenders[key] = _repeated(_runner(exported), features)
      exported = export(model, "huggingface", folder / "timed" / name)
      for python in FLAGS.peers_pythons:
        peer = measure.Peer(
            python, "transformers", "exported", "--model_dir", str(exported),
            "--texts", str(texts), "--output", str(folder / "timed.npz"),
            "--steps", _NUM_CALLS, "--num_tokens", _NUM_TOKENS)
        stack.callback(peer.close)
        key = name, "transformers {}".format(peer.description["version"])
        sizes[key] = size(exported)
        contenders[key] = peer.run
    for run in contenders.values():
      run()
    seconds = measure.alternate(contenders, FLAGS.turns)
  _print_table("model | format | MB | ms per sequence | fastest | slowest", [
      (*key, report.number(sizes[key] / 1e6), *(
          report.number(1e3 * figure(found) / _NUM_CALLS)
          for figure in (statistics.median, min, max)))
      for key, found in seconds.items()])


def _repeated(apply: Callable[..., Any],
              features: Mapping[str, Any]) -> Callable[[], float]:
  """Returns a function that times `_NUM_CALLS` calls of a model."""

  def run() -> None:
    for _ in range(_NUM_CALLS):
      apply(**features)

  return lambda: measure.seconds_of(run)


def _print_table(header: str, rows: Sequence[Sequence[str]]) -> None:
  sys.stdout.write("\n".join(report.table(header, rows)) + "\n")
  sys.stdout.flush()


def main() -> None:
  unknown = sorted(set(FLAGS.parts) - set(_PARTS))
  if unknown:
    raise InputError("--parts={}: unknown; the parts are {}".format(
        unknown[0], ",".join(_PARTS)))
  models = read_models()
  with tempfile.TemporaryDirectory() as folder:
    for part, run in zip(_PARTS, (compare, measure_accuracy, measure_latency)):
      if part in FLAGS.parts:
        run(models, pathlib.Path(folder))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=(
      "student_dir", "vocab_file", "student_classifier", "teacher_classifier",
      "text_file", "eval_file"))

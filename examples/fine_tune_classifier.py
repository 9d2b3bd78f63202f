r"""Fine-tunes a BERT to classify texts, or pairs of texts, and applies it.

  python examples/fine_tune_classifier.py \
    --bert_config_file student/run/student/bert_config.json \
    --init_checkpoint student/run/student/bert_model.ckpt \
    --vocab_file teacher/vocab.txt \
    --train_file train.tsv --eval_file heldout.tsv --output_dir classifier

A line of train_file and eval_file is a label, a tab and a text, or a label and
two texts with tabs between them; any strings are labels. A tenth of train_file
is held back to choose among the learning rates, then the classifier is trained
on all of it. A run that was stopped resumes when the same command is given
again; the learning rates that it has tried are kept.

output_dir gets eval_results.txt, confusion.txt and the classifier itself:
bert_config.json, bert_model.ckpt.*, vocab.txt and labels.txt. Without
train_file that classifier is applied. It is evaluated on an eval_file

  python examples/fine_tune_classifier.py --output_dir classifier \
    --eval_file other.tsv

or labels the lines of stdin, a text or two texts each, as they come:

  echo 'a film to see again' | \
    python examples/fine_tune_classifier.py --output_dir classifier

prints lines of label, probability and text, with tabs between them.
"""

import os
import pathlib
import sys

if __name__ == "__main__":  # TensorFlow reads this once, while it is imported.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import collections
import dataclasses
import json
import math
import signal
from typing import (Any, Collection, Dict, Iterator, List, NamedTuple, Optional,
                    Sequence)

from absl import flags
from absl import logging
import numpy as np
import tensorflow as tf
import tqdm

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
# pylint: disable=wrong-import-position
from distillation import checkpoints
from distillation import devices
from distillation import evaluation
from examples.classification import (BAR_DELAY, BYTE_ORDER_MARK, Classifier,
                                     ENCODER_SCOPE, Encoding, evaluate,
                                     EXAMPLES_PER_HELD_OUT, format_rate,
                                     HEAD_VARIABLES, hold_out, listed,
                                     parse_line, read_texts, Schedule, Text)
import modeling
from records import sampling
import tokenization
from util import command_line
from util import files
from util.command_line import InputError

# Files of output_dir, beside the config, the checkpoint and the results.
VOCAB_FILE = "vocab.txt"
LABELS_FILE = "labels.txt"
_CONFUSION_FILE = "confusion.txt"
_NOTES_FILE = "fine_tuning.json"
# BERT's recipe (Devlin et al. 2018, arXiv 1810.04805, appendix A.3).
_LEARNING_RATES = "2e-5,3e-5,5e-5"
# [CLS] a [SEP] b [SEP], with a token in each.
_MIN_SEQ_LENGTH = 5
_READ_BYTES = 1 << 16


@dataclasses.dataclass(frozen=True)
class Options:
  """What the flags of the same names say."""
  output_dir: str
  train_file: Optional[str]
  eval_file: Optional[str]
  bert_config_file: Optional[str]
  init_checkpoint: Optional[str]
  vocab_file: Optional[str]
  do_lower_case: bool
  max_seq_length: int
  train_batch_size: int
  learning_rate: str
  num_train_epochs: float
  precision: str
  random_seed: int
  strip_accents: Optional[bool] = None


def define_flags() -> None:
  """Defines the flags of the script."""
  flags.DEFINE_string(
      "output_dir", None,
      "Folder of the classifier and its results; made if need be.")
  flags.DEFINE_string(
      "train_file", None,
      "Lines to train on: label, tab, text, and perhaps a tab and a second "
      "text; UTF-8. Without it the classifier in output_dir is applied.")
  flags.DEFINE_string(
      "eval_file", None,
      "Lines to evaluate on, of the same form. Without it and without "
      "train_file the lines of stdin are labelled.")
  flags.DEFINE_string(
      "bert_config_file", None,
      "Config of the model to fine-tune. Needed for training, as is "
      "vocab_file.")
  flags.DEFINE_string(
      "init_checkpoint", None,
      "Checkpoint to start from, such as folder/bert_model.ckpt. Without it "
      "the model is trained from scratch, as a baseline.")
  flags.DEFINE_string("vocab_file", None, "Vocabulary of the model.")
  flags.DEFINE_bool(
      "do_lower_case", True,
      "Whether to lower the case and drop accents; True for uncased models.")
  flags.DEFINE_bool(
      "strip_accents", None,
      "Whether to drop accents. Default: as do_lower_case.")
  flags.DEFINE_integer(
      "max_seq_length", 128,
      "Tokens in a sequence, [CLS] and [SEP] included; longer texts are "
      "truncated.", lower_bound=_MIN_SEQ_LENGTH)
  flags.DEFINE_integer(
      "train_batch_size", 32, "Sequences in a training step.", lower_bound=1)
  flags.DEFINE_string(
      "learning_rate", _LEARNING_RATES,
      "Highest learning rates of AdamW, separated by commas. Of several, the "
      "one that is best on a tenth of train_file is taken; of one, nothing is "
      "held back. Small students do better with 1e-4 to 3e-4 than with BERT's.")
  flags.DEFINE_float(
      "num_train_epochs", 3.0, "How often each example is read.",
      lower_bound=0.0, upper_bound=1000.0)
  flags.DEFINE_enum(
      "precision", "fp32", devices.PRECISIONS,
      "Arithmetic of the matrix products: bf16 on CPUs and GPUs that have "
      "it, fp16 with dynamic loss scaling on GPUs. Variables stay float32.")
  flags.DEFINE_integer(
      "random_seed", 12345,
      "Seed of new weights, of dropout, of the order of the examples and of "
      "what is held back.", lower_bound=0, upper_bound=2**31 - 1)


# --- What output_dir holds ---------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Notes:
  """What was made in output_dir so far, and with which settings.

  Attributes:
    settings: values of flags, fingerprints for files; by flag.
    candidates: by learning rate, accuracy and loss on what was held back.
    learning_rates: those that the classifier's one was chosen from.
    learning_rate: that of the classifier; None before it is finished.
    evaluated: fingerprint of the file that the results are of, or None.
  """
  settings: Dict[str, Any]
  candidates: Dict[str, Dict[str, float]] = dataclasses.field(
      default_factory=dict)
  learning_rates: Sequence[str] = ()
  learning_rate: Optional[str] = None
  evaluated: Optional[str] = None

  def write(self, output_dir: str) -> None:
    files.write_atomically(
        os.path.join(output_dir, _NOTES_FILE),
        json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n")

  @classmethod
  def read(cls, output_dir: str,
           flag: str = "output_dir") -> Optional["Notes"]:
    """Reads the notes of a folder; None where there are none.

    Args:
      output_dir: the folder.
      flag: name of the flag that named it, for errors.

    Raises:
      InputError: they are damaged.
    """
    path = os.path.join(output_dir, _NOTES_FILE)
    if not os.path.exists(path):
      return None
    try:
      with open(path, encoding="utf-8") as file:
        notes = cls(**json.load(file))
      if not (isinstance(notes.settings, dict) and all(
          {"accuracy", "loss"} == set(candidate)
          for candidate in notes.candidates.values())):
        raise ValueError("unexpected values")
      return notes
    except (ValueError, TypeError, AttributeError) as error:
      raise InputError("--{}: {} is damaged ({}); remove the folder, or give "
                       "another one".format(flag, path, error)) from None

  def results(self) -> Dict[str, float]:
    """Returns the learning rates' figures of eval_results.txt, by key."""
    assert self.learning_rate is not None
    results = {"learning_rate": float(self.learning_rate)}
    if len(self.learning_rates) > 1:
      for rate in self.learning_rates:
        results["dev_accuracy_" + rate] = self.candidates[rate]["accuracy"]
    return results


def parse_rates(text: str) -> List[float]:
  """Returns the learning rates that a flag names, the lowest first.

  Raises:
    InputError: there is none, or one is named twice or is none.
  """
  rates = []
  for part in text.split(","):
    try:
      rates.append(float(part))
    except ValueError:
      rates.append(math.nan)
    if not 0 < rates[-1] < math.inf:
      raise InputError(
          "--learning_rate={}: {!r} is no learning rate; give numbers over 0, "
          "separated by commas, such as {}".format(text, part, _LEARNING_RATES))
  name, count = collections.Counter(
      map(format_rate, rates)).most_common(1)[0]
  if count > 1:
    raise InputError("--learning_rate={} names {} twice; give it once".format(
        text, name))
  return sorted(rates)


def _settings(options: Options) -> Dict[str, Any]:
  """Returns what a classifier depends on beside the learning rates."""
  settings = {name: getattr(options, name) for name in (
      "do_lower_case", "max_seq_length", "train_batch_size",
      "num_train_epochs", "precision", "random_seed")}
  if options.strip_accents not in (None, options.do_lower_case):
    settings["strip_accents"] = options.strip_accents
  for name in ("bert_config_file", "vocab_file", "train_file"):
    settings[name] = files.fingerprint(getattr(options, name))
  settings["init_checkpoint"] = (
      options.init_checkpoint
      and checkpoints.fingerprint(options.init_checkpoint))
  return settings


def _check_settings(notes: Notes, options: Options,
                    settings: Dict[str, Any], rates: Sequence[str]) -> None:
  """Raises InputError where output_dir was begun with other settings."""
  for name in {**settings, **notes.settings}:
    found = notes.settings.get(name)
    if found != settings.get(name):
      is_file = name.endswith("_file") or name == "init_checkpoint"
      raise InputError(
          "--{}={} does not fit --output_dir={}, which was begun with {}: give "
          "that, or another --output_dir".format(
              name, getattr(options, name, None) or "", options.output_dir,
              (found and "another file" or "none") if is_file else found))
  if notes.learning_rate and list(notes.learning_rates) != list(rates):
    raise InputError(
        "--learning_rate={} does not fit --output_dir={}, which was made with "
        "{}: give that, or another --output_dir".format(
            options.learning_rate, options.output_dir,
            ",".join(notes.learning_rates)))


# --- Training ----------------------------------------------------------------


class TrainingInputs(NamedTuple):
  """What was checked.

  Attributes:
    config: size of the model.
    encoding: how texts become examples.
    rates: the learning rates, the lowest first.
    training: the texts to train on.
    held_out: the texts to evaluate on; None without a file.
  """
  config: modeling.BertConfig
  encoding: Encoding
  rates: List[float]
  training: List[Text]
  held_out: Optional[List[Text]]


def check(options: Options) -> TrainingInputs:
  """Checks the options of training against the files; changes nothing.

  Raises:
    InputError: an option, a file or the fit between them is wrong.
  """
  for name in ("bert_config_file", "vocab_file"):
    if not getattr(options, name):
      raise InputError("--train_file needs --{}, that of the model to "
                       "fine-tune; see --help".format(name))
  assert options.bert_config_file and options.vocab_file and options.train_file
  rates = parse_rates(options.learning_rate)
  if not options.num_train_epochs > 0:
    raise InputError("--num_train_epochs={} must be over 0".format(
        options.num_train_epochs))
  config = checkpoints.load_config(
      options.bert_config_file, options.max_seq_length)
  vocab = read_vocabulary(options.vocab_file, config)
  training = read_texts(options.train_file, "train_file")
  counts = collections.Counter(text.label for text in training)
  labels = sorted(counts)
  held_out = (read_texts(options.eval_file, "eval_file", labels)
              if options.eval_file else None)
  for flag, texts in (("train_file", training), ("eval_file", held_out)):
    _check_pairs(config, texts or (), "--{}={}".format(
        flag, getattr(options, flag)))
  if len(rates) > 1 and max(counts.values()) < EXAMPLES_PER_HELD_OUT // 2:
    raise InputError(
        "--train_file: {} has at most {} examples of a label, too few to hold "
        "a tenth back and choose among --learning_rate={}; give one learning "
        "rate".format(options.train_file, max(counts.values()),
                      options.learning_rate))
  if options.init_checkpoint:
    check_encoder(config, options.init_checkpoint, "init_checkpoint")
  try:
    tokenization.validate_case_matches_checkpoint(
        options.do_lower_case, options.init_checkpoint or options.vocab_file)
  except ValueError as error:
    logging.warning("--do_lower_case: %s.", error)
  tokenizer = tokenization.FullTokenizer.from_vocab(
      vocab, options.do_lower_case, options.strip_accents)
  return TrainingInputs(
      config, Encoding(tokenizer, labels, options.max_seq_length), rates,
      training, held_out)


def read_vocabulary(path: str, config: modeling.BertConfig) -> Dict[str, int]:
  """Reads a vocabulary that fits a config; returns ids by token.

  Raises:
    InputError: it is no vocabulary, or larger than the model's.
  """
  vocab = sampling.read_vocabulary(path)
  size = max(vocab.values()) + 1
  if size > config.vocab_size:
    raise InputError(
        "--vocab_file: {} has {} tokens, but --bert_config_file has vocab_size "
        "{}; give the vocabulary that belongs to the model".format(
            path, size, config.vocab_size))
  if size < config.vocab_size:
    logging.warning(
        "--vocab_file: %s has %d tokens, --bert_config_file has vocab_size %d; "
        "they may not belong together.", path, size, config.vocab_size)
  return vocab


def _check_pairs(config: modeling.BertConfig, texts: Sequence[Text],
                 place: str) -> None:
  """Raises InputError where a model without segments is to read pairs."""
  if config.type_vocab_size < 2 and any(text.second for text in texts):
    raise InputError(
        "{} has pairs of texts, but the config has type_vocab_size {}; such a "
        "model reads single texts only".format(place, config.type_vocab_size))


def check_encoder(config: modeling.BertConfig, checkpoint: str,
                  flag: str) -> None:
  """Checks that a checkpoint holds the whole encoder and pooler.

  Args:
    config: size of the model.
    checkpoint: path, without `.index`.
    flag: name of the flag that named it, for errors.

  Raises:
    InputError: it does not.
  """
  match = checkpoints.match_checkpoint(config, checkpoint, flag)
  missing, unused = (
      [name for name in names if name.startswith(ENCODER_SCOPE)]
      for names in (match.missing, match.unused))
  if missing:
    raise InputError(
        "--{}: {} lacks {} of the model's variables, such as {}; give the "
        "config and the checkpoint of one model".format(
            flag, checkpoint, len(missing), missing[0]))
  if unused:
    logging.warning(
        "--%s: %s has %d variables that the config does not have, such as %s; "
        "they are not used.", flag, checkpoint, len(unused), unused[0])


def fine_tune(options: Options) -> None:
  """Chooses the learning rate, trains and evaluates, as far as is to be done.

  Args:
    options: with a train_file.

  Raises:
    InputError: an option, a file or the fit between them is wrong; the loss is
      NaN or infinite.
  """
  inputs = check(options)
  settings = _settings(options)
  output_dir = options.output_dir
  with files.locked_folder(output_dir):
    notes = Notes.read(output_dir)
    if notes is None:
      _check_vacant(output_dir)
      notes = Notes(settings)
      notes.write(output_dir)
    rates = [format_rate(rate) for rate in inputs.rates]
    _check_settings(notes, options, settings, rates)
    evaluated = (files.fingerprint(options.eval_file)
                 if options.eval_file else None)
    if notes.learning_rate and evaluated in (None, notes.evaluated):
      logging.info("%s holds the finished classifier%s: nothing to do.",
                   output_dir, " and its results" if evaluated else "")
      return
    with devices.exhaustion_errors(
        "lower --train_batch_size={} or --max_seq_length={}, or free some "
        "memory or space".format(
            options.train_batch_size, options.max_seq_length)):
      if not notes.learning_rate:
        devices.report_device(devices.DeviceOptions(options.precision))
        notes = _train(options, inputs, notes)
      if inputs.held_out:
        apply_to_file(options, load(output_dir), inputs.held_out)


def _check_vacant(output_dir: str) -> None:
  """Raises InputError where a folder holds a model of another kind."""
  for name in (checkpoints.CONFIG_FILE, checkpoints.CHECKPOINT_FILE + ".index",
               VOCAB_FILE):
    if os.path.exists(os.path.join(output_dir, name)):
      raise InputError(
          "--output_dir={} holds {}, which this script did not write; choose "
          "another folder, so that no model is replaced".format(
              output_dir, name))


def _train(options: Options, inputs: TrainingInputs, notes: Notes) -> Notes:
  """Tries the learning rates that are not tried, and trains the classifier."""
  assert options.bert_config_file and options.vocab_file
  output_dir, encoding = options.output_dir, inputs.encoding
  examples = encoding.encode(inputs.training)
  logging.info("%s: %d examples, labels %s", options.train_file, examples.size,
               listed(encoding.labels))
  rates = {format_rate(rate): rate for rate in inputs.rates}
  device = devices.DeviceOptions(options.precision)

  def classifier(rate: str, num_examples: int) -> Classifier:
    return Classifier(
        inputs.config, len(encoding.labels), device, options.init_checkpoint,
        Schedule(rates[rate], num_examples, options.num_train_epochs,
                 options.train_batch_size, options.random_seed))

  best = next(iter(rates))
  if len(rates) > 1:
    is_held_out = hold_out(examples.label_ids, options.random_seed)
    training, held_out = (examples.take(np.flatnonzero(chosen))
                          for chosen in (~is_held_out, is_held_out))
    for rate in rates:
      if rate in notes.candidates:
        continue
      with classifier(rate, training.size) as candidate:
        candidate.train(training)
        figures = evaluate(candidate.predict(held_out), held_out.label_ids)
      notes = dataclasses.replace(notes, candidates=dict(
          notes.candidates,
          **{rate: {"accuracy": figures.accuracy, "loss": figures.loss}}))
      notes.write(output_dir)
      logging.info("Learning rate %s: accuracy %.4f on %d held-back examples",
                   rate, figures.accuracy, held_out.size)
    best = min(rates, key=lambda rate: (-notes.candidates[rate]["accuracy"],
                                        notes.candidates[rate]["loss"]))
    logging.info("Learning rate %s is the best; training on all %d examples.",
                 best, examples.size)
  with classifier(best, examples.size) as final:
    final.train(examples)
    files.copy_atomically(
        options.bert_config_file,
        os.path.join(output_dir, checkpoints.CONFIG_FILE))
    files.copy_atomically(
        options.vocab_file, os.path.join(output_dir, VOCAB_FILE))
    files.write_atomically(
        os.path.join(output_dir, LABELS_FILE),
        "".join(label + "\n" for label in encoding.labels))
    final.save(os.path.join(output_dir, checkpoints.CHECKPOINT_FILE))
  notes = dataclasses.replace(
      notes, learning_rates=list(rates), learning_rate=best)
  notes.write(output_dir)
  return notes


# --- Applying ----------------------------------------------------------------


class Model(NamedTuple):
  """What a folder holds, without the values of the variables.

  Attributes:
    config: size of the model.
    encoding: how texts become examples.
    notes: how it was made.
  """
  config: modeling.BertConfig
  encoding: Encoding
  notes: Notes


def load(output_dir: str, flag: str = "output_dir") -> Model:
  """Reads and checks what `fine_tune` has written.

  Args:
    output_dir: the folder of the classifier.
    flag: name of the flag that named it, for errors.

  Raises:
    InputError: there is no classifier, or it is not finished or damaged.
  """
  notes = Notes.read(output_dir, flag)
  if notes is None or not notes.learning_rate:
    raise InputError(
        "--{}={} holds no {}classifier; examples/fine_tune_classifier.py "
        "trains one with --train_file, --bert_config_file and "
        "--vocab_file".format(
            flag, output_dir, "finished " if notes else ""))
  config = checkpoints.load_config(
      os.path.join(output_dir, checkpoints.CONFIG_FILE),
      notes.settings["max_seq_length"])
  vocab = read_vocabulary(os.path.join(output_dir, VOCAB_FILE), config)
  path = os.path.join(output_dir, LABELS_FILE)
  files.check_file(path, flag)
  with open(path, encoding="utf-8", newline="\n") as file:
    labels = file.read().split("\n")[:-1]
  checkpoint = os.path.join(output_dir, checkpoints.CHECKPOINT_FILE)
  check_encoder(config, checkpoint, flag)
  shapes = dict(tf.train.list_variables(checkpoint))
  if [shapes.get(name) for name in HEAD_VARIABLES] != [
      [len(labels), config.hidden_size], [len(labels)]]:
    raise InputError(
        "--{}: {} does not fit the {} labels of {}; train again in another "
        "folder".format(flag, checkpoint, len(labels), path))
  return Model(config, Encoding(
      tokenization.FullTokenizer.from_vocab(
          vocab, notes.settings["do_lower_case"],
          notes.settings.get("strip_accents")),
      labels, notes.settings["max_seq_length"]), notes)


def _classifier(options: Options, model: Model) -> Classifier:
  return Classifier(
      model.config, len(model.encoding.labels),
      devices.DeviceOptions(options.precision),
      os.path.join(options.output_dir, checkpoints.CHECKPOINT_FILE))


def apply_to_file(options: Options, model: Model,
                  texts: Sequence[Text]) -> None:
  """Evaluates the classifier of a folder, writes and prints the results.

  The folder must be locked.

  Args:
    options: with an eval_file.
    model: what the folder holds.
    texts: what the eval_file holds.
  """
  output_dir, path = options.output_dir, options.eval_file
  assert path
  labels = model.encoding.labels
  examples = model.encoding.encode(texts)
  with _classifier(options, model) as classifier:
    figures = evaluate(classifier.predict(examples), examples.label_ids)
  report = figures.report(path, labels)
  files.write_atomically(os.path.join(output_dir, _CONFUSION_FILE), report)
  evaluation.write_results(
      [output_dir], {**figures.results(), **model.notes.results()},
      checkpoints.CHECKPOINT_FILE)
  dataclasses.replace(
      model.notes, evaluated=files.fingerprint(path)).write(output_dir)
  # Not every locale has every label's characters.
  sys.stdout.buffer.write(report.encode(sys.stdout.encoding, "replace"))


def apply_to_stdin(options: Options, model: Model) -> None:
  """Labels the lines of stdin as they come, and prints them to stdout.

  Raises:
    InputError: a line has another form.
  """
  signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # For `... | head`.
  number = 0
  with _classifier(options, model) as classifier, tqdm.tqdm(
      unit=" lines", delay=BAR_DELAY, dynamic_ncols=True,
      disable=True if sys.stdout.isatty() else None) as bar:
    for lines in _blocks(sys.stdin.fileno()):
      texts = []
      for line in lines:
        number += 1
        place = "stdin, line {}".format(number)
        text = parse_line(line, place, is_labelled=False)
        if text is not None:
          _check_pairs(model.config, [text], place)
          texts.append(text)
      if texts:
        sys.stdout.buffer.write(_label(classifier, model.encoding, texts))
        sys.stdout.buffer.flush()
        bar.update(len(texts))


def _blocks(descriptor: int) -> Iterator[List[bytes]]:
  """Yields the lines of a file or pipe, as many at a time as are there."""
  rest = b""
  is_start = True
  while True:
    block = os.read(descriptor, _READ_BYTES)
    # A line may come in many pieces.
    *lines, last = block.split(b"\n")
    if lines:
      lines[0], rest = rest + lines[0], last
    else:
      rest += last
    if not block:
      lines = [rest] if rest else []
    if lines:
      if is_start and lines[0].startswith(BYTE_ORDER_MARK):
        lines[0] = lines[0][len(BYTE_ORDER_MARK):]
      is_start = False
      yield lines
    if not block:
      return


def _label(classifier: Classifier, encoding: Encoding,
           texts: Sequence[Text]) -> bytes:
  """Returns lines of label, probability and text, UTF-8."""
  log_probabilities = classifier.predict(encoding.encode(texts))
  lines = []
  for text, scores in zip(texts, log_probabilities):
    lines.append("\t".join(filter(None, (
        encoding.labels[scores.argmax()],
        "{:.4f}".format(math.exp(scores.max())), text.first, text.second))))
  return ("\n".join(lines) + "\n").encode("utf-8")


def apply(options: Options, given: Collection[str]) -> None:
  """Applies the classifier of output_dir.

  Args:
    options: without a train_file.
    given: the names of the flags that the command line has.

  Raises:
    InputError: there is no classifier, a flag asks for another one, or a line
      is wrong.
  """
  model = load(options.output_dir)
  settings = model.notes.settings
  for name in ("max_seq_length", "do_lower_case", "strip_accents"):
    # strip_accents is noted where it differs from do_lower_case.
    trained_with = settings.get(name, settings["do_lower_case"])
    if name in given and getattr(options, name) != trained_with:
      raise InputError(
          "--{}={}, but the classifier in {} was trained with {}; leave the "
          "flag out".format(name, getattr(options, name), options.output_dir,
                            trained_with))
  devices.warn_of_device(devices.DeviceOptions(options.precision))
  with devices.exhaustion_errors("free some memory, or space in {}".format(
      options.output_dir)):
    if not options.eval_file:
      apply_to_stdin(options, model)
      return
    texts = read_texts(options.eval_file, "eval_file", model.encoding.labels)
    _check_pairs(model.config, texts, "--eval_file=" + options.eval_file)
    with files.locked_folder(options.output_dir):
      apply_to_file(options, model, texts)


def main() -> None:
  options = command_line.options(Options)
  devices.choose_gpu(None)
  if not options.train_file:
    apply(options, {field.name for field in dataclasses.fields(Options)
                    if flags.FLAGS[field.name].present})
    return
  try:
    fine_tune(options)
  except KeyboardInterrupt:
    raise KeyboardInterrupt(
        "the learning rates that were tried are kept: the same command "
        "resumes from there") from None


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("output_dir",))

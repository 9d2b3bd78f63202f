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

prints lines of label, probability and text, with tabs between them. With
predict_file it writes the probability of each label for the texts of a file

  python examples/fine_tune_classifier.py --output_dir classifier \
    --predict_file texts.txt --output_file soft_labels.tsv

The header of that file is p(LABEL) for each label, then text. With
soft_label_file, beside train_file or alone, a smaller classifier trains on the
file that its teacher wrote: the loss is the cross entropy with the
probabilities, and with the true label if a text has both.
"""

import os
import pathlib
import sys

if __name__ == "__main__":  # TensorFlow reads this once, while it is imported.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import collections
import dataclasses
import math
from typing import (Any, Collection, Dict, List, NamedTuple, Optional, Sequence,
                    Tuple)

from absl import flags
from absl import logging
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
# pylint: disable=wrong-import-position
from distillation import checkpoints
from distillation import devices
from distillation import evaluation
from examples import label_texts
from examples import soft_labels
from examples.classification import (Classifier, Encoding, evaluate, Examples,
                                     EXAMPLES_PER_HELD_OUT, format_rate,
                                     hold_out, Schedule, SoftTargets)
from examples.classifier_folder import (LABELS_FILE, Model, Notes, VOCAB_FILE,
                                        check_encoder, load, read_vocabulary)
from examples.label_texts import check_pairs
from examples.text_files import listed, read_texts, Text
import modeling
from records import manifest
from records import record_writer
import tokenization
from util import command_line
from util import files
from util.command_line import InputError

# File of output_dir, beside the results.
_CONFUSION_FILE = "confusion.txt"
# BERT's recipe (Devlin et al. 2018, arXiv 1810.04805, appendix A.3).
_LEARNING_RATES = "2e-5,3e-5,5e-5"
# [CLS] a [SEP] b [SEP], with a token in each.
_MIN_SEQ_LENGTH = 5
_STAGE = "fine_tune_classifier"


@dataclasses.dataclass(frozen=True)
class Options:
  """Values of the flags of the same names."""
  output_dir: str
  train_file: Optional[str]
  soft_label_file: Optional[str]
  temperature: float
  hard_label_weight: float
  eval_file: Optional[str]
  eval_soft_label_file: Optional[str]
  predict_file: Optional[str]
  output_file: Optional[str]
  overwrite: bool
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
  _define_teacher_flags()
  flags.DEFINE_string(
      "eval_file", None,
      "Lines to evaluate on, of the form of train_file. Without it and without "
      "other files the lines of stdin are labelled.")
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


def _define_teacher_flags() -> None:
  """Defines the flags of soft labels: to write them, and to train on them."""
  flags.DEFINE_string(
      "soft_label_file", None,
      "A teacher's soft labels to train on, beside train_file or alone, as "
      "predict_file and output_file write them. The texts may be those of "
      "train_file, others, or both.")
  flags.DEFINE_float(
      "temperature", 1.0,
      "Softens the soft labels and the student's probabilities in the loss.",
      lower_bound=0.01, upper_bound=1000.0)
  flags.DEFINE_float(
      "hard_label_weight", 0.5,
      "Weight of the true label in the loss of a text that train_file and "
      "soft_label_file both have; the soft label has the rest.",
      lower_bound=0.0, upper_bound=1.0)
  flags.DEFINE_string(
      "eval_soft_label_file", None,
      "The teacher's soft labels of the texts of eval_file: the results then "
      "have the agreement with the teacher.")
  flags.DEFINE_string(
      "predict_file", None,
      "Texts without labels, a text or two texts a line. The classifier in "
      "output_dir writes the probability of each label to output_file.")
  flags.DEFINE_string(
      "output_file", None, "Soft labels to write, tab-separated.")
  flags.DEFINE_bool(
      "overwrite", False,
      "Whether to replace an output_file that was made in another way.")


# --- Settings ----------------------------------------------------------------


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
  for name in ("bert_config_file", "vocab_file", "train_file",
               "soft_label_file"):
    path = getattr(options, name)
    settings[name] = path and files.fingerprint(path)
  if options.soft_label_file:
    settings["temperature"] = options.temperature
    settings["hard_label_weight"] = options.hard_label_weight
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


def _evaluated(options: Options) -> Optional[str]:
  """Returns the fingerprints of the files to evaluate on; None without any."""
  return " ".join(files.fingerprint(path) for path in (
      options.eval_file, options.eval_soft_label_file) if path) or None


# --- Training ----------------------------------------------------------------


class TrainingInputs(NamedTuple):
  """Checked inputs of a training.

  Attributes:
    config: size of the model.
    encoding: how texts become examples.
    rates: the learning rates, the lowest first.
    training: the texts to train on.
    held_out: the texts to evaluate on; None without a file.
    mixture: the texts to train on with their soft labels, at the temperature
      of the training; None without any.
    held_out_soft: the soft labels of held_out; None without any.
  """
  config: modeling.BertConfig
  encoding: Encoding
  rates: List[float]
  training: List[Text]
  held_out: Optional[List[Text]]
  mixture: Optional[soft_labels.Mixture]
  held_out_soft: Optional[soft_labels.SoftLabels]

  @property
  def num_labelled(self) -> int:
    """Number of training texts, the first ones, that choose the rate.

    Those with a true label; where there are none, all of them.
    """
    return (self.mixture and self.mixture.num_labelled) or len(self.training)

  def examples(self) -> Examples:
    """Returns what to train on."""
    examples = self.encoding.encode(self.training)
    if self.mixture is None:
      return examples
    return examples._replace(soft=SoftTargets(
        self.mixture.probabilities, self.mixture.hard_weights))


def check(options: Options) -> TrainingInputs:
  """Checks the options of training against the files; changes nothing.

  Raises:
    InputError: an option, a file or the fit between them is wrong.
  """
  _check_flags(options)
  assert options.bert_config_file and options.vocab_file
  rates = parse_rates(options.learning_rate)
  config = checkpoints.load_config(
      options.bert_config_file, options.max_seq_length)
  vocab = read_vocabulary(options.vocab_file, config)
  training, labels, mixture = _read_training(options)
  held_out = (read_texts(options.eval_file, "eval_file", labels)
              if options.eval_file else None)
  # Texts with soft labels alone follow those of train_file.
  num_labelled = mixture.num_labelled if mixture else len(training)
  for flag, texts in (("train_file", training[:num_labelled]),
                      ("soft_label_file", training[num_labelled:]),
                      ("eval_file", held_out)):
    check_pairs(config, texts or (), "--{}={}".format(
        flag, getattr(options, flag)))
  if options.init_checkpoint:
    check_encoder(config, options.init_checkpoint, "init_checkpoint")
  try:
    tokenization.validate_case_matches_checkpoint(
        options.do_lower_case, options.init_checkpoint or options.vocab_file)
  except ValueError as error:
    logging.warning("--do_lower_case: %s.", error)
  tokenizer = tokenization.FullTokenizer.from_vocab(
      vocab, options.do_lower_case, options.strip_accents)
  inputs = TrainingInputs(
      config, Encoding(tokenizer, labels, options.max_seq_length), rates,
      training, held_out, mixture, _read_held_out_soft(
          options, held_out or (), labels))
  _check_counts(options, inputs)
  return inputs


def _read_training(options: Options) -> Tuple[
    List[Text], List[str], Optional[soft_labels.Mixture]]:
  """Reads what to train on: texts, labels and, where given, soft labels."""
  if not options.soft_label_file:
    assert options.train_file
    training = read_texts(options.train_file, "train_file")
    return training, sorted({text.label for text in training}), None
  place = "--soft_label_file: " + options.soft_label_file
  soft = soft_labels.read(options.soft_label_file, "soft_label_file")
  training = []
  if options.train_file:
    training = read_texts(options.train_file, "train_file")
    soft_labels.check_labels(
        sorted({text.label for text in training}), soft, place)
  mixture = soft_labels.mix(training, soft, options.hard_label_weight)
  return mixture.texts, list(soft.labels), mixture._replace(
      probabilities=soft_labels.soften(
          mixture.probabilities, options.temperature))


def _check_flags(options: Options) -> None:
  """Raises InputError where flags of training do not fit together."""
  file_flag = "train_file" if options.train_file else "soft_label_file"
  for name in ("bert_config_file", "vocab_file"):
    if not getattr(options, name):
      raise InputError("--{} needs --{}, that of the model to fine-tune; see "
                       "--help".format(file_flag, name))
  if not options.num_train_epochs > 0:
    raise InputError("--num_train_epochs={} must be over 0".format(
        options.num_train_epochs))
  if options.predict_file or options.output_file:
    raise InputError(
        "--{} labels texts with a finished classifier; leave it out, and give "
        "it with --output_dir={} and without --{} after the training".format(
            "predict_file" if options.predict_file else "output_file",
            options.output_dir, file_flag))
  if not options.soft_label_file and options.temperature != 1:
    raise InputError(
        "--temperature={} is that of soft labels, and there is no "
        "--soft_label_file; give one, or leave the flag out".format(
            options.temperature))


def _read_held_out_soft(
    options: Options, held_out: Sequence[Text], labels: Sequence[str]
) -> Optional[soft_labels.SoftLabels]:
  """Reads the soft labels of the texts to evaluate on; None without any."""
  path = options.eval_soft_label_file
  if not path:
    return None
  if not held_out:
    raise InputError(
        "--eval_soft_label_file={} needs --eval_file, the same texts with "
        "their true labels".format(path))
  soft = soft_labels.read(path, "eval_soft_label_file")
  soft_labels.check_covers(
      held_out, labels, soft, "--eval_soft_label_file: " + path)
  return soft


def _warn_of_seen(inputs: TrainingInputs) -> None:
  """Warns of texts to evaluate on that are trained on."""
  trained_on = {(text.first, text.second) for text in inputs.training}
  num_seen = sum((text.first, text.second) in trained_on
                 for text in inputs.held_out or ())
  if num_seen:
    logging.warning(
        "--eval_file: %d of %d texts are texts to train on too: the accuracy "
        "will be too high.", num_seen, len(inputs.held_out or ()))


def _check_counts(options: Options, inputs: TrainingInputs) -> None:
  """Raises InputError where too little can be held back to choose a rate."""
  counts = collections.Counter(
      text.label for text in inputs.training[:inputs.num_labelled])
  if (len(inputs.rates) > 1
      and max(counts.values()) < EXAMPLES_PER_HELD_OUT // 2):
    flag = "train_file" if options.train_file else "soft_label_file"
    raise InputError(
        "--{}: {} has at most {} examples of a label, too few to hold "
        "a tenth back and choose among --learning_rate={}; give one learning "
        "rate".format(flag, getattr(options, flag), max(counts.values()),
                      options.learning_rate))


def fine_tune(options: Options) -> None:
  """Chooses the learning rate, trains and evaluates, as far as is to be done.

  Args:
    options: with a train_file, a soft_label_file or both.

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
    evaluated = _evaluated(options)
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
        apply_to_file(options, load(output_dir), inputs.held_out,
                      inputs.held_out_soft)


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
  _warn_of_seen(inputs)
  output_dir, encoding = options.output_dir, inputs.encoding
  examples = inputs.examples()
  logging.info("%s: %d examples, labels %s",
               options.train_file or options.soft_label_file, examples.size,
               listed(encoding.labels))
  if inputs.mixture:
    logging.info(
        "%d texts with a true label, of which %d have a soft label too; %d "
        "texts with a soft label alone", inputs.mixture.num_labelled,
        inputs.mixture.num_both, examples.size - inputs.mixture.num_labelled)
  rates = {format_rate(rate): rate for rate in inputs.rates}
  device = devices.DeviceOptions(options.precision)

  def classifier(rate: str, num_examples: int) -> Classifier:
    return Classifier(
        inputs.config, len(encoding.labels), device, options.init_checkpoint,
        Schedule(rates[rate], num_examples, options.num_train_epochs,
                 options.train_batch_size, options.random_seed),
        options.temperature if inputs.mixture else None)

  best = next(iter(rates))
  if len(rates) > 1:
    is_held_out = np.zeros(examples.size, bool)
    is_held_out[:inputs.num_labelled] = hold_out(
        examples.label_ids[:inputs.num_labelled], options.random_seed)
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


def _classifier(options: Options, model: Model) -> Classifier:
  return Classifier(
      model.config, len(model.encoding.labels),
      devices.DeviceOptions(options.precision),
      os.path.join(options.output_dir, checkpoints.CHECKPOINT_FILE))


def apply_to_file(options: Options, model: Model, texts: Sequence[Text],
                  soft: Optional[soft_labels.SoftLabels]) -> None:
  """Evaluates the classifier of a folder, writes and prints the results.

  The folder must be locked.

  Args:
    options: with an eval_file.
    model: what the folder holds.
    texts: what the eval_file holds.
    soft: what the eval_soft_label_file holds; None without one.
  """
  output_dir, path = options.output_dir, options.eval_file
  assert path
  labels = model.encoding.labels
  examples = model.encoding.encode(texts)
  with _classifier(options, model) as classifier:
    log_probabilities = classifier.predict(examples)
  figures = evaluate(log_probabilities, examples.label_ids)
  if soft:
    figures = dataclasses.replace(figures, agreement=soft_labels.agreement(
        texts, log_probabilities.argmax(axis=1), labels, soft))
  report = figures.report(path, labels)
  files.write_atomically(os.path.join(output_dir, _CONFUSION_FILE), report)
  evaluation.write_results(
      [output_dir], {**figures.results(), **model.notes.results()},
      checkpoints.CHECKPOINT_FILE)
  dataclasses.replace(
      model.notes, evaluated=_evaluated(options)).write(output_dir)
  # Not every locale has every label's characters.
  sys.stdout.buffer.write(report.encode(sys.stdout.encoding, "replace"))


def apply(options: Options, given: Collection[str]) -> None:
  """Applies the classifier of output_dir.

  Args:
    options: without files to train on.
    given: the names of the flags that the command line has.

  Raises:
    InputError: there is no classifier, a flag asks for another one, or a line
      is wrong.
  """
  _check_applying(options)
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
    if options.predict_file:
      _apply_to_texts(options, model)
      return
    if not options.eval_file:
      with _classifier(options, model) as classifier:
        label_texts.label_stdin(classifier, model.config, model.encoding)
      return
    texts = read_texts(options.eval_file, "eval_file", model.encoding.labels)
    check_pairs(model.config, texts, "--eval_file=" + options.eval_file)
    soft = _read_held_out_soft(options, texts, model.encoding.labels)
    with files.locked_folder(options.output_dir):
      apply_to_file(options, model, texts, soft)


def _check_applying(options: Options) -> None:
  """Raises InputError where flags of applying do not fit together."""
  if bool(options.predict_file) != bool(options.output_file):
    raise InputError(
        "--predict_file and --output_file belong together: the texts, and the "
        "soft labels to write; give both")
  if options.predict_file and files.is_same(
      options.predict_file, options.output_file or ""):
    raise InputError(
        "--output_file={} is --predict_file, whose texts it would replace; "
        "name another file".format(options.output_file))
  if options.predict_file and options.eval_file:
    raise InputError(
        "--predict_file and --eval_file: give one of them; a file to evaluate "
        "has labels, a file to predict has none")
  if options.eval_soft_label_file and not options.eval_file:
    _read_held_out_soft(options, (), ())


def _apply_to_texts(options: Options, model: Model) -> None:
  """Writes the soft labels of a file of texts."""
  path, output_file = options.predict_file, options.output_file
  assert path and output_file
  texts = label_texts.read_texts(path, model.encoding.labels)
  check_pairs(model.config, texts, "--predict_file=" + path)
  made_by = manifest.Manifest(
      _STAGE, {"precision": options.precision},
      {"predict_file": files.fingerprint(path),
       "output_dir": checkpoints.fingerprint(os.path.join(
           options.output_dir, checkpoints.CHECKPOINT_FILE))}, {}, 0)
  if record_writer.is_finished(output_file, made_by, options.overwrite):
    return
  files.make_output_folder(os.path.dirname(output_file), "output_file")
  with _classifier(options, model) as classifier:
    label_texts.label_file(
        classifier, model.encoding,
        label_texts.LabelJob(texts, output_file, made_by))


def main() -> None:
  options = command_line.options(Options)
  devices.choose_gpu(None)
  if not (options.train_file or options.soft_label_file):
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

r"""Fine-tunes a BERT to classify texts or pairs of texts, and applies it.

  python examples/fine_tune_classifier.py \
    --bert_config_file student/run/student/bert_config.json \
    --init_checkpoint student/run/student/bert_model.ckpt \
    --vocab_file teacher/vocab.txt \
    --train_file train.tsv --eval_file heldout.tsv --output_dir classifier

Each line of train_file and eval_file has a label, a tab and a text, or a label
and two texts with tabs between them. A label is any string. The script holds
back a tenth of train_file to select the best learning rate, then trains the
classifier on all of train_file. Run the same command again to resume; finished
learning rates are kept.

The script writes eval_results.txt, confusion.txt and the classifier to
output_dir: bert_config.json, bert_model.ckpt.*, vocab.txt and labels.txt.
Without a file to train on, the script applies this classifier. Evaluate on
other texts:

  python examples/fine_tune_classifier.py --output_dir classifier \
    --eval_file other.tsv

Label each line of stdin, with one text or two texts, as soon as the line
arrives. The output is label, probability and text, separated by tabs:

  echo 'a film to see again' | \
    python examples/fine_tune_classifier.py --output_dir classifier

Write soft labels, the probability of each label, for the texts of a file. The
header of output_file is p(LABEL) for each label, then text:

  python examples/fine_tune_classifier.py --output_dir classifier \
    --predict_file texts.txt --output_file soft_labels.tsv

To train a smaller classifier on a teacher's soft labels, give soft_label_file,
with or without train_file. The loss is the cross entropy with the soft label,
with the true label, or the weighted mean of both for a text with both.
"""

import os
import pathlib
import sys

if __name__ == "__main__":  # TensorFlow reads this once, at import.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import collections
import dataclasses
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
from examples.classifier_options import (check_applying, check_training,
                                         define_flags, Options, parse_rates)
from examples.label_texts import check_pairs
from examples.text_files import listed, read_texts, Text
import modeling
from records import manifest
from records import record_writer
import tokenization
from util import command_line
from util import files
from util.command_line import InputError

_CONFUSION_FILE = "confusion.txt"
_STAGE = "fine_tune_classifier"


# --- Settings ----------------------------------------------------------------


def _settings(options: Options) -> Dict[str, Any]:
  """Returns the settings of a classifier, without the learning rates."""
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
  """Raises InputError if output_dir was begun with other settings."""
  for name in {**settings, **notes.settings}:
    found = notes.settings.get(name)
    if found != settings.get(name):
      is_file = name.endswith("_file") or name == "init_checkpoint"
      raise InputError(
          "--{}={} does not fit --output_dir={}, which was begun with {}; give "
          "the same flags as before, or another --output_dir".format(
              name, getattr(options, name, None) or "", options.output_dir,
              (found and "another file" or "none") if is_file else found))
  if notes.learning_rate and list(notes.learning_rates) != list(rates):
    raise InputError(
        "--learning_rate={} does not fit --output_dir={}, which was made with "
        "{}; give the same flags as before, or another --output_dir".format(
            options.learning_rate, options.output_dir,
            ",".join(notes.learning_rates)))


def _evaluated(options: Options) -> Optional[str]:
  """Returns the fingerprints of the evaluation files, or None."""
  return " ".join(files.fingerprint(path) for path in (
      options.eval_file, options.eval_soft_label_file) if path) or None


# --- Training ----------------------------------------------------------------


class TrainingInputs(NamedTuple):
  """Checked inputs of a training.

  Attributes:
    config: config of the model.
    encoding: encodes texts as examples.
    rates: the learning rates, in ascending order.
    training: the training texts.
    held_out: the held-out texts, or None.
    mixture: the training texts with soft labels at the training temperature;
      None for hard labels only.
    held_out_soft: the soft labels of held_out, or None.
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
    """Number of leading training texts that select the learning rate.

    Texts with a true label come first and select the rate. If no text has a
    true label, all texts select the rate.
    """
    return (self.mixture and self.mixture.num_labelled) or len(self.training)

  def examples(self) -> Examples:
    """Returns the training examples."""
    examples = self.encoding.encode(self.training)
    if self.mixture is None:
      return examples
    return examples._replace(soft=SoftTargets(
        self.mixture.probabilities, self.mixture.hard_weights))


def check(options: Options, given: Collection[str]) -> TrainingInputs:
  """Reads and checks the inputs of a training; writes nothing.

  Args:
    options: options with train_file, soft_label_file or both.
    given: names of the flags on the command line.

  Raises:
    InputError: if a flag or a file is invalid, or if they do not fit together.
  """
  check_training(options, given)
  assert options.bert_config_file and options.vocab_file
  rates = parse_rates(options.learning_rate)
  config = checkpoints.load_config(
      options.bert_config_file, options.max_seq_length)
  vocab = read_vocabulary(options.vocab_file, config)
  training, labels, mixture = _read_training(options)
  held_out = (read_texts(options.eval_file, "eval_file", labels)
              if options.eval_file else None)
  # The texts of train_file come before texts with soft labels only.
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
  """Reads the training texts, the labels and, if given, the soft labels."""
  if not options.soft_label_file:
    assert options.train_file
    training = read_texts(options.train_file, "train_file")
    return training, sorted({text.label for text in training}), None
  place = "--soft_label_file: " + options.soft_label_file
  soft = soft_labels.read(options.soft_label_file, "soft_label_file")
  training = []
  if options.train_file:
    # The soft labels have all labels; the true labels may be all the same.
    training = read_texts(options.train_file, "train_file", min_labels=1)
    soft_labels.check_labels(
        sorted({text.label for text in training}), soft, place)
  mixture = soft_labels.mix(training, soft, options.hard_label_weight)
  return mixture.texts, list(soft.labels), mixture._replace(
      probabilities=soft_labels.soften(
          mixture.probabilities, options.temperature))


def _read_held_out_soft(
    options: Options, held_out: Sequence[Text], labels: Sequence[str]
) -> Optional[soft_labels.SoftLabels]:
  """Reads the soft labels of the held-out texts; returns None without them."""
  path = options.eval_soft_label_file
  if not path:
    return None
  soft = soft_labels.read(path, "eval_soft_label_file")
  soft_labels.check_covers(
      held_out, labels, soft, "--eval_soft_label_file: " + path)
  return soft


def _warn_of_seen(inputs: TrainingInputs) -> None:
  """Warns if held-out texts are also training texts."""
  trained_on = {(text.first, text.second) for text in inputs.training}
  num_seen = sum((text.first, text.second) in trained_on
                 for text in inputs.held_out or ())
  if num_seen:
    logging.warning(
        "--eval_file: %d of %d texts are also training texts: the accuracy "
        "will be too high.", num_seen, len(inputs.held_out or ()))


def _check_counts(options: Options, inputs: TrainingInputs) -> None:
  """Raises InputError if too few examples can be held back."""
  counts = collections.Counter(
      text.label for text in inputs.training[:inputs.num_labelled])
  if (len(inputs.rates) > 1
      and max(counts.values()) < EXAMPLES_PER_HELD_OUT // 2):
    flag = "train_file" if options.train_file else "soft_label_file"
    raise InputError(
        "--{}: {} has at most {} examples of a label, but the choice among "
        "--learning_rate={} needs {}, to hold back a tenth; give one learning "
        "rate or more examples".format(
            flag, getattr(options, flag), max(counts.values()),
            options.learning_rate, EXAMPLES_PER_HELD_OUT // 2))


def fine_tune(options: Options, given: Collection[str] = ()) -> None:
  """Selects the learning rate, trains and evaluates; skips finished steps.

  Args:
    options: options with train_file, soft_label_file or both.
    given: names of the flags on the command line.

  Raises:
    InputError: if a flag or a file is invalid, if they do not fit together, or
      if the loss is NaN or infinite.
  """
  inputs = check(options, given)
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
  """Raises InputError if output_dir holds a model of another script."""
  for name in (checkpoints.CONFIG_FILE, checkpoints.CHECKPOINT_FILE + ".index",
               VOCAB_FILE):
    if os.path.exists(os.path.join(output_dir, name)):
      raise InputError(
          "--output_dir={} holds {}, which this script did not write and does "
          "not replace; choose another folder".format(output_dir, name))


def _train(options: Options, inputs: TrainingInputs, notes: Notes) -> Notes:
  """Selects the learning rate and trains the classifier."""
  assert options.bert_config_file and options.vocab_file
  _warn_of_seen(inputs)
  output_dir, labels = options.output_dir, inputs.encoding.labels
  examples = inputs.examples()
  logging.info("%s: %d examples, labels %s",
               options.train_file or options.soft_label_file, examples.size,
               listed(labels))
  if inputs.mixture:
    logging.info(
        "%d texts with a true label, of which %d have a soft label too; %d "
        "texts with a soft label alone", inputs.mixture.num_labelled,
        inputs.mixture.num_both, examples.size - inputs.mixture.num_labelled)
  best = inputs.rates[0]
  if len(inputs.rates) > 1:
    notes = _try_rates(options, inputs, examples, notes)
    figures = {rate: notes.candidates[format_rate(rate)]
               for rate in inputs.rates}
    best = min(inputs.rates, key=lambda rate: (-figures[rate]["accuracy"],
                                               figures[rate]["loss"]))
    logging.info("Learning rate %s is the best; training on all %d examples.",
                 format_rate(best), examples.size)
  with _new_classifier(options, inputs, best, examples.size) as classifier:
    classifier.train(examples)
    files.copy_atomically(
        options.bert_config_file,
        os.path.join(output_dir, checkpoints.CONFIG_FILE))
    files.copy_atomically(
        options.vocab_file, os.path.join(output_dir, VOCAB_FILE))
    files.write_atomically(
        os.path.join(output_dir, LABELS_FILE),
        "".join(label + "\n" for label in labels))
    classifier.save(os.path.join(output_dir, checkpoints.CHECKPOINT_FILE))
  notes = dataclasses.replace(
      notes, learning_rates=list(map(format_rate, inputs.rates)),
      learning_rate=format_rate(best))
  notes.write(output_dir)
  return notes


def _try_rates(options: Options, inputs: TrainingInputs, examples: Examples,
               notes: Notes) -> Notes:
  """Trains with each remaining learning rate; notes the held-back accuracy."""
  is_held_out = np.zeros(examples.size, bool)
  is_held_out[:inputs.num_labelled] = hold_out(
      examples.label_ids[:inputs.num_labelled], options.random_seed)
  training, held_out = (examples.take(np.flatnonzero(chosen))
                        for chosen in (~is_held_out, is_held_out))
  for rate in inputs.rates:
    name = format_rate(rate)
    if name in notes.candidates:
      continue
    with _new_classifier(options, inputs, rate, training.size) as candidate:
      candidate.train(training)
      figures = evaluate(candidate.predict(held_out), held_out.label_ids)
    notes = dataclasses.replace(notes, candidates=dict(
        notes.candidates,
        **{name: {"accuracy": figures.accuracy, "loss": figures.loss}}))
    notes.write(options.output_dir)
    logging.info("Learning rate %s: accuracy %.4f on %d held-back examples",
                 name, figures.accuracy, held_out.size)
  return notes


def _new_classifier(options: Options, inputs: TrainingInputs, rate: float,
                    num_examples: int) -> Classifier:
  """Returns a classifier to train with a learning rate."""
  return Classifier(
      inputs.config, len(inputs.encoding.labels),
      devices.DeviceOptions(options.precision), options.init_checkpoint,
      Schedule(rate, num_examples, options.num_train_epochs,
               options.train_batch_size, options.random_seed),
      options.temperature if inputs.mixture else None)


# --- Applying ----------------------------------------------------------------


def _trained_classifier(options: Options, model: Model) -> Classifier:
  """Returns the trained classifier of output_dir."""
  return Classifier(
      model.config, len(model.encoding.labels),
      devices.DeviceOptions(options.precision),
      os.path.join(options.output_dir, checkpoints.CHECKPOINT_FILE))


def apply_to_file(options: Options, model: Model, texts: Sequence[Text],
                  soft: Optional[soft_labels.SoftLabels]) -> None:
  """Evaluates a classifier; writes and prints the results.

  The caller must hold the lock of output_dir.

  Args:
    options: options with eval_file.
    model: the contents of output_dir.
    texts: the texts of eval_file.
    soft: the contents of eval_soft_label_file, or None.
  """
  output_dir, path = options.output_dir, options.eval_file
  assert path
  labels = model.encoding.labels
  examples = model.encoding.encode(texts)
  with _trained_classifier(options, model) as classifier:
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
  # The locale's encoding may lack characters of the labels.
  sys.stdout.buffer.write(report.encode(sys.stdout.encoding, "replace"))


def apply(options: Options, given: Collection[str]) -> None:
  """Labels or evaluates texts with the classifier of output_dir.

  Args:
    options: options without train_file and soft_label_file.
    given: names of the flags on the command line.

  Raises:
    InputError: if output_dir holds no classifier, if a flag contradicts the
      classifier or has no effect, or if a file or a line is invalid.
  """
  check_applying(options, given)
  model = load(options.output_dir)
  settings = model.notes.settings
  for name in ("max_seq_length", "do_lower_case", "strip_accents"):
    # The settings have strip_accents only if it differs from do_lower_case.
    trained_with = settings.get(name, settings["do_lower_case"])
    if name in given and getattr(options, name) != trained_with:
      raise InputError(
          "--{}={}, but the classifier in {} was trained with {}; remove the "
          "flag".format(name, getattr(options, name), options.output_dir,
                        trained_with))
  devices.warn_of_device(devices.DeviceOptions(options.precision))
  with devices.exhaustion_errors("free some memory, or space in {}".format(
      options.output_dir)):
    if options.predict_file:
      _apply_to_texts(options, model)
      return
    if not options.eval_file:
      with _trained_classifier(options, model) as classifier:
        label_texts.label_stdin(classifier, model.config, model.encoding)
      return
    texts = read_texts(options.eval_file, "eval_file", model.encoding.labels)
    check_pairs(model.config, texts, "--eval_file=" + options.eval_file)
    soft = _read_held_out_soft(options, texts, model.encoding.labels)
    with files.locked_folder(options.output_dir):
      apply_to_file(options, model, texts, soft)


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
  with _trained_classifier(options, model) as classifier:
    label_texts.label_file(
        classifier, model.encoding,
        label_texts.LabelJob(texts, output_file, made_by))


def main() -> None:
  options = command_line.options(Options)
  devices.choose_gpu(None)
  given = {field.name for field in dataclasses.fields(Options)
           if flags.FLAGS[field.name].present}
  if not (options.train_file or options.soft_label_file):
    apply(options, given)
    return
  try:
    fine_tune(options, given)
  except KeyboardInterrupt:
    raise KeyboardInterrupt(
        "finished learning rates are kept: run the same command again to "
        "resume") from None


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("output_dir",))

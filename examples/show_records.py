r"""Prints records of any stage as readable text.

  python examples/show_records.py \
    --file 'data/labelled/wiki_distill_*.tfrecord' \
    --vocab_file teacher/vocab.txt --record 7

A masked position of the sequence reads «input→token», with the input of the
model and the token to predict, or «token» if the input was kept. For records
with soft labels, a list shows the teacher's tokens of each masked position, the
most probable first. «» marks the token to predict, ~ marks tokens of the
sampled tail (--tail_samples), and "rest" is the remaining probability. If the
records have hidden states, the script computes the tokens with the teacher's
decoder beside the file.
"""

import itertools
import os
import pathlib
import re
import shutil
import signal
import sys
from typing import Any, Dict, Iterator, List, Mapping, Sequence

from absl import flags
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
# pylint: disable=wrong-import-position
from distillation import teacher_decoder
from records import compact
from records import block_index
from records import manifest
from records import sampling
from records import schema
from records import tfrecord
import tokenization
from util import command_line
from util import files
from util.command_line import InputError

# Size of the output without a terminal.
_COLUMNS, _LINES = 100, 24
# Maximal number of the teacher's tokens in the list of a masked position.
_MAX_ENTRIES = 10
# Select Graphic Rendition of ECMA-48: bold, faint, yellow, bold and green.
_BOLD, _FAINT, _YELLOW, _GREEN = "1", "2", "33", "1;32"
_COLOR = re.compile("\033\\[[0-9;]*m")


def define_flags() -> None:
  """Defines the flags of the script."""
  flags.DEFINE_string(
      "file", None, "Record files: paths and patterns, separated by commas.")
  flags.DEFINE_string(
      "vocab_file", None, "Vocabulary of the records.")
  flags.DEFINE_integer(
      "record", 0, "Index of the first record to show in each file.",
      lower_bound=0)
  flags.DEFINE_integer(
      "num_records", 1, "Number of records to show of each file.",
      lower_bound=1)


def decode(serialized: bytes) -> Dict[str, Any]:
  """Parses a record of any S, P and K; raises InputError for other bytes."""
  features = compact.expand(tfrecord.decode(serialized))
  length, slots, entries = (len(features.get(name, ())) for name in (
      schema.INPUT_IDS, schema.MASKED_LM_IDS, schema.TEACHER_INDICES))
  shape = schema.RecordShape(length, slots, entries // max(slots, 1))
  for name, feature in schema.features(shape).items():
    values = features.get(name)
    if (not isinstance(values, np.ndarray) or values.dtype != feature.dtype
        or values.size != np.prod(feature.shape)):
      raise InputError("{} is missing or does not fit the other features; give "
                       "records of this project".format(name))
    features[name] = values.reshape(feature.shape)
  return features


def compute_entries(features: Dict[str, Any],
                    decoder: teacher_decoder.Decoder) -> None:
  """Adds the teacher's most probable tokens to a record with hidden states.

  Raises:
    InputError: if the decoder has another hidden size than the record.
  """
  num_slots = len(features[schema.MASKED_LM_IDS])
  stored = features[schema.TEACHER_HIDDEN_STATES]
  content = b"".join(stored) if isinstance(stored, list) else b""
  if len(content) != 2 * num_slots * decoder.hidden_size:
    raise InputError(
        "the hidden states do not fit the hidden_size {} of the {} beside the "
        "file; copy the one of the teacher that labelled the records".format(
            decoder.hidden_size, teacher_decoder.FILE))
  hidden_states = np.frombuffer(content, "<f2").reshape(num_slots, -1)
  logits = (hidden_states.astype(np.float32) @ decoder.word_embeddings.T
            + decoder.output_bias)
  odds = np.exp(logits - logits.max(axis=1, keepdims=True))
  order = np.argsort(-odds, axis=1, kind="stable")[:, :_MAX_ENTRIES]
  features[schema.TEACHER_INDICES] = order
  features[schema.TEACHER_PROBABILITIES] = np.take_along_axis(
      odds / odds.sum(axis=1, keepdims=True), order, axis=1)


def look_up(tokens: np.ndarray, ids: np.ndarray) -> np.ndarray:
  """Returns the tokens of ids; raises InputError for an id without a token."""
  outside = ids[(ids < 0) | (ids >= len(tokens))]
  if outside.size:
    raise InputError(
        "the record has the token id {}, but --vocab_file has only {} tokens; "
        "give the vocabulary of the records".format(outside[0], len(tokens)))
  return tokens[ids]


def paint(text: str, color: str) -> str:
  return "\033[{}m{}\033[0m".format(color, text)


def wrap(words: Sequence[str], num_columns: int, space: str) -> List[str]:
  """Joins words to lines of at most `num_columns` columns."""
  lines = list(words[:1])
  for word in words[1:]:
    line = lines[-1] + space + word
    if len(_COLOR.sub("", line)) <= num_columns:
      lines[-1] = line
    else:
      lines.append(word)
  return lines


def sequence_lines(inputs: np.ndarray, labels: Mapping[int, str],
                   num_columns: int) -> Iterator[str]:
  """Yields a sequence as text, with a new line after each [SEP].

  Args:
    inputs: input tokens of the model, str.
    labels: maps masked positions to the tokens to predict.
    num_columns: width of the terminal.
  """
  words: List[str] = []
  for position, token in enumerate(inputs):
    label = labels.get(position, token)
    text = token if token == label else token + "→" + label
    if position in labels:
      text = paint("«{}»".format(text), _YELLOW)
    elif token in (tokenization.CLASS_TOKEN, tokenization.SEPARATOR_TOKEN):
      text = paint(text, _FAINT)
    if words and label.startswith(tokenization.CONTINUATION_PREFIX):
      words[-1] += text
    else:
      words.append(text)
    if position == len(inputs) - 1 or (
        token == tokenization.SEPARATOR_TOKEN and position not in labels):
      yield from wrap(words, num_columns, " ")
      words = []


def teacher_entries(tokens: Sequence[str], probabilities: np.ndarray,
                    label: str, num_sampled: int) -> List[str]:
  """Returns the soft label of a masked position as text, one entry a token.

  Args:
    tokens: the teacher's tokens, str [K].
    probabilities: their probabilities, float32 [K].
    label: the token to predict.
    num_sampled: number of the last tokens that are samples of the tail.
  """
  num_top = len(tokens) - num_sampled
  order = sorted(range(len(tokens)),
                 key=lambda i: (i >= num_top, -probabilities[i]))
  entries = []
  for i in order[:_MAX_ENTRIES]:
    entry = "{}{} {:.1%}".format(
        "~" if i >= num_top else "", tokens[i], probabilities[i])
    entries.append(entry if tokens[i] != label else
                   paint("«{}»".format(entry), _GREEN))
  if len(order) > _MAX_ENTRIES:
    entries.append("({} more: {:.1%})".format(
        len(order) - _MAX_ENTRIES, probabilities[order[_MAX_ENTRIES:]].sum()))
  rest = max(0.0, 1 - probabilities.sum(dtype=np.float64))
  return entries + [paint("rest {:.1%}".format(rest), _FAINT)]


def record_lines(features: Mapping[str, np.ndarray], tokens: np.ndarray,
                 num_sampled: int, num_columns: int) -> Iterator[str]:
  """Yields a record as lines of text.

  Args:
    features: features of the record, as `decode` returns them.
    tokens: the vocabulary, str [V].
    num_sampled: as for `teacher_entries`.
    num_columns: width of the terminal.

  Raises:
    InputError: if an id has no token, or a masked position is beyond the
      sequence.
  """
  num_tokens = features[schema.INPUT_MASK].sum()
  inputs = look_up(tokens, features[schema.INPUT_IDS][:num_tokens])
  is_masked = features[schema.MASKED_LM_WEIGHTS] > 0
  labels = look_up(tokens, features[schema.MASKED_LM_IDS][is_masked])
  positions = features[schema.MASKED_LM_POSITIONS][is_masked].tolist()
  if max(positions, default=0) >= num_tokens:
    raise InputError("position {} is masked, but the record has only {} "
                     "tokens; make the records again".format(
                         max(positions), num_tokens))
  yield "{} tokens, {} padding, {} masked, next sentence: {}\n".format(
      num_tokens, len(features[schema.INPUT_IDS]) - num_tokens, len(positions),
      "random" if features[schema.NEXT_SENTENCE_LABELS][0] else "follows")
  yield from sequence_lines(inputs, dict(zip(positions, labels)), num_columns)
  yield ""
  rows = [("position", "input", "token")]
  for position, label in zip(positions, labels):
    token = inputs[position]
    how = ("" if token == tokenization.MASK_TOKEN else
           " (kept)" if token == label else " (random)")
    rows.append((str(position), token + how, label))
  teacher: List[List[str]] = [[]] * len(rows)
  if schema.TEACHER_INDICES in features:
    teacher = [["teacher"], *map(
        teacher_entries,
        look_up(tokens, features[schema.TEACHER_INDICES][is_masked]),
        features[schema.TEACHER_PROBABILITIES][is_masked], labels,
        itertools.repeat(num_sampled))]
  widths = [max(map(len, column)) for column in zip(*rows)]
  for (position, *cells), entries in zip(rows, teacher):
    start = "  ".join([position.rjust(widths[0]),
                       *map(str.ljust, cells, widths[1:]), ""])
    for line in wrap(entries, num_columns - len(start), "  ") or [""]:
      yield (start + line).rstrip()
      start = " " * len(start)


def show(path: str, first: int, count: int, vocab: Mapping[str, int],
         vocab_digest: str) -> None:
  """Prints records of a file, on a terminal in colours.

  Args:
    path: the record file.
    first: index of the first record to show.
    count: maximal number of records to show.
    vocab: maps tokens to ids.
    vocab_digest: fingerprint of the vocabulary's file.

  Raises:
    InputError: if the file has no record `first`, or the vocabulary is not that
      of the records.
  """
  made_by = manifest.read_manifest(path)
  wanted = made_by and made_by.fingerprints.get("vocab_file", vocab_digest)
  if made_by and wanted != vocab_digest:
    raise InputError(
        "--vocab_file has the SHA-256 {:.12}..., but {} was made with a "
        "vocabulary of {:.12}...; give that vocabulary".format(
            vocab_digest, path, wanted))
  num_sampled = made_by.flags.get("tail_samples", 0) if made_by else 0
  tokens = np.full(max(vocab.values()) + 1, tokenization.UNKNOWN_TOKEN, object)
  tokens[list(vocab.values())] = list(vocab)
  num_columns = shutil.get_terminal_size((_COLUMNS, _LINES)).columns
  records = list(itertools.islice(
      tfrecord.read(path, "file"), first, first + count))
  if not records:
    raise InputError(
        "--record={}: {} has {} records; give an index below that number, or "
        "another file".format(
            first, path, block_index.count_records(path, "file")))
  decoder = None
  for index, serialized in enumerate(records, first):
    title = "{}, record {}".format(path, index)
    try:
      features = decode(serialized)
      if schema.TEACHER_HIDDEN_STATES in features:
        decoder = decoder or teacher_decoder.read(
            teacher_decoder.path_beside(path))
        compute_entries(features, decoder)
      text = "\n".join([paint(title, _BOLD), *record_lines(
          features, tokens, num_sampled, num_columns)]) + "\n\n"
    except InputError as error:
      raise InputError("--file: {}: {}".format(title, error)) from None
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
      text = _COLOR.sub("", text)
    # Some encodings lack arrows.
    sys.stdout.buffer.write(text.encode(sys.stdout.encoding, "replace"))


def main() -> None:
  signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # For `... | head`.
  paths = files.find_files(flags.FLAGS.file, "file")
  vocab = sampling.read_vocabulary(flags.FLAGS.vocab_file)
  vocab_digest = files.fingerprint(flags.FLAGS.vocab_file)
  for path in paths:
    show(path, flags.FLAGS.record, flags.FLAGS.num_records, vocab, vocab_digest)


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("file", "vocab_file"))

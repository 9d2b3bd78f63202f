r"""Times the tokenizer beside a straightforward one and the tokenizers package.

  pip install -r benchmarks/requirements.txt
  python benchmarks/tokenizer.py \
    --text_file movie_reviews_train.txt --vocab_file vocab.txt

Every run starts cold, in a process of its own and on one core, from the lines
of the text to ids. The contenders take turns, and the figures are medians of
processor time. The ids of all must be equal.
"""

import hashlib
import multiprocessing
import os
import pathlib
import statistics
import sys
import time
from typing import Callable, Dict, List, Tuple

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

# pylint: disable=wrong-import-position
from absl import flags
import tokenizers

import reference_pretraining_data as reference
import tokenization
from util import command_line

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the flags of this benchmark."""
  flags.DEFINE_string("text_file", None, "Text, one sentence a line.")
  flags.DEFINE_string("vocab_file", None, "BERT's vocab.txt.")
  flags.DEFINE_bool("do_lower_case", True, "As for the tokenizer.")
  flags.DEFINE_integer("repetitions", 9, "How often to time each.")


def contenders(vocab_file: str, do_lower_case: bool
               ) -> Dict[str, Callable[[List[str]], object]]:
  """Returns by name what turns lines into ids."""
  vocab = tokenization.load_vocab(vocab_file)
  package = tokenizers.BertWordPieceTokenizer(
      vocab_file, lowercase=do_lower_case)

  def ours(lines):
    tokenizer = tokenization.FullTokenizer.from_vocab(vocab, do_lower_case)
    return tokenizer.encode_lines(lines)

  def straightforward(lines):
    return [[vocab[token] for token in reference.tokenize(
        line, vocab, do_lower_case)] for line in lines]

  def package_one_by_one(lines):
    return [package.encode(line, add_special_tokens=False).ids
            for line in lines]

  def package_batch(lines):
    return [encoding.ids for encoding in package.encode_batch(
        lines, add_special_tokens=False)]

  return {function.__name__: function for function in (
      ours, straightforward, package_one_by_one, package_batch)}


def time_cold(name: str, text_file: str, vocab_file: str,
              do_lower_case: bool) -> Tuple[float, str]:
  """Runs one contender; returns its seconds and a fingerprint of the ids."""
  lines = pathlib.Path(text_file).read_text(encoding="utf-8").split("\n")
  contender = contenders(vocab_file, do_lower_case)[name]
  start = time.process_time()
  result = contender(lines)
  seconds = time.process_time() - start
  if name == "ours":
    ids, lengths = (numbers.tolist() for numbers in result)
  else:
    ids = [index for line in result for index in line]
    lengths = list(map(len, result))
  return seconds, hashlib.sha256(repr((ids, lengths)).encode()).hexdigest()


def run(text_file: str, vocab_file: str, do_lower_case: bool,
        repetitions: int) -> None:
  """Times the contenders and prints their medians and ratios."""
  seconds = {name: [] for name in contenders(vocab_file, do_lower_case)}
  fingerprints = set()
  # A pool of one that gives every task a new process.
  with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
    for _ in range(repetitions):
      for name in seconds:
        spent, fingerprint = pool.apply(
            time_cold, (name, text_file, vocab_file, do_lower_case))
        seconds[name].append(spent)
        fingerprints.add(fingerprint)
  assert len(fingerprints) == 1, "The contenders differ in their ids."
  print("Ids equal.")
  median = {name: statistics.median(seconds[name]) for name in seconds}
  for name in seconds:
    print("{:20} {:7.3f} s  ({:.3f} to {:.3f})  {:5.1f} times ours".format(
        name, median[name], min(seconds[name]), max(seconds[name]),
        median[name] / median["ours"]))


def main() -> None:
  run(FLAGS.text_file, FLAGS.vocab_file, FLAGS.do_lower_case,
      FLAGS.repetitions)


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("text_file", "vocab_file"))

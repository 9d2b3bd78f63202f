"""Times the tokenizer beside a straightforward one and the tokenizers package.

  pip install -r benchmarks/requirements.txt
  python benchmarks/tokenizer.py \
    --text_file movie_reviews_train.txt --vocab_file vocab.txt

Every run starts cold, on one core, from the lines of the text to ids. The
contenders take turns, and the figures are medians of processor time. The ids
of all must be equal.
"""

import os
import pathlib
import statistics
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

# pylint: disable=wrong-import-position
from absl import flags
import tokenizers

import command_line
import reference_pretraining_data as reference
import tokenization

FLAGS = flags.FLAGS


def define_flags() -> None:
  """Defines the flags of this benchmark."""
  flags.DEFINE_string("text_file", None, "Text, one sentence a line.")
  flags.DEFINE_string("vocab_file", None, "BERT's vocab.txt.")
  flags.DEFINE_bool("do_lower_case", True, "As for the tokenizer.")
  flags.DEFINE_integer("repetitions", 5, "How often to time each.")


def run(text_file: str, vocab_file: str, do_lower_case: bool,
        repetitions: int) -> None:
  """Times the contenders and prints their medians and ratios."""
  lines = pathlib.Path(text_file).read_text(encoding="utf-8").split("\n")
  vocab = tokenization.load_vocab(vocab_file)

  def ours():
    return tokenization.FullTokenizer(vocab, do_lower_case).encode_lines(lines)

  def straightforward():
    return [[vocab[token] for token in reference.tokenize(
        line, vocab, do_lower_case)] for line in lines]

  package = tokenizers.BertWordPieceTokenizer(
      vocab_file, lowercase=do_lower_case)

  def package_one_by_one():
    return [package.encode(line, add_special_tokens=False).ids
            for line in lines]

  def package_batch():
    return [encoding.ids for encoding in package.encode_batch(
        lines, add_special_tokens=False)]

  contenders = (ours, straightforward, package_one_by_one, package_batch)
  seconds = {contender: [] for contender in contenders}
  results = {}
  for _ in range(repetitions):
    for contender in contenders:
      start = time.process_time()
      results[contender] = contender()
      seconds[contender].append(time.process_time() - start)

  ids, lengths = results[ours]
  expected = results[straightforward]
  for contender in (package_one_by_one, package_batch):
    assert results[contender] == expected, contender.__name__
  assert ids.tolist() == [index for line in expected for index in line]
  assert lengths.tolist() == list(map(len, expected))
  print("{} lines, {} tokens, ids equal".format(len(lines), len(ids)))
  median = {c: statistics.median(seconds[c]) for c in contenders}
  for contender in contenders:
    print("{:20} {:7.3f} s  ({:.3f} to {:.3f})  {:5.1f} times ours".format(
        contender.__name__, median[contender], min(seconds[contender]),
        max(seconds[contender]), median[contender] / median[ours]))


def main() -> None:
  run(FLAGS.text_file, FLAGS.vocab_file, FLAGS.do_lower_case,
      FLAGS.repetitions)


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("text_file", "vocab_file"))

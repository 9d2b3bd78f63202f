r"""Builds a WordPiece vocabulary from text.

  python benchmarks/demo_vocabulary.py --input_file demo/text.txt \
    --output_file demo/vocab.txt --vocab_size 8000

The vocabulary is lower-case, one word a line, as BERT's vocab.txt.
"""

import os
import sys

from absl import flags
from absl import logging
import tokenizers

sys.path.insert(0, os.path.join(os.path.dirname(__file__), os.pardir))
import command_line  # pylint: disable=wrong-import-position

FLAGS = flags.FLAGS

_SPECIAL_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def define_flags() -> None:
  """Defines the flags of the script."""
  flags.DEFINE_string("input_file", None, "Text, one sentence a line.")
  flags.DEFINE_string("output_file", None, "Vocabulary to write.")
  flags.DEFINE_integer("vocab_size", 8000, "Words in it.", lower_bound=100)


def main() -> None:
  tokenizer = tokenizers.BertWordPieceTokenizer(lowercase=True)
  tokenizer.train([FLAGS.input_file], vocab_size=FLAGS.vocab_size,
                  special_tokens=_SPECIAL_WORDS, show_progress=False)
  words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
  with open(FLAGS.output_file, "w", encoding="utf-8") as file:
    file.writelines(word + "\n" for word, _ in words)
  logging.info("%s: %d words", FLAGS.output_file, len(words))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("input_file", "output_file"))

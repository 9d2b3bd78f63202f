r"""Builds a WordPiece vocabulary from text.

  python examples/demo_vocabulary.py --input_file demo/text.txt \
    --output_file demo/vocab.txt --vocab_size 8000

The vocabulary is lower-case, one token a line, as BERT's vocab.txt.
"""

import pathlib
import sys

from absl import flags
from absl import logging
import tokenizers

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
# pylint: disable=wrong-import-position
import tokenization
from util import command_line
from util import files

# BERT's padding has id 0.
_SPECIAL_TOKENS = ["[PAD]", *tokenization.SPECIAL_TOKENS]


def define_flags() -> None:
  """Defines the flags of the script."""
  flags.DEFINE_string("input_file", None, "Text, one sentence a line.")
  flags.DEFINE_string("output_file", None, "Vocabulary to write.")
  flags.DEFINE_integer("vocab_size", 8000, "Tokens in it.", lower_bound=100)


def main() -> None:
  output_file = flags.FLAGS.output_file
  tokenizer = tokenizers.BertWordPieceTokenizer(lowercase=True)
  tokenizer.train(
      files.find_files(flags.FLAGS.input_file, "input_file"),
      vocab_size=flags.FLAGS.vocab_size, special_tokens=_SPECIAL_TOKENS,
      show_progress=False)
  # The ids that the package gives differ from run to run.
  tokens = sorted(set(tokenizer.get_vocab()) - set(_SPECIAL_TOKENS))
  tokens = _SPECIAL_TOKENS + tokens
  files.write_atomically(output_file, "\n".join(tokens) + "\n")
  logging.info("%s: %d tokens", output_file, len(tokens))


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("input_file", "output_file"))

r"""Times the tokenizer against the tokenizers package.

  python benchmarks/tokenizer.py \
    --text_file movie_reviews_train.txt --vocab_file vocab.txt \
    --peers_python .venv-peers/bin/python

Each run encodes the lines of the text in a new process without caches, on one
core.
"""

import cProfile
import hashlib
import pathlib
import pstats
import sys
import time
from typing import List, Tuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

# pylint: disable=wrong-import-position
from absl import flags

import measure
import tokenization
from util import command_line

FLAGS = flags.FLAGS


def define_flags() -> None:
  measure.define_flags()
  flags.DEFINE_string("text_file", None, "Text with one sentence per line.")
  flags.DEFINE_string("vocab_file", None, "BERT's vocab.txt.")


def read_lines(text_file: str) -> List[str]:
  return pathlib.Path(text_file).read_text(encoding="utf-8").split("\n")


def encode_cold(text_file: str, vocab_file: str) -> Tuple[float, str]:
  """Encodes the lines of a text; call it in a new process, without caches.

  Returns:
    The processor time from lines to ids in seconds, and a fingerprint of the
    ids.
  """
  lines = read_lines(text_file)
  vocab = tokenization.load_vocab(vocab_file)
  start = time.process_time()
  arrays = tokenization.FullTokenizer.from_vocab(vocab).encode_lines(lines)
  seconds = time.process_time() - start
  ids = tuple(array.tolist() for array in arrays)
  return seconds, hashlib.sha256(repr(ids).encode()).hexdigest()


def profile_encoding(text_file: str, vocab_file: str) -> measure.Shares:
  """Returns the largest entries of the profile of `encode_cold`."""
  lines = read_lines(text_file)
  vocab = tokenization.load_vocab(vocab_file)
  with cProfile.Profile() as profile:
    tokenization.FullTokenizer.from_vocab(vocab).encode_lines(lines)
  return measure.profile_entries(pstats.Stats(profile))


def main() -> None:
  files = FLAGS.text_file, FLAGS.vocab_file
  megabytes = pathlib.Path(FLAGS.text_file).stat().st_size / 1e6
  descriptions, fingerprints = [], set()

  def encode() -> float:
    seconds, fingerprint = call(encode_cold, *files)
    fingerprints.add(fingerprint)
    return megabytes / seconds

  def encode_with_peer() -> float:
    peer = measure.Peer(
        FLAGS.peers_python, "tokenizers", "tokenizer", "--text_file", files[0],
        "--vocab_file", files[1])
    descriptions.append(peer.description)
    try:
      if peer.is_absent:
        return 0.0
      seconds = peer.run()
      fingerprints.add(peer.answer["fingerprint"])
      return megabytes / seconds
    finally:
      peer.close()

  with measure.new_processes() as call:
    rates = measure.alternate({
        "ours": encode, "peer": encode_with_peer}, FLAGS.turns)
    rest = call(profile_encoding, *files)
  assert len(fingerprints) == 1, "The contenders differ in their ids."
  peer = descriptions[-1]
  measure.finish([measure.row(
      "tokenizer", "MB/s of text", rates["ours"], peer,
      () if "absent" in peer else rates["peer"],
      ("bytes copied", measure.copy_rate(
          pathlib.Path(FLAGS.text_file), measure.COPIED_BYTES) / 1e6), rest)], [
              "{:.1f} MB of text, from lines to ids, each run cold in a new "
              "process on one core, processor time; the vocabulary is loaded "
              "before.".format(
                  megabytes)])


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=("text_file", "vocab_file"))

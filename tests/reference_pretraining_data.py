"""Reference implementation of BERT's tokenizer and pre-training records.

Tests and benchmarks compare the fast code with this module. It follows the
published description of BERT's input (Devlin et al. 2019, section A.1 and the
README of BERT's code) one token at a time: token strings, lists of instances in
memory, one `tf.train.Example` at a time.

The order of the draws from `random.Random(seed)` is part of the contract.
"""

import random
import unicodedata
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

_MAX_WORD_LENGTH = 200
# A small vocabulary, and words for a text; the vocabulary lacks some of them.
TOKENS = ("[PAD] [UNK] [CLS] [SEP] [MASK] the cat sat on a mat and un ##want "
          "##ed ##s run ##ning dog , .".split())
_WORDS = ([token for token in TOKENS if token[0] not in "[#"]
          + ["unwanted", "runs", "running", "Cats", "caf\u00e9", "x-ray"])


def random_text(rng: random.Random, num_documents: int, max_sentences: int = 12,
                max_words: int = 30) -> str:
  """Returns the text of a file with random documents."""
  documents = [
      "\n".join(" ".join(rng.choices(_WORDS, k=rng.randint(1, max_words)))
                for _ in range(rng.randint(1, max_sentences)))
      for _ in range(num_documents)]
  return "\n\n".join(documents) + "\n"


def read_vocabulary(path: str) -> Dict[str, int]:
  """Reads one token a line; the id of a token is its line's number."""
  vocabulary = {}
  with open(path, encoding="utf-8", newline="\n") as file:
    for index, line in enumerate(file):
      vocabulary[line.strip()] = index
  return vocabulary


# --- Tokenizer ---------------------------------------------------------------


def _is_whitespace(char: str) -> bool:
  return char in " \t\n\r" or unicodedata.category(char) == "Zs"


def _is_control(char: str) -> bool:
  return char not in "\t\n\r" and unicodedata.category(char) in ("Cc", "Cf")


def _is_punctuation(char: str) -> bool:
  # BERT counts all ASCII symbols, even "$" and "`", which Unicode does not.
  is_ascii_symbol = "!" <= char <= "~" and not char.isalnum()
  return is_ascii_symbol or unicodedata.category(char).startswith("P")


def _is_cjk(char: str) -> bool:
  point = ord(char)
  return (0x4E00 <= point <= 0x9FFF or 0x3400 <= point <= 0x4DBF
          or 0x20000 <= point <= 0x2A6DF or 0x2A700 <= point <= 0x2B73F
          or 0x2B740 <= point <= 0x2B81F or 0x2B820 <= point <= 0x2CEAF
          or 0xF900 <= point <= 0xFAFF or 0x2F800 <= point <= 0x2FA1F)


def split_words(text: str, do_lower_case: bool,
                strip_accents: Optional[bool] = None) -> List[str]:
  """Splits a line into words and punctuation marks."""
  if strip_accents is None:
    strip_accents = do_lower_case
  cleaned = []
  for char in text:
    if char in "\0\ufffd" or _is_control(char):
      continue
    if _is_whitespace(char):
      cleaned.append(" ")
    elif _is_cjk(char):
      cleaned.append(" " + char + " ")
    else:
      cleaned.append(char)
  words = []
  for word in "".join(cleaned).split():
    if do_lower_case:
      word = word.lower()
    if strip_accents:
      word = unicodedata.normalize("NFD", word)
      word = "".join(c for c in word if unicodedata.category(c) != "Mn")
    spaced = []
    for char in word:
      spaced.append(" " + char + " " if _is_punctuation(char) else char)
    words.extend("".join(spaced).split())
  return words


def split_word_pieces(word: str, vocabulary: Dict[str, int]) -> List[str]:
  """Splits a word into the longest pieces that the vocabulary has."""
  if len(word) > _MAX_WORD_LENGTH:
    return ["[UNK]"]
  pieces = []
  start = 0
  while start < len(word):
    for end in range(len(word), start, -1):
      piece = ("##" if start else "") + word[start:end]
      if piece in vocabulary:
        pieces.append(piece)
        start = end
        break
    else:
      return ["[UNK]"]
  return pieces


def tokenize(text: str, vocabulary: Dict[str, int], do_lower_case: bool,
             strip_accents: Optional[bool] = None) -> List[str]:
  """Splits a line into WordPiece tokens."""
  tokens = []
  for word in split_words(text, do_lower_case, strip_accents):
    tokens.extend(split_word_pieces(word, vocabulary))
  return tokens


# --- Instances ---------------------------------------------------------------


class Settings(NamedTuple):
  """The flags that determine the records, with their defaults."""
  do_lower_case: bool = True
  max_seq_length: int = 128
  max_predictions_per_seq: int = 20
  dupe_factor: int = 10
  masked_lm_prob: float = 0.15
  short_seq_prob: float = 0.1
  do_whole_word_mask: bool = False


class Instance(NamedTuple):
  """One masked pair of text spans."""
  tokens: List[str]
  segment_ids: List[int]
  is_random_next: bool
  masked_positions: List[int]
  masked_labels: List[str]


def read_documents(path: str, vocabulary: Dict[str, int],
                   do_lower_case: bool) -> List[List[List[str]]]:
  """Reads documents as lists of sentences as lists of tokens."""
  documents = [[]]
  with open(path, encoding="utf-8", newline="\n") as file:
    for line in file:
      line = line.strip()
      if not line:
        documents.append([])
      tokens = tokenize(line, vocabulary, do_lower_case)
      if tokens:
        documents[-1].append(tokens)
  return [document for document in documents if document]


def create_instances(documents: List[List[List[str]]],
                     vocabulary: Dict[str, int], settings: Settings,
                     rng: random.Random) -> List[Instance]:
  """Returns the instances of one input file, in the order of the output."""
  rng.shuffle(documents)
  words = list(vocabulary)
  instances = []
  for _ in range(settings.dupe_factor):
    for index in range(len(documents)):
      instances.extend(
          _instances_of_document(documents, index, words, settings, rng))
  rng.shuffle(instances)
  return instances


def _instances_of_document(documents, index, words, settings, rng):
  document = documents[index]
  max_tokens = settings.max_seq_length - 3  # [CLS], [SEP], [SEP]
  target = max_tokens
  if rng.random() < settings.short_seq_prob:
    target = rng.randint(2, max_tokens)
  chunk = []
  chunk_length = 0
  position = 0
  while position < len(document):
    chunk.append(document[position])
    chunk_length += len(document[position])
    if position == len(document) - 1 or chunk_length >= target:
      num_first = rng.randint(1, len(chunk) - 1) if len(chunk) >= 2 else 1
      first = [token for sentence in chunk[:num_first] for token in sentence]
      is_random_next = len(chunk) == 1 or rng.random() < 0.5
      if is_random_next:
        second = _random_second(documents, index, target - len(first), rng)
        position -= len(chunk) - num_first  # Reuse the rest.
      else:
        second = [token for sentence in chunk[num_first:] for token in sentence]
      _truncate(first, second, max_tokens, rng)
      tokens = ["[CLS]"] + first + ["[SEP]"] + second + ["[SEP]"]
      segment_ids = [0] * (len(first) + 2) + [1] * (len(second) + 1)
      yield Instance(
          *_mask(tokens, words, settings, rng, segment_ids, is_random_next))
      chunk = []
      chunk_length = 0
    position += 1


def _random_second(documents, index, target, rng):
  for _ in range(10):
    other = rng.randint(0, len(documents) - 1)
    if other != index:
      break
  start = rng.randint(0, len(documents[other]) - 1)
  tokens = []
  for sentence in documents[other][start:]:
    tokens.extend(sentence)
    if len(tokens) >= target:
      break
  return tokens


def _truncate(first, second, max_tokens, rng):
  while len(first) + len(second) > max_tokens:
    longer = first if len(first) > len(second) else second
    if rng.random() < 0.5:
      del longer[0]
    else:
      longer.pop()


def _mask(tokens, words, settings, rng, segment_ids, is_random_next):
  candidates = []
  for position, token in enumerate(tokens):
    if token in ("[CLS]", "[SEP]"):
      continue
    if settings.do_whole_word_mask and candidates and token.startswith("##"):
      candidates[-1].append(position)
    else:
      candidates.append([position])
  rng.shuffle(candidates)
  num_to_predict = min(
      settings.max_predictions_per_seq,
      max(1, int(round(len(tokens) * settings.masked_lm_prob))))
  masked = list(tokens)
  positions = []
  for candidate in candidates:
    if len(positions) >= num_to_predict:
      break
    if len(positions) + len(candidate) > num_to_predict:
      continue
    for position in candidate:
      if rng.random() < 0.8:
        masked[position] = "[MASK]"
      elif rng.random() >= 0.5:
        masked[position] = words[rng.randint(0, len(words) - 1)]
      positions.append(position)
  positions.sort()
  labels = [tokens[position] for position in positions]
  return masked, segment_ids, is_random_next, positions, labels


# --- Records -----------------------------------------------------------------


def features(instance: Instance, vocabulary: Dict[str, int],
             settings: Settings) -> Dict[str, List]:
  """Returns the padded features of one record."""
  def padded(values: Sequence, length: int) -> List:
    return list(values) + [0] * (length - len(values))

  num_tokens = settings.max_seq_length
  num_slots = settings.max_predictions_per_seq
  token_ids = [vocabulary[token] for token in instance.tokens]
  label_ids = [vocabulary[token] for token in instance.masked_labels]
  return {
      "input_ids": padded(token_ids, num_tokens),
      "input_mask": padded([1] * len(token_ids), num_tokens),
      "segment_ids": padded(instance.segment_ids, num_tokens),
      "masked_lm_positions": padded(instance.masked_positions, num_slots),
      "masked_lm_ids": padded(label_ids, num_slots),
      "masked_lm_weights": padded([1.0] * len(label_ids), num_slots),
      "next_sentence_labels": [int(instance.is_random_next)],
  }


def create_records(path: str, vocabulary: Dict[str, int], settings: Settings,
                   seed: int) -> Iterator[Dict[str, List]]:
  """Yields the features of all records of one input file."""
  documents = read_documents(path, vocabulary, settings.do_lower_case)
  instances = create_instances(
      documents, vocabulary, settings, random.Random(seed))
  for instance in instances:
    yield features(instance, vocabulary, settings)


def write_records(input_path: str, output_path: str,
                  vocabulary: Dict[str, int], settings: Settings,
                  seed: int) -> Tuple[int, int]:
  """Writes the records of a file; returns the number of records and bytes."""
  import tensorflow as tf  # Not all users of this module need it.
  num_records = num_bytes = 0
  with tf.io.TFRecordWriter(output_path) as writer:
    for record in create_records(input_path, vocabulary, settings, seed):
      example = tf.train.Example()
      for name, values in record.items():
        if name == "masked_lm_weights":
          feature = tf.train.Feature(
              float_list=tf.train.FloatList(value=values))
        else:
          feature = tf.train.Feature(
              int64_list=tf.train.Int64List(value=values))
        example.features.feature[name].CopyFrom(feature)
      serialized = example.SerializeToString()
      writer.write(serialized)
      num_records += 1
      num_bytes += len(serialized)
  return num_records, num_bytes

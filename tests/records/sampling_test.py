"""Tests of sampling pre-training instances from a text."""

import dataclasses
import hashlib
import random

import numpy as np
import pytest

from records import sampling
from records import schema
import reference_pretraining_data as reference
import tokenization
from util.command_line import InputError


@pytest.fixture(name="vocab_file")
def _vocab_file(tmp_path):
  path = tmp_path / "vocab.txt"
  path.write_text("\n".join(reference.TOKENS) + "\n")
  return str(path)


def _write_text(tmp_path, text):
  path = tmp_path / "text.txt"
  path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
  return str(path)


def _read_corpus(path, vocab, do_lower_case=True):
  return sampling.read_corpus(
      path, tokenization.FullTokenizer.from_vocab(vocab, do_lower_case),
      hashlib.sha256(), lambda num_characters: None)


def _draw(path, vocab_file, settings, seed=12345):
  """Returns the features of each instance of a text, as lists by name."""
  options = sampling.SamplingOptions(**settings._asdict())
  vocab = sampling.read_vocabulary(vocab_file)
  corpus = _read_corpus(path, vocab, options.do_lower_case)
  rng = random.Random(seed)
  rows = np.concatenate(list(
      sampling.Sampler(corpus, vocab, options, rng).rows()))
  order = list(range(len(rows)))
  sampling.shuffle(order, rng.getrandbits)
  features = sampling.features_of(rows[order], corpus.ids, vocab, options)
  return [{name: values[i].tolist() for name, values in features.items()}
          for i in range(len(rows))]


# --- Reading -----------------------------------------------------------------


def test_a_vocabulary_has_the_ids_of_its_lines(vocab_file):
  assert sampling.read_vocabulary(vocab_file) == {
      token: i for i, token in enumerate(reference.TOKENS)}


@pytest.mark.parametrize("content, message", [
    (b"[UNK]\n[CLS]\n[SEP]\nword\n", r"no \[MASK\]"),
    (b"", "0 lines"),
    (b"[UNK]\n\xff\n", "not UTF-8"),
    (b"[PAD]\n\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n", "blank"),
])
def test_a_file_that_is_no_vocabulary_is_an_error(tmp_path, content, message):
  path = tmp_path / "vocab.txt"
  path.write_bytes(content)
  with pytest.raises(InputError, match="--vocab_file.*" + message) as error:
    sampling.read_vocabulary(str(path))
  assert str(error.value).count("--vocab_file") == 1
  assert str(path) in str(error.value)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_blank_lines_at_the_end_of_a_vocabulary_are_no_tokens(
    tmp_path, caplog, end):
  # White space that is not ASCII may be a token.
  tokens = [*tokenization.SPECIAL_TOKENS, "\u3000"]
  path = tmp_path / "vocab.txt"
  path.write_bytes(("\n".join(tokens) + end).encode())
  wanted = sampling.read_vocabulary(str(path))
  assert len(wanted) == len(tokens) and not caplog.messages
  path.write_bytes(("\n".join(tokens) + "\n \n\r\n\n").encode())
  assert sampling.read_vocabulary(str(path)) == wanted
  assert "3 blank lines" in caplog.text


@pytest.mark.parametrize("text, encoding, advice", [
    ("a cat\n", "utf-16-le", "NULs, the first at byte 1:.*iconv -f utf-16le "),
    ("a cat\n", "utf-16-be", "NULs, the first at byte 0:.*iconv -f utf-16be "),
    ("a caf\u00e9\n", "utf-16-le", "not UTF-8 at byte 10 .*iconv -f utf-16le "),
    ("a cat\n", "utf-16", "not UTF-8 at byte 0 .*iconv -f utf-16 "),
    ("a caf\u00e9\n", "latin1", "not UTF-8 at byte 5 .*iconv -f latin1 ")])
def test_text_in_another_encoding_is_refused(
    tmp_path, text, encoding, advice):
  path = tmp_path / "text_0.txt"
  path.write_bytes(text.encode(encoding))
  with pytest.raises(InputError, match="--input_dir: .*text_0.txt .*" + advice):
    list(sampling.text_blocks(str(path), hashlib.sha256()))


@pytest.mark.parametrize("block_bytes", [1, 3, 64])
def test_blocks_of_any_size_give_the_same_corpus(
    tmp_path, vocab_file, monkeypatch, block_bytes):
  text = ("\n \n" + reference.random_text(random.Random(0), 5)
          + "\u3000\n\x01\n\x0c\nthe caf\u00e9\r\n\r\nmat\n\nlast line, \u4e00")
  path = _write_text(tmp_path, text)
  tokenizer = tokenization.FullTokenizer(vocab_file)

  def read():
    digest = hashlib.sha256()
    num_characters = []
    corpus = sampling.read_corpus(
        path, tokenizer, digest, num_characters.append)
    assert digest.hexdigest() == hashlib.sha256(text.encode()).hexdigest()
    assert sum(num_characters) == len(text)
    return corpus.ids.tolist(), corpus.sentences, corpus.documents

  expected = read()
  assert len(expected[2]) == 5 + 3 + 1
  monkeypatch.setattr(sampling, "BLOCK_BYTES", block_bytes)
  assert read() == expected


def test_a_corpus_is_documents_of_sentences(tmp_path, vocab_file):
  path = _write_text(tmp_path, "The cat\nruns.\n\n \n\u200b\na dog\n")
  corpus = _read_corpus(path, sampling.read_vocabulary(vocab_file))
  tokens = [reference.TOKENS[index] for index in corpus.ids]
  assert tokens == ["the", "cat", "run", "##s", ".", "a", "dog"]
  assert corpus.ids.dtype == np.int32
  assert corpus.sentences.tolist() == [0, 2, 5, 7]
  assert corpus.documents.tolist() == [0, 2, 3]
  # The line of U+200B, which does not separate documents.
  assert corpus.num_invisible_lines == 1
  assert corpus.num_short_documents == 1


@pytest.mark.parametrize("text, message", [
    (b"the cat\n\nsat \xe9 on\n", "--input_dir.*text.txt.*byte 13.*iconv"),
    (b"xx\n" * 1000000 + b"\n\xc3", "byte 3000001"),
    (b"a\nb\n" + b"x" * 3000000, "a line of over 1,048,576 bytes, line 3"),
    (b" \n\n", "--input_dir.*text.txt holds no text"),
    (b"\xe2\x80\x8b\n", "--input_dir.*text.txt holds no text"),
    (b"", "holds no text"),
])
def test_a_file_that_is_no_text_is_an_error(
    tmp_path, vocab_file, text, message):
  path = _write_text(tmp_path, text)
  with pytest.raises(InputError, match=message):
    _read_corpus(path, sampling.read_vocabulary(vocab_file))


# --- Sampling ----------------------------------------------------------------


def test_options_are_immutable_and_named_as_in_manifests():
  options = sampling.SamplingOptions(**reference.Settings()._asdict())
  assert list(options.manifest_flags()) == [
      "do_lower_case", "max_seq_length", "max_predictions_per_seq",
      "dupe_factor", "masked_lm_prob", "short_seq_prob", "do_whole_word_mask"]
  with pytest.raises(dataclasses.FrozenInstanceError):
    options.dupe_factor = 2
  # Earlier versions had no strip_accents, so manifests omit the default.
  same = dataclasses.replace(options, strip_accents=True)
  assert same.manifest_flags() == options.manifest_flags()
  other = dataclasses.replace(options, strip_accents=False)
  assert other.manifest_flags() == {
      **options.manifest_flags(), "strip_accents": False}


@pytest.mark.parametrize("changes", [
    {},
    {"do_whole_word_mask": True},
    {"do_lower_case": False, "dupe_factor": 1},
    {"max_seq_length": 5, "max_predictions_per_seq": 1, "short_seq_prob": 1.0},
    {"max_seq_length": 300, "max_predictions_per_seq": 60},
    {"masked_lm_prob": 1.0, "max_predictions_per_seq": 200},
    {"masked_lm_prob": 0.0, "do_whole_word_mask": True, "max_seq_length": 8},
])
@pytest.mark.parametrize("num_documents", [1, 2, 15])
def test_instances_equal_the_reference(
    tmp_path, vocab_file, changes, num_documents):
  settings = reference.Settings(dupe_factor=3)._replace(**changes)
  path = _write_text(tmp_path, reference.random_text(
      random.Random(num_documents), num_documents))
  drawn = _draw(path, vocab_file, settings, seed=99)
  assert drawn == list(reference.create_records(
      path, reference.read_vocabulary(vocab_file), settings, 99))


def test_a_token_that_is_listed_twice_has_its_last_id(tmp_path, vocab_file):
  with open(vocab_file, "a", encoding="utf-8") as file:
    file.write("cat\nmat\n")
  path = _write_text(tmp_path, reference.random_text(random.Random(0), 9))
  settings = reference.Settings(dupe_factor=2)
  assert _draw(path, vocab_file, settings) == list(reference.create_records(
      path, reference.read_vocabulary(vocab_file), settings, 12345))


def test_rows_are_drawn_document_by_document(tmp_path, vocab_file):
  path = _write_text(tmp_path, reference.random_text(random.Random(0), 4))
  vocab = sampling.read_vocabulary(vocab_file)
  corpus = _read_corpus(path, vocab)
  options = sampling.SamplingOptions(
      **reference.Settings(dupe_factor=3, max_seq_length=32)._asdict())
  sampler = sampling.Sampler(corpus, vocab, options, random.Random(0))
  rows = list(sampler.rows())
  assert sampler.num_documents == 4
  assert len(rows) == 4 * options.dupe_factor
  all_rows = np.concatenate(rows)
  assert all_rows.dtype == options.row_dtype
  assert (all_rows["first_length"] > 0).all()
  assert (all_rows["second_length"] > 0).all()
  num_tokens = all_rows["first_length"] + all_rows["second_length"] + 3
  assert num_tokens.max() == options.max_seq_length
  for span in ("first", "second"):
    end = all_rows[span + "_start"] + all_rows[span + "_length"]
    assert end.max() <= len(corpus.ids)
  assert set(all_rows["is_random_next"]) == {0, 1}


def test_instances_are_masked_and_padded_as_bert_expects(tmp_path, vocab_file):
  path = _write_text(tmp_path, reference.random_text(random.Random(0), 30))
  settings = reference.Settings(True, 32, 6, 10, 0.15, 0.1, False)
  ids = {token: i for i, token in enumerate(reference.TOKENS)}
  num_masked = num_kept = num_random_next = num_slots = 0
  made = _draw(path, vocab_file, settings)
  for record in made:
    length = sum(record[schema.INPUT_MASK])
    slots = int(sum(record[schema.MASKED_LM_WEIGHTS]))
    tokens = record[schema.INPUT_IDS]
    positions = record[schema.MASKED_LM_POSITIONS][:slots]
    original = list(tokens)
    for position, label in zip(positions, record[schema.MASKED_LM_IDS]):
      original[position] = label
    assert record[schema.INPUT_MASK] == [1] * length + [0] * (32 - length)
    assert tokens[length:] == [0] * (32 - length)
    assert original[0] == ids["[CLS]"] and original[length - 1] == ids["[SEP]"]
    separators = [i for i in range(32) if original[i] == ids["[SEP]"]]
    assert len(separators) == 2 and separators[0] > 1
    assert record[schema.SEGMENT_IDS] == (
        [0] * (separators[0] + 1) + [1] * (length - 1 - separators[0])
        + [0] * (32 - length))
    assert positions == sorted(set(positions))
    assert not set(positions) & {0, *separators}
    assert slots == min(6, max(1, round(length * 0.15)))
    assert record[schema.MASKED_LM_IDS][slots:] == [0] * (6 - slots)
    num_slots += slots
    num_masked += [tokens[p] for p in positions].count(ids["[MASK]"])
    num_kept += sum(tokens[p] == original[p] for p in positions)
    num_random_next += record[schema.NEXT_SENTENCE_LABELS][0]
  # 80% become [MASK]; 10% are kept, and some of the random 10% are the same.
  assert num_slots > 3000
  assert 0.77 < num_masked / num_slots < 0.83
  assert 0.08 < num_kept / num_slots < 0.13
  assert 0.4 < num_random_next / len(made) < 0.8


def test_features_are_those_of_the_schema(tmp_path, vocab_file):
  path = _write_text(tmp_path, "the cat\nsat on\n\na mat\nand run\n")
  record = _draw(path, vocab_file, reference.Settings())[0]
  features = schema.features(schema.RecordShape(128, 20))
  assert {name: len(values) for name, values in record.items()} == {
      name: feature.shape[0] for name, feature in features.items()}


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 7, 8, 9, 64, 125, 700])
def test_shuffle_draws_as_the_standard_library_does(length):
  for num_needed in {None, 0, 1, 3, length // 6, length}:
    expected, items = list(range(length)), list(range(length))
    expected_rng, rng = random.Random(length), random.Random(length)
    expected_rng.shuffle(expected)
    sampling.shuffle(items, rng.getrandbits, num_needed)
    assert items[:num_needed] == expected[:num_needed]
    assert rng.getstate() == expected_rng.getstate()

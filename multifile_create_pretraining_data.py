r"""Makes BERT's pre-training records from text files.

  python multifile_create_pretraining_data.py \
    --input_dir data/split --output_dir data/masked \
    --output_base_name wiki_masked \
    --vocab_file teacher/vocab.txt --dupe_factor 1

Input is UTF-8 text: one sentence per line, an empty line between documents.
The i-th file of --input_dir, in natural order (_2 before _10), becomes
wiki_masked_i.tfrecord. The same command resumes a stopped run. Folders and
vocabulary may be in remote storage, such as gs://.

With several hosts, a launcher shares the files among processes:

  mpirun -np 2 -H host1,host2 python multifile_create_pretraining_data.py ...

Until all instances of a text are drawn, they are stored in an unnamed file in
$TMPDIR, or in --output_dir if $TMPDIR is not set.

Cased vocabularies need --do_lower_case False. The default, --dupe_factor 10,
masks the text 10 times. --dupe_factor 1 is enough unless training reads the
text more than once.

The procedure is that of BERT (Devlin et al. 2019, section A.1), draw by draw.
The records of file i depend on its text, the flags and --random_seed + i alone.
"""

import array
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import math
import os
import random
import re
import tempfile
import time
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence

from absl import flags
from absl import logging
import numpy as np
import tqdm

from records import compact
from records import manifest
from records import record_writer
from records import sampling
from records import schema
from records import splits
from records import tfrecord
import tokenization
from util import command_line
from util import files
from util import launchers
from util import workers
from util.command_line import InputError

_STAGE = "multifile_create_pretraining_data"
_REQUIRED_FLAGS = ("input_dir", "output_dir", "output_base_name", "vocab_file")
# Instances per call of the encoder.
_BLOCK_INSTANCES = 1000
# Memory of a worker. On English text, a worker took 75 MB and 1.2 bytes for
# each byte of its file; the constants add a margin.
_WORKER_BYTES = 150 << 20
_BYTES_PER_INPUT_BYTE = 2
# Least bytes of text per token of a sequence.
_BYTES_PER_TOKEN = 3
# Memory of TensorFlow in a worker; remote storage needs its file systems.
_TENSORFLOW_BYTES = 400 << 20
# Share of one-sentence documents above which each line seems to be a document.
_MANY_SHORT = 0.5
# Share of [UNK] above which a warning follows the run.
_SUSPICIOUS_UNKNOWN = 0.05
# Share of [UNK] in the first characters of the first file above which a warning
# precedes the run.
_WRONG_UNKNOWN = 0.5
_SAMPLE_CHARACTERS = 1 << 16
# Relative time of a worker's steps, for the bar: reading once, drawing and
# writing dupe_factor times each.
_READING_SHARE = 1.5
_DRAWING_SHARE = 1.0
_WRITING_SHARE = 0.9
_REPORT_SECONDS = 0.2
_ONE_DOCUMENT = (
    "%s has only one document, so its random next sentences come from the "
    "same document: use a smaller --split_number, or put blank lines between "
    "documents.")
_MANY_UNKNOWN = (
    "%.0f%% of the tokens%s are [UNK]: check that --vocab_file is for the "
    "language of the text and --do_lower_case=%s is right for the vocabulary.")
_SHORT_DOCUMENTS = (
    "%.0f%% of the documents%s have one sentence, so their next-sentence label "
    "is always 1 (random next): write a sentence on each line and a blank line "
    "between documents only, or train with --next_sentence_weight 0.")
_RESUME = "finished files are kept: run the same command again to resume"
# Remedy if a worker is killed or runs out of memory.
_REMEDY = ("if memory is short, lower --num_workers, or split the text with "
           "a larger --split_number; " + _RESUME)


def define_flags() -> None:
  """Defines the flags of this stage."""
  flags.DEFINE_string(
      "input_dir", None, "Folder of text files; hidden files are skipped.")
  flags.DEFINE_string("output_dir", None, "Folder for the records.")
  flags.DEFINE_string(
      "output_base_name", None, "Prefix of the names of the record files.")
  flags.DEFINE_string(
      "vocab_file", None, "The teacher's vocabulary, such as BERT's vocab.txt.")
  flags.DEFINE_bool(
      "do_lower_case", True,
      "Whether to lower the case and drop accents; True for uncased models.")
  flags.DEFINE_bool(
      "strip_accents", None,
      "Whether to drop accents. Set this for a teacher whose tokenizer lowers "
      "the case but keeps accents, or the reverse. Default: the value of "
      "--do_lower_case.")
  flags.DEFINE_integer(
      "max_seq_length", 128, "Tokens in a sequence.", lower_bound=5)
  flags.DEFINE_integer(
      "max_predictions_per_seq", 20, "Most masked tokens in a sequence.",
      lower_bound=1)
  flags.DEFINE_integer(
      "random_seed", 12345, "Random seed; file i uses random_seed + i.")
  flags.DEFINE_integer(
      "dupe_factor", 10,
      "Number of passes over the text, each with other masks.",
      lower_bound=1)
  flags.DEFINE_float(
      "masked_lm_prob", 0.15, "Share of the tokens to mask.",
      lower_bound=0.0, upper_bound=1.0)
  flags.DEFINE_float(
      "short_seq_prob", 0.1,
      "Share of the documents that are cut into shorter sequences.",
      lower_bound=0.0, upper_bound=1.0)
  flags.DEFINE_bool(
      "do_whole_word_mask", False,
      "Whether to mask whole words: all pieces of a word or none.")
  flags.DEFINE_enum(
      "record_format", "example", compact.FORMATS,
      "example stores a list for each feature, as the 2019 scripts do; compact "
      "stores all features in one string, in less than half the bytes.")
  flags.DEFINE_integer(
      "num_workers", None,
      "Number of worker processes; each processes one file at a time. Default: "
      "the number of usable cores, or less if files or memory are few.",
      lower_bound=1)
  flags.DEFINE_bool(
      "overwrite", False,
      "Whether to replace outputs of other inputs or flags.")


@dataclasses.dataclass(frozen=True)
class RunOptions:
  """Options of a run of this stage.

  Attributes:
    input_dir: folder of text files.
    output_dir: folder for the records; created if it is missing.
    output_base_name: prefix of the names of the record files.
    vocab_file: path of the vocabulary.
    sampling_options: options that determine the records.
    random_seed: seed of file 0; file i has random_seed + i.
    record_format: one of `compact.FORMATS`.
    num_workers: number of processes; None for the default of the flag.
    overwrite: whether to replace files of other inputs or flags.
  """
  input_dir: str
  output_dir: str
  output_base_name: str
  vocab_file: str
  sampling_options: sampling.SamplingOptions
  random_seed: int
  record_format: str
  num_workers: Optional[int]
  overwrite: bool


class Source(NamedTuple):
  """A checked input file."""
  path: str
  fingerprint: str
  num_bytes: int


class Task(NamedTuple):
  """An input file with its output path and options."""
  source: Source
  output_path: str
  vocab_file: str
  seed: int
  options: sampling.SamplingOptions
  layout: Optional[schema.Layout]
  output_manifest: manifest.Manifest


class Progress(NamedTuple):
  """Progress of a worker since its last report.

  Attributes:
    work: share of the file's work, in bytes of the file.
    sequences: number of sequences written.
  """
  work: float
  sequences: int


class Counts(NamedTuple):
  """Counts over the text and the records of a file.

  Attributes:
    documents: documents in the text.
    sequences: sequences in the records.
    tokens: tokens of the text, whatever dupe_factor is.
    unknown_tokens: tokens of the text that are [UNK].
    sequence_tokens: tokens of all sequences, without padding.
    short_documents: documents with one sentence.
    invisible_lines: number of invisible lines, as in `sampling.Corpus`.
    unmasked_sequences: sequences without a masked token.
  """
  documents: int
  sequences: int
  tokens: int
  unknown_tokens: int
  sequence_tokens: int
  short_documents: int
  invisible_lines: int
  unmasked_sequences: int


# --- One file: work for a worker ---------------------------------------------


class _Reporter:
  """Reports the Progress of a file, about five times a second."""

  def __init__(self, num_bytes: int, dupe_factor: int, report: workers.Report):
    shares = (_READING_SHARE, _DRAWING_SHARE * dupe_factor,
              _WRITING_SHARE * dupe_factor)
    self._reading, self._drawing, self._writing = (
        num_bytes * share / sum(shares) for share in shares)
    self._num_bytes = num_bytes or 1
    self._report = report
    self._last_time = time.monotonic()
    self._done = 0.0
    self._work = 0.0
    self._sequences = 0

  def read(self, num_characters: int) -> None:
    self._add(self._reading * num_characters / self._num_bytes)

  def drawn(self, share: float) -> None:
    self._add(self._drawing * share)

  def written(self, sequences: int, share: float) -> None:
    self._sequences += sequences
    self._add(self._writing * share)

  def finish(self) -> None:
    """Reports the rest of the work, such as bytes that are no character."""
    self._work += self._num_bytes - self._done
    self._flush()

  def _add(self, work: float) -> None:
    self._done += work
    self._work += work
    if time.monotonic() - self._last_time > _REPORT_SECONDS:
      self._flush()

  def _flush(self) -> None:
    self._report(Progress(self._work, self._sequences))
    self._last_time = time.monotonic()
    self._work = 0.0
    self._sequences = 0


@functools.lru_cache(maxsize=1)
def _tokenizer(vocab_file: str, options: sampling.SamplingOptions
              ) -> tokenization.FullTokenizer:
  """Returns the tokenizer of this worker, whose word cache serves all files."""
  return tokenization.FullTokenizer.from_vocab(
      sampling.read_vocabulary(vocab_file), options.do_lower_case,
      options.strip_accents)


def check_file(path: str, report: workers.Report) -> Source:
  """Reads and checks a whole input file; called before records are made.

  Args:
    path: path of the file.
    report: called with a Progress about five times a second.

  Raises:
    InputError: if the file is not UTF-8 or contains no text.
  """
  digest = hashlib.sha256()
  num_bytes = files.size(path)
  reporter = _Reporter(num_bytes, 0, report)
  has_text = False
  for text in sampling.text_blocks(path, digest):
    has_text = has_text or not text.isspace() and bool(text)
    reporter.read(len(text))
  reporter.finish()
  if not has_text:
    raise InputError(
        "--input_dir: {} contains no text; remove the file, or split the text "
        "again".format(path))
  return Source(path, digest.hexdigest(), num_bytes)


def create_file(task: Task, report: workers.Report) -> Counts:
  """Makes the records of one input file.

  Args:
    task: input file, output path and options.
    report: called with a Progress about five times a second.

  Raises:
    InputError: if the input has no token or has changed since the check, or
      another process is writing the output.
    OSError: if the output or the unnamed file cannot be written.
  """
  path = task.source.path
  digest = hashlib.sha256()
  reporter = _Reporter(
      task.source.num_bytes, task.options.dupe_factor, report)
  tokenizer = _tokenizer(task.vocab_file, task.options)
  corpus = sampling.read_corpus(path, tokenizer, digest, reporter.read)
  if digest.hexdigest() != task.source.fingerprint:
    raise InputError("--input_dir: {} was changed during the run; run the same "
                     "command again".format(path))
  try:
    return _write_records(task, corpus, tokenizer.vocab, reporter)
  except OSError as error:  # A full disk names no file.
    where = task.output_path
    if files.is_remote(where):
      where = error.filename or tempfile.gettempdir()
    elif os.environ.get("TMPDIR") and error.filename == tempfile.gettempdir():
      where = error.filename
    raise OSError(error.errno, error.strerror, where) from error


def _write_records(task: Task, corpus: sampling.Corpus,
                   vocab: Mapping[str, int], reporter: _Reporter) -> Counts:
  """Draws and writes the records of a corpus."""
  options = task.options
  rng = random.Random(task.seed)
  sampler = sampling.Sampler(corpus, vocab, options, rng)
  num_sequences = sequence_tokens = num_unmasked = 0
  with contextlib.ExitStack() as stack:
    writer = stack.enter_context(record_writer.RecordWriter(task.output_path))
    # Instances are stored on disk, so that memory does not grow with
    # dupe_factor. A killed process leaves no file, since the file has no name.
    spill = stack.enter_context(tempfile.TemporaryFile(
        dir=_spill_folder(os.path.dirname(task.output_path))))
    num_passes = sampler.num_documents * options.dupe_factor
    try:
      for rows in sampler.rows():
        spill.write(rows.data)
        num_sequences += len(rows)
        num_unmasked += int(np.count_nonzero(rows["num_masked"] == 0))
        reporter.drawn(1 / num_passes)
      spill.flush()
    except OSError as error:  # A full disk names no file.
      with contextlib.suppress(OSError):  # Flushing the buffer fails too.
        spill.close()
      raise OSError(error.errno, error.strerror, _spill_folder(
          os.path.dirname(task.output_path))) from error
    order = array.array("I", range(num_sequences))
    sampling.shuffle(order, rng.getrandbits)
    for start in range(0, num_sequences, _BLOCK_INSTANCES):
      block = order[start:start + _BLOCK_INSTANCES]
      features = sampling.features_of(
          _read_rows(spill.fileno(), block, options.row_dtype), corpus.ids,
          vocab, options)
      sequence_tokens += int(features[schema.INPUT_MASK].sum())
      for serialized in tfrecord.encode(compact.pack(features, task.layout)):
        writer.write(serialized)
      reporter.written(len(block), len(block) / num_sequences)
    writer.commit(task.output_manifest)
  reporter.finish()
  return Counts(
      documents=sampler.num_documents, sequences=num_sequences,
      tokens=len(corpus.ids),
      unknown_tokens=int(np.count_nonzero(
          corpus.ids == vocab[tokenization.UNKNOWN_TOKEN])),
      sequence_tokens=sequence_tokens,
      short_documents=corpus.num_short_documents,
      invisible_lines=corpus.num_invisible_lines,
      unmasked_sequences=num_unmasked)


def _spill_folder(output_dir: str) -> str:
  """Returns the folder for instances: $TMPDIR, else that of the records."""
  if os.environ.get("TMPDIR") or files.is_remote(output_dir):
    return tempfile.gettempdir()
  return output_dir


def _read_rows(file: int, indices: Sequence[int], dtype: np.dtype
              ) -> np.ndarray:
  """Reads the rows at N indices from a file descriptor; returns dtype [N]."""
  num_bytes = dtype.itemsize
  rows = [os.pread(file, num_bytes, num_bytes * i) for i in indices]
  return np.frombuffer(b"".join(rows), dtype)


# --- The run -----------------------------------------------------------------


def create(options: RunOptions, launch: launchers.Launch = launchers.Launch(),
           local_size: int = 1) -> None:
  """Makes the records of a folder of text files.

  Args:
    options: options of the run.
    launch: rank and size of this process; each process takes every
      `launch.size`-th file.
    local_size: number of processes that share the cores and memory of this
      machine.

  Raises:
    InputError: if the input cannot be used, or an output of other inputs or
      flags exists.
  """
  vocab = sampling.read_vocabulary(options.vocab_file)
  _warn_of_other_case(options)
  all_paths = _input_paths(options)
  paths = all_paths[launch.rank::launch.size]
  if not paths:
    logging.info("Rank %d of %d has no file: --input_dir has %d files.",
                 launch.rank, launch.size, len(all_paths))
    return
  spill_bytes = 0.0
  if workers.is_in_memory(_spill_folder(options.output_dir)):
    sampling_options = options.sampling_options
    spill_bytes = (sampling_options.row_dtype.itemsize
                   * sampling_options.dupe_factor
                   / (_BYTES_PER_TOKEN * sampling_options.max_seq_length))
  memory = workers.available_memory()
  num_workers = workers_that_fit(
      paths, options.num_workers, memory and memory // local_size,
      any(map(files.is_remote, (options.input_dir, options.output_dir,
                                options.vocab_file))),
      local_size, spill_bytes)
  sources = _check_files(paths, num_workers)
  tasks = _tasks(options, dict(zip(
      range(launch.rank, len(all_paths), launch.size), sources)),
                 max(vocab.values()) + 1)
  overwriting = None
  if options.overwrite:
    name = options.output_base_name
    if launch.size > 1:
      name += "-{:05d}-of-{:05d}".format(launch.rank, launch.size)
    overwriting = record_writer.OverwriteProgress(
        options.output_dir, name,
        {task.output_path: task.output_manifest for task in tasks})
  tasks = [task for task in tasks if not record_writer.is_finished(
      task.output_path, task.output_manifest, overwriting is not None
      and not overwriting.is_replaced(task.output_path))]
  files.make_output_folder(options.output_dir, "output_dir")
  files.warn_of_missing_locks(options.output_dir)
  if launch.rank == 0:
    _warn_of_older_outputs(
        options.output_dir, options.output_base_name, len(all_paths))
  if tasks and launch.rank == 0:
    _warn_of_few_predictions(options.sampling_options)
    _warn_of_first_text(tasks[0])
  counts = _create_files(tasks, num_workers, overwriting)
  _log_counts(counts, options.sampling_options)


def _input_paths(options: RunOptions) -> List[str]:
  """Returns the paths of the input files; checks folders and names."""
  name = options.output_base_name
  if os.path.basename(name) != name:
    raise InputError("--output_base_name={} is a path; give a name, and the "
                     "folder with --output_dir".format(name))
  paths = files.list_files(
      options.input_dir, "input_dir",
      "give the folder that split_text.py wrote")
  splits.check_folder(options.input_dir, "input_dir")
  files.exists(options.output_dir)  # Raises if storage cannot be reached.
  if files.is_same(options.input_dir, options.output_dir):
    raise InputError("--output_dir={} is --input_dir too; the next run would "
                     "read the records as text: choose another folder".format(
                         options.output_dir))
  return paths


def _tasks(options: RunOptions, sources: Mapping[int, Source],
           vocab_size: int) -> List[Task]:
  """Returns the tasks of input files, which are given by number."""
  vocab_fingerprint = files.fingerprint(options.vocab_file)
  record_flags = options.sampling_options.manifest_flags()
  layout = None
  if options.record_format == "compact":
    record_flags["record_format"] = options.record_format
    layout = compact.make_layout(schema.RecordShape(
        options.sampling_options.max_seq_length,
        options.sampling_options.max_predictions_per_seq), vocab_size)
  tasks = []
  for i, source in sources.items():
    seed = options.random_seed + i
    tasks.append(Task(
        source=source,
        output_path=os.path.join(options.output_dir, "{}_{}.tfrecord".format(
            options.output_base_name, i)),
        vocab_file=options.vocab_file,
        seed=seed,
        options=options.sampling_options,
        layout=layout,
        output_manifest=manifest.Manifest(
            stage=_STAGE,
            flags=dict(record_flags, random_seed=seed),
            fingerprints={"vocab_file": vocab_fingerprint},
            sources={os.path.basename(source.path): source.fingerprint},
            vocab_size=vocab_size)))
  return tasks


def workers_that_fit(paths: Sequence[str], num_workers: Optional[int],
                     memory: Optional[int], has_remote_files: bool = False,
                     local_size: int = 1, spill_bytes: float = 0.0) -> int:
  """Returns the number of workers to start.

  Args:
    paths: paths of the input files.
    num_workers: value of --num_workers, or None.
    memory: available bytes of memory, or None if unknown.
    has_remote_files: whether input, output or vocabulary is in remote storage.
    local_size: number of processes that share the cores.
    spill_bytes: bytes of memory for stored instances, per byte of a file; 0.0
      if instances are stored on a disk.

  Returns:
    num_workers, or by default the number of cores or of workers that fit into
    memory; at most the number of files.

  Raises:
    InputError: if the files are too large for the memory.
  """
  by_size = sorted(paths, key=files.size, reverse=True)
  sizes = [files.size(path) for path in by_size]
  bytes_of_worker = _WORKER_BYTES + (
      _TENSORFLOW_BYTES if has_remote_files else 0)

  def need(count: int) -> int:
    return sum(bytes_of_worker + int(bytes_per_byte * size)
               for size in sizes[:count])

  bytes_per_byte = _BYTES_PER_INPUT_BYTE + spill_bytes
  count = min(
      num_workers or max(1, workers.available_cores() // local_size),
      len(paths))
  if memory is None:
    return count
  while num_workers is None and count > 1 and need(count) > memory:
    count -= 1
  if need(count) > memory:
    bytes_of_file = max(memory // count - bytes_of_worker, _WORKER_BYTES)
    remedy = "split the text again with --split_number={} or more".format(
        -int(-sum(sizes) * bytes_per_byte // bytes_of_file))
    if splits.is_one_document(by_size[0]):
      remedy = sampling.MISSING_BLANK_LINES
    raise InputError(
        "--input_dir: the largest file, {}, has {:,} MB; --num_workers={} "
        "needs about {:,} MB of memory for the largest files, but {:,} MB are "
        "available: {}{}".format(
            by_size[0], sizes[0] >> 20, count, need(count) >> 20, memory >> 20,
            remedy, ", or lower --num_workers" if count > 1 else ""))
  return count


def _check_files(paths: Sequence[str], num_workers: int) -> List[Source]:
  """Checks all input files, in parallel."""
  sources: Dict[int, Source] = {}
  with _bar("Checking", sum(map(files.size, paths))) as bar:
    checked = workers.run(
        check_file, paths, num_workers,
        on_report=lambda progress: bar.update(progress.work), remedy=_REMEDY)
    with contextlib.closing(checked):
      sources.update(checked)
  return [sources[i] for i in range(len(paths))]


def _create_files(tasks: Sequence[Task], num_workers: int,
                  overwriting: Optional[record_writer.OverwriteProgress]
                 ) -> List[Counts]:
  """Makes the record files of tasks, in parallel."""
  counts: List[Counts] = []
  num_sequences = 0
  with _bar("Writing", sum(task.source.num_bytes for task in tasks)) as bar:

    def show(progress: Progress) -> None:
      nonlocal num_sequences
      num_sequences += progress.sequences
      bar.set_postfix_str("{}/{} files, {:,} sequences".format(
          len(counts), len(tasks), num_sequences))
      bar.update(progress.work)

    try:
      created = workers.run(
          create_file, tasks, num_workers, on_report=show, remedy=_REMEDY)
      with contextlib.closing(created):
        for index, file_counts in created:
          counts.append(file_counts)
          if overwriting:
            overwriting.add(tasks[index].output_path)
          show(Progress(0.0, 0))
          if file_counts.documents == 1:
            logging.warning(_ONE_DOCUMENT, tasks[index].source.path)
    finally:
      # Stopped workers leave hidden files.
      for task in tasks:
        files.remove_partial(task.output_path)
        files.remove_partial(manifest.manifest_path(task.output_path))
  if overwriting:
    overwriting.finish()
  return counts


def _warn_of_other_case(options: RunOptions) -> None:
  """Warns if the vocabulary's path names another case than the flag."""
  try:
    tokenization.validate_case_matches_checkpoint(
        options.sampling_options.do_lower_case, options.vocab_file)
  except ValueError as error:
    logging.warning("--vocab_file: %s.", error)


def _warn_of_few_predictions(options: sampling.SamplingOptions) -> None:
  """Warns if a long sequence has fewer slots than tokens to mask."""
  num_masked = round(options.max_seq_length * options.masked_lm_prob, 6)
  if options.max_predictions_per_seq < math.floor(num_masked):
    logging.warning(
        "--max_predictions_per_seq=%d masks %.1f%% of a sequence of "
        "--max_seq_length=%d, less than --masked_lm_prob=%s: set "
        "--max_predictions_per_seq=%d.",
        options.max_predictions_per_seq,
        100 * options.max_predictions_per_seq / options.max_seq_length,
        options.max_seq_length, options.masked_lm_prob, math.ceil(num_masked))


def _warn_of_first_text(task: Task) -> None:
  """Warns if the start of a file has many [UNK] or one-sentence documents."""
  text = next(sampling.text_blocks(task.source.path, hashlib.sha256()))
  where = " at the start of {}".format(task.source.path)
  tokens = _tokenizer(task.vocab_file, task.options).tokenize(
      text[:_SAMPLE_CHARACTERS])
  unknown_share = tokens.count(tokenization.UNKNOWN_TOKEN) / max(1, len(tokens))
  if unknown_share > _WRONG_UNKNOWN:
    logging.warning(_MANY_UNKNOWN, 100 * unknown_share, where,
                    task.options.do_lower_case)
  lengths = [len(list(lines)) for is_text, lines in itertools.groupby(
      text.split("\n"), lambda line: bool(line.strip())) if is_text]
  lengths = lengths[:-1]  # The last document may continue after the block.
  _warn_of_short_documents(lengths.count(1), len(lengths), where)


def _warn_of_short_documents(num_short: int, num_documents: int,
                             where: str = "") -> None:
  """Warns if too many documents have one sentence.

  Args:
    num_short: number of documents with one sentence.
    num_documents: number of documents.
    where: place of these documents, for the warning; "" for all documents.
  """
  if num_short > _MANY_SHORT * num_documents:
    logging.warning(
        _SHORT_DOCUMENTS, 100 * num_short / num_documents, where)


def _warn_of_older_outputs(output_dir: str, output_base_name: str,
                           num_files: int) -> None:
  """Warns of outputs of a run that had more input files."""
  pattern = re.compile(re.escape(output_base_name) + r"_([0-9]+)\.tfrecord")
  for name in sorted(files.list_names(output_dir), key=files.natural_key):
    match = pattern.fullmatch(name)
    if match and int(match.group(1)) >= num_files:
      logging.warning(
          "%s is not an output of this run, which has %d input files: remove "
          "the file unless it belongs to the training data.",
          os.path.join(output_dir, name), num_files)


def _bar(title: str, num_bytes: int) -> tqdm.tqdm:
  """Returns a progress bar over input bytes; none without a terminal."""
  return tqdm.tqdm(desc=title, total=num_bytes, unit="B", unit_scale=True,
                   disable=None)


def _log_counts(counts: Sequence[Counts],
                options: sampling.SamplingOptions) -> None:
  """Logs the sums of counts, and warns of unusual ones."""
  if not counts:
    return
  total = Counts(*map(sum, zip(*counts)))
  unknown_share = total.unknown_tokens / total.tokens
  logging.info(
      "%d files: %d documents, %d tokens, %.2f%% of them [UNK]; %d sequences, "
      "%.1f%% padding.", len(counts), total.documents, total.tokens,
      100 * unknown_share, total.sequences, 100 - 100 * total.sequence_tokens
      / (total.sequences * options.max_seq_length))
  if unknown_share > _SUSPICIOUS_UNKNOWN:
    logging.warning(
        _MANY_UNKNOWN, 100 * unknown_share, "", options.do_lower_case)
  _warn_of_short_documents(total.short_documents, total.documents)
  if total.invisible_lines:
    logging.warning(
        "%d lines have only zero-width or control characters, such as U+200B. "
        "Such lines do not separate documents: write empty lines between "
        "documents.", total.invisible_lines)
  if total.unmasked_sequences:
    logging.warning(
        "%.1f%% of the sequences (%d) have no masked token%s",
        100 * total.unmasked_sequences / total.sequences,
        total.unmasked_sequences, ": each of their words has more pieces than "
        "can be masked, as in scripts without spaces; use "
        "--do_whole_word_mask False, or a larger --max_predictions_per_seq."
        if options.do_whole_word_mask else ".")


def main() -> None:
  try:
    create(command_line.options(RunOptions), launchers.find(os.environ),
           launchers.local_size(os.environ))
  except KeyboardInterrupt:
    raise KeyboardInterrupt(_RESUME) from None


if __name__ == "__main__":
  define_flags()
  command_line.run(main, required=_REQUIRED_FLAGS)

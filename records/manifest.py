"""What made a record file, and whether it is finished.

Beside each record file NAME lies its manifest, NAME.json. While a file is
written, its records are in a hidden file, with a hidden journal beside that:
a line that says what makes the file, then a line for each time that progress
was saved, with the blocks since the line before.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import time
from typing import (
    Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple)

from absl import logging

from records import tfrecord
from util import files
from util.command_line import InputError

_SUFFIX = ".json"
# Records that are framed and written at once: few enough for a core's cache.
_BUFFERED_RECORDS = 256
# Seconds between two saves of progress: what a kill loses at most.
_SAVE_SECONDS = 30.0
# Of a manifest, what grows with the file.
_COUNTS = ("num_records", "num_bytes", "block_offsets", "teacher")
# What a process of several adds to a file's name.
_PART = re.compile(r"-\d{5}-of-(\d{5})")
# Among the flags, though it is none: what the device made of --precision.
_ARITHMETIC = "arithmetic"
# Flags that manifests only name where they have another value. Others follow
# from them, so they are compared first.
_DEFAULTS = {"label_format": "topk", "record_format": "example",
             "strip_accents": "as --do_lower_case"}


class TeacherFigures(NamedTuple):
  """How well a teacher predicts the masked tokens that it has labelled.

  Attributes:
    num_records: records that the figures cover.
    num_tokens: masked tokens in these records.
    num_correct: masked tokens that the teacher finds the most probable.
    cross_entropy: sum over the masked tokens, in nats.
  """
  num_records: int = 0
  num_tokens: int = 0
  num_correct: int = 0
  cross_entropy: float = 0.0

  @classmethod
  def of_manifest(cls, manifest: "Optional[Manifest]") -> "TeacherFigures":
    """Reads the figures of a manifest; zeros where there are none."""
    teacher = manifest.teacher if manifest else {}
    return cls(*(type(default)(teacher.get(name, default))
                 for name, default in cls._field_defaults.items()))

  def __add__(self, other: Any) -> "TeacherFigures":
    """Returns the figures of the records of both."""
    return TeacherFigures(*map(sum, zip(self, other)))


@dataclasses.dataclass(frozen=True)
class Manifest:
  """What made a record file; kept beside it as NAME.json.

  Attributes:
    stage: name of the script.
    flags: value by name of the flags that shape the records; and `arithmetic`,
      what labelled them, where a device lacks the precision of the flag.
    fingerprints: content hash by name of the flag that names the file.
    sources: content hash by name of the source file, in the order in which
      they were read.
    vocab_size: tokens in the vocabulary that the ids belong to; 0 where that is
      not known.
    num_records: records in the file.
    num_bytes: size of the file.
    block_offsets: where in the file each block of `tfrecord.BLOCK_RECORDS`
      begins; empty where the file is not finished, or was made before
      manifests held it.
    teacher: the `TeacherFigures` of labelled records by name; they tell nothing
      of what made the file. Empty for other records, and for those that were
      labelled before manifests held it.
  """
  stage: str
  flags: Mapping[str, Any]
  fingerprints: Mapping[str, str]
  sources: Mapping[str, str]
  vocab_size: int
  num_records: int = 0
  num_bytes: int = 0
  block_offsets: List[int] = dataclasses.field(default_factory=list)
  teacher: Mapping[str, float] = dataclasses.field(default_factory=dict)

  def to_dict(self) -> Dict[str, Any]:
    """Returns the values by attribute, as JSON files hold them.

    Those of no teacher are left out, as earlier versions wrote and read them.
    """
    values = dataclasses.asdict(self)
    if not self.teacher:
      values.pop("teacher")
    return values

  def difference(self, other: "Manifest") -> Optional[str]:
    """Names the first way in which what made `other` is not what made this.

    Counts do not matter, nor does a vocabulary's size where its content is the
    same: versions count blank lines at its end in different ways.

    Returns:
      "FLAG is THIS, not OTHER", or None where both say the same.
    """
    if self.stage != other.stage:
      return "stage is {}, not {}".format(self.stage, other.stage)
    for mine, theirs, name_format in (
        (_with_effect(self.flags), _with_effect(other.flags), "--{}"),
        (self.fingerprints, other.fingerprints, "the content of --{}"),
        (self.sources, other.sources, "source file {}")):
      for name in sorted(set(mine) | set(theirs),
                         key=lambda name: (name not in _DEFAULTS, name)):
        values = [some.get(name, _DEFAULTS.get(name))
                  for some in (mine, theirs)]
        if values[0] != values[1]:
          return "{} is {}, not {}".format(name_format.format(name), *values)
    if list(self.sources) != list(other.sources):
      return "the order of the source files is {}, not {}".format(
          ", ".join(self.sources), ", ".join(other.sources))
    if (self.vocab_size != other.vocab_size
        and "vocab_file" not in self.fingerprints):
      return "vocabulary size is {}, not {}".format(
          self.vocab_size, other.vocab_size)
    return None


def _with_effect(flags: Mapping[str, Any]) -> Mapping[str, Any]:
  """Leaves out the arithmetic, and a seed of draws where nothing is drawn."""
  without = {_ARITHMETIC}
  if flags.get("tail_samples") == 0:
    without.add("random_seed")
  return {name: value for name, value in flags.items() if name not in without}


def with_arithmetic(manifest: Manifest, arithmetic: str,
                    resumed: Optional[Manifest]) -> Manifest:
  """Notes what arithmetic labels records where it is not the --precision.

  Args:
    manifest: what makes the file.
    arithmetic: that of this run.
    resumed: what an earlier run has left of the file; None for nothing.

  Returns:
    The manifest; with the arithmetic of both runs, such as "bf16, fp32".
  """
  precision = manifest.flags["precision"]
  used = {arithmetic}
  if resumed:
    used.update(resumed.flags.get(_ARITHMETIC, precision).split(", "))
  if used == {precision}:
    return manifest
  return dataclasses.replace(manifest, flags={
      **manifest.flags, _ARITHMETIC: ", ".join(sorted(used))})


def manifest_path(path: str) -> str:
  """Returns the path of the manifest of the record file `path`."""
  return path + _SUFFIX


def read_manifest(path: str) -> Optional[Manifest]:
  """Reads the manifest beside a record file.

  Args:
    path: the record file.

  Returns:
    The manifest, or None where there is none (files of 2019).

  Raises:
    InputError: the manifest does not parse, or is of another file.
  """
  return files.once("manifest", [manifest_path(path), path],
                    lambda: _read_manifest(path))


def _read_manifest(path: str) -> Optional[Manifest]:
  """Reads a manifest; as for `read_manifest`."""
  try:
    with files.open_file(manifest_path(path)) as file:
      content = file.read()
    manifest = _parse(content)
    num_bytes = files.size(path)
    # Most readers ask for it next.
    files.once("fingerprint", [manifest_path(path)],
               lambda: hashlib.sha256(content).hexdigest())
  except FileNotFoundError:
    return None
  except ValueError as error:
    raise InputError(
        "{} is not a manifest of this project ({}); remove it if {} is intact"
        .format(manifest_path(path), error, path)) from None
  if manifest.num_bytes != num_bytes:
    raise InputError(
        "{} has {} bytes, but its manifest {} says {}: the file was changed or "
        "cut; make it again".format(path, num_bytes, manifest_path(path),
                                    manifest.num_bytes))
  return manifest


def _parse(content: bytes) -> Manifest:
  """Parses a manifest.

  Raises:
    ValueError: it is none.
  """
  return _checked(_parse_json(content))


def _parse_progress(lines: Sequence[bytes]) -> Manifest:
  """Parses a journal; the manifest says how far its last whole line is.

  Raises:
    ValueError: it is none.
  """
  try:
    values = dict(_parse_json(lines[0]))
  except (IndexError, TypeError, ValueError):
    # Earlier versions wrote a manifest, over many lines.
    return _parse(b"\n".join(lines))
  offsets: List[Any] = []
  for line in lines[1:]:
    try:
      saved = dict(_parse_json(line))
      offsets += saved.pop("block_offsets")
    except (KeyError, TypeError, ValueError):
      break  # Cut by a power cut.
    values.update(saved, block_offsets=offsets)
  return _checked(values)


def _checked(values: Any) -> Manifest:
  """Makes a manifest of its values; raises ValueError where it is none."""
  try:
    manifest = Manifest(**values)
  except TypeError as error:
    raise ValueError(error) from None
  for field in dataclasses.fields(Manifest):
    value = getattr(manifest, field.name)
    if field.type is int:
      is_valid = type(value) is int and value >= 0  # A bool is an int, too.
    elif field.type is str:
      is_valid = isinstance(value, str)
    elif field.name == "block_offsets":
      is_valid = isinstance(value, list) and _are_block_offsets(
          value, manifest.num_records, manifest.num_bytes)
    elif field.name == "teacher":
      is_valid = isinstance(value, dict) and all(
          type(item) in (int, float) and 0 <= item < math.inf
          for item in value.values())
    else:
      is_valid = isinstance(value, dict) and not any(
          isinstance(item, (dict, list)) for item in value.values())
    if not is_valid:
      raise ValueError("the value of {} is of another type".format(field.name))
  return manifest


def _are_block_offsets(values: List[Any], num_records: int,
                       num_bytes: int) -> bool:
  """Says whether values can be where the blocks of a file begin."""
  if not values:
    return True
  return (all(type(value) is int for value in values)
          and values[0] == 0 and values[-1] < num_bytes
          and all(first < second for first, second in zip(values, values[1:]))
          and len(values) == -(-num_records // tfrecord.BLOCK_RECORDS))


def _format(manifest: Manifest) -> str:
  """Formats a manifest as JSON, its many offsets on one line."""
  values = manifest.to_dict()
  offsets = values.pop("block_offsets")
  return '{},\n "block_offsets": {}\n}}\n'.format(
      json.dumps(values, indent=1)[:-len("\n}")], json.dumps(offsets))


def _parse_json(content: bytes) -> Any:
  """Parses JSON, UTF-8; whatever is wrong is a ValueError."""
  try:
    return json.loads(content.decode("utf-8"))
  except RecursionError:
    raise ValueError("it is nested too deeply") from None


def records_fingerprint(path: str, flag: str = "input_file",
                        index_folder: Optional[str] = None) -> str:
  """Returns the SHA-256 of what made a record file, or of the file itself.

  Arguments and errors as for `read_block_index`.
  """
  if read_manifest(path) is not None:
    return files.fingerprint(manifest_path(path))
  return _read_index(path, flag, index_folder, is_whole=True).fingerprint


def find_repeated(paths: Sequence[str]) -> Optional[Tuple[str, str]]:
  """Finds records that come twice, by what their manifests say made them.

  Args:
    paths: record files. Those of several processes, NAME-00000-of-00008 and so
      on, hold a part each; those without a manifest are taken to differ.

  Returns:
    Two files that were made of the same source with the same flags, whatever
    the format of their records and the rounding of their probabilities; None
    where there are none.
  """
  seen: Dict[str, Tuple[str, str]] = {}
  for path in paths:
    found = read_manifest(path)
    if found is None:
      continue
    parts = _PART.sub(r"-of-\1", path)
    flags = dict(_with_effect(found.flags), record_format=None,
                 probability_bits=None)
    for source in found.sources.items():
      made = json.dumps([found.stage, flags, found.fingerprints, source],
                        sort_keys=True)
      other_parts, other = seen.setdefault(made, (parts, path))
      if parts != other_parts:
        return other, path
  return None


# --- Where blocks begin ------------------------------------------------------


class BlockIndex(NamedTuple):
  """Where the blocks of a record file begin.

  Attributes:
    num_records: records in the file.
    num_bytes: size of the file.
    offsets: of each block of `tfrecord.BLOCK_RECORDS` records.
    fingerprint: SHA-256 of a file without a manifest whose records are known
      to be intact; "" where that was not asked for.
  """
  num_records: int
  num_bytes: int
  offsets: List[int]
  fingerprint: str = ""


def read_block_index(path: str, flag: str, index_folder: Optional[str] = None
                    ) -> BlockIndex:
  """Reads where the blocks of a file begin.

  The manifest tells; for a file without one, of 2019, or with an earlier one,
  the head of each record is read. What is found is kept in a hidden file, so
  that the next run reads no record.

  Args:
    path: the record file.
    flag: name of the flag that named it, for errors.
    index_folder: for the hidden file where that of the records is read-only;
      None keeps nothing there.

  Raises:
    InputError: the file is damaged or no TFRecord file, or its manifest is of
      another file.
  """
  manifest = read_manifest(path)
  if manifest and (manifest.block_offsets or not manifest.num_records):
    return BlockIndex(
        manifest.num_records, manifest.num_bytes, manifest.block_offsets)
  return _read_index(path, flag, index_folder)


def check_intact(path: str, flag: str, index_folder: Optional[str] = None
                ) -> None:
  """Checks all bytes of a file that has no manifest, of 2019.

  What is made of it is of no use if it is damaged, as its fingerprint is that
  of all its bytes. Arguments and errors as for `read_block_index`.
  """
  if read_manifest(path) is None:
    _read_index(path, flag, index_folder, is_whole=True)


def count_records(path: str, flag: str) -> int:
  """Counts the records of a file; as for `read_block_index`."""
  return read_block_index(path, flag).num_records


def _read_index(path: str, flag: str, folder: Optional[str],
                is_whole: bool = False) -> BlockIndex:
  """Finds blocks without a manifest; as for `read_block_index`.

  Args:
    path: the record file.
    flag: as for `read_block_index`.
    folder: likewise.
    is_whole: whether to read all bytes and not only heads.
  """
  def read() -> BlockIndex:
    stamp = files.stamp(path)
    if stamp is None:
      return _scan(path, flag) if is_whole else _walk(path, flag)
    index_paths = _index_paths(path, folder)
    for index_path in index_paths:
      kept = _read_kept(index_path, stamp)
      if kept and (kept.fingerprint or not is_whole):
        return kept
    found = _scan(path, flag) if is_whole else _walk(path, flag)
    for index_path in index_paths:
      # Another process may be writing it, or the folder be read-only.
      with contextlib.suppress(InputError, OSError):
        files.make_folder(os.path.dirname(index_path))
        files.write_atomically(index_path, json.dumps(
            [stamp.size, stamp.modified, found]) + "\n")
        break
    return found

  found = files.once("whole index" if is_whole else "index", [path], read)
  # Where all bytes were read, the heads were too.
  files.once("index", [path], lambda: found)
  return found


def _index_paths(path: str, folder: Optional[str]) -> List[str]:
  """Returns where the index of a file may be kept."""
  beside, name = os.path.split(path)
  paths = [os.path.join(beside, ".{}.index.json".format(name))]
  if folder and not files.is_remote(folder):
    paths.append(os.path.join(folder, ".{}.{}.index.json".format(
        name, hashlib.sha256(os.path.realpath(path).encode(
            "utf-8", "surrogateescape")).hexdigest()[:12])))
  return paths


def _read_kept(index_path: str, stamp: files.Stamp) -> Optional[BlockIndex]:
  """Reads an index; None where it is missing, damaged or of another file."""
  with contextlib.suppress(OSError, TypeError, ValueError):
    size, modified, values = _parse_json(files.read_text(index_path).encode())
    index = BlockIndex(*values)
    if ([size, modified] == [stamp.size, stamp.modified]
        and type(index.num_records) is int and index.num_bytes == size
        and isinstance(index.fingerprint, str)
        and len(index.offsets) == -(
            -index.num_records // tfrecord.BLOCK_RECORDS)
        and _are_block_offsets(index.offsets, index.num_records, size)):
      return index
  return None


def _walk(path: str, flag: str) -> BlockIndex:
  """Finds blocks by the heads of the records."""
  count, block_offsets, offset = 0, [], 0
  for count, offset in enumerate(tfrecord.offsets(path, flag)):
    if count % tfrecord.BLOCK_RECORDS == 0:
      block_offsets.append(offset)
  # The last offset is the end of the file.
  return BlockIndex(
      count, offset, block_offsets[:-(-count // tfrecord.BLOCK_RECORDS)])


def _scan(path: str, flag: str) -> BlockIndex:
  """Finds blocks by reading, checking and hashing all bytes."""
  count, block_offsets, offset = 0, [], 0
  digest = hashlib.sha256()
  for record in tfrecord.read(path, flag):
    if count % tfrecord.BLOCK_RECORDS == 0:
      block_offsets.append(offset)
    # Frames of intact records have just one form.
    digest.update(tfrecord.frame([record]))
    count += 1
    offset += len(record) + tfrecord.FRAME_BYTES
  return BlockIndex(count, offset, block_offsets, digest.hexdigest())


# --- Writing -----------------------------------------------------------------


class RecordWriter:
  """Writes a record file that appears under its name only when it is complete.

  The records go to a hidden file beside it, which is locked meanwhile.
  `commit` gives that file its name and writes the manifest; without it,
  closing removes the hidden file, unless `save_progress` has said how much of
  it is of use.

  Attributes:
    num_records: records in the file so far, those of an earlier run included.
    resumed: the manifest that an earlier run has left; None where nothing of it
      is of use.
  """

  def __init__(self, path: str, resume: Optional[Manifest] = None,
               overwrite: bool = False):
    """Opens the hidden file.

    Args:
      path: the file to make.
      resume: what makes it; the records that an earlier run has left are kept
        as far as `save_progress` counts them. None starts from scratch.
      overwrite: whether to start from scratch where the earlier run was begun
        in another way.

    Raises:
      InputError: another process is writing the file, or the earlier run was
        begun in another way.
    """
    files.make_folder(os.path.dirname(path))
    self._path = path
    self._is_remote = files.is_remote(path)
    if self._is_remote and resume:
      logging.warning(
          "%s: remote storage keeps no file that is half written, and has no "
          "locks: a run that is stopped begins it again, and no second process "
          "may write it.", path)
    self._progress_path = manifest_path(files.partial_path(path))
    self._buffer: List[bytes] = []
    self._partial = files.partial_file(path, resume is not None)
    try:
      progress = self._read_progress(resume, overwrite) if resume else None
    except InputError:
      self._partial.close()
      raise
    self.resumed = progress
    self.num_records = progress.num_records if progress else 0
    self._num_bytes = progress.num_bytes if progress else 0
    self._block_offsets = list(progress.block_offsets) if progress else []
    # What an earlier version began has no offsets of its first blocks.
    self._has_offsets = bool(self._block_offsets) or not self.num_records
    self._num_flushed = self._num_bytes
    self._partial.truncate(self._num_bytes)
    self._partial.keep = progress is not None
    # What a later run may continue from, while it is not saved.
    self._unsaved: Optional[Manifest] = None
    self._num_saved_offsets = 0
    self._saved_at: Optional[float] = None
    if not progress and not self._is_remote:
      files.remove(self._progress_path)

  def _read_progress(self, wanted: Manifest,
                     overwrite: bool) -> Optional[Manifest]:
    """Reads how far an earlier run came; None where nothing is of use."""
    if self._is_remote:
      return None
    try:
      found = _parse_progress(files.read_lines(self._progress_path))
      if os.fstat(self._partial.file.fileno()).st_size < found.num_bytes:
        return None
    except (OSError, ValueError):
      return None
    difference = wanted.difference(found)
    if difference and overwrite:
      return None
    if difference:
      raise InputError(
          "{} was begun differently: {}: finish it with the flags it was begun "
          "with, or start from scratch with --overwrite".format(
              self._path, difference))
    return found

  def write(self, serialized: bytes) -> None:
    """Appends one serialized Example."""
    if self.num_records % tfrecord.BLOCK_RECORDS == 0:
      self._block_offsets.append(self._num_bytes)
    self._buffer.append(serialized)
    self.num_records += 1
    self._num_bytes += len(serialized) + tfrecord.FRAME_BYTES
    if len(self._buffer) == _BUFFERED_RECORDS:
      self._flush()

  def _flush(self) -> None:
    if self._buffer:
      framed = tfrecord.frame(self._buffer)
      self._partial.file.write(framed)
      # In this order, an interrupt in between harms nothing that is saved.
      self._num_flushed += len(framed)
      self._buffer.clear()

  def save_progress(self, manifest: Manifest) -> None:
    """Keeps what is written so far for a later run, however this one ends.

    The first call saves at once, later ones about every 30 seconds: a kill
    loses what was written since. An error that leaves the `with` block saves
    what the last call has kept. The cost does not grow with the file.

    Args:
      manifest: what makes the file, always the same; the counts are filled in
        here.
    """
    if self._is_remote:
      return
    self._unsaved = dataclasses.replace(
        manifest, num_records=self.num_records, num_bytes=self._num_bytes)
    self._partial.keep = True
    if (self._saved_at is None
        or time.monotonic() - self._saved_at >= _SAVE_SECONDS):
      self._save()

  def _save(self) -> None:
    """Makes the records durable, then adds a line to the journal."""
    assert self._unsaved
    self._flush()
    self._partial.sync()
    num_blocks = self._has_offsets * -(
        -self._unsaved.num_records // tfrecord.BLOCK_RECORDS)
    values = dataclasses.asdict(self._unsaved)
    values["block_offsets"] = self._block_offsets[
        self._num_saved_offsets:num_blocks]
    line = json.dumps({name: values.pop(name) for name in _COUNTS})
    if self._saved_at is None:
      files.write_atomically(
          self._progress_path, "{}\n{}\n".format(json.dumps(values), line))
    else:
      files.append_line(self._progress_path, line)
    self._num_saved_offsets = num_blocks
    self._saved_at = time.monotonic()
    self._unsaved = None

  def discard(self) -> None:
    """Leaves nothing for a later run."""
    files.remove(self._progress_path)
    self._unsaved = None
    self._partial.keep = False

  def commit(self, manifest: Manifest) -> None:
    """Gives the finished file its name.

    Args:
      manifest: what made it; the counts are filled in here.
    """
    if self._is_remote:
      # Records whose name comes before all of them have no manifest yet.
      files.remove(manifest_path(self._path))
      self._flush()
      self._partial.commit()
      files.write_atomically(
          manifest_path(self._path), _format(self._complete(manifest)))
      return
    # A manifest never stands beside records that it does not describe: the
    # old records go first, and a manifest without records counts for nothing.
    self._flush()
    self._partial.sync()
    assert self._partial.file.tell() == self._num_bytes
    files.remove(self._path)
    files.write_atomically(
        manifest_path(self._path), _format(self._complete(manifest)))
    self._partial.commit()
    self._unsaved = None
    files.remove(self._progress_path)

  def _complete(self, manifest: Manifest) -> Manifest:
    """Fills in the counts."""
    return dataclasses.replace(
        manifest, num_records=self.num_records, num_bytes=self._num_bytes,
        block_offsets=self._block_offsets if self._has_offsets else [])

  def __enter__(self) -> "RecordWriter":
    return self

  def __exit__(self, *exception: Any) -> None:
    if self._unsaved and not self._partial.file.closed:
      # An interrupt may have come while the buffer was written. Where the disk
      # is full, what was saved before counts.
      with contextlib.suppress(InputError, OSError):
        self._partial.truncate(self._num_flushed)
        self._save()
    self._partial.__exit__(*exception)


def is_finished(path: str, wanted: Manifest, overwrite: bool) -> bool:
  """Says whether an output is there already, made in just this way.

  Args:
    path: the record file to make.
    wanted: what would make it.
    overwrite: whether to make it again in any case.

  Returns:
    True where the finished file is kept, False where it is to be made.

  Raises:
    InputError: there is a file that was made in another way.
  """
  if files.is_folder(path):
    raise InputError("{} is a folder, not a file to write; name a file in it"
                     .format(path))
  if overwrite or not files.exists(path):
    return False
  found = read_manifest(path)
  if found is None and files.is_remote(path):
    logging.warning("%s has no manifest, which is written last: it is not "
                    "finished, and made again.", path)
    return False
  remedy = "keep it by choosing another name, or replace it with --overwrite"
  if found is None:
    raise InputError("{} exists, and without a manifest nothing tells how it "
                     "was made: {}".format(path, remedy))
  difference = wanted.difference(found)
  if difference:
    raise InputError("{} exists and was made differently: {}: {}".format(
        path, difference, remedy))
  logging.info("%s is finished: %d records kept.", path, found.num_records)
  progress = manifest_path(files.partial_path(path))
  if not files.is_remote(path) and os.path.lexists(progress):
    # A kill just after the file got its name has left it.
    with contextlib.suppress(InputError), files.PartialFile(path):
      files.remove(progress)
  return True


class OverwriteProgress:
  """Remembers which outputs a run with --overwrite has replaced.

  So that the same command resumes where it was stopped, instead of replacing
  them once more. It is kept in a hidden file until the run is finished.
  """

  def __init__(self, folder: str, name: str, wanted: Mapping[str, Manifest]):
    """Reads what an earlier run has left, if that was the same command.

    Args:
      folder: of the outputs, made if it is missing.
      name: of the run, unique in the folder.
      wanted: what makes each output, by its path.
    """
    self._path = os.path.join(folder, ".{}.overwrite.json".format(name))
    self._run = {path: manifest.to_dict()
                 for path, manifest in wanted.items()}
    self._replaced: List[str] = []
    files.make_folder(folder)
    with contextlib.suppress(
        OSError, IndexError, TypeError, ValueError, KeyError):
      head, *lines = files.read_lines(self._path)
      found = _parse_json(head)
      if found["run"] == self._run:
        self._replaced = [
            path for path in (*found["replaced"], *map(_parse_json, lines))
            if path in self._run]
    files.write_atomically(self._path, json.dumps(
        {"run": self._run, "replaced": self._replaced}) + "\n")

  def is_replaced(self, path: str) -> bool:
    """Returns whether the run has replaced an output already."""
    return path in self._replaced

  def add(self, path: str) -> None:
    """Notes that an output is replaced."""
    self._replaced.append(path)
    files.append_line(self._path, json.dumps(path))

  def finish(self) -> None:
    """Forgets the run: the next one replaces everything."""
    files.remove(self._path)

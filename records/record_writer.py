"""Writes record files that appear when they are complete, and resumes them.

While a file is written, its records are in a hidden file. A hidden journal
beside that has a line that says what makes the file, then a line for each time
that progress was saved, with the blocks since the line before.
"""

import contextlib
import dataclasses
import json
import os
import time
from typing import Any, List, Mapping, Optional, Sequence

from absl import logging

from records import tfrecord
from records.manifest import (format_manifest, Manifest, manifest_from_values,
                              manifest_path, parse_manifest, read_manifest)
from util import files
from util.command_line import InputError

# Records that are framed and written at once: few enough for a core's cache.
_BUFFERED_RECORDS = 256
# Seconds between two saves of progress: what a kill loses at most.
_SAVE_SECONDS = 30.0
# Of a manifest, what grows with the file.
_COUNTS = ("num_records", "num_bytes", "block_offsets", "teacher")


def _parse_progress(lines: Sequence[bytes]) -> Manifest:
  """Parses a journal; the manifest says how far its last whole line is.

  Raises:
    ValueError: it is none.
  """
  try:
    values = dict(files.parse_json(lines[0]))
  except (IndexError, TypeError, ValueError):
    # Earlier versions wrote a manifest, over many lines.
    return parse_manifest(b"\n".join(lines))
  offsets: List[Any] = []
  for line in lines[1:]:
    try:
      saved = dict(files.parse_json(line))
      offsets += saved.pop("block_offsets")
    except (KeyError, TypeError, ValueError):
      break  # Cut by a power cut.
    values.update(saved, block_offsets=offsets)
  return manifest_from_values(values)


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
          manifest_path(self._path), format_manifest(self._complete(manifest)))
      return
    # A manifest never stands beside records that it does not describe: the
    # old records go first, and a manifest without records counts for nothing.
    self._flush()
    self._partial.sync()
    assert self._partial.file.tell() == self._num_bytes
    files.remove(self._path)
    files.write_atomically(
        manifest_path(self._path), format_manifest(self._complete(manifest)))
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
      found = files.parse_json(head)
      if found["run"] == self._run:
        self._replaced = [
            path for path in (*found["replaced"], *map(files.parse_json, lines))
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

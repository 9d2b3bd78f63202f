"""Writes record files that appear when they are complete, and resumes them.

Until a file is complete, its records are in a hidden file, and its progress is
in a hidden journal. The first line of the journal is the manifest without
counts. Each further line is a save of progress: the counts, and the offsets of
the blocks since the previous save.
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

# Records per write: few enough for a core's cache.
_BUFFERED_RECORDS = 256
# Least seconds between two saves of progress.
_SAVE_SECONDS = 30.0
# Attributes of a manifest that change while the file grows.
_COUNTS = ("num_records", "num_bytes", "block_offsets", "teacher")


def _parse_progress(lines: Sequence[bytes]) -> Manifest:
  """Parses a journal; returns the manifest as of the last whole line.

  Raises:
    ValueError: if the lines are not a journal.
  """
  try:
    values = dict(files.parse_json(lines[0]))
  except (IndexError, TypeError, ValueError):
    # Earlier versions wrote one manifest of many lines.
    return parse_manifest(b"\n".join(lines))
  offsets: List[Any] = []
  for line in lines[1:]:
    try:
      saved = dict(files.parse_json(line))
      offsets += saved.pop("block_offsets")
    except (KeyError, TypeError, ValueError):
      break  # A power failure has cut the line.
    values.update(saved, block_offsets=offsets)
  return manifest_from_values(values)


class RecordWriter:
  """Writes a record file that appears under its name when it is complete.

  The writer puts the records into a locked hidden file. `commit` renames the
  hidden file and writes the manifest. Without a commit, closing the writer
  deletes the hidden file, or keeps it for a later run if `save_progress` was
  called.

  Attributes:
    num_records: records in the file so far, including those of an earlier run.
    resumed: manifest of the earlier run that this run resumes, or None.
  """

  def __init__(self, path: str, resume: Optional[Manifest] = None,
               overwrite: bool = False):
    """Opens the hidden file.

    Args:
      path: path of the record file.
      resume: manifest of the file; keeps the records that an earlier run of
        the same manifest has saved. None starts from scratch.
      overwrite: whether to start from scratch if the earlier run had another
        manifest.

    Raises:
      InputError: if another process is writing the file, or the earlier run had
        another manifest.
    """
    files.make_folder(os.path.dirname(path))
    self._path = path
    self._is_remote = files.is_remote(path)
    if self._is_remote and resume:
      logging.warning(
          "%s: remote storage has no unfinished files and no locks: a stopped "
          "run starts the file from scratch, and you must not run a second "
          "process with the same output.", path)
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
    # Journals of earlier versions have no offsets.
    self._has_offsets = bool(self._block_offsets) or not self.num_records
    self._num_flushed = self._num_bytes
    self._partial.truncate(self._num_bytes)
    self._partial.keep = progress is not None
    # Progress that is not yet saved.
    self._unsaved: Optional[Manifest] = None
    self._num_saved_offsets = 0
    self._saved_at: Optional[float] = None
    if not progress and not self._is_remote:
      files.remove(self._progress_path)

  def _read_progress(self, wanted: Manifest,
                     overwrite: bool) -> Optional[Manifest]:
    """Reads the progress of an earlier run; None if there is none to resume."""
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
          "{} was begun differently: {}: finish the file with the earlier "
          "flags, or start from scratch with --overwrite".format(
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
      # This order keeps the saved records valid if an interrupt comes between.
      self._num_flushed += len(framed)
      self._buffer.clear()

  def save_progress(self, manifest: Manifest) -> None:
    """Keeps the records written so far for a later run.

    The first call saves at once, later calls about every 30 seconds: a kill
    loses the records since the last save. An exception in the `with` block
    loses none: the writer saves the progress of the last call when it closes.
    The cost does not grow with the file.

    Args:
      manifest: manifest of the file; the writer fills in the counts.
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
    """Deletes the progress, so that a later run starts from scratch."""
    files.remove(self._progress_path)
    self._unsaved = None
    self._partial.keep = False

  def commit(self, manifest: Manifest) -> None:
    """Gives the finished file its name and writes its manifest.

    Args:
      manifest: manifest of the file; the writer fills in the counts.
    """
    if self._is_remote:
      # Delete the old manifest before the new records get their name.
      files.remove(manifest_path(self._path))
      self._flush()
      self._partial.commit()
      files.write_atomically(
          manifest_path(self._path), format_manifest(self._complete(manifest)))
      return
    # Records never have the manifest of other records beside them: delete the
    # old records first. Readers ignore a manifest without records.
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
      # An interrupt may have cut the last write. If the disk is full, the
      # previous save remains.
      with contextlib.suppress(InputError, OSError):
        self._partial.truncate(self._num_flushed)
        self._save()
    self._partial.__exit__(*exception)


def is_finished(path: str, wanted: Manifest, overwrite: bool) -> bool:
  """Returns whether a finished output with the same manifest exists.

  Args:
    path: path of the record file.
    wanted: manifest of the file, without counts.
    overwrite: whether to make the file again in any case.

  Returns:
    True if the finished file is kept, False if the file must be made.

  Raises:
    InputError: if the file exists with another manifest or without one.
  """
  if files.is_folder(path):
    raise InputError("{} is a folder, not a file to write; name a file in the "
                     "folder".format(path))
  if overwrite or not files.exists(path):
    return False
  found = read_manifest(path)
  if found is None and files.is_remote(path):
    logging.warning("%s has no manifest, so it is unfinished; the file is made "
                    "again.", path)
    return False
  remedy = "choose another name, or replace the file with --overwrite"
  if found is None:
    raise InputError("{} exists without a manifest, so its flags are unknown: "
                     "{}".format(path, remedy))
  difference = wanted.difference(found)
  if difference:
    raise InputError("{} exists and was made differently: {}: {}".format(
        path, difference, remedy))
  logging.info("%s is finished: %d records kept.", path, found.num_records)
  progress = manifest_path(files.partial_path(path))
  if not files.is_remote(path) and os.path.lexists(progress):
    # A kill between the last two steps of `commit` leaves the journal.
    with contextlib.suppress(InputError), files.PartialFile(path):
      files.remove(progress)
  return True


class OverwriteProgress:
  """Records which outputs a run with --overwrite has replaced.

  The list lets the same command resume after a stop, instead of replacing these
  outputs again. A hidden file has the list until the run is finished.
  """

  def __init__(self, folder: str, name: str, wanted: Mapping[str, Manifest]):
    """Reads the list of an earlier run of the same command, if there is one.

    Args:
      folder: folder of the outputs; created if it is missing.
      name: name of the run, unique in the folder.
      wanted: manifest of each output, by path.
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
    """Returns whether the run has already replaced an output."""
    return path in self._replaced

  def add(self, path: str) -> None:
    """Adds a replaced output to the list."""
    self._replaced.append(path)
    files.append_line(self._path, json.dumps(path))

  def finish(self) -> None:
    """Deletes the list: the next run replaces everything."""
    files.remove(self._path)

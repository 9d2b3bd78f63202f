"""Finds the offsets of the blocks of record files, with and without manifests.

Trainers read records in any order, so they need the offset of each block of
`tfrecord.BLOCK_RECORDS` records. The manifest has the offsets. For a file
without offsets in a manifest, this module computes the offsets once and keeps
them in a hidden index file.
"""

import contextlib
import hashlib
import json
import os
from typing import List, NamedTuple, Optional

from records import tfrecord
from records.manifest import are_block_offsets, manifest_path, read_manifest
from util import files
from util.command_line import InputError


class BlockIndex(NamedTuple):
  """Offsets of the blocks of a record file.

  Attributes:
    num_records: number of records in the file.
    num_bytes: size of the file.
    offsets: offset in bytes of each block of `tfrecord.BLOCK_RECORDS` records.
    fingerprint: SHA-256 of a file without a manifest, if all of its bytes were
      read and are intact; else "".
  """
  num_records: int
  num_bytes: int
  offsets: List[int]
  fingerprint: str = ""


def read_block_index(path: str, flag: str, index_folder: Optional[str] = None
                    ) -> BlockIndex:
  """Returns the block index of a record file.

  Reads the manifest. If there is none, as for files of the 2019 scripts, or the
  manifest of an earlier version has no offsets, reads the hidden index file. If
  that is missing too, reads the head of each record and writes the index file.

  Args:
    path: path of the record file.
    flag: name of the flag that gave the path, for errors.
    index_folder: folder for the index file if the folder of the records is
      read-only, or None.

  Raises:
    InputError: if the file is damaged or is not a TFRecord file, or its
      manifest belongs to another file.
  """
  manifest = read_manifest(path)
  if manifest and (manifest.block_offsets or not manifest.num_records):
    return BlockIndex(
        manifest.num_records, manifest.num_bytes, manifest.block_offsets)
  return _read_index(path, flag, index_folder)


def records_fingerprint(path: str, flag: str = "input_file",
                        index_folder: Optional[str] = None) -> str:
  """Returns the SHA-256 of a file's manifest; without one, of the file itself.

  Arguments and errors as for `read_block_index`.
  """
  if read_manifest(path) is not None:
    return files.fingerprint(manifest_path(path))
  return _read_index(path, flag, index_folder, is_whole=True).fingerprint


def check_intact(path: str, flag: str, index_folder: Optional[str] = None
                ) -> None:
  """Reads and checks all bytes of a file that has no manifest.

  Output made from a damaged file is useless, since the fingerprint in its
  manifest covers all bytes of the file. Arguments and errors as for
  `read_block_index`.
  """
  if read_manifest(path) is None:
    _read_index(path, flag, index_folder, is_whole=True)


def count_records(path: str, flag: str) -> int:
  """Returns the number of records in a file; as for `read_block_index`."""
  return read_block_index(path, flag).num_records


def _read_index(path: str, flag: str, folder: Optional[str],
                is_whole: bool = False) -> BlockIndex:
  """Returns the block index of a file without reading a manifest.

  Args:
    path: path of the record file.
    flag: as for `read_block_index`.
    folder: as index_folder for `read_block_index`.
    is_whole: whether to read all bytes, and not only the heads of records.
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
      # Another process may be writing the index, or the folder is read-only.
      with contextlib.suppress(InputError, OSError):
        files.make_folder(os.path.dirname(index_path))
        files.write_atomically(index_path, json.dumps(
            [stamp.size, stamp.modified, found]) + "\n")
        break
    return found

  found = files.once("whole index" if is_whole else "index", [path], read)
  # Reading all bytes includes the heads.
  files.once("index", [path], lambda: found)
  return found


def _index_paths(path: str, folder: Optional[str]) -> List[str]:
  """Returns the possible paths of the index of a file, the preferred first."""
  beside, name = os.path.split(path)
  paths = [os.path.join(beside, ".{}.index.json".format(name))]
  if folder and not files.is_remote(folder):
    paths.append(os.path.join(folder, ".{}.{}.index.json".format(
        name, hashlib.sha256(os.path.realpath(path).encode(
            "utf-8", "surrogateescape")).hexdigest()[:12])))
  return paths


def _read_kept(index_path: str, stamp: files.Stamp) -> Optional[BlockIndex]:
  """Reads an index; None if it is missing, damaged or for another file."""
  with contextlib.suppress(OSError, TypeError, ValueError):
    size, modified, values = files.parse_json(
        files.read_text(index_path).encode())
    index = BlockIndex(*values)
    if ([size, modified] == [stamp.size, stamp.modified]
        and type(index.num_records) is int and index.num_bytes == size
        and isinstance(index.fingerprint, str)
        and len(index.offsets) == -(
            -index.num_records // tfrecord.BLOCK_RECORDS)
        and are_block_offsets(index.offsets, index.num_records, size)):
      return index
  return None


def _walk(path: str, flag: str) -> BlockIndex:
  """Computes the block index from the heads of the records."""
  count, block_offsets, offset = 0, [], 0
  for count, offset in enumerate(tfrecord.offsets(path, flag)):
    if count % tfrecord.BLOCK_RECORDS == 0:
      block_offsets.append(offset)
  # The last offset is the end of the file.
  return BlockIndex(
      count, offset, block_offsets[:-(-count // tfrecord.BLOCK_RECORDS)])


def _scan(path: str, flag: str) -> BlockIndex:
  """Computes the block index; reads, checks and hashes all bytes."""
  count, block_offsets, offset = 0, [], 0
  digest = hashlib.sha256()
  for record in tfrecord.read(path, flag):
    if count % tfrecord.BLOCK_RECORDS == 0:
      block_offsets.append(offset)
    # An intact record has only one possible frame, so this hashes the file.
    digest.update(tfrecord.frame([record]))
    count += 1
    offset += len(record) + tfrecord.FRAME_BYTES
  return BlockIndex(count, offset, block_offsets, digest.hexdigest())

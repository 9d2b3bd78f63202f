"""Decompresses bzip2 files from any byte on.

A bzip2 file is a series of independent blocks of at most 900 kB of text. Each
block begins with a marker of 48 bits, which may begin at any bit of a byte.
Therefore several processes can decompress parts of one file. The standard
library decompresses whole streams only, so this module wraps each block in a
stream of its own.
"""

import bz2
from typing import BinaryIO, Iterator, List, NamedTuple, Optional

_MAGIC_BITS = 48
_BLOCK_MAGIC = 0x314159265359
_END_MAGIC = 0x177245385090
_CHECKSUM_BITS = 32
# Header of a stream with blocks of the largest size.
_STREAM_HEADER = int.from_bytes(b"BZh9", "big")
_READ_BYTES = 1 << 18
# Number of markers within a block's data before the block counts as corrupt.
# A given string of 48 bits appears by chance once in 30 TB.
_MAX_FALSE_MARKERS = 1


class DamagedError(Exception):
  """A compressed file is truncated or corrupt.

  Attributes:
    is_truncated: True if the end of the file is missing, False if bytes are
      wrong.
    position: byte of the file at which the damage was found.
  """

  def __init__(self, is_truncated: bool, position: int):
    """Sets the attributes of the same names."""
    super().__init__(is_truncated, position)
    self.is_truncated = is_truncated
    self.position = position


class Block(NamedTuple):
  """The text of a block, and the byte of the file in which the block begins."""
  position: int
  text: bytes


class _Marker(NamedTuple):
  """The first bit of a block or of the end of a stream."""
  bit: int
  is_end: bool


class _Needle(NamedTuple):
  """The whole bytes of a marker that begins at bit `shift` of a byte."""
  content: bytes
  magic: int
  shift: int


_NEEDLES = tuple(
    _Needle((magic << (8 - shift)).to_bytes(7, "big")[1:6], magic, shift)
    for magic in (_BLOCK_MAGIC, _END_MAGIC) for shift in range(8))


def blocks(file: BinaryIO, start: int) -> Iterator[Block]:
  """Yields the blocks of a file that begin at or after a byte, in order.

  Args:
    file: a bzip2 file of one stream or many.
    start: byte of the file at which to begin.

  Raises:
    DamagedError: if the file is truncated or corrupt.
  """
  file.seek(start)
  buffer, base = b"", start  # `base`: offset of the buffer in the file.
  scanned = 0
  block: Optional[int] = None  # The first bit of the current block.
  end_bit = 0  # The bit after the last stream that ended.
  num_false = 0
  while True:
    piece = file.read(_READ_BYTES)
    buffer += piece
    for bit, is_end in _markers(buffer, scanned):
      if block is not None:
        text = _decompress(buffer, block - 8 * base, bit)
        if text is None:
          num_false += 1
          if num_false > _MAX_FALSE_MARKERS:
            raise DamagedError(False, block // 8)
          continue
        yield Block(block // 8, text)
      num_false = 0
      if is_end:
        block = None
        end_bit = 8 * base + bit + _MAGIC_BITS + _CHECKSUM_BITS
      else:
        block = 8 * base + bit
    scanned = max(0, len(buffer) - 6)
    if not piece:
      break
    consumed = scanned if block is None else block // 8 - base
    buffer = buffer[consumed:]
    base += consumed
    scanned -= consumed
  size = base + len(buffer)
  if block is not None:
    raise DamagedError(not num_false, block // 8 if num_false else size)
  if end_bit > 8 * size or (not end_bit and not start):
    raise DamagedError(True, size)


def _markers(buffer: bytes, start: int) -> List[_Marker]:
  """Returns the markers at or after a byte of a buffer, in order."""
  found = []
  for needle in _NEEDLES:
    # A marker begins a byte before its needle, also if the shift is 0.
    index = buffer.find(needle.content, start + 1)
    while index >= 0:
      seven = buffer[index - 1:index + 6]
      bits = int.from_bytes(seven, "big") >> (8 - needle.shift)
      if len(seven) == 7 and bits & ((1 << _MAGIC_BITS) - 1) == needle.magic:
        found.append(_Marker(8 * (index - 1) + needle.shift,
                             needle.magic == _END_MAGIC))
      index = buffer.find(needle.content, index + 1)
  return sorted(found)


def _decompress(buffer: bytes, start: int, end: int) -> Optional[bytes]:
  """Returns the text of a block, or None if the block is damaged.

  Args:
    buffer: bytes of the file.
    start: the first bit of the block in the buffer.
    end: the bit after the last bit of the block.
  """
  num_bits = end - start
  last = (end + 7) // 8
  block = int.from_bytes(buffer[start // 8:last], "big") >> (8 * last - end)
  block &= (1 << num_bits) - 1
  # A stream of one block has the checksum of the block, which follows the
  # block's marker.
  checksum = (block >> max(0, num_bits - _MAGIC_BITS - _CHECKSUM_BITS)) & (
      (1 << _CHECKSUM_BITS) - 1)
  stream = (((_STREAM_HEADER << num_bits | block) << _MAGIC_BITS | _END_MAGIC)
            << _CHECKSUM_BITS | checksum)
  total = _STREAM_HEADER.bit_length() + 1 + num_bits + (
      _MAGIC_BITS + _CHECKSUM_BITS)
  padding = -total % 8
  try:
    return bz2.decompress((stream << padding).to_bytes(
        (total + padding) // 8, "big"))
  except (OSError, ValueError):
    return None

"""Damaged inputs for the fuzz tests, and limits of time and memory."""

import contextlib
import json
import resource
import signal
import time

from hypothesis import strategies as st

from util.command_line import InputError

MAX_SECONDS = 10
MAX_BYTES = 500 << 20

# Bytes with a special meaning in one of the formats or in UTF-8.
_TOKENS = [
    b"\0", b"\xff", b"\xff" * 9 + b"\x7f", b"\x80" * 12, b"\xff" * 8, b"\n",
    b"\r\n", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\xc2\x85", b'"',
    b"{", b"[" * 2000, b"]", b"}", b"\\", b"\\ud800", b",", b":", b"9" * 5000,
    b"NaN", b"-Infinity", b"1e999", b"-1", b"null", b"0"]


# --- Limits ------------------------------------------------------------------


@contextlib.contextmanager
def limits():
  """Fails if the block takes over `MAX_SECONDS` or `MAX_BYTES`.

  The time is CPU time, which a busy or suspended machine does not increase. The
  memory is address space, which includes reserved memory that is never used.
  """
  with open("/proc/self/statm", encoding="ascii") as file:
    pages = int(file.read().split()[0])
  soft, hard = resource.getrlimit(resource.RLIMIT_AS)
  start = time.process_time()
  handler = signal.signal(signal.SIGPROF, _fail)
  signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
  resource.setrlimit(resource.RLIMIT_AS, (
      pages * resource.getpagesize() + MAX_BYTES, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, handler)
  # Python drops exceptions that a signal raises during garbage collection.
  if time.process_time() - start > MAX_SECONDS:
    _fail()


def _fail(*unused_signal):
  raise AssertionError("an input took over {} seconds".format(MAX_SECONDS))


def accepts(read):
  """Reads an input within the limits.

  Any exception except InputError and OSError fails the test.

  Args:
    read: function without arguments.

  Returns:
    A tuple of the function's value; an empty tuple if the input was refused.
  """
  with limits():
    try:
      return (read(),)
    except (InputError, OSError):
      return ()


# --- Damaged inputs ----------------------------------------------------------


@st.composite
def damaged(draw, content, tokens=()):
  """Draws a content with a few edits.

  Args:
    content: the bytes to damage, or a strategy for them.
    tokens: bytes to insert, in addition to `_TOKENS`.

  Returns:
    Bytes that may be equal to the content.
  """
  if not isinstance(content, bytes):
    content = draw(content)
  insertions = st.sampled_from([*tokens, *_TOKENS]) | st.binary(max_size=6)
  for _ in range(draw(st.integers(0, 4))):
    start = draw(st.integers(0, len(content)))
    kind = draw(st.sampled_from(
        ["flip", "insert", "replace", "remove", "repeat", "cut"]))
    if kind == "flip" and start < len(content):
      mask = draw(st.integers(1, 255))
      content = b"".join([content[:start], bytes([content[start] ^ mask]),
                          content[start + 1:]])
    elif kind == "insert":
      content = content[:start] + draw(insertions) + content[start:]
    elif kind == "replace":
      token = draw(insertions)
      content = content[:start] + token + content[start + len(token):]
    elif kind == "cut":
      content = content[:start]
    elif kind in ("remove", "repeat"):
      end = min(len(content), start + draw(st.integers(1, 64)))
      span = content[start:end]
      copies = draw(st.sampled_from([2, 2, 3, 200])) if kind == "repeat" else 0
      content = content[:start] + span * copies + content[end:]
  return content


# JSON values of all types and sizes.
_JSON_VALUES = [
    "null", "true", "false", "0", "1", "-1", "2", "19", "19.0", "0.5", "1e2",
    "1e999", "-1e999", "NaN", "Infinity", "-Infinity", "9" * 30, "9" * 4000,
    "9" * 5000, "-" + "9" * 4000, '""', '"text"', '"19"', '"\\ud800"',
    '"\\u0000"', '"gelu"', '"' + "a" * 10000 + '"', "[]", "[1]", "[[]]", "{}",
    '{"a": 1}', '{"a": [1]}', '{"a": {"b": null}}', '{"a": NaN}', '{"": ""}']
_ENCODINGS = ["utf-8"] * 12 + ["utf-8-sig", "utf-16", "utf-32", "latin-1"]


@st.composite
def nested_json(draw):
  """Draws nested lists or objects, some near Python's recursion limit."""
  depth = draw(st.sampled_from([2, 50, 20000]) | st.integers(700, 1000))
  if draw(st.booleans()):
    return "[" * depth + "]" * depth
  return '{"a":' * depth + "1" + "}" * depth


@st.composite
def json_like(draw, values):
  """Draws the text of a JSON object with some changed or missing fields.

  Args:
    values: the valid object.

  Returns:
    The text in some encoding, perhaps damaged, as bytes.
  """
  odd = st.sampled_from(_JSON_VALUES) | nested_json()
  fields = {json.dumps(key): json.dumps(value)
            for key, value in values.items()}
  names = sorted(fields)
  for _ in range(draw(st.integers(0, 3))):
    name = draw(st.sampled_from([*names, *names, '"other"']))
    if draw(st.integers(0, 4)):
      fields[name] = draw(odd)
    else:
      fields.pop(name, None)
  text = "{" + ", ".join(map(": ".join, fields.items())) + "}"
  if not draw(st.integers(0, 15)):
    text = draw(odd)
  content = text.encode(draw(st.sampled_from(_ENCODINGS)))
  return draw(damaged(content)) if draw(st.booleans()) else content

"""Reads files of labelled texts for a classifier."""

from typing import List, NamedTuple, Optional, Sequence

from util import files
from util.command_line import InputError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Number of characters of a line that an error quotes.
_MAX_QUOTED = 40
# Number of labels that an error or a log line lists.
_MAX_LISTED = 10


class Text(NamedTuple):
  """A text or a pair of texts.

  Attributes:
    first: the text, or the first text of the pair.
    second: the second text; empty without a pair.
    label: the label; empty if unknown.
  """
  first: str
  second: str = ""
  label: str = ""


def decode_line(line: bytes, place: str) -> str:
  """Returns the text of a line, without its line end.

  Args:
    line: UTF-8, with or without its line end.
    place: the file and the number of the line, for errors.

  Raises:
    InputError: if the line is not UTF-8, or has NULs, as UTF-16 has.
  """
  try:
    decoded = line.decode("utf-8")
  except UnicodeDecodeError as error:
    raise InputError("{} is not UTF-8 text ({}); {}".format(
        place, error, files.encoding_advice(line))) from None
  if "\0" in decoded:
    raise InputError("{} has NULs, which are no text in UTF-8; {}".format(
        place, files.encoding_advice(line)))
  return decoded.rstrip("\r\n")


def parse_line(line: bytes, place: str, is_labelled: bool) -> Optional[Text]:
  """Parses a line.

  Args:
    line: UTF-8, with or without its line end.
    place: the file and the number of the line, for errors.
    is_labelled: whether the line begins with a label.

  Returns:
    The text; None for a blank line.

  Raises:
    InputError: if the line is malformed.
  """
  decoded = decode_line(line, place)
  if not decoded.strip(" "):
    return None
  label, texts = "", decoded.split("\t")
  if is_labelled:
    label, *texts = texts
    label = label.strip()
    if not texts:
      raise InputError("{} has no tab: {!r}; write the label, a tab and the "
                       "text".format(place, decoded[:_MAX_QUOTED]))
    if not label:
      raise InputError("{} has an empty label; write a label before the first "
                       "tab, or remove the line".format(place))
  if len(texts) > 2:
    raise InputError(
        "{} has {} texts, not one or two: a tab separates texts; replace tabs "
        "within a text by spaces".format(place, len(texts)))
  if not texts[0].strip():
    raise InputError("{} has an empty text; write a text, or remove the "
                     "line".format(place))
  return Text(texts[0], "".join(texts[1:]), label)


def read_texts(path: str, flag: str,
               labels: Optional[Sequence[str]] = None,
               min_labels: int = 2) -> List[Text]:
  """Reads a file of labelled texts, with or without a byte-order mark and CRLF.

  Args:
    path: path of the file.
    flag: name of the flag that has the path, for errors.
    labels: the allowed labels; None allows any labels.
    min_labels: minimum number of different labels, 1 or 2. A file with
      `labels` may have only one.

  Raises:
    InputError: if a line is malformed or has another label, or if the file has
      no examples or too few labels.
  """
  files.check_file(path, flag)
  texts, known = [], frozenset(labels or ())
  with open(path, "rb") as file:
    for number, line in enumerate(file, 1):
      place = "--{}: {}, line {}".format(flag, path, number)
      if number == 1 and line.startswith(BYTE_ORDER_MARK):
        line = line[len(BYTE_ORDER_MARK):]
      text = parse_line(line, place, is_labelled=True)
      if text is None:
        continue
      if labels is not None and text.label not in known:
        raise InputError(
            "{} has the label {!r}, but the classifier knows only {}; correct "
            "the label, or train the classifier on examples of this label"
            .format(place, text.label, listed(labels)))
      texts.append(text)
  if not texts:
    raise InputError("--{}: {} holds no examples; write lines of label, tab "
                     "and text".format(flag, path))
  if labels is None and len({text.label for text in texts}) < min_labels:
    raise InputError(
        "--{}: all {} lines of {} have the label {!r}, expected at least two "
        "labels; add examples of another label".format(
            flag, len(texts), path, texts[0].label))
  return texts


def listed(labels: Sequence[str]) -> str:
  """Returns labels for an error or a log line; abbreviates long lists."""
  names = ", ".join(map(repr, labels[:_MAX_LISTED]))
  if len(labels) > _MAX_LISTED:
    names += " and {} more".format(len(labels) - _MAX_LISTED)
  return names

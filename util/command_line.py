"""Parses the command line and reports errors, for every script.

A script defines its flags under its `__main__` guard and passes `main` to
`run`:

  if __name__ == "__main__":
    define_flags()
    command_line.run(main, required=("read_file", "folder"))

`run` differs from absl's `app.run` in four ways: `--flag True` sets a boolean
flag, a stray word is an error, `--help` lists every flag of the stage and exits
0, and an error that a user can cause is printed as one line.
"""

import dataclasses
import errno
import logging as standard_logging
import math
import os
import signal
import sys
import textwrap
import traceback
import typing
from typing import (Callable, List, Mapping, NoReturn, Optional, Sequence, Type,
                    TypeVar)

from absl import flags
from absl import logging

if typing.TYPE_CHECKING:
  from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")

# The values that absl's BooleanParser accepts in `--flag=value`.
_BOOLEAN_VALUES = ("true", "t", "1", "false", "f", "0")
_HELP_FLAGS = ("--help", "-help", "--helpshort", "--helpfull", "-h")
# Packages whose flags are not listed by --help.
_FOREIGN_PACKAGES = ("absl", "tensorflow")
# Remedies by errno.
_REMEDIES: Mapping[Optional[int], str] = {
    errno.EACCES: "check the permissions of the file and its folder",
    errno.EPERM: "check the permissions of the file and its folder",
    errno.EROFS: "choose a folder that can be written",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path: a file stands where a folder should",
    errno.EEXIST: "choose another name: a file stands where a folder should",
    errno.EISDIR: "give the path of a file",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some space and run the same command again",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or choose another "
                 "file system",
}
# Remedies by the start of Python's message about a value that is not a number.
_NOT_NUMBERS: Mapping[str, str] = {
    "invalid literal for int": "give a whole number",
    "could not convert string to float": "give a number",
}
_EXIT_ERROR = 1
_EXIT_INTERRUPTED = 130  # 128 + SIGINT, as in shells.


class InputError(ValueError):
  """An error that a user can cause and correct.

  The message says where the error is, what was found, what was expected and
  what to do. `run` prints the message as one line.
  """


class ReportedError(InputError):
  """An error that is already printed: `run` only sets the exit code."""


class ReportedInterrupt(KeyboardInterrupt):
  """An interrupt that is already printed: `run` only sets the exit code."""


def run(main: Callable[[], None], required: Sequence[str] = ()) -> NoReturn:
  """Parses sys.argv, calls `main` and exits the process.

  The exit code is 0 when `main` returns, 1 after an error and 130 after
  Ctrl-C or SIGTERM, both of which raise KeyboardInterrupt in `main`. An
  InputError or OSError is printed as one line; `--verbosity=1` adds its
  traceback. Any other exception is a bug and keeps its traceback.

  Args:
    main: function without arguments that reads the flags, for example with
      `options`, and does the script's work.
    required: names of the required flags.
  """
  _open_standard_streams()
  logging.use_absl_handler()
  flags.FLAGS.set_default("verbosity", logging.INFO)
  # TensorFlow logs its own deprecations, which no user can act on. Its errors
  # are also raised as exceptions.
  standard_logging.getLogger("tensorflow").setLevel(standard_logging.CRITICAL)
  if any(word in _HELP_FLAGS for word in sys.argv[1:]):
    sys.stdout.write(help_text(required))
    sys.exit(0)
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    parse(sys.argv, required)
    main()
  except (flags.Error, InputError, OSError) as error:
    if logging.level_debug():
      traceback.print_exc()
    if not isinstance(error, ReportedError):
      print_error(error)
    _exit(_EXIT_ERROR)
  except KeyboardInterrupt as interrupt:
    if not isinstance(interrupt, ReportedInterrupt):
      print_interrupt(*map(str, interrupt.args))
    _exit(_EXIT_INTERRUPTED)
  sys.exit(0)


def _open_standard_streams() -> None:
  """Opens the null device in place of a closed stdin, stdout or stderr.

  Without a stream, absl cannot log. The next file opened would also get the
  stream's descriptor, so C++ code would log into that file.
  """
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # Gets the lowest free descriptor.
  if sys.stdout is None:
    sys.stdout = open(os.devnull, "w", encoding="utf-8")
  if sys.stderr is None:
    sys.stderr = open(os.devnull, "w", encoding="utf-8")
    logging.get_absl_handler().python_handler.stream = sys.stderr


def parse(argv: Sequence[str], required: Sequence[str] = ()) -> None:
  """Parses a command line into `flags.FLAGS`.

  Args:
    argv: the program's name, then the words of its command line.
    required: names of the required flags.

  Raises:
    InputError: if a word belongs to no flag, a float is not finite, or a
      required flag is missing.
    flags.Error: if a flag is unknown or its value is invalid.
  """
  words = join_boolean_values(argv)
  for flag, value in zip(words[1:], words[2:]):
    if _is_boolean_flag(flag) and not value.startswith("-"):
      raise InputError(
          "{} {}: unexpected word {!r}; give True or False".format(
              flag, value, value))
  for flag, equals, value in (word.partition("=") for word in words):
    if (equals and _is_boolean_flag(flag)
        and value.lower() not in _BOOLEAN_VALUES):
      raise InputError(
          "{}={}: unexpected value {!r}; give True or False".format(
              flag, value, value))
  try:
    stray = flags.FLAGS(words)[1:]
  except flags.IllegalFlagValueError as error:
    for reason, remedy in _NOT_NUMBERS.items():
      prefix, separator, _ = str(error).partition(": " + reason)
      if separator:
        raise InputError("{}: {}".format(prefix, remedy)) from None
    raise
  if stray:
    raise InputError(
        "unexpected word {!r}: every word must be a flag or a flag's value; "
        "see --help".format(stray[0]))
  _check_numbers()
  missing = [name for name in required if flags.FLAGS[name].value in (None, "")]
  if missing:
    raise InputError("missing {}; see --help".format(", ".join(
        "--{} ({})".format(name, _first_sentence(flags.FLAGS[name].help))
        for name in missing)))


def options(cls: Type[Options]) -> Options:
  """Builds a dataclass from the flags named like its fields.

  Args:
    cls: the dataclass. A field that is a dataclass itself is built the same
      way, from the flags named like its own fields.
  """
  types = typing.get_type_hints(cls)
  return cls(**{
      field.name: options(types[field.name])
      if dataclasses.is_dataclass(types[field.name])
      else flags.FLAGS[field.name].value
      for field in dataclasses.fields(cls)})


def join_boolean_values(argv: Sequence[str]) -> List[str]:
  """Joins each boolean flag with the value after it, as `--flag=value`.

  absl reads `--do_train False` as do_train = True and a stray word.

  Args:
    argv: the program's name, then the words of its command line.
  """
  joined: List[str] = []
  for word in argv:
    if (joined and word.lower() in _BOOLEAN_VALUES
        and _is_boolean_flag(joined[-1])):
      joined[-1] += "=" + word
    else:
      joined.append(word)
  return joined


def help_text(required: Sequence[str] = ()) -> str:
  """Returns the script's docstring and the flags of the project's modules.

  Args:
    required: names of the required flags, which are listed first. The others
      follow in the order of their definition.
  """
  own_flags = [
      flag for module, flags_of_module in
      flags.FLAGS.flags_by_module_dict().items()
      if module.split(".")[0] not in _FOREIGN_PACKAGES
      for flag in flags_of_module
  ]
  own_flags.sort(key=lambda flag: flag.name not in required)
  lines = [(sys.modules["__main__"].__doc__ or "").strip(), "", "Flags:"]
  for flag in own_flags:
    if flag.name in required:
      note = "required"
    elif flag.default in (None, ""):
      note = "default: none"
    else:
      note = "default: {}".format(flag.default)
    lines.append("  --{} ({})".format(flag.name, note))
    lines.extend(textwrap.wrap(
        flag.help, width=78, initial_indent="      ",
        subsequent_indent="      "))
  return "\n".join(lines) + "\n"


def _is_boolean_flag(word: str) -> bool:
  """Returns whether `word` is `--flag` or `-flag` for a boolean flag."""
  name = word.lstrip("-")
  return (word.startswith("-") and name in flags.FLAGS
          and bool(flags.FLAGS[name].boolean))


def _check_numbers() -> None:
  """Raises InputError if a flag is NaN or infinite: NaN passes all bounds."""
  for name in flags.FLAGS:
    value = flags.FLAGS[name].value
    if isinstance(value, float) and not math.isfinite(value):
      raise InputError("--{}={}: give a finite number".format(name, value))


def print_error(error: Exception) -> None:
  """Prints an error that a user can cause as one line on stderr."""
  _print("error: " + " ".join(message(error).split()))


def print_interrupt(*details: str) -> None:
  """Prints one line on stderr that says that the process was interrupted."""
  _print("; ".join(["interrupted", *details]))


def message(error: Exception) -> str:
  """Returns an error's message; for an error of the system, with a remedy."""
  if not isinstance(error, OSError) or not error.filename:
    return str(error)
  return "{}: {}; {}".format(
      error.filename, error.strerror,
      _REMEDIES.get(error.errno, "check the path and the file system"))


def _first_sentence(text: str) -> str:
  return text.split(". ")[0].rstrip(".")


def _print(line: str) -> None:
  # One write, so that lines of several processes do not mix.
  sys.stderr.write("{}: {}\n".format(os.path.basename(sys.argv[0]), line))
  sys.stderr.flush()


def _exit(code: int) -> NoReturn:
  # Nothing is left to clean up, so SIGTERM from a launcher that ends all
  # processes must not raise KeyboardInterrupt during the exit.
  signal.signal(signal.SIGTERM, signal.SIG_DFL)
  sys.exit(code)

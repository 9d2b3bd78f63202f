"""What every script shares: it parses the command line and reports errors.

A script defines its flags under its `__main__` guard and hands `main` to
`run`:

  if __name__ == "__main__":
    define_flags()
    command_line.run(main, required=("read_file", "folder"))

This differs from absl's own `app.run` in four ways: `--flag True` means True
for a boolean flag too, a stray word is an error, `--help` lists every flag of
the stage and exits 0, and an error that a user can cause is one line.
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
# What to do about an error of the system.
_REMEDIES: Mapping[Optional[int], str] = {
    errno.EACCES: "check the permissions of the file and its folder",
    errno.EPERM: "check the permissions of the file and its folder",
    errno.EROFS: "choose a folder that can be written",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path: a file stands where a folder should",
    errno.EEXIST: "choose another name: a file stands where a folder should",
    errno.EISDIR: "give a file",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOSPC: "free some space and give the same command again",
    errno.EDQUOT: "free some space and give the same command again",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or choose another "
                 "file system",
}
# What Python says of words that are no numbers, and what to do.
_NOT_NUMBERS: Mapping[str, str] = {
    "invalid literal for int": "give a whole number",
    "could not convert string to float": "give a number",
}
_EXIT_ERROR = 1
_EXIT_INTERRUPTED = 130  # 128 + SIGINT, as in shells.


class InputError(ValueError):
  """An error that a user can cause and can correct.

  Its message says what was found, what was expected and what to do; `run`
  prints it as one line.
  """


class ReportedError(InputError):
  """An error that is printed already: no line, only the exit code."""


class ReportedInterrupt(KeyboardInterrupt):
  """An interrupt that is printed already."""


def run(main: Callable[[], None], required: Sequence[str] = ()) -> NoReturn:
  """Parses sys.argv, calls `main` and exits the process.

  The exit code is 0 when `main` returns, 1 after an error and 130 after
  Ctrl-C or SIGTERM, which both raise KeyboardInterrupt in `main`. An
  InputError or OSError is printed as one line; `--verbosity=1` adds its
  traceback. Any other exception is a bug and keeps its traceback.

  Args:
    main: the script's work; takes no arguments and turns the flags into
      options, as `options` does.
    required: names of the flags that must be given.
  """
  _open_standard_streams()
  logging.use_absl_handler()
  flags.FLAGS.set_default("verbosity", logging.INFO)
  # TensorFlow warns of its own deprecations, which no user can act on; its
  # errors come as exceptions too.
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
  """Opens the null device where stdin, stdout or stderr is closed.

  Python has no stream there, which absl cannot log to; and the next file that
  is opened would get its number, and what C++ code logs would get into it.
  """
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # It gets the lowest number that is free.
  if sys.stdout is None:
    sys.stdout = open(os.devnull, "w", encoding="utf-8")
  if sys.stderr is None:
    sys.stderr = open(os.devnull, "w", encoding="utf-8")
    logging.get_absl_handler().python_handler.stream = sys.stderr


def parse(argv: Sequence[str], required: Sequence[str] = ()) -> None:
  """Parses a command line into `flags.FLAGS`.

  Args:
    argv: the program's name, then the words of its command line.
    required: names of the flags that must be given.

  Raises:
    InputError: a word belongs to no flag, or a required flag is missing.
    flags.Error: a flag is unknown, or its value is not valid.
  """
  words = join_boolean_values(argv)
  for flag, value in zip(words[1:], words[2:]):
    if _is_boolean_flag(flag) and not value.startswith("-"):
      raise InputError(
          "{} {}: unexpected word {!r}; {} is True or False".format(
              flag, value, value, flag))
  for flag, equals, value in (word.partition("=") for word in words):
    if (equals and _is_boolean_flag(flag)
        and value.lower() not in _BOOLEAN_VALUES):
      raise InputError(
          "{}={}: unexpected value {!r}; {} is True or False".format(
              flag, value, value, flag))
  try:
    stray = flags.FLAGS(words)[1:]
  except flags.IllegalFlagValueError as error:
    for reason, remedy in _NOT_NUMBERS.items():
      told, separator, _ = str(error).partition(": " + reason)
      if separator:
        raise InputError("{}: {}".format(told, remedy)) from None
    raise
  if stray:
    raise InputError(
        "unexpected word {!r}: every word must be a flag or the value of one; "
        "see --help".format(stray[0]))
  _check_numbers()
  missing = [name for name in required if flags.FLAGS[name].value in (None, "")]
  if missing:
    raise InputError("missing {}; see --help".format(", ".join(
        "--{} ({})".format(name, _first_sentence(flags.FLAGS[name].help))
        for name in missing)))


def options(cls: Type[Options]) -> Options:
  """Reads a dataclass from the flags that have the names of its fields.

  Args:
    cls: the dataclass; a field that is a dataclass itself is read likewise,
      from flags with the names of its own fields.

  Returns:
    The options that the parsed command line gives.
  """
  types = typing.get_type_hints(cls)
  return cls(**{
      field.name: options(types[field.name])
      if dataclasses.is_dataclass(types[field.name])
      else flags.FLAGS[field.name].value
      for field in dataclasses.fields(cls)})


def join_boolean_values(argv: Sequence[str]) -> List[str]:
  """Joins `--flag value` to `--flag=value` where the flag is boolean.

  absl reads `--do_train False` as do_train = True and a stray word.

  Args:
    argv: the program's name, then the words of its command line.

  Returns:
    The same words, each boolean flag joined with the value that follows it.
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
    required: names of the flags that must be given, which come first; the
      others follow in the order of definition.
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
  """Raises InputError for a float that is NaN, which no bound refuses."""
  for name in flags.FLAGS:
    value = flags.FLAGS[name].value
    if isinstance(value, float) and not math.isfinite(value):
      raise InputError("--{}={}: give a finite number".format(name, value))


def print_error(error: Exception) -> None:
  """Prints an error that a user can cause as one line on stderr."""
  _print("error: " + " ".join(message(error).split()))


def print_interrupt(*details: str) -> None:
  """Prints that the process was told to stop as one line on stderr."""
  _print("; ".join(["interrupted", *details]))


def message(error: Exception) -> str:
  """Returns what an error says; what to do too, if the system says it."""
  if not isinstance(error, OSError) or not error.filename:
    return str(error)
  return "{}: {}; {}".format(
      error.filename, error.strerror,
      _REMEDIES.get(error.errno, "check the path and the file system"))


def _first_sentence(text: str) -> str:
  return text.split(". ")[0].rstrip(".")


def _print(line: str) -> None:
  # In one piece, so that lines of several processes do not mix.
  sys.stderr.write("{}: {}\n".format(os.path.basename(sys.argv[0]), line))
  sys.stderr.flush()


def _exit(code: int) -> NoReturn:
  # Nothing is left that a signal could stop in order: a launcher that ends all
  # processes must not find this one in the middle of its exit.
  signal.signal(signal.SIGTERM, signal.SIG_DFL)
  sys.exit(code)

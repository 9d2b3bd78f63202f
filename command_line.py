"""The edge that every script shares: a command line in, one-line errors out.

A script defines its flags under its `__main__` guard and hands `main` to
`run`:

  if __name__ == "__main__":
    define_flags()
    command_line.run(main, required=("read_file", "folder"))

This differs from absl's own `app.run` in four ways: `--flag True` means True
for a boolean flag too, a stray word is an error, `--help` lists every flag of
the stage and exits 0, and what a user can cause ends in one line.

This room owns the parsing of argv and the exit code. Of the stages' flags it
knows those alone that each reader of records has.
"""

import logging as standard_logging
import signal
import sys
import textwrap
import traceback
from typing import Callable, List, NoReturn, Sequence

from absl import flags
from absl import logging

# The words that absl's BooleanParser takes behind `--flag=`.
_BOOLEAN_WORDS = ("true", "t", "1", "false", "f", "0")
_HELP_WORDS = ("--help", "-help", "--helpshort", "--helpfull", "-h")
# Packages whose flags are theirs, not the stage's.
_FOREIGN_PACKAGES = ("absl", "tensorflow")
_EXIT_ERROR = 1
_EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it.


def run(main: Callable[[], None], required: Sequence[str] = ()) -> NoReturn:
  """Parses sys.argv, calls `main` and exits the process.

  The exit code is 0 when `main` returns, 1 after an error and 130 after
  Ctrl-C or SIGTERM, which both raise KeyboardInterrupt in `main`. A ValueError
  or OSError counts as something that the user can mend: its message is printed
  as one line; `--verbosity=1` adds the traceback.

  Args:
    main: the script's work; takes no arguments and reads `flags.FLAGS`.
    required: names of the flags that must be given.
  """
  logging.use_absl_handler()
  flags.FLAGS.set_default("verbosity", logging.INFO)
  # What TensorFlow warns of is its own history, not the user's doing.
  standard_logging.getLogger("tensorflow").setLevel(standard_logging.ERROR)
  if any(word in _HELP_WORDS for word in sys.argv[1:]):
    sys.stdout.write(help_text(required))
    sys.exit(0)
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  try:
    parse(sys.argv, required)
    main()
  except (flags.Error, ValueError, OSError) as error:
    if logging.level_debug():
      traceback.print_exc()
    _exit(_EXIT_ERROR, "error: " + " ".join(str(error).split()))
  except KeyboardInterrupt as interrupt:
    _exit(_EXIT_INTERRUPTED, "interrupted" + "".join(
        "; " + str(word) for word in interrupt.args))
  sys.exit(0)


def parse(argv: Sequence[str], required: Sequence[str] = ()) -> None:
  """Parses a command line into `flags.FLAGS`.

  Args:
    argv: the program's name and its words.
    required: names of the flags that must be given.

  Raises:
    ValueError: a word belongs to no flag, or a required flag is missing.
    flags.Error: absl's own complaints: an unknown flag, a value that does not
      parse.
  """
  stray = flags.FLAGS(join_boolean_values(argv))[1:]
  if stray:
    raise ValueError(
        "unexpected word {!r}: every word must be a flag or the value of one; "
        "see --help".format(stray[0]))
  missing = [name for name in required if flags.FLAGS[name].value in (None, "")]
  if missing:
    raise ValueError("missing {}; see --help".format(", ".join(
        "--{} ({})".format(name, _first_sentence(flags.FLAGS[name].help))
        for name in missing)))


def define_record_lengths() -> None:
  """Defines the flags that say how long the records to read are."""
  flags.DEFINE_integer(
      "max_seq_length", 128, "Tokens in a sequence, as in the records.",
      lower_bound=1)
  flags.DEFINE_integer(
      "max_predictions_per_seq", 20,
      "Slots for masked words in a sequence, as in the records.",
      lower_bound=1)


def join_boolean_values(argv: Sequence[str]) -> List[str]:
  """Joins `--flag value` to `--flag=value` where the flag is boolean.

  absl reads `--do_train False` as do_train = True and a stray word.

  Args:
    argv: the program's name and its words.

  Returns:
    The same words, each boolean flag with the value that follows it.
  """
  joined = []
  for word in argv:
    if (joined and word.lower() in _BOOLEAN_WORDS
        and _is_bare_boolean(joined[-1])):
      joined[-1] += "=" + word
    else:
      joined.append(word)
  return joined


def help_text(required: Sequence[str] = ()) -> str:
  """Returns the script's docstring and its flags, in the order of definition.

  Args:
    required: names of the flags that must be given; they come first.
  """
  modules = flags.FLAGS.flags_by_module_dict()
  own_flags = [
      flag for module, module_flags in modules.items()
      if module.split(".")[0] not in _FOREIGN_PACKAGES for flag in module_flags
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


def _is_bare_boolean(word: str) -> bool:
  """Says whether `word` is `--flag` or `-flag` for a boolean flag."""
  name = word.lstrip("-")
  return (word.startswith("-") and name in flags.FLAGS
          and bool(flags.FLAGS[name].boolean))


def _first_sentence(text: str) -> str:
  return text.split(". ")[0].rstrip(".")


def _exit(code: int, message: str) -> NoReturn:
  name = sys.argv[0].replace("\\", "/").rsplit("/", 1)[-1]
  sys.stderr.write("{}: {}\n".format(name, message))
  sys.exit(code)

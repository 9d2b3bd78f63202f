"""Tests of faults that users meet: one error line each, and no lost files.

Every case runs a real script in a world with one fault. The script must end
with one line that names the flag or file, the value found, the value expected
and the remedy. The script must not change any finished file. Without the fault,
the same command must then make the files of a clean run.
"""

import os
from typing import Any, Callable, Mapping, NamedTuple, Sequence

import pytest

import fault_world
import spoilers
from spoilers import (BOUND_BY_MODES, changed, CHECKPOINT, CHECKPOINT_DATA,
                      CONFIG, content, fifo, file, folder, half, missing,
                      mode, nothing, records)
from fault_world import STAGES
import tiny

Spoil = Callable[[fault_world.World], Any]


class Case(NamedTuple):
  """A fault and its error.

  Attributes:
    name: name of the case.
    stage: name of the stage in `STAGES`.
    words: words in the line of the error.
    spoil: causes the fault in a world; may return a function that ends it.
    flags: changes of the command that are part of the fault.
    always: changes of the command with and without the fault.
    options: keywords of `World.run` for the command with the fault.
    is_slow: whether the trainer starts to train before the error.
  """
  name: str
  stage: str
  words: Sequence[str]
  spoil: Spoil = nothing()
  flags: Mapping[str, Any] = {}
  always: Mapping[str, Any] = {}
  options: Mapping[str, Any] = {}
  is_slow: bool = False


_MODES = {"prefix": BOUND_BY_MODES}
# Stages, the flags that name one input file, and the file.
_INPUTS = (
    ("extract", "dump_file", "dump.xml"),
    ("split", "read_file", "text.txt"),
    ("create", "vocab_file", "vocab.txt"),
    ("label", "bert_config_file", CONFIG),
    ("label", "input_file", "masked.tfrecord"),
    ("train", "bert_config_file", CONFIG),
    ("train", "input_file", "labelled.tfrecord"),
)
_FOLDERS = (("jsons", "folder", "articles", "articles/AA/wiki_00"),
            ("create", "input_dir", "split", "split/part_0.txt"))


def _input_cases():
  """Yields faults of input files and folders, whatever their format."""
  for stage, flag, path in _INPUTS:
    start = ("--" + flag, path)
    yield Case("missing_" + flag, stage, start, missing(path))
    yield Case("empty_" + flag, stage, start, spoilers.empty(path))
    yield Case("folder_as_" + flag, stage, start + ("folder", "give"),
               folder(path))
    yield Case("fifo_as_" + flag, stage,
               start + ("a pipe", "regular file", "to a file first"),
               fifo(path))
    yield Case("unreadable_" + flag, stage,
               (path, "Permission denied", "check the permissions"),
               mode(path, 0), options=_MODES)
  for stage, flag, path, name in _FOLDERS:
    start = ("--" + flag, path)
    yield Case("missing_" + flag, stage, start + ("no folder", "give"),
               missing(path))
    yield Case("file_as_" + flag, stage, start + ("no folder", "give"),
               file(path))
    yield Case("no_file_in_" + flag, stage, start + ("holds no file", "give"),
               folder(path))
    yield Case("empty_file_in_" + flag, stage, start, spoilers.empty(name))
    yield Case("unreadable_file_in_" + flag, stage,
               (name, "Permission denied"), mode(name, 0), options=_MODES)
  for stage in ("label", "train"):
    yield Case("no_match", stage, ("--input_file", "none*.tfrecord",
                                   "check the path", "quote"),
               flags={"input_file": "none*.tfrecord"})
    yield Case("no_checkpoint", stage,
               ("--init_checkpoint", "model/none", "without `.index`"),
               flags={"init_checkpoint": "model/none"})


def _output_cases():
  """Yields faults of output files and folders."""
  for stage in ("extract", "jsons", "split", "create", "label", "train"):
    yield Case("output_folder_not_writable", stage,
               ("out", "Permission denied"), mode("out", 0o555),
               options=_MODES)
  for stage, flag in (("extract", "output_file"), ("jsons", "write_file"),
                      ("label", "output_file")):
    path = STAGES[stage].flags[flag]
    yield Case("output_is_a_folder", stage, (path, "folder", "name"),
               folder(path))
  for stage, flag in (("split", "folder"), ("create", "output_dir"),
                      ("train", "output_dir")):
    yield Case("output_folder_is_a_file", stage, ("vocab.txt",),
               flags={flag: "vocab.txt"})
  for stage, path in (
      ("extract", "out/.wikipedia.txt.partial"),
      ("jsons", "out/.articles.txt.partial"),
      ("split", "out/.part_0.txt.partial"),
      ("split", "out/.part_1.txt.partial"),
      ("create", "out/.masked_1.tfrecord.partial"),
      ("label", "out/.labelled.tfrecord.partial"),
      ("label", "out/.labelled.tfrecord.json.partial"),
      ("train", "out/.lock")):
    yield Case("planted_link_" + os.path.basename(path), stage,
               (path, "is a symbolic link", "not followed", "remove the link"),
               spoilers.link(path, "../dump.xml"))


def _full_disk_cases():
  """Yields disks that are full after some pages, for each stage."""
  for stage, all_pages in (
      ("extract", (0,)), ("jsons", (0,)), ("split", (0, 1, 2)),
      ("create", (0, 1, 3, 5)), ("label", (0, 2, 4)),
      ("train", (0, 700, 900))):
    for pages in all_pages:
      yield Case("{}_pages_free".format(pages), stage,
                 ("out", "No space left", "free some", "the same command"),
                 spoilers.full_disk(pages), is_slow=pages >= 700)
  yield Case("disk_full_at_the_export", "train",
             ("out", "No space left", "free some", "the same command"),
             spoilers.full_disk_after_training, is_slow=True)
  yield Case("file_size_limit", "extract", ("out", "File too large"),
             options={"file_bytes": 512})


def _record_cases():
  """Yields damaged records, and records that do not fit the flags."""
  for stage, flag, path, with_labels, is_compact in (
      ("label", "input_file", "masked.tfrecord", False, False),
      ("train", "input_file", "labelled.tfrecord", True, False),
      ("train", "input_file", "compact.tfrecord", True, True)):
    # 20 steps of 2 reach the last of 40 records.
    always = {"num_train_steps": 20, flag: path} if with_labels else {}
    damaged = ("--" + flag, path, "damaged", "again")

    def case(name, words, spoil, **keywords):
      name += "_in_compact_records" if is_compact else ""
      return Case(name, stage, words, spoil, always=always,
                  is_slow=bool(always), **keywords)

    def other(shape=tiny.SHAPE, **changes):
      layout = tiny.layout(shape) if is_compact else None
      return records(path, with_labels, shape, layout, **changes)

    yield case("cut_first_record", damaged + ("cut", "byte 0"),
               changed(path, lambda data: data[:60]))
    yield case("cut_last_record", damaged + ("cut",), spoilers.cut(path, 5))
    yield case("flipped_byte_in_first_record", damaged + ("byte 0",),
               spoilers.flipped(path, 40))
    yield case("flipped_byte_in_last_record", damaged,
               changed(path, lambda data: data[:-9] + bytes([data[-9] ^ 1])
                       + data[-8:]))
    yield case("huge_length", damaged, content(
        path, (1 << 60).to_bytes(8, "little") + bytes(100)))
    yield case("text_as_records", damaged + ("not a TFRecord file",),
               content(path, "no records, but text\n" * 10))
    yield case("gzip_as_records", damaged + ("not a TFRecord file",),
               spoilers.compressed(path))
    yield case("other_max_seq_length",
               ("--max_seq_length=10", path, "12 values", "=12", "again"),
               other(tiny.SHAPE._replace(max_seq_length=12)))
    yield case("other_max_predictions_per_seq",
               ("--max_predictions_per_seq=3", path, "2 values", "=2"),
               other(tiny.SHAPE._replace(max_predictions_per_seq=2)))
    yield case("token_id_out_of_range",
               (path, "record 39", "input_ids 29", "28", "again"),
               other(input_ids=(0, 29)))
    yield case("position_out_of_range",
               (path, "record 39", "masked_lm_positions 10", "again"),
               other(masked_lm_positions=(0, 10)))
    if is_compact:
      yield case("cut_string", ("--" + flag, "Key: compact", "again"),
                 spoilers.payload(path, lambda string: string[:-1]))
      yield case("string_of_another_layout",
                 ("--" + flag, "Key: compact", "again"),
                 spoilers.payload(path, lambda string: b"!" + string[1:]))
    else:
      yield case("negative_segment",
                 (path, "record 39", "segment_ids -1", "again"),
                 other(segment_ids=(0, -1)))
    yield case("larger_vocabulary", ("--bert_config_file", "vocab_size 29",
                                     path, "31", "use the config"),
               spoilers.manifest(path, vocab_size=31))
    yield case("manifest_of_another_size", (path, "manifest", "again"),
               spoilers.manifest(path, num_bytes=7))
    yield case("manifest_is_text", (path + ".json", "not a manifest", "remove"),
               content(path + ".json", "a manifest\n"))
    yield case("more_positions_than_the_model",
               ("--max_seq_length=17", "max_position_embeddings=16"),
               nothing(), flags={"max_seq_length": 17})
  yield Case("other_truncation_factor", "train",
             ("--truncation_factor=4", "labelled.tfrecord", "=5", "again"),
             records("labelled.tfrecord",
                     shape=tiny.SHAPE._replace(truncation_factor=5)))
  yield Case("no_labels", "train",
             ("labelled.tfrecord", "no teacher labels", "run",
              "--hard_label_weight=1"), records("labelled.tfrecord", False))
  yield Case("index_out_of_range", "train",
             ("labelled.tfrecord", "record 39", "top_k_indices 29", "again"),
             records("labelled.tfrecord", top_k_indices=(0, 29)),
             always={"num_train_steps": 20}, is_slow=True)


def _vocabulary_cases():
  path = "vocab.txt"
  for token in ("[UNK]", "[CLS]", "[SEP]", "[MASK]"):
    yield Case("no_" + token[1:-1], "create",
               ("--vocab_file", path, token, "give a BERT vocab.txt"),
               changed(path, lambda data, token=token: data.replace(
                   token.encode() + b"\n", b"")))
  yield Case("vocabulary_in_latin1", "create",
             ("--vocab_file", path, "UTF-8", "give a BERT vocab.txt"),
             changed(path, lambda data: data + b"\xe4\n"))
  yield Case("text_in_latin1", "create",
             ("--input_dir", "split/part_1.txt", "UTF-8", "iconv"),
             changed("split/part_1.txt", lambda data: data + b"\xe4\n"))
  yield Case("huge_line", "create",
             ("--input_dir", "split/part_1.txt", "line"),
             changed("split/part_1.txt", lambda data: data + b"wa " * 700000))


def _config_cases():
  """Yields invalid configs."""
  for stage in ("label", "train"):
    start = ("--bert_config_file", CONFIG)
    for name, words, spoil in (
        ("malformed", ("JSON",), half(CONFIG)),
        ("is_a_list", ("JSON",), content(CONFIG, "[1, 2]")),
        ("lacks_vocab_size", ("vocab_size",),
         spoilers.config(remove=("vocab_size",))),
        ("heads_do_not_divide", ("hidden_size", "8", "num_attention_heads",
                                 "3"), spoilers.config(num_attention_heads=3)),
        ("hidden_size_is_zero", ("hidden_size", "0"),
         spoilers.config(hidden_size=0)),
        ("layers_are_text", ("num_hidden_layers", "two"),
         spoilers.config(num_hidden_layers="two")),
        ("unknown_activation", ("hidden_act", "swoosh"),
         spoilers.config(hidden_act="swoosh"))):
      yield Case("config_" + name, stage, start + words, spoil)


def _checkpoint_cases():
  for stage in ("label", "train"):
    start = ("--init_checkpoint", CHECKPOINT)
    for name, words, spoil in (
        ("without_data", ("again",), missing(CHECKPOINT_DATA)),
        ("with_half_its_data", ("damaged", "again"), half(CHECKPOINT_DATA)),
        ("with_a_flipped_byte", ("damaged", "again"),
         spoilers.flipped(CHECKPOINT_DATA, 500)),
        ("with_half_its_index", ("not a readable checkpoint",),
         half(CHECKPOINT + ".index")),
        ("of_another_width",
         ("shape", "bert_config", "use the config"),
         spoilers.checkpoint(
             lambda variables: {name: value.repeat(2, axis=-1)
                                for name, value in variables.items()})),
        ("under_other_names", ("other/bert/embeddings/word_embeddings",
                               "rename them"),
         spoilers.checkpoint(spoilers.renamed)),
        ("with_a_nan", ("bert/pooler/dense/bias", "NaN", "use an earlier"),
         spoilers.checkpoint(spoilers.not_a_number))):
      yield Case("checkpoint_" + name, stage, start + words, spoil)
  yield Case("checkpoint_without_head", "label",
             ("--init_checkpoint", CHECKPOINT, "lacks", "cls/predictions",
              "use a"),
             spoilers.checkpoint(lambda variables: {
                 name: value for name, value in variables.items()
                 if "cls" not in name}))
  yield Case("output_dir_of_another_model", "train",
             ("--output_dir", "model.ckpt-7", "shape"), spoilers.other_run)


def _flag_cases():
  """Yields invalid flags and values of flags."""
  for flag, value, stage in (
      ("learning_rate", -1e-3, "train"), ("learning_rate", "nan", "train"),
      ("learning_rate", "inf", "train"),
      ("num_train_steps", 0, "train"), ("num_train_steps", -5, "train"),
      ("num_train_steps", "nan", "train"), ("num_warmup_steps", -1, "train"),
      ("save_checkpoints_steps", 0, "train"),
      ("train_batch_size", 0, "train"), ("eval_batch_size", -1, "train"),
      ("temperature", 0, "train"), ("temperature", "nan", "train"),
      ("hard_label_weight", "nan", "train"), ("hard_label_weight", 2, "train"),
      ("temperature", 0, "label"), ("temperature", "nan", "label"),
      ("batch_size", 0, "label"), ("truncation_factor", 0, "label"),
      ("truncation_factor", 30, "label"), ("tail_samples", 4, "label"),
      ("precision", "fp64", "label"),
      ("max_seq_length", 4, "create"), ("dupe_factor", 0, "create"),
      ("masked_lm_prob", "nan", "create"), ("masked_lm_prob", -1, "create"),
      ("short_seq_prob", "nan", "create"), ("num_workers", 0, "create"),
      ("split_number", 0, "split"), ("split_number", 10, "split"),
      ("split_number", "1.5", "split"),
      ("min_words", 0, "extract"), ("namespaces", "a", "extract")):
    yield Case("{}_is_{}".format(flag, value), stage, (flag, str(value)),
               flags={flag: value})
  yield Case("loss_is_nan", "train",
             ("the loss is NaN", "step 2", "out", "run the same command",
              "lower --learning_rate", "--num_warmup_steps"),
             flags={"learning_rate": 1e36}, is_slow=True)
  yield Case("do_train_maybe", "train",
             ("--do_train", "'maybe'", "True or False"),
             flags={"do_train": None}, options={
                 "words": ("--do_train", "maybe")})
  yield Case("do_train_equals_maybe", "train",
             ("--do_train=maybe", "True or False"),
             flags={"do_train": "maybe"})
  yield Case("nothing_to_do", "train", ("--do_train", "--do_eval", "False"),
             flags={"do_train": False})
  yield Case("misspelt_flag", "train", ("lerning_rate", "learning_rate"),
             flags={"lerning_rate": 1})
  yield Case("misspelt_flag", "label", ("truncation_facter",
                                        "truncation_factor"),
             flags={"truncation_facter": 1})
  yield Case("misspelt_flag", "create", ("input_dri", "input_dir"),
             flags={"input_dri": 1})
  yield Case("misspelt_flag", "split", ("fodler", "folder"),
             flags={"fodler": 1})
  for stage, flag in (("extract", "dump_file"), ("jsons", "folder"),
                      ("split", "name_base"), ("create", "vocab_file"),
                      ("label", "input_file"), ("train", "output_dir")):
    yield Case("flag_is_not_given", stage, ("missing --" + flag, "--help"),
               flags={flag: None})
    yield Case("stray_word", stage, ("unexpected word 'stray'", "--help"),
               options={"words": ("stray",)})


CASES = [case for cases in (
    _input_cases, _output_cases, _full_disk_cases, _record_cases,
    _vocabulary_cases, _config_cases, _checkpoint_cases, _flag_cases)
         for case in cases()]


@pytest.mark.parametrize("case", [
    pytest.param(case, id="{}-{}".format(case.stage, case.name),
                 marks=[pytest.mark.slow] if case.is_slow else [])
    for case in CASES])
def test_a_fault_gives_one_error_line(case, new_world, clean, record_property):
  """Runs the command with the fault, then without the fault.

  If the first run leaves the output folder empty, the second run would repeat
  the clean run and is skipped.
  """
  stage = STAGES[case.stage]
  wanted = clean(stage, case.always)
  world = new_world()
  undo = case.spoil(world)
  try:
    before = fault_world.hashes(world.folder)
    faulty = world.run(stage, {**case.always, **case.flags}, **case.options)
    record_property("message", faulty.message)
    fault_world.assert_one_line(faulty, stage, case.words)
    after = fault_world.hashes(world.folder)
    assert {path: after.get(path) for path in before} == before
    fault_world.assert_nothing_is_half_written(
        world, stage, {**before, **(wanted if stage.outputs else {})})
    if undo:
      undo()
    world.restore_inputs()
    if not any(world.out.iterdir()):
      return
    outcome = world.run(stage, case.always)
    assert outcome.returncode == 0, outcome.stderr
    if stage.outputs:
      assert fault_world.outputs(world, stage) == wanted
    else:
      fault_world.assert_same_training(
          fault_world.trained(world.out), wanted)
  finally:
    spoilers.unmount(world)


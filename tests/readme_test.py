"""Tests of the commands in README.md and the other documents.

Each block of commands runs here on a tiny teacher and text, or is listed with
the reason why it does not run. The flags of all commands must exist.
"""

import dataclasses
import functools
import os
import re
import subprocess

import pytest

import tiny

_DOCUMENTS = ("README.md", *(
    "docs/{}.md".format(name) for name in (
        "devices", "labels", "processes", "records", "results", "speed",
        "teacher", "training", "troubleshooting", "using", "wikipedia")),
              "CONTRIBUTING.md", "CHANGELOG.md",
              "extract_wikipedia_for_bert/README.md")
_LINK = re.compile(r"\]\(([^()#\s]*)(?:#([^()\s]*))?\)")
_BLOCK = re.compile(r"^ *```shell\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_PYTHON = re.compile(r"python (\S+\.py)([^;\n]*)")

# The first characters of the blocks that run, in order, with replacements that
# change paths or reduce the work.
_RUN = {
    # The text is so short that a file would have only three records.
    "python split_text.py \\\n  --read_file data/": {
        "--dupe_factor 1": "--dupe_factor 10"},
    "for i in $(seq 0 10)": {"seq 0 10": "seq 0 1"},
    "mpirun -np 8 -H localhost:8 -bind-to none -map-by slot -x PATH": {
        "-np 8 -H localhost:8": "-np 2 -H localhost:2",
        "wiki_distill.tfrecord": "wiki_of_two.tfrecord"},
    "python examples/convert_records.py": {},
    "python examples/show_records.py": {},
    "python examples/make_student_config.py \\\n"
    "  --bert_config_file $TEACHER/bert_config.json \\\n  --layers": {},
    "python network_distillation_single_machine_truncated.py \\\n": {
        "100000": "4", "10000": "1", "data/labelled/wiki_distill*":
        "data/labelled/wiki_distill_?"},
    "mpirun -np 8 -H localhost:8 -bind-to none -map-by slot \\": {
        "-np 8 -H localhost:8": "-np 2 -H localhost:2", "800000": "8",
        "80000": "2", "student/run": "student/run_of_two",
        "data/labelled/wiki_distill*": "data/labelled/wiki_of_two*"},
    "python network_distillation_single_machine_truncated.py --do_eval": {},
    "python examples/fine_tune_classifier.py": {},
    "TEACHER=$TEACHER STUDENT": {
        "STUDENT=": "MAX_SEQ_LENGTH=20 EPOCHS=1 STUDENT="},
    "cut -f 2- train.tsv": {
        "teacher_classifier": "classifier"},
    "python examples/export_student.py --format huggingface": {},
    "python examples/export_student.py --format saved_model": {},
    "python examples/export_student.py --format tflite": {},
}
# The first characters of the blocks that do not run, with the reason.
_DO_NOT_RUN = {
    "git clone": "sets up; demo.sh is the user's to look at",
    "wget https://storage": "takes a large file from the network",
    "mkdir -p data\nwget": "takes a large file from the network",
    "printf '%s slots=8": "needs two hosts; tests/hosts_test.py has them",
    "python examples/compare_students.py": "trains for hours; its own test",
    "TEXT=data/wikipedia.txt": "tests/examples/pipeline_test.py runs it",
    "./setup.sh --gpu": "takes 2.3 GB from the network",
    "docker run --gpus": "needs docker and a GPU",
    "benchmarks/gpu.sh": "measures for minutes",
    "./setup.sh\nsource": "sets up",
    "./setup.sh     ": "runs these tests",
    "pip install -r": "is a part of setup.sh",
    "echo \"tensorflow[and-cuda]": "needs uv and the network",
    "python examples/make_student_config.py \\\n"
    "  --bert_config_file $TEACHER/bert_config.json --published":
        "needs a published model; tests/examples/make_student_config_test.py",
    "wget https://dumps": "takes a large file from the network",
    "python extract_wikipedia_for_bert/": "its own tests",
    "python split_text.py --read_file wikipedia.txt": "as that of README.md",
}
_WORDS = ("the quick brown fox jumps over a lazy dog while many small birds "
          "sing their old songs in tall green trees").split()


def _blocks(document):
  text = (tiny.ROOT / document).read_text(encoding="utf-8")
  return [re.sub("^   ", "", block, flags=re.MULTILINE)
          if block.startswith("   ") else block
          for block in _BLOCK.findall(text)]


def _all_blocks():
  return [block for document in _DOCUMENTS for block in _blocks(document)]


def _beginnings(block):
  return [beginning for beginning in (*_RUN, *_DO_NOT_RUN)
          if block.startswith(beginning)]


def test_each_block_runs_or_has_a_reason():
  blocks = _all_blocks()
  assert len(blocks) >= 20
  for block in blocks:
    assert len(_beginnings(block)) == 1, block
  used = {beginning for block in blocks for beginning in _beginnings(block)}
  assert used == {*_RUN, *_DO_NOT_RUN}


def _anchors(document):
  """Returns the anchors of the headings of a document."""
  headings = re.findall("^#+ (.*)$", (tiny.ROOT / document).read_text(
      encoding="utf-8"), re.MULTILINE)
  return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
          for heading in headings}


def test_targets_of_links_exist():
  assert {str(path.relative_to(tiny.ROOT))
          for path in (tiny.ROOT / "docs").glob("*.md")} < set(_DOCUMENTS)
  num_links = 0
  for document in _DOCUMENTS:
    text = (tiny.ROOT / document).read_text(encoding="utf-8")
    for path, anchor in _LINK.findall(text):
      if path.startswith("http"):
        continue
      num_links += 1
      target = os.path.normpath(os.path.join(
          os.path.dirname(document), path)) if path else document
      assert (tiny.ROOT / target).exists(), (document, path)
      assert not anchor or anchor in _anchors(target), (document, anchor)
  assert num_links > 10


@functools.lru_cache(maxsize=None)
def _flags(script):
  """Returns the names of the flags that a script's help lists."""
  result = tiny.run_script(script, "--help")
  assert result.returncode == 0, result.stderr
  return set(re.findall(r"--(?:\[no\])?(\w+)", result.stdout))


def test_the_flags_of_all_commands_exist():
  commands = [command for block in _all_blocks() for command in
              _PYTHON.findall(block.replace("\\\n", " "))]
  assert len(commands) >= 14
  for script, arguments in commands:
    used = set(re.findall(r"(?<!\S)--(\w+)", arguments))
    assert used and used <= _flags(script), script


@pytest.fixture(name="world")
def _world(tmp_path):
  """The repository with a teacher, a text and sentences to classify."""
  for path in tiny.ROOT.iterdir():
    if not path.name.startswith("."):
      (tmp_path / path.name).symlink_to(path)
  teacher = tmp_path / "models"
  teacher.mkdir()
  vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".",
                *sorted(set(_WORDS))]
  config = dataclasses.replace(
      tiny.CONFIG, vocab_size=len(vocabulary), max_position_embeddings=128,
      num_hidden_layers=12)
  tiny.write_config(teacher / "bert_config.json", config)
  tiny.write_checkpoint(
      teacher / "bert_model.ckpt", tiny.random_variables(config))
  (teacher / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
  sentences = [" ".join(_WORDS[start:start + 6]) + " ." for start in range(14)]
  (tmp_path / "data").mkdir()
  (tmp_path / "data" / "wikipedia.txt").write_text("\n\n".join(
      "\n".join(sentences * 3) for _ in range(100)) + "\n")
  for name in ("train.tsv", "heldout.tsv"):
    (tmp_path / name).write_text("".join(
        "{}\t{}\n".format(len(sentence) % 2, sentence)
        for sentence in sentences * 2))
  (tmp_path / "texts.txt").write_text("\n".join(sentences[::-1]) + "\n\n")
  return tmp_path


def _run_block(world, beginning):
  """Runs a block of commands in the folder."""
  block = next(block for block in _all_blocks() if block.startswith(beginning))
  for old, new in _RUN[beginning].items():
    assert old in block, beginning
    block = block.replace(old, new)
  result = subprocess.run(
      ["bash", "-euo", "pipefail", "-c", block], cwd=world,
      env=tiny.launch_environment(TEACHER="models"), stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False,
      timeout=300)
  assert result.returncode == 0, block + result.stderr


def test_cheap_commands_run_as_they_are_printed(world):
  """Runs the commands that neither train nor label."""
  _run_block(world, "python split_text.py \\\n  --read_file data/")
  _run_block(world, next(
      beginning for beginning in _RUN
      if beginning.startswith("python examples/make_student_config.py")))
  assert (world / "data/masked/wiki_masked_99.tfrecord").exists()
  assert (world / "student/bert_config.json").exists()


@pytest.mark.slow
def test_commands_run_as_they_are_printed(world):
  """Runs the blocks in order; each uses the outputs of earlier blocks."""
  for beginning in _RUN:
    _run_block(world, beginning)
  for path in ("data/masked/wiki_masked_99.tfrecord",
               "data/labelled/heldout.tfrecord",
               "data/labelled/wiki_of_two-00001-of-00002.tfrecord",
               "data/compact/wiki_distill_1.tfrecord",
               "student/run/student/bert_model.ckpt.index",
               "student/run_of_two/eval_results.txt",
               "teacher_evaluation/eval_results.txt",
               "classifier/eval_results.txt",
               "classifiers/student/eval_results.txt",
               "distilled_classifier/eval_results.txt",
               "student/huggingface/model.safetensors",
               "classifier/huggingface/model.safetensors",
               "serving/classifier/1/saved_model.pb",
               "classifier/tflite/model.tflite"):
    assert (world / path).exists(), path

"""Tests of the benchmarks of speed and their reports, on tiny inputs."""

import copy
import dataclasses
import json
import sys

import pytest

import tiny

# Last, because some benchmarks have the names of the scripts that they time.
sys.path.append(str(tiny.ROOT / "benchmarks"))
# pylint: disable=wrong-import-position
import measure
import projection
import report

_RESULTS = tiny.ROOT / "benchmarks" / "results.json"
_WORDS = "the quick brown fox jumps over a lazy dog".split()
_PEER = {"name": "peer", "version": "1.0"}


# --- Figures -----------------------------------------------------------------


def test_contenders_take_turns():
  calls = []
  figures = measure.alternate({
      name: lambda name=name: calls.append(name) or len(calls)
      for name in "ab"}, 3)
  assert calls == list("ababab")
  assert figures == {"a": [1, 3, 5], "b": [2, 4, 6]}


def test_a_row_has_medians_and_ratios():
  row = measure.row("x", "MB/s", [1.0, 6.0, 2.0], _PEER, [8.0, 3.0, 4.0],
                    ("copy", 5.0), [("f", 0.25)])
  assert row["ours"]["median"] == 2.0
  assert row["peer"]["median"] == 4.0
  assert row["ratio"] == 0.5
  assert row["share"] == 0.4


def test_an_absent_peer_has_no_ratio():
  row = measure.row("x", "MB/s", [1.0], {"name": "peer", "absent": "it is"})
  assert row["ratio"] is None and row["share"] is None


def test_a_profile_lists_its_largest_entries():
  assert measure.largest({"a": 1.0, "b": 4.0, "c": 2.0, "d": 1.0}) == [
      ("b", 0.5), ("c", 0.25), ("a", 0.125)]


@pytest.mark.parametrize("seconds, factor", [
    ((3, 6, 18), 1.0),  # 2 s of start-up and 1 s for each unit of size.
    ((3, 6, 30), 2.0),
])
def test_start_up_time_does_not_count_as_growth(seconds, factor):
  points = [{"size": size, "seconds": spent}
            for size, spent in zip((1, 4, 16), seconds)]
  assert report.linearity(points) == pytest.approx(factor)


@pytest.mark.parametrize("value, text", [
    (12345.6, "12,346"), (123.4, "123"), (12.34, "12.3"), (1.234, "1.23")])
def test_figures_have_three_digits(value, text):
  assert report.number(value) == text


# --- Peers -------------------------------------------------------------------


def _tokenizer_peer(python):
  peer = measure.Peer(python, "tokenizers", "tokenizer", "--text_file", "a",
                      "--vocab_file", "b")
  peer.close()
  return peer


@pytest.mark.parametrize("python", [None, "no/such/python"])
def test_a_peer_without_interpreter_is_absent(python):
  peer = _tokenizer_peer(python)
  assert peer.is_absent
  assert "interpreter" in peer.description["absent"]


def test_a_peer_without_package_is_absent(tmp_path):
  python = tmp_path / "python"
  python.write_text("#!/bin/sh\nexec {} -S -I \"$@\"\n".format(sys.executable))
  python.chmod(0o755)
  peer = _tokenizer_peer(str(python))
  assert peer.description == {
      "name": "tokenizers",
      "absent": "the package tokenizers is not installed"}


# --- The script --------------------------------------------------------------


@pytest.fixture(name="world", scope="module")
def _world(tmp_path_factory):
  """A folder with a text, a teacher and a placeholder for a dump."""
  folder = tmp_path_factory.mktemp("world")
  vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *_WORDS]
  config = dataclasses.replace(
      tiny.CONFIG, vocab_size=len(vocabulary), max_position_embeddings=128)
  teacher = folder / "teacher"
  teacher.mkdir()
  tiny.write_config(teacher / "bert_config.json", config)
  tiny.write_checkpoint(
      teacher / "bert_model.ckpt", tiny.random_variables(config))
  (teacher / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
  sentences = [" ".join(_WORDS[start:] + _WORDS[:start]) + " ."
               for start in range(9)]
  (folder / "text.txt").write_text("\n\n".join(
      "\n".join(sentences * 2) for _ in range(60)) + "\n")
  (folder / "dump.xml").write_text("<mediawiki/>")
  return folder


def _run(world, *arguments):
  result = tiny.run_script(
      "benchmarks/run.py", "--text_file", world / "text.txt", "--teacher",
      world / "teacher", "--dump_file", world / "dump.xml", "--output_dir",
      world / "output", "--size", "0.01", *arguments)
  assert result.returncode == 0, result.stderr
  return (json.loads((world / "output" / "results.json").read_text()),
          result.stderr)


@pytest.mark.slow
def test_parts_are_measured_once_per_setting(world):
  first, _ = _run(world, "--turns", "1", "--only", "labels,tokenizer")
  # In the order of the table.
  assert list(first["parts"]) == ["tokenizer", "labels"]
  assert first["machine"]["versions"]["Python"]
  for part in first["parts"].values():
    assert part["settings"] and part["arguments"]["turns"] == 1
    for row in part["rows"]:
      assert row["ours"]["median"] > 0 and len(row["ours"]["turns"]) == 1
      assert row["share"] > 0 and row["rest"]
  labels = {row["what"]: row for row in first["parts"]["labels"]["rows"]}
  assert labels["stage IV, fp32 (plain graph)"]["ratio"] > 0
  assert labels["stage IV, fp32"]["peer"] == {
      "name": "transformers", "absent": "no interpreter for peers"}
  page = (world / "output" / "results.md").read_text()
  assert page == report.results_page(first, projection.lines(first))
  assert "- tokenizer: tokenizers is absent, as no interpreter" in page

  # Results are kept; other settings are measured again.
  second, log = _run(world, "--turns", "1", "--only", "labels,tokenizer")
  assert second == first
  assert "labels: kept" in log and "tokenizer: kept" in log
  third, log = _run(world, "--turns", "2", "--only", "tokenizer")
  assert "tokenizer: measured" in log
  assert len(third["parts"]["tokenizer"]["rows"][0]["ours"]["turns"]) == 2
  assert third["parts"]["labels"] == first["parts"]["labels"]


def test_an_unknown_part_is_an_error(world):
  result = tiny.run_script(
      "benchmarks/run.py", "--text_file", world / "text.txt", "--teacher",
      world / "teacher", "--dump_file", world / "dump.xml", "--output_dir",
      world / "other", "--only", "tokenizer,coffee")
  tiny.assert_one_line_error(result, "--only", "coffee", "reader")


# --- Documents ---------------------------------------------------------------


def _results():
  """Returns made-up results of all parts that the projection needs."""

  def part(*rows, **more):
    return {"rows": list(rows), "settings": [], "arguments": {
        "turns": 1, "size": 1.0, "files": {"text": "text.txt, 10 bytes"}},
            "other_cores": 0.0, **more}

  def row(what, rate):
    return measure.row(what, "a second", [rate])

  return {
      "machine": {"cores": 2},
      "parts": {
          "wikipedia": part(row("Wikipedia text, one process", 2.0)),
          "records": part(row("stage III", 1e4), bytes_per_sequence=1000.0),
          "reader": part(row("reader", 1e5), bytes_per_sequence=2000.0)}}


def test_the_projection_to_english_wikipedia_by_hand():
  text, records, labels, _ = projection.stages(_results())
  # 100 GB at 2 MB/s on 64 cores.
  assert [bound.seconds for bound in text.bounds] == [
      pytest.approx(100e9 / 128e6)]
  # 300 million records of 1 kB.
  assert [bound.seconds for bound in records.bounds] == [
      pytest.approx(300e6 / 64e4), pytest.approx(150.0)]
  # 23.31 GFLOP per record on 8 GPUs of 312 TFLOP/s at 40% utilization.
  assert labels.bounds[0].seconds == pytest.approx(
      300e6 * 23.31e9 / (8 * 312e12 * 0.4))
  assert len([line for line in projection.lines(_results())
              if line.endswith("| bottleneck |")]) == 4


def test_without_results_of_all_parts_there_is_no_projection():
  results = _results()
  results["parts"].pop("reader")
  assert not projection.lines(results)


def test_the_table_of_a_page_is_replaced():
  old = "a\n{}\nold\n{}\nb\n".format(report.TABLE_START, report.TABLE_END)
  results = _results()
  text = report.replace_table(old, results)
  assert text == "a\n{}\nb\n".format(report.table_block(results))
  assert report.replace_table(text, results) == text
  changed = copy.deepcopy(results)
  changed["parts"]["reader"]["rows"][0]["ours"]["median"] = 123456.7
  assert "123,457 a second" in report.replace_table(text, changed)


def test_pages_hold_the_tables_of_results_json():
  results = json.loads(_RESULTS.read_text(encoding="utf-8"))
  page = (tiny.ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
  assert report.table_block(results) in page
  page = _RESULTS.with_suffix(".md").read_text(encoding="utf-8")
  assert page == report.results_page(results, projection.lines(results))


def test_sentences_quote_the_figures_of_results_json():
  results = json.loads(_RESULTS.read_text(encoding="utf-8"))
  ranks = report.find_row(results, "2 ranks, student 3 x 192")
  one_rank = ranks["peer"]["median"]
  *_, labels, training = projection.stages(results)
  hours = [stage.bounds[0].seconds * projection.NUM_GPUS / 3600
           for stage in (labels, training)]
  bf16, fp32 = (report.find_row(results, "stage IV, " + precision)["ours"][
      "median"] for precision in ("bf16", "fp32"))
  for document, words in (
      ("README.md", "records in {:.0f} GPU-hours".format(hours[0])),
      ("README.md", "| {:.0f} GPU-hours per student |".format(hours[1])),
      ("docs/speed.md", "{:.2f} times as fast as one, {:.0%} of".format(
          ranks["ratio"], ranks["share"])),
      ("docs/processes.md", "{:.2f} times as fast as one process".format(
          ranks["ratio"])),
      ("docs/processes.md", "reach {:.2f} times".format(
          ranks["limit"]["value"] / one_rank)),
      ("docs/labels.md", "{:.1f} times as fast as fp32".format(bf16 / fp32)),
      ("docs/results.md", "{:.1f} times as fast in bf16".format(bf16 / fp32))):
    text = (tiny.ROOT / document).read_text(encoding="utf-8")
    assert words in " ".join(text.split()), (document, words)

"""Estimates the time of English Wikipedia on a machine with 8 GPUs.

No GPU was measured. The constants below are assumptions about GPUs, with their
sources, and are repeated in the printed text. All other figures are from
benchmarks/results.json.
"""

from typing import Any, List, Mapping, NamedTuple

import report

# The assumed machine: cores as in cloud hosts with 8 GPUs, and an NVMe disk.
NUM_GPUS = 8
NUM_CORES = 64
DISK_BYTES_PER_SECOND = 2e9
# NVIDIA's data sheet of A100: dense, float16 with float32 sums.
PEAK_OPERATIONS = 312e12
# Assumed share of the peak that is reached.
ASSUMED_SHARE = 0.4
# NVLink, as in docs/processes.md.
LINK_BYTES_PER_SECOND = 150e9
# Size of English Wikipedia, as in docs/records.md.
XML_BYTES = 100e9
NUM_SEQUENCES = 300e6
# Operations of BERT-Base and a student with half its layers, at 128 tokens and
# 20 slots, from examples/make_student_config.py. Training takes three passes.
TEACHER_OPERATIONS = 23.31e9
STUDENT_OPERATIONS = 12.14e9
TRAINING_PASSES = 3
GRADIENT_BYTES = 270e6
# Values of the command in docs/training.md.
NUM_STEPS, BATCH_SIZE = 100000, 32
# Share of the gradients that a process sends and receives in ring all-reduce.
EXCHANGED_SHARE = 2 * (NUM_GPUS - 1) / NUM_GPUS


class Bound(NamedTuple):
  """The time that a stage needs of one resource.

  Attributes:
    what: name of the resource.
    seconds: time in seconds.
    how: the calculation, as text.
  """
  what: str
  seconds: float
  how: str


class Stage(NamedTuple):
  """A stage and the resources that it needs.

  Attributes:
    name: name of the stage.
    bounds: times of the resources, which are used at the same time; the largest
      is the bottleneck.
  """
  name: str
  bounds: List[Bound]


def _duration(seconds: float) -> str:
  """Formats a time in its largest useful unit."""
  for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
    if seconds >= 2 * length:
      return "{:.1f} {}".format(seconds / length, unit)
  return "{:.0f} s".format(seconds)


def _arithmetic(operations: float, count: float, what: str) -> Bound:
  rate = NUM_GPUS * PEAK_OPERATIONS * ASSUMED_SHARE
  return Bound("GPUs' arithmetic", count * operations / rate, (
      "{:,.1f} million {} x {:.2f} GFLOP / ({} x {:.0f} TFLOP/s x {:.0%})"
      .format(count / 1e6, what, operations / 1e9, NUM_GPUS,
              PEAK_OPERATIONS / 1e12, ASSUMED_SHARE)))


def _disk(count: float, num_bytes: float) -> Bound:
  return Bound("disk", count * num_bytes / DISK_BYTES_PER_SECOND, (
      "{:,.1f} million x {:,.0f} bytes / {:.0f} GB/s".format(
          count / 1e6, num_bytes, DISK_BYTES_PER_SECOND / 1e9)))


def _reader(count: float, rate: float, cores: int) -> Bound:
  return Bound("reader", count * cores / (rate * NUM_CORES), (
      "{:,.1f} million / ({:,.0f} a second on {} cores x {} / {})".format(
          count / 1e6, rate, cores, NUM_CORES, cores)))


def stages(results: Mapping[str, Any]) -> List[Stage]:
  """Estimates all stages; returns [] if a needed figure is missing."""
  one, creating, reader = (
      report.find_row(results, what).get("ours", {}).get("median")
      for what in ("Wikipedia text, one process", "stage III", "reader"))
  if None in (one, creating, reader):
    return []
  parts, cores = results["parts"], results["machine"]["cores"]
  masked_bytes, labelled_bytes = (
      next(part["bytes_per_sequence"] for part in parts.values()
           if any(row["what"] == what for row in part["rows"]))
      for what in ("stage III", "reader"))
  trained = float(NUM_STEPS * BATCH_SIZE * NUM_GPUS)
  exchanged = NUM_STEPS * GRADIENT_BYTES * EXCHANGED_SHARE
  return [
      Stage("II, text", [
          Bound("reading and cleaning on {} cores".format(NUM_CORES),
                XML_BYTES / (one * 1e6 * NUM_CORES),
                "{:.0f} GB of XML / ({} MB/s x {})".format(
                    XML_BYTES / 1e9, report.number(one), NUM_CORES))]),
      Stage("III, records", [
          Bound("processes on {} cores".format(NUM_CORES),
                NUM_SEQUENCES / (creating * NUM_CORES),
                "{:,.0f} million / ({:,.0f} a second x {})".format(
                    NUM_SEQUENCES / 1e6, creating, NUM_CORES)),
          _disk(NUM_SEQUENCES, masked_bytes)]),
      Stage("IV, labels", [
          _arithmetic(TEACHER_OPERATIONS, NUM_SEQUENCES, "sequences"),
          _disk(NUM_SEQUENCES, masked_bytes + labelled_bytes)]),
      Stage("V, student", [
          _arithmetic(TRAINING_PASSES * STUDENT_OPERATIONS, trained,
                      "sequences"),
          Bound("exchange of gradients", exchanged / LINK_BYTES_PER_SECOND,
                "{:,} steps x {:.0f} MB x {:.2f} / {:.0f} GB/s".format(
                    NUM_STEPS, GRADIENT_BYTES / 1e6, EXCHANGED_SHARE,
                    LINK_BYTES_PER_SECOND / 1e9)),
          _reader(trained, reader, cores)])]


def lines(results: Mapping[str, Any]) -> List[str]:
  """Returns the text about English Wikipedia, as lines of Markdown."""
  found = stages(results)
  if not found:
    return []
  rows = []
  for stage in found:
    slowest = max(stage.bounds, key=lambda bound: bound.seconds)
    for bound in stage.bounds:
      rows.append((stage.name, bound.what, bound.how, _duration(bound.seconds),
                   "bottleneck" if bound is slowest else ""))
  return [
      "Arithmetic, not a measurement: none of the scripts has run on a GPU. "
      "Assumed are {} GPUs of {:.0f} TFLOP/s (A100, float16, NVIDIA's data "
      "sheet) of which {:.0%} is reached, {} cores as fast as the ones measured"
      ", a disk of {:.0f} GB/s, {:.0f} GB/s between GPUs; {:.0f} GB of XML, {:,"
      ".0f} million sequences (dupe_factor 10); BERT-Base as the teacher, half "
      "its layers for the student, {:,} steps of {} sequences. Rates and bytes "
      "on the CPU are those above; the needs of a stage are met at the same "
      "time, so the largest is its time.".format(
          NUM_GPUS, PEAK_OPERATIONS / 1e12, ASSUMED_SHARE, NUM_CORES,
          DISK_BYTES_PER_SECOND / 1e9, LINK_BYTES_PER_SECOND / 1e9,
          XML_BYTES / 1e9, NUM_SEQUENCES / 1e6, NUM_STEPS,
          BATCH_SIZE * NUM_GPUS), "",
      *report.table("stage | needs | arithmetic | time | ", rows)]

r"""Measures the speed-up of several processes that train together.

  python benchmarks/scaling.py -np 2

The benchmark measures weak scaling with the command of docs/training.md: each
process takes --train_batch_size sequences per step. For each of two students,
one process and N processes train in turn on the same random records; their
median sequences per second are compared. On CPUs, the single process has as
many threads as each of the N processes, so the ratio is the gain from N times
the cores. On GPUs, each process has one GPU.

The limit is N processes that train at the same time without exchanging
gradients, and share the memory's bandwidth.

With --timeline, or if the speed is far below the limit, a further run with
HOROVOD_TIMELINE measures the share of the time in all-reduce, and the share
that computation does not hide: the time after the last gradient of a step is
ready.
"""

import concurrent.futures
import functools
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
from typing import Any, Callable, Dict, List, Optional, Tuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

# pylint: disable=wrong-import-position
from absl import flags
import numpy as np

import measure
from records import schema
from records import tfrecord
import report
from util import command_line
from util import workers

FLAGS = flags.FLAGS

_SCRIPT = "network_distillation_distributed_truncated.py"
_VOCAB_SIZE = 30522
_SHAPE = schema.RecordShape(128, 20, 10)
_NUM_RECORDS = 2048
# Layers, width, heads.
_STUDENTS = {"3 x 192": (3, 192, 3), "3 x 384": (3, 384, 12)}
# Steps between two lines of the log, fewer than the trainer's default.
_LOG_STEPS = 10
_WITH_SHORT_INTERVALS = """
import runpy, sys
from distillation import hooks
hooks.LOG_STEPS = {}
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
""".format(_LOG_STEPS)
# Part of the gradients' names in Horovod's timeline.
_GRADIENT = "AdamWeightDecayOptimizer"
_SPEED = re.compile(r"Step (\d+) of .*, ([0-9.]+) sequences/s")


def define_flags() -> None:
  flags.DEFINE_integer("np", 2, "N, the number of processes.", lower_bound=2)
  flags.DEFINE_integer(
      "train_batch_size", 32, "Sequences per step of each process.")
  measure.define_flags()
  flags.DEFINE_integer(
      "num_log_intervals", 4, "Intervals of ten steps per run; the first "
      "interval is a warm-up and is not counted.", lower_bound=2)
  flags.DEFINE_multi_enum(
      "student", list(_STUDENTS), list(_STUDENTS), "Layers x hidden size.")
  flags.DEFINE_multi_enum(
      "compression", ["none", "fp16"], ["none", "fp16"],
      "Compression of the gradients.")
  flags.DEFINE_bool("timeline", False, "Whether to always measure all-reduce.")
  flags.DEFINE_enum("precision", "fp32", ["fp32", "bf16", "fp16"],
                    "--precision of the trainer.")


def write_records(path: pathlib.Path) -> None:
  """Writes random records with the shape of real records."""
  generator = np.random.default_rng(0)
  limits = schema.limits(_SHAPE, _VOCAB_SIZE, 2)
  features = {}
  for name, feature in schema.features(_SHAPE).items():
    size = (_NUM_RECORDS, int(np.prod(feature.shape)))
    if name in limits:
      features[name] = generator.integers(0, limits[name], size)
    else:
      features[name] = np.ones(size, np.float32)
  features[schema.INPUT_MASK][:] = 1
  features[schema.TEACHER_PROBABILITIES][:] = 1 / _SHAPE.truncation_factor
  path.write_bytes(tfrecord.frame(tfrecord.encode(features)))


def write_config(path: pathlib.Path, layers: int, width: int,
                 heads: int) -> None:
  path.write_text(json.dumps({
      "vocab_size": _VOCAB_SIZE, "hidden_size": width,
      "num_hidden_layers": layers, "num_attention_heads": heads,
      "intermediate_size": 4 * width, "max_position_embeddings": 512,
      "type_vocab_size": 2}))


def train(folder: pathlib.Path, config: pathlib.Path, num_processes: int,
          compression: str, timeline: Optional[pathlib.Path] = None) -> float:
  """Trains as in docs/training.md; returns the total sequences per second."""
  path = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
  environment = dict(os.environ, PATH=path, PYTHONPATH=str(ROOT),
                     TF_CPP_MIN_LOG_LEVEL="3")
  if timeline:
    environment["HOROVOD_TIMELINE"] = str(timeline)
  if num_processes == 1:
    threads = str(max(1, workers.available_cores() // FLAGS.np))
    environment.update(TF_NUM_INTRAOP_THREADS=threads,
                       TF_NUM_INTEROP_THREADS=threads)
  num_steps = _LOG_STEPS * FLAGS.num_log_intervals
  with tempfile.TemporaryDirectory(dir=folder) as output_dir:
    result = subprocess.run([
        *"mpirun -np {0} -H localhost:{0} -bind-to none -map-by slot -x PATH "
        "-mca pml ob1 -mca btl ^openib python".format(num_processes).split(),
        "-c", _WITH_SHORT_INTERVALS, str(ROOT / _SCRIPT),
        "--bert_config_file", str(config),
        "--input_file", str(folder / "labelled.tfrecord"),
        "--output_dir", output_dir, "--do_train", "True",
        "--train_batch_size", str(FLAGS.train_batch_size),
        "--num_train_steps", str(num_steps), "--num_warmup_steps", "10",
        "--scale_learning_rate", "False", "--precision", FLAGS.precision,
        "--allreduce_compression", compression,
        "--save_checkpoints_steps", "1000000"],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=False)
  speeds = [float(speed) for _, speed in _SPEED.findall(result.stderr)]
  if result.returncode or len(speeds) != FLAGS.num_log_intervals:
    raise command_line.InputError("a run failed: {}".format(
        result.stderr.strip()[-1000:]))
  return statistics.median(speeds[1:])


def train_alone(folder: pathlib.Path, config: pathlib.Path) -> float:
  """Trains N independent processes at once; returns the sum of their speeds."""
  with concurrent.futures.ThreadPoolExecutor(FLAGS.np) as pool:
    return sum(pool.map(lambda _: train(folder, config, 1, "none"),
                        range(FLAGS.np)))


def time_in_allreduce(timeline: pathlib.Path) -> Tuple[float, float]:
  """Returns the shares of the time in all-reduce: total, and not hidden.

  Args:
    timeline: path of Horovod's timeline of rank 0.
  """
  text = timeline.read_text().rstrip().rstrip(",")
  events = [event for event in json.loads(
      text if text.endswith("]") else text + "]") if event]
  gradients = {event["pid"] for event in events
               if event.get("name") == "process_name"
               and _GRADIENT in event["args"].get("name", "")}
  # Start and end of each step, by activity and gradient.
  spans: Dict[str, Dict[int, List[Tuple[float, float]]]] = {}
  begun: Dict[int, List[Dict[str, Any]]] = {}
  for event in events:
    if event.get("pid") not in gradients:
      continue
    if event["ph"] == "B":
      begun.setdefault(event["pid"], []).append(event)
    elif event["ph"] == "E":
      begin = begun[event["pid"]].pop()
      spans.setdefault(begin["name"], {}).setdefault(
          event["pid"], []).append((begin["ts"], event["ts"]))
  ready = np.array(list(spans["NEGOTIATE_ALLREDUCE"].values()))[:, :, 0]
  exchanges = np.array(list(spans["ALLREDUCE"].values()))
  duration = exchanges[:, -1, 1].max() - exchanges[:, 0, 0].min()
  exposed = exchanges[:, :, 1].max(axis=0) - ready.max(axis=0)
  return (_length_of_union(exchanges.reshape(-1, 2)) / duration,
          exposed.sum() / duration)


def _length_of_union(spans: np.ndarray) -> float:
  """Returns the total time that spans [N, 2], which may overlap, cover."""
  spans = spans[np.argsort(spans[:, 0])]
  ends = np.maximum.accumulate(spans[:, 1])
  starts = np.maximum(spans[1:, 0], ends[:-1])
  return float(spans[0, 1] - spans[0, 0] + np.maximum(
      spans[1:, 1] - starts, 0).sum())


def main() -> None:
  rows, settings = [], [
      "Weak scaling, {} sequences of {} tokens a step and process, {} steps of "
      "which the first {} do not count; random records and labels.".format(
          FLAGS.train_batch_size, _SHAPE.max_seq_length,
          _LOG_STEPS * FLAGS.num_log_intervals, _LOG_STEPS)]
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    write_records(folder / "labelled.tfrecord")
    for student in FLAGS.student:
      config = folder / "student.json"
      write_config(config, *_STUDENTS[student])
      kinds: Dict[str, Callable[[], float]] = {
          "single": lambda config=config: train(folder, config, 1, "none"),
          "alone": functools.partial(train_alone, folder, config),
          **{compression: functools.partial(
              train, folder, config, FLAGS.np, compression)
             for compression in FLAGS.compression}}
      speeds = measure.alternate(kinds, FLAGS.turns)
      limit = ("{} processes that exchange nothing".format(FLAGS.np),
               statistics.median(speeds["alone"]))
      for compression in FLAGS.compression:
        what = "{} ranks, student {}{}".format(
            FLAGS.np, student, "" if compression == "none" else
            ", compression " + compression)
        rest = []
        speed = statistics.median(speeds[compression])
        if FLAGS.timeline or speed < report.ENOUGH_SHARE * limit[1]:
          timeline = folder / "timeline.json"
          train(folder, config, FLAGS.np, compression, timeline)
          share, exposed = time_in_allreduce(timeline)
          rest = [("all-reduce", share), ("of it not hidden", exposed)]
          settings.append("{}: {:.1%} of the time in all-reduce, {:.1%} not "
                          "hidden.".format(what, share, exposed))
        rows.append(measure.row(
            what, "sequences/s", speeds[compression],
            {"name": "one rank", "settings": "with as many cores as each of "
             "the {}, {} precision".format(FLAGS.np, FLAGS.precision)},
            speeds["single"], limit, rest))
  measure.finish(rows, settings)


if __name__ == "__main__":
  define_flags()
  command_line.run(main)

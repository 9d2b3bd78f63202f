r"""Measures what more processes bring, with the README's own command.

  python benchmarks/scaling.py -np 2

Weak scaling: each process takes train_batch_size sequences a step, however
many there are. For each of two students, one process and N processes train in
turn on the same random records; the medians of sequences a second are compared.
On CPUs the single process has as many threads as each of the N, so that the
figure is what N times the cores bring. On GPUs each process has one.

A further run with HOROVOD_TIMELINE shows how much of the time gradients are
exchanged, and how much of that is not hidden behind the computation of others:
what comes after the last gradient of the step is ready.
"""

import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
from typing import Dict, List, Optional, Tuple

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

# pylint: disable=wrong-import-position
from absl import flags
import numpy as np

from records import schema
from records import tfrecord
from util import command_line
from util import workers

FLAGS = flags.FLAGS

_SCRIPT = "network_distillation_distributed_truncated.py"
_VOCAB_SIZE = 30522
_SHAPE = schema.RecordShape(128, 20, 10)
_NUM_RECORDS = 2048
# Layers, width, heads.
_STUDENTS = {"3 x 192": (3, 192, 3), "3 x 384": (3, 384, 12)}
# Steps that the log tells the speed of, and of which the first are not counted.
_LOG_STEPS = 100
_SPEED = re.compile(r"Step (\d+) of .*, ([0-9.]+) sequences/s")


def define_flags() -> None:
  """Defines the flags of the script."""
  flags.DEFINE_integer("np", 2, "N, how many processes.", lower_bound=2)
  flags.DEFINE_integer("train_batch_size", 16, "Sequences in a step of each.")
  flags.DEFINE_integer("turns", 3, "Runs of each kind.", lower_bound=1)
  flags.DEFINE_integer("num_log_intervals", 2,
                       "Hundreds of steps in a run; the first is left out.",
                       lower_bound=2)
  flags.DEFINE_enum("precision", "fp32", ["fp32", "bf16", "fp16"],
                    "As for the trainer.")


def write_records(path: pathlib.Path) -> None:
  """Writes random records that take as long as real ones."""
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
  """Writes the config of a student."""
  path.write_text(json.dumps({
      "vocab_size": _VOCAB_SIZE, "hidden_size": width,
      "num_hidden_layers": layers, "num_attention_heads": heads,
      "intermediate_size": 4 * width, "max_position_embeddings": 512,
      "type_vocab_size": 2}))


def train(folder: pathlib.Path, config: pathlib.Path, num_processes: int,
          compression: str, timeline: Optional[pathlib.Path] = None) -> float:
  """Trains as the README does; returns sequences a second of all processes."""
  path = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
  environment = dict(os.environ, PATH=path)
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
        str(ROOT / _SCRIPT), "--bert_config_file", str(config),
        "--input_file", str(folder / "labelled.tfrecord"),
        "--output_dir", output_dir, "--do_train", "True",
        "--train_batch_size", str(FLAGS.train_batch_size),
        "--num_train_steps", str(num_steps), "--num_warmup_steps", "10",
        "--scale_learning_rate", "False", "--precision", FLAGS.precision,
        "--allreduce_compression", compression,
        "--save_checkpoints_steps", "1000000"],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=False)
  speeds = [float(speed) for step, speed in _SPEED.findall(result.stderr)
            if int(step) > _LOG_STEPS]
  if result.returncode or not speeds:
    raise command_line.InputError("a run failed: {}".format(
        result.stderr.strip()[-1000:]))
  return statistics.median(speeds)


def time_in_allreduce(timeline: pathlib.Path) -> Tuple[float, float]:
  """Returns the share of the time in all-reduce, and that not hidden.

  Args:
    timeline: as Horovod writes it, of rank 0.
  """
  text = timeline.read_text().rstrip().rstrip(",")
  events = json.loads(text if text.endswith("]") else text + "]")
  names, open_spans = {}, {}
  spans: Dict[str, List[Tuple[float, float]]] = {"ready": [], "exchange": []}
  for event in (event for event in events if event):
    if event["ph"] == "M" and event["name"] == "process_name":
      names[event["pid"]] = event["args"]["name"]
    elif "gradient" not in names.get(event.get("pid"), "").lower():
      continue  # Small sums and the exchange of the processes' states.
    elif event["ph"] == "B":
      open_spans.setdefault(event["pid"], []).append(event)
    elif event["ph"] == "E" and open_spans.get(event["pid"]):
      begin = open_spans[event["pid"]].pop()
      kind = {"NEGOTIATE_ALLREDUCE": "ready",
              "ALLREDUCE": "exchange"}.get(begin["name"])
      if kind:
        spans[kind].append((begin["ts"], event["ts"]))
  exchanges = _union(spans["exchange"])
  # A step ends with its longest pause of the exchange: here, where the next
  # one's first gradient is ready later than any exchange before it.
  ready = np.sort([start for start, _ in spans["ready"]])
  ends = np.array([stop for _, stop in exchanges])
  total, exposed = 0.0, 0.0
  for start, stop in exchanges:
    total += stop - start
    later = ready[np.searchsorted(ready, start):]
    following = ends[np.searchsorted(ends, stop, side="right"):]
    # Computation goes on behind this exchange up to the step's last gradient.
    limit = following[0] if len(following) else stop
    is_hidden_until = later[later < stop].max(initial=start)
    if len(following) and (later < limit).sum() > (later < stop).sum():
      is_hidden_until = stop
    exposed += stop - is_hidden_until
  duration = exchanges[-1][1] - exchanges[0][0]
  return total / duration, exposed / duration


def _union(spans: List[Tuple[float, float]]) -> List[Tuple[float, float]]:
  """Joins spans of time that overlap."""
  joined: List[Tuple[float, float]] = []
  for start, stop in sorted(spans):
    if joined and start <= joined[-1][1]:
      joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
    else:
      joined.append((start, stop))
  return joined


def main() -> None:
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    write_records(folder / "labelled.tfrecord")
    for student, sizes in _STUDENTS.items():
      config = folder / "student.json"
      write_config(config, *sizes)
      kinds = {"1 process": (1, "none"), "none": (FLAGS.np, "none"),
               "fp16": (FLAGS.np, "fp16")}
      speeds: Dict[str, List[float]] = {kind: [] for kind in kinds}
      for _ in range(FLAGS.turns):
        for kind, (num_processes, compression) in kinds.items():
          speeds[kind].append(train(folder, config, num_processes, compression))
      single = statistics.median(speeds["1 process"])
      sys.stdout.write("student of {}: 1 process {:.1f} sequences/s\n".format(
          student, single))
      for kind in ("none", "fp16"):
        timeline = folder / "timeline.json"
        train(folder, config, FLAGS.np, kind, timeline)
        share, exposed = time_in_allreduce(timeline)
        speed = statistics.median(speeds[kind])
        sys.stdout.write(
            "  {} processes, compression {}: {:.1f} sequences/s, {:.2f} times; "
            "{:.1f}% of the time in all-reduce, {:.1f}% not hidden\n".format(
                FLAGS.np, kind, speed, speed / single, 100 * share,
                100 * exposed))


if __name__ == "__main__":
  define_flags()
  command_line.run(main)

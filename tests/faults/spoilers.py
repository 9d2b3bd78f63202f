"""Spoilers: functions that cause one fault in a world.

The functions here return a spoiler, which takes the world. A spoiler that
changes `out` may return a function that reverts the change; the tests restore
the inputs themselves.
"""

import contextlib
import gzip
import json
import os
import shutil
import subprocess

import numpy as np
import pytest
import tensorflow as tf

import fault_world
import modeling
from records import schema
from records import tfrecord
import tiny

CHECKPOINT = "model/bert_model.ckpt"
CHECKPOINT_DATA = CHECKPOINT + ".data-00000-of-00001"
CONFIG = "model/bert_config.json"
# Command that starts a script without root's right to ignore file modes.
if os.geteuid() == 0:
  BOUND_BY_MODES = (
      "setpriv", "--bounding-set=-dac_override,-dac_read_search",
      "--inh-caps=-dac_override,-dac_read_search")
else:
  BOUND_BY_MODES = ()
_PAGE_BYTES = 4096


def nothing():
  return lambda world: None


def missing(path):
  return lambda world: fault_world.remove(world / path)


def empty(path):
  return content(path, b"")


def content(path, data):
  """Writes other bytes, or text, to a file."""
  data = data.encode() if isinstance(data, str) else data

  def spoil(world):
    (world / path).write_bytes(data)
  return spoil


def folder(path):
  """Puts a folder where a file is or will be."""
  def spoil(world):
    if (world / path).exists():
      fault_world.remove(world / path)
    (world / path).mkdir()
    return lambda: (world / path).rmdir() if path.startswith("out") else None
  return spoil


def file(path):
  """Puts a file where a folder is or will be."""
  def spoil(world):
    fault_world.remove(world / path)
    (world / path).write_text("")
  return spoil


def fifo(path):
  def spoil(world):
    fault_world.remove(world / path)
    os.mkfifo(world / path)
  return spoil


def mode(path, bits):
  def spoil(world):
    (world / path).chmod(bits)
    return lambda: (world / path).chmod(0o755)
  return spoil


def changed(path, change):
  """Replaces a file's bytes by a function of the bytes."""
  def spoil(world):
    (world / path).write_bytes(change((world / path).read_bytes()))
  return spoil


def cut(path, num_bytes):
  return changed(path, lambda data: data[:-num_bytes])


def half(path):
  return changed(path, lambda data: data[:len(data) // 2])


def flipped(path, position):
  return changed(path, lambda data: (
      data[:position] + bytes([data[position] ^ 1]) + data[position + 1:]))


def compressed(path):
  return changed(path, gzip.compress)


def config(remove=(), **changes):
  """Changes values in the config and removes keys."""
  def change(data):
    values = dict(json.loads(data), **changes)
    return json.dumps({key: value for key, value in values.items()
                       if key not in remove}).encode()
  return changed(CONFIG, change)


def records(path, with_labels=True, shape=tiny.SHAPE, layout=None, **changes):
  """Writes other records; `changes` map features of the last to (index, value).

  With a layout, the records are compact and cannot hold negative integers.
  """
  def spoil(world):
    examples = tiny.random_examples(40, seed=6, shape=shape)
    for name, (index, value) in changes.items():
      examples[-1][name] = np.array(examples[-1][name], np.int64)
      examples[-1][name].flat[index] = value
    if not with_labels:
      examples = map(tiny.without_labels, examples)
    tiny.write_serialized(world / path, (
        tiny.serialize(features, layout) if layout else _serialize(features)
        for features in examples))
  return spoil


def payload(path, change):
  """Writes compact records; `change` maps the string of the last record."""
  def spoil(world):
    *others, last = (tiny.serialize(features, tiny.layout())
                     for features in tiny.random_examples(40, seed=6))
    string, = tfrecord.decode(last)[schema.COMPACT]
    others.append(tfrecord.encode({schema.COMPACT: [change(string)]})[0])
    tiny.write_serialized(world / path, others)
  return spoil


def _serialize(features):
  """Serializes a record as TensorFlow does, negative integers included."""
  example = tf.train.Example()
  for name, values in features.items():
    values = np.ravel(values)
    feature = example.features.feature[name]
    if values.dtype.kind == "f":
      feature.float_list.value.extend(values)
    else:
      feature.int64_list.value.extend(map(int, values))
  return example.SerializeToString(deterministic=True)


def manifest(path, **changes):
  """Writes a manifest beside records."""
  def spoil(world):
    values = {
        "stage": "extract_teacher_labels_truncated", "flags": {},
        "fingerprints": {}, "sources": {}, "vocab_size": 29,
        "num_records": 40, "num_bytes": (world / path).stat().st_size}
    (world / (path + ".json")).write_text(json.dumps({**values, **changes}))
  return spoil


def checkpoint(change):
  """Writes another checkpoint; `change` maps a dict of variables."""
  def spoil(world):
    tiny.write_checkpoint(
        world / CHECKPOINT, change(tiny.random_variables()))
  return spoil


def not_a_number(variables):
  variables["bert/pooler/dense/bias"][3] = np.nan
  return variables


def renamed(variables):
  return {"other/" + name: value for name, value in variables.items()}


def link(path, target):
  """Makes a symbolic link, as another user of a shared folder could."""
  def spoil(world):
    (world / path).symlink_to(target)
    return lambda: (world / path).unlink()
  return spoil


def other_run(world):
  """Puts a training checkpoint of another size into the output folder."""
  wide = modeling.BertConfig(**dict(tiny.CONFIG.to_dict(), hidden_size=6))
  tiny.write_checkpoint(
      world.out / "model.ckpt-7",
      dict(tiny.random_variables(wide), global_step=np.int64(7)))
  tf.compat.v1.train.update_checkpoint_state(
      str(world.out), str(world.out / "model.ckpt-7"))

  def undo():
    fault_world.remove(world.out)
    world.out.mkdir()
  return undo


def full_disk(num_pages):
  """Leaves a few pages free in `out`, a small disk that only root can mount."""
  def spoil(world):
    if os.geteuid() != 0 or subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "none", world.out],
        stderr=subprocess.DEVNULL, check=False).returncode:
      pytest.skip("needs the right to mount a small file system")
    ballast = world.out / ".ballast"
    free = shutil.disk_usage(world.out).free
    ballast.write_bytes(bytes(free - num_pages * _PAGE_BYTES))

    def undo():
      ballast.unlink()
    return undo
  return spoil


def full_disk_after_training(world):
  """Fills the disk of a finished run."""
  undo = full_disk(4000)(world)
  stage = fault_world.STAGES["train"]
  outcome = world.run(stage)
  assert outcome.returncode == 0, outcome.stderr
  ballast = world.out / ".more_ballast"
  descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT)
  with contextlib.suppress(OSError):
    while True:
      os.write(descriptor, bytes(_PAGE_BYTES))
  os.close(descriptor)

  def undo_both():
    undo()
    ballast.unlink()
  return undo_both


def unmount(world):
  """Unmounts the disk of `full_disk`, if any."""
  if os.path.ismount(world.out):
    subprocess.run(["umount", "-l", world.out], check=True)

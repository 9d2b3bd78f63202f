"""Tests of the trainer's launchers: on two hosts, and under Slurm.

The hosts are network namespaces on this machine. Two virtual interfaces connect
them, and a script that enters the second namespace replaces ssh.
"""

import contextlib
import math
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
from typing import NamedTuple

import pytest

from distillation import checkpoints
import modeling
import processes
import tiny

_SCRIPT = "network_distillation_distributed_truncated.py"
_SYSTEM_PATH = os.pathsep.join(
    [os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
_ADDRESSES = ("10.77.1.1", "10.77.1.2")
_INTERFACE = "eth0"
# Docker's bridge has the same address on all hosts, and connects no two hosts.
_BRIDGE, _BRIDGE_ADDRESS = "docker0", "172.17.0.1/16"
_COMMAND_SECONDS = 10
_TRAINING_SECONDS = 240
_BYTES_PER_GRADIENT = 4

# Takes "[option...] host [option...] command...". Like ssh, runs the command in
# the home folder without the caller's environment. On the second host, an empty
# read-only folder is mounted over the folder of rank 0.
_SSH = """#!/bin/sh
host=
while :; do
  case "$1" in
    -o) shift 2 ;;
    -*) shift ;;
    *) [ -z "$host" ] || break; host=$1; shift ;;
  esac
done
[ "$host" = {address} ] || exit 255
cd
exec env -i HOME="$HOME" PATH=/usr/bin:/bin {ip} netns exec {namespace} sh -c '
  mount -t tmpfs -o ro,size=4k none {hidden} && exec sh -c "$1"' sh "$*"
"""

# Saves the network namespace and the local rank of a process.
_RECORD_RANK = """
rank=${{OMPI_COMM_WORLD_RANK-$SLURM_PROCID}}
local_rank=${{OMPI_COMM_WORLD_LOCAL_RANK-$SLURM_LOCALID}}
echo "$(readlink /proc/self/ns/net) $local_rank" > {folder}/rank_$rank
exec "$@"
"""


class _Host(NamedTuple):
  """A network namespace.

  Attributes:
    namespace: name of the namespace.
    network: target of the link /proc/PID/ns/net of its processes.
  """
  namespace: str
  network: str

  def received_bytes(self):
    """Returns the number of bytes received from the other host."""
    return int(_ip("netns", "exec", self.namespace, "cat",
                   "/sys/class/net/{}/statistics/rx_bytes".format(_INTERFACE)))


def _find(program):
  return shutil.which(program, path=_SYSTEM_PATH)


def _ip(*arguments):
  """Runs `ip`; returns what it prints."""
  return subprocess.run(
      [_find("ip"), *arguments], stdout=subprocess.PIPE,
      stderr=subprocess.PIPE, text=True, check=True, timeout=_COMMAND_SECONDS
      ).stdout.strip()


def _add_hosts(namespaces):
  """Adds two network namespaces and connects them."""
  for name in namespaces:
    _ip("netns", "add", name)
  first, second = namespaces
  _ip("link", "add", _INTERFACE, "netns", first, "type", "veth",
      "peer", "name", _INTERFACE, "netns", second)
  for name, address in zip(namespaces, _ADDRESSES):
    _ip("-n", name, "link", "add", _BRIDGE, "type", "veth",
        "peer", "name", "container0")
    _ip("-n", name, "address", "add", address + "/30", "dev", _INTERFACE)
    _ip("-n", name, "address", "add", _BRIDGE_ADDRESS, "dev", _BRIDGE)
    for interface in ("lo", _INTERFACE, _BRIDGE, "container0"):
      _ip("-n", name, "link", "set", interface, "up")


def _delete_host(namespace):
  """Kills the processes of a network namespace, and deletes it."""
  def kill_all():
    process_ids = _ip("netns", "pids", namespace).split()
    for process_id in process_ids:
      with contextlib.suppress(ProcessLookupError):
        os.kill(int(process_id), signal.SIGKILL)
    return not process_ids

  try:
    processes.wait_until(kill_all)
  finally:
    _ip("netns", "delete", namespace)


@pytest.fixture(name="hosts", scope="module")
def _hosts():
  """Two hosts; skips the test if the machine does not allow them."""
  if not hasattr(os, "geteuid") or os.geteuid() != 0:
    pytest.skip("needs root, to make network namespaces")
  for program in ("ip", "mount", "timeout"):
    if not _find(program):
      pytest.skip("needs the program " + program)
  namespaces = ["launchers_{}_{}".format(os.getpid(), number)
                for number in (1, 2)]
  try:
    try:
      _add_hosts(namespaces)
      # A container may allow adding namespaces, but not entering them.
      networks = [_ip("netns", "exec", name, "readlink", "/proc/self/ns/net")
                  for name in namespaces]
    except subprocess.CalledProcessError as error:
      pytest.skip("needs network namespaces: " + error.stderr.strip())
    yield [_Host(*pair) for pair in zip(namespaces, networks)]
  finally:
    existing = _ip("netns", "list").split()
    for name in namespaces:
      if name in existing:
        _delete_host(name)


class _World(NamedTuple):
  """Inputs, scripts and folders of a run.

  Attributes:
    folder: folder of the inputs; both hosts see it.
    rank_0_folder: folder of the outputs; it is empty on the second host.
    ssh: path of the script that replaces ssh.
    ranks: folder of the files that _RECORD_RANK writes.
    record_rank: words that precede the command of each process.
  """
  folder: pathlib.Path
  rank_0_folder: pathlib.Path
  ssh: pathlib.Path
  ranks: pathlib.Path
  record_rank: tuple


def _new_world(folder, hosts=None):
  """Writes inputs and scripts to a folder; returns the world."""
  tiny.trainer_inputs(folder)
  world = _World(folder, folder / "rank_0", folder / "bin" / "ssh",
                 folder / "ranks", ("sh", str(folder / "record_rank.sh")))
  for path in (world.rank_0_folder, world.ssh.parent, world.ranks):
    path.mkdir()
  pathlib.Path(world.record_rank[1]).write_text(
      _RECORD_RANK.format(folder=shlex.quote(str(world.ranks))))
  if hosts:
    world.ssh.write_text(_SSH.format(
        address=_ADDRESSES[1], ip=_find("ip"), namespace=hosts[1].namespace,
        hidden=shlex.quote(str(world.rank_0_folder))))
    world.ssh.chmod(0o755)
  return world


def _train(world, launcher, num_steps):
  """Trains two processes for num_steps steps each."""
  return tiny.launch(
      # On SIGTERM, a launcher ends its processes on the other host.
      ["timeout", "-k", "10", str(_TRAINING_SECONDS), *launcher,
       *world.record_rank],
      _SCRIPT, *tiny.SHAPE_FLAGS, "--truncation_factor=4", "--do_train", "True",
      "--bert_config_file", world.folder / "bert_config.json",
      "--init_checkpoint", world.folder / "bert_model.ckpt",
      "--input_file", world.folder / "labelled.tfrecord",
      "--output_dir", world.rank_0_folder / "out", "--train_batch_size=2",
      "--num_train_steps", 2 * num_steps, "--num_warmup_steps=0")


def _ranks(world):
  """Returns the network namespace and the local rank of each rank."""
  assert len(os.listdir(world.ranks)) == 2
  return [(world.ranks / "rank_{}".format(rank)).read_text().split()
          for rank in range(2)]


def _on_first(hosts, command):
  return [_find("ip"), "netns", "exec", hosts[0].namespace, *command]


def _prefix():
  """Returns the folder in which Open MPI is installed."""
  path = os.path.dirname(sys.executable) + os.pathsep + _SYSTEM_PATH
  mpirun = os.path.realpath(shutil.which("mpirun", path=path))
  return os.path.dirname(os.path.dirname(mpirun))


def _assert_trained_on_both(world, hosts, received_before, steps):
  """Checks the hosts of the ranks, and that they exchanged gradients."""
  assert _ranks(world) == [[host.network, "0"] for host in hosts]
  num_gradients = sum(
      math.prod(shape)
      for shape in modeling.variable_shapes(tiny.CONFIG).values())
  for host, before in zip(hosts, received_before):
    assert (host.received_bytes() - before
            >= steps * num_gradients * _BYTES_PER_GRADIENT)


def _saved_step(world):
  return checkpoints.newest_step(str(world.rank_0_folder / "out"))


@pytest.fixture(name="trained", scope="module")
def _trained(hosts, tmp_path_factory):
  """A world in which mpirun has trained for two steps with a hostfile."""
  world = _new_world(tmp_path_factory.mktemp("hosts"), hosts)
  hostfile = world.folder / "hosts"
  hostfile.write_text("".join(
      "{} slots=1\n".format(address) for address in _ADDRESSES))
  mpirun = list(tiny.MPIRUN)
  position = mpirun.index("-H")
  mpirun[position:position + 2] = [
      "--hostfile", str(hostfile),
      # ssh starts with a bare PATH, which lacks orted.
      "--prefix", _prefix(), "-mca", "plm_rsh_agent", str(world.ssh),
      # Without these flags, each process connects to its own docker0 and hangs.
      "-mca", "btl_tcp_if_include", _INTERFACE,
      "-mca", "oob_tcp_if_include", _INTERFACE]
  received = [host.received_bytes() for host in hosts]
  result = _train(world, _on_first(hosts, mpirun), num_steps=2)
  return world, received, result


@pytest.mark.slow
def test_mpirun_trains_on_the_hosts_of_a_hostfile(hosts, trained):
  world, received_before, result = trained
  assert result.returncode == 0, result.stderr
  _assert_trained_on_both(world, hosts, received_before, steps=2)
  assert _saved_step(world) == 2
  assert (world.rank_0_folder / "out" / "student").is_dir()


@pytest.mark.slow
def test_horovodrun_resumes_on_two_hosts(hosts, trained, monkeypatch):
  """Rank 1 does not see the checkpoint, but resumes from the same step."""
  world, _, result = trained
  assert result.returncode == 0, result.stderr
  for path in world.ranks.iterdir():
    path.unlink()
  monkeypatch.setenv("PATH", os.pathsep.join(
      [str(world.ssh.parent), os.environ["PATH"]]))
  horovodrun = [
      "horovodrun", "-np", "2", "-H",
      ",".join(address + ":1" for address in _ADDRESSES), "--mpi",
      # The cache in the home folder may be of other hosts.
      "--disable-cache", "--mpi-args=--prefix " + shlex.quote(_prefix())]
  received = [host.received_bytes() for host in hosts]
  result = _train(world, _on_first(hosts, horovodrun), num_steps=3)
  assert result.returncode == 0, result.stdout + result.stderr
  assert (result.stdout + result.stderr).count("Resuming from step 2") == 1
  _assert_trained_on_both(world, hosts, received, steps=1)
  assert _saved_step(world) == 3


def test_srun_trains_two_processes(tmp_path):
  if not shutil.which("srun"):
    pytest.skip("needs srun, of Slurm")
  world = _new_world(tmp_path)
  srun = ["srun", "--mpi=pmix", "--immediate=10", "--nodes=1", "--ntasks=2"]
  # A cluster may lack PMIx, be busy or down, or not see this folder.
  probe = subprocess.run(
      ["timeout", str(2 * _COMMAND_SECONDS), *srun, "test", "-d",
       str(world.ranks)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
      text=True, check=False, timeout=3 * _COMMAND_SECONDS)
  if probe.returncode:
    pytest.skip("srun cannot start two processes with PMIx here: "
                + (probe.stderr.strip() or "it does not answer"))
  result = _train(world, srun, num_steps=2)
  assert result.returncode == 0, result.stderr
  assert [local_rank for _, local_rank in _ranks(world)] == ["0", "1"]
  assert _saved_step(world) == 2

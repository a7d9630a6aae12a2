"""Whether this machine can run a campaign, found out by trying, and what to do if it cannot.

Each check does for real, and small, what a campaign does: it loads the potential and computes an
energy, loads the checkpoint, writes into the output directory, and starts Ray.
"""
# ruff: noqa: PLC0415 - a check imports what it tries, and reports where that fails

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import psutil

from screening.cluster import OBJECT_STORE_BYTES
from screening.errors import ScreeningError, first_line
from screening.terminal import coloured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OK, WARNING, PROBLEM = "ok", "warning", "problem"
_COLOURS = {OK: "green", WARNING: "yellow", PROBLEM: "red"}

_GIB = 2**30
FREE_DISK_BYTES = _GIB
"""A warning, not a rule: what a campaign writes depends on its size."""
FREE_MEMORY_BYTES = 4 * _GIB
"""For the driver and three workers, each with torch and the potential loaded."""
RAY_TIMEOUT_S = 180.0
"""A busy machine may need three attempts of 30 s."""
SALT_LENGTH = 5.64
"""Å, of rock salt."""
SALT_ENERGY = -3.666
"""eV/atom, of rock salt at that length with CHGNet 0.3.0; `screening doctor` prints it."""
_SALT_TOLERANCE = 0.005

_SLOW_OBJECTS = (
    f"Ray then keeps its objects in /tmp, which is slower; {OBJECT_STORE_BYTES / _GIB:g} GiB are "
    f"enough (docker run --shm-size)"
)
_WAY_TO_POTENTIAL = "name one of those, or put the directory of your module into PYTHONPATH"
REINSTALL = "install again with the tested versions: pip install -c constraints.txt -e ."

_START_RAY = """
from screening.cluster import Cluster
with Cluster(num_cpus=1) as cluster:
    print(cluster.cpus)
"""


@dataclass(frozen=True)
class Check:
    """What one check found."""

    name: str
    """What was checked, in one or two words."""
    state: str
    """``ok``, ``warning`` (a campaign runs, but not as well as it could) or ``problem``."""
    found: str
    """What is there."""
    advice: str = ""
    """What to do about it, where the state is not ``ok``."""


def examine(
    out: str, checkpoint: str = "default", calculator: str = "default", *, quick: bool = False
) -> Iterator[Check]:
    """Check this machine, and yield what was found as soon as it is known.

    Args:
        out: Directory or URI that results shall go to.
        checkpoint: Name or path, as in a campaign file.
        calculator: Name of a potential, as in a campaign file.
        quick: Leave out the start of Ray.
    """
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("Python", python),
        ("libraries", libraries),
        ("memory", memory),
        ("shared memory", shared_memory),
        ("torch", torch),
        ("checkpoint", lambda: model_checkpoint(checkpoint)),
        ("potential", lambda: potential(calculator)),
        ("key", materials_project_key),
        ("output", lambda: output(out)),
        ("disk", lambda: disk(out)),
    ]
    if not quick:
        checks.append(("Ray", ray))
    for name, check in checks:
        try:
            yield check()
        except Exception as error:  # noqa: BLE001 - whatever breaks a library is what we look for
            yield Check(name, PROBLEM, first_line(error), REINSTALL)


def python() -> Check:
    """Say which Python runs."""
    found = f"{platform.python_version()} at {sys.executable}"
    return Check("Python", OK, found)


def libraries(distribution: str = "crystal-screening") -> Check:
    """Compare the libraries with the versions that the package accepts.

    Args:
        distribution: Name of an installed package, whose requirements are read.
    """
    from packaging.requirements import Requirement

    wrong, n_fitting = [], 0
    for text in importlib.metadata.requires(distribution) or []:
        required = Requirement(text)
        if required.marker and not required.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(required.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{required.name} is missing")
            continue
        if required.specifier.contains(version, prereleases=True):
            n_fitting += 1
        else:
            wrong.append(f"{required.name} is {version}, allowed: {required.specifier}")
    if wrong:
        return Check("libraries", PROBLEM, "; ".join(wrong), REINSTALL)
    return Check("libraries", OK, f"{n_fitting} of {n_fitting} in an accepted version")


def memory(needed: int = FREE_MEMORY_BYTES) -> Check:
    """Count cores and free memory.

    Args:
        needed: Bytes below which the check warns.
    """
    free = psutil.virtual_memory().available
    found = f"{_gib(free)} free, {len(os.sched_getaffinity(0))} cores"
    if free < needed:
        advice = f"a campaign on this machine needs about {_gib(needed)}: end other programs"
        return Check("memory", WARNING, found, advice)
    return Check("memory", OK, found)


def shared_memory(directory: str = "/dev/shm") -> Check:  # noqa: S108 - where Ray keeps objects
    """Look whether Ray's objects fit into shared memory.

    Args:
        directory: Where shared memory is mounted.
    """
    if not Path(directory).is_dir():
        return Check("shared memory", WARNING, f"there is no {directory}", _SLOW_OBJECTS)
    free = shutil.disk_usage(directory).free
    found = f"{_gib(free)} free in {directory}"
    if free < OBJECT_STORE_BYTES:
        return Check("shared memory", WARNING, found, _SLOW_OBJECTS)
    return Check("shared memory", OK, found)


def torch() -> Check:
    """Multiply matrices on the device that the model would use."""
    import torch as library

    version = library.__version__
    if library.cuda.is_available():
        matrix = library.eye(64, device="cuda")
        if not library.equal(matrix @ matrix, matrix):
            return Check("torch", PROBLEM, f"{version}: the GPU computes wrongly", "see its driver")
        properties = library.cuda.get_device_properties(0)
        found = f"{version}, CUDA: {properties.name}, {_gib(properties.total_memory)}"
        return Check("torch", OK, found)
    if Path("/proc/driver/nvidia/version").is_file():
        found = f"{version} does not reach this machine's NVIDIA GPU"
        advice = "install a build of torch for the CUDA of your driver, which nvidia-smi names"
        return Check("torch", WARNING, found, advice)
    return Check("torch", OK, f"{version}, no GPU: everything runs on the CPU")


def model_checkpoint(name: str) -> Check:
    """Load a checkpoint.

    Args:
        name: Name or path, as in a campaign file.
    """
    from model.checkpoint import CheckpointError, load_checkpoint

    try:
        fingerprint = load_checkpoint(name).fingerprint
    except CheckpointError as error:
        advice = "name another, or install the package again if it is a shipped one"
        return Check("checkpoint", PROBLEM, str(error), advice)
    return Check("checkpoint", OK, f"{name}, fingerprint {fingerprint}")


def potential(name: str) -> Check:
    """Compute the energy of rock salt, and compare it with what CHGNet is known to give.

    Args:
        name: Of a potential, as in a campaign file.
    """
    from ase.build import bulk

    from screening.calculators import DEFAULT, load_calculator

    try:
        calculator = load_calculator(name)
        salt = bulk("NaCl", "rocksalt", a=SALT_LENGTH)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries, which are not the user's to mend
            salt.calc = calculator.ase()
            energy = salt.get_potential_energy() / len(salt)  # type: ignore[no-untyped-call]
    except ScreeningError as error:
        return Check("potential", PROBLEM, str(error), _WAY_TO_POTENTIAL)
    found = f"{calculator.name}, NaCl at {energy:.3f} eV/atom"
    known = calculator.name == DEFAULT
    if not isfinite(energy) or (known and abs(energy - SALT_ENERGY) > _SALT_TOLERANCE):
        wanted = f"{SALT_ENERGY} eV/atom" if known else "a finite energy"
        return Check("potential", PROBLEM, f"{found} instead of {wanted}", REINSTALL)
    return Check("potential", OK, found)


def materials_project_key() -> Check:
    """Look for the key to the Materials Project, without using or showing it."""
    from screening.materials_project import KEY, PACKAGE, check_key, has_key, is_installed

    if not has_key():
        found = f"{KEY} is not set: reference phases are prototypes"
        return Check("key", OK, found)
    try:
        check_key()
    except ScreeningError as error:
        return Check("key", WARNING, str(error), f"copy it again, or unset {KEY}")
    if not is_installed():
        return Check("key", WARNING, f"{KEY} is set, but mp-api is not installed", PACKAGE)
    return Check("key", OK, f"{KEY} is set: reference phases come from the Materials Project")


def output(uri: str) -> Check:
    """Write and remove a small file where results shall go.

    Args:
        uri: Directory or URI; what the check makes it takes away again.
    """
    from screening.files import open_files

    missing = _missing_directories(Path(uri).expanduser()) if "://" not in uri else []
    try:
        open_files(uri).check_writable()
    except ScreeningError as error:
        return Check("output", PROBLEM, str(error), "name another place with --out")
    except OSError as error:
        found = f"{uri} cannot be written: {error.strerror or error}"
        return Check("output", PROBLEM, found, "name another place with --out")
    finally:
        for directory in missing:
            with contextlib.suppress(OSError):
                directory.rmdir()
    return Check("output", OK, f"{uri} can be written")


def disk(uri: str, needed: int = FREE_DISK_BYTES) -> Check:
    """Measure the space that is left where results shall go.

    Args:
        uri: Directory or URI.
        needed: Bytes below which the check warns.
    """
    if "://" in uri:
        return Check("disk", OK, f"{uri} is not on this machine")
    place = Path(uri).expanduser().absolute()
    place = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(place).free
    found = f"{_gib(free)} free at {place}"
    if free < needed:
        advice = f"a campaign may need {_gib(needed)}: make room, or name another place with --out"
        return Check("disk", WARNING, found, advice)
    return Check("disk", OK, found)


def ray(timeout_s: float = RAY_TIMEOUT_S) -> Check:
    """Start a Ray on this machine, as a campaign does, and end it.

    Args:
        timeout_s: Seconds after which it counts as a failure.
    """
    version = importlib.metadata.version("ray")
    # In a process of its own: a start that hangs can be ended.
    process = subprocess.Popen(  # noqa: S603 - our own code
        [sys.executable, "-c", _START_RAY],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _end(process)
        advice = "see whether the machine is busy, or a firewall closes 127.0.0.1"
        return Check("Ray", PROBLEM, f"{version} did not start in {timeout_s:g} s", advice)
    if process.returncode or not out.strip():
        reason = (err.strip().splitlines() or ["it ended without a word"])[-1]
        advice = "free memory and /tmp, unset variables that begin with RAY_, and try again"
        return Check("Ray", PROBLEM, f"{version} does not start: {reason}", advice)
    return Check("Ray", OK, f"{version} starts and stops")


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and all that it started."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.kill()
    process.communicate()


def check_text(check: Check, stream: TextIO) -> str:
    """Return a check as one line, with its advice on a second, coloured for a stream."""
    state = coloured(f"{check.state:8}", _COLOURS[check.state], stream)
    line = f"{state} {check.name:14} {check.found}"
    return f"{line}\n{'':23} -> {check.advice}" if check.advice else line


def _missing_directories(path: Path) -> list[Path]:
    """Return the directories of a path that do not exist, the innermost first."""
    return [place for place in (path, *path.parents) if not place.exists()]


def _gib(n_bytes: float) -> str:
    return f"{n_bytes / _GIB:.1f} GiB"

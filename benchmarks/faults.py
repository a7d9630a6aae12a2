"""Does a campaign that meets a fault end as if nothing had happened?

    python benchmarks/faults.py [--seeds 20] [--kinds worker driver ...]

A small campaign (EMT, no reference phases to relax) is run once undisturbed. Then, for each kind of
fault and each seed, it is run again, the fault comes at a random moment, and `screening resume` is
called until the campaign is finished. Its tables of samples and of candidates must be the same as
those of the undisturbed run, row by row and bit by bit. Faults:

    worker     SIGKILL to a process of Ray's that holds a model or a potential
    driver     SIGKILL to `screening run`
    interrupt  Ctrl-C twice, half a second apart
    machine    SIGKILL to the second of two raylets and all its workers
    service    the object store that holds the results refuses every request
    disk       the operating system takes no byte more from `screening run`
    checkpoint the file of the checkpoint vanishes, and all workers are killed with SIGKILL
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from rich.console import Console
from rich.table import Table

from model.shipped import shipped
from screening.cluster import LOCAL_RAY, QUIET_RAY, WORKER_ENVIRONMENT
from screening.status import campaign_status
from screening.store import Store

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from commands import command
from s3_server import S3Server

KINDS = ("worker", "driver", "interrupt", "machine", "service", "disk", "checkpoint")
CAMPAIGN = """
name: faults
chemical_systems: [Al-Cu, Au-Cu]
space_groups: [225, 221, 123]
sites: {per_element: [1], total_max: 2}
samples_per_cell: 12
generator: {unit_size: 2, checkpoint: CHECKPOINT}
seed: 1
relaxation: {calculator: 'ase.calculators.emt:EMT', max_steps: 50}
references: REFERENCES
"""
KNOWN = "formula,energy_per_atom\nAl,-0.005\nCu,-0.007\nAu,0.002\n"
N_UNITS = 36
GIVE_UP_S = 600.0
MOST_COMMANDS = 5


def finished_units(uri: str) -> int:
    """Return how many units are done; less than none before there is a campaign."""
    with contextlib.suppress(Exception):
        store = Store(uri)
        store.require()
        return int(store.marks(["state"]).num_rows)
    return -1


def wait_for(process: subprocess.Popen[str], uri: str, count: int) -> None:
    """Wait until so many units are done, or the command has ended."""
    end = time.monotonic() + GIVE_UP_S
    while process.poll() is None and finished_units(uri) < count:
        if time.monotonic() > end:
            raise TimeoutError(f"{uri}: fewer than {count} units after {GIVE_UP_S} s")
        time.sleep(0.05)


def rows_of(uri: str) -> tuple[list[Any], list[Any]]:
    """Return the samples and the candidates, without what differs between two runs by nature."""
    store = Store(uri)
    tables = (store.read_samples(), store.candidates())
    samples, candidates = (
        sorted(table.to_pylist(), key=lambda row: str(row["sample_id"])) for table in tables
    )
    return samples, candidates


@contextlib.contextmanager
def two_machines() -> Iterator[tuple[str, Any, dict[str, str]]]:
    """Start two raylets on this machine; yield the address, the second one's end, and a token."""
    environment = {**LOCAL_RAY, **QUIET_RAY, **WORKER_ENVIRONMENT}
    os.environ.update(environment)
    from ray.cluster_utils import Cluster  # noqa: PLC0415 - reads the settings once

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    try:
        yield (
            cluster.address,
            lambda: cluster.remove_node(second, allow_graceful=False),
            environment,
        )
    finally:
        cluster.shutdown()


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the processes of a local Ray that hold actors."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if child.name().startswith("ray::_Worker") or "ray::_Worker" in " ".join(
                child.cmdline()
            ):
                found.append(child)
    return found


def strike(
    kind: str,
    process: subprocess.Popen[str],
    server: S3Server,
    checkpoint: Path,
    which: random.Random,
) -> None:
    """Let the fault happen."""
    if kind == "worker" and (workers := workers_of(process)):
        which.choice(workers).kill()
    elif kind == "driver":
        process.kill()
    elif kind == "interrupt":
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
    elif kind == "service":
        server.writes_before_failure = 0
    elif kind == "disk":
        psutil.Process(process.pid).rlimit(psutil.RLIMIT_FSIZE, (0, 0))
    elif kind == "checkpoint":
        checkpoint.unlink()
        for worker in workers_of(process):
            worker.kill()


def disturbed(
    kind: str, seed: int, file: Path, out: str, server: S3Server, checkpoint: Path
) -> int:
    """Run the campaign with a fault, resume it to its end, and return how many commands that took."""
    moment = random.Random(f"{kind} {seed}")  # noqa: S311 - no secret
    count, delay_s = moment.randrange(N_UNITS - 2), moment.uniform(0.0, 1.0)
    with contextlib.ExitStack() as stack:
        arguments, environment = ["run", str(file), "--out", out], {}
        if kind == "machine":
            address, end_machine, environment = stack.enter_context(two_machines())
            arguments += ["--address", address, "--num-samplers", "2"]
        process = command(*arguments, environment=environment)
        wait_for(process, out, count)
        time.sleep(delay_s)
        if process.poll() is None:
            strike(kind, process, server, checkpoint, moment)
            if kind == "machine":
                end_machine()
        process.communicate(timeout=GIVE_UP_S)
    server.writes_before_failure = None
    checkpoint.write_bytes(shipped()["mp20"].read_bytes())
    n_commands = 1
    while campaign_status(Store(out), time.time() + 3600.0)["state"] != "finished":
        if kind == "service":
            server.objects.pop("results/_progress.json", None)  # as if the hour had passed
        resumed = command("resume", out)
        _, errors = resumed.communicate(timeout=GIVE_UP_S)
        n_commands += 1
        if n_commands > MOST_COMMANDS:
            raise RuntimeError(errors)
    return n_commands


def main() -> None:
    """Try all, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="faults-"))
    (directory / "known.csv").write_text(KNOWN)
    file = directory / "faults.yaml"
    checkpoint = directory / "mine.safetensors"
    checkpoint.write_bytes(shipped()["mp20"].read_bytes())
    text = CAMPAIGN.replace("REFERENCES", str(directory / "known.csv"))
    file.write_text(text.replace("CHECKPOINT", str(checkpoint)))
    server = S3Server()
    os.environ.update(server.environment)
    began = time.monotonic()
    _, errors = (process := command("run", str(file), "--out", f"{directory}/calm")).communicate()
    if process.returncode != 0:
        raise RuntimeError(errors)
    calm = rows_of(f"{directory}/calm")
    print(f"undisturbed: {len(calm[0])} samples, {time.monotonic() - began:.0f} s", flush=True)
    tried: list[tuple[str, bool, bool]] = []
    try:
        # Seed by seed, so that all kinds have been tried as often when somebody has seen enough.
        for seed, kind in itertools.product(range(options.seeds), options.kinds):
            out = "s3://bucket/results" if kind == "service" else f"{directory}/{kind}-{seed}"
            server.objects.clear()
            began = time.monotonic()
            n_commands = disturbed(kind, seed, file, out, server, checkpoint)
            is_same = rows_of(out) == calm
            tried.append((kind, is_same, n_commands == 1))
            word = "identical" if is_same else "DIFFERENT"
            print(kind, seed, word, n_commands, f"{time.monotonic() - began:.0f} s", flush=True)
            if is_same and kind != "service":
                shutil.rmtree(out)
    except KeyboardInterrupt:
        pass
    finally:
        table = Table("fault", "tried", "identical", "went on by itself", "resumed")
        for kind in options.kinds:
            of_kind = [(same, alone) for name, same, alone in tried if name == kind]
            alone = sum(alone for _, alone in of_kind)
            counts = len(of_kind), sum(same for same, _ in of_kind), alone, len(of_kind) - alone
            table.add_row(kind, *map(str, counts))
        Console(width=100).print(table)
    server.stop()
    if all(same for _, same, _ in tried):
        shutil.rmtree(directory)
    else:
        print("results that differ:", directory)


if __name__ == "__main__":
    main()

"""A campaign in a cluster that gains a machine and loses it again; run by `test_elasticity`.

    python coming_and_going.py DIRECTORY

Prints what happened as JSON. Each sample is the same crystal, at once; its relaxation leaves the name
of its machine and process in a file, and one in four waits until the second machine has come and gone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from small_results import CESIUM_CHLORIDE

from screening.campaign import Campaign
from screening.cluster import LOCAL_RAY, QUIET_RAY, WORKER_ENVIRONMENT, Cluster
from screening.grid import units
from screening.progress import Progress, StageProgress
from screening.references import References
from screening.schema import structure_columns
from screening.store import Store
from screening.sweep import REFERENCES, RELAXATION, RELAXERS, SAMPLERS, SAMPLING, Stages, Sweep

if TYPE_CHECKING:
    from screening.grid import Unit

CAMPAIGN = """
name: coming-and-going
chemical_systems: [Cl-Cs]
space_groups: [225, 221]
sites: {per_element: [1], total_max: 2}
samples_per_cell: 16
generator: {unit_size: 4}
references: prototypes
"""
MOST_S = 240.0
MOST_CORES = 3
GONE = "gone"


@dataclass(frozen=True)
class Drawn:
    """Returns one crystal for each sample of units."""

    def setup(self) -> None:
        """Need nothing."""

    def __call__(self, pack: tuple[Unit, ...]) -> list[dict[str, Any]]:
        """Return a row per sample, kept."""
        columns = {"generator": "none", "status": "kept", **structure_columns(CESIUM_CHLORIDE)}
        return [
            {**unit.columns(position), **columns} for unit in pack for position in range(unit.count)
        ]


@dataclass(frozen=True)
class Relaxed:
    """Leaves a word of where it was done, and may wait."""

    directory: str

    def setup(self) -> None:
        """Need nothing."""

    def __call__(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the rows with energies that belong to the samples."""
        return [self._relaxed(row) for row in rows]

    def _relaxed(self, row: dict[str, Any]) -> dict[str, Any]:
        import ray  # noqa: PLC0415 - of the worker's process

        directory = Path(self.directory)
        where = f"{ray.get_runtime_context().get_node_id()} {os.getpid()}"
        (directory / row["sample_id"]).write_text(where)
        while row["sample_id"].endswith("3") and not (directory.parent / GONE).exists():
            time.sleep(0.05)
        return {**row, "energy": float(row["seed"] % 97), "converged": True}


def same(units: tuple[Unit, ...]) -> tuple[Unit, ...]:
    """Prepare nothing."""
    return units


class Script:
    """A view that adds the second machine, takes it, and says so when the pools have shrunk."""

    def __init__(self, cluster: Any, done: Path) -> None:
        self.cluster = cluster
        self.done = done
        self.machine: Any = None
        self.is_lost = False
        self.workers: list[int] = []
        self.on_each: list[int] = []
        self.began = time.monotonic()

    def relaxers(self) -> Counter[str]:
        """Return how many processes of each machine have relaxed something."""
        found = {path.read_text() for path in self.done.iterdir()} - {""}
        return Counter(where.split()[0] for where in found)

    def show(self, progress: Progress) -> None:
        """Look at the pools, and change the cluster."""
        assert time.monotonic() < self.began + MOST_S, progress.snapshot()
        workers = progress.stages[RELAXATION].workers
        if not self.workers or self.workers[-1] != workers:
            self.workers.append(workers)
        if self.machine is None and self.relaxers():
            self.machine = self.cluster.add_node(num_cpus=2)
        elif not self.is_lost and self.relaxers().total() == MOST_CORES:
            self.on_each = sorted(self.relaxers().values())
            self.cluster.remove_node(self.machine, allow_graceful=False)
            self.is_lost = True
        elif self.is_lost and workers == 1:
            (self.done.parent / GONE).touch()

    def say(self, text: str) -> None:
        """Note."""
        sys.stderr.write(f"{text}\n")

    def close(self) -> None:
        """Need nothing."""


def main() -> None:
    """Run, print."""
    os.environ.update({**LOCAL_RAY, **QUIET_RAY, **WORKER_ENVIRONMENT})
    from ray.cluster_utils import Cluster as Raylets  # noqa: PLC0415 - after the settings

    out, done = Path(sys.argv[1]) / "out", Path(sys.argv[1]) / "done"
    done.mkdir()
    campaign = Campaign.from_text(CAMPAIGN, "coming and going")
    store = Store(str(out))
    store.initialise(campaign.resolved(), campaign.fingerprint({}))
    raylets = Raylets(initialize_head=True, head_node_args={"num_cpus": 1})
    n_samples = sum(unit.count for unit in units(campaign))
    view = Script(raylets, done)
    progress = Progress(
        [
            StageProgress(SAMPLING, "samples", SAMPLERS, 0.01, n_samples),
            StageProgress(RELAXATION, "structures", RELAXERS, 0.01, n_samples),
            StageProgress(REFERENCES, "phases", RELAXERS, 0.01),
        ],
        view,
    )
    references = References(campaign, store)
    references.missing = lambda: iter(())  # type: ignore[method-assign]
    stages = Stages(Drawn(), Relaxed(str(done)), same)
    try:
        with Cluster(address=raylets.address) as cluster:
            Sweep(campaign, store, references, "none", progress, stages).run(cluster)
    finally:
        raylets.shutdown()
    samples, relaxed = store.read_samples().to_pylist(), store.read_relaxed().to_pylist()
    expected = Drawn()(tuple(units(campaign)))
    is_as_undisturbed = [
        [{name: row[name] for name in expected[0]} for row in sorted(rows, key=by_sample)]
        == sorted(expected, key=by_sample)
        for rows in (samples, relaxed)
    ]
    energies = all(row["energy"] == float(row["seed"] % 97) for row in relaxed)
    found = {
        "workers": view.workers,
        "on_each": view.on_each,
        "as_undisturbed": [*is_as_undisturbed, energies],
    }
    sys.stdout.write(json.dumps(found))


def by_sample(row: dict[str, Any]) -> str:
    """Return what rows are sorted by."""
    return str(row["sample_id"])


if __name__ == "__main__":
    main()

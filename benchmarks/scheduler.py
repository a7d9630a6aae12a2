"""What does the engine itself cost, when the work costs nothing?

    python benchmarks/scheduler.py [--units 100000] [--samples 2] [--out DIR]
    python benchmarks/scheduler.py --marks 1000000

The real driver, grid, cluster, store and compaction work through a campaign whose workers do
nothing: a sampler returns the same crystal for each sample at once, a relaxer its row. Printed are
the seconds per unit, the driver's memory, the files on the disk while it runs and at the end, and
how long `screening status` and the beginning of a resume take then. With ``--marks`` only the
marks of so many units are written, as a run would, and the last two are measured.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from pymatgen.core import Lattice, Structure

from screening.campaign import Campaign
from screening.cluster import Cluster
from screening.grid import grid_size, units
from screening.marks import unit_mark
from screening.progress import Progress, StageProgress
from screening.references import References
from screening.schema import structure_columns
from screening.status import campaign_status
from screening.store import Store
from screening.sweep import REFERENCES, RELAXATION, RELAXERS, SAMPLERS, SAMPLING, Stages, Sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from screening.grid import Unit

ELEMENTS = [
    "Al",
    "Ba",
    "Ca",
    "Ce",
    "Co",
    "Cr",
    "Cu",
    "Fe",
    "Ga",
    "Ge",
    "K",
    "La",
    "Mg",
    "Mn",
    "Na",
    "Ni",
    "Si",
    "Sn",
    "Ti",
    "Zn",
]
MB = 2**20


@dataclass(frozen=True)
class Drawn:
    """Returns one and the same crystal for each sample of units."""

    columns: dict[str, Any]

    def setup(self) -> None:
        """Need nothing."""

    def __call__(self, pack: tuple[Unit, ...]) -> list[dict[str, Any]]:
        """Return a row per sample, kept."""
        return [
            {
                **unit.columns(position),
                "generator": "none",
                "status": "kept",
                **self.columns,
            }
            for unit in pack
            for position in range(unit.count)
        ]


@dataclass(frozen=True)
class Unmoved:
    """Returns a row as it is, with an energy."""

    def setup(self) -> None:
        """Need nothing."""

    def __call__(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the rows of crystals that were at rest already."""
        at_rest = {"energy": -1.0, "energy_per_atom": -0.5, "converged": True, "n_steps": 0}
        return [{**row, **at_rest} for row in rows]


def same(units: tuple[Unit, ...]) -> tuple[Unit, ...]:
    """Prepare nothing."""
    return units


class Watch:
    """A view that shows nothing and measures the driver each time a tenth is done."""

    def __init__(self, directory: Path, total: int) -> None:
        self.directory = directory
        self.total = total
        self.began = time.perf_counter()
        self.rows: list[tuple[float, float, float, int]] = []

    def show(self, progress: Progress) -> None:
        """Measure."""
        done = progress.stages[SAMPLING].done
        if done * 10 >= (len(self.rows) + 1) * self.total:
            memory = psutil.Process().memory_info().rss / MB
            files = sum(len(names) for _, _, names in os.walk(self.directory))
            self.rows.append((done / self.total, time.perf_counter() - self.began, memory, files))
            print("{:4.0%}  {:8.1f} s  {:7.0f} MB  {:6d} files".format(*self.rows[-1]), flush=True)

    def say(self, text: str) -> None:
        """Print."""
        print(text)

    def close(self) -> None:
        """Need nothing."""


def campaign_of(n_units: int, samples: int) -> Campaign:
    """Return a campaign of about that many units."""
    whole = {
        "name": "scheduler",
        "chemical_systems": {"elements": ELEMENTS, "arity": 3},
        "space_groups": "common32",
        "sites": {"per_element": [1, 2], "total_max": 4},
        "samples_per_cell": samples,
        "generator": {"unit_size": samples},
        "references": "prototypes",
    }
    per_system = grid_size(Campaign.from_mapping(whole)).n_units / 1140
    systems = [
        f"{a}-{b}-{c}"
        for i, a in enumerate(ELEMENTS)
        for j, b in enumerate(ELEMENTS[i + 1 :], i + 1)
        for c in ELEMENTS[j + 1 :]
    ]
    chosen = systems[: max(1, round(n_units / per_system))]
    return Campaign.from_mapping({**whole, "chemical_systems": chosen})


class NoReferences(References):
    """No reference phases: they are a cost of the chemistry, not of the engine."""

    def missing(self) -> Any:
        """Return none."""
        return iter(())


def batched(items: Iterable[Any], n: int) -> Iterator[list[Any]]:
    """Yield lists of n items, as Python 3.12 has it."""
    rest = iter(items)
    while part := list(islice(rest, n)):
        yield part


def looks(store: Store, sweep: Callable[[], Sweep]) -> dict[str, Any]:
    """Return the seconds that a status takes, and the first questions of a resume."""
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        status = campaign_status(store)
        seconds.append(time.perf_counter() - began)
    began = time.perf_counter()
    has_work = sweep()._has_work()  # noqa: SLF001 - what a resume asks first
    return {
        "done": status["units"]["done"],
        "left": has_work,
        "files": sum(len(names) for _, _, names in os.walk(store.uri)),
        "status_s": round(statistics.median(seconds), 3),
        "resume_looks_s": round(time.perf_counter() - began, 2),
        "peak_MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def marks_only(n_marks: int, directory: Path) -> None:
    """Seal so many marks, 512 at a time, and look at them."""
    whole = campaign_of(10**9, 2)
    per_cell = 2 * -(-n_marks // grid_size(whole).n_units)
    campaign = Campaign.from_mapping({**whole.resolved(), "samples_per_cell": per_cell})
    store, parts = Store(str(directory)), {"calculator": "none"}
    store.initialise(campaign.resolved(), campaign.fingerprint(parts), parts)
    began = time.perf_counter()
    for part in batched(islice(units(campaign), n_marks), 512):
        rows = [{"status": "filtered", "sample_id": ""}] * 2
        marks = [
            unit_mark(unit, rows, [], "done", seconds={"sampling": 0.1}, attempts=1, error=None)
            for unit in part
        ]
        store.ledger.seal([{**mark, "table": "Al-Ba-Ca_merged-" + "0" * 16} for mark in marks])
    wall = time.perf_counter() - began
    progress = Progress([StageProgress(SAMPLING, "samples", SAMPLERS, 0.01)], Watch(directory, 1))
    for name in (RELAXATION, REFERENCES):
        progress.stages[name] = StageProgress(name, "structures", RELAXERS, 0.01)
    references = NoReferences(campaign, store)
    found = looks(store, lambda: Sweep(campaign, store, references, "none", progress))
    print(json.dumps({"ms_per_mark": round(1000 * wall / n_marks, 3), **found}, indent=1))


def main() -> None:
    """Run, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--marks", type=int)
    options = parser.parse_args()
    directory = options.out or Path(tempfile.mkdtemp(prefix="scheduler-"))
    if options.marks:
        marks_only(options.marks, directory)
        shutil.rmtree(directory)
        return
    campaign = campaign_of(options.units, options.samples)
    size = grid_size(campaign)
    print(f"{size.n_chemical_systems} systems, {size.n_units} units, {size.n_samples} samples")
    store = Store(str(directory))
    store.initialise(campaign.resolved(), campaign.fingerprint({}))
    crystal = Structure(Lattice.cubic(4.1), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    stages = Stages(Drawn(structure_columns(crystal)), Unmoved(), same)
    watch = Watch(directory, size.n_samples)
    progress = Progress(
        [
            StageProgress(SAMPLING, "samples", SAMPLERS, 0.01, size.n_samples),
            StageProgress(RELAXATION, "structures", RELAXERS, 0.01, size.n_samples),
            StageProgress(REFERENCES, "phases", RELAXERS, 0.01),
        ],
        watch,
    )

    def sweep_of() -> Sweep:
        return Sweep(campaign, store, NoReferences(campaign, store), "none", progress, stages)

    sweep = sweep_of()
    with Cluster() as cluster:
        began = time.perf_counter()
        processor = time.process_time()
        sweep.run(cluster)
        wall, processor = time.perf_counter() - began, time.process_time() - processor
    store.compact()
    n_bytes = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    print(
        json.dumps(
            {
                "units": size.n_units,
                "wall_s": round(wall, 1),
                "ms_per_unit": round(1000 * wall / size.n_units, 2),
                "driver_ms_per_unit": round(1000 * processor / size.n_units, 2),
                "MB": round(n_bytes / MB, 1),
                **looks(store, sweep_of),
            },
            indent=1,
        )
    )
    if options.out is None:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()

"""How much faster is a campaign on two cores than on one?

    python benchmarks/workers.py [--cores 1 2] [--samples 32] [--repeats 3]

The same campaign (the default model and potential, energies of known phases from a file) is run on a
local Ray with each number of cores, to which all its processes are bound, the driver's too. Counted are the structures that are relaxed from the moment when
a sampler and a relaxer have loaded what they need, and the time until the last one: start-up, ranking
and report are left out. Efficiency is the rate over that of the first number of cores, divided by how
many times more cores there are. The tables of samples and of candidates must be the same, bit by bit.
The machine must have nothing else to do.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from screening.campaign import Campaign
from screening.pipeline import run_campaign
from screening.store import Store
from screening.sweep import RELAXATION, SAMPLING

if TYPE_CHECKING:
    import pyarrow as pa

    from screening.progress import Progress

CAMPAIGN = """
name: workers
chemical_systems: [Cu-Si, K-Si]
space_groups: [225, 221, 194, 123, 62]
sites: {per_element: [1, 2], total_max: 3}
samples_per_cell: SAMPLES
generator: {unit_size: 8}
references: REFERENCES
"""
KNOWN = "formula,energy_per_atom\nCu,-4.1\nK,-1.1\nSi,-5.4\n"
STREAM = "sampling and relaxing"


class Watch:
    """A view that shows nothing and takes the time of what is done."""

    def __init__(self) -> None:
        self.began: tuple[float, int] | None = None
        self.ended = (0.0, 0)
        self.busy_s: dict[str, float] = {}

    def show(self, progress: Progress) -> None:
        """Note when the first structures and the last one are relaxed."""
        relaxation = progress.stages[RELAXATION]
        if progress.activity != STREAM:
            return
        now = time.perf_counter()
        if self.began is None:
            self.began = now, relaxation.done
        if relaxation.done > self.ended[1]:
            self.ended = now, relaxation.done
        self.busy_s = {name: progress.stages[name].busy_s for name in (SAMPLING, RELAXATION)}

    def say(self, text: str) -> None:
        """Print."""
        print(text, flush=True)

    def close(self) -> None:
        """Need nothing."""

    @property
    def seconds(self) -> float:
        """Seconds from the first to the last structure, s."""
        return self.ended[0] - self.began[0] if self.began else 0.0

    @property
    def structures(self) -> int:
        """Structures that were relaxed in that time."""
        return self.ended[1] - self.began[1] if self.began else 0


def run(campaign: Campaign, out: Path, cores: int) -> tuple[Watch, tuple[pa.Table, pa.Table]]:
    """Run the campaign, and return what it took and its samples and candidates."""
    watch = Watch()
    # Ray's cores are numbers: without this a sampler and a relaxer on "one core" would have two.
    machine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(machine)[:cores])
    try:
        run_campaign(campaign, str(out), num_cpus=cores, view=watch)
    finally:
        os.sched_setaffinity(0, machine)
    store = Store(str(out))
    return watch, (store.read_samples().sort_by("sample_id"), store.candidates())


def main() -> None:
    """Run, compare, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    watches: dict[int, list[Watch]] = {cores: [] for cores in options.cores}
    with tempfile.TemporaryDirectory(prefix="workers-") as directory:
        known = Path(directory) / "known.csv"
        known.write_text(KNOWN)
        text = CAMPAIGN.replace("SAMPLES", str(options.samples)).replace("REFERENCES", str(known))
        campaign = Campaign.from_text(text, "workers")
        first: tuple[pa.Table, pa.Table] | None = None
        for repeat in range(options.repeats):
            for cores in options.cores:
                watch, tables = run(campaign, Path(directory) / f"{cores}-{repeat}", cores)
                watches[cores].append(watch)
                first = first or tables
                if not all(a.equals(b) for a, b in zip(first, tables, strict=True)):
                    raise RuntimeError(f"the tables of {cores} cores, run {repeat}, are others")
    rates = {
        cores: statistics.median(watch.structures / watch.seconds for watch in found)
        for cores, found in watches.items()
    }
    base = options.cores[0]
    table = Table(
        "cores", "structures", "s", "structures/s", "sampling, s", "relaxation, s", "efficiency"
    )
    for cores, found in watches.items():
        last = found[-1]
        table.add_row(
            str(cores),
            str(last.structures),
            f"{statistics.median(watch.seconds for watch in found):.1f}",
            f"{rates[cores]:.2f}",
            *(f"{last.busy_s[name]:.1f}" for name in (SAMPLING, RELAXATION)),
            f"{rates[cores] / rates[base] * base / cores:.0%}",
        )
    Console(width=100).print(table)
    print(f"tables identical in all {options.repeats * len(options.cores)} runs")


if __name__ == "__main__":
    main()

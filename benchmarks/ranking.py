"""How much memory does the end of a campaign take: ranking, report and export?

    python benchmarks/ranking.py [--candidates 200000] [--systems 200] [--out DIR]

Relaxed crystals of many chemical systems are stored as a campaign would, and ranked by the real
driver, cluster and store with workers that do nothing: a comparison returns its rows with a CIF file,
a hull gives each an energy at random. Then come the report and an export of the best hundred. Printed
are for each step the seconds, and the most memory that the driver had: in all, and without the pages
of files that the system may drop at any time.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
from pymatgen.core import Lattice, Structure
from rich.console import Console
from rich.table import Table
from scheduler import ELEMENTS, NoReferences

from screening.campaign import Campaign
from screening.cluster import Cluster
from screening.export import cif_text, export_candidates
from screening.grid import units
from screening.hull import HULL_COLUMNS
from screening.progress import Progress, StageProgress
from screening.ranked_runs import RankedRuns
from screening.ranking import RANKING, Comparison, Placement, Ranked, rank
from screening.report import report_campaign
from screening.schema import CANDIDATE_SCHEMA, structure_columns, table_from_rows
from screening.store import Store

if TYPE_CHECKING:
    from types import TracebackType

KB_PER_MB = 1024
POLL_S = 0.02


@dataclass(frozen=True)
class Unranked:
    """Fills the columns of the ranking with values that cost nothing."""

    cif: str

    def setup(self) -> None:
        """Need nothing."""

    def __call__(self, work: Comparison | Placement) -> Ranked:
        """Return the rows as they are, described, or energies above the hull at random."""
        rows: list[dict[str, Any]] = work.rows.to_pylist()
        if isinstance(work, Comparison):
            known = {
                "is_representative": True,
                "n_duplicates": 0,
                "is_novel": True,
                "cif": self.cif,
            }
            return Ranked(table_from_rows([row | known for row in rows], CANDIDATE_SCHEMA), {})
        heights = [random.gauss(0.3, 0.2) for _ in rows]
        columns = [dict.fromkeys(HULL_COLUMNS[:3], height) for height in heights]
        schema = pa.schema([CANDIDATE_SCHEMA.field(name) for name in HULL_COLUMNS])
        return Ranked(table_from_rows(columns, schema), {})


class Memory:
    """The most memory that this process has while a step lasts."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.most = {"VmRSS": 0.0, "RssAnon": 0.0}
        self.seconds = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self.seconds = -time.perf_counter()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.seconds += time.perf_counter()
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(POLL_S):
            for line in Path("/proc/self/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in self.most:
                    self.most[name] = max(self.most[name], int(value.split()[0]) / KB_PER_MB)


class Silent:
    """A view that shows nothing."""

    def show(self, progress: Progress) -> None:
        """Need nothing."""

    def say(self, text: str) -> None:
        """Print."""
        print(text)

    def close(self) -> None:
        """Need nothing."""


def stored(directory: Path, n_candidates: int, n_systems: int) -> tuple[Campaign, Store, str]:
    """Store relaxed crystals of ten atoms, as many in each system."""
    systems = [
        f"{a}-{b}-{c}"
        for i, a in enumerate(ELEMENTS)
        for j, b in enumerate(ELEMENTS[i + 1 :], i + 1)
        for c in ELEMENTS[j + 1 :]
    ]
    campaign = Campaign.from_mapping(
        {
            "name": "ranking",
            "chemical_systems": systems[:n_systems],
            "space_groups": [225],
            "sites": {"per_element": [1], "total_max": 3},
            "samples_per_cell": -(-n_candidates // n_systems),
            "generator": {"unit_size": 256},
            "references": "prototypes",
        }
    )
    store = Store(str(directory))
    store.initialise(campaign.resolved(), campaign.fingerprint({}))
    lattice, rng = Lattice.orthorhombic(5.0, 6.0, 7.0), random.Random(0)  # noqa: S311 - no secret
    species = ["Cu", "K", "Si", "Si", "Si"] * 2
    crystal = Structure(lattice, species, [[rng.random() for _ in "xyz"] for _ in species])
    columns = structure_columns(crystal)
    relaxed = {"energy": -9.0, "energy_per_atom": -0.9, "converged": True, "n_steps": 3}
    for unit in units(campaign):
        rows = [
            {**unit.columns(position), "generator": "none", "status": "kept", **columns}
            for position in range(unit.count)
        ]
        store.write_unit(unit, rows, [row | relaxed for row in rows])
    store.compact()
    return campaign, store, cif_text(crystal)


def main() -> None:
    """Store, rank, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=200_000)
    parser.add_argument("--systems", type=int, default=200)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    directory = options.out or Path(tempfile.mkdtemp(prefix="ranking-"))
    campaign, store, cif = stored(directory / "results", options.candidates, options.systems)
    progress = Progress([StageProgress(RANKING, "systems", RANKING, 1.0)], Silent())
    with Cluster() as cluster, tempfile.TemporaryDirectory() as scratch:
        with Memory("before") as before:
            time.sleep(1.0)
        runs = RankedRuns(Path(scratch))
        with Memory("ranking") as ranking:
            systems, references = store.relaxed_systems(), NoReferences(campaign, store)
            rank(cluster, systems, references, progress, runs.add, Unranked(cif))
        with Memory("table") as writing:
            store.write_candidates(runs.merged())
    with Memory("report") as report:
        report_campaign(store)
    with Memory("export") as export:
        export_candidates(store, 100, "cif", directory / "cif")
    table = Table("step", "s", "most memory, MB", "without files, MB")
    for step in (before, ranking, writing, report, export):
        numbers = (step.seconds, step.most["VmRSS"], step.most["RssAnon"])
        table.add_row(step.name, *(f"{number:.0f}" for number in numbers))
    size = store.candidates(["sample_id"]).num_rows
    Console(width=100).print(table)
    print(f"{size} candidates, {(directory / 'results/candidates.parquet').stat().st_size} bytes")
    if options.out is None:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()

"""The end of a campaign, chemical system by chemical system: duplicates, hull, known phases."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from screening.deduplication import deduplicate, match_references
from screening.description import described
from screening.export import cif_text
from screening.hull import place_on_hull
from screening.schema import structure_from_row
from screening.screens import smact_valid

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from screening.cluster import Cluster
    from screening.pool import Outcome
    from screening.progress import Progress
    from screening.references import References

Row = dict[str, Any]

RANKING = "ranking"
DEDUPLICATION = "deduplication"
HULL = "hull"
DESCRIPTION = "description"
_POLL_S = 0.5


@dataclass(frozen=True)
class RankedSystem:
    """A chemical system's candidates, placed, and the seconds that each step took."""

    rows: list[Row]
    seconds: dict[str, float]


@dataclass(frozen=True)
class RankingStage:
    """Finds the duplicates among a chemical system's candidates and places them on its hull."""

    def setup(self) -> None:
        """Need nothing."""

    def __call__(self, system: tuple[list[Row], list[Row]]) -> RankedSystem:
        """Fill the columns that compare a candidate with other phases.

        Args:
            system: the relaxed rows, failed ones included, and the reference phases.
        """
        rows, references = system
        seconds: dict[str, float] = {}
        with _timed(seconds, DEDUPLICATION):
            rows = match_references(deduplicate(rows), references)
        with _timed(seconds, HULL):
            rows = place_on_hull(rows, references)
        with _timed(seconds, DESCRIPTION):
            rows = [_described(row) for row in rows]
        return RankedSystem(rows, seconds)


def rank(
    cluster: Cluster,
    systems: Mapping[str, list[Row]],
    references: References,
    progress: Progress,
) -> tuple[list[Row], dict[str, float]]:
    """Rank the candidates of a campaign, its chemical systems side by side.

    Args:
        cluster: Does the work.
        systems: The relaxed rows of each chemical system.
        references: The reference phases.
        progress: Counts the systems.

    Returns:
        All rows, the best first, and the seconds that each step took, summed over systems.
    """
    if not systems:
        return [], {}
    size = min(len(systems), cluster.cpus)
    pool = cluster.pool(RANKING, RankingStage(), size=size, num_cpus=0.5)
    progress.stages[RANKING].workers = size
    for system, rows in systems.items():
        pool.submit(system, (rows, references.rows(system)))
        progress.begin(RANKING)
    ranked: list[Row] = []
    seconds: dict[str, float] = defaultdict(float)
    while pool.pending:
        for outcome in cluster.completed(_POLL_S):
            ranked += _rows_of(outcome, systems, progress)
            if outcome.error is None:
                for step, step_s in outcome.value.seconds.items():
                    seconds[step] += round(step_s, 3)
        progress.tick()
    cluster.close(pool)
    return in_order(ranked), dict(seconds)


def _rows_of(outcome: Outcome, systems: Mapping[str, list[Row]], progress: Progress) -> list[Row]:
    failed = outcome.error is not None
    progress.advance(RANKING, 1, failed, outcome.busy_s)
    if not failed:
        return list(outcome.value.rows)
    progress.say(f"{outcome.key} could not be ranked: {outcome.error}")
    return systems[outcome.key]


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Return candidates as they are ranked: by energy above the hull, those without one last."""

    def key(row: Row) -> tuple[bool, float, str]:
        height = row["e_above_hull"]
        return height is None, height or 0.0, row["sample_id"]

    return sorted(rows, key=key)


def _described(row: Row) -> Row:
    if row["status"] != "kept":
        return row
    structure = structure_from_row(row)
    return {
        **row,
        **described(structure, row),
        "smact_valid": smact_valid(structure.composition),
        "cif": cif_text(structure),
    }


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - began

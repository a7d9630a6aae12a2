"""The end of a campaign: duplicates and known phases formula by formula, then the hulls.

Crystals of different formulas are never the same, so that the comparison of a large chemical system
is spread over workers; its hull needs all of it at once.
"""

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
    from screening.pool import Pool
    from screening.progress import Progress
    from screening.references import References

Row = dict[str, Any]

RANKING = "ranking"
DEDUPLICATION = "deduplication"
HULL = "hull"
DESCRIPTION = "description"
_POLL_S = 0.5
_ROWS_PER_PIECE = 200
"""Rows up to which formulas share a piece of work: some seconds of it."""


@dataclass(frozen=True)
class Ranked:
    """Candidates with some columns more, and the seconds that each step took."""

    rows: list[Row]
    seconds: dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """Finds the duplicates among candidates, and what they have in common with known phases."""

    rows: list[Row]
    """Relaxed rows, failed ones included: all of their formulas in a chemical system."""
    references: list[Row]
    """The reference phases of these formulas."""

    def __call__(self) -> Ranked:
        """Fill the columns that need no hull."""
        seconds: dict[str, float] = {}
        with _timed(seconds, DEDUPLICATION):
            rows = match_references(deduplicate(self.rows), self.references)
        with _timed(seconds, DESCRIPTION):
            rows = [_described(row) for row in rows]
        return Ranked(rows, seconds)


@dataclass(frozen=True)
class Placement:
    """Places the candidates of a chemical system on its hull."""

    rows: list[Row]
    references: list[Row]

    def __call__(self) -> Ranked:
        """Fill the columns of energies."""
        seconds: dict[str, float] = {}
        with _timed(seconds, HULL):
            rows = place_on_hull(self.rows, self.references)
        return Ranked(rows, seconds)


@dataclass(frozen=True)
class RankingStage:
    """Does either part of the ranking."""

    def setup(self) -> None:
        """Need nothing."""

    def __call__(self, work: Comparison | Placement) -> Ranked:
        """Return the rows with the columns that the work fills."""
        return work()


def rank(
    cluster: Cluster,
    systems: Mapping[str, list[Row]],
    references: References,
    progress: Progress,
) -> tuple[list[Row], dict[str, float]]:
    """Rank the candidates of a campaign, its chemical systems and their formulas side by side.

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
    known = {system: references.rows(system) for system in systems}
    comparisons = {
        f"{system} {number}": comparison
        for system, rows in systems.items()
        for number, comparison in enumerate(comparisons_of(rows, known[system]))
    }
    size = min(len(comparisons), cluster.cpus)
    pool = cluster.pool(RANKING, RankingStage(), size=size, num_cpus=0.5)
    progress.stages[RANKING].workers = size
    seconds: dict[str, float] = defaultdict(float)
    compared: dict[str, list[Row]] = defaultdict(list)
    for key, rows in _done(cluster, pool, comparisons, progress, seconds):
        compared[key.split()[0]] += rows
    placements = {system: Placement(rows, known[system]) for system, rows in compared.items()}
    ranked: list[Row] = []
    for _, rows in _done(cluster, pool, placements, progress, seconds):
        ranked += rows
        progress.advance(RANKING, 1)
    cluster.close(pool)
    return in_order(ranked), {step: round(step_s, 3) for step, step_s in seconds.items()}


def comparisons_of(rows: Iterable[Row], references: Iterable[Row]) -> list[Comparison]:
    """Split the comparison of a chemical system where no two crystals can be the same.

    Args:
        rows: its relaxed rows.
        references: its reference phases.

    Returns:
        The largest pieces first. A formula is never divided; small ones share a piece.
    """
    by_formula: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_formula[row["chemical_formula_reduced"]].append(row)
    pieces: list[list[Row]] = []
    for formula in sorted(by_formula, key=lambda formula: -len(by_formula[formula])):
        if pieces and len(pieces[-1]) + len(by_formula[formula]) <= _ROWS_PER_PIECE:
            pieces[-1] += by_formula[formula]
        else:
            pieces.append(list(by_formula[formula]))
    phases: dict[str, list[Row]] = defaultdict(list)
    for reference in references:
        phases[reference["chemical_formula_reduced"]].append(reference)
    return [
        Comparison(
            piece,
            [
                reference
                for formula in dict.fromkeys(row["chemical_formula_reduced"] for row in piece)
                for reference in phases[formula]
            ],
        )
        for piece in pieces
    ]


def _done(
    cluster: Cluster,
    pool: Pool,
    works: Mapping[str, Comparison | Placement],
    progress: Progress,
    seconds: dict[str, float],
) -> Iterator[tuple[str, list[Row]]]:
    """Yield the rows of each piece of work as it is done: as they were, if it could not be."""
    for key, work in works.items():
        pool.submit(key, work)
        progress.begin(RANKING)
    while pool.pending:
        for outcome in cluster.completed(_POLL_S):
            failed = outcome.error is not None
            progress.advance(RANKING, 0, failed, outcome.busy_s)
            if failed:
                progress.say(f"{outcome.key} could not be ranked: {outcome.error}")
                yield outcome.key, works[outcome.key].rows
                continue
            for step, step_s in outcome.value.seconds.items():
                seconds[step] += step_s
            yield outcome.key, outcome.value.rows
        progress.tick()


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

"""The end of a campaign: duplicates and known phases formula by formula, then the hulls.

Crystals of different formulas are never the same, so that the comparison of a large chemical system
is spread over workers; its hull needs all of its energies at once. As many chemical systems are in
memory as keep the workers in work.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from screening.crews import RELAXER_CPUS, Crew
from screening.deduplication import deduplicate, match_references
from screening.description import described
from screening.export import cif_text
from screening.hull import HULL_COLUMNS, place_on_hull
from screening.schema import CANDIDATE_SCHEMA, structure_from_row, table_from_rows
from screening.screens import smact_valid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from screening.cluster import Cluster
    from screening.pool import Outcome, Stage
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


_HULL_SCHEMA = pa.schema([CANDIDATE_SCHEMA.field(name) for name in HULL_COLUMNS])
_ENERGIES = ("chemical_system", "status", "chemical_formula_reduced", "energy_per_atom")
"""What a hull needs of candidates."""


@dataclass(frozen=True)
class Ranked:
    """Columns of candidates, and the seconds that each step took."""

    rows: pa.Table
    seconds: dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """Finds the duplicates among candidates, and what they have in common with known phases."""

    rows: pa.Table
    """Relaxed rows, failed ones included: all of their formulas in a chemical system."""
    references: list[Row]
    """The reference phases of these formulas."""

    def __call__(self) -> Ranked:
        """Return the rows with the columns that need no hull."""
        seconds: dict[str, float] = {}
        with _timed(seconds, DEDUPLICATION):
            rows = match_references(deduplicate(self.rows.to_pylist()), self.references)
        with _timed(seconds, DESCRIPTION):
            rows = [_described(row) for row in rows]
        return Ranked(table_from_rows(rows, CANDIDATE_SCHEMA), seconds)


@dataclass(frozen=True)
class Placement:
    """Places the candidates of a chemical system on its hull."""

    rows: pa.Table
    """Their columns `_ENERGIES`."""
    references: list[Row]

    def __call__(self) -> Ranked:
        """Return the columns of energies, and no other."""
        seconds: dict[str, float] = {}
        with _timed(seconds, HULL):
            rows = place_on_hull(self.rows.to_pylist(), self.references)
        return Ranked(pa.Table.from_pylist(rows, schema=_HULL_SCHEMA), seconds)


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
    systems: Mapping[str, Callable[[], pa.Table]],
    references: References,
    progress: Progress,
    take: Callable[[pa.Table], None],
    stage: Stage | None = None,
) -> dict[str, float]:
    """Rank the candidates of a campaign, its chemical systems and their formulas side by side.

    Args:
        cluster: Does the work.
        systems: A function for each chemical system that reads its relaxed rows.
        references: The reference phases.
        progress: Counts the systems.
        take: Gets the rows of each system as it is ranked, as `CANDIDATE_SCHEMA`, in no order.
        stage: What the workers do; `RankingStage` when absent.

    Returns:
        The seconds that each step took, summed over systems.
    """
    ranking = _Ranking(systems, references, progress, take)
    ranking.open_systems(2 * cluster.cpus)
    most = len(ranking.queue)
    if not most:
        return {}
    pool = cluster.elastic_pool(
        RANKING, stage or RankingStage(), lambda cpus, _: Crew(min(cpus, most), RELAXER_CPUS)
    )
    while ranking.queue or pool.pending:
        while ranking.queue and pool.pending < pool.capacity:
            key, work = ranking.queue.popleft()
            pool.submit(key, work)
            progress.begin(RANKING)
        for outcome in cluster.completed(_POLL_S):
            progress.advance(RANKING, 0, outcome.error is not None, outcome.busy_s)
            ranking.end(outcome)
        ranking.open_systems(pool.capacity)
        progress.stages[RANKING].workers = pool.size
        progress.tick()
    cluster.close(pool)
    return {step: round(step_s, 3) for step, step_s in ranking.seconds.items()}


@dataclass
class _OpenSystem:
    """A chemical system that is being ranked."""

    references: list[Row]
    uncompared: dict[str, pa.Table] = field(default_factory=dict)
    """Rows by the key of the comparison that they are in."""
    compared: list[pa.Table] = field(default_factory=list)


class _Ranking:
    """The chemical systems under way, and the work that waits for a worker."""

    def __init__(
        self,
        systems: Mapping[str, Callable[[], pa.Table]],
        references: References,
        progress: Progress,
        take: Callable[[pa.Table], None],
    ) -> None:
        self.queue: deque[tuple[str, Comparison | Placement]] = deque()
        self.seconds: dict[str, float] = defaultdict(float)
        self._unopened = iter(systems.items())
        self._open: dict[str, _OpenSystem] = {}
        self._references = references
        self._progress = progress
        self._take = take

    def open_systems(self, enough: int) -> None:
        """Read chemical systems until so much work waits, or there is none left."""
        while len(self.queue) < enough:
            system, read = next(self._unopened, ("", None))
            if read is None:
                return
            opened = _OpenSystem(self._references.rows(system))
            for number, comparison in enumerate(comparisons_of(read(), opened.references)):
                key = f"{system} {number}"
                opened.uncompared[key] = comparison.rows
                self.queue.append((key, comparison))
            if opened.uncompared:
                self._open[system] = opened
            else:
                self._progress.advance(RANKING, 1)

    def end(self, outcome: Outcome) -> None:
        """Take in a comparison or a placement: rows are as they were, if it could not be done."""
        if outcome.error is not None:
            self._progress.say(f"{outcome.key} could not be ranked: {outcome.error}")
        else:
            for step, step_s in outcome.value.seconds.items():
                self.seconds[step] += step_s
        columns = outcome.value.rows if outcome.error is None else None
        system = outcome.key.split()[0]
        if outcome.key == system:
            self._end_placement(self._open.pop(system), columns)
        else:
            self._end_comparison(system, outcome.key, columns)

    def _end_comparison(self, system: str, key: str, compared: pa.Table | None) -> None:
        opened = self._open[system]
        uncompared = opened.uncompared.pop(key)
        opened.compared.append(uncompared if compared is None else compared)
        if not opened.uncompared:
            rows = pa.concat_tables(opened.compared).select(_ENERGIES)
            # First, so that the rows of this system need not wait for those of others.
            self.queue.appendleft((system, Placement(rows, opened.references)))

    def _end_placement(self, opened: _OpenSystem, energies: pa.Table | None) -> None:
        rows = pa.concat_tables(opened.compared)
        if energies is not None:
            for name in HULL_COLUMNS:
                column = _HULL_SCHEMA.field(name), energies[name]
                rows = rows.set_column(rows.schema.get_field_index(name), *column)
        self._take(rows)
        self._progress.advance(RANKING, 1)


def comparisons_of(rows: pa.Table, references: Iterable[Row]) -> list[Comparison]:
    """Split the comparison of a chemical system where no two crystals can be the same.

    Args:
        rows: its relaxed rows, as `CANDIDATE_SCHEMA`.
        references: its reference phases.

    Returns:
        The largest pieces first. A formula is never divided; small ones share a piece.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for place, formula in enumerate(rows["chemical_formula_reduced"].to_pylist()):
        places[formula].append(place)
    pieces: list[list[str]] = []
    left = 0
    for formula in sorted(places, key=lambda formula: -len(places[formula])):
        if len(places[formula]) > left:
            pieces.append([])
            left = _ROWS_PER_PIECE
        pieces[-1].append(formula)
        left -= len(places[formula])
    phases: dict[str, list[Row]] = defaultdict(list)
    for reference in references:
        phases[reference["chemical_formula_reduced"]].append(reference)
    rows = rows.combine_chunks()
    return [
        Comparison(
            rows.take([place for formula in piece for place in places[formula]]),
            [reference for formula in piece for reference in phases[formula]],
        )
        for piece in pieces
    ]


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

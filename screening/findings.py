"""What a campaign has found, counted and ordered for its report.

Everything here goes from rows to plain values: no file is read and nothing is drawn. Rows are met
one by one, since there may be millions.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from screening.chemistry import space_group_symbol
from screening.schema import rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Row = Mapping[str, Any]

MOST_FAILURES = 20
"""Different errors that are listed."""
MOST_INTERVALS = 40
"""Intervals of time in which the throughput is counted."""
NEAR_HULL = 0.1
"""Energy above the hull, in eV per atom, up to which a candidate may be worth computing further."""

_S_PER_HOUR = 3600.0


@dataclass(frozen=True)
class Stage:
    """What one stage of a campaign passed on, and why the others were left behind after it."""

    name: str
    count: int
    """Samples that came as far as this stage."""
    losses: tuple[tuple[str, int], ...] = ()
    """Reasons for which some did not reach the next stage; they add up to all that did not."""


@dataclass(frozen=True)
class HeatMap:
    """Best energy above the hull for each space group and each choice of sites."""

    columns: tuple[str, ...]
    """Numbers of sites, as ``Cu1-K1-Si1`` or, across several chemical systems, ``2-1-1``."""
    rows: tuple[tuple[str, tuple[Row | None, ...]], ...]
    """A space group's name and its best candidate in each column, None where there is none."""


@dataclass(frozen=True)
class Interval:
    """What was finished in a stretch of time."""

    begin_h: float
    """Hours since the campaign began."""
    end_h: float
    samples: int
    relaxed: int

    @property
    def samples_per_hour(self) -> float:
        """Samples that were finished per hour."""
        return self.samples / (self.end_h - self.begin_h)


def funnel(samples: Iterable[Row], candidates: Iterable[Row]) -> list[Stage]:
    """Count what became of the samples, stage by stage.

    Args:
        samples: Every sample, with ``status``, ``reason`` and ``error``.
        candidates: Those that were passed on to relaxation, ranked or not.
    """
    filtered: Counter[str] = Counter()
    kept = 0
    for row in samples:
        if (reason := _why_not_kept(row)) is None:
            kept += 1
        else:
            filtered[reason] += 1
    losses: list[Counter[str]] = [Counter() for _ in _STEPS]
    n_candidates = 0
    for row in candidates:
        n_candidates += 1
        for lost, (_, why_not) in zip(losses, _STEPS, strict=True):
            if (reason := why_not(row)) is not None:
                lost[reason] += 1
                break
    stages = [Stage("samples drawn", kept + filtered.total(), tuple(filtered.most_common()))]
    # Where a finished campaign is resumed, what is new has no place in the ranking yet.
    waiting = (("not ranked yet", kept - n_candidates),) if kept > n_candidates else ()
    name, count, left = "passed on to relaxation", kept, n_candidates
    for (next_name, _), lost in zip(_STEPS, losses, strict=True):
        stages.append(Stage(name, count, tuple(lost.most_common()) + waiting))
        left -= lost.total()
        name, count, waiting = next_name, left, ()
    return [*stages, Stage(name, count)]


def _why_not_kept(row: Row) -> str | None:
    if row["status"] == "kept":
        return None
    if row["status"] == "filtered":
        return f"filtered: {without_numbers(row['reason'] or 'no reason was recorded')}"
    return f"failed: {without_numbers(row['error'] or 'no error was recorded')}"


def _why_not_relaxed(row: Row) -> str | None:
    if row["energy_per_atom"] is not None:
        return None
    return without_numbers(row["error"] or "no error was recorded")


def _why_not_converged(row: Row) -> str | None:
    return "did not converge" if row["converged"] is False else None


def _why_not_distinct(row: Row) -> str | None:
    if row["is_representative"] is False:
        return "the same crystal as another candidate"
    if row["rescored_duplicate_of"] is not None:
        return "the same crystal as another candidate, for the second potential"
    return None


def _why_not_placed(row: Row) -> str | None:
    return "no hull to compare with" if row["e_above_hull"] is None else None


def _why_not_novel(row: Row) -> str | None:
    if row["is_novel"]:
        return None
    if row["is_novel"] is False and row["matched_reference_id"] is None:
        return "of the formula of a reference phase without a structure"
    return "equal to a reference phase"


def _why_not_near(row: Row) -> str | None:
    return "farther above the hull" if row["e_above_hull"] > NEAR_HULL else None


def _why_not_stable(row: Row) -> str | None:
    return "above the hull" if row["e_above_hull"] > 0 else None


_STEPS: tuple[tuple[str, Callable[[Row], str | None]], ...] = (
    ("relaxed", _why_not_relaxed),
    ("converged", _why_not_converged),
    ("distinct", _why_not_distinct),
    ("placed against the hull", _why_not_placed),
    ("novel", _why_not_novel),
    (f"novel, at most {NEAR_HULL:g} eV/atom above the hull", _why_not_near),
    ("novel, on the hull or below it", _why_not_stable),
)
"""The stages after relaxation has begun, and why a row does not reach each; the first four are
the conditions of :func:`screening.selection.best_places`."""


def failures(rows: Iterable[Row]) -> list[tuple[str, int, str]]:
    """Group the errors that differ in numbers only.

    Returns:
        An error, how often it occurred, and the first sample that it stopped.
    """
    counts: Counter[str] = Counter()
    examples: dict[str, tuple[str, str]] = {}
    for row in rows:
        if row["status"] != "failed":
            continue
        error = row["error"] or "no error was recorded"
        kind = without_numbers(error)
        counts[kind] += 1
        examples.setdefault(kind, (error, row["sample_id"]))
    return [
        (examples[kind][0], count, examples[kind][1])
        for kind, count in counts.most_common(MOST_FAILURES)
    ]


def heat_map(ranked: pa.Table) -> HeatMap:
    """Find the best candidate of each space group and each choice of sites.

    Args:
        ranked: Candidates, the best first.
    """
    several = len(ranked["chemical_system"].unique()) > 1
    first: dict[tuple[int, str], Row] = {}
    # The best by the first potential, which all have a place by.
    for row in rows_of(ranked.sort_by("e_above_hull")):
        sites = _pattern(row["site_counts"]) if several else row["site_counts"]
        first.setdefault((row["space_group_requested"], sites), row)
    columns = tuple(sorted({sites for _, sites in first}, key=lambda sites: (len(sites), sites)))
    groups = sorted({group for group, _ in first})
    return HeatMap(
        columns,
        tuple(
            (space_group_name(group), tuple(first.get((group, sites)) for sites in columns))
            for group in groups
        ),
    )


def throughput(marks: Iterable[Row], began_at: float | None = None) -> list[Interval]:
    """Count what was finished in equal intervals of time, pauses between runs included.

    Args:
        marks: Of finished units.
        began_at: When the first run began, in seconds since the epoch; the first mark, if absent.

    Returns:
        The intervals, or none where fewer than two moments are known.
    """
    ordered = sorted(marks, key=lambda mark: float(mark["finished_at"]))
    if not ordered:
        return []
    first, last = float(ordered[0]["finished_at"]), float(ordered[-1]["finished_at"])
    begin = first if began_at is None else min(began_at, first)
    if last <= begin:
        return []
    number = min(MOST_INTERVALS, len(ordered))
    width = (last - begin) / number
    done = [[0, 0] for _ in range(number)]
    for mark in ordered:
        index = min(int((mark["finished_at"] - begin) / width), number - 1)
        done[index][0] += mark["samples"]
        done[index][1] += mark["relaxed"]
    step = width / _S_PER_HOUR
    return [Interval(i * step, (i + 1) * step, *counts) for i, counts in enumerate(done)]


@dataclass(frozen=True)
class Findings:
    """The headline figures of a campaign."""

    distinct: int
    """Converged, distinct candidates with a place against the hull."""
    novel: int
    """Those that match no reference phase."""
    near: int
    """Novel ones at most :data:`NEAR_HULL` above the hull."""
    stable: int
    """Novel ones on the hull or below it."""
    rescored: int
    """Novel ones that a second potential has placed, and of which it makes no reference phase."""
    rescored_near: int
    """Those of them at most :data:`NEAR_HULL` above its hull."""
    rescored_stable: int
    """Those on its hull or below it."""
    best: Row | None
    """The lowest above the hull."""
    best_novel: Row | None
    """The lowest that matches no reference phase."""


FINDING_COLUMNS = (
    "e_above_hull",
    "rescored_e_above_hull",
    "is_novel",
    "rescored_matched_reference_id",
)
"""What :func:`findings` counts."""


def findings(ranked: pa.Table) -> Findings:
    """Return the headline figures of a campaign.

    Args:
        ranked: The distinct candidates with a place against the hull, the best first.
    """
    novel = ranked.filter(ranked["is_novel"])
    heights = novel["e_above_hull"]
    still_novel = novel.filter(pc.is_null(novel["rescored_matched_reference_id"]))
    second = still_novel["rescored_e_above_hull"]
    return Findings(
        distinct=ranked.num_rows,
        novel=novel.num_rows,
        near=_count(pc.less_equal(heights, NEAR_HULL)),
        stable=_count(pc.less_equal(heights, 0.0)),
        rescored=_count(pc.is_valid(second)),
        rescored_near=_count(pc.less_equal(second, NEAR_HULL)),
        rescored_stable=_count(pc.less_equal(second, 0.0)),
        best=next(rows_of(ranked), None),
        best_novel=next(rows_of(novel), None),
    )


def _count(conditions: pa.ChunkedArray) -> int:
    return int(pc.sum(conditions, min_count=0).as_py())


@lru_cache
def space_group_name(number: int) -> str:
    """Return a space group as ``62 Pnma``."""
    return f"{number} {space_group_symbol(number)}"


def without_numbers(text: str) -> str:
    """Return a sentence with an ellipsis for each number, so that equal kinds are equal."""
    return re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)?", "…", text)


def _pattern(site_counts: str) -> str:
    """Numbers of sites without the elements, the largest first: ``Cu1-K2`` becomes ``2-1``."""
    counts = [int(count) for count in re.findall(r"\d+", site_counts)]
    return "-".join(str(count) for count in sorted(counts, reverse=True))

"""The mark of a finished unit, and the rule that none of its samples is lost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from screening.schema import STATUSES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from screening.grid import Unit

_Row = dict[str, Any]


def unit_mark(
    unit: Unit,
    samples: Sequence[_Row],
    candidates: Sequence[_Row],
    state: str,
    *,
    seconds: dict[str, float] | None,
    attempts: int,
    error: str | None,
) -> _Row:
    """Return what is remembered of a finished unit: counts, times and how it went."""
    return {
        "unit_id": unit.unit_id,
        "number": unit.number,
        "state": state,
        "samples": unit.count,
        **{status: _count(samples, status) for status in STATUSES},
        "relaxed": _count(candidates, "kept"),
        "seconds": seconds or {},
        "attempts": attempts,
        "error": error,
        "finished_at": time.time(),
    }


def check_complete(unit: Unit, samples: Sequence[_Row], candidates: Sequence[_Row]) -> None:
    """Check that every sample is there once, and every kept one as a candidate."""
    for rows, expected, what in (
        (samples, unit.sample_ids, "samples"),
        (candidates, [r["sample_id"] for r in samples if r["status"] == "kept"], "candidates"),
    ):
        found = [row["sample_id"] for row in rows]
        if sorted(found) != sorted(expected):
            wrong = sorted(set(found) ^ set(expected)) or sorted(
                {identity for identity in found if found.count(identity) > 1}
            )
            raise ValueError(
                f"unit {unit.unit_id} must have one row for each of its {len(expected)} {what}; "
                f"missing, foreign or doubled: {', '.join(wrong[:3])}"
            )


def _count(rows: Sequence[_Row], status: str) -> int:
    return sum(row["status"] == status for row in rows)

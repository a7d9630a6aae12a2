"""The order in which candidates are ranked, and which of them count as the best."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Mapping

RANK_COLUMNS = ("rescored_e_above_hull", "e_above_hull", "sample_id")
"""What a second potential says, for the candidates that it was asked about, comes first."""
BEST_COLUMNS = (*RANK_COLUMNS, "is_representative", "converged", "rescored_duplicate_of")
"""What `best_places` needs to know of every candidate."""


def known_phase(row: Mapping[str, Any]) -> str | None:
    """Return the reference phase that a candidate is, by the first potential or by the second."""
    name: str | None = row["matched_reference_id"] or row["rescored_matched_reference_id"]
    return name


def ranking_order(candidates: pa.Table) -> pa.Array:
    """Return the places of candidates by energy above the hull, those without one last.

    Candidates that a second potential has placed stand before all others, in its order.

    Args:
        candidates: with the columns `RANK_COLUMNS`.
    """
    keys = [(name, "ascending") for name in RANK_COLUMNS]
    return pc.sort_indices(candidates, sort_keys=keys)  # nulls at the end


def best_places(candidates: pa.Table) -> pa.Array:
    """Return the places of the distinct candidates that are on a hull's scale, the lowest first.

    A crystal that did not converge is in the table, but never among the best; nor is one that a
    second potential makes the same of as of a lower one.

    Args:
        candidates: with the columns `BEST_COLUMNS`.
    """
    is_best = pc.is_valid(candidates["e_above_hull"])
    for name in ("is_representative", "converged"):
        is_best = pc.and_(is_best, pc.fill_null(candidates[name], True))
    is_best = pc.and_(is_best, pc.is_null(candidates["rescored_duplicate_of"]))
    order = ranking_order(candidates)
    return order.filter(is_best.combine_chunks().take(order))

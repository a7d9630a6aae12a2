"""The data that a report's page carries for its script: the ranked table and the best crystals."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

from screening.findings import space_group_name
from screening.scenes import scene
from screening.schema import structure_from_row
from screening.selection import known_phase

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Row = Mapping[str, Any]

LARGEST_TABLE = 10_000
"""Rows of the ranked table; the rest is in candidates.parquet."""
MOST_CRYSTALS = 40
"""Crystals that can be looked at, the best first."""

CANDIDATE_COLUMNS = (
    "sample_id",
    "chemical_system",
    "chemical_formula_reduced",
    "nsites",
    "space_group_requested",
    "space_group_it_number",
    "site_counts",
    "status",
    "error",
    "energy_per_atom",
    "formation_energy_per_atom",
    "e_above_hull",
    "e_above_hull_self",
    "rescored_e_above_hull",
    "hull_source",
    "converged",
    "is_representative",
    "n_duplicates",
    "matched_reference_id",
    "is_novel",
    "rescored_duplicate_of",
    "rescored_matched_reference_id",
    "smact_valid",
    "calculator",
    "generator",
)
"""What the report needs of every candidate."""
CRYSTAL_COLUMNS = ("lattice_vectors", "species_at_sites", "cartesian_site_positions", "cif")
"""What it needs besides of the crystals that can be looked at."""

_DECIMALS = 5


class Column(NamedTuple):
    """A column of the ranked table on the page."""

    key: str
    """Its name for the script."""
    title: str
    style: str = ""
    """``number`` if its values are aligned as such, ``minor`` if a narrow screen leaves it out."""


RESCORED = "rescored"
"""Key of the column that is shown if there is a second potential."""
TABLE_COLUMNS = (
    Column("rank", "#", "number"),
    Column("formula", "formula"),
    Column("group", "space group"),
    Column("hull", "above hull", "number"),
    Column(RESCORED, "rescored", "number"),
    Column("self", "with candidates", "number minor"),
    Column("formation", "formation energy", "number minor"),
    Column("known", "known?"),
    Column("atoms", "atoms", "number"),
    Column("requested", "requested", "number minor"),
    Column("sites", "sites", "minor"),
    Column("times", "found", "number minor"),
    Column("neutral", "charge neutral", "minor"),
    Column("sample", "sample", "minor"),
)
"""Titles in the order in which they are shown."""


def page_data(ranked: Sequence[Row], crystals: Iterable[Row]) -> dict[str, Any]:
    """Return what the page's script works on, as JSON values.

    Args:
        ranked: The distinct candidates that the table shows, the best first.
        crystals: The columns `CRYSTAL_COLUMNS` of the first of them.
    """
    rows = [_table_row(row) for row in ranked]
    groups = {row["group"] for row in rows} - {None}
    return {
        "columns": list(rows[0]) if rows else [],
        "rows": [list(row.values()) for row in rows],
        "groups": {number: space_group_name(number) for number in groups},
        "scenes": [{**scene(structure_from_row(row)), "cif": row["cif"]} for row in crystals],
    }


def _table_row(row: Row) -> dict[str, Any]:
    return {
        "formula": row["chemical_formula_reduced"],
        "group": row["space_group_it_number"],
        "hull": _finite(row["e_above_hull"]),
        RESCORED: _finite(row["rescored_e_above_hull"]),
        "self": _finite(row["e_above_hull_self"]),
        "formation": _finite(row["formation_energy_per_atom"]),
        "known": known_phase(row),
        "novel": bool(row["is_novel"]) and known_phase(row) is None,
        "atoms": row["nsites"],
        "requested": row["space_group_requested"],
        "sites": row["site_counts"],
        "times": None if row["n_duplicates"] is None else row["n_duplicates"] + 1,
        "neutral": row["smact_valid"],
        "sample": row["sample_id"],
    }


def _finite(number: float | None) -> float | None:
    """Round a number; JSON knows none that is not finite."""
    return None if number is None or not isfinite(number) else round(number, _DECIMALS)

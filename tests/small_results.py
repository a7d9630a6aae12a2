"""A small campaign and the directory that it leaves behind, as far as a test wants it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymatgen.core import Lattice, Structure

from screening.campaign import Campaign
from screening.grid import units
from screening.schema import (
    CANDIDATE_SCHEMA,
    STRUCTURE_COLUMNS,
    structure_columns,
    table_from_rows,
)
from screening.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

CAMPAIGN = """
name: small
chemical_systems: [Cs-Cl, Cl-Na]
space_groups: [225, 221]
sites: {per_element: [1], total_max: 2}
samples_per_cell: 3
generator: {unit_size: 2}
"""
CESIUM_CHLORIDE = Structure(Lattice.cubic(4.12), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def results(directory: Path, n_done: int = 0, n_failed: int = 0) -> Store:
    """Store a campaign of which some units are finished."""
    campaign = Campaign.from_text(CAMPAIGN, "small")
    store = Store(str(directory))
    store.initialise(campaign.resolved(), campaign.fingerprint({}))
    for index, unit in enumerate(list(units(campaign))[: n_done + n_failed]):
        is_done = index < n_done
        structure = structure_columns(CESIUM_CHLORIDE)
        rows = [
            {
                "sample_id": unit.sample_id(position),
                "unit_id": unit.unit_id,
                "chemical_system": unit.cell.chemical_system,
                **(structure if is_done else dict.fromkeys(STRUCTURE_COLUMNS)),
                "status": "kept" if is_done else "failed",
                "error": None if is_done else "RuntimeError: lost",
            }
            for position in range(unit.count)
        ]
        store.write_unit(
            unit,
            rows,
            rows if is_done else [],
            state="done" if is_done else "failed",
            error=None if is_done else "RuntimeError: lost",
        )
    return store


def write_candidates(store: Store, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table of candidates with these rows, in their order."""
    store.write_candidates([table_from_rows(rows, CANDIDATE_SCHEMA)])

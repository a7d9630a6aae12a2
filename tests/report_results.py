"""Results of a small campaign in Cl-Cs, as the report reads them, with any part replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymatgen.core import Lattice, Structure

from screening.campaign import Campaign
from screening.report import CampaignResults
from screening.report_data import CRYSTAL_COLUMNS, MOST_CRYSTALS
from screening.schema import (
    CANDIDATE_SCHEMA,
    SAMPLE_SCHEMA,
    structure_columns,
    table_from_rows,
)
from screening.selection import best_places

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pyarrow as pa

CESIUM_CHLORIDE = Structure.from_spacegroup(
    "Pm-3m", Lattice.cubic(4.12), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
)
ROCK_SALT = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(6.9), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
).get_primitive_structure()
REFERENCES = [
    {"formula": "Cs", "energy_per_atom": -0.9},
    {"formula": "Cl2", "energy_per_atom": -1.8},
    {"formula": "CsCl", "energy_per_atom": -3.6},
]
SETTINGS = Campaign.from_mapping(
    {
        "name": "cs-cl",
        "chemical_systems": ["Cl-Cs"],
        "space_groups": [221, 225],
        "sites": {"per_element": [1], "total_max": 2},
        "samples_per_cell": 4,
    }
).resolved()


def candidate(index: int, structure: Structure, e_above_hull: float, **columns: Any) -> dict:
    group = 221 if structure is CESIUM_CHLORIDE else 225
    return {
        "sample_id": f"Cl-Cs_{group}_Cl1-Cs1_000-{index:03d}",
        "unit_id": f"Cl-Cs_{group}_Cl1-Cs1_000",
        "seed": index,
        "chemical_system": "Cl-Cs",
        "space_group_requested": group,
        "site_counts": "Cl1-Cs1",
        "generator": "0123456789abcdef/langevin",
        "status": "kept",
        **structure_columns(structure),
        "energy": 2 * (e_above_hull - 3.6),
        "energy_per_atom": e_above_hull - 3.6,
        "formation_energy_per_atom": e_above_hull - 2.25,
        "e_above_hull": e_above_hull,
        "e_above_hull_self": e_above_hull,
        "hull_source": "prototypes",
        "converged": True,
        "is_representative": True,
        "n_duplicates": 0,
        "is_novel": True,
        "rescored_duplicate_of": None,
        "smact_valid": True,
        "calculator": "chgnet/0.4.2",
        **columns,
    }


CANDIDATES = [
    candidate(0, ROCK_SALT, 0.0312),
    candidate(1, CESIUM_CHLORIDE, 0.0, matched_reference_id="CsCl-B2", is_novel=False),
    candidate(2, CESIUM_CHLORIDE, 0.0001, is_representative=False),
    {
        **candidate(3, ROCK_SALT, 0.0),
        **dict.fromkeys(["energy", "energy_per_atom", "e_above_hull", "converged"]),
        "is_representative": None,
        "status": "failed",
        "error": "the cell grew to 4.1 times its volume",
    },
]


def sample(index: int, status: str = "kept", **columns: Any) -> dict:
    names = [name for name in SAMPLE_SCHEMA.names if name not in {"reason", "error"}]
    row = candidate(index, ROCK_SALT, 0.0)
    return {**{name: row[name] for name in names}, "status": status, **columns}


SAMPLES = [
    *(sample(index) for index in range(4)),
    sample(4, "filtered", reason="min_distance 0.31 Å < 0.5 Å"),
    sample(5, "filtered", reason="min_distance 0.42 Å < 0.5 Å"),
    sample(6, "failed", error="the score of sample 6 is not finite"),
]


def ranked(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    table = table_from_rows(rows, CANDIDATE_SCHEMA)
    return table.take(best_places(table))


def results(**changes: Any) -> CampaignResults:
    settings = {**SETTINGS, **changes.pop("settings", {})}
    candidates = changes.pop("candidates", CANDIDATES)
    samples = changes.pop("samples", SAMPLES)
    return CampaignResults(
        settings,
        "fedcba9876543210",
        table_from_rows(candidates, CANDIDATE_SCHEMA),
        table_from_rows(samples, SAMPLE_SCHEMA),
        ranked(candidates).slice(0, MOST_CRYSTALS).select(CRYSTAL_COLUMNS).to_pylist(),
        REFERENCES,
        **changes,
    )

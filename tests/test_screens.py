"""The filters before relaxation: what they remove, and the reason that they give."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Composition, Lattice, Structure

from screening.schema import structure_columns
from screening.screens import FilterStage, shortest_distance, smact_valid

SALT = Structure(Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def row_of(structure: Structure) -> dict[str, Any]:
    return {"sample_id": "a", "status": "kept", "reason": None, **structure_columns(structure)}


def apart(distance: float, length: float = 8.0) -> Structure:
    return Structure(Lattice.cubic(length), ["Na", "Cl"], [[0, 0, 0], [distance / length, 0, 0]])


@pytest.mark.parametrize(
    ("structure", "reason"),
    [
        (apart(0.31), "min_distance: 0.31 Å < 0.5 Å"),
        (apart(7.7), "min_distance: 0.30 Å < 0.5 Å"),  # across the face of the cell
        (Structure(Lattice.cubic(0.4), ["H"], [[0, 0, 0]]), "min_distance: 0.00 Å < 0.5 Å"),
        (SALT * (2, 2, 3), "max_atoms: 24 atoms > 12"),
    ],
)
def test_a_filter_gives_its_reason(structure: Structure, reason: str) -> None:
    (row,) = FilterStage(min_distance=0.5, max_atoms=12)([row_of(structure)])
    assert (row["status"], row["reason"]) == ("filtered", reason)


@pytest.mark.parametrize("structure", [SALT, apart(0.51), SALT * (1, 2, 3)])
def test_what_is_good_stays_as_it_is(structure: Structure) -> None:
    before = row_of(structure)
    (row,) = FilterStage(min_distance=0.5, max_atoms=12)([copy.deepcopy(before)])
    assert row == before


@pytest.mark.parametrize(
    ("limits", "structure", "reason"),
    [
        # Radii of Na and Cl: 1.66 + 1.02 = 2.68 Å; in rock salt they are 5.64 / 2 = 2.82 Å apart.
        ({"min_distance_ratio": 1.1}, apart(2.82), "min_distance_ratio: 1.05 < 1.1"),
        # One formula unit of 58.44 g/mol in 179.4 Å³.
        ({"max_density": 0.5}, SALT, "max_density: 0.5 g/cm³ > 0.5 g/cm³"),
        ({"max_volume_per_atom": 80.0}, SALT, "max_volume_per_atom: 89.7 Å³ > 80 Å³"),
        (
            {"smact_valid": True},
            Structure(Lattice.cubic(5), ["Na", "Cl", "Cl"], [[0] * 3, [0.5] * 3, [0.5, 0.5, 0]]),
            "smact_valid: no charge-neutral oxidation states",
        ),
    ],
)
def test_a_limit_counts_only_when_it_is_set(
    limits: dict[str, Any], structure: Structure, reason: str
) -> None:
    before = row_of(structure)
    (row,) = FilterStage(0.5, 60)([before])
    assert row["status"] == "kept"
    (row,) = FilterStage(0.5, 60, **limits)([before])
    assert (row["status"], row["reason"]) == ("filtered", reason)


def test_failed_rows_pass_through_and_order_stays() -> None:
    failed = {"sample_id": "b", "status": "failed", "error": "diverged", "lattice_vectors": None}
    stage = FilterStage(min_distance=0.5, max_atoms=60)
    stage.setup()
    rows = stage([row_of(apart(0.3)), failed, row_of(SALT)])
    assert [row["status"] for row in rows] == ["filtered", "failed", "kept"]
    assert rows[1] == failed
    assert stage([]) == []


def test_a_limit_of_zero_keeps_everything() -> None:
    (row,) = FilterStage(min_distance=0, max_atoms=60)([row_of(apart(0.01))])
    assert row["status"] == "kept"


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_shortest_distance_is_that_of_all_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lattice = Lattice(np.diag(rng.uniform(2, 5, 3)) + rng.uniform(-0.5, 0.5, (3, 3)))
    structure = Structure(lattice, ["Na"] * 4, rng.random((4, 3)))
    shifts = np.stack(np.meshgrid(*[range(-2, 3)] * 3), axis=-1).reshape(-1, 3)
    points = structure.frac_coords
    all_vectors = (points[:, None, None] - points[None, :, None] + shifts) @ lattice.matrix
    distances = np.linalg.norm(all_vectors, axis=-1)
    expected = distances[distances > 1e-8].min()
    assert shortest_distance(structure, 6.0) == pytest.approx(expected)
    assert shortest_distance(structure, expected * 0.99) == np.inf


@pytest.mark.parametrize(
    ("formula", "valid"),
    [("NaCl", True), ("TiO2", True), ("NaCl2", False), ("Cu3Au", True), ("Li7O", False)],
)
def test_smact_knows_charge_neutrality(formula: str, valid: bool) -> None:
    assert smact_valid(Composition(formula)) is valid

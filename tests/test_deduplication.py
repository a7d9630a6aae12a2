"""Duplicates: the partition of StructureMatcher, and what the columns say of it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.core.structure_matcher import StructureMatcher

from screening.deduplication import deduplicate, match_references
from screening.prototypes import phases
from screening.schema import structure_columns, structure_from_row

if TYPE_CHECKING:
    from collections.abc import Sequence

B1 = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0] * 3, [0.5] * 3])
B2 = Structure(Lattice.cubic(3.4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])

E_ONLY = {"reference_id": "f-1", "energy_per_atom": -3.0, "chemical_formula_reduced": "ClNa"}


def row_of(structure: Structure, name: str, energy: float, **columns: Any) -> dict[str, Any]:
    row = {"sample_id": name, "status": "kept", "energy_per_atom": energy}
    return {**row, **structure_columns(structure), **columns}


def reference(structure: Structure, name: str, energy: float) -> dict[str, Any]:
    return {"reference_id": name, "energy_per_atom": energy, **structure_columns(structure)}


def disguised(structure: Structure, rng: np.random.Generator) -> Structure:
    """The same crystal in another cell, orientation, order of atoms and volume."""
    other = structure.get_primitive_structure() if rng.random() < 0.5 else structure.copy()
    if rng.random() < 0.3:
        other.make_supercell([1, 1, 2])
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    order = rng.permutation(len(other))
    return Structure(
        other.lattice.matrix @ rotation * rng.uniform(0.97, 1.03),
        [other[i].specie for i in order],
        other.frac_coords[order] + rng.random(3),
        to_unit_cell=True,
    )


def crowd(size: int, seed: int) -> list[dict[str, Any]]:
    """Crystals of few formulas: distinct ones, disguised copies, and a continuum in between."""
    rng = np.random.default_rng(seed)
    kinds = [s for system in ("Al-Cu", "Cu-Si", "Al-Cu-Si") for _, s in phases(system)]
    kinds = [kind for kind in kinds if len(kind) <= 6]
    rows = []
    for index in range(size):
        structure = disguised(kinds[rng.integers(len(kinds))], rng)
        # From well within to beyond the tolerances, so that matching is not transitive.
        structure.perturb(rng.choice([0.0, 0.05, 0.3, 0.6]), seed=int(rng.integers(2**31)))
        rows.append(row_of(structure, f"s{index:04d}", float(rng.integers(0, 40)) / 10))
    return rows


def partition(rows: Sequence[dict[str, Any]]) -> set[frozenset[str]]:
    groups: dict[str, set[str]] = {}
    for row in rows:
        groups.setdefault(row["group_id"], set()).add(row["sample_id"])
    return {frozenset(members) for members in groups.values()}


@pytest.mark.parametrize("seed", [0, 1])
def test_the_partition_is_that_of_group_structures(seed: int) -> None:
    rows = crowd(200, seed)
    ordered = sorted(rows, key=lambda row: (row["energy_per_atom"], row["sample_id"]))
    structures = [structure_from_row(row) for row in ordered]
    names = {id(s): row["sample_id"] for s, row in zip(structures, ordered, strict=True)}
    expected = {
        frozenset(names[id(member)] for member in group)
        for group in StructureMatcher().group_structures(structures)
    }
    found = deduplicate(rows)
    assert partition(found) == expected
    assert len(expected) < len(rows) * 0.9


def test_the_representative_is_the_lowest_of_its_group() -> None:
    rows = [
        row_of(B1, "c", -3.0),
        row_of(B2, "d", -2.9),
        row_of(B1.get_primitive_structure(), "b", -3.1),
        row_of(B1 * (1, 1, 2), "a", -3.0),
    ]
    before = copy.deepcopy(rows)
    found = deduplicate(rows)
    assert rows == before
    assert [row["sample_id"] for row in found] == ["c", "d", "b", "a"]
    assert [row["group_id"] for row in found] == ["b", "d", "b", "b"]
    assert [row["is_representative"] for row in found] == [False, True, True, False]
    assert [row["n_duplicates"] for row in found] == [2, 0, 2, 2]


def test_equal_energies_go_by_name() -> None:
    found = deduplicate([row_of(B1, "b", -3.0), row_of(B1, "a", -3.0)])
    assert [row["group_id"] for row in found] == ["a", "a"]


def test_the_order_of_rows_does_not_matter() -> None:
    rows = crowd(60, 3)
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    key = {row["sample_id"]: row["group_id"] for row in deduplicate(rows)}
    assert key == {row["sample_id"]: row["group_id"] for row in deduplicate(shuffled)}


def test_rows_that_are_not_kept_belong_to_no_group() -> None:
    failed = row_of(B1, "a", -9.0, status="failed")
    found = deduplicate([failed, row_of(B1, "b", -3.0)])
    assert found[0]["group_id"] is None
    assert found[0]["is_representative"] is None
    assert (found[1]["group_id"], found[1]["n_duplicates"]) == ("b", 0)
    assert match_references(found, [reference(B1, "B1", -3.0)])[0]["is_novel"] is None


def test_a_known_structure_is_named_and_not_novel() -> None:
    known = [reference(B1, "high", -2.0), reference(B1 * (2, 1, 1), "low", -3.0)]
    rows = deduplicate([row_of(B1.get_primitive_structure(), "a", -3.0), row_of(B2, "b", -2.9)])
    one, other = match_references(rows, known)
    assert (one["matched_reference_id"], one["is_novel"]) == ("low", False)
    assert (other["matched_reference_id"], other["is_novel"]) == (None, True)


def test_duplicates_share_what_their_representative_matches() -> None:
    rows = deduplicate([row_of(B1, "b", -3.0), row_of(B1 * (1, 1, 2), "a", -3.1)])
    found = match_references(rows, [reference(B1, "B1", -3.0)])
    assert [row["matched_reference_id"] for row in found] == ["B1", "B1"]


@pytest.mark.parametrize(
    ("known", "novel", "basis"),
    [
        ([], True, "formula"),
        ([reference(B2, "B2", -2.0)], True, "structure"),
        ([reference(B1, "B1", -2.0)], False, "structure"),
        ([{**reference(B2, "e", -2.0), "lattice_vectors": None}], False, "formula"),
        ([reference(B2, "B2", -2.0), {**E_ONLY, "energy_per_atom": -3.0}], False, "formula"),
        ([{**E_ONLY, "energy_per_atom": -1.0}, reference(B1, "B1", -2.0)], False, "structure"),
        ([{**E_ONLY, "chemical_formula_reduced": "Cl2Na"}], True, "formula"),
    ],
)
def test_novelty_says_what_it_was_judged_by(
    known: list[dict[str, Any]], novel: bool, basis: str
) -> None:
    (row,) = match_references([row_of(B1, "a", -3.0)], known)
    assert (row["is_novel"], row["novelty_basis"]) == (novel, basis)
    assert (row["matched_reference_id"] == "B1") is (basis == "structure" and not novel)


def test_nothing_in_nothing_out() -> None:
    assert deduplicate([]) == []
    assert match_references([], [reference(B1, "B1", -3.0)]) == []

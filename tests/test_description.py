"""Columns that users screen by: against handbooks, and against pymatgen's own search for layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from ase.data import atomic_numbers, covalent_radii
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pymatgen.analysis.dimensionality import get_dimensionality_larsen
from pymatgen.analysis.graphs import StructureGraph
from pymatgen.analysis.local_env import CutOffDictNN
from pymatgen.core import Lattice, Structure
from small_results import CESIUM_CHLORIDE, results

from screening.description import (
    BOND_UP_TO,
    close_pairs,
    described,
    dimensionality,
    distance_ratio,
    space_group_kept,
)
from screening.prototypes import phases
from screening.schema import CANDIDATE_SCHEMA, structure_columns, table_from_rows

if TYPE_CHECKING:
    from pathlib import Path

NEW = ["min_distance_ratio", "density", "volume_per_atom", "dimensionality", "space_group_kept"]


def columns(structure: Structure, requested: int, found: int) -> dict[str, Any]:
    return described(
        structure, {"space_group_requested": requested, "space_group_it_number": found}
    )


def test_rock_salt_is_what_handbooks_say() -> None:
    salt = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    row = columns(salt, 225, 225)
    assert list(row) == NEW
    assert row["density"] == pytest.approx(2.165, abs=0.01)  # g/cm³
    assert row["volume_per_atom"] == pytest.approx(5.64**3 / 8)
    assert row["min_distance_ratio"] == pytest.approx(2.82 / (1.66 + 1.02))
    assert row["dimensionality"] == 3


@pytest.mark.parametrize(
    ("element", "name", "expected"),
    [
        ("Pb", "A1", 3),  # the loosest of close-packed metals
        ("Al", "A1", 3),
        ("Cs", "A2", 3),
        ("C", "A4", 3),
        ("C", "A9", 2),  # graphite
        ("P", "A17", 2),  # black phosphorus
        ("Se", "A8", 1),  # chains
        ("N", "molecules", 0),
        ("I", "A14", 0),
        ("S", "A16", 0),  # rings
    ],
)
def test_elements_have_the_dimensionality_of_textbooks(
    element: str, name: str, expected: int
) -> None:
    structure = dict(phases(element))[name]
    assert dimensionality(close_pairs(structure), len(structure)) == expected
    larger = structure * (2, 1, 2)
    assert dimensionality(close_pairs(larger), len(larger)) == expected


@examples(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_dimensionality_is_that_of_pymatgen(seed: int) -> None:
    rng = np.random.default_rng(seed)
    symbols = list(rng.choice(["Na", "Cl", "C"], 3))
    lattice = Lattice.orthorhombic(*rng.uniform(2.0, 7.0, 3))
    structure = Structure(lattice, symbols, rng.random((3, 3)))
    radius = {symbol: covalent_radii[atomic_numbers[symbol]] for symbol in ("Na", "Cl", "C")}
    bonds = {(a, b): BOND_UP_TO * (radius[a] + radius[b]) for a in radius for b in radius}
    graph = StructureGraph.from_local_env_strategy(structure, CutOffDictNN(bonds))
    found = dimensionality(close_pairs(structure), len(structure))
    assert found == get_dimensionality_larsen(graph)


def test_lonely_atoms_have_no_ratio() -> None:
    lonely = Structure(Lattice.cubic(30), ["H"], [[0, 0, 0]])
    assert columns(lonely, 221, 221)["min_distance_ratio"] is None
    assert columns(lonely, 221, 221)["dimensionality"] == 0
    assert distance_ratio(lonely) == np.inf
    assert distance_ratio(Structure(Lattice.cubic(0.1), ["H"], [[0, 0, 0]])) == 0


@pytest.mark.parametrize(
    ("requested", "found", "kept"),
    [
        (225, 225, True),
        (216, 225, True),  # zinc blende whose sites turned out alike
        (186, 194, True),
        (62, 194, True),
        (62, 225, True),
        (225, 221, True),  # rock salt of one element: half the cell
        (225, 216, False),
        (194, 225, False),
        (221, 62, False),
        (225, None, None),
        (None, 225, None),
    ],
)
def test_a_group_is_kept_in_its_supergroups(
    requested: int | None, found: int | None, kept: bool | None
) -> None:
    assert space_group_kept(requested, found) is kept


def test_a_table_from_before_these_columns_is_read_with_nulls(tmp_path: Path) -> None:
    names = CANDIDATE_SCHEMA.names
    assert names[names.index(NEW[0]) :][: len(NEW)] == NEW
    store = results(tmp_path / "out", n_done=1)
    rows = [
        {"sample_id": "a", "status": "kept", **structure_columns(CESIUM_CHLORIDE), "density": 3.9}
    ]
    table = table_from_rows(rows, CANDIDATE_SCHEMA)
    store.write_table("candidates.parquet", table.drop_columns(NEW))
    read = store.candidates()
    assert read.schema.names == CANDIDATE_SCHEMA.names
    assert read.schema.types == CANDIDATE_SCHEMA.types
    assert read.select(NEW).to_pylist() == [dict.fromkeys(NEW)]
    assert read.drop_columns(NEW).equals(table.drop_columns(NEW).replace_schema_metadata(None))
    # A later version's columns are no obstacle either.
    store.write_table("candidates.parquet", table.append_column("later", pa.array([1])))
    assert store.candidates().column("density").to_pylist() == [3.9]

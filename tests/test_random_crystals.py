"""Random crystals: their groups, sites, assignments and distances."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest
import spglib
from ase.data import covalent_radii
from crystals import ROCK_SALT
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher

from model.symmetry import space_group
from model.wyckoff import wyckoff_positions
from screening import random_crystals
from screening.graphs import prepare_units
from screening.grid import Cell, Unit, cell_units
from screening.random_crystals import (
    NoCrystalError,
    n_assignments,
    random_assignment,
    random_crystal,
)
from screening.sampling import RandomStage, SamplingStage
from screening.schema import SAMPLE_SCHEMA, structure_from_row, table_from_rows

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from model.crystal import AsymmetricUnit
    from model.wyckoff import WyckoffPosition

# Every crystal family and every centring.
GROUPS = (19, 38, 44, 62, 63, 70, 74, 82, 88, 123, 129, 139, 146, 148, 156, 164, 166, 186, 191, 194)
CUBIC = (198, 205, 216, 217, 221, 225, 227, 230)
ELEMENTS = (3, 8, 11, 17, 29, 55)


def found_symmetry(structure: Structure) -> spglib.SpglibDataset:
    numbers = [site.specie.Z for site in structure]
    found = spglib.get_symmetry_dataset(
        (structure.lattice.matrix, structure.frac_coords, numbers), symprec=0.01
    )
    assert found is not None
    return found


def keys(rotations: np.ndarray, translations: np.ndarray) -> set[tuple[float, ...]]:
    shifts = np.round(np.round(translations, 4) % 1.0, 3) % 1.0
    flat = np.concatenate([rotations.reshape(-1, 9), shifts], axis=1)
    return {tuple(row) for row in (np.round(flat, 3) + 0.0).tolist()}


def in_primitive_cell(number: int) -> set[tuple[float, ...]]:
    """Return the operations of a group in terms of its primitive vectors."""
    group = space_group(number)
    to_primitive = np.linalg.inv(group.primitive_vectors).T
    rotations = np.rint(to_primitive @ group.rotations @ group.primitive_vectors.T)
    return keys(rotations, group.translations @ to_primitive.T)


def shortest_in_units_of_radii(structure: Structure) -> float:
    one, other, _, distances = structure.get_neighbor_list(5.0)
    radii = covalent_radii[[site.specie.Z for site in structure]]
    return float((distances / (radii[one] + radii[other])).min(initial=np.inf))


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(GROUPS + CUBIC),
    st.lists(st.sampled_from(ELEMENTS), min_size=1, max_size=3),
    st.integers(0, 2**62),
)
def test_crystals_have_the_group_the_atoms_and_the_distances(
    number: int, sites: list[int], seed: int
) -> None:
    sites = sorted(sites)
    try:
        crystal = random_crystal(number, sites, 60, seed)
    except NoCrystalError:
        reject()  # no room found in so many tries, which is rare
    structure = crystal.to_structure()
    assert len(structure) <= 60
    assert {site.specie.Z for site in structure} == set(sites)
    assert shortest_in_units_of_radii(structure) > 0.7 - 1e-6
    # Every operation of the group that was asked for is there: it is the group, or a supergroup.
    found = found_symmetry(structure)
    assert in_primitive_cell(number) <= keys(found.rotations, found.translations)
    if found.number == number:
        orbits = {
            (site.specie.Z, orbit)
            for site, orbit in zip(structure, found.crystallographic_orbits, strict=True)
        }
        assert Counter(z for z, _ in orbits) == Counter(sites)


@pytest.mark.parametrize("number", GROUPS + CUBIC)
def test_the_group_is_found_and_its_sites_are_as_many_as_were_asked_for(number: int) -> None:
    agree = 0
    for seed in range(4):
        crystal = random_crystal(number, [11, 17, 17], 60, seed)
        found = found_symmetry(crystal.to_structure())
        if found.number == number:
            structure = crystal.to_structure()
            orbits = {
                (site.specie.symbol, orbit)
                for site, orbit in zip(structure, found.crystallographic_orbits, strict=True)
            }
            assert Counter(symbol for symbol, _ in orbits) == {"Na": 1, "Cl": 2}
            agree += 1
    assert agree > 0


# Assignments -----------------------------------------------------------------------------


def names(number: int, positions: list[WyckoffPosition]) -> tuple[int, ...]:
    """Tell positions by their place in the group's list."""
    known = {id(position): place for place, position in enumerate(wyckoff_positions(number))}
    return tuple(known[id(position)] for position in positions)


@pytest.mark.parametrize(
    ("max_atoms", "excluded"),
    [
        # Pnma has 4a and 4b, which one site fills, 4c and 8d. Of the sixteen pairs two are out,
        # both sites on 4a and both on 4b; with 8 atoms in all 8d is out, too.
        (16, ()),
        (8, (8,)),
    ],
)
def test_all_assignments_of_pnma_occur_equally_often(
    max_atoms: int, excluded: tuple[int, ...]
) -> None:
    positions = wyckoff_positions(62)
    expected = {
        (one, other)
        for one, other in product(range(4), repeat=2)
        if not (one == other and positions[one].n_free == 0)
        and not {positions[one].multiplicity, positions[other].multiplicity} & set(excluded)
    }
    assert len(expected) == (7 if excluded else 14)
    generator = np.random.default_rng(1)
    n_draws = 300 * len(expected)
    drawn = Counter(
        names(62, random_assignment(62, 2, max_atoms, generator)) for _ in range(n_draws)
    )
    assert set(drawn) == expected
    # 300 of each, standard deviation below 17.4.
    assert max(abs(count - 300) for count in drawn.values()) < 5 * 17.4


@pytest.mark.parametrize("number", [16, 62, 139, 166, 194, 225])
@pytest.mark.parametrize(("n_sites", "max_atoms"), [(1, 4), (2, 9), (3, 14), (3, 60)])
def test_assignments_are_counted_as_by_listing_them(
    number: int, n_sites: int, max_atoms: int
) -> None:
    positions = wyckoff_positions(number)
    listed = 0
    for choice in product(range(len(positions)), repeat=n_sites):
        fixed = [place for place in choice if positions[place].n_free == 0]
        atoms = sum(positions[place].multiplicity for place in choice)
        listed += len(fixed) == len(set(fixed)) and atoms <= max_atoms
    assert n_assignments(random_crystals._kinds(number), n_sites, max_atoms) == listed


def test_many_sites_are_assigned_without_waiting() -> None:
    chosen = random_assignment(221, 40, 300, np.random.default_rng(0))
    assert len(chosen) == 40
    assert sum(position.multiplicity for position in chosen) <= 300
    fixed = [id(position) for position in chosen if position.n_free == 0]
    assert len(fixed) == len(set(fixed))


def test_two_atoms_in_fm3m_are_rock_salt() -> None:
    # 4a and 4b are the only positions with one atom in the primitive cell, and each takes one site.
    for seed in range(5):
        structure = random_crystal(225, [11, 17], 2, seed).to_structure()
        assert StructureMatcher().fit(structure, ROCK_SALT.to_structure())


# Seeds and bounds ------------------------------------------------------------------------


def test_a_seed_is_a_crystal() -> None:
    def drawn(seed: int) -> AsymmetricUnit:
        return random_crystal(63, [12, 14, 14], 60, seed)

    first, again, other = drawn(5), drawn(5), drawn(6)
    assert np.array_equal(first.frac_coords, again.frac_coords)
    assert np.array_equal(first.lengths, again.lengths)
    assert not np.array_equal(first.lengths, other.lengths)


@pytest.mark.parametrize("number", [62, 139, 166, 194, 225])
def test_volumes_are_between_one_and_three_covalent_spheres(number: int) -> None:
    for seed in range(10):
        structure = random_crystal(number, [20, 8], 60, seed).to_structure()
        radii = covalent_radii[[site.specie.Z for site in structure]]
        assert 1.0 <= structure.volume / (4 / 3 * np.pi * radii**3).sum() <= 3.0


def test_sites_that_no_group_admits_are_an_error() -> None:
    with pytest.raises(NoCrystalError, match="group 225 admits no 3 sites within 3 atoms"):
        random_crystal(225, [11, 17, 17], 3, 0)


def test_tries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_crystals, "DISTANCE_FACTOR", 4.0)
    monkeypatch.setattr(random_crystals, "ASSIGNMENTS", 3)
    with pytest.raises(NoCrystalError, match="no random crystal with sensible distances in 300"):
        random_crystal(62, [11, 17], 60, 0)


# The stage -------------------------------------------------------------------------------


def unit_of(number: int, counts: dict[str, int], n_samples: int) -> Unit:
    cell = Cell("-".join(counts), number, counts)
    (unit,) = cell_units(cell, n_samples, n_samples, 0)
    return unit


def test_the_stage_gives_the_model_s_columns() -> None:
    prepared = prepare_units([unit_of(221, {"Cl": 1, "Cs": 1}, 3)])
    rows = RandomStage(60)(prepared)
    model = SamplingStage("default", "default", "cpu")
    model.setup()
    assert [list(row) for row in rows] == [list(row) for row in model(prepared)]
    assert [row["sample_id"] for row in rows] == prepared.units[0].sample_ids
    assert {row["generator"] for row in rows} == {"random/1"}
    assert {row["status"] for row in rows} == {"kept"}
    assert table_from_rows(rows, SAMPLE_SCHEMA).num_rows == 3
    for row, seed in zip(rows, prepared.seeds, strict=True):
        alone = random_crystal(221, [17, 55], 60, seed).to_structure()
        assert np.allclose(structure_from_row(row).cart_coords, alone.cart_coords)


def test_a_bounded_failure_is_a_row_with_an_error() -> None:
    (row,) = RandomStage(7)(prepare_units([unit_of(62, {"Cl": 1, "Na": 1}, 1)]))
    assert row["status"] == "failed"
    assert row["error"] == "group 62 admits no 2 sites within 7 atoms in the primitive cell"
    assert (row["generator"], row["space_group_requested"]) == ("random/1", 62)
    assert table_from_rows([row], SAMPLE_SCHEMA).num_rows == 1

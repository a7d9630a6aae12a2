"""From asymmetric units to crystals and back."""

from __future__ import annotations

import numpy as np
import pytest
import spglib
from crystals import BY_CENTRING, CESIUM_CHLORIDE, PEROVSKITE, ROCK_SALT, WURTZITE, ZINC_BLENDE
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from model.crystal import SYMPREC, AsymmetricUnit, asymmetric_unit
from model.symmetry import HIGHEST_SPACE_GROUP, LOWEST_SPACE_GROUP, space_group


def group_found(structure: Structure) -> int:
    cell = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
    found = spglib.get_symmetry_dataset(cell, symprec=SYMPREC)
    assert found is not None
    return int(found.number)


@pytest.mark.parametrize(
    ("unit", "formula", "n_atoms"),
    [
        (ROCK_SALT, "NaCl", 2),
        (CESIUM_CHLORIDE, "CsCl", 2),
        (ZINC_BLENDE, "ZnS", 2),
        (PEROVSKITE, "SrTiO3", 5),
        (WURTZITE, "ZnO", 4),
    ],
)
def test_known_structures(unit: AsymmetricUnit, formula: str, n_atoms: int) -> None:
    structure = unit.to_structure()
    assert structure.composition.reduced_formula == formula
    assert len(structure) == n_atoms
    assert group_found(structure) == unit.space_group


def test_rock_salt_is_pymatgen_s() -> None:
    lattice = Lattice.cubic(5.69)
    theirs = Structure.from_spacegroup("Fm-3m", lattice, ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert StructureMatcher(scale=False).fit(ROCK_SALT.to_structure(), theirs)


@pytest.mark.parametrize("name", BY_CENTRING)
def test_reading_a_crystal_in_another_cell_finds_it_again(name: str) -> None:
    structure = BY_CENTRING[name].to_structure()
    rotated = structure * [[1, 1, 0], [0, 1, 0], [0, 1, 1]]
    unit = asymmetric_unit(
        rotated.lattice.matrix, rotated.frac_coords, np.array(rotated.atomic_numbers)
    )
    assert unit is not None
    assert unit.space_group == BY_CENTRING[name].space_group
    assert StructureMatcher(scale=False).fit(unit.to_structure(), structure)


def test_monoclinic_crystals_are_outside_the_method() -> None:
    lattice = Lattice.monoclinic(5.0, 6.0, 7.0, 100.0).matrix
    coords = np.array([[0.1, 0.2, 0.3], [0.4, 0.7, 0.9]])
    assert asymmetric_unit(lattice, coords, np.array([11, 17])) is None


@pytest.mark.parametrize("number", range(LOWEST_SPACE_GROUP, HIGHEST_SPACE_GROUP + 1, 7))
def test_settled_crystals_have_the_group_they_were_asked_for(number: int) -> None:
    """Sites next to special positions are put on them: then spglib finds the group, or a larger."""
    group = space_group(number)
    random = np.random.default_rng(number)
    table = group.special_positions
    chosen = random.integers(len(table.orders))
    special = table.projections[chosen] @ random.random(3) + table.offsets[chosen]
    sites = np.array([special + random.normal(size=3) * 0.002, random.random(3)])
    lengths = np.array([7.1, 9.3, 11.7])[list(group.length_ties)]
    unit = AsymmetricUnit(number, lengths, sites, np.array([11, 17])).settled()
    structure = unit.to_structure()
    found = space_group(group_found(structure)) if group_found(structure) >= 16 else None
    assert found is not None
    # A supergroup has at least as many operations per lattice point.
    assert found.order // found.centring >= group.order // group.centring
    multiplicity = group.order // table.orders[chosen] // group.centring
    assert structure.atomic_numbers.count(11) <= multiplicity


def test_images_up_to_the_merge_distance_become_one_atom() -> None:
    def n_atoms(shift: float) -> int:
        coords = ROCK_SALT.frac_coords + np.array([[shift / 5.69, 0, 0], [0, 0, 0]])
        unit = AsymmetricUnit(225, ROCK_SALT.lengths, coords, ROCK_SALT.atomic_numbers)
        return len(unit.settled().to_structure())

    assert n_atoms(0.149) == 2
    assert n_atoms(0.151) == 7

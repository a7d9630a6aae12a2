"""Wyckoff positions against the International Tables and spglib."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import spglib
from crystals import COTUNNITE, PEROVSKITE, ROCK_SALT, WURTZITE

from model.crystal import AsymmetricUnit
from model.symmetry import HIGHEST_SPACE_GROUP, LOWEST_SPACE_GROUP, space_group
from model.wyckoff import n_free_coordinates, wyckoff_positions


def test_there_are_as_many_positions_as_in_the_tables() -> None:
    # International Tables A: the 230 groups have 1,731 Wyckoff positions in all, of which the
    # triclinic and monoclinic groups 1 to 15 have, one after the other:
    outside = [1, 9, 5, 1, 3, 3, 1, 2, 1, 15, 6, 10, 7, 5, 6]
    found = sum(
        len(wyckoff_positions(number))
        for number in range(LOWEST_SPACE_GROUP, HIGHEST_SPACE_GROUP + 1)
    )
    assert found == 1731 - sum(outside)


# International Tables A: multiplicity in the conventional cell, free coordinates.
@pytest.mark.parametrize(
    ("number", "positions"),
    [
        (38, [(2, 1), (2, 1), (4, 2), (4, 2), (4, 2), (8, 3)]),  # A: 2a to 4e, 8f
        (62, [(4, 0), (4, 0), (4, 2), (8, 3)]),  # 4a, 4b, 4c, 8d
        (166, [(3, 0), (3, 0), (6, 1), (9, 0), (9, 0), (18, 1), (18, 1), (18, 2), (36, 3)]),
        (186, [(2, 1), (2, 1), (6, 2), (12, 3)]),  # 2a, 2b, 6c, 12d
        (
            194,
            [(2, 0)] * 4 + [(4, 1), (4, 1), (6, 0), (6, 1)] + [(12, 1), (12, 2), (12, 2), (24, 3)],
        ),
        (216, [(4, 0)] * 4 + [(16, 1), (24, 1), (24, 1), (48, 2), (96, 3)]),
        (
            225,
            [(4, 0), (4, 0), (8, 0), (24, 0), (24, 1), (32, 1)]
            + [(48, 1)] * 3
            + [(96, 2), (96, 2), (192, 3)],
        ),
    ],
)
def test_positions_are_those_of_the_tables(number: int, positions: list[tuple[int, int]]) -> None:
    group = space_group(number)
    found = [(p.multiplicity * group.centring, p.n_free) for p in wyckoff_positions(number)]
    assert Counter(found) == Counter(positions)


@pytest.mark.parametrize("number", [20, 44, 70, 88, 129, 141, 148, 160, 193, 199, 223, 227])
def test_spglib_gives_each_position_a_letter_of_its_own(number: int) -> None:
    group = space_group(number)
    lengths = np.array([7.1, 9.3, 11.7])[list(group.length_ties)]
    generator = np.random.default_rng(number)
    letters = []
    for position in wyckoff_positions(number):
        site = position.point(generator.random(position.n_free))
        # A site in general position leaves no symmetry but the group's own.
        sites = np.array([site, generator.random(3), generator.random(3)])
        structure = AsymmetricUnit(number, lengths, sites, np.array([1, 2, 3])).to_structure()
        numbers = [atom.specie.Z for atom in structure]
        cell = (structure.lattice.matrix, structure.frac_coords, numbers)
        found = spglib.get_symmetry_dataset(cell, symprec=1e-4)
        assert found is not None
        assert found.number == number
        assert numbers.count(1) == position.multiplicity
        letters.append(found.wyckoffs[numbers.index(1)])
    assert len(set(letters)) == len(letters)


def test_points_are_uniform_along_a_position() -> None:
    # Im-3m, 16f: x, x, x, once around the cell.
    (position,) = (p for p in wyckoff_positions(229) if p.n_free == 1 and p.multiplicity == 8)
    generator = np.random.default_rng(0)
    x = np.array([position.point(generator.random(1)) for _ in range(4000)])[:, 0]
    counts, _ = np.histogram(x, bins=8, range=(0, 1))
    # 500 in each, standard deviation 21.
    assert np.abs(counts - 500).max() < 5 * 21


@pytest.mark.parametrize(
    ("crystal", "expected"),
    [
        (ROCK_SALT, 0),
        (PEROVSKITE, 0),
        (WURTZITE, 2),  # two sites on 2b: 1/3, 2/3, z
        (COTUNNITE, 4),  # two sites on 4c: x, 1/4, z
    ],
)
def test_free_coordinates_of_known_crystals(crystal: AsymmetricUnit, expected: int) -> None:
    group = space_group(crystal.space_group)
    images = np.einsum("hij,nj->hni", group.rotations, crystal.frac_coords)
    apart = images + group.translations[:, None] - crystal.frac_coords
    stays = np.abs(apart - np.round(apart)).max(axis=2) < 1e-6
    n_sites = len(crystal.frac_coords)
    moved = np.where(stays, np.arange(n_sites), -1)
    assert n_free_coordinates(group.rotations, moved, np.arange(n_sites)) == expected

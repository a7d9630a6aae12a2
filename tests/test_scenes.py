"""Crystals as they are drawn, counted by hand."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from screening import scenes
from screening.scenes import BOND_STRETCH, scene

ROCK_SALT = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
).get_primitive_structure()
WURTZITE = Structure.from_spacegroup(
    "P6_3mc",
    Lattice.hexagonal(3.25, 5.2),
    ["Zn", "O"],
    [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.382]],
)


def test_rock_salt_as_in_the_books() -> None:
    # The primitive cell holds two atoms; the cube has 8 corners + 6 faces of one element and
    # 12 edges + 1 middle of the other, and 3 x 18 contacts along its three directions.
    drawn = scene(ROCK_SALT)
    symbols = [drawn["elements"][kind][0] for kind, *_ in drawn["balls"]]
    assert sorted(Counter(symbols).values()) == [13, 14]
    assert len(drawn["sticks"]) == 54
    assert drawn["cell"] == pytest.approx([5.64, 5.64, 5.64, 90, 90, 90])
    assert len(drawn["edges"]) == 12
    points = np.array([point for _, *point in drawn["balls"]])
    assert np.abs(points).max() == pytest.approx(2.82)
    assert np.mean(points, axis=0) == pytest.approx([0, 0, 0], abs=1e-6)


def test_radii_and_colours_are_those_of_the_elements() -> None:
    # Covalent radii: Cordero et al., Dalton Trans., 2832 (2008).
    elements = {symbol: rest for symbol, *rest in scene(ROCK_SALT)["elements"]}
    assert elements == {"Na": [1.66, "#ab5cf2"], "Cl": [1.02, "#1ff01f"]}


def test_sticks_are_the_pairs_that_touch() -> None:
    drawn = scene(WURTZITE)
    balls, elements = drawn["balls"], drawn["elements"]
    assert drawn["cell"][3:] == [90, 90, 120]
    expected = [
        [i, j]
        for i, j in combinations(range(len(balls)), 2)
        if np.linalg.norm(np.subtract(balls[i][1:], balls[j][1:]))
        < BOND_STRETCH * (elements[balls[i][0]][1] + elements[balls[j][0]][1])
    ]
    assert expected
    assert drawn["sticks"] == expected


def test_crystal_that_cannot_be_standardised_is_drawn_as_it_is() -> None:
    # Two atoms in one place: spglib refuses.
    doubled = Structure(Lattice.cubic(3), ["Na", "Na"], [[0.5, 0.5, 0.5], [0.5, 0.5, 0.50001]])
    assert [point for _, *point in scene(doubled)["balls"]] == [[0, 0, 0], [0, 0, 0]]


def test_large_cell_is_drawn_without_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "MOST_BALLS", 20)
    assert len(scene(ROCK_SALT)["balls"]) == 8

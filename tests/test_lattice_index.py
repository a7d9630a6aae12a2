"""Lattices that could be mapped: none that pymatgen maps is left out, and most others are."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice

from screening.lattice_index import REACH, LatticeIndex

LTOL, ANGLE_TOL = 0.2, 5.0


def index_of(*lattices: Lattice) -> LatticeIndex:
    index = LatticeIndex(LTOL, ANGLE_TOL)
    for lattice in lattices:
        index.add(lattice)
    return index


def mapped(one: Lattice, other: Lattice) -> bool:
    """What ``StructureMatcher`` asks of lattices, at equal volumes."""
    scale = (other.volume / one.volume) ** (1 / 6)
    found = Lattice(one.matrix * scale).find_all_mappings(
        Lattice(other.matrix / scale), ltol=LTOL, atol=ANGLE_TOL, skip_rotation_matrix=True
    )
    return next(found, None) is not None


def crowd(size: int, elongation: float, rng: np.random.Generator) -> list[Lattice]:
    """Reduced lattices of all families, long and flat ones among them, and strained copies."""
    lattices = [
        Lattice.cubic(4.0),
        Lattice.hexagonal(3.0, 5.0),
        Lattice.rhombohedral(4.0, 60),
        Lattice.rhombohedral(4.0, 109.47),
        Lattice.tetragonal(3.0, 9.0),
        Lattice.tetragonal(9.0, 2.5),
    ]
    while len(lattices) < size:
        if rng.random() < 0.5:
            matrix = lattices[rng.integers(len(lattices))].matrix
            # Up to and beyond the tolerances.
            matrix = matrix @ (np.eye(3) + rng.normal(scale=0.07, size=(3, 3)))
        else:
            matrix = rng.normal(size=(3, 3)) * np.exp(rng.normal(scale=elongation, size=(3, 1)))
        if abs(np.linalg.det(matrix)) > 0.05 * np.prod(np.linalg.norm(matrix, axis=1)):
            lattices.append(Lattice(matrix).get_niggli_reduced_lattice())
    return lattices


@pytest.mark.parametrize("elongation", [0.1, 0.6])
def test_no_lattice_that_can_be_mapped_is_left_out(elongation: float) -> None:
    rng = np.random.default_rng(0)
    lattices = crowd(70, elongation, rng)
    index = index_of(*lattices)
    n_mapped = n_found = n_short = 0
    for other in lattices:
        found = index.mappable(other).tolist()
        assert found == sorted(set(found))
        expected = [i for i, one in enumerate(lattices) if mapped(one, other)]
        assert set(expected) <= set(found)
        if max(other.lengths) < REACH / 1.3 * np.cbrt(other.volume):
            n_mapped += len(expected)
            n_found += len(found)
            n_short += 1
    # Where every length is within reach, almost nothing else is let through.
    assert n_short > 20
    assert n_found <= 1.02 * n_mapped
    assert n_mapped < 0.7 * n_short * len(lattices)


CUBE = Lattice.cubic(1.0)


@pytest.mark.parametrize(
    ("other", "is_near"),
    [
        # At equal volumes, c is longer by the ratio to the power of 2/3.
        (Lattice.tetragonal(1.0, 1.19**1.5), True),
        (Lattice.tetragonal(1.0, 1.21**1.5), False),
        (Lattice.from_parameters(1, 1, 1, 90, 90, 94.9), True),
        (Lattice.from_parameters(1, 1, 1, 90, 90, 95.1), False),
    ],
)
def test_the_tolerances_are_those_of_the_matcher(other: Lattice, is_near: bool) -> None:
    assert (len(index_of(CUBE).mappable(other)) == 1) is is_near
    assert mapped(CUBE, other) is is_near


def test_scale_orientation_and_basis_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    lattice = Lattice.from_parameters(3.1, 4.2, 5.3, 80, 95, 103)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    other = Lattice(np.array([[1, 1, 0], [0, 1, 0], [0, 1, 1]]) @ lattice.matrix @ rotation * 1.9)
    assert index_of(other).mappable(lattice).tolist() == [0]


def test_an_empty_index_finds_nothing() -> None:
    assert index_of().mappable(Lattice.cubic(1.0)).tolist() == []

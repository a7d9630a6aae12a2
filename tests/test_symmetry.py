"""Space groups against spglib, and special positions against the International Tables."""

from __future__ import annotations

import numpy as np
import pytest
import spglib
from hypothesis import given, settings
from hypothesis import strategies as st

from model.symmetry import HIGHEST_SPACE_GROUP, LOWEST_SPACE_GROUP, crystal_family, space_group

ALL = range(LOWEST_SPACE_GROUP, HIGHEST_SPACE_GROUP + 1)


def generic_crystal(number: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Two orbits in general position, which leave no symmetry but the group's own."""
    group = space_group(number)
    lengths = np.array([7.1, 9.3, 11.7])[list(group.length_ties)]
    lattice = np.diag(lengths)
    if group.crystal_family == "hexagonal":
        lattice[1] = lengths[1] * np.array([-0.5, np.sqrt(0.75), 0.0])
    sites = np.random.default_rng(number).random((2, 3))
    images = [group.rotations @ site + group.translations for site in sites]
    species = [index + 1 for index in range(2) for _ in range(group.order)]
    return lattice, np.concatenate(images), species


@pytest.mark.parametrize("number", ALL)
def test_operations_are_spglib_s(number: int) -> None:
    group = space_group(number)
    found = spglib.get_symmetry_dataset(generic_crystal(number), symprec=1e-4)
    assert found is not None
    assert found.number == number

    def keys(rotations: np.ndarray, translations: np.ndarray) -> set[tuple[float, ...]]:
        shifts = np.round(translations % 1.0, 4) % 1.0
        flat = np.concatenate([rotations.reshape(-1, 9), shifts], axis=1)
        return {tuple(row) for row in flat.tolist()}

    assert np.allclose(found.transformation_matrix, np.eye(3))
    shift = found.origin_shift
    moved = found.translations + shift - found.rotations @ shift
    assert keys(found.rotations.astype(float), moved) == keys(group.rotations, group.translations)


@pytest.mark.parametrize("number", ALL)
def test_every_special_position_is_fixed_by_as_many_operations_as_it_says(number: int) -> None:
    group = space_group(number)
    table = group.special_positions
    points = np.einsum("nij,j->ni", table.projections, [0.137, 0.291, 0.618]) + table.offsets
    images = np.einsum("hij,nj->nhi", group.rotations, points) + group.translations
    difference = images - points[:, None]
    stays = np.abs(difference - np.round(difference)).max(axis=2) < 1e-6
    assert (stays.sum(axis=1) == table.orders).all()
    assert [
        len(images) * order for images, order in zip(table.images, table.orders, strict=True)
    ] == [group.order] * len(table.orders)
    # Projecting twice changes nothing.
    again = np.einsum("nij,nj->ni", table.projections, points) + table.offsets
    assert np.allclose(again, points, atol=1e-9)


# International Tables A: multiplicities (in the primitive cell) of the positions without a free
# coordinate, and of the smallest with one.
@pytest.mark.parametrize(
    ("number", "fixed", "smallest_free"),
    [
        (16, (1,) * 8, 2),  # P222: 1a to 1h; 2i
        (62, (4, 4), 4),  # Pnma: 4a, 4b; 4c
        (63, (2, 2, 4), 2),  # Cmcm: 4a, 4b, 8d; 4c
        (139, (1, 1, 2, 2, 4), 2),  # I4/mmm: 2a, 2b, 4c, 4d, 8f; 4e
        (166, (1, 1, 3, 3), 2),  # R-3m: 3a, 3b, 9d, 9e; 6c
        (194, (2, 2, 2, 2, 6), 4),  # P6_3/mmc: 2a to 2d, 6g; 4e
        (216, (1, 1, 1, 1), 4),  # F-43m: 4a to 4d; 16e
        (221, (1, 1, 3, 3), 6),  # Pm-3m: 1a, 1b, 3c, 3d; 6e
        (225, (1, 1, 2, 6), 6),  # Fm-3m: 4a, 4b, 8c, 24d; 24e
        (227, (2, 2, 4, 4), 8),  # Fd-3m: 8a, 8b, 16c, 16d; 32e
        (230, (8, 8, 12, 12), 16),  # Ia-3d: 16a, 16b, 24c, 24d; 32e
    ],
)
def test_multiplicities_are_those_of_the_tables(
    number: int, fixed: tuple[int, ...], smallest_free: int
) -> None:
    assert space_group(number).fixed_multiplicities == fixed
    assert space_group(number).smallest_free_multiplicity == smallest_free


@pytest.mark.parametrize("number", ALL)
def test_primitive_vectors_are_translations_of_the_group(number: int) -> None:
    group = space_group(number)
    pure = group.translations[np.all(group.rotations == np.eye(3), axis=(1, 2))]
    for vector in group.primitive_vectors:
        difference = pure - vector
        assert np.abs(difference - np.round(difference)).max(axis=1).min() < 1e-9
    assert abs(np.linalg.det(group.primitive_vectors)) == pytest.approx(1 / group.centring)


def test_sites_that_fit() -> None:
    fm3m = space_group(225)
    assert fm3m.admits({"Na": 1, "Cl": 1}, max_atoms=2)
    assert fm3m.fewest_atoms(3) == 1 + 1 + 2
    assert not fm3m.admits({"Na": 2, "Cl": 1}, max_atoms=3)


@settings(deadline=None)
@given(st.sampled_from(ALL), st.integers(1, 6))
def test_more_sites_never_need_fewer_atoms(number: int, n_sites: int) -> None:
    group = space_group(number)
    assert group.fewest_atoms(n_sites) < group.fewest_atoms(n_sites + 1)


@pytest.mark.parametrize("number", [0, 1, 15, 231, -3])
def test_other_groups_are_refused(number: int) -> None:
    with pytest.raises(ValueError, match="space group must be 16 to 230"):
        space_group(number)
    with pytest.raises(ValueError, match=f"got {number}"):
        crystal_family(number)

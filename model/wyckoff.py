"""Wyckoff positions: the special positions of a group, those that are equivalent taken together.

``model.symmetry`` lists every point, line and plane that meets the conventional cell. Here those
that an operation carries into one another are one position, as in the International Tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from model.symmetry import space_group

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model.symmetry import SpaceGroup, SpecialPositions

# Every rotation has an order that divides 12, so that 12 times a projection is integral.
_DENOMINATOR = 12
_GENERIC = np.array([0.3141, 0.1618, 0.7183])
_SAME_POINT = 1e-6


@dataclass(frozen=True, eq=False)
class WyckoffPosition:
    """One position of a group: a point, line or plane of the cell, or all of it."""

    multiplicity: int
    """Atoms in the primitive cell that one site on it makes."""
    offset: NDArray[np.float64]
    """(3,) a point of it."""
    directions: NDArray[np.float64]
    """(n_free, 3) lattice vectors along it, fractional."""
    images: NDArray[np.int64]
    """Operations that make the orbit in the conventional cell, the identity first."""

    @property
    def n_free(self) -> int:
        """Number of free coordinates, 0 to 3; without one, a single site fills the position."""
        return len(self.directions)

    def point(self, parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (3,) fractional coordinates in [0, 1) from (n_free,) parameters.

        The directions are lattice vectors, so that parameters which are uniform in [0, 1) make
        points which are uniform on the position.
        """
        return np.asarray((self.offset + parameters @ self.directions) % 1.0)


@lru_cache(maxsize=256)
def wyckoff_positions(number: int) -> tuple[WyckoffPosition, ...]:
    """Return the Wyckoff positions of a space group, the general one first.

    Raises:
        ValueError: if the group is monoclinic, triclinic or does not exist.
    """
    group = space_group(number)
    table = group.special_positions
    _, first = np.unique(_orbits(group), return_index=True)
    return tuple(
        WyckoffPosition(
            multiplicity=len(table.images[index]) // group.centring,
            offset=table.offsets[index],
            directions=_lattice_vectors(table.projections[index]),
            images=table.images[index],
        )
        for index in np.sort(first)
    )


def n_free_coordinates(
    rotations: NDArray[np.int64], images: NDArray[np.int64], representatives: NDArray[np.int64]
) -> int:
    """Count the coordinates that the symmetry of a crystal leaves free, over its sites.

    What is left free at a site is the space that its stabiliser's rotations leave unchanged; the
    trace of their mean is its dimension.

    Args:
        rotations: (n_operations, 3, 3) of a cell of the crystal.
        images: (n_operations, n_atoms) the atom that each operation carries each atom to.
        representatives: (n_sites,) one atom of each orbit.
    """
    return sum(
        round(float(np.trace(rotations[images[:, atom] == atom].mean(axis=0))))
        for atom in representatives
    )


def _orbits(group: SpaceGroup) -> NDArray[np.int64]:
    """Return (n_positions,) a number that equivalent special positions share."""
    table = group.special_positions
    orbit = np.full(len(table.orders), -1)
    for index, operations in enumerate(table.images):
        if orbit[index] >= 0:
            continue
        generic = table.projections[index] @ _GENERIC + table.offsets[index]
        images = group.rotations[operations] @ generic + group.translations[operations]
        like = np.flatnonzero(
            (table.orders == table.orders[index]) & (table.n_free == table.n_free[index])
        )
        met = like[_holds_one_of(table, like, images % 1.0)]
        # A position just outside the cell is known by its images inside.
        known = orbit[met][orbit[met] >= 0]
        orbit[met] = orbit[index] = known[0] if len(known) else index
    return orbit


def _holds_one_of(
    table: SpecialPositions, which: NDArray[np.int64], points: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return (n_which,) whether each of some positions holds one of some points (n_points, 3)."""
    projected = np.einsum("pij,nj->pni", table.projections[which], points)
    off = projected + table.offsets[which][:, None] - points
    return np.asarray((np.abs(off).max(axis=2) < _SAME_POINT).any(axis=1))


def _lattice_vectors(projection: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (n_free, 3) independent integer vectors in the space that a projection leaves."""
    chosen: list[NDArray[np.int64]] = []
    for column in np.rint(_DENOMINATOR * projection).astype(np.int64).T:
        if np.linalg.matrix_rank([*chosen, column]) > len(chosen):
            chosen.append(column // np.gcd.reduce(column))
    return np.array(chosen, dtype=np.float64).reshape(-1, 3)

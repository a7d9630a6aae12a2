"""Space groups: their operations, and the special positions that the operations create.

Everything is in fractional coordinates of the conventional cell of the International Tables, in
spglib's first setting. An operation acts on a column of coordinates as ``x -> rotation @ x +
translation``; the operations of a group include the centring translations.

A *special position* is a set of points (a point, a line or a plane) that some operations leave
where they are. Those operations are its stabiliser. The projection of a point onto it is the mean
of the point's images under the stabiliser, which is the orthogonal projection in every metric
that the group allows: ``x -> projection @ x + offset``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import spglib

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

LOWEST_SPACE_GROUP = 16
HIGHEST_SPACE_GROUP = 230

_N_GROUPS = 230
_N_HALL_NUMBERS = 530

# All special positions of the Tables have coordinates in multiples of 1/24, so that integer
# arithmetic on this grid is exact. The grid reaches beyond the cell because a point close to a
# face of the cell may be close to a special position on the other side.
_GRID = 24
_GRID_MARGIN = 4

# Primitive vectors (rows) in terms of the conventional ones, per centring letter; International
# Tables A, section 1.5.4 (R: obverse setting).
_PRIMITIVE_VECTORS = {
    "P": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "A": [[1, 0, 0], [0, 1 / 2, -1 / 2], [0, 1 / 2, 1 / 2]],
    "C": [[1 / 2, 1 / 2, 0], [-1 / 2, 1 / 2, 0], [0, 0, 1]],
    "I": [[-1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [1 / 2, 1 / 2, -1 / 2]],
    "F": [[0, 1 / 2, 1 / 2], [1 / 2, 0, 1 / 2], [1 / 2, 1 / 2, 0]],
    "R": [[2 / 3, 1 / 3, 1 / 3], [-1 / 3, 1 / 3, 1 / 3], [-1 / 3, -2 / 3, 1 / 3]],
}

# Which of the free cell lengths each of a, b, c takes, per crystal family.
_LENGTH_TIES = {
    "orthorhombic": (0, 1, 2),
    "tetragonal": (0, 0, 1),
    "hexagonal": (0, 0, 1),
    "cubic": (0, 0, 0),
}


@dataclass(frozen=True)
class SpecialPositions:
    """The special positions of a group in and just around the conventional cell.

    The first entry is the general position: projection 1, stabiliser of order 1.
    """

    projections: NDArray[np.float64]
    """(n_positions, 3, 3)."""
    offsets: NDArray[np.float64]
    """(n_positions, 3)."""
    orders: NDArray[np.int64]
    """(n_positions,) number of operations in the stabiliser."""
    images: tuple[NDArray[np.int64], ...]
    """Per position, the operations (one per coset of the stabiliser) that make the orbit."""

    @cached_property
    def n_free(self) -> NDArray[np.int64]:
        """(n_positions,) number of free coordinates: 0 point, 1 line, 2 plane, 3 general."""
        traces = np.trace(self.projections, axis1=1, axis2=2)
        return np.asarray(np.rint(traces), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class SpaceGroup:
    """A space group with the operations of its conventional cell."""

    number: int
    symbol: str
    """International short symbol, e.g. ``Fm-3m``."""
    rotations: NDArray[np.float64]
    """(n_operations, 3, 3); the identity comes first."""
    translations: NDArray[np.float64]
    """(n_operations, 3)."""

    @property
    def order(self) -> int:
        """Number of operations in the conventional cell, centring included."""
        return len(self.rotations)

    @property
    def crystal_family(self) -> str:
        """Orthorhombic, tetragonal, hexagonal (trigonal groups included) or cubic."""
        return crystal_family(self.number)

    @property
    def length_ties(self) -> tuple[int, int, int]:
        """For each of a, b and c, the index of the free length that it takes."""
        return _LENGTH_TIES[self.crystal_family]

    @property
    def primitive_vectors(self) -> NDArray[np.float64]:
        """(3, 3) rows: primitive vectors in terms of the conventional ones."""
        return np.array(_PRIMITIVE_VECTORS[self.symbol[0]], dtype=np.float64)

    @cached_property
    def centring(self) -> int:
        """Number of lattice points in the conventional cell."""
        return int(np.all(self.rotations == np.eye(3), axis=(1, 2)).sum())

    @cached_property
    def special_positions(self) -> SpecialPositions:
        """Every special position that meets the conventional cell."""
        return _special_positions(self.rotations, self.translations)

    @cached_property
    def fixed_multiplicities(self) -> tuple[int, ...]:
        """Multiplicities, in the primitive cell, of positions without a free coordinate.

        One entry per orbit, ascending. Such an orbit is a single set of points, so that only one
        site of a crystal can have it.
        """
        positions = self.special_positions
        found: dict[tuple[float, ...], int] = {}
        for index in np.flatnonzero(positions.n_free == 0):
            images = self.rotations @ positions.offsets[index] + self.translations
            orbit = sorted({tuple(_wrap(image)) for image in images})
            found[orbit[0]] = len(orbit) // self.centring
        return tuple(sorted(found.values()))

    @cached_property
    def smallest_free_multiplicity(self) -> int:
        """Multiplicity, in the primitive cell, of the smallest orbit with a free coordinate."""
        positions = self.special_positions
        largest_stabiliser = int(positions.orders[positions.n_free > 0].max())
        return self.order // largest_stabiliser // self.centring

    def fewest_atoms(self, n_sites: int) -> int:
        """Return the fewest atoms that a primitive cell with ``n_sites`` sites can hold."""
        free = self.smallest_free_multiplicity
        chosen = [m for m in self.fixed_multiplicities if m < free][:n_sites]
        return sum(chosen) + free * (n_sites - len(chosen))

    def admits(self, n_sites_by_element: Mapping[str, int], max_atoms: int) -> bool:
        """Whether that many sites fit into a primitive cell of at most ``max_atoms`` atoms."""
        return self.fewest_atoms(sum(n_sites_by_element.values())) <= max_atoms


def crystal_family(number: int) -> str:
    """Return the crystal family of a space group from 16 to 230.

    Raises:
        ValueError: if the group is monoclinic, triclinic or does not exist.
    """
    if not LOWEST_SPACE_GROUP <= number <= HIGHEST_SPACE_GROUP:
        message = (
            f"space group must be {LOWEST_SPACE_GROUP} to {HIGHEST_SPACE_GROUP} (monoclinic and "
            f"triclinic groups are outside the method), got {number}"
        )
        raise ValueError(message)
    for last, family in ((74, "orthorhombic"), (142, "tetragonal"), (194, "hexagonal")):
        if number <= last:
            return family
    return "cubic"


@lru_cache(maxsize=1)
def hall_numbers() -> dict[int, int]:
    """Return spglib's first Hall number for each space group."""
    first: dict[int, int] = {}
    for hall_number in range(1, _N_HALL_NUMBERS + 1):
        first.setdefault(int(spglib.get_spacegroup_type(hall_number).number), hall_number)
    return first


@lru_cache(maxsize=_N_GROUPS)
def space_group(number: int) -> SpaceGroup:
    """Return a space group by its number.

    Raises:
        ValueError: if the group is monoclinic, triclinic or does not exist.
    """
    crystal_family(number)
    hall_number = hall_numbers()[number]
    operations = spglib.get_symmetry_from_database(hall_number)
    group = spglib.get_spacegroup_type(hall_number)
    # Translations are multiples of 1/24; spglib stores some of them as rounded decimals.
    translations = np.rint(np.asarray(operations["translations"]) * _GRID) / _GRID
    return SpaceGroup(
        number=number,
        symbol=str(group.international_short),
        rotations=np.asarray(operations["rotations"], dtype=np.float64),
        translations=translations % 1.0,
    )


def _wrap(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bring fractional coordinates into [0, 1), rounded so that equal points compare equal."""
    return np.asarray(np.round(np.round(points, 8) % 1.0, 6) % 1.0)


def _grid() -> NDArray[np.int64]:
    """Return the points of the grid, in units of 1/24 of the cell."""
    axis = np.arange(-_GRID_MARGIN, _GRID + _GRID_MARGIN + 1)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)


def _special_positions(
    rotations: NDArray[np.float64], translations: NDArray[np.float64]
) -> SpecialPositions:
    """Find every special position that meets the grid.

    A stabiliser that leaves a line contains a rotation about it, one that leaves a plane is a
    mirror, and one that leaves a point alone leaves a point of the grid: single operations give
    all lines and planes, and the grid gives all points.
    """
    grid = _grid()
    # Single precision is exact for integers of this size, and multiplies much faster.
    columns = grid.T.astype(np.float32)
    fixed = np.zeros((len(rotations), len(grid)), dtype=np.float32)
    lines_and_planes = {}
    for index, (rotation, translation) in enumerate(zip(rotations, translations, strict=True)):
        shift = np.rint(translation * _GRID).astype(np.float32)
        moved = (rotation - np.eye(3)).astype(np.float32) @ columns + shift[:, None]
        fixed[index] = (moved.astype(np.int16) % _GRID == 0).all(axis=0)
        projection = _mean_of_powers(rotation)
        if index == 0 or round(np.trace(projection)) == 0:
            continue
        points = grid[fixed[index] > 0] / _GRID
        for offset in np.unique(np.round(points - points @ projection.T, 9), axis=0):
            entry = (projection, offset)
            lines_and_planes[_table_key(entry)] = entry

    summed_rotation = fixed.T @ rotations.reshape(-1, 9).astype(np.float32)
    isolated = np.rint(np.abs(summed_rotation).max(axis=1)) == 0
    entries = [(np.zeros((3, 3)), point / _GRID) for point in grid[isolated]]
    # Single operations describe a line or plane by their own fixed space, which is already the
    # projection onto it: the mean over the whole stabiliser is the same map.
    entries += lines_and_planes.values()
    entries = [(np.eye(3), np.zeros(3)), *sorted(entries, key=_table_key)]
    images = tuple(_coset_operations(rotations, translations, p, o) for p, o in entries)
    return SpecialPositions(
        projections=np.array([p for p, _ in entries]),
        offsets=np.array([o for _, o in entries]),
        orders=np.array([len(rotations) // len(image) for image in images]),
        images=images,
    )


def _mean_of_powers(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the projection onto the directions that a rotation leaves unchanged."""
    # Every crystallographic rotation has an order that divides 12.
    return np.asarray(np.mean([np.linalg.matrix_power(rotation, k) for k in range(12)], axis=0))


def _table_key(entry: tuple[NDArray[np.float64], NDArray[np.float64]]) -> tuple[float, ...]:
    projection, offset = entry
    return (*(np.round(offset, 6) + 0.0), *(np.round(projection, 6) + 0.0).ravel())


def _coset_operations(
    rotations: NDArray[np.float64],
    translations: NDArray[np.float64],
    projection: NDArray[np.float64],
    offset: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Choose one operation for each point of the orbit of a special position."""
    point = projection @ np.array([0.3141, 0.1618, 0.7183]) + offset
    images = _wrap(rotations @ point + translations)
    _, first = np.unique(images, axis=0, return_index=True)
    return np.sort(first)

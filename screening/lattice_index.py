"""Which lattices could be mapped onto another one within the tolerances of ``StructureMatcher``.

A crystal fits another only if the first's lattice has three vectors whose lengths agree with the
second's lattice parameters within a factor of 1 + ``ltol``, and their angles within ``angle_tol``,
once both cells are scaled to one volume (``Lattice.find_all_mappings``, from ``StructureMatcher``).
That condition needs no atoms, and is tested here for many lattices at once. It is only ever made
weaker: tolerances are widened by more than rounding, vectors longer than a reach are not looked
for, and that the three must span the whole lattice is left out. So no lattice is left out that
could be mapped.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from pymatgen.core import Lattice

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Truths = NDArray[np.bool_]

REACH = 3.0
"""Longest vector that is looked for, in units of the cube root of the cell's volume."""
LENGTH_MARGIN = 1e-6
"""By which the relative tolerance of lengths is widened."""
ANGLE_MARGIN = 1e-3
"""Degrees, by which the tolerance of angles is widened."""


class LatticeIndex:
    """Lattices in the order in which they were added.

    Args:
        ltol: relative tolerance of lengths, as that of ``StructureMatcher``.
        angle_tol: degrees.
    """

    def __init__(self, ltol: float, angle_tol: float) -> None:
        self._stretch = 1 + ltol + LENGTH_MARGIN
        self._angle_tol = angle_tol + ANGLE_MARGIN
        self._size = 0
        # (capacity, most vectors of a lattice) by length; what is not used is infinitely long.
        self._lengths: Array = np.full((0, 0), np.inf)
        self._directions: Array = np.zeros((0, 0, 3))

    def __len__(self) -> int:
        return self._size

    def add(self, lattice: Lattice) -> None:
        """Append a lattice."""
        scaled = _of_unit_volume(lattice)
        origin = [0.0, 0.0, 0.0]
        points: Any = scaled.get_points_in_sphere([origin], origin, REACH, zip_results=False)
        vectors = scaled.get_cartesian_coords(points[0])
        lengths = np.linalg.norm(vectors, axis=1)
        order = np.argsort(lengths)[1:]  # the first is the origin itself
        self._reserve(self._size + 1, len(order))
        self._lengths[self._size, : len(order)] = lengths[order]
        self._directions[self._size, : len(order)] = vectors[order] / lengths[order, None]
        self._size += 1

    def mappable(self, lattice: Lattice) -> NDArray[np.int64]:
        """Return the positions of the lattices that could be mapped onto another, in order."""
        target = _of_unit_volume(lattice)
        # A vector beyond the reach may exist: its length and angles are not tested.
        axes = [i for i in range(3) if target.lengths[i] * self._stretch < REACH]
        found = np.arange(self._size)
        bands = {i: self._band(float(target.lengths[i])) for i in axes}
        for low, high in bands.values():
            found = found[(low < high)[found]]
        if len(found) == 0 or len(axes) == 1:
            return found
        near = {i: self._vectors(found, *band) for i, band in bands.items()}
        fits = {
            (i, j): self._at_angle(near[i], near[j], float(target.angles[3 - i - j]))
            for i, j in combinations(axes, 2)
        }
        if len(axes) == 2:  # noqa: PLR2004 - of three axes
            (pairs,) = fits.values()
        else:
            # A pair (a, b) at the right angle, and a c that makes the right angles with both.
            through_c = fits[0, 2].astype(np.float32) @ fits[1, 2].astype(np.float32).swapaxes(1, 2)
            pairs = fits[0, 1] & (through_c > 0)
        return np.asarray(found[pairs.any(axis=(1, 2))])

    def _band(self, length: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (size,) twice: the first vector of about a length, and the first beyond."""
        lengths = self._lengths[: self._size]
        low = (lengths <= length / self._stretch).sum(axis=1)
        high = (lengths < length * self._stretch).sum(axis=1)
        return low, high

    def _vectors(
        self, found: NDArray[np.int64], low: NDArray[np.int64], high: NDArray[np.int64]
    ) -> tuple[Array, Truths]:
        """Return directions (n_found, n, 3) from `low` to `high`, and which are there (n_found, n)."""
        low, high = low[found, None], high[found, None]
        index = low + np.arange((high - low).max())
        is_there = index < high
        return self._directions[found[:, None], np.where(is_there, index, 0)], is_there

    def _at_angle(
        self, one: tuple[Array, Truths], other: tuple[Array, Truths], angle: float
    ) -> Truths:
        """Return (n_found, n_one, n_other): which pairs of vectors make an angle (degrees)."""
        cosines = np.einsum("fix,fjx->fij", one[0], other[0])
        widest = np.cos(np.deg2rad(min(angle + self._angle_tol, 180.0)))
        narrowest = np.cos(np.deg2rad(max(angle - self._angle_tol, 0.0)))
        close = (cosines >= widest) & (cosines <= narrowest)
        return np.asarray(close & one[1][:, :, None] & other[1][:, None, :])

    def _reserve(self, n_lattices: int, n_vectors: int) -> None:
        capacity, width = self._lengths.shape
        if n_lattices <= capacity and n_vectors <= width:
            return
        capacity = capacity if n_lattices <= capacity else 2 * n_lattices
        width = max(width, n_vectors)
        lengths = np.full((capacity, width), np.inf)
        directions = np.zeros((capacity, width, 3))
        used = self._lengths[: self._size]
        lengths[: self._size, : used.shape[1]] = used
        directions[: self._size, : used.shape[1]] = self._directions[: self._size]
        self._lengths, self._directions = lengths, directions


def _of_unit_volume(lattice: Lattice) -> Lattice:
    return Lattice(lattice.matrix / np.cbrt(lattice.volume))

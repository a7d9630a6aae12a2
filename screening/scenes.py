"""Crystals as balls and sticks: what the report's viewer draws.

A scene is plain numbers, so that the viewer needs nothing but a canvas: positions, radii, colours,
which balls are joined, and the edges of the cell.
"""

from __future__ import annotations

import warnings
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import spglib
from ase.data import atomic_numbers, covalent_radii
from ase.data.colors import jmol_colors

from screening.schema import SYMPREC

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymatgen.core import Structure

BOND_STRETCH = 1.15
"""Atoms are joined up to this multiple of the sum of their covalent radii."""
MOST_BALLS = 400
"""Balls of a scene; a cell with more is drawn without the copies on its faces."""

_ON_FACE = 1e-3
_DECIMALS = 3


def scene(structure: Structure) -> dict[str, Any]:
    """Return a crystal in its conventional cell as JSON values.

    Args:
        structure: An ordered structure in any cell. One that spglib cannot standardise is drawn in
            the cell that it has.

    Returns:
        ``elements`` (symbol, radius in Å, colour), ``balls`` (index of the element, x, y, z in Å
        from the middle of the cell), ``sticks`` (indices of two balls), ``edges`` of the cell (two
        points in Å each) and ``cell`` (lengths in Å, angles in degrees).
    """
    lattice, coords, numbers = _conventional(structure)
    coords, numbers = _with_copies(coords, numbers)
    middle = lattice.sum(axis=0) / 2
    points = coords @ lattice - middle
    kinds = list(dict.fromkeys(numbers.tolist()))
    symbols = {number: symbol for symbol, number in atomic_numbers.items()}
    return {
        "elements": [
            [symbols[number], round(float(covalent_radii[number]), 2), _colour(number)]
            for number in kinds
        ],
        "balls": [
            [kinds.index(number), *_rounded(point)]
            for number, point in zip(numbers.tolist(), points, strict=True)
        ],
        "sticks": _sticks(points, covalent_radii[numbers]),
        "edges": [
            [_rounded(a @ lattice - middle), _rounded(b @ lattice - middle)] for a, b in _EDGES
        ],
        "cell": _parameters(lattice),
    }


def _conventional(
    structure: Structure,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Lattice (rows are vectors, Å), fractional positions from 0 to 1, and atomic numbers."""
    numbers = [site.specie.Z for site in structure]
    cell = (structure.lattice.matrix, structure.frac_coords, numbers)
    with warnings.catch_warnings():
        # As in screening.schema: spglib announces a change of how failure is reported.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            standard = spglib.standardize_cell(cell, symprec=SYMPREC)
        except Exception:  # noqa: BLE001 - spglib's error class differs between its versions
            standard = None
    lattice, coords, numbers = standard or cell
    coords = np.asarray(coords, dtype=np.float64) % 1.0
    coords[coords > 1 - _ON_FACE] -= 1.0
    return np.asarray(lattice, dtype=np.float64), coords, np.asarray(numbers, dtype=np.int64)


def _with_copies(
    coords: NDArray[np.float64], numbers: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Repeat atoms at the cell's origin faces on the opposite ones, as cells are drawn in books."""
    all_coords, all_numbers = [], []
    for point, number in zip(coords, numbers, strict=True):
        shifts = product(*((0, 1) if abs(x) < _ON_FACE else (0,) for x in point))
        copies = [point + shift for shift in shifts]
        all_coords += copies
        all_numbers += [number] * len(copies)
    if len(all_coords) > MOST_BALLS:
        return coords, numbers
    return np.array(all_coords), np.array(all_numbers)


def _sticks(points: NDArray[np.float64], radii: NDArray[np.float64]) -> list[list[int]]:
    """Pairs of balls that touch, or nearly: ``points`` in Å of shape (n, 3), ``radii`` (n,) in Å."""
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    close = distances < BOND_STRETCH * (radii[:, None] + radii[None])
    pairs: list[list[int]] = np.argwhere(np.triu(close, k=1)).tolist()
    return pairs


def _parameters(lattice: NDArray[np.float64]) -> list[float]:
    """Lengths a, b, c in Å and angles alpha, beta, gamma in degrees."""
    lengths = np.linalg.norm(lattice, axis=1)
    cosines = [
        lattice[i] @ lattice[j] / (lengths[i] * lengths[j]) for i, j in ((1, 2), (0, 2), (0, 1))
    ]
    angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    return [*_rounded(lengths), *(round(float(angle), 2) for angle in angles)]


def _rounded(vector: NDArray[np.float64]) -> list[float]:
    return [round(float(x), _DECIMALS) for x in vector]


def _colour(number: int) -> str:
    return "#" + "".join(f"{round(255 * x):02x}" for x in jmol_colors[number])


_CORNERS = [np.array(corner, dtype=np.float64) for corner in product((0, 1), repeat=3)]
_EDGES = [
    (a, b) for a in _CORNERS for b in _CORNERS if (b - a).sum() == 1 and np.abs(b - a).sum() == 1
]

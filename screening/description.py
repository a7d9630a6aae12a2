"""What a user screens relaxed crystals by: distances, density, dimensionality, the group kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import covalent_radii
from pymatgen.symmetry.groups import SYMM_DATA

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from pymatgen.core import Structure

BOND_UP_TO = 1.25
"""Distance over the sum of covalent radii up to which two atoms count as bonded. In lead, the
loosest of close-packed metals, neighbours are at 1.20; molecules of iodine and chains of tellurium
are 1.26 from the next."""

FLAT = 0.1
"""Cubic angstrom per atom: neighbours of so flat a cell are beyond counting."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of atoms that are close to one another, each in both directions."""

    centres: NDArray[np.int64]
    """Atom that a pair starts from, shape (n_pairs,)."""
    neighbours: NDArray[np.int64]
    """Atom that it leads to, shape (n_pairs,)."""
    shifts: NDArray[np.int64]
    """Cells between the two, in lattice vectors, shape (n_pairs, 3)."""
    ratios: NDArray[np.float64]
    """Distance over the sum of the covalent radii (Cordero et al. 2008), shape (n_pairs,)."""


def described(structure: Structure, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that describe a candidate's crystal.

    Args:
        structure: the crystal.
        row: with ``space_group_requested`` and ``space_group_it_number``.
    """
    pairs = close_pairs(structure)
    return {
        "min_distance_ratio": float(pairs.ratios.min()) if len(pairs.ratios) else None,
        "density": float(structure.density),
        "volume_per_atom": float(structure.volume / len(structure)),
        "dimensionality": dimensionality(pairs, len(structure)),
        "space_group_kept": space_group_kept(
            row.get("space_group_requested"), row.get("space_group_it_number")
        ),
    }


def close_pairs(structure: Structure) -> Pairs:
    """Return all pairs of atoms, periodic images included, that might be bonded."""
    radii = covalent_radii[[site.specie.Z for site in structure]]
    cutoff = BOND_UP_TO * 2 * float(radii.max())
    centres, neighbours, shifts, distances = structure.get_neighbor_list(cutoff)
    ratios = distances / (radii[centres] + radii[neighbours])
    return Pairs(centres, neighbours, np.rint(shifts).astype(np.int64), ratios)


def distance_ratio(structure: Structure) -> float:
    """Return the shortest distance over the sum of the two atoms' covalent radii.

    It is zero in a flat cell, and infinite where no two atoms are close to one another.
    """
    if not np.isfinite(structure.volume) or structure.volume <= FLAT * len(structure):
        return 0.0
    ratios = close_pairs(structure).ratios
    return float(ratios.min()) if len(ratios) else np.inf


def dimensionality(pairs: Pairs, n_atoms: int) -> int:
    """Return in how many directions bonds go on for ever: 3, layers 2, chains 1, molecules 0.

    That is the rank of the lattice vectors that closed walks along bonds lead to, the largest
    among a crystal's components (Larsen et al., Phys. Rev. Materials 3, 034003, 2019).
    """
    bonds: list[list[tuple[int, NDArray[np.int64]]]] = [[] for _ in range(n_atoms)]
    for index in np.flatnonzero(pairs.ratios <= BOND_UP_TO):
        bonds[pairs.centres[index]].append((int(pairs.neighbours[index]), pairs.shifts[index]))
    largest = 0
    cell_of: dict[int, NDArray[np.int64]] = {}
    for start in range(n_atoms):
        if start in cell_of:
            continue
        cell_of[start] = np.zeros(3, dtype=np.int64)
        stack, loops = [start], [np.zeros(3, dtype=np.int64)]
        while stack:
            atom = stack.pop()
            for neighbour, shift in bonds[atom]:
                reached = cell_of[atom] + shift
                if neighbour not in cell_of:
                    cell_of[neighbour] = reached
                    stack.append(neighbour)
                else:
                    loops.append(reached - cell_of[neighbour])
        largest = max(largest, int(np.linalg.matrix_rank(np.unique(loops, axis=0))))
    return largest


def space_group_kept(requested: int | None, found: int | None) -> bool | None:
    """Return whether the group that was found is the requested one or a supergroup of it.

    A crystal of higher symmetry has all the operations that were asked for, if perhaps in a
    smaller cell. None where either is unknown.
    """
    if requested is None or found is None:
        return None
    return requested in _subgroups(found)


@cache
def _subgroups(number: int) -> frozenset[int]:
    """Return a space group and the types of all its subgroups.

    They are followed down the maximal subgroups of the International Tables A1, as pymatgen lists
    them; its own `is_subgroup` takes seconds for a pair.
    """
    maximal = SYMM_DATA["maximal_subgroups"]
    reached, to_visit = {number}, [number]
    while to_visit:
        new = set(maximal[str(to_visit.pop())]) - reached
        reached |= new
        to_visit += new
    return frozenset(reached)

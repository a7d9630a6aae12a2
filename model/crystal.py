"""A crystal as the model sees it: a space group, cell lengths and one position per site."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import spglib
import torch

from model.lattice import l3_from_lengths, lattice_from_l3, unit_vectors
from model.multigraph import make_batch, merge_sites
from model.symmetry import crystal_family, hall_numbers, space_group

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymatgen.core import Structure

MERGE_DISTANCE = 0.3
"""Images of a site closer than this, in angstrom, are one atom (paper, section 4.2)."""

SYMPREC = 0.01
"""Tolerance, in angstrom, with which spglib must find the requested group."""


@dataclass(frozen=True)
class AsymmetricUnit:
    """One representative per orbit of sites, in the conventional cell of a space group."""

    space_group: int
    """International Tables number, 16 to 230."""
    lengths: NDArray[np.float64]
    """(3,) a, b, c of the conventional cell, angstrom."""
    frac_coords: NDArray[np.float64]
    """(n_sites, 3) in the conventional cell."""
    atomic_numbers: NDArray[np.int64]
    """(n_sites,)."""

    @property
    def lattice(self) -> NDArray[np.float64]:
        """(3, 3) conventional cell, rows are vectors in angstrom."""
        hexagonal = torch.tensor([crystal_family(self.space_group) == "hexagonal"])
        directions = unit_vectors(hexagonal)[0].numpy()
        return np.asarray(self.lengths[:, None] * directions)

    def settled(self, merge_distance: float = MERGE_DISTANCE) -> AsymmetricUnit:
        """Return the crystal with every site exactly on the Wyckoff position it is close to.

        Images of a site within ``merge_distance`` (angstrom) of one another become one atom on
        the special position between them (paper, section 4.2, last step of sampling).
        """
        batch = make_batch([self.space_group], [self.atomic_numbers.tolist()], torch.float64)
        l3 = l3_from_lengths(torch.as_tensor(self.lengths)[None])
        merged = merge_sites(
            batch,
            torch.as_tensor(self.frac_coords),
            lattice_from_l3(l3, batch.directions),
            # A point and its mirror image are twice as far apart as the point and the mirror.
            torch.full((batch.n_sites,), merge_distance / 2, dtype=torch.float64),
        )
        return AsymmetricUnit(
            self.space_group, self.lengths, merged.frac_coords.numpy() % 1.0, self.atomic_numbers
        )

    def to_structure(self) -> Structure:
        """Return all atoms of all orbits in the primitive cell, as a pymatgen ``Structure``."""
        from pymatgen.core import Element, Structure  # noqa: PLC0415 - slow to import

        group = space_group(self.space_group)
        basis = group.primitive_vectors
        species: list[str] = []
        coords: list[NDArray[np.float64]] = []
        for number, site in zip(self.atomic_numbers, self.frac_coords, strict=True):
            images = (group.rotations @ site + group.translations) @ np.linalg.inv(basis)
            orbit = _distinct(images)
            coords.extend(orbit)
            species.extend([Element.from_Z(int(number)).symbol] * len(orbit))
        return Structure(basis @ self.lattice, species, coords, to_unit_cell=True)


def _distinct(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Drop points that coincide modulo whole cells."""
    wrapped = np.round(points % 1.0, 8) % 1.0
    keys = np.round(wrapped, 5) % 1.0
    _, first = np.unique(keys, axis=0, return_index=True)
    return np.asarray(wrapped[np.sort(first)])


def asymmetric_unit(
    lattice: NDArray[np.float64],
    frac_coords: NDArray[np.float64],
    atomic_numbers: NDArray[np.int64],
    symprec: float = 0.1,
) -> AsymmetricUnit | None:
    """Find the asymmetric unit of a crystal in any cell.

    Args:
        lattice: (3, 3), rows are vectors in angstrom.
        frac_coords: (n_atoms, 3).
        atomic_numbers: (n_atoms,).
        symprec: spglib's tolerance in angstrom; the result is idealised.

    Returns:
        The asymmetric unit in spglib's standard cell, or None for monoclinic and triclinic
        crystals and for those that spglib cannot standardise.
    """
    data = spglib.get_symmetry_dataset((lattice, frac_coords, atomic_numbers), symprec=symprec)
    if data is None or data.number not in range(16, 231):
        return None
    if data.hall_number != hall_numbers()[data.number]:
        return None
    orbits = data.crystallographic_orbits[
        np.unique(data.mapping_to_primitive, return_index=True)[1]
    ]
    standard = np.asarray(data.std_mapping_to_primitive)
    representatives = [
        int(np.flatnonzero(orbits[standard] == orbit)[0]) for orbit in np.unique(orbits)
    ]
    return AsymmetricUnit(
        space_group=int(data.number),
        lengths=np.linalg.norm(data.std_lattice, axis=1),
        frac_coords=np.asarray(data.std_positions[representatives]) % 1.0,
        atomic_numbers=np.asarray(data.std_types[representatives], dtype=np.int64),
    )

"""Symmetric random crystals for the same input as the model's: what a search without a model finds.

Pickard and Needs (J. Phys.: Condens. Matter 23, 053201, 2011) relax random crystals that are only
sensible in volume, symmetry and distances; PyXtal (Fredericks et al., Comput. Phys. Commun. 261,
107810, 2021) draws them in a space group for a given formula. Here, as for the model, the input is
the number of inequivalent sites of each element, and the formula follows from where these land.

*Assignments* of sites to Wyckoff positions are drawn uniformly from all that the group admits: a
position without a free coordinate takes one site, and the primitive cell has at most ``max_atoms``
atoms. Sites are told apart, also those of one element, so that this is what independent uniform
choices come to when those that break a rule are thrown away. Volume, shape and free coordinates are
drawn until no two atoms are too close; an assignment that finds no room in so many tries gives way
to another, so that crowded ones are rarer in what comes out.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import comb, perm
from typing import TYPE_CHECKING

import numpy as np
from ase.data import covalent_radii

from model.crystal import AsymmetricUnit
from model.symmetry import space_group
from model.wyckoff import wyckoff_positions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from model.symmetry import SpaceGroup
    from model.wyckoff import WyckoffPosition

VERSION = "1"
"""Changes whenever the same seed may give another crystal."""

# Both are in units of covalent radii (Cordero et al., Dalton Trans. 2832, 2008). PyXtal takes a
# sphere between the covalent and the van der Waals radius for each atom, and half the sum of the
# covalent radii as the shortest distance. These here and the edges below round the distributions in
# MP-20's training split, which `benchmarks/random_crystals.py` prints.
VOLUME_FACTORS = (1.0, 3.0)
"""Volume in units of that of the covalent spheres; drawn uniformly in its logarithm."""
DISTANCE_FACTOR = 0.7
"""Shortest distance in units of the sum of the covalent radii."""

# Median of c/a by centring, and spread of its logarithm; where all three edges are free, spread of
# the logarithm of an edge over their mean.
_RATIOS = {"P": 1.4, "I": 2.0, "R": 3.5}
_RATIO_SPREAD = 0.7
_EDGE_SPREAD = 0.4

TRIES_PER_ASSIGNMENT = 100
ASSIGNMENTS = 40
"""How many assignments are tried, before a sample counts as failed."""


class NoCrystalError(ValueError):
    """No crystal was found; the message says why."""


def random_crystal(
    number: int, atomic_numbers: Sequence[int], max_atoms: int, seed: int
) -> AsymmetricUnit:
    """Draw a random crystal of a space group, its sites exactly on Wyckoff positions.

    Args:
        number: of the space group, 16 to 230.
        atomic_numbers: (n_sites,) element of each inequivalent site.
        max_atoms: most atoms in the primitive cell.
        seed: all randomness comes from it.

    Raises:
        NoCrystalError: if the group does not admit that many sites, or if every try had atoms too
            close to one another.
    """
    generator = np.random.default_rng(seed)
    group = space_group(number)
    for _ in range(ASSIGNMENTS):
        positions = random_assignment(number, len(atomic_numbers), max_atoms, generator)
        distances = _Distances(group, positions, atomic_numbers)
        multiplicities = np.array([position.multiplicity for position in positions])
        volume = float((multiplicities * sphere_volumes(atomic_numbers)).sum()) * group.centring
        for _ in range(TRIES_PER_ASSIGNMENT):
            factor = np.exp(generator.uniform(*np.log(VOLUME_FACTORS)))
            lengths = random_lengths(group, factor * volume, generator)
            coords = np.array([p.point(generator.random(p.n_free)) for p in positions])
            crystal = AsymmetricUnit(number, lengths, coords, np.array(atomic_numbers))
            if distances.are_sensible(crystal):
                return crystal
    raise NoCrystalError(
        f"no random crystal with sensible distances in {ASSIGNMENTS * TRIES_PER_ASSIGNMENT} tries"
    )


def sphere_volumes(atomic_numbers: Sequence[int]) -> NDArray[np.float64]:
    """Return (n_sites,) volumes of spheres with the covalent radii, cubic angstrom."""
    return np.asarray(4 / 3 * np.pi * covalent_radii[list(atomic_numbers)] ** 3)


def random_lengths(
    group: SpaceGroup, volume: float, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Draw (3,) lengths of a conventional cell of a volume in cubic angstrom."""
    edges = np.zeros(3)
    if group.crystal_family == "orthorhombic":
        edges = generator.normal(0.0, _EDGE_SPREAD, 3)
    elif group.crystal_family != "cubic":
        edges[2] = generator.normal(np.log(_RATIOS[group.symbol[0]]), _RATIO_SPREAD)
    area = np.sqrt(0.75) if group.crystal_family == "hexagonal" else 1.0
    scale = np.log(volume / area) / 3
    return np.asarray(np.exp(edges - edges.mean() + scale))


# Assignments -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kind:
    """Positions of a group that are alike in what they cost and admit."""

    multiplicity: int
    is_fixed: bool
    """Without a free coordinate, so that each takes one site."""
    n_positions: int

    def choices(self, n_sites: int) -> int:
        """Return in how many ways as many sites, told apart, go to these positions."""
        if self.is_fixed:
            return perm(self.n_positions, n_sites)
        return int(self.n_positions**n_sites)


def random_assignment(
    number: int, n_sites: int, max_atoms: int, generator: np.random.Generator
) -> list[WyckoffPosition]:
    """Draw a Wyckoff position for each site, uniformly from the assignments that are admitted.

    Raises:
        NoCrystalError: if there is none.
    """
    kinds = _kinds(number)
    if not n_assignments(kinds, n_sites, max_atoms):
        raise NoCrystalError(
            f"group {number} admits no {n_sites} sites within {max_atoms} atoms in the primitive "
            f"cell"
        )
    chosen: list[WyckoffPosition] = []
    left, room = n_sites, max_atoms
    for index, kind in enumerate(kinds):
        weights = _weights(kinds[index:], left, room)
        total = sum(weights)
        count = int(generator.choice(len(weights), p=[weight / total for weight in weights]))
        alike = [
            p for p in wyckoff_positions(number) if _key(p) == (kind.multiplicity, kind.is_fixed)
        ]
        picked = generator.choice(len(alike), count, replace=not kind.is_fixed)
        chosen += [alike[position] for position in picked]
        left, room = left - count, room - count * kind.multiplicity
    return [chosen[site] for site in generator.permutation(n_sites)]


@lru_cache(maxsize=100_000)
def n_assignments(kinds: tuple[_Kind, ...], n_sites: int, max_atoms: int) -> int:
    """Count the ways in which sites, told apart, go to positions within a number of atoms."""
    if not kinds:
        return int(n_sites == 0)
    return sum(_weights(kinds, n_sites, max_atoms))


def _weights(kinds: tuple[_Kind, ...], n_sites: int, max_atoms: int) -> list[int]:
    """Return, for each number of sites on the first kind of position, how many ways there are."""
    first, *others = kinds
    most = min(n_sites, max_atoms // first.multiplicity)
    if first.is_fixed:
        most = min(most, first.n_positions)
    return [
        comb(n_sites, count)
        * first.choices(count)
        * n_assignments(tuple(others), n_sites - count, max_atoms - count * first.multiplicity)
        for count in range(most + 1)
    ]


@lru_cache(maxsize=256)
def _kinds(number: int) -> tuple[_Kind, ...]:
    found = Counter(_key(position) for position in wyckoff_positions(number))
    return tuple(_Kind(*key, count) for key, count in sorted(found.items()))


def _key(position: WyckoffPosition) -> tuple[int, bool]:
    return position.multiplicity, position.n_free == 0


# Distances -------------------------------------------------------------------------------


class _Distances:
    """The distances between the atoms of an assignment of sites to positions."""

    # Far enough: no cell that passes has an edge below the largest of the shortest distances, since
    # an atom is its own neighbour along each edge.
    _CELLS = np.array(list(product((-1, 0, 1), repeat=3)), dtype=np.float64)

    def __init__(
        self,
        group: SpaceGroup,
        positions: Sequence[WyckoffPosition],
        atomic_numbers: Sequence[int],
    ) -> None:
        orbits = [position.images for position in positions]
        operations = np.concatenate(orbits)
        self._rotations = group.rotations[operations]
        self._translations = group.translations[operations]
        self._site = np.repeat(np.arange(len(orbits)), [len(orbit) for orbit in orbits])
        radii = covalent_radii[list(atomic_numbers)]
        self._shortest = DISTANCE_FACTOR * (radii[:, None] + radii[self._site])
        # The identity comes first in each orbit: the site itself, which is no neighbour.
        self._itself = np.cumsum([0, *(len(orbit) for orbit in orbits[:-1])])

    def are_sensible(self, crystal: AsymmetricUnit) -> bool:
        """Whether no two atoms of a crystal are closer than their radii allow."""
        coords, lattice = crystal.frac_coords, crystal.lattice
        atoms = np.einsum("nij,nj->ni", self._rotations, coords[self._site]) + self._translations
        between = atoms - coords[:, None]
        between -= np.round(between)
        vectors = (between[:, :, None] + self._CELLS) @ lattice
        squared = (vectors**2).sum(axis=3)
        sites = np.arange(len(coords))
        squared[sites, self._itself, len(self._CELLS) // 2] = np.inf
        return bool((squared.min(axis=2) >= self._shortest**2).all())

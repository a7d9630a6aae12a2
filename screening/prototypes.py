"""Structure types, and the phases of a chemical system that they suggest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from importlib.resources import files
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np
from pymatgen.core import Element

from model.crystal import AsymmetricUnit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymatgen.core import Structure

SALT_FROM = 0.7
"""Difference of electronegativities (Pauling) from which structure types of salts are tried."""
METAL_UP_TO = 1.7
"""Difference of electronegativities up to which structure types of metals are tried."""

_MOLECULAR = frozenset(("H", "N", "O", "F", "Cl", "Br", "I"))
_NOBLE_GASES = frozenset(("He", "Ne", "Ar", "Kr", "Xe", "Rn"))

# Cubic angstrom per atom in compounds: least squares, robust, of the volumes of 25,053 phases of
# the Materials Project (half of them within 5 %). Without data: Ar, Po, At, Rn, Fr, Ra, estimated.
_VOLUMES = {
    "H": 6.2, "He": 15.9, "Li": 12.5, "Be": 8.0, "B": 6.2, "C": 6.0, "N": 6.1, "O": 7.1, "F": 11.8,
    "Ne": 19.9, "Na": 22.2, "Mg": 22.0, "Al": 16.2, "Si": 14.5, "P": 15.7, "S": 21.7, "Cl": 28.9,
    "Ar": 32.0, "K": 37.0, "Ca": 28.8, "Sc": 20.7, "Ti": 15.1, "V": 14.0, "Cr": 10.9, "Mn": 11.9,
    "Fe": 10.9, "Co": 9.7, "Ni": 9.6, "Cu": 11.8, "Zn": 16.3, "Ga": 16.9, "Ge": 17.6, "As": 19.8,
    "Se": 27.7, "Br": 36.3, "Kr": 44.1, "Rb": 43.4, "Sr": 29.5, "Y": 28.1, "Zr": 21.3, "Nb": 17.4,
    "Mo": 15.0, "Tc": 14.3, "Ru": 12.9, "Rh": 12.9, "Pd": 14.5, "Ag": 19.1, "Cd": 23.3, "In": 25.4,
    "Sn": 25.7, "Sb": 27.7, "Te": 36.2, "I": 49.9, "Xe": 48.8, "Cs": 54.2, "Ba": 36.8, "La": 33.9,
    "Ce": 29.7, "Pr": 33.0, "Nd": 31.8, "Pm": 32.0, "Sm": 30.2, "Eu": 33.2, "Gd": 28.7, "Tb": 28.1,
    "Dy": 27.6, "Ho": 27.2, "Er": 26.4, "Tm": 25.7, "Yb": 28.0, "Lu": 25.1, "Hf": 20.1, "Ta": 17.2,
    "W": 16.6, "Re": 15.0, "Os": 13.7, "Ir": 13.8, "Pt": 15.3, "Au": 18.5, "Hg": 24.4, "Tl": 29.7,
    "Pb": 31.0, "Bi": 31.9, "Po": 35.0, "At": 50.0, "Rn": 55.0, "Fr": 75.0, "Ra": 45.0, "Ac": 43.8,
    "Th": 32.0, "Pa": 25.0, "U": 23.6, "Np": 24.0, "Pu": 26.1,
}  # fmt: skip


@dataclass(frozen=True)
class Prototype:
    """A structure type: its geometry, with the elements of the compound that it is named after."""

    name: str
    """Designation and compound, e.g. ``L1_2 AuCu3``."""
    use: tuple[str, ...]
    """When to try it; the words are explained in ``data/prototypes.txt``."""
    space_group: int
    lengths: tuple[float, float, float]
    """Of the conventional cell, angstrom."""
    species: tuple[str, ...]
    """Element of each inequivalent site."""
    frac_coords: tuple[tuple[float, float, float], ...]
    """Of each inequivalent site."""

    @property
    def elements(self) -> tuple[str, ...]:
        """The compound's elements, in the order in which they appear."""
        return tuple(dict.fromkeys(self.species))

    def decorated(self, elements: tuple[str, ...]) -> Structure:
        """Return the structure with other elements in place of `elements`, one for one.

        The volume is the sum of the atoms' usual volumes, but that of the compound stays.
        """
        exchanged = dict(zip(self.elements, elements, strict=True))
        numbers = np.array([Element(exchanged[symbol]).Z for symbol in self.species])
        unit = AsymmetricUnit(
            self.space_group, np.array(self.lengths), np.array(self.frac_coords), numbers
        )
        structure = unit.to_structure()
        if elements != self.elements:
            volume = sum(_VOLUMES[site.specie.symbol] for site in structure)
            structure.scale_lattice(volume)
        return structure

    def decorations(self, elements: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        """Yield the ways to put elements on the sites that make chemical sense, each once."""
        if "element" in self.use:
            if not _MOLECULAR & set(elements):
                yield elements
            return
        if "of" in self.use:
            if elements[0] in self.use:
                yield elements
            return
        for order in permutations(elements):
            swapped = (order[1], order[0], *order[2:])
            if "swap" in self.use and swapped < order and self._makes_sense(swapped):
                continue
            if self._makes_sense(order):
                yield order

    def _makes_sense(self, order: tuple[str, ...]) -> bool:
        volumes = [_VOLUMES[symbol] for symbol in order]
        if "large" in self.use and volumes[0] < max(volumes):
            return False
        if "small" in self.use and volumes[0] > min(volumes):
            return False
        values = [electronegativity(symbol) for symbol in order]
        spread = max(values) - min(values)
        if "metal" in self.use:
            return spread <= METAL_UP_TO
        if "salt" in self.use:
            anion_is_last = values[-1] == max(values)
            anion_is_first = values[0] == max(values)
            fits = anion_is_last or ("either" in self.use and anion_is_first)
            # Where both are equivalent, the order of the elements is as good as the other.
            fits = fits or ("swap" in self.use and len(order) == 2)  # noqa: PLR2004
            return spread >= SALT_FROM and fits
        return True


def electronegativity(symbol: str) -> float:
    """Return Pauling's electronegativity, or an estimate for elements that have none."""
    if symbol in _NOBLE_GASES:
        return 3.0
    value = float(Element(symbol).X)
    return value if np.isfinite(value) else 1.3


def phase_count(chemical_system: str) -> int:
    """Return how many phases there are to relax in a chemical system itself."""
    elements = tuple(sorted(chemical_system.split("-")))
    return sum(
        sum(1 for _ in prototype.decorations(elements))
        for prototype in prototypes()
        if len(prototype.elements) == len(elements)
    )


def phases(chemical_system: str) -> Iterator[tuple[str, Structure]]:
    """Yield what to relax in a chemical system itself, without its subsystems.

    Yields:
        A designation such as ``L1_2 [Au-Cu]``, elements in the order of the type's, and a crystal.
    """
    elements = tuple(sorted(chemical_system.split("-")))
    for prototype in prototypes():
        if len(prototype.elements) != len(elements):
            continue
        for order in prototype.decorations(elements):
            sites = "" if len(order) == 1 else f" [{'-'.join(order)}]"
            yield f"{prototype.name.split()[0]}{sites}", prototype.decorated(order)


@cache
def prototypes() -> tuple[Prototype, ...]:
    """Return all structure types of ``data/prototypes.txt``, in its order."""
    lines = (line.split("#")[0].strip() for line in _text().splitlines())
    return tuple(_parsed(line) for line in lines if line)


@lru_cache(maxsize=1)
def prototypes_fingerprint() -> str:
    """Return a digest of the structure types and of the rules that choose among them."""
    rules = repr((SALT_FROM, METAL_UP_TO, sorted(_VOLUMES.items())))
    return hashlib.sha256((_text() + rules).encode()).hexdigest()[:16]


def _text() -> str:
    return files("screening").joinpath("data/prototypes.txt").read_text(encoding="utf-8")


def _parsed(line: str) -> Prototype:
    name, use, group, lengths, sites = (field.strip() for field in line.split("|"))
    parts = [site.split() for site in sites.split(";")]
    a, b, c = (float(length) for length in lengths.split())
    return Prototype(
        name=name,
        use=tuple(use.split()),
        space_group=int(group),
        lengths=(a, b, c),
        species=tuple(part[0] for part in parts),
        frac_coords=tuple(_point(part[1:]) for part in parts),
    )


def _point(numbers: list[str]) -> tuple[float, float, float]:
    x, y, z = (float(Fraction(number)) for number in numbers)
    return x, y, z

"""The filters between sampling and relaxation. What they remove stays, with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from screening.description import FLAT, distance_ratio
from screening.schema import structure_from_row

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pymatgen.core import Composition, Structure

_Row = dict[str, Any]


@dataclass(frozen=True)
class FilterStage:
    """Marks samples that are not worth a relaxation as ``filtered``, and says why."""

    min_distance: float
    """Angstrom: the shortest distance between two atoms, periodic images included."""
    max_atoms: int
    """The most atoms in the primitive cell."""
    min_distance_ratio: float | None = None
    """The shortest distance over the sum of the two atoms' covalent radii."""
    max_density: float | None = None
    """Gram per cubic centimetre."""
    max_volume_per_atom: float | None = None
    """Cubic angstrom."""
    smact_valid: bool = False
    """Whether only compositions that SMACT finds charge-neutral are kept."""

    def setup(self) -> None:
        """Need nothing."""

    def __call__(self, rows: Iterable[Mapping[str, Any]]) -> list[_Row]:
        """Return every row, in the same order; those that failed before stay as they are."""
        return [self._filtered(row) for row in rows]

    def _filtered(self, row: Mapping[str, Any]) -> _Row:
        if row["status"] != "kept":
            return dict(row)
        reason = self.reason(structure_from_row(row))
        return {**row, "status": "filtered", "reason": reason} if reason else dict(row)

    def reason(self, structure: Structure) -> str | None:
        """Return why a crystal is filtered out, or None if it is kept."""
        if len(structure) > self.max_atoms:
            return f"max_atoms: {len(structure)} atoms > {self.max_atoms}"
        shortest = shortest_distance(structure, self.min_distance)
        if shortest < self.min_distance:
            return f"min_distance: {shortest:.2f} Å < {self.min_distance:g} Å"
        return self._unlikely(structure)

    def _unlikely(self, structure: Structure) -> str | None:
        """Return which of the limits a crystal breaks that only some campaigns set."""
        volume = structure.volume / len(structure)
        if self.max_volume_per_atom is not None and volume > self.max_volume_per_atom:
            return f"max_volume_per_atom: {volume:.1f} Å³ > {self.max_volume_per_atom:g} Å³"
        density = float(structure.density) if volume > 0 else np.inf
        if self.max_density is not None and density > self.max_density:
            return f"max_density: {density:.1f} g/cm³ > {self.max_density:g} g/cm³"
        if self.smact_valid and not smact_valid(structure.composition):
            return "smact_valid: no charge-neutral oxidation states"
        if self.min_distance_ratio is not None:
            ratio = distance_ratio(structure)
            if ratio < self.min_distance_ratio:
                return f"min_distance_ratio: {ratio:.2f} < {self.min_distance_ratio:g}"
        return None


def shortest_distance(structure: Structure, limit: float) -> float:
    """Return the shortest distance between atoms in angstrom, or infinity if it is above a limit.

    Periodic images count as other atoms. A flat or empty cell has atoms at distance zero.
    """
    if limit <= 0:
        return np.inf
    if not np.isfinite(structure.volume) or structure.volume <= FLAT * len(structure):
        return 0.0
    distances = structure.get_neighbor_list(limit)[3]
    return float(np.min(distances)) if len(distances) else np.inf


def smact_valid(composition: Composition) -> bool:
    """Return whether SMACT finds charge-neutral oxidation states for a composition.

    Davies et al., Chem 1, 617, 2016; compositions of metals alone count as valid.
    """
    from smact.screening import smact_validity  # noqa: PLC0415 - takes a second to import

    return bool(smact_validity(composition.reduced_composition))

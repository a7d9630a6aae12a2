"""How like two sets of crystals are, from their fingerprints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.distance import cdist

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

STRUCTURE_CUTOFF = 0.4
"""Euclidean distance of structure fingerprints up to which crystals count as close (CDVAE)."""
COMPOSITION_CUTOFF = 10.0
"""The same of standardised composition fingerprints."""

_BLOCK = 512  # generated crystals whose distances to all real ones are held at once


@dataclass(frozen=True)
class Fingerprints:
    """Two fingerprints of each crystal of a set."""

    structure: Array
    """(n_crystals, 61)."""
    composition: Array
    """(n_crystals, 132), standardised."""


@dataclass(frozen=True)
class Coverage:
    """CDVAE's COV (Xie et al., ICLR 2022, appendix B), in two readings."""

    precision: float
    """Share of generated crystals with a real one within both cut-offs."""
    recall: float
    """Share of real crystals with a generated one within both cut-offs."""
    precision_apart: float
    """As `precision`, but one real crystal may be close in structure and another in composition.

    So it is computed by CDVAE's published code, and by those who use it.
    """
    recall_apart: float
    """As `recall`, in the same way."""


def coverage(generated: Fingerprints, real: Fingerprints, n_generated: int) -> Coverage:
    """Compare generated crystals with real ones.

    Args:
        generated: of the generated crystals that have fingerprints.
        real: of the real crystals, at least one.
        n_generated: all generated crystals; those without fingerprints count as misses.
    """
    n_real = len(real.structure)
    hits = hits_apart = 0
    covered = np.zeros(n_real, dtype=bool)
    nearest_structure, nearest_composition = np.full((2, n_real), np.inf)
    for first in range(0, len(generated.structure), _BLOCK):
        block = slice(first, first + _BLOCK)
        by_structure = cdist(generated.structure[block], real.structure)
        by_composition = cdist(generated.composition[block], real.composition)
        close = (by_structure <= STRUCTURE_CUTOFF) & (by_composition <= COMPOSITION_CUTOFF)
        hits += int(close.any(axis=1).sum())
        covered |= close.any(axis=0)
        hits_apart += int(_within(by_structure.min(axis=1), by_composition.min(axis=1)).sum())
        nearest_structure = np.minimum(nearest_structure, by_structure.min(axis=0))
        nearest_composition = np.minimum(nearest_composition, by_composition.min(axis=0))
    return Coverage(
        precision=hits / n_generated,
        recall=float(covered.mean()),
        precision_apart=hits_apart / n_generated,
        recall_apart=float(_within(nearest_structure, nearest_composition).mean()),
    )


def _within(structure: Array, composition: Array) -> NDArray[np.bool_]:
    return (structure <= STRUCTURE_CUTOFF) & (composition <= COMPOSITION_CUTOFF)


def frechet_distance(first: Array, second: Array) -> float | None:
    """Return the squared distance of the normal distributions that fit two sets of points.

    ``|m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2))`` (Dowson and Landau, J. Multivar. Anal. 12,
    450, 1982), without a square root, as for images (Heusel et al., NeurIPS 2017).

    Args:
        first: (n_first, n_features).
        second: (n_second, n_features).

    Returns:
        None where a set has fewer than two points, which have no covariance.
    """
    if min(len(first), len(second)) < 2:  # noqa: PLR2004 - see above
        return None
    here, there = _factor(first), _factor(second)
    # The eigenvalues of C1 C2 are the squares of these singular values: no root of rounding errors.
    between = np.linalg.svd(here @ there.T, compute_uv=False).sum()
    shift = first.mean(axis=0) - second.mean(axis=0)
    distance = shift @ shift + (here**2).sum() + (there**2).sum() - 2 * between
    return max(0.0, float(distance))


def _factor(points: Array) -> Array:
    """Return F with F^T F the covariance of points, without computing that."""
    centred = points - points.mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    return np.asarray(sizes[:, None] * axes / np.sqrt(len(points) - 1))


@dataclass(frozen=True)
class Standardiser:
    """Subtracts means and divides by standard deviations, feature by feature."""

    means: Array
    deviations: Array

    @classmethod
    def of(cls, points: Array) -> Standardiser:
        """Take means and standard deviations from (n_points, n_features).

        A feature that never changes says nothing about scale, and is divided by 1.
        """
        deviations = points.std(axis=0)
        return cls(points.mean(axis=0), np.where(deviations > 0, deviations, 1.0))

    def __call__(self, points: Array) -> Array:
        """Return (n_points, n_features) in units of the deviations."""
        return (points - self.means) / self.deviations

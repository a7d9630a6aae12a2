"""From rows of fingerprints to the figures of one set of crystals."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from screening.evaluation.fingerprints import N_COMPOSITION, N_STRUCTURE
from screening.evaluation.metrics import Fingerprints, Standardiser, coverage, frechet_distance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from screening.evaluation.metrics import Array

Row = dict[str, Any]

_FAILURES = 5


class Comparison:
    """The real crystals that others are compared with.

    Compositions are standardised with the means and deviations of these crystals.

    Args:
        rows: of `FingerprintStage`; those without fingerprints are left out.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        structures, compositions = _described(rows)
        self._standardised = Standardiser.of(compositions)
        self._fingerprints = Fingerprints(structures, self._standardised(compositions))
        self._embeddings = _stacked(rows, "embedding")
        self.n_without_fingerprint = len(rows) - len(structures)

    def compare(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return the figures of a set of crystals, failures counted.

        Args:
            rows: of `FingerprintStage`, one for each crystal that was asked for, at least one.
        """
        structures, compositions = _described(rows)
        covered = coverage(
            Fingerprints(structures, self._standardised(compositions)),
            self._fingerprints,
            len(rows),
        )
        embeddings = _stacked(rows, "embedding")
        errors = Counter(row["error"] for row in rows if row["error"])
        return {
            "crystals": len(rows),
            "without_fingerprint": len(rows) - len(structures),
            "without_embedding": len(rows) - len(embeddings),
            "cov_precision": covered.precision,
            "cov_recall": covered.recall,
            "cov_precision_apart": covered.precision_apart,
            "cov_recall_apart": covered.recall_apart,
            "frechet_crystalnn": frechet_distance(structures, self._fingerprints.structure),
            "frechet_embedding": frechet_distance(embeddings, self._embeddings),
            "valid": _share(rows, "valid"),
            "smact_valid": _share(rows, "smact_valid"),
            "errors": dict(errors.most_common(_FAILURES)),
        }


def _described(rows: Sequence[Row]) -> tuple[Array, Array]:
    """Return both fingerprints, (n, 61) and (n, 132), of the crystals that have them."""
    found = [row for row in rows if row["structure"] and row["composition"]]
    structures = np.array([row["structure"] for row in found]).reshape(-1, N_STRUCTURE)
    compositions = np.array([row["composition"] for row in found]).reshape(-1, N_COMPOSITION)
    return structures, compositions


def _stacked(rows: Sequence[Row], name: str) -> Array:
    return np.array([row[name] for row in rows if row[name]])


def _share(rows: Sequence[Row], name: str) -> float:
    return sum(bool(row[name]) for row in rows) / len(rows)

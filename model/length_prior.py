"""Where cell lengths start when sampling begins.

At the largest noise the lengths are distributed as the training data's, blurred by that noise. The
data's are described by a ridge regression per crystal family: L3 of the free lengths against the
number of sites, the fewest atoms that so many sites make in the group, and the group itself. A
start that knew only the family would be twice as wide for cubic cells and for the hexagonal c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from model.lattice import l3_from_lengths
from model.symmetry import crystal_family, space_group

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model.dataset import Crystals

# Which of a, b, c are free.
_FREE = {"orthorhombic": (0, 1, 2), "tetragonal": (0, 2), "hexagonal": (0, 2), "cubic": (0,)}
_RIDGE = 3.0
"""Crystals of a group that weigh as much as the assumption that it is like the others."""


@dataclass(frozen=True)
class LengthPrior:
    """Mean and spread of the free lengths, in L3."""

    weights: dict[str, list[list[float]]]
    """Per crystal family (3, n_free): constant, log of the sites, log of the fewest atoms."""
    offsets: dict[str, list[float]]
    """Per space group, as text, (n_free,): what is added to the family's mean."""
    spread: dict[str, list[float]]
    """Per crystal family (n_free,): standard deviation around the mean."""

    def mean_and_spread(self, number: int, n_sites: int) -> tuple[list[float], list[float]]:
        """Return mean and standard deviation of each free length, in L3.

        Args:
            number: space group.
            n_sites: inequivalent sites.
        """
        family = crystal_family(number)
        mean = _features(number, n_sites) @ np.array(self.weights[family])
        mean = mean + np.array(self.offsets.get(str(number), np.zeros_like(mean)))
        return mean.tolist(), self.spread[family]


def _features(number: int, n_sites: int) -> NDArray[np.float64]:
    fewest = space_group(number).fewest_atoms(n_sites)
    return np.array([1.0, np.log(n_sites), np.log(fewest)])


def fit_length_prior(crystals: Crystals) -> LengthPrior:
    """Fit the regression to training data."""
    l3 = l3_from_lengths(torch.as_tensor(crystals.lengths)).numpy()
    numbers = crystals.space_groups
    features = np.array(
        [_features(int(g), int(n)) for g, n in zip(numbers, crystals.n_sites, strict=True)]
    )
    families = np.array([crystal_family(int(number)) for number in numbers])
    weights: dict[str, list[list[float]]] = {}
    offsets: dict[str, list[float]] = {}
    spread: dict[str, list[float]] = {}
    for family, free in _FREE.items():
        chosen = families == family
        groups = sorted(set(numbers[chosen].tolist()))
        x, y = features[chosen], l3[chosen][:, free]
        if not groups:
            # Without a crystal of this family its lengths are like all others.
            x, y = features, np.repeat(l3.mean(axis=1, keepdims=True), len(free), axis=1)
        member = numbers[chosen][:, None] == np.array(groups, dtype=np.int64)
        design = np.concatenate([x, member if groups else np.zeros((len(x), 0))], axis=1)
        penalty = np.diag([1e-3] * x.shape[1] + [_RIDGE] * len(groups))
        solution = np.linalg.solve(design.T @ design + penalty, design.T @ y)
        weights[family] = solution[: x.shape[1]].tolist()
        offsets |= dict(zip(map(str, groups), solution[x.shape[1] :].tolist(), strict=True))
        spread[family] = (y - design @ solution).std(axis=0).tolist()
    return LengthPrior(weights, offsets, spread)

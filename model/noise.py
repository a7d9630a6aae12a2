"""Noise: the two schedules, and the exact score of a known crystal.

One level ``u`` in [0, 1] sets both noises, so that positions and lengths are annealed together:
``u = 1`` is the noisiest. Position noise is in angstrom, in the Cartesian frame; length noise is
in units of L3. Both ladders are geometric in u, as in the paper (section 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from model.repeatable import rounded


@dataclass(frozen=True)
class NoiseSchedule:
    """Ranges of the two geometric ladders."""

    position_smallest: float = 0.02
    """Angstrom."""
    position_largest: float = 3.0
    """Angstrom."""
    length_smallest: float = 0.06
    """Units of L3."""
    length_largest: float = 5.0
    """Units of L3."""

    def position_sigma(self, level: Tensor) -> Tensor:
        """Return the standard deviation of positions, angstrom, at ``level`` in [0, 1]."""
        return _geometric(self.position_smallest, self.position_largest, level)

    def level_of(self, sigma: float) -> float:
        """Return the level in [0, 1] at which positions have this noise, angstrom, or the nearest."""
        ratio = self.position_largest / self.position_smallest
        return min(max(math.log(sigma / self.position_smallest) / math.log(ratio), 0.0), 1.0)

    def length_sigma(self, level: Tensor) -> Tensor:
        """Return the standard deviation of L3 at ``level`` in [0, 1]."""
        return _geometric(self.length_smallest, self.length_largest, level)


def _geometric(smallest: float, largest: float, level: Tensor) -> Tensor:
    ratio = largest / smallest
    return smallest * rounded(lambda u: ratio**u, level)


def posterior_displacement(
    displacements: Tensor, sigma: Tensor, owner: Tensor, n_sites: int
) -> Tensor:
    """Return the mean displacement from noisy sites back to where they may have come from.

    A site that was moved by Gaussian noise may have come from any image of a known site; the
    posterior weight of an image is proportional to ``exp(-|d|^2 / 2 sigma^2)``. Divided by
    sigma^2 this mean is the exact score of the known crystal (paper, equation 2, with the kernel
    summed over the images that describe the same crystal).

    Args:
        displacements: (n_images, 3) from the noisy site to an image of the clean one, angstrom.
        sigma: (n_sites,) angstrom.
        owner: (n_images,) the site that each image belongs to.
        n_sites: number of sites.

    Returns:
        (n_sites, 3) angstrom.
    """
    exponent = -0.5 * displacements.square().sum(1) / sigma[owner].square()
    largest = torch.full((n_sites,), -torch.inf, dtype=exponent.dtype, device=exponent.device)
    largest = largest.scatter_reduce(0, owner, exponent, "amax")
    weights = torch.exp(exponent - largest[owner])
    total = torch.zeros(n_sites, dtype=weights.dtype, device=weights.device)
    total = total.index_add(0, owner, weights)
    mean = torch.zeros(n_sites, 3, dtype=weights.dtype, device=weights.device)
    mean = mean.index_add(0, owner, weights[:, None] * displacements)
    return mean / total[:, None]

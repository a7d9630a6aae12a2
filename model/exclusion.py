"""No two atoms in one place: what a score owes to crystals that do not exist.

A score model has never seen two sites on top of each other at a small noise, because no crystal
with that noise looks so. A sampler meets it nonetheless: two sites of an element come near one place
at 0.3 angstrom of noise, and the network leads both to it. In 6 of 100 crystals drawn for
validation compositions, two sites ended within 0.1 angstrom of each other.

What is known without training is that no crystal has atoms closer than a fraction of the sum of
their covalent radii. For a pair whose distance may be anything beyond such a contact ``R``, the mean
distance before the noise, given a noisy distance ``d`` of variance ``s^2 = 2 sigma^2`` per axis, is at
least that of a vector of length ``R`` in an unknown direction: ``R L(R d / s^2)`` along the present
one, with the Langevin function ``L(x) = coth x - 1 / x`` (the mean of a von Mises-Fisher
distribution). Where the network foresees less, the two sites are moved apart by the difference.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.lattice import column_product
from model.network import Noise
from model.repeatable import rounded

if TYPE_CHECKING:
    from model.multigraph import Batch, Multigraph
    from model.network import ScoreNetwork

CONTACT = 0.7
"""Closest distance in units of the sum of covalent radii; almost no known crystal is denser."""
SMALLEST_RADIUS = 0.35
"""Angstrom. Hydrogen's own would allow what no molecule does."""
_SMALL = 1e-3
_FULL_WEIGHT = 0.1
"""Of an edge, from which on its overlap counts fully."""


class Exclusive:
    """A network whose sites keep their distance; an estimate for samplers."""

    def __init__(self, network: ScoreNetwork, contact: float = CONTACT) -> None:
        """Take a network and the closest distance in units of the sum of covalent radii."""
        self.network = network
        self.contact = contact

    def __call__(self, batch: Batch, frac_coords: Tensor, l3: Tensor, level: Tensor) -> Noise:
        """Estimate the noise; see ``ScoreNetwork.forward``."""
        scene = self.network.look(batch, frac_coords, l3, level)
        noise = self.network.judge(batch, scene, l3, level)
        sigma = self.network.schedule.position_sigma(level)[batch.system]
        radii = self.contact * covalent_radii(sigma.dtype, sigma.device)
        radii = radii.clamp(min=SMALLEST_RADIUS)[batch.atomic_numbers]
        apart = keep_apart(scene.graph, scene.displaced, noise.positions, sigma, radii)
        return Noise(apart, noise.lengths)


def keep_apart(
    graph: Multigraph, displaced: Tensor, noise: Tensor, sigma: Tensor, radii: Tensor
) -> Tensor:
    """Return the noise of positions with what moves overlapping sites apart.

    Args:
        graph: neighbours of the sites, those on special positions where they were projected to.
        displaced: (n_sites, 3) from there to where the sites are, angstrom.
        noise: (n_sites, 3) in units of sigma.
        sigma: (n_sites,) angstrom.
        radii: (n_sites,) of spheres that do not overlap, angstrom.
    """
    n_sites, _ = graph.neighbour.shape
    itself = torch.arange(n_sites, device=noise.device)[:, None]
    contact = radii[:, None] + radii[graph.neighbour]
    # Two sites on one special position are told apart by how they missed it.
    there = column_product(graph.rotation, displaced[graph.neighbour])
    vectors = graph.vectors + there - displaced[:, None]
    distances = vectors.norm(dim=-1).clamp(min=_SMALL)
    units = vectors / distances[..., None]
    overlaps = (graph.neighbour != itself) & (distances < contact)

    moved = column_product(graph.rotation, noise[graph.neighbour]) - noise[:, None]
    foreseen = distances - sigma[:, None] * (moved * units).sum(dim=-1)
    least = contact * langevin_function(contact * distances / (2.0 * sigma[:, None].square()))
    # Which neighbour is a site's last may hang on rounding: the last ones count for less.
    counts = (graph.weights / _FULL_WEIGHT).clamp(max=1.0)
    lacking = torch.where(overlaps, counts * (least - foreseen).clamp(min=0.0), 0.0)
    return noise + (0.5 * lacking / sigma[:, None]).unsqueeze(-1).mul(units).sum(dim=1)


def langevin_function(x: Tensor) -> Tensor:
    """Return coth x - 1 / x for x >= 0, element by element."""
    safe = x.clamp(min=_SMALL)
    return torch.where(x < 0.01, x / 3.0, 1.0 / rounded(torch.tanh, safe) - 1.0 / safe)  # noqa: PLR2004


@cache
def covalent_radii(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the radii of Cordero et al. (2008) by atomic number, angstrom."""
    from ase.data import covalent_radii as radii  # noqa: PLC0415 - only needed to sample

    return torch.as_tensor(radii, dtype=dtype, device=device)

"""Sums over the angles at a neighbour, without a list of triplets.

DimeNet++ sums over triplets: for each edge, over all messages that reach the neighbour, weighted
by functions of the angle between the two. A Legendre polynomial of an angle is a product of
functions of each direction alone, ``P_l(u . v) = sum_m Y_lm(u) Y_lm(v)`` (the addition theorem, for
real spherical harmonics in Racah's normalisation). So the messages that reach a site are summed
once, times their harmonics, and each edge that leads there reads that sum in its own direction:
the same numbers from pairs instead of triplets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.lattice import row_product

if TYPE_CHECKING:
    from collections.abc import Iterable

    from model.multigraph import Multigraph

_CHUNK = 16
"""Edges with one neighbour that are worked on together. Their number differs from site to site."""


@dataclass(frozen=True)
class Angles:
    """Directions of messages at the sites of a multigraph, as spherical harmonics."""

    reaching: Tensor
    """(n_sites, n_harmonics, n_neighbours) of the directions that messages come from."""
    leaving: Tensor
    """(n_chunks, chunk, n_harmonics) of the directions that edges leave the neighbour in."""
    site: Tensor
    """(n_chunks,) the neighbour of a chunk's edges."""
    slot: Tensor
    """(n_sites * n_neighbours,) where each edge is among the chunks, laid end to end."""
    neighbours: tuple[int, int]
    """``(n_sites, n_neighbours)``."""

    def sum(self, messages: Iterable[Tensor]) -> Tensor:
        """Sum messages at each edge's neighbour, times polynomials of the angle between them.

        Args:
            messages: for each polynomial, (n_sites, n_neighbours, width) from each neighbour to
                its site.

        Returns:
            (n_sites, n_neighbours, width): of each edge ``sum_(k, l) P_l(cos) messages[l][j, k]``
            with its neighbour j.
        """
        at_site = torch.cat(
            [
                torch.bmm(self.reaching[:, degree**2 : (degree + 1) ** 2], message)
                for degree, message in enumerate(messages)
            ],
            dim=1,
        )
        read = torch.bmm(self.leaving, at_site.index_select(0, self.site)).flatten(0, 1)
        return read.index_select(0, self.slot).view(*self.neighbours, -1)


def find_angles(graph: Multigraph, degree: int) -> Angles:
    """Express a multigraph's directions by spherical harmonics up to ``degree``.

    An edge's neighbour is the image of a site under an operation, so that the way back is rotated
    into the frame of that site's representative, where its own neighbours are.
    """
    n_sites, n_neighbours = graph.neighbour.shape
    units = graph.vectors / graph.distances[..., None]
    back = -row_product(units, graph.rotation)
    harmonics = spherical_harmonics(torch.stack([units, back]), degree)

    neighbour = graph.neighbour.flatten()
    count = torch.zeros_like(neighbour[:n_sites]).index_add(
        0, neighbour, torch.ones_like(neighbour)
    )
    order = torch.argsort(neighbour, stable=True)
    edge = torch.arange(len(neighbour), device=neighbour.device)
    rank = torch.empty_like(order).index_copy(
        0, order, edge - (count.cumsum(0) - count)[neighbour[order]]
    )
    chunks = (count + _CHUNK - 1) // _CHUNK
    end = chunks.cumsum(0)
    slot = (end - chunks)[neighbour] * _CHUNK + rank
    # As many chunks as there can be, known without asking the device; the rest stays zero.
    n_chunks = n_sites * n_neighbours // _CHUNK + n_sites
    site = torch.searchsorted(end, torch.arange(n_chunks, device=end.device), right=True)
    leaving = harmonics.new_zeros(n_chunks * _CHUNK, harmonics.shape[-1])
    leaving = leaving.index_copy(0, slot, harmonics[1].flatten(0, 1))
    return Angles(
        reaching=harmonics[0].transpose(1, 2).contiguous(),
        leaving=leaving.view(n_chunks, _CHUNK, -1),
        site=site.clamp(max=n_sites - 1),
        slot=slot,
        neighbours=(n_sites, n_neighbours),
    )


def spherical_harmonics(directions: Tensor, degree: int) -> Tensor:
    """Return the real spherical harmonics of all degrees up to ``degree``.

    Associated Legendre functions without the factor ``sin^m``, by their recursion in the degree
    (Abramowitz and Stegun, 8.5.3), times the real and imaginary part of ``(x + iy)^m``, which
    holds it.

    Args:
        directions: (..., 3) unit vectors.
        degree: the largest.

    Returns:
        (..., (degree + 1)^2): of each degree n its 2 n + 1 harmonics, degrees in ascending order.
    """
    x, y, z = directions.unbind(-1)
    one, zero = torch.ones_like(z), torch.zeros_like(z)
    real, imaginary = [one], [zero]
    for _ in range(degree):
        real, imaginary = (
            [*real, real[-1] * x - imaginary[-1] * y],
            [*imaginary, real[-1] * y + imaginary[-1] * x],
        )
    cosines = torch.stack(real, dim=-1)
    sines = torch.stack(imaginary, dim=-1)
    order = torch.arange(degree + 1, dtype=z.dtype, device=z.device)
    before, last = z.new_zeros(*z.shape, 1), one[..., None]
    harmonics = [last]
    for n in range(1, degree + 1):
        m = order[:n]
        risen = ((2 * n - 1) * z[..., None] * last - (n - 1 + m) * before) / (n - m)
        highest = torch.full_like(last[..., :1], float(math.prod(range(2 * n - 1, 0, -2))))
        before, last = torch.cat([last, zero[..., None]], -1), torch.cat([risen, highest], -1)
        scaled = last * _normalisation(n, z.dtype, z.device)
        harmonics += [scaled * cosines[..., : n + 1], scaled[..., 1:] * sines[..., 1 : n + 1]]
    return torch.cat(harmonics, dim=-1)


@lru_cache(maxsize=64)
def _normalisation(degree: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Of the orders from 0 to the degree n: root of ``(2 - [m = 0]) (n - m)! / (n + m)!``."""
    factors = [
        math.sqrt((1 if m == 0 else 2) * math.factorial(degree - m) / math.factorial(degree + m))
        for m in range(degree + 1)
    ]
    return torch.tensor(factors, dtype=dtype, device=device)

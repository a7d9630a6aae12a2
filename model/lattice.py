"""Cell lengths: their real-valued representation L3, and how distances depend on it.

The paper (section 2) writes ``L3 = phi(a)``; a length is positive for every real L3 only the other
way round, ``a = phi(L3)`` with ``phi(x) = k log(exp(x / k) + 1)``, and that is what is meant.
Lattice rows are vectors. Groups 16 to 230 have right angles, but for the 120 degrees between a and
b in the hexagonal family.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from model.repeatable import rounded

SOFTPLUS_SCALE = 10.0
"""k of phi, in angstrom."""


def lengths_from_l3(l3: Tensor) -> Tensor:
    """Return the cell lengths phi(L3) in angstrom; any shape."""
    return SOFTPLUS_SCALE * rounded(functional.softplus, l3 / SOFTPLUS_SCALE)


def l3_from_lengths(lengths: Tensor) -> Tensor:
    """Return L3 of positive cell lengths in angstrom; any shape."""
    return lengths + SOFTPLUS_SCALE * torch.log(-torch.expm1(-lengths / SOFTPLUS_SCALE))


def unit_vectors(hexagonal: Tensor) -> Tensor:
    """Return the directions of the cell vectors.

    Args:
        hexagonal: (n_systems,) bool.

    Returns:
        (n_systems, 3, 3) in double precision, rows are unit vectors.
    """
    right = torch.eye(3, dtype=torch.float64, device=hexagonal.device)
    oblique = right.clone()
    oblique[1, 0], oblique[1, 1] = -0.5, math.sqrt(0.75)
    return torch.where(hexagonal[:, None, None], oblique, right)


def lattice_from_l3(l3: Tensor, directions: Tensor) -> Tensor:
    """Return lattices (n_systems, 3, 3) from L3 (n_systems, 3) and unit cell vectors."""
    return lengths_from_l3(l3)[:, :, None] * directions.to(l3.dtype)


def row_product(rows: Tensor, matrices: Tensor) -> Tensor:
    """Return rows (..., 3) times matrices (..., 3, 3), one each.

    Written out, because libraries' products are made for large matrices: on a GPU they took half of
    the multigraph's time (decision 101).
    """
    x, y, z = rows[..., None].unbind(-2)
    first, second, third = matrices.unbind(-2)
    return x * first + y * second + z * third


def column_product(matrices: Tensor, columns: Tensor) -> Tensor:
    """Return matrices (..., 3, 3) times columns (..., 3), one each."""
    return row_product(columns, matrices.mT)


def untie(free: Tensor, ties: Tensor) -> Tensor:
    """Give each of a, b, c its free length: (n_systems, 3) from (n_systems, 3) by index."""
    return torch.gather(free, 1, ties)


def free_mask(ties: Tensor) -> Tensor:
    """Return (n_systems, 3) bool: which of the three free lengths the family really has."""
    index = torch.arange(3, device=ties.device)
    return index <= ties.amax(dim=1, keepdim=True)


def distance_gradient(
    frac_vectors: Tensor,
    vectors: Tensor,
    distances: Tensor,
    l3: Tensor,
    directions: Tensor,
    ties: Tensor,
) -> Tensor:
    """Return the exact gradient of edge lengths with respect to the free lengths in L3.

    With ``v = sum_m f_m a_m u_m`` and ``a_m = phi(L_m)``, the derivative of ``d = |v|`` is
    ``f_m (u_m . v) / d * sigmoid(L_m / k)``; components that share a free length add up. The paper
    (section 4.3) approximates this gradient numerically.

    Args:
        frac_vectors: (n_edges, 3) edge vectors in fractional coordinates.
        vectors: (n_edges, 3) the same in angstrom.
        distances: (n_edges,) their lengths, positive.
        l3: (n_edges, 3) L3 of the structure of each edge.
        directions: (n_edges, 3, 3) unit cell vectors of the structure of each edge.
        ties: (n_edges, 3) index of the free length that a, b and c take.

    Returns:
        (n_edges, 3) gradient, zero where the family has fewer free lengths.
    """
    along = column_product(directions, vectors)
    slope = rounded(torch.sigmoid, l3 / SOFTPLUS_SCALE)
    gradient = frac_vectors * along / distances[:, None] * slope
    return torch.zeros_like(gradient).scatter_add_(1, ties, gradient)

"""Sums over angles against sums over triplets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from crystals import BY_CENTRING
from scipy.special import eval_legendre

from model.angles import find_angles, spherical_harmonics
from model.lattice import l3_from_lengths
from model.multigraph import Multigraph, build_multigraph, make_batch, merge_sites

DEGREE = 6


def directions(n: int) -> torch.Tensor:
    drawn = torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    axes = torch.eye(3, dtype=torch.float64)
    return torch.cat([torch.nn.functional.normalize(drawn, dim=1), axes, -axes])


def multigraph() -> Multigraph:
    units = [unit for unit in BY_CENTRING.values() for _ in range(2)]
    batch = make_batch(
        [unit.space_group for unit in units],
        [unit.atomic_numbers.tolist() for unit in units],
        torch.float64,
    )
    coords = torch.as_tensor(np.concatenate([unit.frac_coords for unit in units]))
    coords = coords + 0.05 * torch.randn(
        coords.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    lattice = batch.lattice(l3_from_lengths(torch.as_tensor(np.array([u.lengths for u in units]))))
    radius = torch.full((batch.n_sites,), 0.15, dtype=torch.float64)
    merged = merge_sites(batch, coords, lattice, radius)
    return build_multigraph(batch, merged, lattice, n_neighbours=20, cutoff=8.0)


@pytest.mark.parametrize("degree", range(DEGREE + 1))
def test_harmonics_of_two_directions_make_the_polynomial_of_their_angle(degree: int) -> None:
    units = directions(40)
    harmonics = spherical_harmonics(units, DEGREE)[:, degree**2 : (degree + 1) ** 2]
    expected = eval_legendre(degree, (units @ units.T).numpy())
    np.testing.assert_allclose((harmonics @ harmonics.T).numpy(), expected, atol=1e-13)


def test_sums_are_those_over_triplets() -> None:
    graph = multigraph()
    n_sites, n_neighbours = graph.neighbour.shape
    width = 5
    generator = torch.Generator().manual_seed(2)
    messages = torch.randn(
        DEGREE + 1, n_sites, n_neighbours, width, dtype=torch.float64, generator=generator
    )
    messages = messages * graph.weights[..., None]  # zero where a slot has no neighbour
    found = find_angles(graph, DEGREE).sum(messages)

    units = (graph.vectors / graph.distances[..., None]).numpy()
    expected = np.zeros((n_sites, n_neighbours, width))
    for site in range(n_sites):
        for slot in range(n_neighbours):
            neighbour = graph.neighbour[site, slot]
            back = -graph.rotation[site, slot].numpy().T @ units[site, slot]
            cosines = units[neighbour] @ back
            for degree in range(DEGREE + 1):
                weights = eval_legendre(degree, cosines)
                expected[site, slot] += weights @ messages[degree, neighbour].numpy()
    used = (graph.weights > 0).numpy()
    assert 0.5 < used.mean() < 1.0
    np.testing.assert_allclose(found.numpy()[used], expected[used], atol=1e-11)

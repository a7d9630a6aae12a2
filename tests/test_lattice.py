"""L3 and the gradient of edge lengths."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.lattice import (
    distance_gradient,
    l3_from_lengths,
    lattice_from_l3,
    lengths_from_l3,
    unit_vectors,
    untie,
)
from model.symmetry import space_group


@given(st.floats(1.0, 100.0))
def test_l3_and_lengths_are_inverse(length: float) -> None:
    l3 = l3_from_lengths(torch.tensor([length], dtype=torch.float64))
    assert lengths_from_l3(l3).item() == pytest.approx(length, rel=1e-12)


@given(st.floats(-60.0, 60.0))
def test_every_l3_is_a_positive_length(l3: float) -> None:
    assert lengths_from_l3(torch.tensor([l3])).item() > 0


@pytest.mark.parametrize("number", [62, 139, 194, 225])
def test_gradient_agrees_with_finite_differences(number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    group = space_group(number)
    ties = torch.tensor([group.length_ties])
    directions = unit_vectors(torch.tensor([group.crystal_family == "hexagonal"]))
    free = torch.randn(1, 3, generator=generator, dtype=torch.float64) * 3
    frac = torch.randn(20, 3, generator=generator, dtype=torch.float64)

    def distances(free_lengths: torch.Tensor) -> torch.Tensor:
        return (frac @ lattice_from_l3(untie(free_lengths, ties), directions)[0]).norm(dim=1)

    l3 = untie(free, ties)
    n = len(frac)
    gradient = distance_gradient(
        frac,
        frac @ lattice_from_l3(l3, directions)[0],
        distances(free),
        l3.expand(n, 3),
        directions.expand(n, 3, 3),
        ties.expand(n, 3),
    )
    step = 1e-5
    for index in range(3):
        change = torch.zeros_like(free)
        change[0, index] = step
        numeric = (distances(free + change) - distances(free - change)) / (2 * step)
        assert torch.allclose(gradient[:, index], numeric, atol=1e-8)

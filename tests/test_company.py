"""A sample is the same, to the last bit, in whatever company it is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from model.checkpoint import load_checkpoint
from model.multigraph import make_batch
from model.repeatable import Dense, rounded
from model.sampler import SAMPLERS, sample

if TYPE_CHECKING:
    from collections.abc import Iterator

    from model.crystal import AsymmetricUnit

CELLS = [
    (62, [29]),
    (194, [29, 19, 14, 14]),
    (225, [29]),
    (166, [29, 19, 14]),
    (123, [29, 19, 14, 14, 8, 8, 8]),
    (19, [6, 8]),
]
"""Few and many sites, and groups of 4 to 192 operations."""
COMPANY = [cell for cell in CELLS for _ in range(7)]
QUICK = {
    "langevin": {"n_levels": 3, "n_steps": 2},
    "predictor-corrector": {"n_levels": 4, "n_corrections": 1},
    "ancestral": {"n_steps": 6},
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread, as workers do: several divide the work at places that move."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn(numbers: list[int], sampler: str) -> list[AsymmetricUnit]:
    """Draw some of the crystals of `COMPANY`; their numbers are their seeds."""
    groups, sites = zip(*[COMPANY[number] for number in numbers], strict=True)
    model = load_checkpoint("mp20")
    return sample(model, make_batch(groups, sites), numbers, sampler, **QUICK[sampler])


def test_a_batch_with_too_little_room_gets_more_until_it_has_enough() -> None:
    groups, sites = zip(*CELLS, strict=True)
    model, batch = load_checkpoint("mp20"), make_batch(groups, sites)
    crystals = [
        sample(model, version, range(len(CELLS)), "ancestral", n_steps=6)
        for version in (batch, batch.with_room(30))
    ]
    for crystal, again in zip(*crystals, strict=True):
        assert np.array_equal(crystal.lengths, again.lengths)
        assert np.array_equal(crystal.frac_coords, again.frac_coords)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_crystal_does_not_depend_on_its_company(sampler: str) -> None:
    everybody = drawn(list(range(len(COMPANY))), sampler)
    companies = [[0], [9], [15], [30], [13, 14], [37, 2, 20], [5, 6, 7, 8, 40], list(range(11, 36))]
    for company in companies:
        for number, crystal in zip(company, drawn(company, sampler), strict=True):
            assert np.array_equal(crystal.lengths, everybody[number].lengths), company
            assert np.array_equal(crystal.frac_coords, everybody[number].frac_coords), company


@pytest.mark.parametrize("function", [torch.sin, torch.log, torch.tanh, torch.sigmoid])
def test_a_rounded_function_does_not_depend_on_what_is_beside(function: object) -> None:
    x = torch.linspace(0.001, 9.0, 20_011)
    whole = rounded(function, x)
    for end in (1, 7, 31, 33, 1000, 20_010):
        assert torch.equal(rounded(function, x[:end].clone()), whole[:end])
    assert torch.allclose(whole, function(x), rtol=1e-6)


@pytest.mark.parametrize(("n_in", "n_out"), [(96, 96), (96, 48), (12, 96), (96, 2), (96, 1)])
def test_a_dense_layer_treats_rows_alike(n_in: int, n_out: int) -> None:
    layer = Dense(n_in, n_out)
    x = torch.randn(5000, n_in)
    with torch.no_grad():
        whole = layer(x)
        plain = torch.nn.functional.linear(x, layer.weight, layer.bias)
        for end in (1, 2, 3, 5, 17, 100, 721, 4999):
            assert torch.equal(layer(x[:end].clone()), whole[:end])
    assert torch.allclose(whole, plain, atol=1e-5)

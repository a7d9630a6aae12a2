"""A network with more channels answers as before, and can learn what to do with them."""

from __future__ import annotations

import pytest
import torch

from model.checkpoint import load_checkpoint
from model.multigraph import make_batch
from model.widening import widened


@pytest.mark.parametrize(
    "sizes", [{"hidden": 72}, {"bottleneck": 40}, {"hidden": 96, "bottleneck": 33}]
)
def test_a_wider_network_estimates_the_same(sizes: dict[str, int]) -> None:
    network = load_checkpoint("mp20").network
    least = network.config
    sizes = {name: max(width, getattr(least, name) + 1) for name, width in sizes.items()}
    wide = widened(network, **sizes).eval()
    assert {name: getattr(wide.config, name) for name in sizes} == sizes

    batch = make_batch([62, 194, 225], [[29, 19, 14, 8], [29, 14], [11, 17, 8]])
    generator = torch.Generator().manual_seed(0)
    frac_coords = torch.rand(batch.n_sites, 3, generator=generator)
    l3 = torch.tensor([[6.0, 7.0, 8.0], [5.0, 5.0, 9.0], [7.0, 7.0, 7.0]])
    level = torch.tensor([0.3, 0.6, 0.9])
    noise = wide(batch, frac_coords, l3, level)
    with torch.no_grad():
        expected = network(batch, frac_coords, l3, level)
    assert torch.allclose(noise.positions, expected.positions, atol=1e-5)
    assert torch.allclose(noise.lengths, expected.lengths, atol=1e-5)

    # Every layer that gives the old channels hears of what it may make of the new ones.
    (noise.positions.square().sum() + noise.lengths.square().sum()).backward()
    gradient = wide.blocks[0].keep.weight.grad
    assert gradient is not None
    if "hidden" in sizes:
        assert gradient[: least.hidden, least.hidden :].abs().max() > 0
    gradient = wide.blocks[0].up.weight.grad
    assert gradient is not None
    if "bottleneck" in sizes:
        assert gradient[: least.hidden, least.bottleneck :].abs().max() > 0


def test_a_network_is_not_made_narrower() -> None:
    network = load_checkpoint("mp20").network
    with pytest.raises(ValueError, match=r"network\.hidden must be at least"):
        widened(network, hidden=8)

"""What processes that train together check of each other."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed

from model.network import NetworkConfig
from model.perturbation import KnownCrystals
from model.training import Trainer, TrainingConfig, batches

if TYPE_CHECKING:
    from collections.abc import Callable

    from model.dataset import Crystals

CONFIG = TrainingConfig(
    batch_size=4, gradient_clip=1e9, network=NetworkConfig(hidden=8, bottleneck=4, n_blocks=1)
)


def of_all(mine: Tensor) -> Tensor:
    """Return everybody's numbers."""
    gathered = [torch.zeros_like(mine) for _ in range(distributed.get_world_size())]
    distributed.all_gather(gathered, mine)
    return torch.stack(gathered)


def take_a_step(crystals: Crystals, say: Callable[[str], None]) -> None:
    """Take a step together, and say what came of gradients and weights."""
    (example,) = islice(batches(KnownCrystals.of(crystals), CONFIG, 0), 1)
    alone = Trainer(CONFIG, "cpu")
    noise = alone.network(example.batch, example.frac_coords, example.l3, example.level)
    position, length = (errors.mean() for errors in example.errors(noise))
    alone.objective(position, length).backward()
    mine = torch.cat([p.grad.flatten() for p in alone.network.parameters() if p.grad is not None])

    together = Trainer(CONFIG, "cpu")
    together.update(example, progress=0.0)
    parameters = list(together.network.parameters())
    shared = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    each = of_all(mine)
    assert not torch.allclose(each[0], each[1])  # everybody has crystals of his own
    assert torch.allclose(shared, each.mean(dim=0), atol=1e-7)
    weights = of_all(torch.cat([p.detach().flatten() for p in parameters]))
    assert torch.equal(weights[0], weights[1])
    say(f"{example.batch.n_systems} of {CONFIG.batch_size} crystals")

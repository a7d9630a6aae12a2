"""While it samples the host never waits for a number of the device's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from model.checkpoint import load_checkpoint
from model.exclusion import Exclusive
from model.multigraph import make_batch
from model.sampler import SAMPLERS, NoiseStream, State, initial_state

if TYPE_CHECKING:
    from model.multigraph import Batch

QUICK = {
    "langevin": {"n_levels": 2, "n_steps": 1},
    "predictor-corrector": {"n_levels": 2, "n_corrections": 1},
    "ancestral": {"n_steps": 2},
}


def sample_without_numbers(sampler: str, batch: Batch) -> State:
    """Go through a sampler with tensors that have shapes and no numbers.

    Where an operation's result, or where Python, depends on a number this fails.
    """
    model = load_checkpoint("mp20")
    schedule = model.network.schedule
    estimate = Exclusive(model.network)
    stream = NoiseStream(range(batch.n_systems), batch)
    state = initial_state(batch, model.length_prior, schedule, stream)
    with torch.no_grad():
        estimate(batch, state.frac_coords, state.l3, torch.ones(batch.n_systems))  # fills caches
        numberless = FakeTensorMode(allow_non_fake_inputs=True)
        with numberless:
            fake = State(*map(numberless.from_tensor, (state.frac_coords, state.l3)))
            return SAMPLERS[sampler](estimate, batch, fake, schedule, stream, **QUICK[sampler])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_with_room_no_sampler_looks_at_numbers(sampler: str) -> None:
    batch = make_batch([62, 225], [[29, 14], [29, 14, 8]])
    final = sample_without_numbers(sampler, batch.with_room(256))
    assert final.frac_coords.shape == (5, 3)


def test_without_room_the_lengths_of_lists_are_asked_for() -> None:
    batch = make_batch([62, 225], [[29, 14], [29, 14, 8]])
    with pytest.raises(DynamicOutputShapeException):
        sample_without_numbers("ancestral", batch)

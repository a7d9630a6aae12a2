"""The sampling stage: what it does when a device's memory runs out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from screening.graphs import prepare_units
from screening.grid import Cell, cell_units
from screening.sampling import SamplingStage

CELL = Cell("Cs-Cl", 221, {"Cl": 1, "Cs": 1})
N_SITES = 2


def memory_of(n_systems: int) -> Any:
    """Return a hook for a device whose memory holds so many structures at once."""

    def refuse_more(_: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        if len(arguments[0]) > n_systems * N_SITES:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return refuse_more


def rows(n_systems: int) -> list[dict[str, Any]]:
    """Sample five crystals where the memory holds ``n_systems``."""
    stage = SamplingStage("mp20", "ancestral", device="cpu")
    stage.setup()
    stage._loaded["model"].network.element.register_forward_pre_hook(memory_of(n_systems))
    (unit,) = cell_units(CELL, 5, 5, 0)
    return stage(prepare_units([unit]))


def test_a_batch_that_does_not_fit_is_sampled_in_parts() -> None:
    whole, parts = rows(5), rows(2)
    assert [row["sample_id"] for row in parts] == [row["sample_id"] for row in whole]
    assert parts == whole


def test_a_crystal_that_does_not_fit_alone_is_a_recorded_failure() -> None:
    failed = rows(0)
    assert [row["status"] for row in failed] == ["failed"] * 5
    assert all("memory does not hold a single crystal" in row["error"] for row in failed)


@pytest.mark.parametrize(("first", "end"), [(0, 2), (2, 5), (4, 5)])
def test_a_part_of_a_batch_is_the_batch_of_that_part(first: int, end: int) -> None:
    (whole,) = cell_units(CELL, 5, 5, 0)
    (short,) = cell_units(CELL, end - first, 5, 0)
    part, made = prepare_units([whole]).batch.part(first, end), prepare_units([short]).batch
    for name in ("space_group", "group", "ties", "directions", "system", "atomic_numbers"):
        assert torch.equal(getattr(part, name), getattr(made, name))

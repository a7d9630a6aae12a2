"""What a sampler needs to know of a unit: space-group tables, elements and one seed per sample.

The tables of a large cubic group take about a second to make. For the sampler's evaluations that
is done here, by tasks that run beside the samplers. Starting lengths and the last projection still
look the group up in the sampler, once per group and process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from model.multigraph import make_batch

if TYPE_CHECKING:
    from model.multigraph import Batch
    from screening.grid import Unit


@dataclass(frozen=True)
class PreparedUnit:
    """A unit with the symmetric multigraph's fixed part, ready for a sampler."""

    unit: Unit
    batch: Batch
    """One structure per sample."""
    seeds: tuple[int, ...]
    """One per sample; all its randomness comes from it."""


def prepare_unit(unit: Unit) -> PreparedUnit:
    """Collect operations, special positions, elements and seeds of a unit's samples."""
    sites = unit.cell.atomic_numbers
    batch = make_batch([unit.cell.space_group] * unit.count, [sites] * unit.count)
    seeds = tuple(unit.seed(position) for position in range(unit.count))
    return PreparedUnit(unit, batch, seeds)

"""What a sampler needs to know of units: space-group tables, elements and one seed per sample.

The tables of a large cubic group take about a second to make. For the sampler's evaluations that
is done here, by tasks that run beside the samplers. Starting lengths and the last projection still
look the group up in the sampler, once per group and process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.multigraph import make_batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from model.multigraph import Batch
    from screening.grid import Unit


@dataclass(frozen=True)
class PreparedUnits:
    """Units with the symmetric multigraph's fixed part, ready for a sampler."""

    units: tuple[Unit, ...]
    """Of any cells."""
    batch: Batch
    """One structure per sample, unit after unit."""
    seeds: tuple[int, ...]
    """One per sample; all its randomness comes from it."""

    def columns(self) -> Iterator[dict[str, Any]]:
        """Yield the columns of the results that say what each sample is."""
        return (unit.columns(place) for unit in self.units for place in range(unit.count))


def prepare_units(units: Sequence[Unit]) -> PreparedUnits:
    """Collect operations, special positions, elements and seeds of the samples of units."""
    batch = make_batch(
        [unit.cell.space_group for unit in units for _ in range(unit.count)],
        [unit.cell.atomic_numbers for unit in units for _ in range(unit.count)],
    )
    seeds = tuple(unit.seed(place) for unit in units for place in range(unit.count))
    return PreparedUnits(tuple(units), batch, seeds)

"""What a campaign would do, and roughly what it would cost, without doing any of it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING, Any

from screening.campaign import Combinations
from screening.chemistry import space_group_symbol
from screening.grid import check_grid, grid_size
from screening.progress import duration

if TYPE_CHECKING:
    from screening.campaign import Campaign
    from screening.grid import GridSize

# Seconds of a core, measured on the campaigns of docs/results.md.
SAMPLING_S = 0.2
"""Per sample: the shipped checkpoint and the default sampler, three sites, without a GPU."""
RELAXATION_S = 0.15
"""Per sample: the default potential, to the default fmax, on the samples of the example."""
REFERENCE_S = {1: 0.7, 2: 15.0, 3: 8.0}
"""Per chemical subsystem of that many elements: relaxing its prototypes."""
RESCORING_S = 1.0
"""Per candidate that a second potential relaxes again, the reference phases beside it included."""
START_S = 30.0
"""Wall time: starting the workers, loading the model and the potential, writing the report."""

_MOST_LISTED = 20


@dataclass(frozen=True)
class Cost:
    """An estimate, in seconds of one CPU core unless it says otherwise."""

    sampling_s: float
    relaxation_s: float
    references_s: float
    rescoring_s: float
    cores: int
    """Cores of this machine that a run would use."""
    wall_s: float
    """Seconds on a clock, on those cores."""


def estimated_cost(campaign: Campaign, size: GridSize, cores: int | None = None) -> Cost:
    """Estimate what a run costs on this machine without a GPU.

    Of reference phases from elsewhere at most the elements are relaxed; ``auto`` is counted as if
    there were no key.
    """
    cores = cores or len(os.sched_getaffinity(0))
    sampling = size.n_samples * SAMPLING_S
    relaxation = size.n_samples * RELAXATION_S
    references = sum(
        count * REFERENCE_S.get(arity, 0.0)
        for arity, count in subsystems(campaign).items()
        if arity == 1 or campaign.references in {"auto", "prototypes"}
    )
    top = campaign.rescoring.top if campaign.rescoring else 0
    rescoring = min(top, size.n_samples) * RESCORING_S
    wall = START_S + (sampling + relaxation + references + rescoring) / cores
    return Cost(sampling, relaxation, references, rescoring, cores, wall)


def subsystems(campaign: Campaign) -> dict[int, int]:
    """Return how many chemical systems and subsystems there are, per number of elements.

    Systems that share a subsystem share its reference phases.
    """
    systems = campaign.chemical_systems
    largest = max(REFERENCE_S)
    if isinstance(systems, Combinations):
        return {
            arity: comb(len(systems.elements), arity)
            for arity in range(1, min(largest, systems.arity) + 1)
        }
    found = {
        part
        for system in systems
        for arity in range(1, min(largest, system.count("-") + 1) + 1)
        for part in combinations(system.split("-"), arity)
    }
    return {arity: sum(len(part) == arity for part in found) for arity in range(1, largest + 1)}


def plan(campaign: Campaign) -> dict[str, Any]:
    """Return what a run would do, as plain values.

    Raises:
        UserError: if the campaign asks for what no group admits.
    """
    check_grid(campaign)
    size = grid_size(campaign)
    return {
        "campaign": campaign.name,
        "output": campaign.output,
        "space_groups": list(campaign.space_groups),
        **{name.removeprefix("n_"): value for name, value in asdict(size).items()},
        "cost": asdict(estimated_cost(campaign, size)),
    }


def plan_text(planned: dict[str, Any]) -> str:
    """Return a plan as it is printed."""
    groups = ", ".join(f"{n} {space_group_symbol(n)}" for n in planned["space_groups"][:6])
    more = len(planned["space_groups"]) - 6
    cost = planned["cost"]
    lines = [
        f"campaign          {planned['campaign']}",
        f"output            {planned['output']}",
        f"chemical systems  {planned['chemical_systems']:,}",
        f"space groups      {len(planned['space_groups'])}: {groups}"
        + (f" and {more} more" if more > 0 else ""),
        f"cells             {planned['cells']:,}",
        f"units             {planned['units']:,}",
        f"samples           {planned['samples']:,}",
        f"skipped cells     {planned['skipped_cells']:,}",
    ]
    reasons = sorted(planned["skipped_reasons"].items(), key=lambda item: -item[1])
    lines += [f"  {count:,} x {reason}" for reason, count in reasons[:_MOST_LISTED]]
    if len(reasons) > _MOST_LISTED:
        lines.append(f"  and {len(reasons) - _MOST_LISTED} more reasons; --json lists them all")
    lines.append(
        f"estimated cost    {duration(cost['wall_s'])} on {cost['cores']} CPU cores: sampling "
        f"{duration(cost['sampling_s'])}, relaxation {duration(cost['relaxation_s'])}, references "
        f"{duration(cost['references_s'])}"
        + (f", rescoring {duration(cost['rescoring_s'])}" if cost["rescoring_s"] else "")
        + " of one core"
    )
    return "\n".join(lines)

"""How many evaluations of the potential does giving up hopeless crystals save, and what does it cost?

    python benchmarks/funnel.py [--system Cu-K-Si] [--samples 16] [--falls 2 3 4 6]

The samples of a campaign (32 space groups, one or two sites per element, at most four) are relaxed to
the end, with the energy and the expected fall noted at each evaluation, and so are the reference
phases. Then is looked what `relaxation.give_up_above` would have spared: a crystal is given up as soon
as its lowest energy, less so many times the expected fall, lies so far above the hull. Printed are how
many times fewer evaluations that takes, and the share of the best distinct candidates that survive: with
a member of their group, relaxed to the end, within 5 meV per atom of its best. One thread; a quarter
of an hour for the defaults.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from screening.calculators import load_calculator
from screening.campaign import Campaign
from screening.deduplication import deduplicate
from screening.graphs import prepare_units
from screening.grid import units
from screening.hull import KnownHull
from screening.pipeline import fingerprints
from screening.references import reference_rows, subsystems
from screening.relaxation import Descent
from screening.sampling import generator_column
from screening.schema import structure_columns, structure_from_row
from screening.sweep import Stages

TOPS = (10, 20, 50)
AS_GOOD = 0.005
"""eV per atom."""
CAMPAIGN = """
name: funnel
chemical_systems: [SYSTEM]
space_groups: common32
sites: {per_element: [1, 2], total_max: 4}
samples_per_cell: SAMPLES
"""
Row = dict[str, Any]


@dataclass(frozen=True)
class Way:
    """A sample on its way down, and the candidate that it became."""

    candidate: Row
    steps: list[tuple[float, float]]
    """Lowest energy and the fall expected from there, eV per atom, by evaluation."""

    def evaluations(self, hull: float, fall: float, limit: float) -> tuple[int, bool]:
        """Return how many evaluations are spent, and whether the crystal is given up."""
        for spent, (lowest, expected) in enumerate(self.steps[:-1], start=1):
            if lowest - fall * expected > hull + limit:
                return spent, True
        return len(self.steps), False


def way_down(row: Row, potential: Any) -> Way | None:
    """Relax a crystal; None if that fails."""
    steps = []
    try:
        descent = Descent(structure_from_row(row), fmax=0.05, max_steps=200)
        while descent.relaxed is None:
            descent.take(potential.evaluate([descent.asked])[0])
            steps.append((descent.lowest, descent.expected_fall))
    except Exception:  # noqa: BLE001 - a campaign would record it as failed
        return None
    relaxed = descent.relaxed
    energy = relaxed.energy / len(relaxed.structure)
    columns = structure_columns(relaxed.structure)
    return Way({**row, **columns, "energy_per_atom": energy}, steps)


def main() -> None:
    """Relax, look, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--system", default="Cu-K-Si")
    parser.add_argument("--samples", type=int, default=16, help="of each cell of the grid")
    parser.add_argument("--falls", type=float, nargs="+", default=[2.0, 3.0, 4.0, 6.0])
    parser.add_argument("--limits", type=float, nargs="+", default=[0.0, 0.1, 0.2])
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    text = CAMPAIGN.replace("SYSTEM", arguments.system).replace("SAMPLES", str(arguments.samples))
    campaign = Campaign.from_text(text, "funnel")
    parts = fingerprints(campaign)
    stages = Stages.of(campaign, generator_column(parts), parts["calculator"])
    stages.sampling.setup()
    potential = load_calculator("default").load()
    rows = [row for system in subsystems([arguments.system]) for row in reference_rows(system)]
    phases = [way_down(row, potential) for row in track(rows, "reference phases")]
    hull = KnownHull(
        arguments.system,
        [
            {**way.candidate, "formula": way.candidate["chemical_formula_reduced"]}
            for way in phases
            if way is not None
        ],
    )
    ways = [
        way
        for unit in track(list(units(campaign)), "units")
        for row in stages.sampling(prepare_units([unit]))
        if row["status"] == "kept" and (way := way_down(row, potential)) is not None
    ]
    report(arguments, ways, hull)


def report(arguments: argparse.Namespace, ways: list[Way], hull: KnownHull) -> None:
    """Print what each bound saves and loses."""
    floors = [hull.energy_per_atom(way.candidate["chemical_formula_reduced"]) for way in ways]
    heights = [
        way.candidate["energy_per_atom"] - floor for way, floor in zip(ways, floors, strict=True)
    ]
    groups: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(deduplicate([way.candidate for way in ways])):
        groups[row["group_id"]].append(place)
    lowest = {group: min(heights[place] for place in places) for group, places in groups.items()}
    best = sorted(groups, key=lambda group: lowest[group])
    spent_in_all = sum(len(way.steps) for way in ways)

    table = Table(
        title=f"{arguments.system}: {len(ways)} samples, {spent_in_all / len(ways):.1f} evaluations "
        f"each, {len(groups)} distinct candidates, the lowest {lowest[best[0]]:+.3f} eV/atom"
    )
    for heading in ("give_up_above", "falls", "times fewer", "relaxed to the end"):
        table.add_column(heading)
    for top in TOPS:
        table.add_column(f"of the best {top}")
    for limit in arguments.limits:
        for fall in arguments.falls:
            ends = [
                way.evaluations(floor, fall, limit) for way, floor in zip(ways, floors, strict=True)
            ]
            shares = [
                sum(
                    any(
                        not ends[place][1] and heights[place] < lowest[group] + AS_GOOD
                        for place in groups[group]
                    )
                    for group in best[:top]
                )
                / min(top, len(best))
                for top in TOPS
            ]
            table.add_row(
                f"{limit:g}",
                f"{fall:g}",
                f"{spent_in_all / sum(spent for spent, _ in ends):.1f}",
                str(sum(not given_up for _, given_up in ends)),
                *(f"{share:.0%}" for share in shares),
            )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

"""Quality against evaluations: which sampler finds known crystals at what cost.

    python benchmarks/samplers.py --data mp20_val.parquet [--crystals 64] [--samples 6]
    python benchmarks/samplers.py --data mp20_val.parquet --sites 5 8 --default-only

Takes crystals of a file that the model has not seen, of up to four sites, and draws samples for
their space groups and elements. A sample is a hit when StructureMatcher, with its defaults, matches
it to the known crystal, before any relaxation. Every sampler gets the same crystals and seeds, so
that the rows can be compared more closely than their standard errors (over crystals) suggest.
Seconds are of one core, those of the process and not of the clock.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from rich.console import Console
from rich.table import Table

from model.checkpoint import ScoreModel, load_checkpoint
from model.dataset import read_crystals
from model.multigraph import make_batch
from model.sampler import sample

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from model.crystal import AsymmetricUnit

BATCH = 96
SHORTEST_DISTANCE = 0.5
MOST_ATOMS = 200

# Name of the sampler and its settings, cheapest first.
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("ancestral", {"n_steps": 10}),
    ("ancestral", {"n_steps": 25}),
    ("predictor-corrector", {"n_levels": 9, "n_corrections": 2}),
    ("ancestral", {"n_steps": 50}),
    ("predictor-corrector", {"n_levels": 9, "n_corrections": 5}),
    ("ancestral", {"n_steps": 100}),
    ("predictor-corrector", {"n_levels": 25, "n_corrections": 3}),
    ("predictor-corrector", {"n_levels": 17, "n_corrections": 5}),
    ("langevin", {"n_levels": 10, "n_steps": 10}),
    ("predictor-corrector", {"n_levels": 17, "n_corrections": 11}),
    ("predictor-corrector", {"n_levels": 25, "n_corrections": 15}),
    ("langevin", {"n_levels": 10, "n_steps": 60}),
]


def draw(
    model: ScoreModel,
    crystals: list[AsymmetricUnit],
    n_samples: int,
    sampler: str,
    options: dict[str, Any],
) -> list[list[Structure]]:
    """Return each crystal's samples."""
    jobs = [crystal for crystal in crystals for _ in range(n_samples)]
    found: list[Structure] = []
    for first in range(0, len(jobs), BATCH):
        part = jobs[first : first + BATCH]
        batch = make_batch(
            [crystal.space_group for crystal in part],
            [crystal.atomic_numbers.tolist() for crystal in part],
        )
        seeds = range(first, first + len(part))
        found += [unit.to_structure() for unit in sample(model, batch, seeds, sampler, **options)]
    return [found[i : i + n_samples] for i in range(0, len(found), n_samples)]


def is_sensible(structure: Structure) -> bool:
    """Whether no two atoms are closer than half an angstrom, and no cell is beyond all reason."""
    if len(structure) > MOST_ATOMS:
        return False
    return not len(structure.get_neighbor_list(SHORTEST_DISTANCE)[3])


def main() -> None:
    """Sample with every setting and print the curve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="folder for the converted data")
    parser.add_argument("--crystals", type=int, default=64)
    parser.add_argument("--samples", type=int, default=6)
    parser.add_argument("--sites", type=int, nargs=2, default=(1, 4), metavar=("FROM", "TO"))
    parser.add_argument("--default-only", action="store_true", help="the default sampler alone")
    parser.add_argument("--checkpoint", default="default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_checkpoint(options.checkpoint)
    data = read_crystals([options.data], options.cache)
    fewest, most = options.sites
    admitted = np.flatnonzero((data.n_sites >= fewest) & (data.n_sites <= most))
    small = np.random.default_rng(7).permutation(admitted)
    crystals = [data[int(index)] for index in small[: options.crystals]]
    known = [crystal.to_structure() for crystal in crystals]
    matcher = StructureMatcher()
    evaluations = 0

    def count(*_: object) -> None:
        nonlocal evaluations
        evaluations += 1

    model.network.edge_output.register_forward_hook(count)
    columns = "sampler,evaluations,hits,±,crystals found,right formula,sensible,s each"
    print(f"{model.fingerprint}, {len(known)} crystals, {options.samples} samples each")
    console = Console(width=120)
    rows: list[tuple[str, ...]] = []
    for name, settings in [("default", {})] if options.default_only else SETTINGS:
        evaluations, began = 0, time.process_time()
        samples = draw(model, crystals, options.samples, name, settings)
        seconds = (time.process_time() - began) / (len(known) * options.samples)
        n_batches = -(-len(known) * options.samples // BATCH)
        formula = np.array(
            [
                [s.composition.reduced_formula == k.composition.reduced_formula for s in group]
                for group, k in zip(samples, known, strict=True)
            ]
        )
        hits = np.array(
            [
                [right and matcher.fit(s, k) for s, right in zip(group, same, strict=True)]
                for group, k, same in zip(samples, known, formula, strict=True)
            ]
        )
        sensible = np.mean([is_sensible(s) for group in samples for s in group])
        error = hits.mean(axis=1).std() / np.sqrt(len(known))
        row = (
            f"{name} {settings}",
            f"{evaluations / n_batches:.0f}",
            f"{hits.mean():.3f}",
            f"{error:.3f}",
            f"{hits.any(axis=1).mean():.3f}",
            f"{formula.mean():.3f}",
            f"{sensible:.3f}",
            f"{seconds:.3f}",
        )
        print(*row, sep="  ", flush=True)
        rows.append(row)
    table = Table(*columns.split(","))
    for row in rows:
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()

"""Do samples of well-known chemistries come out with the known lengths and distances?

    python benchmarks/known_chemistries.py [--samples 32] [--sampler NAME] [--checkpoint F]

Inputs are elements, one site each, and the space group. A sample counts for the lengths when it
has the known formula; it is a hit when StructureMatcher, with its defaults, matches it to the known
structure, before any relaxation. These compounds are in the training data: this shows that the
model has learned, not that it discovers.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Element, Structure
from rich.console import Console
from rich.table import Table

from model.checkpoint import load_checkpoint
from model.crystal import AsymmetricUnit
from model.multigraph import make_batch
from model.sampler import sample, sampler_name

# Structure type, space group, lengths in angstrom (Materials Project, PBE), sites.
ORIGIN, CENTRE, QUARTER = [0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]
KNOWN = [
    ("rock salt", 225, [5.69], {"Na": ORIGIN, "Cl": CENTRE}),
    ("rock salt", 225, [4.25], {"Mg": ORIGIN, "O": CENTRE}),
    ("rock salt", 225, [6.03], {"Pb": ORIGIN, "S": CENTRE}),
    ("CsCl", 221, [4.12], {"Cs": ORIGIN, "Cl": CENTRE}),
    ("CsCl", 221, [2.88], {"Ni": ORIGIN, "Al": CENTRE}),
    ("zinc blende", 216, [5.45], {"Zn": ORIGIN, "S": QUARTER}),
    ("zinc blende", 216, [5.75], {"Ga": ORIGIN, "As": QUARTER}),
    ("perovskite", 221, [3.94], {"Sr": ORIGIN, "Ti": CENTRE, "O": [0.5, 0.5, 0.0]}),
    ("perovskite", 221, [4.04], {"K": ORIGIN, "Mg": CENTRE, "F": [0.5, 0.5, 0.0]}),
    ("wurtzite", 186, [3.29, 5.31], {"Zn": [1 / 3, 2 / 3, 0.0], "O": [1 / 3, 2 / 3, 0.379]}),
    ("wurtzite", 186, [3.22, 5.24], {"Ga": [1 / 3, 2 / 3, 0.0], "N": [1 / 3, 2 / 3, 0.377]}),
    ("fluorite", 225, [5.50], {"Ca": ORIGIN, "F": QUARTER}),
    ("half-Heusler", 216, [5.94], {"Ti": ORIGIN, "Ni": QUARTER, "Sn": CENTRE}),
]


def known_crystal(number: int, free: list[float], sites: dict[str, list[float]]) -> AsymmetricUnit:
    """Describe a known structure."""
    lengths = np.array([free[0], free[0], free[-1]])
    numbers = np.array([Element(symbol).Z for symbol in sites])
    return AsymmetricUnit(number, lengths, np.array(list(sites.values())), numbers)


def nearest_distance(structure: Structure) -> float:
    """Return the shortest distance between two atoms, periodic images included, in angstrom."""
    doubled = structure * (2, 2, 2)
    distances = doubled.distance_matrix
    return float(distances[~np.eye(len(doubled), dtype=bool)].min())


def main() -> None:
    """Sample, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--sampler", default="default")
    parser.add_argument("--checkpoint", default="default")
    options = parser.parse_args()
    model = load_checkpoint(options.checkpoint)
    matcher = StructureMatcher()
    columns = "type,compound,known Å,sampled Å,known d,sampled d,right formula,hits,s each"
    table = Table(
        *columns.split(","), title=f"{sampler_name(options.sampler)}, {model.fingerprint}"
    )
    hits_in_all, started = 0, time.perf_counter()
    for name, number, free, sites in KNOWN:
        known = known_crystal(number, free, sites)
        target = known.to_structure()
        n = options.samples
        batch = make_batch([number] * n, [known.atomic_numbers.tolist()] * n)
        start = time.perf_counter()
        crystals = sample(model, batch, range(n), options.sampler)
        seconds = (time.perf_counter() - start) / n
        structures = [crystal.to_structure() for crystal in crystals]
        same = [
            index
            for index, structure in enumerate(structures)
            if structure.composition.reduced_formula == target.composition.reduced_formula
        ]
        hits = sum(matcher.fit(structures[index], target) for index in same)
        hits_in_all += hits
        lengths = np.median([crystals[i].lengths for i in same], axis=0) if same else np.zeros(3)
        shown = lengths[[0, 2]] if len(free) > 1 else lengths[:1]
        distance = np.median([nearest_distance(structures[i]) for i in same]) if same else 0.0
        table.add_row(
            name,
            target.composition.reduced_formula,
            ", ".join(f"{value:.2f}" for value in free),
            ", ".join(f"{value:.2f}" for value in shown),
            f"{nearest_distance(target):.2f}",
            f"{distance:.2f}",
            f"{len(same)}/{n}",
            f"{hits}/{n}",
            f"{seconds:.2f}",
        )
    Console(width=120).print(table)
    share = hits_in_all / (len(KNOWN) * options.samples)
    print(
        f"hits {share:.3f}, {torch.get_num_threads()} threads, "
        f"{time.perf_counter() - started:.0f} s in all"
    )


if __name__ == "__main__":
    main()

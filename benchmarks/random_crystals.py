"""How large, how long and how dense are known crystals, in the units of random ones?

    python benchmarks/random_crystals.py --data mp20_train.parquet [--crystals 4000]

Prints what the constants of ``screening/random_crystals.py`` round: volumes in units of the
covalent spheres', the shortest distance in units of the sum of covalent radii, and edge ratios.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
from ase.data import covalent_radii
from pymatgen.core import Structure

from model.crystal import asymmetric_unit
from model.symmetry import LOWEST_SPACE_GROUP, space_group
from screening.random_crystals import sphere_volumes

FAR = 4.5
"""Angstrom: the shortest distance of nearly every crystal is below."""
SHARES = (0.002, 0.01, 0.05, 0.5, 0.95)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--crystals", type=int, default=4000)
    options = parser.parse_args()
    table = pd.read_parquet(options.data)
    table = table[table["spacegroup_number"] >= LOWEST_SPACE_GROUP]
    table = table.sample(min(options.crystals, len(table)), random_state=0)
    volumes, distances = [], []
    edges: dict[str, list[float]] = defaultdict(list)
    for row in table.itertuples():
        lattice = np.asarray(row.lattice).reshape(3, 3)
        coords = np.asarray(row.frac_coords).reshape(-1, 3)
        numbers = np.asarray(row.atomic_numbers)
        volumes.append(abs(np.linalg.det(lattice)) / sphere_volumes(numbers).sum())
        one, other, _, apart = Structure(lattice, numbers, coords).get_neighbor_list(FAR)
        if len(apart):
            radii = covalent_radii[numbers]
            distances.append((apart / (radii[one] + radii[other])).min())
        unit = asymmetric_unit(lattice, coords, numbers)
        if unit is not None:
            group = space_group(unit.space_group)
            logs = np.log(unit.lengths)
            if group.crystal_family == "orthorhombic":
                edges["orthorhombic, edge / mean"].extend(logs - logs.mean())
            elif group.crystal_family != "cubic":
                edges[f"{group.crystal_family} {group.symbol[0]}, c / a"].append(logs[2] - logs[0])
    print(f"{len(table)} crystals; quantiles {SHARES}")
    print(f"volume / covalent spheres: {np.quantile(volumes, SHARES).round(2)}")
    print(f"shortest distance / sum of radii: {np.quantile(distances, SHARES).round(3)}")
    for name, values in sorted(edges.items()):
        print(f"{name}: median {np.exp(np.median(values)):.2f}, log spread {np.std(values):.2f}")


if __name__ == "__main__":
    main()

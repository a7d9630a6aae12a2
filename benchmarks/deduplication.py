"""Are duplicates those of StructureMatcher, and how does the time grow?

    python benchmarks/deduplication.py --data mp20_test.parquet mp20_train.parquet
        [--prove 3000] [--sizes 1000 10000 100000] [--seed 0]

The crystals are those that a campaign in one chemical system might find: known ternary crystals of
space groups from 16, whose elements are replaced by Cu, K and Si, so that every formula has many
structure types. Each is drawn several times, in a disguise: another cell (primitive, or a
supercell), orientation, origin and order of atoms, strains of some per cent and displacements, of
which a part is as large as the tolerances, so that matching is not transitive there.

The first table compares with ``StructureMatcher.group_structures``, which is given the crystals in
the same order; the second has the growth. The number of kinds grows with that of structures as long
as there are kinds left, so that there are more of them to compare with.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pymatgen.core import Structure
from pymatgen.core.structure_matcher import StructureMatcher

from screening.deduplication import deduplicate
from screening.schema import structure_from_row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ELEMENTS = (29, 19, 14)
LOWEST_SPACE_GROUP = 16
DRAWS_PER_KIND = 4
"""How often a known crystal is drawn on average."""
PERTURBATIONS = (0.0, 0.02, 0.05, 0.3, 0.6)
"""Angstrom."""

Row = dict[str, Any]


def known_kinds(paths: Sequence[Path], rng: np.random.Generator) -> list[Structure]:
    """Return known ternary crystals with their elements replaced, in random order."""
    table = pd.concat([pd.read_parquet(path) for path in paths])
    table = table[table["spacegroup_number"] >= LOWEST_SPACE_GROUP]
    kinds = []
    for row in table.itertuples():
        present, numbers = np.unique(row.atomic_numbers, return_inverse=True)
        if len(present) == len(ELEMENTS):
            kinds.append(
                Structure(
                    np.reshape(row.lattice, (3, 3)),
                    rng.permutation(ELEMENTS)[numbers],
                    np.reshape(row.frac_coords, (-1, 3)),
                )
            )
    return [kinds[i] for i in rng.permutation(len(kinds))]


def disguised(structure: Structure, rng: np.random.Generator) -> Structure:
    """Return the crystal in another cell, orientation, order, strain and displacement."""
    other = structure.copy()
    if rng.random() < 0.2:  # noqa: PLR2004 - a fifth
        other.make_supercell(rng.permutation([1, 1, 2]))
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    strain = np.eye(3) * rng.uniform(0.97, 1.03) + rng.normal(scale=0.01, size=(3, 3))
    order = rng.permutation(len(other))
    other = Structure(
        other.lattice.matrix @ strain @ rotation,
        [other[i].specie for i in order],
        other.frac_coords[order] + rng.random(3),
    )
    other.perturb(rng.choice(PERTURBATIONS), seed=int(rng.integers(2**31)))
    return other


def campaign(size: int, kinds: Sequence[Structure], rng: np.random.Generator) -> list[Row]:
    """Return rows of candidates with energies at random."""
    kinds = kinds[: max(1, size // DRAWS_PER_KIND)]
    rows = []
    for index in range(size):
        structure = disguised(kinds[rng.integers(len(kinds))], rng)
        rows.append(
            {
                "sample_id": f"s{index:06d}",
                "status": "kept",
                "energy_per_atom": float(rng.normal()),
                "lattice_vectors": structure.lattice.matrix.tolist(),
                "cartesian_site_positions": structure.cart_coords.tolist(),
                "species_at_sites": [site.specie.symbol for site in structure],
            }
        )
    return rows


def measured(function: Callable[[], Any]) -> tuple[Any, int, float]:
    """Return what a function returns, its calls of ``StructureMatcher.fit``, and its seconds."""
    calls = 0
    fit = StructureMatcher.fit

    def counted(*arguments: Any, **options: Any) -> bool:
        nonlocal calls
        calls += 1
        return fit(*arguments, **options)

    StructureMatcher.fit = counted
    try:
        began = time.process_time()
        value = function()
        return value, calls, time.process_time() - began
    finally:
        StructureMatcher.fit = fit


def groups_of(rows: Sequence[Row]) -> set[frozenset[str]]:
    """Return the partition that `deduplicate` found."""
    members: dict[str, set[str]] = {}
    for row in rows:
        members.setdefault(row["group_id"], set()).add(row["sample_id"])
    return {frozenset(group) for group in members.values()}


def prove(rows: list[Row]) -> None:
    """Compare the partition with that of ``group_structures``, and print both costs."""
    ordered = sorted(rows, key=lambda row: (row["energy_per_atom"], row["sample_id"]))
    structures = [structure_from_row(row) for row in ordered]
    names = {id(s): row["sample_id"] for s, row in zip(structures, ordered, strict=True)}
    expected, their_calls, their_s = measured(
        lambda: {
            frozenset(names[id(member)] for member in group)
            for group in StructureMatcher().group_structures(structures)
        }
    )
    found, our_calls, our_s = measured(lambda: groups_of(deduplicate(rows)))
    print(f"{len(rows)} structures, {len(expected)} groups by group_structures, {len(found)} here")
    print(f"groups that differ: {len(found ^ expected)}")
    print("| | calls of fit | seconds of processor |\n| --- | --- | --- |")
    print(f"| group_structures | {their_calls:,} | {their_s:.0f} |")
    print(f"| here | {our_calls:,} | {our_s:.0f} |")
    print(f"fewer calls by a factor of {their_calls / our_calls:.1f}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--prove", type=int, default=3000, help="0 leaves the comparison out")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1000, 10_000, 100_000])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    kinds = known_kinds(options.data, rng)
    print(f"{len(kinds)} known crystals")
    if options.prove:
        prove(campaign(options.prove, kinds, rng))
    print("| structures | kinds drawn from | groups | calls of fit | calls each | s | ms each |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for size in options.sizes:
        rows = campaign(size, kinds, rng)
        found, calls, seconds = measured(lambda rows=rows: groups_of(deduplicate(rows)))
        n_kinds = min(size // DRAWS_PER_KIND, len(kinds))
        print(
            f"| {size:,} | {n_kinds:,} | {len(found):,} | {calls:,} | {calls / size:.2f} "
            f"| {seconds:.0f} | {1e3 * seconds / size:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

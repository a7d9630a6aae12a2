"""How good are the potentials on known crystals, and how fast?

    OMP_NUM_THREADS=1 python benchmarks/potentials.py --data mp20_test.parquet --out F.json
        [--potential chgnet sevennet-0 sevennet-l3i5] [--crystals 200] [--atoms 16] [--seed 0]
        [--systems 30]

Crystals are drawn at random among those of space groups from 16, and relaxed twice by the engine:
as they are, and perturbed along what their space group leaves free, lengths by some per cent and
coordinates by about 0.1 angstrom. Of each potential:

- seconds of processor per relaxation, steps, and the share that converges;
- the share of relaxed crystals that StructureMatcher finds to be the known ones;
- errors of the formation energy (relaxed, against the data's, which are PBE and PBE+U with the
  corrections MP2020) with and without the correction of the potential, apart for crystals that
  MP2020 corrects and for the others. The elements are relaxed from prototypes, as in a campaign.

The hull is the data's own, so that an energy above it has the error of the formation energy.

With ``--systems`` all crystals of so many chemical systems are taken instead, those with the most, and
Spearman's rank correlation within a system is printed: of formation energies, and of energies above
the hull, which in these data differ by a few ten meV per atom at the most. Results are written after
each crystal, and a run with the same file goes on.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pymatgen.core import Composition, Structure
from pymatgen.core.structure_matcher import StructureMatcher
from scipy.stats import spearmanr

from screening.calculators import load_calculator
from screening.corrections import mp2020_correction
from screening.errors import ScreeningError
from screening.free_coordinates import free_coordinates
from screening.prototypes import phases
from screening.relaxation import Relaxed, relax

LOWEST_SPACE_GROUP = 16
SYMPREC = 0.1
"""Angstrom: that of the data's space groups."""
FMAX = 0.05
MAX_STEPS = 200
STRAIN = 0.03
"""Spread of the relative changes of lengths."""
DISPLACEMENT = 0.1
"""Angstrom, spread of the free coordinates of atoms."""

Result = dict[str, Any]


def usable(path: Path, most_atoms: int) -> pd.DataFrame:
    """Return the known crystals that have an energy."""
    table = pd.read_parquet(path)
    return table[
        (table["spacegroup_number"] >= LOWEST_SPACE_GROUP)
        & (table["n_atoms"] <= most_atoms)
        & table["formation_energy_per_atom"].notna()
    ]


def of_systems(table: pd.DataFrame, count: int) -> list[Result]:
    """Return all crystals of the chemical systems that have the most."""
    table = table[table["e_above_hull"].notna()]
    system = table["formula"].map(lambda formula: Composition(formula).chemical_system)
    sizes = system.value_counts().rename_axis("system").reset_index()
    chosen = sizes.sort_values(["count", "system"], ascending=[False, True])["system"][:count]
    return table[system.isin(chosen)].to_dict("records")


def crystal_of(row: Result) -> Structure:
    """Return the crystal of a row of the data."""
    return Structure(
        np.reshape(row["lattice"], (3, 3)),
        row["atomic_numbers"],
        np.reshape(row["frac_coords"], (-1, 3)),
    )


def perturbed(structure: Structure, rng: np.random.Generator) -> Structure:
    """Return the crystal moved along its free strains and coordinates."""
    numbers = np.array([site.specie.Z for site in structure])
    free = free_coordinates(structure.lattice.matrix, structure.frac_coords, numbers, SYMPREC)
    values = rng.normal(size=free.size)
    n_strains = len(free.strains)
    values[:n_strains] *= STRAIN * free.strain_scale
    # Coordinates are of all atoms of an orbit at once.
    sizes = np.linalg.norm(free.displacements, axis=2).max(axis=1, initial=0.0)
    values[n_strains:] *= DISPLACEMENT / np.where(sizes > 0, sizes, 1.0)
    lattice, positions = free.crystal(values)
    return Structure(lattice, numbers, positions, coords_are_cartesian=True)


def element_energies(symbols: set[str], ase: Any, known: dict[str, float]) -> None:
    """Add the lowest energies (eV per atom) of elements that are not known yet."""
    for symbol in sorted(symbols - set(known)):
        energies = []
        for _, structure in phases(symbol):
            try:
                relaxed = relax(structure, ase, FMAX, MAX_STEPS)
            except Exception:  # noqa: BLE001, S112 - a structure type may be impossible for an element
                continue
            energies.append(relaxed.energy / len(relaxed.structure))
        known[symbol] = min(energies, default=float("nan"))


def outcome(start: Structure, known: Structure, ase: Any) -> tuple[Result, Relaxed | None]:
    """Relax a crystal, and say whether the known one comes out."""
    began = time.process_time()
    try:
        relaxed = relax(start, ase, FMAX, MAX_STEPS)
    except Exception as error:  # noqa: BLE001 - potentials raise what they like
        return {"error": str(error)[:200], "seconds": time.process_time() - began}, None
    seconds = time.process_time() - began
    return {
        "seconds": seconds,
        "steps": relaxed.n_steps,
        "converged": relaxed.converged,
        "matches": bool(StructureMatcher().fit(known, relaxed.structure)),
        "volume_change": relaxed.structure.volume
        / len(relaxed.structure)
        / (known.volume / len(known))
        - 1,
    }, relaxed


def examine(
    row: Result, calculator: Any, ase: Any, elements: dict[str, float], seed: int
) -> Result:
    """Return what a potential makes of a known crystal."""
    known = crystal_of(row)
    rng = np.random.default_rng([seed, int(row["material_id"].split("-")[1])])
    clean, relaxed = outcome(known, known, ase)
    moved, _ = outcome(perturbed(known, rng), known, ase)
    result = {
        "formula": row["formula"],
        "formation_energy_per_atom": row["formation_energy_per_atom"],
        "e_above_hull": row["e_above_hull"],
        "mp2020": mp2020_correction(known) / len(known),
        "clean": clean,
        "perturbed": moved,
    }
    if relaxed is not None:
        n = len(relaxed.structure)
        element_energies({site.specie.symbol for site in known}, ase, elements)
        apart = np.mean([elements[site.specie.symbol] for site in known])
        result["without_correction"] = float(relaxed.energy / n - apart)
        correction = calculator.correction(relaxed.structure) / n
        result["with_correction"] = float(result["without_correction"] + correction)
    return result


def lines(name: str, results: list[Result]) -> list[str]:
    """Return the rows of the table for a potential."""
    cells = []
    for start in ("clean", "perturbed"):
        done = [result[start] for result in results]
        cells += [
            f"{np.mean([d['seconds'] for d in done]):.2f}",
            f"{np.mean([d['steps'] for d in done if 'steps' in d]):.1f}",
            f"{100 * np.mean([d.get('converged', False) for d in done]):.0f}",
            f"{100 * np.mean([d.get('matches', False) for d in done]):.1f}",
        ]
    relaxed = [r for r in results if np.isfinite(r.get("with_correction", np.nan))]
    energies = [str(len(relaxed))]
    for some in ([r for r in relaxed if r["mp2020"]], [r for r in relaxed if not r["mp2020"]]):
        energies.append(str(len(some)))
        for key in ("without_correction", "with_correction"):
            errors = 1e3 * np.array([r[key] - r["formation_energy_per_atom"] for r in some])
            energies.append(f"{np.abs(errors).mean():.0f} ({np.median(errors):+.0f})")
    return [
        f"| {name} | {len(results)} | " + " | ".join(cells) + " |",
        f"| {name} | " + " | ".join(energies) + " |",
    ]


def report(record: dict[str, list[Result]]) -> None:
    """Print both tables."""
    rows = [lines(name, results) for name, results in record.items()]
    print(
        "| potential | crystals | clean: s each | steps | converged, % | same crystal, % "
        "| perturbed: s each | steps | converged, % | same crystal, % |"
    )
    print("|" + " --- |" * 10)
    print("\n".join(first for first, _ in rows))
    print(
        "\nErrors of formation energies: mean absolute (median signed), meV per atom.\n\n"
        "| potential | all | corrected by MP2020 | as it is | with its correction | others "
        "| as it is | with its correction |"
    )
    print("|" + " --- |" * 8)
    print("\n".join(second for _, second in rows))


def report_ranks(record: dict[str, list[Result]]) -> None:
    """Print how well the potentials rank the crystals of a chemical system."""
    print(
        "\nRank correlations within chemical systems: mean ± standard error.\n\n"
        "| potential | systems | crystals | formation energy | energy above the hull |"
    )
    print("|" + " --- |" * 5)
    for name, results in record.items():
        table = pd.DataFrame(
            {
                "system": Composition(r["formula"]).chemical_system,
                "known": r["formation_energy_per_atom"],
                "height": r["e_above_hull"],
                "error": r.get("with_correction", np.nan) - r["formation_energy_per_atom"],
            }
            for r in results
        ).dropna()
        cells = []
        for column in ("known", "height"):
            ranks = [
                spearmanr(some[column], some[column] + some["error"]).statistic
                for _, some in table.groupby("system")
                if np.ptp(some[column]) > 0
            ]
            error = np.std(ranks, ddof=1) / np.sqrt(len(ranks))
            cells.append(f"{np.mean(ranks):.2f} ± {error:.2f}")
        print(f"| {name} | {table['system'].nunique()} | {len(table)} | {' | '.join(cells)} |")


def main() -> None:
    """Measure what is missing, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--potential", nargs="+", default=["chgnet", "sevennet-0"])
    parser.add_argument("--crystals", type=int, default=200)
    parser.add_argument("--atoms", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--systems", type=int, help="take all crystals of so many systems")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    record = json.loads(options.out.read_text()) if options.out.exists() else {}
    table = usable(options.data, options.atoms)
    if options.systems:
        rows = of_systems(table, options.systems)
    else:
        mixed = table.sample(frac=1, random_state=options.seed)
        rows = mixed.head(options.crystals).to_dict("records")
    loaded = {}
    for name in options.potential:
        calculator = load_calculator(name)
        of = record.setdefault(
            name, {"fingerprint": calculator.fingerprint, "elements": {}, "results": {}}
        )
        if of["fingerprint"] != calculator.fingerprint:
            raise ScreeningError(f"{options.out} has results of {of['fingerprint']}")
        loaded[name] = calculator, calculator.ase()
    for row in rows:  # crystal by crystal, so that the potentials have seen the same ones
        for name, (calculator, ase) in loaded.items():
            of = record[name]
            if row["material_id"] not in of["results"]:
                of["results"][row["material_id"]] = examine(
                    row, calculator, ase, of["elements"], options.seed
                )
                options.out.write_text(json.dumps(record))
    drawn_ids = [row["material_id"] for row in rows]
    results = {name: [record[name]["results"][i] for i in drawn_ids] for name in options.potential}
    report(results)
    if options.systems:
        report_ranks(results)


if __name__ == "__main__":
    main()

"""What did a campaign find in the paper's four chemical systems, beside the paper's phases?

    screening run benchmarks/discovery.yaml --out results/discovery
    python benchmarks/discovery.py results/discovery [--second sevennet-0 --top 4]

For each chemical system are printed the number of samples and of distinct ternary candidates, how many
of these are novel and near the hull, the lowest of them, and the phase that the paper found there
(section 5.4, table 3; by DFT, above the hull of the Materials Project): the best candidate of the same
formula and space group, and the best of the same formula. Energies above the hull are in kJ per mole of
atoms, as in the paper; 1 kJ/mol is 10.364 meV per atom.

With ``--second`` the lowest candidates of each system are relaxed again with another potential, as are
the elements, and placed on the same hull by their formation energies: as they are, and with the
corrections of the potential. One thread; a minute.
"""

from __future__ import annotations

import argparse
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from potentials import FMAX, MAX_STEPS, element_energies
from pymatgen.core import Composition
from rich.console import Console
from rich.table import Table

from screening.calculators import load_calculator
from screening.chemistry import space_group_symbol
from screening.findings import NEAR_HULL
from screening.relaxation import relax
from screening.schema import structure_from_row
from screening.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterable

KJ_PER_MOL = 1 / 0.010364
"""Of atoms, in an eV per atom."""
PAPER = {
    "Cu-K-Si": ("KCu2Si", 62, 0.61),
    "Fe-Sn-Ta": ("TaFe2Sn", 69, 4.14),
    "Sb-Ta-V": ("Ta2V3Sb", 194, 1.57),
    "Al-K-Pd": ("KAl3Pd6", 191, 15.38),
}
"""Of each chemical system the paper's phase: formula, space group, kJ per mole above the hull."""
COLUMNS = (
    "sample_id",
    "chemical_system",
    "chemical_formula_reduced",
    "space_group_it_number",
    "e_above_hull",
    "is_novel",
)

Row = dict[str, Any]


def described(row: Row | None) -> str:
    """Return a candidate in a few words."""
    if row is None:
        return "not found"
    group = space_group_symbol(row["space_group_it_number"])
    energy = row["e_above_hull"] * KJ_PER_MOL
    return f"{energy:+.2f} {row['chemical_formula_reduced']} {group}"


def first(rows: Iterable[Row], composition: Any, group: int | None = None) -> Row | None:
    """Return the first candidate of a composition, and of a space group if one is given."""
    for row in rows:
        if (
            group in {None, row["space_group_it_number"]}
            and Composition(row["chemical_formula_reduced"]).reduced_composition == composition
        ):
            return row
    return None


def second_opinion(best: list[Row], name: str, top: int) -> None:
    """Print where another potential puts the lowest candidates of each system."""
    calculator = load_calculator(name)
    ase = calculator.ase()
    elements: dict[str, float] = {}
    table = Table(
        *("system", "candidate", "above the hull", f"by {name}", "with its correction"),
        title="eV/atom",
    )
    for system in PAPER:
        for row in [row for row in best if row["chemical_system"] == system][:top]:
            relaxed = relax(structure_from_row(row), ase, FMAX, MAX_STEPS)
            symbols = [site.specie.symbol for site in relaxed.structure]
            element_energies(set(symbols), ase, elements)
            apart = np.mean([elements[symbol] for symbol in symbols])
            hull = row["formation_energy_per_atom"] - row["e_above_hull"]
            height = relaxed.energy / len(symbols) - apart - hull
            correction = calculator.correction(relaxed.structure) / len(symbols)
            heights = (row["e_above_hull"], height, height + correction)
            group = space_group_symbol(row["space_group_it_number"])
            candidate = f"{row['chemical_formula_reduced']} {group}"
            table.add_row(system, candidate, *(f"{value:+.3f}" for value in heights))
    Console(width=180).print(table)


def main() -> None:
    """Read the table and print another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", help="directory or URI of the campaign")
    parser.add_argument("--second", metavar="POTENTIAL")
    parser.add_argument("--top", type=int, default=4, help="candidates of each system for it")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    store = Store(options.results)
    store.require()
    samples = store.read_samples()["chemical_system"].to_pylist()
    best = store.best(columns=() if options.second else COLUMNS).to_pylist()
    table = Table(
        *("system", "samples", "distinct", f"novel, within {NEAR_HULL:g} eV/atom", "on the hull"),
        *("lowest", "paper", "same formula and group", "same formula"),
        title=f"{options.results}: above the hull, kJ/mol of atoms",
    )
    for system, (formula, group, energy) in PAPER.items():
        rows = [
            row
            for row in best
            if row["chemical_system"] == system
            and len(Composition(row["chemical_formula_reduced"]).elements) == system.count("-") + 1
        ]
        near = [row for row in rows if row["is_novel"] and row["e_above_hull"] <= NEAR_HULL]
        composition = Composition(formula).reduced_composition
        table.add_row(
            system,
            str(samples.count(system)),
            str(len(rows)),
            str(len(near)),
            str(sum(row["e_above_hull"] <= 0 for row in near)),
            described(next(iter(rows), None)),
            f"{energy:+.2f} {formula} {space_group_symbol(group)}",
            described(first(rows, composition, group)),
            described(first(rows, composition)),
        )
    Console(width=180).print(table)
    if options.second:
        second_opinion(best, options.second, options.top)


if __name__ == "__main__":
    main()

"""Are our energies above the hull those of an independent computation?

    python benchmarks/hull.py [--data mp_ground_states.parquet] [--systems 50] [--seed 0]

Draws chemical systems of two to four elements at random from a table of compositions and formation
energies. In each, every phase is taken out in turn (at most 20) and placed against the others, with
`screening.hull`, and by a linear program: the least energy of a mixture of the other phases and the
elements that has the composition (scipy, HiGHS). The two share no code.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from pymatgen.core import Composition
from scipy.optimize import linprog

from screening.hull import place_on_hull

DATA = Path(__file__).parents[2] / "shared" / "data" / "mp_ground_states.parquet"
MOST_PHASES = 20


def least_energy(shares: np.ndarray, phases: np.ndarray, energies: np.ndarray) -> float:
    """Return the least energy of a mixture, eV per atom.

    Args:
        shares: of the elements in the mixture, shape (n_elements,).
        phases: shares of the elements in each phase, shape (n_phases, n_elements).
        energies: of formation, eV per atom, shape (n_phases,).
    """
    return float(linprog(energies, A_eq=phases.T, b_eq=shares, bounds=(0, None)).fun)


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--systems", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    table = pq.read_table(options.data)
    formulas = table.column("formula").to_pylist()
    column = next(name for name in table.column_names if name.startswith("formation_energy"))
    compositions = [Composition(formula) for formula in formulas]
    known = list(zip(compositions, table.column(column).to_pylist(), strict=True))
    by_elements: dict[frozenset[str], list[tuple[Composition, float]]] = {}
    for composition, energy in known:
        by_elements.setdefault(frozenset(composition.get_el_amt_dict()), []).append(
            (composition, energy)
        )
    systems = sorted(
        tuple(sorted(s))
        for s in by_elements
        if 2 <= len(s) <= 4  # noqa: PLR2004
    )
    rng = np.random.default_rng(options.seed)
    began, differences, below = time.perf_counter(), [], 0
    for index in rng.choice(len(systems), options.systems, replace=False):
        elements = systems[index]
        within = [
            phase
            for found, phases in by_elements.items()
            if len(found) > 1 and found <= set(elements)
            for phase in phases
        ]
        pure = [(Composition(element), 0.0) for element in elements]
        for number in rng.permutation(len(within))[:MOST_PHASES]:
            composition, energy = within[number]
            others = pure + within[:number] + within[number + 1 :]
            references = [
                {"formula": other.formula, "energy_per_atom": value, "source": "table"}
                for other, value in others
            ]
            row = {
                "chemical_system": "-".join(elements),
                "status": "kept",
                "chemical_formula_reduced": composition.formula,
                "energy_per_atom": energy,
            }
            (placed,) = place_on_hull([row], references)
            shares = np.array(
                [[other.get_atomic_fraction(e) for e in elements] for other, _ in others]
            )
            mixture = np.array([composition.get_atomic_fraction(e) for e in elements])
            expected = energy - least_energy(mixture, shares, np.array([v for _, v in others]))
            differences.append(abs(placed["e_above_hull"] - expected))
            below += expected < 0
    print(
        f"{len(known)} phases; {options.systems} systems of 2 to 4 elements, {len(differences)} "
        f"phases placed, {below} of them below the hull of the others"
    )
    print(
        f"largest difference {max(differences):.1e} eV/atom, median {np.median(differences):.1e}; "
        f"{time.perf_counter() - began:.0f} s, seed {options.seed}"
    )


if __name__ == "__main__":
    main()

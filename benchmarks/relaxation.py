"""How many calls of the potential does a relaxation take, and how long?

    OMP_NUM_THREADS=1 python benchmarks/relaxation.py [--crystals 12] [--seed 0] [--out F.json]

Starts from structure types in their own compounds with a volume that is wrong by up to 30 % either
way, strains of 5 % and displacements of 0.3 angstrom (standard deviations) along everything that
the space group leaves free. Compares the project's minimiser with optimisers of ASE on
FrechetCellFilter and FixSymmetry: the same potential, the same rule of convergence, one thread.
Seconds are of the processor. "astray" counts results more than 2 meV/atom above the best of all.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import warnings
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixSymmetry
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGS, BFGSLineSearch
from pymatgen.core import Structure
from rich.console import Console
from rich.table import Table

from screening.calculators import load_calculator
from screening.free_coordinates import free_coordinates
from screening.prototypes import prototypes
from screening.relaxation import SYMPREC, relax

if TYPE_CHECKING:
    from collections.abc import Callable

    from ase.calculators.calculator import Calculator

FMAX = 0.05
MAX_STEPS = 300
TYPES = (
    "B4 ZnS", "B33 CrB", "C4 TiO2", "C16 CuAl2", "C23 PbCl2", "D0_19 SnNi3", "D1_3 BaAl4",
    "D5_13 Ni2Al3", "E0_1 FPbCl", "tI10 ThCr2Si2", "hP9 ZrAlNi", "oP12 TiNiSi", "C14 MgZn2",
    "C2 FeS2", "E2_1 SrTiO3", "tI10 BaNiSn3", "C18 FeS2", "D0_a TiCu3", "B27 FeB", "H1_1 MgAl2O4",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """One relaxation by one method."""

    crystal: str
    energy_per_atom: float | None
    """eV; None where the method raised an error."""
    converged: bool
    calls: int
    """Of the potential."""
    seconds: float


class Counted:
    """A calculator's calls, counted."""

    def __init__(self, calculator: Calculator) -> None:
        self.calls = 0
        self.calculator = calculator
        self._calculate = calculator.calculate
        calculator.calculate = self

    def __call__(self, *arguments: Any, **settings: Any) -> None:
        """Calculate, and count."""
        self.calls += 1
        self._calculate(*arguments, **settings)


def starting_points(count: int, seed: int) -> list[tuple[str, Structure]]:
    """Return distorted crystals with the symmetry of their structure types."""
    rng = np.random.default_rng(seed)
    by_name = {prototype.name: prototype for prototype in prototypes()}
    found = []
    for name in TYPES[:count]:
        ideal = by_name[name].decorated(by_name[name].elements)
        numbers = np.array([site.specie.Z for site in ideal])
        free = free_coordinates(ideal.lattice.matrix, ideal.frac_coords, numbers, SYMPREC)
        n_strains = len(free.strains)
        while True:
            values = rng.normal(scale=0.3, size=free.size)
            values[:n_strains] = rng.normal(scale=0.05, size=n_strains) * free.strain_scale
            lattice, positions = free.crystal(values)
            structure = Structure(lattice, ideal.species, positions, coords_are_cartesian=True)
            structure.scale_lattice(ideal.volume * rng.uniform(0.7, 1.3))
            if not len(structure.get_neighbor_list(1.2)[3]):
                break
        found.append((name, structure))
    return found


def with_ase(optimiser: Any) -> Callable[[Structure, Calculator], tuple[float, bool]]:
    """Return a relaxation with an optimiser of ASE's that keeps the space group."""

    def relaxed(structure: Structure, calculator: Calculator) -> tuple[float, bool]:
        atoms = Atoms(
            [site.specie.Z for site in structure],
            cell=structure.lattice.matrix,
            positions=structure.cart_coords,
            pbc=True,
            calculator=calculator,
        )
        atoms.set_constraint(FixSymmetry(atoms, symprec=SYMPREC))
        converged = optimiser(FrechetCellFilter(atoms), logfile=None).run(FMAX, MAX_STEPS)
        return float(atoms.get_potential_energy()) / len(atoms), bool(converged)

    return relaxed


def with_free_coordinates(structure: Structure, calculator: Calculator) -> tuple[float, bool]:
    """Relax as the engine does."""
    relaxed = relax(structure, calculator, FMAX, MAX_STEPS)
    return relaxed.energy / len(relaxed.structure), relaxed.converged


METHODS = {
    "free coordinates": with_free_coordinates,
    "ASE BFGS": with_ase(BFGS),
    "ASE LBFGS": with_ase(LBFGS),
    "ASE FIRE": with_ase(FIRE),
    "ASE BFGSLineSearch": with_ase(BFGSLineSearch),
}


def measured(
    method: Callable[[Structure, Calculator], tuple[float, bool]],
    crystals: list[tuple[str, Structure]],
    counted: Counted,
) -> list[Outcome]:
    """Relax all crystals with a method."""
    outcomes = []
    for name, structure in crystals:
        counted.calls = 0
        counted.calculator.reset()
        began = time.process_time()
        energy, converged = None, False
        try:
            energy, converged = method(structure.copy(), counted.calculator)
        except (RuntimeError, ValueError) as error:
            print(f"  {name}: {error}")
        seconds = time.process_time() - began
        outcomes.append(Outcome(name, energy, converged, counted.calls, seconds))
    return outcomes


def main() -> None:
    """Measure, print a table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crystals", type=int, default=12, choices=range(1, len(TYPES) + 1))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    potential = load_calculator("default")
    counted = Counted(potential.ase())
    crystals = starting_points(arguments.crystals, arguments.seed)
    counted.calculator.calculate(Atoms("Cu", cell=[[0, 2, 2], [2, 0, 2], [2, 2, 0]], pbc=True))
    results = {name: measured(method, crystals, counted) for name, method in METHODS.items()}
    lowest = [
        min(o.energy_per_atom for o in outcomes if o.energy_per_atom is not None)
        for outcomes in zip(*results.values(), strict=True)
    ]
    table = Table("method", "calls, mean", "median", "most", "s each", "converged", "astray")
    for name, outcomes in results.items():
        calls = [outcome.calls for outcome in outcomes]
        astray = sum(
            o.energy_per_atom is None or o.energy_per_atom > low + 0.002
            for o, low in zip(outcomes, lowest, strict=True)
        )
        table.add_row(
            name,
            f"{np.mean(calls):.1f}",
            f"{np.median(calls):.0f}",
            str(max(calls)),
            f"{np.mean([outcome.seconds for outcome in outcomes]):.2f}",
            f"{sum(outcome.converged for outcome in outcomes)}/{len(outcomes)}",
            str(astray),
        )
    Console().print(table)
    record = {
        "seed": arguments.seed,
        "fmax": FMAX,
        "potential": potential.fingerprint,
        "machine": f"{platform.machine()}, python {platform.python_version()}, "
        f"torch {torch.__version__}, ase {version('ase')}, one thread",
        "results": {name: [asdict(o) for o in outcomes] for name, outcomes in results.items()},
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()

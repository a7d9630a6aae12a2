"""Relaxing many crystals at once: here, and with torch-sim, which is not one of our libraries.

    pip install torch-sim-atomistic==0.3.0
    OMP_NUM_THREADS=1 python benchmarks/relaxing_together.py [--crystals 20] [--potential chgnet]

The distorted crystals of ``relaxation.py`` go down together, by `screening.relaxation.Descents` and
by torch-sim's FIRE on Fréchet cells, its only kind of minimiser for cells beside steepest descent.
Both ask the same potential about all crystals that are still on their way, through the same passes,
and stop at the same forces. Evaluations are of one crystal each; seconds are of the processor, the
potential's and those of all else. "Same group" counts crystals that keep their space group.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch_sim
from ase import Atoms
from relaxation import FMAX, MAX_STEPS, starting_points
from rich.console import Console
from rich.table import Table
from torch_sim.models.interface import ModelInterface

from screening.calculators import load_calculator
from screening.relaxation import SYMPREC, Descents
from screening.schema import structure_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pymatgen.core import Structure

    from screening.potential import Evaluation, Potential


class Counted:
    """A potential whose evaluations are counted."""

    def __init__(self, potential: Potential) -> None:
        self._potential = potential
        self.evaluations = 0
        self.seconds = 0.0

    def evaluate(self, crystals: Sequence[Atoms]) -> list[Evaluation | Exception]:
        """Ask the potential."""
        began = time.process_time()
        answers = self._potential.evaluate(crystals)
        self.seconds += time.process_time() - began
        self.evaluations += len(crystals)
        return answers


class ForTorchSim(ModelInterface):
    """A potential as torch-sim asks for it."""

    def __init__(self, potential: Counted) -> None:
        super().__init__()
        self._potential = potential
        self._device, self._dtype = torch.device("cpu"), torch.float64
        self._compute_stress = self._compute_forces = True

    def forward(self, state: Any, **_: Any) -> dict[str, torch.Tensor]:
        """Return energies, forces and stresses of all crystals of a state."""
        answers = self._potential.evaluate(
            [
                Atoms(
                    state.atomic_numbers[state.system_idx == system].numpy(),
                    positions=state.positions[state.system_idx == system].numpy(),
                    cell=state.row_vector_cell[system].numpy(),
                    pbc=True,
                )
                for system in range(state.n_systems)
            ]
        )
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return {
            "energy": torch.tensor([answer.energy for answer in answers], dtype=self._dtype),
            "forces": torch.as_tensor(np.concatenate([answer.forces for answer in answers])),
            "stress": torch.as_tensor(np.stack([answer.stress for answer in answers])),
        }


def with_descents(structures: list[Structure], potential: Counted) -> list[tuple[float, Any]]:
    """Relax as the engine does; return energies, eV per atom, and crystals."""
    rows = [{**structure_columns(structure), "status": "kept"} for structure in structures]
    descents = Descents(rows, potential, FMAX, MAX_STEPS)
    descents.go_down()
    relaxed = [descents.relaxed(place) for place in range(len(rows))]
    return [(one.energy / len(one.structure), one.structure) for one in relaxed]


def with_torch_sim(structures: list[Structure], potential: Counted) -> list[tuple[float, Any]]:
    """Relax as torch-sim does, each crystal in the same cell."""
    state = torch_sim.optimize(
        structures,
        ForTorchSim(potential),
        optimizer=torch_sim.frechet_cell_fire,
        convergence_fn=torch_sim.generate_force_convergence_fn(FMAX),
        max_steps=MAX_STEPS,
        steps_between_swaps=1,
    )
    energies = state.energy.tolist()
    return [
        (energy / len(structure), structure)
        for energy, structure in zip(energies, state.to_structures(), strict=True)
    ]


def main() -> None:
    """Relax both ways, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crystals", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--potential", default="default")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    calculator = load_calculator(arguments.potential)
    counted = Counted(calculator.load())
    structures = [crystal for _, crystal in starting_points(arguments.crystals, arguments.seed)]
    groups = [crystal.get_space_group_info(SYMPREC)[1] for crystal in structures]
    results, rows = {}, {}
    for name, method in (("here", with_descents), ("torch-sim FIRE", with_torch_sim)):
        counted.evaluations, counted.seconds = 0, 0.0
        began = time.process_time()
        found = results[name] = method([crystal.copy() for crystal in structures], counted)
        seconds = time.process_time() - began
        same = [
            crystal.get_space_group_info(SYMPREC)[1] == group
            for (_, crystal), group in zip(found, groups, strict=True)
        ]
        count = len(structures)
        rows[name] = [
            f"{counted.evaluations / count:.1f}",
            f"{counted.seconds / count:.2f}",
            f"{(seconds - counted.seconds) / count:.2f}",
            f"{sum(same)}/{count}",
        ]
    table = Table("method", "evaluations each", "potential, s each", "else", "same group", "astray")
    for name, found in results.items():
        lowest = [min(energies) for energies in zip(*map(_energies, results.values()), strict=True)]
        above = [energy > low + 0.002 for energy, low in zip(_energies(found), lowest, strict=True)]
        table.add_row(name, *rows[name], str(sum(above)))
    print(calculator.fingerprint, "torch-sim 0.3.0")
    Console().print(table)


def _energies(found: list[tuple[float, Any]]) -> list[float]:
    return [energy for energy, _ in found]


if __name__ == "__main__":
    main()

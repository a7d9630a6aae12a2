"""What a relaxation asks of a potential: energies, forces and stresses of several crystals at once."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

    from screening.free_coordinates import Array


@dataclass(frozen=True)
class Evaluation:
    """What a potential says of a crystal."""

    energy: float
    """eV."""
    forces: Array
    """(n_atoms, 3) eV per angstrom."""
    stress: Array
    """(3, 3) eV per cubic angstrom, positive under tension."""


ATOMS_AT_ONCE = {"cpu": 64, "cuda": 4096}
"""Atoms of the crystals in one pass, by device. On a processor larger passes gain nothing; on a GPU,
where nothing was measured, a pass that its memory does not hold is halved."""


class Potential(Protocol):
    """A potential with its weights loaded."""

    def evaluate(self, crystals: Sequence[Atoms]) -> list[Evaluation | Exception]:
        """Return what the potential says of each crystal, or why it says nothing."""


def evaluate_in_passes(
    crystals: Sequence[Atoms],
    prepare: Callable[[Atoms], Any],
    evaluate: Callable[[list[Any]], list[Evaluation]],
    most_atoms: int,
) -> list[Evaluation | Exception]:
    """Ask a network about many crystals, as many in one pass as it has room for.

    Args:
        crystals: what is asked about.
        prepare: makes what the network takes of a crystal.
        evaluate: passes such things through the network. What it raises is blamed on all of them,
            and they are passed in halves, down to the one whose fault it is; so is a pass that the
            device's memory does not hold.
        most_atoms: of the crystals in one pass; a crystal may have more alone.

    Returns:
        What the network says of each crystal, or what was raised.
    """
    answers: list[Any] = [None] * len(crystals)

    def ask(places: list[int], graphs: list[Any]) -> None:
        if not places:
            return
        found = None
        try:
            found = evaluate(graphs)
        except Exception as error:  # noqa: BLE001 - one crystal's, or too many for the memory
            if len(places) == 1:
                answers[places[0]] = error
                return
        if found is None:  # outside of the clause: the error holds on to what filled the memory
            half = len(places) // 2
            ask(places[:half], graphs[:half])
            ask(places[half:], graphs[half:])
            return
        for place, answer in zip(places, found, strict=True):
            answers[place] = answer

    together: list[int] = []
    graphs: list[Any] = []
    n_atoms = 0
    for place, crystal in enumerate(crystals):
        try:
            graph = prepare(crystal)
        except Exception as error:  # noqa: BLE001 - of this crystal, whatever it is
            answers[place] = error
            continue
        if together and n_atoms + len(crystal) > most_atoms:
            ask(together, graphs)
            together, graphs, n_atoms = [], [], 0
        together.append(place)
        graphs.append(graph)
        n_atoms += len(crystal)
    ask(together, graphs)
    return answers


class OneByOne:
    """Any calculator of ASE's as a potential; it is asked about one crystal after the other."""

    def __init__(self, calculator: BaseCalculator) -> None:
        self._calculator = calculator

    def evaluate(self, crystals: Sequence[Atoms]) -> list[Evaluation | Exception]:
        """Return what the calculator says of each crystal, or what it raised."""
        return [self._evaluation(crystal) for crystal in crystals]

    def _evaluation(self, crystal: Any) -> Evaluation | Exception:
        try:
            crystal.calc = self._calculator
            with warnings.catch_warnings():
                # Of torch 2.9 and later; there is nothing that a user could do about it.
                warnings.filterwarnings("ignore", message="Converting a tensor with requires_grad")
                forces = np.asarray(crystal.get_forces(), dtype=np.float64)
                stress = np.asarray(crystal.get_stress(voigt=False), dtype=np.float64)
                return Evaluation(float(crystal.get_potential_energy()), forces, stress)
        except Exception as error:  # noqa: BLE001 - whatever a calculator raises is of this crystal
            return error
        finally:
            crystal.calc = None

"""What a relaxation asks of a potential: energies, forces and stresses of several crystals at once."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

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


class Potential(Protocol):
    """A potential with its weights loaded."""

    def evaluate(self, crystals: Sequence[Atoms]) -> list[Evaluation | Exception]:
        """Return what the potential says of each crystal, or why it says nothing."""


class OneByOne:
    """Any calculator of ASE's as a potential; it is asked about one crystal after the other."""

    def __init__(self, calculator: BaseCalculator) -> None:
        self._calculator = calculator

    def evaluate(self, crystals: Sequence[Atoms]) -> list[Evaluation | Exception]:
        """Return what the calculator says of each crystal, or what it raised."""
        return [self._evaluation(crystal) for crystal in crystals]

    def _evaluation(self, crystal: Any) -> Evaluation | Exception:
        crystal.calc = self._calculator
        try:
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

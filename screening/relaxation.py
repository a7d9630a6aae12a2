"""The relaxation stage: from rows of samples to rows of candidates with energies.

A crystal is relaxed in its primitive cell, its space group kept. It counts as converged when the
largest force and the stress, as a force, are below ``fmax``: see ``minimisation.Point`` for what
that means. A crystal that leaves all sense on the way becomes a failed row that says how.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import spglib
from ase import Atoms
from pymatgen.core import Element, Structure

from screening.calculators import load_calculator
from screening.errors import first_line
from screening.free_coordinates import free_coordinates
from screening.minimisation import ImpossibleGeometryError, Point, minimise
from screening.schema import SYMPREC, structure_columns, structure_from_row

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ase.calculators.calculator import BaseCalculator

    from screening.free_coordinates import Array, FreeCoordinates

SHORTEST_DISTANCE = 0.4
"""Angstrom between two atoms, below which no potential means anything."""
LARGEST_VOLUME_CHANGE = 3.0
"""Factor by which the volume may grow or shrink."""
LOWEST_ENERGY = -20.0
"""eV per atom: nothing real is below (tungsten, the lowest element, has -13)."""


class ExplodedError(ImpossibleGeometryError):
    """A crystal has left the range where a potential means anything."""


@dataclass(frozen=True)
class Relaxed:
    """A crystal after relaxation."""

    structure: Structure
    energy: float
    """eV, of the cell of `structure`."""
    converged: bool
    n_steps: int
    max_force: float
    """Largest force on an atom, eV per angstrom."""
    max_stress: float
    """Largest component of the stress, eV per cubic angstrom."""


@dataclass(frozen=True)
class RelaxationStage:
    """Relaxes the crystals of rows, one by one."""

    calculator: str
    """``default``, the name of a potential, or ``module:factory``."""
    fmax: float
    """eV per angstrom: converged when forces, and the stress as a force, are below."""
    max_steps: int
    """How many steps are tried at the most."""
    _loaded: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the potential behind: it is loaded where the work is done."""
        return {**self.__dict__, "_loaded": {}}

    def setup(self) -> None:
        """Load the potential; called once, on the worker."""
        calculator = load_calculator(self.calculator)
        self._loaded["ase"] = calculator.ase()
        self._loaded["label"] = calculator.fingerprint
        self._loaded["correction"] = calculator.correction

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the row of a sample as that of a candidate: relaxed, or failed with an error.

        The row's other columns stay as they are. A crystal that did not converge keeps its energy,
        with ``converged`` false. Energies contain the potential's correction.
        """
        candidate = {**row, "calculator": self._loaded["label"]}
        try:
            relaxed = relax(structure_from_row(row), self._loaded["ase"], self.fmax, self.max_steps)
            energy = relaxed.energy + self._loaded["correction"](relaxed.structure)
        except Exception as error:  # noqa: BLE001 - a bad crystal is a record, whatever it raised
            text = str(error) if isinstance(error, ExplodedError) else first_line(error)
            return {**candidate, "status": "failed", "error": f"relaxation: {text}"}
        return {
            **candidate,
            **structure_columns(relaxed.structure),
            "energy": energy,
            "energy_per_atom": energy / len(relaxed.structure),
            "converged": relaxed.converged,
            "n_steps": relaxed.n_steps,
            "max_force": relaxed.max_force,
        }


def relax(structure: Structure, calculator: BaseCalculator, fmax: float, max_steps: int) -> Relaxed:
    """Relax a crystal in its primitive cell, its space group kept.

    Args:
        structure: an ordered crystal, in any cell; left as it is.
        calculator: a calculator of ASE's with energy, forces and stress.
        fmax: eV per angstrom.
        max_steps: how many steps are tried at the most.

    Raises:
        ExplodedError: if atoms collide, the volume runs away or numbers cease to be finite.
    """
    coordinates, numbers = _primitive(structure)
    species = [Element.from_Z(number) for number in numbers]
    volume = abs(float(np.linalg.det(coordinates.lattice)))

    def evaluate(lattice: Array, positions: Array) -> Point:
        crystal = Structure(lattice, species, positions, coords_are_cartesian=True)
        _check_geometry(crystal, volume)
        atoms = Atoms(numbers=numbers, cell=lattice, positions=positions, pbc=True)
        point = _point(calculator, atoms, coordinates)
        _check_values(point)
        return point

    minimum = minimise(coordinates, evaluate, fmax, max_steps)
    point = minimum.point
    return Relaxed(
        structure=Structure(
            point.lattice, species, point.positions, coords_are_cartesian=True, to_unit_cell=True
        ),
        energy=point.energy,
        converged=minimum.converged,
        n_steps=minimum.n_steps,
        max_force=point.max_force,
        max_stress=float(np.abs(point.stress).max()),
    )


def _primitive(structure: Structure) -> tuple[FreeCoordinates, list[int]]:
    """Return the free coordinates and atomic numbers of a crystal's primitive cell."""
    lattice = np.asarray(structure.lattice.matrix, dtype=np.float64)
    frac_coords = np.asarray(structure.frac_coords, dtype=np.float64)
    numbers = np.array([site.specie.Z for site in structure], dtype=np.int64)
    with warnings.catch_warnings():
        # spglib 2.7 and later announce a change of how failure is reported; both ways are met.
        warnings.simplefilter("ignore", DeprecationWarning)
        found = spglib.find_primitive((lattice, frac_coords, numbers), symprec=SYMPREC)
        if found is not None and len(found[2]) < len(numbers):
            lattice, frac_coords, numbers = found
        coordinates = free_coordinates(lattice, frac_coords, numbers, SYMPREC)
    return coordinates, [int(number) for number in numbers]


def _point(calculator: Any, atoms: Any, coordinates: FreeCoordinates) -> Point:
    """Ask the potential, and keep of its answer what has the crystal's symmetry.

    Potentials computed in single precision break the symmetry by rounding.
    """
    atoms.calc = calculator
    with warnings.catch_warnings():
        # CHGNet with torch 2.9 and later; there is nothing that a user could do about it.
        warnings.filterwarnings("ignore", message="Converting a tensor with requires_grad=True")
        forces = np.asarray(atoms.get_forces(), dtype=np.float64)
        stress = np.asarray(atoms.get_stress(voigt=False), dtype=np.float64)
        energy = float(atoms.get_potential_energy())
    return Point(
        lattice=atoms.cell.array,
        positions=atoms.positions,
        energy=energy,
        forces=coordinates.symmetrised_forces(forces),
        stress=coordinates.symmetrised_stress(stress),
    )


def _check_geometry(structure: Structure, initial_volume: float) -> None:
    change = structure.volume / initial_volume
    if not 1 / LARGEST_VOLUME_CHANGE <= change <= LARGEST_VOLUME_CHANGE:
        raise ExplodedError(
            f"exploded: the volume changed by a factor of {change:.2f}, beyond "
            f"{LARGEST_VOLUME_CHANGE:g}"
        )
    distances = structure.get_neighbor_list(SHORTEST_DISTANCE)[3]
    if len(distances):
        raise ExplodedError(
            f"exploded: atoms at {distances.min():.2f} Å from one another, closer than "
            f"{SHORTEST_DISTANCE:g} Å"
        )


def _check_values(point: Point) -> None:
    if not (
        np.isfinite(point.energy)
        and np.isfinite(point.forces).all()
        and np.isfinite(point.stress).all()
    ):
        raise ExplodedError("exploded: energy, forces or stress are not finite")
    per_atom = point.energy / len(point.positions)
    if per_atom < LOWEST_ENERGY:
        raise ExplodedError(
            f"exploded: {per_atom:.1f} eV per atom, below {LOWEST_ENERGY:g}, which nothing real has"
        )

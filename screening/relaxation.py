"""The relaxation stage: from rows of samples to rows of candidates with energies.

Many crystals go down together, so that the potential is asked about all of them at once. Each is
relaxed in its primitive cell, its space group kept. It counts as converged when the largest force
and the stress, as a force, are below ``fmax``: see ``minimisation.Point`` for what that means. A crystal that leaves all sense on the way becomes a failed row that says how.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import spglib
from ase import Atoms
from pymatgen.core import Element, Structure

from screening.calculators import load_calculator
from screening.description import distance_ratio
from screening.errors import first_line, refuse_another
from screening.free_coordinates import free_coordinates
from screening.minimisation import ImpossibleGeometryError, Point, minimise
from screening.potential import OneByOne
from screening.schema import SYMPREC, structure_columns, structure_from_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ase.calculators.calculator import BaseCalculator

    from screening.free_coordinates import Array, FreeCoordinates
    from screening.minimisation import Minimum, Trial
    from screening.potential import Evaluation, Potential

    Row = Mapping[str, Any]

VERSION = "1"
"""Raised when the same samples relax to other crystals, fail otherwise or are given up elsewhere."""
SHORTEST_DISTANCE = 0.4
"""Angstrom between two atoms, below which no potential means anything."""
LARGEST_VOLUME_CHANGE = 3.0
"""Factor by which the volume may grow or shrink."""
FALL = 4.0
"""How many times as far as expected a crystal may fall (decision 98)."""
LOWEST_ENERGY = -20.0
"""eV per atom: nothing real is below (tungsten, the lowest element, has -13)."""
CLOSEST_CONTACT = 0.4
"""Shortest distance of a relaxed crystal over the sum of the atoms' covalent radii: known crystals
have 0.43 and more. Potentials have minima below 0.2, where they were never trained."""


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


class Descent:
    """A crystal on its way down.

    Args:
        structure: an ordered crystal, in any cell; left as it is.
        fmax: eV per angstrom.
        max_steps: how many steps are tried at the most.

    Raises:
        ExplodedError: if no potential should be asked about it.
    """

    def __init__(self, structure: Structure, fmax: float, max_steps: int) -> None:
        self._coordinates, self._numbers = _primitive(structure)
        self._volume = abs(float(np.linalg.det(self._coordinates.lattice)))
        self._steps = minimise(self._coordinates, fmax, max_steps)
        self.lowest = np.inf
        """The lowest energy so far, eV per atom."""
        self.expected_fall = np.inf
        """How far below it the minimum is expected, eV per atom."""
        self.n_evaluations = 0
        self.relaxed: Relaxed | None = None
        """What it came to; None on the way."""
        self._asked: Atoms | None = None
        self._go_on(partial(next, self._steps))

    @property
    def foreseen(self) -> float:
        """What its energy can be expected to stay above, eV per atom."""
        return self.lowest - FALL * self.expected_fall if self.n_evaluations else -np.inf

    @property
    def asked(self) -> Atoms:
        """The crystal that the potential is to be asked about next."""
        if self._asked is None:
            raise ValueError("the crystal is relaxed")
        return self._asked

    def take(self, evaluation: Evaluation | Exception) -> None:
        """Take what the potential says of `asked`, and make a step.

        Raises:
            ExplodedError: if atoms collide, in the end lie in one another, the volume runs away or
                numbers cease to be finite.
            Exception: what the potential raised.
        """
        if isinstance(evaluation, Exception):
            raise evaluation
        self.n_evaluations += 1
        point = Point(
            lattice=self.asked.cell.array,
            positions=self.asked.positions,
            energy=evaluation.energy,
            # Potentials computed in single precision break the symmetry by rounding.
            forces=self._coordinates.symmetrised_forces(evaluation.forces),
            stress=self._coordinates.symmetrised_stress(evaluation.stress),
        )
        try:
            _check_values(point)
        except ExplodedError as error:
            self._go_on(partial(self._steps.throw, error))
            return
        self.lowest = min(self.lowest, point.energy / len(point.positions))
        self._go_on(partial(self._steps.send, point))

    def _go_on(self, step: Callable[[], Trial]) -> None:
        """Go to the next crystal that a potential can be asked about, or to the end."""
        self._asked = None
        while self._asked is None:
            try:
                trial = step()
            except StopIteration as end:
                relaxed = self._result(end.value)
                _check_contacts(relaxed.structure)
                self.relaxed = relaxed
                return
            self.expected_fall = trial.expected_fall / len(trial.positions)
            try:
                _check_geometry(self._structure(trial.lattice, trial.positions), self._volume)
            except ExplodedError as error:
                step = partial(self._steps.throw, error)
            else:
                self._asked = Atoms(
                    self._numbers, cell=trial.lattice, positions=trial.positions, pbc=True
                )

    def _structure(self, lattice: Array, positions: Array, **how: Any) -> Structure:
        species = [Element.from_Z(number) for number in self._numbers]
        return Structure(lattice, species, positions, coords_are_cartesian=True, **how)

    def _result(self, minimum: Minimum) -> Relaxed:
        point = minimum.point
        return Relaxed(
            structure=self._structure(point.lattice, point.positions, to_unit_cell=True),
            energy=point.energy,
            converged=minimum.converged,
            n_steps=minimum.n_steps,
            max_force=point.max_force,
            max_stress=float(np.abs(point.stress).max()),
        )


class Descents:
    """The relaxation of the crystals of rows, together.

    A row is known by its place among the rows; its crystal goes down apart from the others.

    Args:
        rows: of samples, all of them kept.
        potential: is asked about crystals.
        fmax: eV per angstrom.
        max_steps: how many steps are tried at the most.
    """

    def __init__(
        self, rows: Sequence[Row], potential: Potential, fmax: float, max_steps: int
    ) -> None:
        self._potential = potential
        self._descents: dict[int, Descent] = {}
        self.errors: dict[int, str] = {}
        """Why a row has failed, by its place."""
        for place, row in enumerate(rows):
            with self.recorded(place):
                self._descents[place] = Descent(structure_from_row(row), fmax, max_steps)

    def go_down(self, ceilings: Mapping[int, float] | None = None) -> None:
        """Relax all crystals to the end, or until one cannot be expected to come below its ceiling.

        Args:
            ceilings: eV per atom, by the place of a row; without one a crystal is never given up.
        """
        ceilings = ceilings or {}
        while going := [
            place
            for place, descent in self._descents.items()
            if descent.relaxed is None and descent.foreseen <= ceilings.get(place, np.inf)
        ]:
            crystals = [self._descents[place].asked for place in going]
            answers = self._potential.evaluate(crystals)
            for place, answer in zip(going, answers, strict=True):
                with self.recorded(place):
                    self._descents[place].take(answer)

    def given_up(self, place: int) -> Descent | None:
        """Return the way down of a row's crystal, if it was given up."""
        descent = self._descents.get(place)
        return descent if descent is not None and descent.relaxed is None else None

    def relaxed(self, place: int) -> Relaxed:
        """Return what a row's crystal, which went down to the end, has come to.

        Raises:
            ValueError: if it has failed, or was given up.
        """
        descent = self._descents.get(place)
        if descent is None or descent.relaxed is None:
            raise ValueError(self.errors.get(place, "given up"))
        return descent.relaxed

    @contextmanager
    def recorded(self, place: int) -> Iterator[None]:
        """Record what is raised as the error of a row: whatever it is, it ends that row alone."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a bad crystal is a record, whatever it raised
            text = str(error) if isinstance(error, ExplodedError) else first_line(error)
            self.errors.setdefault(place, f"relaxation: {text}")
            self._descents.pop(place, None)


@dataclass(frozen=True)
class Rival:
    """The row of a sample, and what its crystal has to measure up to."""

    row: Row
    hull_energy: float
    """eV per atom: of the hull of the reference phases at its composition."""


@dataclass(frozen=True)
class RelaxationStage:
    """Relaxes the crystals of rows."""

    calculator: str
    """``default``, the name of a potential, or ``module:factory``."""
    fmax: float
    """eV per angstrom: converged when forces, and the stress as a force, are below."""
    max_steps: int
    """How many steps are tried at the most."""
    give_up_above: float | None = None
    """eV per atom: a rival that cannot be expected to come closer to the hull is given up."""
    device: str = "cpu"
    """``cpu``, or ``gpu``: the worker's GPU, if it has one."""
    meant: str | None = None
    """The fingerprint that the potential must have; None takes any."""
    _loaded: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the potential behind: it is loaded where the work is done."""
        return {**self.__dict__, "_loaded": {}}

    def setup(self) -> None:
        """Load the potential; called once, on the worker.

        Raises:
            UserError: if it is another than the work began with.
        """
        calculator = load_calculator(self.calculator)
        if self.meant is not None:
            refuse_another("calculator", calculator.fingerprint, self.meant)
        self._loaded["potential"] = calculator.load(self._torch_device())
        self._loaded["fingerprint"] = calculator.fingerprint
        self._loaded["correction"] = calculator.correction

    def _torch_device(self) -> str:
        if self.device != "gpu":
            return "cpu"
        # It imports torch, which is slow and which not every potential needs.
        from model.device import chosen_device  # noqa: PLC0415

        return chosen_device("auto")

    @property
    def fingerprint(self) -> str:
        """Of the potential: the value of the column ``calculator``; known after `setup`."""
        return str(self._loaded["fingerprint"])

    def __call__(self, work: Row | Rival) -> dict[str, Any]:
        """Return the row of a sample as that of a candidate: relaxed, given up, or failed."""
        return self.together([work])[0]

    def together(self, works: Sequence[Row | Rival]) -> list[dict[str, Any]]:
        """Relax the crystals of rows together, and return each as `__call__` does.

        A row's other columns stay as they are. A crystal that did not converge keeps its energy,
        with ``converged`` false; one that was given up is ``filtered``, with the reason. Energies
        contain the potential's correction.
        """
        rows = [work.row if isinstance(work, Rival) else work for work in works]
        descents = Descents(rows, self._loaded["potential"], self.fmax, self.max_steps)
        floors: dict[int, float] = {}
        for place, work in enumerate(works):
            if isinstance(work, Rival) and self.give_up_above is not None:
                with descents.recorded(place):
                    structure = structure_from_row(work.row)
                    floors[place] = work.hull_energy - self._correction(structure) / len(structure)
        limit = self.give_up_above or 0.0
        descents.go_down({place: floor + limit for place, floor in floors.items()})
        return [
            self._candidate(row, descents, place, floors.get(place, np.inf))
            for place, row in enumerate(rows)
        ]

    def _correction(self, structure: Structure) -> float:
        """Return what the potential's energy of a crystal's cell lacks, eV."""
        return float(self._loaded["correction"](structure))

    def _candidate(self, row: Row, descents: Descents, place: int, floor: float) -> dict[str, Any]:
        if (descent := descents.given_up(place)) is not None:
            reason = (
                f"give_up_above: not expected below {descent.foreseen - floor:.2f} eV/atom above "
                f"the hull after {descent.n_evaluations} evaluations > {self.give_up_above:g}"
            )
            return {**row, "status": "filtered", "reason": reason}
        columns: dict[str, Any] = {}
        with descents.recorded(place):
            relaxed = descents.relaxed(place)
            energy = relaxed.energy + self._correction(relaxed.structure)
            columns = {
                **structure_columns(relaxed.structure),
                "energy": energy,
                "energy_per_atom": energy / len(relaxed.structure),
                "converged": relaxed.converged,
                "n_steps": relaxed.n_steps,
                "max_force": relaxed.max_force,
            }
        if place in descents.errors:
            columns = {"status": "failed", "error": descents.errors[place]}
        return {**row, "calculator": self.fingerprint, **columns}


def relax(structure: Structure, calculator: BaseCalculator, fmax: float, max_steps: int) -> Relaxed:
    """Relax one crystal in its primitive cell, its space group kept.

    Args:
        structure: an ordered crystal, in any cell; left as it is.
        calculator: a calculator of ASE's with energy, forces and stress.
        fmax: eV per angstrom.
        max_steps: how many steps are tried at the most.

    Raises:
        ExplodedError: if atoms collide, the volume runs away or numbers cease to be finite.
    """
    potential = OneByOne(calculator)
    descent = Descent(structure, fmax, max_steps)
    while descent.relaxed is None:
        descent.take(potential.evaluate([descent.asked])[0])
    return descent.relaxed


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


def _check_contacts(structure: Structure) -> None:
    ratio = distance_ratio(structure)
    if ratio < CLOSEST_CONTACT:
        raise ExplodedError(
            f"collapsed: atoms at {ratio:.2f} of the sum of their covalent radii, closer than "
            f"{CLOSEST_CONTACT:g}, which no known crystal has"
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

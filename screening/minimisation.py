"""Quasi-Newton minimisation of a crystal's energy over its free coordinates.

BFGS with Powell's damping on the whole, small Hessian (Nocedal and Wright, Numerical Optimization,
2nd ed., procedure 18.2), inside a trust region. A step that raises the energy is taken back and
shortened; what it taught about the curvature is kept. ``docs/results.md`` compares it with the
optimisers of ASE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Generator

    from screening.free_coordinates import Array, FreeCoordinates

LONGEST_MOVE = 0.4
"""Angstrom: no atom is displaced by more in one step."""
LARGEST_STRAIN = 0.12
"""No direction is strained by more in one step."""

_CURVATURE = 8.0  # eV per square angstrom, of every coordinate before anything is known
_SMALLEST_CURVATURE = 1.0
_DAMPING = 0.2  # Powell's: the share of the old curvature that a step must leave
_SHORTENING = 0.4
_SMALLEST_TRUST = 0.01
_FULL_STEP = 0.9
_ENERGY_NOISE = 2e-5  # eV per atom: potentials compute in single precision


class ImpossibleGeometryError(ValueError):
    """A crystal that no potential should be asked about."""


@dataclass(frozen=True)
class Point:
    """A crystal, and what a potential says of it."""

    lattice: Array
    """(3, 3) angstrom, rows are vectors."""
    positions: Array
    """(n_atoms, 3) Cartesian, angstrom."""
    energy: float
    """eV."""
    forces: Array
    """(n_atoms, 3) eV per angstrom."""
    stress: Array
    """(3, 3) eV per cubic angstrom, positive under tension."""

    @property
    def volume(self) -> float:
        """Cubic angstrom."""
        return abs(float(np.linalg.det(self.lattice)))

    @property
    def max_force(self) -> float:
        """The largest force on an atom, eV per angstrom."""
        return float(np.linalg.norm(self.forces, axis=1).max())

    @property
    def max_stress_force(self) -> float:
        """The stress in the units of a force: the largest row of V stress / n_atoms.

        These are the cell rows that ASE's ``FrechetCellFilter`` compares with ``fmax``: at 15 cubic
        angstrom per atom, 0.05 means a stress of 0.0033 eV per cubic angstrom, or 0.5 GPa.
        """
        rows = np.linalg.norm(self.stress, axis=1)
        return float(rows.max()) * self.volume / len(self.positions)


@dataclass(frozen=True)
class Trial:
    """A crystal that a minimisation asks about."""

    lattice: Array
    """(3, 3) angstrom, rows are vectors."""
    positions: Array
    """(n_atoms, 3) Cartesian, angstrom."""
    expected_fall: float
    """eV: how far below the lowest point so far the minimum is expected, half the Newton decrement
    squared (Boyd and Vandenberghe, Convex Optimization, equation 9.30); infinite at first."""


@dataclass(frozen=True)
class Minimum:
    """Where a minimisation ended."""

    point: Point
    converged: bool
    n_steps: int
    """Steps that were tried, at most one evaluation of the potential each."""


def minimise(
    coordinates: FreeCoordinates, fmax: float, max_steps: int
) -> Generator[Trial, Point, Minimum]:
    """Lower a crystal's energy until forces and stress are small, its symmetry kept.

    A generator, so that many crystals can go down together: it yields trials, and is sent what a
    potential says there, as a point whose forces and stress have the crystal's symmetry. Of a
    crystal that no potential should be asked about, it is thrown an `ImpossibleGeometryError`
    instead.

    Args:
        coordinates: the crystal and its free coordinates.
        fmax: eV per angstrom. Converged means `Point.max_force` and `Point.max_stress_force` below.
        max_steps: how many steps are tried at the most.

    Raises:
        ImpossibleGeometryError: if it is thrown at the first crystal, or whichever way the step is
            shortened. Whatever else is thrown ends the minimisation at once.
    """
    here = np.zeros(coordinates.size)
    point = yield Trial(*coordinates.crystal(here), expected_fall=np.inf)
    gradient = coordinates.gradient(here, point.forces, point.stress)
    hessian = _CURVATURE * np.eye(coordinates.size)
    noise = _ENERGY_NOISE * len(coordinates.positions)
    trust = 1.0
    for n_steps in range(max_steps):
        if _is_converged(point, fmax):
            return Minimum(point, converged=True, n_steps=n_steps)
        newton_step = _newton_step(hessian, gradient)
        step, size = _cut(coordinates, newton_step, trust)
        expected_fall = -float(gradient @ newton_step) / 2
        try:
            trial = yield Trial(*coordinates.crystal(here + step), expected_fall)
        except ImpossibleGeometryError:
            if size <= _SMALLEST_TRUST:
                raise
            trust = max(_SHORTENING * size, _SMALLEST_TRUST)
            continue
        trial_gradient = coordinates.gradient(here + step, trial.forces, trial.stress)
        hessian = _updated(hessian, step, trial_gradient - gradient)
        if trial.energy > point.energy + noise:
            trust = max(_SHORTENING * size, _SMALLEST_TRUST)
            continue
        if size > _FULL_STEP * trust:
            trust = min(2 * trust, 1.0)
        here, point, gradient = here + step, trial, trial_gradient
    return Minimum(point, _is_converged(point, fmax), max_steps)


def _is_converged(point: Point, fmax: float) -> bool:
    return max(point.max_force, point.max_stress_force) < fmax


def _newton_step(hessian: Array, gradient: Array) -> Array:
    curvatures, axes = np.linalg.eigh(hessian)
    return np.asarray(-axes @ ((axes.T @ gradient) / np.maximum(curvatures, _SMALLEST_CURVATURE)))


def _cut(coordinates: FreeCoordinates, step: Array, trust: float) -> tuple[Array, float]:
    """Return a step, cut to the trust radius, and its size in units of the longest one."""
    strain, displacement = coordinates.split(step)
    size = max(
        float(np.linalg.norm(displacement, axis=1).max()) / LONGEST_MOVE,
        float(np.abs(np.linalg.eigvalsh(strain)).max()) / LARGEST_STRAIN,
    )
    return (step * (trust / size), trust) if size > trust else (step, size)


def _updated(hessian: Array, step: Array, change: Array) -> Array:
    """Return the Hessian after a step (size,) that changed the gradient by `change` (size,)."""
    expected = hessian @ step
    old = float(step @ expected)
    new = float(step @ change)
    if not old > 0:  # the step was zero: nothing was learned
        return hessian
    weight = 1.0 if new >= _DAMPING * old else (1 - _DAMPING) * old / (old - new)
    change = weight * change + (1 - weight) * expected
    return np.asarray(
        hessian
        + np.outer(change, change) / float(step @ change)
        - np.outer(expected, expected) / old
    )

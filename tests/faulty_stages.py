"""Small stages for the tests of the cluster: real work, and real faults."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.calculators.emt import EMT
from pymatgen.core import Structure

from screening.errors import UserError
from screening.schema import structure_columns

if TYPE_CHECKING:
    from screening.grid import Unit


@dataclass(frozen=True)
class Square:
    """Squares a number, and says which process did it."""

    seconds: float = 0.0

    def setup(self) -> None:
        """Need nothing."""

    def __call__(self, number: int) -> tuple[int, int]:
        """Return the square and the process id."""
        time.sleep(self.seconds)
        return number * number, os.getpid()


@dataclass(frozen=True)
class DiesOnce:
    """Kills its process at the first attempt at each multiple of `every`."""

    directory: str
    every: int

    def setup(self) -> None:
        """Need nothing."""

    def __call__(self, number: int) -> int:
        """Return the number, at the second attempt."""
        log = Path(self.directory) / str(number)
        with log.open("a") as file:
            file.write("begun\n")
        if number % self.every == 0 and log.read_text().count("begun") == 1:
            os._exit(1)
        return number


@dataclass(frozen=True)
class Poison:
    """Kills its process whenever it meets one number, and raises at another."""

    kills: int
    raises: int

    def setup(self) -> None:
        """Need nothing."""

    def __call__(self, number: int) -> int:
        """Return the number, if it lives."""
        if number == self.kills:
            os._exit(1)
        if number == self.raises:
            raise ValueError(f"{number} is not a crystal\nat all")
        return number


@dataclass(frozen=True)
class Refuses:
    """Cannot be set up."""

    how: str

    def setup(self) -> None:
        """Fail in the way that was asked for."""
        if self.how == "exits":
            os._exit(1)
        if self.how == "user":
            raise UserError("calculator 'none' is not known")
        raise OSError("no weights here")

    def __call__(self, number: int) -> int:
        """Return the number."""
        return number


@dataclass(frozen=True)
class DiesOnceLoading:
    """Kills its process the first time it is set up."""

    directory: str

    def setup(self) -> None:
        """Leave a mark and die, unless the mark is there."""
        mark = Path(self.directory) / "mark"
        if not mark.exists():
            mark.touch()
            os._exit(1)

    def __call__(self, number: int) -> int:
        """Return the number."""
        return number


@dataclass(frozen=True)
class ReportsEnvironment:
    """Says what a worker finds around it: a variable, or its priority."""

    def setup(self) -> None:
        """Need nothing."""

    def __call__(self, name: str) -> str | None:
        """Return a variable of the environment, or the process's niceness."""
        return str(os.nice(0)) if name == "niceness" else os.environ.get(name)


class Crashing(EMT):
    """A potential that takes its process with it, as a fault in compiled code does."""

    def calculate(self, *_: object, **__: object) -> None:
        """Die."""
        os._exit(1)


def double(number: int) -> int:
    """Prepare a piece of work: as a graph task does."""
    return 2 * number


def cannot_be_learned(say: object) -> None:
    """Fail in training."""
    raise ValueError(f"this cannot be learned, whatever {type(say).__name__} says")


def own_process(number: int) -> int:
    """Say which process prepares."""
    del number
    return os.getpid()


def fragile_double(number: int) -> int:
    """Prepare a piece of work, but die at 3 and raise at 4."""
    if number == 3:
        os._exit(1)
    if number == 4:
        raise ValueError("4 has no graph")
    return 2 * number


@dataclass(frozen=True)
class DrawsAllButOne:
    """Draws copper for each sample of units, and raises whenever a certain unit is among them."""

    unit_id: str
    status: str
    """Of the others."""

    def setup(self) -> None:
        """Need nothing."""

    def __call__(self, pack: tuple[Unit, ...]) -> list[dict[str, Any]]:
        """Return a row per sample."""
        if self.unit_id in [unit.unit_id for unit in pack]:
            raise ValueError(f"{self.unit_id} cannot be drawn")
        drawn = {
            **structure_columns(Structure(3.6 * np.eye(3), ["Cu"], [[0, 0, 0]])),
            "generator": "",
        }
        return [
            {**unit.columns(place), **drawn, "status": self.status}
            for unit in pack
            for place in range(unit.count)
        ]


@dataclass(frozen=True)
class RelaxesAllButOne:
    """Returns rows as they are, and takes its process with it whenever a certain one is among them."""

    sample_id: str

    def setup(self) -> None:
        """Need nothing."""

    def __call__(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the rows."""
        if self.sample_id in [row["sample_id"] for row in rows]:
            os._exit(1)
        return rows


def unprepared(pack: tuple[Unit, ...]) -> tuple[Unit, ...]:
    """Prepare nothing."""
    return pack


class OtherEMT(EMT):
    """A second potential: the first one's energies, larger by a tenth, and an electron volt up."""

    def calculate(self, *arguments: Any, **settings: Any) -> None:
        """Compute, then change."""
        super().calculate(*arguments, **settings)
        n_atoms = len(self.atoms)
        for name in ("energy", "free_energy"):
            self.results[name] = 1.1 * self.results[name] + n_atoms
        for name in ("forces", "stress"):
            if name in self.results:
                self.results[name] = 1.1 * self.results[name]


class Blind(EMT):
    """A potential that says nothing."""

    def calculate(self, *arguments: Any, **settings: Any) -> None:
        """Raise."""
        del arguments, settings
        raise ValueError("this potential says nothing")

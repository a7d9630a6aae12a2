"""Targets of a rediscovery: the input of a known crystal, and the crystal as the answer."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import spglib
from pydantic import ConfigDict, Field, field_validator, model_validator
from pymatgen.core import Element, Structure

from model.wyckoff import n_free_coordinates
from screening.campaign import Filters
from screening.chemistry import HEAVIEST_ATOMIC_NUMBER, check_element, space_group_number
from screening.errors import UserError, first_line, shown
from screening.grid import Cell, skip_reason
from screening.schema import structure_columns
from screening.screens import shortest_distance
from screening.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

SYMPREC = 0.1
"""Angstrom: the tolerance with which the groups of the training data and the targets are found."""

_UNSAFE = re.compile(r"[^A-Za-z0-9.-]+")
_VECTOR = Annotated[list[float], Field(min_length=3, max_length=3)]


class _Entry(Settings):
    """One entry of a targets file; what else it holds is for the reader."""

    model_config = ConfigDict(extra="ignore")

    material_id: str = Field(min_length=1, max_length=100, description="a name, as text")
    spacegroup_number: int = Field(description="a number from 16 to 230")
    sites: dict[str, Annotated[int, Field(ge=1, le=100)]] = Field(
        min_length=1, description="element to number of inequivalent sites, such as {Na: 1, Cl: 1}"
    )
    lattice: list[_VECTOR] = Field(
        min_length=3, max_length=3, description="three rows of three numbers (Å), the cell vectors"
    )
    atomic_numbers: list[Annotated[int, Field(ge=1, le=HEAVIEST_ATOMIC_NUMBER)]] = Field(
        min_length=1, description=f"one number from 1 to {HEAVIEST_ATOMIC_NUMBER} for each atom"
    )
    frac_coords: list[_VECTOR] = Field(description="three numbers for each atom")

    @field_validator("spacegroup_number")
    @classmethod
    def _covered(cls, number: int) -> int:
        return space_group_number(number, "spacegroup_number")

    @field_validator("sites")
    @classmethod
    def _elements(cls, sites: dict[str, int]) -> dict[str, int]:
        for symbol in sites:
            check_element(symbol, "sites")
        return sites

    @model_validator(mode="after")
    def _consistent(self) -> _Entry:
        if len(self.frac_coords) != len(self.atomic_numbers):
            raise ValueError(
                f"frac_coords holds {len(self.frac_coords)} positions; there must be one for each "
                f"of the {len(self.atomic_numbers)} atomic_numbers"
            )
        elements = {Element.from_Z(number).symbol for number in self.atomic_numbers}
        if elements != set(self.sites):
            raise ValueError(
                f"sites names {', '.join(sorted(self.sites))}; the answer is made of "
                f"{', '.join(sorted(elements))}"
            )
        if not abs(np.linalg.det(self.lattice)) > 0:
            raise ValueError(f"lattice is {shown(self.lattice)}; its volume must not be zero")
        return self


@dataclass(frozen=True)
class Target:
    """A known crystal, and what a search is told about it."""

    key: str
    """Unique in its file, and safe as the name of one."""
    name: str
    cell: Cell
    answer: Structure
    n_free: int
    """Free positional coordinates of the answer's Wyckoff positions; lengths do not count."""

    @property
    def formula(self) -> str:
        """The reduced formula, as the column `chemical_formula_reduced` has it."""
        return str(structure_columns(self.answer)["chemical_formula_reduced"])


@dataclass(frozen=True)
class Targets:
    """The targets of a file."""

    path: Path
    fingerprint: str
    """Digest of the file."""
    entries: tuple[Target, ...]


def read_targets(path: Path) -> Targets:
    """Read a file of targets: JSON, a list of objects as in ``data/rediscovery_36.json``.

    Raises:
        UserError: if it is missing or breaks a rule, in one sentence.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"--targets is {shown(str(path), 200)}, which cannot be read: {error.strerror}"
        ) from None
    try:
        entries = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {first_line(error)}") from None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path} holds {shown(entries)}; allowed: a list of targets, at least one")
    targets = tuple(_target(entry, place, path) for place, entry in enumerate(entries, start=1))
    return Targets(path, hashlib.sha256(content).hexdigest()[:16], targets)


def _target(values: Any, place: int, path: Path) -> Target:
    source = f"{path}: target {place}"
    if not isinstance(values, dict):
        raise UserError(f"{source} is {shown(values)}; allowed: an object with the target's keys")
    entry = _Entry.from_mapping(values, source)
    system = "-".join(sorted(entry.sites))
    counts = {element: entry.sites[element] for element in sorted(entry.sites)}
    cell = Cell(system, entry.spacegroup_number, counts)
    reason = skip_reason(cell, Filters().max_atoms)
    if reason is not None:
        raise UserError(f"{source}: sites is {shown(entry.sites)}; {reason}")
    answer = Structure(
        entry.lattice, [Element.from_Z(z) for z in entry.atomic_numbers], entry.frac_coords
    )
    if shortest_distance(answer, SYMPREC) < SYMPREC:
        raise UserError(
            f"{source}: frac_coords puts two atoms less than {SYMPREC:g} Å from one another"
        )
    try:
        n_free = free_positional_coordinates(answer)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from None
    key = f"{place:04d}-{_UNSAFE.sub('-', entry.material_id)[:60]}"
    return Target(key, entry.material_id, cell, answer, n_free)


def free_positional_coordinates(structure: Structure, symprec: float = SYMPREC) -> int:
    """Count the coordinates that the Wyckoff positions of a crystal's sites leave free.

    Args:
        structure: in any cell.
        symprec: spglib's tolerance, angstrom.

    Raises:
        ValueError: if spglib finds no symmetry.
    """
    numbers = np.array([site.specie.Z for site in structure])
    cell = (structure.lattice.matrix, structure.frac_coords, numbers)
    with warnings.catch_warnings():
        # spglib 2.7 and later announce a change of how failure is reported; both ways are met.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            found = spglib.get_symmetry_dataset(cell, symprec=symprec)
        except Exception:  # noqa: BLE001 - spglib's error class differs between its versions
            found = None
    if found is None:
        raise ValueError("spglib finds no symmetry in the answer")
    moved = np.einsum("hij,nj->hni", found.rotations, structure.frac_coords)
    apart = (moved + found.translations[:, None])[:, :, None] - structure.frac_coords
    apart -= np.round(apart)
    squared = ((apart @ structure.lattice.matrix) ** 2).sum(axis=3)
    squared[:, numbers[:, None] != numbers] = np.inf
    representatives = np.unique(found.crystallographic_orbits)
    return n_free_coordinates(found.rotations, squared.argmin(axis=2), representatives)

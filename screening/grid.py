"""The grid of a campaign: chemical systems x space groups x site counts, cut into units of work.

Everything here is lazy and pure: a campaign of a million cells costs nothing until it is walked.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations, product
from math import ceil, comb
from typing import TYPE_CHECKING, Any

from pymatgen.core import Element

from screening.campaign import Combinations
from screening.chemistry import space_group_symbol
from screening.errors import UserError
from screening.orbits import smallest_orbits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from screening.campaign import Campaign

_SEED_BITS = 63


@dataclass(frozen=True)
class Cell:
    """One cell of the grid: what the user fixes about a crystal."""

    chemical_system: str
    """Elements in alphabetical order, e.g. ``Cu-K-Si``."""
    space_group: int
    """16 to 230."""
    site_counts: Mapping[str, int]
    """Element symbol to number of inequivalent sites, in alphabetical order."""

    @property
    def site_counts_label(self) -> str:
        """The site counts as text, e.g. ``Cu1-K1-Si1``."""
        return site_counts_label(self.site_counts)

    @property
    def atomic_numbers(self) -> list[int]:
        """The element of each inequivalent site."""
        return [Element(symbol).Z for symbol, n in self.site_counts.items() for _ in range(n)]


@dataclass(frozen=True)
class SkippedCell:
    """A cell that holds no crystal, and why."""

    cell: Cell
    reason: str


@dataclass(frozen=True)
class Unit:
    """Samples of one cell that are worked on, stored and resumed together."""

    unit_id: str
    """E.g. ``Cu-K-Si_062_Cu1-K1-Si1_000``: safe as a file name."""
    cell: Cell
    first_index: int
    """Index of the first sample within the cell."""
    count: int
    """Number of samples."""
    campaign_seed: int
    number: int = field(default=0, compare=False)
    """Place among the units of its campaign, from 0."""

    def sample_id(self, position: int) -> str:
        """Return the id of the sample at a position of this unit, from 0."""
        if not 0 <= position < self.count:
            raise IndexError(f"unit {self.unit_id} has {self.count} samples, got {position}")
        return f"{self.unit_id}-{position:03d}"

    @property
    def n_sites(self) -> int:
        """The number of sites of all its samples."""
        return self.count * sum(self.cell.site_counts.values())

    @property
    def sample_ids(self) -> list[str]:
        """The ids of all its samples, in order."""
        return [self.sample_id(position) for position in range(self.count)]

    def columns(self, position: int) -> dict[str, Any]:
        """Return the columns of the results that say what the sample at a position is."""
        return {
            "sample_id": self.sample_id(position),
            "unit_id": self.unit_id,
            "seed": self.seed(position),
            "chemical_system": self.cell.chemical_system,
            "space_group_requested": self.cell.space_group,
            "site_counts": self.cell.site_counts_label,
        }

    def seed(self, position: int) -> int:
        """Return the seed of the sample at a position of this unit."""
        return sample_seed(self.campaign_seed, self.sample_id(position))


def site_counts_label(site_counts: Mapping[str, int]) -> str:
    """Return site counts as text, e.g. ``Cu1-K1-Si1``."""
    return "-".join(f"{element}{count}" for element, count in site_counts.items())


def sample_seed(campaign_seed: int, sample_id: str) -> int:
    """Return the 63-bit seed of a sample. All its randomness comes from this number."""
    digest = hashlib.sha256(f"{campaign_seed}/{sample_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - _SEED_BITS)


def chemical_systems(campaign: Campaign) -> Iterator[str]:
    """Yield the names of the chemical systems, elements in alphabetical order."""
    systems = campaign.chemical_systems
    if isinstance(systems, Combinations):
        for elements in combinations(sorted(systems.elements), systems.arity):
            yield "-".join(elements)
    else:
        yield from systems


def site_counts_choices(
    per_element: Sequence[int], arity: int, total_max: int
) -> Iterator[tuple[int, ...]]:
    """Yield the ways in which ``arity`` elements take their numbers of sites, ascending.

    Args:
        per_element: the numbers that an element may take, ascending.
        arity: the number of elements.
        total_max: the most sites in all.
    """
    if arity == 0:
        yield ()
        return
    for count in per_element:
        left = total_max - count
        if left < (arity - 1) * per_element[0]:
            break
        for others in site_counts_choices(per_element, arity - 1, left):
            yield (count, *others)


def cells(campaign: Campaign) -> Iterator[Cell]:
    """Yield the cells that can hold a crystal."""
    for cell in _all_cells(campaign):
        if skip_reason(cell, campaign.filters.max_atoms) is None:
            yield cell


def skipped(campaign: Campaign) -> Iterator[SkippedCell]:
    """Yield the cells that cannot hold a crystal, each with the reason."""
    for cell in _all_cells(campaign):
        reason = skip_reason(cell, campaign.filters.max_atoms)
        if reason is not None:
            yield SkippedCell(cell, reason)


def skip_reason(cell: Cell, max_atoms: int) -> str | None:
    """Return why a cell can hold no crystal, or None if it can."""
    return _refusal(cell.space_group, sum(cell.site_counts.values()), max_atoms)


def units(campaign: Campaign) -> Iterator[Unit]:
    """Yield the units of work of all cells."""
    number = 0
    for cell in cells(campaign):
        for unit in cell_units(
            cell, campaign.samples_per_cell, campaign.generator.unit_size, campaign.seed
        ):
            yield replace(unit, number=number)
            number += 1


def cell_units(cell: Cell, n_samples: int, unit_size: int, campaign_seed: int) -> Iterator[Unit]:
    """Yield the units of work of one cell, ``unit_size`` samples each but for the last."""
    for index, first in enumerate(range(0, n_samples, unit_size)):
        count = min(unit_size, n_samples - first)
        yield Unit(_unit_id(cell, index), cell, first, count, campaign_seed)


@dataclass(frozen=True)
class GridSize:
    """How much there is to do, counted without walking the grid."""

    n_chemical_systems: int
    n_cells: int
    n_units: int
    n_samples: int
    n_skipped_cells: int
    skipped_reasons: Mapping[str, int]
    """Reason to number of cells."""


def grid_size(campaign: Campaign) -> GridSize:
    """Count cells, units and samples.

    Whether a cell holds a crystal depends on its group and on its number of sites only, so that
    the cells of all systems with the same number of elements are counted at once.
    """
    n_cells = 0
    reasons: dict[str, int] = {}
    n_systems = _systems_by_arity(campaign)
    for arity, count in n_systems.items():
        for n_sites, n_choices in _choices_by_total(campaign, arity).items():
            for group in campaign.space_groups:
                reason = _refusal(group, n_sites, campaign.filters.max_atoms)
                if reason is None:
                    n_cells += count * n_choices
                else:
                    reasons[reason] = reasons.get(reason, 0) + count * n_choices
    return GridSize(
        n_chemical_systems=sum(n_systems.values()),
        n_cells=n_cells,
        n_units=n_cells * ceil(campaign.samples_per_cell / campaign.generator.unit_size),
        n_samples=n_cells * campaign.samples_per_cell,
        n_skipped_cells=sum(reasons.values()),
        skipped_reasons=reasons,
    )


def check_grid(campaign: Campaign) -> None:
    """Refuse a campaign that asks for a number of sites that no group of it admits.

    A group too large for some of the site counts is no mistake: those cells are skipped. A number
    of sites that leads to no cell at all is one.

    Raises:
        UserError: naming the number of sites.
    """
    counts, total_max = campaign.sites.per_element, campaign.sites.total_max
    for count in counts:
        # The other elements take as few sites as they may: with more there are more atoms.
        totals = [count + (arity - 1) * counts[0] for arity in _systems_by_arity(campaign)]
        possible = [total for total in totals if total <= total_max]
        is_admitted = any(
            _refusal(group, total, campaign.filters.max_atoms) is None
            for total in possible
            for group in campaign.space_groups
        )
        if possible and not is_admitted:
            raise UserError(
                f"sites.per_element holds {count}; none of the space groups admits that many sites "
                f"of an element within filters.max_atoms = {campaign.filters.max_atoms} atoms in "
                f"the primitive cell: allow fewer sites, more atoms or smaller groups"
            )


def _systems_by_arity(campaign: Campaign) -> dict[int, int]:
    """Return the number of chemical systems for each number of elements."""
    systems = campaign.chemical_systems
    if isinstance(systems, Combinations):
        return {systems.arity: comb(len(systems.elements), systems.arity)}
    arities = [system.count("-") + 1 for system in systems]
    return {arity: arities.count(arity) for arity in sorted(set(arities))}


def _choices_by_total(campaign: Campaign, arity: int) -> dict[int, int]:
    """Return in how many ways ``arity`` elements take a total number of sites, per total."""
    ways = {0: 1}
    for _ in range(arity):
        longer: dict[int, int] = {}
        for total, count in product(ways, campaign.sites.per_element):
            if total + count <= campaign.sites.total_max:
                longer[total + count] = longer.get(total + count, 0) + ways[total]
        ways = longer
    return ways


def _all_cells(campaign: Campaign) -> Iterator[Cell]:
    sites = campaign.sites
    for system in chemical_systems(campaign):
        elements = system.split("-")
        for group in campaign.space_groups:
            for counts in site_counts_choices(sites.per_element, len(elements), sites.total_max):
                yield Cell(system, group, dict(zip(elements, counts, strict=True)))


@cache
def _refusal(number: int, n_sites: int, max_atoms: int) -> str | None:
    fewest = smallest_orbits(number).fewest_atoms(n_sites)
    if fewest <= max_atoms:
        return None
    return (
        f"{n_sites} sites in group {number} ({space_group_symbol(number)}) make at least {fewest} "
        f"atoms in the primitive cell, and filters.max_atoms allows {max_atoms}"
    )


def _unit_id(cell: Cell, index: int) -> str:
    return f"{cell.chemical_system}_{cell.space_group:03d}_{cell.site_counts_label}_{index:03d}"

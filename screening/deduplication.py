"""Which candidates are the same crystal, and which are a known one.

Two crystals are the same if pymatgen's ``StructureMatcher``, with its default tolerances, fits one
to the other. That relation is neither transitive nor symmetric, so the outcome hangs on the order:
rows go by energy per atom, then by ``sample_id``, and each joins the first representative that it
fits. This is what ``StructureMatcher.group_structures`` does with the same order; calls that cannot
succeed, because formula, size or lattice differ too much, are left out, and each crystal is reduced
once.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pymatgen.core.structure_matcher import StructureMatcher

from screening.lattice_index import LatticeIndex
from screening.schema import structure_from_row

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pymatgen.core import Structure

    _Row = dict[str, Any]
    _Key = tuple[str, int]

GROUP_COLUMNS = ("group_id", "is_representative", "n_duplicates")
REFERENCE_COLUMNS = ("matched_reference_id", "is_novel", "novelty_basis")

STRUCTURE = "structure"
FORMULA = "formula"


def deduplicate(rows: Sequence[Mapping[str, Any]]) -> list[_Row]:
    """Fill ``group_id``, ``is_representative`` and ``n_duplicates``.

    Args:
        rows: candidates; those that are not ``kept`` get None in the three columns.

    Returns:
        The rows in the same order. The representative of a group is its row of lowest energy.
    """
    grouped = [{**row, **dict.fromkeys(GROUP_COLUMNS)} for row in rows]
    index = MatchIndex()
    groups: dict[str, list[_Row]] = defaultdict(list)
    for row in sorted((row for row in grouped if row["status"] == "kept"), key=_by_energy):
        reduced = reduce_structure(structure_from_row(row))
        group_id = index.first_match(reduced)
        if group_id is None:
            group_id = str(row["sample_id"])
            index.add(group_id, reduced)
        groups[group_id].append(row)
    for group_id, members in groups.items():
        for position, row in enumerate(members):
            row["group_id"] = group_id
            row["is_representative"] = position == 0
            row["n_duplicates"] = len(members) - 1
    return grouped


def match_references(
    rows: Sequence[Mapping[str, Any]], references: Iterable[Mapping[str, Any]]
) -> list[_Row]:
    """Fill ``matched_reference_id``, ``is_novel`` and ``novelty_basis``.

    Args:
        rows: candidates; those that are not ``kept`` get None. A member of a group of duplicates
            takes over what its representative matches.
        references: reference phases; of several that match, that of lowest energy is named.

    Returns:
        The rows in the same order. Where the structures of the reference phases of a formula are
        known, ``is_novel`` says whether one of them matches; where there is no such phase, or a
        structure is missing, it says whether the formula is new. ``novelty_basis`` is `STRUCTURE`
        or `FORMULA` accordingly.
    """
    matched = [{**row, **dict.fromkeys(REFERENCE_COLUMNS)} for row in rows]
    index = MatchIndex()
    has_structures: dict[str, bool] = {}
    for reference in sorted(references, key=_reference_by_energy):
        formula = str(reference["chemical_formula_reduced"])
        has_structure = reference.get("lattice_vectors") is not None
        has_structures[formula] = has_structure and has_structures.get(formula, True)
        if has_structure:
            reduced = reduce_structure(structure_from_row(reference))
            index.add(str(reference["reference_id"]), reduced)
    found: dict[str, str | None] = {}
    for row in sorted((row for row in matched if row["status"] == "kept"), key=_by_energy):
        group_id = str(row.get("group_id") or row["sample_id"])
        if group_id not in found:
            found[group_id] = index.first_match(reduce_structure(structure_from_row(row)))
        name, formula = found[group_id], row["chemical_formula_reduced"]
        by_structure = name is not None or has_structures.get(formula, False)
        row["matched_reference_id"] = name
        row["is_novel"] = name is None and (by_structure or formula not in has_structures)
        row["novelty_basis"] = STRUCTURE if by_structure else FORMULA
    return matched


class MatchIndex:
    """Reduced crystals in an order, and the first among them that another one fits."""

    def __init__(self) -> None:
        self._matcher = StructureMatcher()
        self._buckets: dict[_Key, _Bucket] = {}

    def add(self, name: str, reduced: Structure) -> None:
        """Append a crystal that went through `reduce_structure`."""
        key = _key(reduced)
        if key not in self._buckets:
            lattices = LatticeIndex(self._matcher.ltol, self._matcher.angle_tol)
            self._buckets[key] = _Bucket([], lattices)
        bucket = self._buckets[key]
        bucket.crystals.append((name, reduced))
        bucket.lattices.add(reduced.lattice)

    def first_match(self, reduced: Structure) -> str | None:
        """Return the name of the first crystal that a reduced one fits, or None."""
        bucket = self._buckets.get(_key(reduced))
        if bucket is None:
            return None
        for position in bucket.lattices.mappable(reduced.lattice):
            name, other = bucket.crystals[int(position)]
            if self._matcher.fit(other, reduced, skip_structure_reduction=True):
                return name
        return None


@dataclass(frozen=True)
class _Bucket:
    """Crystals of one formula and size, by name, and their lattices."""

    crystals: list[tuple[str, Structure]]
    lattices: LatticeIndex


def reduce_structure(structure: Structure) -> Structure:
    """Return a crystal's Niggli-reduced primitive cell, as ``StructureMatcher`` takes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of cells that are too skew to be reduced exactly
        return structure.get_reduced_structure("niggli").get_primitive_structure()


def _key(reduced: Structure) -> _Key:
    """Crystals with different keys never match: supercells are not tried by default."""
    return str(reduced.composition.reduced_formula), len(reduced)


def _by_energy(row: Mapping[str, Any]) -> tuple[float, str]:
    return row["energy_per_atom"], row["sample_id"]


def _reference_by_energy(row: Mapping[str, Any]) -> tuple[float, str]:
    energy = row["energy_per_atom"]
    return (float("inf") if energy is None else energy), str(row["reference_id"])

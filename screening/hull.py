"""Where candidates lie against the convex hull of known phases.

Energies of candidates and of reference phases must come from one potential: only then do the
differences mean anything.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from pymatgen.core import Composition

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram

    _Row = dict[str, Any]

HULL_COLUMNS = ("formation_energy_per_atom", "e_above_hull", "e_above_hull_self", "hull_source")


class KnownHull:
    """The hull of the reference phases of a chemical system.

    Args:
        chemical_system: as in ``Cu-K-Si``.
        references: rows with ``formula`` and ``energy_per_atom`` in eV.
    """

    def __init__(self, chemical_system: str, references: Iterable[Mapping[str, Any]]) -> None:
        known = [
            _entry(row["formula"], row["energy_per_atom"])
            for row in _within(chemical_system, references)
        ]
        elements = {entry.composition.elements[0].symbol for entry in known if entry.is_element}
        is_complete = elements == set(chemical_system.split("-"))
        self._diagram = _diagram(known) if is_complete else None
        self._energies: dict[str, float] = {}

    def energy_per_atom(self, formula: str) -> float | None:
        """Return the hull's energy at a composition, eV per atom; None where an element lacks one."""
        if self._diagram is None:
            return None
        if formula not in self._energies:
            composition = Composition(formula)
            self._energies[formula] = float(self._diagram.get_hull_energy_per_atom(composition))
        return self._energies[formula]


def place_on_hull(
    candidates: Sequence[Mapping[str, Any]],
    references: Sequence[Mapping[str, Any]],
    hull_source: str | None = None,
) -> list[_Row]:
    """Fill the columns that place candidates on the hull of their chemical system.

    Args:
        candidates: rows with ``chemical_system``, ``status``, ``chemical_formula_reduced`` and
            ``energy_per_atom`` in eV.
        references: rows with ``formula``, ``energy_per_atom`` in eV and ``source``.
        hull_source: what to write in that column; None joins the sources of the phases used.

    Returns:
        The rows in the same order. `e_above_hull` is negative where a candidate lies below the hull
        of the reference phases. Where there is no energy, or no reference for an element, the
        columns are None.
    """
    placed = [{**row, **dict.fromkeys(HULL_COLUMNS)} for row in candidates]
    systems = defaultdict(list)
    for row in placed:
        if row["status"] == "kept" and row.get("energy_per_atom") is not None:
            systems[str(row["chemical_system"])].append(row)
    for system, rows in systems.items():
        _place(rows, _within(system, references), hull_source)
    return placed


def _place(rows: list[_Row], references: list[Mapping[str, Any]], source: str | None) -> None:
    known = [_entry(row["formula"], row["energy_per_atom"]) for row in references]
    own = [_entry(row["chemical_formula_reduced"], row["energy_per_atom"]) for row in rows]
    needed = {element for entry in own for element in entry.composition}
    if not needed <= {entry.composition.elements[0] for entry in known if entry.is_element}:
        return
    hull = _diagram(known)
    hull_with_own = _diagram([*known, *own])
    if source is None:
        source = ", ".join(sorted({str(row["source"]) for row in references}))
    for row, entry in zip(rows, own, strict=True):
        energy = entry.energy_per_atom
        row["formation_energy_per_atom"] = float(hull.get_form_energy_per_atom(entry))
        row["e_above_hull"] = _above(energy, hull, entry)
        # Rounding must not put a phase of the hull below it.
        row["e_above_hull_self"] = max(0.0, _above(energy, hull_with_own, entry))
        row["hull_source"] = source


def _diagram(entries: list[PDEntry]) -> PhaseDiagram:
    # Two seconds, which each worker would wait for, and few of them make a hull.
    from pymatgen.analysis.phase_diagram import PhaseDiagram  # noqa: PLC0415

    return PhaseDiagram(entries)


def _entry(formula: str, energy_per_atom: float) -> PDEntry:
    from pymatgen.analysis.phase_diagram import PDEntry  # noqa: PLC0415 - see above

    composition = Composition(formula).reduced_composition
    return PDEntry(composition, energy_per_atom * composition.num_atoms)


def _above(energy_per_atom: float, hull: PhaseDiagram, entry: PDEntry) -> float:
    return float(energy_per_atom - hull.get_hull_energy_per_atom(entry.composition))


def _within(
    chemical_system: str, references: Iterable[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Return the phases with an energy that hold no element from outside a chemical system."""
    elements = set(chemical_system.split("-"))
    return [
        row
        for row in references
        if row["energy_per_atom"] is not None
        and {element.symbol for element in Composition(row["formula"])} <= elements
    ]

"""Plots of the report as inline SVG: convex hulls and throughput.

Nothing here is written to a disk. What a mark stands for is in its ``data-tip``, which the page shows
when it is pointed at.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import TYPE_CHECKING, Any

from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition

from screening.findings import space_group_name
from screening.svg import Axes, document, label, line, tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from screening.findings import Interval
    from screening.svg import Point

BINARY, TERNARY = 2, 3
"""Numbers of elements whose hull can be drawn on a page."""
HULL_CEILING = 0.2
"""The strength of candidates' marks ends at this energy above the hull, in eV per atom."""
MOST_MARKS = 1500
"""Candidates of a binary system that are drawn, the best first."""

_SIZE = (460.0, 360.0)
_STRIP = (880.0, 200.0)
_SIDE, _LEFT, _BOTTOM = 340.0, 60.0, 326.0
"""Of the triangle: length of a side and the place of its first corner."""
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_MINUTES_PER_HOUR = 60.0
_SHORT_H = 2.0


@dataclass(frozen=True)
class Phase:
    """A point of a hull plot."""

    formula: str
    """Reduced formula."""
    energy_per_atom: float
    """Energy of the calculator, in eV per atom."""
    e_above_hull: float | None = None
    """Energy above the reference hull, in eV per atom; None for a reference phase."""
    space_group: int | None = None
    """Number of the space group that was found."""
    name: str = ""
    """Id of the sample or of the reference phase."""


def hull_svg(chemical_system: str, candidates: Sequence[Phase], references: Sequence[Phase]) -> str:
    """Draw the hull of a binary or ternary system.

    Args:
        chemical_system: Element symbols joined by hyphens, such as ``Cu-K-Si``.
        candidates: Relaxed structures, with their energies above the reference hull.
        references: Known phases, each element at least once.

    Returns:
        An ``<svg>`` element, or an empty string where a hull cannot be drawn: other numbers of
        elements, or an element without a reference phase.
    """
    elements = chemical_system.split("-")
    inside = [phase for phase in references if _elements(phase) <= set(elements)]
    known = set().union(*(_elements(phase) for phase in inside if len(_elements(phase)) == 1))
    if len(elements) not in {BINARY, TERNARY} or not known.issuperset(elements):
        return ""
    diagram = PhaseDiagram([_entry(phase) for phase in inside])
    draw = _binary if len(elements) == BINARY else _ternary
    marks = draw(elements, diagram, candidates, inside)
    return document(f"Convex hull of {chemical_system}", _SIZE, marks)


def throughput_svg(intervals: Sequence[Interval]) -> str:
    """Draw the samples that were finished per hour, as bars over the time since the beginning.

    Returns:
        An ``<svg>`` element, or an empty string if there is no interval.
    """
    if not intervals:
        return ""
    is_short = intervals[-1].end_h <= _SHORT_H
    scale, unit = (_MINUTES_PER_HOUR, "min") if is_short else (1.0, "h")
    highest = max(interval.samples_per_hour for interval in intervals)
    axes = Axes(
        (0.0, intervals[-1].end_h * scale),
        (0.0, 1.05 * highest or 1.0),
        _STRIP,
        (f"{unit} since the beginning", "samples per hour"),
    )
    bars = [_bar(axes, interval, scale, unit) for interval in intervals if interval.samples]
    return document("Samples finished per hour", _STRIP, [*axes.frame(), *bars])


def typeset(formula: str) -> str:
    """Return a formula with its numbers as subscripts: ``Cu3Si`` becomes ``Cu₃Si``."""
    return formula.translate(_SUBSCRIPTS)


def signed(energy: float) -> str:
    """Return an energy in eV per atom as it is printed; a minus sign as typography has it."""
    return f"{energy:+.3f}".replace("-", "−")  # noqa: RUF001 - meant


def _binary(
    elements: Sequence[str],
    diagram: PhaseDiagram,
    candidates: Sequence[Phase],
    references: Sequence[Phase],
) -> list[str]:
    """Formation energy against the fraction of the second element."""

    def point(entry: Any) -> Point:
        return _share(entry, elements[1]), float(diagram.get_form_energy_per_atom(entry))

    stable = sorted(diagram.stable_entries, key=point)
    shown = sorted(candidates, key=_height)[:MOST_MARKS]
    lowest = min(point(_entry(phase))[1] for phase in [*shown, *references])
    ceiling = max(HULL_CEILING, -lowest / 2)
    axes = Axes(
        (0.0, 1.0),
        (lowest - 0.1 * (ceiling - lowest), ceiling),
        _SIZE,
        (f"fraction of {elements[1]}", "formation energy (eV/atom)"),
    )
    marks = axes.frame()
    marks += [
        line(axes.place(*point(a)), axes.place(*point(b)), "tie") for a, b in pairwise(stable)
    ]
    for phase in references:
        x, y = point(_entry(phase))
        if y <= ceiling:
            marks.append(_known(diagram, phase, axes.place(x, y)))
    for phase in reversed(shown):
        x, y = point(_entry(phase))
        if y <= ceiling:
            marks.append(_found(phase, axes.place(x, y)))
    marks += [_name(entry, axes.place(*point(entry)), (0, 19)) for entry in stable]
    return marks


def _ternary(
    elements: Sequence[str],
    diagram: PhaseDiagram,
    candidates: Sequence[Phase],
    references: Sequence[Phase],
) -> list[str]:
    """Composition triangle: tie lines of the reference hull, and the best of each composition."""

    def place(entry: Any) -> Point:
        second, third = _share(entry, elements[1]), _share(entry, elements[2])
        return (
            _LEFT + _SIDE * (second + third / 2),
            _BOTTOM - _SIDE * third * sqrt(3) / 2,
        )

    entries = diagram.qhull_entries
    ties = {
        tuple(sorted((a, b))) for facet in diagram.facets for a in facet for b in facet if a != b
    }
    marks = [line(place(entries[a]), place(entries[b]), "tie") for a, b in sorted(ties)]
    for phase, _ in _best_of_each(references, lambda phase: phase.energy_per_atom):
        marks.append(_known(diagram, phase, place(_entry(phase))))
    # The closer to the hull, the later it is drawn: on top of the others.
    for phase, number in reversed(_best_of_each(candidates, _height)):
        marks.append(_found(phase, place(_entry(phase)), number))
    for vertex in sorted({vertex for facet in diagram.facets for vertex in facet}):
        entry = entries[vertex]
        marks.append(_name(entry, place(entry), _aside(entry, elements)))
    return marks


def _best_of_each(
    phases: Iterable[Phase], key: Callable[[Phase], float]
) -> list[tuple[Phase, int]]:
    """The lowest phase of each composition, the lowest first, and how many share it."""
    numbers: dict[str, int] = {}
    lowest: dict[str, Phase] = {}
    for phase in sorted(phases, key=key):
        composition = Composition(phase.formula).reduced_formula
        numbers[composition] = numbers.get(composition, 0) + 1
        lowest.setdefault(composition, phase)
    return [(phase, numbers[composition]) for composition, phase in lowest.items()]


def _found(phase: Phase, at: Point, number: int = 1) -> str:
    """The mark of a candidate: larger and stronger the closer it lies to the hull."""
    height = _height(phase)
    closeness = 1 - min(max(height / HULL_CEILING, 0.0), 1.0)
    more = f"\nbest of {number} of this composition" if number > 1 else ""
    return tag(
        "circle",
        class_="found below" if height <= 0 else "found",
        cx=at[0],
        cy=at[1],
        r=3.5 + 3.5 * closeness,
        fill_opacity=f"{0.3 + 0.6 * closeness:.2f}",
        data_tip=f"{_title(phase)}\n{signed(height)} eV/atom above the hull\n{phase.name}{more}",
    )


def _known(diagram: PhaseDiagram, phase: Phase, at: Point) -> str:
    """The mark of a reference phase: full on the hull, hollow above it."""
    entry = _entry(phase)
    height = entry.energy_per_atom - diagram.get_hull_energy_per_atom(entry.composition)
    is_stable = height < 1e-6  # noqa: PLR2004 - rounding, eV per atom
    place = "on the hull" if is_stable else f"{signed(height)} eV/atom above the hull"
    tip = f"{_title(phase)}\nreference phase, {place}\n{phase.name}"
    return tag(
        "circle",
        class_="known" if is_stable else "known hollow",
        cx=at[0],
        cy=at[1],
        r=4.5 if is_stable else 3.0,
        data_tip=tip.rstrip(),
    )


def _bar(axes: Axes, interval: Interval, scale: float, unit: str) -> str:
    left, top = axes.place(interval.begin_h * scale, interval.samples_per_hour)
    right, bottom = axes.place(interval.end_h * scale, 0.0)
    tip = (
        f"{interval.begin_h * scale:.3g} to {interval.end_h * scale:.3g} {unit}\n"
        f"{interval.samples} samples, {interval.relaxed} relaxed\n"
        f"{interval.samples_per_hour:.0f} samples per hour"
    )
    size = {"width": max(right - left - 1, 0.5), "height": bottom - top}
    return tag("rect", class_="bar", x=left + 0.5, y=top, **size, data_tip=tip)


def _aside(entry: Any, elements: Sequence[str]) -> Point:
    """Where a phase's name stands from its mark: outside the triangle, or above if it is within."""
    first, second, third = (_share(entry, element) for element in elements)
    if third == 0:
        return (0, 19)
    if 1 in (first, second, third) or 0 not in (first, second):
        return (0, -9)
    return (-9, 4) if second == 0 else (9, 4)


def _name(entry: Any, at: Point, aside: Point) -> str:
    anchor = "middle" if aside[0] == 0 else "end" if aside[0] < 0 else "start"
    return label(typeset(entry.name), (at[0] + aside[0], at[1] + aside[1]), anchor=anchor)


def _title(phase: Phase) -> str:
    group = f"  {space_group_name(phase.space_group)}" if phase.space_group else ""
    return f"{typeset(phase.formula)}{group}"


def _height(phase: Phase) -> float:
    return phase.e_above_hull or 0.0


def _entry(phase: Phase) -> PDEntry:
    composition = Composition(phase.formula)
    return PDEntry(composition, phase.energy_per_atom * composition.num_atoms, phase.formula)


def _elements(phase: Phase) -> set[str]:
    return {element.symbol for element in Composition(phase.formula).elements}


def _share(entry: Any, element: str) -> float:
    return float(entry.composition.get_atomic_fraction(element))

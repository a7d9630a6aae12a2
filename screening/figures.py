"""Convex hulls of binary and ternary systems as inline SVG, for the report.

Nothing here is written to a disk: a figure is a string of markup that takes its text colour from the
page, so that it can be read on a light and on a dark background.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

BINARY, TERNARY = 2, 3
"""Numbers of elements whose hull can be drawn on a page."""

PAGE_INK = "#010203"
"""Stands for the page's text colour while matplotlib draws."""

CANDIDATE_COLOUR = "#d9730d"
REFERENCE_COLOUR = "#3b82c4"
HULL_CEILING = 0.2
"""The colours of candidates end at this energy above the hull, in eV per atom."""


@dataclass(frozen=True)
class Phase:
    """A point of a hull plot."""

    formula: str
    """Reduced formula."""
    energy_per_atom: float
    """Energy of the calculator, in eV per atom."""
    e_above_hull: float | None = None
    """Energy above the reference hull, in eV per atom; None for a reference phase."""


def hull_svg(chemical_system: str, candidates: Sequence[Phase], references: Sequence[Phase]) -> str:
    """Draw the hull of a binary or ternary system.

    Args:
        chemical_system: Element symbols joined by hyphens, such as ``Cu-K-Si``.
        candidates: Relaxed structures, with their energies above the reference hull.
        references: Known phases within the system, each element at least once.

    Returns:
        An ``<svg>`` element, or an empty string where a hull cannot be drawn: other numbers of
        elements, or an element without a reference phase.
    """
    elements = chemical_system.split("-")
    known = set().union(*(_elements(phase) for phase in references if len(_elements(phase)) == 1))
    if len(elements) not in {BINARY, TERNARY} or not known.issuperset(elements):
        return ""
    diagram = PhaseDiagram(
        [
            PDEntry(Composition(phase.formula), phase.energy_per_atom * _n_atoms(phase))
            for phase in references
            if _elements(phase) <= set(elements)
        ]
    )
    # Text stays text: it is small, can be searched, and takes the page's font.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": chemical_system}):
        figure = Figure(figsize=(5.2, 4.2), layout="constrained")
        axes = figure.add_subplot()
        draw = _draw_binary if len(elements) == BINARY else _draw_ternary
        draw(axes, elements, diagram, candidates)
        return _inline(figure, f"Convex hull of {chemical_system}")


def _elements(phase: Phase) -> set[str]:
    return {element.symbol for element in Composition(phase.formula).elements}


def _n_atoms(phase: Phase) -> float:
    return float(Composition(phase.formula).num_atoms)


def _fractions(formulas: Iterable[str], elements: Sequence[str]) -> NDArray[np.float64]:
    """Atomic fractions of the elements, of shape (n_formulas, n_elements)."""
    rows = [
        [Composition(formula).get_atomic_fraction(element) for element in elements]
        for formula in formulas
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, len(elements))


def _colours(candidates: Sequence[Phase]) -> NDArray[np.float64]:
    """Position of each candidate on the colour scale, 1 on the hull and 0 far above it."""
    energies = np.array([phase.e_above_hull for phase in candidates], dtype=np.float64)
    return 1 - np.clip(energies / HULL_CEILING, 0, 1)


def _draw_binary(
    axes: Axes, elements: Sequence[str], diagram: PhaseDiagram, candidates: Sequence[Phase]
) -> None:
    """Formation energy against the fraction of the second element."""
    stable = sorted(diagram.stable_entries, key=lambda entry: _share(entry, elements[1]))
    axes.plot(
        [_share(entry, elements[1]) for entry in stable],
        [diagram.get_form_energy_per_atom(entry) for entry in stable],
        marker="o",
        color=REFERENCE_COLOUR,
        zorder=2,
    )
    for entry in stable:
        point = _share(entry, elements[1]), diagram.get_form_energy_per_atom(entry)
        _label(axes, entry.composition.reduced_formula, point)
    if candidates:
        heights = [
            diagram.get_form_energy_per_atom(
                PDEntry(Composition(phase.formula), phase.energy_per_atom * _n_atoms(phase))
            )
            for phase in candidates
        ]
        shares = _fractions([phase.formula for phase in candidates], elements)[:, 1]
        axes.scatter(shares, heights, s=18, color=CANDIDATE_COLOUR, alpha=0.7, zorder=3)
        lowest = min(0.0, *(diagram.get_form_energy_per_atom(entry) for entry in stable), *heights)
        axes.set_ylim(lowest - 0.1, max(HULL_CEILING, -lowest) + 0.1)
    axes.set_xlabel(f"fraction of {elements[1]} in {elements[0]}-{elements[1]}", color=PAGE_INK)
    axes.set_ylabel("formation energy (eV/atom)", color=PAGE_INK)
    axes.tick_params(colors=PAGE_INK)
    axes.spines[:].set_color(PAGE_INK)


def _share(entry: Any, element: str) -> float:
    return float(entry.composition.get_atomic_fraction(element))


def _draw_ternary(
    axes: Axes, elements: Sequence[str], diagram: PhaseDiagram, candidates: Sequence[Phase]
) -> None:
    """Composition triangle: tie lines of the reference hull, and candidates by their energy."""
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3) / 2]])
    entries = diagram.qhull_entries
    points = (
        _fractions([entry.composition.reduced_formula for entry in entries], elements) @ corners
    )
    ties = {
        tuple(sorted((a, b))) for facet in diagram.facets for a in facet for b in facet if a != b
    }
    for first, second in sorted(ties):
        axes.plot(*points[[first, second]].T, color=REFERENCE_COLOUR, linewidth=1, zorder=1)
    for vertex in sorted({vertex for facet in diagram.facets for vertex in facet}):
        axes.plot(*points[vertex], marker="o", color=REFERENCE_COLOUR, zorder=2)
        _label(axes, entries[vertex].composition.reduced_formula, points[vertex])
    if candidates:
        # The best of a composition is drawn last, on top of the others.
        ordered = sorted(candidates, key=lambda phase: -(phase.e_above_hull or 0.0))
        places = _fractions([phase.formula for phase in ordered], elements) @ corners
        closeness = _colours(ordered)
        colours = to_rgba_array([CANDIDATE_COLOUR] * len(ordered))
        colours[:, 3] = 0.25 + 0.75 * closeness
        axes.scatter(places[:, 0], places[:, 1], s=16 + 40 * closeness, color=colours, zorder=3)
    axes.set_aspect("equal")
    axes.axis("off")


def _label(axes: Axes, text: str, point: Sequence[float] | NDArray[np.float64]) -> None:
    axes.annotate(
        text,
        (float(point[0]), float(point[1])),
        xytext=(5, 5),
        textcoords="offset points",
        color=PAGE_INK,
        fontsize=9,
    )


def _inline(figure: Figure, title: str) -> str:
    """The figure as an ``<svg>`` element that fits into a page with other ones."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    markup = buffer.getvalue()
    markup = markup[markup.index("<svg") :]
    # Group names such as axes_1 would occur once in every figure of the page.
    markup = re.sub(r'<g id="[^"]*"', "<g", markup)
    # The parser of a page knows these namespaces; the addresses would read as external references.
    markup = re.sub(r' xmlns(:xlink)?="[^"]*"', "", markup)
    markup = markup.replace(PAGE_INK, "currentColor")
    return markup.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)

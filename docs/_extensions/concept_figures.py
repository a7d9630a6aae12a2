"""The figures of the concepts, drawn when the documentation is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from model.symmetry import space_group
from screening.campaign import Campaign
from screening.grid import cells, skipped

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

INK, BLUE, ORANGE, GREY = "#333333", "#2f6db3", "#d9822b", "#b8b8b8"
_GRID = Campaign.from_mapping(
    {
        "name": "grid",
        "chemical_systems": ["Cu-K-Si"],
        "space_groups": [62, 139, 194, 216, 225, 227, 230],
        "sites": {"per_element": [1, 2], "total_max": 4},
        "samples_per_cell": 1,
        "filters": {"max_atoms": 12},
    }
)


def draw(directory: Path) -> None:
    """Write all figures as SVG."""
    with mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "figures", "font.size": 9, "text.color": INK}
    ):
        for name, figure in (
            ("grid", grid()),
            ("steps", steps()),
            ("orbits", orbits()),
            ("hull", hull()),
        ):
            figure.savefig(directory / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")


def grid() -> Figure:
    """Space groups against site counts: which cells exist, counted by the program itself."""
    figure = Figure(figsize=(6, 3))
    axes = figure.subplots()
    kept = {(cell.space_group, cell.site_counts_label) for cell in cells(_GRID)}
    left_out = {(item.cell.space_group, item.cell.site_counts_label) for item in skipped(_GRID)}
    labels = sorted({label for _, label in kept | left_out}, key=lambda text: (_total(text), text))
    groups = _GRID.space_groups
    for row, group in enumerate(groups):
        for column, label in enumerate(labels):
            colour = BLUE if (group, label) in kept else "none"
            axes.add_patch(
                Rectangle((column, row), 0.9, 0.9, facecolor=colour, edgecolor=GREY, alpha=0.8)
            )
    axes.set(xlim=(0, len(labels)), ylim=(len(groups), 0))
    axes.set_xticks([x + 0.45 for x in range(len(labels))], labels)
    axes.set_yticks([y + 0.45 for y in range(len(groups))], [str(group) for group in groups])
    axes.set(xlabel="inequivalent sites of each element", ylabel="space group")
    _bare(axes)
    return figure


def _total(label: str) -> int:
    return sum(int("".join(c for c in part if c.isdigit())) for part in label.split("-"))


def steps() -> Figure:
    """From the grid to the table; nothing disappears without a word."""
    figure = Figure(figsize=(7.5, 2))
    axes = figure.subplots()
    texts = (
        "cells\nof the grid",
        "samples\ndrawn by\nthe model",
        "filters",
        "relaxation\nwith the\npotential",
        "duplicates\ngrouped",
        "convex hull,\nranked table",
    )
    left = {2: "filtered,\nwith a reason", 3: "failed,\nwith an error", 4: "kept as\nmembers"}
    for place, text in enumerate(texts):
        height = 1.5 - 0.14 * place
        axes.add_patch(
            Rectangle(
                (place * 1.3, -height / 2), 1.08, height, facecolor=BLUE, alpha=0.2 + 0.1 * place
            )
        )
        axes.text(place * 1.3 + 0.54, 0, text, ha="center", va="center")
        if place:
            start = (place * 1.3 - 0.22, 0)
            axes.add_patch(
                FancyArrowPatch(start, (place * 1.3, 0), arrowstyle="->", mutation_scale=9)
            )
        if place in left:
            axes.text(
                place * 1.3 + 0.54, -1.25, left[place], ha="center", va="center", color=ORANGE
            )
    axes.set(xlim=(-0.1, 7.7), ylim=(-1.6, 0.9))
    axes.set_axis_off()
    return figure


def orbits() -> Figure:
    """One site of P4mm (99), seen along c: on a general position, on a mirror, on an axis."""
    figure = Figure(figsize=(7, 2.6))
    group = space_group(99)
    sites = ((0.17, 0.38), (0.28, 0.28), (0.5, 0.5))
    for axes, site in zip(figure.subplots(1, len(sites)), sites, strict=True):
        start = np.array([*site, 0.0])
        images = (group.rotations @ start + group.translations) % 1.0
        orbit = np.unique(images.round(6), axis=0)
        axes.add_patch(Rectangle((0, 0), 1, 1, fill=False, edgecolor=INK))
        for line in ([0, 1], [1, 0]):
            axes.plot([0, 1], line, color=GREY, linewidth=0.8, linestyle="--")
        axes.plot([0.5, 0.5], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
        axes.plot([0, 1], [0.5, 0.5], color=GREY, linewidth=0.8, linestyle="--")
        axes.scatter(orbit[:, 0], orbit[:, 1], s=90, color=BLUE, alpha=0.5)
        axes.scatter(*site, s=90, color=ORANGE)
        axes.set_title(f"1 site, {len(orbit)} atom{'s' if len(orbit) > 1 else ''}", fontsize=9)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
        axes.set_axis_off()
    return figure


def hull() -> Figure:
    """Energies above a hull, in a binary system."""
    figure = Figure(figsize=(5.5, 3))
    axes = figure.subplots()
    stable = [(0.0, 0.0), (0.25, -0.35), (0.5, -0.55), (1.0, 0.0)]
    axes.plot(*zip(*stable, strict=True), "o-", color=INK, label="known phases on the hull")
    axes.plot([0.66], [-0.2], "s", color=GREY, label="known phase above it")
    shares, energies = np.array(stable).T
    for share, height, colour in ((0.75, 0.13, ORANGE), (1 / 3, -0.05, BLUE)):
        at_hull = float(np.interp(share, shares, energies))
        axes.plot([share], [at_hull + height], "^", color=colour)
        axes.annotate(
            "", (share, at_hull), (share, at_hull + height), arrowprops={"arrowstyle": "<->"}
        )
    axes.annotate(
        "candidate: e_above_hull > 0", (0.75, -0.14), (0.45, 0.1), arrowprops={"arrowstyle": "-"}
    )
    axes.annotate(
        "candidate below the hull:\ne_above_hull < 0",
        (1 / 3, -0.47), (0.02, -0.62), arrowprops={"arrowstyle": "-"},
    )  # fmt: skip
    axes.set(xlabel="composition", ylabel="formation energy, eV/atom", ylim=(-0.7, 0.2))
    axes.legend(loc="lower right", fontsize=8)
    return figure


def _bare(axes: Axes) -> None:
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)

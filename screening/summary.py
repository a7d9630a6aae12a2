"""What a run says at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from screening.chemistry import space_group_symbol
from screening.findings import NEAR_HULL
from screening.selection import known_phase
from screening.store import CANDIDATES, SUMMARY

if TYPE_CHECKING:
    from screening.export import Row
    from screening.store import Store

_PRODUCTS = (("table", CANDIDATES), ("crystals", "cif"), ("report", "report.html"))
_SHOWN = (
    "chemical_formula_reduced",
    "space_group_it_number",
    "e_above_hull",
    "rescored_e_above_hull",
    "sample_id",
    "is_novel",
    "matched_reference_id",
    "rescored_matched_reference_id",
)
_HEADER = ("", "formula", "space group", "e_above_hull", "rescored", "sample", "")


def summary_text(store: Store, top: int) -> str:
    """Return the best candidates as a table, and where the results lie.

    Args:
        store: a campaign's results.
        top: how many candidates, at the most.
    """
    ranked = store.best(top, _SHOWN).to_pylist()
    cells = [_HEADER, *(_cells(rank, row) for rank, row in enumerate(ranked, 1))]
    if all(row["rescored_e_above_hull"] is None for row in ranked):
        place = _HEADER.index("rescored")
        cells = [row[:place] + row[place + 1 :] for row in cells]
    lines = _aligned(cells)
    if not ranked:
        lines = ["no candidate has a place against the hull: the report says what became of them"]
    failed = store.marks(["state"])["state"].to_pylist().count("failed")
    if failed:
        lines.append(
            f"{failed} unit{'s' * (failed > 1)} failed; `screening resume {store.uri} --retry-failed` tries them again"
        )
    summary = store.read_json(SUMMARY)
    if isinstance(summary, dict):
        lines += _headline(summary.get("novel")) + _second_headline(summary.get("rescored"))
    present = set(store.files.names(""))
    lines += [
        f"{name:10}{store.uri.rstrip('/')}/{path}" for name, path in _PRODUCTS if path in present
    ]
    return "\n".join(lines)


def _headline(novel: Any) -> list[str]:
    """Say how many new crystals the campaign is worth, and what one hour of a machine brought."""
    if not novel:
        return []
    count = novel["near_hull"]
    text = (
        f"{'novel':10}{count} distinct crystal{'s' * (count != 1)} at most {NEAR_HULL:g} eV/atom "
        f"above the hull, {novel['on_hull']} of them on it or below"
    )
    rates = [
        f"{novel[f'near_hull_per_{unit}_hour']:.1f} per {name}-hour"
        for unit, name in (("core", "core"), ("gpu", "GPU"))
        if novel[f"near_hull_per_{unit}_hour"] is not None
    ]
    return [f"{text}: {', '.join(rates)}" if rates else text]


def _second_headline(rescored: Any) -> list[str]:
    """Say what a second potential left of them."""
    if not rescored:
        return []
    text = (
        f"{'rescored':10}{rescored['distinct']} of them with {rescored['calculator']}: "
        f"{rescored['near_hull']} at most {NEAR_HULL:g} eV/atom above its hull, "
        f"{rescored['on_hull']} on it or below"
    )
    return [text]


def _cells(rank: int, row: Row) -> tuple[str, ...]:
    number = row["space_group_it_number"]
    group = f"{number} {space_group_symbol(number)}" if number else "none found"
    phase = known_phase(row)
    known = {True: "novel", False: f"known: {phase or 'formula'}", None: ""}
    novelty = known[row["is_novel"] and phase is None]
    energy = f"{row['e_above_hull']:+.3f} eV/atom"
    second = row["rescored_e_above_hull"]
    rescored = "" if second is None else f"{second:+.3f} eV/atom"
    formula = row["chemical_formula_reduced"]
    return (str(rank), formula, group, energy, rescored, row["sample_id"], novelty)


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]

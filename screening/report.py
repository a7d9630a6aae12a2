"""The report of a campaign: one HTML file that opens anywhere, without a network.

The report only reads what a campaign has left, so it can be written at any time, also of a campaign
that is still running or was interrupted.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from pymatgen.symmetry.groups import sg_symbol_from_int_number

from screening.errors import UserError
from screening.export import best
from screening.figures import Phase, hull_svg
from screening.store import CANDIDATES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

    from screening.store import Store

    Row = Mapping[str, Any]


REPORT = "report.html"
DIRECTORY = "references"
"""Where the reference phases lie; named here too, as screening.references takes long to import."""
FILE_TABLE = "file.parquet"
"""Reference phases that come from a user's file, on the potential's scale of energy."""
LARGEST_TABLE = 1000
"""Rows of the ranked table; the rest is in candidates.parquet."""
MOST_HULLS = 12
"""Hulls that are drawn, those of the best candidates first."""
MOST_FAILURES = 20
"""Different errors that are listed."""
HEAT_CEILING = 0.5
"""Energy above the hull, in eV per atom, at which the heat map has no colour left."""

COLUMNS = (
    "sample_id",
    "chemical_system",
    "chemical_formula_reduced",
    "nsites",
    "space_group_requested",
    "space_group_it_number",
    "site_counts",
    "status",
    "error",
    "energy_per_atom",
    "formation_energy_per_atom",
    "e_above_hull",
    "e_above_hull_self",
    "hull_source",
    "converged",
    "is_representative",
    "n_duplicates",
    "matched_reference_id",
    "is_novel",
    "smact_valid",
    "calculator",
    "generator",
)
"""What the report needs of a candidate: structures stay in the table."""


@dataclass(frozen=True)
class CampaignResults:
    """What a campaign has left, as far as the report needs it."""

    settings: Mapping[str, Any]
    """The resolved campaign file."""
    fingerprint: str
    """Fingerprint of the campaign with its model, calculator and references."""
    candidates: pa.Table
    """Rows of ``candidates.parquet``; only :data:`COLUMNS` are used."""
    samples: pa.Table
    """The columns ``sample_id``, ``status``, ``reason`` and ``error`` of every sample."""
    references: Sequence[Row] = field(default_factory=tuple)
    """Reference phases: ``formula`` and ``energy_per_atom`` in eV, None where it failed."""


@dataclass(frozen=True)
class HeatMap:
    """Best energy above the hull for each space group and each choice of sites."""

    columns: tuple[str, ...]
    """Numbers of sites, as ``Cu1-K1-Si1`` or, across several chemical systems, ``2-1-1``."""
    rows: tuple[tuple[str, tuple[Row | None, ...]], ...]
    """A space group's name and its best candidate in each column, None where there is none."""


def report_campaign(store: Store, out: Path | None = None) -> str:
    """Write the report of a campaign, finished or not.

    Args:
        store: The campaign's results.
        out: File to write; ``report.html`` beside the results if absent.

    Returns:
        Where the report lies.

    Raises:
        UserError: If there is no campaign, or ``out`` cannot be written.
    """
    page = render_report(read_results(store))
    if out is None:
        store.write_text(REPORT, page)
        return f"{store.uri.rstrip('/')}/{REPORT}"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from None
    return str(out)


def read_results(store: Store) -> CampaignResults:
    """Read what a campaign has left so far."""
    settings = store.campaign().resolved()
    finished = store.files.exists(CANDIDATES)
    return CampaignResults(
        settings=settings,
        fingerprint=store.fingerprint,
        # Until the end of a campaign there is no hull, but what was relaxed can be counted.
        candidates=store.candidates() if finished else store.read_relaxed(),
        samples=store.read_samples(),
        references=_references(store),
    )


def render_report(results: CampaignResults) -> str:
    """Return the report as the text of one HTML file."""
    candidates = results.candidates.select(COLUMNS).to_pylist()
    ranked = best(candidates)
    samples = results.samples.select(["sample_id", "status", "reason", "error"]).to_pylist()
    systems = hull_systems(ranked)
    return _template().render(
        name=results.settings["name"],
        fingerprint=results.fingerprint,
        settings=yaml.safe_dump(dict(results.settings), sort_keys=False, allow_unicode=True),
        funnel=funnel(samples, candidates),
        ranked=ranked[:LARGEST_TABLE],
        n_ranked=len(ranked),
        hulls=[(system, _hull(system, ranked, results.references)) for system in systems],
        n_systems=len({row["chemical_system"] for row in ranked}),
        heat_map=heat_map(ranked),
        failures=failures([*samples, *candidates]),
        sources=_distinct(candidates, ("generator", "calculator", "hull_source")),
    )


def funnel(samples: Sequence[Row], candidates: Sequence[Row]) -> list[tuple[str, int, str]]:
    """Count what became of the samples, stage by stage.

    Returns:
        Stage, number of rows and the reasons for which rows left, such as ``min_distance: 3``.
    """
    status = Counter(row["status"] for row in samples)
    filtered = Counter(
        _without_numbers(row["reason"] or "no reason was recorded")
        for row in samples
        if row["status"] == "filtered"
    )
    reasons = "; ".join(f"{reason}: {count}" for reason, count in filtered.most_common())
    relaxed = [row for row in candidates if row["energy_per_atom"] is not None]
    placed = best(candidates)
    return [
        ("samples drawn", len(samples), ""),
        ("failed while they were drawn", status["failed"], ""),
        ("removed by a filter", status["filtered"], reasons),
        ("passed on to relaxation", status["kept"], ""),
        ("relaxed", len(relaxed), ""),
        ("relaxed and converged", sum(bool(row["converged"]) for row in relaxed), ""),
        ("distinct, placed against the hull", len(placed), ""),
        ("novel: match no reference phase", sum(bool(row["is_novel"]) for row in placed), ""),
        ("on the hull or below it", sum(row["e_above_hull"] <= 0 for row in placed), ""),
    ]


def failures(rows: Iterable[Row]) -> list[tuple[str, int, str]]:
    """Group the errors that differ in numbers only.

    Returns:
        An error, how often it occurred, and the first sample that it stopped.
    """
    counts: Counter[str] = Counter()
    examples: dict[str, tuple[str, str]] = {}
    for row in rows:
        if row["status"] != "failed":
            continue
        error = row["error"] or "no error was recorded"
        kind = _without_numbers(error)
        counts[kind] += 1
        examples.setdefault(kind, (error, row["sample_id"]))
    return [
        (examples[kind][0], count, examples[kind][1])
        for kind, count in counts.most_common(MOST_FAILURES)
    ]


def heat_map(ranked: Sequence[Row]) -> HeatMap:
    """Find the best candidate of each space group and each choice of sites.

    Args:
        ranked: Candidates, the best first.
    """
    several = len({row["chemical_system"] for row in ranked}) > 1
    first: dict[tuple[int, str], Row] = {}
    for row in ranked:
        sites = _pattern(row["site_counts"]) if several else row["site_counts"]
        first.setdefault((row["space_group_requested"], sites), row)
    columns = tuple(sorted({sites for _, sites in first}, key=lambda sites: (len(sites), sites)))
    groups = sorted({group for group, _ in first})
    return HeatMap(
        columns,
        tuple(
            (space_group_name(group), tuple(first.get((group, sites)) for sites in columns))
            for group in groups
        ),
    )


def hull_systems(ranked: Sequence[Row]) -> list[str]:
    """Return the chemical systems to draw, in the order of their best candidates."""
    return list(dict.fromkeys(row["chemical_system"] for row in ranked))[:MOST_HULLS]


@lru_cache
def space_group_name(number: int) -> str:
    """Return a space group as ``62 Pnma``."""
    return f"{number} {sg_symbol_from_int_number(number)}"


def _references(store: Store) -> list[Row]:
    names = [name for name in store.files.names(DIRECTORY) if name.endswith(".parquet")]
    # A user's file takes the place of the structure types, whose elements lie beside it.
    names = [FILE_TABLE] if FILE_TABLE in names else names
    tables = [store.read_table(f"{DIRECTORY}/{name}") for name in names]
    return [
        row
        for table in tables
        if table is not None
        for row in table.select(["formula", "energy_per_atom"]).to_pylist()
    ]


def _hull(system: str, ranked: Sequence[Row], references: Sequence[Row]) -> Markup:
    elements = set(system.split("-"))
    candidates = [
        Phase(row["chemical_formula_reduced"], row["energy_per_atom"], row["e_above_hull"])
        for row in ranked
        if row["chemical_system"] == system
    ]
    known = [
        Phase(row["formula"], row["energy_per_atom"])
        for row in references
        if row["energy_per_atom"] is not None
        and elements.issuperset(re.findall("[A-Z][a-z]?", row["formula"]))
    ]
    # The markup comes from matplotlib, which escapes the text that it draws.
    return Markup(hull_svg(system, candidates, known))  # noqa: S704


def _pattern(site_counts: str) -> str:
    """Numbers of sites without the elements, the largest first: ``Cu1-K2`` becomes ``2-1``."""
    counts = [int(count) for count in re.findall(r"\d+", site_counts)]
    return "-".join(str(count) for count in sorted(counts, reverse=True))


def _without_numbers(text: str) -> str:
    return re.sub(r"-?\d+(\.\d+)?(e[+-]?\d+)?", "…", text)


def _distinct(rows: Sequence[Row], columns: Iterable[str]) -> dict[str, str]:
    """The values of the columns that name where numbers come from."""
    return {
        column: ", ".join(sorted({str(row[column]) for row in rows if row[column] is not None}))
        for column in columns
    }


def _signed(energy: float | None) -> str:
    """An energy for the page, in eV per atom; a minus sign as typography has it."""
    return "" if energy is None else f"{energy:+.3f}".replace("-", "−")  # noqa: RUF001


def _warmth(energy: float) -> float:
    """Strength of a heat map's colour, 1 on the hull or below it."""
    return round(1 - min(max(energy / HEAT_CEILING, 0), 1), 3)


def _formula(formula: str) -> Markup:
    """A formula with its numbers as subscripts."""
    return Markup("").join(
        Markup("<sub>{}</sub>").format(part) if part.isdigit() else part
        for part in re.split(r"(\d+)", formula)
    )


@lru_cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("screening"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        signed=_signed, warmth=_warmth, formula=_formula, space_group=space_group_name
    )
    return environment.get_template("report.html.j2")

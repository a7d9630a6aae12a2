"""The report of a campaign: one HTML file that opens anywhere, without a network.

The report only reads what a campaign has left, so it can be written at any time, also of a campaign
that is still running or was interrupted.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files
from itertools import chain
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from screening.errors import UserError
from screening.figures import Phase, hull_svg, signed, throughput_svg, typeset
from screening.findings import (
    NEAR_HULL,
    failures,
    findings,
    funnel,
    heat_map,
    space_group_name,
    throughput,
)
from screening.grid import grid_size
from screening.progress import HEARTBEAT, RUNS, duration
from screening.report_data import (
    CANDIDATE_COLUMNS,
    CRYSTAL_COLUMNS,
    LARGEST_TABLE,
    MOST_CRYSTALS,
    RESCORED,
    TABLE_COLUMNS,
    page_data,
)
from screening.schema import rows_of
from screening.selection import best_places
from screening.store import CANDIDATES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

    from screening.grid import GridSize
    from screening.store import Store

    Row = Mapping[str, Any]


REPORT = "report.html"
DIRECTORY = "references"
"""Where the reference phases lie; named here too, as screening.references takes long to import."""
FILE_TABLE = "file.parquet"
"""Reference phases that come from a user's file, on the potential's scale of energy."""
MOST_HULLS = 30
"""Hulls that are drawn, those of the best candidates first."""
HEAT_CEILING = 0.5
"""Energy above the hull, in eV per atom, at which the heat map has no colour left."""
HEAT_STEPS = 10
"""Strengths of its colour."""

_REFERENCE_COLUMNS = ("reference_id", "formula", "energy_per_atom", "space_group_it_number")
_SAMPLE_COLUMNS = ("sample_id", "status", "reason", "error")
_MOST_NAMED = 8
_SCRIPTS = ("table.js", "viewer.js", "tips.js")


@dataclass(frozen=True)
class CampaignResults:
    """What a campaign has left, as far as the report needs it."""

    settings: Mapping[str, Any]
    """The resolved campaign file."""
    fingerprint: str
    """Fingerprint of the campaign with its model, calculator and references."""
    candidates: pa.Table
    """The columns `CANDIDATE_COLUMNS` of ``candidates.parquet``."""
    samples: pa.Table
    """The columns ``sample_id``, ``status``, ``reason`` and ``error`` of every sample."""
    crystals: Sequence[Row] = field(default_factory=tuple)
    """The columns `CRYSTAL_COLUMNS` of the best candidates, in order."""
    references: Sequence[Row] = field(default_factory=tuple)
    """Reference phases: ``formula`` and ``energy_per_atom`` in eV, None where it failed."""
    size: GridSize | None = None
    """What the campaign was to do."""
    marks: Sequence[Row] = field(default_factory=tuple)
    """When each unit was finished, and how many samples it drew and relaxed."""
    runs: Sequence[Row] = field(default_factory=tuple)
    """The last heartbeats of the runs in the directory, in order."""
    is_ranked: bool = True
    """Whether the candidates have been compared with each other and with the hull."""


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
    campaign = store.campaign()
    is_ranked = store.files.exists(CANDIDATES)
    heartbeats = [*(store.read_json(RUNS) or []), store.read_json(HEARTBEAT)]
    return CampaignResults(
        settings=campaign.resolved(),
        fingerprint=store.fingerprint,
        # Until the end of a campaign there is no hull, but what was relaxed can be counted.
        candidates=store.candidates(CANDIDATE_COLUMNS)
        if is_ranked
        else store.read_relaxed(columns=CANDIDATE_COLUMNS),
        crystals=store.best(MOST_CRYSTALS, CRYSTAL_COLUMNS).to_pylist() if is_ranked else [],
        samples=store.read_samples(columns=_SAMPLE_COLUMNS),
        references=_references(store),
        size=grid_size(campaign),
        marks=store.marks(["finished_at", "samples", "relaxed"]).to_pylist(),
        runs=[heartbeat for heartbeat in heartbeats if isinstance(heartbeat, dict)],
        is_ranked=is_ranked,
    )


def render_report(results: CampaignResults) -> str:
    """Return the report as the text of one HTML file."""
    candidates, samples = results.candidates, results.samples
    ranked = candidates.take(best_places(candidates))
    shown = ranked.slice(0, LARGEST_TABLE).to_pylist()
    systems = ranked["chemical_system"].unique().to_pylist()
    is_rescored = ranked["rescored_e_above_hull"].null_count < ranked.num_rows
    data = page_data(shown, results.crystals)
    style, scripts = _text("report.css"), [_text(name) for name in _SCRIPTS]
    return _template().render(
        policy=_policy(style, scripts),
        style=style,
        scripts=scripts,
        data=data,
        columns=[column for column in TABLE_COLUMNS if is_rescored or column.key != RESCORED],
        is_rescored=is_rescored,
        name=results.settings["name"],
        fingerprint=results.fingerprint,
        settings=yaml.safe_dump(dict(results.settings), sort_keys=False, allow_unicode=True),
        sources=_distinct(candidates, ("generator", "calculator", "hull_source")),
        asked=_asked(results.settings),
        size=results.size,
        found=findings(ranked),
        near_hull=NEAR_HULL,
        n_units=len(results.marks),
        is_ranked=results.is_ranked,
        **_effort(results.runs),
        n_samples=samples.num_rows,
        n_relaxed=candidates.num_rows - candidates["energy_per_atom"].null_count,
        n_references=sum(row["energy_per_atom"] is not None for row in results.references),
        n_ranked=ranked.num_rows,
        largest_table=LARGEST_TABLE,
        ranked=shown,
        elements=sorted({element for system in systems for element in system.split("-")}),
        groups=sorted(ranked["space_group_it_number"].drop_null().unique().to_pylist()),
        hulls=_hulls(systems[:MOST_HULLS], ranked.sort_by("e_above_hull"), results.references),
        n_systems=len(systems),
        heat_map=heat_map(ranked),
        funnel=funnel(rows_of(samples), rows_of(candidates)),
        throughput=Markup(throughput_svg(throughput(results.marks, _begin(results.runs)))),  # noqa: S704 - our own markup
        failures=failures(chain(rows_of(samples), rows_of(candidates))),
    )


def _references(store: Store) -> list[Row]:
    names = [name for name in store.files.names(DIRECTORY) if name.endswith(".parquet")]
    # A user's file takes the place of the structure types, whose elements lie beside it.
    names = [FILE_TABLE] if FILE_TABLE in names else names
    tables = [store.read_table(f"{DIRECTORY}/{name}") for name in names]
    return [
        row
        for table in tables
        if table is not None
        for row in table.select(
            [c for c in _REFERENCE_COLUMNS if c in table.column_names]
        ).to_pylist()
    ]


def _hulls(
    systems: Iterable[str], ranked: pa.Table, references: Sequence[Row]
) -> list[tuple[str, Markup]]:
    """Draw the systems whose hull can be drawn."""
    known = [
        Phase(
            row["formula"],
            row["energy_per_atom"],
            space_group=row.get("space_group_it_number"),
            name=row.get("reference_id") or "",
        )
        for row in references
        if row["energy_per_atom"] is not None
    ]
    drawn = [(system, hull_svg(system, _phases(ranked, system), known)) for system in systems]
    # The markup comes from screening.svg, which escapes the text that it writes.
    return [(system, Markup(svg)) for system, svg in drawn if svg]  # noqa: S704


def _phases(ranked: pa.Table, system: str) -> list[Phase]:
    """Return the candidates of a chemical system as phases."""
    rows = ranked.filter(pc.equal(ranked["chemical_system"], system))
    return [
        Phase(
            row["chemical_formula_reduced"],
            row["energy_per_atom"],
            row["e_above_hull"],
            row["space_group_it_number"],
            row["sample_id"],
        )
        for row in rows_of(rows)
    ]


def _asked(settings: Mapping[str, Any]) -> list[str]:
    """What the campaign file asks for, in a few words."""
    systems, sites = settings["chemical_systems"], settings["sites"]
    groups = [space_group_name(number) for number in settings["space_groups"]]
    per_element = " or ".join(str(count) for count in sites["per_element"])
    return [
        f"all systems of {systems['arity']} of {', '.join(systems['elements'])}"
        if isinstance(systems, dict)
        else _listed(systems, "chemical system"),
        _listed(groups, "space group"),
        f"{per_element} inequivalent site{'s' * (per_element != '1')} of each element",
        f"at most {sites['total_max']} sites in all",
        f"{settings['samples_per_cell']} samples of each cell",
    ]


def _listed(names: Sequence[str], what: str) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    count = f"{len(names)} {what}{'s' * (len(names) != 1)}"
    return f"{count}: {', '.join(names[:_MOST_NAMED])}{more}"


def _effort(runs: Sequence[Row]) -> dict[str, Any]:
    """Add up the time of all runs: on a clock, and of the workers of each stage."""
    busy_s: dict[str, float] = {}
    for run in runs:
        for name, stage in run["stages"].items():
            busy_s[name] = busy_s.get(name, 0.0) + stage["busy_s"]
    return {
        "n_runs": len(runs),
        "wall_time": duration(sum(run["elapsed_s"] for run in runs)) if runs else None,
        "busy": [(name, duration(seconds)) for name, seconds in busy_s.items() if seconds],
    }


def _begin(runs: Sequence[Row]) -> float | None:
    """When the first run began, in seconds since the epoch."""
    return min((run["updated_at"] - run["elapsed_s"] for run in runs), default=None)


def _distinct(rows: pa.Table, columns: Iterable[str]) -> dict[str, str]:
    """The values of the columns that name where numbers come from."""
    return {
        column: ", ".join(sorted(rows[column].drop_null().unique().to_pylist()))
        for column in columns
    }


def _warmth(energy: float) -> str:
    """Class of a heat map's cell, the strongest next to the hull."""
    if energy <= 0:
        return "warm-below"
    return f"warm-{round(HEAT_STEPS * (1 - min(energy / HEAT_CEILING, 1)))}"


def _policy(style: str, scripts: Iterable[str]) -> str:
    """Return a content security policy that admits these texts, by their hashes, and no other."""
    hashes = " ".join(_hash(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


@lru_cache
def _text(name: str) -> Markup:
    """One of the page's own files, which goes into it as it is."""
    text = (files("screening") / "templates" / name).read_text(encoding="utf-8")
    return Markup(text)  # noqa: S704 - our own file


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
        signed=signed, warmth=_warmth, formula=typeset, space_group=space_group_name
    )
    return environment.get_template("report.html.j2")

"""The report of a campaign: complete, safe against hostile names, and free of outside references."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from pymatgen.core import Lattice, Structure

from screening import references, report
from screening.campaign import Campaign
from screening.errors import UserError
from screening.export import best
from screening.figures import Phase, hull_svg
from screening.grid import Cell, Unit
from screening.report import (
    LARGEST_TABLE,
    CampaignResults,
    failures,
    funnel,
    heat_map,
    render_report,
    report_campaign,
)
from screening.schema import (
    CANDIDATE_SCHEMA,
    SAMPLE_SCHEMA,
    structure_columns,
    table_from_rows,
)
from screening.store import Store

if TYPE_CHECKING:
    from pathlib import Path

CESIUM_CHLORIDE = Structure.from_spacegroup(
    "Pm-3m", Lattice.cubic(4.12), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
)
ROCK_SALT = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(6.9), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
).get_primitive_structure()
REFERENCES = [
    {"formula": "Cs", "energy_per_atom": -0.9},
    {"formula": "Cl2", "energy_per_atom": -1.8},
    {"formula": "CsCl", "energy_per_atom": -3.6},
]
SETTINGS = Campaign.from_mapping(
    {
        "name": "cs-cl",
        "chemical_systems": ["Cl-Cs"],
        "space_groups": [221, 225],
        "sites": {"per_element": [1], "total_max": 2},
        "samples_per_cell": 4,
    }
).resolved()


def candidate(index: int, structure: Structure, e_above_hull: float, **columns: Any) -> dict:
    group = 221 if structure is CESIUM_CHLORIDE else 225
    return {
        "sample_id": f"Cl-Cs_{group}_Cl1-Cs1_000-{index:03d}",
        "unit_id": f"Cl-Cs_{group}_Cl1-Cs1_000",
        "seed": index,
        "chemical_system": "Cl-Cs",
        "space_group_requested": group,
        "site_counts": "Cl1-Cs1",
        "generator": "0123456789abcdef/langevin",
        "status": "kept",
        **structure_columns(structure),
        "energy": 2 * (e_above_hull - 3.6),
        "energy_per_atom": e_above_hull - 3.6,
        "formation_energy_per_atom": e_above_hull - 2.25,
        "e_above_hull": e_above_hull,
        "e_above_hull_self": e_above_hull,
        "hull_source": "prototypes",
        "converged": True,
        "is_representative": True,
        "n_duplicates": 0,
        "is_novel": True,
        "smact_valid": True,
        "calculator": "chgnet/0.4.2",
        **columns,
    }


CANDIDATES = [
    candidate(0, ROCK_SALT, 0.0312),
    candidate(1, CESIUM_CHLORIDE, 0.0, matched_reference_id="CsCl-B2", is_novel=False),
    candidate(2, CESIUM_CHLORIDE, 0.0001, is_representative=False),
    {
        **candidate(3, ROCK_SALT, 0.0),
        **dict.fromkeys(["energy", "energy_per_atom", "e_above_hull", "converged"]),
        "is_representative": None,
        "status": "failed",
        "error": "the cell grew to 4.1 times its volume",
    },
]


def sample(index: int, status: str = "kept", **columns: Any) -> dict:
    names = [name for name in SAMPLE_SCHEMA.names if name not in {"reason", "error"}]
    row = candidate(index, ROCK_SALT, 0.0)
    return {**{name: row[name] for name in names}, "status": status, **columns}


SAMPLES = [
    *(sample(index) for index in range(4)),
    sample(4, "filtered", reason="min_distance 0.31 Å < 0.5 Å"),
    sample(5, "filtered", reason="min_distance 0.42 Å < 0.5 Å"),
    sample(6, "failed", error="the score of sample 6 is not finite"),
]


def results(**changes: Any) -> CampaignResults:
    settings = {**SETTINGS, **changes.pop("settings", {})}
    candidates = changes.pop("candidates", CANDIDATES)
    samples = changes.pop("samples", SAMPLES)
    return CampaignResults(
        settings,
        "fedcba9876543210",
        table_from_rows(candidates, CANDIDATE_SCHEMA),
        table_from_rows(samples, SAMPLE_SCHEMA),
        REFERENCES,
    )


class Page(HTMLParser):
    """Collects a page's tags, checks that they are closed, and finds what it would load."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr", "base"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag and what it links to."""
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.links += [v or "" for name, v in attrs if name in {"src", "href", "xlink:href"}]

    def handle_endtag(self, tag: str) -> None:
        """Check that the innermost open tag is the one that ends."""
        assert self.open.pop() == tag


def test_candidates_are_ranked_once_per_group_of_duplicates() -> None:
    ranked = best(CANDIDATES)
    assert [row["sample_id"][-3:] for row in ranked] == ["001", "000"]


def test_every_stage_is_counted() -> None:
    counts = {stage: (count, reasons) for stage, count, reasons in funnel(SAMPLES, CANDIDATES)}
    assert counts["samples drawn"] == (7, "")
    assert counts["failed while they were drawn"] == (1, "")
    assert counts["removed by a filter"] == (2, "min_distance … Å < … Å: 2")
    assert counts["passed on to relaxation"] == (4, "")
    assert counts["relaxed"] == (3, "")
    assert counts["relaxed and converged"] == (3, "")
    assert counts["distinct, placed against the hull"] == (2, "")
    assert counts["novel: match no reference phase"] == (1, "")
    assert counts["on the hull or below it"] == (1, "")


def test_errors_that_differ_in_numbers_are_counted_together() -> None:
    rows = [sample(i, "failed", error=f"the score of sample {i} is not finite") for i in (8, 9)]
    assert failures([*rows, *SAMPLES, *CANDIDATES]) == [
        ("the score of sample 8 is not finite", 3, rows[0]["sample_id"]),
        ("the cell grew to 4.1 times its volume", 1, CANDIDATES[3]["sample_id"]),
    ]


def test_heat_map_holds_the_best_of_each_cell() -> None:
    worse = candidate(9, ROCK_SALT, 0.2)
    found = heat_map(best([*CANDIDATES, worse]))
    assert found.columns == ("Cl1-Cs1",)
    assert [
        (group, [row and row["e_above_hull"] for row in cells]) for group, cells in found.rows
    ] == [("221 Pm-3m", [0.0]), ("225 Fm-3m", [0.0312])]


def test_heat_map_of_several_systems_joins_equal_numbers_of_sites() -> None:
    others = [
        candidate(7, ROCK_SALT, 0.5, chemical_system="Br-Cs", site_counts="Br1-Cs2"),
        candidate(8, ROCK_SALT, 0.4, chemical_system="Cl-Cs", site_counts="Cl2-Cs1"),
    ]
    found = heat_map(best([*CANDIDATES, *others]))
    assert found.columns == ("1-1", "2-1")
    assert [row and row["e_above_hull"] for row in found.rows[1][1]] == [0.0312, 0.4]


def test_page_shows_the_results() -> None:
    page = render_report(results())
    Page(page)
    assert "<h1>cs-cl</h1>" in page
    assert "fedcba9876543210" in page
    assert "0123456789abcdef/langevin" in page
    assert "+0.031" in page
    assert "225 Fm-3m" in page
    assert "known: CsCl-B2" in page
    assert "samples_per_cell: 4" in page
    assert "the cell grew to 4.1 times its volume" in page
    assert "Convex hull of Cl-Cs" in page


def test_page_refers_to_nothing_outside_itself() -> None:
    page = render_report(results())
    assert all(link.startswith("#") for link in Page(page).links)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", page)
    assert "default-src 'none'" in page


@pytest.mark.parametrize("where", ["settings", "error", "sample", "reason"])
def test_hostile_names_are_escaped(where: str) -> None:
    hostile = "</pre></td><script>alert(1)</script>\"'"
    changes: dict[str, Any] = {
        "settings": {"settings": {"name": hostile}},
        "error": {"samples": [sample(0, "failed", error=hostile)]},
        "sample": {"candidates": [candidate(0, ROCK_SALT, 0.1, sample_id=hostile)]},
        "reason": {"samples": [sample(0, "filtered", reason=hostile)]},
    }[where]
    page = render_report(results(**changes))
    assert Page(page).tags.count("script") == 1
    assert "&lt;script&gt;alert(" in page
    assert "<script>alert" not in page


def test_page_without_candidates() -> None:
    page = render_report(results(candidates=[], samples=[]))
    Page(page)
    assert "No candidate has been placed against a hull." in page
    assert "Nothing failed." in page


def test_large_campaign_is_written_in_seconds() -> None:
    rows = [
        {**CANDIDATES[0], "sample_id": f"{index:06d}", "e_above_hull": index / 1e4}
        for index in range(5000)
    ]
    large = results(candidates=rows)
    start = time.perf_counter()
    page = render_report(large)
    # About two seconds; the bound leaves room for a busy machine.
    assert time.perf_counter() - start < 30
    assert f"the best {LARGEST_TABLE} of 5000" in page
    assert len(page) < 5_000_000


def test_report_of_a_stored_campaign(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "results"))
    store.initialise(SETTINGS, "fedcba9876543210")
    cell = Cell("Cl-Cs", 225, {"Cl": 1, "Cs": 1})
    unit = Unit("Cl-Cs_225_Cl1-Cs1_000", cell, 0, 1, 0)
    row = candidate(0, ROCK_SALT, 0.0312)
    unplaced = {**row, "e_above_hull": None, "is_representative": None, "is_novel": None}
    store.write_unit(unit, [sample(0)], [unplaced])
    assert report_campaign(store) == f"{store.uri}/report.html"
    page = (tmp_path / "results" / "report.html").read_text(encoding="utf-8")
    assert "No candidate has been placed against a hull." in page

    store.write_table("references/Cl-Cs.parquet", pa.Table.from_pylist(REFERENCES))
    store.write_candidates([row])
    out = tmp_path / "elsewhere" / "page.html"
    assert report_campaign(store, out) == str(out)
    page = out.read_text(encoding="utf-8")
    assert "+0.031" in page
    assert "Convex hull of Cl-Cs" in page
    assert ">CsCl</text>" in page

    store.write_table("references/file.parquet", pa.Table.from_pylist(REFERENCES[:2]))
    report_campaign(store, out)
    assert ">CsCl</text>" not in out.read_text(encoding="utf-8")


def test_report_looks_where_the_references_are_kept() -> None:
    assert report.DIRECTORY == references.DIRECTORY


def test_report_needs_a_campaign_and_a_place(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no campaign"):
        report_campaign(Store(str(tmp_path)))
    store = Store(str(tmp_path / "results"))
    store.initialise(SETTINGS, "fedcba9876543210")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"page\.html cannot be written: File exists"):
        report_campaign(store, tmp_path / "file" / "page.html")


PHASES = [Phase("Cu", -4.0), Phase("K", -1.0), Phase("Si", -5.0), Phase("Cu3Si", -4.6)]


def test_ternary_hull_draws_every_phase_and_candidate_once() -> None:
    svg = hull_svg("Cu-K-Si", [Phase("CuKSi", -3.2, 0.13)], PHASES)
    assert svg.startswith('<svg role="img" aria-label="Convex hull of Cu-K-Si"')
    assert sorted(re.findall(r">([A-Z]\w*)</text>", svg)) == ["Cu", "Cu3Si", "K", "Si"]
    assert hull_svg("Cu-K-Si", [Phase("CuKSi", -3.2, 0.13)], PHASES) == svg


def test_binary_hull_shows_formation_energies() -> None:
    svg = hull_svg("Cu-Si", [Phase("CuSi", -4.6, 0.2)], PHASES)
    assert "formation energy (eV/atom)" in svg
    assert sorted(re.findall(r">([A-Z]\w*)</text>", svg)) == ["Cu", "Cu3Si", "Si"]


@pytest.mark.parametrize("system", ["Cu", "Cu-K-Si-P", "Ag-Cu"])
def test_hull_that_cannot_be_drawn_is_left_out(system: str) -> None:
    assert hull_svg(system, [], PHASES) == ""

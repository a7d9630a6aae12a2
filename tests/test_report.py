"""The report of a campaign: complete, safe against hostile names, and free of outside references."""

from __future__ import annotations

import base64
import json
import re
from hashlib import sha256
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from report_results import CANDIDATES, REFERENCES, ROCK_SALT, SETTINGS, candidate, results, sample
from small_results import write_candidates

from screening import references, report
from screening.campaign import Campaign
from screening.errors import UserError
from screening.grid import Cell, Unit, grid_size
from screening.progress import HEARTBEAT, RUNS
from screening.report import render_report, report_campaign
from screening.report_data import LARGEST_TABLE, MOST_CRYSTALS
from screening.store import Store

if TYPE_CHECKING:
    from pathlib import Path


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


def test_page_shows_the_results() -> None:
    page = render_report(results())
    Page(page)
    assert "<h1>cs-cl</h1>" in page
    assert "fedcba9876543210" in page
    assert "0123456789abcdef/langevin" in page
    assert "+0.031" in page
    assert "225 Fm-3m" in page
    assert '"CsCl-B2"' in page
    assert "samples_per_cell: 4" in page
    assert "the cell grew to 4.1 times its volume" in page
    assert "Convex hull of Cl-Cs" in page


def test_page_refers_to_nothing_outside_itself() -> None:
    page = render_report(results())
    assert all(link.startswith("#") for link in Page(page).links)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", page)
    assert "default-src &#39;none&#39;" in page


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
    assert Page(page).tags.count("script") == 4
    assert "&lt;script&gt;alert(" in page
    assert "<script>alert" not in page


def test_page_without_candidates() -> None:
    page = render_report(results(candidates=[], samples=[]))
    Page(page)
    assert "No candidate has been placed against a hull." in page
    assert "Nothing failed." in page


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert found
    return json.loads(found[1])


def test_data_of_the_page_survive_hostile_names_and_numbers() -> None:
    hostile = "</script><!--<script>alert('1')</script>\u2028&amp;"
    rows = [candidate(0, ROCK_SALT, 0.1, sample_id=hostile, formation_energy_per_atom=float("nan"))]
    data = data_of(render_report(results(candidates=rows)))
    assert dict(zip(data["columns"], data["rows"][0], strict=True)) == {
        "formula": "ClCs",
        "group": 225,
        "hull": 0.1,
        "rescored": None,
        "self": 0.1,
        "formation": None,
        "known": None,
        "novel": True,
        "atoms": 2,
        "requested": 225,
        "sites": "Cl1-Cs1",
        "times": 1,
        "neutral": True,
        "sample": hostile,
    }
    assert data["groups"] == {"225": "225 Fm-3m"}


def test_a_second_potential_has_a_column_only_where_there_is_one() -> None:
    without = render_report(results(candidates=[candidate(0, ROCK_SALT, 0.1)]))
    assert 'data-key="rescored"' not in without
    row = candidate(0, ROCK_SALT, 0.1, rescored_e_above_hull=0.25)
    page = render_report(results(candidates=[row]))
    assert 'data-key="rescored"' in page
    assert "1 novel ones rescored with a second potential: 0 at most 0.1" in page
    (values,) = data_of(page)["rows"]
    assert values[data_of(page)["columns"].index("rescored")] == 0.25


def test_best_crystals_are_in_the_page_in_their_order() -> None:
    rows = [{**row, "cif": f"data_{row['sample_id']}"} for row in CANDIDATES]
    scenes = data_of(render_report(results(candidates=rows)))["scenes"]
    assert [scene["cell"][0] for scene in scenes] == [4.12, 6.9]
    assert [scene["cif"][-3:] for scene in scenes] == ["001", "000"]


def test_policy_admits_the_own_texts_by_their_hashes_and_no_other() -> None:
    page = render_report(results())
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    directives = dict(part.split(" ", 1) for part in policy[1].replace("&#39;", "'").split("; "))
    own = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(sha256(text.encode()).digest()).decode() for text in own]
    assert directives["script-src"] == " ".join(f"'sha256-{digest}'" for digest in digests)
    assert len(own) == 3
    assert directives["default-src"] == "'none'"
    assert "unsafe" not in policy[1]
    assert not re.search(r"<[^>]+ (style|on\w+)=", page)


def test_summary_says_what_was_asked_and_what_it_took() -> None:
    size = grid_size(Campaign.from_mapping(SETTINGS))
    stages = {"sampling": {"busy_s": 100.0}, "relaxation": {"busy_s": 30.5}}
    runs = [
        {"elapsed_s": 60.0, "updated_at": 1060.0, "stages": stages},
        {"elapsed_s": 65.0, "updated_at": 2000.0, "stages": {"sampling": {"busy_s": 25.0}}},
    ]
    marks = [{"finished_at": 1030.0, "samples": 4, "relaxed": 3}]
    page = render_report(results(size=size, runs=runs, marks=marks, is_ranked=False))
    assert "2 space groups: 221 Pm-3m, 225 Fm-3m" in page
    assert "<li>1 inequivalent site of each element</li><li>at most 2 sites in all</li>" in page
    assert "1 of 2 units are done, and nothing has been ranked yet" in page
    assert '<div class="figure">2 min 5 s</div>' in page
    assert "<li>sampling 2 min 5 s</li><li>relaxation 30 s</li>" in page
    assert "0 to 0.5 min&#10;4 samples, 3 relaxed&#10;480 samples per hour" in page


def test_large_campaign_is_cut_and_stays_small() -> None:
    rows = [
        {**CANDIDATES[0], "sample_id": f"{index:06d}", "e_above_hull": index / 1e4}
        for index in range(LARGEST_TABLE + 2000)
    ]
    page = render_report(results(candidates=rows))
    assert "the best 10,000 of 12,000" in page
    data = data_of(page)
    assert [row[-1] for row in data["rows"]] == [f"{index:06d}" for index in range(LARGEST_TABLE)]
    assert len(data["scenes"]) == MOST_CRYSTALS
    assert len(page) < 2_000_000


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
    write_candidates(store, [row])
    store.write_json(RUNS, [{"elapsed_s": 40.0, "updated_at": 0.0, "stages": {}}])
    store.write_json(HEARTBEAT, {"elapsed_s": 80.0, "updated_at": 100.0, "stages": {}})
    out = tmp_path / "elsewhere" / "page.html"
    assert report_campaign(store, out) == str(out)
    page = out.read_text(encoding="utf-8")
    assert "+0.031" in page
    assert "Convex hull of Cl-Cs" in page
    assert ">CsCl</text>" in page
    assert "2 min 0 s" in page

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

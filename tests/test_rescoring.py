"""A second potential for the best candidates: its own energies, its own hull, nothing done twice."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from faulty_stages import OtherEMT
from small_results import CESIUM_CHLORIDE, results, write_candidates

from screening.campaign import Campaign, Rescoring
from screening.errors import UserError
from screening.findings import FINDING_COLUMNS, findings
from screening.hull import KnownHull
from screening.pipeline import resume_campaign, run_campaign
from screening.progress import Progress
from screening.references import References
from screening.relaxation import relax
from screening.report import report_campaign
from screening.rescoring import (
    SETTING,
    Rescorer,
    check_rescoring,
    forget_failures,
    keep_setting,
)
from screening.schema import structure_columns, structure_from_row
from screening.store import Store
from screening.summary import summary_text
from screening.views import LineView

ALLOY = """
name: alloy
chemical_systems: [Al-Cu]
space_groups: [221, 123, 225]
sites: {per_element: [1], total_max: 2}
samples_per_cell: 4
seed: 7
relaxation: {calculator: 'ase.calculators.emt:EMT', max_steps: 60}
references: prototypes
rescoring: {calculator: 'faulty_stages:OtherEMT', top: 2}
"""
SECOND = "faulty_stages:OtherEMT"


@pytest.fixture(scope="module")
def rescored(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A campaign whose two best candidates are relaxed again."""
    del local_ray
    out = tmp_path_factory.mktemp("alloy") / "results"
    result = run_campaign(Campaign.from_text(ALLOY, "alloy"), str(out), view=quiet())
    assert result.summary["rescored"]["calculator"] == SECOND
    return Store(result.uri)


def quiet() -> LineView:
    return LineView(io.StringIO())


def asked(store: Store) -> list[dict[str, Any]]:
    """Return the candidates that the second potential was asked about, in order."""
    rows = store.candidates().to_pylist()
    return [row for row in rows if row["rescored_calculator"] is not None]


def test_the_second_energies_and_hull_are_the_second_potentials(rescored: Store) -> None:
    rows = asked(rescored)
    by_first = sorted(rescored.best().to_pylist(), key=lambda row: row["e_above_hull"])
    assert {row["sample_id"] for row in rows} == {row["sample_id"] for row in by_first[:2]}
    campaign = rescored.campaign()
    (directory,) = {path.parent for path in Path(rescored.uri).glob("_rescoring/*/references/*")}
    references = References(
        campaign,
        rescored,
        calculator=SECOND,
        directory=str(directory.relative_to(rescored.uri)),
    )
    phases = references.rows("Al-Cu")
    hull = KnownHull("Al-Cu", phases)
    for phase in phases:
        lowered = relax(structure_from_row(phase), OtherEMT(), 0.05, 200)
        assert lowered.energy / len(lowered.structure) == pytest.approx(
            phase["energy_per_atom"], abs=1e-3
        )
    for row in rows:
        again = relax(structure_from_row(row), OtherEMT(), 0.05, 200)
        energy = row["rescored_energy_per_atom"]
        assert energy == pytest.approx(again.energy / len(again.structure), abs=1e-3)
        assert abs(energy - row["energy_per_atom"]) > 0.1
        floor = hull.energy_per_atom(row["chemical_formula_reduced"])
        assert row["rescored_e_above_hull"] == pytest.approx(energy - floor)
        assert row["rescored_converged"]
        assert "_cell_length_a" in row["rescored_cif"]


def test_what_the_second_potential_makes_one_crystal_or_a_known_one_is_said(
    rescored: Store,
) -> None:
    campaign, setting = rescored.campaign(), Rescoring(calculator=SECOND, top=2)
    progress = Progress([], quiet())
    rescorer = Rescorer(campaign, setting, rescored, References(campaign, rescored), progress)
    second = rescorer._second_references(["Al-Cu"])
    first = next(iter(rescorer._known().values()))
    phases = [row for row in second.rows("Al-Cu") if row["chemical_system"] == "Al"]
    phase = min(phases, key=lambda row: row["energy_per_atom"])
    known = {
        **first,
        **{name: phase[name] for name in phase if name in first},
        "sample_id": "known",
        "status": "kept",
        "converged": True,
    }
    twin = {**first, "sample_id": "twin", "energy_per_atom": first["energy_per_atom"] + 1e-4}
    lost = {**twin, "sample_id": "lost", "converged": False}
    placed = rescorer._placed([twin, first, known, lost], second).to_pylist()
    assert [row["rescored_duplicate_of"] for row in placed] == [first["sample_id"], *[None] * 3]
    names = [row["rescored_matched_reference_id"] for row in placed]
    assert names[0] == names[1]
    assert names[2:] == [phase["reference_id"], None]


def test_the_best_and_the_figures_leave_them_out(tmp_path: Path) -> None:
    store = results(tmp_path / "small", n_done=2)
    said = [("a", None, None), ("b", "a", None), ("c", None, "CsCl")]
    rows = [
        {
            **structure_columns(CESIUM_CHLORIDE),
            "sample_id": name,
            "chemical_system": "Cl-Cs",
            "space_group_requested": 221,
            "site_counts": "Cl1-Cs1",
            "status": "kept",
            "e_above_hull": 0.0,
            "energy_per_atom": -3.0,
            "rescored_e_above_hull": 0.0,
            "is_novel": True,
            "is_representative": True,
            "converged": True,
            "rescored_duplicate_of": twin,
            "rescored_matched_reference_id": phase,
        }
        for name, twin, phase in said
    ]
    write_candidates(store, rows)
    assert [row["sample_id"] for row in store.best().to_pylist()] == ["a", "c"]
    found = findings(store.best(columns=FINDING_COLUMNS))
    assert (found.novel, found.rescored, found.rescored_stable) == (2, 1, 1)
    lines = summary_text(store, 10).splitlines()
    assert [line.split()[-1] for line in lines[1:3]] == ["novel", "CsCl"]
    report_campaign(store)
    report = (Path(store.uri) / "report.html").read_text()
    assert "the same crystal as another candidate, for the second potential" in report


def test_only_phases_near_the_first_hull_are_relaxed_again(rescored: Store) -> None:
    first = References(rescored.campaign(), rescored).rows("Al-Cu")
    hull = KnownHull("Al-Cu", first)
    heights = {
        row["reference_id"]: row["energy_per_atom"] - hull.energy_per_atom(row["formula"])
        for row in first
    }
    again = [
        name
        for path in Path(rescored.uri).glob("_rescoring/*/references/*.parquet")
        for name in rescored.read_table(str(path.relative_to(rescored.uri)))[
            "reference_id"
        ].to_pylist()
    ]
    assert sorted(again) == sorted(name for name, height in heights.items() if height <= 0.2)
    assert len(again) < len(first)


def test_what_was_rescored_comes_first_in_the_second_order(rescored: Store) -> None:
    rows = rescored.best().to_pylist()
    second = [row["rescored_e_above_hull"] for row in rows]
    assert None not in second[:2]
    assert second[:2] == sorted(second[:2])
    assert set(second[2:]) == {None}
    heights = [row["e_above_hull"] for row in rows[2:]]
    assert heights == sorted(heights)
    text = summary_text(rescored, 10)
    assert f"{second[0]:+.3f} eV/atom" in text
    assert f"with {SECOND}: " in text
    assert "Rescored" in (Path(rescored.uri) / "report.html").read_text()


def test_a_longer_list_begins_with_what_is_known(
    local_ray: None, rescored: Store, tmp_path: Path
) -> None:
    del local_ray
    out = tmp_path / "results"
    shutil.copytree(rescored.uri, out)
    pieces = {path: path.stat().st_mtime_ns for path in out.glob("_rescoring/*/*.parquet")}
    result = resume_campaign(str(out), rescoring=Rescoring(calculator=SECOND, top=3), view=quiet())
    longer = asked(Store(str(out)))
    before = {row["sample_id"]: row for row in asked(rescored)}
    assert len(longer) == 3
    assert before.items() <= {row["sample_id"]: row for row in longer}.items()
    assert all(path.stat().st_mtime_ns == time for path, time in pieces.items())
    assert result.summary["this_run"]["stages"]["rescoring"]["busy_s"] > 0
    # It is remembered, and nothing is left to do.
    result = resume_campaign(str(out), view=quiet())
    assert asked(Store(str(out))) == longer
    assert result.summary["this_run"]["stages"]["rescoring"]["busy_s"] == 0


def test_a_second_potential_that_fails_is_recorded(
    local_ray: None, rescored: Store, tmp_path: Path
) -> None:
    del local_ray
    out = tmp_path / "results"
    shutil.copytree(rescored.uri, out)
    failing = Rescoring(calculator="faulty_stages:Blind", top=1)
    resume_campaign(str(out), rescoring=failing, view=quiet())
    store = Store(str(out))
    (row,) = asked(store)
    assert row["rescored_error"].startswith("relaxation: ")
    assert row["rescored_e_above_hull"] is None
    assert row["rescored_energy_per_atom"] is None
    # Nothing that was known is worse off.
    assert row["e_above_hull"] == store.best(1).to_pylist()[0]["e_above_hull"]
    # It is remembered, and tried again when asked for.
    (piece,) = out.glob("_rescoring/*Blind*/*.parquet")
    failed = pq.read_table(piece)
    assert failed["status"].to_pylist() == ["failed"]
    forget_failures(store, Rescoring(calculator=SECOND))  # not those of another potential
    assert pq.read_table(piece) == failed
    forget_failures(store, failing)
    assert pq.read_table(piece).num_rows == 0
    (good,) = out.glob("_rescoring/*OtherEMT*/*.parquet")
    known = pq.read_table(good)
    forget_failures(store, Rescoring(calculator=SECOND))
    assert pq.read_table(good) == known


@pytest.mark.parametrize(
    ("calculator", "message"),
    [
        ("ase.calculators.emt:EMT", "rescoring.calculator is ase.calculators.emt:EMT, with which"),
        ("vasp", "rescoring.calculator is 'vasp'; allowed: default, chgnet"),
    ],
)
def test_a_potential_that_is_no_second_one_is_refused(calculator: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_rescoring(Campaign.from_text(ALLOY, "alloy"), Rescoring(calculator=calculator))


def test_a_damaged_setting_is_refused(rescored: Store, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    (tmp_path / SETTING).write_text("{")
    with pytest.raises(UserError, match=f"{SETTING} is damaged"):
        keep_setting(store, None)
    assert keep_setting(rescored, None) == Rescoring(calculator=SECOND, top=2)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{top: 3}", "rescoring.calculator is missing"),
        ("{calculator: chgnet, top: 0}", "rescoring.top is 0; allowed: an integer from 1"),
        ("{calculator: chgnet, many: 1}", "there is no key 'many' in rescoring"),
        ("7", "rescoring is 7; allowed: the keys calculator and top, or null"),
    ],
)
def test_mistakes_get_one_sentence(value: str, message: str) -> None:
    text = ALLOY.replace("{calculator: 'faulty_stages:OtherEMT', top: 2}", value)
    with pytest.raises(UserError, match=message):
        Campaign.from_text(text, "alloy")


def test_a_campaign_is_the_same_with_and_without(rescored: Store) -> None:
    with_it = rescored.campaign()
    without = with_it.model_copy(update={"rescoring": None})
    assert with_it.fingerprint({}) == without.fingerprint({})

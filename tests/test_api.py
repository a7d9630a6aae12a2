"""The package from Python says the same as the command line, and costs nothing to import."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from report_results import CANDIDATES, CESIUM_CHLORIDE, ROCK_SALT, SETTINGS
from small_results import write_candidates

from model import load_model
from screening import Campaign
from screening.errors import UserError
from screening.plan import plan, plan_text
from screening.schema import CANDIDATE_SCHEMA
from screening.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from model.api import CrystalModel

KEYS = {name: SETTINGS[name] for name in ("name", "space_groups", "sites", "samples_per_cell")}


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    """A campaign with four candidates in its directory."""
    made = Campaign.from_settings(tmp_path / "results", chemical_systems=["Cs-Cl"], **KEYS)
    store = Store(made.out)
    store.initialise(made.settings.resolved(), "fedcba9876543210")
    write_candidates(store, CANDIDATES)
    return made


def test_yaml_and_keywords_give_the_same_campaign(tmp_path: Path) -> None:
    written = Campaign.from_settings(chemical_systems=["Cs-Cl"], **KEYS)
    (tmp_path / "cs-cl.yaml").write_text(written.settings.to_yaml())
    assert Campaign.from_yaml(tmp_path / "cs-cl.yaml") == written
    assert written.out == "results/cs-cl"
    assert Campaign.from_yaml(tmp_path / "cs-cl.yaml", out="elsewhere").out == "elsewhere"


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="chemical_systems"):
        Campaign.from_settings(chemical_systems=["Cs-Xx"], **KEYS)
    with pytest.raises(UserError, match="holds no campaign"):
        Campaign.open("no/such/place")


def test_plan_is_that_of_the_command_line(campaign: Campaign) -> None:
    planned = campaign.plan()
    assert planned.counts == plan(campaign.settings)
    assert planned["samples"] == 8
    assert str(planned) == plan_text(dict(planned.counts))
    assert planned._repr_html_().startswith("<pre>campaign ")


def test_results_are_the_table(campaign: Campaign) -> None:
    table: pd.DataFrame = campaign.results()
    assert list(table.columns) == CANDIDATE_SCHEMA.names
    assert list(table["sample_id"]) == [row["sample_id"] for row in CANDIDATES]
    best = campaign.results(best_only=True)
    assert list(best["e_above_hull"]) == [0.0, 0.0312]
    assert Campaign.open(campaign.out) == campaign


def test_structures_are_the_best_ones(campaign: Campaign) -> None:
    found = campaign.structures()
    match = StructureMatcher().fit
    assert [match(found[0], CESIUM_CHLORIDE), match(found[1], ROCK_SALT)] == [True, True]
    assert found[0].properties == {
        "sample_id": CANDIDATES[1]["sample_id"],
        "e_above_hull": 0.0,
        "is_novel": False,
    }
    assert len(campaign.structures(top=1)) == 1


def test_status_and_report(campaign: Campaign, tmp_path: Path) -> None:
    assert campaign.status()["units"] == {"total": 2, "done": 0, "failed": 0, "waiting": 2}
    assert campaign.report(tmp_path / "page.html") == str(tmp_path / "page.html")
    assert "<h1>cs-cl</h1>" in (tmp_path / "page.html").read_text()


def test_notebook_shows_the_best_or_else_the_plan(campaign: Campaign, tmp_path: Path) -> None:
    shown = campaign._repr_html_()
    assert "results in " in shown
    assert shown.index(CANDIDATES[1]["sample_id"]) < shown.index(CANDIDATES[0]["sample_id"])
    other = Campaign.from_settings(tmp_path / "none", chemical_systems=["Cs-Cl"], **KEYS)
    assert "estimated cost" in other._repr_html_()
    assert not (tmp_path / "none").exists()


def test_run_refuses_what_no_group_admits(tmp_path: Path) -> None:
    keys = {**KEYS, "sites": {"per_element": [90], "total_max": 200}}
    asked = Campaign.from_settings(tmp_path, chemical_systems=["Cs-Cl"], **keys)
    with pytest.raises(UserError, match="per_element holds 90"):
        asked.run()


@pytest.fixture(scope="module")
def model() -> CrystalModel:
    return load_model(device="cpu")


def test_sampled_crystals_have_the_group_and_repeat(model: CrystalModel) -> None:
    found = model.sample({"K": 1, "Cl": 1}, space_group=225, n=3, seed=5)
    assert len(found) == 3
    for crystal in found:
        assert {str(element) for element in crystal.composition} == {"Cl", "K"}
        # 225 is maximal among the groups of its kind: what is found can only be itself.
        assert crystal.get_space_group_info(symprec=0.01)[1] in {225, 221, 229}
    again = model.sample({"Cl": 1, "K": 1}, space_group=225, n=3, seed=5)
    assert again == found
    assert model.sample({"K": 1, "Cl": 1}, space_group=225, n=3, seed=6) != found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sites": {}}, "sites is empty"),
        ({"sites": {"Xx": 1}}, "sites holds 'Xx': 1; allowed: an element's symbol"),
        ({"sites": {"K": 0}}, "sites holds 'K': 0"),
        ({"space_group": 14}, "space_group is 14; allowed: an integer from 16 to 230"),
        ({"n": 0}, "n is 0; allowed: an integer from 1"),
        ({"seed": -1}, "seed is -1; allowed: an integer from 0"),
        ({"sampler": "none"}, "sampler must be one of"),
    ],
)
def test_model_names_what_is_not_allowed(
    model: CrystalModel, arguments: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model.sample(**{"sites": {"K": 1}, "space_group": 225, **arguments})


def test_packages_are_cheap_to_import() -> None:
    code = (
        "import sys, json; from screening import Campaign; import model; "
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    heavy = {"torch", "ray", "pymatgen", "pyarrow", "pandas", "pydantic", "numpy", "spglib"}
    assert not heavy & set(json.loads(done.stdout))


def test_packages_have_no_other_names() -> None:
    with pytest.raises(ImportError, match="cannot import name 'campaing'"):
        from screening import campaing  # noqa: F401, PLC0415
    with pytest.raises(ImportError, match="cannot import name 'lode_model'"):
        from model import lode_model  # noqa: F401, PLC0415

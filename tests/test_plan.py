"""What a plan counts, and that it takes no time."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from small_results import CAMPAIGN

from screening.campaign import Campaign
from screening.cli import main
from screening.grid import grid_size, units
from screening.plan import estimated_cost, plan, subsystems

if TYPE_CHECKING:
    from pathlib import Path


def test_plan_counts_what_run_would_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(CAMPAIGN)
    assert main(["plan", str(path), "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    # 2 systems x 2 groups, 3 samples each in units of 2.
    assert (planned["cells"], planned["units"], planned["samples"]) == (4, 8, 12)
    assert planned["units"] == len(list(units(Campaign.from_yaml(path))))
    assert main(["plan", str(path)]) == 0
    out = capsys.readouterr().out
    assert "samples           12" in out
    assert "output            results/small" in out
    assert "225 Fm-3m, 221 Pm-3m" in out
    assert "estimated cost" in out


def test_plan_says_which_cells_are_skipped_and_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(CAMPAIGN.replace("[225, 221]", "[62, 230]") + "filters: {max_atoms: 10}\n")
    assert main(["plan", str(path)]) == 0
    out = capsys.readouterr().out
    # Two of the smallest orbits of Ia-3d: 8 + 8 atoms in the primitive cell.
    assert "skipped cells     2" in out
    assert "2 x 2 sites in group 230 (Ia-3d) make at least 16 atoms" in out


def test_plan_of_a_million_cells_takes_seconds() -> None:
    elements = [
        "Li",
        "Be",
        "B",
        "C",
        "N",
        "O",
        "F",
        "Na",
        "Mg",
        "Al",
        "Si",
        "P",
        "S",
        "Cl",
        "K",
        "Ca",
        "Sc",
        "Ti",
        "V",
        "Cr",
        "Mn",
        "Fe",
        "Co",
        "Ni",
        "Cu",
        "Zn",
        "Ga",
    ]
    campaign = Campaign.from_mapping(
        {
            "name": "large",
            "chemical_systems": {"elements": elements, "arity": 3},
            "space_groups": list(range(16, 231)),
            "sites": {"per_element": [1, 2], "total_max": 4},
            "samples_per_cell": 60,
        }
    )
    began = time.perf_counter()
    planned = plan(campaign)
    assert time.perf_counter() - began < 5
    assert planned["cells"] + planned["skipped_cells"] == 2925 * 215 * 4


def test_cost_counts_shared_subsystems_once() -> None:
    def of(systems: Any) -> Campaign:
        return Campaign.from_mapping(
            {
                "name": "c",
                "chemical_systems": systems,
                "space_groups": [225],
                "sites": {"per_element": [1], "total_max": 3},
                "samples_per_cell": 1,
            }
        )

    # Cu-K-Si and Cu-K-P share Cu, K and Cu-K.
    assert subsystems(of(["Cu-K-Si", "Cu-K-P"])) == {1: 4, 2: 5, 3: 2}
    assert subsystems(of({"elements": ["Cu", "K", "Si", "P"], "arity": 3})) == {1: 4, 2: 6, 3: 4}


def test_cost_grows_with_samples_and_shrinks_with_cores() -> None:
    campaign = Campaign.from_text(CAMPAIGN, "small")
    more = Campaign.from_text(CAMPAIGN.replace("cell: 3", "cell: 30"), "small")
    one = estimated_cost(campaign, grid_size(campaign), cores=1)
    ten = estimated_cost(more, grid_size(more), cores=1)
    assert ten.sampling_s == pytest.approx(10 * one.sampling_s)
    assert estimated_cost(campaign, grid_size(campaign), cores=2).wall_s < one.wall_s


def test_phases_that_are_known_cost_no_relaxation() -> None:
    def of(references: str) -> float:
        text = CAMPAIGN + f"references: {references}\n"
        campaign = Campaign.from_text(text, "small")
        return estimated_cost(campaign, grid_size(campaign)).references_s

    assert of("auto") == of("prototypes") > 2 * of("mp")
    assert of("mp") == of("known.csv") > 0

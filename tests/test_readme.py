"""The README's examples work as they stand, and its tables say what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Lattice, Structure
from small_results import write_candidates

from screening.campaign import Campaign
from screening.schema import CANDIDATE_SCHEMA, structure_columns
from screening.store import Store

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The examples in a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def block(language: str) -> str:
    """The first example in a language."""
    return blocks(language)[0]


def test_campaign_of_the_readme_is_valid() -> None:
    campaign = Campaign.from_text(block("yaml"), "README.md")
    assert campaign.chemical_systems == ("Cu-K-Si",)
    assert campaign.space_groups == (62, 194)
    assert campaign.output == "results/cu-k-si"


def test_python_examples_work_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = Structure.from_spacegroup(
        "F-43m", Lattice.cubic(5.9), ["K", "Cu", "Si"], [[0] * 3, [0.25] * 3, [0.5] * 3]
    )
    row = {
        "sample_id": "Cu-K-Si_216_Cu1-K1-Si1_000-000",
        "status": "kept",
        "chemical_system": "Cu-K-Si",
        "is_representative": True,
        "converged": True,
        "e_above_hull": 0.1,
        **structure_columns(expected),
    }
    worse = {**row, "sample_id": "Cu-K-Si_216_Cu1-K1-Si1_000-001", "e_above_hull": 0.2}
    failed = {"sample_id": "Cu-K-Si_216_Cu1-K1-Si1_000-002", "status": "failed", "error": "blew up"}
    campaign = Campaign.from_text(block("yaml"), "README.md")
    monkeypatch.chdir(tmp_path)
    store = Store(campaign.output)
    store.initialise(campaign.resolved(), "0123456789abcdef")
    write_candidates(store, [worse, row, failed])

    Path("cu-k-si.yaml").write_text(block("yaml"))
    rebuild, use_campaign, use_model = blocks("python")
    names: dict[str, Any] = {}
    exec(compile(rebuild, "README.md", "exec"), names)  # noqa: S102 - our own example
    assert names["structure"] == expected
    exec(compile(use_campaign, "README.md", "exec"), names)  # noqa: S102
    assert capsys.readouterr().out.startswith("campaign          cu-k-si\n")
    assert list(names["table"]["sample_id"]) == [row["sample_id"], worse["sample_id"]]
    assert [crystal.sites for crystal in names["crystals"]] == [expected.sites] * 2
    exec(compile(use_model, "README.md", "exec"), names)  # noqa: S102
    assert [crystal.chemical_system for crystal in names["drawn"]] == ["Cu-K-Si"] * 2


@pytest.mark.parametrize("column", re.findall(r"`([a-z_]+)`[,|)]? ", README))
def test_columns_that_the_readme_names_exist(column: str) -> None:
    if column not in {"screening", "resume"}:
        assert column in CANDIDATE_SCHEMA.names


def test_files_that_the_readme_names_exist() -> None:
    links = re.findall(r"\]\(([^):]+)\)", README)
    scripts = re.findall(r"scripts/\w+\.sh", README)
    assert len(links) == 11
    assert len(scripts) == 3
    for name in (*links, *scripts):
        assert (ROOT / name).is_file()

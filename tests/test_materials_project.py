"""Known phases from the Materials Project, against a server on this machine that speaks for it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from materials_server import AU_CU3, DB_VERSION, KEY, PHASES, document, materials_server
from pymatgen.core import Composition

from model.dataset import read_crystals
from screening.calculators import load_calculator
from screening.campaign import Campaign
from screening.cli import main
from screening.deduplication import match_references
from screening.errors import RunError, ScreeningError, UserError
from screening.hull import place_on_hull
from screening.materials_project import fetch_phases
from screening.references import (
    FETCHED,
    References,
    check_scale,
    choose_references,
    reference_rows,
)
from screening.relaxation import RelaxationStage
from screening.schema import structure_columns, structure_from_row
from screening.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from materials_server import MaterialsServer

EMT = "ase.calculators.emt:EMT"
SOURCE = f"Materials Project {DB_VERSION} (GGA/GGA+U)"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MaterialsServer]:
    with materials_server() as running:
        monkeypatch.setenv("MP_API_KEY", KEY)
        monkeypatch.setenv("MP_API_ENDPOINT", running.url)
        yield running


def campaign(references: str, calculator: str = EMT) -> Campaign:
    return Campaign.from_mapping(
        {
            "name": "alloy",
            "chemical_systems": ["Au-Cu"],
            "space_groups": [225],
            "sites": {"per_element": [1], "total_max": 3},
            "samples_per_cell": 1,
            "relaxation": {"calculator": calculator},
            "references": references,
        }
    )


def store_for(settings: Campaign, path: Path) -> Store:
    store = Store(str(path))
    store.initialise(settings.resolved(), "0" * 16)
    return store


# What is fetched --------------------------------------------------------------------------------


def test_phases_come_with_corrected_energies_and_crystals(server: MaterialsServer) -> None:
    table = fetch_phases(["Au-Cu"])
    rows = {row["reference_id"]: row for row in table.to_pylist()}
    formed = {name: row["formation_energy_per_atom"] for name, row in rows.items()}
    assert formed == pytest.approx(
        {"mp-1-GGA": 0, "mp-2-GGA": 0.1, "mp-3-GGA": 0, "mp-4-GGA": -0.125, "mp-5-GGA": -0.05}
    )
    assert rows["mp-4-GGA"]["dft_energy_per_atom"] == pytest.approx(-4.0)
    assert rows["mp-4-GGA"]["formula"] == "Cu3Au"
    assert structure_from_row(rows["mp-4-GGA"]) == AU_CU3
    assert table.schema.metadata[b"db_version"].decode() == DB_VERSION
    (query,) = server.queries
    assert query["thermo_types"] == ["GGA_GGA+U"]
    assert query["chemsys"] == ["Au,Cu,Au-Cu"]


def test_a_long_answer_comes_in_pages(server: MaterialsServer) -> None:
    server.documents += [document(f"mp-{n}", AU_CU3, -3.5 + 1e-4 * n, 0.0) for n in range(10, 1100)]
    table = fetch_phases(["Au-Cu"])
    assert table.num_rows == len(PHASES) + 1090
    assert [query.get("_skip") for query in server.queries] == [None, ["1000"]]
    assert len(set(table.column("reference_id").to_pylist())) == table.num_rows


def test_a_server_that_is_busy_is_asked_again(server: MaterialsServer) -> None:
    server.failures = [(429, b"{}"), (429, b"{}")]
    assert fetch_phases(["Cu"]).num_rows == 2
    assert len(server.queries) == 3


def test_adjustments_may_come_as_text(server: MaterialsServer) -> None:
    entry = server.documents[3]["entries"]["GGA"]
    entry["energy_adjustments"] = json.dumps(entry["energy_adjustments"])
    rows = {row["reference_id"]: row for row in fetch_phases(["Au-Cu"]).to_pylist()}
    assert rows["mp-4-GGA"]["dft_energy_per_atom"] == pytest.approx(-4.0)


# What can go wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words", "status"),
    [
        ((429, b"{}"), "takes no more requests for now (status 429); try again in", 1),
        ((500, b"<html>"), "answered with status 500; try again later", 1),
        ((403, b"{}"), "refused the key in MP_API_KEY (status 403)", 2),
        ((200, b'{"data": ['), "answer cannot be read (JSONDecodeError)", 1),
        ((200, b'{"data": [{"entries": {"GGA": {}}}]}'), "answer cannot be read (KeyError)", 1),
        ((200, b'{"data": []}'), "has no phase of pure Au, Cu", 1),
    ],
)
def test_an_answer_that_is_of_no_use_is_one_sentence(
    server: MaterialsServer, answer: tuple[int, bytes], words: str, status: int
) -> None:
    server.always = answer
    with pytest.raises(ScreeningError) as caught:
        fetch_phases(["Au-Cu"])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == status


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("x" * 32, "refused the key in MP_API_KEY (status 401)"),
        ("short-one", "MP_API_KEY has 9 characters; allowed: a key"),
        ("", "need a key: set the environment variable MP_API_KEY"),
    ],
)
def test_a_wrong_key_is_one_sentence_without_the_key(
    server: MaterialsServer, monkeypatch: pytest.MonkeyPatch, key: str, words: str
) -> None:
    monkeypatch.setenv("MP_API_KEY", key)
    with pytest.raises(UserError) as caught:
        fetch_phases(["Au-Cu"])
    assert words in str(caught.value)
    assert not key or key not in str(caught.value)
    assert server.queries == [] or len(key) == 32


def test_without_a_network_it_says_so(
    server: MaterialsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MP_API_ENDPOINT", "http://127.0.0.1:9/")  # nobody listens there
    with pytest.raises(RunError, match=r"cannot be reached .* fetch the phases elsewhere with"):
        fetch_phases(["Au-Cu"])
    assert server.queries == []


def test_without_the_client_it_names_the_command(
    server: MaterialsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mp_api", None)
    with pytest.raises(UserError, match=r"need mp-api: pip install 'crystal-screening\[mp\]'"):
        fetch_phases(["Au-Cu"])
    assert server.queries == []


# In a campaign ------------------------------------------------------------------------------------


def test_a_campaign_fetches_once_and_stays_on_one_scale(
    server: MaterialsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = campaign("mp")
    store = store_for(settings, tmp_path / "out")
    References(settings, store)
    assert len(server.queries) == 1
    monkeypatch.delenv("MP_API_KEY")

    references = References(settings, store)
    stage = RelaxationStage(EMT, fmax=0.05, max_steps=200)
    stage.setup()
    missing = list(references.missing())
    assert {row["chemical_system"] for row in missing} == {"Au", "Cu"}
    assert references.total == len(missing) == len(reference_rows("Au") + reference_rows("Cu"))
    elements: dict[str, float] = {}
    for row in missing:
        relaxed = stage(row)
        references.add(relaxed)
        symbol, energy = relaxed["chemical_system"], relaxed["energy_per_atom"]
        elements[symbol] = min(energy, elements.get(symbol, energy))
    assert len(server.queries) == 1

    rows = {row["reference_id"]: row for row in references.rows("Au-Cu")}
    assert set(rows) == {f"mp-{n}-GGA" for n in range(1, 6)}
    mixed = (3 * elements["Cu"] + elements["Au"]) / 4
    assert rows["mp-4-GGA"]["energy_per_atom"] == pytest.approx(-0.125 + mixed)
    candidate = {
        "sample_id": "a",
        "status": "kept",
        "chemical_system": "Au-Cu",
        **structure_columns(AU_CU3),
        "energy_per_atom": mixed - 0.1,
    }
    (placed,) = place_on_hull(
        match_references([candidate], references.rows("Au-Cu")), references.rows("Au-Cu")
    )
    assert placed["formation_energy_per_atom"] == pytest.approx(-0.1)
    assert placed["e_above_hull"] == pytest.approx(0.025)
    assert (placed["matched_reference_id"], placed["is_novel"]) == ("mp-4-GGA", False)
    assert placed["hull_source"] == SOURCE


@pytest.mark.slow
def test_a_whole_campaign_is_placed_on_the_project_s_hull(
    server: MaterialsServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    file, out = tmp_path / "alloy.yaml", tmp_path / "out"
    settings = campaign("mp", "default").to_yaml()
    file.write_text(settings.replace("samples_per_cell: 1", "samples_per_cell: 4"))
    assert main(["run", str(file), "--out", str(out)]) == 0
    assert len(server.queries) == 1

    # Without a key and without a network it goes on, on the same scale.
    monkeypatch.delenv("MP_API_KEY")
    monkeypatch.setenv("MP_API_ENDPOINT", "http://127.0.0.1:9/")
    store = Store(str(out))
    before = store.candidates()
    assert main(["resume", str(out)]) == 0
    assert store.candidates() == before
    assert len(server.queries) == 1

    rows = before.to_pylist()
    placed = [row for row in rows if row["e_above_hull"] is not None]
    assert placed
    for row in placed:
        assert row["hull_source"] == SOURCE
        # The hull goes by AuCu3 alone: AuCu lies above the line from there to gold.
        share = Composition(row["chemical_formula_reduced"]).get_atomic_fraction("Cu")
        at = np.interp(share, [0.0, 0.75, 1.0], [0.0, -0.125, 0.0])
        assert row["e_above_hull"] == pytest.approx(row["formation_energy_per_atom"] - at)
    found = {row["matched_reference_id"] for row in placed if not row["is_novel"]}
    assert found <= {phase[0] + "-GGA" for phase in PHASES}
    paths = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in path.read_bytes() for path in paths)
    told = capfd.readouterr()
    assert KEY not in told.out + told.err


def test_the_key_reaches_no_file(
    server: MaterialsServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    References(campaign("mp"), store_for(campaign("mp"), tmp_path / "out"))
    server.always = (401, json.dumps({"detail": f"{KEY} is unknown"}).encode())
    assert main(["references", "fetch", "--chemsys", "Cu", "--out", str(tmp_path / "a.parquet")])
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert tmp_path / "out" / FETCHED in files
    assert not any(KEY.encode() in path.read_bytes() for path in files)
    told = capfd.readouterr()
    assert KEY not in told.out + told.err


def test_auto_takes_it_when_there_is_a_key_and_says_so(
    server: MaterialsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    chosen = choose_references(campaign("auto", "chgnet"), said.append)
    assert chosen.references == "mp"
    assert said == ["MP_API_KEY is set: references are the phases of the Materials Project"]
    assert choose_references(campaign("prototypes", "chgnet"), said.append).references == (
        "prototypes"
    )
    assert len(said) == 1
    # The energies of EMT know nothing of corrections.
    assert choose_references(campaign("auto", EMT), said.append).references == "auto"
    assert "lack the corrections" in said[1]
    monkeypatch.setitem(sys.modules, "mp_api", None)
    assert choose_references(campaign("auto", "chgnet"), said.append).references == "auto"
    assert "mp-api is not there (pip install" in said[2]
    monkeypatch.delenv("MP_API_KEY")
    assert choose_references(campaign("auto", "chgnet"), said.append).references == "auto"
    assert len(said) == 3
    assert server.queries == []


def test_corrected_and_uncorrected_energies_are_not_mixed(
    server: MaterialsServer, tmp_path: Path
) -> None:
    file = tmp_path / "known.parquet"
    pq.write_table(fetch_phases(["Au-Cu"]), file)
    check_scale("mp", load_calculator("chgnet"))
    check_scale(str(file), load_calculator("chgnet"))
    check_scale("auto", load_calculator(EMT))
    for setting in ("mp", str(file)):
        with pytest.raises(UserError, match=r"MaterialsProject2020Compatibility, and energies of"):
            check_scale(setting, load_calculator(EMT))
    assert server.queries


def test_versions_of_the_fingerprint() -> None:
    assert References.fingerprint_of("mp") == "mp-GGA_GGA+U"


def test_a_run_without_network_leaves_the_directory_free(
    server: MaterialsServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MP_API_ENDPOINT", "http://127.0.0.1:9/")
    file = tmp_path / "c.yaml"
    file.write_text(campaign("mp", "chgnet").to_yaml())
    assert main(["run", str(file), "--out", str(tmp_path / "out")]) == 1
    told = capfd.readouterr().err
    assert "error: the Materials Project cannot be reached" in told
    assert "Traceback" not in told
    assert not (tmp_path / "out").exists()
    assert server.queries == []


# The command --------------------------------------------------------------------------------------


def test_a_fetched_file_serves_a_node_without_internet(
    server: MaterialsServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "known.parquet"
    assert main(["references", "fetch", "--chemsys", "Cu-Au", "--out", str(file)]) == 0
    told = capfd.readouterr()
    assert told.out == f"{file}\n"
    assert f"5 phases of the Materials Project, version {DB_VERSION}" in told.err
    monkeypatch.delenv("MP_API_KEY")
    settings = campaign(str(file))
    references = References(settings, store_for(settings, tmp_path / "out"))
    assert references.source == SOURCE
    assert len(server.queries) == 1
    # Its crystals can be learned from.
    assert sorted(read_crystals([file]).space_groups) == [123, 221, 225, 225, 229]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--chemsys", "Cu-Xq", "--out", "a.parquet"], "--chemsys: 'Cu-Xq' holds 'Xq'"),
        (["--chemsys", "Cu", "--out", "a.csv"], "--out is 'a.csv'; allowed: a file name that"),
        (["--chemsys", "Cu", "--out", "a.parquet"], "set the environment variable MP_API_KEY"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[Any],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["references", "fetch", *arguments]) == 2
    told = capfd.readouterr()
    assert words in told.err
    assert told.err.count("\n") == 1

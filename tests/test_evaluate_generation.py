"""`screening evaluate generation` on textbook crystals: the real model, potential and Ray."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from crystals import BY_CENTRING, crystal

from model.sampler import sampler_fingerprint
from screening.cli import main
from screening.cluster import Cluster
from screening.errors import RunError, UserError
from screening.evaluation import generation
from screening.evaluation.generation import evaluate_generation
from screening.evaluation.settings import GenerationSettings
from screening.random_crystals import VERSION
from screening.schema import SAMPLE_SCHEMA, structure_from_row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from model.crystal import AsymmetricUnit
    from screening.progress import Progress

TRICLINIC = {
    "lattice": [4.0, 0.1, 0.2, 0.3, 5.0, 0.4, 0.5, 0.6, 6.0],
    "frac_coords": [0.0, 0.0, 0.0, 0.2, 0.3, 0.4],
    "atomic_numbers": [11, 17],
}
N_DRAWN = 5


class Silent:
    """A view that shows nothing."""

    def show(self, progress: Progress) -> None:
        """Show nothing."""

    def say(self, text: str) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Need nothing."""


class Impatient(Silent):
    """Presses Ctrl-C once the first crystals are drawn."""

    def show(self, progress: Progress) -> None:
        """Interrupt."""
        if progress.stages["sampling"].done:
            raise KeyboardInterrupt


def data_row(unit: AsymmetricUnit) -> dict[str, Any]:
    structure = unit.to_structure()
    return {
        "lattice": structure.lattice.matrix.ravel().tolist(),
        "frac_coords": structure.frac_coords.ravel().tolist(),
        "atomic_numbers": list(structure.atomic_numbers),
    }


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of eleven textbook crystals, and a triclinic one that does not count."""
    rows = [data_row(unit) for unit in BY_CENTRING.values()]
    rows.insert(3, TRICLINIC)
    path = tmp_path_factory.mktemp("known") / "known.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A Ray on two cores that the evaluations of this file share."""
    with Cluster(num_cpus=2):
        yield


@pytest.fixture(scope="module")
def small_batches() -> Iterator[None]:
    """Batches of two crystals, so that there are several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "BATCH", 2)
        yield


@pytest.fixture(scope="module")
def evaluated(
    known: Path, local_ray: None, small_batches: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """An evaluation from beginning to end; the training crystals are the test crystals."""
    del local_ray, small_batches
    out = tmp_path_factory.mktemp("evaluated") / "R.json"
    settings = GenerationSettings(test=known, out=out, num=N_DRAWN, train=known, seed=3)
    return out, evaluate_generation(settings, Silent())


def test_the_result_is_complete(evaluated: tuple[Path, dict[str, Any]], known: Path) -> None:
    out, result = evaluated
    assert json.loads(out.read_text()) == result
    assert result["source"]["checkpoint_fingerprint"]
    assert result["source"]["sampler"] == sampler_fingerprint("default")
    assert result["test"]["rows"] == 12
    assert result["test"]["crystals"] == 11
    assert result["test"]["without_fingerprint"] == 0
    assert result["command"].startswith(f"screening evaluate generation --test {known} --num 5 ")
    assert {"hardware", "versions", "wall_s", "seed", "busy_s"} <= set(result)
    scores = result["scores"]["generated"]
    assert scores["crystals"] == N_DRAWN
    assert 0 <= scores["cov_precision"] <= scores["cov_precision_apart"] <= 1
    assert scores["valid"] > 0
    assert scores["frechet_crystalnn"] > 0
    assert scores["frechet_embedding"] > 0


def test_crystals_of_the_test_file_themselves_are_all_covered(
    evaluated: tuple[Path, dict[str, Any]],
) -> None:
    scores = evaluated[1]["scores"]["train"]
    assert (scores["crystals"], scores["without_fingerprint"]) == (N_DRAWN, 0)
    assert (scores["cov_precision"], scores["valid"]) == (1.0, 1.0)
    assert scores["cov_recall"] >= N_DRAWN / 11


def test_samples_are_what_was_asked_for(evaluated: tuple[Path, dict[str, Any]]) -> None:
    table = pd.read_parquet(evaluated[0].with_name("R.samples"))
    assert set(table.columns) == set(SAMPLE_SCHEMA.names)
    assert sorted(table["sample_id"]) == [f"generation-{place:05d}" for place in range(N_DRAWN)]
    assert table["seed"].nunique() == N_DRAWN
    wanted = {unit.space_group for unit in BY_CENTRING.values()}
    assert set(table["space_group_requested"]) <= wanted
    for row in table[table["status"] == "kept"].to_dict("records"):
        structure = structure_from_row(row)
        assert "-".join(sorted({s.specie.symbol for s in structure})) == row["chemical_system"]


def figures(result: dict[str, Any]) -> dict[str, Any]:
    return {name: result[name] for name in ("scores", "source", "seed", "test", "method")}


@pytest.mark.slow
def test_an_interrupted_evaluation_goes_on_to_the_same_result(
    evaluated: tuple[Path, dict[str, Any]], known: Path, tmp_path: Path
) -> None:
    settings = GenerationSettings(
        test=known, out=tmp_path / "R.json", num=N_DRAWN, train=known, seed=3
    )
    with pytest.raises(RunError, match=r"stopped; `screening evaluate generation .* goes on"):
        evaluate_generation(settings, Impatient())
    drawn = {path: path.stat().st_mtime_ns for path in (tmp_path / "R.samples").glob("*.parquet")}
    assert 0 < len(drawn) < 3
    assert not settings.out.exists()
    result = evaluate_generation(settings, Silent())
    assert figures(result) == figures(evaluated[1])
    assert {path: path.stat().st_mtime_ns for path in drawn} == drawn


def test_the_same_command_does_nothing_again_and_another_is_refused(
    evaluated: tuple[Path, dict[str, Any]], known: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, result = evaluated
    command = ["evaluate", "generation", "--test", str(known), "--train", str(known)]
    command += ["--num", str(N_DRAWN), "--out", str(out)]
    assert main([*command, "--seed", "3", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert figures(again) == figures(result)
    assert again["busy_s"] == result["busy_s"]
    assert main([*command, "--seed", "4"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "were begun with something else: seed (3 before, 4 now)" in said
    assert json.loads(out.read_text()) == again


def test_crystals_made_elsewhere_are_scored_with_their_failures(
    evaluated: tuple[Path, dict[str, Any]], known: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = evaluated[0].parent  # where fingerprints lie already
    good = BY_CENTRING["F cubic"].to_structure()
    strange = crystal(194, [3.0, 3.0, 30.0], {92: [0, 0, 0], 1: [1 / 3, 2 / 3, 0.25]})
    cifs = [good.to(fmt="cif"), strange.to_structure().to(fmt="cif"), "this is no crystal"]
    pd.DataFrame({"cif": cifs}).to_csv(directory / "made.csv")
    command = ["evaluate", "generation", "--test", str(known), "--out", str(directory / "S.json")]
    assert main([*command, "--samples", str(directory / "made.csv")]) == 0
    printed = capsys.readouterr().out
    scores = json.loads((directory / "S.json").read_text())["scores"]["generated"]
    assert (scores["crystals"], scores["without_fingerprint"]) == (3, 1)
    assert scores["cov_precision"] == pytest.approx(1 / 3)
    assert "COV-P                                            0.333" in printed
    assert len(scores["errors"]) == 1


def test_the_engines_own_samples_are_read_back(
    evaluated: tuple[Path, dict[str, Any]], known: Path, tmp_path: Path
) -> None:
    out, result = evaluated
    shutil.copytree(out.with_name("fingerprints"), tmp_path / "fingerprints")
    samples = tmp_path / "samples.parquet"
    table = pq.read_table(out.with_name("R.samples"))
    pq.write_table(table.slice(0, 4), samples)
    settings = GenerationSettings(test=known, out=tmp_path / "S.json", samples=samples)
    scores = evaluate_generation(settings, Silent())["scores"]["generated"]
    assert scores["crystals"] == 4
    assert scores["valid"] * 4 <= result["scores"]["generated"]["valid"] * N_DRAWN


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--num": "0"}, "--num is '0'; allowed: an integer from 1"),
        ({"--num": "12"}, "holds 11 crystals with a space group of 16 or above"),
        ({"--seed": "x"}, "--seed is 'x'; allowed: an integer from 0"),
        ({"--out": "R.txt"}, "--out is 'R.txt'; allowed: a file name that ends in .json"),
        ({"--out": "no/R.json"}, "allowed: a file in a directory that exists"),
        ({"--test": "none.parquet"}, "--test is 'none.parquet'; there is no such file"),
        ({"--train": "none.parquet"}, "--train is 'none.parquet'; there is no such file"),
        ({"--samples": "none.csv"}, "--samples is 'none.csv'; there is no such file"),
        ({"--samples": "crystal.txt"}, "--samples is 'crystal.txt'; allowed: a .parquet file"),
        ({"--samples": "empty.csv"}, "a CSV file must have a column 'cif'"),
        (
            {"--sampler": "fast"},
            "sampler must be one of default, langevin, predictor-corrector, ancestral, got 'fast'",
        ),
        ({"--checkpoint": "none"}, "checkpoint must be one of default"),
        ({"--samples": "empty.csv", "--sampler": "langevin"}, "are allowed without it only"),
        (
            {"--test": "triclinic.parquet"},
            "triclinic.parquet holds 0 crystals with a space group of 16",
        ),
        ({"--test": "crystal.txt"}, "data must be .parquet, .csv, .cif"),
    ],
)
def test_mistakes_are_one_sentence(
    changes: dict[str, str],
    message: str,
    known: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("crystal.txt").write_text("NaCl")
    Path("empty.csv").write_text("id,energy\n")
    pq.write_table(pq.read_table(known).slice(3, 1), "triclinic.parquet")
    options = {"--test": str(known), "--num": "5", "--out": "R.json", **changes}
    words = [word for pair in options.items() for word in pair]
    assert main(["evaluate", "generation", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    said = captured.err.splitlines()[-1]
    assert said.startswith("error: ")
    assert message in said
    assert not Path("R.json").exists()


def test_help_shows_a_command_that_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "generation", "--help"]) == 0
    assert "Example: screening evaluate generation --test" in capsys.readouterr().out


def test_random_crystals_are_scored_like_the_model_s(
    evaluated: tuple[Path, dict[str, Any]], known: Path
) -> None:
    out = evaluated[0].with_name("random.json")
    settings = GenerationSettings(test=known, out=out, num=N_DRAWN, generator="random", seed=3)
    result = evaluate_generation(settings, Silent())
    assert result["source"] == {
        "generator": "random",
        "checkpoint": None,
        "checkpoint_fingerprint": "random",
        "sampler": VERSION,
    }
    assert "--generator random --seed 3" in result["command"]
    drawn = pd.read_parquet(out.with_name("random.samples"))
    assert set(drawn["generator"]) == {f"random/{VERSION}"}
    assert result["scores"]["generated"]["valid"] == 1.0


def test_random_crystals_come_from_no_checkpoint(known: Path, tmp_path: Path) -> None:
    settings = GenerationSettings(
        test=known, out=tmp_path / "R.json", generator="random", checkpoint="mp20"
    )
    with pytest.raises(UserError, match="--checkpoint is 'mp20'; allowed with --generator random"):
        evaluate_generation(settings, Silent())
    with pytest.raises(UserError, match="--generator is 'grid'; allowed: model, random"):
        evaluate_generation(replace(settings, generator="grid"), Silent())

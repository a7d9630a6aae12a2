"""Rediscovery: targets, figures, and the command with the real model, potential and Ray."""

from __future__ import annotations

import copy
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from crystals import BY_CENTRING, CESIUM_CHLORIDE, ROCK_SALT, crystal
from pymatgen.core import Element

from model.sampler import sampler_fingerprint
from screening.cli import main
from screening.cluster import Cluster
from screening.errors import UserError
from screening.evaluation.figures import result_text, target_figures, total_figures
from screening.evaluation.judging import Verdict
from screening.evaluation.partial import PartialResult
from screening.evaluation.rediscovery import JUDGING, RediscoverySettings, _Search
from screening.evaluation.targets import free_positional_coordinates, read_targets
from screening.pool import Outcome
from screening.views import LineView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from model.crystal import AsymmetricUnit

Row = dict[str, Any]
GIVE_UP_S = 240
LISTENING = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from screening.cli import main
sys.exit(main())
"""


def entry(name: str, known: AsymmetricUnit) -> Row:
    """Return a known crystal as an entry of a targets file."""
    structure = known.to_structure()
    symbols = [Element.from_Z(number).symbol for number in known.atomic_numbers]
    return {
        "material_id": name,
        "origin": "a textbook",  # other keys are for the reader
        "spacegroup_number": known.space_group,
        "sites": {symbol: symbols.count(symbol) for symbol in symbols},
        "lattice": structure.lattice.matrix.tolist(),
        "atomic_numbers": [site.specie.Z for site in structure],
        "frac_coords": structure.frac_coords.tolist(),
    }


TEXTBOOK = [entry("rock salt", ROCK_SALT), entry("caesium chloride", CESIUM_CHLORIDE)]
# Aluminium and copper, for a potential that takes milliseconds.
METALS = [
    entry(f"B2-{index}", crystal(221, [2.9 + index / 100] * 3, {13: [0, 0, 0], 29: [0.5] * 3}))
    for index in range(4)
]


def write(path: Path, entries: Any) -> Path:
    path.write_text(json.dumps(entries))
    return path


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def called(*arguments: object) -> tuple[int, str, str]:
        status = main(["evaluate", "rediscovery", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return called


# Targets ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("F cubic", 0),  # rock salt: 4a, 4b
        ("P hexagonal", 2),  # wurtzite: twice 2b, 1/3, 2/3, z
        ("P tetragonal", 2),  # matlockite: 2c with z twice, and 2a
        ("P orthorhombic", 4),  # cotunnite: twice 4c, x, 1/4, z
        ("R hexagonal", 2),  # corundum: 12c with z, 18e with x
        ("C orthorhombic", 4),  # 4c with y, 16h with x, y, z
        ("A orthorhombic", 3),  # 2a with z, 4e with y, z
    ],
)
def test_free_coordinates_are_those_of_the_wyckoff_positions(name: str, expected: int) -> None:
    structure = BY_CENTRING[name].to_structure()
    assert free_positional_coordinates(structure) == expected
    # Whichever cell and origin are chosen.
    structure.translate_sites(range(len(structure)), [0.17, 0.31, 0.05])
    structure.make_supercell([[1, 1, 0], [0, 1, 0], [0, 0, 1]])
    assert free_positional_coordinates(structure) == expected


def test_targets_are_read(tmp_path: Path) -> None:
    targets = read_targets(write(tmp_path / "t.json", [*TEXTBOOK, TEXTBOOK[0]]))
    assert [target.name for target in targets.entries] == [
        "rock salt",
        "caesium chloride",
        "rock salt",
    ]
    assert len({target.key for target in targets.entries}) == 3
    salt = targets.entries[0]
    assert (salt.cell.chemical_system, salt.cell.space_group) == ("Cl-Na", 225)
    assert (salt.cell.site_counts, salt.formula) == ({"Cl": 1, "Na": 1}, "ClNa")


def changed(**values: Any) -> list[Row]:
    first = copy.deepcopy(TEXTBOOK[0])
    first.update(values)
    return [first]


BAD_TARGETS = [
    ({}, "holds {}; allowed: a list of targets, at least one"),
    ([], "holds []; allowed: a list of targets"),
    ([1], "target 1 is 1; allowed: an object"),
    ([{}], "target 1: material_id is missing; allowed: a name"),
    (changed(spacegroup_number=15), "target 1: spacegroup_number holds 15; monoclinic"),
    (changed(spacegroup_number="Fm-3m"), "spacegroup_number is 'Fm-3m'; allowed: a number"),
    (changed(sites={"Na": 1, "Xy": 1}), "sites holds 'Xy'; an element is given by its symbol"),
    (changed(sites={"Na": 0, "Cl": 1}), "sites is 0; allowed: element to number"),
    (changed(sites={"K": 1, "Cl": 1}), "sites names Cl, K; the answer is made of Cl, Na"),
    (changed(sites={"Na": 30, "Cl": 1}), "31 sites in group 225 (Fm-3m) make at least"),
    (changed(lattice=[[1, 0, 0], [0, 1, 0]]), "lattice is [[1, 0, 0], [0, 1, 0]]; allowed"),
    (changed(lattice=[[1, 0, 0]] * 3), "its volume must not be zero"),
    (changed(atomic_numbers=[11, 170]), "atomic_numbers holds 170; allowed: one number from 1"),
    (changed(frac_coords=[[0, 0, 0]]), "frac_coords holds 1 positions; there must be one for each"),
    (changed(frac_coords=[[0, 0, 0]] * 2), "frac_coords puts two atoms less than 0.1 Å from"),
]


@pytest.mark.parametrize(("entries", "words"), BAD_TARGETS)
def test_a_targets_file_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, entries: Any, words: str, call: Callable[..., tuple[int, str, str]]
) -> None:
    path = write(tmp_path / "t.json", entries)
    status, out, err = call("--targets", path, "--out", tmp_path / "r.json")
    assert (status, out) == (2, "")
    (message,) = err.splitlines()
    assert message.startswith(f"error: {path}")
    assert words in message
    assert not (tmp_path / "r.json.partial").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--targets", "none.json", "--out", "r.json"], "--targets is 'none.json', which cannot"),
        (["--targets", "text.json", "--out", "r.json"], "text.json is not JSON"),
        (["--targets", "t.json", "--out", "r.csv"], "--out is 'r.csv'; allowed: a file name that"),
        (["--targets", "t.json", "--out", "no/r.json"], "in a directory that exists"),
        (["--targets", "t.json"], "Missing option '--out'"),
        (["--targets", "t.json", "--out", "r.json", "--samples", "0"], "--samples is '0'; allowed"),
        (["--targets", "t.json", "--out", "r.json", "--generator", "x"], "allowed: model, random"),
        (["--targets", "t.json", "--out", "r.json", "--checkpoint", "no"], "got 'no'"),
        (["--targets", "t.json", "--out", "r.json", "--sampler", "magic"], "sampler must be one"),
        (["--targets", "t.json", "--out", "r.json", "--calculator", "magic"], "'magic'; allowed"),
    ],
)
def test_a_command_that_is_asked_for_wrongly_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
    call: Callable[..., tuple[int, str, str]],
) -> None:
    write(tmp_path / "t.json", TEXTBOOK)
    (tmp_path / "text.json").write_text("once upon a time")
    monkeypatch.chdir(tmp_path)
    status, out, err = call(*arguments)
    assert (status, out) == (2, "")
    assert words in err.splitlines()[-1]
    assert "Traceback" not in err


def test_help_shows_a_command_that_works(call: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = call("--help")
    assert (status, err) == (0, "")
    assert "Example: screening evaluate rediscovery --targets" in out


# Figures ---------------------------------------------------------------------------------


def test_figures_of_a_target_are_counted_by_hand(tmp_path: Path) -> None:
    salt = read_targets(write(tmp_path / "t.json", TEXTBOOK)).entries[0]
    right = Verdict("kept", right_formula=True, group_before=225, relaxed=True)
    verdicts = [
        Verdict("failed", error="no crystal"),
        Verdict("filtered", reason="min_distance: 0.31 Å < 0.5 Å", group_before=225),
        Verdict("kept", group_before=227),
        replace(right, relaxation_s=1.0, error="relaxation: exploded"),
        replace(right, hit_after=True, group_after=221, relaxation_s=2.0, converged=True),
        replace(right, hit_before=True, hit_after=True, group_after=225, matching_s=0.5),
        Verdict("filtered", reason="min_distance: 0.11 Å < 0.5 Å", group_before=225),
        Verdict("filtered", reason="max_atoms: 96 atoms > 60", group_before=None),
    ]
    figures = target_figures(salt, verdicts, {"sampling": 4.0}, is_relaxed=True)
    assert figures == {
        "target": "rock salt",
        "formula": "ClNa",
        "space_group": 225,
        "sites": {"Cl": 1, "Na": 1},
        "free_coordinates": 0,
        "samples": {"kept": 4, "filtered": 3, "failed": 1},
        "filtered": {"max_atoms": 1, "min_distance": 2},
        "errors": {"no crystal": 1, "relaxation: exploded": 1},
        "right_formula": 3,
        "relaxations": 3,
        "converged": 1,
        "before_relaxation": {
            "hits": 1,
            "hit_rate": 0.125,
            "first_hit": 6,
            "space_group_found": 6,
            "space_group_agrees": 5,
            "hits_whose_space_group_agrees": 1,
        },
        "after_relaxation": {
            "hits": 2,
            "hit_rate": 0.25,
            "first_hit": 5,
            "space_group_found": 2,
            "space_group_agrees": 1,
            "hits_whose_space_group_agrees": 1,
        },
        "seconds": {"sampling": 4.0, "relaxation": 3.0, "matching": 0.5},
    }


def test_figures_of_all_targets_are_counted_by_hand(tmp_path: Path) -> None:
    salt = read_targets(write(tmp_path / "t.json", TEXTBOOK)).entries[0]
    hit = Verdict("kept", right_formula=True, relaxed=True, hit_before=True, hit_after=True)
    late = replace(hit, hit_before=False)
    miss = Verdict("kept")
    cases = [(0, [hit, hit, late, miss]), (1, [miss] * 4), (3, [miss, late, miss, miss]), (9, [])]
    targets = [
        target_figures(replace(salt, n_free=n), v or [miss] * 4, {"sampling": 1.0}, is_relaxed=True)
        for n, v in cases
    ]
    totals = total_figures(targets)
    assert (totals["found_before_relaxation"], totals["found_after_relaxation"]) == (1, 2)
    assert totals["mean_hit_rate_before_relaxation"] == pytest.approx((2 / 4) / 4)
    assert totals["mean_hit_rate_after_relaxation"] == pytest.approx((3 / 4 + 1 / 4) / 4)
    assert (totals["samples"]["kept"], totals["relaxations"]) == (16, 4)
    assert totals["seconds"]["sampling"] == 4.0
    classes = totals["by_free_coordinates"]
    assert [classes[name]["targets"] for name in ("0-1", "2-3", "4+")] == [2, 1, 1]
    assert [classes[name]["found_after_relaxation"] for name in classes] == [1, 1, 0]
    assert classes["0-1"]["mean_hit_rate_after_relaxation"] == pytest.approx(3 / 8)
    unrelaxed = [target_figures(salt, [hit], {}, is_relaxed=False)]
    assert total_figures(unrelaxed)["found_after_relaxation"] is None
    text = result_text({"targets": unrelaxed, "totals": total_figures(unrelaxed)})
    assert "1 of 1 found before relaxation (mean hit rate 100.0 %)" in text


# What is kept ----------------------------------------------------------------------------


def test_a_second_evaluation_of_the_same_result_is_refused(tmp_path: Path) -> None:
    out, asked = tmp_path / "r.json", {"samples": 5, "seed": 0}
    second = f"""
from pathlib import Path
from screening.errors import UserError
from screening.evaluation.partial import PartialResult
from screening.evaluation.rediscovery import JUDGING, RediscoverySettings, _Search
try:
    PartialResult(Path({str(out)!r}), {asked!r})
    print("free")
except UserError as error:
    print(error)
"""

    def said() -> str:
        run = subprocess.run(  # noqa: S603 - our own code
            [sys.executable, "-c", second], capture_output=True, text=True, check=True
        )
        return run.stdout

    assert said() == "free\n"  # and what held it has ended
    PartialResult(out, asked)
    assert "r.json.partial is being worked on by another process" in said()
    PartialResult(out, asked)  # the same process may


def test_finished_targets_are_kept_until_the_result_is_written(tmp_path: Path) -> None:
    out, asked = tmp_path / "r.json", {"samples": 5, "seed": 0}
    first = PartialResult(out, asked)
    first.keep("0001-a", {"hits": 1}, 3.0)
    first.keep("0002-b", {"hits": 2}, 7.0)
    second = PartialResult(out, asked)
    assert second.finished_targets() == {"0001-a": {"hits": 1}, "0002-b": {"hits": 2}}
    second.keep("0003-c", {"hits": 0}, 4.0)
    assert (second.run, second.wall_s()) == (2, 11.0)  # 7 s of the first run, 4 s of the second
    # A damaged file proves nothing, and half a file from a crash is not one.
    folder = tmp_path / "r.json.partial" / "targets"
    (folder / "0002-b.json").write_text("{")
    (folder / ".tmp-0004").write_text("{}")
    assert set(PartialResult(out, asked).finished_targets()) == {"0001-a", "0003-c"}
    with pytest.raises(
        UserError, match=r"partial is of another evaluation: seed \(0 before, 1 now"
    ):
        PartialResult(out, {**asked, "seed": 1})
    second.finish({"configuration": asked, "hits": 3})
    assert not folder.exists()
    assert PartialResult(out, asked).finished_result() == {"configuration": asked, "hits": 3}
    with pytest.raises(UserError, match=r"r.json is of another evaluation: samples \(5 before, 6"):
        PartialResult(out, {**asked, "samples": 6})


# The command -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A Ray on two cores that the commands of this file share."""
    with Cluster(num_cpus=2):
        yield


def without_times(value: Any) -> Any:
    """Leave out what differs from run to run."""
    if isinstance(value, dict):
        times = ("seconds", "wall_s", "runs", "command")
        return {key: without_times(inner) for key, inner in value.items() if key not in times}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.usefixtures("local_ray")
@pytest.mark.filterwarnings("ignore")  # of the libraries that sampling loads
def test_textbook_crystals_are_found_by_the_model(
    tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    targets, out = write(tmp_path / "t.json", TEXTBOOK), tmp_path / "r.json"
    asked = ["--targets", targets, "--out", out, "--seed", 1, "--json", "--samples"]
    status, printed, err = call(*asked, 6)
    assert status == 0
    result = json.loads(out.read_text())
    assert json.loads(printed) == result
    assert "targets 0/2 targets" in err
    generator = f"{result['checkpoint']}/{sampler_fingerprint('default')}"
    assert result["configuration"]["generator"] == generator
    assert result["configuration"]["calculator"].startswith("chgnet-")
    assert {"hardware", "versions", "command", "seed", "wall_s"} <= result.keys()
    # A third of such samples are hits, see docs/results.md.
    assert result["totals"]["found_after_relaxation"] > 0
    for figures in result["targets"]:
        assert sum(figures["samples"].values()) == 6
        after = figures["after_relaxation"]
        assert after["hits"] <= figures["relaxations"] == figures["right_formula"] <= 6
        assert after["hits_whose_space_group_agrees"] == after["hits"]
        assert figures["seconds"]["sampling"] > 0
        assert (figures["seconds"]["relaxation"] > 0) == (figures["relaxations"] > 0)
    assert not list(tmp_path.glob("*.partial"))
    # The same command again has nothing left to do; another one is refused.
    again = call(*asked, 6)
    assert json.loads(again[1]) == result
    assert "holds this result already" in again[2]
    status, _, err = call(*asked, 7)
    assert status == 2
    assert "r.json is of another evaluation: samples (6 before, 7 now); choose another" in err


@pytest.mark.usefixtures("local_ray")
@pytest.mark.filterwarnings("ignore")  # of the libraries that sampling loads
@pytest.mark.slow
def test_random_crystals_are_compared_without_relaxation(
    tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    targets, out = write(tmp_path / "t.json", TEXTBOOK[1:] * 2), tmp_path / "r.json"
    options = ["--samples", 40, "--generator", "random", "--no-relax"]
    status, printed, _ = call("--targets", targets, "--out", out, *options)
    assert status == 0
    result = json.loads(out.read_text())
    first, second = without_times(result["targets"])
    assert first == second
    # Caesium on 1a and chlorine on 1b, or the other way round, are two assignments of the many;
    # some of the others, such as 3c and 3d, have the right formula and another structure.
    assert 0 < first["before_relaxation"]["hits"] < first["right_formula"] < 40
    assert (first["relaxations"], first["after_relaxation"]) == (0, None)
    assert result["totals"]["found_after_relaxation"] is None
    assert (result["checkpoint"], result["generator"]) == (None, "random")
    assert "2 of 2 found before relaxation" in printed


def metals(directory: Path, out: Path) -> list[str]:
    targets = write(directory / "metals.json", METALS)
    return [
        *("--targets", str(targets), "--out", str(out), "--samples", "20"),
        *("--generator", "random", "--calculator", "ase.calculators.emt:EMT"),
    ]


@pytest.mark.usefixtures("local_ray")
@pytest.mark.filterwarnings("ignore")  # of the libraries that sampling loads
@pytest.mark.slow
def test_a_stopped_evaluation_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    undisturbed, out = tmp_path / "undisturbed.json", tmp_path / "r.json"
    assert call(*metals(tmp_path, undisturbed))[0] == 0

    environment = {name: value for name, value in os.environ.items() if "RAY" not in name}
    process = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-c", LISTENING, "evaluate", "rediscovery", *metals(tmp_path, out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    kept = tmp_path / "r.json.partial" / "targets"
    end = time.monotonic() + GIVE_UP_S
    while not list(kept.glob("[0-9]*.json")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (1, "")
    assert stderr.splitlines()[-1].startswith("error: stopped with ")
    assert "Traceback" not in stderr
    before = {path: path.stat().st_mtime_ns for path in kept.glob("[0-9]*.json")}
    assert 1 <= len(before) < len(METALS)

    status, _, err = call(*metals(tmp_path, out), "--seed", 1)
    assert status == 2
    assert "r.json.partial is of another evaluation: seed (0 before, 1 now)" in err
    assert {path: path.stat().st_mtime_ns for path in before} == before

    assert call(*metals(tmp_path, out))[0] == 0
    result = json.loads(out.read_text())
    assert result["runs"] == 2
    assert without_times(result) == without_times(json.loads(undisturbed.read_text()))
    assert result["totals"]["relaxations"] > 0
    assert not kept.exists()


class Queue:
    """Takes work as a pool of judges does, and does none of it."""

    def __init__(self) -> None:
        self.submitted: dict[str, Any] = {}

    def submit(self, key: str, work: Any) -> None:
        """Remember the work."""
        self.submitted[key] = work


def test_samples_whose_judge_died_are_judged_one_by_one(tmp_path: Path) -> None:
    path, out = write(tmp_path / "t.json", TEXTBOOK[:1]), tmp_path / "r.json"
    targets = read_targets(path)
    search = _Search(
        RediscoverySettings(path, out, samples=3),
        targets,
        PartialResult(out, {}),
        LineView(io.StringIO()),
    )
    (target,) = targets.entries
    rows = tuple({"sample_id": f"{i}", "status": "kept"} for i in range(3))
    judges: Any = Queue()
    search._judge(target.key, rows, judges)

    def take(key: str, value: list[Verdict] | None, error: str | None) -> None:
        search._take_verdicts(Outcome(JUDGING, key, value, error, 3), judges)

    (together,) = judges.submitted
    judges.submitted.clear()
    take(together, None, "its worker process died")
    assert [work[0] for work in judges.submitted.values()] == [(row,) for row in rows]
    for (key, _), error in zip(judges.submitted.items(), (None, "died", None), strict=True):
        take(key, None if error else [Verdict("kept", hit_after=True)], error)
    (figures,) = PartialResult(out, {}).finished_targets().values()
    assert figures["errors"] == {"died": 1}
    assert figures["after_relaxation"]["hits"] == 2


def test_a_result_that_cannot_be_kept_is_refused_at_once(
    tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    out = tmp_path / "r.json"
    (tmp_path / "r.json.partial").write_text("in the way")
    status, _, err = call(*metals(tmp_path, out))
    assert status == 2
    assert "r.json.partial/configuration.json cannot be written" in err.splitlines()[-1]


def test_a_mistake_names_the_target(tmp_path: Path) -> None:
    first, second = copy.deepcopy(TEXTBOOK)
    del second["sites"]
    path = write(tmp_path / "t.json", [first, second])
    with pytest.raises(UserError, match=r"target 2: sites is missing"):
        read_targets(path)

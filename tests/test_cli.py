"""The command line: run, status, export, sample and train; mistakes are one sentence each."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from small_results import CAMPAIGN, CESIUM_CHLORIDE, results, write_candidates

from model.checkpoint import load_checkpoint
from screening import cli
from screening.cli import app, main
from screening.errors import RunError
from screening.export import cif_text
from screening.pipeline import LOADING
from screening.schema import structure_columns
from screening.summary import summary_text

if TYPE_CHECKING:
    from collections.abc import Callable

COMMANDS = (
    "plan",
    "run",
    "resume",
    "rescore",
    "submit",
    "stop",
    "compact",
    "status",
    "report",
    "export",
    "train",
    "sample",
    "doctor",
)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def called(*arguments: object) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return called


def candidate(name: str, height: float, **changes: Any) -> dict[str, Any]:
    return {
        "sample_id": name,
        "chemical_system": "Cl-Cs",
        "status": "kept",
        **structure_columns(CESIUM_CHLORIDE),
        "e_above_hull": height,
        "is_representative": True,
        "is_novel": False,
        "matched_reference_id": "B2",
        **changes,
    }


# export and the end of a run -------------------------------------------------------------


def test_export_prints_the_files_it_wrote(
    tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    store = results(tmp_path / "r")
    write_candidates(store, [candidate("a-000", 0.02), candidate("b-000", 0.01)])
    status, out, err = call(
        "export", tmp_path / "r", "--top", 5, "--format", "cif", "--out", tmp_path / "c"
    )
    assert status == 0
    names = [Path(line).name for line in out.splitlines()]
    assert names == ["001_ClCs_221_b-000.cif", "002_ClCs_221_a-000.cif"]
    assert "there are 2 distinct candidates" in err


def test_summary_lists_the_best_and_where_things_lie(tmp_path: Path) -> None:
    store = results(tmp_path, n_done=7, n_failed=1)
    write_candidates(
        store,
        [
            candidate("a-000", 0.0211),
            candidate("b-000", -0.0137, is_novel=True, matched_reference_id=None),
        ],
    )
    store.write_text("report.html", "<html>")
    novel = {"distinct": 3, "near_hull": 1, "on_hull": 1}
    rates = {"near_hull_per_core_hour": 12.345, "near_hull_per_gpu_hour": None}
    store.write_json("summary.json", {"novel": {**novel, **rates}})
    lines = summary_text(store, 10).splitlines()
    assert lines.pop(4) == (
        "novel     1 distinct crystal at most 0.1 eV/atom above the hull, 1 of them on it or below: "
        "12.3 per core-hour"
    )
    assert lines[1].split() == ["1", "ClCs", "221", "Pm-3m", "-0.014", "eV/atom", "b-000", "novel"]
    assert "known: B2" in lines[2]
    assert "1 unit failed; `screening resume" in lines[3]
    assert [line.split() for line in lines[4:]] == [
        ["table", f"{tmp_path}/candidates.parquet"],
        ["report", f"{tmp_path}/report.html"],
    ]


def test_campaign_of_which_nothing_came_is_a_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_candidates(results(tmp_path, n_failed=8), [])
    with pytest.raises(RunError, match="every unit failed, the first with: RuntimeError: lost"):
        cli._print_best(str(tmp_path))
    assert "no candidate has a place against the hull" in capsys.readouterr().out


# sample and train ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a very small model, by the command, on a folder of CIFs."""
    folder = tmp_path_factory.mktemp("training")
    for index, length in enumerate((4.0, 4.1, 4.2, 4.3)):
        crystal = CESIUM_CHLORIDE.copy()
        crystal.scale_lattice(length**3)
        (folder / f"{index}.cif").write_text(cif_text(crystal))
    config = folder / "config.yaml"
    config.write_text(
        "epochs: 2\nbatch_size: 2\nnetwork: {hidden: 8, bottleneck: 4, n_blocks: 1}\n"
    )
    target = folder / "small.safetensors"
    files = [str(path) for path in sorted(folder.glob("*.cif"))]
    assert main(["train", "--data", *files, "--out", str(target), "--config", str(config)]) == 0
    return target


@pytest.mark.filterwarnings("ignore")  # of the libraries in the worker processes of training
def test_sample_writes_the_documented_columns(
    checkpoint: Path, tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    target = tmp_path / "samples.parquet"
    arguments = ["--sites", "Cs=1,Cl=1", "--space-group", "Pm-3m", "--checkpoint", checkpoint]
    status, out, err = call("sample", *arguments, "-n", 3, "--out", target)
    assert (status, out.strip()) == (0, str(target))
    assert "3 of 3 samples drawn" in err
    frame = pd.read_parquet(target)
    assert list(frame["sample_id"]) == [f"Cl-Cs_221_Cl1-Cs1_000-{i:03d}" for i in range(3)]
    assert set(frame["space_group_requested"]) == {221}
    assert set(frame["status"]) <= {"kept", "failed"}
    # The same seed gives the same crystals, another seed others; fewer samples are the first ones.
    again = tmp_path / "again.parquet"
    call("sample", *arguments, "-n", 2, "--out", again, "--seed", 0)
    other = tmp_path / "other.parquet"
    call("sample", *arguments, "-n", 2, "--out", other, "--seed", 1)
    assert list(pd.read_parquet(again)["seed"]) == list(frame["seed"][:2])
    assert list(pd.read_parquet(other)["seed"]) != list(frame["seed"][:2])


@pytest.mark.filterwarnings("ignore")  # of the libraries that sampling loads
def test_random_crystals_are_drawn_without_a_model(
    tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    target = tmp_path / "random.parquet"
    arguments = ["--sites", "Cs=1,Cl=1", "--space-group", "Pm-3m", "--generator", "random"]
    status, out, _ = call("sample", *arguments, "-n", 3, "--out", target)
    assert (status, out.strip()) == (0, str(target))
    frame = pd.read_parquet(target)
    assert set(frame["generator"]) == {"random/1"}
    assert set(frame["status"]) == {"kept"}


# mistakes --------------------------------------------------------------------------------

FILES: dict[str, str] = {
    "element.yaml": CAMPAIGN.replace("Cs-Cl", "Xy-Cl"),
    "group.yaml": CAMPAIGN.replace("225, 221", "15"),
    "group231.yaml": CAMPAIGN.replace("225, 221", "231"),
    "zero.yaml": CAMPAIGN.replace("cell: 3", "cell: 0"),
    "key.yaml": CAMPAIGN + "sample_per_cell: 4\n",
    "sites.yaml": CAMPAIGN.replace("[1], total_max: 2", "[1, 70], total_max: 140"),
    "tag.yaml": "name: !!python/name:os.system",
    "good.yaml": CAMPAIGN,
    "no_checkpoint.yaml": CAMPAIGN.replace(
        "{unit_size", "{checkpoint: none.safetensors, unit_size"
    ),
    "truncated.yaml": CAMPAIGN.replace("{unit_size", "{checkpoint: cut.safetensors, unit_size"),
    "sampler.yaml": CAMPAIGN.replace("{unit_size", "{sampler: magic, unit_size"),
    "potential.yaml": CAMPAIGN + "relaxation: {calculator: magic}\n",
}

BAD_CAMPAIGNS = [
    ("absent.yaml", "there is no file 'absent.yaml'"),
    ("element.yaml", "holds 'Xy'; an element is given by its symbol"),
    ("group.yaml", "space_groups holds 15; monoclinic and triclinic groups"),
    ("group231.yaml", "space_groups holds 231; a space group is a number from 16 to 230"),
    ("zero.yaml", "samples_per_cell is 0; allowed: an integer from 1"),
    ("key.yaml", "there is no key 'sample_per_cell'; the keys are name,"),
    ("sites.yaml", "sites.per_element holds 70; none of the space groups admits"),
    ("tag.yaml", "tags are not used"),
    (".", "is a directory"),
]


@pytest.fixture
def in_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check_refusal(called: tuple[int, str, str], words: str) -> None:
    status, out, err = called
    assert (status, out) == (2, "")
    # What a run was doing may be said before; the mistake is one sentence, and the last.
    *progress, message = err.splitlines()
    assert message.startswith("error: ")
    assert words in message
    assert not [line for line in progress if line != LOADING]


@pytest.mark.usefixtures("in_directory")
@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize(("path", "words"), BAD_CAMPAIGNS)
def test_campaign_that_cannot_be_run(
    command: str, path: str, words: str, call: Callable[..., tuple[int, str, str]]
) -> None:
    check_refusal(call(command, path), words)


@pytest.mark.filterwarnings("ignore")  # of the potential's libraries while they are loaded
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("no_checkpoint.yaml", "none.safetensors"),
        ("truncated.yaml", "cut.safetensors is not a complete safetensors file"),
        ("sampler.yaml", "sampler must be one of default"),
        ("potential.yaml", "magic"),
    ],
)
def test_part_that_cannot_be_used(
    in_directory: Path,
    checkpoint: Path,
    path: str,
    words: str,
    call: Callable[..., tuple[int, str, str]],
) -> None:
    cut = checkpoint.read_bytes()
    (in_directory / "cut.safetensors").write_bytes(cut[: len(cut) // 2])
    text = (in_directory / path).read_text()
    if "checkpoint" not in text:
        (in_directory / path).write_text(
            text.replace("generator: {", f"generator: {{checkpoint: '{checkpoint}', ")
        )
    check_refusal(call("run", path, "--out", "r"), words)


@pytest.mark.filterwarnings("ignore")  # of the potential's libraries while they are loaded
def test_output_that_cannot_be_used(
    in_directory: Path, checkpoint: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    text = CAMPAIGN.replace("generator: {", f"generator: {{checkpoint: '{checkpoint}', ")
    (in_directory / "c.yaml").write_text(text)
    results(in_directory / "other")
    check_refusal(call("run", "c.yaml", "--out", "other"), "holds another campaign (fingerprint")
    (in_directory / "full").mkdir()
    (in_directory / "full" / "thesis.tex").write_text("x")
    check_refusal(call("run", "c.yaml", "--out", "full"), "is not empty and holds no results")
    check_refusal(call("run", "c.yaml", "--out", "c.yaml"), "is a file; it must be a directory")
    check_refusal(call("run", "c.yaml", "--out", "ftp://x/y"), "must be a path or start with s3://")
    check_refusal(
        call("run", "c.yaml", "--out", "/proc/none"), "cannot be written to: No such file"
    )


@pytest.mark.filterwarnings("ignore")  # of the potential's libraries while they are loaded
def test_disk_without_room(in_directory: Path, checkpoint: Path) -> None:
    text = CAMPAIGN.replace("generator: {", f"generator: {{checkpoint: '{checkpoint}', ")
    (in_directory / "c.yaml").write_text(text)
    prlimit = shutil.which("prlimit")
    if prlimit is None:
        pytest.skip("there is no prlimit on this machine")
    # The operating system refuses files beyond 256 bytes: no byte of the campaign fits.
    process = subprocess.run(  # noqa: S603 - the program under test
        [prlimit, "--fsize=256", sys.executable, "-m", "screening.cli", "run", "c.yaml"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].startswith(
        "error: output results/small cannot be written to: File too large"
    )


SAMPLE = ["sample", "--sites", "Cu=1", "--space-group", "62", "--out", "o.parquet"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan"], "Missing argument 'CAMPAIGN.yaml'; `screening plan --help` shows an example"),
        (["frobnicate"], "No such command 'frobnicate'"),
        (["plan"], "Missing argument"),
        (["plan", "good.yaml", "--fast"], "No such option"),
        (["run", "good.yaml", "--num-samplers", "0"], "--num-samplers is '0'; allowed: an integer"),
        (["run", "good.yaml", "--num-samplers", "two"], "--num-samplers is 'two'; allowed"),
        (["resume", "nowhere"], "nowhere holds no campaign"),
        (["resume", "results", "--num-samplers", "0"], "--num-samplers is '0'; allowed"),
        (["status", "nowhere"], "nowhere holds no campaign"),
        (["status", "http://x"], "must be a path or start with s3://"),
        (["report", "nowhere"], "nowhere holds no campaign"),
        (["export", "r", "--top", "1", "--format", "cif", "--out", "c"], "no candidates.parquet"),
        (["export", "r", "--top", "0", "--format", "cif", "--out", "c"], "--top is '0'; allowed"),
        (["export", "r", "--top", "1", "--format", "xyz", "--out", "c"], "--format is 'xyz'"),
        (["export", "r"], "Missing option '--top'"),
        (["sample", "--sites", "Cu", "--space-group", "62", "--out", "o.parquet"], "holds 'Cu'"),
        (["sample", "--sites", "Cu=0", "--space-group", "62", "--out", "o.parquet"], "'Cu=0'"),
        (["sample", "--sites", "Cu=1,Cu=2", "--space-group", "62", "--out", "o.parquet"], "twice"),
        (["sample", "--sites", "Xy=1", "--space-group", "62", "--out", "o.parquet"], "'Xy'"),
        (["sample", "--sites", "Cu=1", "--space-group", "2", "--out", "o.parquet"], "1 to 15"),
        (["sample", "--sites", "Cu=1", "--space-group", "Pnmx", "--out", "o.parquet"], "'Pnmx'"),
        (["sample", "--sites", "Cu=70", "--space-group", "62", "--out", "o.parquet"], "280 atoms"),
        (
            ["sample", "--sites", "Cu=1", "--space-group", "62", "--out", "o.csv"],
            "ends in .parquet",
        ),
        (["sample", "--sites", "Cu=1", "--space-group", "62", "--out", "no/o.parquet"], "exists"),
        (
            [*SAMPLE, "-n", "0"],
            "-n is '0'; allowed: an integer from 1",
        ),
        (
            [*SAMPLE, "--checkpoint", "none.safetensors"],
            "none.safetensors",
        ),
        (
            [*SAMPLE, "--sampler", "magic"],
            "sampler must be one of default",
        ),
        ([*SAMPLE, "--generator", "magic"], "--generator is 'magic'; allowed: model, random"),
        (
            [*SAMPLE, "--generator", "random", "--sampler", "langevin"],
            "--sampler is 'langevin'; allowed with --generator random: none",
        ),
        (["train", "--data", "none.parquet", "--out", "o.safetensors"], "--data is 'none.parquet'"),
        (["train", "--data", "good.yaml", "--out", "o.safetensors"], "data must be .parquet"),
        (["train", "--data", "good.yaml", "--out", "o.pt"], "ends in .safetensors"),
        (
            ["train", "--data", "good.yaml", "--out", "none/o.safetensors"],
            "--out is 'none/o.safetensors'; there is no such directory",
        ),
        (
            ["train", "--data", "good.yaml", "--out", "o.safetensors", "--workers", "3"],
            "--workers is 3; allowed: a divisor of batch_size, which is 64",
        ),
        (
            ["train", "--data", "good.yaml", "--out", "o.safetensors", "--address", "x:1"],
            "--address needs --workers",
        ),
        (
            ["train", "--data", "good.yaml", "--out", "o.safetensors", "--config", "good.yaml"],
            "unknown key 'chemical_systems'",
        ),
        (
            ["train", "--data", "good.yaml", "--out", "o.safetensors", "--start-from", "none"],
            "checkpoint must be one of default",
        ),
        (
            [
                *("train", "--data", "good.yaml", "--out", "o.safetensors"),
                *("--start-from", "default", "--config", "network.yaml"),
            ],
            "network.yaml: network.n_blocks is given; with --start-from it is that of the checkpoint",
        ),
        (
            [
                *("train", "--data", "good.yaml", "--out", "o.safetensors"),
                *("--start-from", "default", "--config", "narrow.yaml"),
            ],
            "network.hidden must be at least",
        ),
    ],
)
def test_command_that_is_asked_for_wrongly(
    in_directory: Path, arguments: list[str], words: str, call: Callable[..., tuple[int, str, str]]
) -> None:
    results(in_directory / "r")
    (in_directory / "network.yaml").write_text("network: {hidden: 8, n_blocks: 2}\n")
    (in_directory / "narrow.yaml").write_text("network: {hidden: 8}\n")
    check_refusal(call(*arguments), words)


# the program itself ----------------------------------------------------------------------


def test_commands_are_the_documented_ones() -> None:
    assert tuple(command.callback.__name__ for command in app.registered_commands) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_a_command_that_works(
    command: str, call: Callable[..., tuple[int, str, str]]
) -> None:
    status, out, err = call(command, "--help")
    assert (status, err) == (0, "")
    assert f"Example: screening {command}" in out


@pytest.mark.parametrize("group", [(), ("evaluate",), ("references",)])
def test_group_without_a_command_shows_its_help(
    group: tuple[str, ...], call: Callable[..., tuple[int, str, str]]
) -> None:
    status, out, err = call(*group)
    assert (status, out) == (2, "")
    assert err.startswith("Usage: screening")
    assert err == call(*group, "--help")[1]


def test_summaries_and_examples_are_whole(call: Callable[..., tuple[int, str, str]]) -> None:
    for group in ((), ("evaluate",), ("references",)):
        assert "..." not in call(*group, "--help")[1].partition("Commands:")[2]
    example = "Example: screening export results/cu-k-si-quick --top 10 --format cif --out crystals"
    assert f"  {example}\n" in call("export", "--help")[1]


def test_program_starts_quickly_and_knows_its_version() -> None:
    program = Path(sys.executable).with_name("screening")
    began = time.perf_counter()
    process = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)  # noqa: S603 - the program under test
    assert time.perf_counter() - began < 3  # 0.4 s on an idle machine
    lines = process.stdout.splitlines()
    assert lines[0] == f"crystal-screening {version('crystal-screening')}"
    assert f"torch {version('torch')}" in lines
    assert f"ray {version('ray')}" in lines
    (default,) = (line for line in lines if line.endswith(" (default)"))
    assert default == f"checkpoint mp2024 {load_checkpoint('default').fingerprint} (default)"


def test_importing_the_command_line_loads_no_heavy_library() -> None:
    code = "import screening.cli, sys; print(*sorted(sys.modules))"
    process = subprocess.run(  # noqa: S603 - the program under test
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(process.stdout.split())
    assert not loaded & {"torch", "ray", "pymatgen", "pyarrow", "pandas", "matplotlib", "chgnet"}


def test_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(CAMPAIGN)
    process = subprocess.Popen(
        [sys.executable, "-m", "screening.cli", "plan", "c.yaml", "--json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate()
    assert (process.returncode, err) == (1, "")


def complete(shell: str, words: str) -> list[str]:
    """What a shell is told when the user presses the tabulator behind some words."""
    process = subprocess.run(
        [sys.executable, "-m", "screening.cli"],
        env={
            **os.environ,
            "_SCREENING_COMPLETE": f"complete_{shell}",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return process.stdout.split()


def test_shell_completes_commands_options_and_values() -> None:
    assert complete("bash", "screening re") == ["resume", "rescore", "report", "references"]
    assert complete("bash", "screening evaluate g") == ["generation"]
    assert "--retry-failed" in complete("bash", "screening resume --")
    assert complete("bash", "screening export --format ") == ["cif", "poscar", "extxyz", "vasp"]


def on_a_terminal(*arguments: str, **variables: str) -> str:
    """Everything that the program writes to a terminal."""
    main_end, program_end = pty.openpty()
    environment = {name: text for name, text in os.environ.items() if name != "NO_COLOR"}
    process = subprocess.Popen(  # noqa: S603 - the program under test
        [sys.executable, "-m", "screening.cli", *arguments],
        env={**environment, "TERM": "xterm", **variables},
        stdin=program_end,
        stdout=program_end,
        stderr=program_end,
    )
    os.close(program_end)
    written = b""
    with contextlib.suppress(OSError):  # Linux says so when the other end has been closed
        while block := os.read(main_end, 4096):
            written += block
    os.close(main_end)
    process.wait()
    return written.decode()


COLOUR = "\x1b["


def test_colours_are_for_terminals_that_want_them() -> None:
    refused = ("plan", "none.yaml")
    assert on_a_terminal(*refused).startswith(f"{COLOUR}31merror:{COLOUR}0m there is no file")
    assert on_a_terminal(*refused, NO_COLOR="1").startswith("error: there is no file")
    assert on_a_terminal(*refused, TERM="dumb").startswith("error: there is no file")
    # An empty one does not count: https://no-color.org
    assert COLOUR in on_a_terminal(*refused, NO_COLOR="")
    piped = subprocess.run(  # noqa: S603 - the program under test
        [sys.executable, "-m", "screening.cli", *refused],
        env={**os.environ, "TERM": "xterm"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (piped.returncode, piped.stderr.startswith("error: there is no file")) == (2, True)


@pytest.mark.slow
def test_doctor_in_colour_and_without() -> None:
    arguments = ("doctor", "--quick", "--out", "/proc/results")
    assert f"{COLOUR}31mproblem {COLOUR}0m output" in on_a_terminal(*arguments)
    assert COLOUR not in on_a_terminal(*arguments, NO_COLOR="1")

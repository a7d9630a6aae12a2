"""`screening doctor`: each check finds what is wrong where something really is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ase.calculators.lj import LennardJones

from screening import doctor
from screening.cli import main
from screening.doctor import OK, PROBLEM, WARNING

ROOT = Path(__file__).parents[1]


def not_a_number() -> LennardJones:
    """Make a potential that gives no energy."""
    return LennardJones(epsilon=float("nan"), rc=8.0)


def test_this_machine_is_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "results"
    status = main(["doctor", "--quick", "--json", "--out", str(target)])
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert status == 0
    assert set(checks) == {
        *("Python", "libraries", "memory", "shared memory", "torch", "checkpoint"),
        *("potential", "key", "output", "disk"),
    }
    assert all(check["state"] != PROBLEM for check in checks.values())
    assert checks["potential"]["found"] == "chgnet, NaCl at -3.666 eV/atom"
    assert checks["checkpoint"]["found"].startswith("default, fingerprint ")
    # What was made for the check is gone.
    assert list(tmp_path.iterdir()) == []


def test_problems_are_shown_with_what_to_do_and_a_status_of_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    status = main(["doctor", "--quick", "--out", str(tmp_path / "file"), "--checkpoint", "none"])
    lines = capsys.readouterr().out.splitlines()
    assert status == 1
    (checkpoint,) = (index for index, line in enumerate(lines) if " checkpoint " in line)
    assert lines[checkpoint].startswith("problem  checkpoint     checkpoint must be one of default")
    assert lines[checkpoint + 1].strip().startswith("-> name another")
    assert any("is a file; it must be a directory" in line for line in lines)


def test_broken_checkpoint(tmp_path: Path) -> None:
    whole = (ROOT / "model" / "checkpoints" / "mp20.safetensors").read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole[:1000])
    check = doctor.model_checkpoint(str(cut))
    assert check.state == PROBLEM
    assert "is not a complete safetensors file" in check.found
    assert check.advice


def test_potential_that_is_not_there() -> None:
    check = doctor.potential("magic")
    assert (check.state, bool(check.advice)) == (PROBLEM, True)
    assert "relaxation.calculator is 'magic'" in check.found


@pytest.mark.filterwarnings("ignore")  # of ASE's, about the number that is none
def test_potential_without_an_energy() -> None:
    check = doctor.potential("test_doctor:not_a_number")
    assert check.state == PROBLEM
    assert check.found.endswith("NaCl at nan eV/atom instead of a finite energy")


def test_output_that_cannot_be_written() -> None:
    # Not even root makes directories there.
    check = doctor.output("/proc/results")
    assert check.state == PROBLEM
    assert check.found.startswith("/proc/results cannot be written: ")
    assert doctor.output("http://example.org").state == PROBLEM


def test_disk_without_space() -> None:
    check = doctor.disk("/proc/results")  # a file system without a free byte
    assert (check.state, check.found) == (WARNING, "0.0 GiB free at /proc")
    assert "make room" in check.advice


def test_machine_with_too_little_memory() -> None:
    check = doctor.memory(needed=2**60)
    assert check.state == WARNING
    assert "end other programs" in check.advice
    assert doctor.memory(needed=1).state == OK


def test_shared_memory_that_is_missing_or_full(tmp_path: Path) -> None:
    assert doctor.shared_memory("/proc").state == WARNING
    assert doctor.shared_memory(str(tmp_path / "none")).state == WARNING


def test_libraries_that_are_missing_or_of_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a distribution that asks for what is not installed."""
    information = tmp_path / "picky-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: picky\nVersion: 1.0\n"
        "Requires-Dist: numpy<1\nRequires-Dist: no-such-library\nRequires-Dist: pandas\n"
        "Requires-Dist: absent; extra == 'more'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    check = doctor.libraries("picky")
    assert check.state == PROBLEM
    missing, other = sorted(check.found.split("; "))
    assert missing == "no-such-library is missing"
    assert other.startswith("numpy is ")
    assert other.endswith(", allowed: <1")


def test_key_is_looked_at_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.materials_project_key().found.startswith("MP_API_KEY is not set")
    monkeypatch.setenv("MP_API_KEY", "k" * 32)
    check = doctor.materials_project_key()
    assert check.state == OK
    assert "kkk" not in check.found
    monkeypatch.setenv("MP_API_KEY", "short-secret")
    check = doctor.materials_project_key()
    assert (check.state, "short-secret" in check.found + check.advice) == (WARNING, False)
    assert "has 12 characters" in check.found


def test_key_without_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MP_API_KEY", "k" * 32)
    monkeypatch.delitem(sys.modules, "mp_api", raising=False)
    monkeypatch.setattr(sys, "path", [])
    check = doctor.materials_project_key()
    assert (check.state, check.advice) == (WARNING, "pip install 'crystal-screening[mp]'")


def test_ray_that_does_not_start_in_time() -> None:
    check = doctor.ray(timeout_s=0.5)
    assert check.state == PROBLEM
    assert check.found.endswith("did not start in 0.5 s")


def test_ray_starts_and_ray_that_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.ray().state == OK
    # Ray refuses a configuration that is not JSON.
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", "{")
    check = doctor.ray()
    assert check.state == PROBLEM
    assert "does not start: " in check.found


def test_library_that_breaks_is_a_problem_not_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "spglib.py").write_text("raise ImportError('libsymspg.so is missing')\n")
    done = subprocess.run(  # noqa: S603 - the program under test
        [sys.executable, "-m", "screening.cli", "doctor", "--quick", "--out", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "ImportError: libsymspg.so is missing" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr

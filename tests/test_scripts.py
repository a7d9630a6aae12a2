"""The set-up script says what is missing, and returns at once when there is nothing to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = ("bash", "cat", "cksum", "dirname", "rm")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What set-up needs of a clone, beside a ``bin`` that holds no Python."""
    place = tmp_path / "checkout"
    (place / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "setup.sh", place / "scripts")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, place)
    (place / "bin").mkdir()
    for tool in TOOLS:
        (place / "bin" / tool).symlink_to(str(shutil.which(tool)))
    return place


def set_up(checkout: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own script
        [str(checkout / "bin" / "bash"), "scripts/setup.sh"],
        cwd=checkout,
        env={"PATH": str(checkout / "bin"), "HOME": os.environ.get("HOME", "/"), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def interpreter(checkout: Path, name: str, refuses: str) -> None:
    """A Python that fails for code that holds a certain word."""
    path = checkout / "bin" / name
    path.write_text(
        f'#!{checkout}/bin/bash\ncase "$*" in *{refuses}*) exit 1;; esac\nexec {sys.executable} "$@"\n'
    )
    path.chmod(0o755)


def test_setup_without_python(checkout: Path) -> None:
    result = set_up(checkout)
    assert result.returncode == 1
    assert result.stderr.startswith(
        "error: Python 3.11 or newer was not found; install it, or name"
    )
    assert not (checkout / ".venv").exists()


def test_setup_with_an_old_python(checkout: Path) -> None:
    interpreter(checkout, "python3", refuses="version_info")
    result = set_up(checkout)
    assert result.returncode == 1
    assert "Python 3.11 or newer was not found" in result.stderr


def test_setup_with_a_python_that_cannot_make_environments(checkout: Path) -> None:
    interpreter(checkout, "python3", refuses="ensurepip")
    result = set_up(checkout)
    assert result.returncode == 1
    assert result.stderr == (
        f"error: {checkout}/bin/python3 cannot make virtual environments (its modules venv or "
        "ensurepip are missing; on Debian and Ubuntu: apt install python3-venv)\n"
    )


def test_setup_shows_why_an_installation_failed(checkout: Path) -> None:
    interpreter(checkout, "python3", refuses="no-such-word")
    (checkout / "constraints.txt").write_text("not a requirement\n")
    result = set_up(checkout)
    assert result.returncode == 1
    assert "error: the installation failed; pip's message is above" in result.stderr
    assert "not a requirement" in result.stderr
    assert not (checkout / ".venv" / ".installed").exists()


def test_setup_returns_at_once_when_nothing_changed(checkout: Path) -> None:
    environment = checkout / ".venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "screening").touch(mode=0o755)
    stamp = subprocess.run(  # noqa: S602 - the same command as in the script
        "{ pwd; cat pyproject.toml constraints.txt; } | cksum",  # noqa: S607
        shell=True,
        cwd=checkout,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (environment / ".installed").write_text(stamp)
    start = time.perf_counter()
    result = set_up(checkout)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert time.perf_counter() - start < 5

    with (checkout / "constraints.txt").open("a") as constraints:
        constraints.write("# changed\n")
    assert set_up(checkout).returncode == 1


def find_browser(folder: Path, *programs: str) -> subprocess.CompletedProcess[str]:
    """Run the script where only some programs exist."""
    for name in programs:
        (folder / name).write_text(f"#!{shutil.which('bash')}\n")
        (folder / name).chmod(0o755)
    return subprocess.run(  # noqa: S603 - our own script
        [str(shutil.which("bash")), ROOT / "scripts" / "browser.sh"],
        env={"PATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_browser_that_is_there_is_left_alone(tmp_path: Path) -> None:
    done = find_browser(tmp_path, "chromium", "chromedriver")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_browser_that_cannot_be_installed_is_no_failure(tmp_path: Path) -> None:
    done = find_browser(tmp_path, "chromium")
    assert done.returncode == 0
    assert "the tests of the report's page will be skipped" in done.stderr

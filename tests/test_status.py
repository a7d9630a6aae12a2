"""How far a campaign is: while it runs, after a crash, before and after."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from small_results import results, write_candidates

from screening.cli import main
from screening.status import campaign_status, samples_per_hour

if TYPE_CHECKING:
    from pathlib import Path

    from screening.store import Store


def heartbeat(store: Store, **changes: Any) -> None:
    """Write what a run writes every few seconds; by default this very process's."""
    store.write_json(
        "_progress.json",
        {
            "state": "running",
            "activity": "relaxing",
            "updated_at": time.time(),
            "elapsed_s": 100.0,
            "seconds_left": 42.0,
            "process": os.getpid(),
            "host": socket.gethostname(),
            **changes,
        },
    )


def test_status_of_a_run_that_is_going(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = results(tmp_path, n_done=3, n_failed=1)
    stages = {
        "sampling": {"workers": 1, "busy_s": 5.0, "available_s": 8.0},
        "relaxation": {"workers": 2, "busy_s": 12.0, "available_s": 16.0},
        "ranking": {"workers": 1, "busy_s": 0.0, "available_s": 0.0},
        "damaged": ["?"],
    }
    heartbeat(store, stages=stages)
    assert main(["status", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["state"] == "running"
    assert found["units"] == {"total": 8, "done": 3, "failed": 1, "waiting": 4}
    # Units of 2, 1, 2 samples are done, one of 1 failed.
    assert found["samples"] == {"total": 12, "kept": 5, "filtered": 0, "failed": 1, "waiting": 6}
    assert found["seconds_left"] == 42.0
    assert found["stages"] == {
        "sampling": {"workers": 1, "utilisation": 0.625},
        "relaxation": {"workers": 2, "utilisation": 0.75},
    }
    assert found["samples_per_hour"] == pytest.approx(6 / 100 * 3600, rel=0.2)
    assert main(["status", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "small: running (relaxing)" in out
    assert "3 of 8 done, 1 failed, 4 waiting" in out
    assert "time left   42 s" in out
    assert "workers     relaxation 2 (75% busy), sampling 1 (62% busy)" in out
    assert "RuntimeError: lost" in out


@pytest.mark.parametrize(
    "sign",
    [
        {"updated_at": 0.0},
        {"updated_at": 0.0, "host": "another"},
        {"state": "interrupted"},
        {"process": 2**22 + 1},  # beyond the largest process id of Linux
    ],
)
def test_status_after_a_crash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sign: dict[str, Any]
) -> None:
    store = results(tmp_path, n_done=1)
    heartbeat(store, **sign)
    assert main(["status", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "small: stopped" in out
    assert f"screening resume {tmp_path}" in out
    assert campaign_status(store)["seconds_left"] is None


def test_status_before_and_after(tmp_path: Path) -> None:
    store = results(tmp_path / "begun")
    assert campaign_status(store)["state"] == "stopped"
    assert campaign_status(store)["samples_per_hour"] is None
    done = results(tmp_path / "done", n_done=8)
    write_candidates(done, [])
    heartbeat(done, state="finished", seconds_left=0.0)
    assert campaign_status(done)["state"] == "finished"


def test_damaged_heartbeat_is_no_hindrance(tmp_path: Path) -> None:
    store = results(tmp_path, n_done=1)
    (tmp_path / "_progress.json").write_text('{"state": "run')
    assert campaign_status(store)["state"] == "stopped"
    store.write_json("_progress.json", ["?"])
    assert campaign_status(store)["state"] == "stopped"


def test_throughput_leaves_pauses_out() -> None:
    marks = [{"finished_at": t, "samples": 10} for t in (10.0, 20.0, 100_000.0, 100_010.0)]
    # The second run began at 99,990 s and finished 20 samples in 20 s.
    assert samples_per_hour(marks, since=99_990.0) == pytest.approx(3600.0)
    # Without a heartbeat: the time from the first mark on.
    assert samples_per_hour(marks[:2], since=0.0) == pytest.approx(3600.0)
    # A run that has finished nothing yet is judged by the one before it.
    assert samples_per_hour(marks[:2], since=50.0) == pytest.approx(3600.0)
    assert samples_per_hour(marks[:1], since=50.0) is None
    assert samples_per_hour([], since=0.0) is None


READING = """
import os, sys
from screening.status import campaign_status
from screening.store import Store

store = Store(sys.argv[1])
before = set(os.listdir("/proc/self/task"))
campaign_status(store)
store.read_table("references/Cl-Na.parquet")
print(len(set(os.listdir("/proc/self/task")) - before))
"""


def test_reading_leaves_no_thread_that_could_abort_the_process_at_its_end(tmp_path: Path) -> None:
    # Seen as exit status 134 of a command whose output was right.
    store = results(tmp_path / "small", n_done=4)
    store.compact()
    rows = store.read_relaxed("Cl-Na")
    store.write_table("references/Cl-Na.parquet", rows)
    command = [sys.executable, "-c", READING, store.uri]
    assert subprocess.check_output(command) == b"0\n"  # noqa: S603 - our own command

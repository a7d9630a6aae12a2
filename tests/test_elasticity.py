"""A campaign in a cluster whose machines come and go, on real raylets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
def test_pools_follow_the_machines_and_no_row_is_lost(tmp_path: Path) -> None:
    run = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, str(HERE / "coming_and_going.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE}"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    # One core, then two more of the second machine, which all do their part; then it is lost.
    assert found["workers"] == [1, 3, 1]
    assert found["on_each"] == [1, 2]
    assert found["as_undisturbed"] == [True, True, True]

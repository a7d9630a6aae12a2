"""A campaign as a job of a real Ray head, with its dashboard and a token."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from test_submission import alloy

from screening.cluster import LOCAL_RAY, kill_processes_of
from screening.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = secrets.token_hex(32)
PASSWORD = "hunter2-of-the-one-who-submits"  # noqa: S105 - what must not be sent
START_S = 120.0
"""How long a head may take to answer, s."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """The address of a Ray head of its own process, which asks for a token."""
    port = free_port()
    environment = {**os.environ, **LOCAL_RAY, "RAY_AUTH_TOKEN": TOKEN, "PYTHONPATH": ""}
    # The job's `python` is the one beside the tests'.
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    with tempfile.TemporaryDirectory(
        prefix="ray-", dir="/tmp", ignore_cleanup_errors=True
    ) as place:
        # Ports of its own: another Ray on this machine has those that Ray takes by itself.
        command = [
            *("ray", "start", "--head", "--block", "--num-cpus=2", "--include-dashboard=true"),
            *("--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"),
            *(f"--port={free_port()}", f"--dashboard-port={port}", f"--temp-dir={place}"),
            f"--dashboard-agent-listen-port={free_port()}",
            f"--metrics-export-port={port + 1}",
            "--object-store-memory=134217728",
        ]
        with subprocess.Popen(  # noqa: S603 - our own command
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
        ) as head:
            try:
                wait_for(port, head)
                yield f"http://127.0.0.1:{port}"
            finally:
                head.terminate()
                head.wait(60)
                kill_processes_of(place)


def wait_for(port: int, head: subprocess.Popen[bytes]) -> None:
    """Wait until the dashboard answers."""
    end = time.monotonic() + START_S
    while head.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.5)
    pytest.fail(f"Ray did not start (exit status {head.poll()})")


def submit(
    directory: Path, address: str, token: str, *more: str
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if "RAY" not in name}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    environment |= {"AWS_SECRET_ACCESS_KEY": PASSWORD, "RAY_ADDRESS": "http://127.0.0.1:9"}
    arguments = ["submit", str(directory / "alloy.yaml"), "--address", address, *more]
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "screening.cli", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def sleeping_job(address: str) -> str:
    """Start a job that does nothing for a while, with Ray's own command, and return its id."""
    environment = {name: value for name, value in os.environ.items() if "RAY" not in name}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    command = ["job", "submit", "--address", address, "--submission-id", "raysubmit_sleeping"]
    subprocess.run(  # noqa: S603 - our own command
        [str(Path(sys.executable).with_name("ray")), *command, "--no-wait", "--", "sleep", "600"],
        env=environment,
        capture_output=True,
        timeout=300,
        check=True,
    )
    return "raysubmit_sleeping"


def stop(address: str, job: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if "RAY" not in name}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "screening.cli", "stop", job, "--address", address],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_job_is_stopped_and_a_campaign_followed(dashboard: str, tmp_path: Path) -> None:
    (tmp_path / "alloy.yaml").write_text(alloy(tmp_path).to_yaml())
    out = tmp_path / "out"
    waiting = sleeping_job(dashboard)
    stopped = stop(dashboard, waiting)
    assert (stopped.returncode, stopped.stdout, stopped.stderr) == (0, "STOPPED\n", "")
    assert job_record(dashboard, waiting)["status"] == "STOPPED"
    unknown = stop(dashboard, "raysubmit_none")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "raysubmit_none" in unknown.stderr
    assert len(unknown.stderr.splitlines()) == 1

    with ThreadPoolExecutor() as aside:
        metric = aside.submit(await_metric, dashboard, "screening_total")
        run = submit(tmp_path, dashboard, TOKEN, "--out", str(out), "--follow")
    assert run.returncode == 0, run.stderr
    assert 'campaign="alloy"' in metric.result()
    (job,) = run.stdout.splitlines()
    assert job.startswith("raysubmit_")
    assert "loading the libraries" in run.stderr
    assert Store(str(out)).candidates().num_rows == 1
    assert Store(str(out)).read_json("_progress.json")["state"] == "finished"

    refused = submit(tmp_path, dashboard, "0" * 64, "--out", str(out))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"error: the Ray cluster at {dashboard} failed: ")
    assert len(refused.stderr.splitlines()) == 1

    record = job_record(dashboard, job)
    assert record["status"] == "SUCCEEDED"
    for secret in (TOKEN, PASSWORD):
        assert secret not in json.dumps(record)
        assert secret not in run.stdout + run.stderr


def await_metric(address: str, name: str) -> str:
    """Wait until Ray's metrics, as Prometheus would read them, hold one; return its line."""
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            port = int(urlsplit(address).port or 0) + 1
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                for line in answer.read().decode().splitlines():
                    if name in line and not line.startswith("#") and 'stage="sampling"' in line:
                        return str(line)
        time.sleep(1.0)
    pytest.fail(f"Ray shows no metric {name}")


def job_record(address: str, job: str) -> dict[str, Any]:
    """Ask the dashboard what it tells of a job."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    request = urllib.request.Request(f"{address}/api/jobs/{job}", headers=headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own dashboard
        return dict(json.load(answer))

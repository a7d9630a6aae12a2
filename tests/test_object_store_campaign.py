"""A whole campaign in an object store that fails in the middle of it."""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING, Any

import pytest
from s3_server import KEY, SECRET, S3Server
from test_object_store import URI, alloy, server

from screening.cli import main
from screening.cluster import Cluster
from screening.pipeline import run_campaign
from screening.status import campaign_status
from screening.store import Store
from screening.views import LineView

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["server"]  # a fixture


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A Ray on two cores that the campaigns of this file share."""
    with Cluster(num_cpus=2):
        yield


def quiet() -> LineView:
    return LineView(io.StringIO())


def sorted_rows(table: Any) -> list[dict[str, Any]]:
    return sorted(table.to_pylist(), key=lambda row: row["sample_id"])


@pytest.mark.slow
def test_a_campaign_whose_service_fails_ends_as_on_a_disk(
    local_ray: None, server: S3Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del local_ray
    campaign = alloy(tmp_path)
    file = tmp_path / "alloy.yaml"
    file.write_text(campaign.to_yaml())
    on_disk = run_campaign(campaign, str(tmp_path / "out"), view=quiet())

    server.counted, server.writes_before_failure = "/_done/", 2
    assert main(["run", str(file), "--out", URI]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith(f"error: {URI}/")
    assert " cannot be written: the results' service failed: " in lines[-1]
    assert not [line for line in lines if "Traceback" in line]
    server.writes_before_failure = None
    marks = {key for key in server.objects if "/_done/" in key}
    assert len(marks) == 2
    assert campaign_status(Store(URI), time.time() + 3600)["state"] == "stopped"

    server.objects["results/_progress.json"] = b"{}"  # as if it were long ago
    lost, kept = sorted(marks)
    del server.objects[lost]  # its rows stay
    server.writes.clear()
    assert main(["resume", URI]) == 0
    assert lost in server.writes
    assert kept not in server.writes
    printed = capsys.readouterr()
    disk, remote = Store(on_disk.uri), Store(URI)
    assert sorted_rows(remote.read_samples()) == sorted_rows(disk.read_samples())
    assert sorted_rows(remote.candidates()) == sorted_rows(disk.candidates())

    told = "".join([*server.objects, printed.out, printed.err, *lines])
    for secret in (KEY, SECRET):
        assert secret not in told
        assert not [k for k, content in server.objects.items() if secret.encode() in content]

"""Results in an object store, over the S3 protocol: order, faults, resume, and no secret told."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from pyarrow import fs
from s3_server import KEY, SECRET, S3Server
from test_store import CAMPAIGN, FINGERPRINT, started, write

from screening import object_store
from screening.campaign import Campaign
from screening.cli import main
from screening.errors import RunError, UserError
from screening.grid import units
from screening.object_store import RemoteFiles
from screening.status import campaign_status
from screening.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

URI = "s3://bucket/results"
ALLOY = """
name: alloy
chemical_systems: [Al-Cu]
space_groups: [221]
sites: {per_element: [1], total_max: 2}
samples_per_cell: 4
seed: 7
generator: {unit_size: 1}
relaxation: {calculator: 'ase.calculators.emt:EMT', max_steps: 30}
references: REFERENCES
"""
KNOWN = "formula,energy_per_atom\nAl,-0.005\nCu,-0.007\nAlCu,-0.100\n"
MOTO = os.environ.get("MOTO_SERVER")
"""Where moto's server lies, to try the protocol with another implementation of it: the versions
that it needs contradict our pins, so that it cannot be part of the environment of the tests."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    server = S3Server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    # Three attempts, without the pauses, and one request in each where there are several.
    monkeypatch.setattr(object_store, "PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(object_store, "_CLIENT_ATTEMPTS", 1)
    yield server
    server.stop()


@pytest.fixture(params=["our server", *(["moto"] if MOTO else [])])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of an S3 service; the second one by other people."""
    if request.param == "our server":
        request.getfixturevalue("server")
        yield URI
        return
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    arguments = [str(MOTO), "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)  # noqa: S603 - installed by hand
    for name, value in S3Server.client_environment(port).items():
        monkeypatch.setenv(name, value)
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            time.sleep(0.1)
    endpoint = {"scheme": "http", "endpoint_override": f"127.0.0.1:{port}"}
    fs.S3FileSystem(region="us-east-1", allow_bucket_creation=True, **endpoint).create_dir("bucket")
    yield URI
    process.kill()
    process.wait()


def alloy(directory: Path) -> Campaign:
    known = directory / "known.csv"
    known.write_text(KNOWN)
    return Campaign.from_text(ALLOY.replace("REFERENCES", str(known)), "alloy")


# The protocol ----------------------------------------------------------------------------


def test_units_come_back_and_the_directory_reads_as_one_table(place: str) -> None:
    store = started(Store(place))
    for unit in units(CAMPAIGN):
        write(store, unit)
    assert sorted(store.finished_units()) == sorted(u.unit_id for u in units(CAMPAIGN))
    expected = sorted(i for u in units(CAMPAIGN) for i in u.sample_ids)
    assert sorted(store.read_samples()["sample_id"].to_pylist()) == expected
    assert isinstance(store.files, RemoteFiles)
    filesystem = store.files.filesystem
    frame = pd.read_parquet("bucket/results/samples", filesystem=filesystem)
    assert sorted(frame["sample_id"]) == expected
    assert started(Store(place)).fingerprint == FINGERPRINT
    assert store.sweep() == 0
    assert store.read_json("absent.json") is None


def test_large_files_go_up_in_parts_and_come_back(place: str) -> None:
    content = os.urandom(12_000_000)  # Arrow's parts have 10 MB
    files = Store(place).files
    files.write("deep/down/large", content)
    assert files.read("deep/down/large") == content
    assert files.names("deep") == ["down"]
    files.remove("deep/down/large")
    files.remove("deep/down/large")
    assert not files.exists("deep/down/large")
    with pytest.raises(FileNotFoundError):
        files.read("deep/down/large")


def test_rows_are_put_before_the_mark(server: S3Server) -> None:
    store = started(Store(URI))
    unit = next(units(CAMPAIGN))
    server.writes.clear()
    write(store, unit)
    assert server.writes == [
        f"results/samples/chemsys=Cu-K-Si/{unit.unit_id}.parquet",
        f"results/_candidates/{unit.unit_id}.parquet",
        f"results/_done/{unit.unit_id}.json",
    ]


@pytest.mark.parametrize("n_stored", [0, 1, 2])
def test_unit_whose_upload_fails_halfway_is_not_finished(server: S3Server, n_stored: int) -> None:
    store = started(Store(URI))
    first, second, *_ = units(CAMPAIGN)
    write(store, first)
    server.writes_before_failure = n_stored
    with pytest.raises(RunError, match=r"^s3://bucket/results/\S+ cannot be written: .*failed"):
        write(store, second)
    server.writes_before_failure = None
    assert list(store.finished_units()) == [first.unit_id]
    assert store.read_samples()["unit_id"].unique().to_pylist() == [first.unit_id]
    assert store.sweep() == n_stored
    assert not [key for key in server.objects if second.unit_id in key]
    write(store, second)
    assert store.read_samples().num_rows == first.count + second.count


@pytest.mark.parametrize("lost", ["mark", "half a mark"])
def test_rows_without_their_mark_are_done_again_and_not_twice(place: str, lost: str) -> None:
    store = started(Store(place))
    first, second, *_ = units(CAMPAIGN)
    write(store, first)
    write(store, second)
    mark = f"_done/{second.unit_id}.json"
    if lost == "mark":
        store.files.remove(mark)
    else:
        store.files.write(mark, store.files.read(mark)[:20])
    store.files.write("samples/chemsys=Cu-K/note.txt", b"not ours, so it stays")
    assert list(store.finished_units()) == [first.unit_id]
    assert store.read_samples().num_rows == first.count
    assert store.sweep() == (2 if lost == "mark" else 3)
    assert store.sweep() == 0
    write(store, second)
    assert isinstance(store.files, RemoteFiles)
    assert store.files.read("samples/chemsys=Cu-K/note.txt") == b"not ours, so it stays"
    store.files.remove("samples/chemsys=Cu-K/note.txt")
    frame = pd.read_parquet("bucket/results/samples", filesystem=store.files.filesystem)
    assert sorted(frame["sample_id"]) == sorted(first.sample_ids + second.sample_ids)


# Faults ----------------------------------------------------------------------------------


def test_a_service_that_refuses_for_a_moment_is_asked_again(server: S3Server) -> None:
    store = started(Store(URI))
    server.refusals = 2
    write(store, next(units(CAMPAIGN)))
    assert server.refused == 2
    assert len(store.finished_units()) == 1


def test_a_service_that_is_gone_is_asked_a_bounded_number_of_times(server: S3Server) -> None:
    store = started(Store(URI))
    server.writes_before_failure = 0
    with pytest.raises(RunError, match=r"the results' service failed: .*InternalError"):
        store.finished_units()
    assert server.refused == 3
    server.stop()
    with pytest.raises(RunError, match=r"cannot be written: .*NETWORK_CONNECTION"):
        store.write_json("_progress.json", {})
    with pytest.raises(UserError, match="cannot be read: the results' service failed: "):
        campaign_status(store)


def test_a_wrong_key_is_not_tried_again(
    server: S3Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDOTHER")
    monkeypatch.setattr(object_store, "PAUSES_S", (1000.0,))
    with pytest.raises(UserError, match=r"results cannot be written to: .*ACCESS_DENIED"):
        started(Store(URI))
    assert main(["status", URI]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert server.objects == {}


def test_ctrl_c_during_an_upload_leaves_a_whole_object(server: S3Server) -> None:
    files = Store(URI).files
    server.put_s = 0.5
    # A shell that starts the tests in the background has them ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        files.write("table", b"all of it")
    timer.join()
    signal.signal(signal.SIGINT, before)
    assert server.objects["results/table"] == b"all of it"


# Keys ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        (f"s3://{KEY}:{SECRET}@bucket/results", "output s3://bucket/results is given with a key"),
        (f"s3://bucket/results?secret_key={SECRET}", "has the option 'secret_key'; allowed after"),
    ],
)
def test_keys_do_not_belong_in_a_uri(
    uri: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "alloy.yaml"
    file.write_text(alloy(tmp_path).to_yaml())
    assert main(["run", str(file), "--out", uri]) == 2
    told = capsys.readouterr().err
    assert words in told
    assert SECRET not in told

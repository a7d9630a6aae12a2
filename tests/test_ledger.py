"""Which units are finished: sealed and merged marks, and files that are merged."""

from __future__ import annotations

import io
import os
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from small_results import CAMPAIGN, results

import screening.store
import screening.sweep
from screening import ledger
from screening.campaign import Campaign
from screening.cli import main
from screening.errors import RunError
from screening.files import LocalFiles
from screening.grid import units
from screening.ledger import Ledger
from screening.progress import Progress, StageProgress
from screening.references import References
from screening.store import Store
from screening.sweep import REFERENCES, RELAXATION, SAMPLING, Stages, Sweep
from screening.views import LineView

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = socket.gethostname()
UNITS = list(units(Campaign.from_text(CAMPAIGN, "small")))


def mark(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "unit_id": f"Cs-Cl_225_Cl1-Cs1_{number:03d}",
        "number": number,
        "state": "done",
        "samples": 2,
        "seconds": {"sampling": 0.5},
        "finished_at": float(number),
        **changes,
    }


def sealed_ledger(directory: Path, *ranges: range) -> Ledger:
    book = Ledger(str(directory), LocalFiles(directory))
    for numbers in ranges:
        marks = [mark(number) for number in numbers]
        for each in marks:
            book.add(each)
        book.seal([{**each, "table": "Cs-Cl_merged-0123456789abcdef"} for each in marks])
    return book


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*.*"))


def everything(store: Store) -> tuple[list[Any], list[Any], list[Any]]:
    return (
        sorted(store.marks(["unit_id", "state", "samples", "kept"]).to_pylist(), key=str),
        sorted(store.read_samples().to_pylist(), key=str),
        sorted(store.read_relaxed().to_pylist(), key=str),
    )


def test_units_know_their_place_in_the_campaign() -> None:
    assert [unit.number for unit in UNITS] == list(range(8))


def test_finished_units_are_ranges_and_a_few_names(tmp_path: Path) -> None:
    book = sealed_ledger(tmp_path, range(3), range(4, 6))
    book.add(mark(7))
    finished = book.finished()
    assert (finished.starts, finished.ends) == ([0, 4], [3, 6])
    unit = UNITS[0]
    found = [
        number
        for number in range(9)
        if replace(unit, number=number, unit_id=mark(number)["unit_id"]) in finished
    ]
    assert found == [0, 1, 2, 4, 5, 7]
    assert not Ledger(str(tmp_path), LocalFiles(tmp_path / "none")).finished().starts


def test_sealed_marks_are_merged_and_each_counts_once(tmp_path: Path) -> None:
    n_tables = 2 * ledger._MERGED_AT + 3
    book = sealed_ledger(tmp_path, *(range(4 * i, 4 * i + 4) for i in range(n_tables)))
    tiers = [path.name.split("-")[1] for path in (tmp_path / "_done").iterdir()]
    assert sorted(tiers) == ["0", "0", "0", "1", "1"]
    found = book.marks(["number", "seconds"]).to_pylist()
    assert sorted(row["number"] for row in found) == list(range(4 * n_tables))
    assert found[0]["seconds"] == [("sampling", 0.5)]
    assert book.finished().ends == [4 * n_tables]


def test_what_a_crash_leaves_behind_counts_once_and_is_swept(tmp_path: Path) -> None:
    book = sealed_ledger(tmp_path, *(range(i, i + 1) for i in range(ledger._MERGED_AT - 1)))
    before = {path: path.read_bytes() for path in (tmp_path / "_done").iterdir()}
    book.add(mark(100))
    book.seal([{**mark(100), "table": "Cs-Cl_merged-0123456789abcdef"}])
    assert [path.name[:8] for path in (tmp_path / "_done").iterdir()] == ["sealed-1"]
    for path, content in before.items():  # as if it had died before it removed them
        path.write_bytes(content)
    book.add(mark(100))
    assert book.marks().num_rows == ledger._MERGED_AT
    assert book.sweep() == ledger._MERGED_AT - 1


def test_compacted_results_are_the_same_in_fewer_files(tmp_path: Path) -> None:
    store = results(tmp_path, n_done=6, n_failed=1)
    before = everything(store)
    assert store.compact() == 6
    assert everything(store) == before
    cesium, sodium = sorted({row["table"] for row in store.marks(["table"]).to_pylist()} - {None})
    failed = UNITS[6].unit_id
    assert [name for name in files(tmp_path) if "/" in name and "sealed" not in name] == sorted(
        [
            f"_candidates/{cesium}.parquet",
            f"_candidates/{failed}.parquet",
            f"_candidates/{sodium}.parquet",
            f"_done/{failed}.json",
            f"samples/chemsys=Cl-Cs/{cesium}.parquet",
            f"samples/chemsys=Cl-Na/{failed}.parquet",
            f"samples/chemsys=Cl-Na/{sodium}.parquet",
        ]
    )
    assert store.compact() == 0
    assert store.sweep() == 0
    assert everything(store) == before
    metadata = pq.read_schema(tmp_path / f"_candidates/{sodium}.parquet").metadata
    assert b"fingerprint.campaign" in metadata
    # A failed unit can be tried again.
    assert store.forget_failed_units() == 1
    assert [unit in store.ledger.finished() for unit in UNITS] == [True] * 6 + [False] * 2


def test_systems_of_few_units_are_merged_while_a_campaign_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screening.sweep, "_COMPACT_AT", 5)
    store = results(tmp_path)
    campaign = Campaign.from_text(CAMPAIGN, "small")
    counts = [StageProgress(name, "", "", 1.0) for name in (SAMPLING, RELAXATION, REFERENCES)]
    progress = Progress(counts, LineView(io.StringIO()))
    stages = Stages.of(campaign, "model/sampler", "potential")
    sweep = Sweep(
        campaign,
        store,
        References(campaign, store),
        "model/sampler",
        progress,
        stages,
    )
    n_alone = []
    for unit in UNITS:
        rows = [{**unit.columns(i), "status": "filtered"} for i in range(unit.count)]
        sweep._write(unit, rows, [])
        n_alone.append(len(list((tmp_path / "_done").glob("*.json"))))
    # Four units of each of two systems; after the fifth none has files of its own.
    assert n_alone == [1, 2, 3, 4, 0, 1, 2, 3]


def test_a_crash_at_any_write_or_removal_of_a_compaction_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = everything(results(tmp_path / "undisturbed", n_done=5, n_failed=1))
    for module in (ledger, screening.store):  # so that the order is the same each time
        monkeypatch.setattr(module, "READERS", 1)
    survived, step = False, 0
    while not survived:
        step += 1
        out = tmp_path / f"crash-{step}"
        results(out, n_done=5, n_failed=1)
        store = Store(str(out), Dying(out, step))
        try:
            store.compact()
            survived = True
        except (RunError, OSError) as error:
            assert "the power went" in str(error)  # noqa: PT017 - the last try does not fail
        found = Store(str(out))
        assert everything(found) == undisturbed
        found.sweep()
        assert everything(found) == undisturbed
        found.compact()
        assert everything(found) == undisturbed
        assert found.sweep() == 0
        assert len(list((out / "samples").rglob("*.parquet"))) == 3
    assert step > 10


class Dying(LocalFiles):
    """Files of a machine that loses its power at one of the changes."""

    def __init__(self, directory: Path, changes: int) -> None:
        super().__init__(directory)
        self.left = changes

    def write(self, name: str, content: Any) -> None:
        """Write, or die."""
        self._change(lambda: super(Dying, self).write(name, content))

    def remove(self, name: str) -> None:
        """Remove, or die."""
        self._change(lambda: super(Dying, self).remove(name))

    def _change(self, change: Callable[[], None]) -> None:
        self.left -= 1
        if self.left <= 0:
            raise OSError(5, "the power went")
        change()


class Busy(LocalFiles):
    """Files of which some are merged by a run at the moment in which the first is read."""

    def __init__(self, store: Store, prefix: str) -> None:
        super().__init__(Path(store.uri))
        self.store = store
        self.prefix = prefix
        self.is_done = False

    def read(self, name: str) -> bytes:
        """Read, after the run has merged all."""
        self._merge(name)
        return super().read(name)

    def read_parts(self, name: str, use: Any) -> Any:
        """Read, after the run has merged all."""
        self._merge(name)
        return super().read_parts(name, use)

    def _merge(self, name: str) -> None:
        if name.startswith(self.prefix) and not self.is_done:
            self.is_done = True
            self.store.compact()


def test_marks_can_be_read_while_they_are_sealed(tmp_path: Path) -> None:
    files = Busy(results(tmp_path, n_done=5), "_done/")
    assert Store(str(tmp_path), files).marks().num_rows == 5
    assert files.is_done


@pytest.mark.parametrize("text", ["{half", "[]", "3", '{"unit_id": 3, "samples": "many"}'])
def test_a_damaged_mark_proves_nothing(tmp_path: Path, text: str) -> None:
    store = results(tmp_path, n_done=2)
    (tmp_path / "_done" / f"{UNITS[1].unit_id}.json").write_text(text)
    assert list(store.finished_units()) == [UNITS[0].unit_id]
    assert store.compact() == 1


def test_a_damaged_sealed_table_is_named(tmp_path: Path) -> None:
    store = results(tmp_path, n_done=2)
    store.compact()
    (table,) = (tmp_path / "_done").iterdir()
    table.write_bytes(table.read_bytes()[:200])
    with pytest.raises(RunError, match=rf"_done/{table.name} is damaged"):
        store.marks()


def test_marks_of_earlier_versions_without_a_number_stay_apart(tmp_path: Path) -> None:
    store = results(tmp_path, n_done=1)
    path = tmp_path / "_done" / f"{UNITS[0].unit_id}.json"
    path.write_text(path.read_text().replace('"number": 0,', ""))
    assert store.compact() == 0
    assert UNITS[0] in store.ledger.finished()
    assert path.exists()


def test_a_user_compacts_what_no_run_is_working_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = results(tmp_path, n_done=3)
    heartbeat = {"state": "running", "updated_at": time.time(), "elapsed_s": 1.0}
    store.write_json("_progress.json", {**heartbeat, "process": os.getpid(), "host": HOST})
    assert main(["compact", str(tmp_path)]) == 2
    assert "is being worked on by another run" in capsys.readouterr().err
    store.write_json("_progress.json", {**heartbeat, "state": "interrupted"})
    assert main(["compact", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "3\n"
    assert not list((tmp_path / "_done").glob("*.json"))
    assert main(["compact", str(tmp_path / "none")]) == 2
    assert "holds no campaign" in capsys.readouterr().err


def test_rows_can_be_read_while_their_files_are_merged(tmp_path: Path) -> None:
    store = results(tmp_path, n_done=5)
    before = everything(store)
    files = Busy(store, "samples/")
    found = Store(str(tmp_path), files).read_samples()
    assert sorted(found.to_pylist(), key=str) == before[1]
    assert files.is_done


def test_a_table_that_is_gone_for_good_is_named(tmp_path: Path) -> None:
    store = results(tmp_path, n_done=1)
    (table,) = (tmp_path / "samples").rglob("*.parquet")
    table.unlink()
    with pytest.raises(RunError, match=rf"{table.name} cannot be read: No such file"):
        store.read_samples()

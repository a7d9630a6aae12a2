"""Rows from the disk in the order of the ranking: all of them, once, whatever the pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from report_results import CANDIDATES
from small_results import results

from screening import ranked_runs
from screening.errors import RunError
from screening.ranked_runs import RankedRuns
from screening.schema import CANDIDATE_SCHEMA, table_from_rows

if TYPE_CHECKING:
    from pathlib import Path


def heights(size: int) -> list[dict]:
    """Candidates with few different energies above the hull, some without one."""
    rng = np.random.default_rng(0)
    return [
        {
            **CANDIDATES[0],
            "sample_id": f"s{i:04d}",
            "e_above_hull": None if rng.random() < 0.2 else float(rng.integers(-2, 5)) / 10,
        }
        for i in rng.permutation(size)
    ]


@pytest.mark.parametrize("rows_per_piece", [1, 7, 1000])
def test_runs_come_back_as_one_table_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_per_piece: int
) -> None:
    monkeypatch.setattr(ranked_runs, "ROWS_PER_PIECE", rows_per_piece)
    rows = heights(60)
    runs = RankedRuns(tmp_path)
    for part in (rows[:1], rows[1:1], rows[1:40], rows[40:]):
        runs.add(table_from_rows(part, CANDIDATE_SCHEMA))
    pieces = list(runs.merged())
    assert max(piece.num_rows for piece in pieces) == min(rows_per_piece, 60)
    expected = sorted(
        rows,
        key=lambda row: (row["e_above_hull"] is None, row["e_above_hull"] or 0, row["sample_id"]),
    )
    assert pa.concat_tables(pieces).equals(table_from_rows(expected, CANDIDATE_SCHEMA))


def test_the_written_table_is_read_here_and_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranked_runs, "ROWS_PER_PIECE", 7)
    store = results(tmp_path / "results")
    runs = RankedRuns(tmp_path)
    runs.add(table_from_rows(heights(60), CANDIDATE_SCHEMA))
    store.write_candidates(runs.merged())
    whole = store.candidates()
    assert whole.equals(pa.concat_tables(runs.merged()))
    placed = [row for row in whole.to_pylist() if row["e_above_hull"] is not None]
    assert store.best().to_pylist() == placed
    assert store.best(20, ["cif", "sample_id"]).to_pylist() == [
        {"cif": row["cif"], "sample_id": row["sample_id"]} for row in placed[:20]
    ]


def test_without_runs_there_are_no_rows(tmp_path: Path) -> None:
    assert list(RankedRuns(tmp_path).merged()) == []
    store = results(tmp_path / "results")
    store.write_candidates([])
    assert store.candidates().num_rows == store.best().num_rows == 0


def test_a_place_that_cannot_be_written_to_is_a_sentence(tmp_path: Path) -> None:
    runs = RankedRuns(tmp_path / "absent")
    with pytest.raises(RunError, match=r"absent cannot be written to: .*No such file"):
        runs.add(CANDIDATE_SCHEMA.empty_table())


def test_the_best_are_distinct_and_what_is_filled_in_changes_the_order(tmp_path: Path) -> None:
    """Between the best of a run there are others, which stay behind."""
    rows = [
        {**row, "is_representative": number % 3 > 0, "converged": number % 5 > 0}
        for number, row in enumerate(heights(60))
    ]
    runs = RankedRuns(tmp_path)
    for part in (rows[:25], rows[25:]):
        runs.add(table_from_rows(part, CANDIDATE_SCHEMA))
    distinct = [
        row
        for row in rows
        if row["is_representative"] and row["converged"] and row["e_above_hull"] is not None
    ]
    expected = sorted(distinct, key=lambda row: (row["e_above_hull"], row["sample_id"]))
    best = runs.best(9)
    assert best.equals(table_from_rows(expected[:9], CANDIDATE_SCHEMA))
    names = best["sample_id"].to_pylist()
    second = [float(9 - place) for place in range(9)]
    runs.amend(pa.table({"sample_id": names, "rescored_e_above_hull": second}))
    merged = pa.concat_tables(list(runs.merged()))
    assert merged["sample_id"].to_pylist()[:9] == names[::-1]
    assert merged["rescored_e_above_hull"].to_pylist() == second[::-1] + [None] * 51
    assert sorted(merged["sample_id"].to_pylist()) == sorted(row["sample_id"] for row in rows)
    assert RankedRuns(tmp_path).best(3).num_rows == 0

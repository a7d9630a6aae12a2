"""The results directory opens in the tools that people use, each with the same rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pytest
from small_results import CESIUM_CHLORIDE, results, write_candidates

from screening.schema import structure_columns

if TYPE_CHECKING:
    from pathlib import Path

    from screening.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A campaign with a failed unit, whose columns of crystals are all null, and a ranked table."""
    store = results(tmp_path / "out", n_done=3, n_failed=1)
    crystal = structure_columns(CESIUM_CHLORIDE)
    write_candidates(
        store,
        [
            {"sample_id": "a", "status": "kept", **crystal, "e_above_hull": 0.1, "density": 4.0},
            {"sample_id": "b", "status": "failed", **crystal, "error": "exploded"},
        ],
    )
    return store


def _plain(rows: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    return sorted(tuple(None if value != value else value for value in row) for row in rows)  # noqa: PLR0124 - not a number


def _same_rows(path: str, pattern: str, columns: list[str]) -> list[tuple[object, ...]]:
    """Read columns with every tool, and return the rows that all of them found."""
    names = ", ".join(columns)
    found = {
        "pandas": list(pd.read_parquet(path)[columns].itertuples(index=False, name=None)),
        "pyarrow": [
            tuple(row.values())
            for row in ds.dataset(path, partitioning="hive").to_table(columns).to_pylist()
        ],
        "duckdb": duckdb.sql(f"SELECT {names} FROM read_parquet('{pattern}')").fetchall(),  # noqa: S608 - our own path
        "polars": pl.scan_parquet(pattern).select(columns).collect().rows(),
    }
    rows = {name: _plain(some) for name, some in found.items()}
    assert all(some == rows["pyarrow"] for some in rows.values()), rows
    return rows["pyarrow"]


def test_samples_are_the_same_everywhere(store: Store) -> None:
    columns = ["sample_id", "chemical_system", "status", "chemical_formula_reduced", "nsites"]
    rows = _same_rows(f"{store.uri}/samples", f"{store.uri}/samples/**/*.parquet", columns)
    assert len(rows) == store.read_samples().num_rows > 5
    assert {row[2] for row in rows} == {"kept", "failed"}


def test_candidates_are_the_same_everywhere(store: Store) -> None:
    path = f"{store.uri}/candidates.parquet"
    rows = _same_rows(path, path, ["sample_id", "status", "e_above_hull", "density", "error"])
    assert rows == [("a", "kept", 0.1, 4.0, None), ("b", "failed", None, None, "exploded")]


def test_crystals_are_the_same_everywhere(store: Store) -> None:
    path = f"{store.uri}/candidates.parquet"
    expected = CESIUM_CHLORIDE.lattice.matrix.tolist()
    duck = duckdb.sql(f"SELECT lattice_vectors FROM read_parquet('{path}')").fetchall()  # noqa: S608 - our own path
    assert [row[0] for row in duck] == [expected, expected]
    assert pl.read_parquet(path)["lattice_vectors"].to_list() == [expected, expected]

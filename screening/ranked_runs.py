"""Candidates of many chemical systems in one order, with their rows on the disk.

A million candidates are some 5 GB. Each system's rows are sorted and put into a file of their own;
in memory there are the keys of all rows, and the rows of the piece that is being read.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from screening.errors import RunError
from screening.files import reason
from screening.schema import CANDIDATE_SCHEMA
from screening.selection import BEST_COLUMNS, RANK_COLUMNS, best_places, ranking_order

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

ROWS_PER_PIECE = 4096
"""Rows that are read at a time: some 20 MB."""


class RankedRuns:
    """Tables whose rows come back as one table in the order of the ranking.

    Args:
        directory: Where the rows are put; it needs room for all of them, uncompressed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = count()
        self._runs: list[pa.Table] = []

    def add(self, table: pa.Table) -> None:
        """Put a table's rows on the disk.

        Raises:
            RunError: if there is no room for them.
        """
        self._runs.append(self._on_disk(table))

    def _on_disk(self, table: pa.Table) -> pa.Table:
        """Return a table in the order of the ranking, its rows in a file."""
        path = str(self._directory / f"{next(self._numbers)}.arrow")
        run = table.combine_chunks().take(ranking_order(table))
        try:
            with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, run.schema) as writer:
                writer.write_table(run)
            # Pages of a mapped file are the system's to drop and to read again.
            return pa.ipc.open_file(pa.memory_map(path)).read_all()
        except OSError as error:
            raise RunError(f"{self._directory} cannot be written to: {reason(error)}") from None

    def merged(self) -> Iterator[pa.Table]:
        """Yield all rows in the order of the ranking, `ROWS_PER_PIECE` at a time."""
        if not self._runs:
            return
        order = ranking_order(self._keys(RANK_COLUMNS)).to_numpy()
        for first in range(0, len(order), ROWS_PER_PIECE):
            yield self._rows(order[first : first + ROWS_PER_PIECE])

    def best(self, top: int) -> pa.Table:
        """Return the rows of the best distinct candidates, the lowest first.

        Args:
            top: how many, at the most.
        """
        if not self._runs:
            return CANDIDATE_SCHEMA.empty_table()
        return self._rows(best_places(self._keys(BEST_COLUMNS))[:top].to_numpy())

    def amend(self, columns: pa.Table) -> None:
        """Fill columns of some rows, which may change the order.

        Args:
            columns: with ``sample_id`` and what is to be filled.

        Raises:
            RunError: if there is no room for the rows.
        """
        for place, run in enumerate(self._runs):
            at = pc.index_in(run["sample_id"], columns["sample_id"])
            if at.null_count == len(at):
                continue
            for name in set(columns.column_names) - {"sample_id"}:
                field = run.schema.field(name)
                values = pc.coalesce(columns[name].combine_chunks().take(at), run[name])
                run = run.set_column(run.schema.get_field_index(name), field, values)  # noqa: PLW2901
            self._runs[place] = self._on_disk(run)

    def _keys(self, names: tuple[str, ...]) -> pa.Table:
        return pa.concat_tables([run.select(names) for run in self._runs])

    def _rows(self, places: NDArray[np.uint64]) -> pa.Table:
        """Return rows by their places in all runs, one after the other."""
        starts = np.cumsum([0, *(run.num_rows for run in self._runs)])
        run_of = np.searchsorted(starts, places, side="right") - 1
        by_run = np.argsort(run_of, kind="stable")
        runs, firsts, counts = np.unique(run_of[by_run], return_index=True, return_counts=True)
        parts = [
            self._runs[run].take(
                pa.array(places[by_run[first : first + count]].astype(np.int64) - starts[run])
            )
            for run, first, count in zip(runs, firsts, counts, strict=True)
        ]
        back = np.argsort(by_run)
        return pa.concat_tables(parts).combine_chunks().take(pa.array(back))

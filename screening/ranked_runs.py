"""Candidates of many chemical systems in one order, with their rows on the disk.

A million candidates are some 5 GB. Each system's rows are sorted and put into a file of their own;
in memory there are the keys of all rows, and the rows of the piece that is being read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from screening.errors import RunError
from screening.files import reason
from screening.selection import RANK_COLUMNS, ranking_order

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
        self._runs: list[pa.Table] = []

    def add(self, table: pa.Table) -> None:
        """Put a table's rows on the disk.

        Raises:
            RunError: if there is no room for them.
        """
        path = str(self._directory / f"{len(self._runs)}.arrow")
        run = table.combine_chunks().take(ranking_order(table))
        try:
            with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, run.schema) as writer:
                writer.write_table(run)
            # Pages of a mapped file are the system's to drop and to read again.
            self._runs.append(pa.ipc.open_file(pa.memory_map(path)).read_all())
        except OSError as error:
            raise RunError(f"{self._directory} cannot be written to: {reason(error)}") from None

    def merged(self) -> Iterator[pa.Table]:
        """Yield all rows in the order of the ranking, `ROWS_PER_PIECE` at a time."""
        if not self._runs:
            return
        keys = pa.concat_tables([run.select(RANK_COLUMNS) for run in self._runs])
        order = ranking_order(keys).to_numpy()
        starts = np.cumsum([0, *(run.num_rows for run in self._runs)])
        for first in range(0, len(order), ROWS_PER_PIECE):
            yield self._rows(order[first : first + ROWS_PER_PIECE], starts)

    def _rows(self, places: NDArray[np.uint64], starts: NDArray[np.int64]) -> pa.Table:
        """Return rows by their places in all runs, one after the other."""
        run_of = np.searchsorted(starts, places, side="right") - 1
        by_run = np.argsort(run_of, kind="stable")
        runs, firsts, counts = np.unique(run_of[by_run], return_index=True, return_counts=True)
        # Runs are in the same order, so that what a piece has of each is one stretch of it.
        stretches = [
            self._runs[run].slice(int(places[by_run[first]]) - int(starts[run]), int(count))
            for run, first, count in zip(runs, firsts, counts, strict=True)
        ]
        back = np.argsort(by_run)
        return pa.concat_tables(stretches).combine_chunks().take(pa.array(back))

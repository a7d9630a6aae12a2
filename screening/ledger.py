"""Which units of a campaign are finished, for campaigns of a few units and of a million.

A unit that was just finished has a mark of its own, a small file that is written after its rows.
From time to time the marks of many units are *sealed*: put into one table, which also says in which
merged file their rows are now. Sealed tables are merged among each other, so that few are left
whatever the size of the campaign. What is sealed is counted once, even if a crash left the marks
or the tables that it replaces. Layout::

    _done/<unit>.json            mark of a unit, on its own
    _done/sealed-0-….parquet     marks of many units
    _done/sealed-1-….parquet     what was merged from many of those
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_right
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from screening.errors import RunError
from screening.files import json_bytes, parquet_table, reason, write_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from screening.files import Files
    from screening.grid import Unit

DONE = "_done"
READERS = 16
"""Files read side by side: an object store answers in tens of milliseconds, one at a time."""
_MERGED_AT = 32
"""Sealed tables of one size before they are merged."""
_TRIES = 10
_SEALED = re.compile(r"sealed-(\d+)-[0-9a-f]{16}\.parquet")
_REPLACES = b"replaces"

MARK_SCHEMA = pa.schema(
    [
        ("unit_id", pa.string()),
        ("number", pa.int64()),
        ("state", pa.string()),
        ("samples", pa.int64()),
        ("kept", pa.int64()),
        ("filtered", pa.int64()),
        ("failed", pa.int64()),
        ("relaxed", pa.int64()),
        ("seconds", pa.map_(pa.string(), pa.float64())),
        ("attempts", pa.int64()),
        ("error", pa.string()),
        ("finished_at", pa.float64()),
        ("table", pa.string()),
    ]
)

Mark = dict[str, Any]


@dataclass(frozen=True)
class FinishedUnits:
    """The finished units of a campaign, in memory that hardly grows with their number.

    Units are finished nearly in the order of the grid, so that their numbers are a few ranges.
    """

    starts: Sequence[int]
    """First number of each range of sealed units, ascending."""
    ends: Sequence[int]
    """The number after the last of each range."""
    loose: frozenset[str]
    """Ids of the units that have a mark of their own."""

    def __contains__(self, unit: Unit) -> bool:
        """Whether a unit is finished."""
        place = bisect_right(self.starts, unit.number) - 1
        return unit.unit_id in self.loose or (place >= 0 and unit.number < self.ends[place])


class Ledger:
    """The marks of finished units, among the files of a campaign."""

    def __init__(self, uri: str, files: Files) -> None:
        self._uri = uri
        self._files = files

    def add(self, mark: Mark) -> None:
        """Write the mark of a unit whose rows are durable."""
        write_file(self._files, self._uri, f"{DONE}/{mark['unit_id']}.json", json_bytes(mark))

    def remove(self, unit_id: str) -> None:
        """Remove the mark of a unit that is not sealed."""
        self._files.remove(f"{DONE}/{unit_id}.json")

    def seal(self, marks: Sequence[Mark]) -> None:
        """Put the marks of units whose rows are in merged files into one table.

        Args:
            marks: with the name of the merged file as ``table``.
        """
        self._write_sealed(0, _table(marks), [])
        self._each(self.remove, [mark["unit_id"] for mark in marks])
        self._merge()

    def marks(self, columns: Sequence[str] = ()) -> pa.Table:
        """Return one row per finished unit, failed ones included.

        Args:
            columns: of ``MARK_SCHEMA``; all when empty.

        Raises:
            RunError: if the files cannot be read.
        """
        wanted = list(columns or MARK_SCHEMA.names)
        read = [*wanted, "unit_id"] if "unit_id" not in wanted else wanted
        for _ in range(_TRIES):
            try:
                # In this order: what is sealed in between is then found twice, and not never.
                loose = _table(self.loose().values()).select(read)
                sealed = [self._read_sealed(name, read) for name in self._sealed()]
            except FileNotFoundError:
                continue  # sealed or merged between the listing and the reading
            both = pa.concat_tables([MARK_SCHEMA.empty_table().select(read), *sealed])
            is_sealed = pc.is_in(loose["unit_id"], value_set=both["unit_id"].combine_chunks())
            return pa.concat_tables([both, loose.filter(pc.invert(is_sealed))]).select(wanted)
        raise RunError(f"{self._uri}/{DONE} changes faster than it can be read")

    def loose(self) -> dict[str, Mark]:
        """Return the marks that are files of their own, by unit; a damaged one proves nothing.

        Raises:
            FileNotFoundError: if one is sealed while they are read.
        """
        names = [name for name in self._files.names(DONE) if name.endswith(".json")]
        marks = self._each(self._read_mark, names)
        found = zip((name.removesuffix(".json") for name in names), marks, strict=True)
        return {unit_id: mark for unit_id, mark in found if mark is not None}

    def finished(self) -> FinishedUnits:
        """Return what is finished, as the driver keeps it in mind."""
        marks = self.marks(["unit_id", "number", "table"])
        is_loose = pc.is_null(marks["table"])
        loose = marks.filter(is_loose)["unit_id"].to_pylist()
        numbers = marks.filter(pc.invert(is_loose))["number"].to_numpy()
        return FinishedUnits(*_ranges(np.sort(numbers)), frozenset(loose))

    def sweep(self) -> int:
        """Remove sealed tables that another replaces, and return how many."""
        replaced = set(self._names()) - set(self._sealed())
        self._each(lambda name: self._files.remove(f"{DONE}/{name}"), replaced)
        return len(replaced)

    # ---------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        return [name for name in self._files.names(DONE) if _SEALED.fullmatch(name)]

    def _sealed(self) -> list[str]:
        """Return the names of the sealed tables that no other replaces."""
        names = self._names()
        replaced: set[str] = set()
        for name in names:
            if not name.startswith("sealed-0-"):
                content = pa.BufferReader(self._read(name))
                metadata = pq.read_metadata(content).schema.to_arrow_schema().metadata
                replaced |= set(json.loads((metadata or {}).get(_REPLACES, b"[]")))
        return [name for name in names if name not in replaced]

    def _read_mark(self, name: str) -> Mark | None:
        try:
            mark = json.loads(self._read(name))
            _table([mark])
        # Arrow's errors are among these; brackets without end are a RecursionError.
        except (ValueError, TypeError, AttributeError, RecursionError):
            return None
        return dict(mark)

    def _read_sealed(self, name: str, columns: Sequence[str]) -> pa.Table:
        try:
            return parquet_table(self._read(name), columns)
        except pa.ArrowException as error:
            raise RunError(f"{self._uri}/{DONE}/{name} is damaged: {error}") from None

    def _read(self, name: str) -> bytes:
        try:
            return self._files.read(f"{DONE}/{name}")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise RunError(f"{self._uri}/{DONE}/{name} cannot be read: {reason(error)}") from None

    def _merge(self) -> None:
        """Merge sealed tables of one size, when there are many."""
        tiers = Counter(name.split("-")[1] for name in self._names())
        if max(tiers.values(), default=0) < _MERGED_AT:
            return  # at nearly every call, and without reading a table
        names = self._sealed()
        for tier in sorted({int(name.split("-")[1]) for name in names}):
            same = [name for name in names if name.startswith(f"sealed-{tier}-")]
            if len(same) >= _MERGED_AT:
                tables = [self._read_sealed(name, MARK_SCHEMA.names) for name in same]
                self._write_sealed(tier + 1, pa.concat_tables(tables), same)
                self._each(lambda name: self._files.remove(f"{DONE}/{name}"), same)

    def _write_sealed(self, tier: int, table: pa.Table, replaces: Sequence[str]) -> None:
        table = table.combine_chunks().replace_schema_metadata({_REPLACES: json.dumps(replaces)})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        content = sink.getvalue()
        digest = hashlib.sha256(content).hexdigest()[:16]
        write_file(self._files, self._uri, f"{DONE}/sealed-{tier}-{digest}.parquet", content)

    def _each(self, function: Any, items: Iterable[str]) -> list[Any]:
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(function, items))


def total(marks: pa.Table, column: str) -> int:
    """Return the sum of a column of marks."""
    return int(pc.sum(marks[column]).as_py() or 0)


def _table(marks: Iterable[Mark]) -> pa.Table:
    rows = [
        {
            **{name: mark.get(name) for name in MARK_SCHEMA.names},
            "seconds": list((mark.get("seconds") or {}).items()),
        }
        for mark in marks
    ]
    return pa.Table.from_pylist(rows, schema=MARK_SCHEMA)


def _ranges(numbers: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """Return the first and the last but one of each run of consecutive ascending numbers."""
    if not len(numbers):
        return [], []
    breaks = np.flatnonzero(np.diff(numbers) > 1)
    starts = numbers[np.concatenate([[0], breaks + 1])]
    ends = numbers[np.concatenate([breaks, [len(numbers) - 1]])] + 1
    return starts.tolist(), ends.tolist()

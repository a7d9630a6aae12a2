"""Where a campaign's results lie, and the only place that writes them.

A unit counts as finished when its mark exists, and the mark is written after the rows. On a disk
every file is written beside its target and renamed; in an object store it appears when its upload
ends. So a crash at any moment leaves a directory that can be resumed: rows without a mark are
ignored by whoever reads through the store, and removed when the campaign goes on. The files of
many finished units are merged from time to time, so that a large campaign has few. Layout::

    campaign.yaml  fingerprints.json       what is being done, with every default
    samples/chemsys=…/<table>.parquet      every sample: kept, filtered or failed
    candidates.parquet                     relaxed, without duplicates marked, ranked
    _candidates/<table>.parquet            relaxed rows before deduplication and hull
    _done/                                 marks of finished units, see `screening.ledger`

A table is named after its unit, or after its chemical system when it holds many units.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from screening.campaign import Campaign
from screening.errors import MissingFileError, RunError, UserError
from screening.files import Files, json_bytes, open_files, parquet_table, reason, write_file
from screening.ledger import DONE, READERS, Ledger
from screening.marks import check_complete, unit_mark
from screening.schema import (
    CANDIDATE_SCHEMA,
    SAMPLE_SCHEMA,
    table_from_rows,
    with_all_columns,
)
from screening.selection import BEST_COLUMNS, best_places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from screening.grid import Unit

CAMPAIGN = "campaign.yaml"
FINGERPRINTS = "fingerprints.json"
CANDIDATES = "candidates.parquet"
SUMMARY = "summary.json"
_SAMPLES = "samples"
_RELAXED = "_candidates"
_TRIES = 3
# As `grid.Unit.unit_id`: Cu-K-Si_062_Cu1-K1-Si1_000.
_UNIT_FILE = re.compile(r"[A-Za-z-]+_\d{3}_[A-Za-z0-9-]+_\d{3,}\.(json|parquet)")
_MERGED_FILE = re.compile(r"[A-Za-z-]+_merged-[0-9a-f]{16}\.parquet")

_Row = dict[str, Any]


class Store:
    """One campaign's results, in a local directory or under an ``s3://`` or ``gs://`` URI."""

    def __init__(self, uri: str, files: Files | None = None) -> None:
        self.uri = str(uri)
        self.files = files or open_files(self.uri)
        self.ledger = Ledger(self.uri, self.files)
        # Rows that this process wrote and has not merged yet, so that they need not be read again.
        self._recent: dict[str, tuple[pa.Table, pa.Table]] = {}

    # What the campaign is ------------------------------------------------------------------

    def initialise(
        self, resolved: dict[str, Any], fingerprint: str, parts: dict[str, str] | None = None
    ) -> None:
        """Claim the directory for a campaign, or recognise that it already is this campaign's.

        Args:
            resolved: the campaign with every default, from ``Campaign.resolved``.
            fingerprint: from ``Campaign.fingerprint``.
            parts: the fingerprints that went into it, stored for the reader.

        Raises:
            UserError: if the place holds something else or cannot be written to.
        """
        text = Campaign.from_mapping(resolved).to_yaml().encode()
        try:
            if self.files.exists(FINGERPRINTS):
                self._refuse_other_campaign(fingerprint)
            else:
                self._refuse_other_files(text)
                self.files.write(CAMPAIGN, text)
                fingerprints = {**(parts or {}), "campaign": fingerprint}
                self.files.write(FINGERPRINTS, json_bytes(fingerprints))
            self.files.check_writable()
        except OSError as error:
            raise UserError(f"output {self.uri} cannot be written to: {reason(error)}") from None

    def _refuse_other_campaign(self, fingerprint: str) -> None:
        if self.fingerprint != fingerprint:
            raise UserError(
                f"output {self.uri} holds another campaign (fingerprint {self.fingerprint}, this "
                f"one has {fingerprint}); choose another directory with --out, or remove that one"
            )

    def _refuse_other_files(self, campaign_text: bytes) -> None:
        names = self.files.names("")
        # A start that was interrupted between its two files leaves the first.
        if names == [CAMPAIGN] and self.files.read(CAMPAIGN) == campaign_text:
            return
        if names:
            raise UserError(
                f"output {self.uri} is not empty and holds no results (it has {names[0]!r}); "
                f"choose another directory with --out"
            )

    def require(self) -> None:
        """Check that there is a campaign here.

        Raises:
            UserError: if there is none.
        """
        try:
            present = self.files.exists(FINGERPRINTS) and self.files.exists(CAMPAIGN)
        except OSError as error:
            raise UserError(f"{self.uri} cannot be read: {reason(error)}") from None
        if not present:
            raise UserError(f"{self.uri} holds no campaign; `screening run` makes such a directory")

    def campaign(self) -> Campaign:
        """Return the campaign whose results these are."""
        self.require()
        text = self._read(CAMPAIGN).decode("utf-8", errors="replace")
        return Campaign.from_text(text, f"{self.uri}/{CAMPAIGN}")

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of the campaign and of its parts: model, sampler, calculator and more."""
        try:
            return dict(json.loads(self._read(FINGERPRINTS)))
        except (ValueError, TypeError, RecursionError):
            raise UserError(f"{self.uri}/{FINGERPRINTS} is damaged") from None

    @property
    def fingerprint(self) -> str:
        """The campaign's fingerprint."""
        return self.fingerprints.get("campaign", "")

    # Units ---------------------------------------------------------------------------------

    def write_unit(
        self,
        unit: Unit,
        sample_rows: Sequence[_Row],
        candidate_rows: Sequence[_Row],
        *,
        state: str = "done",
        seconds: dict[str, float] | None = None,
        attempts: int = 1,
        error: str | None = None,
    ) -> None:
        """Store a unit's rows, then its mark.

        Args:
            unit: the unit.
            sample_rows: one row per sample of the unit, in any order.
            candidate_rows: one row per sample with status ``kept``, relaxed or failed to.
            state: ``done``, or ``failed`` if the unit could not be worked on.
            seconds: time spent per stage.
            attempts: how often the unit was tried.
            error: why it failed.

        Raises:
            ValueError: if a sample is missing, foreign or there twice.
            RunError: if it cannot be written.
        """
        check_complete(unit, sample_rows, candidate_rows)
        mark = unit_mark(
            unit,
            sample_rows,
            candidate_rows,
            state,
            seconds=seconds,
            attempts=attempts,
            error=error,
        )
        tables = (
            table_from_rows(sample_rows, SAMPLE_SCHEMA),
            table_from_rows(candidate_rows, CANDIDATE_SCHEMA),
        )
        for path, table in zip(_table_paths(unit.unit_id), tables, strict=True):
            self._write_table(path, table)
        self.ledger.add(mark)
        self._recent[unit.unit_id] = tables

    def marks(self, columns: Sequence[str] = ()) -> pa.Table:
        """Return one row per finished unit, failed ones included; see `ledger.MARK_SCHEMA`."""
        return self.ledger.marks(columns)

    def finished_units(self) -> dict[str, _Row]:
        """Return the marks of the finished units, failed ones included, by unit id."""
        return {
            mark["unit_id"]: {**mark, "seconds": dict(mark["seconds"] or ())}
            for mark in self.marks().to_pylist()
        }

    def forget_failed_units(self) -> int:
        """Remove the marks of failed units, so that they are worked on again; return how many."""
        failed = [unit for unit, mark in self.ledger.loose().items() if mark["state"] == "failed"]
        for unit_id in failed:
            self.ledger.remove(unit_id)
        return len(failed)

    def compact(self) -> int:
        """Merge the files of finished units, and return how many units that were.

        The merged rows are durable before the units are sealed, and their own files are removed
        afterwards: whoever reads through the store finds each row once at any moment. Failed units
        stay as they are, so that they can be tried again.

        Raises:
            RunError: if a file cannot be read or written.
        """
        systems: dict[str, list[str]] = defaultdict(list)
        loose = self.ledger.loose()
        for unit_id, mark in loose.items():
            if mark["state"] == "done" and mark.get("number") is not None:
                systems[_system_of(unit_id)].append(unit_id)
        merged: dict[str, str] = {}
        for system, unit_ids in systems.items():
            merged |= dict.fromkeys(unit_ids, self._merge(system, sorted(unit_ids)))
        self._recent.clear()
        if merged:
            self.ledger.seal([{**loose[unit], "table": table} for unit, table in merged.items()])
            self._remove([path for unit in merged for path in _table_paths(unit)])
        return len(merged)

    def _merge(self, system: str, unit_ids: Sequence[str]) -> str:
        """Put the rows of units of one chemical system into one table, and return its name."""
        digest = hashlib.sha256("\n".join(unit_ids).encode()).hexdigest()[:16]
        table = f"{system}_merged-{digest}"
        unread = [unit for unit in unit_ids if unit not in self._recent]
        recent = [self._recent[unit] for unit in unit_ids if unit in self._recent]
        for place, schema in enumerate((SAMPLE_SCHEMA, CANDIDATE_SCHEMA)):
            rows = self._read_tables([_table_paths(unit)[place] for unit in unread], schema)
            rows = pa.concat_tables([rows.cast(schema), *(tables[place] for tables in recent)])
            self._write_table(_table_paths(table)[place], rows.sort_by("sample_id"))
        return table

    def sweep(self) -> int:
        """Remove what interrupted runs left behind, and return how many files that were.

        Besides temporaries these are rows without a mark, damaged marks, and what was merged: who
        reads the directory as a whole would read them, too. Files that no unit can have are not
        ours to remove.
        """
        marks = self.marks(["unit_id", "table"])
        is_loose = pc.is_null(marks["table"])
        loose = marks.filter(is_loose)["unit_id"].to_pylist()
        kept = {f"{DONE}/{unit}.json" for unit in loose}
        tables = [*loose, *marks["table"].drop_null().unique().to_pylist()]
        kept |= {path for table in tables for path in _table_paths(table)}
        removed = self.files.sweep() + self.ledger.sweep()
        systems = [name for name in self.files.names(_SAMPLES) if name.startswith("chemsys=")]
        stale = [
            f"{directory}/{name}"
            for directory in (DONE, _RELAXED, *[f"{_SAMPLES}/{name}" for name in systems])
            for name in self.files.names(directory)
            if _UNIT_FILE.fullmatch(name) or _MERGED_FILE.fullmatch(name)
        ]
        stale = [path for path in stale if path not in kept]
        self._remove(stale)
        return removed + len(stale)

    def read_samples(
        self, chemical_system: str | None = None, columns: Sequence[str] = ()
    ) -> pa.Table:
        """Read the samples of the finished units, of all chemical systems or of one.

        Args:
            chemical_system: as in ``Cu-K-Si``; all of them when absent.
            columns: of ``SAMPLE_SCHEMA``; all when empty.
        """
        return self._read_units(0, SAMPLE_SCHEMA, chemical_system, columns)

    def read_relaxed(
        self, chemical_system: str | None = None, columns: Sequence[str] = ()
    ) -> pa.Table:
        """Read the relaxed rows of the finished units; see ``read_samples``."""
        return self._read_units(1, CANDIDATE_SCHEMA, chemical_system, columns)

    def relaxed_systems(self) -> dict[str, Callable[[], pa.Table]]:
        """Return for each chemical system a function that reads its relaxed rows.

        For the run that works on the campaign: others may find that a file has been merged.
        """
        systems: dict[str, list[str]] = defaultdict(list)
        for table in self._tables():
            systems[_system_of(table)].append(_table_paths(table)[1])
        return {
            system: partial(self._read_tables, paths, CANDIDATE_SCHEMA)
            for system, paths in systems.items()
        }

    def _tables(self) -> list[str]:
        """Return the names of the tables that hold the finished units' rows."""
        marks = self.marks(["unit_id", "table"])
        return sorted(pc.coalesce(marks["table"], marks["unit_id"]).unique().to_pylist())

    def _read_units(
        self, place: int, schema: pa.Schema, system: str | None, columns: Sequence[str]
    ) -> pa.Table:
        schema = _part_of(schema, columns)
        tries_left = _TRIES
        while True:
            wanted = [table for table in self._tables() if system in (None, _system_of(table))]
            try:
                return self._read_tables([_table_paths(table)[place] for table in wanted], schema)
            except RunError as error:
                # A run may have merged a table since the marks were read; then they say where.
                tries_left -= 1
                if not tries_left or not isinstance(error, MissingFileError):
                    raise

    # Results -------------------------------------------------------------------------------

    def write_candidates(self, pieces: Iterable[pa.Table]) -> None:
        """Write the ranked table of candidates, of which one piece is in memory at a time.

        Args:
            pieces: Tables of `CANDIDATE_SCHEMA`, in order.

        Raises:
            RunError: if it cannot be written.
        """
        schema = CANDIDATE_SCHEMA.with_metadata(self._fingerprint_metadata())
        with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
            try:
                with pq.ParquetWriter(file.name, schema, compression="zstd") as writer:
                    for piece in pieces:
                        writer.write_table(piece.cast(schema))
                content = pa.memory_map(file.name).read_buffer()
            except OSError as error:
                raise RunError(f"{file.name} cannot be written: {reason(error)}") from None
            write_file(self.files, self.uri, CANDIDATES, content)

    def candidates(self, columns: Sequence[str] = ()) -> pa.Table:
        """Read the ranked table of candidates.

        Args:
            columns: of ``CANDIDATE_SCHEMA``; all when empty.

        Raises:
            UserError: if there is none yet.
        """
        self._require_candidates()
        return self._read_parquet(CANDIDATES, _part_of(CANDIDATE_SCHEMA, columns))

    def best(self, top: int | None = None, columns: Sequence[str] = ()) -> pa.Table:
        """Read the distinct candidates with a place against the hull, the lowest first.

        Args:
            top: how many, at the most; all when None.
            columns: of ``CANDIDATE_SCHEMA``; all when empty.

        Raises:
            UserError: if there is no table of candidates yet.
        """
        places = best_places(self.candidates(BEST_COLUMNS))[:top].to_numpy()
        return self._read_parquet(CANDIDATES, _part_of(CANDIDATE_SCHEMA, columns), places)

    def _require_candidates(self) -> None:
        self.require()
        if not self.files.exists(CANDIDATES):
            raise UserError(
                f"{self.uri} has no {CANDIDATES} yet; `screening resume {self.uri}` finishes the "
                f"campaign"
            )

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write another table, for example ``references/Cu-K.parquet``."""
        self._write_table(name, table)

    def read_table(self, name: str) -> pa.Table | None:
        """Read another table, or return None if there is none."""
        if not self.files.exists(name):
            return None
        try:
            return parquet_table(self._read(name))
        except pa.ArrowException as error:
            raise RunError(f"{self.uri}/{name} is damaged: {reason(error)}") from None

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file; what the store itself keeps aside starts with ``_``."""
        write_file(self.files, self.uri, name, json_bytes(value))

    def read_json(self, name: str) -> Any:
        """Read a JSON file, or return None if there is none or it is damaged."""
        try:
            return json.loads(self.files.read(name))
        except (FileNotFoundError, ValueError, RecursionError):
            return None
        except OSError as error:
            raise RunError(f"{self.uri}/{name} cannot be read: {reason(error)}") from None

    def write_text(self, name: str, text: str) -> None:
        """Write a text file, for example ``cif/1.cif`` or ``report.html``."""
        write_file(self.files, self.uri, name, text.encode())

    # ---------------------------------------------------------------------------------------

    def _write_table(self, name: str, table: pa.Table) -> None:
        metadata = {**(table.schema.metadata or {}), **self._fingerprint_metadata()}
        table = table.replace_schema_metadata(metadata)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        write_file(self.files, self.uri, name, sink.getvalue())

    def _fingerprint_metadata(self) -> dict[str, str]:
        return {f"fingerprint.{part}": mark for part, mark in self.fingerprints.items()}

    def _read(self, name: str) -> bytes:
        try:
            return self.files.read(name)
        except OSError as error:
            raise self._unreadable(name, error) from None

    def _unreadable(self, name: str, error: OSError) -> RunError:
        kind = MissingFileError if isinstance(error, FileNotFoundError) else RunError
        return kind(f"{self.uri}/{name} cannot be read: {reason(error)}")

    def _remove(self, names: Sequence[str]) -> None:
        with ThreadPoolExecutor(READERS) as pool:
            list(pool.map(self.files.remove, names))

    def _read_tables(self, names: Sequence[str], schema: pa.Schema) -> pa.Table:
        with ThreadPoolExecutor(READERS) as pool:
            tables = list(pool.map(lambda name: self._read_parquet(name, schema), names))
        return pa.concat_tables(tables) if tables else schema.empty_table()

    def _read_parquet(
        self, name: str, schema: pa.Schema, places: NDArray[np.uint64] | None = None
    ) -> pa.Table:
        """Read columns of a table, of all rows or of those at some places and in their order."""

        def read(source: pa.NativeFile) -> pa.Table:
            file = pq.ParquetFile(source)
            present = [column for column in schema.names if column in file.schema_arrow.names]
            if places is None:
                return file.read(columns=present)
            return _rows_at(file, present, places)

        try:
            table = self.files.read_parts(name, read)
        except pa.ArrowException as error:
            raise RunError(f"{self.uri}/{name} is damaged: {reason(error)}") from None
        except OSError as error:
            raise self._unreadable(name, error) from None
        return with_all_columns(table, schema).replace_schema_metadata(None)


def _part_of(schema: pa.Schema, columns: Sequence[str]) -> pa.Schema:
    return pa.schema([schema.field(name) for name in columns]) if columns else schema


def _rows_at(file: pq.ParquetFile, columns: list[str], places: NDArray[np.uint64]) -> pa.Table:
    """Read rows of a Parquet file by their places, from the row groups that hold them."""
    wanted = np.sort(places).astype(np.int64)
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    starts = np.cumsum([0, *sizes])
    parts = [file.schema_arrow.empty_table().select(columns)]
    for group, (start, end) in enumerate(pairwise(starts)):
        inside = wanted[(wanted >= start) & (wanted < end)]
        if len(inside):
            parts.append(file.read_row_group(group, columns).take(pa.array(inside - start)))
    return pa.concat_tables(parts).take(pa.array(np.argsort(np.argsort(places))))


def _system_of(table: str) -> str:
    return table.partition("_")[0]


def _table_paths(table: str) -> tuple[str, str]:
    """Return where the samples and the relaxed rows of a unit, or of merged ones, lie."""
    return f"{_SAMPLES}/chemsys={_system_of(table)}/{table}.parquet", f"{_RELAXED}/{table}.parquet"

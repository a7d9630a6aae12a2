"""Where a campaign's results lie, and the only place that writes them.

A unit counts as finished when its mark exists, and the mark is written after the rows. On a disk
every file is written beside its target and renamed; in an object store it appears when its upload
ends. So a crash at any moment leaves a directory that can be resumed: rows without a mark are
ignored by whoever reads through the store, and removed when the campaign goes on. Layout::

    campaign.yaml  fingerprints.json       what is being done, with every default
    samples/chemsys=…/<unit>.parquet       every sample: kept, filtered or failed
    candidates.parquet                     relaxed, without duplicates marked, ranked
    _candidates/<unit>.parquet             relaxed rows before deduplication and hull
    _done/<unit>.json                      marks of finished units
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from screening.campaign import Campaign
from screening.errors import RunError, UserError
from screening.files import Files, open_files
from screening.marks import check_complete, unit_mark
from screening.schema import (
    CANDIDATE_SCHEMA,
    SAMPLE_SCHEMA,
    table_from_rows,
    with_all_columns,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from screening.grid import Unit

CAMPAIGN = "campaign.yaml"
FINGERPRINTS = "fingerprints.json"
CANDIDATES = "candidates.parquet"
_SAMPLES = "samples"
_RELAXED = "_candidates"
_DONE = "_done"
_READERS = 16
# As `grid.Unit.unit_id`: Cu-K-Si_062_Cu1-K1-Si1_000.
_UNIT_FILE = re.compile(r"[A-Za-z-]+_\d{3}_[A-Za-z0-9-]+_\d{3,}\.(json|parquet)")

_Row = dict[str, Any]


class Store:
    """One campaign's results, in a local directory or under an ``s3://`` or ``gs://`` URI."""

    def __init__(self, uri: str, files: Files | None = None) -> None:
        self.uri = str(uri)
        self.files = files or open_files(self.uri)

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
                self.files.write(FINGERPRINTS, _json(fingerprints))
            self.files.check_writable()
        except OSError as error:
            raise UserError(f"output {self.uri} cannot be written to: {_reason(error)}") from None

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
            raise UserError(f"{self.uri} cannot be read: {_reason(error)}") from None
        if not present:
            raise UserError(f"{self.uri} holds no campaign; `screening run` makes such a directory")

    def campaign(self) -> Campaign:
        """Return the campaign whose results these are."""
        self.require()
        text = self._read(CAMPAIGN).decode("utf-8", errors="replace")
        return Campaign.from_text(text, f"{self.uri}/{CAMPAIGN}")

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of the campaign and of its parts: model, calculator, references."""
        try:
            return dict(json.loads(self._read(FINGERPRINTS)))
        except ValueError:
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
        samples, relaxed = _table_paths(unit.unit_id)
        self._write_table(samples, table_from_rows(sample_rows, SAMPLE_SCHEMA))
        self._write_table(relaxed, table_from_rows(candidate_rows, CANDIDATE_SCHEMA))
        self._write(f"{_DONE}/{unit.unit_id}.json", _json(mark))

    def finished_units(self) -> dict[str, _Row]:
        """Return the marks of the finished units, failed ones included, by unit id."""
        names = [name for name in self.files.names(_DONE) if name.endswith(".json")]
        # An object store answers in tens of milliseconds, one file at a time.
        with ThreadPoolExecutor(_READERS) as pool:
            marks = pool.map(lambda name: self.read_json(f"{_DONE}/{name}"), names)
            found = dict(zip((name.removesuffix(".json") for name in names), marks, strict=True))
        # A damaged mark proves nothing: the unit is done again.
        return {unit_id: mark for unit_id, mark in found.items() if isinstance(mark, dict)}

    def forget_unit(self, unit_id: str) -> None:
        """Remove a unit's mark, so that it is worked on again."""
        self.files.remove(f"{_DONE}/{unit_id}.json")

    def sweep(self) -> int:
        """Remove what interrupted runs left behind, and return how many files that were.

        Besides temporaries these are rows without a mark, and damaged marks: who reads the
        directory as a whole would read them, too. Files that no unit can have are not ours to
        remove.
        """
        finished = set(self.finished_units())
        kept = {f"{_DONE}/{unit}.json" for unit in finished}
        kept |= {path for unit in finished for path in _table_paths(unit)}
        systems = [name for name in self.files.names(_SAMPLES) if name.startswith("chemsys=")]
        removed = self.files.sweep()
        for directory in (_DONE, _RELAXED, *[f"{_SAMPLES}/{name}" for name in systems]):
            for name in self.files.names(directory):
                path = f"{directory}/{name}"
                if _UNIT_FILE.fullmatch(name) and path not in kept:
                    self.files.remove(path)
                    removed += 1
        return removed

    def read_samples(self, units: Iterable[str] | None = None) -> pa.Table:
        """Read the samples of the finished units, or of those of them that are named."""
        wanted = _wanted(self.finished_units(), units)
        return self._read_tables([_table_paths(unit)[0] for unit in wanted], SAMPLE_SCHEMA)

    def read_relaxed(self, units: Iterable[str] | None = None) -> pa.Table:
        """Read the relaxed rows of the finished units, or of those of them that are named."""
        wanted = _wanted(self.finished_units(), units)
        return self._read_tables([_table_paths(unit)[1] for unit in wanted], CANDIDATE_SCHEMA)

    # Results -------------------------------------------------------------------------------

    def write_candidates(self, rows: pa.Table | Sequence[_Row]) -> None:
        """Write the ranked table of candidates."""
        table = rows if isinstance(rows, pa.Table) else table_from_rows(rows, CANDIDATE_SCHEMA)
        self._write_table(CANDIDATES, table.cast(CANDIDATE_SCHEMA))

    def candidates(self) -> pa.Table:
        """Read the ranked table of candidates.

        Raises:
            UserError: if there is none yet.
        """
        self.require()
        if not self.files.exists(CANDIDATES):
            raise UserError(
                f"{self.uri} has no {CANDIDATES} yet; `screening resume {self.uri}` finishes the "
                f"campaign"
            )
        return self._read_tables([CANDIDATES], CANDIDATE_SCHEMA)

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write another table, for example ``references/Cu-K.parquet``."""
        self._write_table(name, table)

    def read_table(self, name: str) -> pa.Table | None:
        """Read another table, or return None if there is none."""
        if not self.files.exists(name):
            return None
        try:
            return pq.read_table(pa.BufferReader(self._read(name)), partitioning=None)
        except pa.ArrowException as error:
            raise RunError(f"{self.uri}/{name} is damaged: {_reason(error)}") from None

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file; what the store itself keeps aside starts with ``_``."""
        self._write(name, _json(value))

    def read_json(self, name: str) -> Any:
        """Read a JSON file, or return None if there is none or it is damaged."""
        try:
            return json.loads(self.files.read(name))
        except (FileNotFoundError, ValueError):
            return None
        except OSError as error:
            raise RunError(f"{self.uri}/{name} cannot be read: {_reason(error)}") from None

    def write_text(self, name: str, text: str) -> None:
        """Write a text file, for example ``cif/1.cif`` or ``report.html``."""
        self._write(name, text.encode())

    # ---------------------------------------------------------------------------------------

    def _write_table(self, name: str, table: pa.Table) -> None:
        marks = {f"fingerprint.{part}": mark for part, mark in self.fingerprints.items()}
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **marks})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self._write(name, sink.getvalue())

    def _write(self, name: str, content: Any) -> None:
        try:
            self.files.write(name, content)
        except OSError as error:
            raise RunError(f"{self.uri}/{name} cannot be written: {_reason(error)}") from None

    def _read(self, name: str) -> bytes:
        try:
            return self.files.read(name)
        except OSError as error:
            raise RunError(f"{self.uri}/{name} cannot be read: {_reason(error)}") from None

    def _read_tables(self, names: list[str], schema: pa.Schema) -> pa.Table:
        tables = []
        for name in names:
            try:
                table = pq.read_table(pa.BufferReader(self._read(name)), partitioning=None)
            except pa.ArrowException as error:
                raise RunError(f"{self.uri}/{name} is damaged: {_reason(error)}") from None
            tables.append(with_all_columns(table, schema).replace_schema_metadata(None))
        return pa.concat_tables(tables) if tables else schema.empty_table()


def _table_paths(unit_id: str) -> tuple[str, str]:
    """Return where the samples and the relaxed rows of a unit lie."""
    system = unit_id.partition("_")[0]
    return f"{_SAMPLES}/chemsys={system}/{unit_id}.parquet", f"{_RELAXED}/{unit_id}.parquet"


def _wanted(finished: dict[str, _Row], units: Iterable[str] | None) -> list[str]:
    return sorted(finished) if units is None else sorted(set(units) & set(finished))


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0][:300]

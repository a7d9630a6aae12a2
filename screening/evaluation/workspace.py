"""What an evaluation keeps beside its result, so that the same command goes on after a stop.

``R.json`` has ``R.samples/`` with the generated crystals, batch by batch, and shares with other
results of its directory ``fingerprints/``, where each file is named after what it was made from:
the fingerprints of test crystals are taken once for all evaluations in a directory.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from screening.errors import RunError, UserError
from screening.evaluation.crystals import CRYSTAL_COLUMNS
from screening.evaluation.stages import FINGERPRINT_SCHEMA
from screening.files import LocalFiles, hold, parquet_table
from screening.schema import SAMPLE_SCHEMA, table_from_rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from screening.evaluation.crystals import KnownCrystals

Row = dict[str, Any]

_SETTINGS = "_settings.json"
_LOCK = "_lock"
_FINGERPRINTS = "fingerprints"
_BUSY = b"busy_s"
_DIGITS = 32


@dataclass(frozen=True)
class Kept:
    """Rows that a worker made, and the seconds that it took."""

    rows: list[Row]
    busy_s: float


class Workspace:
    """The files of one evaluation.

    Args:
        out: The result's file.
        method: What fingerprints depend on beside the crystal, such as versions.
    """

    def __init__(self, out: Path, method: str) -> None:
        self._files = LocalFiles(out.parent)
        self._out = out
        self._samples = f"{out.stem}.samples"
        self._method = method

    def claim(self, marks: dict[str, Any]) -> None:
        """Note what the generated crystals depend on, and keep other processes away.

        Raises:
            UserError: if there are crystals already, which depend on something else, or another
                process is at it.
        """
        name = f"{self._samples}/{_SETTINGS}"
        if self._files.exists(name):
            self._refuse_other(json.loads(self._files.read(name)), marks)
        else:
            self._write(name, json.dumps(marks, indent=1).encode())
        hold(self._out.with_name(self._samples) / _LOCK)

    def _refuse_other(self, stored: dict[str, Any], marks: dict[str, Any]) -> None:
        changed = [
            f"{mark} ({stored.get(mark)} before, {marks.get(mark)} now)"
            for mark in {**stored, **marks}
            if stored.get(mark) != marks.get(mark)
        ]
        if changed:
            raise UserError(
                f"--out is {self._out}, whose crystals in {self._samples} were begun with something "
                f"else: {', '.join(changed)}; name another file, or remove that folder"
            )

    def samples(self, batch: str) -> Kept | None:
        """Return the crystals of a batch, or None if it is not finished."""
        return self._read(f"{self._samples}/{batch}.parquet")

    def keep_samples(self, batch: str, kept: Kept) -> Kept:
        """Write the crystals of a batch, and return them as they are read: with all columns."""
        table = table_from_rows([{**row, "unit_id": batch} for row in kept.rows], SAMPLE_SCHEMA)
        self._keep(f"{self._samples}/{batch}.parquet", table, kept)
        return Kept(table.to_pylist(), kept.busy_s)

    def fingerprints_key(self, rows: Sequence[Row]) -> str:
        """Return the name under which the fingerprints of some crystals are kept."""
        crystals = [[row[name] for name in (*CRYSTAL_COLUMNS, "error")] for row in rows]
        return hashlib.sha256(json.dumps([self._method, crystals]).encode()).hexdigest()[:_DIGITS]

    def fingerprints(self, key: str) -> Kept | None:
        """Return fingerprints, or None if they have not been taken."""
        return self._read(f"{_FINGERPRINTS}/{key}.parquet")

    def keep_fingerprints(self, key: str, kept: Kept) -> None:
        """Write fingerprints."""
        table = pa.Table.from_pylist(kept.rows, schema=FINGERPRINT_SCHEMA)
        self._keep(f"{_FINGERPRINTS}/{key}.parquet", table, kept)

    def find_symmetries(self, known: KnownCrystals) -> None:
        """Find the symmetry of all crystals of a file, or take it from an earlier evaluation."""
        name = f"{_FINGERPRINTS}/symmetries-{known.sha256[:_DIGITS]}.json"
        if self._files.exists(name):
            known.remember(json.loads(self._files.read(name)))
        else:
            self._write(name, json.dumps(known.symmetries()).encode())

    def write_result(self, result: dict[str, Any]) -> None:
        """Write the result."""
        self._write(self._out.name, (json.dumps(result, indent=1) + "\n").encode())

    def _read(self, name: str) -> Kept | None:
        if not self._files.exists(name):
            return None
        table = parquet_table(self._files.read(name))
        return Kept(table.to_pylist(), float(table.schema.metadata[_BUSY]))

    def _keep(self, name: str, table: pa.Table, kept: Kept) -> None:
        metadata = {**(table.schema.metadata or {}), _BUSY: repr(kept.busy_s).encode()}
        content = io.BytesIO()
        pq.write_table(table.replace_schema_metadata(metadata), content, compression="zstd")
        self._write(name, content.getvalue())

    def _write(self, name: str, content: bytes) -> None:
        try:
            self._files.write(name, content)
        except OSError as error:
            raise RunError(
                f"{self._files.directory / name} cannot be written: {error.strerror or error}"
            ) from None

"""The crystals that an evaluation reads: known ones, and those that were generated elsewhere."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pymatgen.core import Element, Structure

from model.crystal import asymmetric_unit
from model.dataset import DataError, read_cells
from screening.errors import UserError, first_line, shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from model.dataset import Cell

Row = dict[str, Any]

CRYSTAL_COLUMNS = ("lattice_vectors", "species_at_sites", "cartesian_site_positions")
"""The columns of the results that hold a crystal."""

_TOLERANCE = 0.1  # angstrom, as for training data


@dataclass(frozen=True)
class Symmetry:
    """What a generator is asked for to find a crystal."""

    space_group: int
    """16 to 230, as spglib finds it at 0.1 Å."""
    site_counts: Mapping[str, int]
    """Element symbol to number of inequivalent sites, in alphabetical order."""


class KnownCrystals:
    """The crystals of a data file; those with a space group of 16 or above count.

    Args:
        path: A file as `screening train` takes it.
        option: What to call it in messages.

    Raises:
        UserError: if it cannot be used.
    """

    def __init__(self, path: Path, option: str) -> None:
        self.path = path
        self._option = option
        try:
            self._cells = list(read_cells(path))
        except DataError as error:
            raise UserError(f"{option}: {error}") from None
        except ValueError as error:  # of a CIF
            raise UserError(
                f"{option}: {path} holds a broken crystal: {first_line(error)}"
            ) from None
        self.sha256 = digest_of(path)
        self._found: dict[int, Symmetry | None] = {}

    def __len__(self) -> int:
        """Return the number of crystals in the file."""
        return len(self._cells)

    def row(self, index: int) -> Row:
        """Return the columns `CRYSTAL_COLUMNS` of a crystal, and an empty `error`."""
        lattice, frac_coords, numbers = self._cells[index]
        symbols = [Element.from_Z(int(number)).symbol for number in numbers]
        return _crystal_row(lattice, symbols, frac_coords)

    def symmetry(self, index: int) -> Symmetry | None:
        """Return the symmetry of a crystal, None where it is below 16; some 6 ms the first time."""
        if index not in self._found:
            self._found[index] = _symmetry(self._cells[index])
        return self._found[index]

    def usable(self) -> list[int]:
        """Return the crystals with a space group of 16 or above.

        Raises:
            UserError: if there is none.
        """
        found = [index for index in range(len(self)) if self.symmetry(index) is not None]
        if not found:
            raise UserError(
                f"{self._option}: {self.path} holds no crystal with a space group of 16 or above"
            )
        return found

    def drawn(self, number: int, seed: int) -> list[int]:
        """Return usable crystals, drawn at random without replacement.

        Raises:
            UserError: if there are not as many.
        """
        order = np.random.default_rng(seed).permutation(len(self)).tolist()
        usable = (index for index in order if self.symmetry(index) is not None)
        chosen = list(islice(usable, number))
        if len(chosen) < number:
            raise UserError(
                f"--num is {number}; {self._option} {self.path} holds {len(chosen)} crystals with a "
                f"space group of 16 or above, and each is drawn once at the most"
            )
        return chosen

    def symmetries(self) -> list[list[Any] | None]:
        """Return the symmetry of every crystal as JSON values."""
        found = [self.symmetry(index) for index in range(len(self))]
        return [[s.space_group, dict(s.site_counts)] if s else None for s in found]

    def remember(self, symmetries: list[list[Any] | None]) -> None:
        """Take what `symmetries` gave for the same file."""
        found = enumerate(symmetries)
        self._found = {index: Symmetry(*known) if known else None for index, known in found}


def _symmetry(cell: Cell) -> Symmetry | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # spglib's, of a later version
        unit = asymmetric_unit(*cell, _TOLERANCE)
    if unit is None:
        return None
    counts = Counter(Element.from_Z(int(number)).symbol for number in unit.atomic_numbers)
    return Symmetry(unit.space_group, dict(sorted(counts.items())))


def read_samples(path: Path) -> list[Row]:
    """Read crystals that were generated elsewhere, one row each; failures are rows without one.

    Args:
        path: Parquet file or folder with the columns of the results, Parquet with the columns of
            the training data, or CSV with a column ``cif``.

    Raises:
        UserError: if it cannot be used.
    """
    if not path.exists():
        raise UserError(f"--samples is {shown(str(path), 200)}; there is no such file")
    if path.suffix == ".csv":
        rows = _from_csv(path)
    elif path.suffix == ".parquet" or path.is_dir():
        rows = _from_parquet(path)
    else:
        raise UserError(
            f"--samples is {shown(str(path), 200)}; allowed: a .parquet file, a folder of them, or "
            f"a .csv file with a column 'cif'"
        )
    if not rows:
        raise UserError(f"--samples is {shown(str(path), 200)}, which holds no rows")
    return rows


def _from_parquet(path: Path) -> list[Row]:
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"--samples {path} cannot be read as Parquet: {first_line(error)}"
        ) from None
    if set(CRYSTAL_COLUMNS) <= set(table.column_names):
        kept = [n for n in (*CRYSTAL_COLUMNS, "error") if n in table.column_names]
        rows = table.select(kept).to_pylist()
        return [
            {"error": None, **row} if row["lattice_vectors"] else _failed(row.get("error"))
            for row in rows
        ]
    if {"lattice", "frac_coords", "atomic_numbers"} <= set(table.column_names):
        return [
            _crystal_row(lattice, [Element.from_Z(int(n)).symbol for n in numbers], coords)
            for lattice, coords, numbers in read_cells(path)
        ]
    raise UserError(
        f"--samples {path} has the columns {', '.join(table.column_names[:8])}; it must have "
        f"{', '.join(CRYSTAL_COLUMNS)}"
    )


def _from_csv(path: Path) -> list[Row]:
    import pandas as pd  # noqa: PLC0415 - slow to import

    table = pd.read_csv(path)
    if "cif" not in table:
        raise UserError(
            f"--samples {path} has the columns {', '.join(table.columns[:8])}; a CSV file must have "
            f"a column 'cif'"
        )
    return [_from_cif(text) for text in table["cif"]]


def _from_cif(text: Any) -> Row:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pymatgen's, of rounded coordinates
            structure = Structure.from_str(str(text), fmt="cif")
        symbols = [site.specie.symbol for site in structure]
    except Exception as error:  # noqa: BLE001 - a bad crystal is a record, whatever it raised
        return _failed(first_line(error))
    return _crystal_row(structure.lattice.matrix, symbols, structure.frac_coords)


def _failed(error: str | None) -> Row:
    return {**dict.fromkeys(CRYSTAL_COLUMNS), "error": error or "there is no crystal in this row"}


def _crystal_row(lattice: Any, symbols: list[str], frac_coords: Any) -> Row:
    """Return the columns of a crystal from its lattice (3, 3) and fractional coordinates."""
    vectors = np.asarray(lattice, dtype=np.float64)
    return {
        "lattice_vectors": vectors.tolist(),
        "species_at_sites": symbols,
        "cartesian_site_positions": (np.asarray(frac_coords) @ vectors).tolist(),
        "error": None,
    }


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's files with their names."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    content = io.BytesIO()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        content.write(f"{file.relative_to(path)}\0{digest_of(file)}\n".encode())
    return hashlib.sha256(content.getvalue()).hexdigest()

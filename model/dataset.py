"""Training data: reads crystals from files and keeps their asymmetric units as flat arrays.

Accepted files: Parquet with the columns ``lattice``, ``frac_coords`` and ``atomic_numbers``, or with
OPTIMADE's, as in the tables of a campaign and of phases fetched from the Materials Project; CSV with a
``cif`` column (the form of CDVAE's MP-20 files); a CIF; a folder of CIFs.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from model.crystal import AsymmetricUnit, asymmetric_unit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_LOG = logging.getLogger(__name__)
_CACHE_VERSION = "1"


class DataError(ValueError):
    """A data file cannot be used; the message says which and why."""


@dataclass(frozen=True)
class Crystals:
    """Asymmetric units end to end."""

    space_groups: NDArray[np.int64]
    """(n_crystals,)."""
    lengths: NDArray[np.float64]
    """(n_crystals, 3) angstrom."""
    n_sites: NDArray[np.int64]
    """(n_crystals,)."""
    frac_coords: NDArray[np.float64]
    """(n_sites in all, 3)."""
    atomic_numbers: NDArray[np.int64]
    """(n_sites in all,)."""
    n_skipped: int = 0
    """Crystals of the files that are monoclinic, triclinic or not understood by spglib."""

    def __len__(self) -> int:
        """Return the number of crystals."""
        return len(self.space_groups)

    def __getitem__(self, index: int) -> AsymmetricUnit:
        """Return one crystal."""
        first = int(self.n_sites[:index].sum())
        sites = slice(first, first + int(self.n_sites[index]))
        return AsymmetricUnit(
            int(self.space_groups[index]),
            self.lengths[index],
            self.frac_coords[sites],
            self.atomic_numbers[sites],
        )

    def subset(self, chosen: NDArray[np.int64]) -> Crystals:
        """Return the crystals with the given numbers, in that order."""
        first = np.cumsum(self.n_sites) - self.n_sites
        sites = np.concatenate(
            [np.arange(first[i], first[i] + self.n_sites[i]) for i in chosen]
        ).astype(np.int64)
        return Crystals(
            self.space_groups[chosen],
            self.lengths[chosen],
            self.n_sites[chosen],
            self.frac_coords[sites],
            self.atomic_numbers[sites],
        )


def join(units: Sequence[AsymmetricUnit], n_skipped: int = 0) -> Crystals:
    """Put asymmetric units end to end."""
    return Crystals(
        space_groups=np.array([unit.space_group for unit in units], dtype=np.int64),
        lengths=np.array([unit.lengths for unit in units], dtype=np.float64).reshape(-1, 3),
        n_sites=np.array([len(unit.atomic_numbers) for unit in units], dtype=np.int64),
        frac_coords=np.concatenate([unit.frac_coords for unit in units] or [np.zeros((0, 3))]),
        atomic_numbers=np.concatenate(
            [unit.atomic_numbers for unit in units] or [np.zeros(0, np.int64)]
        ),
        n_skipped=n_skipped,
    )


_FLAT = ("lattice", "frac_coords", "atomic_numbers")
_OPTIMADE = ("lattice_vectors", "species_at_sites", "cartesian_site_positions")

Cell = tuple["NDArray[np.float64]", "NDArray[np.float64]", "NDArray[np.int64]"]
"""Lattice, fractional coordinates and atomic numbers of a crystal, in any cell."""


def read_crystals(paths: Sequence[Path], cache: Path | None = None) -> Crystals:
    """Read crystals and find their asymmetric units, on all cores.

    Args:
        paths: data files or folders of CIFs.
        cache: folder for the converted data; the next call with the same files is quick.

    Raises:
        DataError: if a file is missing, of an unknown kind or without usable crystals.
    """
    target = cache / f"crystals-{_digest(paths)}.npz" if cache else None
    if target and target.exists():
        with np.load(target, allow_pickle=False) as stored:
            return Crystals(
                **{name: stored[name] for name in stored if name != "n_skipped"},
                n_skipped=int(stored["n_skipped"]),
            )
    cells = [cell for path in paths for cell in read_cells(path)]
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        units = list(pool.map(_standardise, cells, chunksize=64))
    usable = [unit for unit in units if unit is not None]
    if not usable:
        message = f"{', '.join(map(str, paths))}: no crystal with a space group of 16 or above"
        raise DataError(message)
    crystals = join(usable, n_skipped=len(units) - len(usable))
    _LOG.info("%d crystals, %d skipped", len(crystals), crystals.n_skipped)
    if target:
        _store(crystals, target)
    return crystals


def _store(crystals: Crystals, target: Path) -> None:
    buffer = io.BytesIO()
    arrays = {name: np.asarray(value) for name, value in vars(crystals).items()}
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_suffix(".partial")
    beside.write_bytes(buffer.getvalue())
    beside.replace(target)


def _standardise(cell: Cell) -> AsymmetricUnit | None:
    return asymmetric_unit(*cell)


def _digest(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256(_CACHE_VERSION.encode())
    for path in paths:
        for file in sorted(path.rglob("*.cif")) if path.is_dir() else [path]:
            digest.update(file.read_bytes() if file.exists() else b"")
    return digest.hexdigest()[:16]


def read_cells(path: Path) -> Iterator[Cell]:
    """Yield the crystals of a file or folder as they stand in it, in its order.

    Yields:
        Lattice (3, 3) in angstrom, fractional coordinates (n_atoms, 3), atomic numbers (n_atoms,).

    Raises:
        DataError: if the file is missing or of an unknown kind.
    """
    if not path.exists():
        message = f"{path}: no such file or folder"
        raise DataError(message)
    if path.is_dir():
        for file in sorted(path.glob("*.cif")):
            yield _from_cif(file.read_text(encoding="utf-8"))
    elif path.suffix == ".parquet":
        yield from _from_parquet(path)
    elif path.suffix == ".csv":
        import pandas as pd  # noqa: PLC0415 - slow to import

        table = pd.read_csv(path)
        if "cif" not in table:
            message = f"{path}: a CSV file must have a column 'cif', got {list(table.columns)}"
            raise DataError(message)
        yield from (_from_cif(text) for text in table["cif"])
    elif path.suffix == ".cif":
        yield _from_cif(path.read_text(encoding="utf-8"))
    else:
        message = f"{path}: data must be .parquet, .csv, .cif or a folder of .cif files"
        raise DataError(message)


def _from_parquet(path: Path) -> Iterator[Cell]:
    import pyarrow as pa  # noqa: PLC0415 - slow to import
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        present = pq.read_schema(path).names
        of_optimade = set(_OPTIMADE) <= set(present)
        columns = _OPTIMADE if of_optimade else _FLAT
        table = pq.read_table(path, columns=list(columns))
    except (pa.ArrowException, OSError) as error:
        message = (
            f"{path}: a Parquet file must have the columns {', '.join(_FLAT)}, or "
            f"{', '.join(_OPTIMADE)} ({error})"
        )
        raise DataError(message) from error
    for batch in table.to_batches():
        for row in zip(*(batch.column(name) for name in columns), strict=True):
            values = [value.as_py() for value in row]
            if any(value is None for value in values):
                continue  # a row of a campaign that has no crystal
            if of_optimade:
                yield _from_optimade(path, *values)
            else:
                lattice, coords, numbers = values
                yield (
                    np.asarray(lattice, dtype=np.float64).reshape(3, 3),
                    np.asarray(coords, dtype=np.float64).reshape(-1, 3),
                    np.asarray(numbers, dtype=np.int64),
                )


def _from_optimade(
    path: Path, vectors: list[list[float]], symbols: list[str], positions: list[list[float]]
) -> Cell:
    from ase.data import atomic_numbers  # noqa: PLC0415 - slow to import

    unknown = sorted({symbol for symbol in symbols if not atomic_numbers.get(symbol)})
    if unknown:
        message = f"{path}: species_at_sites holds {unknown[0]!r}, which is no element"
        raise DataError(message)
    lattice = np.asarray(vectors, dtype=np.float64).reshape(3, 3)
    cartesian = np.asarray(positions, dtype=np.float64).reshape(-1, 3)
    numbers = np.array([atomic_numbers[symbol] for symbol in symbols], dtype=np.int64)
    return lattice, np.asarray(cartesian @ np.linalg.inv(lattice), dtype=np.float64), numbers


def _from_cif(text: str) -> Cell:
    from pymatgen.core import Structure  # noqa: PLC0415 - slow to import

    structure = Structure.from_str(text, fmt="cif")
    return (
        np.asarray(structure.lattice.matrix),
        np.asarray(structure.frac_coords),
        np.asarray(structure.atomic_numbers, dtype=np.int64),
    )

"""Known phases from a table: formulas and energies, and crystals where they are at hand.

The table is a file of the user's, or what was fetched from the Materials Project.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from pymatgen.core import Composition, Element

from screening.errors import UserError, first_line, shown
from screening.schema import structure_columns, structure_from_row

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    Row = dict[str, Any]

FORMULA = "formula"
ENERGY = "energy_per_atom"
FORMATION_ENERGY = "formation_energy_per_atom"
IDENTITY = "reference_id"
CRYSTAL = ("lattice_vectors", "species_at_sites", "cartesian_site_positions")
"""Columns that describe a crystal, as in the results."""

MOST_PHASES = 1_000_000
"""Rows of a file; the whole Materials Project has a fifth of that."""

SOURCE = b"source"
"""Metadata of a table's schema: the value of ``hull_source``, instead of the file's name."""
CORRECTIONS = b"corrections"
"""Metadata of a table's schema: the corrections that its energies contain, if any."""

_ALLOWED = (
    f"columns {FORMULA} and one of {ENERGY}, {FORMATION_ENERGY}, and {IDENTITY} and the crystal "
    f"({', '.join(CRYSTAL)}) if at hand"
)


@dataclass(frozen=True)
class FilePhase:
    """One line of a file of reference phases."""

    identity: str
    composition: Composition
    energy: float | None
    """eV per atom, on the scale of the campaign's potential."""
    formation_energy: float | None
    """eV per atom, from the elements."""
    crystal: Row | None = None
    """The columns of `CRYSTAL`, or None where only the energy is known."""

    @property
    def elements(self) -> frozenset[str]:
        """The symbols of its elements."""
        return frozenset(self.composition.get_el_amt_dict())

    def row(self, elements: Mapping[str, float], source: str) -> Row:
        """Return the phase as a row of the reference phases.

        Args:
            elements: eV per atom of the elements, by symbol, from the campaign's potential.
            source: the value of that column.
        """
        amounts = self.composition.fractional_composition.get_el_amt_dict()
        energy = self.energy
        if self.formation_energy is not None and set(amounts) <= set(elements):
            energy = self.formation_energy + sum(
                amount * elements[symbol] for symbol, amount in amounts.items()
            )
        return {
            "reference_id": self.identity,
            "chemical_system": "-".join(sorted(amounts)),
            "formula": str(self.composition.reduced_formula),
            "chemical_formula_reduced": _alphabetical(self.composition),
            "elements": sorted(amounts),
            "energy_per_atom": energy,
            "source": source,
            **(structure_columns(structure_from_row(self.crystal)) if self.crystal else {}),
        }


@dataclass(frozen=True)
class KnownPhases:
    """All lines of a table of known phases."""

    source: str
    """The value of ``hull_source``."""
    corrections: str | None
    """Name of the corrections that the energies contain; None if the table names none."""
    phases: list[FilePhase]

    @property
    def needs_elements(self) -> bool:
        """Whether the energies of the elements are to be added to formation energies."""
        return any(phase.formation_energy is not None for phase in self.phases)


def read_reference_file(path: Path, elements: Iterable[str]) -> KnownPhases:
    """Read a CSV or Parquet file of reference phases.

    Args:
        path: a file with the columns ``formula`` and ``energy_per_atom`` (eV, on the scale of the
            campaign's potential) or ``formation_energy_per_atom`` (eV), with or without `CRYSTAL`.
        elements: those of the campaign. With energies, each needs a phase of its own.

    Raises:
        UserError: if it cannot be read, lacks a column, or holds a value that makes no sense.
    """
    return known_phases(_table(path), path, elements)


def known_phases(table: pa.Table, path: Path, elements: Iterable[str]) -> KnownPhases:
    """Return the phases of a table.

    Args:
        table: with the columns of a file of reference phases.
        path: where it comes from.
        elements: as for `read_reference_file`.

    Raises:
        UserError: as for `read_reference_file`.
    """
    named = set(table.column_names)
    if FORMULA not in named or len({ENERGY, FORMATION_ENERGY} & named) != 1:
        given = ", ".join(table.column_names)
        raise UserError(f"references {path} has the columns {given}; allowed: {_ALLOWED}")
    column = ENERGY if ENERGY in named else FORMATION_ENERGY
    has_crystals = set(CRYSTAL) <= named
    columns = [IDENTITY, FORMULA, column, *(CRYSTAL if has_crystals else ())]
    rows = table.select([c for c in columns if c in named]).to_pylist()
    phases = [_phase(path, line, row, column) for line, row in enumerate(rows, start=1)]
    if column == ENERGY:
        pure = {str(p.composition.elements[0]) for p in phases if p.composition.is_element}
        if absent := sorted(set(elements) - pure):
            raise UserError(
                f"references {path} has no phase of pure {', '.join(absent)}; energies need one "
                f"for every element of the campaign (or give {FORMATION_ENERGY} instead)"
            )
    about = table.schema.metadata or {}
    corrections = about.get(CORRECTIONS)
    return KnownPhases(
        source=about.get(SOURCE, path.name.encode()).decode(),
        corrections=corrections.decode() if corrections else None,
        phases=phases,
    )


def _table(path: Path) -> pa.Table:
    if path.suffix not in (".csv", ".parquet"):
        raise UserError(f"references is {shown(str(path), 200)}; allowed: .csv or .parquet files")
    try:
        if path.suffix == ".csv":
            # A column of formulas such as "NO" and "N" must not be taken for truth values.
            texts = pa.csv.ConvertOptions(
                column_types={FORMULA: pa.string(), IDENTITY: pa.string()}
            )
            return pa.csv.read_csv(path, convert_options=texts)
        # A small file can stand for billions of equal rows.
        n_rows = pa.parquet.read_metadata(path).num_rows
        if n_rows > MOST_PHASES:
            raise UserError(f"{path} has {n_rows:,} rows; at most {MOST_PHASES:,} are read")
        return pa.parquet.read_table(path)
    except FileNotFoundError:
        raise UserError(f"references {path} does not exist") from None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"references {path} cannot be read: {first_line(error)}") from None


def _phase(path: Path, line: int, row: Mapping[str, Any], column: str) -> FilePhase:
    formula, energy = row[FORMULA], row[column]
    try:
        composition = Composition(formula)
        symbols = list(composition.get_el_amt_dict())
        # pymatgen takes unknown symbols for dummies.
        real = bool(symbols) and all(Element.is_valid_symbol(symbol) for symbol in symbols)
    except (ValueError, TypeError, AttributeError, KeyError):
        real = False
    if not real:
        raise UserError(
            f"references {path}: {FORMULA} of phase {line} is {shown(formula)}; allowed: formulas "
            f"such as Cu3Au"
        )
    if (
        isinstance(energy, bool)
        or not isinstance(energy, (int, float))
        or not math.isfinite(energy)
    ):
        raise UserError(
            f"references {path}: {column} of phase {line} is {shown(energy)}; allowed: a number in "
            f"eV per atom"
        )
    return FilePhase(
        identity=str(row.get(IDENTITY) or f"{path.stem}-{line}"),
        composition=composition,
        energy=float(energy) if column == ENERGY else None,
        formation_energy=float(energy) if column == FORMATION_ENERGY else None,
        crystal=_crystal(path, line, row, composition),
    )


def _crystal(path: Path, line: int, row: Mapping[str, Any], composition: Composition) -> Row | None:
    """Return the columns of a crystal, once it is clear that it is one of that formula."""
    crystal = {name: row.get(name) for name in CRYSTAL}
    if all(value is None for value in crystal.values()):
        return None
    try:
        found = structure_from_row(crystal).composition.reduced_formula
    except (ValueError, TypeError, IndexError, KeyError):
        found = None
    if found != composition.reduced_formula:
        raise UserError(
            f"references {path}: the crystal of phase {line} "
            + (f"is {found}" if found else "cannot be read")
            + f", its {FORMULA} {shown(row[FORMULA])}; allowed: three lattice vectors, and an "
            f"element and a position (Å) for each atom"
        )
    return crystal


def _alphabetical(composition: Composition) -> str:
    """Return the reduced formula as the results have it: alphabetical, ``O`` for oxygen."""
    amounts = dict(sorted(composition.get_el_amt_dict().items()))
    if all(float(amount).is_integer() for amount in amounts.values()):
        divisor = math.gcd(*(int(amount) for amount in amounts.values()))
        amounts = {symbol: amount / divisor for symbol, amount in amounts.items()}
    return "".join(f"{s}{n:g}" if n != 1 else s for s, n in amounts.items())

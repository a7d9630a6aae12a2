"""Columns of the results: names, types and units, and how a crystal becomes a row and comes back."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import spglib
from pymatgen.core import Structure

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

SYMPREC = 0.01
"""Å. The tolerance of the group that is found: samples lie exactly on their Wyckoff positions."""

_ROWS_AT_A_TIME = 1024

STATUSES = ("kept", "filtered", "failed")

_TEXT = pa.string()
_TEXTS = pa.list_(pa.string())
_INTEGER = pa.int64()
_NUMBER = pa.float64()
_TRUTH = pa.bool_()
_VECTORS = pa.list_(pa.list_(pa.float64()))


def _field(name: str, kind: pa.DataType, description: str, unit: str = "") -> pa.Field:
    metadata = {"description": description}
    if unit:
        metadata["unit"] = unit
    return pa.field(name, kind, metadata=metadata)


STRUCTURE_FIELDS = (
    _field("elements", _TEXTS, "symbols of the elements, alphabetical"),
    _field("nsites", _INTEGER, "number of atoms in the primitive cell"),
    _field("chemical_formula_reduced", _TEXT, "reduced formula, elements alphabetical"),
    _field("chemical_formula_anonymous", _TEXT, "formula with A, B, C for the elements"),
    _field("lattice_vectors", _VECTORS, "three rows, one lattice vector each", "Å"),
    _field("cartesian_site_positions", _VECTORS, "one row per atom", "Å"),
    _field("species_at_sites", _TEXTS, "element symbol of each atom"),
    _field(
        "space_group_it_number",
        _INTEGER,
        f"number of the space group that spglib finds, symprec {SYMPREC} Å; null if it finds none",
    ),
    _field("wyckoff_letters", _TEXTS, f"Wyckoff letter of each atom, symprec {SYMPREC} Å"),
)
STRUCTURE_COLUMNS = tuple(field.name for field in STRUCTURE_FIELDS)

SAMPLE_SCHEMA = pa.schema(
    [
        _field("sample_id", _TEXT, "unique id of the sample"),
        _field("unit_id", _TEXT, "unit of work that made the sample"),
        _field("seed", _INTEGER, "seed of the sample's own random numbers"),
        _field("chemical_system", _TEXT, "elements joined by hyphens, alphabetical"),
        *STRUCTURE_FIELDS[:7],
        _field("space_group_requested", _INTEGER, "number of the space group that was asked for"),
        *STRUCTURE_FIELDS[7:8],
        _field("site_counts", _TEXT, "inequivalent sites per element that were asked for"),
        *STRUCTURE_FIELDS[8:],
        _field(
            "generator",
            _TEXT,
            "fingerprint of the checkpoint / name of the sampler, or random / version",
        ),
        _field("status", _TEXT, "kept, filtered or failed"),
        _field("reason", _TEXT, "why it was filtered"),
        _field("error", _TEXT, "why it failed"),
    ]
)

RESCORED_FIELDS = (
    _field("rescored_calculator", _TEXT, "the second potential; null if it was not asked"),
    _field("rescored_energy_per_atom", _NUMBER, "relaxed by the second potential", "eV/atom"),
    _field(
        "rescored_formation_energy_per_atom",
        _NUMBER,
        "from the elements, all by the second potential",
        "eV/atom",
    ),
    _field(
        "rescored_e_above_hull",
        _NUMBER,
        "above the hull of the reference phases, all by the second potential; null if the crystal "
        "did not converge with it",
        "eV/atom",
    ),
    _field("rescored_converged", _TRUTH, "whether the second relaxation reached fmax"),
    _field("rescored_error", _TEXT, "why the second relaxation failed"),
    _field("rescored_cif", _TEXT, "the crystal as the second potential leaves it, as CIF"),
    _field(
        "rescored_duplicate_of",
        _TEXT,
        "sample_id of a lower candidate that the second potential makes the same crystal of; null "
        "if there is none",
    ),
    _field(
        "rescored_matched_reference_id",
        _TEXT,
        "the reference phase that the second potential makes of the crystal; null if none",
    ),
)
"""What a second potential says of the best candidates."""

CANDIDATE_SCHEMA = pa.schema(
    [
        *SAMPLE_SCHEMA,
        _field("energy", _NUMBER, "of the primitive cell, relaxed", "eV"),
        _field("energy_per_atom", _NUMBER, "relaxed", "eV/atom"),
        _field("formation_energy_per_atom", _NUMBER, "from the elements", "eV/atom"),
        _field("e_above_hull", _NUMBER, "above the hull of the reference phases", "eV/atom"),
        _field(
            "e_above_hull_self",
            _NUMBER,
            "above the hull of the reference phases and this campaign's candidates",
            "eV/atom",
        ),
        _field("hull_source", _TEXT, "where the reference phases come from"),
        _field("converged", _TRUTH, "whether the relaxation reached fmax"),
        _field("n_steps", _INTEGER, "steps of the relaxation"),
        _field("max_force", _NUMBER, "largest force on an atom at the end", "eV/Å"),
        _field("group_id", _TEXT, "sample_id of the representative of its group of duplicates"),
        _field("is_representative", _TRUTH, "whether it stands for its group of duplicates"),
        _field("n_duplicates", _INTEGER, "other members of its group"),
        _field("matched_reference_id", _TEXT, "reference phase with the same structure"),
        _field("is_novel", _TRUTH, "whether no reference phase is the same, see novelty_basis"),
        _field("smact_valid", _TRUTH, "charge-neutral and sensible by SMACT's rules"),
        _field("calculator", _TEXT, "name and fingerprint of the potential"),
        _field("cif", _TEXT, "the relaxed crystal, symmetrised, as CIF"),
        # New columns go to the end: tables without them are read with nulls.
        _field(
            "min_distance_ratio",
            _NUMBER,
            "smallest distance over the sum of the two atoms' covalent radii; null if no atoms are "
            "close",
        ),
        _field("density", _NUMBER, "relaxed", "g/cm³"),
        _field("volume_per_atom", _NUMBER, "relaxed", "Å³/atom"),
        _field(
            "dimensionality",
            _INTEGER,
            "directions in which bonds go on for ever: 3, layers 2, chains 1, molecules 0",
        ),
        _field(
            "space_group_kept",
            _TRUTH,
            "whether the group found is the requested one or a supergroup of it",
        ),
        _field(
            "novelty_basis",
            _TEXT,
            "how is_novel was judged: by structure, or by formula where the structures of reference "
            "phases are not known or there is no phase of the formula",
        ),
        *RESCORED_FIELDS,
    ]
)


def table_from_rows(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return rows as a table with every column of the schema, absent values null.

    Raises:
        ValueError: if a row holds a column that the schema does not have, or an unknown status.
    """
    rows = list(rows)
    for row in rows:
        foreign = set(row) - set(schema.names)
        if foreign:
            raise ValueError(f"the schema has no column {min(foreign)!r}")
        if row.get("status") not in STATUSES and "status" in schema.names:
            raise ValueError(f"status must be one of {STATUSES}, got {row.get('status')!r}")
    return pa.Table.from_pylist([_plain(row) for row in rows], schema=schema)


def rows_of(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table, of which few at a time are Python's objects."""
    for batch in table.to_batches(max_chunksize=_ROWS_AT_A_TIME):
        yield from batch.to_pylist()


def with_all_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table with the columns of a schema: those that it lacks are null.

    So tables of earlier versions can be read. Columns of later versions are left out.
    """
    names = set(table.column_names)
    columns = [
        table.column(field.name).cast(field.type)
        if field.name in names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def structure_columns(structure: Structure) -> dict[str, Any]:
    """Return the columns that describe a crystal, its symmetry as spglib finds it included.

    Args:
        structure: an ordered structure; the primitive cell, by convention of the results.
    """
    composition = structure.composition.element_composition
    number, letters = _symmetry(structure)
    elements = sorted(element.symbol for element in composition.elements)
    return {
        "elements": elements,
        "nsites": len(structure),
        "chemical_formula_reduced": _reduced_formula(composition.as_dict()),
        "chemical_formula_anonymous": str(composition.anonymized_formula),
        "lattice_vectors": structure.lattice.matrix.tolist(),
        "cartesian_site_positions": structure.cart_coords.tolist(),
        "species_at_sites": [site.specie.symbol for site in structure],
        "space_group_it_number": number,
        "wyckoff_letters": letters,
    }


def structure_from_row(row: Mapping[str, Any]) -> Structure:
    """Return the crystal of a row, its atoms where and in the order in which they were stored.

    Raises:
        ValueError: if the row holds no crystal, as that of a failed sample.
    """
    if row["lattice_vectors"] is None:
        raise ValueError(f"sample {row.get('sample_id')} has no structure")
    return Structure(
        np.array([list(vector) for vector in row["lattice_vectors"]], dtype=np.float64),
        list(row["species_at_sites"]),
        [list(position) for position in row["cartesian_site_positions"]],
        coords_are_cartesian=True,
    )


def _reduced_formula(amounts: Mapping[str, float]) -> str:
    """Return the reduced formula as OPTIMADE defines it: alphabetical, no 1s."""
    counts = {element: round(amount) for element, amount in sorted(amounts.items())}
    divisor = int(np.gcd.reduce(list(counts.values())))
    return "".join(
        f"{element}{count // divisor if count > divisor else ''}"
        for element, count in counts.items()
    )


def symmetry_dataset(structure: Structure, symprec: float) -> Any:
    """Return what spglib finds within a tolerance (angstrom), or None if it finds nothing."""
    cell = (
        structure.lattice.matrix,
        structure.frac_coords,
        [site.specie.Z for site in structure],
    )
    with warnings.catch_warnings():
        # spglib 2.7 and later announce a change of how failure is reported; both ways are met.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return spglib.get_symmetry_dataset(cell, symprec=symprec)
        except Exception:  # noqa: BLE001 - spglib's error class differs between its versions
            return None


def _symmetry(structure: Structure) -> tuple[int | None, list[str] | None]:
    dataset = symmetry_dataset(structure, SYMPREC)
    if dataset is None:
        return None, None
    return int(dataset.number), list(dataset.wyckoffs)


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Replace numpy values, which Arrow refuses inside nested lists, by plain ones."""
    return {
        name: value.tolist() if hasattr(value, "tolist") else value for name, value in row.items()
    }

"""Crystals as files that other programs read."""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING, Any

from pymatgen.io.cif import CifWriter

from screening.errors import RunError, UserError, first_line, shown
from screening.schema import SYMPREC, structure_from_row

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pymatgen.core import Structure

    from screening.store import Store

    Row = Mapping[str, Any]

_UNSAFE = re.compile(r"[^A-Za-z0-9.+-]+")
_LONGEST_PART = 60


def export_candidates(store: Store, top: int, file_format: str, out: Path) -> list[Path]:
    """Write the best candidates of a campaign, one file each, or one directory for VASP.

    Args:
        store: the campaign's results.
        top: how many, at the most.
        file_format: ``cif``, ``poscar``, ``extxyz`` or ``vasp``.
        out: the directory to write to; made if absent.

    Returns:
        The files or directories, the best candidate first.

    Raises:
        UserError: if an argument is not allowed, or if there are no candidates yet.
        RunError: if a file cannot be written.
    """
    if file_format not in (*FORMATS, VASP):
        allowed = ", ".join((*FORMATS, VASP))
        raise UserError(f"--format is {shown(file_format)}; allowed: {allowed}")
    if top < 1:
        raise UserError(f"--top is {top}; allowed: an integer from 1")
    ranked = store.best(top).to_pylist()
    write, suffix = FORMATS.get(file_format, (None, ""))
    paths = [out / f"{file_stem(rank, row)}{suffix}" for rank, row in enumerate(ranked, start=1)]
    try:
        out.mkdir(parents=True, exist_ok=True)
        for row, path in zip(ranked, paths, strict=True):
            if write is None:
                _write_vasp(row, path)
            else:
                path.write_text(write(row), encoding="utf-8")
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--out is {shown(str(out), 200)}; allowed: a directory") from None
    except OSError as error:
        raise RunError(f"{out} cannot be written to: {error.strerror or error}") from None
    return paths


def file_stem(rank: int, row: Row) -> str:
    """Return a name such as ``001_Cu2KSi_62_Cu-K-Si_062_Cu2-K1-Si1_000-017``, safe anywhere."""
    parts = (row["chemical_formula_reduced"], row["space_group_it_number"], row["sample_id"])
    names = [_UNSAFE.sub("_", str(part)).strip("._")[:_LONGEST_PART] for part in parts]
    return "_".join([f"{rank:03d}", *names])


def cif_text(structure: Structure) -> str:
    """Return a CIF in the conventional cell with the symmetry that is found at ``SYMPREC``.

    The group in the file is the one in the table's ``space_group_it_number``. A crystal that
    spglib cannot place is written without symmetry.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen's and spglib's advice to programmers
        try:
            return str(CifWriter(structure, symprec=SYMPREC))
        except Exception:  # noqa: BLE001 - whatever fails in the analysis, the crystal is there
            return str(CifWriter(structure))


def poscar_text(structure: Structure, comment: str) -> str:
    """Return a POSCAR of the primitive cell, atoms grouped by element."""
    from pymatgen.io.vasp import Poscar  # noqa: PLC0415 - takes a second to import

    return str(Poscar(structure, comment=comment, sort_structure=True))


def extxyz_text(structure: Structure, properties: Mapping[str, Any]) -> str:
    """Return extended XYZ of the primitive cell; properties go into the comment line."""
    from ase.io import write  # noqa: PLC0415 - a second that only this format needs
    from pymatgen.io.ase import AseAtomsAdaptor  # noqa: PLC0415

    atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
    atoms.info = {name: value for name, value in properties.items() if value is not None}
    text = io.StringIO()
    write(text, atoms, format="extxyz")
    return text.getvalue()


def _write_vasp(row: Row, directory: Path) -> None:
    """Write the input of a relaxation as the Materials Project does it, POTCAR.spec for POTCAR.

    Pseudopotentials are not ours to give away: the file names those to take.
    """
    from pymatgen.io.vasp.sets import MPRelaxSet  # noqa: PLC0415 - only this format needs it

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen's advice on its settings
        try:
            MPRelaxSet(structure_from_row(row)).write_input(str(directory), potcar_spec=True)
        except (KeyError, ValueError) as error:
            raise UserError(
                f"--format is vasp, for which the Materials Project has no settings for "
                f"{row['chemical_formula_reduced']} ({first_line(error)}); allowed: "
                f"{', '.join(FORMATS)}"
            ) from None


def _cif(row: Row) -> str:
    return cif_text(structure_from_row(row))


def _poscar(row: Row) -> str:
    formula = row["chemical_formula_reduced"]
    return poscar_text(structure_from_row(row), f"{formula} {row['sample_id']}")


def _extxyz(row: Row) -> str:
    names = ("sample_id", "energy", "formation_energy_per_atom", "e_above_hull", "calculator")
    return extxyz_text(structure_from_row(row), {name: row[name] for name in names})


VASP = "vasp"
FORMATS: dict[str, tuple[Callable[[Row], str], str]] = {
    "cif": (_cif, ".cif"),
    "poscar": (_poscar, ".vasp"),
    "extxyz": (_extxyz, ".extxyz"),
}

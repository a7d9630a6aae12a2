"""Known phases from the Materials Project, through its own client. No other module goes online.

Only calculations with PBE (GGA and GGA+U) are taken, whose energies carry the corrections of
``MaterialsProject2020Compatibility``: entries that mix in r2SCAN are on another scale in every
chemical system. The key is read from the environment, and goes nowhere but to the server.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import warnings
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from screening.errors import RunError, ScreeningError, UserError
from screening.reference_file import CORRECTIONS, CRYSTAL, SOURCE
from screening.schema import CANDIDATE_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

KEY = "MP_API_KEY"
"""The environment variable that holds the user's key."""
ENDPOINT = "MP_API_ENDPOINT"
"""The environment variable that may name another server."""
THERMO_TYPE = "GGA_GGA+U"
PACKAGE = "pip install 'crystal-screening[mp]'"
PBE_CORRECTIONS = "MaterialsProject2020Compatibility"

_KEY_LENGTH = 32
_AT_ONCE = 100
"""Chemical systems of one request; more do not fit into a URL."""
_STATUS = re.compile(r"(?:status code|too many) ([0-9]{3})")
_REFUSED = (401, 403)
_TOO_MANY = 429
_INSTEAD = "or use `references: prototypes` or a file"

Rows = list[dict[str, Any]]


def has_key() -> bool:
    """Return whether the environment holds a key."""
    return bool(os.environ.get(KEY))


def is_installed() -> bool:
    """Return whether the client is there; importing it takes seconds."""
    return importlib.util.find_spec("mp_api") is not None


def fetch_phases(systems: Iterable[str]) -> pa.Table:
    """Fetch the known phases of chemical systems and of all that lie within them.

    Args:
        systems: such as ``Cu-K-Si``.

    Returns:
        A table as `reference_file` reads it, with formation energies, crystals and the energies
        that they were computed from; the version of the database is in the schema's metadata.

    Raises:
        UserError: if the key or the client is missing, or if the key is refused.
        RunError: if the server cannot be reached or answers with something else.
    """
    names = _within(systems)
    key = check_key()
    if not is_installed():
        raise UserError(f"references from the Materials Project need mp-api: {PACKAGE}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the client, to programmers
            version, entries = _entries(names, key)
            rows = _rows(entries)
    except ScreeningError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a server may answer
        raise _in_one_sentence(error) from None
    pure = {row["chemical_system"] for row in rows}
    if absent := [name for name in names if "-" not in name and name not in pure]:
        raise RunError(
            f"the Materials Project, version {version}, has no phase of pure {', '.join(absent)}, "
            f"which formation energies start from; {_INSTEAD.removeprefix('or ')}"
        )
    return _table(rows, version)


def _within(systems: Iterable[str]) -> list[str]:
    """Return chemical systems and all that lie within them, the smallest first."""
    found = {
        "-".join(part)
        for system in systems
        for size in range(1, system.count("-") + 2)
        for part in combinations(sorted(system.split("-")), size)
    }
    return sorted(found, key=lambda name: (name.count("-"), name))


def check_key() -> str:
    """Return the key.

    Raises:
        UserError: if there is none, or if it cannot be one.
    """
    key = os.environ.get(KEY, "")
    if not key:
        raise UserError(
            f"references from the Materials Project need a key: set the environment variable {KEY}"
        )
    if len(key) != _KEY_LENGTH:
        raise UserError(
            f"{KEY} has {len(key)} characters; allowed: a key of the Materials Project's, which "
            f"has {_KEY_LENGTH}"
        )
    return key


def _entries(names: Sequence[str], key: str) -> tuple[str, list[Any]]:
    """Return the version of the database, and its entries in chemical systems.

    The client's `get_entries` asks for the same, and takes 25 ms to check each entry.
    """
    from mp_api.client import MPRester  # noqa: PLC0415 - optional, and takes ten seconds

    found: list[Any] = []
    with MPRester(
        api_key=key,
        endpoint=os.environ.get(ENDPOINT),
        mute_progress_bars=True,
        use_document_model=False,
    ) as client:
        version = str(client.db_version)
        for start in range(0, len(names), _AT_ONCE):
            found += client.materials.thermo.search(
                chemsys=list(names[start : start + _AT_ONCE]),
                thermo_types=[THERMO_TYPE],
                all_fields=False,
                fields=["entries", "thermo_type"],
            )
    return version, [_entry(value) for phase in found for value in phase["entries"].values()]


def _entry(value: Any) -> Any:
    """Return an entry of pymatgen's from its dictionary."""
    from emmet.core.types.pymatgen_types import computed_entries_adapter  # noqa: PLC0415 - optional
    from pymatgen.entries.computed_entries import ComputedStructureEntry  # noqa: PLC0415 - a second

    if not isinstance(value, dict):
        return value
    value = computed_entries_adapter.pop_cse_empty_keys(dict(value))
    if isinstance(value.get("energy_adjustments"), (str, bytes)):
        value["energy_adjustments"] = json.loads(value["energy_adjustments"])
    return ComputedStructureEntry.from_dict(value)


def _rows(entries: Iterable[Any]) -> Rows:
    """Turn entries into rows with formation energies, in an order that does not change."""
    found = {str(entry.entry_id): entry for entry in entries}
    ordered = sorted(found.items(), key=lambda item: (item[1].composition.reduced_formula, item[0]))
    elements: dict[str, float] = {}
    for _, entry in ordered:
        if entry.composition.is_element:
            symbol = entry.composition.elements[0].symbol
            elements[symbol] = min(entry.energy_per_atom, elements.get(symbol, float("inf")))
    rows = []
    for name, entry in ordered:
        shares = entry.composition.fractional_composition.get_el_amt_dict()
        if not set(shares) <= set(elements):
            continue  # of a system whose elements are missing, which is said elsewhere
        structure = entry.structure
        energy = float(entry.energy_per_atom)
        rows.append(
            {
                "reference_id": name,
                "chemical_system": "-".join(sorted(shares)),
                "formula": entry.composition.reduced_formula,
                "formation_energy_per_atom": energy
                - sum(share * elements[symbol] for symbol, share in shares.items()),
                "dft_energy_per_atom": energy,
                "lattice_vectors": structure.lattice.matrix.tolist(),
                "species_at_sites": [site.specie.symbol for site in structure],
                "cartesian_site_positions": structure.cart_coords.tolist(),
            }
        )
    return rows


def _table(rows: Rows, version: str) -> pa.Table:
    def field(name: str, kind: pa.DataType, description: str, unit: str) -> pa.Field:
        return pa.field(name, kind, metadata={"description": description, "unit": unit})

    schema = pa.schema(
        [
            field("reference_id", pa.string(), "id of the Materials Project's", ""),
            field("chemical_system", pa.string(), "its own elements, joined by hyphens", ""),
            field("formula", pa.string(), "reduced formula", ""),
            field("formation_energy_per_atom", pa.float64(), "PBE, corrected", "eV/atom"),
            field("dft_energy_per_atom", pa.float64(), "PBE, corrected", "eV/atom"),
            *(CANDIDATE_SCHEMA.field(name) for name in CRYSTAL),
        ],
        metadata={
            SOURCE: f"Materials Project {version} (GGA/GGA+U)",
            CORRECTIONS: PBE_CORRECTIONS,
            "db_version": version,
            "thermo_type": THERMO_TYPE,
        },
    )
    return pa.Table.from_pylist(rows, schema=schema)


def _in_one_sentence(error: Exception) -> ScreeningError:
    """Say what went wrong, without the server's own words: those might hold the key."""
    from mp_api.client.core.exceptions import MPRestError  # noqa: PLC0415 - optional

    status = _STATUS.search(str(error))
    code = int(status[1]) if status else 0
    if code in _REFUSED:
        return UserError(f"the Materials Project refused the key in {KEY} (status {code})")
    if code == _TOO_MANY:
        return RunError(
            f"the Materials Project takes no more requests for now (status {code}); try again in "
            f"some minutes, {_INSTEAD}"
        )
    if code:
        return RunError(
            f"the Materials Project answered with status {code}; try again later, {_INSTEAD}"
        )
    # An answer that is no JSON is an OSError too, for the library that reads it.
    if isinstance(error, (OSError, MPRestError)) and not isinstance(error, ValueError):
        return RunError(
            f"the Materials Project cannot be reached ({type(error).__name__}); try again, or "
            f"fetch the phases elsewhere with `screening references fetch`, {_INSTEAD}"
        )
    return RunError(
        f"the Materials Project's answer cannot be read ({type(error).__name__}); try again later, "
        f"{_INSTEAD}"
    )

"""The known phases that candidates are measured against.

Without a key for a database the phases are structure types in all decorations that make sense
(``prototypes``), relaxed by the campaign's own potential, so that differences of energy cancel its
errors. They are kept per chemical subsystem, in ``references/<subsystem>.parquet`` beside the
results, and systems that share a subsystem share its phases. The Materials Project (``mp``) or a
file of the user's may stand in for the structure types; the phases that it misses are not looked
for. Its formation energies are put on top of the elements' energies from the potential: each
formation energy, of a candidate and of a known phase, then comes from one method throughout.

Limits: a hull of structure types lies above the true one wherever the ground state has a type that
is not on the list, so `e_above_hull` comes out too low there. Molecular elements (H, N, O, F and the
halogens) are one molecular crystal each, in which potentials know neither dispersion nor spin.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from itertools import combinations
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from screening.calculators import FIELD, POTENTIALS, load_calculator
from screening.chemistry import chemical_system_name
from screening.errors import UserError
from screening.grid import chemical_systems
from screening.materials_project import (
    KEY,
    PACKAGE,
    PBE_CORRECTIONS,
    THERMO_TYPE,
    fetch_phases,
    has_key,
    is_installed,
)
from screening.prototypes import phase_count, phases, prototypes_fingerprint
from screening.reference_file import KnownPhases, known_phases, read_reference_file
from screening.schema import STRUCTURE_COLUMNS, STRUCTURE_FIELDS, structure_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping

    from screening.calculators import Calculator
    from screening.campaign import Campaign
    from screening.store import Store

    Row = dict[str, Any]

DIRECTORY = "references"
PROTOTYPES = "prototypes"
MP = "mp"
AUTO = "auto"
FETCHED = "_references/materials_project.parquet"
"""What came from the Materials Project: fetched once, whoever goes on with the campaign."""
LARGEST_SUBSYSTEM = 3
"""Structure types of more elements are not on the list."""


def _field(name: str, kind: pa.DataType, description: str, unit: str = "") -> pa.Field:
    return pa.field(name, kind, metadata={"description": description, "unit": unit})


REFERENCE_SCHEMA = pa.schema(
    [
        _field("reference_id", pa.string(), "unique id of the phase"),
        _field("chemical_system", pa.string(), "its own elements, joined by hyphens"),
        _field("formula", pa.string(), "reduced formula"),
        _field("energy_per_atom", pa.float64(), "null if the relaxation failed", "eV/atom"),
        _field("source", pa.string(), "where the phase comes from"),
        _field("calculator", pa.string(), "name and fingerprint of the potential"),
        _field("converged", pa.bool_(), "whether the relaxation reached fmax"),
        _field("n_steps", pa.int64(), "steps of the relaxation"),
        _field("error", pa.string(), "why the relaxation failed"),
        *STRUCTURE_FIELDS,
    ]
)


class References:
    """The reference phases of a campaign: which are still to be relaxed, and which are known.

    Args:
        campaign: names the chemical systems and where the phases come from.
        store: keeps the phases of finished subsystems.
        calculator: another potential than the campaign's.
        systems: some of its chemical systems; all of them if absent.
        directory: where in the store the phases are kept.
        wanted: ids of the structure types to relax; all if absent.

    Raises:
        UserError: if the file of reference phases cannot be used.
    """

    def __init__(
        self,
        campaign: Campaign,
        store: Store,
        *,
        calculator: str | None = None,
        systems: Iterable[str] | None = None,
        directory: str = DIRECTORY,
        wanted: Container[str] | None = None,
    ) -> None:
        self._store = store
        self._directory = directory
        self._wanted = wanted
        self._calculator = load_calculator(calculator or campaign.relaxation.calculator).fingerprint
        # One chemical system after the other, so that the first hulls are complete early.
        self._systems = list(
            dict.fromkeys(
                subsystem
                for system in (chemical_systems(campaign) if systems is None else systems)
                for subsystem in subsystems([system])
            )
        )
        self._known = _known_phases(campaign, store, elements_of(self._systems))
        self.source = self._known.source if self._known else PROTOTYPES
        """The value of the column ``hull_source``."""
        if self._known:
            needed = self._known.needs_elements
            self._systems = [s for s in self._systems if "-" not in s] if needed else []
        stored = set(store.files.names(directory))
        self._finished = [s for s in self._systems if f"{s}.parquet" in stored]
        self._to_do = [s for s in self._systems if s not in set(self._finished)]
        self._expected: dict[str, list[str]] = {}
        self._relaxed: dict[str, dict[str, Row]] = defaultdict(dict)
        self._publish_file()

    @staticmethod
    def fingerprint_of(setting: str) -> str:
        """Return what changes whenever the reference phases may, but for the potential.

        Args:
            setting: ``references`` of the campaign file.

        Raises:
            UserError: if it names a file that cannot be read.
        """
        if setting == MP:
            # What was fetched stays with the results; its version is in the hull's source.
            return f"{MP}-{THERMO_TYPE}"
        file = _file_of(setting)
        if file is None:
            return f"{PROTOTYPES}-{prototypes_fingerprint()}"
        read_reference_file(file, ())
        return f"file-{hashlib.sha256(file.read_bytes()).hexdigest()[:16]}"

    @property
    def total(self) -> int:
        """How many phases there are to relax, those that are finished included."""
        return sum(phase_count(system) for system in self._systems)

    @property
    def done(self) -> int:
        """How many of them are relaxed."""
        finished = sum(phase_count(system) for system in self._finished)
        return finished + sum(len(rows) for rows in self._relaxed.values())

    def missing(self) -> Iterator[Row]:
        """Yield the phases that are still to be relaxed, as rows for `RelaxationStage`.

        Subsystem by subsystem, the elements of each system first, so that one after the other is
        finished.
        """
        for system in list(self._to_do):
            rows = [
                row
                for row in reference_rows(system)
                if self._wanted is None or row["sample_id"] in self._wanted
            ]
            self._expected[system] = [row["sample_id"] for row in rows]
            yield from rows
            if not rows:
                self._finish(system)

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a relaxed phase that `missing` gave; the last one of a subsystem stores them."""
        system = str(row["chemical_system"])
        relaxed = self._relaxed[system]
        relaxed[row["sample_id"]] = _reference_row(row, self._calculator)
        if len(relaxed) == len(self._expected[system]):
            self._finish(system)

    def _finish(self, system: str) -> None:
        """Store the phases of a subsystem, all of which are relaxed."""
        relaxed = self._relaxed.pop(system, {})
        rows = [relaxed[identity] for identity in self._expected[system]]
        table = pa.Table.from_pylist(rows, schema=REFERENCE_SCHEMA)
        self._store.write_table(self._table_name(system), table)
        self._to_do.remove(system)
        self._finished.append(system)
        self._publish_file()

    def is_complete(self, chemical_system: str) -> bool:
        """Return whether no phase within a chemical system is still to be relaxed."""
        to_do = set(self._to_do)
        return not any(system in to_do for system in subsystems([chemical_system]))

    def rows(self, chemical_system: str) -> list[Row]:
        """Return the finished phases with an energy in a chemical system and its subsystems."""
        elements = set(chemical_system.split("-"))
        known = (
            self._known_rows(elements)
            if self._known
            else self._stored_rows(subsystems([chemical_system]))
        )
        return [
            row
            for row in known
            if row["energy_per_atom"] is not None
            and set(row["chemical_system"].split("-")) <= elements
        ]

    def _stored_rows(self, systems: Iterable[str]) -> list[Row]:
        finished = set(self._finished)
        rows: list[Row] = []
        for system in systems:
            name = self._table_name(system)
            table = self._store.read_table(name) if system in finished else None
            if table is not None:
                rows.extend(table.cast(REFERENCE_SCHEMA).to_pylist())
        return rows

    def _known_rows(self, within: set[str] | None = None) -> list[Row]:
        """Return the phases of the table, with energies on the potential's scale.

        Args:
            within: only phases of these elements; None for all.
        """
        elements = self._stored_rows(self._systems)
        lowest: dict[str, float] = {}
        for row in elements:
            energy = row["energy_per_atom"]
            if energy is not None:
                symbol = row["chemical_system"]
                lowest[symbol] = min(energy, lowest.get(symbol, energy))
        phases = self._known.phases if self._known else []
        rows = [
            phase.row(lowest, self.source)
            for phase in phases
            if within is None or phase.elements <= within
        ]
        # An element whose ground state the table has needs no structure type.
        given = {
            row["chemical_system"]
            for row in rows
            if row["energy_per_atom"] is not None
            and row["energy_per_atom"] <= lowest.get(row["chemical_system"], -inf)
        }
        return rows + [row for row in elements if row["chemical_system"] not in given]

    def _publish_file(self) -> None:
        """Store the phases of the table, once their energies are known."""
        name = self._table_name("file")
        if self._known and not self._to_do and not self._store.files.exists(name):
            table = pa.Table.from_pylist(self._known_rows(), schema=REFERENCE_SCHEMA)
            self._store.write_table(name, table)

    def _table_name(self, chemical_system: str) -> str:
        return f"{self._directory}/{chemical_system}.parquet"


def choose_references(campaign: Campaign, say: Callable[[str], None]) -> Campaign:
    """Return a new campaign with ``auto`` replaced by ``mp``, if the Materials Project can be used.

    Args:
        campaign: as it was written.
        say: told what was chosen whenever there is a key.
    """
    if campaign.references != AUTO or not has_key():
        return campaign
    if not is_installed():
        say(f"{KEY} is set, but mp-api is not there ({PACKAGE}): references are {PROTOTYPES}")
        return campaign
    calculator = load_calculator(campaign.relaxation.calculator)
    if not calculator.corrected:
        say(
            f"{KEY} is set, but energies of {calculator.name} lack the corrections of the "
            f"Materials Project's: references are {PROTOTYPES}"
        )
        return campaign
    say(f"{KEY} is set: references are the phases of the Materials Project")
    return campaign.model_copy(update={"references": MP})


def check_scale(setting: str, calculator: Calculator, field: str = FIELD) -> None:
    """Check that the energies of known phases and of a potential may be compared.

    Args:
        setting: ``references`` of the campaign file.
        calculator: the potential.
        field: what asks for it, for the message.

    Raises:
        UserError: if only those of the phases are corrected.
    """
    file = _file_of(setting)
    corrections = read_reference_file(file, ()).corrections if file else None
    if setting == MP:
        corrections = PBE_CORRECTIONS
    if corrections is not None and not calculator.corrected:
        raise UserError(
            f"references is {setting}, whose energies contain the corrections of {corrections}, "
            f"and energies of {field} {calculator.name} do not; allowed: "
            f"{PROTOTYPES}, a file without such corrections, or a calculator with them "
            f"({', '.join(name for name, known in POTENTIALS.items() if known.corrected)})"
        )


def fetch_if_absent(campaign: Campaign, store: Store) -> pa.Table | None:
    """Fetch the phases that a campaign takes from the Materials Project and does not have yet.

    Returns:
        What belongs into the store as `FETCHED`; None if there is nothing to fetch.

    Raises:
        UserError: as `fetch_phases` does.
        RunError: as `fetch_phases` does.
    """
    if campaign.references != MP or store.files.exists(FETCHED):
        return None
    return fetch_phases(chemical_systems(campaign))


def _known_phases(
    campaign: Campaign, store: Store, elements: tuple[str, ...]
) -> KnownPhases | None:
    """Return the phases that take the place of structure types, or None."""
    if campaign.references != MP:
        file = _file_of(campaign.references)
        return read_reference_file(file, elements) if file else None
    fetched = fetch_if_absent(campaign, store)
    if fetched is not None:
        store.write_table(FETCHED, fetched)
    table = store.read_table(FETCHED)
    return known_phases(table, Path(FETCHED), elements)


def subsystems(systems: Iterable[str]) -> list[str]:
    """Return the chemical systems within others, the smallest first, up to `LARGEST_SUBSYSTEM`."""
    found = {
        "-".join(elements)
        for system in systems
        for size in range(1, LARGEST_SUBSYSTEM + 1)
        for elements in combinations(sorted(system.split("-")), size)
    }
    return sorted(found, key=lambda system: (system.count("-"), system))


def elements_of(systems: Iterable[str]) -> tuple[str, ...]:
    """Return the elements of chemical systems, alphabetically."""
    return tuple(sorted({element for system in systems for element in system.split("-")}))


def reference_rows(chemical_system: str) -> list[Row]:
    """Return what to relax for a chemical system itself, without its subsystems."""
    name = chemical_system_name(chemical_system, "chemical_system")
    rows = []
    for designation, structure in phases(name):
        columns = structure_columns(structure)
        identity = f"{columns['chemical_formula_reduced']} {designation}"
        rows.append({"sample_id": identity, "chemical_system": name, "status": "kept", **columns})
    return rows


def _reference_row(row: Mapping[str, Any], calculator: str) -> Row:
    """Turn a relaxed row of `reference_rows` into a row of `REFERENCE_SCHEMA`."""
    return {
        "reference_id": row["sample_id"],
        "chemical_system": row["chemical_system"],
        "formula": row["chemical_formula_reduced"],
        "energy_per_atom": row.get("energy_per_atom"),
        "source": PROTOTYPES,
        "calculator": calculator,
        "converged": row.get("converged"),
        "n_steps": row.get("n_steps"),
        "error": row.get("error"),
        **{name: row[name] for name in STRUCTURE_COLUMNS},
    }


def _file_of(setting: str) -> Path | None:
    return None if setting in (AUTO, MP, PROTOTYPES) else Path(setting)

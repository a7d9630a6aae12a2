"""A second potential for the best candidates.

Among thousands of candidates the lowest are those for which the potential errs most: 13 of the lowest
16 of a campaign with CHGNet lay above the hull with SevenNet-0 (decision 80). So the best are relaxed
again with another potential, from where the first one left them, and placed on its own hull: that of
the same reference phases, whose energies are its own, too. Structure types far above the first hull
are left out; other phases keep the formation energies of their source, on top of the elements'.
Candidates of which it makes one and the same crystal, or a reference phase, are found as for the
first potential.

What is relaxed is kept in ``_rescoring/<potential>/``, so that an interrupted run goes on from there,
and a longer list of the best begins with what is known.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from screening.calculators import load_calculator
from screening.campaign import Rescoring
from screening.crews import relaxation_crew
from screening.deduplication import deduplicate, match_references
from screening.errors import UserError
from screening.export import cif_text
from screening.hull import KnownHull, place_on_hull
from screening.references import PROTOTYPES, References, check_scale
from screening.relaxation import RelaxationStage
from screening.schema import (
    CANDIDATE_SCHEMA,
    RESCORED_FIELDS,
    structure_from_row,
    table_from_rows,
    with_all_columns,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from screening.campaign import Campaign
    from screening.cluster import Cluster
    from screening.crews import Crew
    from screening.pool import Outcome
    from screening.progress import Progress
    from screening.store import Store

Row = dict[str, Any]

RESCORING = "rescoring"
SETTING = "rescoring.json"
"""What is asked for; a command may ask for more than the campaign file."""
RESCORED_SCHEMA = pa.schema([CANDIDATE_SCHEMA.field("sample_id"), *RESCORED_FIELDS])

_DIRECTORY = "_rescoring"
_HIGHEST_PHASE = 0.2
"""eV/atom above the first hull, up to which a structure type may be on the second."""
_KEEP_AT = 32
"""Relaxed candidates that are then stored."""
_POLL_S = 0.5
_PHASE = "phase "
_PIECE = re.compile(r"[0-9a-f]{16}\.parquet")
_UNSAFE = re.compile(r"[^A-Za-z0-9.-]+")


def check_rescoring(campaign: Campaign, setting: Rescoring) -> None:
    """Check that a second potential is there, is another one, and fits the reference phases.

    Raises:
        UserError: if not.
    """
    field = "rescoring.calculator"
    second = load_calculator(setting.calculator, field)
    if second.fingerprint == load_calculator(campaign.relaxation.calculator).fingerprint:
        raise UserError(
            f"{field} is {second.name}, with which the candidates have been relaxed already; "
            f"allowed: another potential than relaxation.calculator"
        )
    check_scale(campaign.references, second, field)


def keep_setting(store: Store, setting: Rescoring | None) -> Rescoring | None:
    """Store what is asked for now, and return what has been asked for, now or before.

    Raises:
        UserError: if what was stored before is damaged.
    """
    if setting is not None:
        store.write_json(SETTING, setting.model_dump())
        return setting
    if not store.files.exists(SETTING):
        return None
    values = store.read_json(SETTING)
    if not isinstance(values, dict):
        raise UserError(f"{store.uri}/{SETTING} is damaged; remove it, and ask for it again")
    return Rescoring.from_mapping(values, f"{store.uri}/{SETTING}")


def forget_failures(store: Store, setting: Rescoring) -> None:
    """Forget the candidates that could not be relaxed again, so that they are tried once more."""
    directory = _directory_of(setting)
    for name, table in _pieces(store, directory):
        good = table.filter(pc.not_equal(table["status"], "failed"))
        if good.num_rows < table.num_rows:
            store.write_table(name, good)


def _directory_of(setting: Rescoring) -> str:
    label = load_calculator(setting.calculator).fingerprint
    return f"{_DIRECTORY}/{_UNSAFE.sub('_', label)}"


def _pieces(store: Store, directory: str) -> Iterator[tuple[str, pa.Table]]:
    """Yield the files of candidates that were relaxed before, by name."""
    for piece in filter(_PIECE.fullmatch, store.files.names(directory)):
        name = f"{directory}/{piece}"
        if (table := store.read_table(name)) is not None:
            yield name, with_all_columns(table, CANDIDATE_SCHEMA)


@dataclass(frozen=True)
class RescoringStage:
    """Relaxes crystals with the second potential, and writes them as CIF."""

    relaxation: RelaxationStage

    def setup(self) -> None:
        """Load the potential."""
        self.relaxation.setup()

    def __call__(self, row: Row) -> Row:
        """Return the row as that of a candidate of the second potential."""
        relaxed = self.relaxation(row)
        if relaxed["status"] != "kept":
            return relaxed
        return {**relaxed, "cif": cif_text(structure_from_row(relaxed))}


class Rescorer:
    """The relaxation of the best candidates with a second potential.

    Args:
        campaign: what was done.
        setting: what is asked for.
        store: keeps what is relaxed.
        references: the reference phases with the first potential.
        progress: counts structures.
    """

    def __init__(
        self,
        campaign: Campaign,
        setting: Rescoring,
        store: Store,
        references: References,
        progress: Progress,
    ) -> None:
        self._campaign = campaign
        self._setting = setting
        self._store = store
        self._first = references
        self._progress = progress
        self._label = load_calculator(setting.calculator).fingerprint
        self._directory = _directory_of(setting)
        self._unkept: list[Row] = []

    def rescore(self, cluster: Cluster, best: pa.Table) -> pa.Table:
        """Relax candidates and place them on the second hull.

        Args:
            cluster: does the work.
            best: of `CANDIDATE_SCHEMA`.

        Returns:
            One row per candidate, of `RESCORED_SCHEMA`.
        """
        rows = best.to_pylist()
        known = self._known()
        relaxed = {name: known[name] for row in rows if (name := row["sample_id"]) in known}
        second = self._second_references(sorted({row["chemical_system"] for row in rows}))
        work = {_PHASE + phase["sample_id"]: phase for phase in second.missing()}
        work |= {name: row for row in rows if (name := row["sample_id"]) not in relaxed}
        self._progress.stages[RESCORING].total = len(work) + len(relaxed)
        self._progress.skip(RESCORING, len(relaxed))
        for outcome in self._relaxed(cluster, work):
            found = outcome.value
            if outcome.error is not None:
                found = {**work[outcome.key], "status": "failed", "error": outcome.error}
            failed = int(found["status"] == "failed")
            self._progress.advance(RESCORING, 1, failed, outcome.busy_s)
            if outcome.key.startswith(_PHASE):
                second.add(found)
            else:
                relaxed[outcome.key] = found
                self._unkept.append(found)
            if len(self._unkept) == _KEEP_AT:
                self._keep()
        self._keep()
        return self._placed([relaxed[row["sample_id"]] for row in rows], second)

    def _relaxed(self, cluster: Cluster, work: dict[str, Row]) -> Iterator[Outcome]:
        """Relax the crystals of rows, side by side."""
        if not work:
            return
        how = self._campaign.relaxation
        relaxation = RelaxationStage(
            self._setting.calculator, how.fmax, how.max_steps, device=how.device, meant=self._label
        )
        all_of_them = relaxation_crew(how.device)

        def crew(cpus: int, gpus: int) -> Crew:
            largest = all_of_them(cpus, gpus)
            return replace(largest, size=min(largest.size, len(work)))

        pool = cluster.elastic_pool(RESCORING, RescoringStage(relaxation), crew)
        queue = iter(work.items())
        while True:
            for key, row in islice(queue, max(0, pool.capacity - pool.pending)):
                pool.submit(key, row)
                self._progress.begin(RESCORING)
            if not pool.pending:
                break
            yield from cluster.completed(_POLL_S)
            self._progress.stages[RESCORING].workers = pool.size
            self._progress.tick()
        cluster.close(pool)

    def _known(self) -> dict[str, Row]:
        """Return the rows of candidates that were relaxed before, by sample."""
        rows: dict[str, Row] = {}
        for _, table in _pieces(self._store, self._directory):
            rows |= {row["sample_id"]: row for row in table.to_pylist()}
        return rows

    def _keep(self) -> None:
        """Store what has been relaxed since the last time."""
        if not self._unkept:
            return
        names = "\n".join(row["sample_id"] for row in self._unkept)
        digest = hashlib.sha256(names.encode()).hexdigest()[:16]
        table = table_from_rows(self._unkept, CANDIDATE_SCHEMA)
        self._store.write_table(f"{self._directory}/{digest}.parquet", table)
        self._unkept = []

    def _second_references(self, systems: list[str]) -> References:
        """Return the reference phases of chemical systems, for the second potential."""
        wanted = None
        if self._first.source == PROTOTYPES:
            wanted = {name for system in systems for name in self._low_phases(system)}
        return References(
            self._campaign,
            self._store,
            calculator=self._setting.calculator,
            systems=systems,
            directory=f"{self._directory}/references",
            wanted=wanted,
        )

    def _low_phases(self, system: str) -> Iterator[str]:
        """Yield the ids of the phases in a chemical system that may be on the second hull."""
        phases = self._first.rows(system)
        hull = KnownHull(system, phases)
        for phase in phases:
            floor = hull.energy_per_atom(phase["formula"])
            if floor is None or phase["energy_per_atom"] <= floor + _HIGHEST_PHASE:
                yield phase["reference_id"]

    def _placed(self, rows: list[Row], references: References) -> pa.Table:
        """Return what the second potential says of relaxed candidates."""
        systems: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            # A crystal that did not converge has an energy, but no place.
            has_place = row["status"] == "kept" and row["converged"]
            systems[row["chemical_system"]].append(
                {**row, "status": "kept" if has_place else "failed"}
            )
        placed: dict[str, Row] = {}
        for system, of_system in systems.items():
            phases = references.rows(system)
            # Crystals that differ with one potential may be the same with another.
            compared = match_references(deduplicate(of_system), phases)
            for row in place_on_hull(compared, phases):
                placed[row["sample_id"]] = row
        return pa.Table.from_pylist(
            [
                {
                    "sample_id": row["sample_id"],
                    "rescored_calculator": self._label,
                    "rescored_energy_per_atom": row.get("energy_per_atom"),
                    "rescored_formation_energy_per_atom": place["formation_energy_per_atom"],
                    "rescored_e_above_hull": place["e_above_hull"],
                    "rescored_converged": row.get("converged"),
                    "rescored_error": row.get("error"),
                    "rescored_cif": row.get("cif"),
                    "rescored_duplicate_of": None
                    if place["is_representative"] is not False
                    else place["group_id"],
                    "rescored_matched_reference_id": place["matched_reference_id"],
                }
                if row["status"] == "kept"
                else {
                    "sample_id": row["sample_id"],
                    "rescored_calculator": self._label,
                    "rescored_error": row["error"],
                }
                for row in rows
                for place in [placed[row["sample_id"]]]
            ],
            schema=RESCORED_SCHEMA,
        )

"""The long part of a campaign, as a stream: units are sampled, filtered and relaxed.

Samplers are given as many units at once as fill their device, and units that they could not draw
together once more, one by one. In the same way relaxers get crystals of one unit, a few at a time: which
ones is fixed by the unit, because a potential's last bits depend on what it is asked about together.

A unit is stored as soon as its last crystal is relaxed, so that little is lost whenever a run ends.
Reference phases are relaxed by the same workers, whenever these have nothing more urgent to do; if
crystals are to be given up that lie above the hull, the phases of their chemical system come first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain, groupby, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from screening.crews import relaxation_crew, sampling_crew
from screening.errors import refuse_another
from screening.graphs import prepare_units
from screening.grid import units
from screening.hull import KnownHull
from screening.ledger import total
from screening.packing import SITES_ON_CPU, SITES_ON_GPU, Packer
from screening.relaxation import RelaxationStage, Rival
from screening.sampling import sampling_stage
from screening.screens import FilterStage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from screening.campaign import Campaign
    from screening.cluster import Cluster
    from screening.grid import Unit
    from screening.pool import Outcome, Pool, Stage
    from screening.progress import Progress
    from screening.references import References
    from screening.sampling import Sampling
    from screening.store import Store

Row = dict[str, Any]

GRAPHS = "graphs"
SAMPLING = "sampling"
RELAXATION = "relaxation"
REFERENCES = "references"
SAMPLERS = "sampling"
RELAXERS = "relaxation"

RELAXED_TOGETHER = {"cpu": 8, "gpu": 64}
"""Crystals that a relaxer is given at once, by device. On a core one takes 0.13 s alone, 0.09 s with
seven others and 0.09 s with eleven (CHGNet, five atoms each)."""
_WAITING_PER_RELAXER = 6
"""Pieces of work of that many crystals that wait for a relaxer, before sampling pauses."""
_HULLS = 8
"""Hulls that are remembered: units come chemical system by chemical system."""
_COMPACT_AT = 512
"""Finished units whose files are then merged."""
_POLL_S = 0.5
_URGENT, _LATER = 0, 1
_REFERENCE = "reference "
_ACTIVITY = "sampling and relaxing"


@dataclass(frozen=True)
class SampleAndFilter:
    """What a sampler does: draw the crystals of units, then filter them."""

    sampling: Sampling
    filters: FilterStage
    generator: str
    """The fingerprint that it must have."""

    def setup(self) -> None:
        """Load the weights.

        Raises:
            UserError: if they are others than the work began with.
        """
        self.sampling.setup()
        refuse_another("generator", self.sampling.generator, self.generator)
        self.filters.setup()

    def __call__(self, prepared: Any) -> list[Row]:
        """Return one row per sample: kept, filtered or failed."""
        return self.filters(self.sampling(prepared))


@dataclass(frozen=True)
class RelaxTogether:
    """What a relaxer does: relax crystals, so that the potential is asked about all of them at once."""

    relaxation: RelaxationStage

    def setup(self) -> None:
        """Load the potential."""
        self.relaxation.setup()

    def __call__(self, works: Sequence[Row | Rival]) -> list[Row]:
        """Return one row per crystal: relaxed, given up, or failed."""
        return self.relaxation.together(works)


@dataclass(frozen=True)
class Stages:
    """What the workers of a campaign hold."""

    sampling: Stage
    """From prepared units to one row per sample, unit after unit."""
    relaxation: Stage
    """From rows of samples, or of reference phases, to those of the relaxed crystals."""
    prepare: Callable[[tuple[Unit, ...]], Any]
    """From units to what a sampler takes."""

    @classmethod
    def of(cls, campaign: Campaign, generator: str, calculator: str) -> Stages:
        """Return the stages that a campaign asks for.

        Args:
            campaign: What to do.
            generator: The column of that name, as the campaign was begun.
            calculator: The fingerprint of the potential, as the campaign was begun.
        """
        filters, relaxation = campaign.filters, campaign.relaxation
        return cls(
            SampleAndFilter(
                sampling_stage(campaign.generator, filters.max_atoms),
                FilterStage(**filters.model_dump()),
                generator,
            ),
            RelaxTogether(RelaxationStage(**relaxation.model_dump(), meant=calculator)),
            prepare_units,
        )


@dataclass
class _OpenUnit:
    """A unit under way."""

    unit: Unit
    attempts: int
    samples: list[Row]
    seconds: dict[str, float]
    candidates: list[Row] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        n_kept = sum(row["status"] == "kept" for row in self.samples)
        return bool(len(self.candidates) == n_kept)


class Sweep:
    """The stream of a campaign's units through the workers of a cluster.

    Args:
        campaign: What to do.
        store: Where finished units go; those that it holds already are left alone.
        references: The reference phases that are still to be relaxed.
        generator: The column `generator` of all samples.
        progress: Counts what is done.
        stages: What the workers do; what the campaign asks for when absent.
    """

    def __init__(
        self,
        campaign: Campaign,
        store: Store,
        references: References,
        generator: str,
        progress: Progress,
        stages: Stages | None = None,
    ) -> None:
        self._stages = stages or Stages.of(campaign, generator, store.fingerprints["calculator"])
        self._store = store
        self._references = references
        self._generator = generator
        self._progress = progress
        finished = store.ledger.finished()
        self._uncompacted = len(finished.loose)
        done = store.marks(["samples", "kept"])
        self._kept = total(done, "kept")
        self._waiting: dict[str, tuple[Unit, ...]] = {}
        self._open: dict[str, _OpenUnit] = {}
        self._relaxing: dict[str, tuple[Row, ...]] = {}
        self._needs_hulls = campaign.relaxation.give_up_above is not None
        self._hulls: dict[str, KnownHull] = {}
        self._held: dict[str, list[tuple[Row, ...]]] = {}
        self._device = campaign.relaxation.device
        self._at_once = RELAXED_TOGETHER[self._device]
        self._phases = relaxed_together(references.missing(), "chemical_system", self._at_once)
        n_done = total(done, "samples")
        todo = (unit for unit in units(campaign) if unit not in finished)
        self._packer = Packer(todo, progress.stages[SAMPLING].total - n_done)
        self._count_what_is_done(n_done)

    def _count_what_is_done(self, n_samples: int) -> None:
        self._progress.skip(SAMPLING, n_samples)
        self._progress.skip(RELAXATION, self._kept)
        self._progress.stages[REFERENCES].total = self._references.total
        self._progress.skip(REFERENCES, self._references.done)
        self._foresee_relaxations(0)

    def run(self, cluster: Cluster, num_samplers: int | None = None) -> None:
        """Do all units and reference phases that are not done yet."""
        if not self._has_work():
            return
        self._progress.do("loading the model and the potential")
        samplers, relaxers = self._start(cluster, num_samplers)
        while self._feed(samplers, relaxers):
            if self._progress.activity != _ACTIVITY and samplers.ready and relaxers.ready:
                self._progress.do(_ACTIVITY)
            for outcome in cluster.completed(_POLL_S):
                if outcome.pool == SAMPLERS:
                    self._take_samples(outcome, samplers, relaxers)
                elif outcome.key.startswith(_REFERENCE):
                    self._take_references(outcome, relaxers)
                else:
                    self._take_candidates(outcome, relaxers)
            if self._packer.is_empty and not samplers.pending:
                cluster.close(samplers)  # the memory and the cores it held are the relaxers'
            cluster.could_use_more = (
                not self._packer.is_empty or relaxers.pending > relaxers.capacity
            )
            for stage in self._progress.stages.values():
                stage.workers = (samplers if stage.pool == SAMPLERS else relaxers).size
            self._progress.tick()
        cluster.could_use_more = False
        cluster.close(samplers)
        cluster.close(relaxers)

    def _has_work(self) -> bool:
        phases = next(self._phases, None)
        self._phases = chain([phases], self._phases) if phases else iter(())
        return phases is not None or not self._packer.is_empty

    def _start(self, cluster: Cluster, num_samplers: int | None) -> tuple[Pool, Pool]:
        crew = relaxation_crew(self._device)
        relaxers = cluster.elastic_pool(RELAXERS, self._stages.relaxation, crew, ahead=1)
        samplers = cluster.elastic_pool(
            SAMPLERS,
            self._stages.sampling,
            sampling_crew(num_samplers, self._device, self._needs_hulls),
            prepare=self._stages.prepare,
        )
        return samplers, relaxers

    def _feed(self, samplers: Pool, relaxers: Pool) -> bool:
        """Queue as much as the workers can take soon; say whether anything is under way."""
        while (
            samplers.pending < samplers.capacity
            and self._n_waiting < _WAITING_PER_RELAXER * self._at_once * relaxers.size
            and not self._packer.is_empty
        ):
            n_sites = SITES_ON_GPU if samplers.has_gpus else SITES_ON_CPU
            self._sample(self._packer.take(n_sites, 2 * samplers.size), samplers)
        while (
            relaxers.pending < 2 * relaxers.capacity
            and (phases := next(self._phases, None)) is not None
        ):
            self._relax_phases(phases, relaxers)
        return bool(samplers.pending or relaxers.pending)

    def _sample(self, pack: tuple[Unit, ...], samplers: Pool) -> None:
        key = pack[0].unit_id
        self._waiting[key] = pack
        samplers.submit(key, pack)
        self._progress.begin(SAMPLING)

    def _take_samples(self, outcome: Outcome, samplers: Pool, relaxers: Pool) -> None:
        pack = self._waiting.pop(outcome.key)
        if outcome.error is None:
            rows = iter(outcome.value)
            n_sites = sum(unit.n_sites for unit in pack)
            for unit in pack:
                samples = list(islice(rows, unit.count))
                self._open_unit(unit, samples, outcome, unit.n_sites / n_sites, relaxers)
        elif len(pack) == 1:
            self._fail(pack[0], outcome)
        else:
            for unit in pack:
                self._sample((unit,), samplers)

    def _open_unit(
        self, unit: Unit, samples: list[Row], outcome: Outcome, share: float, relaxers: Pool
    ) -> None:
        """Hand on the samples of a unit; its share of the time for its pack is by its sites."""
        sampling_s = share * outcome.busy_s
        seconds = {GRAPHS: share * outcome.prepare_s, SAMPLING: sampling_s, RELAXATION: 0.0}
        opened = _OpenUnit(unit, outcome.attempts, samples, seconds)
        self._open[unit.unit_id] = opened
        kept = [row for row in opened.samples if row["status"] == "kept"]
        for rows in relaxed_together(kept, "unit_id", self._at_once):
            self._relax(rows, relaxers)
            self._progress.begin(RELAXATION)
        failed = sum(row["status"] == "failed" for row in opened.samples)
        self._progress.advance(SAMPLING, unit.count, failed, sampling_s)
        self._foresee_relaxations(len(kept))
        self._store_if_complete(opened)

    def _relax(self, rows: tuple[Row, ...], relaxers: Pool) -> None:
        """Queue crystals of a unit for relaxation, once the hull they are measured by is known."""
        system, key = rows[0]["chemical_system"], rows[0]["sample_id"]
        works: list[Row | Rival] = [*rows]
        if self._needs_hulls:
            if not self._references.is_complete(system):
                self._held.setdefault(system, []).append(rows)
                return
            hull = self._hull(system)
            floors = [hull.energy_per_atom(row["chemical_formula_reduced"]) for row in rows]
            works = [
                row if floor is None else Rival(row, floor)
                for row, floor in zip(rows, floors, strict=True)
            ]
        self._relaxing[key] = rows
        relaxers.submit(key, works, priority=_URGENT)

    def _relax_phases(self, phases: tuple[Row, ...], relaxers: Pool) -> None:
        """Queue reference phases for relaxation."""
        key = _REFERENCE + phases[0]["sample_id"]
        self._relaxing[key] = phases
        relaxers.submit(key, phases, priority=_URGENT if self._needs_hulls else _LATER)
        self._progress.begin(REFERENCES)

    def _hull(self, system: str) -> KnownHull:
        if system not in self._hulls:
            if len(self._hulls) == _HULLS:
                del self._hulls[next(iter(self._hulls))]
            self._hulls[system] = KnownHull(system, self._references.rows(system))
        return self._hulls[system]

    @property
    def _n_waiting(self) -> int:
        """Number of crystals that wait for reference phases or for a relaxer, or are with one."""
        held = [rows for of_system in self._held.values() for rows in of_system]
        return sum(len(rows) for rows in chain(held, self._relaxing.values()))

    def _fail(self, unit: Unit, outcome: Outcome) -> None:
        """Record a unit that could not be sampled: every sample of it, with the error."""
        self._progress.say(f"unit {unit.unit_id} failed: {outcome.error}")
        failed = {"generator": self._generator, "status": "failed", "error": outcome.error}
        rows = [{**unit.columns(position), **failed} for position in range(unit.count)]
        self._write(unit, rows, [], state="failed", attempts=outcome.attempts, error=outcome.error)
        self._progress.advance(SAMPLING, unit.count, failed=unit.count)
        self._foresee_relaxations(0)

    def _foresee_relaxations(self, kept: int) -> None:
        """Estimate how many samples of the units to come will be relaxed."""
        sampling, relaxation = (self._progress.stages[name] for name in (SAMPLING, RELAXATION))
        self._kept += kept
        to_come = sampling.total - sampling.done
        ratio = (self._kept + 1) / (sampling.done + 1)
        relaxation.total = self._kept + round(ratio * to_come)
        relaxation.total_is_final = to_come == 0

    def _take_candidates(self, outcome: Outcome, relaxers: Pool) -> None:
        """Keep relaxed crystals, or the error, with their unit."""
        rows = self._relaxing.pop(outcome.key)
        if outcome.error is not None and len(rows) > 1:
            for row in rows:  # one of them may be at fault
                self._relax((row,), relaxers)
            return
        opened = self._open[rows[0]["unit_id"]]
        for row, candidate in zip(rows, _relaxed(outcome, rows), strict=True):
            if candidate["status"] == "filtered":  # given up: a sample that is no candidate
                opened.samples[opened.samples.index(row)] = candidate
            else:
                opened.candidates.append(candidate)
            failed = int(candidate["status"] == "failed")
            self._progress.advance(RELAXATION, 1, failed, outcome.busy_s / len(rows))
        opened.seconds[RELAXATION] += outcome.busy_s
        self._store_if_complete(opened)

    def _take_references(self, outcome: Outcome, relaxers: Pool) -> None:
        """Keep relaxed reference phases, or the error, and queue the crystals that waited for them."""
        phases = self._relaxing.pop(outcome.key)
        if outcome.error is not None and len(phases) > 1:
            for phase in phases:
                self._relax_phases((phase,), relaxers)
            return
        for row in _relaxed(outcome, phases):
            self._references.add(row)
            failed = int(row["status"] == "failed")
            self._progress.advance(REFERENCES, 1, failed, outcome.busy_s / len(phases))
        for system in [name for name in self._held if self._references.is_complete(name)]:
            for held in self._held.pop(system):
                self._relax(held, relaxers)

    def _store_if_complete(self, opened: _OpenUnit) -> None:
        if not opened.is_complete:
            return
        del self._open[opened.unit.unit_id]
        self._write(
            opened.unit,
            opened.samples,
            sorted(opened.candidates, key=lambda row: str(row["sample_id"])),
            seconds=opened.seconds,
            attempts=opened.attempts,
        )

    def _write(self, unit: Unit, samples: list[Row], candidates: list[Row], **how: Any) -> None:
        """Store a unit, and merge the files of many as they become many."""
        self._store.write_unit(unit, samples, candidates, **how)
        self._uncompacted += 1
        if self._uncompacted >= _COMPACT_AT:
            self._store.compact()
            self._uncompacted = 0


def relaxed_together(rows: Iterable[Row], column: str, count: int) -> Iterator[tuple[Row, ...]]:
    """Yield rows that have the same value in a column, up to so many at a time."""
    for _, group in groupby(rows, key=itemgetter(column)):
        while part := tuple(islice(group, count)):
            yield part


def _relaxed(outcome: Outcome, rows: Sequence[Row]) -> list[Row]:
    """Return what became of rows: as relaxers returned them, or failed."""
    if outcome.error is None:
        return list(outcome.value)
    return [{**row, "status": "failed", "error": outcome.error} for row in rows]

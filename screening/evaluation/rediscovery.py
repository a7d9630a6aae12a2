"""`screening evaluate rediscovery`: are known crystals found again from their input alone?

Per target, samples are drawn for its space group and site counts, filtered as in a campaign, and
compared with the answer before and after relaxation. Relaxation keeps the formula, and
``StructureMatcher`` never matches crystals of different reduced formulas, so that only samples with
the answer's formula are relaxed and compared: the hits are those of relaxing every sample.

Finished targets are kept beside the result, in ``R.json.partial/``, so that the same command goes
on where it stopped.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from screening.calculators import load_calculator
from screening.campaign import Filters, Generator, Relaxation
from screening.cluster import Cluster
from screening.crews import relaxation_crew, sampling_crew
from screening.errors import RunError, UserError
from screening.evaluation.figures import target_figures, total_figures
from screening.evaluation.judging import MATCHER, JudgingStage, Verdict
from screening.evaluation.partial import PartialResult
from screening.evaluation.provenance import hardware
from screening.evaluation.targets import read_targets
from screening.graphs import prepare_units
from screening.grid import cell_units
from screening.plan import RELAXATION_S, SAMPLING_S
from screening.progress import Progress, StageProgress
from screening.relaxation import RelaxationStage
from screening.sampling import generator_column, generator_parts, sampling_stage
from screening.screens import FilterStage
from screening.signals import terminated_like_interrupted
from screening.sweep import RELAXED_TOGETHER, SampleAndFilter, relaxed_together
from screening.versions import versions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from screening.evaluation.targets import Target, Targets
    from screening.grid import Unit
    from screening.pool import Outcome, Pool
    from screening.progress import View

Row = dict[str, Any]

GRAPHS = "graphs"
SAMPLING = "sampling"
JUDGING = "judging"
TARGETS = "targets"

UNIT_SIZE = 32
"""Samples at once, as in a campaign's default. What is relaxed together is of one unit, as there."""
_WAITING_PER_JUDGE = 6
"""Pieces of work of some crystals each, before sampling pauses."""
_POLL_S = 0.5


@dataclass(frozen=True)
class RediscoverySettings:
    """What to evaluate."""

    targets: Path
    out: Path
    """The result, a JSON file."""
    samples: int = 50
    """Per target."""
    seed: int = 0
    generator: Generator = field(default_factory=Generator)
    filters: Filters = field(default_factory=Filters)
    relaxation: Relaxation | None = field(default_factory=Relaxation)
    """None compares samples as they were drawn only."""

    @property
    def command(self) -> str:
        """The command that gives the same result."""
        words = ["screening", "evaluate", "rediscovery", "--targets", str(self.targets)]
        words += ["--samples", str(self.samples), "--out", str(self.out)]
        words += ["--generator", self.generator.method, "--seed", str(self.seed)]
        for name in ("checkpoint", "sampler"):
            if getattr(self.generator, name) != "default":
                words += [f"--{name}", getattr(self.generator, name)]
        if self.relaxation is None:
            words.append("--no-relax")
        elif self.relaxation.calculator != "default":
            words += ["--calculator", self.relaxation.calculator]
        return shlex.join(words)


def evaluate_rediscovery(
    settings: RediscoverySettings,
    view: View,
    *,
    address: str | None = None,
    num_cpus: int | None = None,
) -> Row:
    """Search for every target, and write the result.

    Args:
        settings: what to do.
        view: where progress is shown.
        address: a Ray cluster to join; None starts one on this machine and stops it at the end.
        num_cpus: cores of the Ray that is started; None takes all.

    Returns:
        What is in the file.

    Raises:
        UserError: if a file or a setting cannot be used.
        RunError: if it was stopped or cannot go on. Finished targets stay.
    """
    targets = read_targets(settings.targets)
    configuration = _configuration(settings, targets)
    partial = PartialResult(settings.out, configuration)
    if (finished := partial.finished_result()) is not None:
        view.say(f"{settings.out} holds this result already")
        return finished
    search = _Search(settings, targets, partial, view)
    with search.progress, terminated_like_interrupted():
        try:
            search.run(address, num_cpus)
        except KeyboardInterrupt:
            done, total = len(partial.finished_targets()), len(targets.entries)
            raise RunError(
                f"stopped with {done} of {total} targets finished; the same command goes on from "
                f"there"
            ) from None
    result = _result(settings, targets, partial)
    partial.finish(result)
    return result


def _configuration(settings: RediscoverySettings, targets: Targets) -> Row:
    """Return everything that the figures depend on, as plain values by name.

    Raises:
        UserError: if the checkpoint, the sampler or the potential cannot be used.
    """
    try:
        parts = generator_parts(settings.generator)
    except ValueError as error:  # the model's errors say what is wrong and what is allowed
        raise UserError(str(error)) from None
    configuration: Row = {
        "targets": targets.fingerprint,
        "samples": settings.samples,
        "seed": settings.seed,
        "generator": generator_column(parts),
        "min_distance": settings.filters.min_distance,
        "max_atoms": settings.filters.max_atoms,
        "calculator": None,
    }
    if settings.relaxation is not None:
        configuration |= {
            "calculator": load_calculator(settings.relaxation.calculator).fingerprint,
            "fmax": settings.relaxation.fmax,
            "max_steps": settings.relaxation.max_steps,
        }
    return configuration


def _result(settings: RediscoverySettings, targets: Targets, partial: PartialResult) -> Row:
    finished = partial.finished_targets()
    figures = [finished[target.key] for target in targets.entries]
    is_model = settings.generator.method == "model"
    return {
        "evaluation": "rediscovery",
        "command": settings.command,
        "configuration": partial.configuration,
        "generator": settings.generator.method,
        "checkpoint": partial.configuration["generator"].split("/")[0] if is_model else None,
        "seed": settings.seed,
        "matcher": MATCHER,
        "totals": total_figures(figures),
        "targets": figures,
        "wall_s": round(partial.wall_s(), 1),
        "runs": partial.run,
        "hardware": hardware(),
        "versions": versions(),
    }


@dataclass
class _OpenTarget:
    """A target under way."""

    target: Target
    n_samples: int
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    """By sample id: as many as there are samples, in the end."""
    seconds: dict[str, float] = field(default_factory=lambda: {GRAPHS: 0.0, SAMPLING: 0.0})

    @property
    def is_complete(self) -> bool:
        return len(self.verdicts) == self.n_samples

    def in_order(self) -> list[Verdict]:
        """Return the verdicts in the order in which the samples were numbered."""
        return [self.verdicts[identity] for identity in sorted(self.verdicts, key=_by_number)]


def _by_number(identity: str) -> tuple[int, str]:
    """Order sample ids by unit and position, which have three digits or more."""
    return len(identity), identity


class _Search:
    """The stream of samples of all targets that are not finished yet."""

    def __init__(
        self, settings: RediscoverySettings, targets: Targets, partial: PartialResult, view: View
    ) -> None:
        self._settings = settings
        self._partial = partial
        finished = partial.finished_targets()
        left = [target for target in targets.entries if target.key not in finished]
        self._open = {target.key: _OpenTarget(target, settings.samples) for target in left}
        self._units: dict[str, tuple[str, Unit]] = {}
        self._todo = self._all_units(left)
        self._all_queued = False
        self._judged: dict[str, tuple[str, tuple[Row, ...]]] = {}
        n_samples = settings.samples * len(targets.entries)
        self.progress = Progress(
            [
                StageProgress(SAMPLING, "samples", SAMPLING, SAMPLING_S, n_samples),
                StageProgress(JUDGING, "samples", JUDGING, RELAXATION_S, total_is_final=False),
                StageProgress(TARGETS, "targets", TARGETS, 0.0, len(targets.entries)),
            ],
            view,
        )
        self.progress.skip(SAMPLING, settings.samples * len(finished))
        self.progress.skip(TARGETS, len(finished))

    def _all_units(self, targets: list[Target]) -> Iterator[tuple[str, Unit]]:
        for target in targets:
            for unit in cell_units(
                target.cell, self._settings.samples, UNIT_SIZE, self._settings.seed
            ):
                yield target.key, unit

    def run(self, address: str | None, num_cpus: int | None) -> None:
        """Do all targets that are left."""
        if not self._open:
            return
        self.progress.do("starting Ray")
        with Cluster(address, num_cpus) as cluster:
            self.progress.do("loading the model and the potential")
            samplers, judges = self._start(cluster)
            while self._feed(samplers, judges):
                for outcome in cluster.completed(_POLL_S):
                    if outcome.pool == SAMPLING:
                        self._take_samples(outcome, judges)
                    else:
                        self._take_verdicts(outcome, judges)
                if self._all_queued and not samplers.pending:
                    cluster.close(samplers)  # the cores it held are the judges'
                if samplers.ready and judges.ready:
                    self.progress.activity = "sampling, relaxing and comparing"
                self.progress.tick()

    def _start(self, cluster: Cluster) -> tuple[Pool, Pool]:
        settings = self._settings
        relaxation = None
        if (how := settings.relaxation) is not None:
            relaxation = RelaxationStage(
                how.calculator,
                how.fmax,
                how.max_steps,
                meant=self._partial.configuration["calculator"],
            )
        judges = cluster.elastic_pool(JUDGING, JudgingStage(relaxation), relaxation_crew(), ahead=1)
        filters = FilterStage(settings.filters.min_distance, settings.filters.max_atoms)
        samplers = cluster.elastic_pool(
            SAMPLING,
            SampleAndFilter(
                sampling_stage(settings.generator, settings.filters.max_atoms),
                filters,
                self._partial.configuration["generator"],
            ),
            sampling_crew(),
            prepare=prepare_units,
        )
        self.progress.stages[SAMPLING].workers = samplers.size
        self.progress.stages[JUDGING].workers = judges.size
        return samplers, judges

    def _feed(self, samplers: Pool, judges: Pool) -> bool:
        """Queue as much as the workers can take soon; say whether anything is under way."""
        while (
            not self._all_queued
            and samplers.pending < samplers.capacity
            and judges.pending < _WAITING_PER_JUDGE * judges.size
        ):
            key, unit = next(self._todo, ("", None))
            if unit is None:
                self._all_queued = True
                break
            # Two targets may have the same cell, and so the same unit.
            work = f"{key}/{unit.unit_id}"
            self._units[work] = (key, unit)
            samplers.submit(work, (unit,))
            self.progress.begin(SAMPLING)
        return bool(samplers.pending or judges.pending)

    def _take_samples(self, outcome: Outcome, judges: Pool) -> None:
        """Judge at once what needs no matcher, and hand the rest on."""
        key, unit = self._units.pop(outcome.key)
        opened = self._open[key]
        failure = {"status": "failed", "error": outcome.error}
        rows = outcome.value or [{"sample_id": i, **failure} for i in unit.sample_ids]
        opened.seconds[GRAPHS] += outcome.prepare_s
        opened.seconds[SAMPLING] += outcome.busy_s
        failed = sum(row["status"] == "failed" for row in rows)
        self.progress.advance(SAMPLING, unit.count, failed, outcome.busy_s)
        to_judge: list[Row] = []
        for row in rows:
            if _may_be(row, opened.target):
                to_judge.append(row)
            else:
                opened.verdicts[row["sample_id"]] = _plain_verdict(row)
        for together in relaxed_together(to_judge, "unit_id", RELAXED_TOGETHER["cpu"]):
            self._judge(key, together, judges)
            self.progress.begin(JUDGING)
        self.progress.stages[JUDGING].total += len(to_judge)
        self._keep_if_complete(key)

    def _judge(self, key: str, rows: tuple[Row, ...], judges: Pool) -> None:
        work = f"{key}/{rows[0]['sample_id']}"
        self._judged[work] = (key, rows)
        judges.submit(work, (rows, self._open[key].target.answer))

    def _take_verdicts(self, outcome: Outcome, judges: Pool) -> None:
        key, rows = self._judged.pop(outcome.key)
        if outcome.error is not None and len(rows) > 1:
            for row in rows:  # one of them may be at fault
                self._judge(key, (row,), judges)
            return
        verdicts: list[Verdict] = outcome.value or [
            replace(_plain_verdict(row), right_formula=True, error=outcome.error) for row in rows
        ]
        for row, verdict in zip(rows, verdicts, strict=True):
            self._open[key].verdicts[row["sample_id"]] = verdict
            failed = int(verdict.error is not None)
            self.progress.advance(JUDGING, 1, failed, outcome.busy_s / len(rows))
        self._keep_if_complete(key)

    def _keep_if_complete(self, key: str) -> None:
        opened = self._open[key]
        if not opened.is_complete:
            return
        del self._open[key]
        figures = target_figures(
            opened.target,
            opened.in_order(),
            opened.seconds,
            is_relaxed=self._settings.relaxation is not None,
        )
        self._partial.keep(key, figures, self.progress.elapsed_s)
        self.progress.advance(TARGETS)


def _may_be(row: Row, target: Target) -> bool:
    """Whether a sample is worth a relaxation: it has the answer's formula."""
    return bool(row["status"] == "kept" and row["chemical_formula_reduced"] == target.formula)


def _plain_verdict(row: Row) -> Verdict:
    """Return the verdict on a sample that cannot be the answer, or that was never compared."""
    return Verdict(
        row["status"],
        row.get("reason"),
        row.get("error"),
        group_before=row.get("space_group_it_number"),
    )

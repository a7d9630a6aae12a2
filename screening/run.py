"""One run of a campaign, in order: sample, filter, relax, remove duplicates, rank, report."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from screening.cluster import Cluster
from screening.errors import RunError, ScreeningError
from screening.export import cif_text, file_stem
from screening.findings import FINDING_COLUMNS, findings
from screening.grid import grid_size
from screening.ledger import total
from screening.plan import RELAXATION_S, RESCORING_S, SAMPLING_S
from screening.progress import HEARTBEAT, RUNS, Progress, StageProgress
from screening.ranked_runs import RankedRuns
from screening.ranking import RANKING, rank
from screening.references import References
from screening.report import report_campaign
from screening.rescoring import RESCORING, Rescorer
from screening.sampling import generator_column
from screening.schema import STATUSES, structure_from_row
from screening.signals import terminated_like_interrupted
from screening.store import SUMMARY
from screening.sweep import REFERENCES, RELAXATION, RELAXERS, SAMPLERS, SAMPLING, Sweep

if TYPE_CHECKING:
    from collections.abc import Iterator

    from screening.campaign import Campaign, Rescoring
    from screening.progress import View
    from screening.store import Store

Row = dict[str, Any]

CIF_DIRECTORY = "cif"
RANKING_S = 10.0
"""Expected seconds to rank a chemical system, workers' start included, s."""
BEST = 10
"""Candidates whose crystals are written as files."""


@dataclass(frozen=True)
class CampaignResult:
    """What a campaign came to."""

    uri: str
    """Where the results lie."""
    best: list[Row]
    """The best distinct candidates, the lowest above the hull first."""
    summary: dict[str, Any]
    """Counts, and seconds per stage."""


class Run:
    """One run of a campaign in its directory.

    Args:
        store: Where the results lie, already claimed for the campaign.
        campaign: What to do.
        parts: Fingerprints of the model, the sampler, the potential and the references.
        rescoring: The second potential for the best candidates, if there is to be one.
        view: Where progress is shown.
    """

    def __init__(
        self,
        store: Store,
        campaign: Campaign,
        parts: dict[str, str],
        rescoring: Rescoring | None,
        view: View,
    ) -> None:
        self.store = store
        self.campaign = campaign
        self.parts = parts
        self.rescoring = rescoring
        self.references = References(campaign, store)
        self.ranking_s: dict[str, float] = {}
        self.earlier_runs: list[dict[str, Any]] = []
        self.cluster: Cluster | None = None
        self.progress = self._open_progress(view)

    def carry_out(
        self, address: str | None, num_samplers: int | None, num_cpus: int | None
    ) -> CampaignResult:
        """Do what is left, in order, and leave a directory that can be resumed whatever happens."""
        self.store.sweep()
        self._remember_earlier_run()
        with self.progress, terminated_like_interrupted():
            try:
                self.progress.do("starting Ray")
                with Cluster(address, num_cpus) as cluster, self._said_when_stopping():
                    self.cluster = cluster
                    self._look_at_machines()
                    try:
                        self._sample_and_relax(cluster, num_samplers)
                        self._rank(cluster)
                    finally:
                        self.cluster = None
                result = self._publish()
                self.progress.finish("finished")
            except KeyboardInterrupt:
                self._end("interrupted")
                raise RunError(self._how_to_go_on()) from None
            except BaseException:
                self._end("failed")
                raise
        return result

    def _sample_and_relax(self, cluster: Cluster, num_samplers: int | None) -> None:
        generator = generator_column(self.parts)
        sweep = Sweep(self.campaign, self.store, self.references, generator, self.progress)
        sweep.run(cluster, num_samplers)
        self.store.compact()

    def _rank(self, cluster: Cluster) -> None:
        """Compare candidates with each other and with the reference phases, system by system."""
        systems = self.store.relaxed_systems()
        self.progress.stages[RANKING].total = len(systems)
        self.progress.do("removing duplicates and placing candidates on the hull")
        with tempfile.TemporaryDirectory(prefix="ranking-") as directory:
            runs = RankedRuns(Path(directory))
            self.ranking_s = rank(cluster, systems, self.references, self.progress, runs.add)
            self._write_table(runs)
            if self.rescoring is not None:
                self._rescore(cluster, runs, self.rescoring)

    def _write_table(self, runs: RankedRuns) -> None:
        self.progress.do("writing the table")
        began = time.perf_counter()
        self.store.write_candidates(runs.merged())
        self.ranking_s["table"] = round(time.perf_counter() - began, 3)

    def _rescore(self, cluster: Cluster, runs: RankedRuns, rescoring: Rescoring) -> None:
        """Ask a second potential about the best."""
        self.progress.do(f"relaxing the best candidates with {rescoring.calculator}")
        rescorer = Rescorer(self.campaign, rescoring, self.store, self.references, self.progress)
        runs.amend(rescorer.rescore(cluster, runs.best(rescoring.top)))
        self._write_table(runs)

    def _publish(self) -> CampaignResult:
        self.progress.do("writing the crystals and the report")
        began = time.perf_counter()
        top = self.store.best(BEST).to_pylist()
        self._write_crystals(top)
        report_campaign(self.store)
        summary = self._summary(time.perf_counter() - began)
        self.store.write_json(SUMMARY, summary)
        return CampaignResult(self.store.uri, top, summary)

    def _write_crystals(self, top: list[Row]) -> None:
        """Write the best as CIF files, in place of those of an earlier run."""
        names = [f"{file_stem(place, row)}.cif" for place, row in enumerate(top, start=1)]
        for name in self.store.files.names(CIF_DIRECTORY):
            if name not in names:
                self.store.files.remove(f"{CIF_DIRECTORY}/{name}")
        for name, row in zip(names, top, strict=True):
            text = row["cif"] or cif_text(structure_from_row(row))
            self.store.write_text(f"{CIF_DIRECTORY}/{name}", text)

    def _summary(self, publishing_s: float) -> dict[str, Any]:
        """Count what came of every unit and sample, and add up the seconds of each stage."""
        marks = self.store.marks(["state", *STATUSES])
        candidates = self.store.candidates(["status", "is_representative", "converged"])
        this_run = self.progress.snapshot()
        found = findings(self.store.best(columns=FINDING_COLUMNS))
        all_runs = _totals([*self.earlier_runs, this_run])
        return {
            "campaign": self.campaign.name,
            "fingerprints": self.store.fingerprints,
            "units": dict(Counter(marks["state"].to_pylist())),
            "samples": {status: total(marks, status) for status in STATUSES},
            "candidates": dict(Counter(candidates["status"].to_pylist())),
            "distinct": pc.sum(candidates["is_representative"], min_count=0).as_py(),
            "converged": pc.sum(candidates["converged"], min_count=0).as_py(),
            "novel": {
                "distinct": found.novel,
                "near_hull": found.near,
                "on_hull": found.stable,
                "near_hull_per_core_hour": _ratio(found.near, all_runs["core_hours"]),
                "near_hull_per_gpu_hour": _ratio(found.near, all_runs["gpu_hours"]),
            },
            "rescored": None
            if self.rescoring is None
            else {
                "calculator": self.rescoring.calculator,
                "distinct": found.rescored,
                "near_hull": found.rescored_near,
                "on_hull": found.rescored_stable,
            },
            "this_run": {
                "cpus": self.progress.cpus,
                "gpus": self.progress.gpus,
                "wall_s": this_run["elapsed_s"],
                "stages": this_run["stages"],
                "ranking_s": self.ranking_s,
                "publishing_s": round(publishing_s, 3),
            },
            "all_runs": all_runs,
        }

    def _open_progress(self, view: View) -> Progress:
        n_samples = grid_size(self.campaign).n_samples
        stages = [
            StageProgress(SAMPLING, "samples", SAMPLERS, SAMPLING_S, n_samples),
            StageProgress(
                RELAXATION, "structures", RELAXERS, RELAXATION_S, n_samples, total_is_final=False
            ),
            StageProgress(REFERENCES, "phases", RELAXERS, RELAXATION_S),
            StageProgress(RANKING, "systems", RANKING, RANKING_S),
        ]
        if self.rescoring is not None:
            stages.append(StageProgress(RESCORING, "structures", RESCORING, RESCORING_S))
        return Progress(stages, view, self._beat)

    def _beat(self, snapshot: dict[str, Any]) -> None:
        self.store.write_json(HEARTBEAT, snapshot)
        self._look_at_machines()
        if self.cluster is not None:
            self.cluster.publish(self.campaign.name, snapshot["stages"])

    def _look_at_machines(self) -> None:
        if self.cluster is not None:
            self.progress.cpus, self.progress.gpus = self.cluster.cpus, self.cluster.gpus

    def _remember_earlier_run(self) -> None:
        """Keep the times of the run before this one, which may have been killed."""
        last = self.store.read_json(HEARTBEAT)
        self.earlier_runs = self.store.read_json(RUNS) or []
        if isinstance(last, dict) and "stages" in last:  # a damaged one tells no times
            self.earlier_runs.append(last)
            self.store.write_json(RUNS, self.earlier_runs)

    @contextlib.contextmanager
    def _said_when_stopping(self) -> Iterator[None]:
        """Show at once that Ctrl-C was heard: Ray takes some seconds to end."""
        try:
            yield
        except KeyboardInterrupt:
            with contextlib.suppress(ScreeningError):
                self.progress.do("stopping")
            raise

    def _end(self, state: str) -> None:
        # The disk may be what failed; the first error is the one to report.
        with contextlib.suppress(ScreeningError):
            self.progress.finish(state)

    def _how_to_go_on(self) -> str:
        n_units = grid_size(self.campaign).n_units
        done = self.store.marks(["state"]).num_rows
        return (
            f"stopped with {done} of {n_units} units finished; "
            f"`screening resume {self.store.uri}` goes on from there"
        )


def _totals(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Add up the seconds of all runs in a directory, those that were killed included."""
    busy_s: dict[str, float] = defaultdict(float)
    for run in runs:
        for name, stage in run["stages"].items():
            busy_s[name] += stage["busy_s"]
    hours = {
        # Runs of before these were counted have none.
        f"{unit}_hours": round(sum(run.get(f"{unit}_s", 0.0) for run in runs) / 3600, 5)
        for unit in ("core", "gpu")
    }
    return {
        "runs": len(runs),
        "wall_s": round(sum(run["elapsed_s"] for run in runs), 3),
        **hours,
        "busy_s": {name: round(seconds, 3) for name, seconds in busy_s.items()},
    }


def _ratio(count: int, hours: float) -> float | None:
    return round(count / hours, 3) if hours else None

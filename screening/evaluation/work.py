"""The work of an evaluation, in pieces: crystals are drawn, and fingerprints are taken of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from screening.evaluation.stages import FINGERPRINT_SCHEMA, FingerprintStage
from screening.evaluation.workspace import Kept
from screening.progress import StageProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from screening.cluster import Cluster
    from screening.evaluation.stages import Request
    from screening.evaluation.workspace import Workspace
    from screening.pool import Outcome, Pool, Stage
    from screening.progress import Progress

Row = dict[str, Any]

SAMPLING = "sampling"
FINGERPRINTS = "fingerprints"
GENERATED, TEST, TRAIN = "generated", "test", "train"

PIECE = 32
"""Crystals whose fingerprints are taken together."""

_SAMPLER_CPUS = 0.4
_TAKER_CPUS = 0.5
_SAMPLING_S = 0.5
_FINGERPRINT_S = 0.2
_POLL_S = 0.5
_SOONER, _LATER = 0, 1


@dataclass
class _Piece:
    """Crystals whose fingerprints are taken together."""

    rows: list[Row]
    key: str
    found: Kept | None


class Work:
    """Everything that an evaluation computes on workers; what is kept already is not done again.

    Args:
        workspace: Keeps what is done.
        generator: Draws crystals; None where they are given.
        batches: What it is asked for, by name.
        crystals: Rows of crystals that exist already, by the name of their set.
    """

    def __init__(
        self,
        workspace: Workspace,
        generator: Stage | None,
        batches: Mapping[str, list[Request]],
        crystals: Mapping[str, Sequence[Row]],
    ) -> None:
        self._workspace = workspace
        self._generator = generator
        self._to_draw = dict(batches)
        self._sampling_s = 0.0
        self._pieces: dict[str, dict[str, _Piece]] = {}
        self._under_way: dict[str, list[_Piece]] = {}
        self.workers: dict[str, int] = {}
        n_drawn = sum(len(requests) for requests in batches.values())
        n_crystals = n_drawn + sum(len(rows) for rows in crystals.values())
        self._sampling = StageProgress(SAMPLING, "crystals", SAMPLING, _SAMPLING_S, n_drawn)
        self._taking = StageProgress(
            FINGERPRINTS, "crystals", FINGERPRINTS, _FINGERPRINT_S, n_crystals
        )
        for batch in batches:
            kept = workspace.samples(batch)
            if kept is not None:
                self._sampling.done += len(kept.rows)
                self._add_drawn(batch, kept)
        for name, rows in crystals.items():
            for first in range(0, len(rows), PIECE):
                self._add(name, f"{first:07d}", list(rows[first : first + PIECE]))

    @property
    def stages(self) -> list[StageProgress]:
        """What there is to do, for `Progress`."""
        return [self._sampling, self._taking]

    def fingerprints(self, name: str) -> list[Row]:
        """Return the fingerprints of a set of crystals, once the work is done."""
        pieces = sorted(self._pieces.get(name, {}).items())
        return [row for _, piece in pieces if piece.found for row in piece.found.rows]

    def busy_s(self) -> dict[str, float]:
        """Return the seconds that workers took, in whichever run they did it."""
        spent = {
            f"fingerprints of {name}": sum(p.found.busy_s for p in pieces.values() if p.found)
            for name, pieces in self._pieces.items()
        }
        return {k: round(s, 1) for k, s in {SAMPLING: self._sampling_s, **spent}.items() if s}

    def carry_out(self, open_cluster: Callable[[], Cluster], progress: Progress) -> None:
        """Do what is left."""
        open_pieces = [p for ps in self._pieces.values() for p in ps.values() if p.found is None]
        if not self._to_draw and not open_pieces:
            return
        progress.do("starting Ray")
        with open_cluster() as cluster:
            progress.do("loading the model and the potential")
            takers = cluster.pool(
                FINGERPRINTS, FingerprintStage(), size=cluster.cpus, num_cpus=_TAKER_CPUS
            )
            self.workers[FINGERPRINTS] = self._taking.workers = takers.size
            for piece in open_pieces:
                self._submit(takers, piece, _LATER, progress)
            samplers = self._start_samplers(cluster, progress)
            while takers.pending or (samplers is not None and samplers.pending):
                if takers.ready and (samplers is None or samplers.ready):
                    progress.activity = "drawing crystals and taking fingerprints"
                for outcome in cluster.completed(_POLL_S):
                    if outcome.pool == SAMPLING:
                        piece = self._take_drawn(outcome, progress)
                        self._submit(takers, piece, _SOONER, progress)
                    else:
                        self._take_fingerprints(outcome, progress)
                if samplers is not None and not samplers.pending:
                    cluster.close(samplers)  # the memory and the cores it held are the others'
                progress.tick()

    def _start_samplers(self, cluster: Cluster, progress: Progress) -> Pool | None:
        if not self._to_draw or self._generator is None:
            return None
        samplers = cluster.pool(
            SAMPLING,
            self._generator,
            size=cluster.gpus or max(1, cluster.cpus // 2),
            num_cpus=_SAMPLER_CPUS,
            num_gpus=min(1, cluster.gpus),
        )
        self.workers[SAMPLING] = self._sampling.workers = samplers.size
        for batch, requests in self._to_draw.items():
            samplers.submit(batch, requests)
        progress.begin(SAMPLING)
        return samplers

    def _submit(self, takers: Pool, piece: _Piece, priority: int, progress: Progress) -> None:
        """Have the fingerprints of a piece taken, once even if several sets hold its crystals."""
        if piece.found is not None:
            return
        same = self._under_way.setdefault(piece.key, [])
        if not same:
            takers.submit(piece.key, piece.rows, priority)
            progress.begin(FINGERPRINTS)
        same.append(piece)

    def _take_drawn(self, outcome: Outcome, progress: Progress) -> _Piece:
        """Keep the crystals of a batch; of one that could not be drawn, why."""
        rows = outcome.value
        if outcome.error is not None:
            progress.say(f"batch {outcome.key} failed: {outcome.error}")
            failure = {"status": "failed", "error": outcome.error}
            rows = [{**request.columns, **failure} for request in self._to_draw[outcome.key]]
        kept = self._workspace.keep_samples(outcome.key, Kept(rows, outcome.busy_s))
        failed = sum(row["status"] == "failed" for row in kept.rows)
        progress.advance(SAMPLING, len(kept.rows), failed, outcome.busy_s)
        return self._add_drawn(outcome.key, kept)

    def _take_fingerprints(self, outcome: Outcome, progress: Progress) -> None:
        pieces = self._under_way.pop(outcome.key)
        if outcome.error is None:
            found = Kept(outcome.value, outcome.busy_s)
            self._workspace.keep_fingerprints(outcome.key, found)
        else:  # not kept: the next run tries again
            progress.say(f"{len(pieces[0].rows)} crystals failed: {outcome.error}")
            nothing = {**dict.fromkeys(FINGERPRINT_SCHEMA.names), "error": outcome.error}
            found = Kept([nothing] * len(pieces[0].rows), 0.0)
        for piece in pieces:
            piece.found = found
            failed = sum(row["structure"] is None for row in found.rows)
            progress.advance(FINGERPRINTS, len(found.rows), failed, outcome.busy_s)

    def _add_drawn(self, batch: str, kept: Kept) -> _Piece:
        del self._to_draw[batch]
        self._sampling_s += kept.busy_s
        return self._add(GENERATED, batch, kept.rows)

    def _add(self, name: str, place: str, rows: list[Row]) -> _Piece:
        """Note a piece of a set; fingerprints that are kept are taken from there."""
        key = self._workspace.fingerprints_key(rows)
        piece = _Piece(rows, key, self._workspace.fingerprints(key))
        self._pieces.setdefault(name, {})[place] = piece
        if piece.found is not None:
            self._taking.done += len(rows)
        return piece

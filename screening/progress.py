"""What a run is doing: counted by the pipeline, shown by a view, kept for `screening status`."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

HEARTBEAT = "_progress.json"
RUNS = "_runs.json"
"""The last heartbeats of the runs before the present one."""
HEARTBEAT_INTERVAL_S = 5.0
_MINUTE_S = 60
_HOUR_S = 3600


@dataclass
class StageProgress:
    """One stage: how much of it is done, and how long it takes."""

    name: str
    """Such as `sampling`."""
    items: str
    """What is counted, such as `samples`."""
    pool: str
    """Whose workers do it; stages of one pool share them."""
    expected_s: float
    """Seconds that one item takes a worker, s; a guess until some are measured."""
    total: int = 0
    """Items altogether."""
    total_is_final: bool = True
    """Whether the total is known, or an estimate from the stages before."""
    done: int = 0
    """Items finished, those of earlier runs and those that failed included."""
    failed: int = 0
    """Items that failed."""
    measured: int = 0
    """Items that this run did."""
    busy_s: float = 0.0
    """Seconds that workers spent on them, summed over workers, s."""
    available_s: float = 0.0
    """Seconds that the workers of its pool were there since it began, summed over workers, s."""
    workers: int = 1
    """Workers of its pool."""
    began_at: float | None = None
    ended_at: float | None = None

    @property
    def remaining_s(self) -> float:
        """Seconds of work that is left, summed over workers, s."""
        mean_s = (self.expected_s + self.busy_s) / (1 + self.measured)
        return max(0, self.total - self.done) * mean_s

    @property
    def wall_s(self) -> float:
        """Seconds from the beginning of this run's first item to the end of its last, s."""
        if self.began_at is None or self.ended_at is None:
            return 0.0
        return self.ended_at - self.began_at

    def snapshot(self) -> dict[str, Any]:
        """Return the stage as JSON values."""
        return {
            "items": self.items,
            "done": self.done,
            "total": self.total,
            "total_is_final": self.total_is_final,
            "failed": self.failed,
            "workers": self.workers,
            "busy_s": round(self.busy_s, 3),
            "available_s": round(self.available_s, 3),
            "wall_s": round(self.wall_s, 3),
        }


class View(Protocol):
    """Where progress is shown."""

    def show(self, progress: Progress) -> None:
        """Show the present state; called often."""

    def say(self, text: str) -> None:
        """Leave a sentence that stays."""

    def close(self) -> None:
        """Stop showing."""


class Progress:
    """The state of a run, its view, and its heartbeat.

    Args:
        stages: In the order in which they are shown.
        view: Where the state is shown.
        write_heartbeat: Takes the state as JSON values every few seconds, and at the end.
        clock: Seconds, for tests.
    """

    def __init__(
        self,
        stages: Iterable[StageProgress],
        view: View,
        write_heartbeat: Callable[[dict[str, Any]], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stages = {stage.name: stage for stage in stages}
        self.activity = "starting"
        self.state = "running"
        self.cpus = self.gpus = 0
        """Cores and GPUs that the run has at this moment."""
        self.core_s = self.gpu_s = 0.0
        """Seconds of them that it had since it began, busy or not, s."""
        self._view = view
        self._write_heartbeat = write_heartbeat
        self._clock = clock
        self._began_at = self._ticked_at = clock()
        self._heartbeat_at = float("-inf")
        self._estimate: tuple[float, float] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._view.close()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began, s."""
        return self._clock() - self._began_at

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the end, s, as far as it can be foreseen; None before work has begun."""
        if self._estimate is None:
            return None
        at, left_s = self._estimate
        return max(0.0, left_s - (self._clock() - at))

    def say(self, text: str) -> None:
        """Leave a sentence on the screen."""
        self._view.say(text)

    def do(self, activity: str) -> None:
        """Say what is being done now."""
        self.activity = activity
        self.tick(force=True)

    def begin(self, name: str) -> None:
        """Note that a stage has work under way."""
        stage = self.stages[name]
        if stage.began_at is None:
            stage.began_at = stage.ended_at = self._clock()
            self._foresee()

    def skip(self, name: str, items: int) -> None:
        """Count items that an earlier run did."""
        self.stages[name].done += items

    def advance(self, name: str, items: int = 1, failed: int = 0, busy_s: float = 0.0) -> None:
        """Count items that were finished, of which some failed.

        Args:
            name: The stage.
            items: Items finished.
            failed: How many of them failed.
            busy_s: Seconds that a worker spent on them, s.
        """
        self.begin(name)
        stage = self.stages[name]
        stage.done += items
        stage.failed += failed
        stage.measured += items
        stage.busy_s += busy_s
        now = self._clock()
        stage.available_s += stage.workers * (now - (stage.ended_at or now))
        stage.ended_at = now
        self._foresee()

    def _foresee(self) -> None:
        """Estimate the time left: pools share the machine, but each has its own work to do."""
        left_s: dict[str, float] = {}
        workers: dict[str, int] = {}
        for stage in self.stages.values():
            if stage.remaining_s > 0:
                left_s[stage.pool] = left_s.get(stage.pool, 0.0) + stage.remaining_s
                workers[stage.pool] = stage.workers
        together = sum(left_s.values()) / max(1, sum(workers.values()))
        alone = max((left_s[pool] / workers[pool] for pool in left_s), default=0.0)
        self._estimate = (self._clock(), max(together, alone))

    def tick(self, *, force: bool = False) -> None:
        """Refresh the view, and the heartbeat when it is due."""
        now = self._clock()
        self.core_s += self.cpus * (now - self._ticked_at)
        self.gpu_s += self.gpus * (now - self._ticked_at)
        self._ticked_at = now
        self._view.show(self)
        if force or now - self._heartbeat_at >= HEARTBEAT_INTERVAL_S:
            self._heartbeat_at = now
            if self._write_heartbeat is not None:
                self._write_heartbeat(self.snapshot())

    def finish(self, state: str) -> None:
        """Write the last heartbeat: `finished`, `interrupted` or `failed`."""
        self.state = state
        self._estimate = (self._clock(), 0.0) if state == "finished" else None
        self.tick(force=True)

    def snapshot(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        left_s = self.seconds_left
        return {
            "state": self.state,
            "activity": self.activity,
            "updated_at": time.time(),
            "elapsed_s": round(self.elapsed_s, 3),
            "seconds_left": None if left_s is None else round(left_s, 1),
            "core_s": round(self.core_s, 3),
            "gpu_s": round(self.gpu_s, 3),
            "process": os.getpid(),
            "host": socket.gethostname(),
            "stages": {name: stage.snapshot() for name, stage in self.stages.items()},
        }


def duration(seconds: float) -> str:
    """Return a time as `45 s`, `3 min 10 s` or `2 h 5 min`."""
    whole = round(seconds)
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min {whole % _MINUTE_S} s"
    return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S} min"

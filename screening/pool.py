"""Actors that each hold a stage, and work that comes back exactly once.

Ray's own retries are off. Measured with machines that were killed, `max_restarts=-1` together
with `max_task_retries=2` lost 3 pieces of work of 16; restarts in the hands of the driver lost none
and took less time. So the driver replaces an actor that died and queues its work again.
"""

from __future__ import annotations

import importlib
import os
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Protocol

from screening.crews import Crew
from screening.errors import RunError, ScreeningError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

MAX_ATTEMPTS = 3
ERROR_LENGTH = 300
GRAPH_TASK_CPUS = 0.1


class Stage(Protocol):
    """Settings that a worker turns into something that works."""

    def setup(self) -> None:
        """Load what the work needs, on the worker."""

    def __call__(self, item: Any, /) -> Any:
        """Do one piece of work."""


@dataclass(frozen=True)
class Outcome:
    """What became of one piece of work: a value, or an error."""

    pool: str
    """Name of the pool that did it."""
    key: str
    """The name it was submitted under."""
    value: Any
    """What the stage returned; None when there is an error."""
    error: str | None
    """Last line of the traceback, or how the worker process died."""
    attempts: int
    """How many times it was given to an actor, those not counted that died at other work."""
    prepare_s: float = 0.0
    """Seconds that the graph task took."""
    busy_s: float = 0.0
    """Seconds that the actor took."""


@dataclass(frozen=True)
class _Prepared:
    """What a graph task hands to an actor."""

    value: Any
    seconds: float


def _prepare(function: Callable[[Any], Any], item: Any) -> _Prepared:
    began = time.perf_counter()
    value = function(item)
    return _Prepared(value, time.perf_counter() - began)


class _Worker:
    """What runs in an actor's process."""

    def __init__(self, stage: Stage, has_gpu: bool) -> None:
        self._stage = stage
        if not has_gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""

    def setup(self) -> None:
        self._stage.setup()

    def run(self, item: Any) -> tuple[Any, float, float]:
        prepare_s = 0.0
        if isinstance(item, _Prepared):
            item, prepare_s = item.value, item.seconds
        began = time.perf_counter()
        value = self._stage(item)
        return value, prepare_s, time.perf_counter() - began


@dataclass(order=True)
class _Work:
    priority: int
    number: int
    key: str = field(compare=False)
    item: Any = field(compare=False)
    failures: int = field(compare=False, default=0)


@dataclass(eq=False)
class _Actor:
    handle: Any
    setup: Any
    machine: str | None
    """Where it was started; None where Ray chose."""
    lost_starts: int = 0
    """Actors before it in its place that died while they loaded."""
    ready: bool = False
    in_flight: deque[tuple[Any, _Work]] = field(default_factory=deque)


class Pool:
    """Actors that hold the same stage, and the work that waits for them.

    Created by `Cluster.pool`, without actors until it is resized. Work is begun by priority (lower first), then in order of submission.
    """

    def __init__(
        self,
        ray: Any,
        name: str,
        stage: Stage,
        *,
        ahead: int,
        prepare: Callable[[Any], Any] | None,
    ) -> None:
        self.name = name
        self._ray = ray
        self._stage = stage
        self._crew = Crew(0, 0.0)
        self._cores: Mapping[str, float] = {}
        self._ahead = ahead
        # Made once: each call of `remote` sends the function through the cluster again.
        self._prepare_task = ray.remote(_prepare).options(num_cpus=GRAPH_TASK_CPUS, max_retries=0)
        self._prepare = prepare
        self._queue: list[_Work] = []
        self._suspects: deque[_Work] = deque()
        self._open: set[str] = set()
        self._submitted = 0
        self._actors: list[_Actor] = []
        # Actors for which there is no room any more: they finish what they have.
        self._leaving: list[_Actor] = []

    @property
    def size(self) -> int:
        """Number of actors."""
        return self._crew.size

    @property
    def has_gpus(self) -> bool:
        """Whether the actors hold GPUs, or parts of them."""
        return self._crew.num_gpus > 0

    @property
    def pending(self) -> int:
        """Number of pieces of work submitted and not yet come back."""
        return len(self._open)

    @property
    def capacity(self) -> int:
        """Number of pieces of work that the actors can hold at once."""
        return self.size * self._ahead

    @property
    def ready(self) -> int:
        """Number of actors that have loaded their stage."""
        return sum(actor.ready for actor in self._actors)

    def submit(self, key: str, item: Any, priority: int = 0) -> None:
        """Queue a piece of work under a key that no other open work of the pool has."""
        if key in self._open:
            raise ValueError(f"{self.name} already has work open under the key {key!r}")
        self._open.add(key)
        self._submitted += 1
        heappush(self._queue, _Work(priority, self._submitted, key, item))

    def resize(self, crew: Crew, cores: Mapping[str, float]) -> None:
        """Start or end actors; those that end finish what they have, and load nothing to the end.

        Args:
            crew: How many there shall be. Those that hold another share of a GPU are replaced.
            cores: Numbers of cores of the machines.
        """
        self._cores = cores
        if crew.num_gpus != self._crew.num_gpus:
            self._dismiss(self._actors)
        self._crew = crew
        # Who has least to finish goes first.
        spare = sorted(self._actors, key=lambda actor: (actor.ready, len(actor.in_flight)))
        self._dismiss(spare[: max(0, len(spare) - crew.size)])
        while len(self._actors) < crew.size:
            self._actors.append(self._start_actor())

    def _dismiss(self, actors: Iterable[_Actor]) -> None:
        for actor in list(actors):
            self._actors.remove(actor)
            self._leaving.append(actor)
            self._let_go(actor)

    def _let_go(self, actor: _Actor) -> None:
        """End an actor that is to leave as soon as it has nothing left to do."""
        if actor in self._leaving and not actor.in_flight:
            self._leaving.remove(actor)
            self._ray.kill(actor.handle, no_restart=True)

    def refs(self) -> list[Any]:
        """Return the object references that the driver waits for."""
        setups = [actor.setup for actor in self._actors if not actor.ready]
        actors = self._actors + self._leaving
        return setups + [ref for actor in actors for ref, _ in actor.in_flight]

    def dispatch(self) -> None:
        """Hand queued work to the actors, up to the bound of each."""
        while (chosen := self._next()) is not None:
            actor, work = chosen
            item = work.item
            if self._prepare is not None:
                # Only the reference passes through the driver; the graphs go to the actor.
                item = self._prepare_task.remote(self._prepare, item)
            actor.in_flight.append((actor.handle.run.remote(item), work))

    def _next(self) -> tuple[_Actor, _Work] | None:
        ready = [actor for actor in self._actors if actor.ready]
        if not ready:
            return None
        actor = min(ready, key=lambda actor: len(actor.in_flight))
        if self._suspects:
            # What has lost an actor once runs alone, so that it can take no other work with it.
            return None if actor.in_flight else (actor, self._suspects.popleft())
        ready = [actor for actor in ready if not any(w.failures for _, w in actor.in_flight)]
        if not ready or not self._queue:
            return None
        actor = min(ready, key=lambda actor: len(actor.in_flight))
        return (actor, heappop(self._queue)) if len(actor.in_flight) < self._ahead else None

    def collect(self, ref: Any) -> Iterator[Outcome]:
        """Take in what a finished reference brings: an actor that is ready, results, or a loss."""
        for actor in self._actors + self._leaving:
            if ref == actor.setup and not actor.ready:
                self._end_setup(actor)
                return
            for entry in actor.in_flight:
                if ref == entry[0]:
                    yield from self._end_work(actor, *entry)
                    return

    def _end_setup(self, actor: _Actor) -> None:
        errors = self._ray.exceptions
        try:
            self._ray.get(actor.setup)
        except errors.RayTaskError as error:
            if isinstance(error.cause, ScreeningError):
                raise error.cause from None
            raise RunError(f"{self.name} cannot start: {last_line(error)}") from None
        except errors.RayError as error:
            # A machine that is lost takes many that load with it, but each place only once.
            lost_starts = actor.lost_starts + 1
            if lost_starts == MAX_ATTEMPTS:
                raise RunError(
                    f"{self.name} cannot start: its worker process died {MAX_ATTEMPTS} times "
                    f"while loading ({last_line(error)})"
                ) from None
            self._replace(actor, lost_starts)
        else:
            actor.ready = True

    def _end_work(self, actor: _Actor, ref: Any, work: _Work) -> Iterator[Outcome]:
        errors = self._ray.exceptions
        try:
            result = self._ray.get(ref)
        except errors.RayTaskError as error:
            actor.in_flight.remove((ref, work))
            self._let_go(actor)
            if isinstance(error.cause, errors.RayError):  # the graph task's process died
                yield from self._queue_again(work, error)
            else:
                yield self._close(work, error=last_line(error))
        except errors.RayError:
            yield from self._bury(actor)
        else:
            actor.in_flight.remove((ref, work))
            self._let_go(actor)
            yield self._close(work, result)

    def _bury(self, actor: _Actor) -> Iterator[Outcome]:
        """Replace an actor that died; keep what it had finished, queue the rest again.

        An actor works in the order it was given work, so the first piece without a result was most
        likely under way. It has one attempt less and from now on runs alone. It may be innocent:
        a result that was about to leave when the process died is lost with it. Then it succeeds
        alone, and the piece that kills is the next to be suspected.
        """
        lost = list(actor.in_flight)
        self._replace(actor)
        first = True
        for ref, work in lost:
            try:
                result = self._ray.get(ref)
            except self._ray.exceptions.RayError as error:
                if first:
                    yield from self._queue_again(work, error)
                else:
                    heappush(self._queue, work)
                first = False
            else:
                yield self._close(work, result)

    def _queue_again(self, work: _Work, error: Exception) -> Iterator[Outcome]:
        work.failures += 1
        if work.failures < MAX_ATTEMPTS:
            self._suspects.append(work)
            return
        text = f"its worker process died at each of {MAX_ATTEMPTS} attempts: {last_line(error)}"
        yield self._close(work, error=text[:ERROR_LENGTH])

    def _close(
        self, work: _Work, result: tuple[Any, float, float] | None = None, error: str | None = None
    ) -> Outcome:
        self._open.remove(work.key)  # a KeyError here would mean work done twice
        value, prepare_s, busy_s = result if result is not None else (None, 0.0, 0.0)
        attempts = work.failures if work.failures == MAX_ATTEMPTS else work.failures + 1
        return Outcome(self.name, work.key, value, error, attempts, prepare_s, busy_s)

    def stop(self) -> None:
        """End the actors."""
        for actor in self._actors + self._leaving:
            self._ray.kill(actor.handle, no_restart=True)

    def _start_actor(self, lost_starts: int = 0) -> _Actor:
        machine = self._emptiest_machine()
        remote = self._ray.remote(_Worker).options(
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=1,
            num_cpus=self._crew.num_cpus,
            num_gpus=self._crew.num_gpus,
            scheduling_strategy=_on(machine) if machine else "DEFAULT",
        )
        handle = remote.remote(self._stage, self._crew.num_gpus > 0)
        return _Actor(handle, handle.setup.remote(), machine, lost_starts)

    def _emptiest_machine(self) -> str | None:
        """Return the machine with the fewest actors of this pool for its cores.

        Actors reserve parts of cores, so that Ray by itself would put them all on few machines. How
        many have room beside a GPU it counts itself.
        """
        if self._crew.num_gpus or not self._cores:
            return None
        taken = Counter(actor.machine for actor in self._actors)
        return min(self._cores, key=lambda name: ((taken[name] + 1) / self._cores[name], name))

    def _replace(self, actor: _Actor, lost_starts: int = 0) -> None:
        # An actor that is only out of reach would go on with work that is now another's.
        self._ray.kill(actor.handle, no_restart=True)
        if actor in self._leaving:
            self._leaving.remove(actor)
        else:
            self._actors.remove(actor)
            self._actors.append(self._start_actor(lost_starts))


def _on(machine: str) -> Any:
    """Return Ray's word for a machine to start on; another one, should it be gone."""
    strategies = importlib.import_module("ray.util.scheduling_strategies")
    return strategies.NodeAffinitySchedulingStrategy(machine, soft=True)


def last_line(error: BaseException) -> str:
    """Return the last line of an error, which in a traceback says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:ERROR_LENGTH]

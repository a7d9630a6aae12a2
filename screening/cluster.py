"""The only module that imports Ray: it starts one on this machine, or joins a cluster.

What runs there are the pools of `screening.pool`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import psutil

from screening.crews import Crew
from screening.errors import RunError, UserError
from screening.machines import Machines
from screening.pool import MAX_ATTEMPTS, Outcome, Pool, last_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

    from screening.pool import Stage

OBJECT_STORE_BYTES = 256 * 2**20
FOLLOW_S = 2.0
"""How often pools are fitted to the machines that are there, s."""
CONNECT_TIMEOUT_S = 5.0
TOO_SLOW = "timed out during startup"
"""Words of the error of a Ray node that was not there within 30 s."""
AGENT_TIMEOUT_S = 60.0
"""How long a job waits for a head that has just been started, s."""
STOP_TIMEOUT_S = 120.0
"""How long a job may take to end when it is asked to, s."""
METRICS = {
    "done": "Items of a stage that are finished, those that failed included.",
    "total": "Items of a stage altogether, as far as known.",
    "failed": "Items of a stage that failed.",
    "workers": "Workers of a stage.",
    "busy_s": "Seconds that workers spent on a stage, summed over workers.",
    "available_s": "Seconds that a stage's workers were there, summed over workers.",
}
"""Gauges in Ray's metrics, with the prefix screening_."""

WORKER_ENVIRONMENT = {
    # Parallelism is between actors: threads within one would take the cores of its neighbours.
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
}
QUIET_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # The driver reports a lost worker itself, with the work that it concerns.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
}
# One token for the life of the process: Ray reads it once and keeps it.
_TOKEN = secrets.token_hex(32)
LOCAL_RAY = {
    # Ray's ports run any code that is sent to them. The token keeps the other users of this
    # machine out, and this switch (its name is older than its use) binds them to 127.0.0.1.
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": _TOKEN,
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Behind the driver and the user's windows; Ray's own 15 is behind everything else, too.
    "RAY_worker_niceness": "5",
    # Actors take nearly all cores, and beyond those that are free Ray ends a task's process after a
    # second without work. The next graph would wait for a new process to import torch.
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
}


class Cluster:
    """A Ray that this process starts and stops, or one that it joins.

    Args:
        address: The head of a cluster to join; None starts a Ray on this machine, or uses the one
            that this process has already started.
        num_cpus: Cores of the Ray that is started here; all of them when None.
    """

    def __init__(self, address: str | None = None, num_cpus: int | None = None) -> None:
        self._address = address
        self._num_cpus = num_cpus
        self._ray: Any = None
        self._directory: str | None = None
        self._machines: Machines
        self._pools: dict[Pool, Callable[[int, int], Crew]] = {}
        self._followed_at = float("-inf")
        self._gauges: dict[str, Any] = {}
        self._owned = False
        self.could_use_more = False
        """Whether there is work for more machines; in a cluster that was joined they are asked for."""

    def __enter__(self) -> Self:
        local = {} if self._address else {**LOCAL_RAY, **WORKER_ENVIRONMENT}
        # Processes that Ray starts inherit these; Ray itself reads some of them when imported.
        with _environment({**QUIET_RAY, **local}), _signal_handlers_kept():
            if self._address:
                _choose_authentication()
            was_imported = "ray" in sys.modules
            self._ray = importlib.import_module("ray")
            self._owned = not self._ray.is_initialized()
            if self._owned:
                try:
                    if was_imported:
                        _reread_authentication()
                    self._start()
                except BaseException:  # Ctrl-C too: nothing of Ray must stay behind
                    self._stop()
                    raise
        self._machines = Machines(self._ray)
        return self

    def _start(self) -> None:
        common = {"logging_level": "ERROR", "log_to_driver": False}
        try:
            if self._address:
                _check_reachable(self._address)
                environment = {"env_vars": WORKER_ENVIRONMENT}
                self._ray.init(address=self._address, runtime_env=environment, **common)
            else:
                self._start_here(common)
        except UserError:
            raise
        except Exception as error:  # a node that is too slow to start is a plain Exception
            where = f"join the Ray cluster at {self._address}" if self._address else "start Ray"
            raise RunError(f"could not {where}: {last_line(error)}") from error

    def _start_here(self, common: dict[str, Any]) -> None:
        """Start a Ray on this machine; one that is busy may need more than Ray's 30 seconds."""
        for attempts_left in reversed(range(MAX_ATTEMPTS)):
            # The path of a socket has at most 107 characters: $TMPDIR may be too long.
            self._directory = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
            try:
                self._ray.init(
                    address="local",
                    num_cpus=self._num_cpus,
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=self._directory,
                    **common,
                )
            except Exception as error:  # that is what Ray raises for a node that is too slow
                if TOO_SLOW not in str(error) or not attempts_left:
                    raise
                # Ray forgets the processes of a start that failed. The next start finds the
                # libraries in memory, and is quicker.
                kill_processes_of(self._directory)
                shutil.rmtree(self._directory, ignore_errors=True)
            else:
                return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for pool in list(self._pools):
            self.close(pool)
        self._machines.ask(more=False)
        self._stop()

    def _stop(self) -> None:
        if self._owned:
            self._ray.shutdown()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def cpus(self) -> int:
        """Number of cores, at least one."""
        return self._machines.cpus

    @property
    def gpus(self) -> int:
        """Number of GPUs."""
        return self._machines.gpus

    def pool(
        self,
        name: str,
        stage: Stage,
        *,
        size: int,
        num_cpus: float,
        num_gpus: float = 0,
        ahead: int = 2,
        prepare: Callable[[Any], Any] | None = None,
    ) -> Pool:
        """Start actors that hold a stage, always as many.

        Args:
            name: How messages and outcomes call the pool.
            stage: What each actor holds; pickled to it, then set up there.
            size: Number of actors.
            num_cpus: Cores that an actor reserves. A fraction lets pools share cores.
            num_gpus: GPUs, or the part of one, that an actor reserves.
            ahead: Pieces of work in flight per actor.
            prepare: A function of one piece of work that runs as a task of its own beforehand;
                its result goes from the task to the actor without passing through the driver.
        """
        crew = Crew(size, num_cpus, num_gpus)
        return self.elastic_pool(name, stage, lambda *_: crew, ahead=ahead, prepare=prepare)

    def elastic_pool(
        self,
        name: str,
        stage: Stage,
        crew: Callable[[int, int], Crew],
        *,
        ahead: int = 2,
        prepare: Callable[[Any], Any] | None = None,
    ) -> Pool:
        """Start actors that hold a stage, as many as there is room for while machines come and go.

        Args:
            name: As for `pool`.
            stage: As for `pool`.
            crew: From the numbers of cores and GPUs of the cluster to the actors.
            ahead: As for `pool`.
            prepare: As for `pool`.
        """
        pool = Pool(self._ray, name, stage, ahead=ahead, prepare=prepare)
        pool.resize(crew(self.cpus, self.gpus), self._machines.cores)
        self._pools[pool] = crew
        return pool

    def close(self, pool: Pool) -> None:
        """End a pool's actors, whatever they do, and free what they had reserved; once or more."""
        if pool in self._pools:
            pool.stop()
            del self._pools[pool]

    def _follow_machines(self) -> None:
        """Fit the pools to the machines that are there."""
        if time.monotonic() < self._followed_at + FOLLOW_S:
            return
        self._followed_at = time.monotonic()
        if self._address is not None:
            self._machines.ask(more=self.could_use_more)
        cpus, gpus, cores = self.cpus, self.gpus, self._machines.cores
        for pool, crew in self._pools.items():
            pool.resize(crew(cpus, gpus), cores)

    def publish(self, campaign: str, stages: Mapping[str, Mapping[str, Any]]) -> None:
        """Show how far a campaign is on Ray's dashboard, and to Prometheus through Ray.

        Args:
            campaign: Its name.
            stages: Figures of each stage, as in `screening.progress.StageProgress.snapshot`.
        """
        for stage, figures in stages.items():
            for name, description in METRICS.items():
                if name not in self._gauges:
                    gauge = importlib.import_module("ray.util.metrics").Gauge
                    self._gauges[name] = gauge(
                        f"screening_{name}", description, ("campaign", "stage")
                    )
                tags = {"campaign": campaign, "stage": stage}
                self._gauges[name].set(float(figures[name]), tags)

    def train(
        self,
        function: Callable[[Callable[[str], None]], None],
        workers: int,
        directory: Path,
        say: Callable[[str], None],
    ) -> None:
        """Run a function in processes that share a process group of torch's, with Ray Train.

        Each has a GPU to itself, or in a cluster without any a core. Where one is lost, all begin
        again, up to `MAX_ATTEMPTS` times: the function goes on from what it has saved.

        Args:
            function: Is given something that takes lines.
            workers: How many processes.
            directory: Where Ray Train keeps its books, which are removed in the end; every machine
                must reach it.
            say: Gets the lines.

        Raises:
            UserError: if the cluster has no room for so many.
            RunError: if one of them failed.
        """
        kind, room = ("GPUs", self.gpus) if self.gpus else ("cores", self.cpus)
        if workers > room:
            raise UserError(f"--workers is {workers}; allowed: 1 to {room}, the {kind} there are")
        names = ("ray.train", "ray.train.torch", "ray.util.queue")
        train, torch_train, queues = (importlib.import_module(name) for name in names)
        lines = queues.Queue(actor_options={"num_cpus": 0})
        books = tempfile.mkdtemp(prefix=".training-", dir=directory)
        trainer = torch_train.TorchTrainer(
            lambda: function(lines.put),
            scaling_config=train.ScalingConfig(num_workers=workers, use_gpu=self.gpus > 0),
            run_config=train.RunConfig(
                storage_path=books,
                failure_config=train.FailureConfig(max_failures=MAX_ATTEMPTS - 1),
            ),
        )
        ended = threading.Event()
        nothing = (queues.Empty, self._ray.exceptions.RayError)
        telling = threading.Thread(target=_tell, args=(lines, nothing, say, ended))
        telling.start()
        try:
            trainer.fit()
        except (self._ray.exceptions.RayError, train.TrainingFailedError) as error:
            raise RunError(f"training failed: {last_line(error)}") from None
        finally:
            ended.set()
            telling.join()
            shutil.rmtree(books, ignore_errors=True)

    def completed(self, timeout_s: float) -> list[Outcome]:
        """Keep the actors in work, and return what has come back.

        Args:
            timeout_s: Seconds to wait for the first of them, s.

        Raises:
            RunError: a pool's stage cannot be set up on any worker.
        """
        self._follow_machines()
        for pool in self._pools:
            pool.dispatch()
        refs = [ref for pool in self._pools for ref in pool.refs()]
        if not refs:
            return []
        ready, rest = self._ray.wait(refs, num_returns=1, timeout=timeout_s)
        if ready and rest:
            ready += self._ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        outcomes = [o for ref in ready for pool in self._pools for o in pool.collect(ref)]
        for pool in self._pools:
            pool.dispatch()
        return outcomes


def _tell(lines: Any, nothing: Any, say: Callable[[str], None], ended: threading.Event) -> None:
    """Pass lines on, until no more can come.

    Args:
        lines: A queue of Ray's.
        nothing: What it raises when there are none, or when it is lost.
        say: Gets the lines.
        ended: Set when nothing is put into the queue any more.
    """
    is_last = False
    while not is_last:
        is_last = ended.wait(0.5)
        with contextlib.suppress(*nothing):
            while True:
                say(lines.get_nowait())


class Jobs:
    """The jobs of a cluster, through its dashboard.

    Args:
        address: The dashboard, as in ``http://HEAD:8265``.

    Raises:
        UserError: if the address is of another form.
        RunError: if nobody answers there, or who answers asks for another token.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username:
            raise UserError("--address must be of the form http://HEAD:8265, the Ray dashboard")
        self._address = address
        # Ray prefers what these say to the address that it is given.
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            os.environ.pop(name, None)
        with _environment(QUIET_RAY):
            _choose_authentication()
            client = importlib.import_module("ray.job_submission").JobSubmissionClient
            self._client = self._asked(lambda: client(address))

    def submit(self, entrypoint: str, directory: str) -> str:
        """Start a command in a copy of a directory, and return the job's id."""
        environment = {"working_dir": directory}

        def start() -> str:
            end = time.monotonic() + AGENT_TIMEOUT_S
            while True:
                try:
                    return str(
                        self._client.submit_job(entrypoint=entrypoint, runtime_env=environment)
                    )
                except RuntimeError as error:
                    # The dashboard of a new head answers some seconds before its agent does.
                    if "No available agent" not in str(error) or time.monotonic() > end:
                        raise
                    time.sleep(1.0)

        return str(self._asked(start))

    def follow(self, job: str, say: Callable[[str], None]) -> tuple[str, str | None]:
        """Pass on a job's log until it ends, and return how it ended and why."""

        async def pass_on() -> None:
            async for text in self._client.tail_job_logs(job):
                say(text)

        self._asked(lambda: asyncio.run(pass_on()))
        info = self._asked(lambda: self._client.get_job_info(job))
        return str(info.status.value), info.message

    def stop(self, job: str) -> str:
        """End a job, wait until it has ended, and return how it did."""
        self._asked(lambda: self._client.stop_job(job))
        end = time.monotonic() + STOP_TIMEOUT_S
        while True:
            status = self._asked(lambda: self._client.get_job_status(job))
            if status.is_terminal():
                return str(status.value)
            if time.monotonic() > end:
                raise RunError(f"job {job} has not ended within {STOP_TIMEOUT_S:.0f} s")
            time.sleep(0.5)

    def _asked(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except Exception as error:  # noqa: BLE001 - requests, aiohttp and Ray each have their own
            text = last_line(error)
            raise RunError(f"the Ray cluster at {self._address} failed: {text}") from None


def _choose_authentication() -> None:
    """Say whether a token is asked for; left open, Ray decides by the files that it finds."""
    has_token = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    os.environ.setdefault("RAY_AUTH_MODE", "token" if has_token else "disabled")


def kill_processes_of(directory: str) -> None:
    """Kill those of this process's descendants that name a directory in their command."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(directory in argument for argument in process.cmdline()):
                process.kill()
                process.wait(timeout=5)


def _reread_authentication() -> None:
    """Make Ray read the mode and the token anew, where a notebook has imported it before.

    It keeps what it read when it was imported. There is no public call for this; where a version
    has none at all, starting Ray fails with its own sentence about tokens.
    """
    with contextlib.suppress(ImportError, AttributeError):
        raylet = importlib.import_module("ray._raylet")
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()


def _check_reachable(address: str) -> None:
    """Fail at once where Ray would try for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"address is {address!r}; it must be HOST:PORT of a Ray head, or auto")
    socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Undo what Ray does to SIGTERM, which is the caller's to handle."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if main else None
    yield
    if main:
        signal.signal(signal.SIGTERM, before)

"""The cluster, on a real local Ray of fixed size, with real faults."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from crystals import BY_CENTRING
from faulty_stages import (
    DiesOnce,
    DiesOnceLoading,
    Poison,
    Refuses,
    ReportsEnvironment,
    Square,
    cannot_be_learned,
    double,
    fragile_double,
    own_process,
)
from training_together import take_a_step

from model.checkpoint import load_checkpoint
from model.dataset import join
from model.network import NetworkConfig
from model.training import TrainingConfig, train
from screening import cluster as cluster_module
from screening.cluster import LOCAL_RAY, Cluster
from screening.crews import Crew, relaxation_crew, sampling_crew
from screening.errors import RunError, UserError
from screening.pool import MAX_ATTEMPTS, Outcome, Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = str(Path(__file__).parent)
of_ray_data = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data")
SMALL = TrainingConfig(
    epochs=3, batch_size=4, network=NetworkConfig(hidden=8, bottleneck=4, n_blocks=1)
)


@pytest.fixture(scope="module")
def ray_on_two_cores() -> Iterator[None]:
    """One local Ray for this file; its workers can import the stages beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", HERE)
        with Cluster(num_cpus=2):
            yield


@pytest.fixture
def cluster(ray_on_two_cores: None) -> Iterator[Cluster]:
    """Pools of one test: its actors end with it, the Ray does not."""
    del ray_on_two_cores
    with Cluster() as cluster:
        yield cluster


def drain(cluster: Cluster, pool: Pool, limit_s: float = 120) -> list[Outcome]:
    """Collect until nothing is open."""
    outcomes = []
    end = time.monotonic() + limit_s
    while pool.pending:
        assert time.monotonic() < end, f"{pool.pending} pieces never came back"
        outcomes += cluster.completed(timeout_s=1.0)
    return outcomes


def by_key(outcomes: list[Outcome]) -> dict[str, Outcome]:
    """Index outcomes, none of which may come twice."""
    keys = [outcome.key for outcome in outcomes]
    assert len(keys) == len(set(keys))
    return {outcome.key: outcome for outcome in outcomes}


def test_every_piece_comes_back_once_and_all_actors_work(cluster: Cluster) -> None:
    pool = cluster.pool("square", Square(seconds=0.02), size=2, num_cpus=0.5)
    while pool.ready < 2:  # the first to start would otherwise finish everything alone
        cluster.completed(timeout_s=1.0)
    for number in range(40):
        pool.submit(str(number), number)
    outcomes = by_key(drain(cluster, pool))
    assert {int(key): outcome.value[0] for key, outcome in outcomes.items()} == {
        number: number**2 for number in range(40)
    }
    assert len({outcome.value[1] for outcome in outcomes.values()}) == 2
    assert all(outcome.error is None and outcome.attempts == 1 for outcome in outcomes.values())
    assert all(outcome.busy_s >= 0.02 for outcome in outcomes.values())
    assert pool.pending == 0
    assert cluster.completed(timeout_s=0.0) == []


def test_work_in_flight_is_bounded_and_urgent_work_goes_first(cluster: Cluster) -> None:
    pool = cluster.pool("square", Square(seconds=0.05), size=1, num_cpus=0.5, ahead=2)
    for number in range(6):
        pool.submit(f"late-{number}", number, priority=1)
    for number in range(6):
        pool.submit(f"urgent-{number}", number, priority=0)
    order = []
    while pool.pending:
        order += [outcome.key for outcome in cluster.completed(timeout_s=1.0)]
        assert len(pool._actors[0].in_flight) <= 2
    assert order == [f"urgent-{n}" for n in range(6)] + [f"late-{n}" for n in range(6)]


def test_graph_tasks_feed_the_actors(cluster: Cluster) -> None:
    pool = cluster.pool("square", Square(), size=1, num_cpus=0.5, prepare=double)
    pool.submit("three", 3)
    (outcome,) = drain(cluster, pool)
    assert outcome.value[0] == 36
    assert outcome.prepare_s > 0


def test_processes_of_graph_tasks_outlive_a_pause(cluster: Cluster) -> None:
    """Ray ends idle ones beyond the free cores after a second, unless it is told otherwise."""
    pool = cluster.pool("square", Square(), size=2, num_cpus=0.9, prepare=own_process)
    outcomes = []
    for number in range(4):
        pool.submit(str(number), number)
        outcomes += drain(cluster, pool)
        time.sleep(2.0)
    assert len({outcome.value[0] for outcome in outcomes}) <= 2


def test_a_graph_task_that_dies_or_raises_is_one_recorded_failure(cluster: Cluster) -> None:
    pool = cluster.pool("square", Square(), size=1, num_cpus=0.5, prepare=fragile_double)
    for number in range(6):
        pool.submit(str(number), number)
    outcomes = by_key(drain(cluster, pool))
    assert "WorkerCrashedError" in (outcomes.pop("3").error or "")
    assert outcomes.pop("4").error == "ValueError: 4 has no graph"
    assert {key: outcome.value[0] for key, outcome in outcomes.items()} == {
        "0": 0,
        "1": 4,
        "2": 16,
        "5": 100,
    }


def test_work_aboard_a_killed_process_is_done_again(cluster: Cluster, tmp_path: Path) -> None:
    pool = cluster.pool("dies", DiesOnce(str(tmp_path), every=4), size=2, num_cpus=0.5)
    for number in range(12):
        pool.submit(str(number), number)
    outcomes = by_key(drain(cluster, pool))
    assert {int(key): outcome.value for key, outcome in outcomes.items()} == {
        number: number for number in range(12)
    }
    # Each death costs one piece an attempt. It may be the piece before the one that killed, whose
    # result was on its way out; nothing else was begun more often than it was given out.
    deaths = {number for number in range(12) if number % 4 == 0}
    attempts = {int(key): outcome.attempts for key, outcome in outcomes.items()}
    assert sum(attempts.values()) == 12 + len(deaths)
    assert max(attempts.values()) == 2
    begun = {int(log.name): log.read_text().count("begun") for log in tmp_path.iterdir()}
    assert all(begun[number] == 2 for number in deaths)
    assert all(begun[number] <= attempts[number] for number in set(range(12)) - deaths)


def test_poison_is_given_up_and_takes_nothing_with_it(cluster: Cluster) -> None:
    pool = cluster.pool("poison", Poison(kills=3, raises=5), size=2, num_cpus=0.5)
    for number in range(10):
        pool.submit(str(number), number)
    outcomes = by_key(drain(cluster, pool))
    killed, raised = outcomes.pop("3"), outcomes.pop("5")
    assert killed.attempts == MAX_ATTEMPTS
    assert (killed.error or "").startswith("its worker process died at each of 3 attempts")
    assert raised.attempts <= 2  # it may have been on its way out when 3 killed its actor
    assert raised.error == "at all"
    assert {int(key): outcome.value for key, outcome in outcomes.items()} == {
        number: number for number in range(10) if number not in {3, 5}
    }


def test_an_actor_killed_from_outside_is_replaced(cluster: Cluster) -> None:
    pool = cluster.pool("square", Square(seconds=0.3), size=2, num_cpus=0.5)
    for number in range(8):
        pool.submit(str(number), number)
    outcomes: list[Outcome] = []
    while not outcomes:
        outcomes += cluster.completed(timeout_s=1.0)
    os.kill(outcomes[0].value[1], 9)
    outcomes += drain(cluster, pool)
    assert {int(k): o.value[0] for k, o in by_key(outcomes).items()} == {n: n * n for n in range(8)}


def test_a_pool_follows_its_crew_and_loses_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "FOLLOW_S", 0.0)
    crew = Crew(size=1, num_cpus=0.5)
    pool = cluster.elastic_pool("square", Square(seconds=0.05), lambda *_: crew)
    outcomes = []

    def work(first: int, until_ready: int) -> set[int]:
        """Square ten more numbers by so many actors, and return the processes that did it."""
        end = time.monotonic() + 60
        while pool.ready != until_ready:
            assert time.monotonic() < end
            outcomes.extend(cluster.completed(timeout_s=0.2))
        before = len(outcomes)
        for number in range(first, first + 10):
            pool.submit(str(number), number)
        outcomes.extend(drain(cluster, pool))
        return {outcome.value[1] for outcome in outcomes[before:]}

    (process,) = work(0, 1)
    crew = Crew(size=2, num_cpus=0.5)
    pool.submit("meanwhile", 100)
    assert len(both := work(10, 2)) == 2
    assert process in both
    # What is under way is finished by those who have begun it.
    for number in range(20, 24):
        pool.submit(str(number), number)
    pool.dispatch()
    crew = Crew(size=1, num_cpus=0.5)
    outcomes += drain(cluster, pool)
    assert (pool.size, len(pool._actors), pool._leaving) == (1, 1, [])
    (process,) = work(30, 1)
    assert process in both
    values = {key: outcome.value[0] for key, outcome in by_key(outcomes).items()}
    numbers = [*range(24), *range(30, 40)]
    assert values == {"meanwhile": 10_000, **{str(number): number**2 for number in numbers}}
    assert {outcome.attempts for outcome in outcomes} == {1}


def test_actors_are_replaced_where_their_share_of_a_gpu_changes(cluster: Cluster) -> None:
    pool = cluster.pool("square", Square(), size=1, num_cpus=0.5)
    pool.submit("one", 1)
    drain(cluster, pool)
    (before,) = pool._actors
    pool.resize(Crew(size=1, num_cpus=0.4), {})
    assert pool._actors == [before]
    pool.resize(Crew(size=1, num_cpus=0.4, num_gpus=0.5), {})  # waits: there is none here
    (waiting,) = pool._actors
    assert waiting is not before
    pool.resize(Crew(size=1, num_cpus=0.4), {})
    pool.submit("two", 2)
    (outcome,) = drain(cluster, pool)
    assert outcome.value[0] == 4


@pytest.mark.parametrize(
    ("cpus", "gpus", "num_samplers", "expected"),
    [
        (2, 0, None, Crew(1, 0.4)),
        (64, 0, None, Crew(42, 0.4)),
        (2, 0, 4, Crew(4, 0.2)),
        (16, 2, None, Crew(2, 0.4, 1.0)),
        (16, 2, 3, Crew(3, 0.4, 0.5)),
        (1, 8, None, Crew(8, 0.05, 1.0)),
    ],
)
def test_samplers_share_gpus_or_cores(
    cpus: int, gpus: int, num_samplers: int | None, expected: Crew
) -> None:
    assert sampling_crew(num_samplers)(cpus, gpus) == expected
    assert relaxation_crew()(cpus, gpus) == Crew(cpus, 0.5)


def test_there_are_more_samplers_where_relaxations_are_given_up() -> None:
    crews = [
        sampling_crew(gives_up=True)(*machine) for machine in [(1, 0), (2, 0), (64, 0), (8, 2)]
    ]
    assert crews == [Crew(1, 0.4), Crew(2, 0.4), Crew(64, 0.4), Crew(2, 0.4, 1.0)]


@pytest.mark.parametrize(
    ("cpus", "gpus", "relaxers", "samplers"),
    [
        (8, 0, Crew(8, 0.5), Crew(5, 0.4)),
        (16, 1, Crew(4, 0.5, 0.125), Crew(1, 0.4, 0.5)),
        (64, 4, Crew(16, 0.5, 0.125), Crew(4, 0.4, 0.5)),
        (2, 1, Crew(2, 0.5, 0.125), Crew(1, 0.4, 0.5)),
    ],
)
def test_relaxers_share_gpus_with_samplers_if_they_are_asked_to(
    cpus: int, gpus: int, relaxers: Crew, samplers: Crew
) -> None:
    assert relaxation_crew("gpu")(cpus, gpus) == relaxers
    assert sampling_crew(None, "gpu")(cpus, gpus) == samplers
    assert relaxers.size * relaxers.num_gpus + samplers.size * samplers.num_gpus <= gpus


def test_an_actor_that_dies_while_loading_is_replaced(cluster: Cluster, tmp_path: Path) -> None:
    pool = cluster.pool("loading", DiesOnceLoading(str(tmp_path)), size=1, num_cpus=0.5)
    pool.submit("one", 1)
    (outcome,) = drain(cluster, pool)
    assert outcome.value == 1


@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        ("raises", RunError, "sampling cannot start: OSError: no weights here"),
        ("exits", RunError, "its worker process died 3 times while loading"),
        ("user", UserError, "calculator 'none' is not known"),
    ],
)
def test_a_stage_that_cannot_load_ends_the_run_with_a_sentence(
    cluster: Cluster, how: str, kind: type[Exception], text: str
) -> None:
    pool = cluster.pool("sampling", Refuses(how), size=1, num_cpus=0.5)
    pool.submit("one", 1)
    with pytest.raises(kind, match=text):
        drain(cluster, pool)


def test_a_key_is_open_once(cluster: Cluster) -> None:
    pool = cluster.pool("square", Square(), size=1, num_cpus=0.5)
    pool.submit("one", 1)
    with pytest.raises(ValueError, match="already has work open under the key 'one'"):
        pool.submit("one", 1)


def test_two_pools_share_the_cores(cluster: Cluster) -> None:
    first = cluster.pool("first", Square(), size=2, num_cpus=0.5)
    second = cluster.pool("second", Square(), size=1, num_cpus=0.4)
    first.submit("a", 2)
    second.submit("a", 3)
    outcomes = drain(cluster, first) + drain(cluster, second)
    assert {outcome.pool: outcome.value[0] for outcome in outcomes} == {"first": 4, "second": 9}


def test_workers_use_one_thread_each_and_no_gpu_they_did_not_ask_for(cluster: Cluster) -> None:
    pool = cluster.pool("environment", ReportsEnvironment(), size=1, num_cpus=0.5)
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "niceness"):
        pool.submit(name, name)
    values = {outcome.key: outcome.value for outcome in drain(cluster, pool)}
    assert int(values.pop("niceness")) == min(19, os.nice(0) + 5)
    assert values == {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


ALONE = """
import os, signal, sys
before = signal.getsignal(signal.SIGTERM), dict(os.environ)
from screening.cluster import Cluster
from faulty_stages import Poison
with Cluster(num_cpus=1) as cluster:
    directory = cluster._directory
    pool = cluster.pool("poison", Poison(kills=1, raises=2), size=1, num_cpus=0.5)
    pool.submit("one", 1)
    while not (done := cluster.completed(1.0)):
        pass
    nodes = cluster._ray.nodes()
assert not os.path.exists(directory), directory
assert (signal.getsignal(signal.SIGTERM), dict(os.environ)) == before
assert done[0].attempts == 3
assert [node["NodeManagerAddress"] for node in nodes] == ["127.0.0.1"]
"""


def test_a_ray_of_its_own_starts_silently_and_leaves_nothing() -> None:
    environment = {**os.environ, "PYTHONPATH": HERE}
    run = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-c", ALONE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


SLOW_AT_FIRST = """
import subprocess, sys
import psutil, ray
from screening.cluster import Cluster
init, left_behind = ray.init, []
def slow_at_first(**settings):
    if left_behind:
        return init(**settings)
    # What a start that failed leaves: a process with its directory in the command.
    command = [sys.executable, "-c", "input()", settings["_temp_dir"]]
    left_behind.append(subprocess.Popen(command, stdin=subprocess.PIPE))
    raise Exception("The current node timed out during startup. This could happen because ...")
ray.init = slow_at_first
with Cluster(num_cpus=1) as cluster:
    print(cluster.cpus, psutil.pid_exists(left_behind[0].pid))
"""


@pytest.mark.slow
def test_a_machine_that_is_busy_gets_another_try() -> None:
    run = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-c", SLOW_AT_FIRST],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, "1 False\n"), run.stderr


IMPORTED_BEFORE = """
import ray
from screening.cluster import Cluster
from faulty_stages import Square
with Cluster(num_cpus=1) as cluster:
    pool = cluster.pool("square", Square(), size=1, num_cpus=0.5)
    pool.submit("three", 3)
    while not (done := cluster.completed(1.0)):
        pass
print(done[0].value[0])
"""


@pytest.mark.slow
def test_a_notebook_that_has_imported_ray_before_can_start_one() -> None:
    environment = {name: value for name, value in os.environ.items() if "RAY" not in name}
    run = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-c", IMPORTED_BEFORE],
        env={**environment, "PYTHONPATH": HERE},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, "9\n"), run.stderr


JOIN = """
import sys
from screening.cluster import Cluster
from faulty_stages import ReportsEnvironment, Square
with Cluster(address=sys.argv[1]) as cluster:
    assert cluster.cpus == 2
    square = cluster.pool("square", Square(), size=1, num_cpus=0.5)
    threads = cluster.pool("threads", ReportsEnvironment(), size=1, num_cpus=0.5)
    square.submit("three", 3)
    threads.submit("OMP_NUM_THREADS", "OMP_NUM_THREADS")
    outcomes = []
    while square.pending or threads.pending:
        outcomes += cluster.completed(1.0)
print({o.key: o.value if o.pool == "threads" else o.value[0] for o in outcomes})
"""


def test_a_second_process_joins_by_address_and_leaves_it_running(cluster: Cluster) -> None:
    address = cluster._ray.get_runtime_context().gcs_address
    environment = {
        **os.environ,
        "PYTHONPATH": HERE,
        **LOCAL_RAY,  # the other side's token and interface, as a real cluster has its own
        "OMP_NUM_THREADS": "7",
    }
    run = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-c", JOIN, address],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout in (
        "{'three': 9, 'OMP_NUM_THREADS': '1'}\n",
        "{'OMP_NUM_THREADS': '1', 'three': 9}\n",
    )
    pool = cluster.pool("square", Square(), size=1, num_cpus=0.5)
    pool.submit("four", 4)
    assert drain(cluster, pool)[0].value[0] == 16


@pytest.mark.parametrize(
    ("address", "kind", "text"),
    [
        ("127.0.0.1:9", RunError, "could not join the Ray cluster at 127.0.0.1:9: .*refused"),
        ("nowhere", UserError, "address is 'nowhere'; it must be HOST:PORT of a Ray head, or auto"),
        ("http://head:x", UserError, ".*it must be HOST:PORT of a Ray head, or auto"),
    ],
)
def test_a_cluster_that_is_not_there_is_one_sentence(
    address: str, kind: type[Exception], text: str
) -> None:
    script = (
        "import sys\nfrom screening.cluster import Cluster\n"
        "try:\n    Cluster(address=sys.argv[1]).__enter__()\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )
    run = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-c", script, address],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert run.stderr == ""
    assert re.fullmatch(f"{kind.__name__} {text}\n", run.stdout), run.stdout


@of_ray_data
@pytest.mark.filterwarnings("ignore:Issues encountered while parsing CIF")
def test_processes_train_together(cluster: Cluster, tmp_path: Path) -> None:
    lines: list[str] = []
    crystals = join(list(BY_CENTRING.values()))
    cluster.train(partial(take_a_step, crystals), 2, tmp_path, lines.append)
    assert sorted(lines) == ["2 of 4 crystals"] * 2

    folder = tmp_path / "cifs"
    folder.mkdir()
    for name, unit in BY_CENTRING.items():
        unit.to_structure().to(str(folder / f"{name.replace(' ', '-')}.cif"))
    out = tmp_path / "together.safetensors"

    def launch(function: Callable[[Callable[[str], None]], None]) -> None:
        cluster.train(function, 2, tmp_path, lines.append)

    losses = train([folder], out, SMALL, device="cpu", report=lines.append, launch=launch)
    assert len(losses) == 10
    record = load_checkpoint(str(out)).training_record
    assert record["processes"] == 2
    assert record["steps"] == 3 * ((len(BY_CENTRING) - 1) // 4)
    assert lines[-1] == f"wrote {out}"
    assert {path.name for path in tmp_path.iterdir()} == {"cifs", out.name, f"{out.name}.state"}


def test_no_more_processes_train_than_there_is_room_for(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--workers is 3; allowed: 1 to 2, the cores there are"):
        cluster.train(print, 3, tmp_path, print)


@pytest.mark.slow  # Ray Train begins three times
@of_ray_data
def test_training_that_fails_says_why(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"training failed: .*this cannot be learned"):
        cluster.train(cannot_be_learned, 1, tmp_path, print)

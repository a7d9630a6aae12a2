"""Counting, foreseeing and showing what a run does."""

from __future__ import annotations

import io
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from screening.progress import Progress, StageProgress, duration
from screening.views import LineView, LiveView, open_view

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Return the time, s."""
        return self.now


def a_run(
    view: LineView | LiveView, clock: Clock, beat: Callable[[dict[str, Any]], None] | None = None
) -> Progress:
    """Two pools, the second with two stages."""
    stages = [
        StageProgress("sampling", "samples", "sampler", expected_s=2.0, total=10, workers=1),
        StageProgress("relaxation", "structures", "relaxer", expected_s=4.0, total=5, workers=2),
        StageProgress("references", "phases", "relaxer", expected_s=4.0, total=5, workers=2),
    ]
    return Progress(stages, view, beat, clock)


def test_time_left_counts_each_pool_of_workers_once() -> None:
    clock = Clock()
    progress = a_run(LineView(io.StringIO()), clock)
    assert progress.seconds_left is None
    progress.begin("sampling")
    # 10 * 2 s by one worker, 10 * 4 s by two: 60 s of work for three workers, and neither pool
    # can end before its own 20 s.
    assert progress.seconds_left == pytest.approx(20.0)
    clock.now += 5
    assert progress.seconds_left == pytest.approx(15.0)
    # Five samples took 8 s each: one guess of 2 s and five measurements make 7 s a sample.
    progress.advance("sampling", items=5, busy_s=40.0)
    assert progress.seconds_left == pytest.approx(5 * 7.0)
    progress.advance("sampling", items=5, busy_s=40.0)
    # The samplers have nothing left to do: two workers share 40 s.
    assert progress.seconds_left == pytest.approx(20.0)


def test_what_earlier_runs_did_counts_as_done_and_not_as_fast() -> None:
    progress = a_run(LineView(io.StringIO()), Clock())
    progress.skip("sampling", 8)
    progress.begin("sampling")
    stage = progress.stages["sampling"]
    assert (stage.done, stage.measured) == (8, 0)
    assert stage.remaining_s == pytest.approx(2 * 2.0)


def test_wall_and_busy_seconds_of_a_stage() -> None:
    clock = Clock()
    progress = a_run(LineView(io.StringIO()), clock)
    progress.begin("relaxation")
    clock.now += 3
    progress.advance("relaxation", busy_s=2.5)
    clock.now += 1
    progress.stages["relaxation"].workers = 3  # one more has come
    progress.advance("relaxation", failed=1, busy_s=3.5)
    snapshot = progress.snapshot()["stages"]["relaxation"]
    assert snapshot["wall_s"] == pytest.approx(4.0)
    assert snapshot["busy_s"] == pytest.approx(6.0)
    assert snapshot["available_s"] == pytest.approx(3 * 2 + 1 * 3)
    assert (snapshot["done"], snapshot["failed"], snapshot["total"]) == (2, 1, 5)


def test_the_heartbeat_is_json_and_comes_every_few_seconds_and_at_the_end() -> None:
    clock, beats = Clock(), []
    progress = a_run(LineView(io.StringIO()), clock, beats.append)
    for _ in range(100):
        clock.now += 0.1
        progress.tick()
    assert len(beats) == 2
    progress.finish("interrupted")
    last = json.loads(json.dumps(beats[-1]))
    assert last["state"] == "interrupted"
    assert last["process"] == os.getpid()
    assert last["seconds_left"] is None
    assert last["elapsed_s"] == pytest.approx(10.0)


def test_hours_of_cores_are_those_that_the_run_had() -> None:
    clock = Clock()
    progress = a_run(LineView(io.StringIO()), clock)
    clock.now += 5  # no machine yet
    progress.tick()
    progress.cpus, progress.gpus = 4, 1
    clock.now += 10
    progress.tick()
    progress.cpus = 8  # another machine has come
    clock.now += 1
    progress.finish("finished")
    snapshot = progress.snapshot()
    assert snapshot["core_s"] == pytest.approx(4 * 10 + 8 * 1)
    assert snapshot["gpu_s"] == pytest.approx(11)


def test_lines_say_what_is_done_and_how_long_it_takes() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = a_run(LineView(stream, clock), clock)
    progress.do("sampling and relaxing")
    progress.begin("sampling")
    for _ in range(30):
        clock.now += 0.5
        progress.advance("sampling", items=0)
        progress.tick()
    progress.stages["relaxation"].total_is_final = False
    progress.advance("relaxation", failed=1, busy_s=1.0)
    clock.now += 60
    progress.tick()
    lines = stream.getvalue().splitlines()
    first, second = lines
    assert first == (
        "[0 s] sampling and relaxing: sampling 0/10 samples, relaxation 0/5 structures, "
        "references 0/5 phases"
    )
    assert second == (
        "[1 min 15 s] sampling and relaxing: sampling 0/10 samples, "
        "relaxation 1/~5 structures (1 failed), references 0/5 phases, nearly done"
    )


def test_a_terminal_gets_a_live_table_that_disappears() -> None:
    stream = io.StringIO()
    view = LiveView(Console(file=stream, force_terminal=True, width=100))
    with a_run(view, Clock()) as progress:
        progress.do("sampling and relaxing")
        progress.begin("sampling")
        progress.advance("sampling", items=4, busy_s=8.0)
        progress.tick()
        progress.say("unit [7] failed")
        plain = io.StringIO()
        Console(file=plain, width=100).print(view._render())
    assert "sampling and relaxing" in plain.getvalue()
    assert "4/10 samples" in plain.getvalue()
    assert "20 s left" in plain.getvalue()
    assert "unit [7] failed" in stream.getvalue()


def test_the_view_follows_the_stream() -> None:
    assert isinstance(open_view(io.StringIO()), LineView)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.6, "1 min 0 s"), (190, "3 min 10 s"), (7500, "2 h 5 min")],
)
def test_durations_are_read_easily(seconds: float, text: str) -> None:
    assert duration(seconds) == text

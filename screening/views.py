"""Progress on stderr: a live table on a terminal, plain lines every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table

from screening.progress import duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from screening.progress import Progress, StageProgress, View

LINE_INTERVAL_S = 5.0


class LineView:
    """Plain lines every few seconds: for logs, and where there is no terminal."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._shown_at = float("-inf")
        self._shown = ""

    def show(self, progress: Progress) -> None:
        """Print a line when something has changed and the last is old enough."""
        new_activity = not self._shown.startswith(progress.activity)
        if not new_activity and self._clock() - self._shown_at < LINE_INTERVAL_S:
            return
        counts = [_count(stage) for stage in progress.stages.values() if stage.total]
        text = f"{progress.activity}: {', '.join(counts)}" if counts else progress.activity
        if text == self._shown:
            return
        self._shown, self._shown_at = text, self._clock()
        self.say(f"[{duration(progress.elapsed_s)}] {text}{_left(progress)}")

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the lines as they are."""


class LiveView:
    """A live table on a terminal."""

    def __init__(self, console: Console) -> None:
        self._progress: Progress | None = None
        self._spinner = Spinner("dots")
        self._live = Live(
            get_renderable=self._render, console=console, refresh_per_second=4, transient=True
        )

    def show(self, progress: Progress) -> None:
        """Take the state; the table refreshes itself."""
        if self._progress is None:
            self._progress = progress
            self._live.start()

    def _render(self) -> Group:
        progress = self._progress
        if progress is None:
            return Group()
        self._spinner.text = (
            f"{progress.activity}  {duration(progress.elapsed_s)} so far{_left(progress)}"
        )
        table = Table.grid(padding=(0, 2))
        for stage in progress.stages.values():
            if stage.total:
                bar = ProgressBar(total=stage.total, completed=stage.done, width=30)
                table.add_row(f"  {stage.name}", bar, _count(stage, with_name=False))
        return Group(self._spinner, table)

    def say(self, text: str) -> None:
        """Print a sentence above the table."""
        self._live.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Remove the table."""
        if self._progress is not None:
            self._live.stop()


def open_view(stream: TextIO | None = None) -> View:
    """Return the view that a stream can take: live on a terminal, plain lines elsewhere."""
    stream = stream or sys.stderr
    # Rich would also take FORCE_COLOR, which notebooks set, for a terminal.
    console = Console(file=stream, force_terminal=stream.isatty())
    return (
        LiveView(console)
        if console.is_terminal and not console.is_dumb_terminal
        else LineView(stream)
    )


def _count(stage: StageProgress, *, with_name: bool = True) -> str:
    about = "" if stage.total_is_final else "~"
    failed = f" ({stage.failed} failed)" if stage.failed else ""
    name = f"{stage.name} " if with_name else ""
    return f"{name}{stage.done}/{about}{stage.total} {stage.items}{failed}"


def _left(progress: Progress) -> str:
    left_s = progress.seconds_left
    if left_s is None or progress.state != "running":
        return ""
    return f", about {duration(left_s)} left" if left_s else ", nearly done"

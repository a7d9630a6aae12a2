"""How far a campaign is, read from what lies in its directory: during a run or after a crash."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from screening.grid import grid_size
from screening.ledger import total
from screening.progress import HEARTBEAT, duration
from screening.store import CANDIDATES

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from screening.store import Store

ALIVE_S = 60.0
"""Seconds without a sign of life after which a run counts as stopped."""

_RECENT_UNITS = 50
_COUNTED = ("samples", "kept", "filtered", "failed", "relaxed")


def campaign_status(store: Store, now: float | None = None) -> dict[str, Any]:
    """Count what is done and estimate what is left.

    Args:
        store: the campaign's results.
        now: seconds since the epoch; the present by default.

    Returns:
        Plain values: the state (``running``, ``finished``, ``stopped``), units and samples by
        state, samples per hour, the seconds that are left (None when nothing is running), and for
        each stage of the latest run its workers and the part of their time that they were busy.

    Raises:
        UserError: if there is no campaign.
    """
    campaign = store.campaign()
    size = grid_size(campaign)
    marks = store.marks(["unit_id", "state", "error", "finished_at", *_COUNTED])
    heartbeat = _mapping(store.read_json(HEARTBEAT))
    is_running = _is_running(heartbeat, time.time() if now is None else now)
    failed = marks.filter(pc.equal(marks["state"], "failed"))
    all_done = marks.num_rows == size.n_units
    if is_running:
        state = "running"
    else:
        state = "finished" if all_done and store.files.exists(CANDIDATES) else "stopped"
    drawn = total(marks, "samples")
    began = _number(heartbeat, "updated_at") - _number(heartbeat, "elapsed_s")
    latest = pc.select_k_unstable(marks, _RECENT_UNITS, [("finished_at", "descending")])
    per_hour = samples_per_hour(marks.take(latest).to_pylist(), began)
    return {
        "campaign": campaign.name,
        "output": store.uri,
        "state": state,
        "activity": heartbeat.get("activity") if is_running else None,
        "units": {
            "total": size.n_units,
            "done": marks.num_rows - failed.num_rows,
            "failed": failed.num_rows,
            "waiting": size.n_units - marks.num_rows,
        },
        "samples": {
            "total": size.n_samples,
            "kept": total(marks, "kept"),
            "filtered": total(marks, "filtered"),
            "failed": total(marks, "failed"),
            "waiting": size.n_samples - drawn,
        },
        "relaxed": total(marks, "relaxed"),
        "samples_per_hour": per_hour,
        "seconds_left": _seconds_left(heartbeat, size.n_samples - drawn, per_hour)
        if is_running
        else None,
        "stages": _stages(heartbeat),
        "errors": {mark["unit_id"]: mark["error"] or "" for mark in failed.to_pylist()},
    }


def samples_per_hour(marks: Collection[Mapping[str, Any]], since: float) -> float | None:
    """Return the throughput of the latest units, or None if too few are finished to say.

    Args:
        marks: of finished units.
        since: when the present run began; what earlier runs did is left out, because the pause
            between two runs is not time that was spent.
    """
    ordered = sorted(marks, key=lambda mark: float(mark["finished_at"]))
    recent = [mark for mark in ordered if mark["finished_at"] >= since][-_RECENT_UNITS:]
    if not recent:
        # The present run has finished nothing yet; what came before it is the best guess.
        since, recent = 0.0, ordered[-_RECENT_UNITS:]
    if not since or len(recent) == _RECENT_UNITS:
        # From one mark to another: what the first one counts was done before it.
        since, recent = (recent[0]["finished_at"] if recent else 0.0), recent[1:]
    seconds = recent[-1]["finished_at"] - since if recent else 0.0
    return 3600.0 * sum(mark["samples"] for mark in recent) / seconds if seconds > 0 else None


def status_text(status: dict[str, Any]) -> str:
    """Return a status as it is printed."""
    units, samples = status["units"], status["samples"]
    rate, left = status["samples_per_hour"], status["seconds_left"]
    lines = [
        f"campaign    {status['campaign']}: {status['state']}"
        + (f" ({status['activity']})" if status["activity"] else ""),
        f"output      {status['output']}",
        f"units       {units['done']} of {units['total']} done, {_counts(units)}",
        f"samples     {samples['kept']} kept, {samples['filtered']} filtered, {_counts(samples)}",
        f"candidates  {status['relaxed']} relaxed",
        f"throughput  {f'{rate:.0f} samples an hour' if rate else 'not known yet'}",
    ]
    if status["stages"]:
        busy = [
            f"{name} {stage['workers']} ({stage['utilisation']:.0%} busy)"
            for name, stage in status["stages"].items()
        ]
        lines.append(f"workers     {', '.join(busy)}")
    if status["state"] == "running":
        lines.append(f"time left   {'not known yet' if left is None else duration(left)}")
    if status["state"] == "stopped":
        lines.append(f"go on with  screening resume {status['output']}")
    if units["failed"]:
        lines.append(f"try again   screening resume {status['output']} --retry-failed")
        lines += [f"  {unit}: {error}" for unit, error in status["errors"].items()]
    return "\n".join(lines)


def _seconds_left(
    heartbeat: Mapping[str, Any], samples_left: int, per_hour: float | None
) -> float | None:
    told = heartbeat.get("seconds_left")
    if isinstance(told, (int, float)):
        return float(told)
    return 3600.0 * samples_left / per_hour if per_hour else None


def _stages(heartbeat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what the workers of each stage that has begun do; those of one pool share their time."""
    stages = {name: _mapping(stage) for name, stage in _mapping(heartbeat.get("stages")).items()}
    return {
        name: {
            "workers": int(_number(stage, "workers")),
            "utilisation": round(_number(stage, "busy_s") / available_s, 3),
        }
        for name, stage in stages.items()
        if (available_s := _number(stage, "available_s")) > 0
    }


def _counts(counts: Mapping[str, int]) -> str:
    return f"{counts['failed']} failed, {counts['waiting']} waiting"


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(values: Mapping[str, Any], name: str) -> float:
    value = values.get(name)
    return float(value) if isinstance(value, (int, float)) else 0.0


def _is_running(heartbeat: Mapping[str, Any], now: float) -> bool:
    """Whether the run that wrote the heartbeat is still there."""
    if heartbeat.get("state") != "running":
        return False
    process = heartbeat.get("process")
    if heartbeat.get("host") == socket.gethostname() and isinstance(process, int):
        with suppress(PermissionError):  # it is there, and another user's
            try:
                os.kill(process, 0)  # signal 0 only asks
            except ProcessLookupError:
                return False
    return now - _number(heartbeat, "updated_at") < ALIVE_S

"""The figures of a rediscovery: what the verdicts on samples come to, per target and in all."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from screening.schema import STATUSES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from screening.evaluation.judging import Verdict
    from screening.evaluation.targets import Target

Row = dict[str, Any]

FREE_COORDINATES = (("0-1", 0, 1), ("2-3", 2, 3), ("4+", 4, None))
"""Classes of targets: label, fewest and most free coordinates of the answer."""

_BEFORE, _AFTER = "before_relaxation", "after_relaxation"
_COLUMNS = "target,formula,group,free,right formula,relaxed,hits before,hits after,first,same group"


def target_figures(
    target: Target, verdicts: Sequence[Verdict], sampling_s: dict[str, float], *, is_relaxed: bool
) -> Row:
    """Return the figures of one target.

    Args:
        target: what was searched.
        verdicts: one per sample, in the order in which they were drawn.
        sampling_s: seconds of workers for graphs and for sampling.
        is_relaxed: whether samples were relaxed at all.
    """
    statuses = Counter(verdict.status for verdict in verdicts)
    before = _hits([v.hit_before for v in verdicts], [v.group_before for v in verdicts], target)
    after = _hits([v.hit_after for v in verdicts], [v.group_after for v in verdicts], target)
    return {
        "target": target.name,
        "formula": target.formula,
        "space_group": target.cell.space_group,
        "sites": dict(target.cell.site_counts),
        "free_coordinates": target.n_free,
        "samples": {status: statuses[status] for status in STATUSES},
        "filtered": _counted(
            verdict.reason and verdict.reason.split(":")[0] for verdict in verdicts
        ),
        "errors": _counted(verdict.error for verdict in verdicts),
        "right_formula": sum(verdict.right_formula for verdict in verdicts),
        "relaxations": sum(verdict.relaxed for verdict in verdicts),
        "converged": sum(verdict.converged for verdict in verdicts),
        _BEFORE: before,
        _AFTER: after if is_relaxed else None,
        "seconds": {
            **{name: round(seconds, 3) for name, seconds in sampling_s.items()},
            "relaxation": round(sum(verdict.relaxation_s for verdict in verdicts), 3),
            "matching": round(sum(verdict.matching_s for verdict in verdicts), 3),
        },
    }


def _hits(hits: Sequence[bool], groups: Sequence[int | None], target: Target) -> Row:
    """Count hits, and those crystals in which the group that was asked for is found."""
    agree = [group == target.cell.space_group for group in groups]
    return {
        "hits": sum(hits),
        "hit_rate": round(sum(hits) / len(hits), 6),
        "first_hit": hits.index(True) + 1 if any(hits) else None,
        "space_group_found": sum(group is not None for group in groups),
        "space_group_agrees": sum(agree),
        "hits_whose_space_group_agrees": sum(
            hit and same for hit, same in zip(hits, agree, strict=True)
        ),
    }


def total_figures(targets: Sequence[Row]) -> Row:
    """Return the figures of all targets together, and by number of free coordinates."""
    return {**_summed(targets), "by_free_coordinates": _by_free_coordinates(targets)}


def _by_free_coordinates(targets: Sequence[Row]) -> dict[str, Row]:
    return {
        label: _found(
            [t for t in targets if low <= t["free_coordinates"] <= (high or t["free_coordinates"])]
        )
        for label, low, high in FREE_COORDINATES
    }


def _summed(targets: Sequence[Row]) -> Row:
    def added(name: str) -> dict[str, Any]:
        total: Counter[str] = Counter()
        for target in targets:
            total.update(target[name])
        return dict(sorted(total.items()))

    return {
        **_found(targets),
        "samples": added("samples"),
        "filtered": added("filtered"),
        "errors": added("errors"),
        **{
            name: sum(target[name] for target in targets)
            for name in ("right_formula", "relaxations", "converged")
        },
        "seconds": {name: round(seconds, 3) for name, seconds in added("seconds").items()},
    }


def _found(targets: Sequence[Row]) -> Row:
    """Return how many targets were found, and the mean of their hit rates."""
    is_relaxed = all(target[_AFTER] for target in targets)
    figures: Row = {"targets": len(targets)}
    for when in (_BEFORE, _AFTER):
        rates = [target[when]["hit_rate"] for target in targets if target[when]]
        is_known = when == _BEFORE or is_relaxed
        figures[f"found_{when}"] = sum(rate > 0 for rate in rates) if is_known else None
        mean = round(sum(rates) / len(rates), 6) if rates else None
        figures[f"mean_hit_rate_{when}"] = mean
    return figures


def _counted(texts: Any) -> dict[str, int]:
    """Count texts, absent ones left out, in alphabetical order."""
    return dict(sorted(Counter(text for text in texts if text).items()))


# As it is printed ------------------------------------------------------------------------


def result_text(result: Row) -> str:
    """Return a result as a short table."""
    rows = [_COLUMNS.split(","), *(_line(target) for target in result["targets"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(_aligned, row, widths, range(len(row)))).rstrip() for row in rows]
    totals = result["totals"]
    lines += ["", _sentence("all targets", totals)]
    for label, figures in totals["by_free_coordinates"].items():
        if figures["targets"]:
            lines.append(_sentence(f"{label} free coordinates", figures))
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in totals["seconds"].items())
    lines.append(f"{totals['relaxations']} relaxations; {seconds} of workers")
    return "\n".join(lines)


def _line(target: Row) -> list[str]:
    before, after = target[_BEFORE], target[_AFTER]
    last = after or before
    return [
        target["target"],
        target["formula"],
        str(target["space_group"]),
        str(target["free_coordinates"]),
        str(target["right_formula"]),
        str(target["relaxations"]),
        str(before["hits"]),
        str(after["hits"]) if after else "-",
        str(last["first_hit"] or "-"),
        f"{last['space_group_agrees']}/{last['space_group_found']}",
    ]


def _aligned(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column < _N_TEXT_COLUMNS else text.rjust(width)


_N_TEXT_COLUMNS = 2


def _sentence(what: str, figures: Row) -> str:
    def found(when: str, words: str) -> str:
        return (
            f"{figures[f'found_{when}']} of {figures['targets']} found {words} "
            f"(mean hit rate {100 * figures[f'mean_hit_rate_{when}']:.1f} %)"
        )

    parts = [found(_BEFORE, "before relaxation")]
    if figures[f"found_{_AFTER}"] is not None:
        parts.append(found(_AFTER, "after"))
    return f"{what}: {', '.join(parts)}"

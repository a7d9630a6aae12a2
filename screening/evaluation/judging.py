"""The judging stage: is a sample the answer, as it was drawn and after its relaxation?"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pymatgen.analysis.structure_matcher import StructureMatcher

from screening.schema import structure_from_row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pymatgen.core import Structure

    from screening.relaxation import RelaxationStage

MATCHER = {"ltol": 0.2, "stol": 0.3, "angle_tol": 5}
"""The defaults of ``StructureMatcher``, written down: fractional lengths, sites, degrees."""


@dataclass(frozen=True)
class Verdict:
    """What became of one sample."""

    status: str
    """As in the table of samples: kept, filtered or failed."""
    reason: str | None = None
    """Why it was filtered."""
    error: str | None = None
    """Why sampling or relaxation failed."""
    right_formula: bool = False
    group_before: int | None = None
    """The space group found in the sample."""
    hit_before: bool = False
    relaxed: bool = False
    """Whether a relaxation was spent on it, successful or not."""
    converged: bool = False
    group_after: int | None = None
    hit_after: bool = False
    relaxation_s: float = 0.0
    matching_s: float = 0.0


@dataclass(frozen=True)
class JudgingStage:
    """Compares samples with an answer, relaxes them, and compares again."""

    relaxation: RelaxationStage | None
    """None leaves samples as they were drawn."""
    _loaded: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def setup(self) -> None:
        """Load the potential; called once, on the worker."""
        self._loaded["matcher"] = StructureMatcher(
            ltol=MATCHER["ltol"], stol=MATCHER["stol"], angle_tol=MATCHER["angle_tol"]
        )
        if self.relaxation is not None:
            self.relaxation.setup()

    def __call__(self, work: tuple[Sequence[Mapping[str, Any]], Structure]) -> list[Verdict]:
        """Return the verdict on each of some kept rows with the formula of the answer.

        They are relaxed together; each has an equal share of the time.
        """
        rows, answer = work
        verdicts = [self._as_drawn(row, answer) for row in rows]
        if self.relaxation is None:
            return verdicts
        began = time.perf_counter()
        candidates = self.relaxation.together(rows)
        share = (time.perf_counter() - began) / len(rows)
        return [
            self._after_relaxation(
                replace(verdict, relaxed=True, relaxation_s=share), candidate, answer
            )
            for verdict, candidate in zip(verdicts, candidates, strict=True)
        ]

    def _as_drawn(self, row: Mapping[str, Any], answer: Structure) -> Verdict:
        hit, seconds = self._is_match(row, answer)
        return Verdict(
            "kept",
            right_formula=True,
            group_before=row["space_group_it_number"],
            hit_before=hit,
            matching_s=seconds,
        )

    def _after_relaxation(
        self, verdict: Verdict, candidate: Mapping[str, Any], answer: Structure
    ) -> Verdict:
        if candidate["status"] == "failed":
            return replace(verdict, error=candidate["error"])
        hit, seconds = self._is_match(candidate, answer)
        return replace(
            verdict,
            matching_s=verdict.matching_s + seconds,
            converged=candidate["converged"],
            group_after=candidate["space_group_it_number"],
            hit_after=hit,
        )

    def _is_match(self, row: Mapping[str, Any], answer: Structure) -> tuple[bool, float]:
        """Return whether a row's crystal is the answer, and the seconds that it took to say."""
        began = time.perf_counter()
        is_match = bool(self._loaded["matcher"].fit(structure_from_row(row), answer))
        return is_match, time.perf_counter() - began

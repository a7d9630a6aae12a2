"""The judging stage: is a sample the answer, as it was drawn and after its relaxation?"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pymatgen.analysis.structure_matcher import StructureMatcher

from screening.schema import structure_from_row

if TYPE_CHECKING:
    from collections.abc import Mapping

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

    def __call__(self, work: tuple[Mapping[str, Any], Structure]) -> Verdict:
        """Return the verdict on a kept row with the formula of the answer."""
        row, answer = work
        hit_before, matching_s = self._is_match(row, answer)
        verdict = {
            "status": "kept",
            "right_formula": True,
            "group_before": row["space_group_it_number"],
            "hit_before": hit_before,
        }
        if self.relaxation is None:
            return Verdict(**verdict, matching_s=matching_s)
        began = time.perf_counter()
        candidate = self.relaxation(row)
        relaxation_s = time.perf_counter() - began
        verdict |= {"relaxed": True, "relaxation_s": relaxation_s}
        if candidate["status"] == "failed":
            return Verdict(**verdict, matching_s=matching_s, error=candidate["error"])
        hit_after, more_s = self._is_match(candidate, answer)
        return Verdict(
            **verdict,
            matching_s=matching_s + more_s,
            converged=candidate["converged"],
            group_after=candidate["space_group_it_number"],
            hit_after=hit_after,
        )

    def _is_match(self, row: Mapping[str, Any], answer: Structure) -> tuple[bool, float]:
        """Return whether a row's crystal is the answer, and the seconds that it took to say."""
        began = time.perf_counter()
        is_match = bool(self._loaded["matcher"].fit(structure_from_row(row), answer))
        return is_match, time.perf_counter() - began

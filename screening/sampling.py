"""The sampling stage: from prepared units to rows of samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from screening.schema import structure_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.checkpoint import ScoreModel
    from model.crystal import AsymmetricUnit
    from model.multigraph import Batch
    from screening.graphs import PreparedUnit


@dataclass(frozen=True)
class SamplingStage:
    """Samples the crystals of a unit with a score model."""

    checkpoint: str
    """Name of a shipped checkpoint, or a path."""
    sampler: str
    """Name of a sampler."""
    device: str = "auto"
    """``cpu``, ``cuda`` or ``auto``: a GPU where there is one."""
    _loaded: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def setup(self) -> None:
        """Load the weights; called once, on the worker."""
        import torch  # noqa: PLC0415 - slow to import, and only needed on the worker

        from model.checkpoint import load_checkpoint  # noqa: PLC0415

        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._loaded["model"] = load_checkpoint(self.checkpoint, device)
        self._loaded["device"] = device

    def __call__(self, prepared: PreparedUnit) -> list[dict[str, Any]]:
        """Return one row per sample: kept, or failed with an error."""
        from model.sampler import sampler_name  # noqa: PLC0415 - needs torch

        model: ScoreModel = self._loaded["model"]
        batch = prepared.batch.to(self._loaded["device"])
        crystals = _sample_in_parts(model, batch, prepared.seeds, self.sampler)
        generator = f"{model.fingerprint}/{sampler_name(self.sampler)}"
        return [
            _row(prepared, position, crystal, generator)
            for position, crystal in enumerate(crystals)
        ]


def _sample_in_parts(
    model: ScoreModel, batch: Batch, seeds: Sequence[int], sampler: str
) -> list[AsymmetricUnit | None]:
    """Sample a batch, in halves when the device's memory does not hold it.

    Returns:
        One crystal per structure; None where the memory does not even hold that one.
    """
    import torch  # noqa: PLC0415 - slow to import, and only needed on the worker

    from model.sampler import sample  # noqa: PLC0415

    try:
        return [*sample(model, batch, seeds, sampler)]
    except torch.OutOfMemoryError:
        pass  # the error holds on to what filled the memory: go on without it
    if batch.n_systems == 1:
        return [None]
    half = batch.n_systems // 2
    halves = ((0, half), (half, batch.n_systems))
    return [
        crystal
        for first, end in halves
        for crystal in _sample_in_parts(model, batch.part(first, end), seeds[first:end], sampler)
    ]


def _row(
    prepared: PreparedUnit, position: int, crystal: AsymmetricUnit | None, generator: str
) -> dict[str, Any]:
    unit = prepared.unit
    row: dict[str, Any] = {
        "sample_id": unit.sample_id(position),
        "unit_id": unit.unit_id,
        "seed": prepared.seeds[position],
        "chemical_system": unit.cell.chemical_system,
        "space_group_requested": unit.cell.space_group,
        "site_counts": unit.cell.site_counts_label,
        "generator": generator,
        "status": "kept",
    }
    if crystal is None:
        error = "sampling: the device's memory does not hold a single crystal of this cell"
        return {**row, "status": "failed", "error": error}
    if not (np.isfinite(crystal.frac_coords).all() and np.isfinite(crystal.lengths).all()):
        return {**row, "status": "failed", "error": "sampling diverged: coordinates not finite"}
    return {**row, **structure_columns(crystal.to_structure())}

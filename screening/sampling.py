"""The sampling stage: from prepared units to rows of samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from screening.schema import structure_columns

if TYPE_CHECKING:
    from model.checkpoint import ScoreModel
    from model.crystal import AsymmetricUnit
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
        from model.sampler import sample, sampler_name  # noqa: PLC0415 - needs torch

        model: ScoreModel = self._loaded["model"]
        crystals = sample(
            model, prepared.batch.to(self._loaded["device"]), prepared.seeds, self.sampler
        )
        generator = f"{model.fingerprint}/{sampler_name(self.sampler)}"
        return [
            _row(prepared, position, crystal, generator)
            for position, crystal in enumerate(crystals)
        ]


def _row(
    prepared: PreparedUnit, position: int, crystal: AsymmetricUnit, generator: str
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
    if not (np.isfinite(crystal.frac_coords).all() and np.isfinite(crystal.lengths).all()):
        return {**row, "status": "failed", "error": "sampling diverged: coordinates not finite"}
    return {**row, **structure_columns(crystal.to_structure())}

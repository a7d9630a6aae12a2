"""The sampling stage: from prepared units to rows of samples.

Units of any cells are sampled together. A sample is the same in whatever company it is drawn
(`model.repeatable`), so that what goes together can be what suits the machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from screening.campaign import RANDOM
from screening.schema import structure_columns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from model.checkpoint import ScoreModel
    from model.crystal import AsymmetricUnit
    from model.multigraph import Batch
    from screening.campaign import Generator
    from screening.graphs import PreparedUnits


class Sampling(Protocol):
    """What draws the crystals of units."""

    def setup(self) -> None:
        """Load what the work needs, on the worker."""

    @property
    def generator(self) -> str:
        """The value of the column ``generator``; known after `setup`."""

    def __call__(self, prepared: PreparedUnits, /) -> list[dict[str, Any]]:
        """Return one row per sample, unit after unit: kept, or failed with an error."""


@dataclass(frozen=True)
class SamplingStage:
    """Samples the crystals of units with a score model."""

    checkpoint: str
    """Name of a shipped checkpoint, or a path."""
    sampler: str
    """Name of a sampler."""
    device: str = "auto"
    """``cpu``, ``cuda`` or ``auto``: a GPU where there is one."""
    _loaded: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def setup(self) -> None:
        """Load the weights; called once, on the worker."""
        # Slow to import, and only needed on the worker.
        from model.checkpoint import load_checkpoint  # noqa: PLC0415
        from model.device import chosen_device  # noqa: PLC0415

        device = chosen_device(self.device)
        self._loaded["model"] = load_checkpoint(self.checkpoint, device)
        self._loaded["device"] = device

    @property
    def generator(self) -> str:
        """The value of the column ``generator``."""
        from model.sampler import sampler_fingerprint  # noqa: PLC0415 - needs torch

        return f"{self._loaded['model'].fingerprint}/{sampler_fingerprint(self.sampler)}"

    def draw(self, batch: Batch, seeds: Sequence[int]) -> list[AsymmetricUnit | None]:
        """Sample one crystal for each structure of a batch, which may be of different cells.

        Returns:
            The crystals; None where the device's memory does not hold even that one alone.
        """
        batch = batch.to(self._loaded["device"])
        return _sample_in_parts(self._loaded["model"], batch, seeds, self.sampler)

    def __call__(self, prepared: PreparedUnits) -> list[dict[str, Any]]:
        """Return one row per sample, unit after unit: kept, or failed with an error."""
        crystals = self.draw(prepared.batch, prepared.seeds)
        return [
            {**columns, "generator": self.generator, **crystal_columns(crystal)}
            for columns, crystal in zip(prepared.columns(), crystals, strict=True)
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


@dataclass(frozen=True)
class RandomStage:
    """Draws random crystals in place of the model's; see ``screening.random_crystals``."""

    max_atoms: int
    """The most atoms in the primitive cell."""

    def setup(self) -> None:
        """Need nothing."""

    @property
    def generator(self) -> str:
        """The value of the column ``generator``."""
        return generator_column(_random_parts())

    def __call__(self, prepared: PreparedUnits) -> list[dict[str, Any]]:
        """Return one row per sample, unit after unit: kept, or failed with an error."""
        cells = [unit.cell for unit in prepared.units for _ in range(unit.count)]
        return [
            {
                **columns,
                **random_columns(
                    cell.space_group, cell.atomic_numbers, self.max_atoms, columns["seed"]
                ),
            }
            for cell, columns in zip(cells, prepared.columns(), strict=True)
        ]


def random_columns(
    space_group: int, atomic_numbers: list[int], max_atoms: int, seed: int
) -> dict[str, Any]:
    """Draw a random crystal and return the columns that it fills, or why there is none.

    Args:
        space_group: 16 to 230.
        atomic_numbers: the element of each inequivalent site.
        max_atoms: the most atoms in the primitive cell.
        seed: all its randomness comes from it.
    """
    from screening.random_crystals import (  # noqa: PLC0415 - needs torch
        NoCrystalError,
        random_crystal,
    )

    try:
        crystal = random_crystal(space_group, atomic_numbers, max_atoms, seed)
    except NoCrystalError as error:
        columns: dict[str, Any] = {"status": "failed", "error": str(error)}
    else:
        columns = crystal_columns(crystal)
    return {"generator": generator_column(_random_parts()), **columns}


def _random_parts() -> dict[str, str]:
    from screening.random_crystals import VERSION  # noqa: PLC0415 - needs torch

    return {"model": RANDOM, "sampler": VERSION}


def sampling_stage(generator: Generator, max_atoms: int) -> Sampling:
    """Return the stage of a campaign's generator.

    Args:
        generator: the settings.
        max_atoms: the most atoms in the primitive cell. Random crystals keep to it; the model's
            formula is found by sampling, and filtered afterwards.
    """
    if generator.method == RANDOM:
        return RandomStage(max_atoms)
    return SamplingStage(_anywhere(generator.checkpoint), generator.sampler)


def generator_column(parts: Mapping[str, str]) -> str:
    """Return the value of the column ``generator`` from the fingerprints of `generator_parts`."""
    return f"{parts['model']}/{parts['sampler']}"


def generator_parts(generator: Generator) -> dict[str, str]:
    """Return the fingerprints of a generator, ``model`` and ``sampler``.

    Raises:
        ValueError: of the model's own, if the checkpoint or the sampler cannot be used.
    """
    from model.checkpoint import load_checkpoint  # noqa: PLC0415 - imports torch
    from model.sampler import sampler_fingerprint  # noqa: PLC0415

    if generator.method == RANDOM:
        return _random_parts()
    model = load_checkpoint(generator.checkpoint)
    return {"model": model.fingerprint, "sampler": sampler_fingerprint(generator.sampler)}


def _anywhere(checkpoint: str) -> str:
    """Return a checkpoint's name, or its path in a form that does not depend on the directory."""
    from model.checkpoint import checkpoint_path  # noqa: PLC0415 - imports torch

    path = checkpoint_path(checkpoint)
    return str(path.resolve()) if path == Path(checkpoint) else checkpoint


def crystal_columns(crystal: AsymmetricUnit | None) -> dict[str, Any]:
    """Return a sampled crystal's columns: kept, or failed with an error."""
    if crystal is None:
        error = "sampling: the device's memory does not hold a single crystal of this cell"
        return {"status": "failed", "error": error}
    if not (np.isfinite(crystal.frac_coords).all() and np.isfinite(crystal.lengths).all()):
        return {"status": "failed", "error": "sampling diverged: coordinates not finite"}
    return {"status": "kept", **structure_columns(crystal.to_structure())}

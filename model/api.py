"""The model from Python: load it, and draw crystals as pymatgen structures.

It imports torch and pymatgen where they are used, so that importing the package stays cheap.
"""
# ruff: noqa: PLC0415 - imports that take time stand inside the functions that need them

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pymatgen.core import Structure

    from model.checkpoint import ScoreModel

_BATCH = 32
"""Crystals that are drawn at once."""


@dataclass(frozen=True)
class CrystalModel:
    """A trained model that draws crystals."""

    score_model: ScoreModel
    """The network with its training record and fingerprint."""
    device: str
    """Where it computes, ``cpu`` or ``cuda``."""

    def sample(
        self,
        sites: Mapping[str, int],
        space_group: int,
        n: int = 1,
        *,
        seed: int = 0,
        sampler: str = "default",
    ) -> list[Structure]:
        """Draw crystals; they are not relaxed.

        Example:
            >>> salts = load_model(device="cpu").sample({"Na": 1, "Cl": 1}, space_group=225, n=2)
            >>> [sorted(salt.symbol_set) for salt in salts]
            [['Cl', 'Na'], ['Cl', 'Na']]

        Args:
            sites: Element symbol to its number of symmetry-inequivalent sites.
            space_group: International Tables number, 16 to 230.
            n: How many.
            seed: The same one gives the same crystals; a larger ``n`` adds others to them.
            sampler: Name of a sampler.

        Returns:
            Primitive cells with the symmetry of the group; fewer than ``n`` where one diverged.

        Raises:
            ValueError: If an argument is not allowed.
        """
        from model.multigraph import make_batch
        from model.sampler import sample

        numbers = _atomic_numbers(sites)
        _check(space_group, n, seed)
        crystals = []
        for first in range(0, n, _BATCH):
            seeds = [_seed(seed, index) for index in range(first, min(first + _BATCH, n))]
            batch = make_batch([space_group] * len(seeds), [numbers] * len(seeds))
            crystals += sample(self.score_model, batch.to(self.device), seeds, sampler)
        return [
            crystal.to_structure()
            for crystal in crystals
            if np.isfinite(crystal.frac_coords).all() and np.isfinite(crystal.lengths).all()
        ]


def load_model(checkpoint: str = "default", device: str = "auto") -> CrystalModel:
    """Load a shipped checkpoint or a user's file.

    Example:
        >>> load_model("none")
        Traceback (most recent call last):
        model.checkpoint.CheckpointError: checkpoint must be one of default, ... got 'none'

    Args:
        checkpoint: ``default``, the name of a shipped checkpoint, or a path.
        device: ``cpu``, ``cuda`` or ``auto``: a GPU where there is one.

    Raises:
        CheckpointError: If the file is missing or is not a checkpoint.
    """
    from model.checkpoint import load_checkpoint
    from model.device import chosen_device

    device = chosen_device(device)
    return CrystalModel(load_checkpoint(checkpoint, device), device)


def _atomic_numbers(sites: Mapping[str, int]) -> list[int]:
    """One atomic number per site, elements in alphabetical order."""
    from pymatgen.core import Element

    if not sites:
        raise ValueError('sites is empty; allowed: a mapping such as {"Cu": 1, "K": 2}')
    for symbol, count in sites.items():
        if not Element.is_valid_symbol(symbol) or not _is_integer(count) or count < 1:
            raise ValueError(
                f"sites holds {symbol!r}: {count!r}; allowed: an element's symbol and an integer "
                f"from 1"
            )
    return [Element(symbol).Z for symbol in sorted(sites) for _ in range(sites[symbol])]


def _check(space_group: int, n: int, seed: int) -> None:
    from model.symmetry import HIGHEST_SPACE_GROUP, LOWEST_SPACE_GROUP

    groups = range(LOWEST_SPACE_GROUP, HIGHEST_SPACE_GROUP + 1)
    if not _is_integer(space_group) or space_group not in groups:
        raise ValueError(
            f"space_group is {space_group!r}; allowed: an integer from {LOWEST_SPACE_GROUP} to "
            f"{HIGHEST_SPACE_GROUP}"
        )
    for name, value, lowest in (("n", n, 1), ("seed", seed, 0)):
        if not _is_integer(value) or value < lowest:
            raise ValueError(f"{name} is {value!r}; allowed: an integer from {lowest}")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _seed(seed: int, index: int) -> int:
    """The seed of one crystal, below 2^63, independent of how many are drawn."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0]) >> 1

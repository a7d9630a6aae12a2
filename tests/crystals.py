"""Named crystals and an exact score, shared by the tests of the model."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch

from model.crystal import AsymmetricUnit
from model.lattice import l3_from_lengths
from model.network import Noise
from model.noise import NoiseSchedule, posterior_displacement
from model.symmetry import space_group

if TYPE_CHECKING:
    from torch import Tensor

    from model.multigraph import Batch


def crystal(number: int, lengths: list[float], sites: dict[int, list[float]]) -> AsymmetricUnit:
    """Describe a crystal by one position per atomic number."""
    return AsymmetricUnit(
        number, np.array(lengths), np.array(list(sites.values())), np.array(list(sites))
    )


ROCK_SALT = crystal(225, [5.69] * 3, {11: [0, 0, 0], 17: [0.5, 0.5, 0.5]})
CESIUM_CHLORIDE = crystal(221, [4.12] * 3, {55: [0, 0, 0], 17: [0.5, 0.5, 0.5]})
ZINC_BLENDE = crystal(216, [5.45] * 3, {30: [0, 0, 0], 16: [0.25, 0.25, 0.25]})
PEROVSKITE = crystal(221, [3.94] * 3, {38: [0, 0, 0], 22: [0.5] * 3, 8: [0.5, 0.5, 0]})
WURTZITE = crystal(186, [3.29, 3.29, 5.31], {30: [1 / 3, 2 / 3, 0], 8: [1 / 3, 2 / 3, 0.379]})
CORUNDUM = crystal(167, [4.81, 4.81, 13.12], {13: [0, 0, 0.352], 8: [0.306, 0, 0.25]})
MATLOCKITE = crystal(
    129, [4.11, 4.11, 7.23], {82: [0, 0.5, 0.205], 9: [0, 0, 0], 17: [0, 0.5, 0.65]}
)
COTUNNITE = crystal(62, [7.62, 4.53, 9.05], {82: [0.25, 0.25, 0.095], 17: [0.36, 0.25, 0.43]})
BODY_CENTRED = crystal(139, [4.0, 4.0, 10.1], {60: [0, 0, 0], 14: [0, 0, 0.35]})
FACE_CENTRED = crystal(70, [8.1, 9.2, 7.3], {11: [0.125, 0.125, 0.45], 17: [0.3, 0.2, 0.1]})
BASE_CENTRED = crystal(63, [3.8, 10.2, 7.1], {29: [0, 0.1, 0.25], 16: [0.31, 0.37, 0.08]})
A_CENTRED = crystal(38, [4.2, 5.3, 6.1], {29: [0, 0, 0.02], 16: [0.5, 0.21, 0.33]})

BY_CENTRING = {
    "P orthorhombic": COTUNNITE,
    "P tetragonal": MATLOCKITE,
    "P hexagonal": WURTZITE,
    "P cubic": PEROVSKITE,
    "A orthorhombic": A_CENTRED,
    "C orthorhombic": BASE_CENTRED,
    "I tetragonal": BODY_CENTRED,
    "F orthorhombic": FACE_CENTRED,
    "F cubic": ROCK_SALT,
    "F cubic without a centre": ZINC_BLENDE,
    "R hexagonal": CORUNDUM,
}


@dataclass(frozen=True)
class ExactScore:
    """The exact noise estimate for a batch that consists of known crystals."""

    crystals: list[AsymmetricUnit]
    schedule: NoiseSchedule

    def __call__(self, batch: Batch, frac_coords: Tensor, l3: Tensor, level: Tensor) -> Noise:
        """Point from each site to the images that it may have come from."""
        lattice = batch.lattice(l3)
        shifts = torch.tensor(list(product((-1, 0, 1), repeat=3)), dtype=l3.dtype)
        displacements, owner = [], []
        site = 0
        known = torch.zeros_like(l3)
        for index, unit in enumerate(self.crystals):
            group = space_group(unit.space_group)
            known[index] = l3_from_lengths(torch.as_tensor(unit.lengths))
            for position in unit.frac_coords:
                images = torch.as_tensor(group.rotations @ position + group.translations)
                difference = images - frac_coords[site]
                difference = difference - difference.round()
                spread = (difference[:, None] + shifts).reshape(-1, 3)
                displacements.append(spread @ lattice[index])
                owner.append(torch.full((len(spread),), site))
                site += 1
        sigma = self.schedule.position_sigma(level)[batch.system]
        back = posterior_displacement(torch.cat(displacements), sigma, torch.cat(owner), site)
        off = (l3 - known) / self.schedule.length_sigma(level)[:, None]
        lengths = torch.zeros_like(off).scatter(1, batch.ties, off)
        return Noise(-back / sigma[:, None], lengths)

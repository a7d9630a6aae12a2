"""Noisy crystals, and the noise that a network should find in them.

Known crystals are put on the device once. What is drawn there is drawn on the host, so that a
training's noise does not depend on the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from model.device import to_device
from model.lattice import free_mask, l3_from_lengths, row_product, untie
from model.multigraph import Batch, apply_affine, inverted, make_batch, ragged
from model.noise import posterior_displacement

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from model.dataset import Crystals
    from model.network import Noise
    from model.noise import NoiseSchedule


@dataclass(frozen=True)
class KnownCrystals:
    """Clean crystals on a device."""

    batch: Batch
    frac_coords: Tensor
    """(n_sites, 3)."""
    l3: Tensor
    """(n_crystals, 3)."""
    n_sites: NDArray[np.int64]
    """(n_crystals,), on the host."""

    @classmethod
    def of(
        cls,
        crystals: Crystals,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> KnownCrystals:
        """Put crystals on a device."""
        ends = np.cumsum(crystals.n_sites)
        sites = [z.tolist() for z in np.split(crystals.atomic_numbers, ends[:-1])]
        return cls(
            batch=make_batch(crystals.space_groups.tolist(), sites, dtype).to(device),
            frac_coords=torch.as_tensor(crystals.frac_coords, dtype=dtype).to(device),
            l3=l3_from_lengths(torch.as_tensor(crystals.lengths)).to(device, dtype),
            n_sites=crystals.n_sites,
        )

    def __len__(self) -> int:
        """Return the number of crystals."""
        return len(self.n_sites)

    def subset(self, chosen: NDArray[np.int64]) -> KnownCrystals:
        """Return the crystals with the given numbers, in that order."""
        device = self.l3.device
        n_sites = self.n_sites[chosen]
        first = (np.cumsum(self.n_sites) - self.n_sites)[chosen]
        system, places = ragged(torch.as_tensor(first), torch.as_tensor(n_sites))
        sites = to_device(places, device)
        crystals = to_device(torch.as_tensor(chosen), device)
        batch = self.batch
        return KnownCrystals(
            batch=Batch(
                tables=batch.tables,
                space_group=batch.space_group[crystals],
                group=batch.group[crystals],
                ties=batch.ties[crystals],
                directions=batch.directions[crystals],
                system=to_device(system, device),
                atomic_numbers=batch.atomic_numbers[sites],
                list_lengths=batch.list_lengths[chosen],
            ),
            frac_coords=self.frac_coords[sites],
            l3=self.l3[crystals],
            n_sites=n_sites,
        )


@dataclass(frozen=True)
class Example:
    """Noisy structures and the noise that the network should find in them."""

    batch: Batch
    frac_coords: Tensor
    l3: Tensor
    level: Tensor
    position_noise: Tensor
    """(n_sites, 3) in units of its standard deviation."""
    length_noise: Tensor
    """(n_systems, 3) of the free lengths, zero where there are fewer."""

    def errors(self, noise: Noise) -> tuple[Tensor, Tensor]:
        """Mean squared errors of an estimate per structure, of positions and of lengths.

        Times sigma^2 these are the terms of the paper's loss (equation 6), per coordinate.
        """
        of_site = (noise.positions - self.position_noise).square().mean(dim=1)
        none = torch.zeros_like(self.level)
        n_sites = none.index_add(0, self.batch.system, torch.ones_like(of_site))
        of_system = none.index_add(0, self.batch.system, of_site)
        free = free_mask(self.batch.ties)
        of_lengths = (noise.lengths - self.length_noise).square() * free
        return of_system / n_sites, of_lengths.sum(dim=1) / free.sum(dim=1)


def perturb(
    known: KnownCrystals, level: Tensor, schedule: NoiseSchedule, generator: torch.Generator
) -> Example:
    """Add noise to clean crystals.

    Cell lengths change first; positions keep their fractional coordinates and are then moved in
    the new cell, as happens while sampling.

    Args:
        known: clean crystals.
        level: (n_crystals,) noise levels in [0, 1], on the host.
        schedule: standard deviations at each level.
        generator: source of the noise, on the host.
    """
    batch, device = known.batch, known.l3.device
    drawn_lengths = torch.randn(batch.n_systems, 3, generator=generator)
    drawn = to_device(torch.randn(batch.n_sites, 3, generator=generator), device)
    level = to_device(level, device)
    length_noise = to_device(drawn_lengths, device) * free_mask(batch.ties)
    l3 = known.l3 + untie(schedule.length_sigma(level)[:, None] * length_noise, batch.ties)
    lattice = batch.lattice(l3)

    sigma = schedule.position_sigma(level)[batch.system]
    inverse = inverted(lattice)[batch.system]
    moved = known.frac_coords + row_product(sigma[:, None] * drawn, inverse)
    expected = _expected_noise(known, moved, lattice, sigma)
    # Only the nearest image under each operation is summed over. Where the noise went farther
    # than half a cell, what was drawn is itself an unbiased target.
    near = torch.round(moved - known.frac_coords).abs().amax(dim=1) == 0
    position_noise = torch.where(near[:, None], expected, drawn)
    return Example(batch, moved, l3, level, position_noise, length_noise)


def _expected_noise(known: KnownCrystals, moved: Tensor, lattice: Tensor, sigma: Tensor) -> Tensor:
    """Noise expected from the images of each clean site that are nearest to the moved one."""
    batch = known.batch
    tables = batch.tables
    general = tables.position_start[batch.group[batch.system]]
    _, n_images, _ = batch.list_lengths.sum(axis=0).tolist()
    site, image = ragged(tables.image_start[general], tables.image_count[general], n_images)
    images = apply_affine(tables.operations[tables.images[image]], known.frac_coords[site])
    difference = images - moved[site]
    difference = difference - torch.round(difference)
    displacements = row_product(difference, lattice[batch.system[site]])
    mean = posterior_displacement(displacements, sigma, site, batch.n_sites)
    return -mean / sigma[:, None]

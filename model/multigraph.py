"""The symmetric multigraph: one node per site, one edge per neighbour of its representative.

A site's representative, at ``frac_coords``, stands for the whole orbit. Edges run from each
representative to every neighbouring image of every site under all operations of the group, every
neighbour once: where the site lies within ``merge_radius`` of a special position, images that
would coincide there are merged into one. Nothing here loops over atoms, edges or structures.

Conventions: ``vectors[i, k]`` points from representative i to its k-th neighbour. Each node has
``n_neighbours`` slots; a neighbour's weight falls smoothly to zero at the node's own cutoff, the
distance of its last slot, so that a shell is never cut in half, and unused slots have weight zero.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from model.lattice import column_product, lattice_from_l3, row_product, unit_vectors
from model.repeatable import rounded
from model.symmetry import space_group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_SAME_POINT = 1e-6
"""Square angstrom. A neighbour of the same site that is closer than its root is the site."""

CANDIDATES_PER_SITE = 256
"""Room on a GPU, in a batch's mean. Batches of several cells have 130 to 140 of them."""

_CUTOFF_MARGIN = 1.5
"""How far beyond the radius that should hold all neighbours to look for them."""


@dataclass(frozen=True)
class SymmetryTables:
    """Operations and special positions of the groups in a batch, end to end."""

    operations: Tensor
    """(n_operations, 3, 4) rotation and translation."""
    positions: Tensor
    """(n_positions, 3, 4) projection and offset of the special positions."""
    orders: Tensor
    """(n_positions,) order of the stabiliser."""
    position_start: Tensor
    """(n_groups,)."""
    position_count: Tensor
    """(n_groups,)."""
    images: Tensor
    """(n_images,) operations that make the orbit of each special position."""
    image_start: Tensor
    """(n_positions,)."""
    image_count: Tensor
    """(n_positions,)."""

    def to(self, device: torch.device | str) -> SymmetryTables:
        """Return the tables on another device."""
        return SymmetryTables(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True)
class Room:
    """How long a batch's lists may become, so that a GPU need not be asked how long they are.

    A list is as long as it can be; what is beyond its end takes part in nothing. Only the number of
    candidates for neighbours has no bound that is known before. Where there were more than there is
    room for, results are worthless and have to be made again with more.
    """

    special: int
    """Special positions that sites may lie on, exactly."""
    images: int
    """Images of sites."""
    pairs: int
    """Pairs of a site and an image."""
    candidates: int
    """Pairs in all cells around that may be neighbours."""
    wanted: Tensor
    """() the most candidates that there have been."""

    @property
    def is_exceeded(self) -> bool:
        """Whether there were more candidates than room; waits for the device."""
        return int(self.wanted) > self.candidates


@lru_cache(maxsize=64)
def symmetry_tables(numbers: tuple[int, ...], dtype: torch.dtype) -> SymmetryTables:
    """Collect the tables of the space groups ``numbers``, in that order."""
    groups = [space_group(number) for number in numbers]
    n_operations = np.cumsum([0] + [group.order for group in groups])
    images = [
        image + start
        for group, start in zip(groups, n_operations, strict=False)
        for image in group.special_positions.images
    ]
    counts = np.array([len(image) for image in images])
    n_positions = np.array([len(group.special_positions.orders) for group in groups])

    def affine(matrices: list[np.ndarray], shifts: list[np.ndarray]) -> Tensor:
        joined = np.concatenate([np.concatenate(matrices), np.concatenate(shifts)[:, :, None]], -1)
        return torch.as_tensor(joined, dtype=dtype)

    return SymmetryTables(
        operations=affine([g.rotations for g in groups], [g.translations for g in groups]),
        positions=affine(
            [g.special_positions.projections for g in groups],
            [g.special_positions.offsets for g in groups],
        ),
        orders=torch.as_tensor(np.concatenate([g.special_positions.orders for g in groups])),
        position_start=torch.as_tensor(np.cumsum(n_positions) - n_positions),
        position_count=torch.as_tensor(n_positions),
        images=torch.as_tensor(np.concatenate(images)),
        image_start=torch.as_tensor(np.cumsum(counts) - counts),
        image_count=torch.as_tensor(counts),
    )


@dataclass(frozen=True)
class Batch:
    """Asymmetric units of several structures, sites end to end."""

    tables: SymmetryTables
    space_group: Tensor
    """(n_systems,) International Tables number."""
    group: Tensor
    """(n_systems,) index into the tables."""
    ties: Tensor
    """(n_systems, 3) index of the free length that a, b and c take."""
    directions: Tensor
    """(n_systems, 3, 3) unit cell vectors."""
    system: Tensor
    """(n_sites,) structure of each site, ascending."""
    atomic_numbers: Tensor
    """(n_sites,)."""
    list_lengths: NDArray[np.int64]
    """(n_systems, 3) on the host: special positions, images and pairs of them that each structure's
    sites have at most."""
    room: Room | None = None
    """Where it is given, the device is never asked how long a list is."""

    @property
    def n_systems(self) -> int:
        """Number of structures."""
        return len(self.group)

    @property
    def n_sites(self) -> int:
        """Number of sites in all structures."""
        return len(self.system)

    def lattice(self, l3: Tensor) -> Tensor:
        """Return lattices (n_systems, 3, 3), rows are vectors in angstrom."""
        return lattice_from_l3(l3, self.directions)

    def part(self, first: int, end: int) -> Batch:
        """Return the structures from number ``first`` up to, but without, ``end``."""
        sites = (self.system >= first) & (self.system < end)
        return Batch(
            tables=self.tables,
            space_group=self.space_group[first:end],
            group=self.group[first:end],
            ties=self.ties[first:end],
            directions=self.directions[first:end],
            system=self.system[sites] - first,
            atomic_numbers=self.atomic_numbers[sites],
            list_lengths=self.list_lengths[first:end],
        )

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on another device, without room."""
        tensors = {
            f.name: getattr(self, f.name).to(device)
            for f in fields(self)
            if isinstance(getattr(self, f.name), Tensor)
        }
        return replace(self, tables=self.tables.to(device), room=None, **tensors)

    def with_room(self, candidates_per_site: int = CANDIDATES_PER_SITE) -> Batch:
        """Return the batch with room for so many candidates for neighbours of a site, in the mean."""
        special, images, pairs = self.list_lengths.sum(axis=0).tolist()
        wanted = torch.zeros((), dtype=torch.int64, device=self.system.device)
        room = Room(special, images, pairs, candidates_per_site * self.n_sites, wanted)
        return replace(self, room=room)


def make_batch(
    space_groups: Sequence[int],
    atomic_numbers: Sequence[Sequence[int]],
    dtype: torch.dtype = torch.float32,
) -> Batch:
    """Describe structures by their space groups and the elements of their sites.

    Args:
        space_groups: International Tables number of each structure.
        atomic_numbers: elements of the sites of each structure.
        dtype: of all floating-point numbers.
    """
    numbers = tuple(sorted(set(space_groups)))
    groups = [space_group(number) for number in space_groups]
    hexagonal = torch.tensor([group.crystal_family == "hexagonal" for group in groups])
    counts = np.array([len(sites) for sites in atomic_numbers])
    places = {number: place for place, number in enumerate(numbers)}
    tables = symmetry_tables(numbers, dtype)
    group = torch.tensor([places[number] for number in space_groups])
    n_special = tables.position_count[group].numpy()
    n_images = np.array([group.order for group in groups]) * counts
    return Batch(
        tables=tables,
        space_group=torch.tensor(list(space_groups)),
        group=group,
        ties=torch.tensor([group.length_ties for group in groups]),
        directions=unit_vectors(hexagonal).to(dtype),
        system=torch.as_tensor(np.repeat(np.arange(len(groups)), counts)),
        atomic_numbers=torch.tensor([z for sites in atomic_numbers for z in sites]),
        list_lengths=np.stack([n_special * counts, n_images, n_images * counts], axis=1),
    )


@dataclass(frozen=True)
class MergedSites:
    """Sites on the special positions that they were found close to."""

    frac_coords: Tensor
    """(n_sites, 3) projected, in [0, 1) up to the projection."""
    wrap: Tensor
    """(n_sites, 3) whole cells that were taken off the input to bring it into the cell."""
    position: Tensor
    """(n_sites,) index into the tables' special positions."""
    multiplicity: Tensor
    """(n_sites,) number of images in the conventional cell."""


def merge_sites(
    batch: Batch, frac_coords: Tensor, lattice: Tensor, merge_radius: Tensor
) -> MergedSites:
    """Project each site onto the most special position within ``merge_radius`` of it.

    Args:
        batch: the structures.
        frac_coords: (n_sites, 3).
        lattice: (n_systems, 3, 3).
        merge_radius: (n_sites,) angstrom.
    """
    tables = batch.tables
    wrap = torch.floor(frac_coords)
    wrapped = frac_coords - wrap
    group = batch.group[batch.system]
    start, count = tables.position_start[group], tables.position_count[group]
    site, candidate = ragged(start, count, batch.room.special if batch.room else None)
    moved = apply_affine(tables.positions[candidate], wrapped[site])
    offset = row_product(moved - wrapped[site], lattice[batch.system[site]])
    distance = offset.square().sum(1).sqrt()
    # The general position, first of each group, is always admitted: its distance is zero.
    admitted = distance <= merge_radius[site]
    # A stabiliser's order is an integer, so that distances, scaled below one, only break ties.
    rank = tables.orders[candidate] - distance / (1.0 + distance)
    rank = torch.where(admitted, rank, -torch.inf)
    best = torch.full_like(wrapped[:, 0], -torch.inf).scatter_reduce(0, site, rank, "amax")
    row = torch.arange(len(site), device=site.device)
    first = torch.full_like(group, len(site)).scatter_reduce(
        0, site, torch.where(rank == best[site], row, len(site)), "amin"
    )
    position = candidate[first]
    return MergedSites(
        frac_coords=moved[first],
        wrap=wrap,
        position=position,
        multiplicity=tables.image_count[position],
    )


@dataclass(frozen=True)
class Multigraph:
    """Neighbours of each site's representative, ``n_neighbours`` slots a site."""

    neighbour: Tensor
    """(n_sites, n_neighbours) the site that the neighbour is an image of."""
    rotation: Tensor
    """(n_sites, n_neighbours, 3, 3) Cartesian rotation of the operation that makes the image."""
    frac_vectors: Tensor
    """(n_sites, n_neighbours, 3) to the neighbour, fractional."""
    vectors: Tensor
    """(n_sites, n_neighbours, 3) to the neighbour, angstrom."""
    distances: Tensor
    """(n_sites, n_neighbours) angstrom, at least 1e-3."""
    weights: Tensor
    """(n_sites, n_neighbours) in [0, 1], zero for unused slots."""


def build_multigraph(
    batch: Batch, merged: MergedSites, lattice: Tensor, n_neighbours: int, cutoff: float
) -> Multigraph:
    """Find the nearest neighbours of every site under all operations of its group.

    Args:
        batch: the structures.
        merged: their sites on the positions found by ``merge_sites``.
        lattice: (n_systems, 3, 3).
        n_neighbours: slots per site; the last one's distance is the site's cutoff.
        cutoff: angstrom; no neighbour is farther away.
    """
    tables, system, room = batch.tables, batch.system, batch.room
    # Images of every site under the operations that make its orbit.
    start = tables.image_start[merged.position]
    owner, image = ragged(start, merged.multiplicity, room.images if room else None)
    operation = tables.images[image]
    image_coords = apply_affine(tables.operations[operation], merged.frac_coords[owner])
    n_images = _sum(merged.multiplicity, system, batch.n_systems)
    radius = _search_radius(lattice, n_images, n_neighbours, cutoff)

    # Pairs of a site and an image of the same structure, by the shortest fractional difference.
    first_image = torch.cumsum(n_images, 0) - n_images
    site, pair_image = ragged(first_image[system], n_images[system], room.pairs if room else None)
    difference = image_coords[pair_image] - merged.frac_coords[site]
    difference = difference - torch.round(difference)

    # Whole cells around, as far as the radius reaches across the cell's faces.
    inverse = inverted(lattice)
    reach = (radius[:, None] * _inverse_heights(inverse))[system[site]]
    lowest = torch.ceil(-reach - difference)
    # Where a structure is not finite any more the number of cells must be, for the others' sake.
    n_shifts = (torch.floor(reach - difference) - lowest + 1.0).clamp(min=0.0)
    n_shifts = n_shifts.nan_to_num(nan=1.0, posinf=1.0).to(torch.int64)
    n_cells = n_shifts.prod(dim=1)
    if room:
        n_cells = n_cells * _inside(n_cells, n_images[system].sum())
        room.wanted.copy_(torch.maximum(room.wanted, n_cells.sum()))
    pair, running = ragged(torch.zeros_like(site), n_cells, room.candidates if room else None)
    pair_system = system[site[pair]]
    shift = lowest[pair] + _decode(running, n_shifts[pair].clamp(min=1))
    frac_vectors = difference[pair] + shift
    vectors = row_product(frac_vectors, lattice[pair_system])
    squared = vectors.square().sum(1)

    # A site is not its own neighbour.
    itself = (site[pair] == owner[pair_image[pair]]) & (squared < _SAME_POINT)
    far = squared >= radius[pair_system].square()
    near = ~(far | itself)
    if room:
        near = near & _inside(near, n_cells.sum())
        candidate = torch.arange(len(near), device=near.device)
    else:
        candidate = torch.nonzero(~far)[:, 0]
    distance = torch.where(near, squared.sqrt(), torch.inf)[candidate]
    taken, is_filled = _nearest(site[pair[candidate]], distance, batch.n_sites, n_neighbours)
    taken = candidate[taken]

    def slots(values: Tensor, empty: float) -> Tensor:
        shape = (*is_filled.shape, *(1 for _ in values.shape[1:]))
        return torch.where(is_filled.view(shape), values[taken], empty)

    distances = slots(squared.sqrt().clamp(min=1e-3), 2.0 * cutoff)
    limit = torch.minimum(distances[:, -1], radius[system])
    edge_image = pair_image[pair[taken]]
    rotation = tables.operations[operation[edge_image], :, :3]
    columns = lattice.mT
    rotation = columns[system][:, None] @ rotation @ inverted(columns)[system][:, None]
    return Multigraph(
        neighbour=torch.where(is_filled, owner[edge_image], 0),
        rotation=torch.where(is_filled[..., None, None], rotation, 0.0),
        frac_vectors=slots(frac_vectors, 0.0),
        vectors=slots(vectors, 0.0),
        distances=distances,
        weights=_envelope(distances / limit[:, None]),
    )


def _envelope(ratio: Tensor) -> Tensor:
    """Polynomial cutoff of DimeNet (Gasteiger et al. 2020, equation 8, p = 6), without 1/d."""
    ratio = ratio.clamp(max=1.0)
    square = ratio * ratio
    sixth = square * square * square
    return 1.0 - 28.0 * sixth + 48.0 * sixth * ratio - 21.0 * sixth * square


def _search_radius(lattice: Tensor, n_images: Tensor, n_neighbours: int, cutoff: float) -> Tensor:
    """Radius that should hold ``n_neighbours`` images at the structure's mean density."""
    volume: Tensor = torch.linalg.det(lattice).abs()
    volume_of_all = 3.0 * n_neighbours * volume / (4.0 * torch.pi * n_images)
    holds = rounded(lambda cube: cube ** (1.0 / 3.0), volume_of_all)
    return (_CUTOFF_MARGIN * holds).clamp(max=cutoff)


def _inverse_heights(inverse: Tensor) -> Tensor:
    """One over the distances between opposite faces of the cells, (n_systems, 3)."""
    return inverse.square().sum(dim=1).sqrt()


def inverted(matrices: Tensor) -> Tensor:
    """Return inverse matrices without asking the device whether there are any."""
    inverse: Tensor = torch.linalg.inv_ex(matrices).inverse
    return inverse


def apply_affine(affine: Tensor, points: Tensor) -> Tensor:
    """Apply operations (n, 3, 4), a matrix and a shift each, to points (n, 3)."""
    return column_product(affine[:, :, :3], points) + affine[:, :, 3]


def _sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    return torch.zeros(size, dtype=values.dtype, device=values.device).index_add_(0, index, values)


def _inside(entries: Tensor, length: Tensor) -> Tensor:
    """Whether each entry of a list is one of the first ``length``."""
    return torch.arange(len(entries), device=entries.device) < length


def ragged(start: Tensor, count: Tensor, room: int | None = None) -> tuple[Tensor, Tensor]:
    """Enumerate ``start[i], start[i] + 1, ...`` (``count[i]`` of them) for every i.

    Args:
        start: (n,) of integers.
        count: (n,) of integers.
        room: the length of the result, where the device shall not be asked for it: entries are
            dropped beyond it, and what is missing is filled up with zeros in the last row.

    Returns:
        the i of each entry, and the entry.
    """
    end = torch.cumsum(count, 0)
    if room is None:
        row = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    else:
        running = torch.arange(room, device=count.device)
        row = torch.searchsorted(end, running, right=True).clamp(max=len(count) - 1)
    within = torch.arange(len(row), device=count.device) - (end - count)[row]
    entry = start[row] + within
    if room is not None:
        entry = torch.where(within < count[row], entry, 0)
    return row, entry


def _decode(running: Tensor, width: Tensor) -> Tensor:
    """Turn a running number into three indices below ``width`` (n, 3)."""
    c = running % width[:, 2]
    rest = running // width[:, 2]
    return torch.stack([rest // width[:, 1], rest % width[:, 1], c], dim=1)


def _nearest(row: Tensor, distance: Tensor, n_rows: int, n_nearest: int) -> tuple[Tensor, Tensor]:
    """Find the entries of each row with the smallest finite distances, in their order.

    Returns:
        (n_rows, n_nearest) entries, and whether there is one.
    """
    by_distance = torch.argsort(distance, stable=True)
    order = by_distance[torch.argsort(row[by_distance], stable=True)]
    sorted_row = row[order]
    wanted = torch.arange(n_rows, device=row.device)[:, None]
    first = torch.searchsorted(sorted_row, wanted)
    place = first + torch.arange(n_nearest, device=row.device)
    place = place.clamp(max=len(order) - 1)
    nearest = order[place]
    return nearest, (sorted_row[place] == wanted) & distance[nearest].isfinite()

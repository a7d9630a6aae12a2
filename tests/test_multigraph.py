"""The multigraph against brute force, and what it must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from crystals import BY_CENTRING, ROCK_SALT

from model.crystal import AsymmetricUnit
from model.multigraph import (
    Batch,
    MergedSites,
    Multigraph,
    build_multigraph,
    make_batch,
    merge_sites,
)
from model.symmetry import space_group

CUTOFF = 6.0


def graph_of(
    units: list[AsymmetricUnit], n_neighbours: int = 200, merge_radius: float = 0.15
) -> tuple[Batch, MergedSites, Multigraph]:
    batch = make_batch(
        [unit.space_group for unit in units],
        [unit.atomic_numbers.tolist() for unit in units],
        torch.float64,
    )
    lattice = torch.as_tensor(np.array([unit.lattice for unit in units]))
    coords = torch.as_tensor(np.concatenate([unit.frac_coords for unit in units]))
    radius = torch.full((batch.n_sites,), merge_radius, dtype=torch.float64)
    merged = merge_sites(batch, coords, lattice, radius)
    return batch, merged, build_multigraph(batch, merged, lattice, n_neighbours, CUTOFF)


def neighbours_by_brute_force(unit: AsymmetricUnit, site: int) -> tuple[np.ndarray, np.ndarray]:
    """All atoms of an explicit supercell within the cutoff: distances and atomic numbers."""
    structure = unit.to_structure()
    point = unit.frac_coords[site] @ unit.lattice
    reach = 1 + np.ceil(CUTOFF * np.linalg.norm(np.linalg.inv(structure.lattice.matrix), axis=0))
    axes = [np.arange(-r - 1, r + 2) for r in reach]
    shifts = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    # The point may lie in another cell than the atom that is the same site.
    cells = (
        structure.frac_coords[:, None]
        + shifts
        + np.floor(structure.lattice.get_fractional_coords(point))
    )
    distances = np.linalg.norm(cells @ structure.lattice.matrix - point, axis=-1)
    numbers = np.broadcast_to(np.array(structure.atomic_numbers)[:, None], distances.shape)
    chosen = (distances < CUTOFF) & (distances > 1e-4)
    return distances[chosen], numbers[chosen]


@pytest.mark.parametrize("name", BY_CENTRING)
def test_every_neighbour_once(name: str) -> None:
    unit = BY_CENTRING[name]
    batch, _, graph = graph_of([unit])
    for site in range(batch.n_sites):
        distances, numbers = neighbours_by_brute_force(unit, site)
        used = graph.distances[site] < CUTOFF
        expected = sorted(zip(np.round(distances, 6), numbers, strict=True))
        assert 0 < len(expected) < 200
        found = sorted(
            zip(
                np.round(graph.distances[site][used].numpy(), 6),
                batch.atomic_numbers[graph.neighbour[site][used]].numpy(),
                strict=True,
            )
        )
        assert [n for _, n in found] == [n for _, n in expected]
        assert np.allclose([d for d, _ in found], [d for d, _ in expected], atol=2e-6)


@pytest.mark.parametrize("name", BY_CENTRING)
def test_rotations_carry_neighbourhoods_onto_each_other(name: str) -> None:
    """Seen from a neighbour, the rotated edges of its representative end on atoms."""
    unit = BY_CENTRING[name]
    batch, _, graph = graph_of([unit])
    structure = unit.to_structure()
    for site in range(batch.n_sites):
        here = unit.frac_coords[site] @ unit.lattice
        for slot in range(10):
            source = int(graph.neighbour[site, slot])
            there = here + graph.vectors[site, slot].numpy()
            onward = graph.vectors[source, :8].numpy() @ graph.rotation[site, slot].numpy().T
            for vector in onward:
                frac = structure.lattice.get_fractional_coords(there + vector)
                difference = structure.frac_coords - frac
                assert np.abs(difference - np.round(difference)).max(axis=1).min() < 1e-6


def test_weights_never_cut_a_shell() -> None:
    """Sodium has 6 + 12 + 8 neighbours: 20 slots would split the third shell."""
    _, _, graph = graph_of([ROCK_SALT], n_neighbours=20)
    shells = [6, 12]
    assert (graph.weights[0] > 1e-9).sum() == sum(shells)
    assert torch.allclose(graph.weights[0][:6], graph.weights[0][0])
    assert graph.weights[0][-1] == pytest.approx(0.0, abs=1e-9)


def test_batched_equals_single() -> None:
    units = list(BY_CENTRING.values())
    _, _, together = graph_of(units)
    row = 0
    for unit in units:
        _, _, alone = graph_of([unit])
        n_sites = len(unit.atomic_numbers)
        rows = slice(row, row + n_sites)
        assert torch.allclose(together.distances[rows], alone.distances)
        assert torch.allclose(together.weights[rows], alone.weights)
        row += n_sites


@pytest.mark.parametrize("name", BY_CENTRING)
def test_choice_of_image_and_representative_does_not_matter(name: str) -> None:
    unit = BY_CENTRING[name]
    group = space_group(unit.space_group)
    random = np.random.default_rng(0)
    _, _, reference = graph_of([unit])
    for _ in range(5):
        chosen = random.integers(group.order, size=len(unit.atomic_numbers))
        coords = np.einsum("nij,nj->ni", group.rotations[chosen], unit.frac_coords)
        coords = coords + group.translations[chosen] + random.integers(-2, 3, coords.shape)
        other = AsymmetricUnit(unit.space_group, unit.lengths, coords, unit.atomic_numbers)
        _, _, graph = graph_of([other])
        assert torch.allclose(graph.distances, reference.distances, atol=1e-7)
        assert torch.allclose(graph.weights, reference.weights, atol=1e-7)


def test_sites_close_to_a_special_position_are_put_there() -> None:
    moved = AsymmetricUnit(
        225, ROCK_SALT.lengths, ROCK_SALT.frac_coords + 0.01, ROCK_SALT.atomic_numbers
    )
    _, merged, graph = graph_of([moved])
    assert torch.allclose(merged.frac_coords, torch.as_tensor(ROCK_SALT.frac_coords))
    assert merged.multiplicity.tolist() == [4, 4]
    _, _, clean = graph_of([ROCK_SALT])
    assert torch.allclose(graph.distances, clean.distances)


def test_sites_farther_away_stay() -> None:
    moved = AsymmetricUnit(
        225,
        ROCK_SALT.lengths,
        ROCK_SALT.frac_coords + np.array([0.04, 0.11, 0.17]),
        ROCK_SALT.atomic_numbers,
    )
    _, merged, _ = graph_of([moved], merge_radius=0.05)
    assert merged.multiplicity.tolist() == [192, 192]


def mixed_batch() -> tuple[Batch, torch.Tensor, torch.Tensor]:
    """Structures of few and many images and sites, at random; sites and lattices."""
    cells = [(225, 3), (62, 4), (194, 1), (16, 2), (227, 2), (166, 3)]
    batch = make_batch([group for group, _ in cells], [[11, 17, 8, 29][:n] for _, n in cells])
    generator = torch.Generator().manual_seed(0)
    coords = torch.rand(batch.n_sites, 3, generator=generator)
    l3 = 2.0 + 6.0 * torch.rand(batch.n_systems, 3, generator=generator)
    return batch, coords, batch.lattice(l3.gather(1, batch.ties))


def test_with_room_the_graph_is_the_same() -> None:
    batch, coords, lattice = mixed_batch()
    roomy = batch.with_room(600)
    graphs = []
    for version in (batch, roomy):
        merged = merge_sites(version, coords, lattice, torch.full((batch.n_sites,), 0.4))
        graphs.append(build_multigraph(version, merged, lattice, 20, CUTOFF))
    for name, expected in vars(graphs[0]).items():
        assert torch.equal(getattr(graphs[1], name), expected), name
    assert roomy.room is not None
    assert not roomy.room.is_exceeded
    assert 20 * batch.n_sites < int(roomy.room.wanted) <= 600 * batch.n_sites


def test_too_little_room_is_noticed() -> None:
    batch, coords, lattice = mixed_batch()
    cramped = batch.with_room(20)
    merged = merge_sites(cramped, coords, lattice, torch.full((batch.n_sites,), 0.4))
    build_multigraph(cramped, merged, lattice, 20, CUTOFF)
    assert cramped.room is not None
    assert cramped.room.is_exceeded


def test_a_structure_that_is_not_finite_leaves_the_others_alone() -> None:
    batch, coords, lattice = mixed_batch()
    broken = lattice.clone()
    broken[2] = torch.nan
    radius = torch.full((batch.n_sites,), 0.4)
    whole, with_nan = (
        build_multigraph(batch, merge_sites(batch, coords, cell, radius), cell, 20, CUTOFF)
        for cell in (lattice, broken)
    )
    others = batch.system != 2
    assert torch.equal(whole.vectors[others], with_nan.vectors[others])
    assert torch.equal(whole.weights[others], with_nan.weights[others])

"""Sites keep their distance: what is added to a score, against integrals and in whole samplings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from model.checkpoint import load_checkpoint
from model.exclusion import CONTACT, Exclusive, covalent_radii, keep_apart, langevin_function
from model.lattice import l3_from_lengths
from model.multigraph import make_batch
from model.network import NetworkConfig, ScoreNetwork
from model.noise import NoiseSchedule
from model.sampler import sample

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from model.multigraph import Batch

SODIUM = 11
CONTACT_OF_SODIUM = 2 * CONTACT * 1.66  # Cordero et al. 2008


@pytest.fixture(scope="module", autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def network() -> ScoreNetwork:
    torch.manual_seed(0)
    return ScoreNetwork(NetworkConfig(), NoiseSchedule()).double().eval()


def state(
    coords: list[list[float]], group: int = 16, length: float = 9.0
) -> tuple[Batch, Tensor, Tensor]:
    batch = make_batch([group], [[SODIUM] * len(coords)], torch.float64)
    l3 = l3_from_lengths(torch.full((1, 3), length, dtype=torch.float64))
    return batch, torch.tensor(coords, dtype=torch.float64), l3


def level_of(sigma: float) -> Tensor:
    schedule = NoiseSchedule()
    ratio = schedule.position_largest / schedule.position_smallest
    return torch.tensor(
        [np.log(sigma / schedule.position_smallest) / np.log(ratio)], dtype=torch.float64
    )


@pytest.mark.parametrize(
    ("contact", "distance", "sigma"), [(1.7, 0.6, 0.3), (1.7, 1.5, 0.5), (2.2, 0.1, 0.2)]
)
def test_the_least_distance_is_the_mean_over_all_directions(
    contact: float, distance: float, sigma: float
) -> None:
    # Mean of R cos(theta) over the sphere of radius R, weighted by the likelihood of the noisy
    # vector, whose variance per axis is that of two sites.
    cosine = np.linspace(-1.0, 1.0, 200_001)
    squared = contact**2 + distance**2 - 2.0 * contact * distance * cosine
    weights = np.exp(-squared / (4.0 * sigma**2))
    mean = contact * np.trapezoid(weights * cosine, cosine) / np.trapezoid(weights, cosine)
    x = torch.tensor(contact * distance / (2.0 * sigma**2), dtype=torch.float64)
    assert contact * float(langevin_function(x)) == pytest.approx(mean, rel=1e-6)


def test_the_langevin_function_is_smooth_at_zero() -> None:
    x = torch.tensor([0.0, 1e-6, 0.00999, 0.01001, 50.0], dtype=torch.float64)
    expected = [0.0, 1e-6 / 3, 0.00333, 0.0033366, 0.98]
    assert langevin_function(x).tolist() == pytest.approx(expected, rel=1e-4)


def test_sites_that_are_apart_have_the_networks_own_noise(network: ScoreNetwork) -> None:
    batch, coords, l3 = state([[0.1, 0.15, 0.2], [0.35, 0.4, 0.3]])
    level = level_of(0.1)
    noise, plain = Exclusive(network)(batch, coords, l3, level), network(batch, coords, l3, level)
    assert torch.equal(noise.positions, plain.positions)
    assert torch.equal(noise.lengths, plain.lengths)


@pytest.mark.parametrize("distance", [0.05, 0.5, 1.5])
def test_overlapping_sites_foresee_their_contact(network: ScoreNetwork, distance: float) -> None:
    batch, coords, l3 = state([[0.1, 0.15, 0.2], [0.1 + distance / 9.0, 0.15, 0.2]])
    sigma = 0.1
    noise = Exclusive(network)(batch, coords, l3, level_of(sigma)).positions
    foreseen = 9.0 * coords - sigma * noise
    x = torch.tensor(CONTACT_OF_SODIUM * distance / (2.0 * sigma**2))
    least = CONTACT_OF_SODIUM * float(langevin_function(x))
    assert float(foreseen[1, 0] - foreseen[0, 0]) == pytest.approx(least, rel=1e-4)
    added = noise - network(batch, coords, l3, level_of(sigma)).positions
    assert torch.allclose(added[0], -added[1])


def test_sites_of_one_special_position_are_told_apart(network: ScoreNetwork) -> None:
    # In P222 both are put on the axis; they missed it on different sides.
    batch, coords, l3 = state([[0.005, 0.0, 0.2], [-0.008, 0.003, 0.2]])
    level = level_of(0.05)
    scene = network.look(batch, coords, l3, level)
    assert torch.equal(scene.merged.multiplicity, torch.tensor([2, 2]))
    noise = Exclusive(network)(batch, coords, l3, level).positions
    plain = network(batch, coords, l3, level).positions
    moved = -(noise - plain)
    between = (coords[1] - coords[0]) * 9.0
    assert float(moved[1] @ between) > 0
    assert torch.allclose(moved[0], -moved[1])


def test_what_is_added_turns_with_the_crystal(network: ScoreNetwork) -> None:
    # A twofold axis of P222 along z takes each site to its image.
    turn = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
    batch, coords, l3 = state([[0.1, 0.15, 0.2], [0.16, 0.19, 0.22]])
    level = level_of(0.2)
    here = Exclusive(network)(batch, coords, l3, level).positions
    there = Exclusive(network)(batch, coords @ turn, l3, level).positions
    assert torch.allclose(there, here @ turn, atol=1e-9)


def test_nothing_is_added_by_an_image_of_the_site_itself(network: ScoreNetwork) -> None:
    batch, coords, l3 = state([[0.06, 0.06, 0.06]])
    level = level_of(0.02)
    scene = network.look(batch, coords, l3, level)
    noise = torch.zeros(1, 3, dtype=torch.float64)
    radii = torch.full((1,), 5.0, dtype=torch.float64)
    sigma = torch.tensor([0.02], dtype=torch.float64)
    assert torch.equal(keep_apart(scene.graph, scene.displaced, noise, sigma, radii), noise)


def test_radii_are_those_of_the_publication() -> None:
    radii = covalent_radii(torch.float64, torch.device("cpu"))
    assert radii[[1, 11, 26, 78]].tolist() == [0.31, 1.66, 1.32, 1.36]


def test_no_two_sites_of_a_sample_overlap() -> None:
    # Without exclusion six of these have two sites within 0.1 angstrom (checkpoint mp20).
    model = load_checkpoint("mp20")
    sites = [66, 30, 30, 30, 30]
    n = 24
    drawn = sample(model, make_batch([166] * n, [sites] * n), range(n))
    distances = [unit.to_structure().distance_matrix for unit in drawn]
    for matrix in distances:
        assert (matrix + 9.0 * np.eye(len(matrix))).min() > 0.7

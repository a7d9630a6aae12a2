"""What the network's estimate must not depend on, and what it must follow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from crystals import BY_CENTRING, ROCK_SALT

from model.crystal import AsymmetricUnit
from model.lattice import l3_from_lengths
from model.multigraph import make_batch
from model.network import NetworkConfig, Noise, ScoreNetwork
from model.noise import NoiseSchedule
from model.symmetry import space_group

CONFIG = NetworkConfig(hidden=16, bottleneck=8, n_blocks=2, n_neighbours=16)
GROUPS = (16, 38, 43, 62, 63, 71, 122, 141, 152, 166, 167, 194, 198, 216, 220, 225, 227, 230)


@pytest.fixture(scope="module")
def network() -> ScoreNetwork:
    torch.manual_seed(0)
    made = ScoreNetwork(CONFIG, NoiseSchedule()).double()
    for parameter in made.parameters():
        # The outputs start at zero; a test needs them alive.
        if parameter.abs().max() == 0:
            torch.nn.init.normal_(parameter, std=0.3)
    return made


@torch.no_grad()
def estimate(network: ScoreNetwork, units: list[AsymmetricUnit], level: float) -> Noise:
    batch = make_batch(
        [unit.space_group for unit in units],
        [unit.atomic_numbers.tolist() for unit in units],
        torch.float64,
    )
    return network(
        batch,
        torch.as_tensor(np.concatenate([unit.frac_coords for unit in units])),
        l3_from_lengths(torch.as_tensor(np.array([unit.lengths for unit in units]))),
        torch.full((len(units),), level, dtype=torch.float64),
    )


def noisy(unit: AsymmetricUnit, scale: float = 0.03) -> AsymmetricUnit:
    shift = np.random.default_rng(0).normal(size=unit.frac_coords.shape) * scale
    return AsymmetricUnit(
        unit.space_group, unit.lengths, unit.frac_coords + shift, unit.atomic_numbers
    )


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("number", GROUPS)
def test_scores_follow_the_representative(network: ScoreNetwork, number: int, level: float) -> None:
    """Another representative of an orbit has the rotated score; all else stays."""
    group = space_group(number)
    random = np.random.default_rng(number)
    table = group.special_positions
    special = table.projections[-1] @ random.random(3) + table.offsets[-1]
    coords = np.array([special + 0.003, random.random(3), random.random(3)])
    lengths = random.uniform(3.5, 8.0, 3)[list(group.length_ties)]
    unit = AsymmetricUnit(number, lengths, coords, np.array([29, 19, 14]))
    before = estimate(network, [unit], level)

    operation = random.integers(group.order)
    moved = coords.copy()
    moved[0] = group.rotations[operation] @ coords[0] + group.translations[operation] + [1, -2, 0]
    moved[1] += [0, 3, -1]
    after = estimate(network, [AsymmetricUnit(number, lengths, moved, unit.atomic_numbers)], level)

    columns = unit.lattice.T
    rotation = columns @ group.rotations[operation] @ np.linalg.inv(columns)
    expected = before.positions.clone()
    expected[0] = torch.as_tensor(rotation @ before.positions[0].numpy())
    assert torch.allclose(after.positions, expected, atol=1e-6)
    assert torch.allclose(after.lengths, before.lengths, atol=1e-6)
    assert before.positions.abs().max() > 1e-3


@pytest.mark.parametrize("level", [0.1, 0.6])
def test_batched_equals_single(network: ScoreNetwork, level: float) -> None:
    units = [noisy(unit) for unit in BY_CENTRING.values()]
    together = estimate(network, units, level)
    alone = [estimate(network, [unit], level) for unit in units]
    assert torch.allclose(together.positions, torch.cat([one.positions for one in alone]))
    assert torch.allclose(together.lengths, torch.cat([one.lengths for one in alone]))


def test_lengths_are_tied_by_the_crystal_family(network: ScoreNetwork) -> None:
    for unit in BY_CENTRING.values():
        n_free = 1 + max(space_group(unit.space_group).length_ties)
        lengths = estimate(network, [noisy(unit)], 0.5).lengths[0]
        assert lengths[:n_free].abs().min() > 0
        assert lengths[n_free:].abs().sum() == 0


def test_a_site_on_a_special_position_feels_no_score_there(network: ScoreNetwork) -> None:
    assert estimate(network, [ROCK_SALT], 0.1).positions.abs().max() < 1e-9


def test_a_site_beside_a_special_position_is_drawn_straight_back(network: ScoreNetwork) -> None:
    shift = np.array([0.004, 0.002, -0.003])
    unit = AsymmetricUnit(
        225,
        ROCK_SALT.lengths,
        ROCK_SALT.frac_coords + np.array([shift, np.zeros(3)]),
        ROCK_SALT.atomic_numbers,
    )
    noise = estimate(network, [unit], 0.1).positions
    direction = torch.as_tensor(shift / np.linalg.norm(shift))
    assert noise[0] @ direction == pytest.approx(noise[0].norm().item())
    assert noise[1].abs().max() < 1e-9


@pytest.mark.parametrize("scale", [1e-3, 60.0])
def test_absurd_cells_give_finite_estimates(network: ScoreNetwork, scale: float) -> None:
    unit = AsymmetricUnit(
        62, np.full(3, scale), np.random.default_rng(0).random((2, 3)), np.array([29, 14])
    )
    noise = estimate(network, [unit], 0.5)
    assert torch.isfinite(noise.positions).all()
    assert torch.isfinite(noise.lengths).all()


def test_coinciding_sites_give_finite_estimates(network: ScoreNetwork) -> None:
    unit = AsymmetricUnit(221, np.full(3, 4.0), np.zeros((2, 3)), np.array([29, 14]))
    assert torch.isfinite(estimate(network, [unit], 0.2).positions).all()

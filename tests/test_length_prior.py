"""The regression that says where cell lengths start."""

from __future__ import annotations

import numpy as np
import pytest
from crystals import BY_CENTRING, COTUNNITE, ROCK_SALT, ZINC_BLENDE

from model.crystal import AsymmetricUnit
from model.dataset import join
from model.lattice import SOFTPLUS_SCALE
from model.length_prior import fit_length_prior


def scaled(unit: AsymmetricUnit, factor: float) -> AsymmetricUnit:
    return AsymmetricUnit(
        unit.space_group, unit.lengths * factor, unit.frac_coords, unit.atomic_numbers
    )


def length(l3: float) -> float:
    return float(SOFTPLUS_SCALE * np.log1p(np.exp(l3 / SOFTPLUS_SCALE)))


def test_groups_get_their_own_mean() -> None:
    factors = np.linspace(0.95, 1.05, 60)
    small = [scaled(ZINC_BLENDE, 0.7 * factor) for factor in factors]
    large = [scaled(ROCK_SALT, 1.4 * factor) for factor in factors]
    prior = fit_length_prior(join(small + large))
    (low,), (spread,) = prior.mean_and_spread(216, 2)
    (high,), _ = prior.mean_and_spread(225, 2)
    assert length(low) == pytest.approx(0.7 * 5.45, rel=0.05)
    assert length(high) == pytest.approx(1.4 * 5.69, rel=0.05)
    assert 0 < spread < 1


def test_every_group_has_a_start() -> None:
    prior = fit_length_prior(join([COTUNNITE]))
    for unit in BY_CENTRING.values():
        mean, spread = prior.mean_and_spread(unit.space_group, 3)
        assert len(mean) == len(spread)
        assert np.isfinite([*mean, *spread]).all()
        assert 1.0 < length(mean[0]) < 50.0

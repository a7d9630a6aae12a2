"""Samplers against exact scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from crystals import BY_CENTRING, ExactScore
from pymatgen.analysis.structure_matcher import StructureMatcher

from model.crystal import AsymmetricUnit
from model.lattice import free_mask, l3_from_lengths, lengths_from_l3
from model.length_prior import LengthPrior
from model.multigraph import Batch, make_batch
from model.network import Noise
from model.noise import NoiseSchedule
from model.sampler import (
    SAMPLERS,
    NoiseStream,
    State,
    _langevin_step,
    corrections_at_levels,
    initial_state,
    langevin,
    sampler_name,
)

N_FREE = {"orthorhombic": 3, "tetragonal": 2, "hexagonal": 2, "cubic": 1}
PRIOR = LengthPrior(
    {family: [[-1.0] * n, [0.0] * n, [0.0] * n] for family, n in N_FREE.items()},
    {},
    {family: [3.0] * n for family, n in N_FREE.items()},
)
QUICK = {
    "langevin": {"n_levels": 8, "n_steps": 12},
    "predictor-corrector": {"n_levels": 16, "n_corrections": 3},
    "ancestral": {"n_steps": 60},
}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", BY_CENTRING)
def test_an_exact_score_leads_to_the_known_crystal(name: str, sampler: str) -> None:
    known = BY_CENTRING[name]
    n_samples = 4
    batch = make_batch(
        [known.space_group] * n_samples, [known.atomic_numbers.tolist()] * n_samples, torch.float64
    )
    schedule = NoiseSchedule()
    stream = NoiseStream(range(n_samples), batch)
    state = initial_state(batch, PRIOR, schedule, stream)
    score = ExactScore([known] * n_samples, schedule)
    end = SAMPLERS[sampler](score, batch, state, schedule, stream, **QUICK[sampler])

    n_sites = len(known.atomic_numbers)
    for index, coords in enumerate(end.frac_coords.reshape(n_samples, n_sites, 3)):
        found = AsymmetricUnit(
            known.space_group,
            lengths_from_l3(end.l3)[index].numpy(),
            coords.numpy(),
            known.atomic_numbers,
        ).settled()
        assert found.lengths == pytest.approx(known.lengths, abs=1e-3)
        matcher = StructureMatcher(scale=False, ltol=0.01, stol=0.01)
        assert matcher.fit(found.to_structure(), known.to_structure())


@dataclass(frozen=True)
class GaussianScore:
    """Exact noise when positions and lengths are drawn from normal distributions."""

    centre: torch.Tensor
    position_std: float
    l3: float
    length_std: float
    schedule: NoiseSchedule

    def __call__(
        self, batch: Batch, frac_coords: torch.Tensor, l3: torch.Tensor, level: torch.Tensor
    ) -> Noise:
        """Give the noise that the two normal distributions imply."""
        sigma_x = self.schedule.position_sigma(level)[batch.system, None]
        sigma_l = self.schedule.length_sigma(level)[:, None]
        lattice = batch.lattice(l3)[batch.system]
        off = torch.einsum("nx,nxy->ny", frac_coords - self.centre, lattice)
        return Noise(
            off * sigma_x / (sigma_x**2 + self.position_std**2),
            (l3 - self.l3) * sigma_l / (sigma_l**2 + self.length_std**2) * free_mask(batch.ties),
        )


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("ancestral", {"n_steps": 1000}),
        (
            "predictor-corrector",
            {
                "n_levels": 200,
                "n_corrections": 3,
                "position_step": 0.2,
                "position_temperature": 1.0,
                "length_temperature": 1.0,
            },
        ),
        (
            "langevin",
            {
                "n_levels": 24,
                "n_steps": 80,
                "position_step": 0.2,
                "length_step": 0.2,
                "length_temperature": 1.0,
            },
        ),
    ],
)
def test_an_exact_gaussian_score_gives_the_exact_moments(
    sampler: str, options: dict[str, float]
) -> None:
    n_samples, position_std, length_std = 1500, 0.5, 0.8
    schedule = NoiseSchedule()
    batch = make_batch([16] * n_samples, [[29]] * n_samples, torch.float64)
    stream = NoiseStream(range(n_samples), batch)
    centre = torch.tensor([0.3, 0.6, 0.2], dtype=torch.float64)
    l3 = float(l3_from_lengths(torch.tensor(12.0)))
    score = GaussianScore(centre, position_std, l3, length_std, schedule)
    # The largest noise of positions is much wider than the target, so that any start is forgotten.
    start = State(centre.repeat(n_samples, 1), torch.full((n_samples, 3), l3, dtype=torch.float64))
    end = SAMPLERS[sampler](score, batch, start, schedule, stream, **options)

    off = torch.einsum("nx,nxy->ny", end.frac_coords - centre, batch.lattice(end.l3))
    # The remaining error is that of steps of finite size: it shrinks with their number.
    standard_error = 1 / np.sqrt(3 * n_samples)
    assert off.mean().item() == pytest.approx(0.0, abs=4 * position_std * standard_error)
    assert off.std().item() == pytest.approx(position_std, rel=0.04)
    assert end.l3.mean().item() == pytest.approx(l3, abs=4 * length_std * standard_error)
    assert end.l3.std().item() == pytest.approx(length_std, rel=0.04)


def test_a_cold_lattice_stays_close_to_the_most_probable_one() -> None:
    n_samples = 200
    schedule = NoiseSchedule()
    batch = make_batch([16] * n_samples, [[29]] * n_samples, torch.float64)
    centre = torch.zeros(3, dtype=torch.float64)
    l3 = float(l3_from_lengths(torch.tensor(12.0)))
    score = GaussianScore(centre, 0.5, l3, 0.8, schedule)
    start = State(
        torch.zeros(n_samples, 3, dtype=torch.float64), torch.full((n_samples, 3), l3).double()
    )
    stream = NoiseStream(range(n_samples), batch)
    end = langevin(score, batch, start, schedule, stream, length_step=0.3, n_steps=40)
    assert end.l3.std().item() < 0.3


@pytest.mark.parametrize("step", [0.2, 1.0, 2.0, 3.0])
def test_corrections_keep_the_noise_of_their_level(step: float) -> None:
    n_samples, level = 1500, 0.4
    schedule = NoiseSchedule()
    sigma = float(schedule.position_sigma(torch.tensor(level)))
    batch = make_batch([16] * n_samples, [[29]] * n_samples, torch.float64)
    centre = torch.tensor([0.3, 0.6, 0.2], dtype=torch.float64)
    l3 = float(l3_from_lengths(torch.tensor(12.0)))
    certain = GaussianScore(centre, 0.0, l3, 1.0, schedule)
    state = State(centre.repeat(n_samples, 1), torch.full((n_samples, 3), l3, dtype=torch.float64))
    stream = NoiseStream(range(n_samples), batch)
    for _ in range(30):
        state = _langevin_step(
            certain,
            batch,
            state,
            schedule,
            stream,
            level,
            steps=(step, 0.2),
            temperatures=(1.0, 0.0),
        )
    off = torch.einsum("nx,nxy->ny", state.frac_coords - centre, batch.lattice(state.l3))
    assert off.std().item() == pytest.approx(sigma, rel=0.04)


def test_corrections_are_spent_where_positions_are_chosen() -> None:
    spent = corrections_at_levels(17, 5)
    assert sum(spent) == 80
    assert spent[0] < max(spent) > 3 * spent[-1]
    sigma = NoiseSchedule().position_sigma(torch.linspace(1.0, 0.0, 17)[np.argmax(spent)])
    assert 0.4 < sigma < 0.9
    assert corrections_at_levels(100, 0) == [0] * 99


def test_a_structure_s_noise_does_not_depend_on_its_company() -> None:
    batch = make_batch([62, 225, 194], [[29, 14], [11], [8, 30]])
    together = NoiseStream([5, 6, 7], batch)
    alone = NoiseStream([6], make_batch([225], [[11]]))
    assert torch.equal(together.uniform()[2:3], alone.uniform())
    for _ in range(70):
        sites, lengths = together.normal()
        own_sites, own_lengths = alone.normal()
        assert torch.equal(sites[2:3], own_sites)
        assert torch.equal(lengths[1:2], own_lengths)
        assert lengths[1, 1:].abs().sum() == 0


def test_unknown_samplers_are_refused() -> None:
    with pytest.raises(ValueError, match="sampler must be one of default, langevin"):
        sampler_name("euler")

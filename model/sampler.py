"""Samplers: from random positions and cell lengths to crystals, along decreasing noise.

All samplers take the same arguments. ``estimate`` is the network, or anything else that gives the
noise of a state; a score is ``-noise / sigma``. Positions move in the Cartesian frame of the
current cell and keep their fractional coordinates while the cell changes; they are never wrapped,
since nothing depends on which image of a site is meant.

Each structure draws from a generator of its own, so that a sample does not depend on what it is
sampled together with.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from model.crystal import AsymmetricUnit
from model.device import to_device
from model.exclusion import Exclusive
from model.lattice import free_mask, lengths_from_l3, row_product, untie
from model.multigraph import inverted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from model.checkpoint import ScoreModel
    from model.length_prior import LengthPrior
    from model.multigraph import Batch
    from model.network import Noise
    from model.noise import NoiseSchedule

_STEPS_DRAWN_AT_ONCE = 32
VERSION = 6
"""Raised when the same seeds give other samples."""
_DECISIVE_LEVEL, _DECISIVE_WIDTH = 0.67, 0.2
"""Around 0.57 angstrom, from 0.2 to 1.6: with less noise a known crystal is found again nearly
always, with more its Wyckoff positions cannot be told yet."""
LARGEST_L3 = 60.0
"""No cell length beyond 60 angstrom: a diverging state stays finite, and is recorded as failed."""


class SamplerError(ValueError):
    """There is no such sampler; the message says which there are."""


class Estimate(Protocol):
    """Gives the noise of a state, in units of its standard deviation."""

    def __call__(self, batch: Batch, frac_coords: Tensor, l3: Tensor, level: Tensor) -> Noise:
        """See ``ScoreNetwork.forward``."""


@dataclass(frozen=True)
class State:
    """Where the structures of a batch are."""

    frac_coords: Tensor
    """(n_sites, 3)."""
    l3: Tensor
    """(n_systems, 3) tied by the crystal family."""


class NoiseStream:
    """Standard normal numbers, from one generator per structure."""

    def __init__(self, seeds: Sequence[int], batch: Batch) -> None:
        """Seed the generators, one integer per structure."""
        self._generators = [np.random.default_rng(seed) for seed in seeds]
        self._n_sites = torch.bincount(batch.system, minlength=batch.n_systems).tolist()
        self._free = free_mask(batch.ties)
        self._ties = batch.ties
        self._dtype = batch.directions.dtype
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def uniform(self) -> Tensor:
        """Return (n_sites, 3) numbers in [0, 1)."""
        drawn = [g.random((n, 3)) for g, n in zip(self._generators, self._n_sites, strict=True)]
        return self._tensor(np.concatenate(drawn))

    def normal(self) -> tuple[Tensor, Tensor]:
        """Return numbers for the sites (n_sites, 3) and for the free lengths (n_systems, 3)."""
        if not self._waiting:
            drawn = [
                g.standard_normal((_STEPS_DRAWN_AT_ONCE, n + 1, 3))
                for g, n in zip(self._generators, self._n_sites, strict=True)
            ]
            sites = self._tensor(np.concatenate([d[:, 1:] for d in drawn], axis=1))
            lengths = self._tensor(np.stack([d[:, 0] for d in drawn], axis=1)) * self._free
            self._waiting = list(zip(sites, lengths, strict=True))[::-1]
        return self._waiting.pop()

    def untied(self, lengths: Tensor) -> Tensor:
        """Give a, b and c their free lengths."""
        return untie(lengths, self._ties)

    def _tensor(self, values: np.ndarray) -> Tensor:
        return to_device(torch.as_tensor(values, dtype=self._dtype), self._ties.device)


def initial_state(
    batch: Batch, prior: LengthPrior, schedule: NoiseSchedule, stream: NoiseStream
) -> State:
    """Draw uniform positions, and lengths from the training data's at the largest noise."""
    mean = torch.zeros(batch.n_systems, 3, dtype=batch.directions.dtype)
    variance = torch.full_like(mean, schedule.length_largest**2)
    n_sites = torch.bincount(batch.system, minlength=batch.n_systems).tolist()
    for index, number in enumerate(batch.space_group.tolist()):
        expected, spread = prior.mean_and_spread(number, n_sites[index])
        mean[index, : len(expected)] = torch.tensor(expected)
        variance[index, : len(expected)] += torch.tensor(spread).square()
    _, drawn = stream.normal()
    lengths = mean.to(drawn.device) + variance.sqrt().to(drawn.device) * drawn
    return State(stream.uniform(), stream.untied(lengths))


def langevin(
    estimate: Estimate,
    batch: Batch,
    state: State,
    schedule: NoiseSchedule,
    stream: NoiseStream,
    *,
    n_levels: int = 10,
    n_steps: int = 60,
    position_step: float = 1.0,
    length_step: float = 0.2,
    length_temperature: float = 0.15,
    observe: Callable[[State, float], None] | None = None,
) -> State:
    """Annealed Langevin dynamics (paper, Algorithm 1), with a last step to the mean.

    Args:
        estimate: gives the noise of a state.
        batch: the structures.
        state: where to start.
        schedule: noise at each level.
        stream: source of randomness.
        n_levels: F, noise levels.
        n_steps: T, steps per level.
        position_step: gamma_X / sigma_F^2, the step in units of the level's variance.
        length_step: gamma_L / sigma_F^2.
        length_temperature: factor on the noise of the lengths.
        observe: gets the state and the level after each step.
    """
    for level in np.linspace(1.0, 0.0, n_levels).tolist():
        for _ in range(n_steps):
            state = _langevin_step(
                estimate,
                batch,
                state,
                schedule,
                stream,
                level,
                steps=(position_step, length_step),
                temperatures=(1.0, length_temperature),
            )
            if observe:
                observe(state, level)
    return _denoised(estimate, batch, state, schedule, 0.0)


def predictor_corrector(
    estimate: Estimate,
    batch: Batch,
    state: State,
    schedule: NoiseSchedule,
    stream: NoiseStream,
    *,
    n_levels: int = 17,
    n_corrections: int = 5,
    position_step: float = 2.0,
    length_step: float = 0.2,
    position_temperature: float = 0.85,
    length_temperature: float = 0.15,
    observe: Callable[[State, float], None] | None = None,
) -> State:
    """Predictor-corrector sampling (Song et al. 2021, algorithm 2).

    At each noise level a few Langevin steps bring the state closer to that level's distribution;
    an ancestral step then leads to the next level. The one repairs what the other cannot: a site
    that was drawn to the wrong special position. Most corrections are spent where the noise is
    half an angstrom or so, because there the Wyckoff positions are chosen. By default a correction
    goes all the way to the expected clean positions and adds the level's noise anew.

    Args:
        estimate: gives the noise of a state.
        batch: the structures.
        state: where to start.
        schedule: noise at each level.
        stream: source of randomness.
        n_levels: noise levels.
        n_corrections: Langevin steps at a level, in the mean over the levels.
        position_step: of a correction, in units of the level's variance; at most 4.
        length_step: of a correction, in units of the level's variance; at most 4.
        position_temperature: factor on all noise of the positions.
        length_temperature: factor on all noise of the lengths.
        observe: gets the state and the level after each step.
    """
    levels = np.linspace(1.0, 0.0, n_levels).tolist()
    spent = corrections_at_levels(n_levels, n_corrections)
    for (level, lower), n_here in zip(pairwise(levels), spent, strict=True):
        for _ in range(n_here):
            state = _langevin_step(
                estimate,
                batch,
                state,
                schedule,
                stream,
                level,
                steps=(position_step, length_step),
                temperatures=(position_temperature, length_temperature),
            )
            if observe:
                observe(state, level)
        here, below = (torch.full_like(state.l3[:, 0], value) for value in (level, lower))
        noise = estimate(batch, state.frac_coords, state.l3, here)
        z_x, z_l = stream.normal()
        down_x, up_x = _ancestral_step(
            schedule.position_sigma(here)[batch.system, None],
            schedule.position_sigma(below)[batch.system, None],
        )
        down_l, up_l = _ancestral_step(
            schedule.length_sigma(here)[:, None], schedule.length_sigma(below)[:, None]
        )
        state = _moved(
            batch,
            state,
            -down_x * noise.positions + position_temperature * up_x * z_x,
            -down_l * noise.lengths + length_temperature * up_l * z_l,
        )
        if observe:
            observe(state, lower)
    return _denoised(estimate, batch, state, schedule, 0.0)


def ancestral(
    estimate: Estimate,
    batch: Batch,
    state: State,
    schedule: NoiseSchedule,
    stream: NoiseStream,
    *,
    n_steps: int = 100,
    length_temperature: float = 1.0,
    observe: Callable[[State, float], None] | None = None,
) -> State:
    """Ancestral sampling of the variance-exploding process (Song et al. 2021, appendix F).

    One evaluation per noise level: each step removes the part of the noise by which two levels
    differ, and adds what the posterior leaves open.

    Args:
        estimate: gives the noise of a state.
        batch: the structures.
        state: where to start.
        schedule: noise at each level.
        stream: source of randomness.
        n_steps: noise levels.
        length_temperature: factor on the noise of the lengths.
        observe: gets the state and the level after each step.
    """
    return predictor_corrector(
        estimate,
        batch,
        state,
        schedule,
        stream,
        n_levels=n_steps,
        n_corrections=0,
        position_temperature=1.0,
        length_temperature=length_temperature,
        observe=observe,
    )


def _langevin_step(
    estimate: Estimate,
    batch: Batch,
    state: State,
    schedule: NoiseSchedule,
    stream: NoiseStream,
    level: float,
    *,
    steps: tuple[float, float],
    temperatures: tuple[float, float],
) -> State:
    """Go half a step up the score, and add as much noise as keeps the level's variance.

    Langevin dynamics adds noise of the variance of a step. With steps of finite size that heats:
    around a place that is certain, a share a = step / 2 of the noise is taken away, of which
    (1 - a)^2 of the variance is left, so that 1 - (1 - a)^2 = step - step^2 / 4 is missing.
    """
    levels = torch.full_like(state.l3[:, 0], level)
    sigma_x = schedule.position_sigma(levels)[batch.system, None]
    sigma_l = schedule.length_sigma(levels)[:, None]
    noise = estimate(batch, state.frac_coords, state.l3, levels)
    z_x, z_l = stream.normal()
    (step_x, step_l), (warm_x, warm_l) = steps, temperatures
    return _moved(
        batch,
        state,
        sigma_x * (-0.5 * step_x * noise.positions + warm_x * _renewed(step_x) * z_x),
        sigma_l * (-0.5 * step_l * noise.lengths + warm_l * _renewed(step_l) * z_l),
    )


def _renewed(step: float) -> float:
    return float((step - 0.25 * step**2) ** 0.5)


def corrections_at_levels(n_levels: int, mean: int) -> list[int]:
    """Spread corrections over all levels but the last, most where positions are chosen.

    Args:
        n_levels: noise levels, evenly spread from 1 to 0.
        mean: corrections per level; their sum is that of equally many at each level.
    """
    levels = np.linspace(1.0, 0.0, n_levels)[:-1]
    weights = np.exp(-0.5 * ((levels - _DECISIVE_LEVEL) / _DECISIVE_WIDTH) ** 2)
    until = np.rint(np.cumsum(weights) / weights.sum() * mean * len(levels))
    return [int(number) for number in np.diff(until, prepend=0.0)]


def _ancestral_step(sigma: Tensor, lower: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far to go along the noise, and how much new noise to add."""
    removed = sigma**2 - lower**2
    return removed / sigma, (lower**2 * removed).sqrt() / sigma


def _moved(batch: Batch, state: State, positions: Tensor, lengths: Tensor) -> State:
    """Displace sites (angstrom) in the present cell, then change the free lengths (L3)."""
    inverse = inverted(batch.lattice(state.l3))[batch.system]
    frac_coords = state.frac_coords + row_product(positions, inverse)
    l3 = (state.l3 + untie(lengths, batch.ties)).clamp(-LARGEST_L3, LARGEST_L3)
    return State(frac_coords, l3)


def _denoised(
    estimate: Estimate, batch: Batch, state: State, schedule: NoiseSchedule, level: float
) -> State:
    """Go to the expected clean structure."""
    levels = torch.full_like(state.l3[:, 0], level)
    noise = estimate(batch, state.frac_coords, state.l3, levels)
    return _moved(
        batch,
        state,
        -schedule.position_sigma(levels)[batch.system, None] * noise.positions,
        -schedule.length_sigma(levels)[:, None] * noise.lengths,
    )


# All take an estimate, a batch, a state, a schedule and a stream, and settings by name.
SAMPLERS: dict[str, Callable[..., State]] = {
    "langevin": langevin,
    "predictor-corrector": predictor_corrector,
    "ancestral": ancestral,
}
DEFAULT_SAMPLER = "predictor-corrector"


def sampler_name(name: str) -> str:
    """Resolve ``default``.

    Raises:
        SamplerError: if there is no such sampler.
    """
    if name == "default":
        return DEFAULT_SAMPLER
    if name not in SAMPLERS:
        message = f"sampler must be one of default, {', '.join(SAMPLERS)}, got {name!r}"
        raise SamplerError(message)
    return name


def sampler_fingerprint(name: str) -> str:
    """Return a sampler's name and version, which stand beside each sample."""
    return f"{sampler_name(name)}-{VERSION}"


@torch.no_grad()
def sample(
    model: ScoreModel,
    batch: Batch,
    seeds: Sequence[int],
    sampler: str = "default",
    **options: float,
) -> list[AsymmetricUnit]:
    """Sample one crystal for each structure of a batch.

    Args:
        model: a trained model.
        batch: space groups and elements, on the model's device.
        seeds: one integer per structure; the same seed gives the same crystal.
        sampler: name of a sampler.
        options: the sampler's settings, such as ``n_levels``, where its own are not wanted.

    Returns:
        Crystals whose sites lie exactly on Wyckoff positions. A crystal that diverged has
        coordinates or lengths that are not finite.
    """
    state = _final_state(model, batch, seeds, partial(SAMPLERS[sampler_name(sampler)], **options))
    lengths = lengths_from_l3(state.l3).double().cpu().numpy()
    n_sites = torch.bincount(batch.system, minlength=batch.n_systems).tolist()
    coords = np.split(state.frac_coords.double().cpu().numpy(), np.cumsum(n_sites)[:-1])
    numbers = np.split(batch.atomic_numbers.cpu().numpy(), np.cumsum(n_sites)[:-1])
    crystals = zip(batch.space_group.tolist(), lengths, coords, numbers, strict=True)
    return [AsymmetricUnit(*crystal).settled() for crystal in crystals]


def _final_state(
    model: ScoreModel, batch: Batch, seeds: Sequence[int], run: Callable[..., State]
) -> State:
    """Run a sampler. A GPU gets room for all lists, and is asked once whether it was enough.

    So is a batch that has room already, on any device.
    """
    schedule = model.network.schedule
    if batch.room is None and batch.system.device.type != "cpu":
        batch = batch.with_room()
    while True:
        stream = NoiseStream(seeds, batch)
        state = initial_state(batch, model.length_prior, schedule, stream)
        state = run(Exclusive(model.network), batch, state, schedule, stream)
        if batch.room is None or not batch.room.is_exceeded:
            return state
        batch = batch.with_room(2 * batch.room.candidates // batch.n_sites)

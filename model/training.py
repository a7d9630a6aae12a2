"""Training by denoising score matching; can be stopped at any time and goes on where it was."""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import platform
import time
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, distributed

from model.checkpoint import ScoreModel, load_checkpoint, save_checkpoint, write_beside
from model.dataset import DataError, read_crystals
from model.device import chosen_device
from model.elements import PeriodicElements
from model.length_prior import fit_length_prior
from model.multigraph import CANDIDATES_PER_SITE
from model.network import NetworkConfig, ScoreNetwork
from model.noise import NoiseSchedule
from model.perturbation import KnownCrystals, perturb
from model.widening import widened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from model.dataset import Crystals
    from model.perturbation import Example

_LOG = logging.getLogger(__name__)

_N_VALIDATION = 1000
_BETWEEN_RANKS = 2**40
"""Between the seeds of two processes that train together: more than there are steps."""
DECIDING_SIGMA = (0.3, 1.5)
"""Angstrom: with more noise nearly nothing is known of a site's place, with less it is settled."""
_VALIDATION_LEVELS = tuple(round(0.05 + 0.1 * i, 2) for i in range(10))


@dataclass(frozen=True)
class TrainingConfig:
    """What a training run is made of."""

    epochs: float = 60.0
    """Passes over the data; the learning rate follows a cosine down to zero."""
    minutes: float | None = None
    """Training time after which the cosine has ended, if the epochs have not before."""
    batch_size: int = 64
    """Crystals of a step, those of all processes together."""
    learning_rate: float = 1e-3
    warmup_steps: int = 300
    gradient_clip: float = 1.0
    ema: float = 0.999
    """Decay of the exponential moving average of the weights, which is what is shipped."""
    length_weight: float = 0.2
    """Weight of the loss of lengths beside that of positions, which is one."""
    deciding_share: float = 0.5
    """Share of noise levels drawn from where sites find their Wyckoff positions alone."""
    max_sites: int = 12
    """Crystals with more sites are left out."""
    save_every: float = 60.0
    """Seconds between two states on disk."""
    seed: int = 0
    network: NetworkConfig = field(default_factory=NetworkConfig)
    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingConfig:
        """Build from nested dictionaries, as they stand in a file.

        Raises:
            ValueError: naming the key that does not exist or whose value cannot be used.
        """
        parts: dict[str, Any] = {"": cls, "network": NetworkConfig, "schedule": NoiseSchedule}
        for name, part in parts.items():
            given = values.get(name, {}) if name else values
            if not isinstance(given, dict):
                message = f"training configuration: {name} must be a mapping, got {given!r}"
                raise TypeError(message)
            unknown = sorted(set(given) - {f.name for f in fields(part)})
            if unknown:
                key = f"{name}.{unknown[0]}" if name else unknown[0]
                message = f"training configuration: unknown key {key!r}"
                raise ValueError(message)
            for key, value in given.items():
                if not isinstance(value, (int, float)) or key == "seed":
                    continue
                if key == "deciding_share":
                    if not 0 <= value <= 1:
                        message = f"training configuration: {key} must be from 0 to 1, got {value}"
                        raise ValueError(message)
                elif not value > 0:
                    message = f"training configuration: {key} must be above zero, got {value}"
                    raise ValueError(message)
        try:
            config: TrainingConfig = TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(map(str, first["loc"]))
            message = f"training configuration: {key} is {first['input']!r}: {first['msg']}"
            raise ValueError(message) from None
        return config


@torch.no_grad()
def validate(network: ScoreNetwork, crystals: Crystals, seed: int = 1) -> list[dict[str, float]]:
    """Return the loss of both scores at ten noise levels, beside that of the zero predictor."""
    known = KnownCrystals.of(crystals, device=next(network.parameters()).device)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for value in _VALIDATION_LEVELS:
        sums = torch.zeros(4)
        for chosen in np.array_split(np.arange(len(crystals)), max(1, len(crystals) // 100)):
            level = torch.full((len(chosen),), value)
            example = perturb(known.subset(chosen), level, network.schedule, generator)
            noise = network(example.batch, example.frac_coords, example.l3, example.level)
            zero = type(noise)(torch.zeros_like(noise.positions), torch.zeros_like(noise.lengths))
            losses = (*example.errors(noise), *example.errors(zero))
            sums += torch.stack([loss.sum().cpu() for loss in losses])
        position, length, zero_position, zero_length = (sums / len(crystals)).tolist()
        level = torch.tensor(value)
        rows.append(
            {
                "level": value,
                "position_sigma": float(network.schedule.position_sigma(level)),
                "position_loss": position,
                "position_loss_of_zero": zero_position,
                "length_sigma": float(network.schedule.length_sigma(level)),
                "length_loss": length,
                "length_loss_of_zero": zero_length,
            }
        )
    return rows


class Trainer:
    """Weights, their average, the optimiser, and how far the run has come."""

    def __init__(
        self,
        config: TrainingConfig,
        device: torch.device | str,
        start: ScoreNetwork | None = None,
    ) -> None:
        """Make an untrained network, or take the weights of one that has learned before."""
        torch.manual_seed(config.seed)
        self.config = config
        self.device = torch.device(device)
        self.network = ScoreNetwork(config.network, config.schedule).to(self.device)
        if start is not None:
            self.network.load_state_dict(start.state_dict())
        self.average = copy.deepcopy(self.network).requires_grad_(requires_grad=False)
        # For the time of the training: the average, which is shipped, has one vector per element.
        self.network.element = PeriodicElements(self.network.element).to(self.device)  # type: ignore[assignment]
        on_gpu = self.device.type == "cuda"
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), config.learning_rate, fused=on_gpu
        )
        # Of the elements the average has the sums, of which the network has the parts.
        self._averaged = [
            (mean, self.network.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2])
            for name, mean in self.average.named_parameters()
        ]
        self._candidates_per_site = CANDIDATES_PER_SITE if on_gpu else None
        self._cramped = torch.zeros((), dtype=torch.int64, device=self.device)
        self.step = 0
        self.seconds = 0.0
        self.curve: list[dict[str, float]] = []

    def progress(self, steps_in_all: int) -> float:
        """Return the share of the run that is done, by steps or by time."""
        share = self.step / steps_in_all
        if self.config.minutes is not None:
            share = max(share, self.seconds / (60.0 * self.config.minutes))
        return min(share, 1.0)

    def update(self, example: Example, progress: float) -> Tensor:
        """Take one step; return the two losses, for which nobody has waited yet."""
        config = self.config
        rate = config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
        rate *= min(1.0, (self.step + 1) / config.warmup_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        batch = example.batch
        if self._candidates_per_site is not None:
            batch = batch.with_room(self._candidates_per_site)
        noise = self.network(batch, example.frac_coords, example.l3, example.level)
        if batch.room:
            self._cramped += batch.room.wanted > batch.room.candidates
        position, length = (errors.mean() for errors in example.errors(noise))
        self.optimiser.zero_grad()
        self.objective(position, length).backward()
        self._share_gradients()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.gradient_clip)
        self.optimiser.step()
        self.step += 1
        decay = min(config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            means: list[Tensor] = [mean for mean, _, _ in self._averaged]
            values = [getattr(module, name) for _, module, name in self._averaged]
            torch._foreach_lerp_(means, values, 1.0 - decay)
        return torch.stack([position, length]).detach()

    def make_room(self) -> int:
        """Make more room on a GPU if steps had too little; return how many had."""
        cramped = int(self._cramped)
        if cramped and self._candidates_per_site is not None:
            self._candidates_per_site *= 2
            self._cramped.zero_()
        return cramped

    def _share_gradients(self) -> None:
        """Take the mean of the gradients over all processes, each of which had a part of the batch."""
        _, n_processes = _place()
        if n_processes == 1:
            return
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(together)
        parts = (together / n_processes).split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def objective(self, position: Tensor, length: Tensor) -> Tensor:
        """Return what is made small, from the losses of positions and of lengths."""
        return position + self.config.length_weight * length

    def save_state(self, path: Path) -> None:
        """Write all that is needed to go on."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{k}": v for k, v in state.items()}
        scalars = {"step": self.step, "seconds": self.seconds, "curve": self.curve}
        metadata = {"config": json.dumps(asdict(self.config)), "scalars": json.dumps(scalars)}
        contiguous = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
        write_beside(path, save(contiguous, metadata))

    def load_state(self, path: Path) -> None:
        """Go on from a state on disk.

        Raises:
            DataError: if the state belongs to another configuration.
        """
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no dict
        stored = json.loads(metadata["config"])
        mine = json.loads(json.dumps(asdict(self.config)))
        differs = sorted(k for k in mine if mine[k] != stored.get(k) and k not in _MAY_CHANGE)
        if differs:
            message = f"{path} was trained with another {differs[0]}: remove it to start again"
            raise DataError(message)
        for name, module in (("network.", self.network), ("average.", self.average)):
            module.load_state_dict(
                {k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)}
            )
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimiser."):
                _, index, name = key.split(".")
                state.setdefault(int(index), {})[name] = value
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})
        scalars = json.loads(metadata["scalars"])
        self.step, self.seconds = scalars["step"], scalars["seconds"]
        self.curve = scalars["curve"]


def draw_levels(n_levels: int, config: TrainingConfig, generator: torch.Generator) -> Tensor:
    """Draw noise levels: some from the whole range, the others from where sites find their places.

    Both are evenly spread: one level falls into each part of its range.

    Returns:
        (n_levels,) in [0, 1].
    """
    n_deciding = round(n_levels * config.deciding_share)
    first, last = (config.schedule.level_of(sigma) for sigma in DECIDING_SIGMA)
    levels = []
    for n, low, high in ((n_levels - n_deciding, 0.0, 1.0), (n_deciding, first, last)):
        spread = (torch.arange(n) + torch.rand(n, generator=generator)) / max(n, 1)
        levels.append(low + (high - low) * spread)
    return torch.cat(levels)


_MAY_CHANGE = ("epochs", "minutes", "save_every")


def batches(known: KnownCrystals, config: TrainingConfig, first_step: int) -> Iterator[Example]:
    """Yield noisy batches for ever; each depends on the seed and on its step alone.

    Where several processes train together, each gets its own part of every batch.
    """
    rank, n_processes = _place()
    n_batches = max(1, len(known) // config.batch_size)
    step = first_step
    order_of = lru_cache(maxsize=1)(
        lambda epoch: np.random.default_rng((config.seed, epoch)).permutation(len(known))
    )
    while True:
        epoch, index = divmod(step, n_batches)
        order = order_of(epoch)
        chosen = order[index * config.batch_size : (index + 1) * config.batch_size]
        seed = config.seed * 1_000_003 + step
        generator = torch.Generator().manual_seed(seed)
        level = draw_levels(len(chosen), config, generator)
        if n_processes > 1:
            generator.manual_seed(seed + (rank + 1) * _BETWEEN_RANKS)
            chosen, level = chosen[rank::n_processes], level[rank::n_processes]
        yield perturb(known.subset(chosen), level, config.schedule, generator)
        step += 1


def train(
    data: Sequence[Path],
    out: Path,
    config: TrainingConfig,
    *,
    validation: Sequence[Path] = (),
    start_from: str | None = None,
    widen: dict[str, int] | None = None,
    device: str = "auto",
    cache: Path | None = None,
    report: Callable[[str], None] = _LOG.info,
    launch: Callable[[Callable[[Callable[[str], None]], None]], None] | None = None,
) -> list[dict[str, float]]:
    """Train a score model and write it to ``out``.

    The state is kept in ``<out>.state`` while training runs; the same call goes on from there.

    Args:
        data: files that ``model.dataset.read_crystals`` understands.
        out: checkpoint to write, ``.safetensors``.
        config: sizes and durations.
        validation: files for the loss against noise level; without them a twentieth of the data
            is held back.
        start_from: a checkpoint's name or path; training goes on from its weights, with its
            network and noise schedule in place of those of ``config``.
        widen: ``hidden``, ``bottleneck`` or both of that network, if it shall have more channels
            than the checkpoint has.
        device: ``cpu``, ``cuda`` or ``auto``.
        cache: folder for the converted data.
        report: gets a line every now and then.
        launch: runs the function that it is given in several processes, with a process group of
            torch's and with something that takes lines; the first of them must reach ``out`` under
            this name, the others read there. Without it one process trains, this one.

    Returns:
        The validation losses that are stored in the checkpoint.

    Raises:
        DataError: if the data or a previous state cannot be used.
        CheckpointError: if ``start_from`` is not a checkpoint, or wider than ``widen`` asks for.
    """
    start = load_checkpoint(start_from) if start_from is not None else None
    network = None
    if start is not None:
        torch.manual_seed(config.seed)
        network = widened(start.network, **(widen or {}))
        config = replace(config, network=network.config, schedule=network.schedule)
    crystals, held_back = _split(data, validation, config, cache)
    about = {
        "data": [path.name for path in data],
        "crystals": len(crystals),
        "started_from": _lineage(start),
        "validation_crystals": len(held_back),
    }
    if launch is None:
        _work(config, network, crystals, held_back, out, about, device, report)
    else:
        launch(partial(_work, config, network, crystals, held_back, out, about, device))
    losses: list[dict[str, float]] = load_checkpoint(str(out)).training_record["validation"]
    return losses


def _work(
    config: TrainingConfig,
    network: ScoreNetwork | None,
    crystals: Crystals,
    held_back: Crystals,
    out: Path,
    about: dict[str, Any],
    device: str,
    report: Callable[[str], None],
) -> None:
    """Train, alone or as one of several processes, of which the first writes."""
    rank, n_processes = _place()
    if config.batch_size % n_processes or (n_processes > 1 and len(crystals) < config.batch_size):
        message = (
            f"{n_processes} workers cannot share batches of {config.batch_size} of {len(crystals)} "
            f"crystals: batch_size must be a multiple of their number, and not above that of crystals"
        )
        raise DataError(message)
    if rank:
        report = _LOG.debug
    trainer = Trainer(config, chosen_device(device), network)
    if trainer.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # ten bits are enough for gradients
    state = out.with_name(out.name + ".state")
    if state.exists():
        trainer.load_state(state)
        report(f"going on from step {trainer.step}")
    steps_in_all = math.ceil(config.epochs * max(1, len(crystals) // config.batch_size))
    report(f"{len(crystals)} crystals, {steps_in_all} steps at the most, on {trainer.device}")
    _loop(trainer, crystals, steps_in_all, state, report)
    if rank:
        return
    record = {
        **about,
        "epochs": trainer.step * config.batch_size / len(crystals),
        "steps": trainer.step,
        "hours": trainer.seconds / 3600.0,
        "processes": n_processes,
        "hardware": _hardware(trainer.device),
        "torch": torch.__version__,
        "config": asdict(config),
        "learning_curve": trainer.curve,
        "validation": validate(trainer.average, held_back),
    }
    save_checkpoint(out, trainer.average, fit_length_prior(crystals), record)
    report(f"wrote {out}")


def _place() -> tuple[int, int]:
    """Return which of how many processes that train together this one is."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _split(
    data: Sequence[Path], validation: Sequence[Path], config: TrainingConfig, cache: Path | None
) -> tuple[Crystals, Crystals]:
    crystals = read_crystals(data, cache)
    small = np.flatnonzero(crystals.n_sites <= config.max_sites)
    shuffled = np.random.default_rng(config.seed).permutation(small)
    if validation:
        held_back = read_crystals(validation, cache)
        usable = np.flatnonzero(held_back.n_sites <= config.max_sites)
        usable = np.random.default_rng(config.seed).permutation(usable)
        return crystals.subset(small), held_back.subset(usable[:_N_VALIDATION])
    n_held_back = min(_N_VALIDATION, max(1, len(shuffled) // 20))
    if len(shuffled) <= n_held_back:
        message = f"training needs at least two crystals with up to {config.max_sites} sites"
        raise DataError(message)
    return crystals.subset(shuffled[n_held_back:]), crystals.subset(shuffled[:n_held_back])


def _loop(
    trainer: Trainer,
    crystals: Crystals,
    steps_in_all: int,
    state: Path,
    report: Callable[[str], None],
) -> None:
    rank, _ = _place()
    known = KnownCrystals.of(crystals, device=trainer.device)
    last = saved = time.monotonic()
    recent: list[Tensor] = []
    for example in batches(known, trainer.config, trainer.step):
        progress = _agreed(trainer.progress(steps_in_all), trainer.device)
        if progress >= 1.0:
            break
        recent.append(trainer.update(example, progress))
        now = time.monotonic()
        trainer.seconds += now - last
        last = now
        if now - saved >= trainer.config.save_every:
            if not rank:
                position, length = torch.stack(recent).mean(dim=0).tolist()
                trainer.curve.append(
                    {"step": trainer.step, "position_loss": position, "length_loss": length}
                )
                trainer.save_state(state)
                report(
                    f"step {trainer.step}, {100 * progress:.0f} %, positions {position:.4f}, "
                    f"lengths {length:.4f}, {trainer.seconds / trainer.step:.3f} s per step"
                )
            if cramped := trainer.make_room():
                report(f"{cramped} steps left neighbours out for want of room, there is more now")
            saved, recent = now, []
    if not rank:
        trainer.save_state(state)


def _agreed(progress: float, device: torch.device) -> float:
    """Return the first process's number: by its clock all of them must stop at the same step."""
    if _place()[1] == 1:
        return progress
    told = torch.tensor([progress], dtype=torch.float64, device=device)
    distributed.broadcast(told, src=0)
    return float(told)


def _lineage(start: ScoreModel | None) -> dict[str, Any] | None:
    """Say what a run went on from, and what that had cost, back to random weights."""
    if start is None:
        return None
    kept = ("data", "crystals", "started_from", "epochs", "steps", "hours", "hardware")
    record = {key: start.training_record[key] for key in kept if key in start.training_record}
    widths = {name: getattr(start.config, name) for name in ("hidden", "bottleneck")}
    return {"fingerprint": start.fingerprint, **widths, **record}


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} cores, {platform.machine()}, {torch.get_num_threads()} threads"

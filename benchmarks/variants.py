"""Which choices of the method matter? The same short training with one of them changed at a time.

    python benchmarks/variants.py --data mp20_train.parquet --validation mp20_val.parquet
        [--crystals 2000] [--steps 1500] [--seeds 0 1] [--only as-shipped neighbours-40]

Every variant sees the same crystals in the same order with the same noise, from random weights of
the same seed, with a cosine down to zero. Printed are its losses of unseen crystals, per coordinate
and in units of the noise, as the mean of noise levels that belong together, and what a step costs
beside one of the network as shipped. One thread; a minute or two for each variant and seed.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from model.dataset import read_crystals
from model.network import NetworkConfig
from model.perturbation import KnownCrystals, perturb
from model.training import Trainer, TrainingConfig, draw_levels, validate

if TYPE_CHECKING:
    from collections.abc import Callable

    from model.dataset import Crystals

BATCH = 32
N_LADDER = 10
"""Levels of the discrete ladder, the paper's number."""
RANGES = {"below 0.2 A": (0.0, 0.2), "0.2 to 1 A": (0.2, 1.0), "above 1 A": (1.0, np.inf)}


def by_number_alone(trainer: Trainer) -> None:
    """Let a trainer's network learn each element apart from the others."""
    trainer.network.element = trainer.network.element.number
    rate = trainer.config.learning_rate
    trainer.optimiser = torch.optim.AdamW(trainer.network.parameters(), rate)


def on_ladder(level: Tensor) -> Tensor:
    """Put levels on the middles of a few equal parts of the range, those of the validation."""
    return ((level * N_LADDER).floor().clamp(max=N_LADDER - 1) + 0.5) / N_LADDER


def keep(anything: Any) -> Any:
    """Change nothing."""
    return anything


Variant = tuple[
    dict[str, Any], dict[str, Any], "Callable[[Trainer], None]", "Callable[[Tensor], Tensor]"
]
"""Sizes of the network, settings of the training, what becomes of the trainer and of noise levels."""
VARIANTS: dict[str, Variant] = {
    "as-shipped": ({}, {}, keep, keep),
    "neighbours-10": ({"n_neighbours": 10}, {}, keep, keep),
    "neighbours-40": ({"n_neighbours": 40}, {}, keep, keep),
    "cutoff-6": ({"cutoff": 6.0}, {}, keep, keep),
    "blocks-2": ({"n_blocks": 2}, {}, keep, keep),
    "blocks-4": ({"n_blocks": 4}, {}, keep, keep),
    "wider": ({"hidden": 96, "bottleneck": 48}, {}, keep, keep),
    "no-angles": ({"n_spherical": 1}, {}, keep, keep),
    "positions-only": ({}, {"length_weight": 0.0}, keep, keep),
    "lengths-only": ({}, {"length_weight": 1e6}, keep, keep),
    "lengths-as-much": ({}, {"length_weight": 1.0}, keep, keep),
    "lengths-twentieth": ({}, {"length_weight": 0.05}, keep, keep),
    "levels-evenly": ({}, {"deciding_share": 0.0}, keep, keep),
    "elements-by-number": ({}, {}, by_number_alone, keep),
    "discrete-levels": ({}, {}, keep, on_ladder),
}


def run(
    variant: Variant, crystals: Crystals, unseen: Crystals, steps: int, seed: int
) -> tuple[list[float], float]:
    """Train a variant; return its losses by range of noise, and the seconds of a step."""
    sizes, settings, change, levels = variant
    network = replace(NetworkConfig(), **sizes)
    config = TrainingConfig(batch_size=BATCH, ema=0.995, seed=seed, network=network, **settings)
    trainer = Trainer(config, "cpu")
    change(trainer)
    generator = torch.Generator().manual_seed(seed)
    random = np.random.default_rng(seed)
    known = KnownCrystals.of(crystals)
    seconds = []
    for step in range(steps):
        chosen = random.choice(len(known), BATCH, replace=False)
        level = draw_levels(BATCH, config, generator)
        example = perturb(known.subset(chosen), levels(level), config.schedule, generator)
        began = time.process_time()
        trainer.update(example, step / steps)
        seconds.append(time.process_time() - began)
    losses = validate(trainer.average, unseen)
    table = []
    for name in ("position_loss", "length_loss"):
        for low, high in RANGES.values():
            rows = [row[name] for row in losses if low <= row["position_sigma"] < high]
            table.append(float(np.mean(rows)))
    return table, float(np.median(seconds))


def main() -> None:
    """Train all variants and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="folder for the converted data")
    parser.add_argument("--crystals", type=int, default=2000)
    parser.add_argument("--unseen", type=int, default=500)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    options = parser.parse_args()
    torch.set_num_threads(1)

    def some(path: Path, count: int) -> Crystals:
        crystals = read_crystals([path], options.cache)
        small = np.flatnonzero(crystals.n_sites <= TrainingConfig().max_sites)
        return crystals.subset(np.random.default_rng(0).permutation(small)[:count])

    crystals = some(options.data, options.crystals)
    unseen = some(options.validation, options.unseen)
    columns = ["variant"]
    columns += [f"{of}, {name}" for of in ("positions", "lengths") for name in RANGES]
    table = Table(*columns, "step, ms", title=f"{options.crystals} crystals, {options.steps} steps")
    for name in options.only:
        runs = [
            run(VARIANTS[name], crystals, unseen, options.steps, seed) for seed in options.seeds
        ]
        losses = np.array([losses for losses, _ in runs])
        spread = losses.std(axis=0)
        cells = [
            f"{mean:.3f} ± {deviation:.3f}" if len(runs) > 1 else f"{mean:.3f}"
            for mean, deviation in zip(losses.mean(axis=0), spread, strict=True)
        ]
        step = f"{1e3 * np.median([seconds for _, seconds in runs]):.0f}"
        print(name, *cells, step, sep="\t", flush=True)
        table.add_row(name, *cells, step)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()

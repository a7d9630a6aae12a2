"""What a training step costs: milliseconds per crystal, where they go, and the peak memory.

    python benchmarks/training.py --data mp20_train.parquet [--batch 16 64 256] [--threads 1]

Median and range over the steps, on the device that training would take. A step is making the noisy
batch, the forward pass, the backward pass with the optimiser, and the moving average. "Without
waiting" is the mean over as many steps in a row, as they are taken in a training: on a GPU the host
is ahead then.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sampling import now, peak_memory

from model.dataset import read_crystals
from model.device import chosen_device
from model.network import NetworkConfig
from model.perturbation import KnownCrystals
from model.training import Trainer, TrainingConfig, batches

WARM_UP = 5


def main() -> None:
    """Time steps and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="folder for the converted data")
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hidden", type=int, nargs="+", default=[NetworkConfig().hidden])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = chosen_device("auto")
    crystals = read_crystals([options.data], options.cache)
    small = np.flatnonzero(crystals.n_sites <= TrainingConfig().max_sites)
    known = KnownCrystals.of(crystals.subset(small), device=device)
    columns = "width,weights,batch,ms per crystal,range,of it making the batch,without waiting"
    table = Table(
        *columns.split(","), "crystals per s", title=f"{device}, {options.threads} threads"
    )

    for hidden in options.hidden:
        for size in options.batch:
            network = replace(NetworkConfig(), hidden=hidden, bottleneck=hidden // 2)
            config = TrainingConfig(batch_size=size, network=network)
            trainer = Trainer(config, device)
            examples = batches(known, config, 0)
            making, whole = [], []
            began = now(device)
            for example in islice(examples, WARM_UP + options.steps):
                made = now(device)
                trainer.update(example, progress=0.0)
                ended = now(device)
                making.append((made - began) / size * 1e3)
                whole.append((ended - began) / size * 1e3)
                began = ended
            whole, making = whole[WARM_UP:], making[WARM_UP:]
            for example in islice(examples, options.steps):
                trainer.update(example, progress=0.0)
            in_a_row = (now(device) - began) / size / options.steps * 1e3
            table.add_row(
                str(hidden),
                f"{sum(p.numel() for p in trainer.network.parameters()):,}",
                str(size),
                f"{np.median(whole):.3f}",
                f"{min(whole):.3f} to {max(whole):.3f}",
                f"{np.median(making):.3f}",
                f"{in_a_row:.3f}",
                f"{1 / in_a_row * 1e3:.0f}",
            )
    Console(width=140).print(table)
    print(f"torch {torch.__version__}, peak memory {peak_memory(device):.0f} MiB")


if __name__ == "__main__":
    main()

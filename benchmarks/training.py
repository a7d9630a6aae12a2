"""What a training step costs: milliseconds per crystal, where they go, and the peak memory.

    python benchmarks/training.py --data mp20_train.parquet [--batch 16 64 256] [--threads 1]

Median and range over the steps, on the device that training would take. A step is making the noisy
batch, the forward pass, the backward pass with the optimiser, and the moving average.
"""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from model.dataset import read_crystals
from model.network import NetworkConfig
from model.training import Trainer, TrainingConfig, batches

WARM_UP = 2


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
    device = "cuda" if torch.cuda.is_available() else "cpu"
    crystals = read_crystals([options.data], options.cache)
    small = np.flatnonzero(crystals.n_sites <= TrainingConfig().max_sites)
    crystals = crystals.subset(small)
    columns = "width,weights,batch,ms per crystal,range,of it making the batch,crystals per s"
    table = Table(*columns.split(","), title=f"{device}, {options.threads} threads")
    for hidden in options.hidden:
        for size in options.batch:
            network = replace(NetworkConfig(), hidden=hidden)
            config = TrainingConfig(batch_size=size, network=network)
            trainer = Trainer(config, device)
            making, whole = [], []
            began = time.perf_counter()
            for example in islice(batches(crystals, config, 0), WARM_UP + options.steps):
                made = time.perf_counter()
                trainer.update(example, progress=0.0)  # waits for the device: it returns numbers
                ended = time.perf_counter()
                making.append((made - began) / size * 1e3)
                whole.append((ended - began) / size * 1e3)
                began = ended
            whole, making = whole[WARM_UP:], making[WARM_UP:]
            table.add_row(
                str(hidden),
                f"{sum(p.numel() for p in trainer.network.parameters()):,}",
                str(size),
                f"{np.median(whole):.2f}",
                f"{min(whole):.2f} to {max(whole):.2f}",
                f"{np.median(making):.2f}",
                f"{1e3 / np.median(whole):.0f}",
            )
    Console(width=120).print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    print(f"torch {torch.__version__}, peak memory {peak:.0f} MiB")


if __name__ == "__main__":
    main()

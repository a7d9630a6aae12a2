"""What a checkpoint was trained on, and its loss against noise level beside the zero predictor's.

    python benchmarks/learning.py [--checkpoint NAME] [--data FILE]

Prints the training record that the checkpoint carries. With ``--data`` the losses are computed
anew on that file's crystals.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from model.checkpoint import load_checkpoint
from model.dataset import read_crystals
from model.training import validate


def main() -> None:
    """Load, compute if asked to, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    model = load_checkpoint(options.checkpoint)
    record = model.training_record
    rows, n_crystals = record["validation"], record["validation_crystals"]
    if options.data:
        crystals = read_crystals([options.data])
        small = np.flatnonzero(crystals.n_sites <= record["config"]["max_sites"])
        n_crystals = min(1000, len(small))
        chosen = np.random.default_rng(0).permutation(small)[:n_crystals]
        rows = validate(model.network, crystals.subset(chosen))

    columns = "sigma positions Å,loss,zero predictor,sigma lengths L3,loss,zero predictor"
    table = Table(*columns.split(","), title=f"{model.fingerprint}, {n_crystals} crystals")
    for row in rows:
        names = ("position_sigma", "position_loss", "position_loss_of_zero")
        names += ("length_sigma", "length_loss", "length_loss_of_zero")
        table.add_row(*(f"{row[name]:.3f}" for name in names))
    Console().print(table)
    data = ", ".join(f"{part['file']} ({part['crystals']} crystals)" for part in record["data"])
    print(
        f"trained on {data}: {record['steps']} steps, {record['epochs']:.1f} epochs, "
        f"{record['hours']:.2f} h on {record['hardware']}, torch {record['torch']}"
    )


if __name__ == "__main__":
    main()

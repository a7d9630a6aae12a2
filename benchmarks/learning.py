"""What a checkpoint was trained on, and its loss against noise level beside the zero predictor's.

    python benchmarks/learning.py [--checkpoint NAME] [--data FILE]

Prints the training record that the checkpoint carries. With ``--data`` the losses are computed
anew on that file's crystals.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

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
    before = record.get("started_from")
    print(f"trained on {_data(record)}: {_effort(record)}, torch {record['torch']}")
    while before:
        print(f"went on from {before['fingerprint']}, on {_data(before)}: {_effort(before)}")
        before = before.get("started_from")


def _data(record: dict[str, Any]) -> str:
    # Records of the first checkpoints repeat the number of crystals with each file.
    files = [part["file"] if isinstance(part, dict) else part for part in record["data"]]
    n_crystals = record["crystals"] if "crystals" in record else record["data"][0]["crystals"]
    return f"{', '.join(files)} ({n_crystals} crystals)"


def _effort(record: dict[str, Any]) -> str:
    return (
        f"{record['steps']} steps, {record['epochs']:.1f} epochs, {record['hours']:.2f} h "
        f"on {record['hardware']}"
    )


if __name__ == "__main__":
    main()

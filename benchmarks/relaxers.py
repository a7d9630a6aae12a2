"""What a relaxer gets through on a core or on a GPU: evaluations and whole relaxations a second.

    python benchmarks/relaxers.py [--device cpu|gpu] [--crystals 64] [--together 8 64] [--seconds 20]

Samples of the default checkpoint (Cu-K-Si, four space groups, three to fourteen atoms; drawn on the
CPU, so that every device is given the same) are relaxed through the stage that a campaign's workers
run, so many at once. Relaxations that are not begun within ``--seconds`` of a row are left out. One
process; a campaign has several on each GPU.
"""

from __future__ import annotations

import argparse
import itertools
import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pymatgen.io.ase import AseAtomsAdaptor
from rich.console import Console
from rich.table import Table

from model.api import load_model
from screening.relaxation import RelaxationStage
from screening.schema import structure_columns

if TYPE_CHECKING:
    from pymatgen.core import Structure

GROUPS = (62, 194, 225, 166)
SITES = ({"Cu": 1, "K": 1, "Si": 1}, {"Cu": 1, "K": 1, "Si": 2}, {"Cu": 1, "Si": 1})
FEWEST_ATOMS, MOST_ATOMS = 3, 14
REPEATS = 3


def drawn(count: int) -> list[Structure]:
    """Return samples of all groups and sites in turn."""
    model = load_model("default", "cpu")
    found: list[Structure] = []
    for seed in itertools.count():
        for group, sites in itertools.product(GROUPS, SITES):
            samples = model.sample(sites, group, 4, seed=seed)
            found += [s for s in samples if FEWEST_ATOMS <= len(s) <= MOST_ATOMS]
        if len(found) >= count:
            return found[:count]
    raise AssertionError


def main() -> None:
    """Time evaluations and relaxations."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--crystals", type=int, default=64)
    parser.add_argument("--together", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    crystals = drawn(options.crystals)
    atoms = [AseAtomsAdaptor.get_atoms(crystal) for crystal in crystals]
    rows: list[dict[str, Any]] = [{**structure_columns(c), "status": "kept"} for c in crystals]
    stage = RelaxationStage("default", fmax=0.05, max_steps=300, device=options.device)
    stage.setup()
    potential = stage._loaded["potential"]  # noqa: SLF001 - the one that the stage asks
    for answer in potential.evaluate(atoms[:2]):
        if isinstance(answer, Exception):
            raise answer

    columns = "together,ms per crystal and evaluation,relaxations a second,of,converged"
    title = (
        f"{stage.fingerprint} on {potential.device}, {np.mean([*map(len, atoms)]):.1f} atoms each"
    )
    table = Table(*columns.split(","), title=title)
    for size in options.together:
        parts = [slice(first, first + size) for first in range(0, len(rows), size)]
        evaluation = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            potential.evaluate(atoms[parts[0]])  # waits for the device: it returns numbers
            evaluation.append((time.perf_counter() - began) / len(atoms[parts[0]]) * 1e3)
        outcomes: list[dict[str, Any]] = []
        began = time.perf_counter()
        for part in parts:
            outcomes += stage.together(rows[part])
            if time.perf_counter() - began > options.seconds:
                break
        rate = len(outcomes) / (time.perf_counter() - began)
        converged = sum(bool(outcome.get("converged")) for outcome in outcomes)
        table.add_row(
            str(size),
            f"{np.median(evaluation):.2f}",
            f"{rate:.2f}",
            str(len(outcomes)),
            str(converged),
        )
    Console(width=110).print(table)
    where = torch.cuda.get_device_name() if potential.device == "cuda" else "one core"
    print(f"{where}, torch {torch.__version__}")


if __name__ == "__main__":
    main()

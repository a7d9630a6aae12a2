"""What a network evaluation costs per structure, and how much of it is the multigraph.

    python benchmarks/sampling.py [--repeats 7] [--threads 2] [--batch 1 8 64]
    python benchmarks/sampling.py --whole [--batch 64 1024 4096]

Median over the repeats of the time of one evaluation at noise levels spread over the ladder,
divided by the structures in the batch, for inputs of 2, 3 and 4 sites in three space groups. The
published implementation needs 23 to 45 ms per evaluation and structure on two cores.

With ``--whole`` crystals are drawn with the default sampler, from random positions to Wyckoff
positions, in batches of all these inputs together; the first batch, which loads what the device
needs, is left out. On a GPU it also says how often the host waits for it in a step of the sampler.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import time
import warnings

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from model.checkpoint import ScoreModel, load_checkpoint
from model.device import chosen_device
from model.exclusion import Exclusive
from model.multigraph import Batch, build_multigraph, make_batch
from model.sampler import NoiseStream, ancestral, initial_state, sample

SITES = (29, 19, 14, 8)
GROUPS = (62, 194, 225)


def now(device: str) -> float:
    """Return the time at which the device has done all that it was given."""
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def batch_of(inputs: list[tuple[int, int]], size: int, device: str) -> Batch:
    """Return structures of a space group and a number of sites each, one after the other."""
    chosen = list(itertools.islice(itertools.cycle(inputs), size))
    sites = [list(SITES[:n_sites]) for _, n_sites in chosen]
    batch = make_batch([group for group, _ in chosen], sites).to(device)
    return batch if device == "cpu" else batch.with_room()


def evaluations(model: ScoreModel, sizes: list[int], repeats: int, device: str) -> Table:
    """Time evaluations."""
    network = model.network
    estimate = Exclusive(network)
    columns = "group,sites,batch,ms per evaluation,spread,without exclusion,of it multigraph"
    table = Table(*columns.split(","), title=f"{model.fingerprint}, {device}")
    for group, n_sites, size in itertools.product(GROUPS, (2, 3, 4), sizes):
        batch = batch_of([(group, n_sites)], size, device)
        stream = NoiseStream(range(size), batch)
        state = initial_state(batch, model.length_prior, network.schedule, stream)
        whole, alone, graph = [], [], []
        for repeat in range(repeats + 1):
            level = torch.full((size,), repeat / repeats, device=device)
            start = now(device)
            lattice = batch.lattice(state.l3)
            merged = network.merge(batch, state.frac_coords, lattice, level)
            config = network.config
            build_multigraph(batch, merged, lattice, config.n_neighbours, config.cutoff)
            middle = now(device)
            network(batch, state.frac_coords, state.l3, level)
            end = now(device)
            estimate(batch, state.frac_coords, state.l3, level)
            if repeat:  # the first is a warm-up
                graph.append((middle - start) / size * 1e3)
                alone.append((end - middle) / size * 1e3)
                whole.append((now(device) - end) / size * 1e3)
        table.add_row(
            str(group),
            str(n_sites),
            str(size),
            f"{np.median(whole):.3f}",
            f"{min(whole):.3f} to {max(whole):.3f}",
            f"{np.median(alone):.3f}",
            f"{np.median(graph):.3f}",
        )
    return table


def whole_samples(model: ScoreModel, sizes: list[int], repeats: int, device: str) -> Table:
    """Time the drawing of crystals, from nothing to the host's memory."""
    inputs = list(itertools.product(GROUPS, (2, 3, 4)))
    title = f"{model.fingerprint}, {device}, {inputs[0]} to {inputs[-1]}"
    table = Table("batch", "samples a second", "spread", "s", "peak memory, MiB", title=title)
    sample(model, make_batch([62], [[29, 14]]).to(device), [0])
    for size in sizes:
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        batch = batch_of(inputs, size, device)
        seconds = []
        for repeat in range(repeats):
            start = now(device)
            sample(model, batch, range(repeat * size, (repeat + 1) * size))
            seconds.append(now(device) - start)
        rates = [size / passed for passed in seconds]
        table.add_row(
            str(size),
            f"{np.median(rates):.1f}",
            f"{min(rates):.1f} to {max(rates):.1f}",
            f"{np.median(seconds):.2f}",
            f"{peak_memory(device):.0f}",
        )
    return table


def waits(model: ScoreModel) -> list[str]:
    """Return where the host waits for the GPU in a step of the sampler."""
    batch = batch_of(list(itertools.product(GROUPS, (2, 3, 4))), 64, "cuda")
    stream = NoiseStream(range(64), batch)
    schedule = model.network.schedule
    state = initial_state(batch, model.length_prior, schedule, stream)
    estimate = Exclusive(model.network)
    found: list[str] = []
    for mode in ("default", "warn"):  # the first time loads what is kept
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode(mode)
            ancestral(estimate, batch, state, schedule, stream, n_steps=2)
            torch.cuda.set_sync_debug_mode("default")
        found = [f"{w.filename}:{w.lineno} {w.message}" for w in caught]
    return found


def peak_memory(device: str) -> float:
    """Return the most memory that there was in use, MiB."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--checkpoint", default="default")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--whole", action="store_true", help="draw whole samples")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = chosen_device(options.device)
    model = load_checkpoint(options.checkpoint, device)
    measure = whole_samples if options.whole else evaluations
    with torch.no_grad():
        Console(width=120).print(measure(model, options.batch, options.repeats, device))
        if device != "cpu":
            found = waits(model)
            print(f"the host waits {len(found)} times for the GPU in two evaluations", *found)
    where = f"{options.threads} threads" if device == "cpu" else torch.cuda.get_device_name()
    print(f"{where}, torch {torch.__version__}, peak memory {peak_memory(device):.0f} MiB")


if __name__ == "__main__":
    main()

"""What a network evaluation costs per structure, and how much of it is the multigraph.

    python benchmarks/sampling.py [--repeats 7] [--threads 2] [--batch 1 8 64]

Median over the repeats of the time of one evaluation at noise levels spread over the ladder,
divided by the structures in the batch, for inputs of 2, 3 and 4 sites in three space groups. The
published implementation needs 23 to 45 ms per evaluation and structure on two cores.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from model.checkpoint import load_checkpoint
from model.exclusion import Exclusive
from model.multigraph import build_multigraph, make_batch
from model.sampler import NoiseStream, initial_state

SITES = (29, 19, 14, 8)
GROUPS = (62, 194, 225)


def main() -> None:
    """Time evaluations and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--checkpoint", default="default")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_checkpoint(options.checkpoint)
    network = model.network
    estimate = Exclusive(network)
    columns = "group,sites,batch,ms per evaluation,spread,without exclusion,of it multigraph"
    table = Table(*columns.split(","), title=f"{model.fingerprint}, {options.threads} threads")
    for group in GROUPS:
        for n_sites in (2, 3, 4):
            for size in options.batch:
                batch = make_batch([group] * size, [list(SITES[:n_sites])] * size)
                stream = NoiseStream(range(size), batch)
                state = initial_state(batch, model.length_prior, network.schedule, stream)
                whole, alone, graph = [], [], []
                with torch.no_grad():
                    for repeat in range(options.repeats + 1):
                        level = torch.full((size,), repeat / options.repeats)
                        start = time.perf_counter()
                        lattice = batch.lattice(state.l3)
                        merged = network.merge(batch, state.frac_coords, lattice, level)
                        config = network.config
                        build_multigraph(batch, merged, lattice, config.n_neighbours, config.cutoff)
                        middle = time.perf_counter()
                        network(batch, state.frac_coords, state.l3, level)
                        end = time.perf_counter()
                        estimate(batch, state.frac_coords, state.l3, level)
                        if repeat:  # the first is a warm-up
                            graph.append((middle - start) / size * 1e3)
                            alone.append((end - middle) / size * 1e3)
                            whole.append((time.perf_counter() - end) / size * 1e3)
                table.add_row(
                    str(group),
                    str(n_sites),
                    str(size),
                    f"{np.median(whole):.2f}",
                    f"{min(whole):.2f} to {max(whole):.2f}",
                    f"{np.median(alone):.2f}",
                    f"{np.median(graph):.2f}",
                )
    Console().print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"torch {torch.__version__}, peak memory {peak:.0f} MiB")


if __name__ == "__main__":
    main()

"""How many workers of each kind a cluster has room for, and what each of them reserves."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# A sample takes 0.2 s of a core and its relaxation 0.12 s (decision 94), so that two samplers for each
# three cores keep them all in work. All workers reserve fractions: samplers share the cores with as
# many relaxers as there are cores; what they leave, these use, and when they are done they have it all.
CPUS_PER_SAMPLER = 1.5
CPUS_PER_SAMPLER_GIVING_UP = 1.0  # most relaxations end early (decision 99)
RELAXER_CPUS = 0.5
SAMPLER_CPUS = 0.4
# Half of a GPU that relaxers use is theirs. While some of them make graphs on their cores, others have
# their passes on the GPU; nothing of this was measured on one.
RELAXERS_PER_GPU = 4
RELAXERS_SHARE = 0.5


@dataclass(frozen=True)
class Crew:
    """The actors of a pool: how many there are, and what each of them reserves."""

    size: int
    num_cpus: float
    """Cores. A fraction lets pools share cores."""
    num_gpus: float = 0
    """GPUs, or the part of one."""


def relaxation_crew(device: str = "cpu") -> Callable[[int, int], Crew]:
    """Return a function from the cores and GPUs of a cluster to its relaxers.

    Args:
        device: ``cpu`` for one on each core, ``gpu`` for a few on each GPU where there are any.
    """

    def crew(cpus: int, gpus: int) -> Crew:
        if device == "gpu" and gpus:
            share = RELAXERS_SHARE / RELAXERS_PER_GPU
            return Crew(min(cpus, RELAXERS_PER_GPU * gpus), RELAXER_CPUS, share)
        return Crew(cpus, RELAXER_CPUS)

    return crew


def sampling_crew(
    num_samplers: int | None = None, relaxation_device: str = "cpu", gives_up: bool = False
) -> Callable[[int, int], Crew]:
    """Return a function from the cores and GPUs of a cluster to its samplers.

    Args:
        num_samplers: How many there shall be; if absent, one for each GPU, or where there is none
            one for so many cores that samplers and relaxers keep up with each other.
        relaxation_device: ``gpu`` if relaxers have their part of each GPU.
        gives_up: Whether relaxers give up what cannot come close to the hull.
    """
    cpus_per_sampler = CPUS_PER_SAMPLER_GIVING_UP if gives_up else CPUS_PER_SAMPLER

    def crew(cpus: int, gpus: int) -> Crew:
        size = num_samplers or gpus or max(1, int(cpus // cpus_per_sampler))
        whole = 1 - RELAXERS_SHARE if relaxation_device == "gpu" else 1
        share = whole / ceil(size / gpus) if gpus else 0
        return Crew(size, min(SAMPLER_CPUS, SAMPLER_CPUS * cpus / size), share)

    return crew

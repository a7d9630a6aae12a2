"""Which units a sampler draws together.

A network evaluation costs the same whether a few structures share it or enough to fill the device.
Every site has the same number of edges, so that a bound on sites is one on edges. On a core the time
for a sample of three or four sites is 38 ms with 27 sites in all, 24 with 108, 22 with 216 to 430
and 25 with 1,300 (four levels of the default sampler). An H100 draws 564 a second with
3,072 sites and 820 with 12,288, which take 1 GiB; where a GPU has less after all, the stage divides
what it was given.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from screening.grid import Unit

SITES_ON_CPU = 256
SITES_ON_GPU = 8192
_FIRST_SITES = 32


class Packer:
    """Takes units from a campaign's, in order, a pack at a time.

    The first packs are small, so that there is soon something to relax; each is up to twice as large
    as the one before.

    Args:
        units: what is to be sampled.
        n_samples: how many samples these units have.
    """

    def __init__(self, units: Iterator[Unit], n_samples: int) -> None:
        self._units = units
        self._n_samples = n_samples
        self._most_sites = _FIRST_SITES
        self._next: list[Unit] = []

    @property
    def is_empty(self) -> bool:
        """Whether all units have been taken."""
        self._next = self._next or list(islice(self._units, 1))
        return not self._next

    def take(self, n_sites: int, n_shares: int) -> tuple[Unit, ...]:
        """Return the next units: up to a number of sites, and to a share of what is left.

        Args:
            n_sites: so many sites fill the device; one unit may have more.
            n_shares: in how many parts what is left would have to be divided for all to be in
                work until the end.
        """
        pack: list[Unit] = []
        sites, samples = 0, 0
        most_sites = min(n_sites, self._most_sites)
        while not self.is_empty:
            (unit,) = self._next
            sites += unit.n_sites
            samples += unit.count
            if pack and (sites > most_sites or samples * n_shares > self._n_samples):
                break
            pack.append(unit)
            self._next = []
        self._most_sites *= 2
        self._n_samples -= sum(unit.count for unit in pack)
        return tuple(pack)

"""Which units are drawn together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from screening.grid import Cell, Unit, cell_units
from screening.packing import Packer


def some_units(counts: list[int]) -> list[Unit]:
    """Return units of two sites a sample, with so many samples."""
    found = []
    for number, count in enumerate(counts):
        cell = Cell("Cl-Cs", 16 + number, {"Cl": 1, "Cs": 1})
        found += cell_units(cell, count, count, 0)
    return found


@given(
    st.lists(st.integers(1, 40), max_size=30),
    st.integers(1, 500),
    st.integers(1, 8),
)
def test_every_unit_is_taken_once_in_order_and_bounds_are_kept(
    counts: list[int], n_sites: int, n_shares: int
) -> None:
    expected = some_units(counts)
    packer = Packer(iter(expected), sum(counts))
    taken: list[Unit] = []
    while not packer.is_empty:
        left = sum(unit.count for unit in expected[len(taken) :])
        pack = packer.take(n_sites, n_shares)
        assert pack
        if len(pack) > 1:
            assert sum(unit.n_sites for unit in pack) <= n_sites
            assert sum(unit.count for unit in pack) * n_shares <= left
        taken += pack
    assert taken == expected
    assert packer.take(n_sites, n_shares) == ()


def test_packs_grow_to_the_bound_and_shrink_at_the_end() -> None:
    packer = Packer(iter(some_units([8] * 64)), 8 * 64)
    sizes = []
    while not packer.is_empty:
        sizes.append(len(packer.take(128, 4)))
    assert sizes[:4] == [2, 4, 8, 8]
    assert max(sizes) == 8
    assert sizes[-1] == 1

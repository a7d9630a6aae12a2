"""The grid: what it holds, what it leaves out, and the seeds of its samples."""

from __future__ import annotations

import json
import re
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pymatgen.core import Element

from model.symmetry import HIGHEST_SPACE_GROUP, LOWEST_SPACE_GROUP, space_group
from screening import orbits
from screening.campaign import Campaign
from screening.chemistry import COMMON32
from screening.errors import UserError
from screening.grid import (
    Cell,
    Unit,
    cell_units,
    cells,
    check_grid,
    chemical_systems,
    grid_size,
    sample_seed,
    site_counts_choices,
    skip_reason,
    skipped,
    units,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

ELEMENTS = ("Al", "C", "Cu", "Fe", "K", "Si")


def campaign(**changes: Any) -> Campaign:
    settings: dict[str, Any] = {
        "name": "grid",
        "chemical_systems": ["Cu-K-Si"],
        "space_groups": [62, 225],
        "sites": {"per_element": [1, 2], "total_max": 4},
        "samples_per_cell": 70,
        **changes,
    }
    return Campaign.from_mapping(settings)


@st.composite
def campaigns(draw: st.DrawFn) -> Campaign:
    arity = draw(st.integers(1, 3))
    elements = draw(st.lists(st.sampled_from(ELEMENTS), min_size=arity, max_size=5, unique=True))
    counts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3, unique=True))
    return campaign(
        chemical_systems={"elements": elements, "arity": arity},
        space_groups=draw(st.lists(st.integers(16, 230), min_size=1, max_size=4, unique=True)),
        sites={
            "per_element": counts,
            "total_max": arity * min(counts) + draw(st.integers(0, 5)),
        },
        samples_per_cell=draw(st.integers(1, 40)),
        generator={"unit_size": draw(st.integers(1, 20))},
        filters={"max_atoms": draw(st.integers(1, 80))},
        seed=draw(st.integers(0, 2**63 - 1)),
    )


def test_cells_are_the_published_ones() -> None:
    # Sultanov et al. 2023, section 5.4: one or two sites for each of three elements, at most four
    # in all: 1-1-1, 1-1-2, 1-2-1 and 2-1-1.
    found = [cell.site_counts_label for cell in cells(campaign(space_groups=[62]))]
    assert found == ["Cu1-K1-Si1", "Cu1-K1-Si2", "Cu1-K2-Si1", "Cu2-K1-Si1"]


def test_units_cut_a_cell_into_pieces() -> None:
    cut = [u for u in units(campaign()) if u.unit_id.startswith("Cu-K-Si_062_Cu1-K1-Si1")]
    assert [(unit.first_index, unit.count) for unit in cut] == [(0, 32), (32, 32), (64, 6)]
    assert cut[0].unit_id == "Cu-K-Si_062_Cu1-K1-Si1_000"
    assert cut[2].sample_id(5) == "Cu-K-Si_062_Cu1-K1-Si1_002-005"
    with pytest.raises(IndexError, match="has 6 samples, got 6"):
        cut[2].sample_id(6)


def test_systems_are_all_combinations() -> None:
    systems = list(
        chemical_systems(
            campaign(chemical_systems={"elements": ["P", "Cu", "K", "Si"], "arity": 3})
        )
    )
    assert systems == ["Cu-K-P", "Cu-K-Si", "Cu-P-Si", "K-P-Si"]


def test_group_without_room_is_skipped_with_the_reason() -> None:
    # Ia-3d: orbits 16a, 16b, 24c and 24d of the conventional cell have no free coordinate, which
    # makes 8, 8, 12 and 12 atoms in the primitive cell (International Tables A).
    cell = Cell("Cu-K-Si", 230, {"Cu": 1, "K": 1, "Si": 1})
    assert skip_reason(cell, 28) is None
    assert skip_reason(cell, 27) == (
        "3 sites in group 230 (Ia-3d) make at least 28 atoms in the primitive cell, and "
        "filters.max_atoms allows 27"
    )


def test_site_count_that_no_group_admits_is_refused() -> None:
    greedy = campaign(sites={"per_element": [1, 40], "total_max": 200})
    with pytest.raises(UserError, match=r"sites\.per_element holds 40; none of the space groups"):
        check_grid(greedy)


def test_group_too_large_for_some_counts_is_no_mistake() -> None:
    check_grid(campaign(space_groups=[62, 230], filters={"max_atoms": 28}))


def test_counts_that_the_total_excludes_are_no_mistake() -> None:
    check_grid(campaign(sites={"per_element": [1, 2], "total_max": 3}))


@examples(deadline=None)
@given(campaigns())
def test_every_cell_is_there_once_or_skipped_once(grid: Campaign) -> None:
    kept = [(c.chemical_system, c.space_group, c.site_counts_label) for c in cells(grid)]
    left = [
        (s.cell.chemical_system, s.cell.space_group, s.cell.site_counts_label)
        for s in skipped(grid)
    ]
    assert len(set(kept + left)) == len(kept + left)
    size = grid_size(grid)
    assert (size.n_cells, size.n_skipped_cells) == (len(kept), len(left))
    assert sum(size.skipped_reasons.values()) == len(left)
    assert size.n_chemical_systems == len(list(chemical_systems(grid)))


@examples(deadline=None)
@given(campaigns())
def test_cells_keep_the_rules_of_the_campaign(grid: Campaign) -> None:
    for cell in cells(grid):
        counts = list(cell.site_counts.values())
        assert list(cell.site_counts) == sorted(cell.site_counts)
        assert "-".join(cell.site_counts) == cell.chemical_system
        assert set(counts) <= set(grid.sites.per_element)
        assert sum(counts) <= grid.sites.total_max
        assert cell.space_group in grid.space_groups


@examples(deadline=None)
@given(campaigns())
def test_units_hold_every_sample_once_under_a_safe_name(grid: Campaign) -> None:
    cut = list(units(grid))
    size = grid_size(grid)
    assert (len(cut), sum(unit.count for unit in cut)) == (size.n_units, size.n_samples)
    ids = [sample_id for unit in cut for sample_id in unit.sample_ids]
    assert len(set(ids)) == len(ids) == size.n_samples
    names = [unit.unit_id for unit in cut]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,200}", name) for name in names)
    assert len({name.lower() for name in names}) == len(names)


@examples(deadline=None)
@given(st.integers(0, 2**63 - 1), st.text(max_size=40))
def test_seed_is_a_number_that_parquet_and_numpy_take(campaign_seed: int, sample_id: str) -> None:
    seed = sample_seed(campaign_seed, sample_id)
    assert 0 <= seed < 2**63
    assert seed == sample_seed(campaign_seed, sample_id)


def test_seed_is_the_published_function() -> None:
    # First 8 bytes of SHA-256 of "0/a", big-endian, without the last bit; from `sha256sum`.
    assert sample_seed(0, "a") == int("d3216b8dc7c46489", 16) >> 1


def test_seeds_differ_between_samples_and_campaigns() -> None:
    seeds = [
        unit.seed(position)
        for seed in (0, 1)
        for unit in units(campaign(seed=seed))
        for position in range(unit.count)
    ]
    assert len(set(seeds)) == len(seeds)


def test_samples_of_a_cell_do_not_depend_on_the_rest_of_the_campaign() -> None:
    alone = next(iter(units(campaign(space_groups=[225]))))
    among = next(u for u in units(campaign(space_groups=[62, 194, 225])) if u.cell == alone.cell)
    assert alone == among
    assert [alone.seed(i) for i in range(3)] == [among.seed(i) for i in range(3)]


def test_large_campaign_is_counted_without_being_walked() -> None:
    elements = [Element.from_Z(number).symbol for number in range(1, 95)]
    grid = campaign(
        chemical_systems={"elements": elements, "arity": 3},
        space_groups=list(range(LOWEST_SPACE_GROUP, HIGHEST_SPACE_GROUP + 1)),
    )
    check_grid(grid)
    size = grid_size(grid)
    n_systems = len(list(combinations(elements, 3)))
    assert size.n_chemical_systems == n_systems
    assert size.n_cells + size.n_skipped_cells == n_systems * 215 * 4
    assert isinstance(next(units(grid)), Unit)


def test_many_site_counts_are_counted_without_being_walked() -> None:
    elements = [Element.from_Z(number).symbol for number in range(1, 21)]
    grid = campaign(
        chemical_systems={"elements": elements, "arity": 10},
        sites={"per_element": list(range(1, 11)), "total_max": 100},
        filters={"max_atoms": 10_000},
    )
    check_grid(grid)
    # Ten elements with ten choices each, in any of the C(20, 10) systems and both groups.
    assert grid_size(grid).n_cells == 10**10 * 184_756 * 2
    assert next(cells(grid)).site_counts_label == "-".join(f"{e}1" for e in sorted(elements)[:10])


@examples(deadline=None)
@given(st.sets(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 4), st.integers(1, 20))
def test_choices_are_all_tuples_within_the_total(
    per_element: set[int], arity: int, total_max: int
) -> None:
    counts = sorted(per_element)
    expected = [c for c in product(counts, repeat=arity) if sum(c) <= total_max]
    assert list(site_counts_choices(counts, arity, total_max)) == expected


@pytest.mark.parametrize("number", [16, 19, 62, 139, 166, 194, 205, 216, 225, 229, 230])
def test_table_of_orbits_is_what_the_operations_give(number: int) -> None:
    assert orbits.smallest_orbits(number) == orbits.computed_orbits(number)


def test_table_of_orbits_has_every_group() -> None:
    table = json.loads((Path(orbits.__file__).parent / "data/smallest_orbits.json").read_text())
    assert [int(number) for number in table] == list(range(16, 231))


@pytest.mark.parametrize(
    ("number", "n_sites", "expected"),
    [
        # Worked by hand from the Wyckoff positions of International Tables A, primitive cell.
        (62, 3, 12),  # 4a, 4b, and 4c as often as one likes
        (225, 2, 2),  # 4a, 4b / 4
        (225, 4, 10),  # 4a, 4b, 8c, then 24d, 24e or more: 1 + 1 + 2 + 6
        (221, 5, 14),  # 1a, 1b, 3c, 3d, then 6e
        (44, 30, 30),  # 2a of Imm2 is a line: 1 atom each
    ],
)
def test_fewest_atoms(number: int, n_sites: int, expected: int) -> None:
    assert orbits.smallest_orbits(number).fewest_atoms(n_sites) == expected


@examples(deadline=None)
@given(st.sampled_from(COMMON32[:3]), st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_admission_is_the_model_s(number: int, counts: Sequence[int]) -> None:
    names = dict(zip(ELEMENTS, counts, strict=False))
    cell = Cell("-".join(names), number, names)
    for max_atoms in (1, 6, 12, 24, 60):
        admitted = space_group(number).admits(names, max_atoms)
        assert (skip_reason(cell, max_atoms) is None) == admitted


@examples(deadline=None)
@given(st.integers(1, 500), st.integers(1, 500))
def test_pieces_of_a_cell_join_up(n_samples: int, unit_size: int) -> None:
    cut = list(cell_units(Cell("C", 225, {"C": 1}), n_samples, unit_size, 0))
    assert [unit.first_index for unit in cut] == list(range(0, n_samples, unit_size))
    assert sum(unit.count for unit in cut) == n_samples

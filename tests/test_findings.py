"""What the report counts: every sample once, and the numbers add up."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_results import (
    CANDIDATES,
    CESIUM_CHLORIDE,
    ROCK_SALT,
    SAMPLES,
    candidate,
    ranked,
    sample,
)

from screening.findings import (
    MOST_INTERVALS,
    Stage,
    failures,
    findings,
    funnel,
    heat_map,
    throughput,
)


def test_candidates_are_ranked_once_per_group_of_duplicates() -> None:
    assert [name[-3:] for name in ranked(CANDIDATES)["sample_id"].to_pylist()] == ["001", "000"]


def test_every_stage_is_counted_with_every_reason() -> None:
    assert funnel(SAMPLES, CANDIDATES) == [
        Stage(
            "samples drawn",
            7,
            (
                ("filtered: min_distance … Å < … Å", 2),
                ("failed: the score of sample … is not finite", 1),
            ),
        ),
        Stage("passed on to relaxation", 4, (("the cell grew to … times its volume", 1),)),
        Stage("relaxed", 3),
        Stage("converged", 3, (("the same crystal as another candidate", 1),)),
        Stage("distinct", 2),
        Stage("placed against the hull", 2, (("equal to a reference phase", 1),)),
        Stage("novel", 1),
        Stage("novel, at most 0.1 eV/atom above the hull", 1, (("above the hull", 1),)),
        Stage("novel, on the hull or below it", 0),
    ]


ROWS = st.lists(
    st.builds(
        lambda kept, energy, height, **columns: {
            "sample_id": "x",
            "status": "kept" if kept else "failed",
            "reason": None,
            "error": None if kept else "it blew up",
            "energy_per_atom": energy if kept else None,
            "e_above_hull": height if kept and energy is not None else None,
            **columns,
        },
        kept=st.booleans(),
        energy=st.none() | st.just(-1.0),
        height=st.none() | st.floats(-1, 1),
        converged=st.none() | st.booleans(),
        is_representative=st.none() | st.booleans(),
        rescored_duplicate_of=st.none() | st.just("a"),
        is_novel=st.none() | st.booleans(),
        matched_reference_id=st.none() | st.just("NaCl B1"),
    )
)


@settings(deadline=None)
@given(ROWS, st.integers(0, 3))
def test_stages_and_losses_add_up(rows: list[dict], unranked: int) -> None:
    samples = [sample(0)] * (len(rows) + unranked) + SAMPLES[4:]
    stages = funnel(samples, rows)
    for stage, following in pairwise(stages):
        assert stage.count - sum(count for _, count in stage.losses) == following.count
    placed = ranked(rows)["energy_per_atom"]
    assert {stage.name: stage.count for stage in stages}["placed against the hull"] == (
        len(placed) - placed.null_count
    )


def test_headline_figures() -> None:
    found = findings(
        ranked([*CANDIDATES, candidate(5, ROCK_SALT, 0.3), candidate(6, ROCK_SALT, -0.01)])
    )
    assert (found.distinct, found.novel, found.near, found.stable) == (4, 3, 2, 1)
    assert found.best_novel is not None
    assert found.best_novel["sample_id"].endswith("006")
    assert findings(ranked([])).best_novel is None


def test_what_a_second_potential_left_is_counted_and_first() -> None:
    rows = [
        candidate(0, ROCK_SALT, -0.2, rescored_e_above_hull=0.15),
        candidate(1, ROCK_SALT, -0.1, rescored_e_above_hull=-0.02),
        candidate(2, ROCK_SALT, 0.0, rescored_e_above_hull=0.05),
        candidate(3, ROCK_SALT, 0.1, rescored_e_above_hull=-0.5, is_novel=False),
        candidate(4, ROCK_SALT, -0.3),
    ]
    order = ranked(rows)["sample_id"].to_pylist()
    assert [name[-1] for name in order] == ["3", "1", "2", "0", "4"]
    found = findings(ranked(rows))
    assert (found.rescored, found.rescored_near, found.rescored_stable) == (3, 2, 1)
    assert (found.near, found.stable) == (4, 4)
    # The map is of the first potential, by which all candidates have a place.
    ((_, (best,)),) = heat_map(ranked(rows)).rows
    assert best["e_above_hull"] == -0.3


def test_errors_that_differ_in_numbers_are_counted_together() -> None:
    rows = [sample(i, "failed", error=f"the score of sample {i} is not finite") for i in (8, 9)]
    assert failures([*rows, *SAMPLES, *CANDIDATES]) == [
        ("the score of sample 8 is not finite", 3, rows[0]["sample_id"]),
        ("the cell grew to 4.1 times its volume", 1, CANDIDATES[3]["sample_id"]),
    ]


def test_heat_map_holds_the_best_of_each_cell() -> None:
    worse = candidate(9, ROCK_SALT, 0.2)
    found = heat_map(ranked([*CANDIDATES, worse]))
    assert found.columns == ("Cl1-Cs1",)
    assert [
        (group, [row and row["e_above_hull"] for row in cells]) for group, cells in found.rows
    ] == [("221 Pm-3m", [0.0]), ("225 Fm-3m", [0.0312])]


def test_heat_map_of_several_systems_joins_equal_numbers_of_sites() -> None:
    others = [
        candidate(7, ROCK_SALT, 0.5, chemical_system="Br-Cs", site_counts="Br1-Cs2"),
        candidate(8, CESIUM_CHLORIDE, 0.4, site_counts="Cl2-Cs1", space_group_requested=225),
    ]
    found = heat_map(ranked([*CANDIDATES, *others]))
    assert found.columns == ("1-1", "2-1")
    assert [row and row["e_above_hull"] for row in found.rows[1][1]] == [0.0312, 0.4]


def mark(finished_at: float, samples: int = 10) -> dict:
    return {"finished_at": finished_at, "samples": samples, "relaxed": samples - 1}


def test_throughput_by_hand() -> None:
    # Two hours in two intervals: one unit in the first, one on its end, which opens the second.
    found = throughput([mark(7200.0 + 100), mark(3600.0 + 100)], began_at=100.0)
    assert [(i.begin_h, i.end_h, i.samples, i.relaxed) for i in found] == [
        (0.0, 1.0, 0, 0),
        (1.0, 2.0, 20, 18),
    ]
    assert found[1].samples_per_hour == pytest.approx(20)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=100, unique=True))
def test_throughput_loses_nothing(moments: list[float]) -> None:
    found = throughput([mark(moment) for moment in moments])
    assert len(found) == min(MOST_INTERVALS, len(moments))
    assert sum(interval.samples for interval in found) == 10 * len(moments)


def test_throughput_needs_two_moments() -> None:
    assert throughput([]) == []
    assert throughput([mark(5.0)]) == []
    assert len(throughput([mark(5.0)], began_at=0.0)) == 1

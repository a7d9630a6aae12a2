"""Places on the hull, against diagrams worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from screening.hull import place_on_hull

# A-B: A at -1, B at -3 eV/atom, AB at -2.5: formation energy -2.5 - (-1 - 3) / 2 = -0.5 eV/atom.
BINARY = [
    ("Cu", -1.0),
    ("Cu", -0.9),  # another form of the element, above the ground state
    ("Au", -3.0),
    ("CuAu", -2.5),
]
# The ternary has one more element at -2, and no phases but AB.
TERNARY = [*BINARY, ("Ag", -2.0)]


def references(*phases: tuple[str, float]) -> list[dict[str, Any]]:
    return [
        {"reference_id": f"r{i}", "formula": formula, "energy_per_atom": energy, "source": "hand"}
        for i, (formula, energy) in enumerate(phases)
    ]


def candidate(formula: str, energy: float | None, system: str, **columns: Any) -> dict[str, Any]:
    row = {
        "sample_id": formula,
        "chemical_system": system,
        "status": "kept",
        "chemical_formula_reduced": formula,
        "energy_per_atom": energy,
    }
    return {**row, **columns}


def place(formula: str, energy: float, system: str, phases: list[tuple[str, float]]) -> dict:
    return place_on_hull([candidate(formula, energy, system)], references(*phases))[0]


def test_a_binary_compound_above_the_hull() -> None:
    # Cu3Au: a quarter of gold. The line from Cu (0) to CuAu (-0.5 at x = 1/2) is at -0.25 there.
    # Formation energy: -1.6 - (3 * -1 + -3) / 4 = -0.1, so it is 0.15 above.
    row = place("AuCu3", -1.6, "Au-Cu", BINARY)
    assert row["formation_energy_per_atom"] == pytest.approx(-0.1)
    assert row["e_above_hull"] == pytest.approx(0.15)
    assert row["e_above_hull_self"] == pytest.approx(0.15)
    assert row["hull_source"] == "hand"


def test_below_the_hull_is_negative_and_on_its_own_hull_zero() -> None:
    row = place("AuCu3", -1.9, "Au-Cu", BINARY)
    assert row["formation_energy_per_atom"] == pytest.approx(-0.4)
    assert row["e_above_hull"] == pytest.approx(-0.15)
    assert row["e_above_hull_self"] == 0


def test_a_polymorph_of_a_known_phase() -> None:
    row = place("AuCu", -2.2, "Au-Cu", BINARY)
    assert row["formation_energy_per_atom"] == pytest.approx(-0.2)
    assert row["e_above_hull"] == pytest.approx(0.3)


def test_a_ternary_decomposes_into_the_phases_around_it() -> None:
    # AgAuCu: 2/3 CuAu + 1/3 Ag is at 2/3 * -0.5 = -1/3 eV/atom of formation.
    # Its own: -2.1 - (-1 - 3 - 2) / 3 = -0.1.
    row = place("AgAuCu", -2.1, "Ag-Au-Cu", TERNARY)
    assert row["formation_energy_per_atom"] == pytest.approx(-0.1)
    assert row["e_above_hull"] == pytest.approx(1 / 3 - 0.1)


def test_the_hull_of_the_campaign_holds_its_own_candidates() -> None:
    # Cu3Au at -0.4 takes part: CuAu3 (x = 3/4) is still on the line CuAu - Au, at -0.25.
    # Cu7Au (x = 1/8) is on Cu - Cu3Au: half of -0.4; without the campaign, at -0.125.
    rows = [
        candidate("AuCu3", -1.9, "Au-Cu"),
        candidate("AuCu7", -1.25, "Au-Cu"),
        candidate("Au3Cu", -2.6, "Au-Cu"),
    ]
    placed = place_on_hull(rows, references(*BINARY))
    assert [row["sample_id"] for row in placed] == ["AuCu3", "AuCu7", "Au3Cu"]
    assert [row["e_above_hull"] for row in placed] == pytest.approx([-0.15, 0.125, 0.15])
    assert [row["e_above_hull_self"] for row in placed] == pytest.approx([0, 0.2, 0.15])


def test_systems_do_not_see_each_others_candidates() -> None:
    rows = [candidate("AuCu3", -1.9, "Au-Cu"), candidate("AuCu7", -1.25, "Ag-Au-Cu")]
    placed = place_on_hull(rows, references(*TERNARY))
    assert placed[1]["e_above_hull_self"] == pytest.approx(0.125)


def test_phases_of_other_elements_and_without_energy_do_not_matter() -> None:
    phases = references(*BINARY, ("AuCuPd", -9.0), ("Pd", -9.0))
    phases.append({"formula": "AuCu3", "energy_per_atom": None, "source": "hand"})
    row = place_on_hull([candidate("AuCu3", -1.6, "Au-Cu")], phases)[0]
    assert row["e_above_hull"] == pytest.approx(0.15)


def test_without_an_element_there_is_no_hull() -> None:
    row = place_on_hull([candidate("AuCu3", -1.6, "Au-Cu")], references(("Cu", -1.0)))[0]
    assert row["e_above_hull"] is None
    assert row["formation_energy_per_atom"] is None
    assert row["hull_source"] is None


def test_failed_rows_stay_and_have_no_place() -> None:
    rows = [
        candidate("AuCu3", None, "Au-Cu", status="failed", error="exploded"),
        candidate("AuCu3", -1.6, "Au-Cu"),
    ]
    placed = place_on_hull(rows, references(*BINARY))
    assert [row["e_above_hull"] for row in placed] == [None, pytest.approx(0.15)]
    assert placed[0]["error"] == "exploded"
    assert "e_above_hull" not in rows[1]


def test_sources_are_named() -> None:
    phases = references(*BINARY)
    phases[0]["source"] = "mine"
    placed = place_on_hull([candidate("AuCu3", -1.6, "Au-Cu")], phases)
    assert placed[0]["hull_source"] == "hand, mine"
    placed = place_on_hull([candidate("AuCu3", -1.6, "Au-Cu")], phases, "prototypes")
    assert placed[0]["hull_source"] == "prototypes"


def test_nothing_in_nothing_out() -> None:
    assert place_on_hull([], references(*BINARY)) == []


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 4), st.floats(-4, 1)), min_size=1, max_size=8
    )
)
def test_whatever_the_energies_the_own_hull_is_the_lower_one(
    phases: list[tuple[int, int, float]],
) -> None:
    rows = [candidate(f"Au{a}Cu{b}", energy, "Au-Cu") for a, b, energy in phases]
    placed = place_on_hull(rows, references(*BINARY))
    assert min(row["e_above_hull_self"] for row in placed) >= 0
    for row in placed:
        assert row["e_above_hull_self"] >= row["e_above_hull"] - 1e-9
    lowest = min(placed, key=lambda row: row["e_above_hull"])
    if lowest["e_above_hull"] < -1e-6:
        assert any(row["e_above_hull_self"] == pytest.approx(0, abs=1e-9) for row in placed)

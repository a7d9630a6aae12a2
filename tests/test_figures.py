"""The report's plots: every phase is drawn once, where it belongs, and says what it is."""

from __future__ import annotations

import re
from html import unescape
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screening.figures import Phase, hull_svg, throughput_svg
from screening.findings import Interval
from screening.svg import Axes, label, tag, ticks

PHASES = [
    Phase("Cu", -4.0),
    Phase("K", -1.0),
    Phase("Si", -5.0, space_group=227, name="Si A4"),
    Phase("Cu3Si", -4.6),
    Phase("CuSi", -4.3),
]


def labels(svg: str) -> list[str]:
    return sorted(re.findall(r'class="label"[^>]*>([^<]*)</text>', svg))


def circles(svg: str, kind: str) -> list[dict[str, str]]:
    root = ET.fromstring(svg)  # noqa: S314 - our own markup
    return [dict(c.attrib) for c in root.iter("circle") if c.attrib["class"].split()[0] == kind]


def test_ternary_hull_names_stable_phases_and_draws_every_composition() -> None:
    svg = hull_svg("Cu-K-Si", [Phase("CuKSi", -3.2, 0.13)], PHASES)
    assert svg.startswith('<svg role="img" aria-label="Convex hull of Cu-K-Si"')
    assert labels(svg) == ["Cu", "Cu₃Si", "K", "Si"]
    assert len(circles(svg, "known")) == 5
    hollow = [c["data-tip"] for c in circles(svg, "known") if "hollow" in c["class"]]
    # On the line from Cu3Si (x = 1/4, -4.6) to Si (x = 1, -5), at x = 1/2: -4.6 - 0.4 / 3.
    assert hollow == ["CuSi\nreference phase, +0.433 eV/atom above the hull"]
    assert "Si  227 Fd-3m\nreference phase, on the hull\nSi A4" in unescape(svg)


def test_ternary_candidate_lies_at_its_composition() -> None:
    svg = hull_svg("Cu-K-Si", [Phase("CuKSi", -3.2, 0.13)], PHASES)
    by_name = {c["data-tip"].split()[0]: c for c in circles(svg, "known")}
    corners = [by_name[element] for element in ("Cu", "K", "Si")]
    (found,) = circles(svg, "found")
    for axis in ("cx", "cy"):
        mean = sum(float(corner[axis]) for corner in corners) / 3
        assert float(found[axis]) == pytest.approx(mean, abs=0.1)


def test_best_candidate_of_a_composition_stands_for_the_others() -> None:
    candidates = [
        Phase("CuKSi", -3.2, 0.13, 216, "second"),
        Phase("CuKSi", -3.4, -0.02, 62, "first"),
        Phase("Cu2K2Si2", -3.1, 0.3, 62, "third"),
    ]
    (found,) = circles(hull_svg("Cu-K-Si", candidates, PHASES), "found")
    assert found["class"] == "found below"
    assert found["data-tip"] == (
        "CuKSi  62 Pnma\n−0.020 eV/atom above the hull\nfirst\nbest of 3 of this composition"  # noqa: RUF001
    )


def test_binary_hull_shows_formation_energies() -> None:
    candidates = [Phase("CuSi3", -4.75, 0.1), Phase("CuSi", -4.6, 0.2), Phase("CuSi", -1.0, 3.8)]
    svg = hull_svg("Cu-Si", candidates, PHASES)
    assert "formation energy (eV/atom)" in svg
    assert labels(svg) == ["Cu", "Cu₃Si", "Si"]
    first, second = sorted(circles(svg, "found"), key=lambda c: float(c["cx"]))
    elements = sorted(
        (c for c in circles(svg, "known") if c["data-tip"].split()[0] in {"Cu", "Si"}),
        key=lambda c: float(c["cx"]),
    )
    left, right = (float(c["cx"]) for c in elements)
    assert float(first["cx"]) == pytest.approx((left + right) / 2, abs=0.1)
    # Formation energies by hand: CuSi -4.6 + 4.5 = -0.1, CuSi3 -4.75 + 4.75 = 0, as the elements.
    assert float(second["cy"]) == pytest.approx(float(elements[0]["cy"]), abs=0.1)
    assert float(first["cy"]) > float(second["cy"])


def test_names_are_escaped() -> None:
    hostile = Phase("CuKSi", -3.2, 0.13, name='"><script>alert(1)</script>')
    svg = hull_svg("Cu-K-Si", [hostile], PHASES)
    assert "<script" not in svg
    assert circles(svg, "found")[0]["data-tip"].endswith(hostile.name)
    assert label("<&>", (0.0, 0.0)).endswith(">&lt;&amp;&gt;</text>")
    assert tag("g", data_tip='"') == '<g data-tip="&quot;"></g>'


@pytest.mark.parametrize("system", ["Cu", "Cu-K-P-Si", "Ag-Cu"])
def test_hull_that_cannot_be_drawn_is_left_out(system: str) -> None:
    assert hull_svg(system, [], PHASES) == ""


def test_throughput_bars_are_as_high_as_their_rates() -> None:
    svg = throughput_svg([Interval(0, 3, 30, 20), Interval(3, 6, 0, 0), Interval(6, 9, 60, 50)])
    root = ET.fromstring(svg)  # noqa: S314 - our own markup
    low, high = (float(bar.attrib["height"]) for bar in root.iter("rect"))
    assert high == pytest.approx(2 * low, abs=0.2)
    assert "6 to 9 h&#10;60 samples, 50 relaxed&#10;20 samples per hour" in svg
    assert throughput_svg([]) == ""


def test_places_of_an_axis() -> None:
    axes = Axes((0.0, 2.0), (-1.0, 1.0), (174.0, 156.0), ("x", "y"))
    assert axes.place(0, -1) == (58.0, 112.0)
    assert axes.place(1, 0) == (108.0, 62.0)
    assert axes.place(2, 1) == (158.0, 12.0)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-0.31, 0.2, [-0.3, -0.2, -0.1, 0, 0.1, 0.2]),
        (0, 3150, [0, 1000, 2000, 3000]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_inside(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert 2 <= len(found) <= 7
    assert all(low - 1e-6 * span <= tick <= low + (1 + 1e-6) * span for tick in found)
    steps = [b - a for a, b in pairwise(found)]
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-3)

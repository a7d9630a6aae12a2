"""The report in a real browser: it opens quietly, and everything that can be touched answers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import headless
import pytest
from report_results import CESIUM_CHLORIDE, ROCK_SALT, candidate, results
from test_findings import mark

from screening.report import render_report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from selenium.webdriver import Chrome

pytestmark = pytest.mark.skipif(headless.why_not() is not None, reason=str(headless.why_not()))

N_ROWS = 10_000
HOSTILE = (
    "</script><img src=x onerror=document.title='broken'><script>document.title='broken'</script>"
)
SALTS = [candidate(0, ROCK_SALT, 0.0), candidate(1, CESIUM_CHLORIDE, 0.0)]
ROWS = [
    {
        **SALTS[min(index % 3, 1)],
        "seed": index,
        "sample_id": HOSTILE if index == 3 else f"sample-{index:05d}",
        "e_above_hull": (index - 1) / 1e4,
        "e_above_hull_self": None if index == 1 else (index - 1) / 1e4,
        "formation_energy_per_atom": -((index * 37) % N_ROWS) / 1e4,
        "is_novel": index % 2 == 0,
        "matched_reference_id": None if index % 2 == 0 else f"known-{index}",
        "cif": f"data_{index}\n",
    }
    for index in range(N_ROWS)
]


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    with headless.browser() as driver:
        yield driver


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    marks = [mark(1000.0 * index) for index in range(1, 9)]
    path.write_text(render_report(results(candidates=ROWS, marks=marks)), encoding="utf-8")
    return path


@pytest.fixture
def opened(chrome: Chrome, page: Path) -> Chrome:
    headless.resize(chrome, headless.LAPTOP)
    headless.prefer(chrome, "light")
    headless.open_page(chrome, page)
    return chrome


def until(condition: Callable[[], Any]) -> None:
    """Wait for the page to draw; a condition that never holds fails the test."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the page did not answer"
        time.sleep(0.02)


def cells(chrome: Chrome, key: str) -> list[str]:
    """The texts of a column, as far as its rows are shown."""
    script = """
        const title = document.querySelector(`#candidates th[data-key=${arguments[0]}]`);
        return [...document.querySelectorAll("#candidates tbody tr")]
            .map(row => row.cells[title.cellIndex].textContent);"""
    return list(chrome.execute_script(script, key))


def fill(chrome: Chrome, name: str, value: str) -> None:
    script = """
        const field = document.getElementById("filters")[arguments[0]];
        field.value = arguments[1];
        field.dispatchEvent(new Event("input", { bubbles: true }));"""
    chrome.execute_script(script, name, value)


def count(chrome: Chrome) -> str:
    return chrome.find_element("css selector", "#pager span").text


def click(chrome: Chrome, selector: str) -> None:
    chrome.find_element("css selector", selector).click()


@pytest.mark.parametrize("size", [headless.LAPTOP, headless.PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_opens_quietly_and_fits(
    chrome: Chrome, page: Path, size: tuple[int, int], scheme: str
) -> None:
    headless.resize(chrome, size, touch=size == headless.PHONE)
    headless.prefer(chrome, scheme)
    headless.open_page(chrome, page)
    until(lambda: len(cells(chrome, "rank")) > 0)
    assert headless.complaints(chrome) == []
    assert chrome.execute_script("return document.documentElement.scrollWidth") <= size[0]
    background = chrome.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 31)"}[scheme]


def test_page_loads_nothing_else(opened: Chrome) -> None:
    assert opened.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_only_a_page_of_ten_thousand_rows_is_drawn(opened: Chrome) -> None:
    assert count(opened) == "1 to 25 of 10000 candidates"
    assert cells(opened, "rank") == [str(rank) for rank in range(1, 26)]
    assert cells(opened, "hull")[:3] == ["−0.000", "+0.000", "+0.000"]  # noqa: RUF001
    click(opened, "#pager button:last-child")
    assert count(opened) == "26 to 50 of 10000 candidates"
    assert cells(opened, "sample")[0] == "sample-00025"
    click(opened, "#pager button:first-child")
    assert cells(opened, "rank")[0] == "1"


def test_titles_sort_both_ways(opened: Chrome) -> None:
    by_energy = sorted(
        ROWS, key=lambda row: (row["formation_energy_per_atom"], row["e_above_hull"])
    )
    click(opened, "th[data-key=formation] button")
    assert cells(opened, "sample") == [row["sample_id"] for row in by_energy[:25]]
    click(opened, "th[data-key=formation] button")
    assert cells(opened, "sample") == [row["sample_id"] for row in by_energy[:-26:-1]]
    title = opened.find_element("css selector", "th[data-key=formation]")
    assert title.get_attribute("aria-sort") == "descending"


def test_text_is_sorted_with_its_numbers_and_empty_cells_are_last(opened: Chrome) -> None:
    click(opened, "th[data-key=known] button")
    assert cells(opened, "known")[:3] == ["known: known-1", "known: known-3", "known: known-5"]
    for _ in range(2):
        click(opened, "th[data-key=self] button")
        assert "" not in cells(opened, "self")


@pytest.mark.parametrize(
    ("fields", "holds"),
    [
        ({"text": "KNOWN-77"}, lambda row: "known-77" in (row["matched_reference_id"] or "")),
        ({"text": "pm-3m sample-0000"}, lambda row: row["seed"] % 3 and row["seed"] < 10),
        ({"group": "225"}, lambda row: row["seed"] % 3 == 0),
        ({"highest": "0.1"}, lambda row: row["e_above_hull"] <= 0.1),
        ({"highest": "0.1", "group": "221"}, lambda row: row["seed"] % 3 and row["seed"] <= 1001),
        ({"text": "no such thing"}, lambda _: False),
    ],
)
def test_filters(opened: Chrome, fields: dict[str, str], holds: Callable[[dict], bool]) -> None:
    for name, value in fields.items():
        fill(opened, name, value)
    expected = [row["sample_id"] for row in ROWS if holds(row)]
    assert cells(opened, "sample") == expected[:25]
    assert f"{len(expected)} candidates (10000 without filters)" in count(opened)
    click(opened, "#filters button[type=reset]")
    until(lambda: count(opened) == "1 to 25 of 10000 candidates")


def test_boxes_for_elements_and_for_novel_ones(opened: Chrome) -> None:
    click(opened, "#filters [name=novel]")
    assert "5000 candidates" in count(opened)
    assert set(cells(opened, "known")) == {"novel"}
    click(opened, "#filters [name=element][value=Cs]")
    assert "5000 candidates" in count(opened)


def test_hostile_names_stay_text(opened: Chrome) -> None:
    assert HOSTILE in cells(opened, "sample")
    assert opened.title == "cs-cl: screening report"
    assert opened.find_elements("css selector", "img") == []


def test_marks_say_what_they_are(opened: Chrome) -> None:
    from selenium.webdriver import ActionChains  # noqa: PLC0415 - only where there is a browser

    tip = opened.find_element("id", "tip")
    assert not tip.is_displayed()
    opened.execute_script("document.querySelector('svg .known').scrollIntoView({block: 'center'})")
    known = opened.find_elements("css selector", "svg .known")
    ActionChains(opened).move_to_element(known[0]).perform()
    until(tip.is_displayed)
    assert tip.text.split("\n")[:2] == ["Cs", "reference phase, on the hull"]
    bar = opened.find_element("css selector", "svg .bar")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", bar)
    ActionChains(opened).move_to_element(bar).perform()
    until(lambda: "samples per hour" in tip.text)
    ActionChains(opened).move_to_element(opened.find_element("css selector", "h2")).perform()
    until(lambda: not tip.is_displayed())


def picture(chrome: Chrome) -> str:
    return str(chrome.execute_script("return document.getElementById('crystal').toDataURL()"))


def drawn(chrome: Chrome) -> str:
    """The canvas, once something is on it."""
    blank = chrome.execute_script(
        "const c = document.getElementById('crystal'), e = document.createElement('canvas');"
        "e.width = c.width; e.height = c.height; return e.toDataURL()"
    )
    until(lambda: picture(chrome) != blank)
    return picture(chrome)


def test_crystal_turns_under_the_mouse_and_comes_back(opened: Chrome) -> None:
    from selenium.webdriver import ActionChains  # noqa: PLC0415

    canvas = opened.find_element("id", "crystal")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    first = drawn(opened)
    ActionChains(opened).drag_and_drop_by_offset(canvas, 60, 35).perform()
    until(lambda: picture(opened) != first)
    click(opened, "#reset")
    until(lambda: picture(opened) == first)
    click(opened, "#closer")
    until(lambda: picture(opened) != first)
    click(opened, "#reset")
    canvas.send_keys("\ue012")  # the arrow to the left
    until(lambda: picture(opened) != first)


def test_crystal_turns_under_a_finger_and_grows_under_two(chrome: Chrome, page: Path) -> None:
    headless.resize(chrome, headless.PHONE, touch=True)
    headless.open_page(chrome, page)
    script = """
        const canvas = document.getElementById("crystal");
        canvas.scrollIntoView({ block: "center" });
        const box = canvas.getBoundingClientRect();
        return [box.left + box.width / 2, box.top + box.height / 2];"""
    x, y = chrome.execute_script(script)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        places = [{"x": x + dx, "y": y + dy, "id": i} for i, (dx, dy) in enumerate(points)]
        event = {"type": kind, "touchPoints": places}
        chrome.execute_cdp_cmd("Input.dispatchTouchEvent", event)

    first = drawn(chrome)
    touch("touchStart", (0, 0))
    touch("touchMove", (40, 10))
    touch("touchEnd")
    until(lambda: picture(chrome) != first)
    assert chrome.execute_script("return report.view().zoom") == 1
    touch("touchStart", (-30, 0), (30, 0))
    touch("touchMove", (-60, 0), (30, 0))
    touch("touchEnd")
    until(lambda: chrome.execute_script("return report.view().zoom") == pytest.approx(1.5))


def test_formula_in_the_table_shows_its_crystal(opened: Chrome) -> None:
    about = opened.find_element("id", "about")
    first = drawn(opened)
    assert "6.900, 6.900, 6.900 Å" in about.text
    click(opened, "#candidates tbody tr:nth-child(2) td button")
    assert "4.120, 4.120, 4.120 Å" in about.text
    assert "sample-00001" in about.text
    until(lambda: picture(opened) != first)
    click(opened, "#previous")
    until(lambda: picture(opened) == first)


def test_crystal_is_saved_as_cif(opened: Chrome, tmp_path: Path) -> None:
    to = {"behavior": "allow", "downloadPath": str(tmp_path)}
    opened.execute_cdp_cmd("Browser.setDownloadBehavior", to)
    click(opened, "#next")
    click(opened, "#save")
    saved = tmp_path / "sample-00001.cif"
    until(lambda: saved.exists() and saved.read_text() == "data_1\n")


def test_paper_is_white_and_without_controls(opened: Chrome) -> None:
    headless.prefer(opened, "dark", "print")
    background = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(255, 255, 255)"
    assert not opened.find_element("id", "filters").is_displayed()
    assert opened.find_element("id", "candidates").is_displayed()

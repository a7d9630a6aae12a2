"""Photograph the report of a campaign for the documentation.

Example: python scripts/screenshots.py results/cu-k-si-quick docs
"""

from __future__ import annotations

import argparse
import base64
import io
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from screening.report import report_campaign
from screening.store import Store

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import headless

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

COLOURS = 256
"""Of a picture's palette, which keeps it below 300 kB."""
PICTURES = (
    ("report.png", headless.LAPTOP, "light", None, 1100),
    ("report-structure-dark.png", headless.LAPTOP, "dark", "structures", 1180),
    ("report-phone.png", headless.PHONE, "light", "structures", 844),
)
"""File, size of the page, colour scheme, section at the top, and height in pixels."""


def photograph(driver: Chrome, section: str | None, height: int) -> bytes:
    """Return a PNG of the page from a section on."""
    top = 0
    if section:
        script = "return document.getElementById(arguments[0]).getBoundingClientRect().top"
        top = max(0, round(driver.execute_script(script, section)) - 12)
    width = driver.execute_script("return innerWidth")
    clip = {"x": 0, "y": top, "width": width, "height": height, "scale": 1}
    shot = driver.execute_cdp_cmd(
        "Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True}
    )
    picture = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    out = io.BytesIO()
    picture.quantize(COLOURS).save(out, "png", optimize=True)
    return out.getvalue()


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", help="a campaign's results")
    parser.add_argument("out", type=Path, help="directory for the pictures")
    arguments = parser.parse_args()
    if missing := headless.why_not():
        sys.exit(f"error: {missing}")
    with tempfile.TemporaryDirectory() as folder, headless.browser() as driver:
        page = Path(report_campaign(Store(arguments.results), Path(folder) / "report.html"))
        for name, size, scheme, section, height in PICTURES:
            headless.resize(driver, size, touch=size == headless.PHONE)
            headless.prefer(driver, scheme)
            headless.open_page(driver, page)
            (arguments.out / name).write_bytes(photograph(driver, section, height))
            print(arguments.out / name)


if __name__ == "__main__":
    main()

"""A headless Chromium that opens a report, for the tests and for ``scripts/screenshots.py``."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from selenium.webdriver import Chrome

FLAGS = (
    "--headless",
    "--no-sandbox",  # a container's root may not make one
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-device-scale-factor=1",
)
LAPTOP, PHONE = (1280, 800), (390, 844)


def why_not() -> str | None:
    """Return what is missing for a browser, or None."""
    missing = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if not missing:
        return None
    return f"{' and '.join(missing)} not found; `bash scripts/browser.sh` installs them on Debian"


@contextmanager
def browser() -> Iterator[Chrome]:
    """Start a browser with an empty profile, and stop it."""
    from selenium.webdriver import Chrome, ChromeOptions  # noqa: PLC0415 - only where there is one
    from selenium.webdriver.chrome.service import Service  # noqa: PLC0415

    with TemporaryDirectory() as profile:
        options = ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            yield driver
        finally:
            driver.quit()


def resize(driver: Chrome, size: tuple[int, int], *, touch: bool = False) -> None:
    """Give the page a size in pixels."""
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": touch})


def prefer(driver: Chrome, scheme: str, medium: str = "") -> None:
    """Make the page believe that the reader prefers ``light`` or ``dark``, or prints it."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": medium, "features": [feature]})


def open_page(driver: Chrome, path: Path) -> None:
    """Open a file as a reader's double click does."""
    driver.get(path.resolve().as_uri())


def complaints(driver: Chrome) -> list[dict[str, Any]]:
    """Return what the page has written to the console since the last call."""
    entries: list[dict[str, Any]] = driver.get_log("browser")  # type: ignore[no-untyped-call]
    return entries

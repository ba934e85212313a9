"""Pages in a real browser, where one is installed: a page that says a word on the console, or asks the network for
anything, fails the test that opened it.
"""

from __future__ import annotations

import os
import shutil
import struct
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

IMAGES = Path(__file__).parents[1] / "docs" / "images"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or ""

# The browser's own calls home are none of the page's.
_QUIET = [
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
]

# Another machine's fonts make the same page a little longer or shorter.
_OTHER_FONTS = 0.15

needs_browser = pytest.mark.skipif(not BROWSER, reason="no chromium here")


@contextmanager
def browsing(
    path: Path,
    *,
    width: int = 1200,
    height: int = 900,
    colours: Literal["light", "dark"] = "light",
    media: Literal["screen", "print"] = "screen",
    scripts: bool = True,
) -> Iterator[Page]:
    """A page in the browser, for a while.

    Args:
        path: of its file.
        width, height: of the window, in CSS pixels.
        colours: which ones its reader prefers.
        media: what it is shown on.
        scripts: whether its scripts run.

    Raises:
        AssertionError: at the end, if the page wrote to the console, a script of it failed, or it asked for anything
            but itself.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    noticed: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=_QUIET, chromium_sandbox=False)
        try:
            context = browser.new_context(
                viewport={"width": width, "height": height}, color_scheme=colours, java_script_enabled=scripts
            )
            page: Page = context.new_page()
            page.emulate_media(media=media, color_scheme=colours)
            page.on("console", lambda message: noticed.append(f"console: {message.text}"))
            page.on("pageerror", lambda error: noticed.append(f"error: {error}"))
            page.on("request", lambda request: noticed.append(f"request: {request.url}"))
            page.goto(path.as_uri())
            yield page
        finally:
            browser.close()
    noticed.remove(f"request: {path.as_uri()}")
    assert not noticed, "; ".join(noticed)


def overflow_px(page: Page) -> int:
    """How far the page is wider than its window, in CSS pixels: what a reader would have to scroll sideways."""
    wider: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return wider


def barriers(page: Page) -> list[str]:
    """What keeps people from using the page, as axe finds it: rules that it breaks, with where."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    violations = axe.run(page).response["violations"]
    return [f"{found['id']}: {found['help']}: {found['nodes'][0]['html'][:200]}" for found in violations]


def keep_image(page: Page, path: Path, *, until: str) -> None:
    """Look after a picture of the page for the docs: where the environment has ``LLEM_WRITE_IMAGES=1``, write it; else
    the one that is there must be of the page's present shape.

    Args:
        path: of the PNG, in :data:`IMAGES`.
        until: selector of the element with whose end the picture ends; it begins with the page.

    Raises:
        AssertionError: there is none, or one of another shape.
    """
    box = page.locator(until).bounding_box()
    viewport = page.viewport_size
    assert box is not None, f"{until} is not shown"
    assert viewport is not None
    width, height = viewport["width"], round(box["y"] + box["height"])
    if os.environ.get("LLEM_WRITE_IMAGES") == "1":
        page.screenshot(path=path, full_page=True, clip={"x": 0, "y": 0, "width": width, "height": height})
    assert path.is_file(), f"no {path}: write it with LLEM_WRITE_IMAGES=1"
    kept_width, kept_height = struct.unpack(">II", path.read_bytes()[16:24])
    alike = kept_width == width and abs(kept_height / height - 1) <= _OTHER_FONTS
    assert alike, (
        f"{path.name} is {kept_width} x {kept_height} pixels, the page is {width} x {height}: "
        "write it anew with LLEM_WRITE_IMAGES=1"
    )

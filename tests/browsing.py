"""Pages in a real browser, where one is installed: a page that says a word on the console, or asks the network for
anything, fails the test that opened it.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Page

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or ""

# The browser's own calls home are none of the page's.
_QUIET = [
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
]

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

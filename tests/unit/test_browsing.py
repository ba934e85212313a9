"""The browser that looks at pages notices what it is there to notice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browsing import barriers, browsing, keep_image, needs_browser, overflow_px

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [needs_browser, pytest.mark.processes]


@pytest.mark.parametrize(
    ("body", "noticed"),
    [
        ("<script>console.log('a word')</script>", "a word"),
        ("<script>unknown()</script>", "unknown is not defined"),
        ('<img src="http://example.invalid/a.png" alt="">', r"http://example\.invalid/a\.png"),
    ],
)
def test_a_page_that_is_not_quiet_is_noticed(tmp_path: Path, body: str, noticed: str) -> None:
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><title>.</title>{body}")
    with pytest.raises(AssertionError, match=noticed), browsing(page):
        pass


def test_window_colours_and_scripts_are_those_asked_for(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        "<!doctype html><meta name=viewport content='width=device-width'><style>body { margin: 0; color: red }"
        "@media (prefers-color-scheme: dark) { body { color: blue } } div { width: 500px }</style>"
        "<div id=text>as written</div><script>text.textContent = 'by script'</script>"
    )
    with browsing(page, width=400, colours="dark", scripts=False) as opened:
        assert opened.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 255)"
        assert opened.inner_text("#text") == "as written"
        assert overflow_px(opened) == 100
    with browsing(page) as opened:
        assert opened.evaluate("getComputedStyle(document.body).color") == "rgb(255, 0, 0)"
        assert opened.inner_text("#text") == "by script"
        assert overflow_px(opened) == 0


def test_an_image_is_written_when_asked_for_and_else_of_the_present_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, image = tmp_path / "page.html", tmp_path / "page.png"
    page.write_text("<!doctype html><style>body { margin: 0 } div { height: 300px }</style><div></div><div></div>")
    with browsing(page, width=400) as opened:
        monkeypatch.delenv("LLEM_WRITE_IMAGES", raising=False)
        with pytest.raises(AssertionError, match=r"no .*page\.png"):
            keep_image(opened, image, until="div:last-of-type")
        monkeypatch.setenv("LLEM_WRITE_IMAGES", "1")
        keep_image(opened, image, until="div:last-of-type")
        monkeypatch.delenv("LLEM_WRITE_IMAGES")
        keep_image(opened, image, until="div:last-of-type")
        with pytest.raises(AssertionError, match="is 400 x 600 pixels, the page is 400 x 300"):
            keep_image(opened, image, until="div:first-of-type")


def test_what_keeps_people_out_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><html lang=en><title>.</title><main><h1>.</h1><input></main>")
    with browsing(page) as opened:
        assert [found.partition(":")[0] for found in barriers(opened)] == ["label"]

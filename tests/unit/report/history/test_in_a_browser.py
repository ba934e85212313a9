"""The page of saved results in a real browser, where one is installed: read, filtered, linked and zoomed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest

from pytest_llem.report.history.page import build_page, render_page
from pytest_llem.report.html import write_page
from tests.browsing import IMAGES, barriers, browsing, keep_image, needs_browser, overflow_px
from tests.unit.report.history.test_page import months

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

pytestmark = needs_browser


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("history") / "history.html"
    write_page(render_page(build_page(months(), {}, "/var/lib/llem")), target)
    return target


def count(page: Page) -> str:
    return page.locator("#count").inner_text()


def marks(page: Page) -> int:
    """Marks of results in the first plot, which is drawn."""
    found: int = page.evaluate(
        "[...document.querySelector('#e1 .over-time').querySelectorAll('g.points path')]"
        ".reduce((sum, one) => sum + one.getAttribute('d').split('M').length - 1, 0)"
    )
    return found


@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("scripts", [True, False])
def test_it_fits_the_screen_and_reads_with_and_without_its_script(path: Path, width: int, scripts: bool) -> None:
    with browsing(path, width=width, scripts=scripts) as page:
        assert overflow_px(page) == 0
        assert page.locator("#filters").is_visible() is scripts
        page.locator("#e1").scroll_into_view_if_needed()
        plots = page.locator("#e1 .over-time figure > svg")
        assert plots.count() == 4
        assert plots.first.locator("g.points").count() > 0
        assert page.locator("#changes tbody").count() > 0


def test_filters_hide_what_does_not_fit_and_the_count_says_so(path: Path) -> None:
    with browsing(path) as page:
        assert count(page) == "120 of 120 results, 2 of 2 experiments"
        page.get_by_role("searchbox", name="Experiment").fill("SIZE:16")
        assert count(page) == "60 of 120 results, 1 of 2 experiments"
        assert page.locator("section.experiment:visible h3").all_inner_texts() == ["llama[batch_size:16]"]
        page.get_by_label("Board").select_option("NVIDIA H100 GPU-7a6b5c4d")
        assert count(page) == "30 of 120 results, 1 of 2 experiments"
        page.get_by_label("Branch").select_option("faster-attention")
        fewer = count(page)
        assert int(fewer.split()[0]) < 10
        page.get_by_label("Quantity").select_option("latency")
        assert page.locator(".over-time:visible figcaption").all_inner_texts() == ["Latency of a call"]
        assert not page.locator("#changes tbody:visible").count()
        page.get_by_role("button", name="Show all").click()
        assert count(page) == "120 of 120 results, 2 of 2 experiments"
        assert page.url.endswith("#")


def test_a_link_holds_the_filters(path: Path) -> None:
    with browsing(path) as page:
        page.get_by_label("Board").select_option("NVIDIA H100 GPU-7a6b5c4d")
        page.get_by_label("From").fill("2026-02-01")
        shared, seen = page.url, count(page)
        assert seen != "120 of 120 results, 2 of 2 experiments"
        # A link within the page moves it, and leaves the filters in its address.
        page.locator("#changes a:visible").first.click()
        assert page.url == shared
        page.evaluate("location.hash = ''")
        page.wait_for_selector("#count:text('120 of 120')")
        page.evaluate("hash => { location.hash = hash }", shared.partition("#")[2])
        page.wait_for_selector(f"#count:text-is('{seen}')")
        assert page.get_by_label("From").input_value() == "2026-02-01"
        page.evaluate("location.hash = 'board=of+yesterday&from=never'")
        page.wait_for_selector("#count:text('120 of 120')")


def test_a_result_is_read_with_the_keyboard_and_with_the_mouse(path: Path) -> None:
    with browsing(path, height=1400) as page:
        plot = page.locator("#e2 .over-time figure > svg").first
        plot.scroll_into_view_if_needed()
        page.wait_for_selector("#e2 figure > svg[tabindex]")
        plot.focus()
        plot.press("Home")
        reading = page.locator("#e2 .over-time .reading").first
        first = reading.inner_text()
        assert first.startswith("2026-01-01 02:00, commit 00000000 on faster-attention · ")
        assert "OK" in first
        for _ in range(3):
            plot.press("ArrowRight")
        assert "with uncommitted changes" in reading.inner_text()
        for _ in range(8):
            plot.press("ArrowRight")
        assert "invalid: the board throttled" in reading.inner_text()
        plot.hover()
        # About the middle of two months, whatever its height.
        assert "2026-01-20" < reading.inner_text() < "2026-02-10"


def test_dragging_across_a_plot_zooms_all_and_escape_shows_all_again(path: Path) -> None:
    with browsing(path, height=1400) as page:
        plot = page.locator("#e1 .over-time figure > svg").first
        plot.scroll_into_view_if_needed()
        page.wait_for_selector("#e1 figure > svg[tabindex]")
        before, box = marks(page), plot.bounding_box()
        assert box is not None
        y = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + box["width"] / 2, y)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.8, y, steps=4)
        page.mouse.up()
        zoomed = page.get_by_label("From").input_value()
        assert "2026-01-25" < zoomed < "2026-02-05"
        assert 0 < int(count(page).split()[0]) < 60
        assert before == 60
        assert 0 < marks(page) < before
        plot.press("Escape")
        assert count(page).startswith("120 of 120")
        assert marks(page) == before


@pytest.mark.parametrize(("colours", "paper"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(18, 22, 28)")])
def test_nobody_is_kept_out_in_the_colours_that_a_reader_prefers(
    path: Path, colours: Literal["light", "dark"], paper: str
) -> None:
    with browsing(path, colours=colours) as page:
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == paper
        assert barriers(page) == []


def test_the_docs_show_it_as_it_is(path: Path) -> None:
    with browsing(path, height=1000) as page:
        page.get_by_role("searchbox", name="Experiment").fill("size:16")
        page.locator("#e1 .plots").scroll_into_view_if_needed()
        page.wait_for_selector("#e1 figure > svg[tabindex]")
        page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
        keep_image(page, IMAGES / "history.png", until="#e1 .plots")


def test_what_is_printed_is_what_was_chosen(path: Path) -> None:
    with browsing(path, height=400) as page:
        page.get_by_label("Board").select_option("NVIDIA H100 GPU-7a6b5c4d")
        # Far below the window, where nothing is drawn yet.
        assert page.evaluate("!document.querySelector('#e2 .over-time').marks")
        page.pdf()
        assert page.evaluate("document.querySelector('#e2 .over-time').marks.length") == 30


def test_it_prints_without_its_filters(path: Path) -> None:
    with browsing(path, media="print") as page:
        assert not page.locator("#filters").is_visible()
        assert page.locator("#e1 figure").first.is_visible()

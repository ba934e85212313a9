"""The pages in a real browser, where one is installed: on a desk, on a phone, on paper, without scripts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from pytest_llem.report.html import render_two_runs, write_html, write_page
from pytest_llem.report.two_runs import two_runs
from tests.browsing import IMAGES, barriers, browsing, keep_image, needs_browser, overflow_px
from tests.unit.report.examples import experiment, judged, report, result, saved_runs, timed_sweep, whole_session
from tests.unit.report.test_two_runs import runs_about, saved

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

    from pytest_llem.verdict.judging import Judged
    from tests.unit.report.examples import History

pytestmark = [needs_browser, pytest.mark.processes]

OPEN_ALL = "for (const one of document.querySelectorAll('details')) one.open = true"
# How far right the values of tables of names and values reach.
VALUES_RIGHT = "Math.max(...[...document.querySelectorAll('td:nth-child(2):last-child')].map(\
    cell => cell.getBoundingClientRect().right))"
NAMES = "[...document.querySelectorAll('#results tbody tr:not([hidden])')].map(row => row.cells[1].textContent)"
WHITE, BLACK = "rgb(255, 255, 255)", "rgb(0, 0, 0)"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A report with all that there may be."""
    path = tmp_path / "report.html"
    write_html(whole_session(), path)
    return path


def colours(opened: Page) -> list[str]:
    """Of the paper and the ink."""
    found: list[str] = opened.evaluate(
        "(({backgroundColor, color}) => [backgroundColor, color])(getComputedStyle(document.body))"
    )
    return found


@pytest.mark.parametrize(
    ("width", "scheme", "expected"),
    [(1200, "light", [WHITE, "rgb(27, 31, 36)"]), (400, "dark", ["rgb(18, 22, 28)", "rgb(230, 233, 238)"])],
)
def test_everyone_can_read_it(page: Path, width: int, scheme: str, expected: list[str]) -> None:
    with browsing(page, width=width, colours="dark" if scheme == "dark" else "light") as opened:
        # As many elements as were written: nothing was closed or moved by the parser's repairs.
        written = re.sub("<script>.*</script>", "<script>", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        made_by_script = opened.locator("th button").count()
        assert opened.locator("*").count() - made_by_script == len(re.findall("<[a-z]", written))
        opened.evaluate(OPEN_ALL)
        assert overflow_px(opened) == 0
        assert colours(opened) == expected
        # Nobody has to scroll a table of names and values to see the values.
        assert opened.evaluate(VALUES_RIGHT) <= width
        assert barriers(opened) == []
        opened.keyboard.press("Tab")
        opened.keyboard.press("Enter")
        assert opened.evaluate("document.activeElement.id") == "content"


def test_results_are_sorted_and_filtered_by_mouse_and_keyboard(page: Path) -> None:
    with browsing(page) as opened:
        table = opened.get_by_role("group", name="Results of all experiments")

        def order() -> list[str]:
            names: list[str] = opened.evaluate(NAMES)
            return [name.removeprefix("llama[batch_size:").removesuffix("]") for name in names]

        def sorted_by() -> list[tuple[str, str]]:
            columns = table.locator("th[aria-sort]").all()
            return [(column.inner_text(), column.get_attribute("aria-sort") or "") for column in columns]

        assert order() == ["1", "4", "16", "throttled", "unmeasured", "paired"]
        assert sorted_by() == [("no.", "ascending")]
        table.get_by_role("button", name="energy/call").click()
        # 100, 100, 110, 160 and 900 J, by number and not by text; equal ones stay in order, the unknown one is last.
        assert order() == ["1", "throttled", "paired", "4", "16", "unmeasured"]
        assert sorted_by() == [("energy/call", "ascending")]
        opened.keyboard.press("Enter")
        assert order() == ["16", "4", "paired", "1", "throttled", "unmeasured"]
        assert sorted_by() == [("energy/call", "descending")]
        opened.keyboard.press("Shift+Tab")
        opened.keyboard.press("Space")
        assert sorted_by() == [("experiment", "ascending")]
        assert order() == ["1", "4", "16", "paired", "throttled", "unmeasured"]

        box, count = opened.get_by_label("Show rows with"), opened.locator("#results [aria-live]")
        assert count.inner_text() == "6 of 6"
        box.fill("LLAMA nvml")
        assert (order(), count.inner_text()) == (["1", "4", "16"], "3 of 6")
        table.get_by_role("button", name="no.").click()
        table.get_by_role("button", name="no.").click()
        assert order() == ["16", "4", "1"]
        box.fill("no such thing")
        assert (order(), count.inner_text()) == ([], "0 of 6")
        box.fill("")
        assert count.inner_text() == "6 of 6"


def test_without_scripts_all_rows_are_there_and_nothing_that_does_nothing(page: Path) -> None:
    with browsing(page, scripts=False) as opened:
        assert opened.locator("#results tbody tr:visible").count() == 6
        assert opened.locator("button:visible, input:visible").count() == 0
        opened.get_by_text("1. llama[batch_size:1]").click()
        assert opened.get_by_text("Power in the windows").first.is_visible()


def test_no_other_script_runs(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("</main>", "<script>document.title = 'taken over'</script></main>"), encoding="utf-8")
    with pytest.raises(AssertionError, match="Content Security Policy"), browsing(page) as opened:
        assert opened.title().startswith("Energy of LLM inference")


def test_on_paper_all_is_shown_black_on_white(page: Path) -> None:
    # As wide as A4 between its margins.
    with browsing(page, width=718, colours="dark", media="print") as opened:
        assert colours(opened) == [WHITE, BLACK]
        assert not opened.get_by_role("navigation").is_visible()
        assert not opened.get_by_label("Show rows with").is_visible()
        assert opened.locator("details:not([open])").count() > 10
        assert opened.get_by_text("Resolved configuration").last.is_visible()
        assert opened.evaluate("document.querySelector('#e6').getBoundingClientRect().height") > 300
        cut = "[...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth).length"
        assert (overflow_px(opened), opened.evaluate(cut)) == (0, 0)


def test_two_runs_can_be_read_on_a_phone(tmp_path: Path) -> None:
    earlier, later = saved(experiment(), experiment("gone")), saved(experiment(result=result(120.0)))
    found = two_runs(("0001_main", earlier), ("0002_branch", later), runs_about(100.0))
    write_page(render_two_runs(found), tmp_path / "runs.html")
    with browsing(tmp_path / "runs.html", width=400) as opened:
        assert overflow_px(opened) == 0
        assert barriers(opened) == []
        assert opened.locator("figure").count() == 2
        opened.get_by_role("button", name="change").click()
        assert opened.locator("#changes tbody tr").first.inner_text().split()[2] == "latency"


def test_the_docs_show_the_present_page(tmp_path: Path) -> None:
    verdicts: list[Judged] = []
    history: History = {}
    for point, change in zip(timed_sweep(), (1.1, 1.002, 0.997), strict=True):
        level = point.result.energy_j or 0.0
        levels = [level * noise for noise in (0.99, 1.0, 1.01, 1.005, 0.995, 1.0)]
        history |= saved_runs(point, levels)
        verdicts += judged(point, history, level * change)
    write_html(report(timed_sweep(), verdicts, history), tmp_path / "report.html")
    with browsing(tmp_path / "report.html") as opened:
        keep_image(opened, IMAGES / "report.png", until="#sweeps figure")

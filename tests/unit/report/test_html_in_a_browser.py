"""The page in a real browser, where one is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from pytest_llem.measurement.account import ENTRIES
from pytest_llem.report.html import write_html
from tests.unit.report.examples import experiment, in_pairs, judged_pairs, regression, report, result, sweep

if TYPE_CHECKING:
    from pathlib import Path

BROWSER = shutil.which("chromium") or ""
pytestmark = pytest.mark.skipif(not BROWSER, reason="no chromium here")

# Tells the widths in its title: the browser runs no script in a report, but this page may measure one.
PROBE = """<!doctype html><title>waiting</title><body>
<iframe src="report.html" width="{width}" height="800"></iframe>
<script>
onload = () => {{
  const root = frames[0].document.documentElement;
  for (const one of root.querySelectorAll("details")) one.open = true;
  const body = frames[0].getComputedStyle(frames[0].document.body);
  const values = [...root.querySelectorAll("td:nth-child(2):last-child")];
  const right = Math.max(...values.map(one => one.getBoundingClientRect().right));
  document.title = [root.clientWidth, root.scrollWidth, Math.ceil(right), body.backgroundColor].join(" ");
}};
</script>"""


def dump(page: Path, *options: str) -> tuple[str, list[str], list[str]]:
    """What the browser made of the page, what it wrote to the console, and what the page asked of the network."""
    log = page.with_suffix(".netlog")
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--enable-logging=stderr",
            f"--user-data-dir={page.with_suffix('.profile')}",
            f"--log-net-log={log}",
            "--dump-dom",
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    events = json.loads(log.read_text(encoding="utf-8"))["events"]
    # Requests of the browser's own carry "not an origin".
    asked = [
        event["params"]["url"]
        for event in events
        if "url" in event.get("params", {}) and event["params"].get("initiator") not in (None, "not an origin")
    ]
    return done.stdout, console, asked


def test_it_opens_without_a_word_and_without_a_request(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_html(regression(), page)
    dom, console, asked = dump(page)
    assert "REGRESSED" in dom
    assert dom.count("<figure>") == 7
    # As many elements as were written: nothing was closed or moved by the parser's repairs.
    assert len(re.findall("<[a-z]", dom)) == len(re.findall("<[a-z]", page.read_text(encoding="utf-8")))
    assert (console, asked) == ([], [])


def test_a_page_that_asks_would_be_noticed(tmp_path: Path) -> None:
    page = tmp_path / "bait.html"
    page.write_text('<!doctype html><img src="http://example.invalid/a.png"><script>console.error("bait")</script>')
    _, console, asked = dump(page)
    assert any("bait" in line for line in console)
    assert "http://example.invalid/a.png" in asked


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_screen(tmp_path: Path, width: int) -> None:
    # The longest name of a quantity, and of an option.
    boards = {"GPU-01234567-89ab-cdef-0123-456789abcdef": 100.0}
    config = {"passthrough": {"from_pretrained": {"an_option_whose_name_is_long": True}}}
    spent_s = dict.fromkeys(ENTRIES, 123.4)
    last = experiment(result=result(boards=boards, spent_s=spent_s), config=config)
    pairs = in_pairs(change=0.1)
    write_html(report([*sweep(), last, pairs], judged_pairs(pairs)), tmp_path / "report.html")
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.format(width=width))
    dom, _, _ = dump(probe, "--allow-file-access-from-files", "--window-size=1400,900")
    shown, needed, right = map(int, re.findall(r"<title>(\d+) (\d+) (\d+)", dom)[0])
    assert 0.9 * width < shown <= width
    assert needed == shown
    # Nobody has to scroll a table of names and values to see the values.
    assert right <= shown


@pytest.mark.parametrize(
    ("options", "background"), [([], "rgb(255, 255, 255)"), (["--force-dark-mode"], "rgb(18, 22, 28)")]
)
def test_it_follows_the_readers_colours(tmp_path: Path, options: list[str], background: str) -> None:
    write_html(regression(), tmp_path / "report.html")
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.format(width=800))
    dom, _, _ = dump(probe, "--allow-file-access-from-files", *options)
    assert background in dom

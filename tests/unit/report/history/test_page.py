"""The page of saved results: complete, escaped, and small enough for thousands."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.report.history.data import ExperimentSeries, Series, Store, read_store
from pytest_llem.report.history.page import build_page, render_page
from tests.simulators.store import Night, saved
from tests.unit.report.history.test_changes import nights
from tests.unit.report.history.test_data import store_of
from tests.unit.report.test_html import ATTACK, Page

if TYPE_CHECKING:
    from pytest_llem.report.history.data import SavedResult

NIGHT = Night(0)


def months() -> Store:
    """A regression, a new library, two boards, and what may be wrong with a night."""
    names = ("llama[batch_size:1]", "llama[batch_size:16]")
    boards = ("GPU-0f1e2d3c-aaaa", "GPU-7a6b5c4d-bbbb")
    found = []
    for number in range(60):
        level = 1.0 if number < 18 else 1.07 if number < 34 else 1.0
        night = replace(
            NIGHT,
            number=number,
            experiments=names,
            levels={names[1]: level * (0.95 if number >= 40 else 1.0)},
            board=boards[number // 5 % 2],
            torch="2.13.0" if number < 40 else "2.14.0",
            plugin="0.9.0" if number < 34 else "0.10.0",
            branch="main" if number % 9 else "faster-attention",
            dirty=number % 17 == 3,
            valid=number not in (11, 45),
            accepted=number == 36,
            saved_verdict="REGRESSED" if 18 <= number < 22 else "INCONCLUSIVE" if number == 34 else "OK",
            host_j=True,
        )
        found.append(night)
    return store_of(found)


def data_of(text: str) -> dict[str, Any]:
    """The block that the script reads."""
    found: dict[str, Any] = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    return found


def test_it_has_what_people_open_it_for() -> None:
    page = Page(render_page(build_page(months(), {}, "/var/lib/llem")))
    for text in (
        "60 saved sessions from 2026-01-01 to 2026-03-01 · 120 results of 2 experiments · from /var/lib/llem",
        "torch 2.13.0 → 2.14.0",
        "pytest-llem 0.9.0 → 0.10.0",
        "nothing else that was saved changed",
        "the board throttled: its temperature was too high",
        "B: NVIDIA H100 GPU-7a6b5c4d",
        "uncommitted",
    ):
        assert text in page.text
    # Each reference of a label or a link leads to an element.
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    named = [name for _, attrs in page.tags for name in (attrs.get("aria-labelledby") or "").split()]
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert {*named, *(str(link)[1:] for link in links)} <= ids


def test_only_its_own_script_may_run() -> None:
    text = render_page(build_page(months(), {}, "store"))
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; script-src 'sha256-{digest}'; style-src" in html.unescape(text)


@pytest.mark.parametrize("field", ["experiments", "branch", "commit", "board", "torch", "warnings", "file"])
def test_text_of_others_stays_text(field: str) -> None:
    changes: dict[str, Any] = {} if field in ("warnings", "file") else {field: ATTACK}
    content = saved(replace(NIGHT, **changes | ({"experiments": (ATTACK,)} if field == "experiments" else {})))
    if field == "warnings":
        for bench in content["benchmarks"]:
            bench["extra_info"]["result"] |= {"valid": False, "warnings": [ATTACK]}
    files: list[tuple[str, dict[str, Any] | str]] = [("0001_a.json", content)]
    files += [(ATTACK, ATTACK)] if field == "file" else []
    text = render_page(build_page(read_store(files), {}, ATTACK))
    page = Page(text)
    assert not {"img", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert sum(tag == "script" for tag, _ in page.tags) == 2
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    block = text.partition('id="data">')[2].partition("</script>")[0]
    assert "<" not in block
    assert data_of(text)["experiments"]


def test_the_block_says_of_each_result_what_the_page_says() -> None:
    store = months()
    result = store.results[-1]
    page = build_page(store, {(result, "energy"): "IMPROVED"}, "store")
    data = data_of(render_page(page))
    (first, _) = data["experiments"][0]["series"][:2]
    when = [sum(data["when"][: place + 1]) for place in range(len(data["when"]))]
    assert when == [int(session.when.timestamp()) for session in store.sessions]
    series = store.experiments[0].series[0]
    shown = sorted((*series.valid, *series.invalid), key=lambda one: one.session.when)
    assert first["values"]["energy"] == pytest.approx([one.values["energy"].value for one in shown], rel=1e-4)
    assert first["widths"]["latency"][0] == pytest.approx(_ppm(shown[0], "latency"), rel=0.05)
    places = [sum(first["session"][: place + 1]) for place in range(len(shown))]
    assert [store.sessions[place] for place in places] == [one.session for one in shown]
    assert [state == "x" for state in first["state"]] == [not one.row.valid for one in shown]
    assert set(first["verdict"]["energy"]) <= {"O", "R", "I"}
    # One that was not saved is in lower case; a saved one is not replaced.
    assert page.verdicts[result, "energy"] == "OK"


def _ppm(result: SavedResult, quantity: str) -> float:
    value = result.values[quantity]
    return 1e6 * (value.half_width or 0.0) / value.value


def test_verdicts_that_were_given_afterwards_are_told_apart() -> None:
    store = store_of(nights(3))
    page = build_page(store, {(result, "energy"): "REGRESSED" for result in store.results}, "store", "energy:2%..5%")
    text = render_page(page)
    assert data_of(text)["experiments"][0]["series"][0]["verdict"] == {"energy": "rrr"}
    assert "3 of them were given afterwards, on the newest results, by energy:2%..5%" in Page(text).text


def test_numbers_that_nothing_has_spoil_no_page() -> None:
    content = saved(NIGHT)
    for bench in content["benchmarks"]:
        windows = bench["extra_info"]["result"]["per_round"]
        windows[0] |= {"joules": 1e308, "seconds": 1e-308}
        for window in windows[1:]:
            window |= {"joules": 1e-320, "seconds": 1e-308}
    others = [(night.name, saved(night)) for night in nights(8, 1)]
    text = render_page(build_page(read_store([("0001_a.json", content), *others]), {}, "store"))
    assert data_of(text)["experiments"][0]["series"][0]["values"]["latency"][0] is None


def test_two_thousand_sessions_of_twenty_experiments_are_below_five_megabytes() -> None:
    hundred = store_of(nights(100, experiments=("llama[batch_size:16]",), host_j=True))
    (series,) = hundred.experiments[0].series
    # Others in nothing that takes room.
    results = [
        replace(result, session=replace(result.session, when=result.session.when + timedelta(days=100 * number)))
        for number in range(20)
        for result in series.valid
    ]
    experiments = [ExperimentSeries(f"bench/llama.llem.yaml::llama-{n}", [Series(results)]) for n in range(20)]
    store = replace(hundred, sessions=[result.session for result in results], experiments=experiments)
    text = render_page(build_page(store, {}, "store"))
    assert 1_000_000 < len(text.encode()) < 5_000_000
    assert [len(one["series"][0]["session"]) for one in data_of(text)["experiments"]] == [2000] * 20

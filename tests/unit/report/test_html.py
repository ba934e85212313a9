"""The page: complete, escaped, self-contained, and readable without seeing it."""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from pytest_llem.engines.base import Rank
from pytest_llem.measurement.account import ENTRIES
from pytest_llem.measurement.result import Round
from pytest_llem.report.html import render_html, write_html
from pytest_llem.verdict.decision import Status
from tests.unit.report.examples import (
    experiment,
    in_pairs,
    judged,
    judged_pairs,
    regression,
    report,
    report_of_pairs,
    result,
    row,
    saved_runs,
)
from tests.unit.report.test_explanations import idle

if TYPE_CHECKING:
    from pathlib import Path

ATTACK = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;]]>--><svg/onload=alert(3)>\x00\ud800"
VOID = {"meta", "br", "hr", "input"}


class Page(HTMLParser):
    """Tags with their attributes, ids, the text of the page with its spaces as a browser shows them; fails on a tag
    that is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        self.text = re.sub(r"[ \n]+", " ", self.text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def ids(self) -> list[str]:
        return [identifier for _, attributes in self.tags if (identifier := attributes.get("id")) is not None]


def attacked() -> Page:
    """A session in which every text is hostile."""
    one = experiment(
        ATTACK,
        nodeid=ATTACK,
        file=ATTACK,
        result=result(warnings=[ATTACK], labels=[ATTACK], meter=ATTACK, boards={ATTACK: 1.0}),
        config={ATTACK: ATTACK, "name": ATTACK},
        swept={ATTACK: ATTACK},
        environment={ATTACK: [ATTACK]},
        workload_hash=ATTACK,
    )
    # Its joules are of another meter, which the sweep's notes say.
    other = replace(one, nodeid=f"{ATTACK}[2]", result=replace(one.result, meter=f"{ATTACK} too"))
    # With a change of level, which the caption of the history says.
    history = saved_runs(one, [100.0, 101.0, 99.0, 100.5, 120.0, 121.0, 119.0])
    saved = history[one.nodeid, "energy"]
    history[one.nodeid, "energy"] = [replace(old, commit=ATTACK, when=ATTACK) for old in saved]
    (verdict,) = judged(one, history, 120.0)
    verdict = replace(verdict, verdict=replace(verdict.verdict, reason=ATTACK))
    assert len(report([one], [verdict], history).experiments[0].histories[0].shifts) == 1
    # In a pair with a side of that name.
    paired = in_pairs(ATTACK, nodeid=f"{ATTACK}[3]", against=ATTACK)
    run = replace(paired.other_runs[0], result=result(warnings=[ATTACK]), environment={ATTACK: f"{ATTACK} too"})
    paired = replace(paired, other_runs=(run, *paired.other_runs[1:]))
    made = report([one, other, paired], [verdict, *judged_pairs(paired)], history)
    assert made.compared
    hostile = ((ATTACK, ATTACK), ("id", ATTACK), ("branch", ATTACK))
    return Page(render_html(replace(made, created=ATTACK, commit=hostile, machine=hostile)))


def test_hostile_text_stays_text() -> None:
    page = attacked()
    assert page.all("script") == [{}]  # its own
    assert not page.all("img")
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    assert "alert(1)" in page.text
    assert "\x00" not in page.text


def test_what_html_cannot_hold_is_replaced() -> None:
    one = experiment(result=result(warnings=["a\x00b\x1b[31m\ud800\n\tc"]))
    lost = "\N{REPLACEMENT CHARACTER}"
    assert f"<li>a{lost}b{lost}[31m{lost}\n\tc</li>" in render_html(report([one]))


def test_every_reference_has_its_target_once() -> None:
    for page in (Page(render_html(regression())), attacked()):
        assert len(set(page.ids)) == len(page.ids)
        wanted = [
            name
            for _, attributes in page.tags
            for key in ("aria-labelledby", "href")
            for name in (attributes.get(key) or "").removeprefix("#").split()
        ]
        assert set(wanted) <= set(page.ids)


def test_nothing_is_asked_of_the_network() -> None:
    text = render_html(regression())
    assert not re.search(r"\b(src|srcset|action|data|poster|background)=", text)
    assert not re.search(r"https?:|@import|url\(", text)
    assert "default-src 'none'" in text
    (script,) = re.findall("<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert re.findall("script-src ([^;]*);", html.unescape(text)) == [f"'sha256-{digest}'"]


def test_results_are_sorted_by_their_values_and_not_by_their_texts() -> None:
    rows = Page(render_html(report([experiment(result=result(0.5)), experiment("second", result=result(None))])))
    values = [cell.get("data-value") for tag, cell in rows.tags if tag in ("th", "td") and "data-value" in cell]
    assert values == ["1", "0.5", "0.015625", "2", "0.25", "2", "2"]


def test_a_screen_reader_finds_its_way() -> None:
    page = Page(render_html(regression()))
    assert page.all("html")[0]["lang"] == "en"
    assert [len(page.all(tag)) for tag in ("main", "nav", "header", "footer", "h1")] == [1] * 5
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(one.get("scope") in ("row", "col") for one in page.all("th"))
    assert all(one.get("role") == "img" or one.get("aria-hidden") == "true" for one in page.all("svg"))
    assert page.all("a")[0]["href"] == "#content"
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))


def test_the_page_tells_verdicts_results_sweep_and_origin() -> None:
    text = Page(render_html(regression())).text
    for expected in (
        "REGRESSED",
        "+10.0% [+",
        "1 run vs 6 saved",
        "100.0 ± 2.0 J",
        "2.0000 ± 0.0026 s",
        "2\N{MULTIPLICATION SIGN} [",
        "Energy per output token against latency",
        "commit 5b8c3a1d9e4f on main with uncommitted changes",
        "pytorch.batch_size",
        "boards.0.power_limit_w",
    ):
        assert expected in text


def test_every_plot_has_its_numbers_beside_it() -> None:
    text = render_html(regression())
    assert text.count('role="img"') == text.count("<figure>") == 2 + 1 + 1 + 3
    assert text.count("Saved runs of energy as a table") == 1
    assert text.count("Windows as a table") == 3


SPENT = {"load": 2.0, "measured": 6.0, "sensor": 2.0}


def test_where_the_time_went_is_drawn_and_told() -> None:
    first = experiment("first", result=result(spent_s=SPENT))
    second = experiment("second", result=result(spent_s={"measured": 9.0, "other": 6.0}))
    text = render_html(report([first, second, experiment("without")]))
    assert "15 s of 25 s (60%) were measured; " in Page(text).text
    (figure,) = re.findall(r"<figure>(?:(?!</figure>).)*Where the time went.*?</figure>", text, re.DOTALL)
    bars = re.findall(r'<g class="segments ([\w-]+)"><path d="M([\d.]+) ([\d.]+)H([\d.]+)"><title>([^<]*)<', figure)
    assert [(style, label) for style, _, _, _, label in bars] == [
        ("measured", "first: measured 6.0 s"),
        ("load", "first: loading the model 2.0 s"),
        ("sensor", "first: waiting for the sensor 2.0 s"),
        ("measured", "second: measured 9.0 s"),
        ("other", "second: the rest 6.0 s"),
    ]
    # One after the other from the left, each as long as it took, the two experiments beneath each other.
    edges = [(float(left), float(right)) for _, left, _, right, _ in bars]
    assert edges[0][0] == edges[3][0] < edges[0][1] < edges[1][0] < edges[1][1] < edges[2][0] < edges[2][1]
    lengths = [right - left + 1 for left, right in edges]
    assert [length / lengths[0] for length in lengths] == pytest.approx([1, 1 / 3, 1 / 3, 1.5, 1], abs=0.01)
    assert len({y for _, _, y, _, _ in bars[:3]}) == 1
    assert bars[0][2] != bars[3][2]
    for cells in ("10 s</td><td>6.0 s, 60%</td><td>2.0 s", "15 s</td><td>9.0 s, 60%</td><td>-"):
        assert cells in text


def test_every_entry_of_the_account_has_its_stroke() -> None:
    styles = [re.search(rf"\.segments\.{entry} path \{{([^}}]*)\}}", style_sheet()) for entry in ENTRIES]
    strokes = ["stroke: var(--blue);" if found is None else found[1] for found in styles]
    assert len(set(strokes)) == len(ENTRIES)


def style_sheet() -> str:
    return render_html(report([])).partition("<style>")[2].partition("</style>")[0]


def test_the_longest_experiments_are_drawn_where_there_are_many() -> None:
    many = [experiment(f"e{at}", result=result(spent_s={"measured": 1.0 + at})) for at in range(52)]
    text = render_html(report(many))
    assert "The longest 50 of 52 experiments." in text
    bars = text.partition("Where the time went</strong>")[2].partition("</figure>")[0]
    assert re.findall(r'<text class="tick-y"[^>]*>(\d+)<', bars) == [str(number) for number in range(3, 53)]


def test_a_session_without_an_account_has_no_section_of_it() -> None:
    assert "Where the time went" not in render_html(regression())


def test_explanations_stand_with_their_experiment() -> None:
    page = Page(render_html(report([idle(0.7)])))
    assert "idle power is 70% of the energy: the board waited for the host; what may change that: " in page.text
    assert "idle power's share of the energy70%" in page.text
    assert "Explained" not in Page(render_html(report([experiment()]))).text


def test_joined_windows_are_named() -> None:
    text = Page(render_html(report([experiment(result=result(boundaries="joined"))]))).text
    assert "4, each of 2 calls, joined" in text
    assert "nvml (joined)" in text
    assert "joined" not in Page(render_html(report([experiment()]))).text


def test_both_ways_to_measure_prefill_are_told_apart() -> None:
    both = result(prefill_energy_j=10.0, prefill_energy_one_token_j=11.0, phases_by="power samples")
    page = Page(render_html(report([experiment(result=both)])))
    assert "prefill energy of a call10.00" in page.text
    assert "prefill energy, one-token calls11.00" in page.text
    assert "phases bypower samples" in page.text


def test_each_process_of_a_model_is_told() -> None:
    ranks = [
        Rank(board="GPU-a", parameter_share=0.5, peak_memory_bytes=3 << 20),
        Rank(board="GPU-b", parameter_share=None, peak_memory_bytes=None),
        Rank(board=None, parameter_share=None, peak_memory_bytes=None),
    ]
    text = Page(render_html(report([experiment(result=result(ranks=ranks))]))).text
    assert "process 0 of the model50% of the parameters, peak memory 3.00 MiB, GPU-a" in text
    assert "process 1 of the modelGPU-b" in text
    assert "process 2 of the model-" in text


def test_the_best_point_of_a_sweep_is_named_once_for_each_quantity() -> None:
    text = render_html(regression())
    assert text.count("<td>best</td>") == 2
    assert ">8\N{MULTIPLICATION SIGN} [" in text
    assert "latency/output token" in text


def test_marks_of_a_result_that_needs_them() -> None:
    one = experiment(
        result=result(valid=False, estimated=True, meter="estimate", warnings=["throttled"]),
        config={"pytorch": {"trust_remote_code": True}},
    )
    text = Page(render_html(report([one]))).text
    for expected in (
        "Invalid: something disturbed",
        "estimate (estimated)",
        "trust_remote_code",
        "1 warning",
        "throttled",
    ):
        assert expected in text
    plain = Page(render_html(report([experiment()]))).text
    for unexpected in ("Invalid", "estimated)", "trust_remote_code", "warning"):
        assert unexpected not in plain


def test_only_joules_are_estimated() -> None:
    text = render_html(report([experiment(result=result(estimated=True, meter="estimate"))]))
    energy, seconds = re.findall(r"<figure>.*?</figure>", text, re.DOTALL)[:2]
    assert 'class="points estimated"' in energy
    assert 'class="points estimated"' not in seconds
    assert 'class="points saved"' in seconds


def test_a_session_outside_version_control() -> None:
    made = replace(report([experiment()]), commit=(("id", "unversioned"), ("branch", "(unknown)")))
    assert " · not under version control · " in Page(render_html(made)).text


def test_power_is_drawn_by_phase_and_not_where_it_is_unknown() -> None:
    prefill = Round(seconds=1.0, joules=70.0, uncertainty_j=None, output_tokens=1, start_s=30.0)
    text = render_html(report([experiment(result=result(prefill_rounds=[prefill]))]))
    for style, windows in (("prefill", 1), ("window", 4)):
        swatch, drawn = re.findall(rf'class="segments {style}"><path d="([^"]*)"', text)
        assert (swatch.count("M"), drawn.count("M")) == (1, windows)
    silent = render_html(report([experiment(result=result(None))]))
    assert "Mean power of the windows" not in silent
    assert "Energy of a call</strong>" not in silent


def test_a_change_point_is_told_with_its_commit() -> None:
    one = experiment(result=result(120.0))
    history = saved_runs(one, [100.0, 101.0, 99.0, 100.5, 120.0, 121.0, 119.0])
    text = Page(render_html(report([one], [], history))).text
    assert re.search(r"Level changed by \+19\.\d% \[.*\] at commit 00000000", text)


def test_values_that_are_all_the_same_or_alone_can_be_drawn() -> None:
    one = experiment(
        result=result(
            100.0,
            per_round=[Round(seconds=4.0, joules=200.0, uncertainty_j=None, output_tokens=1, start_s=0.0)],
            rounds=1,
        )
    )
    assert "<svg" in render_html(report([one], [], saved_runs(one, [100.0])))


def test_a_history_without_anything_to_draw() -> None:
    one = experiment(result=result(None))
    text = render_html(report([one], [], {(one.nodeid, "energy"): [row(one, runs=((0.0,),))]}))
    assert "Saved runs of energy as a table" in text
    assert "Energy of a call over saved runs" not in text


def test_pairs_have_a_section_of_their_own() -> None:
    record = in_pairs(change=0.1)
    noisy = replace(record.other_runs[1], result=result(warnings=["hot"], valid=False), by_turns=False)
    first, _, *rest = record.other_runs
    text = render_html(report_of_pairs(replace(record, other_runs=(first, noisy, *rest))))
    section = Page(text).text.partition("In each pair")[2].partition("Results of all")[0]
    for expected in (
        "llama against main",
        "1 of 4 pairs was disturbed.",
        "main: hot",
        "What changed: means over 4 pairs, and changes with intervals of 95%",
        "mean power+4.9% [+4.5%, +5.3%]52.45 W50.00 W",
        "REGRESSED energy +10.1% [+9.2%, +10.9%], limit 2.5%..5%, 4 pairs vs main: one after the other",
        "1main+10.0%-110.0 J100.0 J",
        "2this side+10.7%-110.7 J100.0 Jdisturbed, one process after the other",
        "4main+10.2%+10.1% [+9.2%, +10.9%]110.2 J100.0 J",
    ):
        assert expected in section
    # Two looks have an interval.
    figure = text.partition("Energy of a call against main</strong>")[2].partition("</figure>")[0]
    drawn = re.findall(r'<g class="segments interval"><path d="([^"]*)"/></g>\n', figure)
    assert [path.count("M") for path in drawn] == [2]
    assert ">+10%<" in figure
    assert "What is not the same" not in section


def test_a_session_without_pairs_has_no_section_of_them() -> None:
    assert 'href="#pairs"' not in render_html(regression())
    assert 'href="#pairs"' in render_html(report_of_pairs(in_pairs()))


@pytest.mark.parametrize("count", [0, 1])
def test_a_session_of_few(count: int) -> None:
    page = Page(render_html(report([experiment()] * count)))
    assert "Nothing was gated" in page.text
    assert ("No experiment left a result" in page.text) is (count == 0)


@pytest.mark.parametrize("status", list(Status))
def test_every_status_is_a_word_and_a_sign(status: Status) -> None:
    one = experiment()
    (verdict,) = judged(one, saved_runs(one, [100.0, 101.0, 99.0]), 100.0)
    made = report([one], [replace(verdict, verdict=replace(verdict.verdict, status=status))])
    assert f"</span> {status.value}</span>" in render_html(made)


def test_the_file_is_written_with_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    write_html(regression(), path)
    assert path.read_bytes().startswith(b"<!doctype html>\n<html")

"""The summary and the annotations of a step."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_llem.report.github import annotation_lines, summary, write_step_summary
from pytest_llem.verdict.decision import Status
from tests.unit.report.examples import (
    experiment,
    in_pairs,
    judged,
    on_both_engines,
    regression,
    report,
    report_of_pairs,
    result,
    saved_runs,
)

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_llem.verdict.judging import Judged

ON_GITHUB = {"GITHUB_ACTIONS": "true"}
LEVELS = [99.0, 100.0, 101.0, 100.5, 99.5, 100.0]


def verdict(name: str = "llama", level: float = 120.0) -> Judged:
    one = experiment(name)
    return judged(one, saved_runs(one, LEVELS), level)[0]


def test_a_regression_is_an_error_and_an_inconclusive_one_a_warning() -> None:
    inconclusive = verdict("odd", 103.5)
    assert inconclusive.verdict.status is Status.INCONCLUSIVE
    lines = annotation_lines([verdict("fine", 100.0), inconclusive, verdict()], ON_GITHUB)
    assert lines[0].startswith("::error file=bench/llama.llem.yaml,title=REGRESSED energy of llama::+20.0%25 [+")
    assert lines[1].startswith("::warning file=bench/llama.llem.yaml,title=INCONCLUSIVE energy of odd::")
    assert len(lines) == 2


def test_elsewhere_there_are_none(tmp_path: Path) -> None:
    assert annotation_lines([verdict()], {}) == []
    assert not write_step_summary(regression(), {})


def test_a_name_cannot_end_its_property_or_start_a_command() -> None:
    (line,) = annotation_lines([verdict("a,file=x::b\n::stop-commands::%0A")], ON_GITHUB)
    assert "\n" not in line
    assert "a%2Cfile=x%3A%3Ab%0A%3A%3Astop-commands%3A%3A%250A::" in line


def test_more_than_github_shows_is_said() -> None:
    lines = annotation_lines([verdict(f"e{number}") for number in range(12)], ON_GITHUB)
    assert len(lines) == 10
    assert lines[-1] == "::error title=REGRESSED::3 more experiments"
    assert len(annotation_lines([verdict(f"e{number}") for number in range(10)], ON_GITHUB)) == 10


def test_the_summary_is_appended(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_text("before\n")
    assert write_step_summary(regression(), {"GITHUB_STEP_SUMMARY": str(path)})
    text = path.read_text(encoding="utf-8")
    assert text.startswith("before\n## Energy of LLM inference")
    assert "1 REGRESSED" in text
    assert "| llama\\[batch\\_size\\:4\\] |" in text


def test_a_cell_stays_a_cell() -> None:
    one = experiment("a|b\n| `c` <img src=x> [d](e)")
    lines = summary(report([one])).splitlines()
    (row,) = [line for line in lines if "img" in line]
    assert row.startswith("| a\\|b \\| \\`c\\` \\<img src=x\\> \\[d\\]\\(e\\) | ")


def test_estimated_and_invalid_results_are_marked() -> None:
    one = experiment(result=replace(result(), meter="estimate", estimated=True, valid=False))
    assert "| estimate \\(estimated\\), INVALID |" in summary(report([one]))


def test_what_changed_is_told_of_decided_pairs_alone() -> None:
    worse = in_pairs("a|b", change=0.1)
    tokens = replace(worse.result, output_tokens=33.0)
    worse = replace(worse, result=tokens, more_runs=(tokens,) * 3)
    text = summary(report_of_pairs(worse, in_pairs("fine"), in_pairs("young", pairs=1)))
    assert "| 4 pairs vs main |" in text
    assert [line for line in text.splitlines() if line.startswith("###")] == ["### What changed in a\\|b"]
    changed = text.partition("###")[2].splitlines()[2:]
    assert [line.split(" | ")[0] for line in changed[: changed.index("")]] == [
        "| quantity",
        "| ---",
        "| energy of a call",
        "| latency of a call",
        "| mean power",
        "| output tokens of a call",
    ]
    assert "| 33.00 | 32.00 | \\+3.1% \\[\\+3.1%, \\+3.1%\\] |" in text


def test_many_changes_are_cut_short() -> None:
    lines = summary(report_of_pairs(*(in_pairs(f"e{number}", change=0.1) for number in range(12)))).splitlines()
    assert len([line for line in lines if line.startswith("###")]) == 10
    assert "... and in 2 more experiments" in lines


def test_an_annotation_names_the_other_side() -> None:
    made = report_of_pairs(in_pairs(change=0.1))
    lines = annotation_lines(made.judged, ON_GITHUB)
    assert len(lines) == 2
    assert all("4 pairs vs main" in line for line in lines)


def test_across_engines_it_says_what_can_be_compared() -> None:
    first, second = on_both_engines()
    assert "A call is not the same work with each backend" in summary(report([first, second]))
    assert "not the same work" not in summary(report([first]))

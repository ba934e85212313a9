"""The summary on the terminal."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.report.terminal import write_summary
from tests.unit.report.examples import experiment, in_pairs, judged_pairs, on_both_engines, result
from tests.unit.report.test_explanations import BATCHES, COMPILE, STATIC, idle, rounds

if TYPE_CHECKING:
    from pytest_llem.records.record import Record

SPENT = {"measured": 3.0, "load": 1.0}


@pytest.fixture
def summary(pytester: pytest.Pytester) -> Any:
    """What pytest's own reporter writes of records."""

    def write(records: list[Record], *options: str) -> list[str]:
        file = io.StringIO()
        config = pytester.parseconfig(*options)
        judged = [found for record in records if record.against for found in judged_pairs(record)]
        write_summary(pytest.TerminalReporter(config, file), records, judged, [])
        return file.getvalue().splitlines()

    return write


def named(name: str, record: Record) -> Record:
    return replace(record, name=name, nodeid=name)


def test_boards_that_waited_are_told_once_for_each_remedy(summary: Any) -> None:
    records = [
        named("a", idle(0.65)),
        named("b", idle(0.8)),
        named("c", idle(0.7, config={"model": "builtin:tiny-llama", "pytorch": {"batch_size": 8}})),
        named("d", idle(0.3)),
    ]
    lines = [line for line in summary(records) if "waited" in line]
    assert lines == [
        "2 experiments: idle power is 65% to 80% of the energy: the board waited for the host; what may change that: "
        f"{STATIC}, {COMPILE}, {BATCHES}",
        f"c: idle power is 70% of the energy: the board waited for the host; what may change that: {STATIC}, {COMPILE}",
    ]


def test_the_idle_share_has_a_column_where_it_is_known(summary: Any) -> None:
    lines = summary([named("a", idle(0.65)), named("b", idle(None))])
    heading, first, second = (next(line for line in lines if line.startswith(name)) for name in ("exp", "a ", "b "))
    assert heading.split("  ")[-2:] == ["idle share", "meter"]
    assert first.split()[-2:] == ["65%", "nvml"]
    assert second.split()[-2:] == ["-", "nvml"]
    assert not any("idle share" in line for line in summary([experiment()]))


def test_joined_windows_are_named(summary: Any) -> None:
    assert summary([experiment(result=result(boundaries="joined"))])[-1].endswith(" nvml (joined)")
    both = result(boundaries="joined", meter="estimate", estimated=True)
    assert summary([experiment(result=both)])[-1].endswith(" estimate (estimated, joined)")


def test_rounds_that_differ_are_named_in_verbose_sessions(summary: Any) -> None:
    record = experiment(result=rounds((1.0, 100.0), (1.1, 110.0)))
    assert "llama: rounds differ by 10%: the time by 10%, the power by 0%" in summary([record], "-v")
    assert not any("rounds differ" in line for line in summary([record]))


def test_the_share_of_measured_time_ends_the_results(summary: Any) -> None:
    record = experiment(result=result(spent_s=SPENT))
    assert summary([record])[-1] == "llem: 3.0 s of 4.0 s (75%) were measured; loading the model 1.0 s"
    assert summary([record], "-q") == []


def test_pairs_have_a_table_after_the_results_and_before_the_verdicts(summary: Any) -> None:
    lines = summary([in_pairs(change=0.1), experiment("alone"), in_pairs("one", pairs=1)])
    at = next(number for number, line in enumerate(lines) if "against main (intervals of 95% over pairs)" in line)
    assert [line.split("  ")[0] for line in lines[:at]][-3:] == ["llama", "alone", "one"]
    table = [[cell.strip() for cell in line.split("  ") if cell] for line in lines[at + 1 : at + 4]]
    assert table == [
        ["experiment", "energy/call, this / other", "change", "time change", "power change", "pairs"],
        ["llama", "110.1 J / 100.0 J", "+10.1% [+9.2%, +10.9%]", "+4.9% [+4.5%, +5.3%]", "+4.9% [+4.5%, +5.3%]", "4"],
        ["one", "100.0 J / 100.0 J", "+0.0%", "+0.0%", "+0.0%", "1"],
    ]
    assert [line.split("  ")[0].strip() for line in lines[-4:]] == ["REGRESSED", "REGRESSED", *["INCONCLUSIVE"] * 2]
    assert not any("against" in line for line in summary([experiment()]))


def test_what_disturbed_a_pair_names_its_side(summary: Any) -> None:
    record = in_pairs(pairs=3)
    hot = result(valid=False, warnings=["hot"])
    first, second, third = record.other_runs
    record = replace(
        record,
        more_runs=(hot, replace(record.more_runs[1], warnings=["a remark"])),
        other_runs=(first, second, replace(third, result=hot)),
    )
    for options in ([], ["-q"]):
        lines = [line for line in summary([record], *options) if line.startswith(("INVALID", "llama: "))]
        expected = ["INVALID llama, pair 2", "INVALID llama on main, pair 3", "llama: hot", "llama: main: hot"]
        assert [line for line in lines if "remark" not in line] == expected
        assert ("llama: a remark" in lines) is (options == [])


def test_without_joules_pairs_have_times(summary: Any) -> None:
    record = in_pairs(pairs=1)
    none = replace(record, result=result(None, 2.2), other_runs=(replace(record.other_runs[0], result=result(None)),))
    (line,) = [line for line in summary([none]) if line.endswith(" 1")]
    assert line.split() == ["llama", "-", "-", "+10.0%", "-", "1"]


def test_across_engines_it_says_what_can_be_compared(summary: Any) -> None:
    first, second = on_both_engines()
    lines = summary([first, second])
    assert any("compare joules and seconds per output token" in line for line in lines)
    assert not any("compare joules" in line for line in summary([named("a", first), named("b", first)]))

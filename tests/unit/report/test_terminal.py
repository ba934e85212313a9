"""The summary on the terminal."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.report.terminal import write_summary
from tests.unit.report.examples import experiment, result
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
        write_summary(pytest.TerminalReporter(config, file), records, [], [])
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

"""What an experiment and a command line make of the protocol of a measurement."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_llem.config import ExperimentConfig
from pytest_llem.measurement.experiment import protocol, turns_of
from pytest_llem.measurement.windows import Protocol
from pytest_llem.meters import open_meter


def experiment(**measure: Any) -> ExperimentConfig:
    return ExperimentConfig.model_validate({"model": "gpt2", "measure": measure})


@pytest.mark.parametrize(
    ("measure", "settings", "expected"),
    [
        ({}, {}, Protocol(rounds=10, warmup_rounds=2, min_window_s=1.0)),
        ({"min_window_s": "auto"}, {}, Protocol(rounds=10, warmup_rounds=2, min_window_s=1.0)),
        (
            {"rounds": 3, "warmup_rounds": 7, "min_window_s": 0.25},
            {},
            Protocol(rounds=3, warmup_rounds=7, min_window_s=0.25),
        ),
        (
            {"rounds": 3, "min_window_s": 0.25},
            {"rounds": 4, "min_window_s": 0.0},
            Protocol(rounds=4, warmup_rounds=2, min_window_s=0.0),
        ),
    ],
)
def test_the_command_line_wins_over_the_file(
    measure: dict[str, Any], settings: dict[str, Any], expected: Protocol
) -> None:
    with open_meter("none") as meter:
        assert protocol(experiment(**measure), meter, **settings) == expected


@pytest.mark.parametrize(("rounds", "expected"), [(3, 4), (4, 4), ("auto", 8)])
def test_windows_that_take_turns_make_whole_blocks(rounds: Any, expected: int) -> None:
    # As long as these, windows of an open number are joined where nothing else is said.
    precision = {"precision": "0.1%"} if rounds == "auto" else {}
    config, meter = experiment(rounds=rounds, min_window_s=1.0, **precision), open_meter("none")
    assert protocol(config, meter).joined is (rounds == "auto")
    asked = protocol(config, meter, by_turns=True)
    assert (asked.rounds, asked.joined) == (expected, False)


def test_a_meter_knows_that_others_worked_before_each_window() -> None:
    told: list[Any] = []
    meter: Any = SimpleNamespace(others_worked=lambda: told.append("others worked"))
    assert turns_of(None, meter) is None
    turns = turns_of(lambda *windows: told.append(windows), meter)
    assert turns is not None
    turns(0, 4)
    assert told == ["others worked", (0, 4), "others worked"]

"""What the fixtures hand over to the protocol of a measurement."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_llem.config import ExperimentConfig
from pytest_llem.measurement.windows import Protocol
from pytest_llem.meters import open_meter
from pytest_llem.runs import _turns, item_meter, protocol


def session(*, await_turn: Any = None, **settings: Any) -> Any:
    defaults = {"rounds": None, "min_window_s": None, "device": "cpu"}
    return SimpleNamespace(
        settings=SimpleNamespace(**{**defaults, **settings}),
        meter=lambda _: open_meter("none"),
        deadline=None,
        await_turn=await_turn,
    )


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
        assert protocol(experiment(**measure), session(**settings), meter) == expected


def test_windows_on_a_gpu_wait_for_queued_work(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[int] = []
    cuda = SimpleNamespace(is_initialized=lambda: True, device_count=lambda: 2, synchronize=waited.append)
    monkeypatch.setitem(__import__("sys").modules, "torch", SimpleNamespace(cuda=cuda))
    with item_meter(None, session(device="cuda")).window():
        assert waited == [0, 1]
    assert waited == [0, 1, 0, 1]
    waited.clear()
    with item_meter(None, session(device="cpu")).window():
        pass
    assert waited == []


@pytest.mark.parametrize(("left_s", "limits_s"), [(None, [60.0, 5.0]), (7.0, [7.0, 5.0]), (-1.0, [0.0, 0.0])])
def test_a_device_cools_down_for_no_longer_than_the_session_lasts(left_s: float | None, limits_s: list[float]) -> None:
    waited_s: list[float] = []
    of_session = session()
    of_session.meter = lambda _: SimpleNamespace(cool_down=waited_s.append)
    of_session.deadline = None if left_s is None else SimpleNamespace(left_s=left_s)
    meter = item_meter(None, of_session)
    meter.cool_down()
    meter.cool_down(5.0)
    assert waited_s == limits_s


@pytest.mark.parametrize(("rounds", "expected"), [(3, 4), (4, 4), ("auto", 8)])
def test_windows_that_take_turns_make_whole_blocks(rounds: Any, expected: int) -> None:
    # As long as these, windows of an open number are joined where nothing else is said.
    precision = {"precision": "0.1%"} if rounds == "auto" else {}
    config, meter = experiment(rounds=rounds, min_window_s=1.0, **precision), open_meter("none")
    assert protocol(config, session(), meter).joined is (rounds == "auto")
    asked = protocol(config, session(await_turn=lambda *_: None), meter)
    assert (asked.rounds, asked.joined) == (expected, False)


def test_a_meter_knows_that_others_worked_before_each_window() -> None:
    told: list[Any] = []
    meter: Any = SimpleNamespace(others_worked=lambda: told.append("others worked"))
    assert _turns(session(), meter) is None
    turns = _turns(session(await_turn=lambda *windows: told.append(windows)), meter)
    assert turns is not None
    turns(0, 4)
    assert told == ["others worked", (0, 4), "others worked"]

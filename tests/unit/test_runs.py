"""The meter that the fixtures hand out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_llem.meters import open_meter
from pytest_llem.runs import item_meter


def session(device: str = "cpu") -> Any:
    settings = SimpleNamespace(device=device)
    return SimpleNamespace(settings=settings, meter=lambda _: open_meter("none"), deadline=None)


def test_windows_on_a_gpu_wait_for_queued_work(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[int] = []
    cuda = SimpleNamespace(is_initialized=lambda: True, device_count=lambda: 2, synchronize=waited.append)
    monkeypatch.setitem(__import__("sys").modules, "torch", SimpleNamespace(cuda=cuda))
    with item_meter(None, session("cuda")).window():
        assert waited == [0, 1]
    assert waited == [0, 1, 0, 1]
    waited.clear()
    with item_meter(None, session()).window():
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

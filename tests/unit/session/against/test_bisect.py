"""By what two revisions are told apart."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_llem.session.against.bisect import _largest_change
from pytest_llem.verdict.decision import Status


def judged(status: Status, change: float | None, spread: float | None) -> Any:
    known = None if spread is None else SimpleNamespace(relative=spread)
    return SimpleNamespace(verdict=SimpleNamespace(status=status, change=change, spread=known))


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([judged(Status.REGRESSED, 0.10, 0.05), judged(Status.IMPROVED, -0.05, 0.01)], 1),
        # With rule=point there is no spread.
        ([judged(Status.OK, 0.01, 0.01), judged(Status.REGRESSED, 0.10, None)], 1),
        # Other tokens have no size, but a commit that they came with.
        ([judged(Status.REGRESSED, None, None)], 0),
        ([judged(Status.REGRESSED, None, None), judged(Status.REGRESSED, 0.10, 0.05)], 1),
        ([judged(Status.OK, 0.01, 0.01)], None),
    ],
)
def test_the_change_that_stands_out_most_is_looked_for(verdicts: list[Any], expected: int | None) -> None:
    plugin: Any = SimpleNamespace(judge=lambda _: verdicts)
    state: Any = SimpleNamespace(records={"a": None})
    found = _largest_change(plugin, state)
    assert (found and found.judged) is (None if expected is None else verdicts[expected])

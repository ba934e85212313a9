"""The times of tokens that an engine notes itself, as the figures of a call."""

from __future__ import annotations

import pytest

from pytest_llem.engines.base import CallTiming
from pytest_llem.engines.serving.times import NotedTimes, timing
from pytest_llem.errors import MeasurementError

# A call from 100 s to 110 s. The second sequence waits for the end of the first, the third has one token.
WAITING = [NotedTimes(100.0, 101.0, 104.0, 4), NotedTimes(104.0, 106.0, 110.0, 3), NotedTimes(104.0, 105.0, 105.0, 1)]


def test_a_first_token_is_waited_for_from_the_call_and_further_ones_from_the_last() -> None:
    found = timing(100.0, WAITING, 110.0, "x")
    assert found == CallTiming((1 + 6 + 5) / 3, (3 / 3 + 4 / 2) / 2, at_once=False)


def test_a_sequence_alone_has_its_first_token_at_once_and_two_may_have_them_apart() -> None:
    assert timing(100.0, WAITING[2:], 110.0, "x") == CallTiming(5.0, None)
    # In this pass both were begun in one step.
    assert not timing(100.0, [WAITING[0], WAITING[0]], 110.0, "x").at_once


@pytest.mark.parametrize(
    "noted",
    [
        NotedTimes(99.9, 101.0, 104.0, 2),
        NotedTimes(100.0, 99.9, 104.0, 2),
        NotedTimes(102.0, 101.0, 104.0, 2),
        NotedTimes(100.0, 105.0, 104.0, 2),
        NotedTimes(100.0, 101.0, 110.1, 2),
        NotedTimes(0.0, 0.0, 0.0, 2),
    ],
)
def test_times_out_of_order_or_outside_of_the_call_are_refused(noted: NotedTimes) -> None:
    with pytest.raises(MeasurementError, match=r"^the times that x notes .* do not lie within the call"):
        timing(100.0, [WAITING[0], noted], 110.0, "x")

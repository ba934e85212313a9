"""A sensor of another package beside the boards, and what becomes of its failures."""

from __future__ import annotations

import math

import pytest

from pytest_llem.errors import MeterUnavailableError
from pytest_llem.meters.base import Covers, HostReading, MeterRequest
from pytest_llem.meters.host import Host, check_host, open_host, sum_of


class Broken:
    """Fails where it is told to."""

    name = "broken"
    covers: Covers = "host"

    def __init__(self, at: str = "") -> None:
        self.at = at

    def begin(self) -> float:
        if self.at == "begin":
            raise KeyError("no such register")
        return 5.0

    def end(self, begun: float, start_s: float, end_s: float) -> tuple[float, float]:
        if self.at == "end":
            raise RuntimeError("gone")
        return begun * (end_s - start_s), 0.1

    def close(self) -> None:
        """Nothing."""


@pytest.mark.parametrize(("at", "reason"), [("begin", "KeyError: 'no such register'"), ("end", "RuntimeError: gone")])
def test_whatever_a_sensor_raises_is_the_reason(at: str, reason: str) -> None:
    host = Host(Broken(at))
    assert host.end(host.begin(), 1.0, 3.0) == HostReading("broken", reason=reason)


@pytest.mark.parametrize("joules", [math.nan, math.inf, -3.0])
def test_what_is_no_energy_is_not_passed_on(joules: float) -> None:
    reading = Host(Broken()).end(joules, 1.0, 2.0)
    assert reading is not None
    assert (reading.joules, reading.uncertainty_j) == (None, None)
    assert reading.reason == f"{joules} J with an uncertainty of 0.1 J is no energy"


def test_what_it_says_becomes_the_reading() -> None:
    host = Host(Broken())
    assert host.end(host.begin(), 1.0, 3.0) == HostReading("broken", "host", 10.0, 0.1)


def test_names_are_checked_with_the_nearest() -> None:
    with pytest.raises(MeterUnavailableError, match=r"unknown host sensor 'rappl'; use one of auto.*mean rapl\?"):
        check_host("rappl")


def test_none_reads_nothing_and_has_no_reason() -> None:
    host = open_host(MeterRequest(host="none"))
    assert host.end(host.begin(), 0.0, 1.0) is None


def test_a_sum_adds_up_what_errs_alike_and_is_unknown_with_an_unknown_term() -> None:
    one, other = HostReading("rapl", "host", 5.0, 0.1), HostReading("rapl", "host", 7.0, 0.2)
    assert sum_of([one, other]) == HostReading("rapl", "host", 12.0, 0.1 + 0.2)
    failed = HostReading("rapl", reason="gone")
    assert sum_of([one, failed, other]) == failed
    assert sum_of([None, None]) is None

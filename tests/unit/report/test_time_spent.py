"""Where the seconds went."""

from __future__ import annotations

from dataclasses import replace

from pytest_llem.measurement.account import ENTRIES
from pytest_llem.report.time_spent import ORDER, session_line, share_line, total
from tests.unit.report.examples import experiment, result

SPENT = {"load": 12.0, "checks": 1.0, "idle": 3.0, "warm-up": 8.0, "sensor": 7.4, "measured": 57.0, "other": 4.6}


def test_the_largest_come_first_and_small_ones_together() -> None:
    assert share_line(SPENT) == (
        "57 s of 93 s (61%) were measured; loading the model 12 s, warming up 8.0 s, waiting for the sensor 7.4 s, the "
        "rest 8.6 s"
    )


def test_nothing_is_named_that_took_no_time() -> None:
    assert share_line({"measured": 9.0, "load": 1.0}) == "9.0 s of 10 s (90%) were measured; loading the model 1.0 s"
    assert share_line({"measured": 2.0}) == "2.0 s of 2.0 s (100%) were measured"
    assert share_line({}) is None


def test_all_seconds_are_in_the_total() -> None:
    # An entry of another version is no longer known by name, but took its time.
    sums = total([SPENT, {"measured": 3.0, "an entry of another version": 1.4}])
    assert sums["measured"] == 60.0
    assert sums["other"] == 6.0
    assert sum(sums.values()) == sum(SPENT.values()) + 4.4


def test_every_entry_is_drawn_once() -> None:
    assert sorted(ORDER) == sorted(ENTRIES)
    assert ORDER[0] == "measured"


def test_this_session_alone_counts_where_it_measured_anything() -> None:
    short, long = result(spent_s={"measured": 1.0, "load": 1.0}), result(spent_s={"measured": 30.0, "load": 10.0})
    now, earlier = experiment("now", result=short), experiment("earlier", result=long, from_journal=True)
    assert session_line([now]) == "1.0 s of 2.0 s (50%) were measured; loading the model 1.0 s"
    assert session_line([earlier, now]) == (
        "in this session, which measured 1 of 2 results, 1.0 s of 2.0 s (50%) were measured; loading the model 1.0 s"
    )
    assert session_line([earlier]) == (
        "in the sessions that measured these results, 30 s of 40 s (75%) were measured; loading the model 10 s"
    )


def test_further_runs_for_a_verdict_count_as_well() -> None:
    one = experiment(result=result(spent_s={"measured": 1.0}))
    again = replace(one, more_runs=(result(spent_s={"measured": 1.0, "load": 2.0}),))
    assert session_line([again]) == "2.0 s of 4.0 s (50%) were measured; loading the model 2.0 s"


def test_results_without_an_account_have_no_line() -> None:
    assert session_line([experiment()]) is None
    assert session_line([]) is None

"""What is known before a session on one of several boards: which gates can decide, and what is urgent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_llem.session.budget import urgency
from pytest_llem.session.gating import announce
from pytest_llem.session.priorities import Urgency
from pytest_llem.verdict.history import read_files
from pytest_llem.verdict.limits import parse_limit

SETTINGS: Any = SimpleNamespace(gates={"energy": parse_limit("2.5%..5%")}, error_rates=(0.05, 0.025), last=20)
ITEM: Any = SimpleNamespace(nodeid="a", get_closest_marker=lambda _: None, fixturenames=["llem_benchmark"])


def environment(uuid: str, **changes: Any) -> dict[str, Any]:
    board = {"uuid": uuid, "name": "H100", "driver_version": "580.1", "power_limit_w": 700.0} | changes
    return {"device": "cuda", "boards": [board], "meter": "nvml"}


def session(uuid: str, joules: float, verdict: str = "OK", **changes: Any) -> dict[str, Any]:
    """A saved session on one board."""
    info = {
        "nodeid": "a",
        "metric": "energy",
        "workload_hash": "w",
        "environment_hash": uuid,
        "environment": environment(uuid, **changes),
        "verdict": verdict,
        "result": {"valid": True, "per_round": [{"joules": joules, "seconds": 1.0}]},
    }
    return {"benchmarks": [{"extra_info": info}]}


SAVED = [session(uuid, level * noise) for noise in (0.996, 1.004, 1.0) for uuid, level in (("a", 100.0), ("b", 110.0))]


def lines(here: str, saved: list[dict[str, Any]]) -> list[str]:
    return announce([ITEM], SETTINGS, read_files(saved), environment(here), verbose=False)


def urgent(here: str, saved: list[dict[str, Any]]) -> Urgency:
    return urgency([ITEM], SETTINGS, saved, environment(here))["a"]


def test_the_announcement_is_of_the_board_that_is_here() -> None:
    (known,) = lines("a", SAVED)
    assert "1 of 1 gates have a baseline with a known spread" in known
    (new,) = lines("c", SAVED)
    assert "1 of 1 gates have saved runs from other boards of this model alone" in new
    (other,) = lines("c", [session("a", 100.0, name="A100")])
    assert "from another environment alone" in other


def test_a_board_seen_once_is_announced_with_the_spread_of_the_others() -> None:
    assert "smallest change that can be caught" in lines("c", [*SAVED, session("c", 105.0), *SAVED])[0]


@pytest.mark.parametrize(
    ("here", "saved", "expected"),
    [
        ("a", SAVED, Urgency.CLEAR),
        ("c", SAVED, Urgency.OPEN),
        ("c", [*SAVED * 3, session("c", 105.0)], Urgency.CLEAR),
        # What stayed open on a board that was new there says nothing here; a regression is one on all boards.
        ("a", [*SAVED, session("c", 105.0, "INCONCLUSIVE")], Urgency.CLEAR),
        ("a", [*SAVED, session("a", 100.0, "INCONCLUSIVE")], Urgency.OPEN),
        ("a", [*SAVED, session("b", 150.0, "REGRESSED")], Urgency.OPEN),
    ],
)
def test_a_gate_is_urgent_by_what_its_board_can_decide(
    here: str, saved: list[dict[str, Any]], expected: Urgency
) -> None:
    assert urgent(here, saved) is expected


def test_where_the_environment_is_unknown_any_saved_run_may_be_of_it() -> None:
    assert urgency([ITEM], SETTINGS, SAVED, None) == {"a": Urgency.CLEAR}

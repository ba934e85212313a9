"""Dividing experiments among parts."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pytest_llem.session.shards import assign, durations_s

GROUPS = [["a1", "a2", "a3"], ["b1"], ["c1"], ["d1"]]


def test_without_durations_the_parts_have_the_same_number_of_experiments() -> None:
    part_of = assign(GROUPS, {}, 2)
    assert part_of == {"a1": 1, "a2": 1, "a3": 1, "b1": 2, "c1": 2, "d1": 2}


def test_durations_and_one_load_a_group_decide() -> None:
    known = {"a1": (1.0, 3.0), "a2": (1.0, 3.0), "a3": (1.0, 3.0), "b1": (7.0, 0.0), "c1": (1.0, 0.5), "d1": (1.0, 0.4)}
    # 7 s for b; 6 s for the a's, whose load counts once; then c (1.5 s) joins the a's, and d joins b.
    assert assign(GROUPS, known, 2) == {"b1": 1, "a1": 2, "a2": 2, "a3": 2, "c1": 2, "d1": 1}


def test_an_unknown_experiment_counts_as_the_mean_of_the_known() -> None:
    assert assign([["new"], ["x"], ["y"]], {"x": (1.0, 0.0), "y": (3.0, 0.0)}, 2) == {"y": 1, "new": 2, "x": 2}


def test_more_parts_than_groups_leaves_parts_empty() -> None:
    assert set(assign(GROUPS, {}, 9).values()) == {1, 2, 3, 4}


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=8),
    st.lists(st.floats(0.0, 100.0), min_size=32, max_size=32),
    st.integers(1, 5),
    st.randoms(),
)
def test_groups_stay_together_whatever_their_order(
    sizes: list[int], seconds: list[float], parts: int, order: object
) -> None:
    numbers = itertools.count()
    groups = [[f"n{next(numbers)}" for _ in range(size)] for size in sizes]
    known = {nodeid: (seconds[int(nodeid[1:])], 0.0) for group in groups for nodeid in group}
    part_of = assign(groups, known, parts)
    assert set(part_of) == {nodeid for group in groups for nodeid in group}
    assert all(len({part_of[nodeid] for nodeid in group}) == 1 for group in groups)
    order.shuffle(groups)  # type: ignore[attr-defined]
    assert assign([group[::-1] for group in groups], known, parts) == part_of


def row(nodeid: str, seconds: float, load_s: float | None) -> dict[str, Any]:
    result = {"per_round": [{"seconds": seconds}] * 2, "prefill_rounds": [{"seconds": 1.0}], "load_s": load_s}
    return {"extra_info": {"nodeid": nodeid, "result": result}}


def test_durations_are_of_the_newest_whole_session() -> None:
    saved: list[dict[str, Any]] = [
        {"benchmarks": [row("a", 1.0, 5.0), row("b", 2.0, None)]},
        {"benchmarks": [row("a", 3.0, 6.0), {"extra_info": {}}, {"name": "another plugin's"}]},
        {"benchmarks": [row("a", 9.0, 9.0)], "llem_shard": "1/2"},
    ]
    assert durations_s(saved) == {"a": (7.0, 6.0), "b": (5.0, 0.0)}

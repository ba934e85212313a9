"""The ``measure:`` section: rounds that are decided while they run, and how windows are bounded."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pytest_llem.config import MeasureConfig


@pytest.mark.parametrize("field", ["precision", "budget_s"])
def test_what_only_undecided_rounds_have_is_refused_beside_a_number(field: str) -> None:
    given: dict[str, Any] = {"precision": "1%", "budget_s": 30.0}
    MeasureConfig(rounds="auto", **{field: given[field]})
    with pytest.raises(ValidationError, match="has no effect with rounds: 10; set rounds: auto or remove it"):
        MeasureConfig(**{field: given[field]})


@pytest.mark.parametrize("precision", ["1", "0%", "100%", "1%..2%", "1%;rule=point", "x", "-1%"])
def test_a_precision_is_a_percentage(precision: str) -> None:
    with pytest.raises(ValidationError, match="is no precision; write a percentage such as 1%"):
        MeasureConfig(rounds="auto", precision=precision)


@pytest.mark.parametrize(
    ("given", "joined"),
    [
        ({}, False),
        ({"min_window_s": 0.05}, False),
        ({"rounds": "auto"}, False),
        ({"rounds": "auto", "min_window_s": 0.5}, False),
        ({"rounds": "auto", "min_window_s": 0.4}, True),
        ({"rounds": "auto", "min_window_s": 0.4, "precision": "2%"}, False),
        ({"rounds": "auto", "precision": "0.5%"}, True),
        ({"rounds": "auto", "min_window_s": 0.2, "boundaries": "settled"}, False),
        ({"boundaries": "joined"}, True),
        ({"rounds": "auto", "min_window_s": 0.04}, False),
        ({"rounds": "auto", "min_window_s": 0.0}, False),
    ],
)
def test_windows_are_joined_where_settled_ones_cannot_be_so_precise(given: dict[str, Any], joined: bool) -> None:
    assert MeasureConfig(**given).is_joined is joined

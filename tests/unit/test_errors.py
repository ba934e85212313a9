"""Errors carry what they are about as data, and show it in one way."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from pytest_llem.errors import ExperimentFileError, LlemError, LoadError, MeterUnavailableError, about


@pytest.mark.parametrize(
    ("about", "text"),
    [
        ({}, "is wrong"),
        ({"field": "pytorch.lora"}, "pytorch.lora: is wrong"),
        ({"field": "model", "value": "a/b"}, "model 'a/b': is wrong"),
        ({"field": "pytorch.use_cache", "value": False}, "pytorch.use_cache false: is wrong"),
        ({"file": "a.yaml"}, "a.yaml: is wrong"),
        ({"file": "a.yaml", "line": 3, "field": "base"}, "a.yaml:3: base: is wrong"),
        ({"meter": "nvml"}, "nvml meter: is wrong"),
    ],
)
def test_the_text_is_made_of_the_data(about: dict[str, Any], text: str) -> None:
    error = LlemError("is wrong", **about)
    assert str(error) == text
    assert {name: getattr(error, name) for name in about} == about
    assert error.message == "is wrong"


def test_no_control_character_reaches_the_terminal() -> None:
    assert str(LoadError("is\x1b[31m", field="model", value="a\nb", file="c\rd")) == r"c\rd: model 'a\nb': is\x1b[31m"


def test_an_error_of_another_process_keeps_its_data() -> None:
    error = pickle.loads(pickle.dumps(MeterUnavailableError("is missing", meter="nvml")))  # noqa: S301
    assert (error.message, error.meter, str(error)) == ("is missing", "nvml", "nvml meter: is missing")
    error = pickle.loads(pickle.dumps(ExperimentFileError("is empty", file="a", line=1, excerpt="-->")))  # noqa: S301
    assert (str(error), error.excerpt) == ("a:1: is empty", "-->")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (LlemError("is wrong"), "model 'a': is wrong"),
        (LlemError("is wrong", field="pytorch.lora"), "pytorch.lora: is wrong"),
        (LlemError("is wrong", meter="rapl"), "rapl meter: is wrong"),
        (LlemError("is wrong", file="b"), "b: is wrong"),
    ],
)
def test_an_error_that_says_nothing_is_about_what_was_under_way(error: LlemError, text: str) -> None:
    with pytest.raises(LlemError) as caught, about(field="model", value="a"):
        raise error
    assert caught.value is error
    assert str(error) == text


def test_the_line_of_an_error_is_that_of_the_file_under_way() -> None:
    with pytest.raises(LlemError, match=r"^prompts\.txt:3: is wrong$"), about(file="prompts.txt"):
        raise LlemError("is wrong", line=3)

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llem.verdict.limits import Limit, parse_limit


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("5%", Limit(0.025, 0.05)),
        ("2%..5%", Limit(0.02, 0.05)),
        ("0%..5%", Limit(0.0, 0.05)),
        ("5%..5%", Limit(0.05, 0.05)),
        ("2.5%..7.5%", Limit(0.025, 0.075)),
        (".5%", Limit(0.0025, 0.005)),
        ("3%;rule=point", Limit(0.015, 0.03, "point")),
        ("2%..5%;rule=interval", Limit(0.02, 0.05)),
        (" 2 % .. 5 % ; rule=point ", Limit(0.02, 0.05, "point")),
    ],
)
def test_reads_a_limit(text: str, limit: Limit) -> None:
    assert parse_limit(text) == limit


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5", "'5' is no limit; write a percentage such as 5% or a range such as 2%..5%"),
        ("", "'' is no limit; write a percentage such as 5% or a range such as 2%..5%"),
        ("2..5%", "'2..5%' is no limit; write a percentage such as 5% or a range such as 2%..5%"),
        ("5%..", "'5%..' is no limit; write a percentage such as 5% or a range such as 2%..5%"),
        ("1e1%", "'1e1%' is no limit; write a percentage such as 5% or a range such as 2%..5%"),
        ("nan%", "'nan%' is no limit; write a percentage such as 5% or a range such as 2%..5%"),
        ("-5%", "'-5%' is negative; write how much worse is too much, for example 5%"),
        ("-2%..5%", "'-2%..5%' is negative; write how much worse is too much, for example 5%"),
        ("5%..2%", "'5%..2%' is reversed; write the smaller percentage first, for example 2%..5%"),
        ("0%", "'0%' allows no change at all, which noise alone exceeds; write for example 5%"),
        ("1%..2%..3%", "'1%..2%..3%' has more than one `..`; write for example 2%..5%"),
        ("same", "'same' is the limit of output alone; write a percentage, for example 5%"),
        ("5%;rule=same", "'5%;rule=same' has an unknown option; write rule=interval or rule=point"),
        ("5%;rule=mean", "'5%;rule=mean' has an unknown option; write rule=interval or rule=point"),
        ("5%;", "'5%;' has an unknown option; write rule=interval or rule=point"),
        ("5%;rule=point;x", "'5%;rule=point;x' has more than one `;`; write for example 5%;rule=point"),
    ],
)
def test_refuses_what_is_no_limit_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="write") as caught:
        parse_limit(text)
    assert str(caught.value) == message


@pytest.mark.parametrize("text", ["9" * 5000 + "%", "0." + "0" * 400 + "1%"])
def test_refuses_numbers_that_a_float_cannot_hold_and_quotes_them_shortened(text: str) -> None:
    with pytest.raises(ValueError, match="write for example 5%") as caught:
        parse_limit(text)
    assert len(str(caught.value)) < 150


@given(
    st.tuples(st.integers(0, 10**7), st.integers(1, 10**7)).map(sorted),
    st.sampled_from(["", ";rule=point", ";rule=interval"]),
)
def test_text_of_a_limit_reads_back_as_the_same_limit(bounds: list[int], rule: str) -> None:
    limit = parse_limit(f"{bounds[0] / 1000:.3f}%..{bounds[1] / 1000:.3f}%{rule}")
    assert parse_limit(str(limit)) == limit


def test_text_has_no_digits_of_binary_rounding() -> None:
    assert str(parse_limit("3.5%..7%;rule=point")) == "3.5%..7%;rule=point"

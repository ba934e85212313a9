"""Sizes of memory, as people read them."""

from __future__ import annotations

import pytest

from pytest_llem.sizes import size


@pytest.mark.parametrize(
    ("number_bytes", "text"),
    [
        (0, "0 B"),
        (7, "7 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (1023, "0.999 KiB"),
        (2**10, "1.00 KiB"),
        (20 * 2**10, "20.0 KiB"),
        (999 * 2**10, "999 KiB"),
        (1020 * 2**20, "0.996 GiB"),
        (1_363_149, "1.30 MiB"),
        (80 * 2**30, "80.0 GiB"),
        (9.996 * 2**30, "10.0 GiB"),
        (1023 * 2**40, "0.999 PiB"),
    ],
)
def test_three_digits_and_never_an_exponent(number_bytes: float, text: str) -> None:
    assert size(number_bytes) == text

"""Numbers for people."""

from __future__ import annotations

import pytest

from pytest_llem.report.quantities import number, with_uncertainty


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "J", "-"),
        (0.0, "J", "0.000 J"),
        (1.0, "J", "1.000 J"),
        (0.01234, "J", "12.34 mJ"),
        (999.9, "s", "999.9 s"),
        (12345.6, "J", "12.35 kJ"),
        (2.5e-12, "J", "0.002500 nJ"),
        (1234.5, "", "1.234 k"),
    ],
)
def test_numbers_have_four_digits_and_a_prefix(value: float | None, unit: str, text: str) -> None:
    assert number(value, unit) == text


@pytest.mark.parametrize(
    ("value", "half_width", "text"),
    [
        (None, None, "-"),
        (1.2345, 0.012, "1.234 ± 0.012 J"),
        (0.0123456, 0.00045, "12.35 ± 0.45 mJ"),
        (123.456, 7.8, "123.5 ± 7.8 J"),
        (1234.0, 56.0, "1.234 ± 0.056 kJ"),
        (5.0, 40.0, "5 ± 40 J"),
        (-0.011, 54.872, "0 ± 55 J"),
        (1.0, None, "1.000 ± ? J"),
    ],
)
def test_values_end_where_their_uncertainty_does(value: float | None, half_width: float | None, text: str) -> None:
    assert with_uncertainty(value, half_width, "J") == text

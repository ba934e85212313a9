"""The written reference is that of the fields."""

from __future__ import annotations

from pathlib import Path

from docs.field_reference import reference
from pytest_llem.config.names import fields

PAGE = Path(__file__).parents[3] / "docs" / "reference.md"


def test_the_page_is_not_stale() -> None:
    hint = "run: python docs/field_reference.py > docs/reference.md"
    assert PAGE.read_text(encoding="utf-8") == reference(), hint


def test_every_field_has_a_row_with_its_default_unit_and_stage() -> None:
    rows = {row.split("`")[1]: row for row in reference().splitlines() if row.startswith("| `")}
    assert set(fields()) <= set(rows)
    assert rows["max_output_tokens"].startswith("| `max_output_tokens` | whole number from 1 | `64` | tokens | call |")
    assert rows["pytorch.batch_size"].startswith("| `pytorch.batch_size` | whole number from 1 |  |  | batch |")
    assert rows["precision"].startswith("| `precision` | `fp32`, `fp16`, `bf16` | `bf16` |  | load |")
    assert rows["model"].startswith("| `model` | text | required |  | load |")
    # A cell must not end at a bar of its own.
    assert {row.replace("\\|", "").count("|") for row in rows.values()} == {3, 7}

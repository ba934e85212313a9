"""What a record is held against saved rows as."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_llem.session.gating import row_of
from pytest_llem.verdict.outputs import GeneratedSequence
from tests.unit.session.test_journal import recorded


@pytest.mark.parametrize(
    ("own", "again", "repeats"),
    [
        ({"output_repeats": True}, {}, True),
        ({"output_repeats": False}, {}, False),
        ({"output_repeats": True}, {"output_tokens_hash": "other"}, False),
        ({"output_repeats": None}, {}, None),
    ],
)
def test_a_row_says_whether_passes_and_processes_generated_the_same(
    own: dict[str, Any], again: dict[str, Any], repeats: bool | None
) -> None:
    record = recorded()
    result = replace(record.result, output_tokens_hash="hash", generated=[GeneratedSequence(1, [5])], **own)
    row = row_of(replace(record, result=result, more_runs=(replace(result, **again),)), "latency")
    assert row.output_repeats is repeats
    assert row.generated == (GeneratedSequence(1, [5]),)

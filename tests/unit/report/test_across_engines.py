"""Whether points of a sweep on different engines generated the same."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.report.across_engines import other_tokens, sweeps
from pytest_llem.report.html import render_html
from pytest_llem.verdict.outputs import GeneratedSequence
from tests.unit.report.examples import experiment, on_both_engines, report

if TYPE_CHECKING:
    from pytest_llem.records.record import Record

SEQUENCES = [GeneratedSequence(1, [5, 6, 7]), GeneratedSequence(2, [8, 9, 10])]
PARTED = [SEQUENCES[0], GeneratedSequence(2, [8, 9, 11])]


def generated(tokens: str, sequences: list[GeneratedSequence], **changes: Any) -> dict[str, Any]:
    return {"output_tokens_hash": tokens, "output_repeats": True, "generated": sequences, **changes}


def points(*outputs: dict[str, Any]) -> list[Record]:
    both = on_both_engines()
    return [replace(one, result=replace(one.result, **found)) for one, found in zip(both, outputs, strict=True)]


def test_the_position_is_told_where_the_tokens_are_kept() -> None:
    records = points(generated("a", SEQUENCES), generated("b", PARTED))
    ((record, text),) = other_tokens(records)
    assert record is records[1]
    assert text == "prompt 2, position 3: token 10 on pytorch, token 11 on vllm; 1 of 2 sequences differ"
    page = render_html(report(records))
    assert text in page
    # Below both overviews of calls, and in the sweep.
    assert page.count("compare joules and seconds per output token") == 3


def test_without_them_that_the_hashes_differ() -> None:
    ((_, text),) = other_tokens(points(generated("a", []), generated("b", [])))
    assert text.startswith("other tokens on vllm than on pytorch; at which position is not known")


@pytest.mark.parametrize(
    "outputs",
    [
        (generated("a", SEQUENCES), generated("a", SEQUENCES)),
        (generated("a", SEQUENCES, samples=True), generated("b", PARTED, samples=True)),
    ],
)
def test_the_same_tokens_and_drawn_ones_are_nothing_to_tell(outputs: tuple[dict[str, Any], ...]) -> None:
    assert list(other_tokens(points(*outputs))) == []


def test_the_counterpart_did_the_same_work() -> None:
    lengths = (16, 32)
    records = [
        experiment(
            f"llama[{backend},{length}]",
            swept={"backend": backend, "max_output_tokens": length, f"{backend}.x": length},
            config={"name": "llama", "backend": backend},
        )
        for length in lengths
        for backend in ("pytorch", "vllm")
    ]
    hashes = ["a", "a", "b", "c"]
    records = [
        replace(one, result=replace(one.result, **generated(tokens, [])))
        for one, tokens in zip(records, hashes, strict=True)
    ]
    assert [record.name for record, _ in other_tokens(records)] == ["llama[vllm,32]"]


def test_one_point_is_no_sweep() -> None:
    records = on_both_engines()
    assert sweeps([*records, experiment("alone")]) == [records]
    assert sweeps(records[:1]) == []

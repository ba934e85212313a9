"""The same tokens, or where they part."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_llem.measurement.result import ExperimentResult
from pytest_llem.verdict.decision import Status
from pytest_llem.verdict.outputs import Choice, GeneratedSequence, first_difference, judge_outputs


def sequence(prompt: int, tokens: list[int], text: str | None = None, gaps: list[float] | None = None) -> Any:
    return GeneratedSequence(prompt, tokens, text, None if gaps is None else [*gaps])


def side(*sequences: GeneratedSequence, **fields: Any) -> ExperimentResult:
    """A side as two results of processes are compared; its hash is as good as the real one."""
    tokens = str([one.tokens for one in sequences])
    known: dict[str, Any] = {"output_tokens_hash": tokens, "output_repeats": True, "generated": [*sequences]}
    return ExperimentResult(meter="none", estimated=False, rounds=3, calls_per_round=1, **(known | fields))


THEN = side(
    sequence(1, [1, 2, 3], "one two three", [2.0, 2.0, 2.0]),
    sequence(2, [4, 5, 6], "the cat sat on the mat", [2.0, 0.5, 2.0]),
    sequence(3, [7, 8], "seven eight", [2.0, 2.0]),
)
NOW = side(
    THEN.generated[0],
    sequence(2, [4, 9, 6], "the cat lay on the mat", [2.0, 0.25, 2.0]),
    sequence(3, [7], "seven", [2.0]),
)


def test_the_first_difference_is_that_of_the_first_sequence_that_differs() -> None:
    found = first_difference(NOW.generated, THEN.generated)
    assert found is not None
    assert (found.prompt, found.position, found.differing, found.sequences) == (2, 2, 2, 3)
    assert found.this == Choice(9, "'the cat lay on the mat'", 0.25)
    assert found.other == Choice(5, "'the cat sat on the mat'", 0.5)
    assert first_difference(NOW.generated, NOW.generated) is None


@pytest.mark.parametrize(("this", "other"), [([7], [7, 8]), ([7, 8], [7])])
def test_a_sequence_that_ends_earlier_differs_at_its_end(this: list[int], other: list[int]) -> None:
    found = first_difference([sequence(1, this)], [sequence(1, other)])
    assert found is not None
    assert found.position == 2
    assert (found.this.token, found.other.token) == (this[1] if this[1:] else None, other[1] if other[1:] else None)


def test_a_reason_names_prompt_position_tokens_and_texts_in_the_words_of_the_caller() -> None:
    verdict = judge_outputs(NOW, THEN)
    assert verdict.status is Status.REGRESSED
    assert verdict.reason == (
        "prompt 2, position 2: 'the cat sat on the mat' (token 5) then, 'the cat lay on the mat' (token 9) now; "
        "2 of 3 sequences differ; the two best logits were 0.5 apart then, 0.25 apart now"
    )
    assert (str(verdict.limit), verdict.needs_more_runs, verdict.saved) == ("same", False, 1)
    sides = judge_outputs(NOW, THEN, this_is="here", other_is="on main").reason
    assert "(token 5) on main, " in sides
    assert "(token 9) here;" in sides
    assert "0.5 apart on main, 0.25 apart here" in sides


def test_long_texts_are_cut_to_a_window_and_control_characters_are_escaped() -> None:
    start, end = "a" * 500, "z" * 500
    this, other = (side(sequence(1, [token], f"{start}{text}{end}")) for token, text in ((1, "\x1b\n"), (2, "Y")))
    reason = judge_outputs(this, other).reason
    assert r"'...aaaaaaaaaaaaaaaa\x1b\nzzzzzzzzzzzzzz...' (token 1) now" in reason
    assert "'...aaaaaaaaaaaaaaaaYzzzzzzzzzzzzzzz...' (token 2) then" in reason


@pytest.mark.parametrize("texts", [(None, None), ("a", None), ("same", "same")])
def test_texts_that_do_not_tell_the_sides_apart_are_left_out(texts: tuple[str | None, str | None]) -> None:
    verdict = judge_outputs(side(sequence(1, [1], texts[0])), side(sequence(1, [2], texts[1])))
    assert verdict.reason == "prompt 1, position 1: token 2 then, token 1 now; 1 of 1 sequences differ"


@pytest.mark.parametrize(
    ("then", "now", "tie"),
    [
        (0.1, 0.1, True),
        (0.0, 0.2, True),
        (0.1, 0.3, False),  # one side was sure of it
        (0.3, 0.1, False),
    ],
)
def test_numerics_are_blamed_only_where_both_sides_were_nearly_tied(then: float, now: float, tie: bool) -> None:
    other = side(sequence(1, [1, 2, 3], gaps=[2.0, then, 2.0]))
    this = side(sequence(1, [1, 9, 3], gaps=[2.0, now, 2.0]))
    verdict = judge_outputs(this, other)
    assert verdict.status is Status.REGRESSED
    assert ("numerics" in verdict.reason) is tie


def test_numerics_are_not_blamed_where_another_sequence_parts_without_a_tie() -> None:
    first = sequence(1, [1, 2, 3], gaps=[2.0, 0.01, 2.0]), sequence(1, [1, 9, 3], gaps=[2.0, 0.01, 2.0])
    second = sequence(2, [1, 2], gaps=[2.0, 2.0]), sequence(2, [1, 9], gaps=[2.0, 2.0])
    (this, other) = (side(*pair) for pair in zip(first, second, strict=True))
    assert "numerics" not in judge_outputs(this, other).reason
    assert "numerics" in judge_outputs(side(first[0]), side(first[1])).reason


def test_the_same_tokens_are_ok_elsewhere_too_and_others_are_not_a_regression_there() -> None:
    assert judge_outputs(THEN, THEN).status is Status.OK
    assert judge_outputs(THEN, THEN, elsewhere="another board").status is Status.OK
    other = judge_outputs(NOW, THEN, elsewhere="another board")
    assert other.status is Status.INCONCLUSIVE
    assert other.reason.startswith("another board; prompt 2, position 2: ")


def test_hashes_alone_tell_whether_but_not_where() -> None:
    bare = replace(THEN, generated=[])
    assert judge_outputs(THEN, bare).status is Status.OK
    verdict = judge_outputs(NOW, bare)
    assert verdict.status is Status.REGRESSED
    assert verdict.reason == (
        "other tokens now than then; at which position is not known: the tokens themselves were not kept then"
    )
    assert judge_outputs(replace(NOW, generated=[]), bare).reason.endswith("kept then nor now")


@pytest.mark.parametrize(
    ("this", "other", "why"),
    [
        (replace(NOW, samples=True), THEN, "it samples"),
        (replace(NOW, samples=True), None, "it samples"),
        (replace(NOW, output_repeats=False), THEN, "does not agree with itself now"),
        (NOW, replace(THEN, output_repeats=False), "does not agree with itself then"),
        (replace(NOW, output_tokens_hash=None), THEN, "not known now"),
        (replace(NOW, generated=NOW.generated[:2]), THEN, "another workload now than then"),
    ],
)
def test_what_says_nothing_is_inconclusive(this: ExperimentResult, other: ExperimentResult | None, why: str) -> None:
    verdict = judge_outputs(this, other)
    assert verdict.status is Status.INCONCLUSIVE
    assert why in verdict.reason


def test_another_workload_is_inconclusive_even_with_the_same_tokens() -> None:
    assert judge_outputs(THEN, THEN, same_workload=False).status is Status.INCONCLUSIVE


def test_nothing_to_compare_with_is_no_baseline() -> None:
    assert judge_outputs(NOW, None).status is Status.NO_BASELINE

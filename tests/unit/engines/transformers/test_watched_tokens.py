"""How close the choice of each token was, and what a sequence spells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.unit.engines.transformers.test_workload import all_tokens, prepare

if TYPE_CHECKING:
    from pytest_llem.engines.base import WatchedSequence
    from pytest_llem.engines.transformers.engine import TransformersModel
    from pytest_llem.engines.transformers.workload import TransformersWorkload
    from tests.unit.engines.transformers.conftest import Load


def watched(workload: TransformersWorkload) -> list[WatchedSequence]:
    found = []
    for index in range(workload.calls):
        sequences, reason = workload.watch_tokens(index)
        assert reason is None
        found += sequences or []
    return found


def forward_gaps(model: TransformersModel, prompt: tuple[int, ...], tokens: list[int]) -> list[float]:
    """The same of a single plain forward pass over prompt and tokens, without a cache and without ``generate()``."""
    ids = torch.tensor([[*prompt, *tokens]])
    with torch.no_grad():
        logits = model.model(ids).logits[0, len(prompt) - 1 : -1].float()
    ordered = logits.sort(descending=True).values
    assert logits.argmax(-1).tolist() == tokens
    return [float(gap) for gap in ordered[:, 0] - ordered[:, 1]]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_gaps_are_those_of_a_plain_forward_pass(tiny: TransformersModel, batch_size: int) -> None:
    workload = prepare(tiny, pytorch={"batch_size": batch_size})
    tokens = all_tokens(workload)
    found = watched(workload)
    assert [one.tokens for one in found] == tokens
    for one, prompt in zip(found, workload.prompts.token_ids, strict=True):
        expected = forward_gaps(tiny, prompt, one.tokens)
        assert one.logit_gaps == pytest.approx(expected, abs=1e-5)
        assert len(expected) == 6


def test_gaps_end_with_their_sequence(tiny: TransformersModel) -> None:
    end = all_tokens(prepare(tiny))[0][1]
    ended = {"passthrough": {"generate": {"eos_token_id": [end]}}}
    found = watched(prepare(tiny, pytorch={"batch_size": 3}, **ended))
    lengths = [len(one.tokens) for one in found]
    assert [len(one.logit_gaps) for one in found] == lengths
    assert min(lengths) <= 2 < max(lengths)


def test_a_token_without_a_rival_has_no_gap(tiny: TransformersModel) -> None:
    # All but one token are suppressed.
    others = [token for token in range(tiny.model.config.vocab_size) if token != 7]
    found = watched(prepare(tiny, passthrough={"generate": {"suppress_tokens": others}}))[0]
    assert found.tokens == [7] * 6
    assert found.logit_gaps == [None] * 6


def test_the_first_call_may_be_one_that_is_watched(tiny: TransformersModel) -> None:
    """The checks of a first call bring a logits processor of their own."""
    workload = prepare(tiny)
    assert watched(workload)[0].tokens == workload.output_tokens(0, workload.run(0))[0]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"decoder": {"preset": "standard"}}, "samples"),
        ({"pytorch": {"num_beams": 2}}, "beams"),
        ({"pytorch": {"prompt_lookup_num_tokens": 3}}, "drafted"),
    ],
)
def test_where_no_logit_decides_a_token_the_reason_says_so(
    tiny: TransformersModel, fields: dict[str, Any], why: str
) -> None:
    sequences, reason = prepare(tiny, **fields).watch_tokens(0)
    assert sequences is None
    assert why in (reason or "")


def test_texts_are_those_of_the_tokenizer(tiny: TransformersModel, load: Load, one_layer: str) -> None:
    ids = tiny.tokenizer("an apple")["input_ids"][1:]
    assert prepare(tiny).text(ids) == "an apple"
    without = load(model=one_layer, weights="random")
    assert prepare(without, model=one_layer, weights="random").text([1, 2]) is None

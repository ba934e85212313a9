"""What an experiment generated, kept where it is gated: tokens, text, how close the choice of each token was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_llem.verdict.outputs import GeneratedSequence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.engines.base import WatchedSequence, Workload

Watched = tuple[list["WatchedSequence"] | None, str | None]
"""The sequences of a pass in the order of the prompts, or ``None`` and why there are none."""

# Of a logit that was computed in bf16 or fp32 no more digits mean anything.
_DIGITS = 4


def watch_pass(workload: Workload) -> Watched:
    """Run a pass in which the two best logits of each step are watched, which slows it."""
    found: list[WatchedSequence] = []
    for index in range(workload.calls):
        sequences, reason = workload.watch_tokens(index)
        if sequences is None:
            return None, reason
        found += sequences
    return found, None


def tokens_of(workload: Workload, outputs: Sequence[Any]) -> list[list[int]]:
    """The new tokens of each sequence of a pass, in the order of the prompts, however they were batched."""
    return [tokens for index, output in enumerate(outputs) for tokens in workload.output_tokens(index, output)]


def generated_sequences(workload: Workload, tokens: Sequence[list[int]], watched: Watched) -> list[GeneratedSequence]:
    """What a pass generated.

    Args:
        tokens: of each of its sequences, in the order of the prompts; all prompts have as many.
        watched: a pass of the same work; what it tells holds for sequences of the same tokens alone.
    """
    a_prompt = max(len(tokens) // max(len(workload.prompts), 1), 1)
    closely: Sequence[WatchedSequence | None] = watched[0] or [None] * len(tokens)
    return [
        GeneratedSequence(
            prompt=number // a_prompt + 1,
            tokens=sequence,
            text=workload.text(sequence),
            logit_gaps=None if seen is None or seen.tokens != sequence else [_rounded(gap) for gap in seen.logit_gaps],
        )
        for number, (sequence, seen) in enumerate(zip(tokens, closely, strict=True))
    ]


def _rounded(gap: float | None) -> float | None:
    return None if gap is None else float(f"{gap:.{_DIGITS}g}")

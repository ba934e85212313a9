"""The logits of each step: whether they are numbers at all, and how far the best two are apart."""

from __future__ import annotations

import math

import torch
from transformers import LogitsProcessor

from pytest_llem.errors import MeasurementError


class FiniteLogits(LogitsProcessor):
    """Passes each step's logits on unchanged; refuses those that no token could be chosen by.

    A model in too narrow a type, or with broken weights, computes NaN. ``argmax`` still picks tokens of it, in the
    usual time, so nothing else would show it; sampling from it loses a GPU to a device-side assert. Single logits of
    minus infinity are fine: that is how tokens are suppressed.

    It waits for the device at each step, so it has no place in calls that are measured.
    """

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:  # noqa: ARG002
        # The maximum of a row is NaN where any of its numbers is.
        if not bool(torch.isfinite(scores.amax(dim=-1)).all()):
            raise MeasurementError("the model's logits are not finite: its weights or its precision are at fault")
        return scores


class LogitGaps(LogitsProcessor):
    """Passes each step's logits on unchanged; notes by how much the best of each sequence is above the second best.

    ``generate()`` calls it after its own processors (a penalty, a minimum of tokens), so these are the very numbers
    that a greedy choice is made between. Kept are two numbers a step and sequence, on the device: ``output_scores``
    would keep the vocabulary of every step.
    """

    def __init__(self) -> None:
        self._gaps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:  # noqa: ARG002
        best, second = scores.topk(2, dim=-1).values.unbind(-1)
        self._gaps.append(best - second)
        return scores

    def of_sequences(self) -> list[list[float | None]]:
        """The gaps of each sequence, step by step; ``None`` where all tokens but one were suppressed."""
        gaps = torch.stack(self._gaps, dim=-1).tolist()
        return [[gap if math.isfinite(gap) else None for gap in sequence] for sequence in gaps]

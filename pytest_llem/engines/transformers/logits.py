"""Whether a model computes numbers at all."""

from __future__ import annotations

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

"""Options of an engine that batches as it likes, in which prompts differ."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def own_options(
    prompts: int, *, random_seed: int | None, output_tokens: Sequence[int] | None
) -> list[dict[str, Any]] | None:
    """The sampling options of each prompt beside those of all; ``None`` where there are none.

    Args:
        random_seed: the experiment's, where tokens are drawn.
        output_tokens: how many each gets, where that is fixed.
    """
    if random_seed is None and output_tokens is None:
        return None
    options: list[dict[str, Any]] = [{} for _ in range(prompts)]
    for index, own in enumerate(options):
        if random_seed is not None:
            own["seed"] = seed_of(random_seed, index)
        if output_tokens is not None:
            own["max_tokens"] = own["min_tokens"] = output_tokens[index]
    return options


def seed_of(random_seed: int, index: int) -> int:
    """A seed for the prompt of this index, so that every pass draws the same tokens, whatever is batched with what."""
    digest = hashlib.sha256(f"{random_seed}:{index}".encode()).digest()
    return int.from_bytes(digest[:4], "little")

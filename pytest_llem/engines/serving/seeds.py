"""Seeds of an engine that batches as it likes."""

from __future__ import annotations

import hashlib


def seed_of(random_seed: int, index: int) -> int:
    """A seed for the prompt of this index, so that every pass draws the same tokens, whatever is batched with what."""
    digest = hashlib.sha256(f"{random_seed}:{index}".encode()).digest()
    return int.from_bytes(digest[:4], "little")

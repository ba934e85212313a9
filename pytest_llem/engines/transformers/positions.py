"""How far a model can read: past its window only where its positions are computed."""

from __future__ import annotations

from typing import Any

from torch import nn

from pytest_llem.errors import PromptError

# Tables of some models begin with a few rows that stand for no position.
_FURTHER_ROWS = 2


def beyond_window(model: Any, longest: int, new_tokens: int) -> str | None:
    """What to say of prompts of up to ``longest`` tokens and ``new_tokens`` to come; ``None`` where they fit.

    Raises:
        PromptError: ``model`` has no positions for them.
    """
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if window is None or longest + new_tokens <= window:
        return None
    asked = f"prompts of {longest} tokens and {new_tokens} new ones"
    text = f"{asked} exceed the model's context window of {window} tokens"
    if _has_table(model, window):
        raise PromptError(f"{text}: lower max_input_tokens or max_output_tokens")
    return text


def _has_table(model: Any, window: int) -> bool:
    """Whether positions are rows of a table, learned or computed once, as long as ``window``."""
    decoder = model.get_decoder()
    tokens = model.get_input_embeddings()
    learned = [x for x in decoder.modules() if isinstance(x, nn.Embedding) and x is not tokens]
    lengths = {embedding.num_embeddings for embedding in learned}
    lengths |= {size for buffer in decoder.buffers() if buffer.ndim > 1 for size in buffer.shape}
    return any(window <= length <= window + _FURTHER_ROWS for length in lengths)

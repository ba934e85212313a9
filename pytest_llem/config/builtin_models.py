"""Built-in models: the shapes of well-known architectures, which run with random weights and need no download.

Energy and time of a forward pass depend on the shapes, the types and the kernels, hardly on the values, so random
weights measure as trained ones do. What they generate means nothing.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "builtin:"
"""Prefix of the models that are built in memory, without a download."""

# The tokenizer's ids: one for each byte, then these. All built-in models share it, whatever their
# vocabulary's size.
BOS_TOKEN_ID = 256
EOS_TOKEN_ID = 257
PAD_TOKEN_ID = 258

SHAPES: Mapping[str, Mapping[str, Any]] = {
    # Dimensions divide by 64, as the packed 4-bit kernels of bitsandbytes require.
    "tiny-llama": {
        "model_type": "llama",
        "vocab_size": 259,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    },
    # Llama 3.2 1B, as in the config.json of meta-llama/Llama-3.2-1B.
    "llama-1b": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "tie_word_embeddings": True,
    },
    # Llama 3.1 8B, as in the config.json of meta-llama/Llama-3.1-8B.
    "llama-8b": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "tie_word_embeddings": False,
    },
    # Qwen2.5 0.5B, as in the config.json of Qwen/Qwen2.5-0.5B.
    "qwen-0.5b": {
        "model_type": "qwen2",
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        "tie_word_embeddings": True,
    },
}

BUILTIN_NAMES: tuple[str, ...] = tuple(SHAPES)


def is_builtin(model: str | None) -> bool:
    """Whether ``model`` names a built-in model rather than a hub id or a folder."""
    return model is not None and model.startswith(PREFIX)


def builtin_fingerprint(model: str) -> str:
    """A hash of the shape and the tokenizer of ``model``: a release that changes them makes another workload."""
    shape = json.dumps([SHAPES[model.removeprefix(PREFIX)], BOS_TOKEN_ID, EOS_TOKEN_ID, PAD_TOKEN_ID], sort_keys=True)
    return f"builtin-{hashlib.sha256(shape.encode()).hexdigest()}"

"""Passed-on arguments that transformers accepts and then does nothing with, or something else than they say.

An experiment may pass any argument on that has no field of its own. One of these would label a result with what did
not happen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_llem.errors import LoadError, MeasurementError

if TYPE_CHECKING:
    from collections.abc import Mapping

_NO_EFFECT = "transformers ignores it; remove it"
_OWN = "is set by the measurement itself; remove it"

_FROM_PRETRAINED: Mapping[str, str] = {
    **dict.fromkeys(("_commit_hash", "_fast_init", "from_flax", "from_tf", "mirror", "offload_state_dict"), _NO_EFFECT),
    **dict.fromkeys(("output_loading_info", "tqdm_class"), _OWN),
    **dict.fromkeys(("adapter_kwargs", "adapter_name"), "use the field pytorch.lora"),
    "generation_config": "defaults of the model never apply; use the fields of decoder and pytorch",
    "gguf_file": "its weights would be unpacked to the full precision; name the unquantised model",
}

# They say which file of the model is meant, and a built-in one has no files.
_FILES = ("subfolder", "variant")

_GENERATE: Mapping[str, str] = {
    **dict.fromkeys(("continuous_batching_config", "low_memory"), _NO_EFFECT),
    **dict.fromkeys(
        ("decoder_start_token_id", "forced_bos_token_id"), "has no effect on a decoder-only model; remove it"
    ),
    **dict.fromkeys(
        ("assistant_lookbehind", "target_lookbehind"),
        "is for an assistant with tokens of its own, which is refused; remove it",
    ),
    "is_assistant": _OWN,
    "token_healing": "would change the prompts after they were counted; remove it",
}

# Beyond these bounds generate() samples as if they were not there. By name: the value that means so.
_OFF_OF_CUTOFFS: Mapping[str, float] = {"epsilon_cutoff": 0, "eta_cutoff": 0, "typical_p": 1}

# generate() reads these only where an assistant model drafts.
_ASSISTANT_OPTIONS = (
    "assistant_confidence_threshold",
    "assistant_ensemble_weight",
    "num_assistant_tokens_schedule",
)


def refuse_ignored_by_from_pretrained(arguments: Mapping[str, Any], *, builtin: bool) -> None:
    """Refuse what ``from_pretrained()`` would swallow.

    Raises:
        LoadError: one of ``arguments`` would not be carried out.
    """
    for name in arguments:
        reason = _FROM_PRETRAINED.get(name)
        if reason is None and builtin and name in _FILES:
            reason = "a built-in model has no files; remove it"
        if reason is not None:
            raise LoadError(reason, field=f"passthrough.from_pretrained.{name}")


def refuse_ignored_by_generate(arguments: Mapping[str, Any], options: Mapping[str, Any], *, assisted: bool) -> None:
    """Refuse what ``generate()`` would swallow.

    Args:
        arguments: what is passed on.
        options: the options that the experiment's fields set.
        assisted: whether an assistant model drafts tokens.

    Raises:
        MeasurementError: one of ``arguments`` would not be carried out.
    """
    static = options.get("cache_implementation") in ("static", "offloaded_static")
    needs = {
        "max_cache_len": (static, "a static cache"),
        "max_matching_ngram_size": ("prompt_lookup_num_tokens" in options, "pytorch.prompt_lookup_num_tokens"),
        **dict.fromkeys(_ASSISTANT_OPTIONS, (assisted, "pytorch.assistant_model")),
    }
    for name, value in arguments.items():
        reason = _GENERATE.get(name)
        there, what = needs.get(name, (True, ""))
        if reason is None and not there:
            reason = f"has no effect without {what}; set that or remove it"
        off = _OFF_OF_CUTOFFS.get(name)
        if off is not None and value not in (None, off) and not (isinstance(value, int | float) and 0 < value < 1):
            reason = f"must be above 0 and below 1, or {off} for off, got {value!r}"
        if reason is not None:
            raise MeasurementError(reason, field=f"passthrough.generate.{name}")

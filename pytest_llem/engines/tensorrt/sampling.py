"""From an experiment to TensorRT-LLM's sampling parameters.

A field that the experiment leaves out takes TensorRT-LLM's own default, never one of the model's files. Whether it
samples is always said: it would be greedy where nothing is given, and sample as soon as something is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_llem.engines.serving.options import own_options
from pytest_llem.errors import MeasurementError, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.config import ExperimentConfig
    from pytest_llem.engines.transformers.generation import SpecialTokens

# Options of the decoder that mean the same in TensorRT-LLM, by its names.
_NAMES = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "min_new_tokens": "min_tokens",
}

# Where a file says no more than that it samples: from all tokens, by their probabilities.
_SAMPLES = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}

NO_END = -1
"""``end_id`` of a sequence that no token ends."""


def sampling_options(config: ExperimentConfig, special: SpecialTokens) -> dict[str, Any]:
    """The arguments of ``SamplingParams`` for each prompt of ``config``, but for the seed."""
    decoder = config.decoder.resolved().given("call")
    samples = decoder.pop("do_sample", False)
    options = {_NAMES[name]: value for name, value in decoder.items()}
    beams = None if config.tensorrt is None else config.tensorrt.max_beam_width
    if samples:
        options = {**_SAMPLES, **options}
    elif beams is not None and beams > 1:
        options |= {"use_beam_search": True, "best_of": beams, "n": 1}
    else:
        options["top_k"] = 1
    passed = dict(config.passthrough.generate)
    ends = [] if passed.pop("ignore_eos", False) else list(special.eos)
    further = [*ends[1:], *passed.pop("stop_token_ids", ())]
    return {
        **options,
        **passed,
        "max_tokens": config.max_output_tokens,
        # The same tokens end a sequence as with every engine. A minimum of tokens holds the first of them back alone.
        "end_id": ends[0] if ends else NO_END,
        "pad_id": ends[0] if ends else 0,
        **({"stop_token_ids": further, "include_stop_str_in_output": True} if further else {}),
        "detokenize": False,
    }


def fixed_new_tokens(options: dict[str, Any]) -> int | None:
    """New tokens of each sequence where ``options`` fix them, else ``None``."""
    limit: int = options["max_tokens"]
    if options.get("stop_token_ids"):
        return None
    return limit if options["end_id"] == NO_END or options.get("min_tokens") == limit else None


def samples(options: dict[str, Any]) -> bool:
    """Whether tokens are drawn."""
    return options.get("top_k") != 1 and not options.get("use_beam_search")


def sampling_parameters(
    options: dict[str, Any], random_seed: int, prompts: int, output_tokens: Sequence[int] | None
) -> Any:
    """``SamplingParams`` for ``prompts`` prompts: one for all, or one each. Where tokens are drawn, each has its own
    seed.

    Args:
        output_tokens: how many each gets, where that is fixed.

    Raises:
        MeasurementError: TensorRT-LLM refuses them.
    """
    from tensorrt_llm import SamplingParams

    seed = random_seed if samples(options) else None
    each = own_options(prompts, random_seed=seed, output_tokens=output_tokens)
    if output_tokens is not None:
        # A minimum of tokens holds back the first of those that end a sequence alone.
        options = {**options, "stop_token_ids": None}
    try:
        if each is None:
            return SamplingParams(**options)
        return [SamplingParams(**{**options, **own}) for own in each]
    except (TypeError, ValueError) as exc:
        raise MeasurementError(f"TensorRT-LLM refuses these options: {one_line(exc)}", field="decoder") from exc

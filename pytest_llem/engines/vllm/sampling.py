"""From an experiment to vLLM's sampling parameters.

A field that the experiment leaves out takes vLLM's own default, never one of the model's files. Sampling itself is off
unless it is asked for, as with every engine: vLLM alone would sample at temperature 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_llem.engines.serving.options import own_options
from pytest_llem.errors import MeasurementError, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.config import ExperimentConfig
    from pytest_llem.engines.transformers.generation import SpecialTokens

# Options of the decoder that mean the same in vLLM, by its names.
_NAMES = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "min_new_tokens": "min_tokens",
    "stop_strings": "stop",
}


def sampling_options(config: ExperimentConfig, special: SpecialTokens) -> dict[str, Any]:
    """The arguments of ``SamplingParams`` for each prompt of ``config``, but for the seed."""
    decoder = config.decoder.resolved().given("call")
    samples = decoder.pop("do_sample", False)
    options = {_NAMES[name]: value for name, value in decoder.items()}
    if not samples:
        options["temperature"] = 0.0
    passed = dict(config.passthrough.generate)
    ends = [] if passed.pop("ignore_eos", False) else list(special.eos)
    return {
        **options,
        **passed,
        "max_tokens": config.max_output_tokens,
        # The same tokens end a sequence as with every engine; vLLM's own come from the tokenizer.
        "ignore_eos": True,
        "stop_token_ids": [*ends, *passed.get("stop_token_ids", ())],
        # Text is made of the tokens only where a text is looked for in it.
        "detokenize": bool({"stop", "bad_words"} & {*options, *passed}),
    }


def fixed_new_tokens(options: dict[str, Any]) -> int | None:
    """New tokens of each sequence where ``options`` fix them, else ``None``."""
    limit: int = options["max_tokens"]
    if options.get("stop"):
        return None
    return limit if not options["stop_token_ids"] or options.get("min_tokens") == limit else None


def sampling_parameters(
    options: dict[str, Any], random_seed: int, prompts: int, output_tokens: Sequence[int] | None
) -> Any:
    """``SamplingParams`` for ``prompts`` prompts: one for all, or one each. Where tokens are drawn, each has its own
    seed, so that every pass draws the same tokens, whatever is batched with what.

    Args:
        output_tokens: how many each gets, where that is fixed.

    Raises:
        MeasurementError: vLLM refuses them.
    """
    from vllm import SamplingParams

    seed = None if options.get("temperature") == 0.0 else random_seed
    each = own_options(prompts, random_seed=seed, output_tokens=output_tokens)
    try:
        if each is None:
            return SamplingParams(**options)
        return [SamplingParams(**{**options, **own}) for own in each]
    except TypeError as exc:
        # The decoder's options are arguments.
        raise MeasurementError(f"vLLM refuses it: {one_line(exc)}", field="passthrough.generate") from exc
    except ValueError as exc:
        raise MeasurementError(f"vLLM refuses these options: {one_line(exc)}", field="decoder") from exc

"""What the section of vLLM takes is what the installed vLLM takes."""

from __future__ import annotations

import dataclasses
import inspect
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, get_args

import pytest

from pytest_llem.config import vllm as section
from pytest_llem.config.instead import INSTEAD

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("vllm")

# Of what vLLM imports.
pytestmark = pytest.mark.filterwarnings("ignore")

# One of compilation_config.
NO_ARGUMENT = {"cudagraph_mode"}

# What only transformers calls so, or vLLM once did.
NO_SAMPLING_PARAMETERS = {
    *("assistant_model", "cache_config", "cache_implementation", "early_stopping", "length_penalty", "max_new_tokens"),
    *("no_repeat_ngram_size", "num_assistant_tokens", "num_beams", "num_return_sequences", "prompt_lookup_num_tokens"),
    *("typical_p", "use_beam_search", "use_cache"),
}

# Deprecated there, and known to other versions.
OTHER_QUANTIZATION = {"fbgemm_fp8", "fp_quant", "bitsandbytes"}


def choices(annotation: Any) -> Iterator[str]:
    """The words that a Literal, within other types or not, lists."""
    for argument in get_args(annotation):
        if isinstance(argument, str):
            yield argument
        else:
            yield from choices(argument)


@pytest.fixture(scope="module")
def known() -> SimpleNamespace:
    """The names that vLLM knows, looked up once: a test's imports are forgotten after it, vLLM's operators are not."""
    from vllm import LLM, SamplingParams
    from vllm.config.cache import CacheDType
    from vllm.config.compilation import CUDAGraphMode
    from vllm.config.speculative import SpeculativeConfig, SpeculativeMethod
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.layers.quantization import QuantizationMethods
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    arguments = {field.name for field in dataclasses.fields(EngineArgs)}
    return SimpleNamespace(
        arguments=arguments | set(inspect.signature(LLM.__init__).parameters),
        attention=set(AttentionBackendEnum.__members__),
        cache=set(choices(CacheDType)),
        graphs=set(CUDAGraphMode.__members__),
        methods=set(choices(SpeculativeMethod)),
        quantization=set(choices(QuantizationMethods)),
        sampling=set(inspect.signature(SamplingParams).parameters),
        speculative={field.name for field in dataclasses.fields(SpeculativeConfig)},
    )


def test_every_field_is_an_argument_of_llm(known: SimpleNamespace) -> None:
    assert set(section.VllmConfig.model_fields) - known.arguments == NO_ARGUMENT


def test_every_argument_that_is_refused_is_one(known: SimpleNamespace) -> None:
    advice = INSTEAD["vllm"]
    assert not {*advice.from_pretrained, *advice.in_a_file} - known.arguments
    assert set(advice.generate) - known.sampling == NO_SAMPLING_PARAMETERS


def test_choices_are_those_of_vllm(known: SimpleNamespace) -> None:
    ours, drafts = section.VllmConfig.model_fields, section.SpeculativeConfig.model_fields
    assert set(choices(section.KvCacheDtype)) == known.cache
    assert set(choices(section.Quantization)) ^ known.quantization == OTHER_QUANTIZATION
    assert set(choices(section.AttentionBackend)) <= known.attention
    assert set(choices(ours["cudagraph_mode"].annotation)) == known.graphs
    assert set(choices(drafts["method"].annotation)) <= known.methods
    assert set(drafts) <= known.speculative

"""What a file may say agrees with transformers: names, and what is refused once a model is loaded."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pytest_llem.config import DecoderConfig, PyTorchConfig
from pytest_llem.config.kv_cache import QUANTIZED_CACHE_TAKES
from tests.unit.config.test_contradictions import errors, experiment

_OPTIONS: dict[str, list[Any]] = {
    "do_sample": [None, True, False],
    "temperature": [None, 0.7, 1.0],
    "top_k": [None, 0, 5],
    "top_p": [None, 0.5],
    "min_p": [None, 0.1],
    "num_beams": [None, 1, 2],
    "early_stopping": [None, True, False, "never"],
    "length_penalty": [None, 0.5],
    "num_return_sequences": [None, 1, 2, 3],
    "use_cache": [None, True, False],
    "cache_implementation": [None, "static", "dynamic", "quantized", "offloaded_static", "hybrid", "nonsense"],
    "cache_config": [None, {}, {"nbits": 2}],
    "typical_p": [None, 0.5],
    "epsilon_cutoff": [None, 0.1],
}


@settings(max_examples=400, deadline=None)
@given(st.fixed_dictionaries({name: st.sampled_from(values) for name, values in _OPTIONS.items()}))
def test_what_the_strict_validation_of_transformers_refuses_is_refused(options: dict[str, Any]) -> None:
    from transformers import GenerationConfig

    options = {name: value for name, value in options.items() if value is not None}
    sections: dict[str, Any] = {"decoder": {}, "pytorch": {}, "passthrough": {"generate": {}}}
    for name, value in options.items():
        if name in DecoderConfig.model_fields:
            sections["decoder"][name] = value
        elif name in PyTorchConfig.model_fields:
            sections["pytorch"][name] = value
        else:
            sections["passthrough"]["generate"][name] = value
    try:
        GenerationConfig(**options).validate(strict=True)  # type: ignore[no-untyped-call]
    except ValueError:
        with pytest.raises(ValidationError):
            experiment(**sections)


def test_attention_and_cache_names_are_those_of_transformers() -> None:
    from transformers.generation.configuration_utils import ALL_CACHE_IMPLEMENTATIONS
    from transformers.modeling_utils import AttentionInterface

    from pytest_llem.config.kv_cache import MISLEADING_CACHES, CacheImplementation
    from pytest_llem.config.pytorch import ATTENTION

    names = AttentionInterface().valid_keys()  # type: ignore[no-untyped-call]
    known = {name for name in names if not name.startswith("paged|")}
    assert {*known, "eager"} == set(ATTENTION)
    assert {*CacheImplementation.__args__, *MISLEADING_CACHES} == {*ALL_CACHE_IMPLEMENTATIONS, "paged"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "is_kernel"),
    [
        ("org/repo", True),
        ("org/repo@v1:fn", True),
        ("org/repo:fn", True),
        ("org/repo@v1", True),
        ("a/b/c", False),
        ("sdpa", False),
        ("org/", False),
        ("org/a:b:c", False),
    ],
)
def test_kernels_of_the_hub_are_told_as_transformers_tells_them(name: str, is_kernel: bool) -> None:
    from transformers.integrations.hub_kernels import is_kernel as transformers_tells

    from pytest_llem.config.pytorch import HUB_KERNEL

    assert transformers_tells(name) == is_kernel == bool(HUB_KERNEL.fullmatch(name))


@pytest.mark.parametrize("backend", ["quanto", "hqq", "fp8"])
def test_options_of_the_quantised_cache_are_those_of_transformers(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every combination is refused here exactly where transformers refuses it."""
    from transformers import LlamaConfig, cache_utils

    # The packages that quantise are not installed; what they would be asked to do is checked before they are used.
    monkeypatch.setattr(cache_utils, "is_hqq_available", lambda: True)
    layer = {"hqq": "HQQQuantizedLayer", "fp8": "Fp8QuantizedLayer"}.get(backend)
    if layer is None:
        pytest.importorskip("optimum.quanto")
    model = LlamaConfig(num_hidden_layers=1)
    assert set(QUANTIZED_CACHE_TAKES) == {"quanto", "hqq", "fp8"}
    for nbits, axis_key, axis_value, group in itertools.product(
        (None, 1, 2, 3, 4, 5, 8), (None, -1, 0, 1), (None, -1, 0, 1), (None, 64)
    ):
        given_options = {"nbits": nbits, "axis_key": axis_key, "axis_value": axis_value, "q_group_size": group}
        options = {name: value for name, value in given_options.items() if value is not None}
        try:
            cache_utils.QuantizedCache(backend=backend, config=model, **options)
            refused = False
        except (ValueError, NameError) as error:
            refused = isinstance(error, ValueError)
        pytorch = {"cache_implementation": "quantized", "cache_config": {"backend": backend, **options}}
        if refused:
            assert errors(pytorch=pytorch)
        else:
            experiment(pytorch=pytorch)

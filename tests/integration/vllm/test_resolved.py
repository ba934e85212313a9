"""Each field of the section is compared with the place where vLLM's own configuration says what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.config import ExperimentConfig
from pytest_llem.config.base import fields_of
from pytest_llem.config.vllm import VllmConfig
from pytest_llem.engines.transformers.sources import find_source
from pytest_llem.engines.vllm.arguments import llm_arguments
from pytest_llem.engines.vllm.checks import check_resolved
from pytest_llem.errors import LoadError
from tests.integration.vllm.test_sessions import save_model

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("vllm")

# Of what vLLM imports.
pytestmark = pytest.mark.filterwarnings("ignore")

# Values that are not vLLM's defaults, where the CPU has several.
VALUES: dict[str, Any] = {
    "async_scheduling": False,
    "attention_backend": "CPU_ATTN",
    "block_size": 64,
    "cpu_offload_gb": 1.0,
    "cudagraph_mode": "NONE",
    "enable_chunked_prefill": True,
    "enable_prefix_caching": True,
    "enforce_eager": True,
    "gpu_memory_utilization": 0.25,
    "kv_cache_dtype": "fp8",
    "kv_cache_memory_bytes": 1 << 28,
    "max_model_len": 128,
    "max_num_batched_tokens": 300,
    "max_num_seqs": 5,
    "optimization_level": 1,
    "quantization": "fp8",
    "speculative_config": {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 2},
    "trust_remote_code": True,
}
# Of a local folder there is none.
OTHERWISE = {"revision"}
# What vLLM does on the CPU in any case.
DEFAULTS_HERE = {"async_scheduling", "cudagraph_mode", "enable_chunked_prefill", "optimization_level"}


Resolved = tuple[dict[str, Any], Any]


@pytest.fixture(scope="module")
def resolved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Resolved | Exception]:
    """For each field the arguments of ``LLM``, and the configuration that vLLM makes of them; for ``""``, without any.

    All at once: a test's imports are forgotten after it, vLLM's operators are not.
    """
    folder = tmp_path_factory.mktemp("stored") / "model"
    save_model(folder)
    found: dict[str, Resolved | Exception] = {"": _resolve(folder, {})}
    for field, value in VALUES.items():
        try:
            found[field] = _resolve(folder, {field: value})
        except Exception as error:  # noqa: BLE001  (a field's own test raises it)
            found[field] = error
    found["replaced"] = _resolve(folder, {"async_scheduling": True})
    return found


def _resolve(folder: Path, options: dict[str, Any]) -> Resolved:
    """As ``LLM`` does it, without an engine."""
    from vllm.engine.arg_utils import EngineArgs

    config = ExperimentConfig.model_validate(
        {"model": str(folder), "backend": "vllm", "max_output_tokens": 4, "vllm": options}
        | {"dataset": {"synthetic": {"n": 1, "input_len": 8}}}
    )
    load = config.load_config(folder)
    arguments = llm_arguments(load, find_source(load), str(folder))
    return arguments, EngineArgs(**arguments).create_engine_config()


def _of(resolved: dict[str, Resolved | Exception], field: str) -> Resolved:
    found = resolved[field]
    if isinstance(found, Exception):
        raise found
    return found


def test_every_field_has_a_value_here() -> None:
    assert fields_of(VllmConfig, "load") == VALUES.keys() | OTHERWISE


@pytest.mark.parametrize("field", VALUES)
def test_what_a_field_says_is_found_in_what_vllm_resolves(
    resolved: dict[str, Resolved | Exception], field: str
) -> None:
    arguments, configuration = _of(resolved, field)
    assert check_resolved(arguments, {}, configuration) == []


@pytest.mark.parametrize("field", sorted(VALUES.keys() - DEFAULTS_HERE))
def test_another_value_would_be_noticed(resolved: dict[str, Resolved | Exception], field: str) -> None:
    arguments, _ = _of(resolved, field)
    _, others = _of(resolved, "")
    with pytest.raises(LoadError, match=field):
        check_resolved(arguments, {}, others)


def test_a_value_that_vllm_replaces_is_refused(resolved: dict[str, Resolved | Exception]) -> None:
    arguments, configuration = _of(resolved, "replaced")
    with pytest.raises(LoadError, match=r"^vllm.async_scheduling true: vLLM runs with False instead$"):
        check_resolved(arguments, {}, configuration)

"""The section of TensorRT-LLM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from pytest_llem.config import ExperimentConfig, TensorRTConfig, load_experiments, stage_of

if TYPE_CHECKING:
    from pathlib import Path

VALUES: dict[str, Any] = {
    "backend": "tensorrt",
    "max_batch_size": 4,
    "max_num_tokens": 256,
    "max_input_len": 128,
    "max_seq_len": 512,
    "max_beam_width": 2,
    "enable_chunked_prefill": True,
    "attn_backend": "FLASHINFER",
    "kv_cache_config": {"free_gpu_memory_fraction": 0.5, "enable_block_reuse": True, "dtype": "fp8"},
    "quant_config": {"quant_algo": "W4A16_AWQ"},
    "cuda_graph_config": {"batch_sizes": [1, 2]},
    "disable_overlap_scheduler": True,
    "build_config": {"opt_batch_size": 2},
    "fast_build": True,
    "revision": "main",
    "trust_remote_code": True,
}
BUILT = ("build_config", "fast_build")


def experiment(**values: Any) -> ExperimentConfig:
    return ExperimentConfig.model_validate({"model": "gpt2", "backend": "tensorrt", **values})


def errors(**values: Any) -> list[tuple[str, str]]:
    with pytest.raises(ValidationError) as caught:
        experiment(**values)
    return [(".".join(map(str, error["loc"])), error["msg"]) for error in caught.value.errors()]


def test_every_field_has_a_value_here() -> None:
    assert set(VALUES) == set(TensorRTConfig.model_fields)


@pytest.mark.parametrize("field", VALUES)
def test_every_field_is_unset_by_default_and_decides_the_load(field: str, tmp_path: Path) -> None:
    assert TensorRTConfig.model_fields[field].default is None
    assert stage_of(TensorRTConfig, field) == "load"
    section = {field: VALUES[field], **({"backend": "tensorrt"} if field in BUILT else {})}
    assert experiment(tensorrt=section).load_config(tmp_path).backend_options == section


@pytest.mark.parametrize(
    ("section", "field"),
    [
        ({"backend": "cpp"}, "backend"),
        ({"max_batch_size": 0}, "max_batch_size"),
        ({"max_beam_width": 0}, "max_beam_width"),
        ({"attn_backend": "sdpa"}, "attn_backend"),
        ({"kv_cache_config": {"free_gpu_memory_fraction": 1.1}}, "kv_cache_config.free_gpu_memory_fraction"),
        ({"kv_cache_config": {"dtype": "fp9"}}, "kv_cache_config.dtype"),
        ({"quant_config": {"quant_algo": "awq"}}, "quant_config.quant_algo"),
        ({"cuda_graph_config": {"batch_sizes": []}}, "cuda_graph_config.batch_sizes"),
        ({"cuda_graph_config": {"batch_sizes": [0]}}, "cuda_graph_config.batch_sizes.0"),
    ],
)
def test_bounds(section: dict[str, Any], field: str) -> None:
    assert [name for name, _ in errors(tensorrt=section)] == [f"tensorrt.{field}"]


@pytest.mark.parametrize(
    ("values", "field", "message"),
    [
        (
            {"tensorrt": {"fast_build": True}},
            "tensorrt.fast_build",
            "has no effect without backend: tensorrt in this section; set it or remove this",
        ),
        (
            {"tensorrt": {"backend": "tensorrt", "attn_backend": "TRTLLM"}},
            "tensorrt.attn_backend",
            "has no effect without backend: pytorch in this section; set it or remove this",
        ),
        (
            {"tensorrt": {"max_num_tokens": 3, "max_batch_size": 4}},
            "tensorrt.max_num_tokens",
            "3 is below max_batch_size (4); raise it or lower that",
        ),
        (
            {"tensorrt": {"max_seq_len": 256, "max_input_len": 256}},
            "tensorrt.max_seq_len",
            "256 leaves no room for output after max_input_len (256); raise it",
        ),
        (
            {"tensorrt": {"max_seq_len": 191}},
            "tensorrt.max_seq_len",
            "191 is too short for prompts of 128 tokens and 64 new tokens; use at least 192",
        ),
        (
            {"tensorrt": {"max_input_len": 127}},
            "tensorrt.max_input_len",
            "127 is below the prompts' 128 tokens; raise it",
        ),
        (
            {"tensorrt": {"cuda_graph_config": {"batch_sizes": [4], "max_batch_size": 4}}},
            "tensorrt.cuda_graph_config.max_batch_size",
            "is the largest of batch_sizes already; remove one of the two",
        ),
        ({"device": "cpu"}, "device", "TensorRT-LLM needs a GPU; use device: cuda or any"),
        (
            {"decoder": {"stop_strings": ["a"]}},
            "decoder.stop_strings",
            "TensorRT-LLM looks for the tokens of a text and misses it where it is divided otherwise; remove it",
        ),
        (
            {"decoder": {"preset": "creative"}, "tensorrt": {"max_beam_width": 2}},
            "decoder.do_sample",
            "does not work with tensorrt.max_beam_width; remove one of the two",
        ),
        (
            {"passthrough": {"generate": {"end_id": 2}}},
            "passthrough.generate.end_id",
            "the measurement sets it; remove it",
        ),
        (
            {"model": "builtin:tiny-llama", "tensorrt": {"revision": "a"}},
            "tensorrt.revision",
            "has no meaning for a built-in model; remove it",
        ),
        (
            {"passthrough": {"from_pretrained": {"dtype": "a"}}},
            "passthrough.from_pretrained.dtype",
            "use the field precision",
        ),
        (
            {"passthrough": {"from_pretrained": {"max_beam_width": 2}}},
            "passthrough.from_pretrained.max_beam_width",
            "use the field tensorrt.max_beam_width",
        ),
        (
            {"passthrough": {"generate": {"use_beam_search": True}}},
            "passthrough.generate.use_beam_search",
            "use the field tensorrt.max_beam_width: beams are fixed when the model is loaded or built",
        ),
    ],
    ids=str,
)
def test_contradictions(values: dict[str, Any], field: str, message: str) -> None:
    assert errors(**values) == [(field, message)]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{max_batchsize: 2}", "max_batchsize: unknown field; did you mean tensorrt.max_batch_size?"),
        (
            "{kv_cache_config: {enable_blok_reuse: true}}",
            "kv_cache_config.enable_blok_reuse: unknown field; did you mean "
            "tensorrt.kv_cache_config.enable_block_reuse?",
        ),
        (
            "{num_beams: 2}",
            "num_beams: use the field tensorrt.max_beam_width: beams are fixed when the model is loaded",
        ),
        ("{tensor_parallel_size: 2}", "tensor_parallel_size: use the field parallel.tensor"),
        ("{quantization: fp8}", "quantization: use the field tensorrt.quant_config"),
    ],
)
def test_misspelt_and_foreign_names(tmp_path: Path, section: str, message: str) -> None:
    path = tmp_path / "x.llem.yaml"
    path.write_text(f"model: gpt2\nbackend: tensorrt\ntensorrt: {section}\n", encoding="utf-8")
    (error,) = load_experiments(path, display="x.yaml")[0].errors
    assert error.startswith(f"x.yaml:3: tensorrt.{message}")


def test_what_generate_of_tensorrt_has_is_passed_on() -> None:
    passed = {"from_pretrained": {"enable_autotuner": False}, "generate": {"no_repeat_ngram_size": 2}}
    assert experiment(passthrough=passed).passthrough.model_dump() == passed

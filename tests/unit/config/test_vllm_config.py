"""The section of vLLM, what its names are refused for, and what of an experiment it cannot do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from pytest_llem.config import ExperimentConfig, VllmConfig, load_experiments, stage_of

if TYPE_CHECKING:
    from pathlib import Path

VALUES: dict[str, Any] = {
    "gpu_memory_utilization": 0.5,
    "kv_cache_memory_bytes": 2**30,
    "max_num_seqs": 4,
    "max_num_batched_tokens": 256,
    "max_model_len": 512,
    "enforce_eager": True,
    "optimization_level": 0,
    "cudagraph_mode": "PIECEWISE",
    "enable_prefix_caching": True,
    "enable_chunked_prefill": False,
    "async_scheduling": False,
    "kv_cache_dtype": "fp8",
    "block_size": 16,
    "quantization": "awq",
    "attention_backend": "TRITON_ATTN",
    "speculative_config": {"method": "ngram", "num_speculative_tokens": 2},
    "cpu_offload_gb": 1,
    "revision": "main",
    "trust_remote_code": True,
}


def experiment(**values: Any) -> ExperimentConfig:
    return ExperimentConfig.model_validate({"model": "gpt2", "backend": "vllm", **values})


def errors(**values: Any) -> list[tuple[str, str]]:
    with pytest.raises(ValidationError) as caught:
        experiment(**values)
    return [(".".join(map(str, error["loc"])), error["msg"]) for error in caught.value.errors()]


def messages(folder: Path, text: str) -> list[str]:
    path = folder / "x.llem.yaml"
    path.write_text(f"model: gpt2\nbackend: vllm\n{text}\n", encoding="utf-8")
    found = load_experiments(path, display="x.yaml")
    return [error.splitlines()[0] for experiment in found for error in experiment.errors]


def test_every_field_has_a_value_here() -> None:
    assert set(VALUES) == set(VllmConfig.model_fields)


@pytest.mark.parametrize("field", VALUES)
def test_every_field_is_unset_by_default_and_decides_the_load(field: str, tmp_path: Path) -> None:
    assert VllmConfig.model_fields[field].default is None
    assert stage_of(VllmConfig, field) == "load"
    config = experiment(vllm={field: VALUES[field]})
    assert config.load_config(tmp_path).backend_options == {field: VALUES[field]}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gpu_memory_utilization", 0),
        ("gpu_memory_utilization", 1.01),
        ("kv_cache_memory_bytes", 0),
        ("max_num_seqs", 0),
        ("max_num_seqs", "4"),
        ("max_num_batched_tokens", 0),
        ("max_model_len", 0),
        ("enforce_eager", 1),
        ("optimization_level", 4),
        ("cudagraph_mode", "full"),
        ("kv_cache_dtype", "fp9"),
        ("block_size", 0),
        ("quantization", "awk"),
        ("attention_backend", "sdpa"),
        ("cpu_offload_gb", -1),
        ("revision", ""),
        ("speculative_config", "ngram"),
    ],
)
def test_bounds(field: str, value: Any) -> None:
    assert [name for name, _ in errors(vllm={field: value})] == [f"vllm.{field}"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vllm: {max_num_seq: 4}", "vllm.max_num_seq: unknown field; did you mean vllm.max_num_seqs?"),
        ("vllm: {temperature: 1}", "vllm.temperature: unknown field; did you mean decoder.temperature?"),
        ("vllm: {precision: fp32}", "vllm.precision: unknown field; did you mean precision?"),
        (
            "vllm: {cudagraph_mode: full}",
            "vllm.cudagraph_mode: expected NONE, PIECEWISE, FULL, FULL_DECODE_ONLY or FULL_AND_PIECEWISE, got 'full'; "
            "did you mean FULL?",
        ),
        ("vllm: {max_batch_size: 4}", "vllm.max_batch_size: use the field vllm.max_num_seqs"),
        ("vllm: {seed: 1}", "vllm.seed: use the field random_seed"),
        ("vllm: {dtype: float16}", "vllm.dtype: use the field precision"),
        ("vllm: {model: gpt2}", "vllm.model: use the field model"),
        ("vllm: {max_tokens: 1}", "vllm.max_tokens: use the field max_output_tokens"),
        (
            "vllm: {tensor_parallel_size: 2}",
            "vllm.tensor_parallel_size: use the field parallel.tensor",
        ),
        (
            "vllm: {batch_size: 4}",
            "vllm.batch_size: vLLM forms its batches itself; use the field vllm.max_num_seqs",
        ),
        (
            "vllm: {num_beams: 4}",
            "vllm.num_beams: vLLM's generate() has no beam search; remove it or set backend: pytorch",
        ),
        (
            "decoder: {num_beams: 4}",
            "decoder.num_beams: vLLM's generate() has no beam search; remove it or set backend: pytorch",
        ),
        ("num_seqs: 4", "num_seqs: unknown field; did you mean vllm.max_num_seqs?"),
        (
            "vllm: {prompt_lookup_num_tokens: 4}",
            "vllm.prompt_lookup_num_tokens: use the field vllm.speculative_config with method: ngram",
        ),
        (
            "vllm: {speculative_config: {method: ngarm}}",
            "vllm.speculative_config.method: expected ngram, ngram_gpu, suffix, draft_model, eagle, eagle3, mtp, "
            "medusa or mlp_speculator, got 'ngarm'; did you mean ngram?",
        ),
        (
            "vllm: {speculative_config: {method: suffix, num_spec_tokens: 3}}",
            "vllm.speculative_config.num_spec_tokens: unknown field; did you mean "
            "vllm.speculative_config.num_speculative_tokens?",
        ),
        ("passthrough: {from_pretrained: {seed: 1}}", "passthrough.from_pretrained.seed: use the field random_seed"),
        (
            "passthrough: {from_pretrained: {block_size: 8}}",
            "passthrough.from_pretrained.block_size: use the field vllm.block_size",
        ),
        (
            "passthrough: {from_pretrained: {download_dir: /x}}",
            "passthrough.from_pretrained.download_dir: a file does not say where downloads are written; set "
            "HF_HUB_CACHE",
        ),
        (
            "passthrough: {from_pretrained: {worker_cls: a.B}}",
            "passthrough.from_pretrained.worker_cls: names Python code to run, which a file cannot do; remove it",
        ),
        ("passthrough: {generate: {top_p: 1}}", "passthrough.generate.top_p: use the field decoder.top_p"),
        (
            "passthrough: {generate: {min_tokens: 1}}",
            "passthrough.generate.min_tokens: use the field decoder.min_new_tokens",
        ),
        (
            "passthrough: {generate: {no_repeat_ngram_size: 2}}",
            "passthrough.generate.no_repeat_ngram_size: vLLM has no such option; remove it or set backend: pytorch",
        ),
        ("passthrough: {generate: {_x: 1}}", "passthrough.generate._x: is vLLM's own; remove it"),
    ],
)
def test_what_has_another_name_or_none_is_refused_at_its_line(tmp_path: Path, text: str, message: str) -> None:
    assert messages(tmp_path, text) == [f"x.yaml:3: {message}"]


def test_a_name_of_this_engine_is_no_advice_for_another(tmp_path: Path) -> None:
    path = tmp_path / "x.llem.yaml"
    path.write_text("model: gpt2\npytorch: {max_num_seqs: 2}\n", encoding="utf-8")
    assert "vllm" not in load_experiments(path)[0].errors[0]


def test_the_rest_is_passed_on_as_it_is() -> None:
    passed = {"from_pretrained": {"swap": None, "disable_sliding_window": True}, "generate": {"ignore_eos": True}}
    assert experiment(passthrough=passed).passthrough.model_dump() == passed


def test_a_key_that_transformers_would_have_of_its_own_is_passed_to_vllm() -> None:
    passed = {"generate": {"presence_penalty": 1.0}, "from_pretrained": {"tokenizer_mode": "slow"}}
    assert experiment(passthrough=passed).passthrough.model_dump() == passed


def test_null_takes_a_field_to_its_default(tmp_path: Path) -> None:
    text = "vllm: {max_num_seqs: 4, block_size: 16}\nexperiments: [{vllm: {max_num_seqs: null}}]"
    (tmp_path / "x.llem.yaml").write_text(f"model: gpt2\nbackend: vllm\n{text}\n", encoding="utf-8")
    (found,) = load_experiments(tmp_path / "x.llem.yaml")
    assert found.valid_config.vllm == VllmConfig(block_size=16)


@pytest.mark.parametrize(
    ("values", "field", "message"),
    [
        (
            {"vllm": {"enforce_eager": True, "cudagraph_mode": "FULL"}},
            "vllm.cudagraph_mode",
            "contradicts enforce_eager: true, which records none; remove one of the two",
        ),
        (
            {"vllm": {"enforce_eager": True, "optimization_level": 1}},
            "vllm.optimization_level",
            "contradicts enforce_eager: true, which is level 0; remove one of the two",
        ),
        (
            {"vllm": {"kv_cache_memory_bytes": 1, "gpu_memory_utilization": 0.5}},
            "vllm.gpu_memory_utilization",
            "has no effect beside kv_cache_memory_bytes; remove one of the two",
        ),
        (
            {"vllm": {"max_num_batched_tokens": 3, "max_num_seqs": 4}},
            "vllm.max_num_batched_tokens",
            "3 is below max_num_seqs (4); raise it or lower that",
        ),
        (
            {"vllm": {"max_num_batched_tokens": 300, "max_model_len": 301, "enable_chunked_prefill": False}},
            "vllm.max_num_batched_tokens",
            "300 is below max_model_len (301), which enable_chunked_prefill: false does not allow; raise it or lower "
            "that",
        ),
        (
            {"vllm": {"max_model_len": 191}},
            "vllm.max_model_len",
            "191 is too short for prompts of 128 tokens and 64 new tokens; use at least 192",
        ),
        (
            {"dataset": "natural", "vllm": {"max_model_len": 64}},
            "vllm.max_model_len",
            "64 is too short for a prompt and 64 new tokens; use at least 65",
        ),
        (
            {"precision": "fp32", "vllm": {"attention_backend": "FLASH_ATTN"}},
            "vllm.attention_backend",
            "FLASH_ATTN computes in fp16 and bf16 only, but precision is fp32; use TRITON_ATTN, or precision: bf16",
        ),
        (
            {"device": "cpu", "vllm": {"attention_backend": "TRITON_ATTN"}},
            "vllm.attention_backend",
            "TRITON_ATTN needs a GPU, but device is cpu; remove it",
        ),
        (
            {"device": "cuda", "vllm": {"attention_backend": "CPU_ATTN"}},
            "vllm.attention_backend",
            "CPU_ATTN runs on the CPU, but device is cuda; remove it",
        ),
        (
            {"device": "cpu", "vllm": {"cudagraph_mode": "FULL"}},
            "vllm.cudagraph_mode",
            "has no effect on the CPU, but device is cpu; remove it",
        ),
        (
            {"device": "cpu", "vllm": {"cpu_offload_gb": 1}},
            "vllm.cpu_offload_gb",
            "has no effect on the CPU, but device is cpu; remove it",
        ),
        (
            {"model": "builtin:tiny-llama", "vllm": {"revision": "main"}},
            "vllm.revision",
            "has no meaning for a built-in model; remove it",
        ),
        (
            {"model": "builtin:tiny-llama", "vllm": {"trust_remote_code": True}},
            "vllm.trust_remote_code",
            "has no effect on a built-in model, which brings no code; remove it",
        ),
        (
            {"decoder": {"min_new_tokens": 2, "stop_strings": ["."]}},
            "decoder.min_new_tokens",
            "vLLM looks for stop_strings after these tokens only, other backends also in them; remove one of the two",
        ),
        (
            {"decoder": {"do_sample": True, "temperature": 0.001}},
            "decoder.temperature",
            "vLLM would raise 0.001 to 0.01; use at least that, or do_sample: false (the likeliest token)",
        ),
        (
            {"decoder": {"do_sample": True, "top_p": 0}},
            "decoder.top_p",
            "0 is not taken by vLLM; use do_sample: false (the likeliest token)",
        ),
        (
            {"decoder": {"do_sample": True, "min_p": 0.1}, "vllm": {"speculative_config": {"method": "suffix"}}},
            "decoder.min_p",
            "does not work with vllm.speculative_config; remove one of the two",
        ),
        (
            {"vllm": {"speculative_config": {"method": "draft_model", "num_speculative_tokens": 2}}},
            "vllm.speculative_config.method",
            "draft_model needs the field model: what drafts the tokens",
        ),
        (
            {"vllm": {"speculative_config": {"method": "ngram"}}},
            "vllm.speculative_config.method",
            "ngram needs the field num_speculative_tokens, such as 4",
        ),
        (
            {"vllm": {"speculative_config": {"method": "suffix", "model": "a"}}},
            "vllm.speculative_config.model",
            "has no effect with method: suffix, which looks tokens up; remove it",
        ),
        (
            {"vllm": {"speculative_config": {"method": "eagle", "model": "builtin:tiny-llama"}}},
            "vllm.speculative_config.model",
            "a built-in model cannot draft here; name a hub id or a local folder",
        ),
        (
            {"vllm": {"speculative_config": {"method": "mtp", "revision": "a"}}},
            "vllm.speculative_config.revision",
            "has no effect without model; set one or remove it",
        ),
        (
            {"vllm": {"speculative_config": {"method": "mtp", "prompt_lookup_max": 3}}},
            "vllm.speculative_config.prompt_lookup_max",
            "has no effect with method: mtp; set method: ngram or remove it",
        ),
        (
            {
                "vllm": {
                    "speculative_config": {
                        "method": "ngram",
                        "num_speculative_tokens": 2,
                        "prompt_lookup_min": 4,
                        "prompt_lookup_max": 3,
                    }
                }
            },
            "vllm.speculative_config.prompt_lookup_min",
            "4 is above prompt_lookup_max (3)",
        ),
    ],
    ids=str,
)
def test_contradictions(values: dict[str, Any], field: str, message: str) -> None:
    assert errors(**values) == [(field, message)]


@pytest.mark.parametrize(
    "values",
    [
        {"vllm": {"enforce_eager": True, "cudagraph_mode": "NONE", "optimization_level": 0}},
        {"vllm": {"max_num_batched_tokens": 4, "max_num_seqs": 4}},
        {"vllm": {"max_model_len": 192, "max_num_batched_tokens": 192, "enable_chunked_prefill": False}},
        {"device": "cpu", "precision": "fp32", "vllm": {"attention_backend": "CPU_ATTN", "cudagraph_mode": "NONE"}},
        {"vllm": {"speculative_config": {"method": "ngram", "num_speculative_tokens": 1, "prompt_lookup_min": 3}}},
        {"decoder": {"do_sample": True, "temperature": 0.01, "top_p": 0.1, "top_k": 3, "min_p": 0.1}},
        {"decoder": {"stop_strings": ["a"], "repetition_penalty": 1.1}},
    ],
    ids=str,
)
def test_what_goes_together(values: dict[str, Any]) -> None:
    experiment(**values)


def test_a_local_model_that_drafts_is_shared_by_files_in_two_folders(tmp_path: Path) -> None:
    (tmp_path / "draft").mkdir()
    (tmp_path / "suite").mkdir()

    def load(folder: Path, model: str) -> Any:
        speculative = {"method": "eagle", "model": model}
        return experiment(vllm={"speculative_config": speculative}).load_config(folder)

    here, there = load(tmp_path, "draft"), load(tmp_path / "suite", "../draft")
    assert here == there
    assert here.backend_options["speculative_config"]["model"] == str((tmp_path / "draft").resolve())
    assert load(tmp_path, "org/draft").backend_options["speculative_config"]["model"] == "org/draft"

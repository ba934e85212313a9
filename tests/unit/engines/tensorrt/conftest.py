"""A stand-in for the package ``tensorrt_llm``: the classes of its documented interface that the engine uses.

TensorRT-LLM itself needs a GPU, and this engine has not run with it. What is asked of the stand-in is what reaches it,
and what becomes of what it answers.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from pytest_llem.config import ExperimentConfig
from pytest_llem.engines.serving.sources import for_the_source
from pytest_llem.engines.tensorrt import model as models
from pytest_llem.engines.tensorrt.model import TensorRTModel
from pytest_llem.engines.transformers.sources import find_source

HERE = Path(__file__).parent
GPU = "GPU-00000000-0000-0000-0000-000000000001"

# What a call generates before the token that ends it, where one does.
STEPS_BEFORE_THE_END = 2

# What it notes of the tokens of a sequence, in seconds.
FIRST_TOKEN_S, FURTHER_TOKEN_S = 0.003, 0.001


class SamplingParams:
    """Refuses what TensorRT-LLM's class has no such field for."""

    FIELDS = frozenset(
        {
            *("end_id", "pad_id", "max_tokens", "bad_token_ids", "stop_token_ids", "include_stop_str_in_output", "n"),
            *("best_of", "use_beam_search", "top_k", "top_p", "seed", "temperature", "min_tokens", "min_p", "logprobs"),
            *("repetition_penalty", "presence_penalty", "return_perf_metrics", "detokenize"),
        }
    )

    def __init__(self, **arguments: Any) -> None:
        unknown = arguments.keys() - self.FIELDS
        if unknown:
            raise TypeError(f"unexpected keyword argument {sorted(unknown)[0]!r}")
        self.arguments = arguments


class Options:
    """A configuration object: keeps its arguments."""

    def __init__(self, **arguments: Any) -> None:
        vars(self).update(arguments)


class KvCacheConfig(Options):
    """Its block reuse is on unless it is said otherwise, as TensorRT-LLM's is."""

    enable_block_reuse = True


QuantAlgo = Enum("QuantAlgo", ["W4A16_AWQ", "FP8"])


@dataclass
class StandIn:
    """What the next ``LLM`` does.

    Attributes:
        made: all of them.
        resolved: what its ``args`` say, by dotted path, where they differ from the arguments.
        silent: arguments of which they say nothing.
        failure: raised when it is made.
        broken: raised by ``generate()``.
        logprob: of each token.
        reused: blocks of each prompt that it says it knew already.
        ending: why its sequences end.
        stop_reason: the token that ended them, where it is not the first of those that may.
        lost: how many of its outputs do not come back.
        keeps_end: whether the token that ends a sequence is among its tokens.
        shift_s: how far its clock is from this process' one.
    """

    made: list[LLM] = field(default_factory=list)
    resolved: dict[str, Any] = field(default_factory=dict)
    silent: tuple[str, ...] = ()
    failure: Exception | None = None
    broken: BaseException | None = None
    logprob: float = -0.25
    reused: int = 0
    ending: str = "length"
    stop_reason: int | None = None
    lost: int = 0
    keeps_end: bool = True
    shift_s: float = 0.0


class LLM:
    """Generates tokens that are the prompt's first ones, counted up."""

    behaviour: StandIn

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.calls: list[tuple[Any, Any]] = []
        self.ended = False
        self.in_this_process = os.environ.get("TLLM_WORKER_USE_SINGLE_PROCESS") == "1"
        self.files = sorted(path.name for path in Path(arguments["model"]).iterdir())
        if self.behaviour.failure is not None:
            raise self.behaviour.failure
        self.behaviour.made.append(self)
        self.args = Options(
            **{name: value for name, value in arguments.items() if name not in self.behaviour.silent},
        )
        for path, value in self.behaviour.resolved.items():
            *names, last = path.split(".")
            holder: Any = self.args
            for name in names:
                holder = getattr(holder, name)
            setattr(holder, last, value)

    def shutdown(self) -> None:
        self.ended = True

    def generate(self, inputs: list[Any], sampling_params: Any, *, use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        self.calls.append((inputs, sampling_params))
        if self.behaviour.broken is not None:
            raise self.behaviour.broken
        several = isinstance(sampling_params, list)
        each = sampling_params if several else [sampling_params] * len(inputs)
        start = timedelta(seconds=time.monotonic() + self.behaviour.shift_s)
        # What it notes lies within the call.
        time.sleep(FIRST_TOKEN_S + FURTHER_TOKEN_S * 10)
        outputs = [self._output(ids, asked.arguments, start) for ids, asked in zip(inputs, each, strict=True)]
        return outputs[self.behaviour.lost :]

    def _output(self, ids: list[int], asked: dict[str, Any], start: timedelta) -> Any:
        tokens = [ids[0] + step for step in range(asked["max_tokens"])]
        if self.behaviour.ending == "stop":
            end = self.behaviour.stop_reason or asked["end_id"]
            tokens = [*tokens[:STEPS_BEFORE_THE_END], *([end] * self.behaviour.keeps_end)]
        first = start + timedelta(seconds=FIRST_TOKEN_S)
        last = first + timedelta(seconds=FURTHER_TOKEN_S) * (len(tokens) - 1)
        metrics = SimpleNamespace(
            kv_cache_metrics=SimpleNamespace(num_reused_blocks=self.behaviour.reused),
            timing_metrics=SimpleNamespace(first_scheduled_time=start, first_token_time=first, last_token_time=last),
        )
        sequence = SimpleNamespace(
            token_ids=tokens,
            logprobs=[{token: SimpleNamespace(logprob=self.behaviour.logprob)} for token in tokens],
            finish_reason=self.behaviour.ending,
            stop_reason=self.behaviour.stop_reason,
            request_perf_metrics=metrics if asked.get("return_perf_metrics") else None,
        )
        return SimpleNamespace(outputs=[sequence])


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """The stand-in takes the place of the package; the CPU that of the GPU."""
    behaviour = StandIn()
    engine = type("LLM", (LLM,), {"behaviour": behaviour})
    built = type("LLM", (LLM,), {"behaviour": behaviour, "built": True})
    llmapi = {
        "KvCacheConfig": KvCacheConfig,
        "CudaGraphConfig": type("CudaGraphConfig", (Options,), {}),
        "BuildConfig": type("BuildConfig", (Options,), {}),
        "QuantConfig": type("QuantConfig", (Options,), {}),
        "QuantAlgo": QuantAlgo,
    }
    contents_of = {
        "tensorrt_llm.llmapi": llmapi,
        "tensorrt_llm._tensorrt_engine": {"LLM": built},
        "tensorrt_llm": {"LLM": engine, "SamplingParams": SamplingParams},
    }
    modules = {}
    for name, contents in contents_of.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        module.__path__ = []
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
        modules[name] = module
    vars(modules["tensorrt_llm"])["llmapi"] = modules["tensorrt_llm.llmapi"]
    monkeypatch.setattr(models, "_gpu_uuid", lambda _: GPU)
    return behaviour


def experiment(**fields: Any) -> ExperimentConfig:
    """A small experiment on TensorRT-LLM."""
    return ExperimentConfig.model_validate(
        {
            "model": "builtin:tiny-llama",
            "backend": "tensorrt",
            "precision": "fp32",
            "dataset": {"synthetic": {"n": 3, "input_len": 8}},
            "max_input_tokens": 8,
            "max_output_tokens": 4,
            **fields,
        }
    )


def load(config: ExperimentConfig) -> TensorRTModel:
    """As the engine does, with weights that are drawn on the CPU."""
    found = for_the_source(config.load_config(HERE))
    return TensorRTModel(found, find_source(found), torch.device("cpu"))

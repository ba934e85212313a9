"""A stand-in for the package ``vllm``: the few classes that the engine uses, without what they do.

It is the one mock of this project: vLLM itself takes minutes and an environment of its own, which
tests/integration/vllm has. What is asked of it here is what reaches it, and what becomes of what it answers.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pytest_llem.config import ExperimentConfig
from pytest_llem.engines.vllm.engine import VllmEngine
from pytest_llem.engines.vllm.model import VllmModel

HERE = Path(__file__).parent

# What it notes of the tokens of a sequence, in seconds.
FIRST_TOKEN_S, FURTHER_TOKEN_S = 0.003, 0.001


class EngineDeadError(Exception):
    """vLLM's, for an engine core that has ended."""


class SamplingParams:
    """Keeps its arguments."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments


@dataclass
class StandIn:
    """What the next ``LLM`` does.

    Attributes:
        made: all of them.
        resolved: what its resolved configuration says, by dotted path, where it differs from the arguments.
        failure: raised when it is made.
        broken: raised by ``generate()``.
        unfinished: whether a call that fails leaves requests behind.
        finite: whether its logits are numbers.
        cached: tokens of each prompt that it says it knew already.
        ending: why its sequences end.
        stop: the text at which they do.
        shift_s: how far its clock is from this process' one.
        lost: how many of its outputs do not come back.
        workers: what each of its workers tells of itself; ``None`` for one on the CPU.
        peaks: the peak memory of each worker.
        client_has: what its client of the engine core has, where that differs from vLLM 0.32's.
    """

    made: list[LLM] = field(default_factory=list)
    resolved: dict[str, Any] = field(default_factory=dict)
    failure: Exception | None = None
    broken: BaseException | None = None
    unfinished: bool = False
    finite: bool = True
    cached: int = 0
    ending: str = "length"
    stop: str | None = None
    shift_s: float = 0.0
    lost: int = 0
    workers: list[dict[str, Any]] | None = None
    peaks: list[tuple[int | None, str | None]] = field(default_factory=lambda: [(1000, None)])
    client_has: dict[str, Any] | None = None


class LLM:
    """Generates tokens that are the prompt's first ones, counted up."""

    behaviour: StandIn

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.calls: list[tuple[Any, Any]] = []
        self.rpc: list[str] = []
        self.ended = False
        self.die = threading.Event()
        self.listening = threading.Thread(target=self.die.wait, daemon=True)
        self.listening.start()
        self.files = sorted(path.name for path in Path(arguments["model"]).iterdir())
        if self.behaviour.failure is not None:
            raise self.behaviour.failure
        self.behaviour.made.append(self)
        client = self.behaviour.client_has
        if client is None:
            client = {
                "output_queue_thread": self.listening,
                "outputs_queue": queue.SimpleQueue(),
                "utility_results": {},
            }
        self.llm_engine = SimpleNamespace(
            vllm_config=_resolved(arguments, self.behaviour.resolved),
            engine_core=SimpleNamespace(shutdown=self._shutdown, **client),
            has_unfinished_requests=lambda: self.behaviour.unfinished,
        )

    def _shutdown(self) -> None:
        self.die.set()
        self.ended = True

    def collective_rpc(self, method: str) -> list[Any]:
        self.rpc.append(method)
        on_the_cpu = {"gpu_uuid": None, "weights_bytes": None, "kv_cache_bytes": 1 << 20}
        answers: dict[str, list[Any]] = {
            "llem_describe": self.behaviour.workers or [on_the_cpu],
            "llem_logits_were_finite": [self.behaviour.finite],
            "llem_peak_memory": self.behaviour.peaks,
        }
        return answers.get(method, [None])

    def generate(self, prompts: list[Any], parameters: Any, *, use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        self.calls.append((prompts, parameters))
        if self.behaviour.broken is not None:
            raise self.behaviour.broken
        each = parameters if isinstance(parameters, list) else [parameters] * len(prompts)
        outputs = []
        start_s = time.monotonic() + self.behaviour.shift_s
        # What it notes lies within the call.
        time.sleep(FIRST_TOKEN_S + FURTHER_TOKEN_S * 10)
        for prompt, asked in zip(prompts, each, strict=True):
            tokens = [prompt["prompt_token_ids"][0] + step for step in range(asked.arguments["max_tokens"])]
            logprobs = [
                {token: SimpleNamespace(logprob=-0.25), 1000: SimpleNamespace(logprob=-1.0 if step else -float("inf"))}
                for step, token in enumerate(tokens)
            ]
            outputs.append(
                SimpleNamespace(
                    outputs=[
                        SimpleNamespace(
                            token_ids=tokens,
                            logprobs=logprobs,
                            finish_reason=self.behaviour.ending,
                            stop_reason=self.behaviour.stop,
                        )
                    ],
                    num_cached_tokens=self.behaviour.cached,
                    metrics=SimpleNamespace(
                        scheduled_ts=start_s,
                        first_token_ts=start_s + FIRST_TOKEN_S,
                        last_token_ts=start_s + FIRST_TOKEN_S + FURTHER_TOKEN_S * (len(tokens) - 1),
                    ),
                )
            )
        return outputs[self.behaviour.lost :]


def _resolved(arguments: dict[str, Any], other: dict[str, Any]) -> Any:
    from pytest_llem.engines.vllm.checks import RESOLVED

    values = {path: arguments.get(name) for name, path in RESOLVED.items()}
    values |= {f"compilation_config.{name}": value for name, value in arguments.get("compilation_config", {}).items()}
    values["model_config.max_model_len"] = arguments.get("max_model_len", 2048)
    drafting = arguments.get("speculative_config")
    top = SimpleNamespace(speculative_config=None if drafting is None else SimpleNamespace(**drafting))
    for path, value in (values | other).items():
        holder = top
        *names, last = path.split(".")
        for name in names:
            if not hasattr(holder, name):
                setattr(holder, name, SimpleNamespace())
            holder = getattr(holder, name)
        setattr(holder, last, value)
    return top


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """The stand-in takes the place of the package."""
    behaviour = StandIn()
    engine = type("LLM", (LLM,), {"behaviour": behaviour})
    platforms = SimpleNamespace(current_platform=SimpleNamespace(device_type="cpu"))
    behaviour_of = {
        "vllm": {"LLM": engine, "SamplingParams": SamplingParams},
        "vllm.platforms": vars(platforms),
        "vllm.v1": {},
        "vllm.v1.engine": {},
        "vllm.v1.engine.exceptions": {"EngineDeadError": EngineDeadError},
    }
    for name, contents in behaviour_of.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        module.__path__ = []
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    return behaviour


def experiment(**fields: Any) -> ExperimentConfig:
    """A small experiment on vLLM."""
    return ExperimentConfig.model_validate(
        {
            "model": "builtin:tiny-llama",
            "backend": "vllm",
            "precision": "fp32",
            "dataset": {"synthetic": {"n": 3, "input_len": 8}},
            "max_input_tokens": 8,
            "max_output_tokens": 4,
            **fields,
        }
    )


def load(config: ExperimentConfig) -> VllmModel:
    loaded = VllmEngine().load(config.load_config(HERE), "cpu")
    assert isinstance(loaded, VllmModel)
    return loaded

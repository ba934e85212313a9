"""An engine without a model, so that a test of anything but the engine needs no torch.

``pytest -p tests.simulators.engine`` puts it in the place of the backend ``pytorch``, for that session and for the
children that inherit its arguments: experiment files stay as they are. A call takes :data:`CALL_S` of the processor's
time, and its tokens are a hash of its prompts and the experiment's
seed.

The model's name may ask for a fault, as in ``model: fake/hangs``; where experiments are to share the load all the same,
``passthrough: {generate: {fault: hangs}}`` does.

``does-not-load``       loading fails
``runs-nowhere``        this machine lacks what the model needs
``raises-in-call-3``    the third call of the experiment fails (any number)
``miscounts``           each sequence ends a token too early
``evens-out``           each sequence has as many tokens as the one that counts from the other end is to have
``hangs``               the first call never returns
``kills-its-process``   the first call ends the process, as the kernel does when memory runs out
``loses-the-device``    the first call fails, and so would all that follow in this process

The environment variable ``FAKE_CALL_S`` makes calls last longer or shorter: the same work, done better or worse.
``FAKE_OTHER_TOKEN=PROMPT:POSITION``, both from 1, makes that token another one, and ``FAKE_OTHER_TOKEN=PROMPT:end``
leaves out the last one of that prompt.

PYTEST_DONT_REWRITE: it holds no assertions, and a test may have imported it before.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import time
from typing import TYPE_CHECKING, Any

from pytest_llem.engines.base import CallTiming, Engine, MemoryPlan, WatchedSequence, Workload
from pytest_llem.engines.prompts import Prompts, load_prompts
from pytest_llem.errors import LoadError, MeasurementError, UnavailableError
from tests.simulators.clock import work

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pytest

    from pytest_llem.config import ExperimentConfig, LoadConfig

CALL_S = 0.002

_BACKEND = "pytorch"
_VOCABULARY = 256


def pytest_configure(config: pytest.Config) -> None:
    """Take the place of the real engine for one session: others in this process may want that."""
    from pytest_llem.engines import BUILT_IN

    real = BUILT_IN[_BACKEND]
    BUILT_IN[_BACKEND] = f"{__name__}:{FakeEngine.__name__}"
    config.add_cleanup(lambda: BUILT_IN.update({_BACKEND: real}))


class DeviceLostError(RuntimeError):
    """The device answers no more."""


class FakeEngine(Engine):
    """See :class:`pytest_llem.engines.base.Engine`."""

    def load(self, config: LoadConfig, device: str) -> FakeModel:
        fault = _fault_of(config.model)
        if fault == "does-not-load":
            raise LoadError(f"model {config.model!r}: could not be loaded")
        if fault == "runs-nowhere":
            raise UnavailableError(f"model {config.model!r}: needs what this machine lacks")
        return FakeModel(config, device)

    def predict_memory(self, config: ExperimentConfig, folder: Path) -> MemoryPlan:
        return MemoryPlan(weights_bytes=2**20, kv_cache_bytes=2**10 * _batch_size(config))

    def is_device_lost(self, failure: BaseException) -> bool:
        return isinstance(failure, DeviceLostError)


class FakeModel:
    """See :class:`pytest_llem.engines.base.LoadedModel`."""

    def __init__(self, config: LoadConfig, device: str) -> None:
        self.model: Any = _Weights()
        self.tokenizer: Any = _Tokenizer()
        self.device: Any = device
        self.commit: str | None = f"{config.model}-{config.random_seed}"
        self.gpu_uuids: Sequence[str] = ()
        self.processes = config.tensor
        self.load_s = CALL_S
        self.warnings: Sequence[str] = ()
        self.libraries: Sequence[str] = ()

    def prepare(self, config: ExperimentConfig, folder: Path) -> FakeWorkload:
        prompts = load_prompts(config, folder, vocabulary_size=_VOCABULARY, special_ids=(), tokenizer=self.tokenizer)
        return FakeWorkload(config, prompts)

    def close(self) -> None:
        self.model = None


class FakeWorkload(Workload):
    """See :class:`pytest_llem.engines.base.Workload`."""

    def __init__(self, config: ExperimentConfig, prompts: Prompts, *, new_tokens: int | None = None) -> None:
        self._config = config
        self.prompts = prompts
        self._new_tokens = config.max_output_tokens if new_tokens is None else new_tokens
        asked = config.passthrough.generate
        self._call_s = float(os.environ.get("FAKE_CALL_S", CALL_S))
        self._other_token = os.environ.get("FAKE_OTHER_TOKEN", "0:1")
        self._fault = asked.get("fault") or _fault_of(config.model)
        self._ran = 0
        size = _batch_size(config)
        self._batches = [prompts.token_ids[start : start + size] for start in range(0, len(prompts.token_ids), size)]
        lengths = (new_tokens is None and prompts.output_tokens) or [self._new_tokens] * len(prompts)
        lengths = lengths[::-1] if self._fault == "evens-out" else lengths
        self._lengths = [lengths[start : start + size] for start in range(0, len(prompts), size)]
        self.calls = len(self._batches)

    @property
    def expected_output_tokens(self) -> int | None:
        return None if self._other_token.endswith("end") else sum(map(sum, self._lengths))

    def run(self, index: int) -> list[list[int]]:
        self._ran += 1
        self._act_out_the_fault()
        miscounted = self._fault == "miscounts"
        output = [
            [self._token(prompt, position) for position in range(tokens - miscounted)]
            for prompt, tokens in zip(self._batches[index], self._lengths[index], strict=True)
        ]
        self._change_a_token(index, output)
        work(self._call_s)
        return output

    def _act_out_the_fault(self) -> None:
        if self._fault == f"raises-in-call-{self._ran}":
            raise MeasurementError(f"call {self._ran} failed")
        if self._fault == "loses-the-device":
            raise DeviceLostError("the device is lost")
        if self._fault == "kills-its-process":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fault == "hangs":
            time.sleep(3600)

    def _change_a_token(self, index: int, output: list[list[int]]) -> None:
        prompt, _, position = self._other_token.partition(":")
        row = int(prompt) - 1 - index * len(self._batches[0])
        if not 0 <= row < len(output):
            return
        if position == "end":
            output[row].pop()
        elif int(position) <= len(output[row]):
            output[row][int(position) - 1] ^= 1

    def _token(self, prompt: tuple[int, ...], position: int) -> int:
        text = repr((prompt, position, self._config.random_seed))
        return hashlib.sha256(text.encode()).digest()[0]

    def output_tokens(self, index: int, output: list[list[int]]) -> list[list[int]]:
        return output

    def time_tokens(self, index: int) -> CallTiming:
        self.run(index)
        per_token_s = self._call_s / self._new_tokens
        return CallTiming(per_token_s, per_token_s if self._new_tokens > 1 else None)

    def watch_tokens(self, index: int) -> tuple[list[WatchedSequence] | None, str | None]:
        output = self.run(index)
        return [WatchedSequence(tokens, [1 + token / 4 for token in tokens]) for tokens in output], None

    def text(self, tokens: list[int]) -> str | None:
        return bytes(tokens).decode("latin-1")

    def prefill(self) -> FakeWorkload:
        return FakeWorkload(self._config, self.prompts, new_tokens=1)

    def synchronize(self) -> None:
        """Nothing is queued."""

    def reset_peak_memory(self) -> None:
        """Nothing is kept."""

    def peak_memory_bytes(self) -> tuple[int | None, str | None]:
        return 2**20, None


class _Weights:
    """What is freed when the model is closed."""


class _Tokenizer:
    """A token for each byte."""

    chat_template: Any = None

    def __len__(self) -> int:
        return 256

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": list(text.encode())}


def _fault_of(model: str) -> str | None:
    found = re.fullmatch("fake/(.+)", model)
    return found and found[1]


def _batch_size(config: ExperimentConfig) -> int:
    return (config.pytorch.batch_size if config.pytorch else None) or 1

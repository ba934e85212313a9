"""What an engine offers: load a model, turn an experiment into calls, run them, tell what became of the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from pytest_llem.config import ExperimentConfig, LoadConfig
    from pytest_llem.engines.prompts import Prompts


@dataclass(frozen=True)
class CallTiming:
    """When the tokens of one call to ``generate()`` appeared.

    Attributes:
        time_to_first_token_s: from the call to the first new token, in seconds.
        time_per_output_token_s: mean time between the further tokens of a sequence, in seconds; ``None`` when
            there were none.
        at_once: whether all sequences have their first token in the same step, in every pass. Else some decode while
            others are in prefill, and no instant divides the call into the two.
    """

    time_to_first_token_s: float
    time_per_output_token_s: float | None
    at_once: bool = True


@dataclass(frozen=True)
class WatchedSequence:
    """The tokens of one sequence, and how close the choice of each was.

    Attributes:
        tokens: its new tokens, as of :meth:`Workload.output_tokens`.
        logit_gaps: for each, by how much the best logit was above the second best when it was chosen, after all that
            changes logits; ``None`` where no other token could come.
    """

    tokens: list[int]
    logit_gaps: list[float | None]


@dataclass(frozen=True)
class MemoryPlan:
    """What an experiment takes at least.

    Attributes:
        weights_bytes: parameters and buffers of the model, and of its assistant; ``None`` where unknown.
        kv_cache_bytes: keys and values of one call, on the model's device; ``None`` where unknown.
        reason: why something is unknown; ``None`` where nothing is.
        loading_bytes: what the weights take while they are loaded, where that is more.
    """

    weights_bytes: int | None
    kv_cache_bytes: int | None
    reason: str | None = None
    loading_bytes: int = 0

    @property
    def total_bytes(self) -> int | None:
        """The most that is held at once; ``None`` where a part is unknown."""
        if self.weights_bytes is None or self.kv_cache_bytes is None:
            return None
        return max(self.weights_bytes + self.kv_cache_bytes, self.loading_bytes)


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One of several processes that share a model.

    Attributes:
        board: UUID of its GPU; ``None`` on the CPU.
        parameter_share: part of the model's parameters that it holds; ``None`` where that is not known.
        peak_memory_bytes: its peak memory; ``None`` where that is not known.
    """

    board: str | None
    parameter_share: float | None
    peak_memory_bytes: int | None


Peak = tuple[int | None, str | None]
"""Peak memory in bytes, or ``None`` and the reason."""


def together(peaks: Sequence[Peak]) -> Peak:
    """Those of several processes, which need not fall together: their sum is an upper bound."""
    known = [peak for peak, _ in peaks if peak is not None]
    reason = next((reason for peak, reason in peaks if peak is None), None)
    return (sum(known), None) if reason is None else (None, reason)


class Workload(Protocol):
    """One pass over an experiment's prompts, ready to run: tokenised, padded, moved to the device.

    A class that derives from it has defaults for what it cannot tell of the tokens: their logits, their text.

    Attributes:
        calls: number of ``generate()`` calls in a pass.
        prompts: those of one pass.
        expected_output_tokens: real output tokens of one pass where the options fix them, else ``None``.
    """

    calls: int
    prompts: Prompts

    @property
    def expected_output_tokens(self) -> int | None: ...

    def run(self, index: int) -> Any:
        """Run the ``index``-th call of the pass; returns its output for :meth:`output_tokens`."""

    def output_tokens(self, index: int, output: Any) -> list[list[int]]:
        """The real new tokens of each sequence in what call ``index`` returned: no padding, nothing after its end."""

    def time_tokens(self, index: int) -> CallTiming:
        """Run call ``index`` once more and say when its tokens appeared."""

    def watch_tokens(self, index: int) -> tuple[list[WatchedSequence] | None, str | None]:  # noqa: ARG002
        """Run call ``index`` once more and watch the two best logits of each step; or ``None`` and the reason."""
        return None, "this engine does not tell"

    def text(self, tokens: list[int]) -> str | None:  # noqa: ARG002
        """What a sequence's new tokens spell; ``None`` where that is not known."""
        return None

    def prefill(self) -> Workload:
        """The same calls, each stopped after the first token of its sequences."""

    def synchronize(self) -> None:
        """Wait until the device has finished all queued work."""

    def reset_peak_memory(self) -> None:
        """Start a new peak-memory measurement."""

    def peak_memory_bytes(self) -> tuple[int | None, str | None]:
        """Peak memory since the last reset, in bytes, or ``None`` and the reason."""

    def ranks(self) -> Sequence[Rank]:
        """The processes that share the model, where there are several, with the peak memory of each as
        :meth:`peak_memory_bytes` has last read it."""
        return ()


class LoadedModel(Protocol):
    """A model on its device, shared by all experiments with the same load configuration.

    Attributes:
        model: the engine's model object (for transformers, a ``PreTrainedModel``).
        tokenizer: its tokenizer.
        device: the ``torch.device`` that inputs go to.
        commit: the hub's resolved commit, or a fingerprint of a local folder or a built-in shape. Those of an adapter
            and of an assistant follow, joined by ``+``.
        gpu_uuids: UUIDs of the GPUs the model lies on, as NVML spells them (``GPU-...``); empty on the CPU.
        load_s: seconds that loading took.
        warnings: what libraries warned of meanwhile; part of each result of the model.
        processes: how many processes share the model.
        libraries: packages that the model is made of and that may have warned of it before, to another one.
    """

    model: Any
    tokenizer: Any
    device: Any
    commit: str | None
    gpu_uuids: Sequence[str]
    processes: int
    load_s: float
    warnings: Sequence[str]

    @property
    def libraries(self) -> Collection[str]: ...

    def prepare(self, config: ExperimentConfig, folder: Path) -> Workload:
        """Build the workload of ``config``. Relative dataset paths start at ``folder``.

        Raises:
            pytest_llem.errors.LlemError: the prompts cannot be read or do not fit the model.
        """

    def close(self) -> None:
        """Free the model and the memory it held."""


class Engine(Protocol):
    """Loads models for one backend. A class that derives from it has the defaults of all but ``load``."""

    def load(self, config: LoadConfig, device: str) -> LoadedModel:
        """Load what ``config`` describes onto ``device`` (``cpu`` or ``cuda``).

        Raises:
            pytest_llem.errors.UnavailableError: valid, but it cannot run on this machine.
            pytest_llem.errors.LoadError: it could not be loaded.
        """

    def predict_memory(self, config: ExperimentConfig, folder: Path) -> MemoryPlan:  # noqa: ARG002
        """What ``config`` takes at least, before anything is loaded. Relative paths start at ``folder``."""
        return MemoryPlan(None, None, f"not predicted for backend {config.backend}")

    def release(self, failure: BaseException) -> None:  # noqa: ARG002
        """Free what the frames of ``failure``, which is kept for debuggers, keep alive of a model."""
        return

    def is_device_lost(self, failure: BaseException) -> bool:  # noqa: ARG002
        """Whether ``failure``, or what it came from, leaves the device unusable for this process."""
        return False

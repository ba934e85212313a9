"""What an engine offers: load a model, turn an experiment into calls, run them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_llem.config import ExperimentConfig, LoadConfig


@dataclass(frozen=True)
class CallTiming:
    """When the tokens of one call to ``generate()`` appeared.

    Attributes:
        time_to_first_token_s: from the call to the first new token, in seconds.
        time_per_output_token_s: mean time between the further tokens of a sequence, in seconds; ``None`` when
            there were none.
    """

    time_to_first_token_s: float
    time_per_output_token_s: float | None


class Workload(Protocol):
    """One pass over an experiment's prompts, ready to run: tokenised, padded, moved to the device.

    Attributes:
        calls: number of ``generate()`` calls in a pass.
        prompts: prompts of one pass.
        input_tokens: real prompt tokens of one pass, without padding.
        token_ids_hash: hex SHA-256 of the prompts' token ids in order.
        truncated_prompts: prompts that were longer than ``max_input_tokens`` and lost their end.
        expected_output_tokens: real output tokens of one pass where the options fix them, else ``None``.
        devices: UUIDs of the GPUs that the model lies on; empty on the CPU.
    """

    @property
    def calls(self) -> int: ...

    @property
    def prompts(self) -> int: ...

    @property
    def input_tokens(self) -> int: ...

    @property
    def token_ids_hash(self) -> str: ...

    @property
    def truncated_prompts(self) -> int: ...

    @property
    def expected_output_tokens(self) -> int | None: ...

    def run(self, index: int) -> Any:
        """Run the ``index``-th call of the pass; returns its output for :meth:`count_output_tokens`."""

    def output_tokens(self, index: int, output: Any) -> list[list[int]]:
        """The real new tokens of each sequence in what call ``index`` returned."""

    def count_output_tokens(self, index: int, output: Any) -> int:
        """Real new tokens in what call ``index`` returned: no padding, nothing after end-of-sequence."""

    def time_tokens(self, index: int) -> CallTiming:
        """Run call ``index`` once more and say when its tokens appeared."""

    def prefill(self) -> Workload:
        """The same calls, each stopped after the first token of its sequences."""

    def synchronize(self) -> None:
        """Wait until the device has finished all queued work."""

    def reset_peak_memory(self) -> None:
        """Start a new peak-memory measurement."""

    def peak_memory_bytes(self) -> tuple[int | None, str | None]:
        """Peak memory since the last reset, in bytes, or ``None`` and the reason."""


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
    """

    model: Any
    tokenizer: Any
    device: Any
    commit: str | None
    gpu_uuids: Sequence[str]
    load_s: float

    def prepare(self, config: ExperimentConfig, folder: Path) -> Workload:
        """Build the workload of ``config``. Relative dataset paths start at ``folder``.

        Raises:
            pytest_llem.errors.LlemError: the prompts cannot be read or do not fit the model.
        """

    def close(self) -> None:
        """Free the model and the memory it held."""


class Engine(Protocol):
    """Loads models for one backend."""

    def load(self, config: LoadConfig, device: str) -> LoadedModel:
        """Load what ``config`` describes onto ``device`` (``cpu`` or ``cuda``).

        Raises:
            pytest_llem.errors.UnavailableError: valid, but it cannot run on this machine.
            pytest_llem.errors.LoadError: it could not be loaded.
        """

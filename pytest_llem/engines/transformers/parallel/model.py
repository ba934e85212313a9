"""A model in several ranks, as one model of this process, which measures."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from pytest_llem.engines.base import Rank, Workload, together
from pytest_llem.engines.folder import EngineFolder
from pytest_llem.engines.prompts import text_of
from pytest_llem.engines.transformers.loading import save_random
from pytest_llem.engines.transformers.memory_plan import check_fits, predict_weights
from pytest_llem.engines.transformers.parallel.group import RankGroup, RankLostError
from pytest_llem.engines.transformers.sources import find_source
from pytest_llem.errors import LlemError, LoadError, MeasurementError, UnavailableError, about

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from pytest_llem.config import ExperimentConfig, LoadConfig
    from pytest_llem.engines.base import CallTiming, Peak, WatchedSequence


# Of an even one: norms are whole in each, and an odd vocabulary leaves one of them a row more.
_LARGEST_PART = 1.2


class ParallelModel:
    """A loaded model. See :class:`pytest_llem.engines.base.LoadedModel`.

    Attributes:
        model: the :class:`pytest_llem.engines.transformers.parallel.group.RankGroup`; ``None`` once it is closed, or a
            rank has ended.
    """

    # The ranks are new processes for each load, and say everything again.
    libraries: frozenset[str] = frozenset()

    def __init__(self, load: LoadConfig, device: str) -> None:
        """Start the ranks and load a part of the model in each.

        Raises:
            UnavailableError: valid, but it cannot run on this machine.
            LoadError: it could not be loaded, or differs from ``load``.
        """
        self._load = load
        if device == "cuda" and torch.cuda.device_count() < load.tensor:
            raise UnavailableError(
                f"each process needs a GPU, and this one may see {torch.cuda.device_count()}",
                field="parallel.tensor",
                value=load.tensor,
            )
        self._source = find_source(load)
        _check_divisible(self._source.config.get_text_config(), load.tensor)
        self.device = torch.device(device)
        self.tokenizer = self._source.tokenizer
        self.commit = self._source.commit
        self.processes = load.tensor
        self.model: RankGroup | None = None
        self._closed = False
        self._keys = itertools.count()
        self._start()

    def prepare(self, config: ExperimentConfig, folder: Path) -> ParallelWorkload:
        """Build the workload of ``config`` in each rank. Relative dataset paths start at ``folder``.

        Where a rank has ended in an earlier experiment, the model is loaded anew.

        Raises:
            LlemError: as :meth:`pytest_llem.engines.transformers.engine.TransformersModel.prepare`.
        """
        if self._closed:
            raise MeasurementError("the model was closed")
        if self.model is None:
            with about(field="model", value=self._load.model):
                self._start()
        until_s = None if config.timeout_s is None else time.monotonic() + config.timeout_s
        self.ask("forget", until_s=until_s)
        key = next(self._keys)
        prepared = self.ask("prepare", key, config, folder, until_s=until_s)
        return ParallelWorkload(self, key, prepared[0], until_s)

    def ask(self, method: str, *arguments: Any, until_s: float | None = None) -> list[Any]:
        """What a method of :class:`pytest_llem.engines.transformers.rank.Rank` returns, of each rank.

        Raises:
            LlemError: it failed in one of them, or one ended or did not answer in time.
        """
        if self.model is None:
            raise MeasurementError("the model was closed")
        try:
            return self.model.ask(method, *arguments, until_s=until_s)
        except RankLostError as lost:
            self.model = None
            raise lost.error from lost

    def new_key(self) -> int:
        """By which a further workload is known to the ranks."""
        return next(self._keys)

    def close(self) -> None:
        """End the ranks. Closing twice is harmless."""
        self._closed = True
        self.end_ranks()

    def end_ranks(self) -> None:
        """End them. The next workload gets new ones."""
        group, self.model = self.model, None
        if group is not None:
            group.close()

    def _start(self) -> None:
        start_s = time.perf_counter()
        folder = EngineFolder()
        try:
            load, host = self._load, torch.device("cpu")
            if self._source.location is None or self.device == host:
                check_fits(predict_weights(load).loading_bytes, host, "the weights")
            if self._source.location is None:
                # The whole of it need not fit a single GPU.
                location = save_random(load, self._source, host, folder.path / "model")
                load = replace(load, model=location, weights="pretrained", random_seed=None)
            self.model = RankGroup(load.tensor, self.device.type)
            self.parts: Sequence[dict[str, Any]] = self.ask("load", load, self.device.type)
        except BaseException as exc:
            if isinstance(exc, LlemError) and exc.field == "model":
                # The ranks know the folder of what was drawn.
                exc.value = self._load.model
            self.end_ranks()
            raise
        finally:
            folder.remove()
        self.gpu_uuids: Sequence[str] = tuple(part["board"] for part in self.parts if part["board"] is not None)
        texts = [text for part in self.parts for text in part["warnings"]]
        self.warnings: Sequence[str] = list(dict.fromkeys([*texts, *_uneven(self.parts)]))
        self.load_s = time.perf_counter() - start_s


def _uneven(parts: Sequence[dict[str, Any]]) -> Iterator[str]:
    """That much of the model is whole in each process."""
    largest = max(part["parameter_share"] for part in parts)
    if largest > _LARGEST_PART / len(parts):
        yield (
            f"parallel.tensor: a process holds {largest:.0%} of the parameters: of this architecture transformers "
            "divides some layers only"
        )


def _check_divisible(architecture: Any, ranks: int) -> None:
    """That each rank gets whole attention heads: transformers would fail in the first call, with shapes.

    Raises:
        LoadError: it does not.
    """
    for name in ("num_attention_heads", "num_key_value_heads"):
        heads = getattr(architecture, name, None)
        if isinstance(heads, int) and heads % ranks:
            raise LoadError(
                f"{name} of the model, {heads}, cannot be divided by it", field="parallel.tensor", value=ranks
            )


class ParallelWorkload(Workload):
    """See :class:`pytest_llem.engines.base.Workload`. All ranks run each call, and have finished it before it returns.

    A call crosses a line to each rank and back, which takes some 0.2 ms and is part of it.
    """

    def __init__(self, loaded: ParallelModel, key: int, prepared: Any, until_s: float | None) -> None:
        self._loaded = loaded
        self._key = key
        self._until_s = until_s
        self.prompts, self.calls, self._expected_output_tokens = prepared
        self._agreed: set[int] = set()
        self._peaks: Sequence[Peak] = [(None, None)] * loaded.processes

    @property
    def expected_output_tokens(self) -> int | None:
        expected: int | None = self._expected_output_tokens
        return expected

    def run(self, index: int) -> list[list[int]]:
        """Run call ``index`` in all ranks; returns the real new tokens of each sequence.

        Raises:
            MeasurementError: it failed in one of them, or they do not agree on the tokens.
            UnavailableError: the call needs a package that is missing.
        """
        first = index not in self._agreed
        tokens, *others = self._compute("run", index, first)
        if first and any(other != tokens for other in others):
            raise MeasurementError("the processes that share the model do not agree on its tokens")
        self._agreed.add(index)
        found: list[list[int]] = tokens
        return found

    def output_tokens(self, index: int, output: list[list[int]]) -> list[list[int]]:  # noqa: ARG002
        return output

    def time_tokens(self, index: int) -> CallTiming:
        timing: CallTiming = self._compute("time_tokens", index)[0]
        return timing

    def watch_tokens(self, index: int) -> tuple[list[WatchedSequence] | None, str | None]:
        watched: tuple[list[WatchedSequence] | None, str | None] = self._compute("watch_tokens", index)[0]
        return watched

    def text(self, tokens: list[int]) -> str | None:
        return text_of(self._loaded.tokenizer, tokens)

    def prefill(self) -> ParallelWorkload:
        key = self._loaded.new_key()
        self._ask("prefill", key)
        return ParallelWorkload(
            self._loaded, key, (self.prompts, self.calls, self._expected_output_tokens), self._until_s
        )

    def synchronize(self) -> None:
        """Nothing is queued: each rank has waited for its device before it answers."""

    def reset_peak_memory(self) -> None:
        self._ask("reset_peak_memory")

    def peak_memory_bytes(self) -> tuple[int | None, str | None]:
        """Of all ranks together."""
        self._peaks = self._ask("peak_memory_bytes")
        return together(self._peaks)

    def ranks(self) -> list[Rank]:
        return [
            Rank(board=part["board"], parameter_share=part["parameter_share"], peak_memory_bytes=peak)
            for part, (peak, _) in zip(self._loaded.parts, self._peaks, strict=True)
        ]

    def _compute(self, method: str, *arguments: Any) -> list[Any]:
        """What they return of something that they compute together."""
        try:
            return self._ask(method, *arguments)
        except BaseException:
            # Where it failed at different places, an operation of one would meet another one of the others ever after;
            # and a GPU that failed is lost to its process.
            self._loaded.end_ranks()
            raise

    def _ask(self, method: str, *arguments: Any) -> list[Any]:
        return self._loaded.ask(method, self._key, *arguments, until_s=self._until_s)

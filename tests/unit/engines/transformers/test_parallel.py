"""A model in several processes: what is refused before any is started, and what their answers become."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.config import ExperimentConfig
from pytest_llem.engines.prompts import Prompts
from pytest_llem.engines.transformers.available_memory import Available
from pytest_llem.engines.transformers.engine import TransformersEngine
from pytest_llem.engines.transformers.memory_plan import predict_weights
from pytest_llem.engines.transformers.parallel import group, model
from pytest_llem.engines.transformers.parallel.group import RankGroup
from pytest_llem.engines.transformers.parallel.model import ParallelWorkload, _uneven
from pytest_llem.errors import LoadError, MeasurementError, UnavailableError
from tests.unit.engines.transformers.conftest import HERE, experiment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Answers:
    """In the place of a model: the ranks' answers, by method."""

    tokenizer = None
    processes = 2

    def __init__(self, **answers: Sequence[Any]) -> None:
        self._answers = answers
        self.asked: list[tuple[Any, ...]] = []
        self.ended = False
        self.parts = [{"board": f"GPU-{rank}", "parameter_share": 0.5} for rank in range(2)]

    def ask(self, method: str, *arguments: Any, until_s: float | None = None) -> list[Any]:
        self.asked.append((method, *arguments, until_s))
        if method not in self._answers:
            raise MeasurementError("out of memory")
        return [*self._answers[method]]

    def end_ranks(self) -> None:
        self.ended = True

    def new_key(self) -> int:
        return 7


def workload(**answers: Sequence[Any]) -> tuple[ParallelWorkload, Answers]:
    loaded: Any = Answers(**answers)
    return ParallelWorkload(loaded, 3, (Prompts(((1,),), truncated=0), 1, 2), 9.0), loaded


def test_all_ranks_tell_the_tokens_of_the_first_call_and_one_of_further_ones() -> None:
    found, loaded = workload(run=[[[1, 2]], [[1, 2]]])
    assert [found.run(0), found.run(0)] == [[[1, 2]]] * 2
    assert loaded.asked == [("run", 3, 0, True, 9.0), ("run", 3, 0, False, 9.0)]


def test_ranks_that_do_not_agree_fail() -> None:
    found, _ = workload(run=[[[1, 2]], [[1, 3]]])
    with pytest.raises(MeasurementError, match="do not agree on its tokens"):
        found.run(0)


@pytest.mark.parametrize("method", ["run", "time_tokens", "watch_tokens"])
def test_after_a_call_that_failed_the_ranks_are_new_ones(method: str) -> None:
    found, loaded = workload()
    with pytest.raises(MeasurementError, match="out of memory"):
        getattr(found, method)(0)
    assert loaded.ended


def test_peaks_are_added_where_all_are_known() -> None:
    found, _ = workload(peak_memory_bytes=[(10, None), (20, None)])
    assert found.peak_memory_bytes() == (30, None)
    assert [(rank.board, rank.parameter_share, rank.peak_memory_bytes) for rank in found.ranks()] == [
        ("GPU-0", 0.5, 10),
        ("GPU-1", 0.5, 20),
    ]
    found, _ = workload(peak_memory_bytes=[(10, None), (None, "no")])
    assert found.peak_memory_bytes() == (None, "no")


def test_prefill_is_another_workload_of_the_ranks_with_the_same_time_limit() -> None:
    found, loaded = workload(prefill=[None, None], run=[[[1]], [[1]]])
    found.prefill().run(0)
    assert loaded.asked == [("prefill", 3, 7, 9.0), ("run", 7, 0, True, 9.0)]


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        (3, "parallel.tensor 3: num_attention_heads of the model, 4, cannot be divided by it"),
        (4, "parallel.tensor 4: num_key_value_heads of the model, 2, cannot be divided by it"),
    ],
)
def test_heads_are_never_divided(ranks: int, message: str) -> None:
    config = experiment(parallel={"tensor": ranks})
    with pytest.raises(LoadError, match=f"^{message}$"):
        TransformersEngine().load(config.load_config(HERE), "cpu")


@pytest.mark.parametrize(("shares", "notes"), [([0.5, 0.501], 0), ([0.26, 0.25, 0.25, 0.25], 0), ([0.92, 0.92], 1)])
def test_a_model_that_is_hardly_divided_is_said_to_be(shares: list[float], notes: int) -> None:
    found = [*_uneven([{"parameter_share": share} for share in shares])]
    assert [("92% of the parameters" in note) for note in found] == [True] * notes


def test_each_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.current_device", lambda: pytest.fail("opens a GPU"))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    config = experiment(parallel={"tensor": 2})
    with pytest.raises(UnavailableError, match=r"parallel.tensor 2: each process needs a GPU, and this one may see 1"):
        TransformersEngine().load(config.load_config(HERE), "cuda")


def test_on_the_cpu_all_parts_must_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    config = experiment(parallel={"tensor": 2})
    needed_bytes = predict_weights(config.load_config(HERE)).loading_bytes
    free = Available(needed_bytes - 1)
    monkeypatch.setattr("pytest_llem.engines.transformers.memory_plan.available", lambda _: free)
    monkeypatch.setattr(model, "save_random", None)
    with pytest.raises(UnavailableError, match=r"the weights would take .* but cpu has"):
        TransformersEngine().load(config.load_config(HERE), "cpu")


def test_a_launcher_that_starts_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "_LAUNCHER", "this")
    with pytest.raises(LoadError, match="could not be started, or ended without saying why"):
        RankGroup(2, "cpu")


def test_who_connects_and_leaves_is_no_rank(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = (
        "import os, socket; address = os.environ['LLEM_RANKS_ADDRESS']; "
        "socket.socket(socket.AF_UNIX).connect(chr(0) + address[1:])"
    )
    (tmp_path / "leaves.py").write_text(program)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(group, "_LAUNCHER", "leaves")
    with pytest.raises(LoadError, match="could not be started, or ended without saying why"):
        RankGroup(2, "cpu")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("load_in_8bit", True),
        ("load_in_4bit", True),
        ("lora", {"path": "a/b"}),
        ("assistant_model", "gpt2"),
        ("device_map", "auto"),
        ("cache_implementation", "offloaded"),
        ("cache_implementation", "quantized"),
    ],
)
def test_what_is_not_divided_is_refused(field: str, value: object) -> None:
    fields = {"model": "x", "pytorch": {field: value}}
    ExperimentConfig.model_validate(fields)
    with pytest.raises(ValueError, match=f"pytorch.{field}"):
        ExperimentConfig.model_validate({**fields, "parallel": {"tensor": 2}})

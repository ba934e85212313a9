"""What makes two results comparable: each thing that decides the work or the numbers is in a hash, nothing else is."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.config import ExperimentConfig
from pytest_llem.config.base import fields_of
from pytest_llem.engines.prompts import Prompts
from pytest_llem.meters import open_meter
from pytest_llem.records import identity, machine
from tests.simulators import SimulatedBoard, install

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

BASE: dict[str, Any] = {"model": "gpt2", "decoder": {"min_new_tokens": 4}, "max_output_tokens": 8}


BESIDE_WORK: dict[str, Any] = {
    "name": "renamed",
    "marks": ["slow"],
    "timeout_s": 9,
    "device": "cpu",
    "measure": {"rounds": 3},
    "compare": {"energy": "5%"},
}


def workload_hash(fields: Mapping[str, Any], commit: str | None = "c1", prompt: int = 1) -> str:
    config = ExperimentConfig.model_validate({**BASE, **fields})
    return identity.workload_hash(
        config,
        SimpleNamespace(commit=commit),
        SimpleNamespace(prompts=Prompts(((prompt,),), truncated=0)),
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"precision": "fp32"},
        {"weights": "random"},
        {"max_output_tokens": 9},
        {"random_seed": 1},
        {"pytorch": {"batch_size": 2}},
        {"pytorch": {"attn_implementation": "eager"}},
        {"pytorch": {"use_cache": False}},
        {"decoder": {"min_new_tokens": 5}},
        {"decoder": {"preset": "creative", "min_new_tokens": 4}},
        {"passthrough": {"generate": {"renormalize_logits": True}}},
        {"backend": "vllm"},
        {"parallel": {"tensor": 2}},
    ],
)
def test_another_option_is_another_workload(fields: dict[str, Any]) -> None:
    assert workload_hash(fields) != workload_hash({})


@pytest.mark.parametrize(
    ("section", "unset", "other"),
    [
        ("vllm", {"enable_prefix_caching": False}, {"max_num_seqs": 2}),
        ("vllm", {}, {"enable_prefix_caching": True}),
        ("tensorrt", {"kv_cache_config": {"enable_block_reuse": False}}, {"max_batch_size": 2}),
        ("tensorrt", {"backend": "pytorch", "kv_cache_config": {}}, {"kv_cache_config": {"enable_block_reuse": True}}),
    ],
)
def test_the_section_of_another_engine_counts_as_it_resolves(
    section: str, unset: dict[str, Any], other: dict[str, Any]
) -> None:
    plain = workload_hash({"backend": section})
    assert workload_hash({"backend": section, section: unset}) == plain
    assert workload_hash({"backend": section, section: other}) != plain


def test_another_model_or_prompt_is_another_workload() -> None:
    assert workload_hash({}, commit="c2") != workload_hash({})
    assert workload_hash({}, prompt=2) != workload_hash({})
    assert workload_hash({"model": "gpt3"}, commit=None) != workload_hash({}, commit=None)


def test_what_is_not_work_is_said_by_the_fields() -> None:
    assert fields_of(ExperimentConfig, "measurement", "session") == set(BESIDE_WORK)


@pytest.mark.parametrize(
    "fields",
    [
        BESIDE_WORK,
        {"model": "./spelt/otherwise"},
        {"pytorch": {}},
        {"pytorch": {"batch_size": 1}},
        {"decoder": {"preset": "deterministic", "min_new_tokens": 4}},
    ],
)
def test_what_is_not_work_and_how_it_is_spelt_do_not_matter(fields: dict[str, Any]) -> None:
    if "decoder" in fields:
        assert workload_hash(fields) == workload_hash({"decoder": {"do_sample": False, "min_new_tokens": 4}})
    else:
        assert workload_hash(fields) == workload_hash({})


def test_the_date_of_a_template_counts_where_it_reaches_the_tokens() -> None:
    chat: dict[str, Any] = {"chat": True, "dataset": "natural"}
    assert workload_hash(chat | {"template_date": "2025-12-31"}) == workload_hash(chat)


def test_lengths_count_as_they_resolve_and_what_is_unset_leaves_hashes_as_they_were() -> None:
    # As the version before the field did.
    assert workload_hash({}) == "f9e1ad8708d06df5"
    assert workload_hash({"output_lengths": "h.csv", "decoder": {}}) == workload_hash({"decoder": {}})
    dumped = ExperimentConfig.model_validate({"model": "x", "dataset": {"path": "p"}}).model_dump()["dataset"]
    assert dumped == {"path": "p", "field": None, "n": None, "shuffle": False, "seed": None}


def environment_hash(*boards: SimulatedBoard, gpu_uuids: tuple[str, ...] = (), **nvml: Any) -> str:
    with install(list(boards), **nvml), open_meter("none") as meter:
        return identity.environment_hash(identity.environment(gpu_uuids, meter))


def board(**changes: Any) -> SimulatedBoard:
    return SimulatedBoard(**{"uuid": "GPU-a", "name": "A", "power_limit_w": 700.0, **changes})


def test_board_driver_and_power_limit_are_the_environment() -> None:
    on_a = environment_hash(board(), gpu_uuids=("GPU-a",))
    assert environment_hash(board(), gpu_uuids=("GPU-a",)) == on_a
    assert environment_hash(board(uuid="GPU-b"), gpu_uuids=("GPU-b",)) != on_a
    assert environment_hash(board(name="B"), gpu_uuids=("GPU-a",)) != on_a
    assert environment_hash(board(power_limit_w=500.0), gpu_uuids=("GPU-a",)) != on_a
    assert environment_hash(board(), gpu_uuids=("GPU-a",), driver_version="1.2") != on_a
    # A neighbour that the model does not lie on changes nothing.
    assert environment_hash(board(), board(uuid="GPU-b"), gpu_uuids=("GPU-a",)) == on_a


def test_a_model_on_the_cpu_is_not_one_on_the_board_that_is_read() -> None:
    with install([board()]), open_meter("nvml") as meter:
        on_cpu, on_board = identity.environment((), meter), identity.environment(("GPU-a",), meter)
        assert on_cpu["boards"] == on_board["boards"]
        assert identity.environment_hash(on_cpu) != identity.environment_hash(on_board)
        assert identity.environment_to_come("cpu", meter)["device"] == "cpu"
        assert identity.environment_to_come("cuda", meter)["device"] == "cuda"


def test_a_board_that_nvml_does_not_show_still_counts() -> None:
    assert environment_hash(gpu_uuids=("GPU-a",)) != environment_hash(gpu_uuids=("GPU-b",))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_cannot_recur_is_known_before_anything_runs(device: str) -> None:
    meter_name = "nvml" if device == "cpu" else "none"
    uuids = () if device == "cpu" else ("GPU-a",)

    def here(*boards: SimulatedBoard, meter: str = meter_name, **nvml: Any) -> dict[str, Any]:
        with install(list(boards), **nvml), open_meter(meter, lock_timeout_s=None) as opened:
            return identity.environment_to_come(device, opened)

    with install([board()]), open_meter(meter_name, lock_timeout_s=None) as opened:
        saved = json.loads(json.dumps(identity.environment(uuids, opened)))
    assert identity.may_recur(saved, here(board()))
    assert identity.may_recur({**saved, "threads": 77}, here(board()))
    assert not identity.may_recur(saved, here(board(uuid="GPU-b")))
    assert identity.may_recur(saved, here(board(uuid="GPU-b")), pooled=True)
    assert not identity.may_recur(saved, here(board(uuid="GPU-b", name="B")), pooled=True)
    assert not identity.may_recur(saved, here(board(power_limit_w=500.0)))
    assert not identity.may_recur(saved, here(board(), driver_version="1.2"))
    assert not identity.may_recur({**saved, "boards": []}, here(board()))
    assert not identity.may_recur({**saved, "libraries": {}}, here(board()))
    assert not identity.may_recur(saved, here(board(), meter="estimate"))
    if device == "cuda":
        # On which of them the model is going to lie is not known yet, nor is anything where NVML shows none.
        assert identity.may_recur(saved, here(board(), board(uuid="GPU-b")))
        assert identity.may_recur(saved, here())
        assert not identity.may_recur(saved, here(meter="estimate"))


def test_meter_watts_threads_processor_and_libraries_are_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    def now(watts_per_core: float = 5.0, name: str = "estimate") -> str:
        with open_meter(name, watts_per_core=watts_per_core) as meter:
            return identity.environment_hash(identity.environment((), meter))

    before = now()
    assert now() == before
    assert now(watts_per_core=15.0) != before
    assert now(name="none") != before
    for name, value in (
        ("torch_threads", lambda: 77),
        ("cpu_name", lambda: "another"),
        ("cuda_version", lambda: "99"),
        ("library_versions", lambda: {"torch": "0", "transformers": "0"}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(machine, name, value)
            assert now() != before, name


@pytest.mark.parametrize(
    ("name", "gpu_uuids", "expected"),
    [
        ("none", (), "24efa12e5a01f139"),
        ("none", ("GPU-a",), "42c11f43cfaf7e5e"),
        ("estimate", (), "af59a4b270aa2dfb"),
        ("rapl", (), "407d883de6e0f359"),
        ("nvml", (), "34c62499e44e33dd"),
        ("nvml", ("GPU-a",), "1f0132ef052cb9d1"),
    ],
)
def test_the_environment_of_a_saved_run_stays_what_it_is(
    name: str, gpu_uuids: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Literal hashes, because another one would part every user's results from their history."""
    monkeypatch.setattr(machine, "torch_threads", lambda: 4)
    monkeypatch.setattr(machine, "cpu_name", lambda: "A processor")
    monkeypatch.setattr(machine, "cuda_version", lambda: "12.8")
    # Those that are installed everywhere, and those that choose no kernels, never were part of it.
    everywhere = {"pytest-llem": "0.1.0", "accelerate": "1.2.0"}
    monkeypatch.setattr(machine, "library_versions", lambda: {"torch": "2.9.0", "transformers": "5.0.0", **everywhere})
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    for file, text in {"name": "package-0", "energy_uj": "5", "max_energy_range_uj": "1000000000000"}.items():
        (zone / file).write_text(text)
    with (
        install([board()], driver_version="580.0"),
        open_meter(name, watts_per_core=5.0, powercap_root=tmp_path, lock_timeout_s=None) as meter,
    ):
        environment = identity.environment(gpu_uuids, meter)
    assert identity.environment_hash(environment) == expected


def test_a_package_of_kernels_counts_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def now(**further: str) -> str:
        monkeypatch.setattr(machine, "library_versions", lambda: {"torch": "2.9.0", **further})
        return environment_hash()

    without = now()
    assert now(hqq="0.2") not in (without, now(hqq="0.3"))
    assert now() == without


def test_what_later_versions_brought_leaves_saved_hashes_as_they_are() -> None:
    assert identity.unsaid(ExperimentConfig(model="x")) == {"output_lengths", "parallel"}
    assert identity.unsaid(ExperimentConfig.model_validate({"model": "x", "parallel": {"tensor": 2}})) == {
        "output_lengths"
    }

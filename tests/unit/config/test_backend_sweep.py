"""One sweep over backends: a section for each, of which every point keeps its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_llem.config import Experiment, PyTorchConfig, TensorRTConfig, VllmConfig, load_experiments

if TYPE_CHECKING:
    from pathlib import Path

SECTIONS = "pytorch: {batch_size: 2}\nvllm: {max_num_seqs: 3}\ntensorrt: {max_batch_size: 4}\n"


def load(folder: Path, text: str) -> list[Experiment]:
    path = folder / "x.llem.yaml"
    path.write_text(f"model: gpt2\n{text}\n", encoding="utf-8")
    return load_experiments(path, display="x.yaml")


def test_every_point_keeps_the_section_of_its_backend(tmp_path: Path) -> None:
    found = load(tmp_path, f"{SECTIONS}sweep: {{backend: [pytorch, vllm, tensorrt, null]}}")
    assert [experiment.id for experiment in found] == [
        "backend:pytorch",
        "backend:vllm",
        "backend:tensorrt",
        "backend:null",
    ]
    sections = [(c.pytorch, c.vllm, c.tensorrt) for c in (experiment.valid_config for experiment in found)]
    pytorch = (PyTorchConfig(batch_size=2), None, None)
    vllm = (None, VllmConfig(max_num_seqs=3), None)
    assert sections == [pytorch, vllm, (None, None, TensorRTConfig(max_batch_size=4)), pytorch]


def test_what_is_swept_of_another_backend_makes_no_further_points(tmp_path: Path) -> None:
    axes = "pytorch.batch_size: [1, 4], backend: [pytorch, vllm], vllm: [{}, {enforce_eager: true}], precision: [fp32]"
    found = load(tmp_path, f"sweep: {{{axes}}}")
    assert [experiment.id for experiment in found] == [
        "batch_size:1-backend:pytorch-precision:fp32",
        "backend:vllm-vllm:base-precision:fp32",
        "backend:vllm-enforce_eager:true-precision:fp32",
        "batch_size:4-backend:pytorch-precision:fp32",
    ]
    assert [dict(experiment.swept) for experiment in found][1:3] == [
        {"backend": "vllm", "vllm": {}, "precision": "fp32"},
        {"backend": "vllm", "vllm.enforce_eager": True, "precision": "fp32"},
    ]
    assert all(experiment.config is not None for experiment in found)


def test_values_whose_ids_are_alike_stay_apart(tmp_path: Path) -> None:
    found = load(tmp_path, "sweep: {backend: [pytorch, vllm], decoder.stop_strings: [['(a'], [')a']]}")
    assert len({experiment.id for experiment in found}) == 4


def test_the_backend_of_another_package_keeps_none(tmp_path: Path) -> None:
    found = load(tmp_path, f"{SECTIONS}sweep: {{backend: [pytorch, nobodys]}}")
    assert [line.splitlines()[0] for line in found[1].errors] == [
        "x.yaml:5: backend: expected pytorch, vllm or tensorrt, got 'nobodys'"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"{SECTIONS}backend: vllm",
            ["2: pytorch: does not fit backend: vllm", "4: tensorrt: does not fit backend: vllm"],
        ),
        ("vllm: {}\nsweep: {precision: [fp32]}", ["2: vllm: does not fit backend: pytorch"]),
        (
            "vllm: {}\nexperiments: [{name: a, backend: vllm}, {name: b}]",
            ["2: vllm: does not fit backend: pytorch"],
        ),
    ],
)
def test_elsewhere_the_section_of_another_backend_is_an_error(tmp_path: Path, text: str, message: list[str]) -> None:
    found = [error for experiment in load(tmp_path, text) for error in experiment.errors]
    assert [line.splitlines()[0].partition(";")[0] for line in found] == [f"x.yaml:{line}" for line in message]

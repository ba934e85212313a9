"""``exclude:``: points of a sweep that are left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_llem.config import Experiment, load_experiments

if TYPE_CHECKING:
    from pathlib import Path

SWEEP = "model: gpt2\nsweep: {pytorch.batch_size: [1, 4, 8], precision: [fp32, bf16]}\n"


def load(folder: Path, text: str) -> list[Experiment]:
    path = folder / "x.llem.yaml"
    path.write_text(text, encoding="utf-8")
    return load_experiments(path, display="x.yaml")


def first_lines(experiments: list[Experiment]) -> list[str]:
    return [error.splitlines()[0] for experiment in experiments for error in experiment.errors]


def points(experiments: list[Experiment]) -> list[str]:
    return [",".join(map(str, experiment.swept.values())) for experiment in experiments]


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ("[{pytorch.batch_size: 4}]", ["1,fp32", "1,bf16", "8,fp32", "8,bf16"]),
        ("[{pytorch: {batch_size: 4}}]", ["1,fp32", "1,bf16", "8,fp32", "8,bf16"]),
        ("[{pytorch.batch_size: [4, 8], precision: fp32}]", ["1,fp32", "1,bf16", "4,bf16", "8,bf16"]),
        ("[{pytorch.batch_size: [1, 4]}, {precision: fp32}]", ["8,bf16"]),
        # A value that the file sets outside the sweep counts as well.
        ("[{model: gpt2, precision: fp32}]", ["1,bf16", "4,bf16", "8,bf16"]),
        # An exclusion that drops what another one drops already is in use.
        ("[{precision: fp32}, {precision: fp32, pytorch.batch_size: 1}]", ["1,bf16", "4,bf16", "8,bf16"]),
        ("null", ["1,fp32", "1,bf16", "4,fp32", "4,bf16", "8,fp32", "8,bf16"]),
        ("[]", ["1,fp32", "1,bf16", "4,fp32", "4,bf16", "8,fp32", "8,bf16"]),
    ],
)
def test_points_with_all_values_of_a_mapping_are_dropped(tmp_path: Path, exclude: str, left: list[str]) -> None:
    found = load(tmp_path, f"{SWEEP}exclude: {exclude}\n")
    assert first_lines(found) == []
    assert points(found) == left


def test_absent_values_lists_and_open_mappings_can_be_named(tmp_path: Path) -> None:
    text = """\
model: gpt2
sweep:
  pytorch: [{}, {load_in_8bit: true}]
  decoder.stop_strings: [null, [a, b]]
  passthrough.generate.max_time: [1, 2.5]
exclude:
- {pytorch.load_in_8bit: null, decoder.stop_strings: [a, b]}
- {pytorch.load_in_8bit: true, decoder.stop_strings: null}
- {passthrough.generate.max_time: 2.5, pytorch.load_in_8bit: [null]}
"""
    found = load(tmp_path, text)
    assert first_lines(found) == []
    assert [experiment.id for experiment in found] == [
        "pytorch:base-stop_strings:null-max_time:1",
        "load_in_8bit:true-stop_strings:a+b-max_time:1",
        "load_in_8bit:true-stop_strings:a+b-max_time:2.5",
    ]


def test_true_is_not_one(tmp_path: Path) -> None:
    text = (
        "model: x\nsweep: {passthrough.generate.flag: [1, true, 1.0]}\nexclude: [{passthrough.generate.flag: true}]\n"
    )
    assert points(load(tmp_path, text)) == ["1", "1.0"]


def test_an_entry_adds_its_own_and_shares_the_files(tmp_path: Path) -> None:
    text = """\
model: gpt2
sweep: {random_seed: [1, 2, 3]}
exclude: [{name: a, random_seed: 1}]
experiments:
- {name: a}
- {name: b, exclude: [{random_seed: [1, 2]}]}
"""
    found = load(tmp_path, text)
    assert [(experiment.name, experiment.swept["random_seed"]) for experiment in found] == [
        ("a", 2),
        ("a", 3),
        ("b", 3),
    ]


@pytest.mark.parametrize(
    ("exclude", "messages"),
    [
        (
            "- {pytorch.batch_size: 1}\n- {precision: fp16}",
            ["5: exclude.1: matches no point of the sweep: no point has precision: 'fp16'; fix it or remove it"],
        ),
        (
            "- {precision: fp32, pytorch.batch_size: [2, 3]}",
            [
                "4: exclude.0: matches no point of the sweep: no point has pytorch.batch_size: 2 or 3; "
                "fix it or remove it"
            ],
        ),
        (
            "- {pytorch.batch_size: 16, precision: fp16}\n- 4\n- {}",
            [
                "5: exclude.1: expected a mapping such as {pytorch.batch_size: 8}, got 4",
                "6: exclude.2: is empty and would drop every point; name values or remove it",
                "4: exclude.0: matches no point of the sweep: no point has pytorch.batch_size: 16; fix it or remove it",
            ],
        ),
        (
            "- {pytorch.batch_sise: 1, sweep: 3}",
            [
                "4: exclude.0.pytorch.batch_sise: unknown field; did you mean pytorch.batch_size?",
                "4: exclude.0.sweep: belongs to the file; remove it",
            ],
        ),
        (
            "- {pytorch: {batchsize: 1}}",
            ["4: exclude.0.pytorch.batchsize: unknown field; did you mean pytorch.batch_size?"],
        ),
        (
            "  {precision: fp32}",
            [
                "4: exclude: expected a list of mappings, such as [{precision: fp32, pytorch.batch_size: [8, 16]}]; "
                "got a mapping"
            ],
        ),
    ],
)
def test_a_mistake_is_an_item_of_its_own_and_the_points_stay(tmp_path: Path, exclude: str, messages: list[str]) -> None:
    found = load(tmp_path, f"{SWEEP}exclude:\n{exclude}\n")
    assert [line.replace("x.yaml:", "") for line in first_lines(found)] == messages
    assert sum(experiment.config is not None for experiment in found) >= 4


def test_values_that_no_point_has_at_once(tmp_path: Path) -> None:
    text = "model: x\nexperiments: [{name: a}, {name: b, precision: fp32}]\nsweep: {random_seed: [1, 2]}\n"
    found = load(tmp_path, text + "exclude: [{name: a, precision: fp32}]\n")
    assert first_lines(found) == [
        "x.yaml:4: exclude.0: matches no point of the sweep: no point has all these values at once; fix it or remove it"
    ]


def test_dropping_every_point_is_a_mistake(tmp_path: Path) -> None:
    found = load(tmp_path, f"{SWEEP}exclude: [{{model: gpt2}}]\n")
    assert first_lines(found) == ["x.yaml:3: exclude: drops every point of x; fix it or remove it"]


def test_without_a_sweep_there_is_nothing_to_exclude(tmp_path: Path) -> None:
    found = load(tmp_path, "model: gpt2\nexclude: [{model: gpt2}]\n")
    assert first_lines(found) == ["x.yaml:2: exclude.0: has no effect without a sweep; remove it"]


def test_beside_a_sweep_that_is_wrong_an_unmatched_exclusion_is_not_told(tmp_path: Path) -> None:
    found = load(tmp_path, "model: x\nsweep: {random_seed: 3}\nexclude: [{random_seed: 3}]\n")
    assert len(first_lines(found)) == 1

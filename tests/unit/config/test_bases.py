"""``base:``: a shared file under an experiment file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pytest_llem.config import Experiment, load_experiments
from pytest_llem.config.bases import MAX_BASES
from pytest_llem.errors import ExperimentFileError

if TYPE_CHECKING:
    from pathlib import Path


def load(folder: Path, **files: str) -> list[Experiment]:
    """Write the files, ``x`` being the experiment file, and load it."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return load_experiments(folder / "x.yaml", display="x.yaml")


def first_lines(experiments: list[Experiment]) -> list[str]:
    return [error.splitlines()[0] for experiment in experiments for error in experiment.errors]


SHARED = """\
model: gpt2
precision: fp32
pytorch: {batch_size: 4, num_beams: 2}
dataset: {path: p.jsonl}
compare: {energy: 5%}
"""


def test_a_file_lies_over_its_base(tmp_path: Path) -> None:
    own = "base: shared.yaml\nprecision: fp16\npytorch: {batch_size: 8}\ndataset: {synthetic: {n: 2}}\ncompare: null\n"
    (experiment,) = load(tmp_path, x=own, shared=SHARED)
    config = experiment.valid_config
    assert (config.model, config.precision, config.compare) == ("gpt2", "fp16", {})
    assert config.pytorch is not None
    assert config.pytorch.model_dump(exclude_none=True) == {"batch_size": 8, "num_beams": 2}
    assert config.input_len == 128
    # The item belongs to the file, not to the base.
    assert (experiment.name, experiment.path, experiment.line) == ("x", tmp_path / "x.yaml", 1)


def test_bases_over_bases_each_from_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "mid.yaml").write_text("base: b/low.yaml\nprecision: fp32\n")
    (tmp_path / "a" / "b" / "low.yaml").write_text("model: gpt2\nprecision: fp16\nrandom_seed: 7\n")
    (experiment,) = load(tmp_path, x="base: a/mid.yaml\n")
    config = experiment.valid_config
    assert (config.model, config.precision, config.random_seed) == ("gpt2", "fp32", 7)


def test_experiments_sweeps_and_exclusions_come_from_the_base_too(tmp_path: Path) -> None:
    shared = "model: gpt2\nexperiments: [{name: a}, {name: b}]\nsweep: {max_output_tokens: [1, 2]}\n"
    shared += "exclude: [{name: a, max_output_tokens: 2}]\n"
    own = "base: shared.yaml\nsweep: {random_seed: [5]}\n"
    found = load(tmp_path, x=own, shared=shared)
    assert [f"{one.name}[{one.id}]" for one in found] == [
        "a[max_output_tokens:1-random_seed:5]",
        "b[max_output_tokens:1-random_seed:5]",
        "b[max_output_tokens:2-random_seed:5]",
    ]
    assert {experiment.line for experiment in found} == {1}


def test_a_message_points_into_the_file_in_which_the_line_stands(tmp_path: Path) -> None:
    own = "base: sub/shared.yaml\npytorch:\n  batch_size: 0\n"
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "shared.yaml").write_text("# shared\nmodel: gpt2\nrandom_sede: 3\n")
    (experiment,) = load(tmp_path, x=own)
    shared = os.path.join("sub", "shared.yaml")  # noqa: PTH118
    assert experiment.errors == (
        f"{shared}:3: random_sede: unknown field; did you mean random_seed?\n"
        f" --> {shared}:3:1\n"
        "  |\n"
        "3 | random_sede: 3\n"
        "  | ^",
        "x.yaml:3: pytorch.batch_size: must be at least 1, got 0\n"
        " --> x.yaml:3:15\n"
        "  |\n"
        "3 |   batch_size: 0\n"
        "  |               ^",
    )
    assert experiment.line == 1


def test_a_base_of_null_is_none(tmp_path: Path) -> None:
    assert load(tmp_path, x="model: gpt2\nbase: ~\n")[0].valid_config.model == "gpt2"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"x": "base: 3\n"}, "x.yaml:1: base: expected the path of a file such as shared.yaml, got 3"),
        ({"x": "base: ''\n"}, "x.yaml:1: base: expected the path of a file such as shared.yaml, got ''"),
        (
            {"x": "base: no.yaml\n"},
            "no.yaml:1: cannot be read: No such file or directory (the base on line 1 of x.yaml)",
        ),
        ({"x": "base: x.yaml\n"}, "x.yaml:1: base: 'x.yaml' leads back to this file; remove one of the two"),
        (
            {"x": "base: a.yaml\n", "a": "model: x\nbase: x.yaml\n"},
            "a.yaml:2: base: 'x.yaml' leads back to this file; remove one of the two",
        ),
        (
            {"x": "base: a.yaml\n", "a": "model: x\nb: [\n"},
            "a.yaml:3: not valid YAML: did not find expected node content (the base on line 1 of x.yaml)",
        ),
        (
            {"x": "base: a.yaml\n", "a": "- model\n"},
            "a.yaml:1: the file is not a mapping; write fields such as `model: gpt2` (the base on line 1 of x.yaml)",
        ),
        ({"x": 'base: "a\\0b"\n'}, r"x.yaml:1: base: cannot be read: .*null.*"),
    ],
    ids=str,
)
def test_a_base_that_cannot_be_used_is_an_error_of_the_whole_file(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    with pytest.raises(ExperimentFileError) as caught:
        load(tmp_path, **files)
    if ".*" in message:
        assert caught.match(message)
    else:
        assert str(caught.value) == message


def test_the_number_of_bases_is_bounded(tmp_path: Path) -> None:
    chain = {f"b{number}": f"base: b{number + 1}.yaml\n" for number in range(MAX_BASES)}
    last = {f"b{MAX_BASES}": "model: gpt2\n"}
    assert load(tmp_path, x="base: b1.yaml\n", **chain, **last)[0].config is not None
    with pytest.raises(ExperimentFileError, match=rf"^b9\.yaml:1: base: more than {MAX_BASES} bases"):
        load(tmp_path, x="base: b0.yaml\n")


def test_a_bad_sweep_of_a_base_points_into_the_base(tmp_path: Path) -> None:
    found = load(tmp_path, x="base: s.yaml\nmodel: x\n", s="# s\nsweep: {pytorch.batch_sise: [1]}\nexclude: [3]\n")
    assert first_lines(found) == [
        "s.yaml:2: sweep.pytorch.batch_sise: unknown field; did you mean pytorch.batch_size?",
        "s.yaml:3: exclude.0: expected a mapping such as {pytorch.batch_size: 8}, got 3",
    ]
    assert [experiment.line for experiment in found] == [2, 1]

"""Lengths that differ: exact in their sum, as in their histogram, and the same for the same seed."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from itertools import product
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from pydantic import ValidationError

from pytest_llem import distributions
from pytest_llem.config import ExperimentConfig
from pytest_llem.engines.datasets.lengths import truncated_normal
from pytest_llem.errors import PromptError
from tests.unit.engines.test_prompts import load

if TYPE_CHECKING:
    from pathlib import Path


def lengths(folder: Path, lengths: Any, n: int = 8, **fields: Any) -> list[int]:
    prompts = load(folder, dataset={"synthetic": {"n": n, "lengths": lengths}}, **fields)
    return [len(ids) for ids in prompts.token_ids]


@pytest.mark.parametrize(("n", "mean", "sd"), list(product((1, 2, 7, 100), (20, 33.3, 50), (0, 1e-6, 3, 50))))
def test_a_distribution_is_exact_in_its_sum_and_within_its_bounds(n: int, mean: float, sd: float) -> None:
    found = truncated_normal(n, mean, sd, 4, 64)
    assert sum(found) == round(n * mean)
    assert len(found) == n
    assert 4 <= min(found) <= max(found) <= 64


@pytest.mark.parametrize("mean", [5, 2**31])
def test_a_mean_at_a_bound_is_that_bound(mean: int) -> None:
    assert truncated_normal(3, mean, 5.3e-7, 5, 2**31) == [mean] * 3


def test_a_distribution_that_little_is_cut_off_of_has_the_sd_and_the_shape() -> None:
    found = truncated_normal(2000, 500, 50, 1, 1000)
    assert statistics.pstdev(found) == pytest.approx(50, rel=0.01)
    within = sum(450 <= length <= 550 for length in found) / len(found)
    assert within == pytest.approx(math.erf(1 / math.sqrt(2)), abs=0.01)


def test_many_lengths_are_made_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that those of a hundred thousand prompts take a second, and not half a minute."""
    made = Mock(wraps=distributions.truncated_normal_quantiles)
    monkeypatch.setattr("pytest_llem.engines.datasets.lengths.truncated_normal_quantiles", made)
    for sd, high in ((32, 512), (300, 512), (1e6, 256), (0.01, 2**31)):
        made.reset_mock()
        assert sum(truncated_normal(100, 128.5, sd, 1, high)) == 12850
        assert made.call_count <= 20


def test_the_order_is_that_of_the_seed_on_every_machine(tmp_path: Path) -> None:
    asked = {"mean": 10, "sd": 3}
    assert lengths(tmp_path, asked, random_seed=1) == [11, 5, 9, 7, 13, 15, 10, 10]
    other = lengths(tmp_path, asked, random_seed=2)
    assert other != lengths(tmp_path, asked, random_seed=1)
    assert sorted(other) == [5, 7, 9, 10, 10, 11, 13, 15]


def test_inputs_and_outputs_are_not_long_together(tmp_path: Path) -> None:
    asked = {"mean": 30, "sd": 9, "max": 60}
    prompts = load(tmp_path, dataset={"synthetic": {"n": 50, "lengths": asked}}, output_lengths=asked)
    inputs = [len(ids) for ids in prompts.token_ids]
    assert prompts.output_tokens is not None
    assert sorted(inputs) == sorted(prompts.output_tokens)
    assert abs(statistics.correlation(inputs, prompts.output_tokens)) < 0.3


def test_max_is_that_of_the_experiment(tmp_path: Path) -> None:
    assert max(lengths(tmp_path, {"mean": 10, "sd": 9}, n=99, max_input_tokens=13)) == 13


class TestHistogram:
    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("h.csv", "length,count\n3, 6\n5,3\n\n9,0\n7,1\n"),
            ("h.csv", "7,1\n5,3\n3,6"),
            ("h.json", '{"3": 6, "5": 3, "7": 1}'),
        ],
    )
    def test_each_length_as_often_as_its_share(self, tmp_path: Path, name: str, content: str) -> None:
        (tmp_path / name).write_text(content)
        assert Counter(lengths(tmp_path, name, n=10)) == {3: 6, 5: 3, 7: 1}
        # Shares of 4.2, 2.1 and 0.7: the one that is missing goes to what lost most.
        assert Counter(lengths(tmp_path, {"file": name}, n=7)) == {3: 4, 5: 2, 7: 1}
        prompts = load(tmp_path, dataset={"synthetic": {"n": 10}}, output_lengths=name)
        assert Counter(prompts.output_tokens) == {3: 6, 5: 3, 7: 1}

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("h.csv", "length,count\n3,x\n", "h.csv:2: expected a length and its count, such as 128,5"),
            ("h.csv", "3,1\n\n4\n", "h.csv:3: expected a length and its count, such as 128,5"),
            ("h.csv", f"{'9' * 5000},1\n", "h.csv:1: expected a length and its count, such as 128,5"),
            ("h.csv", "0,1\n", "h.csv:1: 0,1 is no length from 1 on and its count"),
            ("h.csv", "3,1\n300,1\n", "h.csv:2: 300 is above max_input_tokens (128); leave it out or raise"),
            ("h.csv", "3,1\n3,2\n", "h.csv:2: has the length 3 twice; add up its counts"),
            ("h.csv", "3,0\n", "h.csv: holds no lengths"),
            ("h.csv", "", "h.csv: holds no lengths"),
            ("h.json", "[3]", "h.json: expected {length: count}"),
            ("h.json", '{"3": 1.5}', "h.json: '3': expected a length and its count"),
            ("h.json", '{"3": -1}', "h.json: 3,-1 is no length from 1 on and its count"),
            ("h.json", '{"3":\n', "h.json:2: not JSON: "),
            ("h.yaml", "3: 1", "h.yaml: a histogram of lengths is read from .csv or .json"),
            ("none.csv", None, "none.csv: cannot be read: No such file"),
        ],
    )
    def test_what_is_none_is_named(self, tmp_path: Path, name: str, content: str | None, message: str) -> None:
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(PromptError) as error:
            lengths(tmp_path, name)
        assert str(error.value).startswith(f"{tmp_path}/{message}")


class TestSharedPrefix:
    def test_all_begin_with_the_same_tokens_and_go_on_with_their_own(self, tmp_path: Path) -> None:
        asked = {"n": 5, "lengths": {"mean": 12, "sd": 2, "min": 6}, "shared_prefix": 6}
        ids = load(tmp_path, dataset={"synthetic": asked}).token_ids
        assert len({prompt[:6] for prompt in ids}) == 1
        assert len({prompt[6:7] for prompt in ids if len(prompt) > 6}) > 1
        alone = load(tmp_path, dataset={"synthetic": asked | {"shared_prefix": None}}).token_ids
        assert [prompt[6:] for prompt in ids] == [prompt[6:] for prompt in alone]

    def test_one_longer_than_a_prompt_of_a_histogram_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "h.csv").write_text("3,1\n9,1\n")
        with pytest.raises(PromptError, match=r"^dataset.synthetic.shared_prefix 4: is above the 3 tokens of the sho"):
            load(tmp_path, dataset={"synthetic": {"lengths": "h.csv", "shared_prefix": 4}})


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"lengths": {}}, "lengths.mean", "is missing; give mean and sd, or a file with a histogram"),
        ({"lengths": {"mean": 9, "sd": 1, "file": "h.csv"}}, "lengths.mean", "does not go with file, "),
        ({"lengths": {"mean": 9, "sd": 1, "max": 129}}, "lengths.max", "129 is above max_input_tokens (128); lower it"),
        ({"lengths": {"mean": 9, "sd": 1, "min": 9, "max": 8}}, "lengths.min", "9 is above max (8); lower it"),
        ({"lengths": {"mean": 200, "sd": 1}}, "lengths.mean", "200 is not between 1 and 128; change it or the bounds"),
        ({"lengths": {"mean": 2, "sd": 90}}, "lengths.sd", "a normal distribution with an sd of 90 that is cut off at"),
        ({"lengths": "h.csv", "input_len": 8}, "input_len", "does not go with lengths; remove one of the two"),
        ({"input_len": 8, "shared_prefix": 9}, "shared_prefix", "9 is above the 8 tokens of the shortest prompt"),
        (
            {"lengths": {"mean": 9, "sd": 1, "min": 4}, "shared_prefix": 5},
            "shared_prefix",
            "5 is above the 4 tokens of the shortest prompt; lower it or raise lengths.min",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_the_file(fields: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ExperimentConfig.model_validate({"model": "x", "dataset": {"synthetic": fields}})
    error = caught.value.errors()[0]
    location = [part for part in error["loc"] if part != "<synthetic>"]
    assert ".".join(map(str, location)) == f"dataset.synthetic.{field}"
    assert error["msg"].startswith(message)

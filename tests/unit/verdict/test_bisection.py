"""Bisection by pairs: it names the commit, as surely as it says, whatever the size and the direction."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_llem.verdict.bisection import Bisection


def bisect(generator: np.random.Generator, culprit: int, change: float, sigma: float, ends: int = 6) -> tuple[int, int]:
    """The commit found among 16, and the number of pairs."""
    bisection = Bisection(16, generator.normal(change, sigma, ends).tolist())
    pairs = 0
    while (found := bisection.found()) is None:
        commit = bisection.next_probe()
        assert commit is not None
        bisection.update(commit, float(generator.normal(change if culprit <= commit else 0.0, sigma)))
        pairs += 1
    return found, pairs


@pytest.mark.parametrize("change", [0.05, -0.05, 0.3, -0.6])
@pytest.mark.parametrize("culprit", [0, 7, 15])
def test_a_clear_change_takes_a_plain_bisection(change: float, culprit: int) -> None:
    found, pairs = bisect(np.random.default_rng(1), culprit, change, sigma=0.005)
    assert found == culprit
    assert pairs <= 8


def test_a_change_below_the_usual_sizes_is_found_as_well() -> None:
    found, _ = bisect(np.random.default_rng(2), 5, 0.008, sigma=0.0025, ends=10)
    assert found == 5


@pytest.mark.parametrize(("change", "sigma", "most_pairs"), [(0.05, 0.01, 6.5), (0.035, 0.015, 13.0)])
def test_it_is_right_as_often_as_it_says(change: float, sigma: float, most_pairs: float) -> None:
    generator = np.random.default_rng(3)
    culprits = generator.integers(16, size=100).tolist()
    found = [bisect(generator, culprit, change, sigma) for culprit in culprits]
    assert sum(commit == culprit for (commit, _), culprit in zip(found, culprits, strict=True)) >= 94
    assert sum(pairs for _, pairs in found) / 100 <= most_pairs


def test_an_outlier_does_not_decide() -> None:
    bisection = Bisection(16, [0.05, 0.048, 0.053, 0.05])
    bisection.update(7, 0.5)
    assert bisection.found(0.999) is None
    for _ in range(3):
        bisection.update(7, 0.001)
    assert sum(bisection.probability[8:]) > 0.9


def test_probabilities_are_those_of_commits() -> None:
    bisection = Bisection(4, [0.05, 0.052, 0.048])
    assert bisection.probability == pytest.approx([0.25] * 4), "the ends alone do not tell commits apart"
    assert bisection.next_probe() == 1
    bisection.update(1, 0.05)
    first, second, third, last = bisection.probability
    assert first == pytest.approx(second)
    assert third == pytest.approx(last)
    assert first > 10 * third
    assert sum(bisection.probability) == pytest.approx(1)
    assert bisection.next_probe() == 0


def test_the_bad_end_is_never_probed_again() -> None:
    bisection = Bisection(3, [0.05, 0.052, 0.048])
    for _ in range(20):
        bisection.update(1, 0.0)
        assert bisection.next_probe() in (0, 1)
    assert bisection.found() == 2


def test_one_commit_alone_needs_no_probe() -> None:
    bisection = Bisection(1, [0.05])
    assert bisection.found(1.0) == 0
    assert bisection.next_probe() is None


def test_commits_that_cannot_be_measured_are_left_out() -> None:
    bisection = Bisection(8, [0.05, 0.052, 0.048])
    assert bisection.next_probe() == 3
    assert bisection.next_probe({3}) in (2, 4)
    assert bisection.next_probe(range(7)) is None


def test_without_commits_or_a_direction_there_is_nothing_to_bisect() -> None:
    for commits, ends in ((0, [0.05]), (4, []), (4, [0.05, -0.05])):
        with pytest.raises(ValueError, match="nothing to bisect"):
            Bisection(commits, ends)

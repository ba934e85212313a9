"""How long experiments will take, from plain values."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_llem.config import ExperimentConfig
from pytest_llem.session.prediction import Asked, Duration, PastRun, Predictor, least_s, past_run


def run(nodeid: str = "a", own_s: float = 10.0, **changed: Any) -> PastRun:
    values = {"fingerprint": "w-f", "rounds": 5, "paid_load_s": None, "load_s": None, **changed}
    return PastRun(nodeid, own_s=own_s, **values)


def asked(nodeid: str = "a", load: str | None = "m", least: float | None = 3.0, **changed: Any) -> Asked:
    return Asked(nodeid, **{"fingerprints": ["w-f"], "rounds": 5, **changed}, load=load, least_s=least)


def test_a_saved_result_says_what_its_item_and_its_load_took() -> None:
    result = {"rounds": 5, "load_s": 3.0, "spent_s": {"load": 4.0, "measured": 8.0, "other": 2.0}}
    assert past_run("a", "w-f", result) == run(own_s=10.0, paid_load_s=4.0, load_s=3.0)
    # One that found its model loaded.
    result["spent_s"] = {"measured": 8.0}
    assert past_run("a", "w-f", result) == run(own_s=8.0, load_s=3.0)
    assert past_run("a", "w-f", {"rounds": 5}) is None


class TestTheItem:
    """What an item is predicted to take."""

    def test_as_the_last_three_runs_of_which_one_may_be_odd(self) -> None:
        past = [run(own_s=own_s) for own_s in (12.0, 50.0, 11.0, 1.0, 1.5)]
        assert Predictor([asked()], past).item("a") == Duration(12.0, 3)

    def test_the_same_result_in_journal_and_storage_counts_once(self) -> None:
        assert Predictor([asked()], [run(), run(), run(own_s=20.0)]).item("a") == Duration(15.0, 2)

    def test_at_least_as_its_protocol_says_where_nothing_of_the_same_work_is_saved(self) -> None:
        past = [run(fingerprint="v-f"), run("b")]
        assert Predictor([asked()], past).item("a") == Duration(3.0, 0)
        assert Predictor([asked(least=None)], past).item("a") == Duration(None, 0)

    def test_another_version_or_a_fresh_checkout_takes_as_long(self) -> None:
        assert Predictor([asked()], [run(fingerprint="w-g")]).item("a") == Duration(10.0, 1)

    def test_without_a_saved_fingerprint_as_many_rounds_are_the_same_work(self) -> None:
        past = [run(fingerprint="", rounds=5), run(fingerprint="", rounds=50, own_s=100.0)]
        assert Predictor([asked()], past).item("a") == Duration(10.0, 1)
        # What is left open may have been any number.
        assert Predictor([asked(rounds=None)], past).item("a") == Duration(55.0, 2)

    def test_where_it_will_run_is_open_the_first_device_that_is_known_counts(self) -> None:
        past = [run(fingerprint="cpu-f", own_s=90.0), run(fingerprint="gpu-f", own_s=9.0)]
        assert Predictor([asked(fingerprints=["gpu-f", "cpu-f"])], past).item("a") == Duration(9.0, 1)
        assert Predictor([asked(fingerprints=["gpu-f", "cpu-f"])], past[:1]).item("a") == Duration(90.0, 1)


class TestTheLoad:
    """What loading a model is predicted to take."""

    def test_as_those_that_waited_for_it_whichever_experiment_that_was(self) -> None:
        past = [run(load_s=1.0), run("b", load_s=1.0, paid_load_s=7.0), run(own_s=11.0, load_s=1.0, paid_load_s=5.0)]
        known = Predictor([asked(), asked("b"), asked("c", load="other")], past)
        assert known.load("m") == Duration(6.0, 2)
        assert known.load("other") == Duration(0.0, 0)
        assert known.load(None) == Duration(0.0, 1)

    def test_as_the_engine_took_where_nobody_who_waited_is_known(self) -> None:
        assert Predictor([asked()], [run(load_s=2.0)]).load("m") == Duration(2.0, 1)

    def test_it_is_needed_by_the_one_that_has_to_load(self) -> None:
        known = Predictor([asked()], [run(paid_load_s=5.0)])
        assert known.needed("a", load=True) == Duration(15.0, 1)
        assert known.needed("a", load=False) == Duration(10.0, 1)
        # A model of which nothing is known makes it a least duration.
        assert Predictor([asked(load="m")], [run()]).needed("a", load=True) == Duration(10.0, 0)


class TestLearning:
    """What the session's own items teach."""

    @pytest.fixture
    def known(self) -> Predictor:
        names = "abcde"
        return Predictor([asked(name) for name in names], [run(name, paid_load_s=4.0) for name in names])

    def test_one_that_took_longer_says_little_of_the_others_and_three_say_much(self, known: Predictor) -> None:
        factors = []
        for name in "abc":
            known.learn(name, 20.0, {"measured": 20.0})
            factors.append((known.item("e").seconds or 0.0) / 10.0)
        assert factors == [1.0, 1.5, 2.0]

    def test_what_has_run_takes_what_it_took(self, known: Predictor) -> None:
        known.learn("a", 30.0, {"measured": 30.0})
        assert known.item("a") == Duration(30.0, 1)

    def test_a_load_takes_what_it_took_and_so_does_starting_a_process_for_it(self, known: Predictor) -> None:
        known.learn("a", 21.0, {"load": 8.0, "measured": 10.0})
        assert known.load("m") == Duration(11.0, 1)
        # That of another model that is to come as well.
        assert known.load("other") == Duration(3.0, 0)
        assert known.item("a") == Duration(10.0, 1)
        assert known.item("b") == Duration(10.0, 1)


@pytest.mark.parametrize(
    ("measure", "settings", "expected"),
    [
        ({}, {}, 10.0),
        ({"rounds": 4, "min_window_s": 0.5}, {}, 2.0),
        ({"rounds": "auto", "min_window_s": 0.5}, {}, 1.5),
        ({"rounds": 4}, {"rounds": "auto", "min_window_s": 2.0}, 6.0),
        ({"min_window_s": "auto"}, {"device": "cuda"}, None),
        ({"min_window_s": "auto"}, {"device": "cuda", "meter": "estimate"}, 10.0),
    ],
)
def test_the_least_that_a_protocol_takes(
    measure: dict[str, Any], settings: dict[str, Any], expected: float | None
) -> None:
    config = ExperimentConfig.model_validate({"model": "builtin:tiny-llama", "measure": measure})
    given: Any = SimpleNamespace(**{"rounds": None, "min_window_s": None, "meter": "auto", "device": "cpu", **settings})
    assert least_s(config, given) == expected


def test_in_words() -> None:
    assert str(Duration(34.04, 3)) == "about 34 s"
    assert str(Duration(12.0, 0)) == "at least 12 s"
    assert str(Duration(600.0, 1)) == "about 10 min"
    assert str(Duration(None)) == "windows as long as the sensor needs"

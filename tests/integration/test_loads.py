"""One load for each distinct load configuration of a session, and each model freed before the next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[..., Path]
Run = Callable[..., pytest.RunResult]

# Counts what is loaded, and how many earlier models are still alive at that moment.
COUNTING = """
import weakref

from tests.simulators.engine import FakeEngine

load, alive = FakeEngine.load, []

def counting(self, config, *args):
    print("LOAD", config.model, config.precision, config.random_seed, "ALIVE", sum(one() is not None for one in alive))
    model = load(self, config, *args)
    alive.append(weakref.ref(model.model))
    return model

def pytest_configure():
    FakeEngine.load = counting

def pytest_unconfigure():
    FakeEngine.load = load
"""


def loads(result: pytest.RunResult) -> list[str]:
    return [line[line.index("LOAD") :] for line in result.outlines if "LOAD " in line]


@pytest.fixture(autouse=True)
def _count(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(COUNTING)


def test_two_files_over_one_model_load_it_once(run: Run, write: Write) -> None:
    write("a.llem.yaml")
    write("sub/b.llem.yaml", "name: b\n")
    result = run("-s", "--llem-meter=none")
    result.assert_outcomes(passed=2)
    assert loads(result) == ["LOAD builtin:tiny-llama fp32 42 ALIVE 0"]


def test_fields_of_generate_share_a_load_and_others_do_not(run: Run, write: Write) -> None:
    write("a.llem.yaml", "sweep: {precision: [fp32, bf16], pytorch.batch_size: [1, 2]}\n")
    write("b.llem.yaml", "experiments: [{name: x, pytorch: {num_beams: 2}}, {name: y, precision: bf16}]\n")
    result = run("-s", "--llem-meter=none")
    result.assert_outcomes(passed=6)
    assert loads(result) == [
        "LOAD builtin:tiny-llama fp32 42 ALIVE 0",
        "LOAD builtin:tiny-llama bf16 42 ALIVE 0",
    ]

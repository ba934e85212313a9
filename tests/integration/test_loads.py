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

from pytest_llem.engines.transformers.engine import TransformersEngine

load, alive = TransformersEngine.load, []

def counting(self, config, *args):
    print("LOAD", config.model, config.precision, config.random_seed, "ALIVE", sum(one() is not None for one in alive))
    model = load(self, config, *args)
    alive.extend(map(weakref.ref, model.model.parameters()))
    return model

def pytest_configure():
    TransformersEngine.load = counting

def pytest_unconfigure():
    TransformersEngine.load = load
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


def test_a_model_is_freed_after_a_failure_too(pytester: pytest.Pytester, write: Write) -> None:
    write("a.llem.yaml", "sweep: {random_seed: [1, 2, 3]}\n")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.llem("a.llem.yaml")
        def test_fails(llem_model):
            parameters = list(llem_model.model.parameters())
            assert not parameters, "holds tensors in its frame"
        """
    )
    # In a process of its own: pytester's recorder keeps every exception, with its frames.
    result = pytester.runpytest_subprocess("--llem-cpu", "-s", "--llem-meter=none", "-k", "test_fails")
    result.assert_outcomes(failed=3)
    assert loads(result) == [f"LOAD builtin:tiny-llama fp32 {seed} ALIVE 0" for seed in (1, 2, 3)]


def test_a_model_that_cannot_be_loaded_fails_alone(run: Run, write: Write) -> None:
    write("a.llem.yaml")
    write("b.llem.yaml", "name: b\nmodel: ./nowhere\nsweep: {pytorch.batch_size: [1, 2]}\n", base="")
    write("d.llem.yaml", "pytorch:\n  lora:\n    path: ./nothing\n", base="name: d\nmodel: builtin:tiny-llama\n")
    write("c.llem.yaml", "random_seed: 5\n")
    result = run("--llem-meter=none")
    result.assert_outcomes(passed=2, errors=3)
    # The same failure of one load is told with the place of each.
    result.stdout.fnmatch_lines(["b.llem.yaml:2: model '*nowhere': no such folder"] * 2)
    result.stdout.fnmatch_lines(["d.llem.yaml:5: pytorch.lora.path '*nothing': no such folder"])

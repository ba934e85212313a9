"""Why a board drew little, and what moved from round to round."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.config import ExperimentConfig
from pytest_llem.report.explanations import explanations, rounds_differ, waiting, waiting_line
from tests.unit.report.examples import experiment, result

if TYPE_CHECKING:
    from pytest_llem.records.record import Record

BATCHES = "a larger pytorch.batch_size (up to 8)"
STATIC, COMPILE = "pytorch.cache_implementation: static", "pytorch.torch_compile: true"


def idle(share: float | None = 0.7, config: Any = None, device: str = "cuda", **changes: Any) -> Record:
    """A result of a GPU's own meter, as the session keeps it: with all fields of its configuration."""
    values = {"model": "builtin:tiny-llama"} if config is None else config
    resolved = ExperimentConfig.model_validate(values).model_dump(mode="json", exclude_none=True)
    environment = {"device": device, "boards": [{"uuid": "GPU-1"}]}
    measured = result(idle_share=share, **{"boards": {"GPU-1": 100.0}, **changes})
    return experiment(result=measured, environment=environment, config=resolved)


def of(**pytorch: Any) -> dict[str, Any]:
    return {"model": "builtin:tiny-llama", "pytorch": pytorch}


def test_only_a_measured_board_that_ran_the_model_has_waited() -> None:
    found = waiting(idle(0.7))
    assert found is not None
    assert found.idle_share == 0.7
    for other in (
        idle(0.6),
        idle(None),
        idle(device="cpu"),
        idle(estimated=True),
        # Joules of the processor, of a session on the GPU.
        idle(boards={"package-0": 100.0}),
        idle(boards={}),
    ):
        assert waiting(other) is None


@pytest.mark.parametrize(
    ("config", "remedies"),
    [
        (of(), (STATIC, COMPILE, BATCHES)),
        (of(cache_implementation="dynamic"), (STATIC, COMPILE, BATCHES)),
        # generate() compiles by itself with a static cache, unless it is told not to.
        (of(cache_implementation="static"), (BATCHES,)),
        (of(cache_implementation="static", torch_compile=False), (COMPILE, BATCHES)),
        (of(cache_implementation="static", disable_compile=True), (BATCHES,)),
        (of(cache_implementation="offloaded"), (COMPILE, BATCHES)),
        (of(torch_compile=True), (STATIC, BATCHES)),
        (of(use_cache=False), (COMPILE, BATCHES)),
        (of(batch_size=7), (STATIC, COMPILE, BATCHES)),
        (of(batch_size=8), (STATIC, COMPILE)),
        (of(prompt_lookup_num_tokens=4), (COMPILE,)),
        (of(assistant_model="builtin:tiny-llama"), (COMPILE,)),
        (of(torch_compile=True, cache_implementation="static", batch_size=8), ()),
        (
            of(batch_size=4) | {"dataset": "natural"},
            (STATIC, COMPILE, "a larger pytorch.batch_size (where there are more than 4 prompts)"),
        ),
        # Sequences that a text ends are run one by one.
        (of() | {"decoder": {"stop_strings": ["."]}}, (STATIC, COMPILE)),
    ],
)
def test_remedies_are_fields_that_are_not_set_and_possible(config: dict[str, Any], remedies: tuple[str, ...]) -> None:
    found = waiting(idle(config=config))
    assert found is not None
    assert found.remedies == remedies


@pytest.mark.parametrize(
    "config",
    [
        None,  # a callable
        {"model": "builtin:tiny-llama", "a_field_of_another_version": 1},
        {"model": "builtin:tiny-llama", "backend": "vllm"},
    ],
)
def test_what_is_not_known_to_be_possible_is_not_proposed(config: Any) -> None:
    found = waiting(replace(idle(), config=config))
    assert found is not None
    assert found.remedies == ()


def test_the_line_names_the_share_and_the_remedies() -> None:
    assert waiting_line([0.7], ()) == "idle power is 70% of the energy: the board waited for the host"
    assert waiting_line([0.61, 0.8], [STATIC, COMPILE]).startswith("idle power is 61% to 80% of the energy: ")
    assert waiting_line([0.7], [STATIC, COMPILE]).endswith(f"; what may change that: {STATIC}, {COMPILE}")


def rounds(*windows: tuple[float, float | None], tokens: int = 64, **changes: Any) -> Any:
    """A result whose windows took these seconds and joules."""
    like = result().per_round[0]
    per_round = [replace(like, seconds=s, joules=j, output_tokens=tokens, **changes) for s, j in windows]
    return result(per_round=per_round)


def with_clocks(measured: Any, *clocks: dict[str, float]) -> Any:
    pairs = zip(measured.per_round, clocks, strict=True)
    return replace(measured, per_round=[replace(window, sm_clock_hz=clock) for window, clock in pairs])


def test_what_moved_from_round_to_round_is_named() -> None:
    slower = rounds((1.0, 100.0), (1.08, 109.1), (1.02, 102.0))
    assert rounds_differ(slower) == "rounds differ by 9%: the time by 8%, the power by 1%"
    # The work takes longer at less power: its energy hides that.
    throttled = rounds((1.0, 100.0), (1.1, 100.0))
    assert rounds_differ(throttled) == "rounds differ by 10%: the time by 10%, the power by 10%"
    assert rounds_differ(rounds((1.0, 100.0), (1.0, 105.0))) == "rounds differ by 5%: the time by 0%, the power by 5%"
    assert rounds_differ(rounds((1.0, None), (1.06, 100.0))) == "rounds differ by 6%: the time by 6%"


def test_rounds_that_agree_are_no_matter() -> None:
    assert rounds_differ(rounds((1.0, 100.0), (1.029, 102.9))) is None
    assert rounds_differ(rounds((1.0, 100.0))) is None
    assert rounds_differ(rounds()) is None


def test_rounds_of_different_work_say_so() -> None:
    measured = rounds((1.0, 100.0), (1.1, 110.0))
    first, second = measured.per_round
    other = replace(measured, per_round=[first, replace(second, output_tokens=72)])
    assert rounds_differ(other) == "rounds differ by 10%: the time by 10%, the power by 0%, the output tokens by 12%"


@pytest.mark.parametrize(
    ("clocks", "end"),
    [
        (({"a": 1.98e9}, {"a": 1.98e9}), "; the SM clock stayed at 1980 MHz"),
        (({"a": 1.98e9}, {"a": 1.965e9}), "; the SM clock stayed at 1965 MHz"),
        (({"a": 1.98e9}, {"a": 1.755e9}), "; the SM clock was 1755 to 1980 MHz"),
        (({"a": 1.98e9, "b": 1.5e9}, {"a": 1.98e9, "b": 1.2e9}), "; the SM clock was 1200 to 1500 MHz"),
        (({"a": 1.98e9, "b": 1.5e9}, {"a": 1.98e9, "b": 1.5e9}), "; the SM clock stayed at 1980 and 1500 MHz"),
        # One reading tells nothing of what changed.
        (({}, {"a": 1.98e9}), ""),
    ],
)
def test_what_the_clocks_did_is_named(clocks: tuple[dict[str, float], ...], end: str) -> None:
    text = rounds_differ(with_clocks(rounds((1.0, 100.0), (1.1, 110.0)), *clocks))
    assert text == f"rounds differ by 10%: the time by 10%, the power by 0%{end}"


def test_a_result_has_all_its_explanations() -> None:
    windows = rounds((1.0, 100.0), (1.1, 110.0)).per_round
    waited, differ = explanations(idle(per_round=windows))
    assert waited.startswith("idle power is 70%")
    assert differ.startswith("rounds differ by 10%")
    assert explanations(experiment()) == ()

"""The public fixtures. Thin: each hands over to the room that does the work, which it imports when it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.session.state import llem_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_llem.config import ExperimentConfig
    from pytest_llem.engines.base import LoadedModel
    from pytest_llem.measurement.result import ExperimentResult
    from pytest_llem.meters.base import Meter
    from pytest_llem.runs import BenchmarkRun


@pytest.fixture
def llem_experiment(request: pytest.FixtureRequest) -> ExperimentConfig:
    """The validated configuration of this item's experiment."""
    config: ExperimentConfig = _parameter(request, "llem_experiment").valid_config
    return config


@pytest.fixture(scope="session")
def llem_model(request: pytest.FixtureRequest) -> Iterator[LoadedModel]:
    """The loaded model: ``.model``, ``.tokenizer``, ``.device``.

    All items of the session that load the same thing share it; it is freed before the next one is loaded.
    """
    __tracebackhide__ = True
    from pytest_llem.runs import loaded

    with loaded(_parameter(request, "llem_model"), llem_session(request.config)) as model:
        yield model


@pytest.fixture
def llem_meter(request: pytest.FixtureRequest) -> Meter:
    """The energy meter: ``with llem_meter.window() as w: ...``, then ``w.joules``, ``w.uncertainty_j``, ``w.seconds``.

    Beside ``llem_model`` it reads the boards that the model lies on and waits for their queued work at both edges.
    """
    from pytest_llem.runs import item_meter

    model = request.getfixturevalue("llem_model") if "llem_model" in request.fixturenames else None
    meter: Meter = item_meter(model, llem_session(request.config))
    return meter


@pytest.fixture
def llem_run(
    request: pytest.FixtureRequest,
    llem_experiment: ExperimentConfig,  # noqa: ARG001  (collection parametrizes it)
    benchmark: Any,
    llem_model: LoadedModel,
    llem_meter: Meter,
) -> Callable[[], ExperimentResult]:
    """Call it to measure the experiment and to record the result, which it returns."""
    from pytest_llem.runs import ExperimentRun

    return ExperimentRun(
        item=request.node,
        session=llem_session(request.config),
        benchmark=benchmark,
        experiment=_parameter(request, "llem_experiment"),
        model=llem_model,
        meter=llem_meter,
    )


@pytest.fixture
def llem_benchmark(request: pytest.FixtureRequest, benchmark: Any, llem_meter: Meter) -> BenchmarkRun:
    """Like pytest-benchmark's ``benchmark``, for any callable: records time and energy."""
    from pytest_llem.runs import BenchmarkRun

    return BenchmarkRun(item=request.node, session=llem_session(request.config), benchmark=benchmark, meter=llem_meter)


def _parameter(request: pytest.FixtureRequest, name: str) -> Any:
    """What collection attached to the item under this name."""
    callspec = getattr(request.node, "callspec", None)
    if name == request.fixturename and hasattr(request, "param"):
        return request.param
    if callspec is None or name not in callspec.params:
        # All by name: a test that requests one of them is set up with another one first.
        pytest.fail(
            "llem_experiment, llem_model and llem_run need an experiment: use "
            '@pytest.mark.llem("file.llem.yaml") above the test',
            pytrace=False,
        )
    return callspec.params[name]

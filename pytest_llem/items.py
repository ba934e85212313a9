"""What collection attached to an item."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_llem.verdict.gates import resolve
from pytest_llem.verdict.limits import parse_limit

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest

    from pytest_llem.settings import Settings
    from pytest_llem.verdict.limits import Limit

USUAL = parse_limit("2.5%..5%")
"""The gates of a comparison that names none."""


def measures(item: pytest.Item) -> bool:
    """Whether an item is an experiment or measures a callable."""
    return "llem_experiment" in parameters(item) or "llem_benchmark" in getattr(item, "fixturenames", ())


def is_measured(item: pytest.Item) -> bool:
    """Whether an item is going to measure something: it is valid, and nothing skips it."""
    experiment = parameters(item).get("llem_experiment")
    invalid = experiment is not None and bool(experiment.errors)
    return measures(item) and not invalid and item.get_closest_marker("skip") is None


def timeout_s(item: pytest.Item) -> float | None:
    """How long an item may take once its model is loaded, in seconds; ``None`` for as long as it likes."""
    experiment = parameters(item).get("llem_experiment")
    limit_s: float | None = None if experiment is None else experiment.valid_config.timeout_s
    return limit_s


def parameters(item: pytest.Item) -> Mapping[str, Any]:
    """What collection attached to an item."""
    attached: Mapping[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return attached


def gates_of(item: pytest.Item, settings: Settings, *, skipped: bool = False) -> dict[str, Limit]:
    """The gates of an item that is going to be measured.

    Args:
        skipped: those of items that are skipped as well.
    """
    if item.get_closest_marker("skip") is not None and not skipped:
        return {}
    experiment = parameters(item).get("llem_experiment")
    if experiment is None:
        measures_callable = "llem_benchmark" in getattr(item, "fixturenames", ())
        return _of_a_comparison(dict(settings.gates), settings) if measures_callable else {}
    if experiment.config is None:
        return {}
    return _of_a_comparison(resolve(settings.gates, experiment.config.compare), settings)


def _of_a_comparison(gates: dict[str, Limit], settings: Settings) -> dict[str, Limit]:
    """Where two states of the code are compared, what has no gate of its own has the usual ones."""
    if gates or not settings.compares:
        return gates
    return {"latency": USUAL} if settings.meter == "none" else {"energy": USUAL, "latency": USUAL}

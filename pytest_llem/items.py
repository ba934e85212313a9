"""What collection attached to an item."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_llem.verdict.gates import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest

    from pytest_llem.settings import Settings


def measures(item: pytest.Item) -> bool:
    """Whether an item is an experiment or measures a callable."""
    return "llem_experiment" in parameters(item) or "llem_benchmark" in getattr(item, "fixturenames", ())


def parameters(item: pytest.Item) -> Mapping[str, Any]:
    """What collection attached to an item."""
    attached: Mapping[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return attached


def gates_of(item: pytest.Item, settings: Settings, *, skipped: bool = False) -> dict[str, Any]:
    """The gates of an item that is going to be measured.

    Args:
        skipped: those of items that are skipped as well.
    """
    if item.get_closest_marker("skip") is not None and not skipped:
        return {}
    experiment = parameters(item).get("llem_experiment")
    if experiment is None:
        return dict(settings.gates) if "llem_benchmark" in getattr(item, "fixturenames", ()) else {}
    return {} if experiment.config is None else resolve(settings.gates, experiment.config.compare)

"""Tell pytest and the session what became of an item that ran in a child, as if it had run here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_llem.items import gates_of
from pytest_llem.session.journal_line import from_line
from pytest_llem.session.reporting import report_phase, skipped_at
from pytest_llem.session.state import llem_session

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

    from pytest_llem.session.isolation.following import Outcome
    from pytest_llem.session.reporting import Outcome as PhaseOutcome
    from pytest_llem.session.reporting import When
    from pytest_llem.settings import Settings

_AFTER: dict[When, When] = {"setup": "call", "call": "teardown", "teardown": "teardown"}


def publish(item: pytest.Item, outcome: Outcome, settings: Settings) -> None:
    """Report the phases of an item, and count its result, which is in the journal when this returns."""
    phase: When = "setup"
    for values in outcome.reports:
        report = _report(item.config, values)
        phase = _AFTER[report.when]
        item.ihook.pytest_runtest_logreport(report=report)
    if outcome.given_up is not None:
        _end(item, phase, "skipped", skipped_at(item, outcome.given_up), outcome)
    elif outcome.failure is not None:
        sections = [("Output of the process", outcome.output)] if outcome.output else []
        _end(item, phase, "failed", outcome.failure, outcome, sections)
    elif outcome.line is not None:
        try:
            record = replace(from_line(outcome.line), gates=gates_of(item, settings))
        except ValueError as error:
            _end(item, phase, "failed", f"its process sent a result that cannot be read: {error}", outcome)
        else:
            llem_session(item.config).count(record)


def _report(config: pytest.Config, values: dict[str, Any]) -> pytest.TestReport:
    # Lists in JSON; pytest knows by the type that this is where and why an item was skipped.
    if isinstance(values["longrepr"], list):
        values["longrepr"] = tuple(values["longrepr"])
    report: pytest.TestReport = config.hook.pytest_report_from_serializable(config=config, data=values)
    return report


def _end(
    item: pytest.Item,
    phase: When,
    end: PhaseOutcome,
    why: str | tuple[str, int, str],
    outcome: Outcome,
    sections: Sequence[tuple[str, str]] = (),
) -> None:
    """Report what the child could not: the phase that it was in; there was nothing left to tear down."""
    report_phase(item, phase, end, why, sections=sections, seconds=outcome.seconds)
    if phase != "teardown":
        report_phase(item, "teardown")

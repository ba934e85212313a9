"""Reports to pytest of items whose phases did not run in this process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

Outcome = Literal["passed", "failed", "skipped"]
When = Literal["setup", "call", "teardown"]


def report_phase(
    item: pytest.Item,
    when: When,
    outcome: Outcome = "passed",
    message: str | tuple[str, int, str] | None = None,
    *,
    sections: Sequence[tuple[str, str]] = (),
    seconds: float = 0.0,
) -> None:
    """Report one phase of an item.

    Args:
        message: why it failed, or as pytest wants it, where and why it was skipped.
        sections: headings and texts that pytest shows with a failure.
        seconds: what it took.
    """
    now_s = time.time()
    report = pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords=dict.fromkeys(item.keywords, 1),
        outcome=outcome,
        longrepr=message,
        when=when,
        sections=sections,
        duration=seconds,
        start=now_s - seconds,
        stop=now_s,
        user_properties=item.user_properties,
    )
    item.ihook.pytest_runtest_logreport(report=report)


def report_item(
    item: pytest.Item, outcome: Outcome = "passed", message: str | None = None, *, output: str = ""
) -> None:
    """Report all phases of an item, of which the second one has this outcome.

    Args:
        message: why it failed or was skipped.
        output: what its process had written.
    """
    hook = item.ihook
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    report_phase(item, "setup")
    why = skipped_at(item, message) if outcome == "skipped" else message
    report_phase(item, "call", outcome, why, sections=[("Output of the process", output)] if output else [])
    report_phase(item, "teardown")
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


def skipped_at(item: pytest.Item, why: str | None) -> tuple[str, int, str]:
    """Where and why an item was skipped, as pytest wants it."""
    path, line, _ = item.location
    return str(item.config.rootpath / path), (line or 0) + 1, f"Skipped: {why}"

"""Measure experiments again in a fresh process: what a verdict counts is processes, not rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_llem.session.isolation.children import Children
from pytest_llem.session.isolation.time_limit import TimeLimit
from pytest_llem.session.journal_line import from_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_llem.records.record import Record
    from pytest_llem.session.deadline import Deadline

# Those of the repetition after this one.
_AHEAD = pytest.StashKey[Children | None]()


def measure_again(
    config: pytest.Config, timeouts_s: Mapping[str, float | None], deadline: Deadline | None = None
) -> tuple[dict[str, Record], str | None]:
    """Run these items once more, all in one fresh pytest process, which gets the arguments of this session.

    Args:
        timeouts_s: how long each may take once its model is loaded, by node id; ``None`` for as long as it likes.
        deadline: when the session's time is over.

    Returns:
        What was measured, by node id; and why items are missing, where some are.
    """
    children = _fresh_children(config)
    child = children.start(list(timeouts_s))
    found: dict[str, Record] = {}
    line: str | None = None
    problem: str | None = None
    skipped: str | None = None
    limit = TimeLimit(deadline)
    try:
        while child.queue:
            try:
                message = child.receive(limit.until_s)
            except TimeoutError:
                problem = f"{child.queue[0]}: {limit.passed()}, so the fresh process was killed"
                break
            if message is None:
                problem = f"the fresh process {child.how_it_ended()}"
                break
            if message["event"] in ("start", "loaded"):
                limit.begin(timeouts_s[child.queue[0]])
            if message["event"] == "start":
                child.begin_item(message["output_start"])
                line = skipped = None
            elif message["event"] == "report" and message["report"]["outcome"] == "skipped":
                skipped = message["report"]["longrepr"][-1]
            elif message["event"] == "result":
                line = message["line"]
            elif message["event"] == "finish":
                try:
                    if line is None:
                        problem = f"it was not measured in the fresh process{f': {skipped}' if skipped else ''}"
                    else:
                        record = from_line(line)
                        found[record.nodeid] = record
                except ValueError as error:
                    problem = f"what the fresh process sent cannot be read: {error}"
                child.finish_item()
                limit.end()
    finally:
        child.close()
        children.close()
    return found, problem


def _fresh_children(config: pytest.Config) -> Children:
    """Those of this repetition, from a process that was started for it alone.

    What is still open after one repetition often takes another, so both import now, before either measures.
    """
    children = config.stash.get(_AHEAD, None)
    config.stash[_AHEAD] = None
    if children is None:
        session = config.pluginmanager.get_plugin("session")
        items = [] if session is None else session.items
        children, following = (Children(config, items, shown=False) for _ in range(2))
        children.prepare()
        following.prepare()
        following.wait()
        config.stash[_AHEAD] = following
    return children

"""Experiments in child processes: a crash or a hang of one costs that one alone.

The parent keeps the session (collection, reports, saving, verdicts) and hands each model's experiments to one child,
which is a pytest run with the same arguments. What the child reports is published as if the parent had run it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_llem.items import measures, parameters, timeout_s
from pytest_llem.session.isolation.children import Children
from pytest_llem.session.isolation.following import follow
from pytest_llem.session.isolation.publishing import publish
from pytest_llem.session.state import SESSION, llem_session

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from pytest_llem.session.isolation.process import ChildProcess
    from pytest_llem.settings import Settings


def is_isolated(item: pytest.Item, settings: Settings) -> bool:
    """Whether an item runs in a child: with ``--llem-isolate`` each experiment, and all that measures once the GPU
    failed in this process."""
    if item.get_closest_marker("skip") is not None:
        return False
    experiment = parameters(item).get("llem_experiment")
    if experiment is not None and experiment.errors:
        return False
    session = item.config.stash.get(SESSION, None)
    if session is not None and session.device_lost:
        return measures(item)
    return settings.isolate and experiment is not None


class Isolation:
    """The plugin that runs items in children, one child at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._child: ChildProcess | None = None
        self._children: Children | None = None
        self._item: pytest.Item | None = None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """After the last item: end the child, which may hold a board's memory."""
        try:
            return (yield)
        finally:
            self.close()
            if self._children is not None:
                self._children.close()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """In place of an item's phases: run it in a child process, if it is to run there."""
        if not is_isolated(item, self._settings):
            return None
        self._item = item
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        outcome = follow(item.nodeid, timeout_s(item), self, llem_session(item.config).deadline)
        publish(item, outcome, self._settings)
        if outcome.finished and self._child is not None:
            self._child.finish_item()
            if not self._child.queue:
                self.close()
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def child_for(self, nodeid: str) -> ChildProcess:
        """The child that runs this item next; a fresh one where there is none."""
        if self._child is None or self._child.queue[:1] != [nodeid]:
            self.close()
            item = self._item
            assert item is not None  # noqa: S101  (it is followed)
            if self._children is None:
                items = [other for other in item.session.items if is_isolated(other, self._settings)]
                self._children = Children(item.config, items, shown=item.config.getoption("capture") == "no")
            self._child = self._children.start(list(_group(item, self._settings)))
        return self._child

    def lose_nursery(self) -> None:
        """The child was ended with its nursery."""
        self.close()
        if self._children is not None:
            self._children.lose()

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.close()
            self._child = None


def _group(item: pytest.Item, settings: Settings) -> Iterator[str]:
    """This item and those after it that run in a child and load the same model."""
    items = item.session.items
    model = parameters(item).get("llem_model")
    for other in items[items.index(item) :]:
        if parameters(other).get("llem_model") != model:
            return
        if is_isolated(other, settings):
            yield other.nodeid

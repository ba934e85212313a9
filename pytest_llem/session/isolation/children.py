"""Where a session's children come from: its nursery, or each from a process of its own."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_llem.engines import engine_module
from pytest_llem.errors import UnavailableError
from pytest_llem.items import parameters
from pytest_llem.session.isolation.nursery import Nursery, NurseryError
from pytest_llem.session.isolation.process import ChildProcess, Launch
from pytest_llem.session.state import llem_session

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# A session whose nursery was of no use has no other.
_WITHOUT = pytest.StashKey[bool]()

# Of this package, what takes long.
_OWN_MODULES = ("pytest_llem.collection", "pytest_llem.runs")


class Children:
    """Children for samples that are independent of those from any other instance; one child at a time."""

    def __init__(
        self, config: pytest.Config, items: Iterable[pytest.Item], *, shown: bool, launch: Launch | None = None
    ) -> None:
        """Start nothing yet.

        Args:
            items: what children may run.
            shown: whether their output goes to the terminal at once, as with ``-s``.
            launch: how they are started; default: as the session was.
        """
        self._config = config
        self._launch = launch or Launch.of(config)
        self._modules = [*_OWN_MODULES, *_engine_modules(items)]
        self._shown = shown
        self._nursery: Nursery | None = None
        config.add_cleanup(self.close)

    def prepare(self) -> None:
        """Start to import, where no process that has imported in this environment is there."""
        if self._nursery is not None and not self._nursery.is_current:
            self.close()
        if self._nursery is None and Nursery.possible and not self._config.stash.get(_WITHOUT, False):
            self._nursery = Nursery(self._modules, self._launch, shown=self._shown)

    def wait(self) -> Nursery | None:
        """Until all is imported, so that it is not while something is measured, or the session's time is over.

        Returns:
            What has imported it; ``None`` where nothing has.
        """
        deadline = llem_session(self._config).deadline
        until_s = None if deadline is None else deadline.kill_s
        try:
            return self._nursery if self._nursery is not None and self._nursery.wait(until_s) else None
        except NurseryError as error:
            self._do_without(error)
            return None

    def start(self, nodeids: Sequence[str], *, by_turns: bool = False) -> ChildProcess:
        """Start a child that runs these items, in order.

        Args:
            by_turns: see :class:`~pytest_llem.session.isolation.process.ChildProcess`.
        """
        self.prepare()
        start = partial(ChildProcess, self._launch, nodeids, shown=self._shown, by_turns=by_turns)
        try:
            return start(nursery=self.wait())
        except NurseryError as error:
            self._do_without(error)
            return start(nursery=None)

    def lose(self) -> None:
        """The nursery has ended, and its last child with it, which is closed."""
        if self._nursery is not None:
            self._do_without(self._nursery.lost())

    def close(self) -> None:
        """End what imported. The children are closed. Closing twice is harmless."""
        if self._nursery is not None:
            self._nursery.close()
            self._nursery = None

    def _do_without(self, why: NurseryError) -> None:
        self.close()
        self._config.stash[_WITHOUT] = True
        llem_session(self._config).say(
            f"llem: fresh processes cannot be forked from one that has imported all ({why}): each imports for itself"
        )


def _engine_modules(items: Iterable[pytest.Item]) -> list[str]:
    experiments = [parameters(item).get("llem_experiment") for item in items]
    modules = []
    for backend in sorted({found.valid_config.backend for found in experiments if found and not found.errors}):
        # What cannot be imported is the item's to report.
        with suppress(UnavailableError):
            modules.append(engine_module(backend))
    return modules

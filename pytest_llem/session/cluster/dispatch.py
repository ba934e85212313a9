"""Keep what is to be measured on a cluster until there is an outcome of each item.

Where a task runs, and when, is Ray's affair. That one is started again for what it has left is ours: Ray would begin it
anew, and measure again what is counted already.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem import __version__
from pytest_llem.items import timeout_s
from pytest_llem.session.cluster.messages import Hello, Lost
from pytest_llem.session.isolation.following import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

    from pytest_llem.session.cluster.connection import Cluster
    from pytest_llem.session.cluster.messages import Order
    from pytest_llem.session.cluster.needs import Group, Machine

_MOST_STARTS = 3
_LOOK_S = 10.0  # between two looks whether a machine is there for what waits


@dataclass
class _Task:
    """A load of which something is left, that runs or waits for a machine.

    Attributes:
        left: its items that are not over, in order.
        cpus: how many processors it asks for.
        hello: what it said first; ``None`` while it waits.
    """

    group: Group
    left: list[pytest.Item]
    cpus: int
    hello: Hello | None = None


@dataclass(frozen=True)
class Told:
    """What became of an item.

    Attributes:
        hello: of the task that ran it last; ``None`` where none has.
        machine: its name.
        lost: nothing more can be known of it.
    """

    item: pytest.Item
    outcome: Outcome
    hello: Hello | None = None
    machine: str = ""
    lost: bool = False


class Dispatch:
    """Runs groups of items.

    Args:
        order: makes one of items' time limits and a number of GPUs.
        on_gpus: whether they run on GPUs.
        say: called with each line on where they run.

    Raises:
        pytest.UsageError: there is no GPU for what runs on GPUs.
    """

    def __init__(
        self,
        cluster: Cluster,
        order: Callable[[Mapping[str, float | None], int], Order],
        *,
        on_gpus: bool,
        say: Callable[[str], None],
    ) -> None:
        if on_gpus and not any(machine.gpus for machine in cluster.machines()):
            raise pytest.UsageError(f"--llem-gpu: no machine of the Ray cluster {cluster.address} has a GPU")
        self._cluster = cluster
        self._order = order
        self._on_gpus = on_gpus
        self._say = say
        self._running: dict[Any, _Task] = {}
        self._starts: Counter[str] = Counter()
        self._yielding: set[str] = set()
        self._has_said_that_all_wait = False

    def run(self, groups: Iterable[Group], node: str | None = None) -> Generator[Told]:
        """What became of each item, as it is known. Closed early, it ends what runs.

        Args:
            node: Ray's id of the machine that they run on; ``None`` for any.

        Raises:
            pytest.UsageError: a machine cannot run them.
        """
        try:
            for group in groups:
                yield from self._start(group, group.items, node)
            while self._running:
                handle = self._cluster.wait(self._running, _LOOK_S)
                if handle is None:
                    yield from self._start_where_others_are(node)
                    self._say_if_all_wait()
                    continue
                task = self._running[handle]
                message = self._cluster.receive(handle)
                if isinstance(message, Hello):
                    self._begin(task, message)
                elif isinstance(message, Outcome):
                    yield self._told(task, message)
                else:
                    del self._running[handle]
                    if message is not None and task.left:
                        yield from self._lose(task, message)
                    yield from self._start(task.group, task.left, node)
        finally:
            self._cluster.cancel(self._running)
            self._running.clear()

    def _start(self, group: Group, items: Sequence[pytest.Item], node: str | None) -> Generator[Told]:
        """Start a task for these items of a group, if a machine is there that can run it."""
        if not items:
            return
        gpus = group.gpus if self._on_gpus else 0
        machines = self._cluster.machines()
        cpus = self._cpus(machines)
        if not any(machine.gpus >= gpus and machine.cpus >= cpus for machine in machines):
            most = max((machine.gpus for machine in machines), default=0)
            needs = f"needs {gpus} GPU{'s'[: gpus != 1]}" if gpus else "needs a processor"
            why = f"llem-ray: it {needs}, and no machine of the cluster has as many (most: {most:g} GPUs)"
            yield from (Told(item, Outcome(item.nodeid, given_up=why)) for item in items)
            return
        order = self._order({item.nodeid: timeout_s(item) for item in items}, gpus)
        handle = self._cluster.start(order, cpus=cpus, name=group.name, node=node)
        self._running[handle] = _Task(group, list(items), cpus)

    def _cpus(self, machines: Sequence[Machine]) -> int:
        """How many processors a task asks for: on the CPU so many that no machine runs two at a time, which would share
        what is measured."""
        return 1 if self._on_gpus else int(max((machine.cpus for machine in machines), default=0)) // 2 + 1

    def _start_where_others_are(self, node: str | None) -> Generator[Told]:
        """Start anew what waits for a machine that is there no more."""
        machines = self._cluster.machines()
        for handle, task in list(self._running.items()):
            gpus = task.group.gpus if self._on_gpus else 0
            able = any(machine.gpus >= gpus and machine.cpus >= task.cpus for machine in machines)
            if task.hello is None and not able:
                del self._running[handle]
                self._cluster.cancel([handle])
                yield from self._start(task.group, task.left, node)

    def _say_if_all_wait(self) -> None:
        """On a cluster that is in use nothing may happen for hours."""
        all_wait = bool(self._running) and all(task.hello is None for task in self._running.values())
        if all_wait and not self._has_said_that_all_wait:
            self._has_said_that_all_wait = True
            self._say("llem: nothing runs: Ray has no room for what is left, or prepares a machine for it")

    def _begin(self, task: _Task, hello: Hello) -> None:
        task.hello = hello
        machine = self._cluster.name_of(hello.node)
        if hello.version != __version__:
            raise pytest.UsageError(
                f"--llem-ray: {machine} has pytest-llem {hello.version}, and this session is {__version__}: install "
                "the same version on all machines"
            )
        count = len(task.left)
        self._say(f"llem: {machine}: {count} experiment{'s'[: count != 1]} of {task.group.name}")
        if hello.niceness > 0 and machine not in self._yielding:
            self._yielding.add(machine)
            self._say(
                f"llem: {machine}: what runs there yields to other processes (niceness {hello.niceness}): start Ray "
                "there with the variable RAY_worker_niceness=0"
            )

    def _told(self, task: _Task, outcome: Outcome) -> Told:
        assert task.hello is not None  # noqa: S101  (it is said first)
        # By name: a node id may occur twice among the items, and once in an order.
        item = next(item for item in task.left if item.nodeid == outcome.nodeid)
        task.left.remove(item)
        return Told(item, outcome, task.hello, self._cluster.name_of(task.hello.node))

    def _lose(self, task: _Task, lost: Lost) -> Generator[Told]:
        """A process or a machine has died: what ran there has been started once more than the rest."""
        machine = "a machine" if task.hello is None else self._cluster.name_of(task.hello.node)
        item = task.left[0]
        self._starts[item.nodeid] += 1
        self._say(f"llem: {machine}: lost while it ran {item.nodeid}: {lost.reason}")
        if self._starts[item.nodeid] >= _MOST_STARTS:
            why = f"the process of its Ray task died {_MOST_STARTS} times: {lost.reason}"
            yield Told(task.left.pop(0), Outcome(item.nodeid, failure=why), task.hello, machine, lost=True)

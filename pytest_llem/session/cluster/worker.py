"""On a machine of the cluster: run the items of one load in a child, and tell what became of each.

A child is the one of ``--llem-isolate``. The process that Ray started for the task only listens to it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from pytest_llem import __version__
from pytest_llem.session.cluster.messages import WORKING_DIRECTORY, Hello
from pytest_llem.session.isolation.following import follow
from pytest_llem.session.isolation.process import ChildProcess, Launch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_llem.session.cluster.messages import Order
    from pytest_llem.session.isolation.following import Outcome

# What Ray changes in the process of a task, and an experiment must not notice.
_CHANGED_BY_RAY = ("OMP_NUM_THREADS", "PYTHONBREAKPOINT")
_USUAL_NICENESS = 0


def run(order: Order) -> Iterator[Hello | Outcome]:
    """The task: first say hello, then, as they finish, what became of the items.

    Items that a child leaves when it ends run in another one, as with ``--llem-isolate``.
    """
    node: str = ray.get_runtime_context().get_node_id()
    yield Hello(node, __version__, _usual_niceness(), str(Path.cwd()))
    source = _Source(order)
    try:
        for nodeid, timeout_s in order.timeouts_s.items():
            yield follow(nodeid, timeout_s, source)
            source.go_on()
    finally:
        source.close()


class _Source:
    """See :class:`pytest_llem.session.isolation.following.Source`."""

    def __init__(self, order: Order) -> None:
        here = Path.cwd()
        environment = {**_before_ray(order.gpus), **order.environment}
        if order.folder.startswith(WORKING_DIRECTORY):
            # Ray lets its workers import from it, before all else.
            environment["PYTHONPATH"] = _python_path_without(here)
        if (options := environment.get("PYTEST_ADDOPTS")) is not None:
            environment["PYTEST_ADDOPTS"] = _placed(options, here)
        self._launch = Launch(
            [_placed(argument, here) for argument in order.arguments],
            Path(_placed(order.folder, here)),
            environment=environment,
        )
        self._nodeids = list(order.timeouts_s)
        self._child: ChildProcess | None = None

    def child_for(self, nodeid: str) -> ChildProcess:
        """The child that runs this item next; a fresh one where there is none."""
        if self._child is None:
            nodeids = self._nodeids[self._nodeids.index(nodeid) :]
            self._child = ChildProcess(self._launch, nodeids, shown=False)
        return self._child

    def go_on(self) -> None:
        """The first item of the child is over, if there still is one."""
        if self._child is not None:
            self._child.finish_item()

    def lose_nursery(self) -> None:
        """There is none."""
        self.close()

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.close()
            self._child = None


def _placed(text: str, working_directory: Path) -> str:
    return text.replace(WORKING_DIRECTORY, str(working_directory))


def _before_ray(gpus: int) -> dict[str, str | None]:
    """What the variables that Ray changes were when this process was started."""
    # A task without a GPU may be shown none, and yet a meter may read one.
    names = (*_CHANGED_BY_RAY, *(() if gpus else ("CUDA_VISIBLE_DEVICES",)))
    entries = (entry.partition("=") for entry in Path("/proc/self/environ").read_text(errors="replace").split("\0"))
    started_with = {name: value for name, _, value in entries}
    return {name: started_with.get(name) for name in names}


def _python_path_without(brought: Path) -> str | None:
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(entry for entry in entries if entry not in ("", str(brought))) or None


def _usual_niceness() -> int:
    """Give this process, and so its children, the usual niceness: Ray's workers yield to all others.

    Returns:
        What it is now: only a privileged process may lower its own.
    """
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, _USUAL_NICENESS)
    return os.getpriority(os.PRIO_PROCESS, 0)

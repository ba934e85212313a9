"""How groups of items come through on a cluster, which a script plays here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem import __version__
from pytest_llem.session.cluster.dispatch import Dispatch
from pytest_llem.session.cluster.messages import Hello, Lost, Order
from pytest_llem.session.cluster.needs import Group, Machine
from pytest_llem.session.isolation.following import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_llem.session.cluster.dispatch import Told

HELLO = Hello("node", __version__, 0, "/there")


class ScriptedCluster:
    """Stands in for :class:`pytest_llem.session.cluster.connection.Cluster`.

    Attributes:
        address: as the user named it.
        orders: of the tasks that were started.
        asked: the processors that each asked for.
        messages: how many were received.
        cancelled: tasks that were.
    """

    def __init__(self, script: Callable[[Order], Iterator[Any]], *machines: Machine) -> None:
        self.address = "local"
        self._script = script
        self.here = list(machines or [Machine("one", 4, 1)])
        self.orders: list[Order] = []
        self.asked: list[int] = []
        self.messages = 0
        self.cancelled: list[Any] = []
        self._tasks: dict[int, Iterator[Any]] = {}
        self._placed: set[int | None] = set()

    def machines(self) -> list[Machine]:
        return self.here

    def name_of(self, node: str) -> str:
        return f"name of {node}"

    def start(self, order: Order, *, cpus: int, name: str, node: str | None = None) -> int:
        self.orders.append(order)
        self.asked.append(cpus)
        self._tasks[len(self.orders)] = self._script(order)
        return len(self.orders)

    def wait(self, tasks: Any, timeout_s: float) -> Any:
        task = next((task for task in tasks if self._is_placed(task)), None)
        self._placed.add(task)
        return task

    def _is_placed(self, task: int) -> bool:
        order, cpus = self.orders[task - 1], self.asked[task - 1]
        able = any(machine.gpus >= order.gpus and machine.cpus >= cpus for machine in self.here)
        return able or task in self._placed

    def receive(self, task: int) -> Any:
        self.messages += 1
        return next(self._tasks[task], None)

    def cancel(self, tasks: Any) -> None:
        self.cancelled += list(tasks)


def runs_all(order: Order) -> Iterator[Any]:
    yield HELLO
    for nodeid in order.timeouts_s:
        yield Outcome(nodeid)


def group(*names: str, gpus: int = 1) -> Group:
    items: Any = tuple(SimpleNamespace(nodeid=name) for name in names)
    return Group(items, "a model", gpus)


def dispatch(cluster: Any, said: list[str] | None = None, *, on_gpus: bool = True) -> Dispatch:
    def order(timeouts_s: Mapping[str, float | None], gpus: int) -> Order:
        return Order(timeouts_s, (), "", gpus=gpus)

    lines: list[str] = [] if said is None else said
    return Dispatch(cluster, order, on_gpus=on_gpus, say=lines.append)


def ends(told: list[Told]) -> dict[str, str | None]:
    return {one.item.nodeid: one.outcome.failure or one.outcome.given_up for one in told}


def test_a_load_is_a_task_and_an_item_a_message() -> None:
    """What the session has to do does not grow with the time that experiments take: see benchmarks/ray_overhead.py."""
    cluster = ScriptedCluster(runs_all)
    groups = [group(*(f"{load}-{number}" for number in range(100))) for load in range(10)]
    assert len(list(dispatch(cluster).run(groups))) == 1000
    assert len(cluster.orders) == 10
    # The first says where it runs, the last that the task is over.
    assert cluster.messages == 1000 + 2 * 10


def test_a_load_asks_for_its_gpus_or_on_the_cpu_for_most_of_a_machine() -> None:
    machines = Machine("large", 8, 4), Machine("other", 6, 0), Machine("small", 2, 0)
    cluster = ScriptedCluster(runs_all, *machines)
    list(dispatch(cluster).run([group("a", gpus=3)]))
    assert (cluster.orders[0].gpus, cluster.asked) == (3, [1])
    cluster = ScriptedCluster(runs_all, *machines)
    list(dispatch(cluster, on_gpus=False).run([group("a", gpus=3)]))
    # Of none more than one at a time.
    assert (cluster.orders[0].gpus, cluster.asked) == (0, [5])


def test_what_no_machine_can_run_is_skipped_with_the_reason() -> None:
    cluster = ScriptedCluster(runs_all, Machine("one", 8, 2))
    told = list(dispatch(cluster).run([group("a", "b", gpus=4), group("c", gpus=2)]))
    why = "llem-ray: it needs 4 GPUs, and no machine of the cluster has as many (most: 2 GPUs)"
    assert ends(told) == {"a": why, "b": why, "c": None}


def test_where_no_machine_has_a_gpu_nothing_can_run_on_one() -> None:
    cluster = ScriptedCluster(runs_all, Machine("one", 8, 0))
    with pytest.raises(pytest.UsageError, match="--llem-gpu: no machine of the Ray cluster local has a GPU"):
        dispatch(cluster)


def test_an_item_that_stands_there_twice_runs_twice() -> None:
    cluster = ScriptedCluster(runs_all)
    told = list(dispatch(cluster).run([group("a", "a", "b")]))
    assert [(one.item.nodeid, one.outcome.nodeid) for one in told] == [("a", "a"), ("b", "b"), ("a", "a")]


def test_only_what_ran_when_its_worker_died_loses_a_start() -> None:
    started: list[list[str]] = []

    def dies_at_b(order: Order) -> Iterator[Any]:
        started.append(list(order.timeouts_s))
        yield HELLO
        for nodeid in order.timeouts_s:
            if nodeid == "b":
                yield Lost("it died")
                return
            yield Outcome(nodeid)

    said: list[str] = []
    told = list(dispatch(ScriptedCluster(dies_at_b), said).run([group("a", "b", "c")]))
    assert ends(told) == {"a": None, "b": "the process of its Ray task died 3 times: it died", "c": None}
    assert [one.lost for one in told] == [False, True, False]
    assert started == [["a", "b", "c"], ["b", "c"], ["b", "c"], ["c"]]
    assert said.count("llem: name of node: lost while it ran b: it died") == 3


def test_a_worker_that_dies_after_its_last_item_costs_nothing() -> None:
    def dies_at_the_end(order: Order) -> Iterator[Any]:
        yield from runs_all(order)
        yield Lost("it died")

    said: list[str] = []
    cluster = ScriptedCluster(dies_at_the_end)
    assert ends(list(dispatch(cluster, said).run([group("a", "b")]))) == {"a": None, "b": None}
    assert len(cluster.orders) == 1
    assert not any("lost" in line for line in said)


def test_what_waits_for_a_machine_that_has_gone_asks_for_one_that_is_there() -> None:
    large, small = Machine("large", 8, 0), Machine("small", 2, 0)
    cluster = ScriptedCluster(runs_all, large, small)
    told = dispatch(cluster, on_gpus=False).run([group("a"), group("b")])
    assert next(told).item.nodeid == "a"
    cluster.here = [small]
    assert next(told).item.nodeid == "b"
    assert cluster.asked == [5, 5, 2]


def test_where_the_last_gpu_has_gone_what_waits_is_given_up() -> None:
    cluster = ScriptedCluster(runs_all)
    said: list[str] = []
    told = dispatch(cluster, said).run([group("a"), group("b")])
    assert next(told).item.nodeid == "a"
    cluster.here = [Machine("other", 8, 0)]
    assert "no machine of the cluster has as many" in str(ends(list(told))["b"])
    assert not any("no room" in line for line in said)


def test_another_version_there_ends_the_session() -> None:
    def is_old(order: Order) -> Iterator[Any]:
        yield Hello("node", "0.0.1", 0, "")

    cluster = ScriptedCluster(is_old)
    with pytest.raises(pytest.UsageError, match=r"name of node has pytest-llem 0\.0\.1.*install the same version"):
        list(dispatch(cluster).run([group("a"), group("b")]))
    assert cluster.cancelled == [1, 2]


def test_a_machine_whose_processes_yield_to_others_is_named_once() -> None:
    def yields(order: Order) -> Iterator[Any]:
        yield Hello("node", __version__, 15, "")
        yield from (Outcome(nodeid) for nodeid in order.timeouts_s)

    said: list[str] = []
    list(dispatch(ScriptedCluster(yields), said).run([group("a"), group("b")]))
    assert [line for line in said if "niceness 15" in line] == [
        "llem: name of node: what runs there yields to other processes (niceness 15): start Ray there with the "
        "variable RAY_worker_niceness=0"
    ]


def test_while_a_cluster_has_no_room_it_says_so_once() -> None:
    class Busy(ScriptedCluster):
        looks = 0

        def wait(self, tasks: Any, timeout_s: float) -> Any:
            self.looks += 1
            # It has none at first, and the task says nothing for a while once it runs.
            return None if self.looks in (1, 2, 4) else super().wait(tasks, timeout_s)

    said: list[str] = []
    cluster = Busy(runs_all)
    assert len(list(dispatch(cluster, said).run([group("a")]))) == 1
    assert [line for line in said if "no room" in line] == [
        "llem: nothing runs: Ray has no room for what is left, or prepares a machine for it"
    ]
    quiet: list[str] = []
    cluster.looks = 2
    list(dispatch(cluster, quiet).run([group("a")]))
    assert not any("no room" in line for line in quiet)


def test_closed_early_it_ends_what_runs() -> None:
    cluster = ScriptedCluster(runs_all)
    told = dispatch(cluster).run([group("a", "b"), group("c")])
    next(told)
    told.close()
    assert cluster.cancelled == [1, 2]

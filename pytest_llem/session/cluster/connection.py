"""A Ray cluster: that of an address, or one on this machine for as long as the session lasts."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import ray
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    TaskUnschedulableError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pytest_llem.options import RAY_HERE
from pytest_llem.session.cluster import worker
from pytest_llem.session.cluster.messages import Lost
from pytest_llem.session.cluster.needs import Machine

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pytest_llem.session.cluster.messages import Hello, Order
    from pytest_llem.session.isolation.following import Outcome

# By name, at any level. What git ignores stays here, too, unless Ray is told otherwise.
_LEFT_HERE = (
    *(".git", ".hg", ".venv", "venv", ".tox", ".nox", "node_modules"),
    *("__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", ".benchmarks"),
)
_OBJECT_STORE_BYTES = 80 << 20  # the least that Ray takes: messages are small
_CANCEL_S = 10.0
_ANSWER_S = 10.0
# Of clusters that are started here: one that Ray makes would stay in the home folder. Ray reads it once a process.
_TOKEN = secrets.token_hex(32)
# Of a process or a machine, not of what ran there.
_DEATHS = (
    *(WorkerCrashedError, NodeDiedError, LocalRayletDiedError),
    *(OutOfMemoryError, ObjectLostError, TaskUnschedulableError),
)


class Cluster:
    """A connection to Ray; there is one a process.

    Attributes:
        address: as the user named it.
    """

    def __init__(self, address: str, files: Path | None) -> None:
        """Connect, or start Ray on this machine.

        Args:
            address: of the cluster, ``auto``, or :data:`~pytest_llem.options.RAY_HERE`.
            files: the folder that is brought to its machines; ``None`` for none.

        Raises:
            pytest.UsageError: there is no such cluster, it cannot be used, or the folder is too large.
        """
        self.address = address
        self._folder: str | None = None
        self._tasks: set[Any] = set()
        self._names: dict[str, str] = {}
        if address.startswith("ray://"):
            raise pytest.UsageError(
                f"--llem-ray={address}: Ray's client cannot follow tasks as they go: run pytest on a machine of the "
                "cluster, with --llem-ray=auto"
            )
        options: dict[str, Any] = {} if files is None else {"runtime_env": _runtime_environment(files)}
        try:
            if address == RAY_HERE:
                options |= self._prepare_here()
            else:
                _require_answer(address)
            _initialise(address, options)
        except (RayError, OSError, RuntimeError, ValueError) as error:
            self.close()
            raise pytest.UsageError(f"--llem-ray={address}: {_in_a_line(error)}{_advice(error, files)}") from None
        except BaseException:
            self.close()
            raise

    def machines(self) -> list[Machine]:
        """Those that are there."""
        nodes = [node for node in ray.nodes() if node["Alive"]]
        hosts = [node["NodeManagerHostname"] for node in nodes]
        found = []
        for node in nodes:
            host, resources = node["NodeManagerHostname"], node["Resources"]
            # Several nodes may be on one machine, as in a trial.
            name = host if hosts.count(host) == 1 else f"{host}/{node['NodeID'][:6]}"
            # One keeps its name when others come and go.
            name = self._names.setdefault(node["NodeID"], name)
            found.append(Machine(name, resources.get("CPU", 0.0), resources.get("GPU", 0.0)))
        return found

    def name_of(self, node: str) -> str:
        """As a reader knows a machine, from Ray's id of it."""
        if node not in self._names:
            self.machines()
        return self._names.get(node, node)

    def start(self, order: Order, *, cpus: int, name: str, node: str | None = None) -> Any:
        """Start a task.

        Args:
            cpus: how many processors it asks for, beside the order's GPUs.
            name: for people who look at the cluster.
            node: the only machine that will do; ``None`` for any.

        Returns:
            What its messages are read from, see :meth:`wait` and :meth:`receive`.
        """
        strategy = "DEFAULT" if node is None else NodeAffinitySchedulingStrategy(node, soft=False)
        # Run again by Ray, a task would begin anew: what it has finished would be measured twice.
        task = ray.remote(worker.run).options(
            name=f"llem: {name}",
            num_cpus=cpus,
            num_gpus=order.gpus,
            num_returns="streaming",
            max_retries=0,
            scheduling_strategy=strategy,
        )
        started = task.remote(order)
        self._tasks.add(started)
        return started

    def wait(self, tasks: Iterable[Any], timeout_s: float) -> Any:
        """The first of these tasks that has something to say, or is over; ``None`` where none has within the time."""
        ready, _ = ray.wait(list(tasks), num_returns=1, timeout=timeout_s, fetch_local=False)
        return ready[0] if ready else None

    def receive(self, task: Any) -> Hello | Outcome | Lost | None:
        """What a task says next; ``None`` once it is over.

        Raises:
            pytest.UsageError: its machine cannot run it.
        """
        try:
            message: Hello | Outcome = ray.get(next(task))
        except StopIteration:
            self._tasks.discard(task)
            return None
        except _DEATHS as error:
            self._tasks.discard(task)
            return Lost(_in_a_line(error))
        except RayTaskError as error:
            raise pytest.UsageError(
                f"--llem-ray: a machine cannot run experiments: {_in_a_line(error.cause)}"
            ) from None
        except RayError as error:
            raise pytest.UsageError(f"--llem-ray: {_in_a_line(error)}") from None
        return message

    def cancel(self, tasks: Iterable[Any] | None = None) -> None:
        """End tasks, or all, and their children.

        Args:
            tasks: which; ``None`` for all that run or wait.
        """
        waiting = list(self._tasks if tasks is None else tasks)
        self._tasks.difference_update(waiting)
        for task in waiting:
            ray.cancel(task)
        until_s = time.monotonic() + _CANCEL_S
        while waiting and (task := self.wait(waiting, max(0.0, until_s - time.monotonic()))) is not None:
            try:
                ray.get(next(task))
            except (StopIteration, RayError):
                waiting.remove(task)
        for task in waiting:
            ray.cancel(task, force=True)

    def close(self) -> None:
        """Cancel what runs and disconnect; a cluster that was started here ends. Closing twice is harmless."""
        if ray.is_initialized():
            self.cancel()
            ray.shutdown()
        if self._folder is not None:
            # Its last processes may still be writing.
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _prepare_here(self) -> dict[str, Any]:
        """What makes a cluster on this machine quiet, its own, and gone afterwards."""
        # Experiments do not yield to other processes of this machine.
        os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"})
        os.environ.setdefault("RAY_AUTH_TOKEN", _TOKEN)
        self._folder = tempfile.mkdtemp(prefix="llem-ray-")
        return {"_temp_dir": self._folder, "object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}


def _require_answer(address: str) -> None:
    """Find out whether anything listens at an address: Ray would try for many minutes.

    Raises:
        OSError: nothing does.
    """
    host, _, port = (os.environ.get("RAY_ADDRESS", "") if address == "auto" else address).rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()


def _initialise(address: str, options: dict[str, Any]) -> None:
    # Ray's own handler raises SystemExit.
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        ray.init(address, log_to_driver=False, configure_logging=False, logging_level=logging.ERROR, **options)
    except SystemExit:
        raise KeyboardInterrupt("SIGTERM") from None
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, handler)


def _runtime_environment(files: Path) -> dict[str, Any]:
    return {"working_dir": str(files), "excludes": list(_LEFT_HERE)}


def _in_a_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _advice(error: BaseException, files: Path | None) -> str:
    """What to do about a folder that is too large: Ray names options that are not the user's."""
    if "maximum size" not in str(error):
        return ""
    return f" (all below {files} is brought to the machines: list what experiments do not need in its .rayignore)"

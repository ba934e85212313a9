"""The nursery's side: import, then become a child for each order of the session."""

from __future__ import annotations

import gc
import importlib
import json
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_llem.descendants import end_with_parent
from pytest_llem.session.isolation.nursery import MESSAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pytest

# Of NVIDIA (CUDA and NVML), AMD, and of both under Windows. A context does not survive a fork.
_ACCELERATORS = ("/dev/nvidia", "/dev/kfd", "/dev/dxg")
_MOST_DESCRIPTORS = 2


def serve(config: pytest.Config, descriptor: int) -> int:
    """Import what the session names and serve its orders, until it closes the socket.

    Args:
        descriptor: of the socket to the session.

    Returns:
        In each child, the descriptor of the socket between it and the session.

    Raises:
        SystemExit: in the nursery, when the session needs no more of it.
    """
    end_with_parent()
    os.set_inheritable(descriptor, False)
    # Its files are those of one process: a child has its own.
    capture: Any = config.pluginmanager.get_plugin("capturemanager")
    capture.stop_global_capturing()
    child = None
    with socket.socket(fileno=descriptor) as session, suppress(ConnectionError):
        problem = _import(json.loads(session.recv(MESSAGE_BYTES) or "[]"))
        session.send(json.dumps(problem).encode())
        # What was imported stays: no collection in a child looks at it, or copies its pages.
        gc.collect()
        gc.freeze()
        while problem is None and child is None:
            order, descriptors, *_ = socket.recv_fds(session, MESSAGE_BYTES, _MOST_DESCRIPTORS)
            if not order:
                break
            sys.stdout.flush()
            sys.stderr.flush()
            nursery = os.getpid()
            pid = os.fork()
            # By both: neither goes on before it is so.
            with suppress(OSError):
                os.setpgid(pid, 0)
            if pid == 0:
                end_with_parent()
                if os.getppid() != nursery:
                    os._exit(1)
                _become_child(json.loads(order), descriptors[1:])
                child = descriptors[0]
                break
            for passed in descriptors:
                os.close(passed)
            session.send(json.dumps(pid).encode())
            _, status = os.waitpid(pid, 0)
            session.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())
    capture.start_global_capturing()
    if child is None:
        raise SystemExit
    return child


def _import(modules: Sequence[str]) -> str | None:
    """Returns: why this process cannot be forked."""
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001  (another package's code may raise anything)
            return f"{name} cannot be imported: {type(error).__name__}: {error}"
    # Libraries that can be forked end their threads before that: OpenBLAS does.
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    threads = [(path / "comm").read_text().strip() for path in Path("/proc/self/task").iterdir()]
    if len(threads) > 1:
        return (
            f"after its imports {len(threads)} threads run ({', '.join(sorted(threads))}), which do not survive a fork"
        )
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # that of the folder itself
            if (target := str(path.readlink())).startswith(_ACCELERATORS):
                return f"its imports opened {target}, which does not survive a fork"
    return None


def _become_child(moving: Mapping[str, str], output: Sequence[int]) -> None:
    os.environ.update(moving)
    for descriptor in output:
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)
    # Python's own generator draws anew after a fork, that of numpy does not.
    if (generator := sys.modules.get("numpy.random")) is not None:
        generator.seed()

"""Results on their way out, and a receiver that keeps what it gets."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from pytest_llem.exporters.results import exported
from tests.unit.report.examples import experiment, result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from pytest_llem.exporters.results import Exported

COMMIT = {"id": "5b8c3a1d9e4f7a60", "branch": "main", "dirty": False, "project": "llama"}
TIMESTAMP_S = 1_750_000_000.25


@pytest.fixture
def made() -> Callable[..., Exported]:
    """Make a result: ``made("name", energy_j=3.0)`` has attributes of the result, ``record=`` those of the record."""

    def make(name: str = "llama", record: dict[str, Any] | None = None, **changes: Any) -> Exported:
        measured = result(**{"timestamp_s": TIMESTAMP_S, "input_tokens": 16.0, **changes})
        return exported(replace(experiment(name, result=measured, commit=COMMIT), **(record or {})))

    return make


@dataclass
class Receiver:
    """A server on this machine.

    Attributes:
        requests: what it got: the method, the path, the body.
        logins: how who sent them logged in.
        status: what it answers.
    """

    url: str = ""
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    logins: list[str | None] = field(default_factory=list)
    status: int = 200


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A server that takes all that comes."""
    kept = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kept.requests.append((self.command, self.path, body))
            kept.logins.append(self.headers["Authorization"])
            self.send_response(kept.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_PUT  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield kept
    server.shutdown()
    thread.join()
    server.server_close()

"""What an exporter is, and how it finds out that it will work."""

from __future__ import annotations

import re
import socket
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from pytest_llem.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.exporters.results import Exported

_PATIENCE_S = 5.0
_PORTS = {"http": 80, "https": 443}


class Exporter(Protocol):
    """Hands results to one receiver. It is made with its target: what stands after ``NAME:`` of ``--llem-export``.

    Exporting the same results again must add nothing to the receiver: they are known by their ``identity``.
    """

    def check(self) -> None:
        """Before anything is measured: find out, as far as that is cheap, whether :meth:`export` will work.

        Nothing may run on after it: threads would be measured.

        Raises:
            pytest_llem.errors.UnavailableError: it will not; the text says why, and what would be right.
            OSError: the target cannot be written.
        """

    def export(self, results: Sequence[Exported]) -> None:
        """At the end of the session, once pytest-benchmark has saved: hand over its results, at least one.

        Raises:
            Exception: the receiver failed: the session fails with its text on one line.
        """


def require_package(extra: str, *modules: str) -> None:
    """Check that what an extra of this package installs is there, without importing it.

    Raises:
        UnavailableError: it is not; the text says how to install it.
    """
    for module in modules:
        try:
            found = find_spec(module)
        except ModuleNotFoundError:  # what it lies in
            found = None
        if found is None:
            raise UnavailableError(f"{module} is not installed: pip install 'pytest-llem[{extra}]'")


def require_reachable(url: str) -> None:
    """Check that something listens where a URL leads. Behind a proxy that cannot be told.

    Raises:
        UnavailableError: nothing does, or it is no URL of a host.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _PORTS[parts.scheme]
    except (KeyError, ValueError):
        host, port = None, 0
    if not host:
        raise UnavailableError(f"{without_secret(url)!r} is no URL; write for example http://localhost:8080")
    if parts.scheme in getproxies() and not proxy_bypass(host):
        return
    try:
        socket.create_connection((host, port), _PATIENCE_S).close()
    except OSError as error:
        raise UnavailableError(f"{host}:{port} cannot be reached: {error.strerror or error}") from None


def is_url(target: str) -> bool:
    """Whether a target is the URL of a server."""
    return target.startswith(("http://", "https://"))


def without_secret(text: str) -> str:
    """``text`` without the user and the password of URLs in it."""
    return re.sub(r"://[^/\s@]*@", "://***@", text)

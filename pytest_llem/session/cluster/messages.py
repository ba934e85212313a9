"""What the session and a task on another machine tell each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WORKING_DIRECTORY = "/@llem-working-directory@"
"""In an order, what the folder is called that Ray brought to the machine."""


@dataclass(frozen=True)
class Order:
    """What a task runs.

    Attributes:
        timeouts_s: how long each item may take once its model is loaded, in seconds, by node id and in order.
        arguments: pytest's.
        folder: where pytest is called.
        environment: variables that are those of the session; ``None`` for one that is not set there.
        gpus: how many Ray is asked for.
    """

    timeouts_s: Mapping[str, float | None]
    arguments: Sequence[str]
    folder: str
    environment: Mapping[str, str | None] = field(default_factory=dict)
    gpus: int = 0


@dataclass(frozen=True)
class Hello:
    """What a task says first; then follow the :class:`~pytest_llem.session.isolation.following.Outcome` of each item.

    Attributes:
        node: Ray's id of the machine.
        version: of this package there.
        niceness: of the processes there, 0 as usual or more.
        working_directory: what :data:`WORKING_DIRECTORY` is there.
    """

    node: str
    version: str
    niceness: int
    working_directory: str


@dataclass(frozen=True)
class Lost:
    """What Ray says of a task whose process or machine has died.

    Attributes:
        reason: in Ray's words.
    """

    reason: str

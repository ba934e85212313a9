"""The two sides of a comparison, ready to be measured: where each runs, with what, and what differs."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Side:
    """One state of the code, and how its processes are started.

    Attributes:
        name: ``this side``, or what the user wrote.
        python: its interpreter.
        folder: working directory of its processes: this side's is where pytest was called, the other's its counterpart.
        root: pytest's root folder, and its counterpart.
        environment: changes to ``os.environ``; ``None`` for a variable that must not be set.
        arguments: pytest's, for its processes.
        commit: hash of the commit that its code is, or is based on; ``None`` outside a git repository.
        identity: hash of its code and of the environment that the code runs in.
    """

    name: str
    python: Path
    folder: Path
    root: Path
    environment: Mapping[str, str | None] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    commit: str | None = None
    identity: str = ""


@contextmanager
def open_sides(
    against: str,
    *,
    root: Path,
    folder: Path,
    arguments: Sequence[str],
    patterns: Sequence[str],
    files: Sequence[Path],
    say: Callable[[str], None],
) -> Iterator[tuple[Side, Side]]:
    """Prepare this side and the other one; what was made for the other is removed at the end.

    Args:
        against: what the user wrote: ``REV``, ``@PYTHON`` or ``REV@PYTHON``.
        root: pytest's root folder.
        folder: where pytest was called.
        arguments: pytest's, as the user gave them.
        patterns: of experiment files, see :attr:`Settings.files`.
        files: the experiment files that this side collected.
        say: called with each line on where the sides' packages come from and what differs.

    Raises:
        pytest.UsageError: there is no such side, or it cannot be compared.
    """
    raise NotImplementedError
    yield

"""What is opened by name: this package's own, and what other packages register by an entry point."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from pytest_llem.errors import LlemError, UnavailableError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from importlib.metadata import EntryPoint

T = TypeVar("T")


@dataclass(frozen=True)
class Registry(Generic[T]):
    """What may be opened by name.

    Attributes:
        kind: what it is, for messages.
        group: the entry points by which other packages register a name, and a callable that makes a request what is
            opened.
        built_in: those of this package: ``module:callable``, imported where they are opened, so that a run pays for no
            other than its own.
        choices: names that stand for one of the others.
        error: what is raised.
    """

    kind: str
    group: str
    built_in: Mapping[str, str]
    choices: tuple[str, ...] = ()
    error: type[UnavailableError] = UnavailableError

    @property
    def own_names(self) -> tuple[str, ...]:
        """What can be opened without other packages."""
        return (*self.choices, *self.built_in)

    def names(self) -> tuple[str, ...]:
        """What can be opened."""
        return (*self.own_names, *self._registered())

    def check(self, name: str) -> None:
        """Check that there is one of that name; whether it works here shows when it is opened.

        Raises:
            UnavailableError: there is none; the text lists those that there are.
        """
        if name in self.own_names or name in (names := self.names()):
            return
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise self.error(f"unknown {self.kind} {name!r}; use one of {', '.join(names)}{hint}")

    def open(self, name: str, request: Any) -> T:
        """Open what the name stands for, which is none of ``choices``.

        Raises:
            UnavailableError: there is none of that name, or it cannot do what is requested.
        """
        self.check(name)
        if name in self.built_in:
            module, _, opener = self.built_in[name].partition(":")
            return cast("Callable[[Any], T]", getattr(import_module(module), opener))(request)
        entry_point = self._registered()[name]
        try:
            return cast("T", entry_point.load()(request))
        except LlemError:
            raise
        except Exception as error:
            raise self.error(f"{entry_point.value} cannot be opened: {one_line(error)}") from error

    def _registered(self) -> Mapping[str, EntryPoint]:
        """Those of other packages, which are looked for only when a name is not built in."""
        from importlib.metadata import entry_points

        found = sorted(entry_points(group=self.group), key=lambda entry: entry.name)
        return {entry.name: entry for entry in found if entry.name not in self.own_names}

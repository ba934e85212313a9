"""What can go wrong, by what the session does about it."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

# The C0 and C1 controls, line breaks among them, the controls of writing direction, and halves of surrogate pairs.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """``text`` on one line, its control characters as escapes.

    A name or a value of a file could otherwise drive the terminal, or forge a line of a log or a CI server's command.
    """
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def one_line(error: BaseException) -> str:
    """The type and the text of another library's exception, on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@dataclass(eq=False, repr=False)
class LlemError(Exception):
    """Base of every error this package raises on purpose.

    Its text is shown to the user as it is, on one line: where it is, of which field or meter, and the message.

    Attributes:
        message: what is wrong, and what would be right.
        file: the file at fault, as messages show it; ``None`` where there is none, as with all that follow.
        line: the line in it, from 1 on.
        field: dotted name of the experiment's field at fault.
        value: the value of that field, where the message is about it.
        meter: name of the meter that cannot work.
    """

    message: str
    _: KW_ONLY
    file: str | None = None
    line: int | None = None
    field: str | None = None
    value: object = None
    meter: str | None = None

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        field = self.field
        if self.value is not None:
            # As a file spells it.
            field = f"{field} {str(self.value).lower() if isinstance(self.value, bool) else repr(self.value)}"
        parts = (place, field, f"{self.meter} meter" if self.meter else None, self.message)
        return printable(": ".join(part for part in parts if part))


@contextmanager
def about(**what: Any) -> Iterator[None]:
    """Within the block, an error of which neither file, field nor meter is known is about ``what``, its attributes."""
    try:
        yield
    except LlemError as error:
        if error.file is error.field is error.meter is None:
            vars(error).update(what)
        raise


@dataclass(eq=False, repr=False, kw_only=True)
class ExperimentFileError(LlemError):
    """A file that holds no experiments at all: not YAML, not a mapping, not readable. A collection error.

    Attributes:
        excerpt: the place in the file, in lines of their own; empty where there is none to show.
    """

    excerpt: str = ""

    @property
    def shown(self) -> str:
        """Its text, and below it the place in the file."""
        return "\n".join(part for part in (str(self), self.excerpt) if part)


class ConfigError(LlemError):
    """What :func:`pytest_llem.measure` was given is no experiment. Its text has a line for each mistake, and below it
    the place."""

    def __str__(self) -> str:
        return self.message


class UnavailableError(LlemError):
    """Valid, but it cannot run on this machine. The experiment is skipped with this reason."""


class MeterUnavailableError(UnavailableError):
    """A meter that cannot work on this machine. Asked for by name, it is a usage error."""


class SeveralBoardsError(MeterUnavailableError):
    """Several boards are visible, and which of them to read is not known."""


class LoadError(LlemError):
    """The model could not be loaded as the experiment asks."""


class PromptError(LlemError):
    """The prompts of an experiment cannot be read, or do not fit its limits or its model."""


class MeasurementError(LlemError):
    """The experiment ran but produced no result that could be trusted; nothing of it is saved."""

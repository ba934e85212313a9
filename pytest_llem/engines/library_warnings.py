"""What libraries warn of while a model is loaded, prepared or run: kept in memory, and told once the work is done."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_llem.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST = 400
_COLOURS = re.compile("\x1b\\[[0-9;]*m")
# What these tell of is for those who write the library, or those who call it: that is us.
_NOT_OF_THE_WORK = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)


class LibraryWarnings(dict[tuple[str, str], tuple[logging.Logger, logging.LogRecord]]):
    """Log records, by source and message: each is kept once, however often it is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.issued: list[warnings.WarningMessage] = []

    @property
    def texts(self) -> list[str]:
        """``SOURCE: MESSAGE`` of each, once, on one printable line of at most 400 characters."""
        said = [*self, *((_module_of(warning.filename), str(warning.message)) for warning in self._of_the_work())]
        lines = (printable(" ".join(_COLOURS.sub("", f"{source}: {text}").split())) for source, text in said)
        return list(dict.fromkeys(line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..." for line in lines))

    def by(self, source: str) -> list[str]:
        """The messages of the logger ``source`` and of those beneath it."""
        return [text for name, text in self if f"{name}.".startswith(f"{source}.")]

    def pass_on(self) -> None:
        """Hand over to whoever else listens: pytest's capturing, the terminal, files."""
        for logger, record in self.values():
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)

    def issue(self) -> None:
        """Issue the warnings anew, where the filters of the user apply."""
        for warning in self._of_the_work():
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)

    def _of_the_work(self) -> list[warnings.WarningMessage]:
        return [warning for warning in self.issued if not issubclass(warning.category, _NOT_OF_THE_WORK)]


@contextmanager
def library_warnings() -> Iterator[LibraryWarnings]:
    """Keep what any library logs as a warning or worse, or issues as one, within the block.

    Whatever handlers, levels and filters are set, nothing is lost, and no output slows what is measured: it is passed
    on to them after the block. What libraries say once a process counts anew in each block.
    """
    kept = LibraryWarnings()
    handle = logging.Logger.handle

    def keep(self: logging.Logger, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING:
            handle(self, record)
        else:
            kept.setdefault((self.name, record.getMessage()), (self, record))

    _forget_what_was_said()
    known = [logging.root, *logging.root.manager.loggerDict.values()]
    silenced = {
        logger: logger.level
        for logger in known
        if isinstance(logger, logging.Logger) and logger.level > logging.WARNING
    }
    disabled = logging.root.manager.disable
    try:
        for logger in silenced:
            logger.setLevel(logging.WARNING)
        logging.disable(min(disabled, logging.INFO))
        logging.Logger.handle = keep  # type: ignore[method-assign]
        with warnings.catch_warnings(record=True) as kept.issued:
            warnings.simplefilter("default")
            yield kept
    finally:
        logging.Logger.handle = handle  # type: ignore[method-assign]
        logging.disable(disabled)
        for logger, level in silenced.items():
            logger.setLevel(level)
        kept.pass_on()
    kept.issue()


def _forget_what_was_said() -> None:
    """Empty the caches by which transformers, accelerate and torch log a message once in a process."""
    accelerate = sys.modules.get("accelerate.logging")
    torch = sys.modules.get("torch._logging._internal")
    for holder in (logging.Logger, getattr(accelerate, "MultiProcessAdapter", None), torch):
        forget = getattr(getattr(holder, "warning_once", None), "cache_clear", None)
        if forget is not None:
            forget()


def _module_of(filename: str) -> str:
    """The dotted name of an installed module; of any other file, its name."""
    _, installed, inside = filename.rpartition("site-packages/")
    return ".".join(Path(inside).with_suffix("").parts) if installed else Path(filename).name

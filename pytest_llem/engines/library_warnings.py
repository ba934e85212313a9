"""What libraries warn of while a model is loaded, prepared or run: kept in memory, and told once the work is done."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_llem.errors import MeasurementError, printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

_LONGEST = 400
_COLOURS = re.compile("\x1b\\[[0-9;]*m")
# What these tell of is for those who write the library, or those who call it: that is us.
_NOT_OF_THE_WORK = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning)


class LibraryWarnings:
    """Log records by source and message, and warnings: each once, however often it comes."""

    def __init__(self) -> None:
        self.logged: dict[tuple[str, str], tuple[logging.Logger, logging.LogRecord]] = {}
        self.issued: list[warnings.WarningMessage] = []

    @property
    def said(self) -> list[tuple[str, str]]:
        """Source and message of each."""
        return [*self.logged, *((_module_of(warning.filename), str(warning.message)) for warning in self.issued)]

    @property
    def texts(self) -> list[str]:
        """``SOURCE: MESSAGE`` of each, on one printable line of at most 400 characters."""
        return _lines(self.said)

    def by(self, source: str) -> list[str]:
        """The messages of the logger ``source`` and of those beneath it."""
        return [text for name, text in self.logged if f"{name}.".startswith(f"{source}.")]


# What was said in this process, by source and message, in the order in which it was.
_SAID: dict[tuple[str, str], None] = {}


_EARLIER = " (said earlier in this process, perhaps of another model)"


def with_earlier(texts: Iterable[str], libraries: Collection[str]) -> list[str]:
    """``texts``, and what else these libraries have warned of in this process: a library may say a thing once, to the
    first model that uses it, and it may hold for all of them."""
    own = list(texts)
    said = _lines(entry for entry in _SAID if entry[0].partition(".")[0] in libraries)
    return [*own, *(f"{text}{_EARLIER}" for text in said if text not in own)]


def _lines(said: Iterable[tuple[str, str]]) -> list[str]:
    lines = (printable(" ".join(_COLOURS.sub("", f"{source}: {text}").split())) for source, text in said)
    return list(dict.fromkeys(line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..." for line in lines))


@contextmanager
def library_warnings() -> Iterator[LibraryWarnings]:
    """Keep what any library logs as a warning or worse, or issues as one, within the block.

    Whatever handlers, levels and filters are set, nothing is lost, and no output slows what is measured: it is passed
    on to them after the block. What libraries say once a process counts anew in each block.
    """
    kept = LibraryWarnings()
    enabled, handle = logging.Logger.isEnabledFor, logging.Logger.handle

    def keep(self: logging.Logger, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING:
            handle(self, record)
        else:
            kept.logged.setdefault((self.name, record.getMessage()), (self, record))

    _forget_what_was_said()
    logger: Any = logging.Logger
    logger.isEnabledFor = lambda self, level: level >= logging.WARNING or enabled(self, level)
    logger.handle = keep
    try:
        with warnings.catch_warnings(record=True) as kept.issued:
            warnings.simplefilter("default")
            for category in _NOT_OF_THE_WORK:
                warnings.simplefilter("ignore", category)
            yield kept
    finally:
        logger.isEnabledFor, logger.handle = enabled, handle
        _SAID.update(dict.fromkeys(kept.said))
        for source, record in kept.logged.values():
            if source.isEnabledFor(record.levelno):
                # Made anew: libraries set up their logging while they are loaded, whose handlers then ask for more.
                source.handle(logging.makeLogRecord(vars(record)))
    for warning in kept.issued:
        try:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        except Warning as error:  # as -W error has it
            raise MeasurementError(f"{_module_of(warning.filename)} warns, which is an error here: {error}") from None


def _forget_what_was_said() -> None:
    """Empty the caches by which transformers, accelerate, torch and vLLM log a message once in a process."""
    accelerate = sys.modules.get("accelerate.logging")
    torch = sys.modules.get("torch._logging._internal")
    said_once = [
        getattr(holder, "warning_once", None)
        for holder in (logging.Logger, getattr(accelerate, "MultiProcessAdapter", None), torch)
    ]
    for say in (*said_once, getattr(sys.modules.get("vllm.logger"), "_print_warning_once", None)):
        forget = getattr(say, "cache_clear", None)
        if forget is not None:
            forget()


def _module_of(filename: str) -> str:
    """The dotted name of an installed module; of any other file, its name."""
    _, installed, inside = filename.rpartition("site-packages/")
    return ".".join(Path(inside).with_suffix("").parts) if installed else Path(filename).name

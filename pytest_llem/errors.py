"""What can go wrong, by what the session does about it."""

from __future__ import annotations


class LlemError(Exception):
    """Base of every error this package raises on purpose; its text is shown to the user as it is."""


class ExperimentFileError(LlemError):
    """A file that holds no experiments at all: not YAML, not a mapping, not readable. A collection error."""


class UnavailableError(LlemError):
    """Valid, but it cannot run on this machine. The experiment is skipped with this reason."""


class MeterUnavailableError(UnavailableError):
    """A meter that cannot work on this machine. Asked for by name, it is a usage error."""


class LoadError(LlemError):
    """The model could not be loaded as the experiment asks."""


class MeasurementError(LlemError):
    """The experiment ran but produced no result that could be trusted; nothing of it is saved."""

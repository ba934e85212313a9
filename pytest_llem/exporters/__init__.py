"""What hands results to other tools: one exporter for each receiver, behind the protocol of
:mod:`pytest_llem.exporters.base`.

Other packages add exporters by the entry point group ``pytest_llem.exporters``. Importing this package imports none of
them; :func:`open_exporter` does, and no exporter imports its receiver's library before it exports: threads that such a
library starts would be measured, too.
"""

from __future__ import annotations

import difflib
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from pytest_llem.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_llem.exporters.base import Exporter

__all__ = ["open_exporter"]

ENTRY_POINT_GROUP = "pytest_llem.exporters"
"""By it other packages register exporters: a name, and a callable that makes a target an ``Exporter``."""

_BUILT_IN = {
    "prometheus": "pytest_llem.exporters.prometheus:PrometheusExporter",
    "otlp": "pytest_llem.exporters.otlp:OtlpExporter",
    "mlflow": "pytest_llem.exporters.mlflow:MlflowExporter",
    "wandb": "pytest_llem.exporters.wandb:WandbExporter",
    "parquet": "pytest_llem.exporters.parquet:ParquetExporter",
}


def open_exporter(name: str, target: str) -> Exporter:
    """The exporter of that name for a target, whatever that is to it.

    Raises:
        UnavailableError: there is none of that name, and the text lists those that there are; or the target is none of
            its.
        Exception: that of another package's code.
    """
    known = _entries()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UnavailableError(f"unknown exporter {name!r}; use one of {', '.join(known)}{hint}")
    exporter: Exporter = known[name].load()(target)
    return exporter


def _entries() -> Mapping[str, EntryPoint]:
    """All exporters by name, this package's first; no other package replaces one."""
    ours = {name: EntryPoint(name, value, ENTRY_POINT_GROUP) for name, value in _BUILT_IN.items()}
    found = sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name)
    return ours | {entry.name: entry for entry in found if entry.name not in ours}

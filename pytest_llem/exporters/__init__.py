"""What hands results to other tools: one exporter for each receiver, behind the protocol of
:mod:`pytest_llem.exporters.base`.

Other packages add exporters by the entry point group ``pytest_llem.exporters``. Importing this package imports none of
them; :func:`open_exporter` does, and no exporter imports its receiver's library before it exports: threads that such a
library starts would be measured, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llem.registry import Registry

if TYPE_CHECKING:
    from pytest_llem.exporters.base import Exporter

__all__ = ["open_exporter"]

ENTRY_POINT_GROUP = "pytest_llem.exporters"
"""By it other packages register exporters: a name, and a callable that makes a target an ``Exporter``."""

_EXPORTERS: Registry[Exporter] = Registry(
    "exporter",
    ENTRY_POINT_GROUP,
    {
        "prometheus": "pytest_llem.exporters.prometheus:PrometheusExporter",
        "otlp": "pytest_llem.exporters.otlp:OtlpExporter",
        "mlflow": "pytest_llem.exporters.mlflow:MlflowExporter",
        "wandb": "pytest_llem.exporters.wandb:WandbExporter",
        "parquet": "pytest_llem.exporters.parquet:ParquetExporter",
    },
)


def open_exporter(name: str, target: str) -> Exporter:
    """The exporter of that name for a target, whatever that is to it.

    Raises:
        UnavailableError: there is none of that name, and the text lists those that there are; or the target is none of
            its.
    """
    return _EXPORTERS.open(name, target)

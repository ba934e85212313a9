"""A Parquet file with a row for each result, which grows from session to session: the same result stays one row."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from filelock import FileLock

from pytest_llem.config.experiment import Metric
from pytest_llem.errors import LlemError
from pytest_llem.exporters.base import require_package
from pytest_llem.exporters.results import LABELS, SOURCE, quantity_names, unit_of
from pytest_llem.writable import require_replaceable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.exporters.results import Exported

_PATIENCE_S = 60.0
_TEXTS = ("identity", "nodeid", *LABELS, *SOURCE, *(f"{metric}_verdict" for metric in get_args(Metric)))


class ParquetExporter:
    """See :class:`pytest_llem.exporters.base.Exporter`.

    Args:
        target: the file; what it holds of other results stays.
    """

    def __init__(self, target: str) -> None:
        # Where a link leads: it stays a link.
        self._path = Path(target).resolve()

    def check(self) -> None:
        """See :meth:`pytest_llem.exporters.base.Exporter.check`."""
        require_package("parquet", "pyarrow")
        require_replaceable(self._path)

    def export(self, results: Sequence[Exported]) -> None:
        """See :meth:`pytest_llem.exporters.base.Exporter.export`."""
        import pyarrow as pa
        from pyarrow import compute, parquet

        rows = pa.Table.from_pylist([_row(result) for result in results], schema=_schema())
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        with FileLock(self._path.with_name(f".{self._path.name}.lock"), timeout=_PATIENCE_S):
            if self._path.exists() and self._path.stat().st_size:
                kept = parquet.read_table(self._path)
                if "identity" not in kept.column_names:
                    raise LlemError("it holds something else: its rows have no identity")
                kept = kept.filter(compute.invert(compute.is_in(kept["identity"], value_set=rows["identity"])))
                # An older file may lack columns. The units of the columns are those of the first table.
                rows = pa.concat_tables([rows, kept], promote_options="permissive")
            try:
                parquet.write_table(rows.sort_by([("timestamp", "ascending")]), new)
                new.replace(self._path)
            finally:
                new.unlink(missing_ok=True)


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            *(pa.field(name, pa.string()) for name in _TEXTS),
            pa.field("timestamp", pa.timestamp("us", tz="UTC")),
            pa.field("valid", pa.bool_()),
            *(pa.field(name, pa.float64(), metadata={"unit": unit_of(name).ucum}) for name in quantity_names()),
            pa.field("warnings", pa.list_(pa.string())),
            pa.field("json", pa.string()),
        ]
    )


def _row(result: Exported) -> dict[str, Any]:
    """What is not known is left out, and null in the file."""
    time = None if result.timestamp_s is None else datetime.fromtimestamp(result.timestamp_s, UTC)
    return {
        "identity": result.identity,
        "nodeid": result.nodeid,
        **result.labels,
        **result.source,
        **{f"{metric}_verdict": word for metric, word in result.verdicts.items()},
        "timestamp": time,
        "valid": result.valid,
        **result.quantities,
        "warnings": result.result.warnings,
        "json": json.dumps(result.as_dict(), default=str),
    }

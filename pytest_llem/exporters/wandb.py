"""Runs of Weights & Biases on the disk, one for each result; ``wandb sync`` uploads them. A run's id is the identity of
its result: what is uploaded twice is one run there, and what is exported twice one folder here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_llem.exporters.base import require_package
from pytest_llem.writable import require_writable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.exporters.results import Exported

_WHOLE = "llem-exported"
"""A file in the folder of a run that was finished: what was killed before is written again, under the same id."""


class WandbExporter:
    """See :class:`pytest_llem.exporters.base.Exporter`.

    Args:
        target: the folder in whose ``wandb`` the runs are put.
    """

    def __init__(self, target: str) -> None:
        self._folder = Path(target).absolute()

    def check(self) -> None:
        """See :meth:`pytest_llem.exporters.base.Exporter.check`."""
        require_package("wandb", "wandb")
        require_writable(self._folder / "wandb" / "trial")

    def export(self, results: Sequence[Exported]) -> None:
        """See :meth:`pytest_llem.exporters.base.Exporter.export`."""
        import wandb

        try:
            for result in results:
                if not any(self._folder.glob(f"wandb/offline-run-*-{result.identity}/{_WHOLE}")):
                    self._write(result)
        finally:
            # The process that writes them.
            wandb.teardown()

    def _write(self, result: Exported) -> None:
        import wandb

        # Nothing of the machine, the environment or the terminal goes along.
        settings = wandb.Settings(
            mode="offline",
            root_dir=str(self._folder),
            console="off",
            silent=True,
            disable_code=True,
            disable_git=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        about = {
            "nodeid": result.nodeid,
            "timestamp_s": result.timestamp_s,
            "workload_hash": result.workload_hash,
            "environment_hash": result.environment_hash,
            **result.labels,
            **result.source,
        }
        run = wandb.init(
            project=re.sub(r"[/\\#?%:]", "-", result.source.get("project", "pytest-llem")),
            id=result.identity,
            name=result.labels["experiment"],
            group=result.labels["file"],
            job_type="benchmark",
            config={**result.config, "llem": about},
            settings=settings,
            reinit="create_new",
        )
        run.log(result.numbers)
        run.summary.update({f"{metric}_verdict": word for metric, word in result.verdicts.items()})
        run.summary["warnings"] = result.result.warnings
        run.finish()
        (Path(run.dir).parent / _WHOLE).touch()

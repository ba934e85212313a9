"""The program that starts the ranks by torch's elastic launcher, and says which of them failed first.

``python -m pytest_llem.engines.transformers.parallel.launcher RANKS REPORT``
"""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pytest_llem.descendants import end_with_parent

_RANK = "pytest_llem.engines.transformers.rank"
# Which failed is asked for as soon as a line to one of them is closed.
_LOOK_S = 0.05


def main() -> None:
    """Start the ranks and wait for them. Of one that fails, its number, PID and exit status are written down."""
    end_with_parent()
    ranks, report = int(sys.argv[1]), Path(sys.argv[2])
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=uuid.uuid4().hex,
        # A store of its own on a free port of this machine, as with torchrun --standalone.
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        # Elsewhere it would leave a new folder each time.
        logs_specs=DefaultLogsSpecs(log_dir=str(report.parent)),
        max_restarts=0,
        monitor_interval=_LOOK_S,
    )
    try:
        elastic_launch(config, sys.executable)("-m", _RANK)
    except ChildFailedError as exc:
        rank, failure = exc.get_first_failure()
        written = report.with_suffix(".part")
        written.write_text(json.dumps({"rank": rank, "pid": failure.pid, "code": failure.exitcode}), encoding="utf-8")
        written.replace(report)
        sys.exit(1)


if __name__ == "__main__":
    main()

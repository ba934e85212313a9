"""How much is tried: little with every test run, much with ``tox -e fuzz``."""

from __future__ import annotations

import os

FACTOR = int(os.environ.get("LLEM_FUZZ_FACTOR", "1"))
"""How many times the usual number of files are tried."""

FIRST_SEED = int(os.environ.get("LLEM_FUZZ_SEED", "0"))
"""Where the seeds of mutations start, to try other files than the last time."""

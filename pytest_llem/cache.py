"""Where this package keeps what can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """This package's folder in the cache of this user: below ``$XDG_CACHE_HOME``, else below ``~/.cache``."""
    # A relative path is to be ignored: XDG Base Directory Specification.
    root = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not root.is_absolute():
        root = Path("~/.cache").expanduser()
    return root / "pytest-llem"

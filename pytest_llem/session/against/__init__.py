"""Two states of the code, side by side: what the other one is, where its code lies and in which environment it runs.

What the other side runs is its own pytest-llem, so what both say to each other has a version.
"""

from __future__ import annotations

PROTOCOL = 1
"""Version of what the sides of a comparison say to each other: only sides of one version are compared."""

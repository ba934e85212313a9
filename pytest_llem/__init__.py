"""Energy benchmarks of LLM inference as pytest items.

pytest imports this package at every start, so it holds the version and nothing else.
"""

__version__ = "0.1.0"

"""The ``parallel:`` section."""

from __future__ import annotations

from pytest_llem.config.base import Section, option


class ParallelConfig(Section, stage="load"):
    """The ``parallel:`` section: how many processes a model is divided over."""

    tensor: int = option(
        "Processes that share one model, each with its part of every layer, on a GPU of its own or on the CPU. "
        "1: one process.",
        default=1,
        ge=1,
    )

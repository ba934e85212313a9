"""Progress bars of transformers, kept out of the terminal while a model is loaded."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Within the block, transformers draws no progress bars; afterwards it does as before.

    The hub's bars for downloads, which may take minutes, are another matter and stay: ``disable_progress_bar()``
    would take them along.
    """
    if not hasattr(logging, "set_tqdm_hook"):  # the first releases of version 5 draw them always
        yield
        return
    before = logging.set_tqdm_hook(_undrawn)
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


def _undrawn(factory: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return factory(*arguments, **options | {"disable": True})

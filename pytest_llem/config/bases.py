"""``base: other.yaml`` puts a shared file under an experiment file, as if its fields stood there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_llem.config.document import read_document
from pytest_llem.config.merge import merge
from pytest_llem.config.messages import show
from pytest_llem.errors import ExperimentFileError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_llem.config.document import Document, Node

MAX_BASES = 10


def with_bases(path: Path, document: Document) -> Node:
    """The fields of ``document`` over those of its base, over those of the base's own base, and so on.

    Args:
        path: the file of ``document``; a relative base starts at its folder.

    Raises:
        pytest_llem.errors.ExperimentFileError: a base cannot be read, names itself by a way round, or there are
            more than 10.
    """
    return _over_base(path, document, ())


def _over_base(path: Path, document: Document, above: Sequence[Path]) -> Node:
    base = document.root.content.get("base")
    if base is None or base.is_null:
        return document.root
    place: dict[str, Any] = {"file": document.source.display, "line": base.mark.line, "field": "base"}
    if not isinstance(base.content, str) or not base.content:
        message = f"expected the path of a file such as shared.yaml, got {show(base.plain)}"
        raise ExperimentFileError(message, **place)
    chain = (*above, _resolved(path, place))
    below = path.parent / base.content
    if _resolved(below, place) in chain:
        raise ExperimentFileError(f"{show(base.content)} leads back to this file; remove one of the two", **place)
    if len(chain) > MAX_BASES:
        raise ExperimentFileError(f"more than {MAX_BASES} bases, one under the other; join some", **place)
    display = str(Path(document.source.display).parent / base.content)
    try:
        under = read_document(below, display)
    except ExperimentFileError as error:
        error.message += f" (the base on line {base.mark.line} of {document.source.display})"
        raise
    return merge(_over_base(below, under, chain), document.root)


def _resolved(path: Path, place: dict[str, Any]) -> Path:
    try:
        return path.resolve()
    except (OSError, ValueError) as error:  # a loop of links; a name that no file can have
        raise ExperimentFileError(f"cannot be read: {error}", **place) from None

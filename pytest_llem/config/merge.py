"""Laying one mapping of a file over another.

Mappings merge key by key, everything else is replaced, and an explicit null takes a field to its default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_llem.config.document import Node
from pytest_llem.config.names import is_known

if TYPE_CHECKING:
    from collections.abc import Sequence

# A dataset is one thing: half of one kind and half of another would be no dataset.
REPLACED_WHOLE = ("dataset",)

# Mappings of arguments that we do not know: there, null is a value like any other.
_KEEP_NULLS = ("passthrough.from_pretrained", "passthrough.generate")


def merge(base: Node | None, overlay: Node, name: str = "") -> Node:
    """``overlay`` laid over ``base``; both stay as they are.

    Args:
        name: dotted name of the place, empty for the top level.
    """
    if not overlay.is_mapping:
        return overlay
    under = base.content if base is not None and base.is_mapping and name not in REPLACED_WHOLE else {}
    content = dict(under)
    for key, value in overlay.content.items():
        place = f"{name}.{key}" if name else str(key)
        if _resets(value, name, place):
            content.pop(key, None)
        elif value.is_mapping and name not in _KEEP_NULLS:
            content[key] = merge(content.get(key), value, place)
        else:
            content[key] = value
    return Node(content, overlay.mark, overlay.key)


def _resets(value: Node, name: str, place: str) -> bool:
    """Whether ``value`` at ``place`` in the mapping ``name`` is a null that takes a field to its default."""
    # A null under a misspelt name stays, to be refused with it.
    return value.is_null and name not in _KEEP_NULLS and is_known(place)


def put(base: Node, path: Sequence[str], value: Node, name: str = "") -> Node:
    """``base`` with ``value`` at ``path``; mappings on the way are made where they are missing."""
    key, *rest = path
    content = dict(base.content) if base.is_mapping else {}
    place = f"{name}.{key}" if name else key
    if rest:
        below = content.get(key)
        content[key] = put(below if below is not None else Node({}, value.mark, value.key), rest, value, place)
    elif value.is_mapping:
        content[key] = merge(content.get(key), value, place)
    elif _resets(value, name, place):
        content.pop(key, None)
    else:
        content[key] = value
    return Node(content, base.mark, base.key)

"""Copied into the environment of a revision and imported when its interpreter starts: behind the packages of that
revision come those of the present environment, but for the project itself. Standard library only.

An editable install is a ``.pth`` file, which names the project's folder or puts a finder of its modules in front of
all others: those of the project are left out, and so are its metadata, whose entry points may name what the revision
does not have. What other ``.pth`` files put on the path of the user's checkout is left out, too.
"""

from __future__ import annotations

import json
import os
import site
import sys
from importlib.machinery import PathFinder
from typing import Any


def extend_path(sites: list[str], pths: list[str], metadata: list[str], top: str) -> None:
    """Add what is installed in the present environment.

    Args:
        sites: its folders of packages.
        pths: the files in them that put the project on the path, without links.
        metadata: the folders in them that describe the project.
        top: the user's checkout.
    """
    _hide(set(metadata))
    own = len(sys.path)
    known = {os.path.normcase(os.path.abspath(path)) for path in sys.path}
    for folder in sites:
        if os.path.normcase(os.path.abspath(folder)) in known or not os.path.isdir(folder):
            continue
        sys.path.append(folder)
        known.add(os.path.normcase(os.path.abspath(folder)))
        for name in sorted(os.listdir(folder)):
            if name.endswith(".pth") and os.path.realpath(os.path.join(folder, name)) not in pths:
                site.addpackage(folder, name, known)
    added = sys.path[own:]
    sys.path[own:] = [path for path in added if not _inside(path, [top]) or _inside(path, sites)]


def _inside(path: str, folders: list[str]) -> bool:
    path = os.path.realpath(path)
    return any((path + os.sep).startswith(os.path.realpath(folder).rstrip(os.sep) + os.sep) for folder in folders)


def _hide(metadata: set[str]) -> None:
    find: Any = PathFinder.find_distributions

    def find_distributions(*arguments: Any, **options: Any) -> Any:
        return (found for found in find(*arguments, **options) if str(getattr(found, "_path", "")) not in metadata)

    PathFinder.find_distributions = find_distributions  # type: ignore[method-assign]


if os.path.exists(_data := os.path.splitext(__file__)[0] + ".json"):
    with open(_data, encoding="utf-8") as _file:
        extend_path(**json.load(_file))

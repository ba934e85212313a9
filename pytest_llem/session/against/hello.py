"""What a side says of itself before anything is measured: run by its interpreter, as its pytest will be, in its folder.

JSON on stdin: ``distributions``, whose top-level modules are asked for, and ``packages``, more of these. JSON on
stdout, see :func:`hello`. Nothing that takes long is imported.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest_llem
from pytest_llem.session.against import PROTOCOL
from pytest_llem.session.against.probe import normalise

if TYPE_CHECKING:
    from collections.abc import Sequence

_CODE = (".py", ".so", ".pyd")


def hello(distributions: Sequence[str], packages: Sequence[str]) -> dict[str, Any]:
    """This interpreter's code.

    Args:
        distributions: normalised names.
        packages: top-level modules.

    Returns:
        ``protocol``, ``pytest_llem`` (its version), ``python`` (its version, with how it was built), ``distributions``
        (versions, with the commit where one was installed, by normalised name), ``packages`` (by top-level module the
        files or folders that it is imported from, none for one that is not there).
    """
    found: dict[str, importlib.metadata.Distribution] = {}
    for distribution in importlib.metadata.distributions():
        found.setdefault(normalise(distribution.metadata["Name"] or ""), distribution)
    names = {*packages, *(module for name in distributions if name in found for module in _modules(found[name]))}
    return {
        "protocol": PROTOCOL,
        "pytest_llem": pytest_llem.__version__,
        "python": sys.version,
        "distributions": {name: _version(distribution) for name, distribution in sorted(found.items()) if name},
        "packages": {name: _locations(name) for name in sorted(names)},
    }


def _modules(distribution: importlib.metadata.Distribution) -> set[str]:
    """The top-level modules of a distribution; of an editable one those that it says, or its own name."""
    modules = set((distribution.read_text("top_level.txt") or "").split())
    if not _url(distribution).get("dir_info", {}).get("editable"):
        # An editable install has no files but what leads to those elsewhere.
        places = [file.parts[0] for file in distribution.files or () if file.name.endswith(_CODE)]
        modules |= {place.partition(".")[0] for place in places if not place.endswith((".dist-info", ".egg-info"))}
    modules = {name for name in modules if name.isidentifier()}
    if modules:
        return modules
    name = normalise(distribution.metadata["Name"]).replace("-", "_")
    return {name} if _locations(name) else set()


def _locations(name: str) -> list[str]:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [str(Path(location)) for location in spec.submodule_search_locations]
    return [] if spec.origin is None else [spec.origin]


def _version(distribution: importlib.metadata.Distribution) -> str:
    """With the commit, where it was installed from a version control system."""
    commit = _url(distribution).get("vcs_info", {}).get("commit_id")
    return distribution.version if commit is None else f"{distribution.version} ({commit[:12]})"


def _url(distribution: importlib.metadata.Distribution) -> dict[str, Any]:
    """Where a distribution was installed from."""
    url: dict[str, Any] = json.loads(distribution.read_text("direct_url.json") or "{}")
    return url


if __name__ == "__main__":
    json.dump(hello(**json.load(sys.stdin)), sys.stdout)

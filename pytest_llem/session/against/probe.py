"""What is installed in an environment, told by its interpreter, which may have no pytest-llem: its source is handed to
``python -c``, with what is asked for as JSON on stdin. Standard library only.

In: ``top``, the repository's folder, and ``names``, distributions that count as its projects wherever they come from.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import site
import sys
import urllib.parse
import urllib.request


def normalise(name: str) -> str:
    """The spelling in which names of distributions are compared."""
    return re.sub("[-_.]+", "-", name).lower()


def is_inside(path: str, folder: str) -> bool:
    """Whether a path is a folder, or in it; links are followed."""
    path, folder = os.path.realpath(path), os.path.realpath(folder)
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def sites() -> list[str]:
    """The folders of installed packages, in the order of the search."""
    folders = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    return [folder for folder in folders if folder in sys.path]


def local_folder(distribution: importlib.metadata.Distribution) -> str | None:
    """The folder that a distribution was installed from, if it was one."""
    url = json.loads(distribution.read_text("direct_url.json") or "{}")
    parts = urllib.parse.urlsplit(url.get("url", ""))
    # Without it, the URL is of an archive.
    return urllib.request.url2pathname(parts.path) if parts.scheme == "file" and "dir_info" in url else None


def describe(top: str, names: list[str]) -> dict[str, object]:
    """The environment.

    Returns:
        ``installed``, a text for each distribution that changes with it; ``projects``, those of the repository:
        ``name``, the ``folder`` each was installed from, if any, where its ``metadata`` lie, and its ``pths``, files
        that put it on the path; ``paths``, what else of the repository is on the path.
    """
    found, projects, seen = [], [], set()
    own: set[str] = set()
    for distribution in importlib.metadata.distributions():
        name = normalise(distribution.metadata["Name"] or "")
        if not name or name in seen:
            continue
        seen.add(name)
        metadata, folder = str(getattr(distribution, "_path", "")), local_folder(distribution)
        found.append(" ".join([name, distribution.version, metadata, distribution.read_text("direct_url.json") or ""]))
        is_here = folder is not None and is_inside(folder, top)
        if is_here or name in names:
            files = [os.fspath(file.locate()) for file in distribution.files or () if file.name.endswith(".pth")]
            pths = [os.path.realpath(file) for file in files]
            own |= {os.path.realpath(line) for pth in pths for line in lines(pth)}
            projects.append({"name": name, "folder": folder if is_here else None, "metadata": metadata, "pths": pths})
    folders = sites()
    kept = [*folders, *(prefix for prefix in (sys.prefix, sys.base_prefix) if not is_inside(top, prefix))]
    given = {os.path.realpath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep)}
    paths = [
        path
        for path in sys.path
        if is_inside(path, top)
        and not any(is_inside(path, folder) for folder in kept)
        and os.path.realpath(path) not in own | given
    ]
    return {
        "executable": sys.executable,
        "version": sys.version,
        "prefix": sys.prefix,
        "sites": folders,
        "installed": sorted(found),
        "projects": projects,
        "paths": paths,
        "has_pip": importlib.util.find_spec("pip") is not None,
    }


def lines(pth: str) -> list[str]:
    """The paths that a ``.pth`` file names."""
    try:
        with open(pth, encoding="utf-8", errors="surrogateescape") as file:
            found = [line.strip() for line in file]
    except OSError:
        return []
    return [os.path.join(os.path.dirname(pth), line) for line in found if line and not line.startswith(("#", "import"))]


if __name__ == "__main__":
    sys.path[:] = [path for path in sys.path if path]  # the working directory is no part of the environment
    json.dump(describe(**json.load(sys.stdin)), sys.stdout)

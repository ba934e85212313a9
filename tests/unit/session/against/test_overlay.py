"""What counts as a project, in a folder and in what is installed."""

from __future__ import annotations

import importlib.metadata
import json
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.session.against import probe
from pytest_llem.session.against.overlay import is_buildable

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("name", "text", "builds"),
    [
        ("pyproject.toml", "[project]\nname = 'x'\n", True),
        ("pyproject.toml", "[build-system]\nrequires = []\n", True),
        ("pyproject.toml", "[tool.ruff]\nline-length = 9\n", False),
        ("pyproject.toml", "no TOML", False),
        ("setup.py", "", True),
        ("setup.cfg", "[metadata]\nname = x\n", True),
        ("setup.cfg", "[flake8]\n", False),
        ("setup.cfg", "no section\n", False),
        ("pytest.ini", "", False),
    ],
)
def test_a_build_file_of_tools_alone_is_none(tmp_path: Path, name: str, text: str, builds: bool) -> None:
    (tmp_path / name).write_text(text)
    assert is_buildable(tmp_path) is builds


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ({"url": "file:///here/a%20b", "dir_info": {"editable": True}}, "/here/a b"),
        ({"url": "file:///here", "dir_info": {}}, "/here"),
        # Of a wheel in the repository the revision's checkout has no other.
        ({"url": "file:///here/x.whl", "archive_info": {}}, None),
        ({"url": "https://host/x", "vcs_info": {"vcs": "git", "commit_id": "0"}}, None),
        (None, None),
    ],
)
def test_the_folder_that_a_distribution_was_installed_from(
    tmp_path: Path, url: dict[str, Any] | None, folder: str | None
) -> None:
    if url is not None:
        (tmp_path / "direct_url.json").write_text(json.dumps(url))
    assert probe.local_folder(importlib.metadata.Distribution.at(tmp_path)) == folder

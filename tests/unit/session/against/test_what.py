"""What ``--llem-against`` may name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pytest_llem.session.against.what import parse_what


@pytest.mark.parametrize("text", ["main", "main@{1}", "@{-1}", "@~2", "@^", "v1@beta", "@~", "a/b~3", ":/fix @ home"])
def test_an_at_sign_of_a_revision_does_not_separate(text: str, tmp_path: Path) -> None:
    what = parse_what(text, tmp_path)
    assert (what.text, what.rev, what.python) == (text, text, None)


@pytest.mark.parametrize(
    ("text", "rev", "python"),
    [
        ("@{tmp}/python", None, "{tmp}/python"),
        ("main@{1}@{tmp}/python", "main@{1}", "{tmp}/python"),
        ("main@./python", "main", "{tmp}/python"),
        ("main@../{name}/python", "main", "{tmp}/python"),
        ("main@~/python", "main", "{tmp}/python"),
        ("@{tmp}/environment@3", None, "{tmp}/environment@3/bin/python"),
        ("@./environment@3/", None, "{tmp}/environment@3/bin/python"),
    ],
)
def test_an_interpreter_or_the_folder_of_its_environment(
    text: str, rev: str | None, python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "environment@3/bin").mkdir(parents=True)
    for path in (tmp_path / "python", tmp_path / "environment@3/bin/python"):
        # Where the link leads is another environment.
        path.symlink_to(sys.executable)
    text, python = (name.replace("{tmp}", str(tmp_path)).replace("{name}", tmp_path.name) for name in (text, python))
    what = parse_what(text, tmp_path)
    assert (what.rev, what.python) == (rev, Path(python))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "name a git revision"),
        (" ", "name a git revision"),
        ("@/nowhere/python", "there is no interpreter /nowhere/python"),
        ("main@./empty", "there is no interpreter .*/empty/bin/python"),
        ("@./file", ".*/file is not executable"),
        ("@~nobody-of-that-name/python", "there is no interpreter ~nobody"),
        ("@./" + "x" * 300, "there is no interpreter"),
    ],
)
def test_what_names_nothing_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(pytest.UsageError, match=f"^--llem-against: {message}"):
        parse_what(text, tmp_path)

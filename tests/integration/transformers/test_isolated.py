"""``--llem-isolate`` on the real engine: the parent imports no torch, its children do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.integration.test_isolation import CONFTEST, pids

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

USERS = """
import os

import pytest

@pytest.mark.llem("tiny.llem.yaml")
def test_own(llem_run, llem_experiment, request):
    print("said by the child")
    llem_run()
    assert request.config.getoption("own_option") == "unset", "the option arrived"

@pytest.mark.llem("tiny.llem.yaml")
def test_skips(llem_experiment):
    pytest.skip("not today")

def test_plain(request):
    assert "llem_run" not in request.fixturenames
"""


def test_users_tests_are_isolated_with_their_outcomes_messages_and_options(
    pytester: pytest.Pytester, write: Callable[..., Path], saved_names: Callable[[], list[str]]
) -> None:
    loaded = "open('imported.txt', 'a').write(f'{os.getpid()} {\"torch\" in sys.modules}\\n')\n"
    pytester.makeconftest(CONFTEST + loaded)
    pytester.makepyfile(USERS)
    write()
    result = pytester.runpytest_subprocess(
        "--llem-cpu", "--llem-isolate", "-rs", "--benchmark-json=out.json", "--own-option=set", "--maxfail=5"
    )
    result.assert_outcomes(passed=2, failed=1, skipped=1)
    result.stdout.fnmatch_lines(["*AssertionError: the option arrived*", "*Captured stdout call*", "said by the child"])
    result.stdout.fnmatch_lines(["SKIPPED*not today"])
    # A test that fails after it has measured leaves no result.
    assert saved_names() == ["tiny"]
    run_by = pids(pytester)
    parent = next(int(line.split()[-1]) for line in result.outlines if "the parent is" in line)
    assert run_by["test_plain"] == parent
    # A child has torch before its first own step, the loading of the conftest: it imports none.
    had_torch = dict(line.split() for line in (pytester.path / "imported.txt").read_text().splitlines())
    assert had_torch.pop(str(parent)) == "False"
    assert set(had_torch) == {str(pid) for pid in run_by.values()} - {str(parent)}
    assert set(had_torch.values()) == {"True"}
    assert parent not in {run_by["test_own[tiny]"], run_by["tiny"], run_by["test_skips[tiny]"]}

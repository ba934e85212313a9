"""What ``from pytest_llem import ...`` offers: imported late, typed, and all of it on the page of the API."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_llem

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def test_importing_the_package_imports_nothing_else() -> None:
    code = (
        "import sys; before = set(sys.modules); import pytest_llem\n"
        "print({name.partition('.')[0] for name in sys.modules.keys() - before} - sys.stdlib_module_names)\n"
        "print([name for name in sys.modules if name.startswith('pytest_llem.')])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "{'pytest_llem'}\n[]\n"


def test_a_verdict_costs_no_import_of_torch_or_pydantic() -> None:
    code = (
        "import sys; from pytest_llem import judge, open_meter\n"
        "print([name for name in ('torch', 'pydantic', 'pytest', 'numpy') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


@pytest.mark.parametrize("name", pytest_llem.__all__)
def test_each_name_can_be_had_and_says_what_it_is(name: str) -> None:
    assert name in dir(pytest_llem)
    found = getattr(pytest_llem, name)
    assert found.__name__ == name
    assert found.__doc__
    # Dataclasses and pydantic make up a docstring where there is none.
    assert not found.__doc__.startswith((f"{name}(", "Usage docs:"))


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'pytest_llem' has no attribute 'Metre'"):
        _ = pytest_llem.Metre  # type: ignore[attr-defined]


def test_the_page_of_the_api_lists_the_public_names() -> None:
    listed = re.findall(r"^<!-- api: (\S+) -->$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(f"pytest_llem.{name}" for name in pytest_llem.__all__)

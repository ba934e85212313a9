"""The cell magic, in a kernel as Jupyter starts it, on the engine without a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.conftest import TINY

if TYPE_CHECKING:
    from pathlib import Path

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

pytestmark = pytest.mark.processes

WITH_FAKE_ENGINE = """\
import threading, os, signal
from pytest_llem import measure
from pytest_llem.engines import BUILT_IN
BUILT_IN["pytorch"] = "tests.simulators.engine:FakeEngine"
%load_ext pytest_llem
"""
GOOD_AND_BAD = """\
experiments:
  - name: good
  - name: bad
    passthrough: {generate: {fault: raises-in-call-3}}
"""
INTERRUPTED = "threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()"


def execute(notebook: Any, folder: Path) -> None:
    """Run all cells, also after one that fails."""
    resources = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, kernel_name="python3", allow_errors=True, resources=resources).execute()


def outputs(cell: Any) -> dict[str, str]:
    """What a cell has left, by kind: a stream's name, a type of data, or ``error``."""
    found: dict[str, str] = {}
    for output in cell.outputs:
        if output.output_type == "stream":
            found[output.name] = found.get(output.name, "") + output.text
        elif output.output_type == "error":
            found["error"] = output.ename
        else:
            found |= output.data
    return found


def test_cells_are_measured_and_shown_or_say_what_is_wrong(pytester: pytest.Pytester) -> None:
    cells = {
        "setup": WITH_FAKE_ENGINE,
        "one": f"%%llem --cpu --rounds 3 one\n{TINY}name: tiny",
        "its rounds": "one.rounds",
        "a sweep": f"%%llem --cpu --min-window 0 points\n{TINY}sweep: {{pytorch.batch_size: [1, 2]}}",
        "its tokens": "[point.output_tokens for point in points]",
        "a mistake": f"%%llem --cpu one\n{TINY}pytorch: {{batch_sise: 3}}",
        "no YAML": "%%llem --cpu\nmodel: [",
        "an option": f"%%llem --cpu --rounds many\n{TINY}",
        "two devices": f"%%llem --cpu --gpu\n{TINY}",
        "a name": f"%%llem --cpu class\n{TINY}",
        "a failure": f"%%llem --cpu failed\n{TINY}{GOOD_AND_BAD}",
        "its variable": "failed",
        "an interruption": f"{INTERRUPTED}\nmeasure('hangs.yaml', device='cpu')",
        "afterwards": "measure('tiny.yaml', device='cpu')",
        "in a thread": "import asyncio\n(await asyncio.to_thread(measure, 'tiny.yaml', device='cpu')).output_tokens",
    }
    (pytester.path / "tiny.yaml").write_text(TINY)
    (pytester.path / "hangs.yaml").write_text(TINY.replace("builtin:tiny-llama", "fake/hangs"))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells.values()])
    execute(notebook, pytester.path)
    found = dict(zip(cells, map(outputs, notebook.cells), strict=True))
    assert found["setup"] == {}
    assert found["one"].keys() == {"text/html", "text/plain"}
    assert "tiny, intervals of 95%" in found["one"]["text/html"]
    assert found["its rounds"]["text/plain"] == "3"
    assert found["a sweep"]["text/html"].count("<table>") == 2
    assert "cell[batch_size:2]" in found["a sweep"]["text/html"]
    assert found["its tokens"]["text/plain"] == "[4.0, 8.0]"
    # In Jupyter the line of the magic is the first.
    line = 2 + TINY.count("\n")
    assert found["a mistake"].keys() == found["no YAML"].keys() == {"stderr"}
    assert found["a mistake"]["stderr"].startswith(f"UsageError: cell:{line}: pytorch.batch_sise: unknown field")
    assert found["no YAML"]["stderr"].startswith("UsageError: cell:3: not valid YAML")
    assert found["an option"] == {
        "stderr": "UsageError: rounds: expected an integer, at least 1, or auto; got 'many'\n"
    }
    assert found["two devices"] == {"stderr": "UsageError: --gpu and --cpu exclude each other: give one of them\n"}
    assert found["a name"] == {"stderr": "UsageError: argument name: 'class' is no name of a variable\n"}
    assert found["a failure"]["stderr"] == f"UsageError: cell:{line + 2}: call 3 failed\n"
    assert found["a failure"]["text/html"].count("<table>") == found["a failure"]["text/html"].count("good") == 1
    assert found["its variable"] == {"error": "NameError"}
    assert found["an interruption"]["error"] == "KeyboardInterrupt"
    assert "<table>" in found["afterwards"]["text/html"]
    assert found["in a thread"]["text/plain"] == "4.0"

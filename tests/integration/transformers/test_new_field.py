"""A newcomer adds a field to ``decoder:``: one declaration in one file, and everything knows it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest_llem

DECLARATION = """\
    typical_p: float | None = option(
        "Sample from tokens as surprising as is expected, up to this much probability.", sampling=True, gt=0, le=1
    )
"""

WALK = """
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest_llem
from pytest_llem.config import ExperimentConfig, experiment_file_schema, load_experiments
from docs.field_reference import reference
from pytest_llem.engines.transformers.generation import SpecialTokens, build_generation
from pytest_llem.records import identity
from pytest_llem.session import fingerprint

assert Path(pytest_llem.__file__).is_relative_to(Path.cwd()), pytest_llem.__file__

# Editors and readers
schema = experiment_file_schema()
field = schema["$defs"]["DecoderConfig"]["properties"]["typical_p"]
assert (field["type"], field["exclusiveMinimum"], field["maximum"]) == (["number", "null"], 0, 1)
assert "decoder.typical_p" in schema["$defs"]["Sweep"]["properties"]
assert "| `decoder.typical_p` | number above 0 to 1 |  |  | call | Sample from tokens as" in reference()


def read(decoder, further=""):
    file = Path("new.llem.yaml")
    file.write_text(f"model: builtin:tiny-llama\\ndecoder: {decoder}\\n{further}")
    return load_experiments(file)


# Validation and messages
for decoder, further, message in (
    ("{do_sample: true, typical_p: 2}", "", "decoder.typical_p: must be at most 1, got 2"),
    ("{do_sample: true, tipical_p: 0.5}", "", "decoder.tipical_p: unknown field; did you mean decoder.typical_p?"),
    ("{typical_p: 0.5}", "", "decoder.typical_p: has no effect without sampling; set do_sample: true or remove it"),
    ("{}", "passthrough: {generate: {typical_p: 0.5}}", "generate.typical_p: use the field decoder.typical_p"),
):
    (experiment,) = read(decoder, further)
    assert message in experiment.errors[0], experiment.errors

# Sweep, preset, call, identity
swept = read("{preset: standard}", "sweep: {decoder.typical_p: [null, 0.25, 0.5]}")
assert [experiment.id for experiment in swept] == ["typical_p:null", "typical_p:0.25", "typical_p:0.5"]
assert [experiment.valid_config.decoder.resolved().typical_p for experiment in swept] == [None, 0.25, 0.5]
configs = [experiment.valid_config for experiment in swept]
special = SpecialTokens(bos=None, eos=(), pad=0)
calls = [build_generation(config, special, cuda=False).config.to_diff_dict().get("typical_p") for config in configs]
assert calls == [None, 0.25, 0.5], calls
model, workload = SimpleNamespace(commit="c"), SimpleNamespace(prompts=SimpleNamespace(sha256=lambda: "t"))
assert len({identity.workload_hash(config, model, workload) for config in configs}) == 3
settings = SimpleNamespace(device="cpu", meter="none", host="auto", rounds=None, min_window_s=None)
items = [SimpleNamespace(nodeid="n", callspec=SimpleNamespace(params={"llem_experiment": point})) for point in swept]
assert len({fingerprint.hash_of(item, settings) for item in items}) == 3
assert len({config.load_config(Path()) for config in configs}) == 1
"""


def test_a_decoder_field_is_added_in_one_place(tmp_path: Path) -> None:
    package = Path(pytest_llem.__file__).parent
    shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "docs").mkdir()
    shutil.copy(Path(__file__).parents[3] / "docs" / "field_reference.py", tmp_path / "docs")
    decoder = tmp_path / package.name / "config" / "decoder.py"
    before = "    repetition_penalty: float | None"
    text = decoder.read_text(encoding="utf-8")
    assert text.count(before) == 1
    decoder.write_text(text.replace(before, DECLARATION + before), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    walk = subprocess.run(
        [sys.executable, "-c", WALK], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert walk.returncode == 0, walk.stderr

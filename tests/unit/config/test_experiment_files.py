"""From a file to its experiments: defaults, sweeps, names, and the messages of what is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_llem.config import Experiment, PyTorchConfig, load_experiments
from pytest_llem.config import sweep as sweep_module
from pytest_llem.config.dataset import SyntheticDataset, SyntheticPrompts
from pytest_llem.errors import ExperimentFileError

if TYPE_CHECKING:
    from pathlib import Path

# What -k takes as one word, from pytest's documentation of -k.
SELECTABLE = re.compile(r"[\w:+\-./\[\]\\]+", re.ASCII)


def load(folder: Path, text: str, name: str = "x.llem.yaml") -> list[Experiment]:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return load_experiments(path, display="x.yaml")


def test_a_path_may_be_text(tmp_path: Path) -> None:
    (tmp_path / "x.llem.yaml").write_text("model: gpt2\n")
    (experiment,) = load_experiments(str(tmp_path / "x.llem.yaml"))
    assert (experiment.name, experiment.path) == ("x", tmp_path / "x.llem.yaml")


def first_lines(experiments: list[Experiment]) -> list[str]:
    return [error.splitlines()[0] for experiment in experiments for error in experiment.errors]


def ids(experiments: list[Experiment]) -> list[str | None]:
    return [experiment.id for experiment in experiments]


def valid(experiment: Experiment) -> Any:
    assert experiment.errors == ()
    assert experiment.config is not None
    return experiment.config


# -- one and several experiments ---------------------------------------------------------------------------


def test_a_single_experiment(tmp_path: Path) -> None:
    (experiment,) = load(tmp_path, "# hi\nprecision: fp16\nmodel: gpt2\n", "tiny.llem.yaml")
    config = valid(experiment)
    assert (experiment.name, experiment.id, experiment.line) == ("tiny", None, 3)
    assert (experiment.swept, experiment.contradiction) == ({}, None)
    assert experiment.path == tmp_path / "tiny.llem.yaml"
    assert (config.name, config.model, config.precision) == ("tiny", "gpt2", "fp16")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a.llem.yml", "a"),
        ("a.yaml", "a"),
        ("my file (2).llem.yaml", "my_file__2_"),
        (".llem.yaml", "experiment_"),
        ("-a.llem.yaml", "experiment_-a"),
        ("pytest_a.llem.yaml", "experiment_pytest_a"),
        ("ü.llem.yaml", "_"),
    ],
)
def test_the_default_name_is_the_files(tmp_path: Path, file: str, name: str) -> None:
    (experiment,) = load(tmp_path, "model: gpt2\n", file)
    assert valid(experiment).name == experiment.name == name


SEVERAL = """\
model: gpt2
dataset: {path: p.jsonl, field: text}
pytorch: {batch_size: 4, num_beams: 2, device_map: auto, max_memory: {0: 1GiB, cpu: 2GiB}}
compare: {energy: 5%}
passthrough: {generate: {eos_token_id: 3}}
experiments:
  - name: plain
  - model: gpt3
    name: changed
    pytorch: {batch_size: 8, num_beams: null, max_memory: {0: 3GiB}}
    dataset: {synthetic: {n: 2}}
    compare: {latency: 3%, energy: null}
    passthrough: {generate: {eos_token_id: null}}
  - {name: reset, pytorch: null, dataset: null, compare: null, passthrough: null}
"""


def test_experiments_merge_over_the_defaults(tmp_path: Path) -> None:
    experiments = load(tmp_path, SEVERAL)
    plain, changed, reset = (valid(experiment) for experiment in experiments)
    assert [experiment.line for experiment in experiments] == [7, 9, 14]
    assert plain.pytorch.model_dump(exclude_none=True) == {
        "batch_size": 4,
        "num_beams": 2,
        "device_map": "auto",
        "max_memory": {0: "1GiB", "cpu": "2GiB"},
    }
    assert changed.model == "gpt3"
    assert changed.pytorch == PyTorchConfig(batch_size=8, device_map="auto", max_memory={0: "3GiB", "cpu": "2GiB"})
    # A dataset is replaced as a whole; keys of half of each kind would not validate.
    assert changed.dataset == SyntheticDataset(synthetic=SyntheticPrompts(n=2))
    assert changed.compare == {"latency": "3%"}
    # Among arguments handed on, null is a value.
    assert changed.passthrough.generate == {"eos_token_id": None}
    assert (reset.pytorch, reset.dataset, reset.compare) == (None, SyntheticDataset(), {})
    assert reset.passthrough.generate == {}


def test_null_takes_a_field_to_its_default_in_a_single_experiment_too(tmp_path: Path) -> None:
    (experiment,) = load(tmp_path, "model: gpt2\nrandom_seed:\nmeasure: {rounds: ~}\ndecoder:\n")
    assert (valid(experiment).random_seed, valid(experiment).measure.rounds) == (42, 10)


def test_a_misspelt_field_is_an_error_even_when_it_is_null(tmp_path: Path) -> None:
    found = load(tmp_path, "model: gpt2\nrandom_sede: null\npytorch: {batchsize: ~}\n")
    assert first_lines(found) == [
        "x.yaml:2: random_sede: unknown field; did you mean random_seed?",
        "x.yaml:3: pytorch.batchsize: unknown field; did you mean pytorch.batch_size?",
    ]


def test_one_invalid_experiment_does_not_stop_the_others(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        "model: gpt2\nexperiments:\n- {name: a}\n- {name: b, precision: fp8}\n- 7\n- {name: c}\n",
    )
    assert [(experiment.name, experiment.config is not None) for experiment in found] == [
        ("a", True),
        ("b", False),
        ("x.line5", False),
        ("c", True),
    ]
    assert first_lines(found) == [
        "x.yaml:4: precision: expected fp32, fp16 or bf16, got 'fp8'",
        "x.yaml:5: experiments.2: expected a mapping such as {name: small, model: gpt2}, got 7",
    ]


@pytest.mark.parametrize(("value", "got"), [("[]", "an empty one"), ("3", "3"), ("{a: b}", "a mapping")])
def test_experiments_must_be_a_list(tmp_path: Path, value: str, got: str) -> None:
    found = load(tmp_path, f"model: gpt2\nexperiments: {value}\n")
    message = f"x.yaml:2: experiments: expected a list of at least one mapping, got {got}"
    assert first_lines(found) == [message]


def test_names_are_unique_in_a_file(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        "model: gpt2\nexperiments:\n- {name: a}\n- {precision: fp16}\n- {name: a}\n- {precision: fp32}\n",
    )
    assert [experiment.name for experiment in found] == ["a", "x", "a.line5", "x.line6"]
    assert first_lines(found) == [
        "x.yaml:5: name: 'a' is the name of the experiment on line 3 already; give each its own `name:`",
        "x.yaml:6: name: 'x' is the name of the experiment on line 4 already; give each its own `name:`",
    ]


def test_an_unusable_name_is_told_and_replaced(tmp_path: Path) -> None:
    found = load(tmp_path, "model: gpt2\nexperiments:\n- {name: two words}\n- {name: setup_module}\n")
    assert [experiment.name for experiment in found] == ["x.line3", "x.line4"]
    assert first_lines(found) == [
        "x.yaml:3: name: 'two words' is not a name; use letters, digits and _ . + -, and start with a letter, "
        "digit or _",
        "x.yaml:4: name: 'setup_module' has a meaning of its own in pytest; choose another name",
    ]


def test_a_file_that_holds_no_experiment_raises(tmp_path: Path) -> None:
    with pytest.raises(ExperimentFileError, match=r"^x\.yaml:1: the file is not a mapping"):
        load(tmp_path, "[]")
    path = tmp_path / "missing.llem.yaml"
    with pytest.raises(ExperimentFileError, match=f"^{re.escape(str(path))}:1: cannot be read"):
        load_experiments(path)


# -- sweeps ------------------------------------------------------------------------------------------------

SWEEP = """\
model: builtin:tiny-llama
pytorch: {attn_implementation: sdpa}
sweep:
  pytorch.batch_size: [1, 4]
  pytorch: [{}, {load_in_8bit: true}, {load_in_4bit: true, bnb_4bit_quant_type: nf4}]
"""


def test_axes_and_groups_are_crossed_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = load(tmp_path, SWEEP)
    assert ids(found) == [
        "batch_size:1-pytorch:base",
        "batch_size:1-load_in_8bit:true",
        "batch_size:1-load_in_4bit:true+bnb_4bit_quant_type:nf4",
        "batch_size:4-pytorch:base",
        "batch_size:4-load_in_8bit:true",
        "batch_size:4-load_in_4bit:true+bnb_4bit_quant_type:nf4",
    ]
    assert {(experiment.name, experiment.line) for experiment in found} == {("x", 1)}
    assert found[3].swept == {"pytorch.batch_size": 4, "pytorch": {}}
    assert found[4].swept == {"pytorch.batch_size": 4, "pytorch.load_in_8bit": True}
    assert valid(found[5]).pytorch == PyTorchConfig(
        attn_implementation="sdpa", batch_size=4, load_in_4bit=True, bnb_4bit_quant_type="nf4"
    )
    assert valid(found[0]).pytorch == PyTorchConfig(attn_implementation="sdpa", batch_size=1)


@pytest.mark.parametrize(
    ("sweep", "expected"),
    [
        ("{pytorch.use_cache: [true, null]}", ["use_cache:true", "use_cache:null"]),
        ("{timeout_s: [1, 1.5, 1e-5]}", ["timeout_s:1", "timeout_s:1.5", "timeout_s:1e-05"]),
        ("{model: [org/a.b, 'c d']}", ["model:org/a.b", "model:c_d"]),
        ("{marks: [[], [a, b]]}", ["marks:", "marks:a+b"]),
        (
            "{pytorch: [{device_map: auto, max_memory: {0: 1GiB, cpu: 2GiB}}]}",
            ["device_map:auto+max_memory:0:1GiB+cpu:2GiB"],
        ),
        (
            "{dataset: [{synthetic: {n: 2, seed: 1}}, {path: a}]}",
            ["n:2+seed:1", "path:a"],
        ),
        # A leaf that two swept fields share is spelt in full.
        (
            "{passthrough.generate.seed: [1], dataset.synthetic.seed: [2], dataset.synthetic.n: [3]}",
            ["passthrough.generate.seed:1-dataset.synthetic.seed:2-n:3"],
        ),
    ],
)
def test_ids(tmp_path: Path, sweep: str, expected: list[str]) -> None:
    assert ids(load(tmp_path, f"model: gpt2\nsweep: {sweep}\n")) == expected


def test_values_that_an_id_cannot_tell_apart_get_a_stable_hash(tmp_path: Path) -> None:
    forward = ids(load(tmp_path, "sweep: {model: [a b, a(b, c], random_seed: [1, 2]}\n"))
    backward = ids(load(tmp_path, "sweep: {model: [c, a(b, a b], random_seed: [2, 1]}\n"))
    assert len(set(forward)) == 6
    assert set(forward) == set(backward)
    assert "model:c-random_seed:1" in forward
    assert all(identifier is not None and SELECTABLE.fullmatch(identifier) for identifier in forward)
    assert forward[0] is not None
    assert re.fullmatch(r"model:a_b-random_seed:1\.[0-9a-f]{8}", forward[0])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=6, unique=True))
def test_ids_are_unique_and_selectable_whatever_is_swept(tmp_path: Path, values: list[str]) -> None:
    text = yaml.safe_dump({"model": "x", "sweep": {"pytorch.revision": values}}, default_style='"')
    found = load(tmp_path, text)
    assert len(set(ids(found))) == len(values)
    assert all(SELECTABLE.fullmatch(experiment.id or "") for experiment in found)
    assert [experiment.swept["pytorch.revision"] for experiment in found] == values


def test_a_sweep_of_the_file_multiplies_every_entry_and_an_entry_adds_its_own(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        "model: gpt2\n"
        "sweep: {random_seed: [1, 2]}\n"
        "experiments:\n"
        "- {name: a}\n"
        "- {name: b, sweep: {random_seed: [3], precision: [fp16, fp32]}}\n"
        "- {name: c, sweep: null}\n",
    )
    assert [(experiment.name, experiment.id) for experiment in found] == [
        ("a", "random_seed:1"),
        ("a", "random_seed:2"),
        ("b", "random_seed:3-precision:fp16"),
        ("b", "random_seed:3-precision:fp32"),
        ("c", None),
    ]


def test_a_swept_dataset_replaces_the_whole(tmp_path: Path) -> None:
    found = load(tmp_path, "model: x\ndataset: {path: a}\nsweep: {dataset: [{synthetic: {n: 1}}]}\n")
    assert valid(found[0]).dataset == SyntheticDataset(synthetic=SyntheticPrompts(n=1))


def test_a_point_that_contradicts_itself_is_no_error(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        "model: x\nsweep:\n"
        "  pytorch.use_cache: [true, false]\n"
        "  pytorch.cache_implementation: [static, null]\n"
        "  decoder.min_new_tokens: [1, 99]\n",
    )
    contradictions = [experiment.contradiction for experiment in found]
    cache = "pytorch.cache_implementation: contradicts use_cache: false; remove one of the two"
    tokens = "decoder.min_new_tokens: 99 is above max_output_tokens (64); lower it or raise max_output_tokens"
    assert contradictions == [None, tokens, None, tokens, cache, cache, None, tokens]
    assert all(experiment.errors == () for experiment in found)
    assert [experiment.config is None for experiment in found] == [bool(text) for text in contradictions]


def test_the_only_point_may_contradict_itself(tmp_path: Path) -> None:
    found = load(tmp_path, "model: x\nsweep: {pytorch: [{load_in_4bit: true, load_in_8bit: true}]}\n")
    assert [experiment.errors for experiment in found] == [()]
    assert found[0].contradiction is not None


def test_a_contradiction_without_or_despite_the_sweep_is_an_error(tmp_path: Path) -> None:
    message = "pytorch.torch_compile_mode: has no effect without compilation; set torch_compile: true or remove it"
    alone = load(tmp_path, "model: x\npytorch: {torch_compile_mode: a}\n")
    swept = load(tmp_path, "pytorch: {torch_compile_mode: a}\nsweep: {model: [x, y]}\n")
    mended = load(
        tmp_path,
        "model: x\npytorch: {torch_compile_mode: a}\nsweep: {pytorch.torch_compile: [true, false]}\n",
    )
    assert first_lines(alone) == [f"x.yaml:2: {message}"]
    assert first_lines(swept) == [f"x.yaml:1: {message}"] * 2
    assert first_lines(mended) == []
    assert [experiment.contradiction for experiment in mended] == [None, message]


def test_a_misspelt_or_mistyped_value_is_an_error_beside_a_contradiction(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        "model: x\npytorch: {use_cache: false}\nsweep:\n"
        "  pytorch:\n"
        "  - {cache_implementation: static}\n"
        "  - {cache_implementation: static, num_baems: 2}\n"
        "  - {num_beams: 2.0}\n",
    )
    assert [bool(experiment.contradiction) for experiment in found] == [True, False, False]
    assert first_lines(found) == [
        "x.yaml:6: pytorch.num_baems: unknown field; did you mean pytorch.num_beams?",
        "x.yaml:7: pytorch.num_beams: expected a whole number, got 2.0",
    ]


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (
            "[1]",
            "2: sweep: expected a mapping of fields to lists of values, such as "
            "{pytorch.batch_size: [1, 4]}; "
            "got a list",
        ),
        (
            "{pytorch.batch_sise: [1]}",
            "2: sweep.pytorch.batch_sise: unknown field; did you mean pytorch.batch_size?",
        ),
        ("{batch_size: [1]}", "2: sweep.batch_size: unknown field; did you mean pytorch.batch_size?"),
        (
            "{random_seed: []}",
            "2: sweep.random_seed: the list is empty; give at least one value or remove it",
        ),
        ("{random_seed: 1}", "2: sweep.random_seed: expected a list of values, such as [1]; got 1"),
        (
            "{pytorch: [{}, 1]}",
            "2: sweep.pytorch: mixes mappings with other values; use {} for the variant that changes nothing",
        ),
        ("{random_seed: [1, 2, 1]}", "2: sweep.random_seed: holds 1 twice; keep one"),
        ("{timeout_s: [1, 1.0]}", "2: sweep.timeout_s: holds 1.0 twice; keep one"),
        ("{decoder: [{temperature: 1}, {temperature: 1.0}]}", "2: sweep.decoder: holds a mapping twice; keep one"),
        ("{name: [a, b]}", "2: sweep.name: cannot be swept; each point has its own id already"),
        ("{experiments: [{}]}", "2: sweep.experiments: cannot be swept; each point has its own id already"),
        (
            "{pytorch: [{batch_size: 1}], pytorch.batch_size: [1]}",
            "2: sweep.pytorch.batch_size: pytorch.batch_size is swept by pytorch as well; sweep a field in one place",
        ),
        (
            "{dataset: [natural, other], dataset.synthetic.n: [1]}",
            "2: sweep.dataset.synthetic.n: dataset.synthetic.n is swept by dataset as well; sweep a field in one place",
        ),
    ],
)
def test_a_sweep_that_is_wrong_is_one_error(tmp_path: Path, sweep: str, message: str) -> None:
    found = load(tmp_path, f"model: x\nsweep: {sweep}\n")
    assert first_lines(found) == [f"x.yaml:{message}"]
    assert (found[0].id, found[0].config) == (None, None)


def test_errors_of_the_base_are_told_with_those_of_the_sweep(tmp_path: Path) -> None:
    found = load(tmp_path, "precision: fp8\nsweep:\n  model: [x]\n  random_seed: []\n")
    assert len(found) == 1
    assert [line.split(": ")[1] for line in first_lines(found)] == ["sweep.random_seed", "precision"]


def test_a_file_has_a_bounded_number_of_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = list(range(10))
    huge = "".join(f"  passthrough.generate.k{index}: {values}\n" for index in range(30))
    found = load(tmp_path, f"model: x\nsweep:\n{huge}")
    assert first_lines(found) == [
        f"x.yaml:2: sweep: makes {10**30} experiments, and a file holds at most 100000; sweep fewer values"
    ]
    monkeypatch.setattr("pytest_llem.config.files.MAX_POINTS", 15)
    monkeypatch.setattr(sweep_module, "MAX_POINTS", 15)
    entries = "".join(f"- {{name: a{index}}}\n" for index in range(3))
    found = load(tmp_path, f"model: x\nsweep: {{random_seed: {values}}}\nexperiments:\n{entries}")
    assert [bool(experiment.errors) for experiment in found] == [False] * 10 + [True, True]


def test_a_list_that_is_too_long_is_refused_before_its_experiments_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_llem.config.files.MAX_POINTS", 2)
    entries = "".join(f"  - {{name: e{number}}}\n" for number in range(3))
    assert len(load(tmp_path, f"model: m\nexperiments:\n{entries}".replace("  - {name: e2}\n", ""))) == 2
    assert first_lines(load(tmp_path, f"model: m\nexperiments:\n{entries}")) == [
        "x.yaml:3: experiments: lists 3 experiments, and a file holds at most 2; use several files"
    ]


def test_a_large_sweep_of_what_no_load_depends_on_has_one_load(tmp_path: Path) -> None:
    values = list(range(1, 51))
    found = load(tmp_path, f"model: x\nsweep:\n  pytorch.batch_size: {values}\n  max_output_tokens: {values}\n")
    assert len(found) == 2500
    assert len(set(ids(found))) == 2500
    assert len({valid(experiment).load_config(tmp_path) for experiment in found}) == 1


# -- messages ----------------------------------------------------------------------------------------------


def test_keys_for_anchors_at_the_top_are_ignored_and_no_others(tmp_path: Path) -> None:
    entries = "experiments: [{name: a, pytorch: *greedy}, {x-b: 1}]\n"
    first, second = load(tmp_path, f"x-greedy: &greedy {{num_beams: 1}}\nmodel: gpt2\n{entries}x-c: 3\n")
    assert valid(first).pytorch == PyTorchConfig(num_beams=1)
    assert second.errors[0].startswith("x.yaml:3: x-b: unknown field")
    (inner,) = load(tmp_path, "model: gpt2\npytorch: {x-d: 1}\n")
    assert inner.errors[0].startswith("x.yaml:2: pytorch.x-d: unknown field")


def test_a_bad_name_is_shown_at_the_name(tmp_path: Path) -> None:
    (experiment,) = load(tmp_path, "model: gpt2\nname: 'a b'\n")
    assert "--> x.yaml:2:7" in experiment.errors[0]


def test_a_message_shows_the_place(tmp_path: Path) -> None:
    (experiment,) = load(tmp_path, "model: gpt2\npytorch:\n  batch_size: 0\n  batchsize: 3\n")
    assert experiment.errors == (
        "x.yaml:3: pytorch.batch_size: must be at least 1, got 0\n"
        " --> x.yaml:3:15\n"
        "  |\n"
        "3 |   batch_size: 0\n"
        "  |               ^",
        "x.yaml:4: pytorch.batchsize: unknown field; did you mean pytorch.batch_size?\n"
        " --> x.yaml:4:3\n"
        "  |\n"
        "4 |   batchsize: 3\n"
        "  |   ^",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "pytorch: {}",
            "1: model: is missing; name a hub id, a local folder or a built-in model such as builtin:tiny-llama",
        ),
        ("model: ''", "1: model: must not be empty"),
        ("model: 3", "1: model: expected text, got 3; put it in quotes"),
        (
            "model: x\npytorch: {revision: 12e5}",
            "2: pytorch.revision: expected text, got 1200000.0; put it in quotes",
        ),
        ("model: x\nbatch_size: 4", "2: batch_size: unknown field; did you mean pytorch.batch_size?"),
        (
            "model: x\npytorch: {temperature: 1}",
            "2: pytorch.temperature: unknown field; did you mean decoder.temperature?",
        ),
        ("model: x\nmax_new_tokens: 4", "2: max_new_tokens: unknown field; did you mean max_output_tokens?"),
        (
            "model: x\nmeasure: {qqq: 4}",
            "2: measure.qqq: unknown field; the fields here are boundaries, budget_s, "
            "min_window_s, phases, precision, rounds, warmup_rounds",
        ),
        ("model: x\nmax_input_tokens: '4'", "2: max_input_tokens: expected a whole number, got '4'"),
        ("model: x\nmax_input_tokens: 1.0", "2: max_input_tokens: expected a whole number, got 1.0"),
        ("model: x\nmax_input_tokens: yes", "2: max_input_tokens: expected a whole number, got true"),
        ("model: x\nchat: 'yes'", "2: chat: expected true or false, got 'yes'"),
        ("model: x\nmeasure: {phases: 'yes'}", "2: measure.phases: expected true, false, one-token or both; got 'yes'"),
        ("model: x\ntimeout_s: ten", "2: timeout_s: expected a number, got 'ten'"),
        ("model: x\ntimeout_s: 0", "2: timeout_s: must be above 0, got 0"),
        ("model: x\ntimeout_s: .inf", "2: timeout_s: expected a finite number, got inf"),
        ("model: x\ndecoder: {temperature: 3}", "2: decoder.temperature: must be at most 2, got 3"),
        ("model: x\nrandom_seed: -1", "2: random_seed: must be at least 0, got -1"),
        ("model: x\nrandom_seed: 4294967296", "2: random_seed: must be at most 4294967295, got 4294967296"),
        ("model: x\npytorch: sdpa", "2: pytorch: expected a mapping, got 'sdpa'"),
        ("model: x\nmarks: slow", "2: marks: expected a list, got 'slow'"),
        (
            "model: x\npytorch: {attn_implementation: flash_attn_2}",
            "2: pytorch.attn_implementation: expected eager, sdpa, flash_attention_2, flash_attention_3, "
            "flash_attention_4, flex_attention or a kernel of the hub such as org/repo, got 'flash_attn_2'; did "
            "you mean flash_attention_2?",
        ),
        (
            "model: x\npytorch: {cache_implementation: hybrid}",
            "2: pytorch.cache_implementation: hybrid would silently run as the dynamic cache; use dynamic or static",
        ),
        (
            "model: x\npytorch: {early_stopping: maybe}",
            "2: pytorch.early_stopping: expected true, false or never; got 'maybe'",
        ),
        (
            "model: x\npytorch: {max_memory: {gpu: 1GiB}}",
            "2: pytorch.max_memory: expected a mapping of GPU number or cpu to a size, such as {0: 10GiB, cpu: 50GiB}",
        ),
        (
            "model: x\ndataset: [a]",
            "2: dataset: expected a mapping with `synthetic`, `builtin` or `path`, or the name of a built-in set",
        ),
        (
            "name: x\nmodel: builtin:tiny-lama",
            "2: model: unknown built-in model 'tiny-lama'; use one of builtin:tiny-llama, builtin:llama-1b, "
            "builtin:llama-8b, builtin:qwen-0.5b; did you mean builtin:tiny-llama?",
        ),
        (
            "model: x\npytorch: {assistant_model: builtin:x}",
            "2: pytorch.assistant_model: unknown built-in model 'x'; use one of builtin:tiny-llama, "
            "builtin:llama-1b, builtin:llama-8b, builtin:qwen-0.5b",
        ),
        (
            "model: x\ndataset: naturel",
            "2: dataset: unknown built-in dataset 'naturel'; use one of natural; for a file, write {path: ...}; "
            "did you mean natural?",
        ),
        (
            "model: x\ndataset: {builtin: naturel}",
            "2: dataset.builtin: unknown built-in dataset 'naturel'; use one of natural; for a file, write "
            "{path: ...}; did you mean natural?",
        ),
        ("model: x\ndataset: {synthetic: {n: 0}}", "2: dataset.synthetic.n: must be at least 1, got 0"),
        (
            "model: x\ndataset: {synthetic: {len: 1}}",
            "2: dataset.synthetic.len: unknown field; the fields here are input_len, lengths, n, seed, shared_prefix",
        ),
        (
            "model: x\noutput_lengths: [1, 2]",
            "2: output_lengths: expected a mapping with mean and sd, or the path of a histogram",
        ),
        (
            "model: x\ndataset: {synthetic: {lengths: 5}}",
            "2: dataset.synthetic.lengths: expected a mapping with mean and sd, or the path of a histogram; got 5",
        ),
        (
            "model: x\ndataset: {feild: a}",
            "2: dataset.path: is missing; name a file of prompts, or use `synthetic` or `builtin`",
        ),
        (
            "model: x\ncompare: {energi: 5%}",
            "2: compare.energi: expected energy, latency, energy_total or output, got 'energi'; did you mean energy?",
        ),
        (
            "model: x\ncompare: {energy: 5}",
            "2: compare.energy: '5' is no limit; write a percentage such as 5% or a range such as 2%..5%",
        ),
        (
            "model: x\ncompare: {energy: same}",
            "2: compare.energy: 'same' is the limit of output alone; write a percentage, for example 5%",
        ),
        (
            "model: x\ncompare: {output: 5%}",
            "2: compare.output: '5%' is no limit of output, which is the same or is not; write same",
        ),
        (
            "model: x\ncompare: {outptu: same}",
            "2: compare.outptu: expected energy, latency, energy_total or output, got 'outptu'; did you mean output?",
        ),
        (
            "model: x\npassthrough: {generate: {top_k: 5}}",
            "2: passthrough.generate.top_k: use the field decoder.top_k",
        ),
        (
            "model: x\nmarks: [slow, _x]",
            "2: marks.1: '_x' is not allowed here; it must match ^[A-Za-z][A-Za-z0-9_]*$",
        ),
        (
            "model: x\nmarks: [skipif]",
            "2: marks.0: the mark skipif takes arguments, which an experiment file cannot give; remove it",
        ),
        (
            "model: x\n7: y",
            "2: 7: unknown field; the fields here are backend, base, chat, compare, dataset, decoder, device, "
            "exclude, experiments, marks, max_input_tokens, max_output_tokens, measure, model, name, output_lengths, "
            "parallel, passthrough, precision, pytorch, random_seed, sweep, template_date, tensorrt, timeout_s, vllm, "
            "weights",
        ),
        (
            "model: x\nchat: true\ntemplate_date: 2026-02-30",
            "3: template_date: '2026-02-30' is no date; write one such as 2026-01-01",
        ),
        (
            "model: x\npytorch: {cache_implementation: quantized, cache_config: {nbits: 3}}",
            "2: pytorch.cache_config.nbits: 3 does not work with quanto; use 2 or 4",
        ),
        (
            "model: x\ndataset: {synthetic: {}, seed: 1}",
            "2: dataset.seed: does not belong to this kind of dataset; remove it",
        ),
        ("model: x\npytorch: {lora: {merge: yes}}", "2: pytorch.lora.path: is missing; add it"),
        (
            "model: x\npytorch: {lora: {pth: a}}",
            "2: pytorch.lora.pth: unknown field; did you mean pytorch.lora.path?",
        ),
        ("model: x\ndecoder: {stop_strings: ['']}", "2: decoder.stop_strings.0: must not be empty"),
        ("model: x\ndecoder: {stop: [a]}", "2: decoder.stop: unknown field; did you mean decoder.stop_strings?"),
        (
            "model: x\nexperiments:\n- {base: a.yaml}",
            "3: base: unknown field; it belongs to the file and not to an experiment; move it to the top level",
        ),
        (
            "model: x\npassthrough: {generate: {7: y}}",
            "2: passthrough.generate.7: expected text, got 7; put it in quotes",
        ),
        ("model: x\n<name>: y", "2: <name>: unknown field; did you mean name?"),
    ],
)
def test_messages(tmp_path: Path, text: str, message: str) -> None:
    assert f"x.yaml:{message}" in first_lines(load(tmp_path, text))


def test_an_error_in_a_sweep_points_at_the_value(tmp_path: Path) -> None:
    found = load(tmp_path, "model: x\nsweep:\n  pytorch.batch_size:\n  - 1\n  - 0\n")
    assert found[0].errors == ()
    assert found[1].errors[0].splitlines()[:2] == [
        "x.yaml:5: pytorch.batch_size: must be at least 1, got 0",
        " --> x.yaml:5:5",
    ]


def test_an_error_in_an_anchor_points_to_where_it_is_written(tmp_path: Path) -> None:
    found = load(tmp_path, "model: x\nexperiments:\n- &a {name: a, random_seed: x}\n- {<<: *a, name: b}\n")
    assert [line.partition(": ")[0] for line in first_lines(found)] == ["x.yaml:3", "x.yaml:3"]


def test_messages_quote_long_and_strange_input_in_short(tmp_path: Path) -> None:
    long = "y" * 5000
    found = load(tmp_path, f'model: x\n"a\\n{long[:900]}": 1\ncompare: {{energy: {long}}}\ntimeout_s: {long}\n')
    assert len(first_lines(found)) == 3
    for error in found[0].errors:
        first, _, source = error.partition("\n")
        assert first.isprintable()
        assert max(map(len, (first, *source.splitlines()))) < 450


def test_the_line_shown_is_cut_around_the_place(tmp_path: Path) -> None:
    found = load(tmp_path, "model: x\ndecoder: {" + " " * 500 + "top_k: -1}\n")
    *_, source, caret = found[0].errors[0].splitlines()
    assert source[caret.index("^") :].startswith("-1}")


def test_importing_costs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, pytest_llem.config, pytest_llem.verdict.limits;"
        "print([name for name in ('torch', 'transformers', 'numpy', 'pynvml') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""``measure()``: what it takes, what it shares, what it refuses, and what it leaves behind."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pynvml
import pytest
from filelock import FileLock, Timeout

from pytest_llem import ConfigError, ExperimentConfig, UnavailableError, load_experiments, measure
from pytest_llem.engines import BUILT_IN
from pytest_llem.errors import LoadError, MeasurementError
from pytest_llem.meters.base import SystemClock
from pytest_llem.meters.nvidia import lock
from tests.simulators import SimulatedBoard, SimulatedProcess, install, skip_waits
from tests.simulators.engine import FakeEngine, FakeModel, FakeWorkload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_llem import Experiment
    from pytest_llem.config import LoadConfig

TINY: dict[str, Any] = {
    "model": "fake",
    "dataset": {"synthetic": {"n": 2, "input_len": 8}},
    "max_input_tokens": 8,
    "max_output_tokens": 4,
    "measure": {"rounds": 2, "warmup_rounds": 0, "min_window_s": 0},
}
FILE = "\n".join(f"{key}: {value}".replace("'", "") for key, value in TINY.items())


class Model(FakeModel):
    """Counts those that are loaded, by name, and those that are held."""

    loads: ClassVar[Counter[str]] = Counter()
    held = 0
    most_held = 0

    def __init__(self, config: LoadConfig, device: str) -> None:
        super().__init__(config, device)
        Model.loads[config.model] += 1
        Model.held += 1
        Model.most_held = max(Model.held, Model.most_held)

    def close(self) -> None:
        super().close()
        Model.held -= 1


@pytest.fixture(autouse=True)
def _fake_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setitem(BUILT_IN, "pytorch", f"{FakeEngine.__module__}:{FakeEngine.__name__}")
    monkeypatch.setattr("tests.simulators.engine.FakeModel", Model)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Model.loads, Model.held, Model.most_held = Counter(), 0, 0
    yield
    assert Model.held == 0


def on_cpu(config: Any, **options: Any) -> Any:
    return measure(config, **{"device": "cpu", "meter": "none"} | options)


def with_fields(**fields: Any) -> dict[str, Any]:
    return {**TINY, **fields}


def test_an_experiment_is_the_same_in_whichever_form_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "tiny.llem.yaml"
    path.write_text(FILE)
    forms = [TINY, ExperimentConfig.model_validate(TINY), path, str(path), load_experiments(path)[0]]
    results = [on_cpu(form) for form in forms]
    assert len({result.output_tokens_hash for result in results}) == 1
    assert {(result.rounds, result.output_tokens, result.energy_j) for result in results} == {(2, 4.0, None)}


def test_what_a_list_loads_alike_is_loaded_once_and_results_keep_its_order() -> None:
    seeds = [with_fields(model=model, random_seed=seed) for model, seed in (("a", 1), ("b", 1), ("a", 2))]
    results = on_cpu(seeds)
    assert Model.loads == {"a": 1, "b": 1}
    assert Model.most_held == 1
    assert [result.output_tokens_hash for result in results] == [on_cpu(one).output_tokens_hash for one in seeds]
    assert results[0].spent_s["load"] > 0
    assert "load" not in results[2].spent_s
    assert on_cpu([]) == []


def test_in_a_list_a_sweep_is_all_its_points_and_alone_it_is_refused() -> None:
    sweep = with_fields(name="seeds", sweep={"max_output_tokens": [1, 2, 3]})
    assert [result.output_tokens for result in on_cpu([sweep, TINY])] == [1.0, 2.0, 3.0, 4.0]
    with pytest.raises(ConfigError, match=r"config holds 3 experiments; .* measure\(\[\.\.\.\]\)"):
        on_cpu(sweep)


def test_arguments_win_over_the_file_and_values_may_be_those_of_other_libraries(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n' * 3)
    config = with_fields(dataset={"path": Path("prompts.jsonl")}, max_output_tokens=np.int64(2))
    result = on_cpu(config, rounds=1, min_window_s=0.5)
    assert (result.rounds, result.output_tokens) == (1, 2.0)
    assert result.calls_per_round > 3  # more than a pass


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (with_fields(pytorch={"batch_sise": 3}), {}, "config:17: pytorch.batch_sise: unknown field; did you mean "),
        ([TINY, with_fields(max_output_tokens=0)], {}, r"config\[1\]:10: max_output_tokens: must be at least 1, got 0"),
        ({}, {}, "config:1: model: is missing"),
        ("gone.yaml", {}, "gone.yaml:1: cannot be read: No such file"),
        (3, {}, "config: expected a mapping, an ExperimentConfig or the path of a file, got 3"),
        (b"model: gpt2", {}, "config: expected a mapping, .* got b'model: gpt2'"),
        ([TINY, None], {}, r"config\[1\]: expected a mapping, .* got None"),
        (with_fields(model={1, 2}), {}, r"config: expected text, numbers, lists and mappings, got \{1, 2\}"),
        (TINY, {"rounds": 0}, "rounds: expected an integer, at least 1, or auto; got 0"),
        (TINY, {"min_window_s": "long"}, "min_window_s: expected a number of seconds, at least 0, or auto; got 'long'"),
        (TINY, {"region": "nowhere"}, "region: "),
        (TINY, {"price": "cheap"}, "price: 'cheap' is no price of a kWh; write a number"),
        (TINY, {"pue": 0.9, "price": 1}, "pue: expected a number, at least 1, got 0.9"),
        (TINY, {"pue": 2}, "pue: it multiplies carbon and cost; give region or price with it"),
        (TINY, {"device": "gpu"}, "device: expected cpu or cuda, got 'gpu'"),
    ],
)
def test_what_is_no_experiment_says_what_would_be_right(config: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        on_cpu(config, **options)
    assert not Model.loads


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (with_fields(device="cuda"), {}, "config:16: device: cuda, and this runs on cpu"),
        # Whether or not the meter reads it.
        (TINY, {"host": "rapll"}, r"^unknown host sensor 'rapll'; .* did you mean rapl\?"),
        (TINY, {"meter": None}, r"unknown meter 'None'; .* did you mean none\?"),
        (TINY, {"meter": "nvm"}, r"unknown meter 'nvm'; .* did you mean nvml\?"),
        (
            [with_fields(precision="fp16", pytorch={"load_in_4bit": True}, sweep={"pytorch.load_in_8bit": [True]})],
            {},
            r"^config\[0\]:2: .*\[load_in_8bit:true\] contradicts itself: .*load_in_",
        ),
    ],
)
def test_what_a_session_would_skip_is_refused_before_anything_is_loaded(
    config: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnavailableError, match=message):
        on_cpu(config, **options)
    assert not Model.loads


def test_where_no_gpu_can_be_used_the_cpu_is_and_the_result_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_gpu(asked_by: str) -> None:
        raise UnavailableError(f"{asked_by}: no driver")

    monkeypatch.setattr("pytest_llem.library.require_cuda", no_gpu)
    warning = "measured on the CPU, because no GPU can be used; device: no driver"
    assert warning in on_cpu(TINY, device=None).warnings
    assert warning not in on_cpu(with_fields(device="cpu"), device=None).warnings
    for options in ({"device": "cuda"}, {"config": with_fields(device="cuda"), "device": None}):
        with pytest.raises(UnavailableError, match=r"^device: no driver$"):
            on_cpu(**{"config": TINY} | options)


def test_a_failure_has_its_place_and_what_was_measured_before(tmp_path: Path) -> None:
    path = tmp_path / "tiny.llem.yaml"
    path.write_text(f"# a comment\n{FILE}\npassthrough: {{generate: {{fault: raises-in-call-3}}}}\n")
    with pytest.raises(MeasurementError, match=r"^.*tiny\.llem\.yaml:2: call 3 failed") as caught:
        on_cpu([TINY, path, TINY])
    measured, *others = vars(caught.value)["results"]
    assert measured.output_tokens == 4.0
    assert others == [None, None]
    with pytest.raises(LoadError, match=r"^config:2: model 'fake/does-not-load'"):
        on_cpu(with_fields(model="fake/does-not-load"))


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedBoard]:
    """The only one of this machine, for whose sensors nobody waits."""
    for name in ("sleep", "now_s", "wall_s"):
        monkeypatch.setattr(SystemClock, name, getattr(SystemClock, name))  # so that they come back
    skip_waits()
    found = SimulatedBoard(uuid="GPU-library", power=200.0, period_s=0.02)
    with install([found]):
        yield found


def require_released() -> None:
    with FileLock(lock.folder() / "GPU-library.lock", timeout=0):
        pass


def test_boards_are_read_checked_and_given_back(board: SimulatedBoard) -> None:
    for _ in range(3):
        result = on_cpu(TINY, meter="nvml", min_window_s=0.05)
        assert result.valid
        assert result.mean_power_w == pytest.approx(200.0, rel=0.1)
        assert result.idle_power_w == pytest.approx(200.0, rel=0.1)
        require_released()
        assert pynvml._nvmlLib_refcount == 0
    board.processes = [SimulatedProcess(pid=1, name="somebody")]
    assert not on_cpu(TINY, meter="nvml", min_window_s=0.05).valid


def test_results_tell_carbon_and_cost_where_a_grid_and_a_price_are_given() -> None:
    result = on_cpu(TINY, meter="estimate", region=360, price="0.5EUR", pue=2)
    assert result.carbon_g == pytest.approx(result.energy_j / 3.6e6 * 2 * 360)
    assert result.cost == pytest.approx(result.energy_j / 3.6e6 * 2 * 0.5)
    assert result.footprint.currency == "EUR"
    assert on_cpu(TINY, meter="estimate").footprint is None


def test_a_gpu_is_locked_before_the_load_and_read_without_being_asked(
    board: SimulatedBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = FakeEngine.load

    def load_on_locked_board(*arguments: Any) -> Any:
        with pytest.raises(Timeout):
            require_released()
        return load(*arguments)

    monkeypatch.setattr("pytest_llem.library.require_cuda", lambda _: None)
    monkeypatch.setattr(FakeEngine, "load", load_on_locked_board)
    result = measure(TINY, min_window_s=0.05)
    assert (result.meter, result.warnings) == ("nvml", [])
    require_released()
    path = lock.folder() / f"{board.uuid}.lock"
    path.with_suffix(".owner").write_text("1 another's")
    with FileLock(path), pytest.raises(UnavailableError, match=r"still in use by PID 1 .* lock_timeout_s"):
        measure(TINY, lock_timeout_s=0.0)


@pytest.mark.parametrize("at", ["load", "prepare", "run"])
def test_an_interruption_leaves_nothing_behind(board: SimulatedBoard, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr({"load": FakeEngine, "prepare": FakeModel, "run": FakeWorkload}[at], at, interrupt)
        with pytest.raises(KeyboardInterrupt) as caught:
            on_cpu([TINY], meter="nvml")
    assert vars(caught.value)["results"] == [None]
    assert Model.held == 0
    require_released()
    assert on_cpu(TINY).output_tokens == 4.0


def test_a_failure_that_is_kept_keeps_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[BaseException] = []
    monkeypatch.setattr(FakeEngine, "release", lambda _, failure: released.append(failure))
    with pytest.raises(MeasurementError) as caught:
        on_cpu(with_fields(model="fake/raises-in-call-1"))
    assert released == [caught.value]


def test_a_process_measures_one_thing_at_a_time() -> None:
    refused: list[str] = []

    def progress(experiment: Experiment, phase: str, done: int, total: int, last_s: float) -> None:
        with pytest.raises(MeasurementError) as caught:
            on_cpu(TINY)
        refused.append(f"{experiment.name} {phase} {done} {total}: {caught.value}")

    on_cpu(with_fields(name="outer"), progress=progress)
    assert refused[-1].startswith("outer round 2 2: this process measures already")


def test_it_works_in_a_thread_beside_a_loop() -> None:
    async def ask() -> Any:
        on_cpu(TINY)
        return await asyncio.to_thread(on_cpu, TINY)

    assert asyncio.run(ask()).output_tokens == 4.0


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
def test_a_process_that_was_forked_from_one_that_measured_does_not_wait_for_its_threads_for_ever() -> None:
    code = (
        "import os; from pytest_llem import LlemError, measure; from pytest_llem.engines import BUILT_IN\n"
        f"BUILT_IN['pytorch'] = '{FakeEngine.__module__}:FakeEngine'\n"
        "def fork():\n"
        "    if os.fork(): return os.wait()\n"
        "    try: print(measure(CONFIG, device='cpu').output_tokens, flush=True)\n"
        "    except LlemError as error: print(error, flush=True)\n"
        "    os._exit(0)\n"
        f"CONFIG = {TINY!r}\n"
        "fork(); measure(CONFIG, device='cpu'); fork()"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    before, after = output.splitlines()
    assert before == "4.0"
    assert after.startswith("this process was forked from one that has measured")


@pytest.mark.processes
def test_it_needs_neither_pytest_nor_torch() -> None:
    code = (
        "import sys; from pytest_llem import measure; from pytest_llem.engines import BUILT_IN\n"
        f"BUILT_IN['pytorch'] = '{FakeEngine.__module__}:FakeEngine'\n"
        f"print(measure({TINY!r}, device='cpu').output_tokens)\n"
        "print([name for name in ('torch', 'pytest', 'IPython', 'jinja2') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "4.0\n[]\n"

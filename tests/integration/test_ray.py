"""``--llem-ray``: experiments on the machines of a Ray cluster, two of which this machine plays."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.conftest import TINY
from tests.integration.test_verdicts import vary_history

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.processes,
    # It has no wheels for every Python.
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed"),
]

# A line of its input removes the second machine, as if its power had failed; another line brings one again.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 2, "include_dashboard": False})
second = cluster.add_node(num_cpus=2)
print(cluster.address, flush=True)
for line in sys.stdin:
    if second is None:
        second = cluster.add_node(num_cpus=2)
    else:
        cluster.remove_node(second, allow_graceful=False)
        second = None
    print("done", flush=True)
cluster.shutdown()
"""

# Notes what runs in which process. An experiment named after a fault has it the first time, or each time.
CONFTEST = """
import json, os, pathlib, signal, time

import pytest

NOTES = pathlib.Path({notes!r})

def note(name, **values):
    values |= dict(name=name, pid=os.getpid(), worker=os.getppid(), folder=os.getcwd())
    values |= dict(gpus=os.environ.get("CUDA_VISIBLE_DEVICES"), python_path=os.environ.get("PYTHONPATH", ""))
    values |= dict(machine=os.environ.get("RAY_RAYLET_PID"))
    with open(NOTES / "notes.jsonl", "a") as file:
        file.write(json.dumps(values) + "\\n")

@pytest.fixture(scope="session", autouse=True)
def started(request):
    note("child", threads=os.environ.get("OMP_NUM_THREADS"), niceness=os.nice(0))

@pytest.fixture(autouse=True)
def trouble(request):
    name = request.node.name
    note(name)
    began = NOTES / f"{{name}}-began"
    once = not began.exists()
    began.touch()
    if "always-kills-its-worker" in name or (once and "kills-its-worker[precision:fp16-batch_size:3]" in name):
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    until_s = time.monotonic() + 60
    while "waits" in name and once and not (NOTES / "go-on").exists() and time.monotonic() < until_s:
        time.sleep(0.05)
"""

GOES_ON = """
@pytest.fixture(autouse=True)
def go_on(request):
    if request.node.name == "gated":
        (NOTES / "go-on").touch()
"""

TWELVE = "sweep: {precision: [fp32, fp16, bf16], pytorch.batch_size: [1, 2, 3, 4]}\n"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    # Ray's sockets lie in it, whose names may not be long.
    folder = tempfile.mkdtemp(prefix="llem-")
    environment = {
        **os.environ,
        "RAY_TMPDIR": folder,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    # One that is set is never changed by Ray.
    environment.pop("OMP_NUM_THREADS", None)
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        started = Cluster(process, environment)
        try:
            yield started
        finally:
            started.close()
    shutil.rmtree(folder, ignore_errors=True)


class Cluster:
    """Two nodes of two processors each; the first one claims to have two GPUs.

    Attributes:
        address: of it.
        environment: with which its clients find their way in.
    """

    def __init__(self, process: subprocess.Popen[str], environment: dict[str, str]) -> None:
        self._process = process
        self.environment = {name: value for name, value in environment.items() if name.startswith("RAY_AUTH")}
        self.address = self._line()
        self._is_whole = True

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line
        return line

    def lose_second(self) -> None:
        """The second node ends at once."""
        self._change()
        self._is_whole = False

    def restore(self) -> None:
        """There are two nodes again. One that comes clears the folder of working directories, which both share."""
        if not self._is_whole:
            self._change()
            self._is_whole = True

    def _change(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._line()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


@pytest.fixture
def arguments(cluster: Cluster, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Of a session on the cluster, whose conftest.py takes notes."""
    cluster.restore()
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    # Nothing but pytest's own variables comes from the session.
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    (pytester.path / "notes").mkdir()
    pytester.makeconftest(CONFTEST.format(notes=str(pytester.path / "notes")))
    return ("--llem-cpu", "--llem-meter=none", f"--llem-ray={cluster.address}", "--benchmark-json=out.json")


def notes(pytester: pytest.Pytester) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (pytester.path / "notes" / "notes.jsonl").read_text().splitlines()]


def journal(pytester: pytest.Pytester) -> list[str]:
    lines = (pytester.path / ".benchmarks" / "llem-journal.jsonl").read_text().splitlines()
    return [json.loads(line)["nodeid"] for line in lines]


def is_running(pid: int) -> bool:
    """Whether a process is there, and not only its exit status."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def wait_until(is_so: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not is_so():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def test_each_load_runs_once_a_worker_one_that_dies_costs_nothing_and_the_rows_are_those_of_one_process(
    pytester: pytest.Pytester,
    write: Callable[..., Path],
    arguments: tuple[str, ...],
    saved: Callable[[], list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    extra = f"name: kills-its-worker\ndataset: {{path: prompts.jsonl, field: text}}\n{TWELVE}"
    write("files/of twelve.llem.yaml", extra, base=_without_dataset())
    (pytester.path / "files" / "prompts.jsonl").write_text('{"text": "one and"}\n{"text": "another"}\n')
    pytester.makepyfile(test_other="import os\ndef test_other():\n    assert os.path.exists('out')\n")
    (pytester.path / "out").touch()
    # More than is brought to a machine here, were it not left out.
    (pytester.path / "large").write_bytes(os.urandom(3 << 20))
    (pytester.path / ".rayignore").write_text("large\n")
    monkeypatch.setenv("RAY_max_grpc_message_size", str(2 << 20))
    result = pytester.runpytest_subprocess(*arguments, "--junitxml=junit.xml", "--llem-report=report.html")
    assert result.ret == 0
    result.assert_outcomes(passed=13)
    result.stdout.fnmatch_lines(["llem: *: lost while it ran *fp16-batch_size:3]: *"])
    machines = [line.split()[1] for line in result.outlines if "4 experiments of builtin:tiny-llama" in line]
    assert len(machines) == 3
    # Two are this machine.
    assert len(set(machines)) == 2
    assert sum("2 experiments of builtin:tiny-llama" in line for line in result.outlines) == 1
    assert f'name="llem.machine" value="{machines[0][:-1]}"' in (pytester.path / "junit.xml").read_text()
    noted = notes(pytester)
    children = [note for note in noted if note["name"] == "child"]
    of_cluster = [note for note in children if note["folder"] != str(pytester.path)]
    # Four on the cluster, as one was lost; the other is the session itself, for the test that measures nothing.
    assert (len(children), len(of_cluster)) == (5, 4)
    # What Ray sets in its workers, or the session in its own process, is not there.
    assert {(note["threads"], note["niceness"]) for note in of_cluster} == {(None, 0)}
    assert not any(note["folder"] in note["python_path"] for note in of_cluster)
    ran = Counter(note["name"] for note in noted if note["name"].startswith("kills"))
    assert sorted(ran.values()) == [1] * 11 + [2]
    for child in of_cluster:
        names = [note["name"] for note in noted if note["pid"] == child["pid"] and note is not child]
        assert len({name.partition("precision:")[2][:4] for name in names}) == 1
    assert len(journal(pytester)) == 12
    on_cluster = saved()
    assert sorted(journal(pytester)) == sorted({row["extra_info"]["nodeid"] for row in on_cluster})
    again = pytester.runpytest_subprocess(*arguments[:2], arguments[3])
    again.assert_outcomes(passed=13)
    # In the same order, too.
    assert _but_for_noise(on_cluster) == _but_for_noise(saved())


def _without_dataset() -> str:
    return "".join(line for line in TINY.splitlines(keepends=True) if not line.startswith("dataset"))


def _but_for_noise(rows: list[dict[str, Any]]) -> list[Any]:
    kept = ("name", "fullname", "group", "param", "params")
    info = ("metric", "unit", "workload_hash", "environment_hash", "nodeid")
    result = ("output_tokens", "input_tokens", "output_tokens_hash", "rounds", "meter", "valid", "warnings")
    return [
        [
            *(row[key] for key in kept),
            *(row["extra_info"][key] for key in info),
            *(row["extra_info"]["result"][key] for key in result),
        ]
        for row in rows
    ]


def test_ctrl_c_ends_all_resuming_measures_the_rest_and_the_first_failure_ends_that(
    pytester: pytest.Pytester, write: Callable[..., Path], arguments: tuple[str, ...]
) -> None:
    fails = "{name: fails, passthrough: {generate: {fault: raises-in-call-1}}}"
    write(extra=f"experiments: [{{name: first}}, {{name: waits}}, {fails}, {{name: last-waits}}]\n")
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", *arguments], cwd=pytester.path, stdout=subprocess.PIPE, text=True
    ) as process:
        wait_until(lambda: (pytester.path / "notes" / "waits-began").exists(), process)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED, output
    assert [nodeid.rpartition("::")[2] for nodeid in journal(pytester)] == ["first"]
    assert not any(_lives(note["pid"]) for note in notes(pytester))
    result = pytester.runpytest_subprocess(*arguments, "--llem-resume", "-x")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=2, failed=1)
    ran = Counter(note["name"] for note in notes(pytester) if note["name"] not in ("child", "last-waits"))
    assert ran == {"first": 1, "waits": 2, "fails": 1}
    assert not any(_lives(note["pid"]) for note in notes(pytester))


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_timeout_a_crash_a_skip_and_a_worker_that_always_dies_are_one_experiments_own(
    pytester: pytest.Pytester, write: Callable[..., Path], arguments: tuple[str, ...]
) -> None:
    faults = [
        "{name: dies, passthrough: {generate: {fault: kills-its-process}}}",
        "{name: hangs, timeout_s: 1, passthrough: {generate: {fault: hangs}}}",
        "{name: fails, passthrough: {generate: {fault: raises-in-call-1}}}",
        "{name: elsewhere, model: fake/runs-nowhere}",
        "{name: always-kills-its-worker}",
        "{name: fine}",
    ]
    write(extra=f"experiments: [{', '.join(faults)}]\n")
    result = pytester.runpytest_subprocess(*arguments, "-rs")
    result.assert_outcomes(passed=1, failed=4, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "the process of this experiment was ended by SIGKILL* (on *)",
            "timeout_s: still running after 1 s, so its process was killed (on *)",
            "the process of its Ray task died 3 times: * (on *)",
            # Where it stands in the session's folder, not in what was brought to the machine.
            "SKIPPED [[]1[]] tiny.llem.yaml:*: model 'fake/runs-nowhere': needs what this machine lacks",
        ]
    )
    ran = Counter(note["name"] for note in notes(pytester) if note["name"] != "child")
    assert (ran["always-kills-its-worker"], ran["fine"], ran["dies"]) == (3, 1, 1)


def test_what_a_verdict_leaves_open_is_measured_again_on_its_machine(
    pytester: pytest.Pytester, write: Callable[..., Path], arguments: tuple[str, ...]
) -> None:
    # While the other one runs on the first machine, this one is begun on the second.
    gated = "{name: gated, precision: fp16, compare: {latency: 5%}}"
    write(extra=f"experiments: [{{name: waits}}, {gated}]\n")
    # What is measured is always the same, and what was saved all over the place.
    conftest = pytester.path / "conftest.py"
    conftest.write_text(
        f"from tests.simulators import skip_waits\nskip_waits(counted=True)\n{conftest.read_text()}{GOES_ON}"
    )
    go_on = pytester.path / "notes" / "go-on"
    go_on.touch()
    arguments = (arguments[0], "--llem-meter=estimate", *arguments[2:])
    pytester.runpytest_subprocess(*arguments[:2], "--benchmark-autosave").assert_outcomes(passed=2)
    go_on.unlink()
    (pytester.path / "notes" / "waits-began").unlink()
    vary_history(pytester.path / ".benchmarks", runs=4, by=0.3)
    before = len(notes(pytester))
    result = pytester.runpytest_subprocess(*arguments)
    result.stdout.fnmatch_lines(["llem: inconclusive: measuring 1 again in a fresh process (run 2 of 3)"])
    again = [note for note in notes(pytester)[before:] if note["name"] == "gated"]
    assert len(again) == 3
    assert len({note["pid"] for note in again}) == 3
    assert len({note["machine"] for note in again}) == 1
    assert str(pytester.path) not in {note["folder"] for note in again}
    result.stdout.no_fnmatch_line("*ran something else*")


def test_without_an_address_ray_lives_and_dies_with_the_session(
    pytester: pytest.Pytester, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="llem-"))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setenv("HOME", str(pytester.path / "home"))
    (pytester.path / "notes").mkdir()
    pytester.makeconftest(
        CONFTEST.format(notes=str(pytester.path / "notes"))
        + """
def pytest_configure(config):
    before = set(os.environ.items())
    config.add_cleanup(lambda: (NOTES / "changed").write_text(repr(before ^ set(os.environ.items()))))
"""
    )
    write(extra="sweep: {precision: [fp32, fp16]}\n")
    result = pytester.runpytest_subprocess("--llem-cpu", "--llem-meter=none", "--llem-ray")
    assert result.ret == 0
    result.assert_outcomes(passed=2)
    children = [note for note in notes(pytester) if note["name"] == "child"]
    assert [(note["folder"], note["niceness"]) for note in children] == [(str(pytester.path), 0)] * 2
    assert (pytester.path / "notes" / "changed").read_text() == "set()"
    assert list(folder.iterdir()) == []
    folder.rmdir()
    assert not (pytester.path / "home" / ".ray").exists()
    assert not any(_lives(note["worker"]) for note in children)


def test_a_folder_that_is_too_large_says_what_to_do(
    pytester: pytest.Pytester, write: Callable[..., Path], arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    write()
    (pytester.path / "large").write_bytes(os.urandom(3 << 20))
    monkeypatch.setenv("RAY_max_grpc_message_size", str(2 << 20))
    result = pytester.runpytest_subprocess(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --llem-ray=*maximum size*list what experiments do not need in its .rayignore*"]
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--llem-ray", "auto"], "an address comes after ="),
        (["--llem-ray="], "its value is empty"),
        (["--llem-ray", "--llem-against=HEAD"], "--llem-against measures both sides"),
        (["--llem-ray", "--llem-bisect=a..b"], "--llem-bisect measures both sides"),
        (["--llem-ray", "--llem-budget=10"], "--llem-budget is spent on one load after the other"),
        (["--llem-ray", "--llem-merge=a.jsonl"], "--llem-merge runs nothing"),
        (["--llem-ray", "-n2", "-p", "xdist"], "add -n 0"),
        (["--llem-ray=ray://here:10001"], "run pytest on a machine of the cluster"),
        (["--llem-ray=127.0.0.1:1"], "--llem-ray=127.0.0.1:1: "),
        (["--llem-ray", "--llem-gpu"], "exclude each other"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    pytester: pytest.Pytester, write: Callable[..., Path], given: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write()
    if "xdist" in given:
        monkeypatch.setenv("PYTEST_ADDOPTS", os.environ["PYTEST_ADDOPTS"].replace("-p no:xdist", ""))
    # Ray is imported once a process.
    imports = given[0].startswith("--llem-ray=") and len(given[0]) > len("--llem-ray=")
    run = pytester.runpytest_subprocess if imports else pytester.runpytest_inprocess
    result = run("--llem-cpu", *given)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert said in result.stderr.str()


def test_sigterm_while_ray_starts_ends_the_session_as_ctrl_c_does(
    pytester: pytest.Pytester, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray has a handler of its own by then."""
    write()
    monkeypatch.setenv("TMPDIR", str(pytester.mkdir("temporary")))
    pytester.makeconftest(
        "import os, signal\n"
        "import ray._private.node\n"
        "ray._private.node.Node.__init__ = lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    result = pytester.runpytest_subprocess("--llem-cpu", "--llem-ray")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert list((pytester.path / "temporary").iterdir()) == []


def test_without_ray_it_is_a_usage_error_that_says_what_to_install(
    pytester: pytest.Pytester, write: Callable[..., Path]
) -> None:
    write()
    pytester.makeconftest("import sys\nsys.modules['ray'] = None\n")
    result = pytester.runpytest_subprocess("--llem-cpu", "--llem-ray")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "pip install 'pytest-llem[ray]'" in result.stderr.str()


def test_a_plan_says_that_its_times_are_of_one_machine(pytester: pytest.Pytester, write: Callable[..., Path]) -> None:
    write()
    result = pytester.runpytest_inprocess("--llem-cpu", "--llem-plan", "--llem-ray")
    assert result.ret == pytest.ExitCode.OK
    assert "these are the times of one machine" in result.stdout.str()


def test_without_a_device_it_is_a_usage_error(pytester: pytest.Pytester, write: Callable[..., Path]) -> None:
    write()
    result = pytester.runpytest_inprocess("--llem-ray")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "pass --llem-gpu or --llem-cpu with it" in result.stderr.str()


def test_each_load_sees_the_gpus_that_it_needs_and_no_others(
    pytester: pytest.Pytester, write: Callable[..., Path], arguments: tuple[str, ...]
) -> None:
    """As far as that is to be seen without any."""
    conftest = pytester.path / "conftest.py"
    conftest.write_text(
        f"{conftest.read_text()}\n"
        "import pytest_llem.records.machine, pytest_llem.session.state\n"
        "pytest_llem.records.machine.require_cuda = lambda: None\n"
        "pytest_llem.session.state.lock_visible_boards = lambda **_: None\n"
    )
    loads = [
        "{name: takes-one}",
        "{name: takes-two, pytorch: {device_map: auto, max_memory: {0: 1GiB, 1: 1GiB}}}",
        "{name: takes-three, pytorch: {device_map: auto, max_memory: {2: 1GiB}}}",
    ]
    write(extra=f"experiments: [{', '.join(loads)}]\n")
    result = pytester.runpytest_subprocess("--llem-gpu", *arguments[1:], "-rs")
    result.assert_outcomes(passed=2, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED * llem-ray: it needs 3 GPUs, and no machine * (most: 2 GPUs)"])
    gpus = {note["name"]: note["gpus"] for note in notes(pytester) if note["name"] != "child"}
    assert gpus["takes-one"] in ("0", "1")
    assert gpus["takes-two"] == "0,1"


def test_a_machine_that_dies_costs_no_result(
    pytester: pytest.Pytester, write: Callable[..., Path], arguments: tuple[str, ...], cluster: Cluster
) -> None:
    # One load a machine: both wait, so that the second machine is one of them.
    write(extra="sweep: {precision: [fp32, fp16]}\nname: waits\n")
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", *arguments], cwd=pytester.path, stdout=subprocess.PIPE, text=True
    ) as process:
        wait_until(lambda: len(list((pytester.path / "notes").glob("*-began"))) == 2, process)
        began = [note["pid"] for note in notes(pytester) if note["name"] != "child"]
        cluster.lose_second()
        # Its processes end a moment after it, and until then may still tell what they have finished.
        wait_until(lambda: not all(map(is_running, began)), process)
        (pytester.path / "notes" / "go-on").touch()
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert len(journal(pytester)) == len(set(journal(pytester))) == 2
    ran = Counter(note["name"] for note in notes(pytester) if note["name"] != "child")
    assert sorted(ran.values()) == [1, 2]

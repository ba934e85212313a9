"""Files that an attacker wrote: an experiment, and the model folders and adapters that it names."""

from __future__ import annotations

import csv
import inspect
import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.config import DecoderConfig, PyTorchConfig, load_experiments
from pytest_llem.engines.transformers import ignored
from tests.integration.transformers.conftest import change_json, without

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., pytest.RunResult]
    Write = Callable[..., Path]


def code(owned: Path) -> str:
    return f"import pathlib\npathlib.Path({str(owned)!r}).touch()\n"


class TestRemoteCode:
    @pytest.fixture
    def tampered(self, model: Path, owned: Path) -> Path:
        """A model whose every file asks for its own code."""
        (model / "own.py").write_text(
            code(owned) + "from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n\n"
            "class OwnConfig(LlamaConfig): ...\nclass OwnModel(LlamaForCausalLM): ...\n"
            "class OwnTokenizer(PreTrainedTokenizerFast): ...\n"
        )
        change_json(
            model / "config.json", auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
        )
        change_json(
            model / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"]}
        )
        (model / "custom_generate").mkdir()
        (model / "custom_generate" / "generate.py").write_text(code(owned) + "def generate(model, **_): ...\n")
        return model

    @pytest.mark.parametrize("unknown", [False, True], ids=["known-type", "unknown-type"])
    def test_it_does_not_run_unless_the_file_says_so(
        self, run: Run, write: Write, tampered: Path, owned: Path, unknown: bool
    ) -> None:
        if unknown:
            change_json(tampered / "config.json", model_type="own")
        write(extra="model: ./model\n", base=without("model"))
        result = run()
        assert not owned.exists()
        if unknown:
            result.assert_outcomes(errors=1)
            result.stdout.fnmatch_lines(["*Python code of its own*pytorch.trust_remote_code: true*"])

    def test_where_it_may_run_the_result_and_the_report_say_so(
        self, write: Write, tampered: Path, owned: Path, pytester: pytest.Pytester, saved: Any
    ) -> None:
        shutil.rmtree(tampered / "custom_generate")
        change_json(tampered / "config.json", auto_map={"AutoModelForCausalLM": "own.OwnModel"})
        change_json(tampered / "tokenizer_config.json", auto_map={})
        write(extra="model: ./model\npytorch: {trust_remote_code: true}\n", base=without("model"))
        result = pytester.runpytest_subprocess("--llem-cpu", "--benchmark-json=out.json", "--llem-report=report.html")
        result.assert_outcomes(passed=1)
        assert owned.exists()
        result.stdout.fnmatch_lines(["tiny: pytorch.trust_remote_code: *was allowed to run"])
        warnings = saved()[0]["extra_info"]["result"]["warnings"]
        assert any(warning.startswith("pytorch.trust_remote_code:") for warning in warnings)
        assert "was allowed to run" in (pytester.path / "report.html").read_text()

    def test_a_kernel_of_the_hub_needs_it_too(self, run: Run, write: Write) -> None:
        write(extra="pytorch: {attn_implementation: org/kernel}\n")
        result = run()
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["tiny.llem.yaml:*attn_implementation*set trust_remote_code: true*"])


# Arguments of from_pretrained() that a file may give: they decide what is loaded and how, and neither run foreign code
# nor write anything.
FROM_PRETRAINED = {
    *("disable_mmap", "experts_implementation", "force_download", "fusion_config", "ignore_mismatched_sizes"),
    *("key_mapping", "local_files_only", "offload_buffers", "subfolder", "variant"),
}


class TestPassthrough:
    @pytest.fixture
    def refused(self, tmp_path: Path) -> Callable[..., bool]:
        """Whether a file that passes this argument on is refused."""

        def is_refused(section: str, argument: str, value: str = "x") -> bool:
            path = tmp_path / "a.llem.yaml"
            path.write_text(f"model: gpt2\npassthrough: {{{section}: {{{argument}: {value}}}}}\n")
            errors = load_experiments(path)[0].errors
            return any(f"passthrough.{section}.{argument}: " in message for message in errors)

        return is_refused

    def test_every_argument_of_from_pretrained_is_decided(self, refused: Callable[..., bool]) -> None:
        from transformers import AutoModelForCausalLM, PreTrainedModel

        known: set[str] = set()
        for function in (PreTrainedModel.from_pretrained, AutoModelForCausalLM.from_pretrained):
            known |= set(re.findall(r'kwargs\.(?:pop|get|setdefault)\(\s*"(\w+)"', inspect.getsource(function)))
            known |= {
                name
                for name, parameter in inspect.signature(function).parameters.items()
                if parameter.kind is parameter.POSITIONAL_OR_KEYWORD or parameter.kind is parameter.KEYWORD_ONLY
            }
        assert {"code_revision", "weights_only", "token", "trust_remote_code", "offload_folder"} <= known
        undecided = {
            name
            for name in known - FROM_PRETRAINED - set(ignored._FROM_PRETRAINED)
            if not refused("from_pretrained", name)
        }
        assert not undecided
        assert not {name for name in FROM_PRETRAINED if refused("from_pretrained", name)}

    @pytest.mark.parametrize(
        "argument",
        [
            *(
                "allow_all_kernels",
                "cache_dir",
                "code_revision",
                "config",
                "kernel_config",
                "offload_folder",
                "proxies",
            ),
            *("quantization_config", "revision", "state_dict", "token", "trust_remote_code", "use_kernels"),
            *("use_safetensors", "weights_only", "_commit_hash", "_from_auto", "_adapter_model_path"),
        ],
    )
    def test_what_runs_code_writes_or_holds_secrets_is_refused(
        self, refused: Callable[..., bool], argument: str
    ) -> None:
        assert refused("from_pretrained", argument)

    @pytest.mark.parametrize(
        "argument",
        [
            *("custom_generate", "trust_remote_code", "assistant_model", "generation_config", "logits_processor"),
            *(
                "stopping_criteria",
                "prefix_allowed_tokens_fn",
                "streamer",
                "tokenizer",
                "compile_config",
                "penalty_alpha",
            ),
            *(
                "num_beam_groups",
                "dola_layers",
                "constraints",
                "force_words_ids",
                "inputs_embeds",
                "_from_model_config",
            ),
        ],
    )
    def test_so_it_is_of_generate(self, refused: Callable[..., bool], argument: str) -> None:
        assert refused("generate", argument)

    def test_fields_are_not_passed_by_another_way(self, refused: Callable[..., bool]) -> None:
        for field in {*PyTorchConfig.model_fields, *DecoderConfig.model_fields}:
            assert refused("from_pretrained", field)
            assert refused("generate", field)


class TestOutput:
    HOSTILE = "\x1b]0;owned\x07<img src=x onerror=alert(1)>"

    def test_names_and_values_stay_text(
        self, write: Write, model: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        summary = pytester.path / "summary.md"
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
        model.rename(pytester.path / self.HOSTILE)
        escaped = self.HOSTILE.replace("\x1b", "\\e").replace("\x07", "\\a")
        write("=cmd().llem.yaml", f'name: tiny\nsweep: {{model: ["./{escaped}"]}}\n', base=without("model"))
        result = pytester.runpytest_subprocess(
            "--llem-cpu",
            *("--llem-report=report.html", "--llem-csv=table.csv", "--junitxml=junit.xml", "--benchmark-json=out.json"),
            *("--llem-fail=latency:5%", "--color=no"),
        )
        result.assert_outcomes(passed=1)
        _is_text(result.stdout.str())
        page = (pytester.path / "report.html").read_text()
        assert "<img" not in page
        _is_text(page)
        assert "&lt;img" in page
        assert "\x1b" not in (pytester.path / "junit.xml").read_text()
        _is_text(summary.read_text())
        assert "<img" not in summary.read_text()
        table = (pytester.path / "table.csv").read_text().splitlines()
        cells = [cell for row in csv.reader(table) for cell in row]
        assert any(cell.startswith("'=cmd()") for cell in cells)
        assert not any(cell.startswith(("=", "@")) for cell in cells)

    def test_plans_and_messages_stay_text(self, run: Run, write: Write, pytester: pytest.Pytester) -> None:
        write("a.llem.yaml", 'model: "\\e[2J\\n::error::owned"\n', base=without("model"))
        write(
            "b.llem.yaml",
            'model: a\n"\\e[2J\\n::error::owned": 1\npytorch: {attn_implementation: "\\e[2J/x"}\n',
            base="",
        )
        write("c.llem.yaml", "dataset: {path: prompts.jsonl}\n", base=without("dataset"))
        (pytester.path / "prompts.jsonl").write_text(json.dumps({"\x1b[2J\n::error::owned": "x"}))
        for arguments in (("--llem-plan",), ()):
            result = run(*arguments, "--color=no")
            assert result.ret == pytest.ExitCode.TESTS_FAILED
            _is_text(result.stdout.str())
            result.stdout.fnmatch_lines([r"*\x1b?2J*"])

    def test_names_lead_nowhere(self, run: Run, write: Write) -> None:
        write(extra="name: ../../owned\n")
        result = run("--benchmark-histogram")
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["tiny.llem.yaml:*name: '../../owned' is not a name*"])


class TestFiles:
    def test_devices_and_pipes_are_not_read(
        self, run: Run, write: Write, model: Path, pytester: pytest.Pytester
    ) -> None:
        (pytester.path / "zero.txt").symlink_to("/dev/zero")
        write("a.llem.yaml", "dataset: {path: zero.txt}\n", base=without("dataset"))
        write("b.llem.yaml", "base: /dev/zero\n")
        result = run("--continue-on-collection-errors")
        result.assert_outcomes(failed=1, errors=1)
        result.stdout.fnmatch_lines(["a.llem.yaml:1: *zero.txt: cannot be read: not a file"])
        result.stdout.fnmatch_lines(["*/dev/zero:1: cannot be read: not a file*"])

    def test_the_hub_is_not_asked_when_it_is_switched_off(
        self, write: Write, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setenv("HF_HOME", str(pytester.path / "hub"))
        write(extra="model: nobody/nothing\n", base=without("model"))
        result = pytester.runpytest_subprocess("--llem-cpu")
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["*'nobody/nothing'*not in the cache*HF_HUB_OFFLINE*"])
        result.stdout.no_fnmatch_line("*Retrying*")
        result.stderr.no_fnmatch_line("*Retrying*")


def _is_text(output: str) -> None:
    """No escape sequence, and no line that a CI server takes for the attacker's command."""
    assert "\x1b" not in output
    assert "\x07" not in output
    assert not [line for line in output.splitlines() if line.startswith("::") and "owned" in line]

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_llem.config import ExperimentConfig
from pytest_llem.config.data import builtin_dataset_names
from pytest_llem.engines.prompts import Prompts, load_prompts, synthetic_token_ids
from pytest_llem.errors import PromptError


class Characters:
    """One token a character."""

    chat_template = None

    def __len__(self) -> int:
        return 2**16

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [ord(character) for character in text]}


def load(
    folder: Path = Path(),
    tokenizer: Any = Characters(),  # noqa: B008
    vocabulary_size: int = 2**16,
    **fields: Any,
) -> Prompts:
    config = ExperimentConfig.model_validate({"model": "builtin:tiny-llama"} | fields)
    return load_prompts(
        config, folder, vocabulary_size=vocabulary_size, special_ids={256, 257, 258}, tokenizer=tokenizer
    )


class TestSynthetic:
    def test_number_and_length_are_exact(self) -> None:
        prompts = load(dataset={"synthetic": {"n": 5, "input_len": 17}})
        assert [len(ids) for ids in prompts.token_ids] == [17] * 5
        assert prompts.input_tokens == 85
        assert prompts.truncated == 0

    def test_length_defaults_to_max_input_tokens(self) -> None:
        prompts = load(dataset={"synthetic": {"n": 1}}, max_input_tokens=9)
        assert prompts.input_tokens == 9

    def test_seed_defaults_to_the_experiments(self) -> None:
        own = load(dataset={"synthetic": {"n": 2, "seed": 5}}, random_seed=1)
        default = load(dataset={"synthetic": {"n": 2}}, random_seed=5)
        other = load(dataset={"synthetic": {"n": 2}}, random_seed=1)
        assert own == default
        assert own != other

    def test_ids_cover_the_vocabulary_without_the_special_ones(self) -> None:
        ids = {id_ for prompt in synthetic_token_ids([100] * 40, 0, 12, {0, 5, 11, 99}) for id_ in prompt}
        assert ids == {1, 2, 3, 4, 6, 7, 8, 9, 10}

    def test_ids_are_drawn_uniformly(self) -> None:
        (ids,) = synthetic_token_ids([9000], 0, 12, {0, 5, 11})
        for id_ in set(ids):
            assert ids.count(id_) == pytest.approx(1000, rel=0.1)  # three standard deviations

    def test_ids_are_the_same_on_every_machine(self) -> None:
        assert synthetic_token_ids([4, 4], 42, 32000, {0, 1, 2}) == (
            (20462, 803, 8803, 7145),
            (23567, 21655, 28550, 2784),
        )

    def test_a_vocabulary_of_special_tokens_only_is_refused(self) -> None:
        with pytest.raises(PromptError, match="no ordinary token"):
            synthetic_token_ids([1], 0, 2, {0, 1})


class TestFile:
    def test_json_lines_in_order_with_their_field(self, tmp_path: Path) -> None:
        lines = [{"text": "one"}, {"text": "two\u2028lines", "other": 1}]
        (tmp_path / "p.jsonl").write_text("\n\n".join(map(json.dumps, lines)) + "\n")
        prompts = load(tmp_path, dataset={"path": "p.jsonl", "field": "text"})
        assert ["".join(map(chr, ids)) for ids in prompts.token_ids] == ["one", "two\u2028lines"]

    def test_separators_inside_a_json_string_do_not_end_the_line(self, tmp_path: Path) -> None:
        (tmp_path / "p.jsonl").write_text('{"prompt": "a\u2028b\x85c"}\n', encoding="utf-8")
        prompts = load(tmp_path, dataset={"path": "p.jsonl"})
        assert prompts.token_ids == (tuple(map(ord, "a\u2028b\x85c")),)

    def test_text_has_one_prompt_a_line(self, tmp_path: Path) -> None:
        (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbfone\r\n\r\ntwo\n")
        prompts = load(tmp_path, dataset={"path": "p.txt"})
        assert ["".join(map(chr, ids)) for ids in prompts.token_ids] == ["one", "two"]

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ('{"prompt": "x', "p.jsonl:2: not JSON: Unterminated string starting at at column 12"),
            ("[1]", "p.jsonl:2: expected a JSON object, found list"),
            ('{"promt": "x"}', "p.jsonl:2: no field 'prompt': did you mean 'promt'? there is promt"),
            ('{"prompt": 3}', "p.jsonl:2: field 'prompt' is not a text, or is empty"),
            ('{"prompt": ""}', "p.jsonl:2: field 'prompt' is not a text, or is empty"),
            ("[" * 100_000, "p.jsonl:2: not JSON: "),
            (
                r'{"prompt": "smile \ud83d"}',
                r"p.jsonl:2: field 'prompt' holds half a character (\ud83d) after 6 others: ",
            ),
            (r'{"prompt": "\udc00"}', r"p.jsonl:2: field 'prompt' holds half a character (\udc00) after 0 others: "),
        ],
        ids=["syntax", "list", "field", "number", "empty", "deep", "first-half", "second-half"],
    )
    def test_a_malformed_line_is_named(self, tmp_path: Path, line: str, message: str) -> None:
        (tmp_path / "p.jsonl").write_text(f'{{"prompt": "fine"}}\n{line}\n')
        with pytest.raises(PromptError) as error:
            load(tmp_path, dataset={"path": "p.jsonl"})
        assert message in str(error.value)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("p.jsonl", b"\n", "holds no prompts"),
            ("p.txt", b"", "holds no prompts"),
            ("p.txt", b"a\r\n\ncaf\xe9\nb", r"p\.txt:3: is not UTF-8"),
            ("p.jsonl", b'\xef\xbb\xbf{"prompt": "a"}\n{"prompt": "\xed\xa0\xbd"}', r"p\.jsonl:2: is not UTF-8"),
            ("p.csv", b"a", "no column .prompt.: there is a"),
            ("p.csv", b"a," * 10**5 + b"b", r"no column .prompt.: there is (a, )+\.\.\.$"),
            ("p.md", b"a", "prompts are read from .jsonl"),
        ],
        ids=["blank", "empty", "latin-1", "surrogate", "csv", "wide", "md"],
    )
    def test_a_file_that_cannot_be_used(self, tmp_path: Path, name: str, content: bytes, message: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PromptError, match=message):
            load(tmp_path, dataset={"path": name})

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(PromptError, match=r"none\.txt: cannot be read: No such file"):
            load(tmp_path, dataset={"path": "none.txt"})

    def test_a_model_without_a_tokenizer(self, tmp_path: Path) -> None:
        (tmp_path / "p.txt").write_text("one\n")
        with pytest.raises(PromptError, match="without a tokenizer"):
            load(tmp_path, tokenizer=None, dataset={"path": "p.txt"})

    def test_the_end_of_a_long_prompt_is_cut_and_counted(self, tmp_path: Path) -> None:
        (tmp_path / "p.txt").write_text("abcdef\nabcd\n")
        prompts = load(tmp_path, dataset={"path": "p.txt"}, max_input_tokens=4)
        assert prompts.token_ids == (tuple(map(ord, "abcd")),) * 2
        assert prompts.truncated == 1

    def test_a_token_that_the_model_does_not_embed_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "p.txt").write_text("fine\n\nabcé\n", encoding="utf-8")
        dataset: dict[str, Any] = {"path": "p.txt", "shuffle": True, "seed": 1}
        load(tmp_path, vocabulary_size=ord("é") + 1, dataset=dataset)
        # What is cut off never reaches the model.
        load(tmp_path, vocabulary_size=ord("é"), dataset=dataset, max_input_tokens=3)
        message = (
            r"p\.txt:3: prompt 1: has the token id 233, but the model embeds 233 tokens, and its tokenizer has 65536"
        )
        with pytest.raises(PromptError, match=message):
            load(tmp_path, vocabulary_size=ord("é"), dataset=dataset)

    def test_a_text_of_no_tokens_is_named(self, tmp_path: Path) -> None:
        class Deaf(Characters):
            def __call__(self, text: str) -> dict[str, list[int]]:
                return {"input_ids": []}

        (tmp_path / "p.txt").write_text("\none\n")
        with pytest.raises(PromptError, match=r"p\.txt:2: prompt 1: has no tokens"):
            load(tmp_path, Deaf(), dataset={"path": "p.txt"})


class TestOrder:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "p.txt").write_text("\n".join("abcdefgh"))
        return tmp_path

    @staticmethod
    def order(folder: Path, random_seed: int = 42, **dataset: Any) -> str:
        prompts = load(folder, dataset={"path": "p.txt", **dataset}, random_seed=random_seed)
        return "".join(chr(id_) for (id_,) in prompts.token_ids)

    def test_the_first_n_in_the_files_order(self, folder: Path) -> None:
        assert self.order(folder, n=3) == "abc"
        assert self.order(folder, n=8) == self.order(folder) == "abcdefgh"

    def test_a_seed_decides_the_order_on_every_machine(self, folder: Path) -> None:
        assert self.order(folder, shuffle=True, seed=1) == "dgbfhaec"
        assert self.order(folder, shuffle=True, seed=2) != "dgbfhaec"

    def test_the_seed_defaults_to_the_experiments(self, folder: Path) -> None:
        assert self.order(folder, random_seed=1, shuffle=True) == self.order(folder, shuffle=True, seed=1)

    def test_the_first_n_are_those_of_the_shuffled_order(self, folder: Path) -> None:
        assert self.order(folder, n=3, shuffle=True, seed=1) == self.order(folder, shuffle=True, seed=1)[:3]

    def test_more_than_there_are_is_refused(self, folder: Path) -> None:
        with pytest.raises(PromptError, match=r"p\.txt: holds 8 prompts, fewer than n \(9\); lower n"):
            self.order(folder, n=9)
        with pytest.raises(PromptError, match=r"'natural': holds 240 prompts, fewer than n \(999\)"):
            load(dataset={"builtin": "natural", "n": 999})

    def test_a_builtin_set_has_an_order_too(self) -> None:
        whole = load(dataset="natural").token_ids
        assert load(dataset={"builtin": "natural"}).token_ids == whole
        shuffled = load(dataset={"builtin": "natural", "shuffle": True, "seed": 3}).token_ids
        assert shuffled != whole
        assert sorted(shuffled) == sorted(whole)
        assert load(dataset={"builtin": "natural", "n": 5, "shuffle": True, "seed": 3}).token_ids == shuffled[:5]


def test_the_natural_set_is_there() -> None:
    assert "natural" in builtin_dataset_names()
    assert len(load(dataset="natural", max_input_tokens=16).token_ids) >= 200


def test_the_hash_tells_prompts_from_each_other() -> None:
    hashes = {
        Prompts(ids, 0).sha256()
        for ids in (((1, 2), (3,)), ((1,), (2, 3)), ((1, 2, 3),), ((3,), (1, 2)), ((12,), (3,)))
    }
    assert len(hashes) == 5


def test_a_call_is_as_long_as_its_longest_prompt_and_its_longest_output() -> None:
    prompts = Prompts(((0,) * 900, (0,) * 50, (0,) * 10), 0, output_tokens=(50, 900, 10))
    assert prompts.longest_call(7) in {(900, 50), (50, 900)}
    assert prompts.longest_call(7, prompts=2) == (900, 900)
    assert Prompts(prompts.token_ids, 0).longest_call(7, prompts=2) == (900, 7)

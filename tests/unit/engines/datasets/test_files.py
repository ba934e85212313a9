"""Files as records: what each kind gives, which line is named, and how much is read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pytest_llem.engines.datasets import files
from pytest_llem.errors import LlemError, PromptError, UnavailableError
from tests.unit.engines.test_prompts import load

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def texts(folder: Path, name: str, **dataset: Any) -> list[str]:
    prompts = load(folder, dataset={"path": name, **dataset})
    return ["".join(map(chr, ids)) for ids in prompts.token_ids]


def refused(folder: Path, name: str, **dataset: Any) -> str:
    with pytest.raises(LlemError) as error:
        texts(folder, name, **dataset)
    return str(error.value).replace(f"{folder}/", "")


class TestTables:
    def test_the_column_of_a_csv_file(self, tmp_path: Path) -> None:
        (tmp_path / "p.csv").write_bytes(
            b'\xef\xbb\xbfid,prompt\r\n1,"two\nlines, and ""quotes"""\r\n\r\n2,\xc3\xa9\r\n'
        )
        assert texts(tmp_path, "p.csv") == ['two\nlines, and "quotes"', "é"]
        assert texts(tmp_path, "p.csv", field="id") == ["1", "2"]

    def test_tabs(self, tmp_path: Path) -> None:
        (tmp_path / "p.tsv").write_text("text\tkind\na, b\tx\n")
        assert texts(tmp_path, "p.tsv", field="text") == ["a, b"]

    def test_a_text_longer_than_the_csv_modules_own_limit(self, tmp_path: Path) -> None:
        (tmp_path / "p.csv").write_text(f"prompt\n{'x' * 200_000}\n")
        assert load(tmp_path, dataset={"path": "p.csv"}, max_input_tokens=300_000).input_tokens == 200_000

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("promt,id\nx,1\n", "p.csv:1: no column 'prompt': did you mean 'promt'? there is promt, id"),
            ('prompt,id\n"a\nb",1\nc\n', "p.csv:4: has 1 columns, and the header 2; put texts in quotes"),
            ("prompt,id\na,1\nb,2,3\n", "p.csv:3: has 3 columns, and the header 2; put texts in quotes"),
            ('prompt,id\na,1\n"b,2\nc,3\n', "p.csv:3: not CSV: unexpected end of data"),
            ("prompt,id\na,1\n,2\n", "p.csv:3: field 'prompt' is not a text, or is empty"),
            ("prompt,prompt\na,b\n", "p.csv:1: has 2 columns 'prompt'; rename all but one"),
            ("prompt\n", "p.csv: holds no prompts"),
            ("", "p.csv:1: no column 'prompt': there is nothing"),
            # The text of a list is no list.
            ("messages\n[]\n", "p.csv:2: no field 'prompt': there is messages"),
        ],
    )
    def test_a_row_that_is_wrong_is_named(self, tmp_path: Path, content: str, message: str) -> None:
        (tmp_path / "p.csv").write_text(content)
        assert refused(tmp_path, "p.csv") == message

    def test_bytes_that_are_no_text_are_named_by_line(self, tmp_path: Path) -> None:
        (tmp_path / "p.csv").write_bytes(b"prompt\na\ncaf\xe9\n")
        assert refused(tmp_path, "p.csv").startswith("p.csv:3: is not UTF-8: ")

    @pytest.fixture
    def parquet(self, tmp_path: Path) -> Path:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        columns = {
            "prompt": ["one", "two", ""],
            "tokens": [3.0, None, 4.0],
            "messages": [[{"role": "user", "content": "hi", "name": None}]] * 3,
        }
        parquet.write_table(pyarrow.table(columns), tmp_path / "p.parquet")
        return tmp_path

    def test_the_column_of_a_parquet_file(self, parquet: Path) -> None:
        assert texts(parquet, "p.parquet", n=2) == ["one", "two"]
        assert refused(parquet, "p.parquet") == "p.parquet:3: field 'prompt' is not a text, or is empty"
        assert refused(parquet, "p.parquet", field="promt") == (
            "p.parquet: no column 'promt': did you mean 'prompt'? there is prompt, tokens, messages"
        )
        # pandas makes floats of whole numbers, where one is missing.
        one = load(parquet, dataset={"path": "p.parquet", "output_field": "tokens", "n": 1})
        assert one.output_tokens == (3,)
        assert refused(parquet, "p.parquet", output_field="tokens") == (
            "p.parquet:2: field 'tokens' is no number of tokens, from 1 on: nothing"
        )

    def test_only_the_wanted_columns_are_read(self, parquet: Path) -> None:
        (record, *_) = files.records(parquet / "p.parquet", lambda there: [there[1]])
        assert record.content == {"tokens": 3.0}

    def test_another_file_called_parquet(self, tmp_path: Path) -> None:
        pytest.importorskip("pyarrow")
        (tmp_path / "p.parquet").write_text("PAR1 but not really")
        assert refused(tmp_path, "p.parquet").startswith("p.parquet: is no Parquet file that can be read: ArrowInvalid")

    def test_without_pyarrow_it_says_what_to_install(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
        with pytest.raises(UnavailableError, match=r"needs pyarrow: pip install 'pytest-llem\[parquet\]'"):
            texts(tmp_path, "p.parquet")


class TestFolder:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "p").mkdir()
        for name, text in {"b.txt": "two\n\nlines\n", "a.md": "one", ".DS_Store": "hidden"}.items():
            (tmp_path / "p" / name).write_text(text)
        return tmp_path

    def test_each_file_is_a_prompt_in_the_order_of_their_names(self, folder: Path) -> None:
        assert texts(folder, "p") == texts(folder, "p/") == ["one", "two\n\nlines"]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b" \n", "p/c.txt: holds no text; remove it"),
            (b"fine\n\xff\n", "p/c.txt:2: is not UTF-8: invalid start byte; save the file as UTF-8"),
        ],
    )
    def test_a_file_that_is_no_text_is_named(self, folder: Path, content: bytes, message: str) -> None:
        (folder / "p" / "c.txt").write_bytes(content)
        assert refused(folder, "p") == message

    def test_what_is_not_read_is_named(self, folder: Path) -> None:
        (folder / "p" / "c").mkdir()
        assert refused(folder, "p").startswith("p/c: is a folder in a folder of prompts")
        assert refused(folder, "p", field="text").startswith("dataset.field: has no effect on a folder of texts")

    def test_a_file_of_many_prompts_is_not_taken_for_one(self, folder: Path) -> None:
        (folder / "p" / "a.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
        assert refused(folder, "p").startswith("p/a.jsonl: holds many records")

    def test_an_empty_one(self, tmp_path: Path) -> None:
        (tmp_path / "p").mkdir()
        assert refused(tmp_path, "p") == "p: holds no prompts"


class TestList:
    """A .json file, which is one list, however it is laid out."""

    ENTRIES: Sequence[dict[str, Any]] = [{"prompt": f"{number}: [], {{}} \u2028"} for number in range(5)]

    @pytest.mark.parametrize("indent", [None, 2])
    @pytest.mark.parametrize("chunk", [1, 7, 2**20])
    def test_its_objects(self, tmp_path: Path, indent: int | None, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files, "_CHUNK_CHARACTERS", chunk)
        (tmp_path / "p.json").write_text(json.dumps(self.ENTRIES, indent=indent, ensure_ascii=False))
        assert texts(tmp_path, "p.json") == [entry["prompt"] for entry in self.ENTRIES]

    def test_lines_of_objects_will_do(self, tmp_path: Path) -> None:
        (tmp_path / "p.json").write_text("\n".join(map(json.dumps, self.ENTRIES)))
        assert len(texts(tmp_path, "p.json")) == 5

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('[\n{"prompt": "a"},\n{"prompt": ""}\n]', "p.json:3: field 'prompt' is not a text, or is empty"),
            ('[\n{"prompt": "a"},\n\n3]', "p.json:4: expected a JSON object, found int"),
            ('[{"prompt": "a"},\n{"prompt": "b"', "p.json:2: not JSON: Expecting ',' delimiter at column 15"),
            ('[{"prompt":\n"a"},\n{"prompt": "b\xff"}]', "p.json:3: is not UTF-8"),
            ("[" * 100_000, "p.json:1: not JSON: "),
            ("[]", "p.json: holds no prompts"),
            ('[{"prompt": "a"}] x', "p.json:1: not JSON: "),
        ],
    )
    def test_what_is_wrong_is_named_by_its_line(self, tmp_path: Path, content: str, message: str) -> None:
        (tmp_path / "p.json").write_text(content, encoding="latin-1")
        assert refused(tmp_path, "p.json").startswith(message)


@pytest.mark.parametrize("name", ["p.jsonl", "p.txt", "p.csv", "p.json"])
def test_what_comes_after_the_first_n_is_not_read(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_CHUNK_CHARACTERS", 8)
    lines = {
        "p.jsonl": b'{"prompt": "a"}\n{"prompt": "b"}\n',
        "p.txt": b"a\nb\n",
        "p.csv": b"prompt\na\nb\n",
        "p.json": b'[{"prompt": "a"},{"prompt": "b"},\n',
    }
    (tmp_path / name).write_bytes(lines[name] + b"\xff" * 9000)
    assert texts(tmp_path, name, n=2) == ["a", "b"]
    assert "is not UTF-8" in refused(tmp_path, name, n=3)
    # The order is known once all are.
    assert "is not UTF-8" in refused(tmp_path, name, n=2, shuffle=True)


@pytest.mark.parametrize("name", [f"{'x' * 300}.jsonl", "a\0b.jsonl", "none.parquet"])
def test_a_name_that_no_file_has(tmp_path: Path, name: str) -> None:
    assert ": cannot be read: " in refused(tmp_path, name)


def test_a_line_without_an_end_is_no_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_MOST_CHARACTERS", 100)
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n' + "x" * 1000)
    with pytest.raises(PromptError, match=r"p\.jsonl:2: is longer than 100 characters"):
        texts(tmp_path, "p.jsonl")

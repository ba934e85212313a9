"""What exporters find out before anything is measured."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pytest_llem.errors import UnavailableError
from pytest_llem.exporters import open_exporter
from pytest_llem.exporters.base import require_package, require_reachable, without_secret
from pytest_llem.writable import require_replaceable


def test_a_package_that_is_missing_is_named_with_the_way_to_install_it() -> None:
    require_package("parquet", "json")
    with pytest.raises(UnavailableError, match=r"^nowhere is not installed: pip install 'pytest-llem\[parquet\]'$"):
        require_package("parquet", "nowhere")
    with pytest.raises(UnavailableError, match=r"^json\.nowhere\.deeper is not installed: "):
        require_package("parquet", "json.nowhere.deeper")


def test_a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/path"
        require_reachable(url)
    with pytest.raises(UnavailableError, match=r"^127\.0\.0\.1:[0-9]+ cannot be reached: Connection refused$"):
        require_reachable(url)


@pytest.mark.parametrize("url", ["http://", "http://host:port/", "ftp://host", "http://[::1"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(UnavailableError, match="is no URL; write for example"):
        require_reachable(url)


def test_behind_a_proxy_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.2")
    require_reachable("http://127.0.0.1:1")
    with pytest.raises(UnavailableError):
        require_reachable("http://127.0.0.2:1")


def test_no_password_is_shown() -> None:
    assert (
        without_secret("mlflow:postgresql://u:p@host/db, http://a@b") == "mlflow:postgresql://***@host/db, http://***@b"
    )
    assert without_secret("http://host/a@b") == "http://host/a@b"


@pytest.mark.parametrize(
    ("name", "target", "problem"),
    [
        ("prometheus", "localhost:9091", "'localhost:9091' is neither a URL .* nor a file that ends in .prom"),
        ("otlp", "localhost:4318", "'localhost:4318' is no URL; write for example http://localhost:4318"),
        ("promteheus", "x", r"unknown exporter 'promteheus'; use one of prometheus, .*; did you mean prometheus\?"),
    ],
)
def test_a_target_that_is_none(name: str, target: str, problem: str) -> None:
    with pytest.raises(UnavailableError, match=problem):
        open_exporter(name, target)


def test_a_file_that_could_not_take_the_place_of_the_old_one_is_known_before(tmp_path: Path) -> None:
    require_replaceable(tmp_path / "deep" / "a")
    assert list((tmp_path / "deep").iterdir()) == []
    (tmp_path / "b.new").mkdir()
    with pytest.raises(IsADirectoryError):
        require_replaceable(tmp_path / "b")


def test_no_device_is_replaced() -> None:
    with pytest.raises(OSError, match="not a regular file"):
        require_replaceable(Path("/dev/null"))

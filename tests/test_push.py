"""Bundles on a hub, in a store and on the web: pushed, loaded, kept in the cache.

The hub, the bucket and the web are on loopback.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import flaky
import pytest
import torch
from flaky import Fault
from hub import Hub
from hub import hub as running_hub
from test_export import make_run
from typer.testing import CliRunner

import raudio
from raudio.cli.main import app
from raudio.core import storage
from raudio.core.errors import ConfigError, RunError
from raudio.export.bundle import CHECKSUMS, WEIGHTS, read_bundle
from raudio.export.make import export
from raudio.export.remote import push, shown

pytest.importorskip("huggingface_hub")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run", {"0000": 0.5, "0001": 0.75})


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(run, tmp_path_factory.mktemp("bundles") / "best")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAUDIO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bundles"


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(other[name], tensor) for name, tensor in one.items())


# --- the Hub -----------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    with running_hub() as state:
        monkeypatch.setattr(constants, "ENDPOINT", state.url)
        template = f"{state.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", state.token)
        yield state


def test_pushed_to_the_hub_and_loaded_from_there(hub: Hub, bundle: Path, own_cache: Path) -> None:
    done = CliRunner().invoke(app, ["push", str(bundle), "hf://me/birds", "--private"])
    assert done.exit_code == 0, (done.output, done.exception)
    commit = hub.repositories["me/birds"].branches["main"]
    assert done.stdout == f"hf://me/birds@{commit}\n"
    assert hub.repositories["me/birds"].private
    files = hub.repositories["me/birds"].commits[commit]
    assert set(files) == {path.name for path in bundle.iterdir()} | {".gitattributes"}

    loaded = raudio.load("hf://me/birds")
    assert loaded.bundle.path == "hf://me/birds"
    assert same(loaded.bundle.weights, read_bundle(bundle).weights)
    assert len(list(own_cache.iterdir())) == 1, "no temporary folder is left"
    hub.requests.clear()
    read_bundle(f"hf://me/birds@{commit[:40]}")
    assert not [path for _, path in hub.requests if path.endswith(WEIGHTS)], "it is in the cache"


@pytest.mark.slow
def test_a_later_push_replaces_what_an_ensemble_had_more(
    hub: Hub, run: Path, bundle: Path, tmp_path: Path
) -> None:
    first = push(export(run, tmp_path / "two", top=2), "hf://me/birds")
    push(bundle, "hf://me/birds")
    repository = hub.repositories["me/birds"]
    newest = repository.commits[repository.branches["main"]]
    assert "weights-2.safetensors" not in newest
    assert len(read_bundle("hf://me/birds").members) == 1
    assert len(read_bundle(first).members) == 2, "an earlier commit is still what it was"
    push(bundle, "hf://me/birds@tried")
    assert len(read_bundle("hf://me/birds@tried").members) == 1


def test_what_the_hub_refuses(
    hub: Hub, bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    push(bundle, "hf://me/birds", private=True)
    with pytest.raises(RunError, match=r"hf://me/none' cannot be read: .* answers 401.*log in"):
        read_bundle("hf://me/none")
    with pytest.raises(RunError, match="no such repository or revision"):
        read_bundle("hf://me/birds@nowhere")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong_token")
    for attempt in (lambda: read_bundle("hf://me/birds"), lambda: push(bundle, "hf://me/other")):
        with pytest.raises(RunError, match=r"answers 401.*hf auth login") as caught:
            attempt()
        assert "hf_wrong_token" not in str(caught.value)
    for uri in ("hf://birds", "hf://a/b/c", "hf://me/birds@"):
        with pytest.raises(ConfigError, match=r"is hf://org/name\[@revision\]"):
            read_bundle(uri)


def test_a_file_that_was_changed_on_the_hub_is_refused(hub: Hub, bundle: Path) -> None:
    push(bundle, "hf://me/birds")
    repository = hub.repositories["me/birds"]
    files = dict(repository.commits[repository.branches["main"]])
    files[WEIGHTS] = files[WEIGHTS][:-1] + b"\0"
    files["model.py"] = b"print('hello')"  # never fetched
    repository.commit("main", files)
    with pytest.raises(RunError, match=f"'hf://me/birds' is damaged: {WEIGHTS} is not what"):
        read_bundle("hf://me/birds")
    assert not [path for _, path in hub.requests if "model.py" in path and "resolve" in path]


@pytest.mark.slow
def test_the_token_is_never_printed(hub: Hub, bundle: Path, tmp_path: Path) -> None:
    """Of the commands, as they are run, also when they fail."""
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HOME": str(tmp_path), "HF_TOKEN": hub.token}
    for token, status in ((hub.token, 0), ("hf_another_secret", 2)):
        done = subprocess.run(
            [sys.executable, "-m", "raudio.cli.main", "push", str(bundle), "hf://me/birds"],
            env=environment | {"HF_TOKEN": token},
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stderr
        assert token not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_without_the_library(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for attempt in (lambda: read_bundle("hf://me/x"), lambda: push(bundle, "hf://me/x")):
        with pytest.raises(ConfigError, match=r"pip install 'raudio\[hub\]'"):
            attempt()


# --- a store -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def front() -> Iterator[flaky.Proxy]:
    with flaky.s3() as front:
        yield front


@pytest.fixture
def store(front: flaky.Proxy, monkeypatch: pytest.MonkeyPatch) -> flaky.Proxy:
    for name, value in flaky.environment(front).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(storage, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(storage, "RETRY_SECONDS", 0.2)
    front.reset()
    return front


def test_exported_to_a_store_and_loaded_from_there(
    store: flaky.Proxy, run: Path, bundle: Path
) -> None:
    done = CliRunner().invoke(app, ["export", str(run), "--out", "s3://sounds/b/best"])
    assert done.exit_code == 0, (done.output, done.exception)
    assert done.stdout == "s3://sounds/b/best\n"
    written = [path for method, path in store.requests if method == "PUT"]
    assert written[-1].endswith(CHECKSUMS), "what makes it a bundle comes last"
    assert same(read_bundle("s3://sounds/b/best").weights, read_bundle(bundle).weights)
    again = CliRunner().invoke(app, ["export", str(run), "--out", "s3://sounds/b/best"])
    assert "exists already" in str(again.exception)
    with pytest.raises(RunError, match="exists already"):
        push(bundle, "s3://sounds/b/best")


def test_a_store_that_fails_has_no_bundle(store: flaky.Proxy, bundle: Path) -> None:
    store.reset(Fault("503", times=1000, method="PUT", path="metrics.json"))
    with pytest.raises(RunError, match=r"cannot write 's3://sounds/half': .*given up after"):
        push(bundle, "s3://sounds/half")
    store.reset()
    assert not storage.exists("s3://sounds/half")
    with pytest.raises(RunError, match="'s3://sounds/half': no bundle there"):
        read_bundle("s3://sounds/half")
    push(bundle, "s3://sounds/half")
    read_bundle("s3://sounds/half")


def test_the_cache_is_mended(store: flaky.Proxy, bundle: Path, own_cache: Path) -> None:
    push(bundle, "s3://sounds/mended")
    (folder,) = {read_bundle("s3://sounds/mended").folder}
    (folder / WEIGHTS).write_bytes(b"damaged")
    (folder / "model.py").write_text("print('hello')")
    assert same(read_bundle("s3://sounds/mended").weights, read_bundle(bundle).weights)
    store.reset()
    read_bundle("s3://sounds/mended")
    assert [path for method, path in store.requests if method == "GET"] == [
        "/sounds/mended/checksums.json"
    ]


# --- the web -----------------------------------------------------------------------------------


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server's address, and the folder that it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(_Quiet, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", folder
    server.shutdown()
    server.server_close()
    thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def test_loaded_from_the_web(web: tuple[str, Path], bundle: Path) -> None:
    url, folder = web
    (folder / "best").mkdir()
    for path in bundle.iterdir():
        (folder / "best" / path.name).write_bytes(path.read_bytes())
    for address in (f"{url}/best", f"{url}/best/"):
        assert same(read_bundle(address).weights, read_bundle(bundle).weights)
    with pytest.raises(RunError, match="no bundle there"):
        read_bundle(f"{url}/bets")
    (folder / "best" / CHECKSUMS).write_text('{"format_version": 9}')
    with pytest.raises(RunError, match="has format 9"):
        read_bundle(f"{url}/best")
    (folder / "best" / CHECKSUMS).write_text(
        '{"format_version": 1, "files": {"../../secret": "%s"}}' % ("0" * 64)
    )
    with pytest.raises(RunError, match="lists other files than a bundle's"):
        read_bundle(f"{url}/best")


def test_nothing_is_pushed_where_it_cannot_be(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing can be pushed to the web"):
        push(bundle, "https://example.org/b")
    with pytest.raises(ConfigError, match="is no URI"):
        push(bundle, str(tmp_path / "b"))
    with pytest.raises(ConfigError, match="write hf://org/name"):
        read_bundle("https://huggingface.co/me/birds")
    with pytest.raises(RunError, match="no bundle at"):
        push(tmp_path / "none", "hf://me/birds")


def test_a_password_in_a_uri_is_not_shown() -> None:
    assert shown("https://me:secret@host/b") == "https://host/b"
    assert shown("hf://me/birds@v1") == "hf://me/birds@v1"
    assert shown("s3://bucket/a@b") == "s3://bucket/a@b"

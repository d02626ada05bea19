"""What docs/results.md says of bundles is true: its commands are run as they stand there."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import flaky
import pages
import pytest
import soundfile
from hub import hub as running_hub
from pages import RESULTS
from test_export import make_run
from typer.testing import CliRunner

import raudio
from raudio.cli.main import app
from raudio.export import bundle as bundles
from raudio.export.bundle import read_bundle
from raudio.export.parity import TOLERANCE

pytest.importorskip("huggingface_hub")
pytest.importorskip("onnxruntime")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the page's run, in reach of a bucket and a hub."""
    from huggingface_hub import constants

    make_run(tmp_path / "runs" / "birds", {"0000": 0.5, "0001": 0.75, "0002": 0.625})
    monkeypatch.chdir(tmp_path)
    with flaky.s3() as front, running_hub() as hub:
        for name, value in flaky.environment(front).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        yield tmp_path


@pytest.mark.slow
def test_the_commands_of_the_page_work(here: Path) -> None:
    lines = [shlex.split(line)[1:] for line in pages.commands(RESULTS)]
    lines = [line for line in lines if line[0] in ("export", "push")]
    assert len(lines) == 8
    for arguments in lines:
        arguments = [each.replace("s3://bucket/", "s3://sounds/") for each in arguments]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, f"{arguments}\n{done.output}\n{done.exception!r}"
    assert len(read_bundle("bundles/three").members) == 3
    assert read_bundle("s3://sounds/birds").metrics["trial"] == "0001"
    soundfile.write(here / "some.wav", [0.1, -0.1] * 4000, 8000)
    (example,) = [one for one in pages.blocks(RESULTS, "python") if "bundles/graphs" in one]
    exec(example, {})
    eager = raudio.load("bundles/graphs").predict("some.wav")
    graph = raudio.load("bundles/graphs", format="onnx").predict("some.wav")
    assert graph["scores"] == pytest.approx(eager["scores"], abs=0.02)


def test_the_page_names_what_is_in_a_bundle() -> None:
    named = {name for row in pages.table(RESULTS, "in the bundle") for name in row[0].split(", ")}
    assert named == {*bundles.FILES, bundles.ONNX, bundles.EXPORTED, *bundles.member_files(1)}
    assert TOLERANCE == 1e-4
    assert "differs by more than 1e-4" in RESULTS.read_text()

"""The command line: what becomes of an error, and what the light commands print."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata

import pytest
import typer
from typer.testing import CliRunner

from raudio.cli import main as cli
from raudio.core.errors import ConfigError

run = CliRunner().invoke


@pytest.mark.parametrize(
    "command",
    ["search", "train", "plan", "resume", "status", "explain", "export", "predict", "evaluate",
     "serve", "list", "doctor", "data prepare", "data inspect", "data fetch", "data synth",
     "cluster render", "cluster check", "cluster watch-spot", "cluster drain"],
)  # fmt: skip
def test_every_command_has_a_help_with_an_example(command: str) -> None:
    result = run(cli.app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert f"raudio {command}" in " ".join(result.output.split())


def test_help_and_import_load_neither_torch_nor_ray() -> None:
    code = """
import sys
from importlib import metadata
import raudio
from raudio.cli.main import app
try:
    app(["--help"])
except SystemExit as done:
    assert done.code == 0
heavy = {"torch", "ray", "hydra", "optuna", "numpy", "pyarrow"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Commands:" in done.stdout


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(sys, "argv", ["raudio"])
    cli.main()


def test_a_user_s_error_is_one_message_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        failing(monkeypatch, ConfigError("model=x: unknown"))
    assert caught.value.code == 2
    assert capsys.readouterr() == ("", "error: model=x: unknown\n")


def test_our_own_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        failing(monkeypatch, ZeroDivisionError())


def test_an_interruption_is_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as caught:
        failing(monkeypatch, KeyboardInterrupt())
    assert caught.value.code == 130


@pytest.mark.parametrize("arguments", [["nonsense"], ["search", "--trials", "3"], ["status"]])
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    result = run(cli.app, arguments)
    assert result.exit_code == 2


def test_version() -> None:
    import raudio

    assert run(cli.app, ["--version"]).output.strip() == raudio.__version__


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("models", "crnn"),
        ("model", "cnn10"),
        ("front-ends", "mfcc"),
        ("augmentations", "mixup"),
        ("optimizers", "sgd"),
        ("schedules", "onecycle"),
        ("tasks", "classification"),
        ("spaces", "cnn_or_crnn"),
        ("samplers", "cmaes"),
        ("augment-presets", "strong"),
        ("settings", "optimizer.momentum (optimizer=sgd)"),
        ("settings", "search.time_budget"),
    ],
)
def test_list(kind: str, name: str) -> None:
    rows = json.loads(run(cli.app, ["list", kind, "--json"]).output)
    assert rows[name]
    text = run(cli.app, ["list", kind]).output.splitlines()
    assert any(line.startswith(name) and rows[name] in line for line in text)
    assert len(text) == len(rows)


@pytest.mark.slow
def test_list_without_a_kind_names_the_kinds() -> None:
    kinds = json.loads(run(cli.app, ["list", "--json"]).output)
    for kind in kinds:
        assert run(cli.app, ["list", kind]).exit_code == 0


def test_list_of_an_unknown_kind() -> None:
    with pytest.raises(ConfigError, match=r"modls.*closest: 'models'"):
        run(cli.app, ["list", "modls"], catch_exceptions=False)


def test_doctor_finds_the_versions_and_the_codecs() -> None:
    import torch

    found = json.loads(run(cli.app, ["doctor", "--json"]).output)
    assert found["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert found["codecs"]["FLAC"] is True
    assert found["codecs"]["MP3"] is True
    assert found["cpus"] >= 1
    text = run(cli.app, ["doctor"])
    assert text.exit_code == (1 if found["problems"] else 0)


def test_doctor_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from raudio.cli import doctor

    monkeypatch.setitem(doctor._PACKAGES, "not-installed", "everything")
    result = run(cli.app, ["doctor"])
    assert result.exit_code == 1
    assert "not-installed is not installed (everything): pip install" in result.output


def test_doctor_says_which_torchaudio_goes_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchaudio", None)  # its import fails
    asked = [text for text in metadata.requires("raudio") or () if text.startswith("torchaudio=")]
    assert len(asked) == 1
    problems = json.loads(run(cli.app, ["doctor", "--json"]).output)["problems"]
    assert any(problem.endswith(asked[0]) and "torch==" in problem for problem in problems)


def test_raudio_search_is_callable_beside_its_package() -> None:
    import raudio
    import raudio.search.space_file

    assert callable(raudio.search)
    assert callable(raudio.register.model)
    with pytest.raises(AttributeError, match="nothing"):
        _ = raudio.nothing


@pytest.mark.slow
def test_plan_says_what_would_run_and_starts_nothing() -> None:
    import ray

    arguments = ["plan", "search.trials=7", "model.dropout=0.2", "seed=choice(1,2)"]
    result = run(cli.app, [*arguments, "--json"], catch_exceptions=False)
    found = json.loads(result.stdout)
    assert found["configuration"]["search"]["trials"] == 7
    assert found["configuration"]["experiment"]["dataset"]["sample_rate"] > 0, "resolved"
    assert found["space"]["params"]["seed"] == "choice(1, 2)"
    assert found["space"]["size"] is None
    assert len(found["examples"]) == 3
    assert all(params["seed"] in (1, 2) for params in found["examples"])
    assert found["plan"]["slots"] >= 1
    assert "model.dropout=0.2 is given" in " ".join(found["notes"])
    text = run(cli.app, arguments, catch_exceptions=False).stdout
    assert "endless different trials" in text
    assert "7 trials" in text
    assert not ray.is_initialized()

"""Training checkpoints: whole or not there, and nothing runs when one is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from raudio import checkpoint
from raudio.core.errors import RunError


def test_round_trip(tmp_path: Path) -> None:
    weight = torch.randn(3, 4)
    state = {"model": {"weight": weight}, "best": -float("inf"), "labels": ["a"], "scaler": {}}
    checkpoint.save(tmp_path / checkpoint.LAST, state)
    loaded = checkpoint.load(tmp_path / checkpoint.LAST)
    assert torch.equal(loaded.pop("model")["weight"], weight)
    assert loaded == {"best": -float("inf"), "labels": ["a"], "scaler": {}}


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_an_end_while_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: type[BaseException], moment: str
) -> None:
    path = tmp_path / checkpoint.LAST
    checkpoint.save(path, {"epoch": 1})

    def stop(*_: object) -> None:
        raise end

    monkeypatch.setattr(os, moment, stop)
    with pytest.raises(end):
        checkpoint.save(path, {"epoch": 2})
    assert checkpoint.load(path) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == [checkpoint.LAST]


def test_sweep_removes_what_a_killed_writer_left(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / checkpoint.LAST, {"epoch": 1})
    for name in (f".{checkpoint.LAST}.x1", f".{checkpoint.BEST}.x2", "experiment.yaml"):
        (tmp_path / name).write_bytes(b"half")
    checkpoint.sweep(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {checkpoint.LAST, "experiment.yaml"}


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no checkpoint at '.*last\.pt'"):
        checkpoint.load(tmp_path / checkpoint.LAST)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_truncated(tmp_path: Path, share: float) -> None:
    path = tmp_path / checkpoint.LAST
    checkpoint.save(path, {"weight": torch.randn(100)})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(RunError, match="damaged"):
        checkpoint.load(path)


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / checkpoint.LAST
    weight = torch.randn(1000)
    checkpoint.save(path, {"weight": weight})
    content = bytearray(path.read_bytes())
    content[bytes(content).index(weight.numpy().tobytes()) + 2000] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match="damaged"):
        checkpoint.load(path)


class _Dangerous:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.where),)

    where = Path()


def test_reading_runs_no_code(tmp_path: Path) -> None:
    _Dangerous.where = tmp_path / "owned"
    torch.save({"model": _Dangerous()}, tmp_path / checkpoint.BEST)
    with pytest.raises(RunError, match="not one of raudio's"):
        checkpoint.load(tmp_path / checkpoint.BEST)
    assert not _Dangerous.where.exists()


def test_no_table(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / checkpoint.BEST)
    with pytest.raises(RunError, match="holds no table"):
        checkpoint.load(tmp_path / checkpoint.BEST)

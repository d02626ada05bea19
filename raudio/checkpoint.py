"""The training checkpoint: one file of tensors and plain values, whole or not there at all.

A trial's folder holds two: `LAST`, for going on, and `BEST`, the weights with the best value of the
metric, for exporting. In a population there may be a third, `DONOR`: the `LAST` of another trial,
to be taken over. Reading one runs no code from it (`weights_only`).
"""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from raudio.core.errors import RunError
from raudio.core.storage import exists, is_remote, join, read_bytes, remove, write_atomic

LAST = "last.pt"
BEST = "best.pt"
DONOR = "donor.pt"


def save(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Writes `state`, of tensors and plain values only, atomically.

    An end at any moment, also a SIGKILL, leaves the file as it was before or as it is after.

    Raises:
        OSError: it cannot be written.
    """
    write_atomic(path, pack(state))


def pack(state: Mapping[str, Any]) -> bytes:
    """What `save` writes."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads what `save` wrote, onto the CPU.

    Raises:
        RunError: there is no such file, or it is damaged or something else.
        OSError: the store cannot be read.
    """
    found = find(path)
    if found is None:
        raise RunError(f"no checkpoint at {os.fspath(path)!r}")
    return found


def find(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """As `load`; None where there is no such file."""
    try:
        content = io.BytesIO(read_bytes(path))
        with zipfile.ZipFile(content) as archive:  # torch.load itself checks no checksum
            if broken := archive.testzip():
                raise zipfile.BadZipFile(f"wrong checksum of {broken}")
        content.seek(0)
        state = torch.load(content, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except (zipfile.BadZipFile, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise RunError(
            f"checkpoint {os.fspath(path)!r} is damaged or not one of raudio's: remove it to train "
            f"this trial from the start ({reason})"
        ) from error
    if not isinstance(state, dict):
        raise RunError(f"checkpoint {os.fspath(path)!r} is not one of raudio's: it holds no table")
    return state


def take_over(folder: str | os.PathLike[str]) -> None:
    """Makes a donor's checkpoint in `folder`, if there is one, the trial's own.

    Weights, optimizer and step are the donor's. What the trial has reported remains its own: its
    last reports, and its best value, which `BEST` is the weights of. Interrupted, it is done again.

    Raises:
        RunError: a checkpoint is damaged.
        OSError: as `load` and `save`.
    """
    donor = join(folder, DONOR)
    if exists(donor):
        before = load(join(folder, LAST))
        own = {key: before[key] for key in ("best", "report")}
        own["earlier"] = before.get("earlier", [])  # which older ones have none of
        save(join(folder, LAST), load(donor) | own | {"stale": 0, "taken_over": True})
        remove(donor)


def sweep(folder: str | os.PathLike[str]) -> None:
    """Removes the temporary files that a killed writer left in `folder`; a store has none."""
    if is_remote(folder):
        return
    for name in (LAST, BEST, DONOR):
        for left in Path(folder).glob(f".{name}.*"):
            left.unlink(missing_ok=True)

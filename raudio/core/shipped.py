"""The files beside the code that come with raudio: search spaces, cluster files."""

from __future__ import annotations

from pathlib import Path


def folder(name: str) -> Path:
    """Where a folder is that comes with raudio: in the package, or beside it in a clone."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / name
    return shipped if shipped.is_dir() else package.parent / name

"""Graphs of others, opened when they are nothing but arithmetic."""

from __future__ import annotations

from typing import Any

from raudio.core.errors import RunError
from raudio.export.systems import ExportedSystem, OnnxSystem


def open_onnx(content: bytes, task: Any, *, where: str) -> OnnxSystem:
    return OnnxSystem(content, task)


def open_exported(content: bytes, task: Any, *, where: str) -> ExportedSystem:
    raise RunError(f"{where} cannot be opened yet")

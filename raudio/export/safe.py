"""Graphs of others, opened when they are arithmetic and nothing else.

ONNX names operators, and cannot hold code; but a graph may point to files beside it, and to
operators of libraries to be loaded. Those are refused.

`torch.export.load` is not made for files of others: it unpickles example inputs, objects and some
tensors, evaluates the texts of symbolic sizes as Python, runs the guards as Python, and finds
operators by their name. So its file is taken apart first, every part that reaches one of these is
refused or has to have the form that raudio writes, and what is loaded is a file that is put
together anew of the parts that were looked at.
"""

from __future__ import annotations

import ast
import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

from raudio.core.errors import ConfigError, RunError
from raudio.core.extras import require
from raudio.export.systems import ExportedSystem, OnnxSystem

_CURE = "export it again, or use another of its formats"


class _UnsafeError(Exception):
    """What a graph holds that is not arithmetic."""


# --- ONNX -------------------------------------------------------------------------------------

_DOMAINS = ("", "ai.onnx")
_INPUTS, _OUTPUTS = ["waves", "lengths"], ["scores"]


def open_onnx(content: bytes, task: Any, *, where: str) -> OnnxSystem:
    """The system of an ONNX file.

    Args:
        content: of the file.
        task: what the scores mean.
        where: what a message calls the file.

    Raises:
        ConfigError: onnx or onnxruntime is not installed.
        RunError: the file is none, damaged, or holds more than arithmetic.
    """
    onnx: Any = require("onnx", "onnx")
    require("onnxruntime", "onnx")
    try:
        model = onnx.load_model_from_string(content)
        _check_onnx(model)
        return OnnxSystem(content, task)
    except _UnsafeError as error:
        raise RunError(f"{where} {error}; {_CURE}") from error
    except ConfigError:
        raise
    except Exception as error:  # of protobuf's and onnxruntime's own kinds, which share no base
        raise RunError(f"{where} cannot be read ({_reason(error)}); {_CURE}") from error


def _check_onnx(model: Any) -> None:
    local = {(function.domain, function.name) for function in model.functions}
    for message in _messages(model):
        kind = message.DESCRIPTOR.name
        if kind == "TensorProto" and (message.data_location or len(message.external_data)):
            raise _UnsafeError(f"points to a file outside itself, for {message.name!r}")
        foreign = kind == "NodeProto" and message.domain not in _DOMAINS
        if foreign and (message.domain, message.op_type) not in local:
            raise _UnsafeError(
                f"needs the operator {message.op_type!r} of {message.domain!r}, and only ONNX's "
                "own are computed"
            )
        if kind == "TrainingInfoProto":
            raise _UnsafeError("holds a training")
    if len(model.metadata_props):
        raise _UnsafeError(f"has a foreign key, {model.metadata_props[0].key!r}")
    names = [[value.name for value in values] for values in (model.graph.input, model.graph.output)]
    if names != [_INPUTS, _OUTPUTS]:
        raise _UnsafeError(f"takes and gives {names}, not {[_INPUTS, _OUTPUTS]}")


def _messages(message: Any) -> Iterator[Any]:
    """A protobuf message and all inside it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            each = [value] if hasattr(value, "DESCRIPTOR") else value
            for inner in each:
                yield from _messages(inner)


# --- torch.export -----------------------------------------------------------------------------

_ROOT = "archive/"
_PROGRAM = "models/model.json"
_WEIGHTS_CONFIG = "data/weights/model_weights_config.json"
_CONSTANTS_CONFIG = "data/constants/model_constants_config.json"
_EXAMPLES = "data/sample_inputs/model.pt"
_REQUIRED = {_PROGRAM, _WEIGHTS_CONFIG, _CONSTANTS_CONFIG, _EXAMPLES}
_OTHERS = {"archive_format", "archive_version", "byteorder", ".data/version"}
_IGNORED = {".data/serialization_id"}
_TENSOR_FILE = re.compile(r"data/(weights/weight|constants/tensor)_\d+")

#: Operators that are not arithmetic on their arguments, or take them for more than they are.
_REFUSED = frozenset({"from_file", "set_", "set_data", "resize_", "resize_as_", "as_strided_"})
#: Operators that PyTorch calls private, and writes.
_PRIVATE = frozenset(
    {
        "_assert_tensor_metadata",
        "_fft_r2c",
        "_log_softmax",
        "_native_batch_norm_legit_no_training",
        "_softmax",
        "_to_copy",
    }
)
_OPERATOR = re.compile(r"torch\.ops\.aten\.(\w+)\.\w+|_operator\.(add|sub|mul|floordiv|getitem)")
_SYMBOL = re.compile(r"[su]\d+")
_FUNCTIONS = frozenset({"Symbol", "Integer", "Add", "Mul", "FloorDiv", "Mod", "Max", "Min"})
#: What an argument of an operator may not be.
_NO_ARGUMENTS = frozenset({"as_graph", "as_custom_obj", "as_operator"})


def open_exported(content: bytes, task: Any, *, where: str) -> ExportedSystem:
    """The system of a torch.export file; arguments as `open_onnx`.

    Raises:
        RunError: the file is none, damaged, or holds more than arithmetic.
    """
    import torch

    try:
        parts = _parts(content)
        _check_tensors(parts, _WEIGHTS_CONFIG, "data/weights/")
        _check_tensors(parts, _CONSTANTS_CONFIG, "data/constants/")
        if parts[_EXAMPLES]:
            raise _UnsafeError("holds example inputs as a pickle, which could run code")
        _check_program(json.loads(parts[_PROGRAM]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that its buffers can't be written to
            program = torch.export.load(_packed(parts))
            return ExportedSystem(program, task)
    except _UnsafeError as error:
        raise RunError(f"{where} {error}; {_CURE}") from error
    except Exception as error:  # whatever torch.export makes of a damaged program
        raise RunError(f"{where} cannot be read ({_reason(error)}); {_CURE}") from error


def _parts(content: bytes) -> dict[str, bytes]:
    """The files in the archive by their names, all of which are known."""
    found: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for info in archive.infolist():
            name = info.filename.removeprefix(_ROOT)
            known = name in _REQUIRED | _OTHERS | _IGNORED or _TENSOR_FILE.fullmatch(name)
            if not known or not info.filename.startswith(_ROOT) or name in found:
                pickled = name.endswith((".pt", ".pkl")) or "custom_obj" in name
                what = ", which could run code" if pickled else ""
                raise _UnsafeError(f"holds a foreign file, {info.filename!r}{what}")
            # PyTorch compresses nothing: what is unpacked is never larger than the file.
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > len(content):
                raise _UnsafeError(f"holds {info.filename!r} compressed")
            found[name] = archive.read(info)
    for name in sorted(_REQUIRED - set(found)):
        raise _UnsafeError(f"lacks {name!r}")
    return {name: data for name, data in found.items() if name not in _IGNORED}


def _packed(parts: dict[str, bytes]) -> io.BytesIO:
    """The archive of just these parts: two readers may see different files in one archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in parts.items():
            archive.writestr(_ROOT + name, data)
    buffer.seek(0)
    return buffer


def _check_tensors(parts: dict[str, bytes], config: str, folder: str) -> None:
    for name, payload in json.loads(parts[config])["config"].items():
        file = folder + str(payload["path_name"])
        if payload["use_pickle"] is not False or not _TENSOR_FILE.fullmatch(file):
            raise _UnsafeError(f"holds {name!r} as a pickle, which could run code")


def _check_program(program: dict[str, Any]) -> None:
    if program.get("guards_code"):
        raise _UnsafeError("holds guards, which are code")
    for symbol in program["range_constraints"]:
        if not _SYMBOL.fullmatch(symbol):
            raise _UnsafeError(f"has a size called {symbol!r}")
    tree: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    for call in program["graph_module"]["module_call_graph"]:
        signature = call["signature"] or {}
        if json.loads(signature.get("out_spec", "null"))[1] != tree:
            raise _UnsafeError("gives something else than scores")
        for kind in re.findall(r'"type": "([^"]*)"', signature["in_spec"]):
            if kind not in ("builtins.tuple", "builtins.dict"):
                raise _UnsafeError(f"takes a {kind!r}")
    _check_value(program)


def _check_value(value: Any) -> None:
    """Refuses what in the JSON of a program, at any depth, is more than arithmetic."""
    if isinstance(value, list):
        for item in value:
            _check_value(item)
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        if key == "target" and isinstance(inner, str):
            _check_operator(inner)
        elif key == "expr_str":
            _check_size(inner)
        elif key == "metadata" and inner:
            raise _UnsafeError("says where its operators come from, which is looked up by name")
        elif key in _NO_ARGUMENTS or (key == "custom_obj_values" and inner):
            raise _UnsafeError(f"has an argument that is no number or tensor ({key})")
        _check_value(inner)


def _check_operator(target: str) -> None:
    match = _OPERATOR.fullmatch(target)
    name = match and match[1]
    if match is None or name in _REFUSED or (name and name[0] == "_" and name not in _PRIVATE):
        raise _UnsafeError(f"needs the operator {target!r}, which is not known to be arithmetic")


def _check_size(text: Any) -> None:
    """Refuses a symbolic size that is more than a sum or product: it will be evaluated."""
    try:
        tree = ast.parse(text, mode="eval") if isinstance(text, str) and len(text) < 1000 else None
    except SyntaxError:
        tree = None
    allowed = (ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword)
    for node in [None] if tree is None else ast.walk(tree):
        known = isinstance(node, allowed)
        if isinstance(node, ast.Name):
            known = node.id in _FUNCTIONS
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            known = bool(_SYMBOL.fullmatch(node.value))
        elif isinstance(node, ast.Constant):
            known = isinstance(node.value, int)
        elif isinstance(node, ast.Call):
            known = isinstance(node.func, ast.Name)
        if not known:
            raise _UnsafeError(f"has the size {str(text)[:60]!r}, which is no sum or product")


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__

"""Systems as graphs, from a window's waveform to its scores, that need no raudio to be computed.

What a graph takes: `waves` (B, T) float32, T samples of a window at the bundle's sample rate, and
`lengths` (B,) int64, how many of them are the recording's. What it gives: `scores` (B, C), of an
ensemble the mean. B is any number; T is fixed, and every window is padded to it.

Shapes: B windows, T samples, F frames, D features a frame, H units, C outputs.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raudio.core.errors import RunError
from raudio.core.extras import require
from raudio.export.precision import compact, restored
from raudio.models.crnn import PackedGRU
from raudio.system import System

#: ONNX's set of operators that the graphs are written in.
OPSET = 20
#: How the tensors of a graph are called, before their numbers.
_FRONT_END, _MODEL = "front_end_", "model_"


def to_onnx(systems: Sequence[System], precision: str, samples: int) -> bytes:
    """The file of an ONNX graph.

    Args:
        systems: the members, in evaluation mode; they are not to be used afterwards.
        precision: "fp32" or "fp16", of the weights in it; for the other see `quantised`.
        samples: T.

    Raises:
        ConfigError: a library is not installed.
        RunError: a part of a system has no counterpart in ONNX.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, "onnx")
    graph = Graph(systems, precision, OnnxGRU)

    def export() -> Any:
        batch = torch.export.Dim("batch", min=1)
        program: Any = torch.onnx.export(
            graph,
            _example(samples),
            dynamo=True,
            dynamic_shapes=({0: batch}, {0: batch}),
            input_names=["waves", "lengths"],
            output_names=["scores"],
            opset_version=OPSET,
            verbose=False,
        )
        return program.model_proto

    model = _exporting("onnx", systems, export)
    _forget_origin(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def quantised(content: bytes) -> bytes:
    """An ONNX file whose convolutions and products are computed in integers, from one of `to_onnx`
    in fp32: onnxruntime's dynamic quantisation.

    The front end stays as it is: the logarithm of small energies bears no rounding to 8 bits. So do
    recurrent layers, which onnxruntime has no integers for.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load_model_from_string(content)
    spared = [
        node.name
        for node in model.graph.node
        if any(name.startswith(_FRONT_END) for name in node.input)
    ]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder, "model.onnx")
        quantize_dynamic(
            model, path, weight_type=QuantType.QInt8, per_channel=True, nodes_to_exclude=spared
        )
        model = onnx.load(path)
    _forget_origin(model)
    found: bytes = model.SerializeToString(deterministic=True)
    return found


def to_exported(systems: Sequence[System], precision: str, samples: int) -> bytes:
    """The file of a torch.export program; arguments as `to_onnx`. In "int8", weights alone are.

    Raises:
        RunError: a part of a system cannot be exported.
    """
    graph = Graph(systems, precision, UnrolledGRU)

    def export() -> torch.export.ExportedProgram:
        batch = torch.export.Dim("batch", min=1)
        return torch.export.export(
            graph, _example(samples), dynamic_shapes=({0: batch}, {0: batch})
        )

    program = _exporting("torch-export", systems, export)
    # Neither pickled examples nor where the code lay that was traced; see `raudio.export.safe`.
    program._example_inputs = None
    program._guards_code = []
    for node in program.graph.nodes:
        node.meta = {name: node.meta[name] for name in ("val",) if name in node.meta}
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


class Graph(nn.Module):
    """The mean scores of systems, as a module of nothing but stored tensors.

    Args:
        systems: the members, in evaluation mode, which are changed.
        precision: of the weights that it stores; it computes in float32.
        gru: what computes a `PackedGRU` in the graph.
    """

    def __init__(self, systems: Sequence[System], precision: str, gru: type[PackedGRU]) -> None:
        super().__init__()
        mean = _Mean(systems)
        for module in mean.modules():
            if isinstance(module, PackedGRU):
                module.__class__ = gru
        weights = mean.state_dict()
        derived = {name: held for name, held in mean.named_buffers() if name not in weights}
        stored = compact(weights, precision) | derived
        self._names = {
            (_FRONT_END if "front_end" in name.split(".") else _MODEL) + str(number): name
            for number, name in enumerate(stored)
        }
        for held, name in self._names.items():
            self.register_buffer(held, stored[name].detach())
        # Not a part of this module: its own tensors are never used, and would be stored too.
        self._mean = [mean]

    def forward(self, waves: Tensor, lengths: Tensor) -> Tensor:
        """Scores (B, C) of (B, T) waves with (B,) lengths."""
        stored = {name: getattr(self, held) for held, name in self._names.items()}
        scores: Tensor = torch.func.functional_call(
            self._mean[0], restored(stored), (waves, lengths)
        )
        return scores


class _Mean(nn.Module):
    def __init__(self, systems: Sequence[System]) -> None:
        super().__init__()
        self.systems: Any = nn.ModuleList(systems)

    def forward(self, waves: Tensor, lengths: Tensor) -> Tensor:
        each: list[Tensor] = [system.task.scores(system(waves, lengths)) for system in self.systems]
        return each[0] if len(each) == 1 else torch.stack(each).mean(0)


# --- recurrence: packed sequences have no counterpart in a graph ------------------------------


class UnrolledGRU(PackedGRU):
    """A `PackedGRU` in plain steps: its backward direction reads each clip's frames reversed."""

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]
        """See `PackedGRU`."""
        places = torch.arange(frames.shape[1])
        valid = (places < lengths[:, None])[:, :, None]  # (B, F, 1)
        reverse = (lengths[:, None] - 1 - places).clamp(min=0)[:, :, None]  # (B, F, 1)
        for layer in range(self.num_layers):
            forward = self._direction(frames, f"l{layer}")
            turned = frames.gather(1, reverse.expand(-1, -1, frames.shape[2]))
            backward = self._direction(turned, f"l{layer}_reverse")
            backward = backward.gather(1, reverse.expand(-1, -1, self.hidden_size))
            frames = torch.cat([forward, backward], 2) * valid
        return frames

    def _direction(self, frames: Tensor, suffix: str) -> Tensor:
        """(B, F, D) frames to (B, F, H), from the first frame to the last."""
        weights = [getattr(self, f"{name}_{suffix}") for name in _GRU_WEIGHTS]
        start = frames.new_zeros(1, frames.shape[0], self.hidden_size)
        # bias, layers, dropout, training, bidirectional, batch first
        return torch.gru(frames, start, weights, True, 1, 0.0, False, False, True)[0]


class OnnxGRU(PackedGRU):
    """A `PackedGRU` as ONNX's own operator, which knows lengths."""

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]
        """See `PackedGRU`."""
        batch, steps, units = frames.shape[0], frames.shape[1], self.hidden_size
        for layer in range(self.num_layers):
            both = [self._weights(f"l{layer}"), self._weights(f"l{layer}_reverse")]
            ih, hh, bias = (torch.stack(each) for each in zip(*both, strict=True))
            found = torch.onnx.ops.symbolic(
                "GRU",
                (frames.transpose(0, 1), ih, hh, bias, lengths.to(torch.int32)),
                {"hidden_size": units, "direction": "bidirectional", "linear_before_reset": 1},
                dtype=frames.dtype,
                shape=(steps, 2, batch, units),
                version=OPSET,
            )
            frames = found.permute(2, 0, 1, 3).flatten(2)
        return frames

    def _weights(self, suffix: str) -> tuple[Tensor, Tensor, Tensor]:
        """Of a direction: (3H, D), (3H, H) and (6H,), with the gates in ONNX's order."""
        found = []
        for name in _GRU_WEIGHTS:
            reset, update, new = getattr(self, f"{name}_{suffix}").chunk(3)
            found.append(torch.cat([update, reset, new]))
        ih, hh, bias_ih, bias_hh = found
        return ih, hh, torch.cat([bias_ih, bias_hh])


_GRU_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


# --- exporting --------------------------------------------------------------------------------


def _example(samples: int) -> tuple[Tensor, Tensor]:
    """Waves and lengths; two, as a batch of one would be taken for a constant."""
    return torch.zeros(2, samples), torch.tensor([samples, samples])


def _exporting(name: str, systems: Sequence[System], export: Callable[[], Any]) -> Any:
    """What `export` gives."""
    try:
        with _quiet(), torch.no_grad():
            return export()
    except Exception as error:  # whatever the tracer, or a plugin's model in its hands, raises
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        parts = sorted(
            {type(part).__name__ for system in systems for part in (system.front_end, system.model)}
        )
        reason = str(cause).strip().partition("\n")[0] or type(cause).__name__
        raise RunError(
            f"--format {name}: {', '.join(parts)} cannot become a graph ({reason}); "
            "export it as safetensors"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters tell of themselves."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def _forget_origin(model: Any) -> None:
    """Removes what tells of the machine and the code that a graph was made with."""
    graphs = [model.graph, *model.functions]
    for graph in graphs:
        parts = [graph, *graph.node, *graph.value_info]
        parts += [] if graph is not model.graph else [*graph.input, *graph.output]
        parts += [] if graph is not model.graph else list(graph.initializer)
        for part in parts:
            part.doc_string = ""
            del part.metadata_props[:]
    model.doc_string = ""
    del model.metadata_props[:]

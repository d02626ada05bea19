"""Bundles as graphs: what they compute, and what opening one refuses."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from test_bundle_members import batch, change
from test_export import LABELS, experiment, make_run, refused, reseal
from torch import Tensor, nn
from typer.testing import CliRunner

from raudio.cli.main import app
from raudio.config.validate import experiment_from, to_mapping
from raudio.core.components import FRONT_ENDS, MODELS
from raudio.core.errors import ConfigError, RunError
from raudio.export import bundle as bundles
from raudio.export import graphs, parity, safe
from raudio.export.bundle import read_bundle
from raudio.export.make import export
from raudio.export.systems import ExportedSystem, OnnxSystem
from raudio.models.crnn import PackedGRU
from raudio.system import System, build_system

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
if find_spec("onnxscript") is None:  # whose import takes seconds, and only exporting needs it
    pytest.skip("onnxscript is not installed", allow_module_level=True)

FORMATS = ("onnx", "torch-export")


def system(model: str = "cnn", features: str = "logmel", **settings: Any) -> System:
    """A small system whose weights and statistics are not the ones it starts with."""
    mapping = to_mapping(experiment())
    mapping["features"] = {"name": features, "n_mels": 20, "normalize": "dataset"}
    mapping["features"] |= {"n_mfcc": 12} if features == "mfcc" else {}
    mapping["model"] = {"name": model, **settings}
    built = build_system(experiment_from(mapping), labels=LABELS)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in built.parameters():
            tensor += 0.2 * torch.randn(tensor.shape, generator=draw)
        built.front_end.mean.fill_(-6)
        built.front_end.std.fill_(3)
    return built.eval()


def opened(name: str, content: bytes, of: System) -> OnnxSystem | ExportedSystem:
    open_graph = safe.open_onnx if name == "onnx" else safe.open_exported
    return open_graph(content, of.task, where="here")


# --- what they compute -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("model", "features"),
    [
        *((model, "logmel") for model in sorted(MODELS.names())),
        *(("cnn", features) for features in sorted(FRONT_ENDS.names()) if features != "logmel"),
    ],
)
def test_every_model_and_every_front_end(model: str, features: str, name: str) -> None:
    small = {"width": 4} | ({"rnn_units": 6, "rnn_layers": 2} if model == "crnn" else {})
    waves, lengths = batch()
    expected = system(model, features, **small).scores(waves, lengths)
    assert expected.std(0).min() > 1e-3, "the clips differ"
    make = graphs.to_onnx if name == "onnx" else graphs.to_exported
    content = make([system(model, features, **small)], "fp32", waves.shape[1])
    graph = opened(name, content, system(model, features, **small))
    torch.testing.assert_close(graph.scores(waves, lengths), expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(
        graph.scores(waves[2:3], lengths[2:3]), expected[2:3], atol=2e-5, rtol=0
    )
    assert str(Path(graphs.__file__).parent).encode() not in content, (
        "nothing tells of this machine"
    )


def test_a_gru_in_plain_steps_is_the_packed_one() -> None:
    torch.manual_seed(0)
    packed = PackedGRU(5, 4, 2, batch_first=True, bidirectional=True).eval()
    frames, lengths = torch.randn(4, 9, 5), torch.tensor([9, 1, 4, 8])
    expected = packed(frames, lengths)
    packed.__class__ = graphs.UnrolledGRU
    torch.testing.assert_close(packed(frames, lengths), expected)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("runs") / "run", {"0000": 0.5, "0001": 0.75})
    change(folder, "0000", model={"width": 8})
    return folder


@pytest.fixture(scope="module")
def original(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ensemble of two architectures, in all formats."""
    out = tmp_path_factory.mktemp("bundles") / "all"
    done = CliRunner().invoke(
        app, ["export", str(run), "--out", str(out), "--top", "2", "--format", ",".join(FORMATS)]
    )
    assert done.exit_code == 0, done.output
    assert "onnx: differs by" in done.stderr
    return out


@pytest.fixture
def bundle(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "bundle")


@pytest.mark.slow
def test_an_ensemble_in_every_format(original: Path) -> None:
    found = read_bundle(original)
    assert found.formats == ("safetensors", *FORMATS)
    waves, lengths = batch()
    expected = found.system().scores(waves, lengths)
    for name in FORMATS:
        graph = found.system(name)
        torch.testing.assert_close(graph.scores(waves, lengths), expected, atol=1e-5, rtol=0)
        told = found.metrics["formats"][name]
        assert told["tolerance"] == parity.TOLERANCE
        assert 0 <= told["random"]["difference"] <= parity.TOLERANCE
        assert told["real_from"] == "synthesised sounds"
        assert told["real"]["windows"] == parity.WINDOWS
    card = (original / bundles.CARD).read_text()
    assert "`model.onnx` is the same from waveform to scores" in card


@pytest.mark.slow
def test_a_graph_needs_no_raudio(original: Path) -> None:
    """As its card says: a user's own onnxruntime, and torch.export.load."""
    import onnxruntime

    waves, lengths = batch()
    expected = read_bundle(original).system().scores(waves, lengths)
    session = onnxruntime.InferenceSession(original / bundles.ONNX)
    (scores,) = session.run(["scores"], {"waves": waves.numpy(), "lengths": lengths.numpy()})
    torch.testing.assert_close(torch.from_numpy(scores), expected, atol=1e-5, rtol=0)
    program = torch.export.load(original / bundles.EXPORTED)
    torch.testing.assert_close(program.module()(waves, lengths), expected, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_graphs_in_fewer_bytes(run: Path, tmp_path: Path, precision: str) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    change(copy, "0001", model={"width": 32, "depth": 3})
    found = read_bundle(export(copy, tmp_path / "b", formats=FORMATS, precision=precision))
    whole = export(copy, tmp_path / "c", formats=FORMATS)
    waves, lengths = batch()
    expected = found.system().scores(waves, lengths)
    for name in FORMATS:
        quantised = (name, precision) == ("onnx", "int8")
        scores = found.system(name).scores(waves, lengths)
        torch.testing.assert_close(scores, expected, atol=0.02 if quantised else 1e-4, rtol=0)
        file = bundles.FORMATS[name]
        assert (found.folder / file).stat().st_size < 0.8 * (whole / file).stat().st_size
        assert ("integers" in found.metrics["formats"][name]) == quantised
    rows = found.metrics["precision"]["costs"]
    assert [row["format"] for row in rows] == ["safetensors", "safetensors", *FORMATS]
    operators = {node.op_type for node in onnx.load(found.folder / bundles.ONNX).graph.node}
    assert ("ConvInteger" in operators) == (precision == "int8")


class Counting(nn.Module):
    """A model whose path depends on what it hears."""

    def __init__(self, n_features: int, n_outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_features, n_outputs)

    def forward(self, features: Tensor, frame_lengths: Tensor) -> Tensor:
        means = features.mean(1)
        return self.linear(means) if bool(means.sum() > 0) else self.linear(-means)


@pytest.mark.slow
@pytest.mark.parametrize("make", [graphs.to_onnx, graphs.to_exported])
def test_a_model_that_is_no_graph_is_refused(make: Callable[..., bytes]) -> None:
    built = system()
    built.model = Counting(20, 3).eval()
    with pytest.raises(RunError, match=r"--format .*Counting, LogMel cannot become a graph \(.+\)"):
        make([built], "fp32", 4000)


def test_a_graph_that_is_not_the_system_s_is_refused(tmp_path: Path) -> None:
    probe = parity.Probe(experiment(), None)
    found = probe.compare(system(), system(width=8))
    with pytest.raises(RunError, match=r"on random audio the graph's scores differ .* 0\.0001"):
        parity.check("onnx", found)
    same = probe.compare(system(), system())
    parity.check("onnx", same)
    assert same["random"]["difference"] < 1e-6
    assert same["random"]["other_label"] == 0


# --- what opening refuses ----------------------------------------------------------------------


def test_a_format_that_is_not_there(run: Path, tmp_path: Path) -> None:
    plain = read_bundle(export(run, tmp_path / "b"))
    with pytest.raises(ConfigError, match=r"unknown format 'onnx'; there are: safetensors \(`raud"):
        plain.system("onnx")
    with pytest.raises(ConfigError, match=r"unknown format 'onx'"):
        plain.system("onx")


@pytest.mark.slow
@pytest.mark.parametrize("name", [bundles.ONNX, bundles.EXPORTED])
def test_a_changed_graph(bundle: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 3] ^= 4
    (bundle / name).write_bytes(data)
    refused(bundle, f"damaged: {name} is not what was exported")


def refused_as(bundle: Path, name: str, match: str) -> None:
    reseal(bundle)
    with pytest.raises(RunError, match=match) as caught:
        read_bundle(bundle).system(name)
    assert "\n" not in str(caught.value), "one sentence"


def spoil_onnx(bundle: Path, spoil: Callable[[Any], object]) -> None:
    model = onnx.load(bundle / bundles.ONNX)
    spoil(model)
    (bundle / bundles.ONNX).write_bytes(model.SerializeToString())


def _external(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")


def _custom(model: Any) -> None:
    model.opset_import.add(domain="evil", version=1)
    node = next(node for node in model.graph.node if node.op_type == "Relu")
    node.domain, node.op_type = "evil", "Run"


def _hidden(model: Any) -> None:
    """A custom operator in a branch's subgraph."""
    inner = onnx.helper.make_node("Run", [], ["y"], domain="evil")
    branch = onnx.helper.make_graph([inner], "b", [], [])
    node = onnx.helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch)
    model.graph.node.append(node)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (_external, "points to a file outside itself"),
        (_custom, "needs the operator 'Run' of 'evil'"),
        (_hidden, "needs the operator 'Run' of 'evil'"),
        (lambda model: model.metadata_props.add(key="ort_config", value="{}"), "foreign key, 'ort"),
        (lambda model: model.graph.input.pop(), "takes and gives"),
        (lambda model: model.graph.node.pop(0), "cannot be read"),
    ],
)
def test_an_onnx_file_that_is_more_than_arithmetic(
    bundle: Path, spoil: Callable[[Any], object], match: str
) -> None:
    spoil_onnx(bundle, spoil)
    refused_as(bundle, "onnx", f"model.onnx .*{match}")


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04.", b"\0" * 100])
def test_graphs_that_are_none(bundle: Path, content: bytes) -> None:
    for name in FORMATS:
        (bundle / bundles.FORMATS[name]).write_bytes(content)
        refused_as(bundle, name, bundles.FORMATS[name])


def repack(bundle: Path, change: Callable[[dict[str, bytes]], object], **options: Any) -> None:
    """Writes the archive anew with other parts."""
    path = bundle / bundles.EXPORTED
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    change(parts)
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


def in_program(change: Callable[[Any], object]) -> Callable[[dict[str, bytes]], None]:
    def apply(parts: dict[str, bytes]) -> None:
        program = json.loads(parts["archive/models/model.json"])
        change(program)
        parts["archive/models/model.json"] = json.dumps(program).encode()

    return apply


def in_config(change: Callable[[Any], object]) -> Callable[[dict[str, bytes]], None]:
    def apply(parts: dict[str, bytes]) -> None:
        name = "archive/data/weights/model_weights_config.json"
        config = json.loads(parts[name])
        change(next(iter(config["config"].values())))
        parts[name] = json.dumps(config).encode()

    return apply


def _nodes(program: Any) -> Any:
    return program["graph_module"]["graph"]["nodes"]


def _evil_size(program: Any) -> None:
    """What sympy's parser would evaluate."""
    for value in program["graph_module"]["graph"]["tensor_values"].values():
        for size in value["sizes"]:
            if "as_expr" in size:
                size["as_expr"]["expr_str"] = "__import__('os').system('touch trap')"


def _pickled() -> bytes:
    buffer = io.BytesIO()
    torch.save(torch.zeros(1), buffer)
    return buffer.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda parts: parts.update({"archive/data/sample_inputs/model.pt": _pickled()}),
            "example inputs as a pickle",
        ),
        (lambda parts: parts.update({"archive/data/weights/model.pt": b""}), "foreign.*model.pt"),
        (
            lambda parts: parts.update({"archive/data/constants/custom_obj_0": b""}),
            "foreign file.*could run code",
        ),
        (lambda parts: parts.update({"archive/../../x": b""}), "foreign file"),
        (lambda parts: parts.update({"archive/extra/x": b""}), "foreign file"),
        (lambda parts: parts.pop("archive/models/model.json"), "lacks 'models/model.json'"),
        (in_config(lambda entry: entry.update(use_pickle=True)), "as a pickle, which could run"),
        (in_config(lambda entry: entry.update(path_name="../x")), "as a pickle"),
        (in_program(lambda p: p.update(guards_code=["print(1)"])), "guards, which are code"),
        (in_program(_evil_size), "is no sum or product"),
        (
            in_program(lambda p: p["range_constraints"].update({"os": {}})),
            "has a size called 'os'",
        ),
        (
            in_program(lambda p: _nodes(p)[3].update(target="torch.ops.aten.from_file.default")),
            "needs the operator 'torch.ops.aten.from_file.default'",
        ),
        (
            in_program(lambda p: _nodes(p)[3].update(target="torch.hub.load")),
            "needs the operator 'torch.hub.load'",
        ),
        (
            in_program(lambda p: _nodes(p)[3].update(target="torch.ops.evil.run.default")),
            "needs the operator 'torch.ops.evil.run.default'",
        ),
        (
            in_program(lambda p: _nodes(p)[3]["metadata"].update(source_fn_stack="a,os.system")),
            "looked up by name",
        ),
        (in_program(lambda p: p.pop("graph_module")), "cannot be read"),
    ],
)
def test_a_torch_export_file_that_is_more_than_arithmetic(
    bundle: Path,
    change: Callable[[dict[str, bytes]], object],
    match: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    repack(bundle, change)
    refused_as(bundle, "torch-export", f"model.pt2 .*{match}")
    assert not (tmp_path / "trap").exists()


@pytest.mark.slow
def test_the_sizes_of_a_torch_export_file_are_code(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why they are looked at: PyTorch's own loader runs them."""
    monkeypatch.chdir(tmp_path)
    repack(bundle, in_program(_evil_size))
    with contextlib.suppress(Exception):
        torch.export.load(bundle / bundles.EXPORTED)
    assert (tmp_path / "trap").exists()


@pytest.mark.slow
def test_a_compressed_archive(bundle: Path) -> None:
    repack(bundle, lambda parts: None)
    reseal(bundle)
    read_bundle(bundle).system("torch-export")
    repack(bundle, lambda parts: None, compression=zipfile.ZIP_DEFLATED)
    refused_as(bundle, "torch-export", "compressed")

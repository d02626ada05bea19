"""`raudio export`: from a run to a bundle."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def export(
    run: Annotated[str, typer.Argument(help="run folder of a search or a training")],
    out: Annotated[str, typer.Option(help="folder or URI of the bundle, must be new")],
    trial: Annotated[str | None, typer.Option(help="id of a trial; if left out the best")] = None,
    top: Annotated[
        int | None, typer.Option(help="the best so many trials, whose scores are averaged")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="best or last epoch's, or averaged: the mean of --top trials'")
    ] = "best",
    format: Annotated[
        str, typer.Option(help="comma-separated: safetensors, onnx, torch-export")
    ] = "safetensors",
    precision: Annotated[
        str, typer.Option(help="of the stored weights: fp32, fp16 or int8")
    ] = "fp32",
    plugin: Annotated[
        list[str] | None, typer.Option(help="Python file of your own components; repeatable")
    ] = None,
) -> None:
    """Writes a run's best trial, the one you name, or several, as a bundle to predict with.

    Graphs (onnx, torch-export) go from the waveform to the scores; they are compared with PyTorch's
    scores, and refused where they differ.

    Example: raudio export runs/fsdd --out bundles/fsdd
    """
    import os
    import sys
    import tempfile

    from raudio.config.validate import use_plugins
    from raudio.core.storage import is_remote
    from raudio.export.bundle import read_bundle
    from raudio.export.make import export as write

    use_plugins(plugin or ())
    options: dict[str, Any] = {
        "top": top,
        "weights": weights,
        "formats": [name.strip() for name in format.split(",")],
        "precision": precision,
        "echo": lambda line: print(line, file=sys.stderr),
    }
    if is_remote(out):
        from raudio.export.remote import check_target, push

        check_target(out)
        with tempfile.TemporaryDirectory() as folder:
            path = write(run, os.path.join(folder, "bundle"), trial, **options)
            metrics = read_bundle(path).metrics
            place = push(path, out)
    else:
        place = str(write(run, out, trial, **options))
        metrics = read_bundle(place).metrics
    _tell(metrics)
    print(f"predict with: raudio predict {place} FILES", file=sys.stderr)
    print(place)


def _tell(metrics: dict[str, Any]) -> None:
    """What was exported, and what a smaller precision saves and costs."""
    import sys

    several = "members" in metrics
    which = f"trials {metrics['trial']}" if several else f"trial {metrics['trial']}"
    epoch = "" if several else f", epoch {metrics['epoch']}"
    if metrics["value"] is None:
        value = metrics["measured"]
    else:
        value = f"{metrics['metric']} {metrics['value']:.4g}"
    print(f"{which}{epoch} ({metrics['weights']} weights): {value}", file=sys.stderr)
    for name, graph in metrics["formats"].items():
        print(
            f"{name}: differs by {graph['random']['difference']:.1g} on noise and "
            f"{graph['real']['difference']:.1g} on {graph['real_from']}",
            file=sys.stderr,
        )
    for row in metrics["precision"].get("costs", ()):
        found = row["metrics"].get(metrics["metric"])
        print(
            f"{row['format']:<12} {row['precision']:<5} {row['bytes']:>12,} bytes  "
            f"{1000 * row['seconds']:8.3f} ms a window  "
            + (f"{metrics['metric']} {found:.4f}" if found is not None else "not measured"),
            file=sys.stderr,
        )

"""`raudio evaluate`: how good a bundle is on a split of a dataset."""

from __future__ import annotations

from typing import Annotated

import typer


def evaluate(
    bundle: Annotated[str, typer.Argument(help="folder of the bundle")],
    dataset: Annotated[str, typer.Argument(help="dataset, or a plain folder of audio")],
    split: Annotated[str, typer.Option(help="train, valid or test")] = "test",
    labels: Annotated[
        str | None, typer.Option(help="label file of a plain folder of audio")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU if there is one")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="windows computed at once")] = 64,
    plugin: Annotated[
        list[str] | None, typer.Option(help="Python file of your own components; repeatable")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="everything, as one JSON object")] = False,
) -> None:
    """Measures a bundle on a split that is labelled.

    Example: raudio evaluate bundles/fsdd data/fsdd --split test
    """
    import sys
    from json import dumps

    from raudio.config.validate import use_plugins
    from raudio.export.evaluate import evaluate as measure

    use_plugins(plugin or ())
    result = measure(
        bundle,
        dataset,
        split,
        labels=labels,
        device=device,
        batch_size=batch_size,
        echo=lambda line: print(line, file=sys.stderr),
    )
    if json:
        print(dumps(result, ensure_ascii=False))
        return
    print(f"{result['clips']} clips of split {split}")
    width = max(map(len, result["metrics"]))
    for name, value in result["metrics"].items():
        print(f"{name:<{width}}  {value:.4f}")
    for line in _confused(result["labels"], result["confusion"]):
        print(line)


def _confused(labels: list[str], confusion: list[list[int]], top: int = 5) -> list[str]:
    """The pairs of labels most often taken for each other, as the metrics alone don't tell."""
    pairs = [
        (count, labels[true], labels[said])
        for true, row in enumerate(confusion)
        for said, count in enumerate(row)
        if true != said and count
    ]
    pairs.sort(key=lambda pair: -pair[0])
    lines = [f"  {true} taken for {said}: {count}" for count, true, said in pairs[:top]]
    return ["most confused:", *lines] if lines else []

"""`raudio data augment`: hear and see what augmentations do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer


def augment(
    clips: Annotated[list[str], typer.Argument(help="files of audio; to mix clips, two or more")],
    out: Annotated[str, typer.Option(help="folder of what is written; must not exist")],
    with_: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="NAME",
            help="augmentation, or a setting of one: gain, gain.max_db=12, audiomentations.Trim",
        ),
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="as for `raudio train`, such as augment=strong"),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="variants of each clip")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="another seed, other draws")] = 0,
) -> None:
    """Writes a clip before and after augmentations: audio, and pictures of wave and log-mel.

    What --with names is applied to every clip, in the order of `raudio list augmentations`'
    settings; --config takes the probabilities as a training would. Augmentations of spectrograms
    are in the pictures, and not in the audio.

    Example: raudio data augment bird.wav --with noise --with noise.min_snr=0 --out heard
    """
    from functools import partial

    from raudio.audio.preview import preview
    from raudio.config import compose

    overrides = [*_overrides(with_ or []), *(config or [])]
    if not overrides:
        raise typer.BadParameter("give --with NAME, or --config augment=NAME")
    experiment = compose.compose(overrides).experiment
    echo = partial(typer.echo, err=True)
    for path in preview(clips, experiment, out, count=count, seed=seed, echo=echo):
        print(path)


def _overrides(names: Sequence[str]) -> list[str]:
    """What --with names as settings; p is 1 unless given.

    Raises:
        ConfigError: no augmentation is called so.
    """
    from raudio.config import adapters, chain, schema
    from raudio.core.errors import ConfigError, unknown

    always: list[str] = []
    found: list[str] = []
    for name in names:
        key, equals, value = name.partition("=")
        if adapters.is_adapter(key):
            kind, setting = ".".join(key.split(".")[:2]), ".".join(key.split(".")[2:])
            where = f"{chain.KEY}.{kind.replace('.', '_')}"
            always.append(f"{where}.kind={kind}")
        else:
            kind, _, setting = key.partition(".")
            where = f"augment.{kind}"
            if kind not in (known := schema.augmentations()):
                raise ConfigError(f"--with {name}: {unknown('augmentation', kind, known)}")
            always.append(f"{where}.p=1")
        if equals and setting:
            found.append(f"{where}.{setting}={value}")
        elif equals or setting:
            raise ConfigError(f"--with {name}: write a name, {kind}, or {kind}.SETTING=VALUE")
    return [*always, *found]

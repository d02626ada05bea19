"""From the setting `dataset.path` to a dataset: the embedded one, one that is there, or a plain
folder of audio, which is prepared into the cache first.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from raudio.config.axes import text
from raudio.config.schema import Dataset
from raudio.core.errors import ConfigError, DataError
from raudio.core.storage import cache_dir, is_remote
from raudio.core.units import format_seconds
from raudio.data.join import joined
from raudio.data.manifest import FORMAT_VERSION, INDEX, MANIFEST, Manifest
from raudio.data.prepare import Options, plan
from raudio.data.resolve import LONGEST_CLIP
from raudio.data.sources import LABEL_SUFFIXES, closest_path, is_source_file, read_source
from raudio.data.synth import VERSION, synth
from raudio.data.writer import Echo, Progress, silent, write_dataset

SYNTH = "synth"


def locate(settings: Dataset, echo: Echo = silent, progress: Progress | None = None) -> Manifest:
    """The manifest of the dataset that `settings` mean, made first where it has to be.

    A plain folder is prepared once: its dataset in the cache is named by a hash of its listing
    (names, sizes, times), the labels and the options.

    Args:
        settings: `path` is "synth", a dataset (folder or URI), or a local source of audio: a
            folder, to which `labels` may name a label file, a tar or a lhotse manifest; relative to
            the folder that raudio runs in. Or a list of these, which are joined.
        echo: told what is made, and what a plain folder's labels, rate, clip length and splits were
            taken to be.
        progress: told how many clips of how many are prepared.

    Raises:
        ConfigError: what is to be made can't be, as the cache cannot be written.
        DataError: nothing is there, or it cannot be used.
    """
    if isinstance(settings.path, str):
        return _located(settings.path, settings, echo, progress)
    _refuse_labels(settings, "it is a list; prepare that folder first: raudio data prepare")
    manifests = [_located(path, settings, echo, progress) for path in settings.path]
    places = [manifest.anywhere().path for manifest in manifests]
    for place, path in zip(places, settings.path, strict=True):
        if places.count(place) > 1:
            raise DataError(
                f"dataset.path={text(settings.path)} names {path!r} twice; give it once, and its "
                "share of an epoch as dataset.weights"
            )
    return joined(manifests)


def _located(path: str, settings: Dataset, echo: Echo, progress: Progress | None) -> Manifest:
    if path == SYNTH:
        _refuse_labels(settings, "the embedded data has its own")
        return _embedded(echo, progress)
    if is_remote(path):
        _refuse_labels(settings, "a dataset has its own")
        return Manifest.read(path)
    folder = Path(path).expanduser()
    if is_source_file(path):
        return _plain_folder(folder, settings, echo, progress)
    if not folder.exists():
        raise DataError(
            f"dataset.path={path!r} does not exist{closest_path(folder)}; give a dataset, "
            "a folder of audio, or synth"
        )
    if (folder / MANIFEST).is_file():
        _refuse_labels(settings, "a dataset has its own")
        return Manifest.read(str(folder))
    if (folder / INDEX).is_file():
        raise DataError(
            f"dataset.path={path!r} has {INDEX} and no {MANIFEST}: it is not a whole dataset; "
            "prepare it again, or copy it again whole"
        )
    if folder.is_file():
        cure = "give the folder of audio that it belongs to"
        if folder.suffix.lower() in LABEL_SUFFIXES:
            cure = f"write dataset.path=FOLDER dataset.labels={path}"
        raise DataError(f"dataset.path={path!r} is a file; {cure}")
    return _plain_folder(folder, settings, echo, progress)


def _embedded(echo: Echo, progress: Progress | None) -> Manifest:
    folder = cache_dir() / "datasets" / f"synth-{VERSION}-{FORMAT_VERSION}"
    if folder.exists():
        return Manifest.read(str(folder))
    _check_cache(folder.parent)
    return synth(folder, reuse=True, echo=echo, progress=progress)


def _plain_folder(
    folder: Path, settings: Dataset, echo: Echo, progress: Progress | None
) -> Manifest:
    options = Options()
    try:
        found = read_source(folder, labels=settings.labels)
        key = found.key(options, FORMAT_VERSION)
        out = cache_dir() / "datasets" / f"{folder.resolve().name}-{key[:16]}"
        if out.exists():
            manifest = Manifest.read(str(out))
            echo(f"{folder}: a plain folder of audio, prepared before: {out}")
        else:
            _check_cache(out.parent)
            echo(f"{folder}: a plain folder of audio, preparing it into {out}")
            task = plan(found, options)
            manifest = write_dataset(out, task, reuse=True, echo=echo, progress=progress)
    except DataError as error:
        raise DataError(
            f"{error} (the options named here are those of: raudio data prepare {folder} "
            "--out NEW, after which dataset.path=NEW)"
        ) from error
    _say(manifest, settings, echo)
    return manifest


def _check_cache(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(
            f"raudio's cache {str(folder)!r} cannot be written ({error.strerror}); set "
            "RAUDIO_CACHE to a folder that can"
        ) from error


def _say(manifest: Manifest, settings: Dataset, echo: Echo) -> None:
    """What was taken for what; the reader's own settings win over the data's."""
    for sentence in manifest.made_with["taken"]:
        echo(f"  {sentence}")
    rate = settings.sample_rate or manifest.sample_rate
    having = manifest.sample_rates.get(rate, 0)
    echo(f"  sample rate {rate} Hz ({having} of {manifest.clips} clips have it)")
    seconds = settings.clip_seconds or min(LONGEST_CLIP, manifest.seconds_p95)
    echo(
        f"  clip length {format_seconds(seconds)} (the clips have {manifest.seconds_min:.2f} to "
        f"{manifest.seconds_max:.2f} s, {format_seconds(manifest.seconds)} in all)"
    )


def _refuse_labels(settings: Dataset, why: str) -> None:
    if settings.labels is not None:
        raise DataError(
            f"dataset.labels={settings.labels!r} is for a plain folder of audio, and "
            f"dataset.path={text(settings.path)} is none ({why}); leave dataset.labels out"
        )

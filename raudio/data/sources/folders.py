"""A folder for each class."""

from __future__ import annotations

from collections.abc import Mapping

from raudio.core.errors import DataError
from raudio.core.storage import Stat, join
from raudio.data.sources.columns import NOTHING
from raudio.data.sources.files import AUDIO_SUFFIXES, SPLIT_NAMES, is_audio, split_level
from raudio.data.sources.item import Item
from raudio.data.sources.labels import LabelOptions
from raudio.data.sources.source import Source
from raudio.data.sources.tables import LABEL_SUFFIXES


def from_folders(folder: str, files: Mapping[str, Stat], options: LabelOptions) -> Source:
    """The audio among `files`, with the names of its folders for classes.

    Args:
        folder: local path or URI.
        files: all that is below it.
        options: there are no columns, so all they may say is that folders named like splits give
            none (`columns={"split": "none"}`).

    Raises:
        DataError: no audio, audio outside the classes' folders, or columns.
    """
    given = {
        f"--{role}-column={name!r}"
        for role, name in options.columns.items()
        if (role, name) != ("split", NOTHING)
    }
    if options.label_separator is not None:
        given.add(f"--label-separator={options.label_separator!r}")
    if given:
        raise DataError(
            f"{min(given)} is about a label file, and there is none: give one with --labels FILE"
        )
    audio = {name: stat for name, stat in files.items() if is_audio(name)}
    hint = label_file_hint(folder, files)
    if not audio:
        raise DataError(
            f"no audio in {folder!r}: none of its files ends in {', '.join(AUDIO_SUFFIXES)}{hint}"
        )
    if loose := [name for name in audio if "/" not in name]:
        raise DataError(
            f"{len(loose)} audio files lie directly in {folder!r} (such as {loose[0]!r}), so their "
            "class is unknown: put each class into a folder of its own, or give a label file with "
            f"--labels FILE{hint}"
        )
    level = split_level(audio)
    split_folders: set[str] = set()
    items: list[Item] = []
    for name, stat in audio.items():
        parts = name.split("/")[:-1]
        split = None
        if level is not None:
            split_folders.add(parts[level])
            split = SPLIT_NAMES[parts.pop(level).lower()]
        if not parts:
            raise DataError(
                f"{name!r} in {folder!r} lies in the split {split!r} but in no class: put each "
                "class into a folder of its own"
            )
        if options.columns.get("split") == NOTHING:
            split = None
        items.append(
            Item(
                clip_id=name,
                path=join(folder, name),
                label=parts[0],
                split=split,
                size=stat.size,
                stamp=stat.stamp,
            )
        )
    taken = ["labels from the folders' names"]
    if items[0].split is not None:
        taken.append("splits from the folders " + ", ".join(sorted(split_folders)))
    return Source(folder, tuple(items), tuple(taken), {})


def label_file_hint(folder: str, files: Mapping[str, Stat]) -> str:
    """A sentence on the label file that lies in the folder and was not named, if one does."""
    here = [name for name in files if "/" not in name and name.lower().endswith(LABEL_SUFFIXES)]
    if not here:
        return ""
    file = join(folder, here[0])
    return f"; there is {file} (in a search: dataset.labels={file})"

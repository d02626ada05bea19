"""lhotse: manifests of cuts, or of recordings and supervisions (JSONL), and Shar folders.

The formats: https://lhotse.readthedocs.io. Recordings are read in place: a cut is a part of its
recording, a cut of a Shar folder a member of its tar.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from raudio.core import storage
from raudio.core.errors import DataError
from raudio.core.extras import require
from raudio.core.storage import Stat, join
from raudio.core.units import Seconds
from raudio.data.sources.files import Finder, splits_by_name
from raudio.data.sources.item import Item
from raudio.data.sources.labels import LabelOptions, from_table
from raudio.data.sources.source import Source
from raudio.data.sources.tables import Row, table_of
from raudio.data.sources.tars import read_members

_SUFFIXES = (".jsonl.gz", ".jsonl")
_SHAR_CUTS = re.compile(r"cuts\.(\d+)\.jsonl(\.gz)?")


def is_manifest(location: str) -> bool:
    """Whether `location` is named like a manifest."""
    return location.lower().endswith(_SUFFIXES)


def manifests(files: Mapping[str, Stat]) -> list[str]:
    """The manifests directly in a folder: those of cuts if there are any, else of recordings."""
    here = [name for name in files if "/" not in name and is_manifest(name)]
    for kind in ("cuts", "recordings"):
        if chosen := [name for name in here if kind in name.lower()]:
            return chosen
    return []


def is_shar(files: Mapping[str, Stat]) -> bool:
    """Whether these are the files of a Shar folder that holds audio."""
    return any(_SHAR_CUTS.fullmatch(name) for name in files) and any(
        name.startswith("recording.") for name in files
    )


@dataclass
class _Clip:
    """What a cut or a supervision says of a clip, and where its audio is."""

    id: str
    path: str = ""
    seconds: tuple[Seconds, Seconds] | None = None
    channel: int | None = None
    row: Row = field(default_factory=dict)


def from_manifests(location: str, files: Sequence[str], options: LabelOptions) -> Source:
    """A clip for each cut; or, of recordings with supervisions, for each supervision.

    Args:
        location: of the source.
        files: paths or URIs of manifests of cuts or recordings. Supervisions lie beside recordings
            and are named like them, with "supervisions" for "recordings".
        options: `label` names a supervision's text, speaker, ... or a key of its custom data.

    Raises:
        DataError: a manifest that is missing, damaged, or whose audio is in no files.
        ConfigError: lhotse is not installed.
    """
    splits = None if "split" in options.columns else splits_by_name(files)
    clips: list[_Clip] = []
    for file in files:
        for clip in _clips(file):
            if splits:
                clip.row["split"] = splits[file]
            clips.append(clip)
    finder = Finder([location if location not in files else location.rpartition("/")[0], ""])
    of_id = {clip.id: clip for clip in clips}

    def find(names: Sequence[str]) -> list[Item | None]:
        found = finder([of_id[name].path for name in names])
        return [
            item
            and replace(
                item, clip_id=name, seconds=of_id[name].seconds, channel=of_id[name].channel
            )
            for name, item in zip(names, found, strict=True)
        ]

    def looked(name: str) -> str:
        return f"{of_id[name].path!r}"

    rows = [{"id": clip.id, **clip.row} for clip in clips]
    table = table_of(location, rows, [f"cut {clip.id}" for clip in clips])
    found = from_table(location, table, find, options.filled(file="id"), looked=looked)
    return found.saying(f"lhotse: {len(rows)} cuts of {', '.join(files)}")


def from_shar(folder: str, files: Mapping[str, Stat], options: LabelOptions) -> Source:
    """The cuts of a Shar folder, whose audio is in the tars of its field "recording".

    Raises:
        DataError: a shard lacks its tar, or the tar a cut's recording.
        ConfigError: lhotse is not installed.
    """
    rows: list[Row] = []
    items: dict[str, Item] = {}
    for name in files:
        if (match := _SHAR_CUTS.fullmatch(name)) is None:
            continue
        tar = f"recording.{match[1]}.tar"
        if tar not in files:
            raise DataError(f"{join(folder, name)}: its recordings {tar!r} are not there")
        members = {
            member.name.rpartition(".")[0]: member
            for member in read_members(join(folder, tar), lambda _: False)
            if not member.name.endswith((".json", ".nodata", ".nometa"))
        }
        for cut in _objects(join(folder, name)):
            if cut.id not in members:
                raise DataError(f"{join(folder, tar)} has no recording of the cut {cut.id!r}")
            member = members[cut.id]
            items[cut.id] = Item(
                clip_id=cut.id,
                path=join(folder, tar),
                span=(member.offset, member.size),
                size=member.size,
                stamp=files[tar].stamp,
            )
            rows.append({"id": cut.id, **_said(cut.supervisions, cut.custom, cut.recording_id)})
    table = table_of(folder, rows, [f"cut {row['id']}" for row in rows])
    found = from_table(
        folder, table, lambda names: [items[name] for name in names], options.filled(file="id")
    )
    return found.saying(f"lhotse Shar: {len(rows)} cuts")


def _clips(file: str) -> Iterator[_Clip]:
    """The clips of a manifest."""
    folder, slash, name = file.rpartition("/")
    supervisions: dict[str, list[Any]] = {}
    if "recordings" in name:
        beside = folder + slash + name.replace("recordings", "supervisions")
        for segment in _objects(beside):
            supervisions.setdefault(segment.recording_id, []).append(segment)
    for each in _objects(file):
        kind = type(each).__name__
        if kind in ("MonoCut", "MultiCut") and each.has_recording:
            yield _clip(each.id, each, each.recording, each.supervisions, each.custom)
        elif kind == "Recording":
            for segment in supervisions.get(each.id, []):
                yield _clip(segment.id, segment, each, [segment], None)
        else:
            raise DataError(
                f"{file}: {each.id!r} is a {kind} without a recording of its own; save such cuts "
                "as audio first (CutSet.save_audios, or to_shar)"
            )


def _clip(
    clip_id: str,
    part: Any,
    recording: Any,
    supervisions: Sequence[Any],
    custom: Mapping[str, Any] | None,
) -> _Clip:
    """The clip that `part`, a cut or a supervision, is of its recording."""
    wanted = [part.channel] if isinstance(part.channel, int) else list(part.channel)
    sources = [source for source in recording.sources if set(wanted) <= set(source.channels)]
    if recording.transforms or len(sources) != 1 or sources[0].type not in ("file", "url"):
        raise DataError(
            f"{clip_id!r}: its recording {recording.id!r} is no single file as it is (transforms, "
            "several files, a command or memory); save the cuts as audio first (CutSet.save_audios)"
        )
    channels = list(sources[0].channels)
    channel = None
    if len(wanted) == 1 and len(channels) > 1:
        channel = channels.index(wanted[0])
    elif wanted != channels:
        raise DataError(
            f"{clip_id!r}: channels {wanted} of a recording that has {channels}; take one or all"
        )
    seconds = (float(part.start), round(float(part.start + part.duration), 9))
    whole = part.start == 0 and abs(part.duration - recording.duration) < 0.5 / (
        recording.sampling_rate
    )
    return _Clip(
        id=clip_id,
        path=sources[0].source,
        seconds=None if whole else seconds,
        channel=channel,
        row=_said(supervisions, custom, recording.id),
    )


def _said(supervisions: Iterable[Any], custom: Mapping[str, Any] | None, recording_id: str) -> Row:
    """What a clip's supervisions say; a list where they differ."""
    said: dict[str, list[Any]] = {}
    for segment in supervisions:
        facts = {
            "text": segment.text,
            "language": segment.language,
            "speaker": segment.speaker,
            "gender": segment.gender,
            **(segment.custom or {}),
        }
        for name, value in facts.items():
            if value is not None and value not in said.setdefault(name, []):
                said[name].append(value)
    row = {name: values[0] if len(values) == 1 else values for name, values in said.items()}
    plain = {k: v for k, v in (custom or {}).items() if isinstance(v, str | int | float | list)}
    return {**plain, **row, "recording_id": recording_id}


def _objects(file: str) -> Iterator[Any]:
    """lhotse's objects from the lines of a manifest."""
    serialization = require("lhotse.serialization", extra="lhotse")
    try:
        content = storage.read_bytes(file)
        if file.endswith(".gz"):
            content = gzip.decompress(content)
        for line in content.splitlines():
            if line.strip():
                yield serialization.deserialize_item(json.loads(line))
    except FileNotFoundError:
        raise DataError(f"lhotse manifest {file!r} does not exist") from None
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"lhotse manifest {file!r} cannot be read ({type(error).__name__}: {error})"
        ) from error

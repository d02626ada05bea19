"""Where the members of a tar lie, so that each can be read by itself and nothing is unpacked."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from typing import NamedTuple

from raudio.core import storage
from raudio.core.errors import DataError

_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


class Member(NamedTuple):
    """A file in a tar: its name, where its content lies (in bytes), and the content if wanted."""

    name: str
    offset: int
    size: int
    content: bytes | None

    @property
    def key(self) -> str:
        """The name up to the first dot of its last part: what a sample's members share."""
        folder, slash, file = self.name.rpartition("/")
        return folder + slash + file.partition(".")[0]

    @property
    def suffix(self) -> str:
        """What follows the key, in lower case, with the dot."""
        return self.name[len(self.key) :].lower()


def refuse_packed(path: str) -> None:
    """Raises `DataError` for a compressed tar."""
    if path.lower().endswith(_PACKED):
        raise DataError(
            f"{path!r} is compressed, which hides where its members lie; give the plain .tar "
            "(audio hardly gets smaller)"
        )


def read_members(path: str, wanted: Callable[[str], bool]) -> list[Member]:
    """The files in a tar, in its order.

    Args:
        path: local path or URI of a plain tar.
        wanted: of a member's name: whether its content is to be read too.

    Raises:
        DataError: it is compressed, damaged or cannot be read.
    """
    refuse_packed(path)
    members: list[Member] = []
    try:
        with storage.open_bytes(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                if not info.isfile():
                    continue
                content = None
                if wanted(info.name) and (opened := tar.extractfile(info)) is not None:
                    content = opened.read()
                name = info.name.removeprefix("./")
                members.append(Member(name, info.offset_data, info.size, content))
    except FileNotFoundError:
        raise DataError(f"{path!r} does not exist; correct the path") from None
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{path!r} cannot be read as a tar: {error}") from error
    return members

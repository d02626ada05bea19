"""Secrets out of texts that are kept or shown: logs, messages, what a tracker is told."""

from __future__ import annotations

import os
import re

#: What a variable of the environment that holds a secret has in its name.
_NAMES = ("KEY", "TOKEN", "SECRET", "PASSWORD")
#: A shorter value is no secret, and might be part of any word.
_SHORTEST = 8
_USERINFO = re.compile(r"(?<=://)[^/\s@'\"]+@")


def has_credentials(uri: str) -> bool:
    """Whether a URI holds a user or a password."""
    return _USERINFO.search(uri) is not None


def without_credentials(text: str) -> str:
    """`text` without users and passwords of URIs."""
    return _USERINFO.sub("***@", text)


def redact(text: str) -> str:
    """`text` without users and passwords of URIs, and without the secrets of the environment."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and any(part in name.upper() for part in _NAMES):
            text = text.replace(value, "***")
    return without_credentials(text)

"""Files that look like secrets, by their names and by what is in them: few patterns, and certain.

Scanners such as detect-secrets find more, and among it much that is none: here each finding stops a
person until it is answered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

#: Names of files that hold keys, passwords or tokens.
_NAMES = (
    *(".env", ".env.*", "*.env", ".envrc", ".netrc", "_netrc", ".pgpass", ".pypirc", ".htpasswd"),
    *(".git-credentials", ".dockercfg", ".s3cfg", ".boto", "kubeconfig", "auth_token"),
    *("*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.ppk"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "credentials", "credentials.*"),
)
#: Names that these patterns match, of files that are made to be read.
_PUBLIC = ("*.pub", "*.example", "*.sample", "*.template", "*.py")
#: Folders that hold nothing else.
_FOLDERS = {".aws", ".ssh", ".gnupg", ".kube", ".azure", ".docker", "gcloud"}
#: What secrets look like; a name for each.
_CONTENT = {
    "a private key": rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----",
    "an AWS access key": rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b(?<!EXAMPLE)",
    "an AWS secret key": rb"(?i:aws_secret_access_key)[\"']?\s*[=:]\s*[\"']?[A-Za-z0-9/+]{40}\b"
    rb"(?<!EXAMPLEKEY)",
    "a W&B key": rb"(?i:wandb_api_key)[\"']?\s*[=:]\s*[\"']?(?:[0-9a-f]{40}|wandb_v1_\w{20,})\b",
    "a Hugging Face token": rb"\bhf_[A-Za-z0-9]{30,}\b",
    "a GitHub token": rb"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{40})",
    "a GitLab token": rb"\bglpat-[\w-]{20}",
    "a Google API key": rb"\bAIza[0-9A-Za-z_-]{35}\b",
    "a Slack token": rb"\bxox[abeprs]-[0-9A-Za-z-]{10,}",
}
_PATTERNS = {name: re.compile(pattern) for name, pattern in _CONTENT.items()}
#: Bytes of a file that are looked at.
_LOOKED_AT = 1 << 20


def secret_in(content: bytes) -> str | None:
    """What kind of secret a text holds, and in which line; None: none that is known."""
    for name, pattern in _PATTERNS.items():
        found = pattern.search(content)
        if found is not None:
            return f"{name} in line {content.count(bytes([10]), 0, found.start()) + 1}"
    return None


def looks_secret(name: str, file: Path) -> str | None:
    """Why a file looks like a secret; None: it does not.

    Args:
        name: its path inside what is sent, with forward slashes.
        file: where it is.

    Raises:
        OSError: it cannot be read.
    """
    *folders, last = name.lower().split("/")
    if any(folder in _FOLDERS for folder in folders):
        return "its folder"
    if _any(last, _NAMES) and not _any(last, _PUBLIC):
        return "its name"
    with file.open("rb") as opened:
        return secret_in(opened.read(_LOOKED_AT))


def _any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)

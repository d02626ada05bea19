"""YAML that people write: what is lost, torn or foreign in it is told of in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from raudio.core.errors import ConfigError
from raudio.core.written import read_yaml


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: 1\nb: {c: 1, c: 2}\n", r"'c' is given twice, at line 2, column 11$"),
        (b"a: 1\na: 1\n", r"'a' is given twice, at line 2, column 1$"),
        (b"a: [1, 2\n", r"not readable as YAML: expected .* at line 2, column 1$"),
        (
            b"a: !!python/object/apply:os.system ['ls']\n",
            r"could not determine .* line 1, column 4$",
        ),
        ("a: größe".encode("latin-1"), "it is not UTF-8$"),
        (b"a: \x00\n", "not readable as YAML: unacceptable character"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_everything_else_is_as_yaml_has_it(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {x: 1}\nb: {<<: *a, y: [1, 2]}\nc: {<<: *a, x: 2}\n", encoding="utf-8")
    assert read_yaml(path) == {"a": {"x": 1}, "b": {"x": 1, "y": [1, 2]}, "c": {"x": 2}}
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)

"""YAML that a person has written: what it holds, or one sentence on what is wrong and where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from raudio.core.errors import ConfigError


def read_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        ConfigError: it cannot be read, is no YAML, or gives a key twice, of which the first value
            would be lost.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not readable as YAML: it is not UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = "" if mark is None else f", at line {mark.line + 1}, column {mark.column + 1}"
        raise ConfigError(f"{path} is not readable as YAML: {error.problem}{place}") from error
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"{path} is not readable as YAML: {said}") from error


class _Loader(yaml.SafeLoader):
    """PyYAML's safe one takes the last of several values of a key in silence."""

    def compose_mapping_node(self, anchor: dict[Any, Any]) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"{key.value!r} is given twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return node

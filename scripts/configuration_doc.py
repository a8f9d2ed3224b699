"""Writes docs/CONFIGURATION.md from the settings themselves; tests/unit/test_configuration_doc.py holds the two together."""

from __future__ import annotations

import enum
import inspect
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from sfm_grpc.settings import FILE_VARIABLE, Settings, variable

PAGE = Path(__file__).parents[1] / "docs" / "CONFIGURATION.md"

_TOP = f"""# Configuration

Every setting is an environment variable. Without any, `sfm serve` is the embedded default: one SQLite file under `./var`, on
loopback, nothing else needed. Settings are read once, at the start, and checked across each other; what is wrong is told line
by line, and nothing is opened.

- The command line wins over the environment, the environment over the file that `{FILE_VARIABLE}` names (lines like
  `SFM_LISTEN=127.0.0.1:50051`).
- A variable that begins with `SFM_` and is not listed here is refused, with the name it may have been meant to be.
- The unit is the last word of a name: `_ms`, `_s`, `_bytes`. `sfm config` prints what applies, and where it came from.

This page is written by `make docs` from `src/sfm_grpc/settings.py`; a test compares the two.
"""

_BOUNDS = {"ge": "at least {}", "gt": "over {}", "le": "at most {}", "lt": "under {}"}


def page() -> str:
    """The whole page."""
    parts = [_TOP]
    for title, names in groups().items():
        parts.append(f"\n## {title}\n\n| Variable | Default | Accepted | Meaning |\n|---|---|---|---|\n")
        parts += [_row(name, Settings.model_fields[name]) for name in names]
    return "".join(parts)


def groups() -> Mapping[str, list[str]]:
    """The settings in their order, under the headings of the code: `# ---- heading`."""
    found: dict[str, list[str]] = {}
    title = ""
    for line in inspect.getsource(Settings).splitlines():
        if heading := re.match(r" {4}# ---- (.+)", line):
            title = heading[1][:1].upper() + heading[1][1:] if heading[1].isascii() else heading[1]
        elif (field := re.match(r" {4}(\w+): .*= Field\(", line)) and field[1] in Settings.model_fields:
            found.setdefault(title, []).append(field[1])
    return found


def _row(name: str, field: FieldInfo) -> str:
    meaning = (field.description or "").replace("|", r"\|")
    return f"| `{variable(name)}` | {default(field)} | {', '.join(_accepted(field))} | {meaning} |\n"


def default(field: FieldInfo) -> str:
    """The default as it would be written into the environment."""
    value = field.default
    if value is None:
        return "unset"
    if value == "":
        return "empty"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value.value if isinstance(value, enum.Enum) else value}`"


def _accepted(field: FieldInfo) -> Iterator[str]:
    kind = _without_none(field.annotation)
    if typing.get_origin(kind) is Literal:
        yield " or ".join(f"`{choice}`" for choice in typing.get_args(kind))
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        yield " or ".join(f"`{member.value}`" for member in kind)
    else:
        yield {
            bool: "`true` or `false`",
            int: "whole number",
            float: "number",
            str: "text",
            Path: "path",
            SecretStr: "secret text",
        }[kind]
    for bound in field.metadata:
        for name, words in _BOUNDS.items():
            if (limit := getattr(bound, name, None)) is not None:
                yield words.format(limit)


def _without_none(annotation: Any) -> Any:
    if typing.get_origin(annotation) in (typing.Union, UnionType):
        [annotation] = [kind for kind in typing.get_args(annotation) if kind is not NoneType]
    return annotation


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

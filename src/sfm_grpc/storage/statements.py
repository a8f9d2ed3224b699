"""SQL lives in `.sql` files, one intent a statement: `-- name: what_it_does` starts each."""

from __future__ import annotations

import re
from importlib import resources

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load(package: str, file: str, **parts: str) -> dict[str, str]:
    """The statements of `file` in `package`, by name. What is said of `parts` stands where a statement has its name in braces."""
    found = text(package, file)
    for name, part in parts.items():
        found = found.replace(f"{{{name}}}", part)
    pieces = _NAME.split(found)
    return dict(zip(pieces[1::2], (body.strip().rstrip(";") for body in pieces[2::2]), strict=True))


def text(package: str, file: str) -> str:
    """A whole SQL file."""
    return resources.files(package).joinpath(file).read_text(encoding="utf-8")

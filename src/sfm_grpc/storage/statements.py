"""SQL lives in `.sql` files, one intent a statement: `-- name: what_it_does` starts each."""

from __future__ import annotations

import re
from importlib import resources

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load(package: str, file: str) -> dict[str, str]:
    """The statements of `file` in `package`, by name."""
    parts = _NAME.split(text(package, file))
    return dict(zip(parts[1::2], (body.strip().rstrip(";") for body in parts[2::2]), strict=True))


def text(package: str, file: str) -> str:
    """A whole SQL file."""
    return resources.files(package).joinpath(file).read_text(encoding="utf-8")

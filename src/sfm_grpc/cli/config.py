"""`sfm config`: what a server started here would be told, and by whom."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from sfm_grpc.cli.connection import Json
from sfm_grpc.cli.exits import CommandError

if TYPE_CHECKING:
    from sfm_grpc.settings import Settings

_PASSWORD = re.compile(r"(://[^/\s:@]*:)[^/\s@]+(@)")
_MASK = "********"


def config(as_json: Json = False) -> None:
    """Print every setting, its value and where it came from.

    Settings are environment variables; the file that SFM_CONFIG_FILE names holds lines like SFM_LISTEN=127.0.0.1:50051 and
    yields to them. Secrets are masked. The same list is docs/CONFIGURATION.md.
    """
    from sfm_grpc.cli import output
    from sfm_grpc.settings import ConfigError, load

    try:
        settings = load()
    except ConfigError as error:
        raise CommandError(str(error)) from None
    rows = _rows(settings)
    if as_json:
        output.print_json({"settings": rows})
        return
    shown = [(r["variable"], _words(r["value"]), r["source"], r["description"]) for r in rows]
    output.print_table(("Variable", "Value", "From", "Meaning ~"), shown)


def _words(value: object) -> str:
    """As it would be written into the environment."""
    if value is None:
        return "(unset)"
    return str(value).lower() if isinstance(value, bool) else str(value) or "(empty)"


def _rows(settings: Settings) -> list[dict[str, object]]:
    from sfm_grpc.settings import variable

    fields = type(settings).model_fields
    values = settings.model_dump(mode="json")
    return [
        {
            "variable": variable(name),
            "value": _masked(values[name]),
            "source": _source(settings, name, variable(name)),
            "default": _masked(_default(settings, name)),
            "description": field.description or "",
        }
        for name, field in fields.items()
    ]


def _default(settings: Settings, name: str) -> object:
    value = type(settings).model_fields[name].get_default(call_default_factory=False)
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def _source(settings: Settings, name: str, variable: str) -> str:
    """As pydantic-settings decides: the environment, in any case of letters, before the file."""
    if any(key.upper() == variable for key in os.environ):
        return "environment"
    return "file" if name in settings.model_fields_set else "default"


def _masked(value: object) -> object:
    """Passwords inside addresses; whole secrets are masked by their own type (pydantic's SecretStr)."""
    if not isinstance(value, str):
        return value
    return _PASSWORD.sub(rf"\g<1>{_MASK}\g<2>", value)

"""What every error has: a code, a reason, facts, and a sentence made of them."""

from __future__ import annotations

import dataclasses
import enum
import json
import typing
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import ClassVar

DOMAIN = "sfm"

# Trailing metadata has a few KiB: a list of names is cut, never the call.
NAMES_SHOWN = 20


class Code(enum.Enum):
    """The gRPC status codes this project answers with, by gRPC's own names."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    NOT_FOUND = "NOT_FOUND"
    ABORTED = "ABORTED"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    UNAVAILABLE = "UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    INTERNAL = "INTERNAL"


class SfmError(Exception):
    """The base of every error here. `str()` is one sentence with the numbers; the attributes are the facts."""

    code: ClassVar[Code] = Code.INTERNAL
    reason: ClassVar[str] = ""

    request_id: str = ""
    """The server's id of the failed call, set by the client; it finds the call in the server's log."""

    seen: object = None
    """The `model.CacheSeen` of the look in which an engine refused a transaction: for whoever tells the refusal. No fact."""

    def __post_init__(self) -> None:
        """Completes a dataclass exception: its arguments are its facts."""
        super().__init__(*self.facts().values())

    def __str__(self) -> str:
        return self.sentence()

    def sentence(self) -> str:
        """What was wrong, the numbers, and what to do."""
        return ", ".join(f"{k}={v}" for k, v in self.facts().items()) or type(self).__name__

    @property
    def field_path(self) -> str:
        """The request field that is to blame, '' when none is."""
        return str(getattr(self, "field", ""))

    @property
    def retry_delay_s(self) -> float | None:
        """How long to wait before the same call may succeed; None: a retry will not help."""
        return getattr(self, "retry_after_s", None)

    def facts(self) -> dict[str, str]:
        """The attributes as text, for ErrorInfo's metadata."""
        return {name: _to_text(getattr(self, name)) for name in _hints(type(self))}

    @classmethod
    def from_facts(cls, facts: Mapping[str, str]) -> SfmError:
        """The error again; a fact that is missing (an older server) gets its type's zero."""
        types = _hints(cls)
        return cls(**{name: _from_text(facts.get(name), kind) for name, kind in types.items()})


def _to_text(value: object) -> str:
    if isinstance(value, tuple):
        return json.dumps(list(value[:NAMES_SHOWN]), ensure_ascii=True)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    return str(value)


def _from_text(text: str | None, kind: object) -> object:
    if kind is bool:
        return text == "true"
    if kind is int:
        return int(text or 0)
    if kind is float:
        return float(text or "nan")
    if kind is str:
        return text or ""
    return tuple(json.loads(text or "[]"))


_HINTS: dict[type[SfmError], dict[str, object]] = {}


def _hints(cls: type[SfmError]) -> dict[str, object]:
    """The names and types of a class's facts; found once, it takes half a millisecond."""
    found = _HINTS.get(cls)
    if found is None:
        found = _HINTS[cls] = _find_hints(cls)
    return found


def _find_hints(cls: type[SfmError]) -> dict[str, object]:
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}


def when(time_us: int) -> str:
    """A time as a sentence tells it."""
    try:
        return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(timespec="milliseconds") if time_us else "an unknown time"
    except (ValueError, OverflowError, OSError):
        return f"{time_us} µs after the epoch"


def told_names(names: tuple[str, ...]) -> str:
    """Names as a sentence tells them: the first, and how many more."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(repr(n) for n in names[:NAMES_SHOWN]) + more

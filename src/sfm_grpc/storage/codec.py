"""How records lie in a database's text columns: JSON that reads back to the same record, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson

from sfm_grpc.model import Certificate, Dtype, Entry, Kind, Layout, PsdMethod, Scope, Version
from sfm_grpc.storage.outbox_contract import StoredEvent

_NUMBERS = (
    "min_eigenvalue_bound",
    "trace_error",
    "asymmetry",
    "epsilon",
    "trace_tolerance",
    "hermitian_tolerance",
    "clamped_mass",
)

# A certificate that cannot be read proves nothing: no numbers match it, and health says so.
UNREADABLE = Certificate(
    kind=Kind.DENSITY,
    layout=Layout.DENSE,
    dtype=Dtype.FLOAT64,
    shape=(0, 0),
    digest=b"",
    valid=False,
    min_eigenvalue_bound=-math.inf,
    psd_method=PsdMethod.UNSPECIFIED,
    trace_error=math.inf,
    asymmetry=math.inf,
    epsilon=0.0,
    trace_tolerance=0.0,
    hermitian_tolerance=0.0,
    clamped_mass=0.0,
    psd_ok=False,
    trace_ok=False,
    certify_time_us=0,
)


def certificate_to_json(certificate: Certificate) -> str:
    """A certificate as JSON; floats keep every bit (shortest round-trip digits)."""
    c = certificate
    return to_json(
        {
            "kind": c.kind.name,
            "layout": c.layout.name,
            "dtype": c.dtype.name,
            "shape": c.shape,
            "sha256": c.digest.hex(),
            "valid": c.valid,
            "psd_method": c.psd_method.name,
            "psd_ok": c.psd_ok,
            "trace_ok": c.trace_ok,
            "certify_time_us": c.certify_time_us,
            **{name: _number(getattr(c, name)) for name in _NUMBERS},
        }
    )


@lru_cache(maxsize=16_384)  # the versions of a namespace carry the same ones along
def certificate_from_json(text: str) -> Certificate:
    """The certificate again; `UNREADABLE` when the text is not one."""
    try:
        return _certificate(orjson.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError):
        return UNREADABLE


def _certificate(d: Mapping[str, Any]) -> Certificate:
    rows, columns = d["shape"]
    return Certificate(
        kind=Kind[d["kind"]],
        layout=Layout[d["layout"]],
        dtype=Dtype[d["dtype"]],
        shape=(_dimension(rows), _dimension(columns)),
        digest=bytes.fromhex(d["sha256"]),
        valid=d["valid"],
        psd_method=PsdMethod[d["psd_method"]],
        psd_ok=d["psd_ok"],
        trace_ok=d["trace_ok"],
        certify_time_us=d["certify_time_us"],
        **{name: float(d[name]) for name in _NUMBERS},
    )


def _dimension(value: object) -> int:
    if type(value) is not int or not 0 < value < 1 << 31:
        raise ValueError("not a number of rows or columns")
    return value


def _number(value: float) -> float | str:
    """JSON has no infinities; in `observe` mode a trace may be one."""
    return value if math.isfinite(value) else repr(value)


def to_json(value: object) -> str:
    """Any JSON value, as short text."""
    return orjson.dumps(value).decode()


def mapping_from_json(text: str) -> Mapping[str, str]:
    """A commit's metadata again."""
    value = orjson.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"not a JSON object: {text[:40]}")
    if not all(isinstance(v, str) for v in value.values()):
        raise ValueError(f"not only text: {text[:40]}")
    return value


def strings_from_json(text: str) -> tuple[str, ...]:
    """A list of keys again."""
    value = orjson.loads(text)
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise ValueError(f"not a list of text: {text[:40]}")
    return tuple(value)


def payload_from_json(text: str) -> Mapping[str, object]:
    """An event's payload again; empty when it cannot be read, so that the events after it are still told."""
    try:
        value = orjson.loads(text)
    except (ValueError, TypeError):
        return {}
    return value if isinstance(value, dict) else {}


def event_from_columns(row: Sequence[Any]) -> StoredEvent:
    """An event as an engine's row holds it."""
    event_id, tenant, namespace, topic, version, time_us, payload = row
    return StoredEvent(event_id, Scope(tenant, namespace), topic, version, time_us, payload_from_json(payload))


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError("not an integer")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    return value


# A version's columns beside its number and entries: how each is read, and what stands for it when it cannot be.
_COLUMNS: Mapping[str, tuple[Callable[[Any], object], object]] = {
    "commit_time_us": (_integer, 0),
    "committer": (_text, ""),
    "metadata": (mapping_from_json, {}),
    "valid": (lambda value: bool(_integer(value)), False),
    "restored_version": (_integer, 0),
    "changed_keys": (strings_from_json, ()),
}


def version_from_columns(number: int, columns: Sequence[object] | None, entries: tuple[Entry, ...]) -> Version:
    """A version from its columns, in the order of `_COLUMNS`; None: its row is lost.

    A damaged row is told by `unreadable` and is not valid; it never keeps anyone from the versions beside it.
    """
    found: dict[str, Any] = {}
    lost = []
    for (name, (read, default)), value in zip(_COLUMNS.items(), columns or [None] * len(_COLUMNS), strict=True):
        try:
            found[name] = read(value)
        except (ValueError, TypeError):
            found[name] = default
            lost.append(name)
    if lost:
        found["valid"] = False
    return Version(version=number, entries=entries, unreadable=", ".join(lost), **found)

"""A version's manifest: its whole record but for the numbers, as bytes that are named by their SHA-256.

Two processes that make a manifest of the same version make the same bytes. The name of a manifest is therefore the name of a
version in one history: another history's version of the same number has another.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import orjson

from sfm_grpc.model import Entry, Version
from sfm_grpc.storage import codec

_FORMAT = 1


def manifest_of(version: Version) -> bytes:
    """The manifest."""
    record = {
        "format": _FORMAT,
        "version": version.version,
        "commit_time_us": version.commit_time_us,
        "committer": version.committer,
        "metadata": dict(sorted(version.metadata.items())),
        "valid": version.valid,
        "restored_version": version.restored_version,
        "changed_keys": version.changed_keys,
        "entries": [[e.key, e.put_version, _certificate(e)] for e in version.entries],
    }
    return orjson.dumps(record)


def name_of(manifest: bytes) -> bytes:
    """SHA-256."""
    return hashlib.sha256(manifest).digest()


def version_from(manifest: bytes, name: bytes) -> Version | None:
    """The version again; None where the bytes are not those that are named so, or another release's."""
    if name_of(manifest) != name:
        return None
    try:
        record: dict[str, Any] = orjson.loads(manifest)
        if record.pop("format") != _FORMAT:
            return None
        entries = tuple(Entry(key, codec.certificate_from_json(text), put) for key, put, text in record.pop("entries"))
        return Version(entries=entries, changed_keys=tuple(record.pop("changed_keys")), **record)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


@lru_cache(maxsize=4096)  # a version carries most of its entries along from the one before
def _certificate(entry: Entry) -> str:
    return codec.certificate_to_json(entry.certificate)

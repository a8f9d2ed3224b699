"""Names and small facts that callers choose: checked once, the same way everywhere."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

from sfm_grpc.errors import InvalidRequest, LimitExceeded

NAME_BYTES_MAX = 256
REQUEST_ID_BYTES_MAX = 64


def check_name(name: str, *place: str) -> None:
    """A namespace, tenant or key: 1 to 256 bytes of UTF-8 without control characters. Raises InvalidRequest.

    `place`: the parts that its field's name is put together of, once it is needed.
    """
    if 0 < len(name) <= NAME_BYTES_MAX and name.isascii() and name.isprintable():
        return  # nearly every name
    field, size = "".join(place), len(name.encode())
    if size == 0:
        raise InvalidRequest(field=field, problem="is required")
    if size > NAME_BYTES_MAX:
        raise InvalidRequest(field=field, problem=f"has {size} bytes, at most {NAME_BYTES_MAX} are allowed")
    for position, character in enumerate(name):
        if unicodedata.category(character) == "Cc":
            raise InvalidRequest(field=field, problem=f"has the control character U+{ord(character):04X} at position {position}")


def check_keys(keys: Sequence[str], keys_max: int) -> None:
    """The keys of a question: names, each once, no more than a namespace may hold. Raises InvalidRequest, LimitExceeded."""
    if len(keys) > keys_max:
        raise LimitExceeded(limit="keys_per_namespace_max", value=len(keys), maximum=keys_max, field="keys")
    for place, key in enumerate(keys):
        check_name(key, "keys", f"[{place}]")
    if len(set(keys)) < len(keys):
        raise InvalidRequest(field="keys", problem="names a key twice")


def check_count(count: int, field: str, limit: str, maximum: int) -> None:
    """Some, and not more than a limit. Raises InvalidRequest, LimitExceeded."""
    if not count:
        raise InvalidRequest(field=field, problem="is empty")
    if count > maximum:
        raise LimitExceeded(limit=limit, value=count, maximum=maximum, field=field)


def check_each(keys: Sequence[str], field: str, limit: str, maximum: int) -> None:
    """Names: some, and not more than a limit. Raises InvalidRequest, LimitExceeded."""
    check_count(len(keys), field, limit, maximum)
    for place, key in enumerate(keys):
        check_name(key, field, f"[{place}]")


def check_request_id(request_id: str) -> None:
    """At most 64 bytes without control characters; empty is none. Raises InvalidRequest."""
    size = len(request_id.encode())
    if size > REQUEST_ID_BYTES_MAX:
        raise InvalidRequest(field="request_id", problem=f"has {size} bytes, at most {REQUEST_ID_BYTES_MAX} are allowed")
    if request_id:
        check_name(request_id, "request_id")


def check_metadata(metadata: Mapping[str, str], bytes_max: int) -> None:
    """Keys are names, and all together is within the limit. Raises InvalidRequest, LimitExceeded."""
    size = sum(len(k.encode()) + len(v.encode()) for k, v in metadata.items())
    if size > bytes_max:
        raise LimitExceeded(limit="metadata_bytes_max", value=size, maximum=bytes_max, field="metadata")
    for key in metadata:
        check_name(key, "metadata")


def check_expected_version(expected_version: int | None) -> int:
    """Required, 0 or more. Raises InvalidRequest."""
    if expected_version is None:
        raise InvalidRequest(
            field="expected_version", problem="is required: the version you read, or 0 for a namespace without commits"
        )
    if expected_version < 0:
        raise InvalidRequest(
            field="expected_version", problem=f"is {expected_version}; versions start at 1, and 0 means none yet"
        )
    return expected_version

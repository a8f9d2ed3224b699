"""Orders that come as messages: what one says. schemas/prune.order.json describes them, and agrees with this."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from sfm_grpc.coordinator import names
from sfm_grpc.coordinator.pruner import PruneCommit
from sfm_grpc.coordinator.rho import Update
from sfm_grpc.coordinator.sent import Form, SentMatrix
from sfm_grpc.errors import InvalidRequest
from sfm_grpc.model import Kind, Scope

_PLACE = re.compile(
    r"^(?:Object contains unknown field `(?P<unknown>.*?)`|Object missing required field `(?P<missing>.*?)`|(?P<problem>.*?))"
    r"(?: - at `\$\.?(?P<field>.*)`)?$",
    re.DOTALL,
)
_KINDS = {"density": Kind.DENSITY, "generic": Kind.GENERIC}

_Version = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Step = Annotated[float, msgspec.Meta(ge=0)]


class _Update(msgspec.Struct, forbid_unknown_fields=True):
    key: str
    envelope: bytes | msgspec.UnsetType = msgspec.UNSET
    kind: Literal["density", "generic"] | msgspec.UnsetType = msgspec.UNSET
    max_step: _Step | msgspec.UnsetType = msgspec.UNSET
    delete: bool | msgspec.UnsetType = msgspec.UNSET


class _Commit(msgspec.Struct, forbid_unknown_fields=True):
    expected_version: _Version
    updates: Annotated[list[_Update], msgspec.Meta(min_length=1)]
    metadata: dict[str, str] = {}


class _Order(msgspec.Struct, forbid_unknown_fields=True):
    order_id: str
    tenant: str
    namespace: str
    keys: Annotated[list[str], msgspec.Meta(min_length=1)]
    committer: str = ""
    commit: _Commit | msgspec.UnsetType = msgspec.UNSET


_decode = msgspec.json.Decoder(_Order).decode


@dataclass(frozen=True, slots=True)
class OrderMessage:
    """What an order says."""

    order_id: str
    scope: Scope
    keys: Sequence[str]
    committer: str
    commit: PruneCommit | None


def read(value: bytes | None) -> OrderMessage:
    """What a message says, every name in it checked. Raises InvalidRequest."""
    order = _decoded(value or b"")
    names.check_name(order.order_id, "order_id")
    names.check_request_id(order.order_id)
    names.check_name(order.tenant, "tenant")
    names.check_name(order.namespace, "namespace")
    if order.committer:
        names.check_name(order.committer, "committer")
    for place, key in enumerate(order.keys):
        names.check_name(key, "keys", f"[{place}]")
    commit = _commit(order.commit) if order.commit else None
    return OrderMessage(order.order_id, Scope(order.tenant, order.namespace), order.keys, order.committer, commit)


def _decoded(value: bytes) -> _Order:
    try:
        return _decode(value)
    except msgspec.ValidationError as error:
        raise _misfit(str(error)) from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(field="value", problem=f"is no JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise InvalidRequest(field="value", problem=f"is not UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise InvalidRequest(field="value", problem="is nested too deep") from None


def _misfit(told: str) -> InvalidRequest:
    """A value of another type, a field that does not exist, or one that is missing."""
    found = _PLACE.match(told)
    assert found is not None, "it matches anything"
    place = f"{found['field']}." if found["field"] else ""
    if found["unknown"] is not None:
        return InvalidRequest(field=f"{place}{found['unknown']}", problem="is no field of an order (schemas/prune.order.json)")
    if found["missing"] is not None:
        return InvalidRequest(field=f"{place}{found['missing']}", problem="is required")
    return InvalidRequest(field=found["field"] or "value", problem=found["problem"])


def _commit(said: _Commit) -> PruneCommit:
    for name in said.metadata:
        names.check_name(name, "commit.metadata")
    updates = [_update(u, f"commit.updates[{place}]") for place, u in enumerate(said.updates)]
    return PruneCommit(said.expected_version, said.metadata, updates)


def _update(said: _Update, field: str) -> Update:
    names.check_name(said.key, f"{field}.key")
    if said.delete is not msgspec.UNSET:
        if not said.delete or any(other is not msgspec.UNSET for other in (said.envelope, said.kind, said.max_step)):
            raise InvalidRequest(field=f"{field}.delete", problem="is true or left out, and stands alone beside the key")
        return Update(said.key, None, None, field)
    if said.envelope is msgspec.UNSET:
        raise InvalidRequest(field=field, problem="says neither envelope nor delete")
    put = SentMatrix(
        form=Form.ENVELOPE,
        kind=_KINDS[said.kind] if said.kind else None,
        dtype=None,
        shape=(),
        digest=b"",
        body=said.envelope,
    )
    return Update(said.key, put, said.max_step if said.max_step is not msgspec.UNSET else None, field)

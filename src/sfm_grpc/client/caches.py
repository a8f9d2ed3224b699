"""The cache before the server's store, as `sfm cache` shows and switches it: records, and what is sent for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from sfm.v1 import rho_store_pb2

from sfm_grpc.client.steps import Call, Flow

CacheStateName: TypeAlias = Literal["drained", "on", "off", "unknown"]

GET_RHO_CACHE = "/sfm.v1.RhoStore/GetRhoCache"
SET_RHO_CACHE = "/sfm.v1.RhoStore/SetRhoCache"

_STATES: Mapping[int, CacheStateName] = {
    rho_store_pb2.CACHE_STATE_DRAINED: "drained",
    rho_store_pb2.CACHE_STATE_ON: "on",
    rho_store_pb2.CACHE_STATE_OFF: "off",
}


@dataclass(frozen=True, slots=True)
class NamespaceCache:
    """The cache of one namespace, as the store has it."""

    namespace: str
    version: int
    """The newest."""
    state: CacheStateName
    """`on`: the registered cache may serve it. `drained`: none does. `off`: it is being drained."""
    registered: str
    """The cache that was registered last, '' for none."""
    epoch: int
    """How often it was turned on."""
    held: bool
    """A person turned it off."""


@dataclass(frozen=True, slots=True)
class CachePage:
    """How the server's cache is, and a page of the tenant's namespaces."""

    configured: bool
    ok: bool
    detail: str
    namespaces: tuple[NamespaceCache, ...]
    next_page_token: str
    """Empty on the last page."""


def page(namespace: str, page_size: int, page_token: str, timeout_s: float) -> Flow[CachePage]:
    """One namespace, or a page of all."""
    request = rho_store_pb2.GetRhoCacheRequest(namespace=namespace, page_size=page_size, page_token=page_token)
    reply = cast(bytes, (yield Call(GET_RHO_CACHE, request.SerializeToString(), timeout_s)))
    found = rho_store_pb2.GetRhoCacheResponse.FromString(reply)
    return CachePage(
        configured=found.configured,
        ok=found.ok,
        detail=found.detail,
        namespaces=tuple(
            NamespaceCache(n.namespace, n.version, _STATES.get(n.state, "unknown"), n.registered, n.epoch, n.held)
            for n in found.namespaces
        ),
        next_page_token=found.next_page_token,
    )


def switch(namespace: str, *, every: bool, enabled: bool, timeout_s: float) -> Flow[int]:
    """Turns it off or on; how many namespaces there are."""
    request = rho_store_pb2.SetRhoCacheRequest(namespace=namespace, all=every, enabled=enabled)
    reply = cast(bytes, (yield Call(SET_RHO_CACHE, request.SerializeToString(), timeout_s)))
    return rho_store_pb2.SetRhoCacheResponse.FromString(reply).namespaces

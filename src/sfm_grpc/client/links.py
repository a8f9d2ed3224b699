"""Links from memories to memories: records, and what is sent for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias, TypedDict, Unpack, cast

from sfm.v1 import memory_store_pb2

from sfm_grpc.client.convert import believed, us_of
from sfm_grpc.client.flows import new_request_id
from sfm_grpc.client.memory_convert import names_of, sendable
from sfm_grpc.client.memory_records import WriteOptions
from sfm_grpc.client.records import moment
from sfm_grpc.client.steps import Call, Flow

PUT_LINKS = "/sfm.v1.MemoryStore/PutLinks"
DELETE_LINKS = "/sfm.v1.MemoryStore/DeleteLinks"
LIST_LINKS = "/sfm.v1.MemoryStore/ListLinks"
METHODS = (PUT_LINKS, DELETE_LINKS, LIST_LINKS)

_Request: TypeAlias = memory_store_pb2.PutLinksRequest | memory_store_pb2.DeleteLinksRequest


@dataclass(frozen=True, slots=True)
class Link:
    """A link from one memory to another."""

    source: str
    """The key that it leads from."""
    link_type: str
    """What kind of link it is: 1 to 256 bytes of UTF-8 without control characters."""
    target: str
    """The key that it leads to."""
    weight: float = 1.0
    """How strong it is, finite."""
    create_time: datetime | None = field(default=None, compare=False)
    """When it was made, where it was answered."""
    update_time: datetime | None = field(default=None, compare=False)
    """When it was put last, where it was answered."""


@dataclass(frozen=True, slots=True)
class LinkReceipt:
    """What became of a call."""

    deleted: int
    """Of `unlink`: how many were there."""
    replayed: bool
    """The request id had been used with the same content: this is the first answer again."""
    request_id: str


@dataclass(frozen=True, slots=True)
class LinkPage:
    """One page of a memory's links."""

    links: tuple[Link, ...]
    next_page_token: str
    """Empty on the last page."""


class LinkOptions(TypedDict, total=False):
    """Which of a memory's links are listed."""

    incoming: bool
    """Those that lead to it, instead of those that lead from it."""
    link_types: str | Iterable[str]
    """Any of these, at most 64; none: all."""
    page_size: int
    """0: the server's."""


def put(namespace: str, links: Iterable[Link], client_timeout_s: float, **options: Unpack[WriteOptions]) -> Flow[LinkReceipt]:
    """Puts all or none."""
    with sendable("links"):
        request = memory_store_pb2.PutLinksRequest(namespace=namespace, links=map(_message, links))
    reply, request_id = yield from _answered(PUT_LINKS, request, client_timeout_s, **options)
    with believed("PutLinks"):
        response = memory_store_pb2.PutLinksResponse.FromString(reply)
        return LinkReceipt(deleted=0, replayed=response.replayed, request_id=request_id)


def delete(namespace: str, links: Iterable[Link], client_timeout_s: float, **options: Unpack[WriteOptions]) -> Flow[LinkReceipt]:
    """Deletes all or none."""
    with sendable("links"):
        request = memory_store_pb2.DeleteLinksRequest(namespace=namespace, links=map(_message, links))
    reply, request_id = yield from _answered(DELETE_LINKS, request, client_timeout_s, **options)
    with believed("DeleteLinks"):
        response = memory_store_pb2.DeleteLinksResponse.FromString(reply)
        return LinkReceipt(deleted=response.deleted, replayed=response.replayed, request_id=request_id)


def _answered(
    method: str,
    request: _Request,
    client_timeout_s: float,
    *,
    request_id: str | None = None,
    validate_only: bool = False,
    timeout_s: float | None = None,
) -> Flow[tuple[bytes, str]]:
    request_id = new_request_id() if request_id is None else request_id
    with sendable("request_id"):
        request.request_id = request_id
    request.validate_only = validate_only
    timeout_s = client_timeout_s if timeout_s is None else timeout_s
    return cast(bytes, (yield Call(method, request.SerializeToString(), timeout_s))), request_id


def listing_of(namespace: str, key: str, **options: Unpack[LinkOptions]) -> memory_store_pb2.ListLinksRequest:
    """The first page of a list. Raises InvalidRequest."""
    incoming = options.get("incoming", False)
    with sendable("request"):
        return memory_store_pb2.ListLinksRequest(
            namespace=namespace,
            key=key,
            direction=memory_store_pb2.LINK_DIRECTION_INCOMING if incoming else memory_store_pb2.LINK_DIRECTION_OUTGOING,
            link_types=names_of(options.get("link_types", ())),
            page_size=options.get("page_size", 0),
        )


def page(asked: memory_store_pb2.ListLinksRequest, page_token: str, timeout_s: float) -> Flow[LinkPage]:
    """One page of what `asked` asks for."""
    request = memory_store_pb2.ListLinksRequest()
    request.CopyFrom(asked)
    request.page_token = page_token
    reply = cast(bytes, (yield Call(LIST_LINKS, request.SerializeToString(), timeout_s)))
    with believed("ListLinks"):
        response = memory_store_pb2.ListLinksResponse.FromString(reply)
        return LinkPage(tuple(map(_link, response.links)), response.next_page_token)


def _message(link: Link) -> memory_store_pb2.Link:
    return memory_store_pb2.Link(source_key=link.source, link_type=link.link_type, target_key=link.target, weight=link.weight)


def _link(m: memory_store_pb2.Link) -> Link:
    times = (moment(us_of(m.create_time)), moment(us_of(m.update_time)))
    return Link(m.source_key, m.link_type, m.target_key, m.weight, *times)

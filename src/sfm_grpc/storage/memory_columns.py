"""Memories as rows, and questions as SQL: what both engines say alike, up to how they mark a parameter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sfm_grpc.model import (
    COORDINATES_MAX,
    Between,
    Distance,
    LimitPolicy,
    Link,
    LinkQuery,
    Memory,
    MemoryFilter,
    MemoryOrder,
    MemoryQuery,
    Part,
    PutMemory,
    Space,
)
from sfm_grpc.storage.memory_writes import WritePut

Row = Sequence[Any]
Bind = Callable[[object], str]
"""Makes a value a parameter, and returns how the statement names it."""

_COORDINATES = tuple(f"c{i}" for i in range(COORDINATES_MAX))
_NOWHERE = (None,) * COORDINATES_MAX
_FACTS = (
    "m.key, m.revision, m.memory_type, m.importance, m.expire_time_us, m.create_time_us, m.update_time_us, m.delete_time_us, "
    "m.digest, m.coordinates, " + ", ".join(f"m.{c}" for c in _COORDINATES)
)
_FIRST_COORDINATE = 10

_PART_COLUMNS = {
    Part.PAYLOAD: ("payload", "digest"),
    Part.TYPE: ("memory_type",),
    Part.IMPORTANCE: ("importance",),
    Part.COORDINATES: ("coordinates", *_COORDINATES),
    Part.VECTOR: ("vector",),
    Part.EXPIRY: ("expire_time_us",),
}

_ORDERS = {
    MemoryOrder.KEY: "m.key",
    MemoryOrder.CREATE_TIME: "m.create_time_us",
    MemoryOrder.UPDATE_TIME: "m.revision",
    MemoryOrder.IMPORTANCE: "m.importance",
}


SPACE = (
    "s.space_id, s.dimension, s.distance, s.revision, s.memories, s.vectors, s.payload_bytes, s.tombstones, s.create_time_us, "
    "s.update_time_us, s.memories_max, s.limit_policy"
)
"""The columns that `space_from` reads."""


def space_from(row: Row) -> Space:
    """A namespace of its columns."""
    number, dimension, distance, *rest = row
    rest[-1] = LimitPolicy(rest[-1])
    return Space(number, dimension, Distance(distance), *rest)


def row_of(space: Space) -> dict[str, object]:
    """What a namespace's row becomes."""
    return {"space_id" if name == "number" else name: getattr(space, name) for name in Space.__slots__}


def columns(*, payloads: bool, vectors: bool) -> str:
    """The columns that `memory_from` reads."""
    return f"{_FACTS}, {'m.payload' if payloads else 'NULL'}, {'m.vector' if vectors else 'NULL'}"


def memory_from(row: Row) -> Memory:
    """A memory of its columns."""
    key, revision, memory_type, importance, expire_us, create_us, update_us, delete_us, digest, count = row[:_FIRST_COORDINATE]
    payload, vector = row[-2:]
    return Memory(
        key=key,
        revision=revision,
        payload=bytes(payload or b""),
        digest=bytes(digest),
        memory_type=memory_type,
        importance=importance,
        coordinates=tuple(row[_FIRST_COORDINATE : _FIRST_COORDINATE + count]),
        vector=vector,
        expire_time_us=expire_us,
        create_time_us=create_us,
        update_time_us=update_us,
        delete_time_us=delete_us,
    )


def whole_of(written: WritePut) -> tuple[object, ...]:
    """What is a memory's own in the row of one that is put as a whole, in the order of the statement."""
    put = written.put
    times = (written.create_time_us, put.expire_time_us)
    facts = (put.memory_type, put.importance, put.digest, put.payload, len(put.coordinates), put.vector)
    return put.key, written.revision, *times, *facts, *_places(put)


def _places(put: PutMemory) -> tuple[object, ...]:
    """A value for each column of coordinates."""
    return *put.coordinates, *_NOWHERE[len(put.coordinates) :]


def values_of_parts(put: PutMemory) -> dict[str, object]:
    """The columns that a put sets, and their values."""
    values: dict[str, object] = {
        "payload": put.payload,
        "digest": put.digest,
        "memory_type": put.memory_type,
        "importance": put.importance,
        "vector": put.vector,
        "expire_time_us": put.expire_time_us,
        "coordinates": len(put.coordinates),
        **dict(zip(_COORDINATES, _places(put), strict=True)),
    }
    return {name: values[name] for part, names in _PART_COLUMNS.items() if part in put.parts for name in names}


class Parameters:
    """The values of a statement that is put together, each under the name that the statement has for it."""

    def __init__(self, form: str, **values: object) -> None:
        """`form`: how the statement names a parameter, such as ":{}"."""
        self._form = form
        self.values = values

    def bind(self, value: object) -> str:
        """Makes a value a parameter, and returns how the statement names it."""
        name = f"p{len(self.values)}"
        self.values[name] = value
        return self._form.format(name)


def page(statement: str, query: MemoryQuery, parameters: Parameters) -> str:
    """The statement of a list's page."""
    conditions = [*_filtered(query.chosen, parameters.bind), *_continued(query, parameters.bind)]
    return statement.format(
        columns=columns(payloads=query.payloads, vectors=query.vectors), chosen=_all(conditions), order=_order(query)
    )


def stats(statement: str, wanted: MemoryFilter, parameters: Parameters) -> str:
    """The statement of what there is of each type."""
    return statement.format(chosen=_all(_filtered(wanted, parameters.bind)))


def links(statement: str, query: LinkQuery, parameters: Parameters) -> str:
    """The statement of a memory's links."""
    near, far = ("target", "source") if query.incoming else ("source", "target")
    conditions = []
    if query.link_types:
        conditions.append(f"l.link_type IN ({', '.join(parameters.bind(each) for each in query.link_types)})")
    if query.after is not None:
        link_type, other = query.after
        conditions.append(f"(l.link_type, l.{far}) > ({parameters.bind(link_type)}, {parameters.bind(other)})")
    return statement.format(near=near, far=far, chosen=_all(conditions))


def _all(conditions: Sequence[str]) -> str:
    return "".join(f"\n  AND {condition}" for condition in conditions)


def link_from(row: Row) -> Link:
    """A link of its columns."""
    source, link_type, target, *rest = row
    return Link((source, link_type, target), *rest)


def _order(query: MemoryQuery) -> str:
    """What the list goes by."""
    way = " DESC" if query.descending else ""
    by = _ORDERS[query.order]
    return f"{by}{way}" if query.order in (MemoryOrder.KEY, MemoryOrder.UPDATE_TIME) else f"{by}{way}, m.key{way}"


def place_of(query: MemoryQuery, memory: Memory) -> tuple[float | int | str, str]:
    """Where a page that ends with this memory is continued."""
    values: dict[MemoryOrder, float | int | str] = {
        MemoryOrder.KEY: memory.key,
        MemoryOrder.CREATE_TIME: memory.create_time_us,
        MemoryOrder.UPDATE_TIME: memory.revision,
        MemoryOrder.IMPORTANCE: memory.importance,
    }
    return values[query.order], memory.key


def _continued(query: MemoryQuery, bind: Bind) -> list[str]:
    if query.after is None:
        return []
    value, key = query.after
    by, than = _ORDERS[query.order], "<" if query.descending else ">"
    if query.order in (MemoryOrder.KEY, MemoryOrder.UPDATE_TIME):
        return [f"{by} {than} {bind(value)}"]
    return [f"({by}, m.key) {than} ({bind(value)}, {bind(key)})"]


def _filtered(wanted: MemoryFilter, bind: Bind) -> list[str]:
    conditions = []
    if wanted.key_prefix:
        conditions.append(f"m.key >= {bind(wanted.key_prefix)}")
        if (end := _after_prefix(wanted.key_prefix)) is not None:
            conditions.append(f"m.key < {bind(end)}")
    if wanted.memory_types:
        conditions.append(f"m.memory_type IN ({', '.join(bind(each) for each in wanted.memory_types)})")
    conditions += _between("m.importance", wanted.importance, bind)
    conditions += _between("m.create_time_us", wanted.create_time_us, bind)
    conditions += _between("m.update_time_us", wanted.update_time_us, bind)
    if wanted.box:
        # `> 0` is what the index on places is of; the planner does not conclude it.
        conditions += ["m.coordinates > 0", f"m.coordinates = {bind(len(wanted.box))}"]
        for name, between in zip(_COORDINATES, wanted.box, strict=False):
            conditions += _between(f"m.{name}", between, bind)
    return conditions


def _between(column: str, between: Between, bind: Bind) -> list[str]:
    ends = ((">=", between.low), ("<=", between.high))
    return [f"{column} {than} {bind(end)}" for than, end in ends if end is not None]


def _after_prefix(prefix: str) -> str | None:
    """The first text after all that begin so, by code points, as UTF-8 goes; None: there is none."""
    for end in range(len(prefix), 0, -1):
        point = ord(prefix[end - 1])
        if point < 0x10FFFF:
            following = 0xE000 if point == 0xD7FF else point + 1  # surrogates are no characters
            return prefix[: end - 1] + chr(following)
    return None

"""Memories without vectors, beside LangGraph's PostgresStore on the same Postgres, and the embedded server beside it.

Ours goes through the typed client and gRPC to a server that is a process of its own; the peer is called in this process. Both get
and answer Python objects: JSON is made and parsed on both sides, in what is timed.

- Batches of 100 memories of 900 bytes of JSON: put under new keys, put again with other content, get.
- Single gets, eight at once: so many calls by eight callers, from the first to the last. Callers are threads of the blocking
  client and tasks of the asyncio client; the peer's are threads. Its store with a pool lets one batch in at a time (a lock around
  all that it does), so it is also measured as eight stores, each with a connection of its own.

Ours keeps more of a put: a digest of the payload, a revision, an event in the outbox, the request's id for a day. Postgres is
durable for both (fsync, synchronous_commit); the embedded store is SQLite, WAL, synchronous FULL.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks import documents, langgraph, postgres, processes
from benchmarks.documents import Payload
from benchmarks.harness import Case, Row, Section, faster, interleave, repeats_for
from sfm_grpc.client import AsyncClient, Client, MemoryPut
from tests.support.services.absence import AbsentError

_BATCH = 100
_KEPT = 4_000
"""Memories that are there before anything is timed."""
_CALLERS = 8
_CALLS = 25
"""Gets of one caller in one round."""
_NAMESPACE = "bench"


def run(*, quick: bool) -> Section:
    """Batches, then single gets at once."""
    budget_s = 4.0 if quick else 30.0
    try:
        with contextlib.ExitStack() as stack:
            url = stack.enter_context(postgres.database())
            ours = stack.enter_context(processes.ours(**postgres.settings(url), **processes.PATIENT))
            embedded = stack.enter_context(processes.ours(**processes.PATIENT))
            rows = [*_batches(url, ours, embedded, budget_s), *_singles(url, ours, embedded, budget_s)]
            about = postgres.about(url)
    except AbsentError as absent:
        return Section("Memories", [], [str(absent)])
    return Section(
        f"Memories of {documents.PAYLOAD_BYTES} bytes through gRPC, beside LangGraph's PostgresStore in-process, same Postgres",
        rows,
        [
            f"Times of batches are of {_BATCH} memories; of single gets, of {_CALLERS * _CALLS} gets by {_CALLERS} at once.",
            "'embedded' is our server on SQLite, beside the same PostgresStore.",
            f"{langgraph.version()}. Vectors: `vectors`, `search`.",
            about,
        ],
    )


# ---- batches -----------------------------------------------------------------------------------------------------------


def _batches(url: str, ours: processes.Server, embedded: processes.Server, budget_s: float) -> list[Row]:
    with Client(ours.address) as one, Client(embedded.address) as other, langgraph.connected(url) as peer:
        sides = {"ours": _Side(one), "embedded": _Side(other), "peer": _Side(peer)}
        for side in sides.values():
            side.fill()
        rows = []
        for what, at_least in (("put_new", 1.2), ("put_again", 1.2), ("get", 1.2)):
            cases: dict[str, Case] = {name: getattr(side, what) for name, side in sides.items()}
            taken = interleave(cases, repeats_for(cases, budget_s, 30, 500), warmup=5)
            words = f"{what.replace('_', ', ')} × {_BATCH}"
            rows.append(faster(f"{words}; PostgresStore", taken["ours"], taken["peer"], at_least=at_least))
            rows.append(faster("  embedded; PostgresStore", taken["embedded"], taken["peer"]))
        return rows


class _Side:
    """The same calls for each of those that are compared, each at its own pace through the same content."""

    def __init__(self, store: Client | langgraph.Peer) -> None:
        self._store = store
        self._memories = store.namespace(_NAMESPACE).memories if isinstance(store, Client) else None
        self._payloads = documents.payloads(_KEPT)
        self._new = itertools.count(_KEPT, _BATCH)
        self._again = itertools.count(1)
        self._random = random.Random(5)

    def fill(self) -> None:
        """Puts what is there before."""
        for places in documents.in_batches(_KEPT, _BATCH):
            self._put([documents.key(i) for i in places], self._payloads[places.start : places.stop])

    def put_new(self) -> None:
        """Under new keys."""
        start = next(self._new)
        self._put([documents.key(start + i) for i in range(_BATCH)], self._some())

    def put_again(self) -> None:
        """Under keys that are there, with other content."""
        edition = -next(self._again)
        self._put(self._keys(), [payload | {"edition": edition} for payload in self._some()])

    def get(self) -> None:
        """Payloads as Python objects."""
        keys = self._keys()
        if self._memories is None:
            assert isinstance(self._store, langgraph.Peer)
            payloads = self._store.get(keys)
        else:
            payloads = [memory.payload for memory in self._memories.get_many(keys).found.values()]
        assert len(payloads) == _BATCH

    def _keys(self) -> list[str]:
        return [documents.key(i) for i in self._random.sample(range(_KEPT), _BATCH)]

    def _some(self) -> list[Payload]:
        start = self._random.randrange(_KEPT - _BATCH)
        return self._payloads[start : start + _BATCH]

    def _put(self, keys: Sequence[str], payloads: Sequence[Payload]) -> None:
        if self._memories is None:
            assert isinstance(self._store, langgraph.Peer)
            self._store.put(keys, payloads)
        else:
            self._memories.put_many([MemoryPut(key, payload) for key, payload in zip(keys, payloads, strict=True)])


# ---- single gets at once -----------------------------------------------------------------------------------------------


def _singles(url: str, ours: processes.Server, embedded: processes.Server, budget_s: float) -> list[Row]:
    """On what `_batches` left."""
    with contextlib.ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(_CALLERS))
        runner = stack.enter_context(asyncio.Runner())
        pooled = stack.enter_context(langgraph.connected(url, connections=_CALLERS))
        stores = [stack.enter_context(langgraph.connected(url)) for _ in range(_CALLERS)]
        cases: dict[str, Case] = {
            "threads": _threaded(threads, [_getter(stack, ours)] * _CALLERS),
            "tasks": _tasks(stack, runner, ours),
            "embedded": _tasks(stack, runner, embedded),
            "pool": _threaded(threads, [pooled.get_one] * _CALLERS),
            "stores": _threaded(threads, [store.get_one for store in stores]),
        }
        taken = interleave(cases, repeats_for(cases, budget_s, 15, 300), warmup=3)
    what = f"get, {_CALLERS} at once"
    return [
        faster(f"{what}: asyncio client; a pool of {_CALLERS}", taken["tasks"], taken["pool"], at_least=1),
        faster(f"  the same; {_CALLERS} stores", taken["tasks"], taken["stores"]),
        faster(f"  blocking client; a pool of {_CALLERS}", taken["threads"], taken["pool"], at_least=1),
        faster(f"  the same; {_CALLERS} stores", taken["threads"], taken["stores"]),
        faster(f"  embedded, asyncio client; a pool of {_CALLERS}", taken["embedded"], taken["pool"]),
    ]


def _threaded(threads: ThreadPoolExecutor, gets: Sequence[Callable[[str], Payload]]) -> Case:
    def call(get: Callable[[str], Payload], keys: Sequence[str]) -> None:
        for key in keys:
            get(key)

    drawn = _drawn()
    return lambda: [*threads.map(call, gets, itertools.islice(drawn, _CALLERS))]


def _getter(stack: contextlib.ExitStack, server: processes.Server) -> Callable[[str], Payload]:
    memories = stack.enter_context(Client(server.address)).namespace(_NAMESPACE).memories
    return lambda key: memories.get(key).payload


def _tasks(stack: contextlib.ExitStack, runner: asyncio.Runner, server: processes.Server) -> Case:
    client = AsyncClient(server.address)
    stack.callback(lambda: runner.run(client.close()))
    memories = client.namespace(_NAMESPACE).memories
    drawn = _drawn()

    async def call(keys: Sequence[str]) -> None:
        for key in keys:
            _ = (await memories.get(key)).payload

    async def all_calls() -> None:
        await asyncio.gather(*map(call, itertools.islice(drawn, _CALLERS)))

    return lambda: runner.run(all_calls())


def _drawn() -> Iterator[list[str]]:
    """The keys of one caller in one round, and of the next."""
    drawn = random.Random(6)
    while True:
        yield [documents.key(drawn.randrange(_KEPT)) for _ in range(_CALLS)]

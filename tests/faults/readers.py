"""Readers in a process of their own, as many reads as it can: each is written down, and judged with what the others know.

    python -m tests.faults.readers FILE ADDRESS,ADDRESS NAMESPACE,NAMESPACE

Reads until its standard input ends. A record is when it was asked and answered (time.monotonic(), one clock for all processes of
a machine), which namespace, the version, and the first bytes of the digest of the key `who` that was read with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import grpc
import uvloop
from sfm.v1 import rho_store_pb2

from tests.support.histories import History, Read
from tests.support.paths import ROOT
from tests.support.servers import CHANNEL_OPTIONS

_RECORD = struct.Struct("<ddHqB16s")
# Of each server: one that is held up holds up nobody else's readers.
_TASKS = 3
_PAUSE_S = 0.02
_CANONICAL_EVERY = 25
# A server that is killed is tried again at once; gRPC would wait longer and longer.
_OPTIONS = [*CHANNEL_OPTIONS, ("grpc.min_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]


class Readers:
    """The process, for as long as a round lasts."""

    def __init__(self, file: Path, addresses: Sequence[str], namespaces: Sequence[str]) -> None:
        self._file, self._namespaces = file, namespaces
        command = [sys.executable, "-m", "tests.faults.readers", file, ",".join(addresses), ",".join(namespaces)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def finish(self) -> None:
        """No more reads."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(60) == 0, "the readers died"

    def add_to(self, history: History) -> int:
        """Adds what was read to a history; how many reads there were.

        Of a digest some bytes were written down: where they are those that the version has, the whole stands for them.
        """
        known = {who[:16]: who for r in history.requests.values() if (who := r.changes.get("who")) is not None}
        before = len(history.reads)
        for began_s, ended_s, place, version, cached, who in self._records():
            content = {"who": known.get(who, who)} if version else {}
            namespace = self._namespaces[place]
            history.reads.append(Read(namespace, version, content, began_s, ended_s, bool(cached), partial=True))
        return len(history.reads) - before

    def _records(self) -> Iterator[tuple[Any, ...]]:
        written = self._file.read_bytes()
        return _RECORD.iter_unpack(written[: len(written) // _RECORD.size * _RECORD.size])


async def _read(call: Any, requests: Sequence[tuple[bytes, bytes]], file: Any, rng: random.Random) -> None:
    """Reads for ever."""
    turn = rng.randrange(1000)
    while True:
        turn, place = turn + 1, rng.randrange(len(requests))
        cached = turn % _CANONICAL_EVERY != 0
        began_s = time.monotonic()
        try:
            found = rho_store_pb2.GetRhoResponse.FromString(await call(requests[place][not cached], timeout=3))
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                await asyncio.sleep(_PAUSE_S)
            continue
        ended_s = time.monotonic()
        who = hashlib.sha256(found.matrices[0].matrix.data).digest()
        file.write(_RECORD.pack(began_s, ended_s, place, found.version, cached, who[:16]))


async def _main(file: Path, addresses: Sequence[str], namespaces: Sequence[str]) -> None:
    requests = [(_request(name, canonical=False), _request(name, canonical=True)) for name in namespaces]
    async with contextlib.AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(grpc.aio.insecure_channel(a, options=_OPTIONS)) for a in addresses]
        stubs = [channel.unary_unary("/sfm.v1.RhoStore/GetRho") for channel in channels]
        with file.open("wb") as out:
            tasks = [
                asyncio.create_task(_read(stub, requests, out, random.Random(f"{place} {n}")))
                for place, stub in enumerate(stubs)
                for n in range(_TASKS)
            ]
            await asyncio.to_thread(sys.stdin.buffer.read)
            for task in tasks:
                task.cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            for error in found:
                if not isinstance(error, asyncio.CancelledError):
                    raise error if isinstance(error, BaseException) else AssertionError("a reader ended")


def _request(namespace: str, *, canonical: bool) -> bytes:
    request = rho_store_pb2.GetRhoRequest(namespace=namespace, keys=["who"], view=rho_store_pb2.VIEW_FULL)
    if canonical:
        request.freshness.consistency = rho_store_pb2.CONSISTENCY_CANONICAL
    return bytes(request.SerializeToString())


if __name__ == "__main__":
    uvloop.run(_main(Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3].split(",")))

"""The process that the engine is in. `engine` starts it, and nobody else.

It hears frames on a socket and answers each. Questions are answered at once; changes are done one after the other, in steps of a
few milliseconds, between which it listens. It ends with whoever started it, whatever it is doing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import orjson

from sfm_grpc.model import Distance
from sfm_grpc.storage.vectors.embedded import files, frames
from sfm_grpc.storage.vectors.embedded.frames import Frame, Words
from sfm_grpc.storage.vectors.embedded.shard import WAL, Shard
from sfm_grpc.storage.vectors.points import Condition

# After a crash the log is done again, 10 000 points in a second: not many more than these are left in it.
_FLUSH_POINTS = 20_000
# Questions that are answered before the next step of a change.
_QUESTIONS_MAX = 8
_NICENESS = 10

# A change, step by step: None, and the next may follow at once; or a future that it waits for. At the end, the answer.
Steps: TypeAlias = Generator["Future[Any] | None", None, Words]


def main() -> None:
    """Opens the shard that the arguments name and serves it; ends with 0 when it is closed or nobody is there any more."""
    told: Words = orjson.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; who started us says when to go
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _end_with(told["parent"])
    with socket.socket(fileno=told["socket"]) as connection:
        try:
            shard = Shard(
                Path(told["directory"]),
                told["dimension"],
                Distance(told["distance"]),
                create=told["create"],
                threads=told["threads"],
            )
        except BaseException as error:
            connection.sendall(Frame(0, {"problem": str(error) or type(error).__name__}).packed())
            sys.exit(1)
        with contextlib.closing(Process(connection, shard)) as process:
            process.serve()


def _end_with(parent: int) -> None:
    """Has the kernel end us when the other end of this pipe is closed: we may be deep in the engine, where no Python runs."""
    fcntl.fcntl(parent, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(parent, fcntl.F_SETFL, fcntl.fcntl(parent, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        if not os.read(parent, 1):  # it was closed before we asked
            sys.exit(0)


class Process:
    """Answers for one shard."""

    def __init__(self, connection: socket.socket, shard: Shard) -> None:
        self._connection = connection
        self._shard = shard
        self._changes: deque[tuple[int, Steps]] = deque()
        """What is to be done, in order, and the number of the question that asked for it."""
        self._awaited: Future[Any] | None = None
        self._tail: BinaryIO | None = None
        """What is changed is written there, too: another generation will catch up with it."""
        self._unflushed = 0
        self._log: frozenset[str] = frozenset()
        """The files of the engine's log, when they were last on the disk."""
        self._syncing = ThreadPoolExecutor(1)
        self._filing = ThreadPoolExecutor(1)
        """Copies and flushes: what takes longer."""
        self._waker, self._woken = socket.socketpair()
        self._closed = False
        self._questions: dict[str, Callable[[Frame], Words]] = {
            "search": self._search,
            "count": lambda frame: {"count": shard.count(frame.words["scope"])},
            "look": lambda _: {"looks": shard.look()},
            "scan": lambda frame: dict(zip(("found", "after"), shard.scan(**frame.words["scan"]), strict=True)),
        }
        self._orders: dict[str, Callable[[Frame], Steps]] = {
            "apply": self._apply,
            "drop": self._drop,
            "copy": self._copy,
            "end_tail": self._end_tail,
            "build": self._build,
            "catch_up": self._catch_up,
            "flush": lambda _: self._flush(),
            "close": lambda _: self._close(),
        }
        points, indexed = shard.sizes
        self._answer(0, {"points": points, "indexed": indexed})

    def close(self) -> None:
        """Lets go, flushed."""
        self._syncing.shutdown()
        self._filing.shutdown()
        self._shard.close()
        self._waker.close()
        self._woken.close()

    def serve(self) -> None:
        """Until it is told to close, or nobody is there any more."""
        with selectors.DefaultSelector() as ready:
            ready.register(self._connection, selectors.EVENT_READ)
            ready.register(self._woken, selectors.EVENT_READ)
            while not self._closed:
                for _ in range(_QUESTIONS_MAX):
                    heard = {key.fileobj for key, _ in ready.select(0 if self._may_go_on() else None)}
                    if self._woken in heard:
                        self._woken.recv(64)
                    if self._connection in heard and not self._hear():
                        return
                    if not heard:
                        break
                self._step()

    def _hear(self) -> bool:
        """Answers one question, or puts one change with those to be done; False: nobody is there."""
        frame = frames.take(self._received)
        if frame is None:
            return False
        do = str(frame.words["do"])
        if do in self._orders:
            self._changes.append((frame.number, self._orders[do](frame)))
            return True
        try:
            self._answer(frame.number, self._questions[do](frame))
        except Exception as error:
            self._answer(frame.number, {"problem": str(error)})
        except BaseException as error:  # a panic of the engine's is no Exception
            self._answer(frame.number, {"problem": f"{frames.BROKEN}: {error}"})
            os._exit(1)
        return True

    def _received(self, size: int) -> bytearray:
        """So many bytes; fewer at the end."""
        received = bytearray(size)
        rest = memoryview(received)
        while rest and (got := self._connection.recv_into(rest)):
            rest = rest[got:]
        return received[: size - len(rest)]

    def _may_go_on(self) -> bool:
        return bool(self._changes) and (self._awaited is None or self._awaited.done())

    def _step(self) -> None:
        """Takes the next step of the change that is under way, if it need not wait."""
        if not self._may_go_on():
            return
        number, steps = self._changes[0]
        try:
            self._awaited = next(steps)
        except StopIteration as end:
            self._awaited = None
            self._changes.popleft()
            if number:
                self._answer(number, end.value)
            if self._unflushed >= _FLUSH_POINTS:
                self._unflushed = 0
                self._changes.append((0, self._flush()))
        except BaseException as error:
            # The engine may have done half of it. Opened anew, it does the rest as its log says.
            self._answer(number, {"problem": str(error)})
            os._exit(1)
        else:
            if self._awaited is not None:
                self._awaited.add_done_callback(lambda _: self._waker.send(b"."))

    def _answer(self, number: int, words: Words) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.sendall(Frame(number, words).packed())

    # ---- questions

    def _search(self, frame: Frame) -> Words:
        conditions = [Condition(**condition) for condition in frame.words["conditions"]]
        return {"hits": self._shard.search(conditions, memoryview(frame.numbers), **frame.words["how"])}

    # ---- changes

    def _apply(self, frame: Frame) -> Steps:
        puts, gone = frame.words["puts"], frame.words["gone"]
        yield from self._shard.apply(puts, gone, frame.numbers)
        self._unflushed += len(puts) + len(gone)
        return (yield from self._done(frame))

    def _drop(self, frame: Frame) -> Steps:
        yield from self._shard.drop(frame.words["scope"])
        return (yield from self._done(frame))

    def _done(self, frame: Frame) -> Steps:
        """Durable, and told to whoever will catch up, before it is answered."""
        if self._tail is not None:
            try:
                self._tail.write(frame.packed())
                self._tail.flush()
            except OSError:  # the disk is full: whoever wants to catch up cannot, and finds no tail
                self._tail.close()
                self._tail = None
        # The engine writes its log through a map and leaves it to the kernel: a crash of the process is survived by that alone.
        syncing = self._syncing.submit(files.sync_log, self._shard.directory / WAL, self._log)
        yield syncing
        self._log = syncing.result()
        return {}

    def _flush(self) -> Steps:
        # Off our thread first, so that little is left for the engine, during whose flush nobody is answered.
        filing = self._filing.submit(files.sync, self._shard.directory)
        yield filing
        filing.result()
        self._shard.flush()
        return {}

    def _close(self) -> Steps:
        yield from self._flush()
        self._closed = True
        return {}

    # ---- generations

    def _copy(self, frame: Frame) -> Steps:
        """Copies all files while questions are answered; what is changed from then on goes into the copy's tail, too."""
        target = Path(frame.words["to"])
        filing = self._filing.submit(files.copy, self._shard.directory, target)
        yield filing
        if (error := filing.exception()) is not None:
            return {"problem": str(error)}
        self._tail = files.tail_of(target).open("wb")
        return {}

    def _end_tail(self, _: Frame) -> Steps:
        """How long it became; -1: it could not be kept."""
        yield None
        tail, self._tail = self._tail, None
        if tail is None:
            return {"length": -1}
        with tail:
            return {"length": tail.tell()}

    def _build(self, _: Frame) -> Steps:
        """Builds graphs. Nobody is answered meanwhile."""
        filing = self._filing.submit(self._optimize)
        yield filing
        filing.result()
        yield from self._flush()
        return {"indexed": self._shard.sizes[1]}

    def _optimize(self) -> None:
        # Also for the threads that the engine starts from this one: those who search come first.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        self._shard.optimize()

    def _catch_up(self, frame: Frame) -> Steps:
        """Does what the tail says from a place on, and tells the place behind it."""
        with files.tail_of(self._shard.directory).open("rb") as tail:
            place = tail.seek(frame.words["from"])
            while told := frames.take(tail.read):
                if told.words["do"] == "drop":
                    yield from self._shard.drop(told.words["scope"])
                else:
                    yield from self._shard.apply(told.words["puts"], told.words["gone"], told.numbers)
                place = tail.tell()
        return {"place": place}


if __name__ == "__main__":
    main()

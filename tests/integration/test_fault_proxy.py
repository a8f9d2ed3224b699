"""The fault proxy does what it says, before a plain echo server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal

import pytest

from tests.support.services import ports
from tests.support.services.proxy import FaultProxy

QUIET_S = 0.1
"""Long enough to say that nothing comes."""


class Echo:
    """Answers each connection with what it said, until it ends; remembers everything."""

    def __init__(self) -> None:
        self._listener = ports.bound()
        self._listener.listen()
        self.port = self._listener.getsockname()[1]
        self.heard = b""
        self.ends: list[str] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._answer, args=[connection]))
                self._threads[-1].start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(1 << 16):
                    self.heard += data
                    connection.sendall(data)
                self.ends.append("closed")
            except ConnectionError:
                self.ends.append("reset")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)


@pytest.fixture
def echo() -> Iterator[Echo]:
    with contextlib.closing(Echo()) as server:
        yield server


@pytest.fixture
def proxy(echo: Echo) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", echo.port) as proxy:
        yield proxy


Connect = Callable[[], socket.socket]


@pytest.fixture
def connect(proxy: FaultProxy) -> Iterator[Connect]:
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port), timeout=5))


def ask(client: socket.socket, question: bytes) -> bytes:
    client.sendall(question)
    return exactly(client, len(question))


def exactly(client: socket.socket, length: int) -> bytes:
    got = b""
    while len(got) < length and (more := client.recv(length - len(got))):
        got += more
    return got


def until_reset(client: socket.socket) -> bytes:
    """What still comes; it must not end in any other way."""
    got = b""
    while True:
        try:
            more = client.recv(100)
        except ConnectionResetError:
            return got
        assert more, "closed, not reset"
        got += more


def silent(client: socket.socket) -> bool:
    client.settimeout(QUIET_S)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    else:
        return False
    finally:
        client.settimeout(5)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_it_forwards_and_counts_both_ways(proxy: FaultProxy, echo: Echo, connect: Connect) -> None:
    one, other = connect(), connect()
    assert ask(one, b"abc") == b"abc"
    large = bytes(range(256)) * 4_000
    threading.Thread(target=other.sendall, args=[large]).start()
    assert exactly(other, len(large)) == large
    until(lambda: (proxy.bytes_up, proxy.bytes_down) == (3 + len(large), 3 + len(large)))  # it counts what it has sent
    assert (proxy.connections, proxy.open) == (2, 2)
    one.shutdown(socket.SHUT_WR)
    assert one.recv(1) == b""
    until(lambda: proxy.open == 1)
    assert echo.ends == ["closed"]


def test_a_side_that_breaks_breaks_the_other(proxy: FaultProxy, echo: Echo, connect: Connect) -> None:
    client = connect()
    ask(client, b"a")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    until(lambda: echo.ends == ["reset"])


def test_a_server_that_is_not_there_is_a_reset(connect: Connect, proxy: FaultProxy) -> None:
    proxy.upstream = ("127.0.0.1", ports.free())
    with pytest.raises(ConnectionError):
        ask(connect(), b"a")


def test_cut_resets_what_is_and_refuses_what_comes(proxy: FaultProxy, echo: Echo, connect: Connect) -> None:
    client = connect()
    ask(client, b"a")
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    until(lambda: echo.ends == ["reset"])
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            connect()
        proxy.cut()  # twice is once
    assert proxy.open == 0
    proxy.restore()
    proxy.restore()
    assert ask(connect(), b"b") == b"b"


def test_cut_may_accept_and_reset_instead(proxy: FaultProxy, connect: Connect) -> None:
    proxy.cut(refuse=False)
    with pytest.raises(ConnectionError):
        ask(connect(), b"a")
    assert proxy.bytes_up == 0
    proxy.restore()
    assert ask(connect(), b"b") == b"b"


def test_drop_resets_and_welcomes(proxy: FaultProxy, connect: Connect) -> None:
    client = connect()
    ask(client, b"a")
    proxy.drop()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert ask(connect(), b"b") == b"b"


def test_hang_keeps_everything_waiting(proxy: FaultProxy, echo: Echo, connect: Connect) -> None:
    client = connect()
    ask(client, b"a")
    proxy.hang()
    client.sendall(b"b")
    late = connect()
    late.sendall(b"c")
    assert silent(client)
    assert silent(late)
    assert echo.heard == b"a"
    proxy.restore()
    assert (client.recv(1), late.recv(1)) == (b"b", b"c")


def test_hang_of_one_way(proxy: FaultProxy, echo: Echo, connect: Connect) -> None:
    client = connect()
    proxy.hang("down")
    client.sendall(b"a")
    until(lambda: echo.heard == b"a")
    assert silent(client)
    proxy.restore()
    assert client.recv(1) == b"a"
    proxy.hang("up")
    client.sendall(b"b")
    assert silent(client)
    assert echo.heard == b"a"


def test_hang_hides_that_a_side_has_gone(proxy: FaultProxy, echo: Echo, connect: Connect) -> None:
    ended, broken = connect(), connect()
    ask(ended, b"a")
    ask(broken, b"a")
    proxy.hang()
    ended.close()
    broken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    broken.close()
    time.sleep(QUIET_S)
    assert echo.ends == []
    proxy.restore()
    until(lambda: sorted(echo.ends) == ["closed", "reset"])


def test_delay_is_latency_and_costs_no_throughput(proxy: FaultProxy, connect: Connect) -> None:
    client = connect()
    proxy.delay(0.5, "down")
    large = bytes(3_000_000)
    started = time.monotonic()
    threading.Thread(target=client.sendall, args=[large]).start()
    assert exactly(client, len(large)) == large
    assert 0.5 <= time.monotonic() - started < 10  # one by one, its pieces of 64 KiB would take 23 s


@pytest.mark.parametrize("length", [0, 1, 4, 9, 10])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_truncate_lets_so_many_bytes_through(
    proxy: FaultProxy, echo: Echo, connect: Connect, length: int, direction: Literal["up", "down"]
) -> None:
    client, other = connect(), connect()
    ask(other, b"-")
    done = proxy.truncate(length, direction)
    assert not done.wait(QUIET_S)
    client.sendall(b"01234")
    got = b""
    if length > 5:  # in two pieces
        got = exactly(client, 5)
        client.sendall(b"56789")
    assert done.wait(5)
    got += until_reset(client)
    until(lambda: echo.ends == ["reset"])
    if direction == "down":
        assert got == b"0123456789"[:length]
    else:
        assert got == (b"01234" if length > 5 else b"")  # no answer to what came last
        assert echo.heard == b"-" + b"0123456789"[:length]
    assert ask(other, b"+") == b"+"  # the others go on


def test_truncate_delivers_all_it_promised_before_the_reset(proxy: FaultProxy, echo: Echo, connect: Connect) -> None:
    client = connect()
    done = proxy.truncate(3_000_000, "down")
    threading.Thread(target=client.sendall, args=[bytes(3_000_000)]).start()
    time.sleep(QUIET_S)
    assert not done.is_set()  # the client does not read, and the bytes do not fit into the buffers
    assert len(exactly(client, 3_000_000)) == 3_000_000
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_when_acts_after_a_pattern_also_in_pieces(proxy: FaultProxy, echo: Echo, connect: Connect) -> None:
    client = connect()
    seen = proxy.when(b"COMMIT", then=proxy.hang)
    client.sendall(b"BEGIN COM")
    assert exactly(client, 9) == b"BEGIN COM"
    assert not seen.is_set()
    client.sendall(b"MIT AND MORE")
    assert seen.wait(5)
    until(lambda: echo.heard == b"BEGIN COMMIT")
    assert silent(client)
    proxy.restore()
    assert exactly(client, 12) == b"MIT AND MORE"
    assert ask(client, b"COMMIT") == b"COMMIT"  # once is enough


def test_when_acts_before_a_pattern(proxy: FaultProxy, echo: Echo, connect: Connect) -> None:
    client = connect()
    seen = proxy.when(b"COMMIT", then=proxy.drop, before=True)
    client.sendall(b"BEGIN COMMIT")
    assert seen.wait(5)
    until(lambda: echo.ends == ["reset"])
    assert echo.heard == b"BEGIN "


def test_when_watches_what_comes_back_and_may_only_watch(proxy: FaultProxy, connect: Connect) -> None:
    client = connect()
    up, down = proxy.when(b"yes"), proxy.when(b"yes", then=lambda: proxy.truncate(2, "down"), direction="down")
    client.sendall(b"yes and no")
    assert up.wait(5)
    assert down.wait(5)
    assert exactly(client, 5) == b"yes a"
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_what_an_action_raises_is_raised_at_the_end(echo: Echo) -> None:
    proxy = FaultProxy("127.0.0.1", echo.port)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
        proxy.when(b"a", then=lambda: 1 / 0)
        assert ask(client, b"a") == b"a"
    with pytest.raises(ZeroDivisionError):
        proxy.close()


def test_urls_lead_through_it(proxy: FaultProxy) -> None:
    assert proxy.url("postgresql://u:p%40@db.example.com:5432/d?sslmode=require") == (
        f"postgresql://u:p%40@127.0.0.1:{proxy.port}/d?sslmode=require"
    )
    assert proxy.url("redis://127.0.0.1:1/0") == f"redis://127.0.0.1:{proxy.port}/0"


async def test_it_is_told_from_async_tests(proxy: FaultProxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    proxy.hang()
    writer.write(b"abc")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readexactly(3), QUIET_S)
    proxy.restore()
    assert await reader.readexactly(3) == b"abc"
    proxy.cut()
    with pytest.raises(ConnectionError):
        await reader.readexactly(1)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()

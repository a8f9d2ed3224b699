"""How the client connects: names, options, TLS; and what importing it may not need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from sfm.v1 import events_pb2, health_pb2, memory_store_pb2, pruner_pb2, rho_store_pb2

from sfm_grpc import allocator
from sfm_grpc.client import Client, InvalidRequest, Tls
from sfm_grpc.client.bulk import CONVERSATIONS
from sfm_grpc.client.channel import Endpoint, default_name, is_loopback
from sfm_grpc.client.sync import STREAMS, UNARY
from tests.unit.client.small_server import SmallServer


def endpoint(**facts) -> Endpoint:
    given = {
        "target": "h:1",
        "tenant": "t",
        "name": "n",
        "timeout_s": 1.0,
        "tls": None,
        "message_bytes_max": 64 << 20,
        "wait_for_ready": False,
    }
    return Endpoint(**{**given, **facts})


def test_the_retry_buffer_is_as_large_as_a_message() -> None:
    options = dict(endpoint().options)
    assert (
        options["grpc.per_rpc_retry_buffer_size"]
        == options["grpc.max_send_message_length"]
        == options["grpc.max_receive_message_length"]
    )
    assert options["grpc.max_send_message_length"] >= 64 << 20
    policy = json.loads(options["grpc.service_config"])["methodConfig"][0]
    assert policy["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    assert {n["service"] for n in policy["name"]} == {m.split("/")[1] for m in (*UNARY, *STREAMS)}
    assert dict(endpoint(message_bytes_max=2**31 - 1).options)["grpc.max_send_message_length"] == 2**31 - 1


def test_of_several_servers_one_answers_while_the_other_is_gone(connect, server: SmallServer, monkeypatch) -> None:
    # Nobody listens there: a proxy that was asked would be noticed.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    other = SmallServer()
    try:
        client = connect(f"ipv4:{server.target},{other.target}")
        for serving, gone in ((server, None), (other, server), (server, other)):
            if gone:
                gone.stop()
            for _ in range(3):
                assert client.server_info().store == "small"
            assert len(serving.calls("GetServerInfo")) == 3
            serving.seen.clear()
            if gone is server:
                server.start()
    finally:
        other.stop()


def test_every_method_exists_and_none_is_forgotten() -> None:
    parts = (rho_store_pb2, memory_store_pb2, pruner_pb2, events_pb2, health_pb2)
    files = [part.DESCRIPTOR for part in parts]
    services = [service for file in files for service in file.services_by_name.values()]
    assert {*UNARY, *STREAMS, *CONVERSATIONS} == {f"/{s.full_name}/{m.name}" for s in services for m in s.methods}


@pytest.mark.parametrize(
    "target",
    [
        *("localhost:1", "127.0.0.1:50051", "[::1]:1", "dns:///localhost:1", "127.9.9.9:1"),
        *("ipv4:127.0.0.1:1", "ipv4:127.0.0.1:1,127.0.0.1:2", "ipv6:[::1]:1,[::1]:2"),
    ],
)
def test_loopback(target: str) -> None:
    assert is_loopback(target)
    assert ("grpc.enable_http_proxy", 0) in endpoint(target=target).options


@pytest.mark.parametrize(
    "target", ["example.org:1", "10.0.0.1:1", "unix:/tmp/s", "[2001:db8::1]:1", "ipv4:127.0.0.1:1,10.0.0.1:1", "ipv4:"]
)
def test_not_loopback(target: str) -> None:
    assert not is_loopback(target)


@pytest.mark.parametrize("field", ["tenant", "name"])
@pytest.mark.parametrize("text", ["ü", "a\nb", "\x00"])
def test_names_that_cannot_travel(field: str, text: str) -> None:
    with pytest.raises(InvalidRequest, match=field):
        Client("127.0.0.1:1", **{field: text})


@pytest.mark.parametrize("program", ["", "-c", "/somewhere/manager.py", "/ü/schön"])
def test_the_default_name_is_program_at_host(monkeypatch, program: str) -> None:
    monkeypatch.setattr(sys, "argv", [program])
    name = default_name()
    assert name.split("@")[0] == {"": "python", "-c": "python"}.get(
        program, Path(program).name.encode("ascii", "replace").decode()
    )
    assert name.isascii()


def test_tls_from_files(tmp_path) -> None:
    for name in ("ca", "key", "chain"):
        (tmp_path / name).write_bytes(name.encode())
    tls = Tls.from_files(tmp_path / "ca", tmp_path / "key", tmp_path / "chain", server_name="s")
    assert tls == Tls(b"ca", b"key", b"chain", "s")
    assert Tls.from_files() == Tls()
    assert ("grpc.ssl_target_name_override", "s") in endpoint(tls=tls).options
    assert isinstance(Tls().credentials(), grpc.ChannelCredentials)


def test_large_blocks_are_kept_where_glibc_is() -> None:
    allocator.keep_large_blocks.cache_clear()
    try:
        import ctypes

        glibc = hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
    except OSError:
        glibc = False
    assert allocator.keep_large_blocks() is glibc


SERVER_ONLY = (
    "scipy", "pydantic", "pydantic_settings", "structlog", "starlette", "uvicorn", "uvloop", "typer", "rich",
    "prometheus_client",
    "threadpoolctl", "grpc_health", "grpc_reflection", "grpc_status", "redis", "psycopg", "httpx", "xxhash", "h11", "click",
)  # fmt: skip


def test_the_client_imports_nothing_of_the_server() -> None:
    script = f"""
import sys
for name in {SERVER_ONLY!r}:
    sys.modules[name] = None
import sfm_grpc.client as c
client = c.Client("127.0.0.1:1")
c.AsyncClient("127.0.0.1:1")
c.normalized([[2.0]])
client.close()
ours = sorted(m for m in sys.modules if m.startswith("sfm_grpc."))
floors = ("coordinator", "storage", "rpc", "http", "cli", "app", "settings", "metrics")
assert not [m for m in ours if m.split(".")[1] in floors], ours
density = {{m for m in ours if m.startswith("sfm_grpc.density.")}}
assert density <= {{"sfm_grpc.density.matrix", "sfm_grpc.density.envelope"}}, ours
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=60)

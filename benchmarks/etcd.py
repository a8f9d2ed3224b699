"""The peer of commits among key-value stores: one durable etcd, compare-and-put of the same bytes over gRPC.

The client is as good as ours: the same channel options, and the value goes around protobuf. The schema below is the part of
etcd's that a compare-and-put needs (service `etcdserverpb.KV`), written down as descriptors: names and numbers are the wire's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from benchmarks.bare import channel_options
from benchmarks.processes import free_port, scratch_directory
from sfm_grpc.wire import varint

HOW_TO_GET = "etcd is not on PATH, so it is left out: `apt-get install etcd-server`, or the binary of an etcd release."

_PACKAGE = "etcdserverpb"
_MIB = 1 << 20
_START_S, _STOP_S, _CALL_S = 30, 20, 10.0
_STORE_BYTES_MAX = 8 << 30  # every revision stays until someone compacts; the default refuses writes after 2 GiB
_COMPARE_EQUAL, _COMPARE_VERSION = 0, 0  # of the enumerations CompareResult and CompareTarget

_FIELD_2 = b"\x12"  # tag of the field that holds the value, in each of the messages around it

_Field = descriptor_pb2.FieldDescriptorProto
# name → fields: name → (number, type); upper case: a message of this table, "*": repeated.
_SCHEMA: dict[str, dict[str, tuple[int, str]]] = {
    "Compare": {"result": (1, "int32"), "target": (2, "int32"), "key": (3, "bytes"), "version": (4, "int64")},
    "PutRequest": {"key": (1, "bytes")},  # and value = 2
    "TxnRequest": {"compare": (1, "Compare*")},  # and success = 2, a RequestOp, whose request_put = 2 is a PutRequest
    "TxnResponse": {"succeeded": (2, "bool")},
}


def available() -> bool:
    """Whether there is an etcd to compare with."""
    return shutil.which("etcd") is not None


def version() -> str:
    """What it calls itself."""
    said = subprocess.run(("etcd", "--version"), capture_output=True, text=True, timeout=_START_S, check=True).stdout
    return said.splitlines()[0].replace(" Version:", "").strip()


class Etcd:
    """A single node on a store of its own: fsync before each answer, as it comes; and a blocking client of it."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._txn: Any = None

    def start(self) -> Etcd:
        """Starts it; returns when it takes writes."""
        try:
            address = self._stack.enter_context(_process())
            channel = self._stack.enter_context(grpc.insecure_channel(address, channel_options(address)))
            grpc.channel_ready_future(channel).result(_START_S)
            self._txn = channel.unary_unary(f"/{_PACKAGE}.KV/Txn", response_deserializer=_TxnResponse.FromString)
            assert self.compare_and_put(b"first", b"", 0, timeout_s=_START_S)  # waits for it to elect itself
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Ends connection and process and removes the store. Idempotent."""
        self._stack.close()

    def __enter__(self) -> Etcd:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def compare_and_put(self, key: bytes, value: bytes, expected: int, *, timeout_s: float = _CALL_S) -> bool:
        """Puts the value if the key has been put `expected` times (0: never); says whether it did."""
        compare = _Compare(result=_COMPARE_EQUAL, target=_COMPARE_VERSION, key=key, version=expected)
        front = b""
        # From the inside out: PutRequest, RequestOp, TxnRequest. The value ends each of them.
        for before in (_PutRequest(key=key), None, _TxnRequest(compare=[compare])):
            rest = _FIELD_2 + varint(len(front) + len(value)) + front
            front = rest if before is None else before.SerializeToString() + rest
        answer: Any = self._txn(b"".join((front, value)), timeout=timeout_s)
        return bool(answer.succeeded)


@contextlib.contextmanager
def _process() -> Iterator[str]:
    """An etcd process and its client address."""
    with scratch_directory() as directory, contextlib.ExitStack() as stack:
        client, peer = free_port(stack), free_port(stack)
        stack.close()
        ours, theirs = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
        told = {
            "name": "bench",
            "data-dir": str(directory / "etcd"),
            "listen-client-urls": ours,
            "advertise-client-urls": ours,
            "listen-peer-urls": theirs,
            "initial-advertise-peer-urls": theirs,
            "initial-cluster": f"bench={theirs}",
            "max-request-bytes": str(16 * _MIB),
            "quota-backend-bytes": str(_STORE_BYTES_MAX),
            "logger": "zap",
            "log-level": "error",
        }
        command = ("etcd", *(f"--{name}={value}" for name, value in told.items()))
        # Its own settings come from ETCD_*: none but these.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
        with (directory / "etcd.log").open("wb") as log:
            child = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            try:
                yield f"127.0.0.1:{client}"
            finally:
                child.terminate()
                try:
                    child.wait(_STOP_S)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()


def _messages() -> dict[str, Any]:
    """The schema as message classes, in a pool of its own."""
    file = descriptor_pb2.FileDescriptorProto(name="benchmarks/etcd.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            base = kind.removesuffix("*")
            made = message.field.add(name=field, number=number, json_name=field)
            made.label = _Field.LABEL_REPEATED if kind.endswith("*") else _Field.LABEL_OPTIONAL
            if base in _SCHEMA:
                made.type, made.type_name = _Field.TYPE_MESSAGE, f".{_PACKAGE}.{base}"
            else:
                made.type = _Field.Type.Value(f"TYPE_{base.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _SCHEMA}


_made = _messages()
_Compare, _PutRequest, _TxnRequest, _TxnResponse = (_made[name] for name in _SCHEMA)

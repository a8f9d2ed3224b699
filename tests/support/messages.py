"""Requests, as messages: right ones to be made wrong."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sfm.v1 import rho_store_pb2

from sfm_grpc.model import Kind
from tests.support.drivers import Delete, Put, update_message
from tests.support.matrices import Array, density, sketch


def commit_of(*changes: Put | Delete | rho_store_pb2.MatrixUpdate, expected: int | None = 0, **said: Any) -> Any:
    """A CommitRhoRequest to namespace `n`."""
    updates = [c if isinstance(c, rho_store_pb2.MatrixUpdate) else update_message(c) for c in changes]
    return rho_store_pb2.CommitRhoRequest(**{"namespace": "n", "expected_version": expected, "updates": updates} | said)


def rho_update(array: Array | None = None, **fields: Any) -> rho_store_pb2.MatrixUpdate:
    """An update of `rho` in the form `data`, with fields of its matrix replaced: None clears one."""
    update = update_message(Put("rho", density() if array is None else array))
    for name, value in fields.items():
        if name == "shape":
            del update.put.shape[:]
            update.put.shape.extend(value)
        elif value is None:
            update.put.ClearField(name)
        else:
            setattr(update.put, name, value)
    return update


def doubles_update(values: Iterable[float], dtype: int = 1) -> rho_store_pb2.MatrixUpdate:
    """An update of `rho` (6×6) in the form `double_values`."""
    update = rho_store_pb2.MatrixUpdate(key="rho")
    update.put.dtype = dtype
    update.put.shape.extend([6, 6])
    update.put.double_values.values.extend(values)
    update.put.double_values.SetInParent()
    return update


def factor_update(data: bytes, shape: list[int]) -> rho_store_pb2.MatrixUpdate:
    """An update of `rho` in the form `factor`."""
    update = rho_store_pb2.MatrixUpdate(key="rho")
    update.put.dtype = 1
    update.put.shape.extend(shape)
    update.put.factor.data = data
    update.put.factor.SetInParent()
    return update


def envelope_update(envelope: bytes, **fields: Any) -> rho_store_pb2.MatrixUpdate:
    """An update of `rho` by an envelope."""
    update = rho_store_pb2.MatrixUpdate(key="rho")
    update.put.envelope = envelope
    for name, value in fields.items():
        if name == "shape":
            update.put.shape.extend(value)
        else:
            setattr(update.put, name, value)
    return update


async def seed(stub: Any, namespace: str = "n") -> Any:
    """Version 1 of a namespace: `rho` and the generic `g`."""
    first = commit_of(Put("rho", density()), Put("g", sketch(), kind=Kind.GENERIC), namespace=namespace)
    return await stub.CommitRho(first, timeout=30)

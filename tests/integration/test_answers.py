"""GetRho over gRPC: the same numbers in each wire form, and what an answer says of itself."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest
from sfm.v1 import matrix_pb2, rho_store_pb2

from sfm_grpc.density.envelope import open_envelope
from sfm_grpc.model import Dtype, Kind, Layout
from tests.support.drivers import Put
from tests.support.matrices import Array, density, sha256, sketch
from tests.support.messages import commit_of, envelope_update
from tests.support.servers import Server

FULL, SUMMARY = rho_store_pb2.VIEW_FULL, rho_store_pb2.VIEW_SUMMARY
DATA, DOUBLES, ENVELOPE = (
    matrix_pb2.MATRIX_FORM_DATA,
    matrix_pb2.MATRIX_FORM_DOUBLE_VALUES,
    matrix_pb2.MATRIX_FORM_ENVELOPE,
)


async def get(server: Server, **how: Any) -> Any:
    return await server.rho.GetRho(rho_store_pb2.GetRhoRequest(**{"namespace": "n", "view": FULL} | how))


async def test_numbers_come_only_when_they_are_asked_for(server: Server) -> None:
    await server.rho.CommitRho(commit_of(Put("rho", density())))
    for view in (rho_store_pb2.VIEW_UNSPECIFIED, SUMMARY):
        answer = await get(server, view=view)
        matrix = answer.matrices[0].matrix
        assert matrix.WhichOneof("content") is None
        assert (matrix.kind, matrix.dtype, list(matrix.shape), matrix.digest) == (1, 1, [6, 6], sha256(density()))
        assert answer.ByteSize() < 400


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("rho", [density(), density(dtype="<f4"), density(40)], ids=["float64", "float32", "large"])
async def test_a_dense_matrix_comes_in_every_form_with_the_same_numbers(server: Server, rho: Array, cached: bool) -> None:
    await server.rho.CommitRho(commit_of(Put("rho", rho)))
    how = {} if cached else {"freshness": {"consistency": 2}}
    for form in (matrix_pb2.MATRIX_FORM_UNSPECIFIED, DATA):
        matrix = (await get(server, form=form, **how)).matrices[0].matrix
        assert (matrix.WhichOneof("content"), matrix.data) == ("data", rho.tobytes())
    doubles = (await get(server, form=DOUBLES, **how)).matrices[0].matrix
    assert np.array(doubles.double_values.values).astype(rho.dtype).tobytes() == rho.tobytes()
    assert doubles.dtype == (1 if rho.dtype == "<f8" else 2)
    envelope = (await get(server, form=ENVELOPE, **how)).matrices[0].matrix
    opened = open_envelope(envelope.envelope)
    assert (bytes(opened.numbers), opened.shape, opened.layout) == (rho.tobytes(), rho.shape, Layout.DENSE)
    assert opened.dtype is (Dtype.FLOAT64 if rho.dtype == "<f8" else Dtype.FLOAT32)


async def test_a_factor_stays_a_factor_in_every_form(server: Server) -> None:
    await server.rho.CommitRho(commit_of(Put("rho", sketch(), form="factor")))
    for form in (DATA, DOUBLES):
        matrix = (await get(server, form=form)).matrices[0].matrix
        assert (matrix.WhichOneof("content"), matrix.factor.data) == ("factor", sketch().tobytes())
        assert list(matrix.shape) == [4, 6]
    opened = open_envelope((await get(server, form=ENVELOPE)).matrices[0].matrix.envelope)
    assert (bytes(opened.numbers), opened.layout) == (sketch().tobytes(), Layout.FACTOR)


async def test_an_envelope_that_was_read_can_be_committed_as_it_is(server: Server) -> None:
    await server.rho.CommitRho(commit_of(Put("rho", density())))
    envelope = (await get(server, form=ENVELOPE)).matrices[0].matrix.envelope
    done = await server.rho.CommitRho(commit_of(envelope_update(envelope), expected=1))
    assert (done.receipts[0].digest, done.receipts[0].step) == (sha256(density()), 0.0)


async def test_what_was_read_can_be_committed_as_it_is(server: Server) -> None:
    await server.rho.CommitRho(commit_of(Put("rho", density(40)), Put("g", sketch(), kind=Kind.GENERIC)))
    read = await get(server)
    updates = [rho_store_pb2.MatrixUpdate(key=m.key, put=m.matrix) for m in read.matrices]
    done = await server.rho.CommitRho(commit_of(*updates, expected=1))
    assert [(r.step, r.clamped) for r in done.receipts] == [(0.0, False), (0.0, False)]


async def test_forms_views_and_keys_are_not_mixed_up_in_memory(server: Server) -> None:
    await server.rho.CommitRho(commit_of(Put("rho", density()), Put("g", sketch(), kind=Kind.GENERIC)))
    for _ in range(3):
        for view in (SUMMARY, FULL):
            for form in (DATA, DOUBLES, ENVELOPE):
                for keys in ([], ["rho"], ["g"], ["rho", "g"]):
                    answer = await get(server, view=view, form=form, keys=keys)
                    assert {m.key for m in answer.matrices} == set(keys or ["rho", "g"])
                    content = {m.matrix.WhichOneof("content") for m in answer.matrices}
                    wanted = {DATA: "data", DOUBLES: "double_values", ENVELOPE: "envelope"}[form]
                    assert content == ({wanted} if view == FULL else {None})


async def test_as_of_time_is_within_the_last_second(server: Server) -> None:
    await server.rho.CommitRho(commit_of(Put("rho", density())))
    end = time.monotonic() + 1.3
    while time.monotonic() < end:
        asked = time.time()
        answer = await get(server)
        assert asked - 1.0 <= answer.as_of_time.ToNanoseconds() / 1e9 <= time.time()
        await asyncio.sleep(0.05)


async def test_an_exact_version_is_not_as_of_any_time(server: Server) -> None:
    await server.rho.CommitRho(commit_of(Put("rho", density())))
    for _ in range(2):
        assert not (await get(server, version=1)).HasField("as_of_time")
        assert (await get(server)).HasField("as_of_time")


async def test_large_numbers_lie_aligned_in_the_message(server: Server) -> None:
    """A reader can view them as an array without a copy: the offset from the message's start is a multiple of eight."""
    for place, name in enumerate(["a", "ab", "abc", "abcd", "abcde"]):
        await server.rho.CommitRho(commit_of(Put(name, density(20), kind=Kind.DENSITY), expected=place))
    raw = await server.raw("RhoStore/GetRho")(rho_store_pb2.GetRhoRequest(namespace="n", view=FULL).SerializeToString())
    numbers, at, found = density(20).tobytes(), 0, []
    while (at := raw.find(numbers, at)) >= 0:
        found.append(at % 8)
        at += 1
    assert found == [0] * 5


@pytest.mark.settings(message_bytes_max=1 << 20, inflight_bytes_max=1 << 20)
async def test_numbers_that_fill_the_whole_limit_pass_both_ways(server: Server) -> None:
    full = sketch(256, 512)
    assert full.nbytes == 1 << 20
    await server.rho.CommitRho(commit_of(Put("g", full, kind=Kind.GENERIC)))
    assert (await get(server)).matrices[0].matrix.data == full.tobytes()


async def test_a_matrix_with_every_field_of_padding_is_accepted(server: Server) -> None:
    update = rho_store_pb2.MatrixUpdate(key="rho")
    update.put.CopyFrom(matrix_pb2.Matrix(dtype=1, shape=[6, 6], padding=bytes(7), data=density().tobytes()))
    done = await server.rho.CommitRho(commit_of(update))
    assert done.receipts[0].digest == sha256(density())

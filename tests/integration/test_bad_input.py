"""Every way a request can be wrong: a clear typed error with the facts, the store unchanged, the server alive."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
from sfm.v1 import health_pb2, matrix_pb2, rho_store_pb2

from sfm_grpc.density.envelope import serialize_matrix
from sfm_grpc.model import Kind, Layout
from tests.support.drivers import Delete, Put
from tests.support.engines import Engine
from tests.support.matrices import Array, density, diagonal, sha256, sketch, with_eigenvalue
from tests.support.messages import commit_of, doubles_update, envelope_update, factor_update, rho_update, seed
from tests.support.refusals import Refusal, refused
from tests.support.servers import Server

INVALID = grpc.StatusCode.INVALID_ARGUMENT
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
GENERIC = Kind.GENERIC
PUT = "updates[0].put"

# What it does is its tenant's own, and what others did is in the fingerprint before and after it.
GUEST = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Case:
    """A request that is wrong and what must be said of it."""

    request: Any
    reason: str
    fields: tuple[str, ...] = (PUT,)
    facts: Mapping[str, str] = field(default_factory=dict)
    code: grpc.StatusCode = INVALID
    says: str = ""


def wrong(*changes: Any, **said: Any) -> Any:
    """A commit at the right version, wrong in one way."""
    return commit_of(*changes, **{"expected": 1} | said)


def holding(value: float, at: tuple[int, int] = (1, 2), m: Array | None = None) -> Array:
    """A matrix with one number replaced."""
    m = density() if m is None else m.copy()
    m[at] = value
    return m


def patched(envelope: bytes, at: int, new: bytes) -> bytes:
    """Bytes with some of them replaced."""
    return envelope[:at] + new + envelope[at + len(new) :]


def malformed(update: Any, says: str) -> Case:
    return Case(wrong(update), "MATRIX_MALFORMED", facts={"key": "rho"}, says=says)


def invalid(fields: str, request: Any, says: str) -> Case:
    return Case(request, "INVALID_REQUEST", fields=(fields,), facts={"field": fields}, says=says)


NOT_SYMMETRIC = density()
NOT_SYMMETRIC[4, 1] += 0.25
ENVELOPE = serialize_matrix(density())
ZIPPED = serialize_matrix(diagonal(*[1 / 64] * 64), compression="zlib")
BOMB = zlib.compress(bytes(50_000_000), 9)

VALUES = {
    "a NaN": Case(
        wrong(Put("rho", holding(np.nan))),
        "RHO_NOT_FINITE",
        facts={"key": "rho", "row": "1", "column": "2", "value": "nan", "count": "1"},
    ),
    "an infinity": Case(wrong(Put("rho", holding(np.inf))), "RHO_NOT_FINITE", facts={"value": "inf", "count": "1"}),
    "a negative infinity on the diagonal": Case(
        wrong(Put("rho", holding(-np.inf, (3, 3)))), "RHO_NOT_FINITE", facts={"row": "3", "column": "3", "value": "-inf"}
    ),
    "a NaN among doubles": Case(wrong(Put("rho", holding(np.nan), form="doubles")), "RHO_NOT_FINITE"),
    "a float32 NaN": Case(wrong(Put("rho", holding(np.nan).astype("<f4"))), "RHO_NOT_FINITE"),
    "a float32 NaN among doubles": Case(wrong(Put("rho", holding(np.nan).astype("<f4"), form="doubles")), "RHO_NOT_FINITE"),
    "a NaN in an envelope": Case(wrong(Put("rho", holding(np.nan), form="envelope")), "RHO_NOT_FINITE"),
    "a NaN in a factor": Case(wrong(Put("rho", holding(np.nan, m=sketch()), form="factor")), "RHO_NOT_FINITE"),
    "only NaN": Case(wrong(Put("rho", np.full((6, 6), np.nan))), "RHO_NOT_FINITE", facts={"count": "36", "row": "0"}),
    "an infinity in a generic matrix": Case(
        wrong(Put("g", holding(np.inf, m=sketch()), kind=GENERIC)), "RHO_NOT_FINITE", facts={"key": "g"}
    ),
    "not Hermitian": Case(
        wrong(Put("rho", NOT_SYMMETRIC)),
        "RHO_NOT_HERMITIAN",
        facts={"key": "rho", "dtype": "float64", "dimension": "6"},
    ),
    "Hermitian but for one triangle": Case(wrong(Put("rho", np.triu(density()))), "RHO_NOT_HERMITIAN"),
    "trace two": Case(wrong(Put("rho", 2 * density())), "RHO_TRACE", facts={"key": "rho", "dtype": "float64"}),
    "trace off by 2e-6": Case(wrong(Put("rho", density() * (1 + 2e-6))), "RHO_TRACE", facts={"tolerance": "1e-06"}),
    "trace minus one": Case(wrong(Put("rho", -density())), "RHO_TRACE", facts={"trace_error": "2.0"}),
    "all zeros": Case(wrong(Put("rho", np.zeros((6, 6)))), "RHO_TRACE", facts={"trace": "0.0", "trace_error": "1.0"}),
    "λ_min = −0.1": Case(
        wrong(Put("rho", with_eigenvalue(-0.1))),
        "RHO_NOT_PSD",
        facts={"key": "rho", "negative_count": "1", "epsilon": "1e-08", "dtype": "float64", "dimension": "6"},
    ),
    "λ_min just below −ε": Case(wrong(Put("rho", with_eigenvalue(-1.001e-8))), "RHO_NOT_PSD"),
    "numbers whose squares overflow": Case(wrong(Put("rho", np.eye(6) * 1e200)), "RHO_TRACE"),
    "a zero factor": Case(wrong(Put("rho", np.zeros((2, 6)), form="factor")), "MATRIX_MALFORMED", says="is zero"),
    "a factor of negative zeros": Case(wrong(Put("rho", -np.zeros((2, 6)), form="factor")), "MATRIX_MALFORMED", says="is zero"),
    "a factor whose norm overflows": Case(
        wrong(Put("rho", np.full((2, 6), 1e200), form="factor")), "MATRIX_MALFORMED", says="overflows"
    ),
    "a factor whose norm underflows": Case(
        wrong(Put("rho", np.full((2, 6), 1e-200), form="factor")), "MATRIX_MALFORMED", says="underflows"
    ),
}

SHAPES = {
    "no numbers at all": malformed(rho_update(data=b""), "truncated by 288"),
    "0×0": malformed(rho_update(data=b"", shape=[0, 0]), "at least 1"),
    "no rows": malformed(rho_update(data=b"", shape=[0, 6]), "at least 1"),
    "negative": malformed(rho_update(shape=[-6, -6]), "at least 1"),
    "the most negative": malformed(rho_update(shape=[-(2**63), 6]), "at least 1"),
    "no shape": malformed(rho_update(shape=[]), "shape has 0 numbers"),
    "one number": malformed(rho_update(shape=[36]), "shape has 1 numbers"),
    "three numbers": malformed(rho_update(shape=[6, 6, 1]), "shape has 3 numbers"),
    "a thousand numbers": malformed(rho_update(shape=[1] * 1000), "shape has 1000 numbers"),
    "not square": malformed(rho_update(shape=[4, 9]), "is square, this is 4×9"),
    "huge": malformed(rho_update(shape=[2**62, 2**62]), "at most 8192"),
    "so huge that the size wraps around": malformed(rho_update(shape=[2**32, 2**32]), "at most 8192"),
    "the largest": malformed(rho_update(shape=[2**63 - 1, 2**63 - 1]), "at most 8192"),
    "one over the limit": malformed(rho_update(shape=[8193, 8193]), "at most 8192"),
    "large but allowed, without the numbers": malformed(rho_update(shape=[8192, 8192]), "truncated by 536870624"),
    "bytes that end early": malformed(rho_update(data=density().tobytes()[:-1]), "truncated by 1"),
    "bytes that go on": malformed(rho_update(data=density().tobytes() + b"\0"), "over-long by 1"),
    "the bytes of another dtype": malformed(rho_update(dtype=2), "over-long by 144"),
    "a factor with too few numbers": malformed(factor_update(sketch(2, 6).tobytes()[:-8], [2, 6]), "truncated by 8"),
    "a factor without numbers": malformed(factor_update(b"", [2, 6]), "truncated by 96"),
    "doubles that end early": malformed(doubles_update(density().ravel()[:-1]), "truncated by 8"),
    "doubles that go on": malformed(doubles_update([*density().ravel(), 0.0]), "over-long by 8"),
    "no doubles": malformed(doubles_update([]), "truncated by 288"),
    "doubles that are not float32": malformed(doubles_update(density().ravel(), dtype=2), "not float32"),
    "a digest of other numbers": malformed(rho_update(digest=sha256(density(seed=1))), "SHA-256"),
    "a digest that is too short": malformed(rho_update(digest=b"\1" * 31), "digest has 31 bytes"),
    "a digest that is too long": malformed(rho_update(digest=sha256(density()) + b"\0"), "digest has 33 bytes"),
}

ENVELOPES = {
    "not an envelope": malformed(envelope_update(b"\0" * 400), "not an envelope"),
    "an empty envelope": malformed(envelope_update(b""), "not an envelope"),
    "JSON": malformed(envelope_update(b"[[0.5, 0], [0, 0.5]]"), "not an envelope"),
    "a magic that a text-mode copy changed": malformed(envelope_update(patched(ENVELOPE, 4, b"\n")), "magic is damaged"),
    "a header that ends early": malformed(envelope_update(ENVELOPE[:50]), "ends within its header"),
    "numbers that end early": malformed(envelope_update(ENVELOPE[:-1]), "truncated"),
    "a byte too many": malformed(envelope_update(ENVELOPE + b"\0"), "1 bytes follow"),
    "another format version": malformed(envelope_update(patched(ENVELOPE, 8, struct.pack("<H", 2))), "format version 2"),
    "another header length": malformed(envelope_update(patched(ENVELOPE, 10, struct.pack("<H", 96))), "header says it has 96"),
    "an unknown compression": malformed(envelope_update(patched(ENVELOPE, 12, b"\7")), "unknown compression 7"),
    "reserved bytes in use": malformed(envelope_update(patched(ENVELOPE, 14, b"\1")), "reserved bytes 13"),
    "an unknown dtype": malformed(envelope_update(patched(ENVELOPE, 16, b"\3")), "unknown dtype 3"),
    "an unknown layout": malformed(envelope_update(patched(ENVELOPE, 17, b"\3")), "unknown layout 3"),
    "three dimensions": malformed(envelope_update(patched(ENVELOPE, 18, b"\3")), "3 dimensions"),
    "no rows": malformed(envelope_update(patched(ENVELOPE, 24, struct.pack("<Q", 0))), "at least 1"),
    "more rows than numbers": malformed(envelope_update(patched(ENVELOPE, 24, struct.pack("<Q", 7))), "stores 288 bytes"),
    "more rows than exist": malformed(envelope_update(patched(ENVELOPE, 24, struct.pack("<Q", 2**64 - 1))), "8192"),
    "a stored length that is wrong": malformed(envelope_update(patched(ENVELOPE, 48, struct.pack("<Q", 2**63))), "truncated"),
    "a digest that fails": malformed(envelope_update(patched(ENVELOPE, 60, b"\0\1\2\3")), "envelope is damaged"),
    "a number that was changed": malformed(envelope_update(patched(ENVELOPE, 100, b"\xff")), "envelope is damaged"),
    "compressed numbers that are no zlib": malformed(envelope_update(patched(ZIPPED, 88, b"\xff\xff")), "numbers are damaged"),
    "compressed numbers that end early": malformed(
        envelope_update(patched(ZIPPED, 48, struct.pack("<Q", len(ZIPPED) - 89))[:-1]), "end early"
    ),
    "a decompression bomb": malformed(
        envelope_update(patched(ENVELOPE[:88], 12, b"\1")[:48] + struct.pack("<Q", len(BOMB)) + ENVELOPE[56:88] + BOMB),
        "inflate to more than the 288 bytes promised",
    ),
    "a bomb that says how large it is": malformed(
        envelope_update(
            patched(ENVELOPE[:24], 12, b"\1") + struct.pack("<QQqQ", 8192, 8192, 0, len(BOMB)) + ENVELOPE[56:88] + BOMB
        ),
        "promises 536870912 bytes of numbers",
    ),
    "another shape beside the envelope": malformed(envelope_update(ENVELOPE, shape=[6, 7]), "shape is (6, 7) beside"),
    "another dtype beside the envelope": malformed(envelope_update(ENVELOPE, dtype=2), "beside the envelope"),
    "another digest beside the envelope": malformed(envelope_update(ENVELOPE, digest=b"\1" * 32), "SHA-256"),
    "not square": malformed(envelope_update(serialize_matrix(sketch())), "is square"),
    "a zero factor": malformed(envelope_update(serialize_matrix(np.zeros((2, 6)), layout=Layout.FACTOR)), "is zero"),
}

REQUESTS = {
    "no change": invalid("updates", wrong(), "is empty"),
    "a change that says nothing": invalid("updates[0]", wrong(rho_store_pb2.MatrixUpdate(key="rho")), "neither put nor delete"),
    "no content": invalid(f"{PUT}.content", wrong(rho_update(data=None)), "is required"),
    "no dtype": invalid(f"{PUT}.dtype", wrong(rho_update(dtype=0)), "is required"),
    "an unknown dtype": invalid(f"{PUT}.dtype", wrong(rho_update(dtype=9)), "is 9, which this server does not know"),
    "a reserved dtype": invalid(f"{PUT}.dtype", wrong(rho_update(dtype=3)), "is 3, which this server does not know"),
    "an unknown kind": invalid(f"{PUT}.kind", wrong(rho_update(kind=7)), "is 7, which this server does not know"),
    "no kind": invalid(f"{PUT}.kind", wrong(Put("other", density())), "is required"),
    "rho as a generic matrix": invalid(f"{PUT}.kind", wrong(rho_update(kind=2)), "always MATRIX_KIND_DENSITY"),
    "a generic factor": Case(
        wrong(Put("g", sketch(), kind=GENERIC, form="factor")), "MATRIX_MALFORMED", says="a generic matrix is always dense"
    ),
    "another kind than before": Case(
        wrong(Put("g", density(), kind=Kind.DENSITY)),
        "KIND_CHANGED",
        fields=(f"{PUT}.kind",),
        facts={"namespace": "n", "key": "g", "kind": "generic", "requested": "density"},
    ),
    "a key twice": invalid("updates[2].key", wrong(Delete("rho"), Delete("x"), Put("rho", density())), "changed twice"),
    "no key": invalid("updates[0].key", wrong(Delete("")), "is required"),
    "a key of 257 bytes": invalid("updates[0].key", wrong(Delete("k" * 257)), "has 257 bytes"),
    "a key of a hundred kilobytes": invalid("updates[0].key", wrong(Delete("k" * 100_000)), "has 100000 bytes"),
    "a control character in a key": invalid("updates[0].key", wrong(Delete("a\x1b[31m")), "U+001B at position 1"),
    "no namespace": invalid("namespace", wrong(Delete("x"), namespace=""), "is required"),
    "a namespace of 257 bytes": invalid("namespace", wrong(Delete("x"), namespace="é" * 128 + "x"), "has 257 bytes"),
    "a control character in a namespace": invalid("namespace", wrong(Delete("x"), namespace="n\0"), "U+0000 at position 1"),
    "a request id of 65 bytes": invalid("request_id", wrong(Delete("x"), request_id="r" * 65), "has 65 bytes"),
    "a control character in a request id": invalid("request_id", wrong(Delete("x"), request_id="\t"), "U+0009"),
    "no expected version": invalid("expected_version", wrong(Delete("x"), expected=None), "is required"),
    "a negative expected version": invalid("expected_version", wrong(Delete("x"), expected=-1), "is -1"),
    "a bound that is no number": invalid(
        "updates[0].max_step", wrong(Put("rho", density(), max_step=float("nan"))), "must be 0 or more"
    ),
    "a control character in a metadata key": invalid("metadata", wrong(Delete("x"), metadata={"a\n": ""}), "U+000A"),
    "too much metadata": Case(
        wrong(Delete("x"), metadata={"k": "v" * 16_384}),
        "LIMIT_EXCEEDED",
        fields=(),
        facts={"limit": "metadata_bytes_max", "value": "16385", "maximum": "16384"},
        code=EXHAUSTED,
    ),
    "too many changes": Case(
        wrong(*[Delete(f"k{i}") for i in range(65)]),
        "LIMIT_EXCEEDED",
        fields=(),
        facts={"limit": "keys_per_commit_max", "value": "65", "maximum": "64"},
        code=EXHAUSTED,
    ),
    "a stale version": Case(
        wrong(Put("rho", density()), expected=0),
        "VERSION_CONFLICT",
        fields=(),
        facts={"namespace": "n", "expected": "0", "current": "1"},
        code=grpc.StatusCode.ABORTED,
    ),
    "a version that is not there yet": Case(
        wrong(Put("rho", density()), expected=2**63 - 1),
        "VERSION_CONFLICT",
        fields=(),
        facts={"expected": str(2**63 - 1), "current": "1"},
        code=grpc.StatusCode.ABORTED,
    ),
    "a used request id": Case(
        wrong(Put("rho", density(seed=7)), expected=0, request_id="used"),
        "REQUEST_ID_REUSED",
        fields=("request_id",),
        facts={"namespace": "n", "reused_id": "used"},
    ),
    "a step over the bound": Case(
        wrong(Put("rho", density(seed=1), max_step=0.0)),
        "STEP_TOO_LARGE",
        fields=(),
        facts={"namespace": "n", "key": "rho", "bound": "0.0"},
        code=grpc.StatusCode.FAILED_PRECONDITION,
    ),
}


def under_titles(**groups: Mapping[str, Case]) -> list[Any]:
    return [pytest.param(case, id=f"{group}: {title}") for group, cases in groups.items() for title, case in cases.items()]


@GUEST
@pytest.mark.parametrize("case", under_titles(values=VALUES, shapes=SHAPES, envelopes=ENVELOPES, requests=REQUESTS))
async def test_a_wrong_commit_is_refused_with_the_facts_and_changes_nothing(
    guest_server: Server, shared_engine: Engine, case: Case
) -> None:
    await guest_server.rho.CommitRho(commit_of(Put("rho", density()), Put("g", sketch(), kind=GENERIC), request_id="used"))
    before = shared_engine.fingerprint(guest_server.settings)
    refusal = await refused(guest_server.rho.CommitRho(case.request))
    assert (refusal.code, refusal.reason, refusal.fields) == (case.code, case.reason, case.fields)
    assert {name: refusal.facts.get(name) for name in case.facts} == case.facts
    assert case.says in refusal.message
    assert_the_facts_say_it_all(refusal)
    assert shared_engine.fingerprint(guest_server.settings) == before
    await assert_alive(guest_server)


def assert_the_facts_say_it_all(refusal: Refusal) -> None:
    """A client that has only the facts says the same sentence."""
    assert refusal.error.sentence() == refusal.message
    assert "Traceback" not in refusal.message
    assert refusal.request_id


async def assert_alive(server: Server) -> None:
    """What was committed is still read, and the next commit succeeds."""
    read = await server.rho.GetRho(rho_store_pb2.GetRhoRequest(namespace="n", view=rho_store_pb2.VIEW_FULL))
    assert (read.version, [m.matrix.digest for m in read.matrices]) == (1, [sha256(sketch()), sha256(density())])
    done = await server.rho.CommitRho(commit_of(Put("rho", density(seed=3)), expected=1))
    assert done.version == 2


@pytest.mark.settings(dimension_max=5)
@pytest.mark.parametrize("form", ["data", "doubles", "factor", "envelope", "factor_envelope"])
async def test_a_dimension_over_the_limit_is_refused_in_every_form(server: Server, form: str) -> None:
    array = sketch(2, 6) if form.startswith("factor") else density()
    refusal = await refused(server.rho.CommitRho(commit_of(Put("rho", array, form=form))))
    assert (refusal.reason, refusal.fields) == ("MATRIX_MALFORMED", (PUT,))
    assert "5" in refusal.message
    assert (await server.rho.CommitRho(commit_of(Put("rho", density(5))))).version == 1


# ---- the other calls ---------------------------------------------------------------------------------------------------

Get = rho_store_pb2.GetRhoRequest
List = rho_store_pb2.ListRhoVersionsRequest
Restore = rho_store_pb2.RestoreRhoRequest
Freshness = rho_store_pb2.Freshness

READS = {
    "no namespace": invalid("namespace", Get(), "is required"),
    "a namespace of a hundred kilobytes": invalid("namespace", Get(namespace="n" * 100_000), "at most 256"),
    "a control character in a namespace": invalid("namespace", Get(namespace="\r"), "U+000D"),
    "a key twice": invalid("keys", Get(namespace="n", keys=["g", "g"]), "twice"),
    "a key of a hundred kilobytes": invalid("keys[1]", Get(namespace="n", keys=["g", "k" * 100_000]), "at most 256"),
    "version 0": invalid("version", Get(namespace="n", version=0), "versions start at 1"),
    "a negative version": invalid("version", Get(namespace="n", version=-1), "versions start at 1"),
    "a negative known version": invalid("known_version", Get(namespace="n", known_version=-1), "versions start at 1"),
    "a negative min_version": invalid(
        "freshness.min_version", Get(namespace="n", freshness=Freshness(min_version=-1)), "must be 0 or more"
    ),
    "a negative staleness": invalid(
        "freshness.max_staleness", Get(namespace="n", freshness=Freshness(max_staleness={"seconds": -1})), "must be positive"
    ),
    "staleness of a canonical read": invalid(
        "freshness.max_staleness",
        Get(namespace="n", freshness=Freshness(consistency=2, max_staleness={"seconds": 1})),
        "not with CONSISTENCY_CANONICAL",
    ),
    "an unknown consistency": invalid("freshness.consistency", Get(namespace="n", freshness=Freshness(consistency=9)), "is 9"),
    "an unknown view": invalid("view", Get(namespace="n", view=9), "is 9"),
    "an unknown form": invalid("form", Get(namespace="n", form=9), "is 9"),
    "a version that never was": Case(
        Get(namespace="n", version=2**63 - 1),
        "NOT_FOUND",
        fields=(),
        facts={"what": "version", "names": f'["{2**63 - 1}"]', "current": "1"},
        code=grpc.StatusCode.NOT_FOUND,
    ),
    "absent keys": Case(
        Get(namespace="n", keys=["g", "x", "ρ"]),
        "NOT_FOUND",
        fields=(),
        facts={"what": "key", "names": '["x", "\\u03c1"]', "namespace": "n"},
        code=grpc.StatusCode.NOT_FOUND,
    ),
    "a min_version that was not reached": Case(
        Get(namespace="n", freshness=Freshness(min_version=2)),
        "VERSION_NOT_REACHED",
        fields=(),
        facts={"namespace": "n", "min_version": "2", "current": "1"},
        code=grpc.StatusCode.FAILED_PRECONDITION,
    ),
    "more keys than a namespace holds": Case(
        Get(namespace="n", keys=[f"k{i}" for i in range(10_000)]),
        "LIMIT_EXCEEDED",
        fields=(),
        facts={"limit": "keys_per_namespace_max", "value": "10000", "maximum": "256"},
        code=EXHAUSTED,
    ),
    "a page of minus one": invalid("page_size", List(namespace="n", page_size=-1), "is -1; it must be 1 to 1000"),
    "a page of two thousand million": invalid("page_size", List(namespace="n", page_size=2**31 - 1), "must be 1 to 1000"),
    "a page token of garbage": invalid("page_token", List(namespace="n", page_token="=====\0é"), "not a token of this list"),
    "a page token of a hundred kilobytes": invalid("page_token", List(namespace="n", page_token="A" * 100_000), "not a token"),
    "a list of no namespace": invalid("namespace", List(), "is required"),
    "a restore of nothing": invalid("target", Restore(namespace="n", expected_version=1), "version or last_valid"),
    "a restore without a version": invalid("expected_version", Restore(namespace="n", version=1), "is required"),
    "a restore to version 0": invalid("version", Restore(namespace="n", expected_version=1, version=0), "start at 1"),
    "a restore of no namespace": invalid("namespace", Restore(expected_version=1, version=1), "is required"),
    "a restore at a stale version": Case(
        Restore(namespace="n", expected_version=0, version=1),
        "VERSION_CONFLICT",
        fields=(),
        facts={"expected": "0", "current": "1"},
        code=grpc.StatusCode.ABORTED,
    ),
}


@GUEST
@pytest.mark.parametrize("case", under_titles(reads=READS))
async def test_a_wrong_question_is_refused_with_the_facts(guest_server: Server, shared_engine: Engine, case: Case) -> None:
    await seed(guest_server.rho)
    before = shared_engine.fingerprint(guest_server.settings)
    method = {Get: guest_server.rho.GetRho, List: guest_server.rho.ListRhoVersions, Restore: guest_server.rho.RestoreRho}[
        type(case.request)
    ]
    refusal = await refused(method(case.request))
    assert (refusal.code, refusal.reason, refusal.fields) == (case.code, case.reason, case.fields)
    assert {name: refusal.facts.get(name) for name in case.facts} == case.facts
    assert case.says in refusal.message
    assert_the_facts_say_it_all(refusal)
    assert shared_engine.fingerprint(guest_server.settings) == before
    await assert_alive(guest_server)


@GUEST
@pytest.mark.parametrize("key", ["x-soma-tenant", "x-soma-client"])
async def test_a_name_in_the_metadata_that_is_too_long_is_refused(guest_server: Server, shared_engine: Engine, key: str) -> None:
    await seed(guest_server.rho)
    before = shared_engine.fingerprint(guest_server.settings)
    refusal = await refused(guest_server.rho.CommitRho(wrong(Delete("x")), metadata=[(key, "t" * 257)]))
    assert (refusal.code, refusal.reason, refusal.fields) == (INVALID, "INVALID_REQUEST", (key,))
    assert shared_engine.fingerprint(guest_server.settings) == before
    await assert_alive(guest_server)


# ---- bytes that are no message -----------------------------------------------------------------------------------------

NO_MESSAGES = {
    "garbage": b"\xff\xfe\xfd garbage",
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "a length beyond the end": b"\x0a\x7f",
    "a string that is not UTF-8": b"\x0a\x02\xff\xfe",
    "a varint without an end": b"\x10" + b"\xff" * 11,
    "a group that is never closed": b"\x0b",
    "field number zero": b"\x02\x00",
    "a message cut short": commit_of(Put("rho", density())).SerializeToString()[:-3],
}


@GUEST
@pytest.mark.parametrize("method", ["CommitRho", "GetRho", "ListRhoVersions", "RestoreRho"])
@pytest.mark.parametrize("raw", NO_MESSAGES.values(), ids=NO_MESSAGES.keys())
async def test_bytes_that_are_no_message_are_refused(
    guest_server: Server, shared_engine: Engine, method: str, raw: bytes
) -> None:
    await seed(guest_server.rho)
    before = shared_engine.fingerprint(guest_server.settings)
    refusal = await refused(guest_server.raw(f"RhoStore/{method}")(raw))
    assert (refusal.code, refusal.reason, refusal.fields) == (INVALID, "INVALID_REQUEST", ("message",))
    assert f"sfm.v1.{method}Request" in refusal.message
    assert shared_engine.fingerprint(guest_server.settings) == before
    await assert_alive(guest_server)


@GUEST
async def test_bytes_that_are_no_message_are_refused_by_health_too(guest_server: Server) -> None:
    for method in ("GetHealth", "GetServerInfo"):
        refusal = await refused(guest_server.raw(f"Health/{method}")(b"\xff\xff"))
        assert (refusal.code, refusal.reason) == (INVALID, "INVALID_REQUEST")


async def test_no_damage_to_a_request_makes_the_server_fail(server: Server) -> None:
    """Hundreds of damaged requests: each is refused as the caller's fault, or was still a right one; none is INTERNAL."""
    await seed(server.rho)
    rng = random.Random(7)
    whole = commit_of(
        Put("rho", density(seed=1)),
        Put("a", density(seed=2), kind=Kind.DENSITY, form="doubles"),
        Put("b", sketch(), kind=Kind.DENSITY, form="factor"),
        Put("c", density(4), kind=Kind.DENSITY, form="zlib"),
        Delete("d"),
        expected=1,
        request_id="r",
        metadata={"k": "v"},
        validate_only=True,
    ).SerializeToString()
    call = server.raw("RhoStore/CommitRho")
    told = []
    for _ in range(400):
        try:
            await call(damaged(whole, rng))
        except grpc.aio.AioRpcError as error:
            told.append(error.code())
    assert len(told) > 200
    blamed = {INVALID, EXHAUSTED, grpc.StatusCode.ABORTED, grpc.StatusCode.FAILED_PRECONDITION}
    assert set(told) <= blamed
    await assert_whole(server)


async def assert_whole(server: Server) -> None:
    """Whatever got in by the damage (`validate_only` may be what was hit) is valid, and can be read."""
    report = await server.health.GetHealth(health_pb2.GetHealthRequest())
    assert report.ok
    for found in report.rho:
        for version in range(1, found.version + 1):
            await server.rho.GetRho(Get(namespace=found.namespace, version=version, view=rho_store_pb2.VIEW_FULL))


def damaged(whole: bytes, rng: random.Random) -> bytes:
    raw = bytearray(whole)
    # Mostly where the structure is: numbers take most of the bytes and say little.
    place = rng.choice((rng.randrange(len(raw)), rng.randrange(24), rng.randrange(len(raw) - 60, len(raw))))
    match rng.randrange(4):
        case 0:
            raw[place] ^= 1 << rng.randrange(8)
        case 1:
            del raw[place : place + rng.randrange(1, 20)]
        case 2:
            raw[place:place] = rng.randbytes(rng.randrange(1, 12))
        case 3:
            raw[place] = rng.choice((0, 0x7F, 0x80, 0xFF))
    return bytes(raw)


# ---- messages over the limit -------------------------------------------------------------------------------------------

SMALL = pytest.mark.settings(message_bytes_max=1 << 16, inflight_bytes_max=1 << 16)


@SMALL
async def test_a_message_over_the_limit_is_refused_and_the_connection_lives(server: Server, engine: Engine) -> None:
    await seed(server.rho)
    before = engine.fingerprint(server.settings)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.rho.CommitRho(wrong(Put("big", sketch(200, 200), kind=GENERIC)))
    assert caught.value.code() is EXHAUSTED
    assert "larger than max" in caught.value.details()
    assert engine.fingerprint(server.settings) == before
    await assert_alive(server)


@SMALL
async def test_a_compressed_message_may_not_inflate_over_the_limit(server: Server, engine: Engine) -> None:
    await seed(server.rho)
    before = engine.fingerprint(server.settings)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.raw("RhoStore/CommitRho")(bytes(64 << 20), compression=grpc.Compression.Gzip)
    assert caught.value.code() is EXHAUSTED
    assert engine.fingerprint(server.settings) == before
    await assert_alive(server)


@SMALL
async def test_an_answer_over_the_limit_is_told_as_one(server: Server) -> None:
    for place in range(3):
        big = Put(f"g{place}", sketch(64, 100, seed=place), kind=GENERIC)
        await server.rho.CommitRho(commit_of(big, expected=place, namespace="m"))
    refusal = await refused(server.rho.GetRho(Get(namespace="m", view=rho_store_pb2.VIEW_FULL)))
    assert (refusal.code, refusal.reason) == (EXHAUSTED, "LIMIT_EXCEEDED")
    assert (refusal.facts["limit"], refusal.facts["maximum"]) == ("message_bytes_max", str(1 << 16))
    one = await server.rho.GetRho(Get(namespace="m", keys=["g1"], view=rho_store_pb2.VIEW_FULL))
    assert one.matrices[0].matrix.data == sketch(64, 100, seed=1).tobytes()


@SMALL
async def test_an_envelope_may_not_promise_more_than_a_message_holds(server: Server) -> None:
    zeros = serialize_matrix(np.zeros((100, 100)), compression="zlib")
    assert len(zeros) < 1000
    request = rho_store_pb2.MatrixUpdate(key="g", put=matrix_pb2.Matrix(kind=2, envelope=zeros))
    refusal = await refused(server.rho.CommitRho(commit_of(request)))
    assert refusal.reason == "MATRIX_MALFORMED"
    assert "promises 80000 bytes" in refusal.message

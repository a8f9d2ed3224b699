"""Errors carry facts: as text on the wire, and the same error again on the other side."""

from __future__ import annotations

import dataclasses
import math

import grpc
import pytest
from google.rpc import error_details_pb2

from sfm_grpc import errors
from sfm_grpc.errors import BY_REASON, Code, NotFound, RhoTrace, SfmError, VersionConflict
from sfm_grpc.rpc.errors import STATUS, status_of

SAMPLES = {
    "str": "ρ \"quoted\"\n, 'text'",
    "int": 2**50,
    "float": 0.1 + 0.2,
    "bool": True,
    "tuple[str, ...]": ("a", "ρ", 'comma, and "quote"'),
}


def sample(kind: type[SfmError]) -> SfmError:
    """An error with a fact of each type that is hard to carry."""
    return kind(**{f.name: SAMPLES[str(f.type)] for f in dataclasses.fields(kind)})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", BY_REASON.values(), ids=BY_REASON.keys())
def test_every_error_comes_back_from_its_facts(kind: type[SfmError]) -> None:
    error = sample(kind)
    facts = error.facts()
    assert all(isinstance(value, str) for value in facts.values())
    again = kind.from_facts(facts)
    assert again.facts() == facts
    for f in dataclasses.fields(kind):  # type: ignore[arg-type]
        assert getattr(again, f.name) == getattr(error, f.name)
    assert str(again) == str(error) == error.sentence() != ""


@pytest.mark.parametrize("kind", BY_REASON.values(), ids=BY_REASON.keys())
def test_facts_that_an_older_server_does_not_send_are_zero(kind: type[SfmError]) -> None:
    again = kind.from_facts({"something": "newer"})
    for f in dataclasses.fields(kind):  # type: ignore[arg-type]
        value = getattr(again, f.name)
        assert value in ("", 0, False, ()) or math.isnan(value)


@pytest.mark.parametrize("kind", BY_REASON.values(), ids=BY_REASON.keys())
def test_every_error_is_one_status_with_one_error_info(kind: type[SfmError]) -> None:
    error = sample(kind)
    status = status_of(error)
    assert status.code == STATUS[error.code].value[0]
    kinds = [detail.TypeName() for detail in status.details]
    assert kinds.count("google.rpc.ErrorInfo") == 1
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    assert (info.reason, info.domain, dict(info.metadata)) == (kind.reason, "sfm", error.facts())
    assert ("google.rpc.RetryInfo" in kinds) == (error.retry_delay_s is not None)
    assert ("google.rpc.BadRequest" in kinds) == (error.code is Code.INVALID_ARGUMENT and bool(error.field_path))


def test_reasons_are_unique_and_codes_are_grpcs() -> None:
    with_reason = [kind for kind in SfmError.__subclasses__() if kind.reason and kind.__module__.startswith(errors.__name__)]
    assert len(BY_REASON) == len(with_reason)
    assert {code.value for code in Code} <= {code.name for code in grpc.StatusCode}


def test_only_what_a_retry_can_mend_says_when_to_retry() -> None:
    retried = {reason for reason, kind in BY_REASON.items() if sample(kind).retry_delay_s is not None}
    assert retried == {"OVERLOADED", "STORE_UNAVAILABLE", "DRAINING", "INDEX_UNAVAILABLE"}


@pytest.mark.parametrize("value", [0.1, 1e-300, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, -0.0, 1 / 3])
def test_numbers_are_carried_bit_for_bit(value: float) -> None:
    error = RhoTrace(trace=value, trace_error=value, tolerance=value, dtype="float64", dimension=3)
    again = RhoTrace.from_facts(error.facts())
    assert isinstance(again, RhoTrace)
    assert again.trace.hex() == value.hex()


def test_a_long_list_of_names_is_cut_never_the_call() -> None:
    error = NotFound(what="key", namespace="n", names=tuple(f"k{i}" for i in range(1000)), current=3)
    assert len(error.facts()["names"]) < 300
    assert "980 more" in error.sentence()


def test_a_conflict_with_nothing_says_so() -> None:
    conflict = VersionConflict(namespace="n", expected=3, current=0, committer="", commit_time_us=0)
    assert "was never committed to" in str(conflict)


def test_errors_are_exceptions_that_can_be_told_apart() -> None:
    with pytest.raises(SfmError) as caught:
        raise errors.DeadlineExceeded(deadline_ms=7)
    assert isinstance(caught.value, errors.DeadlineExceeded)
    assert caught.value.deadline_ms == 7

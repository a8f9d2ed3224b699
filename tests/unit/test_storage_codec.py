"""Records in text columns: what is read back is the same record, bit for bit."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfm_grpc.coordinator import receipts
from sfm_grpc.coordinator.receipts import Receipt
from sfm_grpc.model import Certificate, Dtype, Entry, Kind, Layout, PsdMethod
from sfm_grpc.storage import codec

numbers = st.floats(allow_nan=False)
certificates = st.builds(
    Certificate,
    kind=st.sampled_from(Kind),
    layout=st.sampled_from(Layout),
    dtype=st.sampled_from(Dtype),
    shape=st.tuples(st.integers(1, 65536), st.integers(1, 65536)),
    digest=st.binary(min_size=32, max_size=32),
    valid=st.booleans(),
    min_eigenvalue_bound=numbers,
    psd_method=st.sampled_from(PsdMethod),
    trace_error=numbers,
    asymmetry=numbers,
    epsilon=numbers,
    trace_tolerance=numbers,
    hermitian_tolerance=numbers,
    clamped_mass=numbers,
    psd_ok=st.booleans(),
    trace_ok=st.booleans(),
    certify_time_us=st.integers(0, 2**62),
)
keys = st.text(min_size=1, max_size=20)


def bits(certificate: Certificate) -> list[object]:
    """Every field; numbers by their bits, so that −0.0 is not 0.0."""
    values = (getattr(certificate, f.name) for f in dataclasses.fields(certificate))
    return [value.hex() if isinstance(value, float) else value for value in values]


@given(certificates)
def test_a_certificate_comes_back_bit_for_bit(certificate: Certificate) -> None:
    assert bits(codec.certificate_from_json(codec.certificate_to_json(certificate))) == bits(certificate)


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "{}", '{"kind": "DENSITY"}', '{"shape": [1]}', '"x"', "\x00"])
def test_what_is_no_certificate_proves_nothing(text: str) -> None:
    found = codec.certificate_from_json(text)
    assert found is codec.UNREADABLE
    assert (found.valid, found.psd_ok, found.trace_ok, found.digest) == (False, False, False, b"")


@given(certificates)
def test_a_certificate_that_lost_a_fact_proves_nothing(certificate: Certificate) -> None:
    text = codec.certificate_to_json(certificate)
    for name in ("psd_ok", "sha256", "trace_error", "shape"):
        assert codec.certificate_from_json(text.replace(f'"{name}"', '"lost"')) is codec.UNREADABLE


@given(st.lists(st.builds(Receipt, keys, st.none() | certificates, st.none() | st.floats(0, allow_infinity=False)), max_size=4))
def test_receipts_come_back(made: list[Receipt]) -> None:
    assert receipts.from_bytes(receipts.to_bytes(made)) == tuple(made)


@given(st.integers(1, 2**62), st.lists(st.builds(Entry, keys, certificates, st.integers(1, 2**62)), max_size=4))
def test_a_restores_answer_comes_back(version: int, entries: list[Entry]) -> None:
    assert receipts.restored_from_bytes(receipts.restored_to_bytes(version, entries)) == (version, tuple(entries))


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=50)))
def test_metadata_comes_back(metadata: dict[str, str]) -> None:
    assert codec.mapping_from_json(codec.to_json(metadata)) == metadata


@given(st.lists(st.text(max_size=20)))
def test_keys_come_back(names: list[str]) -> None:
    assert codec.strings_from_json(codec.to_json(names)) == tuple(names)


def test_a_list_is_no_mapping() -> None:
    with pytest.raises(ValueError, match="not a JSON object"):
        codec.mapping_from_json("[1]")


def test_infinities_survive_where_json_has_none() -> None:
    wild = dataclasses.replace(codec.UNREADABLE, digest=b"\1" * 32, shape=(1, 1))
    again = codec.certificate_from_json(codec.certificate_to_json(wild))
    assert (again.min_eigenvalue_bound, again.trace_error) == (-math.inf, math.inf)

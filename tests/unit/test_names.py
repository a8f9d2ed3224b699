"""Names and small facts that callers choose."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfm_grpc.coordinator.names import check_expected_version, check_metadata, check_name, check_request_id
from sfm_grpc.errors import InvalidRequest, LimitExceeded


def accepted(name: str) -> bool:
    try:
        check_name(name, "field")
    except InvalidRequest:
        return False
    return True


@given(st.text(max_size=300))
def test_a_name_is_1_to_256_bytes_without_control_characters(name: str) -> None:
    control = any(unicodedata.category(c) == "Cc" for c in name)
    assert accepted(name) == (1 <= len(name.encode()) <= 256 and not control)


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0)])
def test_every_control_character_is_refused(code: int) -> None:
    with pytest.raises(InvalidRequest, match=rf"U\+{code:04X} at position 1"):
        check_name(f"a{chr(code)}b", "key")


@pytest.mark.parametrize("size", [1, 255, 256])
def test_sizes_are_bytes_not_characters(size: int) -> None:
    assert accepted("x" * size)
    assert accepted("é" * (size // 2) or "é")
    assert not accepted("é" * 129)
    assert not accepted("𝜌" * 65)


def test_a_request_id_may_be_empty_and_has_at_most_64_bytes() -> None:
    for fine in ("", "x" * 64, "é" * 32):
        check_request_id(fine)
    for wrong in ("x" * 65, "é" * 33, "a\0"):
        with pytest.raises(InvalidRequest):
            check_request_id(wrong)


def test_metadata_is_counted_in_bytes_keys_and_values_together() -> None:
    check_metadata({"ab": "12345678"}, 10)
    check_metadata({}, 0)
    with pytest.raises(LimitExceeded) as caught:
        check_metadata({"ab": "1234567é"}, 10)
    assert caught.value.value == 11
    for wrong in ("", "a\n", "k" * 257):
        with pytest.raises(InvalidRequest):
            check_metadata({wrong: ""}, 1000)


def test_an_expected_version_is_required_and_not_negative() -> None:
    assert [check_expected_version(v) for v in (0, 1, 2**63 - 1)] == [0, 1, 2**63 - 1]
    for wrong in (None, -1):
        with pytest.raises(InvalidRequest):
            check_expected_version(wrong)

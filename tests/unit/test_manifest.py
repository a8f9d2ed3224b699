"""A manifest is a version but for its numbers: the same version has the same bytes, whoever makes them; any other has others."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from sfm_grpc.model import Entry, Version
from sfm_grpc.storage import codec
from sfm_grpc.storage.manifest import manifest_of, name_of, version_from
from tests.support.matrices import density
from tests.support.transactions import putting


def version(seed: int = 1) -> Version:
    put = putting("ρ", density(4, seed=seed))
    odd = replace(put.certificate, trace_error=math.inf, min_eigenvalue_bound=-1e-300)
    entries = (Entry("a", odd, 2), Entry("ρ", put.certificate, 3))
    return Version(
        version=3,
        commit_time_us=1_700_000_000_000_001,
        committer="who\\é",
        metadata={"b": "2", "a": "1"},
        valid=False,
        restored_version=0,
        entries=entries,
        changed_keys=("ρ",),
    )


def test_it_reads_back_bit_for_bit() -> None:
    made = manifest_of(version())
    assert version_from(made, name_of(made)) == version()


def test_who_has_read_it_from_a_database_makes_the_same_bytes() -> None:
    v = version()
    read = replace(
        v,
        metadata=codec.mapping_from_json(codec.to_json(dict(v.metadata))),
        entries=tuple(
            Entry(e.key, codec.certificate_from_json(codec.certificate_to_json(e.certificate)), e.put_version) for e in v.entries
        ),
    )
    assert manifest_of(read) == manifest_of(v)
    assert manifest_of(replace(v, metadata={"a": "1", "b": "2"})) == manifest_of(v)


@pytest.mark.parametrize(
    "change", [{"version": 4}, {"commit_time_us": 1}, {"committer": ""}, {"metadata": {}}, {"entries": ()}, {"changed_keys": ()}]
)
def test_another_version_has_another_name(change: dict[str, object]) -> None:
    assert name_of(manifest_of(replace(version(), **change))) != name_of(manifest_of(version()))  # type: ignore[arg-type]


def test_bytes_that_are_not_what_they_are_called_are_none() -> None:
    made = manifest_of(version())
    name = name_of(made)
    for other in (b"", made[:-1], made + b" ", bytes([made[0] ^ 1]) + made[1:]):
        assert version_from(other, name) is None


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b'{"format": 2}', b'{"format": 1}', b"\xff"])
def test_another_releases_manifest_is_none(content: bytes) -> None:
    assert version_from(content, name_of(content)) is None

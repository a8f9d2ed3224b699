"""The docs are true: what they list is what the code has."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from sfm.v1 import errors_pb2

from sfm_grpc import errors

ROOT = Path(__file__).parents[2]
PREFIX = "ERROR_REASON_"


def rows() -> dict[str, list[str]]:
    """docs/ERRORS.md's table: reason → code and facts."""
    text = (ROOT / "docs/ERRORS.md").read_text()
    found = re.findall(r"^\| `([A-Z_]+)` \| ([A-Z_]+) \| ([^|]*) \|", text, re.MULTILINE)
    return {reason: [code, *re.findall(r"`(\w+)`", facts)] for reason, code, facts in found}


def test_errors_page_lists_every_reason_with_its_code_and_facts() -> None:
    expected = {
        reason: [cls.code.value, *(f.name for f in dataclasses.fields(cls))]  # type: ignore[arg-type]
        for reason, cls in errors.BY_REASON.items()
    }
    assert rows() == expected


def test_proto_lists_every_reason() -> None:
    names = {name.removeprefix(PREFIX) for name, _ in errors_pb2.ErrorReason.items()} - {"UNSPECIFIED"}
    assert names == set(errors.BY_REASON)


def test_proto_comment_starts_with_the_code_of_its_reason() -> None:
    text = (ROOT / "proto/sfm/v1/errors.proto").read_text()
    said = {reason: code for code, reason in re.findall(r"// ([A-Z_]+)[:,][^\n]*\n  ERROR_REASON_(\w+) =", text)}
    assert said == {reason: cls.code.value for reason, cls in errors.BY_REASON.items()}


PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("examples/*/*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_inside_the_project_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text())
    inside = [t for t in targets if not t.startswith(("http://", "https://"))]
    assert [t for t in inside if not (page.parent / t).exists()] == []

"""The JSON Schemas of events, as `schemas/` has them."""

from __future__ import annotations

import functools
import json

from jsonschema import Draft202012Validator

from tests.support.paths import ROOT

NAMES = sorted(path.stem for path in (ROOT / "schemas").glob("*.json"))


@functools.cache
def schema_of(topic: str) -> Draft202012Validator:
    """What judges a kind of event. What it does not name is an error here: nothing is told that is not promised."""
    schema = json.loads((ROOT / "schemas" / f"{topic}.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(_closed(schema))


def _closed(schema: object) -> object:
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(each) for name, each in schema.items()}
    return {"additionalProperties": False, **closed} if schema.get("type") == "object" else closed

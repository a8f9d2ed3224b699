"""What everything else is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

Buffer: TypeAlias = bytes | memoryview
Metadata: TypeAlias = Mapping[str, str]

NO_METADATA: Metadata = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose namespace: nothing outside a scope can be seen from inside it."""

    tenant: str
    namespace: str

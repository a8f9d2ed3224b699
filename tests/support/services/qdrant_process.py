"""The process of a stand-in for Qdrant: `python -m tests.support.services.qdrant_process DIRECTORY PORT VERSION [API_KEY]`.

It needs qdrant-client's stubs alone; the package beside them takes ten times as long to import, at each start.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType


def main() -> None:
    found = importlib.util.find_spec("qdrant_client")
    assert found is not None
    package = ModuleType("qdrant_client")
    package.__path__ = list(found.submodule_search_locations or ())
    sys.modules["qdrant_client"] = package
    from tests.support.services import qdrant_wire

    qdrant_wire.serve(*sys.argv[1:])


if __name__ == "__main__":
    main()

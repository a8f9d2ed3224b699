"""What is started before the rest of the server is imported, which takes a second."""

from __future__ import annotations

from sfm_grpc.settings import Settings
from sfm_grpc.storage.vectors.embedded import early


def start(settings: Settings) -> None:
    """The embedded index's engines, where there is something to open."""
    if settings.qdrant_url is None:
        early.start(settings.data_dir.absolute() / "vectors")

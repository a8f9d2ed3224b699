"""The peer of memories with vectors: a Chroma server, `chroma run`, a process of its own, and its HTTP client.

As it comes: its store is one SQLite file, rollback journal, synchronous FULL, so that a put is on the disk before it is
answered. It syncs several times. Nothing is embedded; texts and vectors are given.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import chromadb
from chromadb.config import Settings

from benchmarks.documents import Vectors
from benchmarks.processes import free_port, scratch_directory

_RUN = ("-c", "from chromadb.cli.cli import app; app()", "run", "--host", "127.0.0.1")
_START_S, _STOP_S = 60, 20
_QUIET = {"ANONYMIZED_TELEMETRY": "False"}


class Peer:
    """A collection and the calls that are compared."""

    def __init__(self, collection: Any) -> None:
        self._collection = collection

    def put(self, keys: Sequence[str], texts: Sequence[str], facts: Sequence[dict[str, str | float]], vectors: Vectors) -> None:
        """Puts all of them in one call: text as the document, facts as metadata."""
        self._collection.upsert(ids=list(keys), documents=list(texts), metadatas=list(facts), embeddings=vectors)

    def get(self, keys: Sequence[str]) -> tuple[list[str], Any]:
        """Texts and vectors of all of them; float64, which is how they come out of its JSON."""
        found = self._collection.get(ids=list(keys), include=["documents", "metadatas", "embeddings"])
        return found["documents"], found["embeddings"]


@contextlib.contextmanager
def served() -> Iterator[Peer]:
    """A fresh server, and a collection in it that is compared by cosine."""
    with scratch_directory() as directory, _process(directory) as port:
        client = _connected(port)
        yield Peer(client.create_collection("memories", embedding_function=None, configuration={"hnsw": {"space": "cosine"}}))


def version() -> str:
    """What it calls itself."""
    return f"Chroma {metadata.version('chromadb')}"


@contextlib.contextmanager
def _process(directory: Path) -> Iterator[int]:
    """Its process and its port."""
    with contextlib.ExitStack() as stack:
        port = free_port(stack)
    command = (sys.executable, *_RUN, "--path", str(directory / "data"), "--port", str(port))
    with (directory / "log").open("wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **_QUIET})
    try:
        yield port
    finally:
        child.terminate()
        try:
            child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _connected(port: int) -> Any:
    end = time.monotonic() + _START_S
    while True:
        try:
            return chromadb.HttpClient("127.0.0.1", port, settings=Settings(anonymized_telemetry=False))
        except ValueError:  # it does not answer yet
            if time.monotonic() > end:
                raise
            time.sleep(0.1)

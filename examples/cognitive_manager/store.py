"""Where the servers of a demo keep everything: a file of their own, or the Postgres that SFM_POSTGRES_URL names."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SFM = (sys.executable, "-m", "sfm_grpc.cli")

URL = "SFM_POSTGRES_URL"
REDIS_URL = "SFM_REDIS_URL"
# What the environment says of Postgres, Redis and Kafka is for the demo's servers too; nothing else that it says to servers is.
_PASSED_ON = ("SFM_POSTGRES_", "SFM_ALLOW_UNSAFE_DURABILITY", "SFM_REDIS_", "SFM_KAFKA_")
_MIGRATE_S = 60.0
_TENANT = "default"

# The check at the end walks through all versions.
_KEEP_VERSIONS = {"SFM_RHO_HISTORY_VERSIONS": "1000"}
# A server tidies up the whole store, and this one is not the demo's alone: its servers take nothing away that somebody's keeps.
_KEEP_EVERYTHING = {
    "SFM_RHO_HISTORY_VERSIONS": "1000000000",
    "SFM_RHO_HISTORY_AGE_S": "0",
    "SFM_REQUEST_AGE_S": "1000000000",
    "SFM_EVENTS_KEPT": "1000000000",
}


class StoreFailedError(Exception):
    """The store cannot be used; `str()` says why."""


@dataclass(frozen=True, slots=True)
class Store:
    """What servers and managers are told of it."""

    settings: Mapping[str, str]
    """Of each server."""
    tenant: str
    """Whose namespaces the managers write to."""
    steps: tuple[str, ...] = ()
    """What was done to make it ready, in words."""
    place: str = ""
    """Where it stays when the demo has ended; '' when it goes with it."""
    directory: Path | None = None
    """What it lies in, if that is ours to see."""

    def disk_bytes(self) -> int | None:
        """What it occupies; None if only others could say."""
        if self.directory is None:
            return None
        count = 0
        for place, _, names in os.walk(self.directory):
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # a server that runs tidies up meanwhile
                    count += 512 * (Path(place) / name).stat().st_blocks
        return count


def chosen(directory: Path) -> Store:
    """The Postgres that the environment names, made ready, or a file in `directory`. Raises StoreFailedError."""
    return postgres(os.environ) if os.environ.get(URL) else embedded(directory)


def embedded(directory: Path) -> Store:
    """A file of the demo's own; servers may share it."""
    data = directory / "data"
    kafka = {name: value for name, value in os.environ.items() if name.startswith("SFM_KAFKA_")}
    return Store({"SFM_DATA_DIR": str(data), **_KEEP_VERSIONS, **kafka}, _TENANT, directory=data)


def postgres(given: Mapping[str, str]) -> Store:
    """The Postgres that these variables name, its schema brought up to date; a tenant that nobody has had yet.

    Nothing that is there already is touched. Raises StoreFailedError.
    """
    told = {name: value for name, value in given.items() if name.startswith(_PASSED_ON)}
    found = _migrate(told)
    place, applied = str(found["data"]), [f"{step['number']} ({step['name']})" for step in found["applied"]]
    done = f"applied {', '.join(applied)}" if applied else "nothing to apply"
    steps = [f"sfm migrate: {done}; {place} has schema {found['schema']}"]
    if given.get(REDIS_URL):
        steps.append(f"reads go through the Redis that {REDIS_URL} names: pull its plug while this runs, if you like")
    tenant = f"demo-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    return Store(told | _KEEP_EVERYTHING, tenant, tuple(steps), place)


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Of a server: this process's own, and of SFM_* exactly these."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SFM_")} | dict(settings)


def _migrate(settings: Mapping[str, str]) -> dict[str, Any]:
    """What `sfm migrate` did and found."""
    command = [*SFM, "migrate", "--json"]
    try:
        ran = subprocess.run(
            command,
            env=environment(settings),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_MIGRATE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StoreFailedError(f"sfm migrate did not end within {_MIGRATE_S:g} s") from None
    if ran.returncode != 0:
        raise StoreFailedError(ran.stderr.strip().removeprefix("sfm: ") or f"sfm migrate ended with {ran.returncode}")
    return dict(json.loads(ran.stdout))

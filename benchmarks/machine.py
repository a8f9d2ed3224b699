"""What the numbers were taken on: ratios travel between machines, but not all the way."""

from __future__ import annotations

import os
import platform
import sqlite3
import ssl
from importlib import metadata
from pathlib import Path

_PACKAGES = (
    "numpy",
    "scipy",
    "grpcio",
    "protobuf",
    "uvloop",
    "psycopg",
    "qdrant-edge-py",
    "qiskit",
    "chromadb",
    "langgraph-checkpoint-postgres",
)


def facts() -> dict[str, object]:
    """Cores, processor, versions and how busy it is; no names of machines or people."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "sha_extensions": "sha_ni" in _flags(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "openssl": ssl.OPENSSL_VERSION,
        "packages": {name: _version(name) for name in _PACKAGES},
        "load_before": load_now(),
    }


def load_now() -> list[float]:
    """The load average of the last 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def _processor() -> str:
    return _field("model name") or platform.processor()


def _flags() -> list[str]:
    return _field("flags").split()


def _field(name: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""

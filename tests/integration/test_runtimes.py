"""The client on the oldest and the newest runtimes it promises to work with, against a real server."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from sfm_grpc.app import App
from sfm_grpc.settings import load

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")

# numpy 1.26 has no wheels for Python 3.13.
OLDEST_NUMPY = "numpy==1.26.4" if sys.version_info < (3, 13) else "numpy==2.1.0"

RUNTIMES = {
    "oldest": (
        "grpcio==1.76.0",
        "protobuf==6.31.1",
        "googleapis-common-protos==1.70.0",
        OLDEST_NUMPY,
        "msgspec==0.20.0",
        "orjson==3.10.18",
    ),
    "newest": ("grpcio>=1.76,<2", "protobuf>=7,<8", "googleapis-common-protos", "numpy>=2", "msgspec>=0.20", "orjson>=3.10"),
}

# What a caller does, on an installation that has nothing but the client's own dependencies.
SCRIPT = """
import importlib.metadata, json, sys
import numpy as np
from sfm_grpc.client import Client
from sfm_grpc.errors import RhoTrace, VersionConflict

with Client(sys.argv[1]) as client:
    ns = client.namespace("runtimes-" + sys.argv[2])
    rho = np.eye(300) / 300
    first = ns.commit({"rho": rho}, expected_version=0)
    second = ns.update(lambda now: {"rho": 0.5 * now["rho"] + 0.5 * rho})
    refused = []
    for wrong, version in ((rho * 2, 2), (rho, 1)):
        try:
            ns.commit({"rho": wrong}, expected_version=version)
        except (RhoTrace, VersionConflict) as error:
            refused.append([type(error).__name__, error.facts()])
    with Client(sys.argv[1]) as other:
        same = bool(np.array_equal(other.namespace("runtimes-" + sys.argv[2]).read()["rho"], rho))
    versions = {name: importlib.metadata.version(name) for name in ("grpcio", "protobuf", "numpy")}
    print(json.dumps({"versions": versions, "made": [first.version, second.version], "refused": refused, "same": same}))
"""


@pytest.mark.parametrize("which", RUNTIMES)
async def test_client_works_on_runtime(which: str, tmp_path: Path) -> None:
    packages = [word for name in RUNTIMES[which] for word in ("--with", name)]
    command = [
        UV,
        "run",
        "-q",
        "--no-project",
        "--isolated",
        "--python",
        "3.11" if which == "oldest" else sys.executable,
        *packages,
    ]
    settings = load({"data_dir": tmp_path, "listen": "127.0.0.1:0", "http_listen": ""})
    async with App(settings) as app:
        process = await asyncio.create_subprocess_exec(
            *map(str, command), "python", "-W", "error", "-c", SCRIPT, app.address, which,
            env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'generated'}"},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    found = json.loads(out)
    assert found["versions"]["protobuf"].startswith("6.31" if which == "oldest" else "7.")
    assert found["made"] == [1, 2]
    assert found["same"]
    (trace, trace_facts), (conflict, conflict_facts) = found["refused"]
    assert (trace, float(trace_facts["trace"])) == ("RhoTrace", pytest.approx(2.0))
    assert (conflict, conflict_facts["current"]) == ("VersionConflict", "2")

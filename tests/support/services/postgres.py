"""Finding a real Postgres: a URL, Docker, the machine's own, the one that comes as a wheel; in this order, without root.

`SFM_TEST_POSTGRES=url|docker|machine|wheel` asks for one of them. `SFM_TEST_POSTGRES_URL` is of an account that may create
databases. Tests that kill or freeze Postgres get a cluster of their own from the machine's programs or the wheel's, except
where a URL names the Postgres to test with: that one is not ours to kill.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import psycopg

from tests.support.services.absence import AbsentError
from tests.support.services.binaries import Binaries, search
from tests.support.services.databases import Postgres
from tests.support.services.docker import DockerPostgres
from tests.support.services.postgres_server import PostgresServer

URL, FORCED = "SFM_TEST_POSTGRES_URL", "SFM_TEST_POSTGRES"
GRADES = ("url", "docker", "machine", "wheel")


def find() -> Postgres:
    """The first there is, running; close it. AbsentError, with every reason, if there is none."""
    reasons = []
    for grade, way in (("url", _given), ("docker", DockerPostgres), ("machine", _ours), ("wheel", _ours)):
        if _forced() in (None, grade):
            try:
                return way(grade)
            except AbsentError as absent:
                reasons += absent.reasons
    raise AbsentError("postgres", reasons)


def own_cluster(
    *, conf: Mapping[str, object] | None = None, password: str | None = None, tls: bool = False, inside: Path | None = None
) -> PostgresServer:
    """A cluster that is the caller's to start, kill and close. AbsentError if there is none to be had."""
    grade = _forced()
    if grade == "url" or (grade is None and os.environ.get(URL)):
        raise AbsentError("postgres", [f"{URL} names a server that is not ours to stop, kill or configure"])
    looked = search(None if grade == "docker" else grade)
    if not looked.found:
        raise AbsentError("postgres", looked.reasons)
    able = [binaries for binaries in looked.found if binaries.tls or not tls]
    if not able:
        raise AbsentError("postgres-tls", [f"{binaries} was built without TLS" for binaries in looked.found])
    return PostgresServer(able[0], conf=conf, password=password, tls=tls, inside=inside)


def _forced() -> str | None:
    grade = os.environ.get(FORCED) or None
    if grade is not None and grade not in GRADES:
        raise ValueError(f"{FORCED} is {grade!r}, not one of {', '.join(GRADES)}")
    return grade


def _given(grade: str) -> Postgres:
    url = os.environ.get(URL)
    if not url:
        raise AbsentError("postgres", [f"{grade}: {URL} is not set"])
    given = Postgres(url)
    try:
        with given.connect() as c:
            given.name = f"Postgres {c.info.server_version // 10_000}.{c.info.server_version % 10_000} (url)"
    except psycopg.OperationalError as error:  # somebody means this one: another in its place would be a lie
        raise RuntimeError(f"{URL} is set, and no Postgres answers there: {error}") from error
    return given


def _ours(grade: str) -> Postgres:
    looked = search(grade)
    if not looked.found:
        raise AbsentError("postgres", looked.reasons)
    return _started(looked.found[0])


def _started(binaries: Binaries) -> PostgresServer:
    server = PostgresServer(binaries)
    try:
        return server.start()
    except BaseException:
        server.close()
        raise

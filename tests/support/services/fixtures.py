"""Fixtures of the services: started when a test first asks, skipped with the reasons where there is none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

import pytest

from tests.support.services.absence import AbsentError, skip_or_fail
from tests.support.services.databases import Database, Postgres, Prepare
from tests.support.services.postgres import find, own_cluster
from tests.support.services.postgres_server import PostgresServer
from tests.support.services.proxy import FaultProxy


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One Postgres for all tests of this process. Leave it running: whoever wants to harm one says `postgres_cluster`."""
    try:
        server = find()
    except AbsentError as absent:
        skip_or_fail(absent)
    with contextlib.closing(server):
        yield server


class FreshDatabase(Protocol):
    def __call__(self, prepare: Prepare | None = None) -> Database:
        """A database of one's own, a copy of the one that `prepare(url)` made once."""


@pytest.fixture
def fresh_database(postgres: Postgres) -> Iterator[FreshDatabase]:
    """Makes databases that go with the test."""
    made: list[Database] = []

    def fresh(prepare: Prepare | None = None) -> Database:
        made.append(postgres.fresh(prepare))
        return made[-1]

    yield fresh
    for database in made:
        database.drop()


class StartCluster(Protocol):
    def __call__(self, **options: object) -> PostgresServer:
        """A running cluster; the options of `own_cluster`: conf, password, tls, inside."""


def _clusters() -> Iterator[StartCluster]:
    with contextlib.ExitStack() as stack:

        def start(**options: object) -> PostgresServer:
            try:
                cluster = own_cluster(**options)  # type: ignore[arg-type]
            except AbsentError as absent:
                skip_or_fail(absent)
            return stack.enter_context(cluster)

        yield start


@pytest.fixture
def postgres_cluster() -> Iterator[StartCluster]:
    """Starts clusters of the test's own, to be stopped, killed, frozen."""
    yield from _clusters()


@pytest.fixture(scope="module")
def module_postgres_cluster() -> Iterator[StartCluster]:
    """Starts clusters that live as long as the module's tests."""
    yield from _clusters()


class StartProxy(Protocol):
    def __call__(self, upstream: str) -> FaultProxy:
        """A proxy to where a URL leads; the URL through it is `proxy.url(upstream)`."""


@pytest.fixture
def fault_proxy() -> Iterator[StartProxy]:
    """Puts proxies before servers, for as long as the test lasts."""
    with contextlib.ExitStack() as stack:
        yield lambda upstream: stack.enter_context(FaultProxy.to(upstream))

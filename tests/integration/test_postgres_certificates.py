"""Certificates that were damaged in Postgres: told as what they are, beside numbers that are packed and whole."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest
from sfm.v1 import rho_store_pb2

from sfm_grpc.errors import RhoCorrupt
from tests.conftest import Serve
from tests.support.drivers import Put
from tests.support.engines.postgres import PostgresEngine, migrated
from tests.support.matrices import density
from tests.support.messages import commit_of
from tests.support.postgres_stores import opened
from tests.support.refusals import refused
from tests.support.servers import Server, settings_for
from tests.support.services.databases import Database, Postgres
from tests.support.services.fixtures import FreshDatabase
from tests.support.transactions import N, putting, transaction

ODD = [
    ["256", "256"],
    [256.0, 256.0],
    [256.5, 256],
    [-256, -256],
    [-1, 65536],
    [10**18, 10**18],
    [2**70, 1],
    [[256], [256]],
    [256, 256, 256],
    [256],
    [True, True],
    [0, 0],
    [128, 256],
    [512, 256],
    "ab",
    None,
    256,
    {},
]


@pytest.fixture
async def packed(fresh_database: FreshDatabase, serve: Serve) -> tuple[Server, Database]:
    """A server, and the database that holds one packed matrix, which nobody has read."""
    database = fresh_database(migrated)
    async with opened(database.url) as store:
        await store.commit(transaction(putting("rho", density(256)), expected=0))
    with database.connect() as c:
        assert c.execute("SELECT packing FROM sfm.rho_body").fetchone() == (1,)
    return await serve(settings_for(postgres_url=database.url, rho_verify_interval_s=600.0)), database


async def assert_damaged(server: Server) -> None:
    asked = rho_store_pb2.GetRhoRequest(namespace="n", view=rho_store_pb2.VIEW_FULL)
    told = await refused(server.rho.GetRho(asked, timeout=10))
    assert (told.code, told.reason, told.facts["damaged"]) == (grpc.StatusCode.DATA_LOSS, "RHO_CORRUPT", "certificate")
    with pytest.raises(RhoCorrupt):
        await server.app.store.read(N)


async def test_a_damaged_certificate_of_packed_numbers_is_told_from_damaged_numbers(packed: tuple[Server, Database]) -> None:
    server, database = packed
    assert isinstance(database.server, Postgres)
    PostgresEngine(database.server).garble(server.settings, N, 1, "rho")
    await assert_damaged(server)
    done = await server.rho.CommitRho(commit_of(Put("rho", density(256, seed=1)), expected=1), timeout=10)
    assert done.version == 2


@pytest.mark.parametrize("shape", ODD, ids=str)
async def test_an_odd_shape_in_a_certificate_is_damage(packed: tuple[Server, Database], shape: Any) -> None:
    server, database = packed
    with database.connect() as c:
        (text,) = c.execute("SELECT certificate FROM sfm.rho_body").fetchone() or ("",)
        c.execute("UPDATE sfm.rho_body SET certificate = %s", (json.dumps(json.loads(text) | {"shape": shape}),))
    await assert_damaged(server)

"""Names, texts and numbers of every kind: what a restarted server reads from Postgres is what was committed, bit for bit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from sfm_grpc.model import Kind
from sfm_grpc.settings import Settings
from sfm_grpc.storage.postgres.packing import Packing
from tests.support.drivers import Ask, Delete, OverGrpc, Put, put, restart
from tests.support.engines.postgres import migrated
from tests.support.matrices import Array, density, sketch
from tests.support.servers import settings_for
from tests.support.services.databases import Database
from tests.support.services.fixtures import FreshDatabase

PEN = 256  # bytes of the longest name


@pytest.fixture
def database(fresh_database: FreshDatabase) -> Database:
    return fresh_database(migrated)


@pytest.fixture
async def driver(database: Database, request: pytest.FixtureRequest) -> AsyncIterator[OverGrpc]:
    overrides = {k: v for mark in request.node.iter_markers("settings") for k, v in mark.kwargs.items()}
    settings: Settings = settings_for(postgres_url=database.url, **overrides)
    driver = OverGrpc(settings)
    await driver.open()
    yield driver
    await driver.close()


def packings(database: Database) -> dict[str, tuple[Packing, int]]:
    """How each key's numbers lie there, and in how many bytes."""
    with database.connect() as c:
        rows = c.execute("SELECT key, packing, octet_length(numbers) FROM sfm.rho_body ORDER BY put_version").fetchall()
    return {key: (Packing(packing), size) for key, packing, size in rows}


ODD = [
    "ρ-Ψ-密度行列-🧠",
    "e\u0301 is not \u00e9",
    "\u00e9 is not e\u0301",
    "'; DROP SCHEMA sfm CASCADE; --",
    "%s %(namespace)s %% {head} $1 :x ?",
    'quoted "name" \\x41 \\',
    " leading and trailing ",
    "\u202ertl\u2028line\u2029\ufeff\uffff\U0010ffff",
    "{a,b,NULL}",
    "NULL",
    "ü" * (PEN // 2),
    "🧠" * (PEN // 4),
    "x" * PEN,
]


@pytest.mark.parametrize("name", ODD)
async def test_names_and_texts_come_back_letter_by_letter(driver: OverGrpc, database: Database, name: str) -> None:
    rho, other = density(seed=1), sketch(seed=2)
    text = f"{name}\x00\x01\n\t\u0085"
    said = {"metadata": {name: text}, "committer": 'odd "name" \'; -- %s {head} \\', "tenant": "ten'ant %s \\"}
    first = Ask(namespace=name, expected=0, request_id=name[:16], **said)  # type: ignore[arg-type]
    changes = (Put("rho", rho), Put(name, other, kind=Kind.GENERIC))
    assert (await driver.commit(first, *changes)).version == 1
    await restart(driver)
    found = await driver.get(name, name, tenant="ten'ant %s \\")
    assert (found.version, found[name].numbers) == (1, other.tobytes())
    page = await driver.versions(name, tenant="ten'ant %s \\")
    (version,) = page.versions
    assert (version.metadata, version.committer) == ({name: text}, 'odd "name" \'; -- %s {head} \\')
    assert sorted(version.changed_keys) == sorted({"rho", name})
    assert (await driver.commit(first, *changes)).replayed
    delete = Ask(namespace=name, expected=1, request_id="d", tenant="ten'ant %s \\")
    assert (await driver.commit(delete, Delete(name))).version == 2
    with database.connect() as c:
        assert c.execute("SELECT tenant, name, keys FROM sfm.namespace").fetchall() == [("ten'ant %s \\", name, ["rho"])]


async def test_namespaces_of_odd_names_are_listed_in_the_order_of_code_points(driver: OverGrpc) -> None:
    names = sorted({*ODD, "a", "Z", "~", "\u00ff", "\uffff", "\U00010000"})
    for name in reversed(names):
        await put(driver, name, 0, Put("rho", density()))
    listed, after = [], None
    while heads := await driver.app.store.heads(after=after, limit=3):
        listed += [scope.namespace for scope, _ in heads]
        after = heads[-1][0]
    assert listed == names


@pytest.mark.settings(keys_per_commit_max=256)
async def test_a_namespace_full_of_keys_in_one_commit(driver: OverGrpc, database: Database) -> None:
    sent = {f"key-{i:03}": sketch(3, 5, seed=i) for i in range(256)}
    done = await put(driver, "n", 0, *(Put(key, array, kind=Kind.GENERIC) for key, array in sent.items()), request_id="r")
    assert (done.version, len(done.receipts)) == (1, 256)
    await restart(driver)
    found = await driver.get("n")
    assert {key: held.numbers for key, held in found.matrices.items()} == {key: a.tobytes() for key, a in sent.items()}
    await put(driver, "n", 1, *(Delete(key) for key in sorted(sent)[:255]))
    assert (await driver.get("n")).digests().keys() == {"key-255"}
    restored = await driver.restore(Ask(namespace="n", expected=2), 1)
    assert (restored.version, len(restored.entries)) == (3, 256)
    with database.connect() as c:
        assert c.execute("SELECT COUNT(*) FROM sfm.rho_body").fetchone() == (256,)


def symmetric(n: int, dtype: str = "<f8", seed: int = 0) -> Array:
    x = sketch(n, n, seed=seed)
    return np.asarray(x + x.T, dtype=dtype)


def one_bit_off(array: Array) -> Array:
    """One number differs from its mirror image in its last bit."""
    changed = array.copy()
    changed.view({8: "<u8", 4: "<u4"}[array.itemsize])[-1, 0] ^= 1
    return changed


def minus_zero(array: Array) -> Array:
    """One number is −0.0, its mirror image 0.0."""
    changed = array.copy()
    changed[0, -1], changed[-1, 0] = 0.0, -0.0
    return changed


@pytest.mark.parametrize("dtype", ["<f8", "<f4"])
@pytest.mark.parametrize("n", [1, 127, 128, 129, 191, 192, 193])
async def test_numbers_come_back_bit_for_bit(driver: OverGrpc, database: Database, n: int, dtype: str) -> None:
    same = symmetric(n, dtype)
    tiny = same * np.asarray(np.finfo(dtype).smallest_subnormal, dtype)
    sent = {"same": same, "tiny": tiny, "other": sketch(n, n, dtype=dtype), "rho": density(n, dtype=dtype)}
    packed = {"same", "tiny", "rho"}
    if n > 64:
        sent |= {"bit": one_bit_off(same), "zero": minus_zero(same)}
    kinds = {key: None if key == "rho" else Kind.GENERIC for key in sent}
    await put(driver, "n", 0, *(Put(key, array, kind=kinds[key]) for key, array in sent.items()))
    await restart(driver)
    found = await driver.get("n", canonical=True)
    assert {key: held.numbers for key, held in found.matrices.items()} == {key: a.tobytes() for key, a in sent.items()}
    stored = packings(database)
    assert {key for key, (how, _) in stored.items() if how is not Packing.WHOLE} == (packed if n >= 128 else set())


MIB = 1 << 20


@pytest.mark.parametrize(
    ("array", "how"),
    [
        (lambda: density(1024), Packing.UPPER_8),  # 8 MiB
        (lambda: symmetric(2804), Packing.UPPER_8),  # 60 MiB
        (lambda: one_bit_off(symmetric(2804)), Packing.WHOLE),
        (lambda: sketch(960, 8192), Packing.WHOLE),
    ],
)
async def test_large_matrices_come_back_bit_for_bit(driver: OverGrpc, database: Database, array: Any, how: Packing) -> None:
    sent = array()
    key, kind = ("rho", None) if len(sent) == 1024 else ("g", Kind.GENERIC)
    done = await put(driver, "n", 0, Put(key, sent, kind=kind), request_id="r")
    assert done.version == 1
    await restart(driver)
    assert (await driver.get("n", canonical=True))[key].numbers == sent.tobytes()
    assert (await put(driver, "n", 0, Put(key, sent, kind=kind), request_id="r")).replayed
    stored, size = packings(database)[key]
    assert stored is how
    assert size <= sent.nbytes * (0.6 if how is Packing.UPPER_8 else 1.0)

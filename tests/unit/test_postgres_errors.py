"""What Postgres says, in our words: the sentence, whether a person must act, and whether the outcome is known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg import errors as pg

from sfm_grpc.errors import LimitExceeded, StoreRefused, StoreUnavailable
from sfm_grpc.storage.postgres import durability
from sfm_grpc.storage.postgres.errors import Sent, translated

UNDONE = [
    ("08P01", "the connection failed", True),
    ("0A000", "too old, or its schema was changed", False),
    ("25006", "it takes no writes", False),
    ("25P03", "idle for too long", False),
    ("25P04", "transaction_timeout", False),
    ("26000", "a pooler in transaction mode", False),
    ("40001", "it undid the statement so that another could go on", False),
    ("40P01", "deadlock", False),
    ("42P01", "run `sfm migrate`", False),
    ("42703", "run `sfm migrate --check`", False),
    ("3F000", "run `sfm migrate`", False),
    ("53100", "its disk is full", False),
    ("53200", "it ran out of memory", False),
    ("53300", "raise its max_connections, or lower SFM_POSTGRES_POOL_MAX", False),
    ("55000", "it takes no connections to this database", False),
    ("55P03", "SFM_POSTGRES_LOCK_TIMEOUT_MS", False),
    ("57014", "SFM_POSTGRES_STATEMENT_TIMEOUT_MS", False),
    ("57P01", "it is stopping or starting", True),
    ("57P02", "it is stopping or starting", True),
    ("57P03", "it is stopping or starting", True),
    ("58030", "its machine reports an error", False),
    ("XX001", "restore a backup", False),
    ("XX002", "REINDEX", False),
]


def sent(*, committing: bool) -> Sent:
    """A commit that is on its way, or not yet."""
    on_its_way = Sent()
    on_its_way.writing = committing
    return on_its_way


def told(state: str, *, committing: bool) -> StoreUnavailable:
    with pytest.raises(StoreUnavailable) as caught, translated(sent(committing=committing)):
        raise pg.lookup(state)("ERROR:  as Postgres\n  says it")
    return caught.value


@pytest.mark.parametrize(("state", "problem", "unknown"), UNDONE)
def test_each_state_has_its_sentence_and_says_whether_the_outcome_is_known(state: str, problem: str, unknown: bool) -> None:
    error = told(state, committing=True)
    assert problem in error.problem
    assert error.problem.removesuffix("; nothing was changed").endswith("(ERROR: as Postgres says it)")
    assert error.outcome_unknown is unknown
    assert type(error) is StoreUnavailable
    assert told(state, committing=False).outcome_unknown is False


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ("28P01", "the password is wrong"),
        ("28000", "does not let this user in"),
        ("3D000", "the database does not exist"),
        ("42501", "grant it the schema sfm"),
    ],
)
def test_what_a_person_must_mend_is_a_refusal(state: str, problem: str) -> None:
    error = told(state, committing=True)
    assert isinstance(error, StoreRefused)
    assert problem in error.problem
    assert not error.outcome_unknown


def test_a_connection_that_ends_without_a_word_leaves_the_outcome_unknown() -> None:
    for committing in (True, False):
        with pytest.raises(StoreUnavailable) as caught, translated(sent(committing=committing)):
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        assert caught.value.outcome_unknown is committing


def test_what_is_too_large_for_any_postgres_is_a_limit() -> None:
    with pytest.raises(LimitExceeded), translated():
        raise pg.ProgramLimitExceeded


@pytest.mark.parametrize("state", ["22012", "42601", "23505", "XX000"])
def test_what_nobody_expected_is_a_defect_and_passes(state: str) -> None:
    with pytest.raises(psycopg.Error) as caught, translated(sent(committing=True)):
        raise pg.lookup(state)
    assert caught.value.sqlstate == state


async def test_one_that_is_too_old_is_refused_before_it_is_asked_anything() -> None:
    old: Any = SimpleNamespace(info=SimpleNamespace(server_version=130_023))
    with pytest.raises(StoreRefused) as caught:
        await durability.check(old, allow_unsafe=True)
    assert caught.value.problem == "Postgres 13 is too old: 14 or newer is needed"

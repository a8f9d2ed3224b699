"""The one seam where psycopg's errors become ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg
from psycopg import errors as pg

from sfm_grpc.errors import LimitExceeded, StoreRefused, StoreUnavailable

# What is wrong, by SQLSTATE; a class of two characters stands for what is not named.
_PROBLEMS = {
    "08": "the connection failed",
    "0A000": "it cannot do that: it is too old, or its schema was changed while we were connected",
    "25006": "it takes no writes: a standby, or default_transaction_read_only",
    "25P03": "it ended a transaction that it found idle for too long",
    "25P04": "the transaction took longer than its transaction_timeout, and was undone",
    "26000": "it lost a prepared statement: a pooler in transaction mode stands between, one in session mode is needed",
    "40001": "it undid the statement so that another could go on",
    "40P01": "it undid the statement to end a deadlock",
    "42P01": "its schema is not there: run `sfm migrate`",
    "42703": "its schema is another release's: run `sfm migrate --check`",
    "3F000": "its schema is not there: run `sfm migrate`",
    "53100": "its disk is full; free some space",
    "53200": "it ran out of memory",
    "53300": "it has no connection left: raise its max_connections, or lower SFM_POSTGRES_POOL_MAX",
    "55000": "it takes no connections to this database just now",
    "55P03": "another commit holds the namespace's row for longer than SFM_POSTGRES_LOCK_TIMEOUT_MS",
    "57014": "the statement took longer than SFM_POSTGRES_STATEMENT_TIMEOUT_MS, and was undone",
    "57": "it is stopping or starting",
    "58": "its machine reports an error",
    "XX001": "it found damaged data: restore a backup",
    "XX002": "it found a damaged index: REINDEX, or restore a backup",
}
# Nobody but a person can mend these: a server that starts refuses to.
_REFUSALS = {
    "28P01": "the password is wrong",
    "28": "it does not let this user in",
    "3D000": "the database does not exist",
    "42501": "this user may not do that: grant it the schema sfm",
}
_UNDONE = ("53100", "53200")
_VALUE_BYTES_MAX = 1 << 30


class Sent:
    """How far a commit has come: whether what was sent may have been committed, as long as no answer says that it was not."""

    __slots__ = ("writing",)

    def __init__(self) -> None:
        self.writing = False


@contextlib.contextmanager
def translated(sent: Sent | None = None) -> Iterator[None]:
    """Turns operating errors into StoreUnavailable or StoreRefused; what remains is a defect and passes.

    An ERROR with an SQLSTATE says that nothing was changed. A connection that was lost, and a FATAL or PANIC (a flush that failed
    at COMMIT is one), leave the outcome of what was `sent` unknown.
    """
    try:
        yield
    except pg.ProgramLimitExceeded as error:
        raise LimitExceeded(limit="postgres_value_bytes_max", value=_VALUE_BYTES_MAX + 1, maximum=_VALUE_BYTES_MAX) from error
    except psycopg.Error as error:
        state, severity = error.sqlstate or "", error.diag.severity_nonlocalized
        text = " ".join(str(error).split())
        ended = not state or severity in ("FATAL", "PANIC") or (state[:2] in ("08", "57") and state != "57014")
        unknown = ended and sent is not None and sent.writing
        refusal = _REFUSALS.get(state) or _REFUSALS.get(state[:2])
        if refusal:
            raise StoreRefused(problem=f"Postgres: {refusal} ({text})") from error
        if not state and isinstance(error, psycopg.OperationalError):
            raise StoreUnavailable(problem=f"Postgres: {text}", outcome_unknown=unknown) from error
        problem = _PROBLEMS.get(state) or _PROBLEMS.get(state[:2]) or ("it ended the connection" if ended else None)
        if problem is None:
            raise
        nothing = "" if unknown or state not in _UNDONE else "; nothing was changed"
        raise StoreUnavailable(problem=f"Postgres: {problem} ({text}){nothing}", outcome_unknown=unknown) from error


def connecting(error: psycopg.Error | UnicodeError) -> StoreUnavailable:
    """Why a connection could not be made. libpq says it in words only: the server's own state is lost in them."""
    text = " ".join(str(error).split())
    for words, problem in _CONNECTING.items():
        if words in text:
            return StoreRefused(problem=f"Postgres: {problem} ({text})")
    if any(words in text for words in _FULL):
        return StoreUnavailable(problem=f"Postgres: {_PROBLEMS['53300']} ({text})")
    return StoreUnavailable(problem=f"Postgres cannot be reached: {text}")


# The first that is found is told: where TLS was tried and then plain text, there are the answers to both.
_CONNECTING = {
    "password authentication failed": "the user or the password is wrong; see SFM_POSTGRES_URL",
    "no password supplied": "it wants a password; write it into SFM_POSTGRES_URL, or PGPASSWORD or a .pgpass file",
    ", SSL encryption": "pg_hba.conf does not let this user in from here",
    ", SSL on": "pg_hba.conf does not let this user in from here",
    ", no encryption": "pg_hba.conf does not let this user in from here without TLS; add ?sslmode=require (or verify-full) to "
    "SFM_POSTGRES_URL",
    ", SSL off": "pg_hba.conf does not let this user in from here without TLS; add ?sslmode=require (or verify-full) to "
    "SFM_POSTGRES_URL",
    "no pg_hba.conf entry": "pg_hba.conf does not let this user in from here",
    "server does not support SSL": "it does not speak TLS, and SFM_POSTGRES_URL asks for it",
    "certificate verify failed": "its certificate is not one that SFM_POSTGRES_URL (sslrootcert) trusts",
    "server certificate for": "its certificate is for another host than SFM_POSTGRES_URL names",
    "root certificate file": "SFM_POSTGRES_URL asks to verify its certificate, and there is no sslrootcert to do it with",
    "does not exist": "the user or the database does not exist; see SFM_POSTGRES_URL",
    "not permitted to log in": "the user may not log in; see SFM_POSTGRES_URL",
    "permission denied for database": "the user may not use the database; GRANT CONNECT",
    "invalid response to SSL negotiation": "what answers is not Postgres; see SFM_POSTGRES_URL",
    "expected authentication request": "what answers is not Postgres; see SFM_POSTGRES_URL",
    "connection is bad: invalid": "SFM_POSTGRES_URL asks for what there is not",
    "'idna' codec": "SFM_POSTGRES_URL names what cannot be a host",
}
_FULL = ("too many clients", "connection slots are reserved", "too many connections for")

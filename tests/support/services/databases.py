"""Databases of a Postgres that answers at a URL: by name, or fresh ones from a template."""

from __future__ import annotations

import asyncio
import inspect
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg import sql

Prepare = Callable[[str], Any]
"""Makes a database what tests expect, given its URL; a function or a coroutine function, and the same one each time."""


class Postgres:
    """A running Postgres, whoever started it. Everything here returns when it is done, and may be called from async tests too."""

    name = "Postgres"
    _strategy = sql.SQL("")

    def __init__(self, url: str) -> None:
        """`url` is of an account that may create databases."""
        self._url = url
        self._templates: dict[Prepare, str] = {}

    def url(self, database: str = "", *, user: str | None = None, password: str | None = None, **parameters: object) -> str:
        """The URL of one of its databases (of the first one: ""), as another user or with libpq's parameters if given."""
        parts = urlsplit(self._url)
        if user is not None or password is not None:
            who = quote(unquote(parts.username or "") if user is None else user, safe="")
            secret = f":{quote(password, safe='')}" if password is not None else ""
            parts = parts._replace(netloc=f"{who}{secret}@{parts.netloc.rpartition('@')[2]}")
        query = urlencode(dict(parse_qsl(parts.query)) | {k: str(v) for k, v in parameters.items()}, quote_via=quote)
        path = f"/{quote(database, safe='')}" if database else parts.path
        return urlunsplit(parts._replace(path=path, query=query))

    def connect(self, database: str = "", **options: Any) -> psycopg.Connection[Any]:
        """A test's own look into it: autocommit unless told otherwise. Close it, or say `with`."""
        return psycopg.connect(self._way_in(database), **{"autocommit": True, "connect_timeout": 10} | options)

    def _way_in(self, database: str) -> str:
        return self.url(database)

    def create_database(self, name: str | None = None, *, template: str | None = None) -> Database:
        """A database of that name (or of one that nobody else has), a copy of the template if one is named."""
        name = name or f"sfm_test_{secrets.token_hex(6)}"
        copy = sql.SQL(" TEMPLATE {}{}").format(sql.Identifier(template), self._strategy) if template else sql.SQL("")
        self._do(sql.SQL("CREATE DATABASE {}{}").format(sql.Identifier(name), copy))
        return Database(self, name)

    def drop_database(self, name: str) -> None:
        """Also while it is in use; also if it is not there."""
        self._do(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def template(self, prepare: Prepare) -> str:
        """The name of a database that `prepare` has seen, and nobody since: made at the first call."""
        if prepare not in self._templates:
            made = self.create_database()
            try:
                _call(prepare, made.url)
            except BaseException:
                made.drop()
                raise
            self._do(sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false").format(sql.Identifier(made.name)))
            self._templates[prepare] = made.name
        return self._templates[prepare]

    def fresh(self, prepare: Prepare | None = None) -> Database:
        """A database of one's own: empty, or as `prepare` makes it."""
        return self.create_database(template=self.template(prepare) if prepare else None)

    def close(self) -> None:
        """Drops the templates."""
        for name in self._templates.values():
            self.drop_database(name)
        self._templates.clear()

    def _do(self, statement: sql.Composed) -> None:
        with self.connect() as c:
            c.execute(statement)


@dataclass(frozen=True)
class Database:
    """One database of a server."""

    server: Postgres
    name: str

    @property
    def url(self) -> str:
        """What a program under test is told."""
        return self.server.url(self.name)

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        """A test's own look into it."""
        return self.server.connect(self.name, **options)

    def drop(self) -> None:
        """Also while it is in use."""
        self.server.drop_database(self.name)


def _call(prepare: Prepare, url: str) -> None:
    made = prepare(url)
    if not inspect.iscoroutine(made):
        return
    failed: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(made)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)  # a loop may be running in this one
    thread.start()
    thread.join()
    if failed:
        raise failed[0]

"""All that there is at one moment: Postgres, Redis, commands on their way, who writes and reads, and the faults to come."""

from __future__ import annotations

from typing import Literal, NamedTuple

from tests.model.parts import Parts
from tests.model.scripts import ABSENT, LEASE, Command, Hash, Plant, Server, empty, filled, live

CacheState = Literal["on", "off", "drained"]

# Names, of their tokens too.
WRITERS = ("W1", "W2")

# How often a drained cache is turned on again.
RETURNS = 1


class Faults(NamedTuple):
    """How many of each may still happen."""

    crash: int = 0
    """A writer dies, perhaps with a command on its way."""
    timeout: int = 0
    """A command is not answered; it is executed later, or never."""
    flush: int = 0
    """FLUSHALL; eviction is the same."""
    restart: int = 0
    """Redis starts again, with what an old dump held."""
    failover: int = 0
    """A replica that lags takes over. The old master lives on, readable and writable."""


class Head(NamedTuple):
    """The head row in Postgres."""

    version: int
    cache: CacheState
    registered: int
    """`cache_run_id`: the run of Redis that may be filled."""
    epoch: int
    """How often the cache has come back."""
    off_age: int
    """Ticks since `off` was written; `LEASE`: long enough to be drained."""


At = Literal["start", "plant", "commit", "read", "publish", "drain", "done"]


class Writer(NamedTuple):
    """Somebody who is about to tell a version: its own, or one that it reads. What it no longer needs, it forgets."""

    at: At
    """Its next step. `start`: PLANT, or COMMIT at once. `drain`: `off`, and waiting. `read`: a canonical read."""
    planted: int = 0
    """The run of Redis that PLANT's answer named; 0: there was no answer."""
    saw: CacheState | None = None
    """The cache's state, where it was looked up before COMMIT."""
    registered: int = 0
    """The run that the head row named when it was last seen."""
    version: int = 0
    may_fill: bool = False


ReaderAt = Literal["idle", "missed", "filling", "filling a", "filling b"]


class Reader(NamedTuple):
    """Who misses, reads the canonical version and fills it in."""

    misses: int
    """How many more there will be, with the one that it is busy with."""
    at: ReaderAt = "idle"
    run_id: int = 0
    """Where it missed."""
    version: int = ABSENT

    @property
    def token(self) -> str:
        """Another one for each miss."""
        return f"R{self.misses}"


class Sent(NamedTuple):
    """A command on its way to one run of Redis; it dies with it."""

    run_id: int
    command: Command


class World(NamedTuple):
    """One state of everything."""

    head: Head
    told: int
    """The newest version that anybody has been told."""
    servers: tuple[Server, ...]
    """Redis; after a failover, the old master behind it."""
    dump: Hash | None
    """What a restart or a failover will bring back."""
    sent: frozenset[Sent]
    writers: tuple[Writer, Writer]
    reader: Reader
    faults: Faults

    def with_server(self, place: int, server: Server) -> World:
        return self._replace(servers=(*self.servers[:place], server, *self.servers[place + 1 :]))

    def with_writer(self, place: int, writer: Writer) -> World:
        return self._replace(writers=(self.writers[0], writer) if place else (writer, self.writers[1]))

    def __str__(self) -> str:
        redis = "; ".join(f"run {server.run_id} holds {_seen(server)}" for server in self.servers)
        return f"v{self.head.version} committed, v{self.told} told, {self.head.cache}; {redis}"


def start(faults: Faults, *, second: Literal["start", "read"] = "start", cache: CacheState = "on", misses: int = 2) -> World:
    """Version 0 is committed, told and live; `drained`: of a new namespace, so that Redis holds nothing.

    `second`: the other writer, or a canonical reader in its place.
    """
    head = Head(0, cache, 1, 0, 0 if cache == "off" else LEASE)
    redis = Server(1, empty(1) if cache == "drained" else filled(1, 0))
    return World(head, 0, (redis,), None, frozenset(), (Writer("start"), Writer(second)), Reader(misses), faults)


def forgetting(world: World) -> World:
    """The world without the tokens that nobody will fill with: no step looks at them, and there are far fewer worlds without."""
    hashes = [server.hash for server in world.servers]
    if world.dump:
        hashes.append(world.dump)
    unused = [name for there in hashes for name, _ in there.tokens if not _wanted(world, name)]
    for _, command in world.sent:
        if isinstance(command, Plant) and not _wanted(world, command.token):
            unused.append(command.token)
    if not unused:
        return world
    servers = tuple([Server(run_id, _without(there, unused)) for run_id, there in world.servers])
    sent = frozenset([sent for sent in world.sent if not isinstance(sent.command, Plant) or sent.command.token not in unused])
    return world._replace(servers=servers, dump=world.dump and _without(world.dump, unused), sent=sent)


def _wanted(world: World, token: str) -> bool:
    """Whether somebody may fill with it, or a command on its way."""
    for name, writer in zip(WRITERS, world.writers, strict=True):
        if name == token and (writer.planted or writer.may_fill):
            return True
    if world.reader.at != "idle" and world.reader.token == token:
        return True
    return any(command.token == token and command.fills for _, command in world.sent)


def _without(there: Hash, unused: list[str]) -> Hash:
    return there._replace(tokens=frozenset([token for token in there.tokens if token.name not in unused]))


def wrongs(parts: Parts, world: World) -> list[str]:
    """What a CACHED read could see now that it must not, by name. Every server that is readable may be asked."""
    found = []
    for server in world.servers:
        if live(parts, server):
            _, a, b, *_ = server.hash
            if min(a, b) < world.told:
                found.append("stale")
            if a != b:
                found.append("torn")
            if max(a, b) > world.head.version:
                found.append("uncommitted")
    return found


def _seen(server: Server) -> str:
    run_id, (writer, a, b, age, *_) = server
    if a == b == ABSENT:
        return "nothing"
    first, second = ("nothing" if version == ABSENT else f"v{version}" for version in (a, b))
    versions = first if a == b else f"{first} of a and {second} of b"
    return versions + (" of another run" if writer != run_id else ", lease over" if age >= LEASE else "")

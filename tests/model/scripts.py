"""One namespace in Redis: the control hash, and the scripts that are all that ever touches it.

Time is kept as ages, of leases and of tokens, and no age is more than that at which a lease is over: no script asks for more. So
time may pass without end, and there are still finitely many states.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from tests.model.parts import Parts

# In ticks. Two, so that a drain and a fresh lease can overlap in part.
LEASE = 2
# Older than every version.
ABSENT = -1

Key = Literal["a", "b"]


class Token(NamedTuple):
    """The right to fill once. The running code keeps only the last one that was planted; here all stand.

    That allows more, because planters may give up here: one whose token was displaced is like one that gave up.
    """

    name: str
    age: int


class Hash(NamedTuple):
    """The control hash. Two matrices, a and b, stand for the manifest: each is the version that its body is of."""

    run_id: int
    """The run of Redis that wrote it."""
    a: int
    b: int
    age: int
    """Of the lease. `LEASE`: it is over."""
    fence: int
    tokens: frozenset[Token]

    @property
    def version(self) -> int:
        return max(self.a, self.b)


class Server(NamedTuple):
    """One run of Redis. A restart makes another."""

    run_id: int
    hash: Hash


def empty(run_id: int) -> Hash:
    """What is not there, or not any more: version, fence and tokens are lost together."""
    return Hash(run_id, ABSENT, ABSENT, LEASE, 0, frozenset())


def emptied(parts: Parts, server: Server) -> Hash:
    """What is left of a hash. Where FILL needs no token, the time of planting travels with it instead, and is not lost."""
    left = empty(server.run_id)
    return left if parts.token else left._replace(tokens=server.hash.tokens)


def filled(run_id: int, version: int) -> Hash:
    """A version with a fresh lease."""
    return Hash(run_id, version, version, 0, 0, frozenset())


def aged(there: Hash) -> Hash:
    """The same a tick later."""
    run_id, a, b, age, fence, tokens = there
    if tokens:
        tokens = frozenset([Token(name, min(age + 1, LEASE)) for name, age in tokens])
    return Hash(run_id, a, b, min(age + 1, LEASE), fence, tokens)


# ---- READ


def live(parts: Parts, server: Server) -> bool:
    """Whether READ answers from here."""
    run_id, (writer, a, b, age, fence, _) = server
    version = max(a, b)
    if version == ABSENT or (parts.run_id and writer != run_id) or (parts.lease and age >= LEASE):
        return False
    return version >= fence or not parts.fence


# ---- commands, which may arrive late


class Plant(NamedTuple):
    """PLANT, and what READ does on a miss."""

    token: str

    @property
    def fills(self) -> bool:
        return False

    def run(self, parts: Parts, server: Server) -> tuple[Server, bool]:
        run_id, a, b, age, fence, tokens = _own(parts, server)
        tokens = frozenset([*[token for token in tokens if token.name != self.token], Token(self.token, 0)])
        return Server(server.run_id, Hash(run_id, a, b, age, fence, tokens)), True


class Fill(NamedTuple):
    """FILL: a version, only while the token stands, on the run that it was planted on, and only forward."""

    token: str
    run_id: int
    version: int
    key: Key | None = None
    """None: all keys by one switch."""

    @property
    def fills(self) -> bool:
        return True

    def run(self, parts: Parts, server: Server) -> tuple[Server, bool]:
        there = _own(parts, server)
        if parts.run_id and self.run_id != server.run_id:
            return Server(server.run_id, there), False
        after = _filled(parts, there, self.token, self.version, self.key)
        return Server(server.run_id, after or there), after is not None


class Publish(NamedTuple):
    """PUBLISH: an older version goes, the fence rises, and if it may it fills. True is the literal `ok`: it is fenced."""

    token: str
    registered: int
    version: int
    may_fill: bool

    @property
    def fills(self) -> bool:
        return self.may_fill

    def run(self, parts: Parts, server: Server) -> tuple[Server, bool]:
        there = _own(parts, server)
        if parts.registered_run_id and self.registered != server.run_id:
            return Server(server.run_id, there), False
        run_id, a, b, age, fence, tokens = there
        if max(a, b) < self.version:
            a, b, age = ABSENT, ABSENT, LEASE
        if parts.fence:
            fence = max(fence, self.version)
        there = Hash(run_id, a, b, age, fence, tokens)
        if self.may_fill:
            there = _filled(parts, there, self.token, self.version) or there
        return Server(server.run_id, there), True


Command = Plant | Fill | Publish


def _own(parts: Parts, server: Server) -> Hash:
    """The hash, without what another run wrote."""
    foreign = parts.run_id and server.hash.run_id != server.run_id
    return emptied(parts, server) if foreign else server.hash


def _filled(parts: Parts, there: Hash, token: str, version: int, key: Key | None = None) -> Hash | None:
    """The hash after a fill; None: refused."""
    stands = next((t for t in there.tokens if t.name == token), None)
    if not stands or (parts.fence and version < there.fence) or (parts.forward and version < there.version):
        return None
    age = stands.age if parts.lease_from_token_time else 0
    if key == "a":  # the token stands until b is filled too
        return there._replace(a=version, age=age)
    tokens = there.tokens - {stands} if parts.token else there.tokens
    if key == "b":
        return there._replace(b=version, age=age, tokens=tokens)
    return Hash(there.run_id, version, version, age, there.fence, tokens)

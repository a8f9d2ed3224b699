"""A Redis or Valkey cluster of our own: three masters that share the slots, and a replica for each if asked."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS as SLOTS
from redis.crc import key_slot

from tests.support.services import ports
from tests.support.services.kept import WAIT_S
from tests.support.services.redis_binaries import Program
from tests.support.services.redis_process import ADMIN, SECRET, TLS
from tests.support.services.redis_server import RedisServer
from tests.support.services.waiting import until

MASTERS = 3
_BATCH = 100


class RedisCluster:
    """Its nodes may be stopped, killed and frozen; who owns a slot is what the nodes say."""

    def __init__(
        self,
        program: Program,
        *,
        replicas: bool = False,
        node_timeout_ms: int = 2000,
        conf: Mapping[str, object] | None = None,
        **options: Any,
    ) -> None:
        """`replicas`: one for each master. The options of a node are those of `RedisServer`.

        After `node_timeout_ms` of silence a node counts as dead, and its replica takes over.
        """
        self.name = f"cluster of {program}"
        self._closed, self._tls = options.get("password") is not None, bool(options.get("tls"))
        self._buses: dict[RedisServer, int] = {}
        self._ids: dict[bytes, RedisServer] = {}
        for _ in range(MASTERS * (2 if replicas else 1)):
            bus = ports.free()  # as it is by default, 10000 above the other, it may be where the kernel takes ports for clients
            told = {
                "cluster-enabled": "yes",
                "cluster-port": bus,
                "cluster-node-timeout": node_timeout_ms,
                "cluster-announce-ip": "127.0.0.1",
                "repl-ping-replica-period": 1,  # Redis 7.0 does not name a replica that has not heard anything, for ten seconds
                **({"tls-cluster": "yes"} if self._tls else {}),
            }
            self._buses[RedisServer(program, conf=told | dict(conf or {}), **options)] = bus

    @property
    def nodes(self) -> list[RedisServer]:
        """All, in the order of their making: the first masters first."""
        return list(self._buses)

    @property
    def masters(self) -> list[RedisServer]:
        """Who owns slots now, in the order of the slots."""
        return list(dict.fromkeys(node for _, (node, *_) in self._view()))

    @property
    def url(self) -> str:
        """What a program under test is told: its first node."""
        return self.nodes[0].url.replace("://", "+cluster://").removesuffix("/0")

    def owner(self, slot: int) -> RedisServer:
        """The master of a slot."""
        return self._found(slot)[0]

    def replica_of(self, master: RedisServer) -> RedisServer:
        """The one that follows it."""
        return next(replicas[0] for _, (owner, *replicas) in self._view() if owner is master)

    def slot(self, key: bytes | str) -> int:
        """Where a key belongs."""
        return int(key_slot(key.encode() if isinstance(key, str) else key))

    def key_on(self, node: RedisServer, prefix: str = "key") -> str:
        """A key that belongs there."""
        view = self._view()
        keys = (f"{prefix}-{i}" for i in itertools.count())
        return next(key for key in keys if any(self.slot(key) in slots and nodes[0] is node for slots, nodes in view))

    def client(self, **options: Any) -> redis.RedisCluster:
        """A test's own look into it, by TCP. Close it."""
        tls = {"ssl_ca_certs": str(TLS / "ca.pem")} if self._tls else {}
        return redis.RedisCluster.from_url(self.nodes[0].url, **tls | options)

    def start(self) -> Self:
        """Returns when every node says that all is well, and every replica has all that its master has."""
        for epoch, node in enumerate(self.nodes, 1):
            node.start()
            with node.client() as c:
                self._ids[c.execute_command("CLUSTER", "MYID")] = node
                c.execute_command("CLUSTER", "SET-CONFIG-EPOCH", epoch)  # so that they need not settle whose view is newer
        self._meet()
        for i, master in enumerate(self.nodes[:MASTERS]):
            with master.client() as c:
                c.execute_command("CLUSTER", "ADDSLOTSRANGE", SLOTS * i // MASTERS, SLOTS * (i + 1) // MASTERS - 1)
        for master, replica in zip(self.nodes[:MASTERS], self.nodes[MASTERS:], strict=False):
            with replica.client() as c:
                c.execute_command("CLUSTER", "REPLICATE", self._id(master))
        self.until_well()
        for master, replica in zip(self.nodes[:MASTERS], self.nodes[MASTERS:], strict=False):
            replica.until_in_sync(master)
        return self

    def _meet(self) -> None:
        for node, other in itertools.combinations(self.nodes, 2):
            with node.client() as c:
                c.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port, self._buses[other])
        until(lambda: all(self._knows_all(node) for node in self.nodes), "every node knows every other")

    def _knows_all(self, node: RedisServer) -> bool:
        lines = _said(node, "NODES").splitlines()
        return len(lines) == len(self.nodes) and "handshake" not in "".join(lines)

    def until_well(self) -> None:
        """Returns when every node that answers says so: all slots are served, and each sees the same owners and replicas."""
        until(self._well, f"the {self.name} is well")

    def _well(self) -> bool:
        awake = [node for node in self.nodes if node.answers]
        if not all("cluster_state:ok" in _said(node, "INFO") for node in awake):
            return False
        views = [self._view(node) for node in awake]
        seen = {node for _, nodes in views[0] for node in nodes}
        return all(view == views[0] for view in views) and seen >= set(awake)

    @contextlib.contextmanager
    def moving(self, slot: int, to: RedisServer) -> Iterator[None]:
        """Inside, the slot is on its way: its keys are where they were, new ones are to be made there (ASK). Then it is moved."""
        source = self.owner(slot)
        with source.client(socket_timeout=WAIT_S) as here, to.client() as there:
            there.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", self._id(source))
            here.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", self._id(to))
            yield
            let_in = ["AUTH2", ADMIN, SECRET] if self._closed else []
            while keys := here.execute_command("CLUSTER", "GETKEYSINSLOT", slot, _BATCH):
                here.execute_command("MIGRATE", "127.0.0.1", to.port, "", 0, int(WAIT_S * 1000), *let_in, "KEYS", *keys)
        for node in dict.fromkeys([to, source, *self.masters]):  # the new owner first: else a crash between leaves none
            with node.client() as c:
                c.execute_command("CLUSTER", "SETSLOT", slot, "NODE", self._id(to))
        self.until_owner(slot, to)

    def move_slot(self, slot: int, to: RedisServer) -> None:
        """With its keys, to another master; returns when all know."""
        with self.moving(slot, to):
            pass

    def failover(self, replica: RedisServer, how: str = "") -> None:
        """Makes it the master of its master's slots; `how` is FORCE where that one is dead. Returns when all know.

        And, if that one answers, when it has all that its new master has.
        """
        slot, master = next((slots[0], nodes[0]) for slots, nodes in self._view(replica) if replica in nodes)
        with replica.client() as c:
            c.execute_command("CLUSTER", "FAILOVER", *filter(None, [how]))
        self.until_owner(slot, replica)
        if master.answers:
            master.until_in_sync(replica)

    def until_owner(self, slot: int, node: RedisServer) -> None:
        """Returns when every node that answers says that the slot is its, and all is well."""
        until(
            lambda: all(self._found(slot, asked)[0] is node for asked in self.nodes if asked.answers),
            f"slot {slot} is served by port {node.port}",
        )
        self.until_well()

    def _found(self, slot: int, asked: RedisServer | None = None) -> list[RedisServer]:
        return next(nodes for slots, nodes in self._view(asked) if slot in slots)

    def _view(self, asked: RedisServer | None = None) -> list[tuple[range, list[RedisServer]]]:
        """Who serves which slots, the master first, as one node sees it."""
        with self._somebody(asked) as c:
            said = c.execute_command("CLUSTER", "SLOTS")
        return sorted(
            ((range(first, last + 1), [self._ids[node[2]] for node in nodes]) for first, last, *nodes in said),
            key=lambda served: served[0].start,
        )

    def _somebody(self, asked: RedisServer | None) -> redis.Redis:
        """A way into that node, or into the first that answers."""
        return (asked or next(node for node in self.nodes if node.answers)).client()

    def _id(self, node: RedisServer) -> bytes:
        return next(known for known, of in self._ids.items() if of is node)

    def close(self) -> None:
        """The end of all nodes, whatever state they are in."""
        for node in self.nodes:
            node.close()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _said(node: RedisServer, what: str) -> str:
    with node.client() as c:
        return bytes(c.execute_command("CLUSTER", what)).decode()

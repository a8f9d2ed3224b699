"""The steps of the protocol, by the names that the protocol gives them. Whatever can happen next, in whatever order, is a step.

A commit's transaction is one step. All that it sees is in the row that it has locked, and others wait for that lock, so nobody
can tell when it began. Telling is part of the step that allows it: the earliest moment, and so the hardest to stand by.
Commands go to any server that answers, the old master too: a replica may be pointed at the wrong one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.model.parts import Parts
from tests.model.scripts import LEASE, Command, Fill, Key, Plant, Publish, Server, aged, emptied, live
from tests.model.world import RETURNS, WRITERS, At, Reader, ReaderAt, Sent, World, Writer, forgetting

Step = tuple[str, World]

DONE = Writer("done")


def steps(parts: Parts, world: World) -> Iterator[Step]:
    """Everything that can happen next, and what the world is like then; tokens that no longer matter are forgotten."""
    for text, after in raw_steps(parts, world):
        yield text, forgetting(after)


def raw_steps(parts: Parts, world: World) -> Iterator[Step]:
    """The same, with nothing forgotten."""
    yield "a tick passes", _later(world)
    yield from _faults(parts, world)
    yield from _late_commands(parts, world)
    yield from _cache_state(parts, world)
    for place, writer in enumerate(world.writers):
        if writer.at != "done":
            yield from _writer(parts, world, place)
    yield from _reader(parts, world)


# ---- time and faults


def _later(world: World) -> World:
    head = world.head._replace(off_age=min(world.head.off_age + 1, LEASE))
    servers = tuple([Server(run_id, aged(there)) for run_id, there in world.servers])
    return world._replace(head=head, servers=servers, dump=world.dump and aged(world.dump))


def _faults(parts: Parts, world: World) -> Iterator[Step]:
    faults, (redis, *old) = world.faults, world.servers
    if faults.flush:
        left = faults._replace(flush=faults.flush - 1)
        for place, server in enumerate(world.servers):
            lost = Server(server.run_id, emptied(parts, server))
            yield f"FLUSHALL@{server.run_id}", world.with_server(place, lost)._replace(faults=left)
    if (faults.restart or faults.failover) and world.dump is None:
        yield "Redis is dumped, or copied to a replica", world._replace(dump=redis.hash)
    if world.dump is None:
        return
    again = Server(redis.run_id + 1, world.dump)
    if faults.restart:
        left = faults._replace(restart=faults.restart - 1)
        alive = frozenset(sent for sent in world.sent if sent.run_id != redis.run_id)
        yield "Redis restarts with the old dump", world._replace(servers=(again, *old), sent=alive, dump=None, faults=left)
    if faults.failover and not old:
        left = faults._replace(failover=faults.failover - 1)
        yield "the replica takes over, the old master lives on", world._replace(servers=(again, redis), dump=None, faults=left)


def _late_commands(parts: Parts, world: World) -> Iterator[Step]:
    for sent in world.sent:
        for place, server in enumerate(world.servers):
            if server.run_id == sent.run_id:
                after, _ = sent.command.run(parts, server)
                yield f"late: {_text(sent.command)}", world.with_server(place, after)._replace(sent=world.sent - {sent})


# ---- the cache's state in Postgres. A drain is detached: no writer has to live for it. Any run that is there may be registered


def _cache_state(parts: Parts, world: World) -> Iterator[Step]:
    head = world.head
    if head.cache == "off":
        drained = world._replace(head=head._replace(cache="drained", off_age=LEASE))
        if head.off_age >= LEASE:
            yield "drained: a lease has passed since off", drained
        elif not parts.drain_waits:
            yield "drained, without waiting", drained
        elif head.epoch and not parts.epoch:
            yield "drained, by a drain from before the cache came back", drained
    if head.cache == "drained" and head.epoch < RETURNS:
        for server in world.servers:
            on = head._replace(cache="on", registered=server.run_id, epoch=head.epoch + 1)
            yield f"back on: run {server.run_id} is registered", world._replace(head=on)


# ---- who tells a version


def _writer(parts: Parts, world: World, place: int) -> Iterator[Step]:
    writer = world.writers[place]
    yield from _DOES[writer.at](parts, world, place, writer)
    if world.faults.crash:
        yield from _crash(world, place, writer)


def _begin(parts: Parts, world: World, place: int, writer: Writer) -> Iterator[Step]:
    """PLANT, or COMMIT without it, as where Redis is known to be down."""
    if parts.token_before_commit:
        yield from _plant(parts, world, place, writer)
    if not parts.state_from_commit:
        looked = Writer("commit", saw=world.head.cache, registered=world.head.registered)
        yield f"{WRITERS[place]} looks: the cache is {looked.saw}", world.with_writer(place, looked)
    elif parts.publish_after_commit:
        yield from _commit(parts, world, place, writer)


def _plant(parts: Parts, world: World, place: int, writer: Writer) -> Iterator[Step]:
    """PLANT, which names the run of Redis, or a live version that is too new: then the conflict is told as it is."""
    for server in world.servers:
        version = server.hash.version
        if version > world.told and live(parts, server):
            yield f"{WRITERS[place]} PLANT: v{version} is live, tells the conflict", _tell(world, place, version)
    for text, after, server, answer in _send(parts, world, Plant(WRITERS[place])):
        run_id = server.run_id if answer else 0
        yield f"{WRITERS[place]} {text}", after.with_writer(place, _planted(parts, world, writer, run_id))


def _planted(parts: Parts, world: World, writer: Writer, run_id: int) -> Writer:
    """What comes after PLANT."""
    head = world.head
    if not parts.publish_after_commit:
        return Writer("publish", registered=head.registered, version=head.version + 1, may_fill=True)
    if not parts.token_before_commit:
        return writer._replace(at="publish", may_fill=writer.may_fill and _same_run(parts, run_id, writer.registered))
    return Writer("commit", planted=run_id)


def _commit(parts: Parts, world: World, place: int, writer: Writer) -> Iterator[Step]:
    """COMMIT, which tells where the cache is drained, and says whether PUBLISH may fill where it is not."""
    head = world.head
    version = head.version + 1
    saw, registered = (writer.saw, writer.registered) if writer.saw else (head.cache, head.registered)
    text = f"{WRITERS[place]} COMMIT v{version}, sees {saw}"
    after = world._replace(head=head._replace(version=version))
    if saw == "drained" or not parts.publish_after_commit:
        yield f"{text}, tells", _tell(after, place, version)
        return
    may_fill = saw == "on" or not parts.gated_fill
    if parts.token_before_commit:
        may_fill = may_fill and _same_run(parts, writer.planted, registered)
    at: At = "publish" if parts.token_before_commit else "plant"
    yield text, after.with_writer(place, Writer(at, registered=registered, version=version, may_fill=may_fill))


def _canonical_read(_: Parts, world: World, place: int, __: Writer) -> Iterator[Step]:
    """Reads what Postgres has; it is told as if it were the reader's own commit."""
    head = world.head
    text = f"{WRITERS[place]} reads v{head.version} canonically, sees {head.cache}"
    if head.cache == "drained":
        yield f"{text}, tells", _tell(world, place, head.version)
    else:
        yield text, world.with_writer(place, Writer("publish", registered=head.registered, version=head.version))


def _publish(parts: Parts, world: World, place: int, writer: Writer) -> Iterator[Step]:
    """PUBLISH until it is ok, or until patience ends: then drain."""
    for text, after, _, answer in _send(parts, world, _publish_command(place, writer)):
        if not parts.publish_after_commit:
            yield f"{WRITERS[place]} {text}", after.with_writer(place, Writer("commit"))
        elif answer or not parts.drain:
            yield f"{WRITERS[place]} {text}, tells", _tell(after, place, writer.version)
        else:
            yield f"{WRITERS[place]} {text}, will drain", after.with_writer(place, writer._replace(at="drain"))
            if answer is None:
                yield f"{WRITERS[place]} {text}, tries again", after


def _drain(_: Parts, world: World, place: int, writer: Writer) -> Iterator[Step]:
    """`off`, then waiting. Back on meanwhile, or never off: PUBLISH again."""
    head = world.head
    if head.cache == "drained":
        yield f"{WRITERS[place]} sees drained, tells v{writer.version}", _tell(world, place, writer.version)
    elif head.cache == "on":
        yield f"{WRITERS[place]} off", world._replace(head=head._replace(cache="off", off_age=0))
        again = writer._replace(at="publish", registered=head.registered)
        yield f"{WRITERS[place]} sees on, will publish again", world.with_writer(place, again)


def _crash(world: World, place: int, writer: Writer) -> Iterator[Step]:
    """Death. What it had sent may still be executed."""
    dead = world.with_writer(place, DONE)._replace(faults=world.faults._replace(crash=world.faults.crash - 1))
    yield f"{WRITERS[place]} dies", dead
    if writer.at == "publish":
        command = _publish_command(place, writer)
        for server in world.servers:
            yield f"{WRITERS[place]} dies, {_text(command)} on its way", _sent(dead, server, command)


_DOES: dict[At, Callable[[Parts, World, int, Writer], Iterator[Step]]] = {
    "start": _begin,
    "plant": _plant,
    "commit": _commit,
    "read": _canonical_read,
    "publish": _publish,
    "drain": _drain,
}


# ---- who misses, and fills


def _reader(parts: Parts, world: World) -> Iterator[Step]:
    """READ, which plants a token where nothing is live; a canonical read; FILL, if the cache was on and the run is registered."""
    reader, head = world.reader, world.head
    over = Reader(reader.misses - 1)
    if reader.at == "idle" and reader.misses:
        for place, server in enumerate(world.servers):
            if not live(parts, server):
                planted, _ = Plant(reader.token).run(parts, server)
                missed = Reader(reader.misses, "missed", server.run_id)
                text = f"R READ@{server.run_id}: miss, token {reader.token}"
                yield text, world.with_server(place, planted)._replace(reader=missed)
    elif reader.at == "missed":
        text = f"R reads v{head.version} canonically, sees {head.cache}"
        if (head.cache == "on" or not parts.gated_fill) and _same_run(parts, reader.run_id, head.registered):
            at: ReaderAt = "filling" if parts.one_switch else "filling a"
            yield f"{text}, may fill", world._replace(reader=reader._replace(at=at, version=head.version))
        else:
            yield f"{text}, may not fill", world._replace(reader=over)
    elif reader.at != "idle":
        key = _KEYS[reader.at]
        then = reader._replace(at="filling b") if key == "a" else over
        for text, after, *_ in _send(parts, world, Fill(reader.token, reader.run_id, reader.version, key)):
            yield f"R {text}", after._replace(reader=then)
        yield "R gives up", world._replace(reader=over)


_KEYS: dict[ReaderAt, Key | None] = {"filling": None, "filling a": "a", "filling b": "b"}


# ---- common to all


def _send(parts: Parts, world: World, command: Command) -> Iterator[tuple[str, World, Server, bool | None]]:
    """A command, and each way that it may go: what to call it, the world after, who was asked, the answer. None: none in time."""
    text = _text(command)
    for place, server in enumerate(world.servers):
        after, answer = command.run(parts, server)
        yield f"{text}@{server.run_id}{'' if answer else ' refused'}", world.with_server(place, after), server, answer
    if world.faults.timeout:
        left = world.faults._replace(timeout=world.faults.timeout - 1)
        for server in world.servers:
            yield f"{text}@{server.run_id} not answered", _sent(world, server, command)._replace(faults=left), server, None


def _sent(world: World, server: Server, command: Command) -> World:
    """The world while a command is on its way, which may end nowhere."""
    return world._replace(sent=world.sent | {Sent(server.run_id, command)})


def _publish_command(place: int, writer: Writer) -> Publish:
    return Publish(WRITERS[place], writer.registered, writer.version, writer.may_fill)


def _same_run(parts: Parts, run_id: int, registered: int) -> bool:
    """Whether what was planted there may be filled."""
    return run_id != 0 and (run_id == registered or not parts.registered_run_id)


def _tell(world: World, place: int, version: int) -> World:
    return world.with_writer(place, DONE)._replace(told=max(world.told, version))


def _text(command: Command) -> str:
    match command:
        case Plant(token):
            return f"PLANT {token}"
        case Fill(token, _, version, key):
            return f"FILL {key or ''} v{version} with {token}".replace("  ", " ")
        case Publish(_, registered, version, may_fill):
            return f"PUBLISH v{version}, registered {registered}" + (", may fill" if may_fill else "")

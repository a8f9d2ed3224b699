"""Forgetting. Which memories go is thought here: the data plane has them go, says what it did, and brings them back when told to.

It happens in a copy of the namespace, so that what the managers made stays as it was checked.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from examples.cognitive_manager.check_memories import recall_at_10, with_index
from examples.cognitive_manager.density_trail import ADDED
from examples.cognitive_manager.order_message import OrderMessages
from examples.cognitive_manager.state import RHO
from examples.cognitive_manager.stream import FloatArray, Stream
from sfm_grpc.client import Client, MemoryRecord, Namespace, NotFound, normalized

_LEADING = 8
"""So many eigenvectors of ρ are what it attends to."""
_PART = 10
"""One memory in so many is forgotten."""
_PAGE_SIZE = 500
_MESSAGE_S = 60.0
_FLOAT32 = 1e-6


@dataclass(slots=True)
class Forgotten:
    """What was done. It is well when there are no problems."""

    memories: int = 0
    """How many there were."""
    pruned: int = 0
    undone: int = 0
    doors: tuple[str, ...] = ()
    """By which way each order went."""
    recall_before: float | None = None
    recall_after: float | None = None
    """Of the ten nearest that stayed, the part that search finds; None: no index had everything in time."""
    problems: list[str] = field(default_factory=list)


def order_of(names: Sequence[str], vectors: FloatArray, rho: FloatArray) -> list[str]:
    """The names, the lightest first: what a unit vector v weighs along ρ's leading eigenvectors, Σ λ_k (u_k·v)²."""
    eigenvalues, eigenvectors = np.linalg.eigh(rho)
    weights = np.square(vectors @ eigenvectors[:, -_LEADING:]) @ eigenvalues[-_LEADING:]
    return [names[i] for i in np.argsort(weights, kind="stable")]


def without(rho: FloatArray, vectors: FloatArray) -> FloatArray:
    """ρ less what a batch of these k rows adds to it, 0.05 BᵀB/k, brought back to a density matrix."""
    return normalized(rho - ADDED * vectors.T @ vectors / len(vectors), project=True)


def forget(
    clients: Sequence[Client], namespace: str, rho: FloatArray, stream: Stream, messages: OrderMessages | None
) -> Forgotten:
    """Copies the namespace, has a part of it pruned by two orders, compares, undoes both, compares again.

    `clients`: of the servers of one store, one of which has the index. `messages`: the second order goes that way; None: as the
    first.
    """
    first, name = clients[0], f"{namespace}-forgetting"
    copy, version = _copied(first, namespace, name, rho)
    held = _held(copy)
    done = Forgotten(memories=len(held))
    keys = order_of(list(held), _vectors(held), rho)[: len(held) // _PART]
    if not keys:
        return done
    done.recall_before = _recall(clients, name, held, stream)
    halves = keys[: (len(keys) + 1) // 2], keys[(len(keys) + 1) // 2 :]
    lighter = without(rho, _vectors({key: held[key] for key in halves[0]}))
    numbers = [copy.prunes.apply(keys=halves[0], rho={RHO: lighter}, expected_version=version).audit.number]
    done.doors = ("call",)
    if halves[1]:
        lightest = without(lighter, _vectors({key: held[key] for key in halves[1]}))
        if messages is None:
            numbers.append(copy.prunes.apply(keys=halves[1], rho={RHO: lightest}, expected_version=version + 1).audit.number)
        else:
            messages.send(name, halves[1], lightest, expected_version=version + 1)
            numbers.append(_audited(copy, after=numbers[0]))
        done.doors += ("message" if messages else "call",)
        _check_rho(copy, lightest, done)
    stayed = {key: memory for key, memory in held.items() if key not in set(keys)}
    done.pruned = len(held) - len(left := _held(copy))
    if set(left) != set(stayed):
        done.problems.append(f"after the prunes {len(set(left) ^ set(stayed))} memories are not as they were ordered")
    done.recall_after = _recall(clients, name, stayed, stream)
    for number in reversed(numbers):
        done.undone += copy.prunes.undo(number).audit.memories
    _check_same(held, _held(copy), done)
    if not (report := copy.prunes.verify_audits()).ok:
        done.problems.append(f"the audits do not follow one another: {report.problem}")
    return done


def _copied(client: Client, namespace: str, name: str, rho: FloatArray) -> tuple[Namespace, int]:
    """A copy of the memories, with ρ as its version; what an earlier show left of it goes."""
    copy = client.namespace(name)
    try:
        client.delete_namespace(name, confirm=name)
    except NotFound:
        expected = 0
    else:
        expected = copy.read().version
    copy.memories.import_lines(client.namespace(namespace).memories.export_lines())
    return copy, copy.commit({RHO: rho}, expected_version=expected).version


def _held(namespace: Namespace) -> dict[str, MemoryRecord]:
    return {memory.key: memory for memory in namespace.memories.list(with_vectors=True, page_size=_PAGE_SIZE)}


def _vectors(held: Mapping[str, MemoryRecord]) -> FloatArray:
    return np.array([memory.vector for memory in held.values()], dtype=np.float64)


def _recall(clients: Sequence[Client], name: str, held: Mapping[str, MemoryRecord], stream: Stream) -> float | None:
    found = with_index([client.namespace(name).memories for client in clients], stream.vectors[0])
    rows = [row for row, key in enumerate(stream.names) if key in held]
    return None if found is None else recall_at_10(found, held, stream, rows)


def _audited(namespace: Namespace, after: int) -> int:
    """The number of the next audit, once it is there. Raises TimeoutError."""
    ends = time.monotonic() + _MESSAGE_S
    while time.monotonic() < ends:
        for audit in namespace.prunes.audits(after=after):
            return audit.number
        time.sleep(0.1)
    raise TimeoutError(f"the order that was sent was not carried out within {_MESSAGE_S:g} s")


def _check_rho(namespace: Namespace, due: FloatArray, done: Forgotten) -> None:
    """The ρ of the last prune is there; one that came as float32 is a little off, and may have been clamped."""
    kept = namespace.read(RHO, consistency="canonical")[RHO]
    if not np.allclose(kept, due, rtol=0, atol=_FLOAT32):
        done.problems.append(f"ρ is not the one that was committed with the prune: {np.abs(kept - due).max():.3g} off")


def _check_same(before: Mapping[str, MemoryRecord], after: Mapping[str, MemoryRecord], done: Forgotten) -> None:
    """Every byte is back."""
    bent = [key for key, memory in before.items() if key not in after or _facts(after[key]) != _facts(memory)]
    if bent or len(after) != len(before):
        done.problems.append(f"{len(bent)} memories are not as they were before they were pruned: {bent[:5]}")


def _facts(memory: MemoryRecord) -> tuple[object, ...]:
    vector = b"" if memory.vector is None else memory.vector.tobytes()
    return memory.payload_json, memory.payload_digest, memory.memory_type, memory.importance, memory.create_time, vector
